//! How texts become tokens, as options name it.

use crate::{Error, Source};
use lstmc_frontend::canonicalize::canonicalize;
use lstmc_runtime::{Newline, Role, Subwords, TextError, Tokenizer, Units, Vocabulary};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How texts become a model's tokens, where the model does not say so itself or is to be corrected. All that is not given stays as the model has it, or
/// is guessed.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[non_exhaustive]
pub struct TextOptions {
    /// Vocabulary: one word a line (line number from 0 = token id), a word and its id in each line, or JSON. A .lstmc file usually brings its own
    #[cfg_attr(feature = "cli", arg(long = "vocab", value_name = "FILE"))]
    pub vocabulary: Option<PathBuf>,
    /// What texts are cut into: words, characters, bytes, ids (numbers), or subwords, by a SentencePiece model or a tokenizer.json [default: what the model
    /// says, or words]
    #[cfg_attr(feature = "cli", arg(long, value_name = "KIND|FILE", help_heading = "Text"))]
    pub tokenizer: Option<String>,
    /// The token before a sentence, by name or id, or none [default: <s> or another usual name, or else that of --eos]
    #[cfg_attr(feature = "cli", arg(long = "bos", value_name = "TOKEN", help_heading = "Text"))]
    pub begin: Option<String>,
    /// The token at the end of a sentence or a line, by name or id; none makes a line's end white space [default: <eos>, </s> or another usual name]
    #[cfg_attr(feature = "cli", arg(long = "eos", value_name = "TOKEN", help_heading = "Text"))]
    pub end: Option<String>,
    /// The token for what the vocabulary lacks, by name or id, or none [default: <unk> or another usual name]
    #[cfg_attr(feature = "cli", arg(long = "unk", value_name = "TOKEN", help_heading = "Text"))]
    pub unknown: Option<String>,
    /// The token that fills up batches or is a blank, by name or id, or none [default: <pad>, <blk> or another usual name]
    #[cfg_attr(feature = "cli", arg(long, value_name = "TOKEN", help_heading = "Text"))]
    pub pad: Option<String>,
}

impl TextOptions {
    /// Those of a vocabulary file, and all else by default.
    pub fn vocabulary(path: impl AsRef<Path>) -> TextOptions {
        TextOptions { vocabulary: Some(path.as_ref().into()), ..TextOptions::default() }
    }

    fn special(&self, role: Role) -> Option<&str> {
        match role {
            Role::Begin => self.begin.as_deref(),
            Role::End => self.end.as_deref(),
            Role::Unknown => self.unknown.as_deref(),
            _ => self.pad.as_deref(),
        }
    }

    /// The tokenizer that these options make of a model's own, if it has one; `size` gives the number of the model's tokens.
    pub(crate) fn tokenizer(
        &self,
        own: Option<&Arc<Tokenizer>>,
        size: &dyn Fn() -> Result<usize, Error>,
    ) -> Result<Option<Arc<Tokenizer>>, Error> {
        let specials = Role::ALL.map(|role| (role, self.special(role)));
        if self.vocabulary.is_none()
            && self.tokenizer.is_none()
            && specials.iter().all(|(_, name)| name.is_none())
        {
            return Ok(own.cloned());
        }
        let units = match &self.tokenizer {
            Some(name) => units(name)?,
            None => own.map_or(Units::Words, |own| own.units().clone()),
        };
        let vocabulary = match (&self.vocabulary, own, &units) {
            (path, own, Units::Subwords(subwords)) => {
                let given = path.as_ref().map(|path| without_disambiguation(Vocabulary::read(path)?, size));
                // Names that the model has for words or subwords; those of bytes and ids are made up.
                let own = own.filter(|own| matches!(own.units(), Units::Words | Units::Subwords(_)));
                match (given, own) {
                    (Some(given), _) => Arc::new(given?),
                    (None, Some(own)) => own.vocabulary().clone(),
                    (None, None) => Arc::new(subwords.vocabulary(size()?)?),
                }
            }
            (Some(path), _, _) => Arc::new(without_disambiguation(Vocabulary::read(path)?, size)?),
            (None, Some(own), _) => own.vocabulary().clone(),
            (None, None, Units::Bytes) => Arc::new(Vocabulary::of_bytes(size()?)?),
            (None, None, Units::Ids) => Arc::new(Vocabulary::of_ids(size()?)?),
            (None, None, _) => {
                let reason = "the model brings no vocabulary, which texts need; give one with --vocab FILE";
                return Err(Error::Tokenizer(reason.into()));
            }
        };
        if let Units::Subwords(subwords) = &units {
            subwords.check(&vocabulary)?;
        }
        if units == Units::Bytes && vocabulary.len() < 256 {
            let reason =
                format!("a vocabulary of bytes has at least 256 words, this one {}", vocabulary.len());
            return Err(Error::Tokenizer(reason));
        }
        // Of the model's own, what is not replaced stays.
        let mut tokenizer = match own {
            Some(own) if self.vocabulary.is_none() && units == *own.units() => Tokenizer::clone(own),
            _ => Tokenizer::new(units.clone(), vocabulary.clone()),
        };
        for (role, name) in specials {
            let Some(name) = name else { continue };
            let id = special(role, name, &vocabulary)?;
            let special = tokenizer.special().with(role, id);
            let newline = tokenizer.newline();
            tokenizer = Tokenizer::with_special(units.clone(), vocabulary.clone(), special);
            if role != Role::End {
                tokenizer = tokenizer.with_newline(newline);
            } else if id.is_none() && tokenizer.newline() == Newline::Missing {
                tokenizer = tokenizer.with_newline(Newline::Space);
            }
        }
        Ok(Some(Arc::new(tokenizer)))
    }
}

