//! What comes after a text: the likeliest next words, or a text that is drawn.

use crate::{Error, text};
use lstmc_runtime::{Model, Rng, Sampling, Session, Tokenizer, Units};
use std::path::Path;
use std::sync::Arc;

/// What stands for a file in errors about a prompt.
const PROMPT: &str = "the prompt";

/// A word that may come next.
#[derive(Clone, PartialEq, Debug)]
pub struct Suggestion {
    /// The token's name.
    pub word: String,
    /// What it adds to the text.
    pub text: String,
    /// The token.
    pub token: u32,
    /// Natural.
    pub log_probability: f32,
}

/// The model's tokenizer; an error if it has none.
pub(crate) fn tokenizer_of(model: &Model) -> Result<Arc<Tokenizer>, Error> {
    let missing = || {
        let reason = "the model brings no vocabulary, which texts need; read it with one";
        Error::Tokenizer(reason.into())
    };
    model.tokenizer().cloned().ok_or_else(missing)
}

/// The tokens of a prompt, as its model's tokenizer has them.
fn encode(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>, Error> {
    Ok(tokenizer.encode(prompt).map_err(|e| text::in_file(Path::new(PROMPT), e))?.tokens)
}

/// Consumes all of a prompt but its last token, which it returns. The token before a sentence, if there is one, goes before it.
///
/// # Errors
///
/// If the prompt is empty and there is no such token, or it has what the tokenizer cannot express.
pub fn feed(session: &mut Session, tokenizer: &Tokenizer, prompt: &str) -> Result<u32, Error> {
    let tokens: Vec<u32> = tokenizer.begin().ok().into_iter().chain(encode(tokenizer, prompt)?).collect();
    let (&last, before) = tokens.split_last().ok_or(Error::EmptyPrompt)?;
    for &token in before {
        session.advance(token)?;
    }
    Ok(last)
}

/// The `k` likeliest next words after the beginning of a sentence, the best first; only those that begin with `prefix`, as of a word that is being typed.
///
/// # Errors
///
/// If the model has no words, or the prompt cannot be read.
pub fn suggest(model: &Model, prompt: &str, prefix: &str, k: usize) -> Result<Vec<Suggestion>, Error> {
    let tokenizer = &*tokenizer_of(model)?;
    let words = tokenizer.vocabulary();
    let mut session = model.session();
    let last = feed(&mut session, tokenizer, prompt)?;
    let before = encode(tokenizer, prompt)?;
    let k = k.min(words.len());
    let (mut ids, mut scores) = (vec![0u32; k], vec![0f32; k]);
    let n = match (prefix, tokenizer.units()) {
        ("", _) => session.top_k_into(last, &mut ids, &mut scores)?,
        (prefix, Units::Subwords(_)) => {
            let at_start = matches!(tokenizer.decode(&before).chars().last(), None | Some('\n'));
            let begins = |&id: &u32| {
                let text = tokenizer.decode_after(&before, id);
                let word = text.strip_prefix(' ').or_else(|| at_start.then_some(&text[..]));
                word.is_some_and(|word| word.starts_with(prefix))
            };
            let among: Vec<u32> = (0..words.len() as u32).filter(begins).collect();
            session.top_k_among(last, &among, &mut ids, &mut scores)?
        }
        (prefix, _) => session.top_k_among(last, words.with_prefix(prefix), &mut ids, &mut scores)?,
    };
    let suggestion = |(&token, &log_probability): (&u32, &f32)| Suggestion {
        word: words.word(token).unwrap_or("?").into(),
        text: tokenizer.decode_after(&before, token),
        token,
        log_probability,
    };
    Ok(ids[..n].iter().zip(&scores[..n]).map(suggestion).collect())
}

/// Texts that are drawn token by token. The same seed gives the same texts.
pub struct Generator {
    tokenizer: Arc<Tokenizer>,
    session: Session,
    sampling: Sampling,
    rng: Rng,
}

impl Generator {
    /// Draws from this model.
    ///
    /// # Errors
    ///
    /// If it has no words.
    pub fn new(model: &Model, sampling: Sampling, seed: u64) -> Result<Generator, Error> {
        let tokenizer = tokenizer_of(model)?;
        Ok(Generator { tokenizer, session: model.session(), sampling, rng: Rng::new(seed) })
    }

    /// A prompt with what comes after it, at most so many tokens, and the tokens that were drawn. With `sentence` it ends with the sentence. `show` gets the text piece by piece, the
    /// prompt first.
    ///
    /// # Errors
    ///
    /// If the prompt cannot be read, the sampling is out of its range, or `show` fails.
    pub fn text<E: From<Error>>(
        &mut self,
        prompt: &str,
        most: usize,
        sentence: bool,
        show: &mut dyn FnMut(&str) -> Result<(), E>,
    ) -> Result<(String, Vec<u32>), E> {
        let Generator { tokenizer, session, sampling, rng } = self;
        session.reset();
        let mut last = feed(session, tokenizer, prompt)?;
        let end = tokenizer.end().ok();
        // What is shown goes on from the prompt as it was given, whose unknown words have no token of their own.
        let mut text = match tokenizer.units() {
            Units::Words | Units::Ids => prompt.split_whitespace().collect::<Vec<_>>().join(" "),
            _ => prompt.to_owned(),
        };
        show(&text)?;
        let (mut tokens, mut seen) = (vec![], encode(tokenizer, prompt)?);
        // The tokens of the line so far, and the length of their text that was shown.
        let mut line = seen.clone();
        let mut shown = tokenizer.decode(&line).len();
        for _ in 0..most {
            last = session.sample_after(last, &seen, sampling, rng).map_err(Error::from)?;
            tokens.push(last);
            seen.push(last);
            line.push(last);
            let decoded = tokenizer.decode(&line);
            // Bytes that are not yet a character wait for the rest of it.
            let new = decoded.get(shown..).unwrap_or("").trim_end_matches('\u{fffd}');
            shown += new.len();
            text.push_str(new);
            show(new)?;
            if text.ends_with('\n') {
                (line, shown) = (vec![], 0);
            }
            if sentence && Some(last) == end {
                break;
            }
        }
        Ok((text, tokens))
    }
}
