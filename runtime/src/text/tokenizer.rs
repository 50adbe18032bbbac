//! From text to tokens, and back.

use super::special::{Role, Special};
use super::subwords::Subwords;
use super::vocabulary::Vocabulary;
use std::fmt::{self, Write};
use std::io;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// What a text is cut into.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Units {
    /// Words between white space (as Unicode defines it).
    Words,
    /// Characters: Unicode scalar values. `<space>` is a blank where the vocabulary has no blank.
    Characters,
    /// Bytes: the token of a byte is its value.
    Bytes,
    /// Numbers between white space, which are ids of tokens.
    Ids,
    /// Parts of words, line by line.
    Subwords(Arc<Subwords>),
}

impl Units {
    /// Its name in options and files.
    pub fn name(&self) -> &'static str {
        match self {
            Units::Words => "words",
            Units::Characters => "characters",
            Units::Bytes => "bytes",
            Units::Ids => "ids",
            Units::Subwords(_) => "subwords",
        }
    }

    /// Those of a name; subwords are more than a name.
    pub fn from_name(name: &str) -> Option<Units> {
        [Units::Words, Units::Characters, Units::Bytes, Units::Ids]
            .into_iter()
            .find(|units| units.name() == name)
    }
}

/// What the end of a line is in a text that is read as one stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Newline {
    /// This token.
    Token(u32),
    /// White space.
    Space,
    /// An error: there is no token for it.
    Missing,
}

/// How a text becomes the tokens of one model.
///
/// ```
/// use lstmc_runtime::{Tokenizer, Units, Vocabulary};
///
/// let words = Tokenizer::words(Vocabulary::from_words(["<unk>", "</s>", "the", "cat"])?);
/// assert_eq!(words.encode("the cat\na cat\n")?.tokens, [2, 3, 1, 0, 3, 1]);
/// let characters = Tokenizer::new(Units::Characters, Vocabulary::from_words([" ", "a", "b", "\n"])?);
/// assert_eq!(characters.encode("a b\n")?.tokens, [1, 0, 2, 3]);
/// assert_eq!(characters.decode(&[1, 0, 2]), "a b");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Tokenizer {
    units: Units,
    vocabulary: Arc<Vocabulary>,
    special: Special,
    newline: Newline,
}

/// A text as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The number of units that the vocabulary lacks. The unknown token itself, written in the text, is not counted.
    pub unknown: usize,
    /// Words between white space, and lines' ends that are tokens.
    pub words: usize,
    /// Characters, lines' ends included.
    pub characters: usize,
    /// Bytes of UTF-8, lines' ends included.
    pub bytes: usize,
}

/// Why a text cannot be turned into tokens. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A line that a tokenizer's file does not provide for.
    #[error("line {line} of the text cannot be cut into subwords: {reason}")]
    Subwords {
        /// The line.
        line: usize,
        /// What the tokenizer says.
        reason: String,
    },
    /// A unit that the vocabulary lacks, and no token for it.
    #[error(
        "line {line} of the text has {unit}, which is not in the vocabulary, and the vocabulary has no <unk> or the like to stand for it; \
         name one with --unk TOKEN"
    )]
    Unknown {
        /// The unit, with its kind.
        unit: String,
        /// Its line.
        line: usize,
    },
    /// A line's end, and no token for it.
    #[error(
        "line {line} of the text ends, and the vocabulary has no <eos>, </s> or the like for that; \
         name a token with --eos TOKEN, or read lines' ends as white space with --eos none"
    )]
    NoEnd {
        /// The line.
        line: usize,
    },
    /// A sentence, and no token for its beginning or end.
    #[error("a sentence needs a token for its {role}, and the vocabulary has none of the usual names; name one with {} TOKEN", .role.option())]
    NoSpecial {
        /// What is missing.
        role: Role,
    },
    /// Something that is no id.
    #[error("line {line} of the text has `{word}`, which is no token of the model: tokens are 0 to {last}")]
    NotAnId {
        /// The word.
        word: String,
        /// Its line.
        line: usize,
        /// The largest token.
        last: usize,
    },
    /// Bytes that are no UTF-8.
    #[error("line {line} is not UTF-8; expected a text in UTF-8")]
    NotUtf8 {
        /// The line.
        line: usize,
    },
    /// A word or a line that is too long to be one.
    #[error("line {line} has {what} of more than {limit} bytes; is this a text?")]
    TooLong {
        /// The line.
        line: usize,
        /// What is too long.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// The text cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
}

impl Tokenizer {
    /// Words between white space, with the special tokens that have usual names.
    pub fn words(vocabulary: impl Into<Arc<Vocabulary>>) -> Tokenizer {
        Tokenizer::new(Units::Words, vocabulary)
    }

