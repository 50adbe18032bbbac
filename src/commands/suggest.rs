//! `lstmc suggest`: likely next words.

use super::{CpuArgs, ModelArgs, tokenizer};
use crate::runtime::{Session, Tokenizer, Units};
use crate::terminal::{self, Usage};
use anyhow::Context;
use std::io::Write;

/// Suggest the next words of a text, with their probabilities
///
/// The text is read as the beginning of a sentence: the token for that (such as <s>, or <eos> where there is no other) goes before it, if there is one.
/// Subwords are shown as the text that they add: a blank before one begins a new word.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  lstmc suggest model.lstmc --prompt \"the company said\" -k 5\n  \
                        lstmc suggest model.lstmc --prompt \"the company\" --prefix sa")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The text so far
    #[arg(long)]
    prompt: String,
    /// Only words that begin with this, as of a word that is being typed after the text
    #[arg(long, value_name = "LETTERS", default_value = "")]
    prefix: String,
    /// How many words
    #[arg(short, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Print JSON: a list of {word, text, token, probability, log_probability}; `word` is the token's name, `text` what it adds to the text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let tokenizer = tokenizer(&source)?;
    let words = tokenizer.vocabulary();
    let model = source.compile(args.cpu.options())?;
    let mut session = model.session();
    let last = feed(&mut session, tokenizer, &args.prompt)?;
    let before = tokenizer.encode(&args.prompt)?.tokens;
    let k = (args.k as usize).min(words.len());
    let (mut ids, mut scores) = (vec![0u32; k], vec![0f32; k]);
    let n = match (&args.prefix[..], tokenizer.units()) {
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
    let best = ids[..n]
        .iter()
        .zip(&scores[..n])
        .map(|(&id, &score)| (words.word(id).unwrap_or("?"), tokenizer.decode_after(&before, id), id, score));
    if args.json {
        let list: Vec<_> = best
            .map(|(word, text, id, score)| {
                serde_json::json!({"word": word, "text": text, "token": id, "probability": score.exp(), "log_probability": score})
            })
            .collect();
        return terminal::json(&list.into());
    }
    let mut out = std::io::stdout().lock();
    for (word, text, id, score) in best {
        // A blank is nothing where a line begins, but is something after itself.
        let text = if text.is_empty() { tokenizer.decode_after(&[id], id) } else { text };
        let is_text = |c: char| !c.is_control() && c != '\u{fffd}';
        let shown = match tokenizer.units() {
            Units::Words | Units::Ids => word.to_owned(),
            // The end of a line, a part of a character, or what is in no text.
            _ if text.is_empty() || !text.chars().all(is_text) => word.to_owned(),
            _ if text.trim().is_empty() => format!("{text:?}"),
            _ => text,
        };
        writeln!(out, "{:5.1}%  {shown}", score.exp() * 100.0)?;
    }
    Ok(())
}

/// Consumes all of a prompt but its last token, which it returns.
pub(crate) fn feed(session: &mut Session, tokenizer: &Tokenizer, prompt: &str) -> anyhow::Result<u32> {
    let encoded = tokenizer.encode(prompt).context("the prompt")?;
    let tokens: Vec<u32> = tokenizer.begin().ok().into_iter().chain(encoded.tokens).collect();
    let Some((&last, before)) = tokens.split_last() else {
        return Err(Usage("the prompt is empty; give at least one word".into()).into());
    };
    for &token in before {
        session.advance(token)?;
    }
    Ok(last)
}