/// What an option names: a kind, or a tokenizer's file.
fn units(name: &str) -> Result<Units, Error> {
    match Units::from_name(name) {
        Some(units) => Ok(units),
        None if Path::new(name).exists() => Ok(Units::Subwords(Arc::new(Subwords::read(name)?))),
        None => {
            let expected = "expected words, characters, bytes, ids, or a file: a SentencePiece model or a tokenizer.json";
            Err(Error::Tokenizer(format!("--tokenizer {name}: {expected}")))
        }
    }
}

/// The token of an option: by its name, or else by its number.
fn special(role: Role, name: &str, vocabulary: &Vocabulary) -> Result<Option<u32>, Error> {
    if let Some(id) = vocabulary.id(name) {
        return Ok(Some(id));
    }
    let id = name.parse().ok().filter(|&id: &u32| (id as usize) < vocabulary.len());
    match (name, id) {
        ("none", _) => Ok(None),
        (_, Some(id)) => Ok(Some(id)),
        (_, None) => {
            let last = vocabulary.len() - 1;
            let reason = format!(
                "{} {name}: it is not in the vocabulary; expected a word of it, an id from 0 to {last}, or none",
                role.option()
            );
            Err(Error::Tokenizer(reason))
        }
    }
}

/// Without the symbols `#0`, `#1` and so on at its end, which decoding graphs need and models do not have.
fn without_disambiguation(
    vocabulary: Vocabulary,
    size: &dyn Fn() -> Result<usize, Error>,
) -> Result<Vocabulary, Error> {
    let is_symbol = |word: &str| {
        word.strip_prefix('#').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let words: Vec<&str> = vocabulary.words().collect();
    let kept = words.iter().rposition(|word| !is_symbol(word)).map_or(0, |last| last + 1);
    if kept == words.len() || kept > size()? || size()? >= words.len() {
        return Ok(vocabulary);
    }
    Ok(Vocabulary::from_words(&words[..size()?])?)
}

/// What is odd about a tokenizer, or was guessed: for a note.
#[cfg(feature = "cli")]
pub(crate) fn notes(tokenizer: &Tokenizer) -> Vec<String> {
    let mut notes = vec![];
    let usual = [None, Some("<eos>"), Some("<unk>"), None];
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.vocabulary().word(id));
    let found = tokenizer.special().ids.map(name);
    let is_usual =
        *tokenizer.units() == Units::Words && found.iter().zip(usual).all(|(found, usual)| *found == usual);
    if !is_usual {
        notes.push(format!("texts are read as {}", tokenizer.summary()));
    }
    if let Units::Subwords(subwords) = tokenizer.units() {
        let (rows, tokens) = (tokenizer.vocabulary().len(), subwords.len());
        if rows > tokens {
            notes.push(format!(
                "the model has {rows} tokens, its tokenizer {tokens}: the last {} are in no text",
                rows - tokens
            ));
        }
        if subwords.drops_unknown() {
            notes.push(
                "the tokenizer has no token for what is unknown: characters that it lacks are left out"
                    .into(),
            );
        }
    }
    if *tokenizer.units() == Units::Words {
        let words = || tokenizer.vocabulary().words();
        let apart = words().filter(|word| word.contains(char::is_whitespace)).count();
        let parts = words()
            .filter(|word| word.starts_with(['\u{2581}', '\u{120}']) || word.starts_with("##"))
            .count();
        if apart > 0 {
            notes.push(format!(
                "{apart} of the vocabulary's words hold white space, so no text has them; is this a model of characters (--tokenizer characters)?"
            ));
        } else if parts * 10 > tokenizer.vocabulary().len() {
            notes.push("the vocabulary has parts of words, but texts are cut into words; is there a file for --tokenizer?".into());
        }
    }
    notes
}

impl Source {
    /// With texts read as these options say. The vocabulary's length is checked when the model is canonical.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, an option names nothing, or the vocabulary has another number of words than the model.
    pub fn with_text(mut self, options: &TextOptions) -> Result<Source, Error> {
        let size = || match self.graph.vocabulary {
            Some(size) => Ok(size),
            None => {
                let canonical = canonicalize(&self.graph)?;
                let size = canonical.and_then(|c| c.graph.vocabulary);
                size.ok_or_else(|| Error::Tokenizer("the model's number of tokens is not known".into()))
            }
        };
        let tokenizer = options.tokenizer(self.tokenizer.as_ref(), &size)?;
        if let (Some(tokenizer), Some(expected)) = (&tokenizer, self.graph.vocabulary) {
            tokenizer.vocabulary().check_len(expected)?;
        }
        self.tokenizer = tokenizer;
        Ok(self)
    }
}

/// Units that a text has and the vocabulary lacks, from this share on, are worth a note.
#[cfg(feature = "cli")]
const MANY_UNKNOWN: f64 = 0.5;

/// A note about a text with that many unknown of all its tokens.
#[cfg(feature = "cli")]
pub(crate) fn unknown_note(unknown: usize, tokens: usize, tokenizer: &Tokenizer) -> Option<String> {
    let share = unknown as f64 / tokens.max(1) as f64;
    (share >= MANY_UNKNOWN).then(|| {
        format!(
            "{:.0}% of the text's {} are not in the vocabulary; is it the model's, and --tokenizer {} right?",
            share * 100.0,
            tokenizer.units().name(),
            tokenizer.units().name()
        )
    })
}

/// An error of a text in a file.
pub(crate) fn in_file(path: &Path, error: TextError) -> Error {
    Error::Text { path: path.into(), error }
}