    /// With the special tokens that the tokenizer's file names, or that have usual names.
    pub fn new(units: Units, vocabulary: impl Into<Arc<Vocabulary>>) -> Tokenizer {
        let vocabulary = vocabulary.into();
        let special = match units {
            // A number is no name.
            Units::Ids => Special::default(),
            Units::Subwords(ref subwords) => subwords.special().or(Special::guess(&vocabulary)),
            _ => Special::guess(&vocabulary),
        };
        Tokenizer::with_special(units, vocabulary, special)
    }

    /// With these special tokens, and lines' ends that follow from them: a byte and a character `\n` are what they are; otherwise the token
    /// for an end, if there is one. Between ids, a line's end is white space.
    pub fn with_special(units: Units, vocabulary: impl Into<Arc<Vocabulary>>, special: Special) -> Tokenizer {
        let vocabulary = vocabulary.into();
        let own = match units {
            Units::Bytes => Some(u32::from(b'\n')),
            Units::Characters => vocabulary.id("\n"),
            Units::Words | Units::Ids | Units::Subwords(_) => None,
        };
        let newline = match own.or(special.get(Role::End)) {
            Some(id) => Newline::Token(id),
            None if units == Units::Ids => Newline::Space,
            None => Newline::Missing,
        };
        Tokenizer { units, vocabulary, special, newline }
    }

    /// With this for the end of a line.
    #[must_use]
    pub fn with_newline(self, newline: Newline) -> Tokenizer {
        Tokenizer { newline, ..self }
    }

    /// What a text is cut into.
    pub fn units(&self) -> &Units {
        &self.units
    }

    /// The names of the tokens.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// The special tokens.
    pub fn special(&self) -> &Special {
        &self.special
    }

    /// What the end of a line is.
    pub fn newline(&self) -> Newline {
        self.newline
    }

    /// The token at the end of a sentence: that for an end, or else that of a line's end.
    ///
    /// # Errors
    ///
    /// [`TextError::NoSpecial`] if there is neither.
    pub fn end(&self) -> Result<u32, TextError> {
        match (self.special.get(Role::End), self.newline) {
            (Some(id), _) | (None, Newline::Token(id)) => Ok(id),
            (None, _) => Err(TextError::NoSpecial { role: Role::End }),
        }
    }

    /// The token before a sentence: that for a beginning, or else that for an end, which comes before every sentence but the first where
    /// sentences follow each other.
    ///
    /// # Errors
    ///
    /// [`TextError::NoSpecial`] if there is neither.
    pub fn begin(&self) -> Result<u32, TextError> {
        match self.special.get(Role::Begin) {
            Some(id) => Ok(id),
            None => self.end().map_err(|_| TextError::NoSpecial { role: Role::Begin }),
        }
    }

    /// Turns a text into tokens, as one stream: lines' ends become tokens (so a last line without one has none), and units that the vocabulary
    /// lacks become the unknown token.
    ///
    /// # Errors
    ///
    /// [`TextError`], for the first unit or line's end that has no token.
    pub fn encode(&self, text: &str) -> Result<Encoded, TextError> {
        let mut encoded = Encoded::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.split_inclusive('\n').enumerate() {
            self.push(line.as_bytes(), index + 1, &mut encoded)?;
        }
        Ok(encoded)
    }

    /// The tokens of a sentence: [`Tokenizer::begin`], those of the text, and [`Tokenizer::end`]. Counts are of the text and its end.
    ///
    /// # Errors
    ///
    /// [`TextError`], for the first unit that has no token, or if there are no tokens for beginning and end.
    pub fn sentence(&self, text: &str, line: usize) -> Result<Encoded, TextError> {
        let mut encoded = Encoded { tokens: vec![self.begin()?], ..Encoded::default() };
        let text = text.strip_suffix('\n').unwrap_or(text);
        self.push(text.strip_suffix('\r').unwrap_or(text).as_bytes(), line, &mut encoded)?;
        self.push_end(self.end()?, &mut encoded);
        Ok(encoded)
    }

    /// Appends a piece of a line, with its end if it has one. Of bytes, only [`Units::Bytes`] may be other than UTF-8.
    pub(super) fn push(&self, piece: &[u8], line: usize, to: &mut Encoded) -> Result<(), TextError> {
        let (piece, ends) = match piece.strip_suffix(b"\n") {
            Some(piece) => {
                (piece.strip_suffix(b"\r").filter(|_| self.units != Units::Bytes).unwrap_or(piece), true)
            }
            None => (piece, false),
        };
        let text = match (str::from_utf8(piece), &self.units) {
            (Ok(text), _) => text,
            (Err(_), Units::Bytes) => "",
            (Err(_), _) => return Err(TextError::NotUtf8 { line }),
        };
        to.words += text.split_whitespace().count();
        to.characters += text.chars().count();
        to.bytes += piece.len();
        let unknown = self.special.get(Role::Unknown);
        // The token of a unit, which is found or not, and told in an error.
        let mut push = |found: Option<u32>, unit: &dyn Fn() -> String| -> Result<(), TextError> {
            let token = found.or(unknown).ok_or_else(|| TextError::Unknown { unit: unit(), line })?;
            to.unknown += usize::from(found.is_none());
            to.tokens.push(token);
            Ok(())
        };
        match &self.units {
            Units::Words => text
                .split_whitespace()
                .try_for_each(|word| push(self.vocabulary.id(word), &|| format!("the word `{word}`")))?,
            Units::Characters => {
                let mut name = [0; 4];
                text.chars().try_for_each(|c| {
                    let id = self.vocabulary.id(c.encode_utf8(&mut name));
                    let id = id.or_else(|| (c == ' ').then(|| self.vocabulary.id("<space>"))?);
                    push(id, &|| format!("the character {c:?}"))
                })?;
            }
            Units::Subwords(subwords) => {
                let found = subwords.encode(text).map_err(|reason| TextError::Subwords { line, reason })?;
                found.into_iter().try_for_each(|id| push(id, &|| "a character".into()))?;
            }
            Units::Bytes => to.tokens.extend(piece.iter().map(|&byte| u32::from(byte))),
            Units::Ids => {
                for word in text.split_whitespace() {
                    let last = self.vocabulary.len() - 1;
                    let id = word.parse().ok().filter(|&id: &u32| id as usize <= last);
                    to.tokens.push(id.ok_or_else(|| TextError::NotAnId { word: word.into(), line, last })?);
                }
            }
        }
        match self.newline {
            Newline::Token(id) if ends => self.push_end(id, to),
            Newline::Missing if ends => return Err(TextError::NoEnd { line }),
            _ => {}
        }
        Ok(())
    }

    fn push_end(&self, id: u32, to: &mut Encoded) {
        to.tokens.push(id);
        to.words += 1;
        to.characters += 1;
        to.bytes += 1;
    }

    /// Whether a token ends a line of text.
    fn is_end(&self, token: u32) -> bool {
        self.newline == Newline::Token(token) || self.special.get(Role::End) == Some(token)
    }

    /// The text of some tokens. A token for an end ends a line.
    pub fn decode(&self, tokens: &[u32]) -> String {
        if self.units == Units::Bytes {
            let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        if let Units::Subwords(subwords) = &self.units {
            let is_silent =
                |token| [Role::Begin, Role::Pad].iter().any(|&role| self.special.get(role) == Some(token));
            let lines = tokens.split(|&token| self.is_end(token)).map(|line| {
                let spoken: Vec<u32> = line.iter().copied().filter(|&token| !is_silent(token)).collect();
                subwords.decode(&spoken)
            });
            return lines.collect::<Vec<_>>().join("\n");
        }
        let mut text = String::new();
        for &token in tokens {
            let word = self.vocabulary.word(token).unwrap_or("\u{fffd}");
            let apart = self.units != Units::Characters && !text.is_empty() && !text.ends_with('\n');
            match word {
                _ if self.is_end(token) => text.push('\n'),
                "<space>" if self.units == Units::Characters => text.push(' '),
                word if apart => _ = write!(text, " {word}"), // writing to a string cannot fail
                word => text.push_str(word),
            }
        }
        text
    }

    /// What one more token adds to the text of others, such as ` it` after a word, `ing` within one, or the end of a line. Bytes that end in the
    /// middle of a character are U+FFFD until the rest follows, whose text is then the whole character.
    pub fn decode_after(&self, before: &[u32], token: u32) -> String {
        let line =
            before.iter().rposition(|&token| self.is_end(token)).map_or(before, |end| &before[end + 1..]);
        let longer = self.decode(&[line, &[token]].concat());
        match longer.strip_prefix(self.decode(line).trim_end_matches('\u{fffd}')) {
            Some(added) => added.to_owned(),
            // A decoder that mends what came before.
            None => self.decode(&[token]),
        }
    }

    /// In one line: units, and the special tokens with their ids.
    pub fn summary(&self) -> String {
        let mut out = match &self.units {
            Units::Subwords(subwords) => {
                format!("subwords ({}, {} tokens)", subwords.summary(), subwords.len())
            }
            units => units.name().to_string(),
        };
        let name = |id: u32| format!("{} ({id})", self.vocabulary.word(id).unwrap_or("?").escape_debug());
        for role in Role::ALL {
            if let Some(id) = self.special.get(role) {
                // Writing to a string cannot fail.
                _ = write!(out, ", {role} {}", name(id));
            }
        }
        match self.newline {
            Newline::Token(id) if self.special.get(Role::End) == Some(id) => {}
            Newline::Token(id) => _ = write!(out, ", a line's end {}", name(id)),
            Newline::Space => out.push_str(", a line's end is white space"),
            Newline::Missing => out.push_str(", no token for a line's end"),
        }
        out
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({}; {} words)", self.summary(), self.vocabulary.len())
    }
}
