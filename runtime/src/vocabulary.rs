//! The words of a model.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// The word that replaces every word that the vocabulary lacks.
pub const UNKNOWN: &str = "<unk>";

/// The word for the end of a line.
pub const END_OF_LINE: &str = "<eos>";

/// The largest vocabulary file that [`Vocabulary::read`] accepts, in bytes.
pub const MAX_VOCABULARY_BYTES: u64 = 64 << 20;

/// An ordered list of distinct words; a word's position is its id, the token that the model sees.
///
/// Words are not empty and hold no white space (as Unicode defines it), because text is split on it.
/// Comparison is by bytes: no case folding, no normalisation.
#[derive(Clone, PartialEq, Eq)]
pub struct Vocabulary {
    words: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u32>, // shares the bytes of `words`
}

/// The result of [`Vocabulary::encode`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// One id per word and per newline.
    pub tokens: Vec<u32>,
    /// The number of words that the vocabulary lacks. The word `<unk>` itself, written in
    /// the text, is not counted.
    pub unknown: usize,
}

/// Why a vocabulary cannot be read, or cannot be used.
///
/// Lines are counted from 1. A word's line is its id plus 1, even if the words do not come from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// A problem with the contents of a file.
    #[error("vocabulary `{path}`: {problem}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<VocabularyError>,
    },
    /// The file cannot be read.
    #[error("cannot read vocabulary `{path}`: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: io::Error,
    },
    /// The path is a directory.
    #[error(
        "cannot read vocabulary `{path}`: it is a directory; \
         name a text file with one word a line"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The file is larger than [`MAX_VOCABULARY_BYTES`].
    #[error(
        "it is larger than {MAX_VOCABULARY_BYTES} bytes, too large for a vocabulary; \
         name a text file with one word a line"
    )]
    TooLarge,
    /// There are no words.
    #[error("there are no words in it; expected one word a line")]
    Empty,
    /// The file is not UTF-8.
    #[error("line {line} is not UTF-8; expected a UTF-8 text with one word a line")]
    NotUtf8 {
        /// The first line that is not.
        line: usize,
    },
    /// A line without a word, which no text could produce, before the last word.
    #[error("line {line} is empty; line numbers are token ids, so every line needs a word")]
    EmptyWord {
        /// The line.
        line: usize,
    },
    /// White space in a word, which no text could produce.
    #[error(
        "line {line}, {word:?}, has white space in it; \
         expected one word a line, without counts or other columns"
    )]
    WhiteSpace {
        /// The line.
        line: usize,
        /// Its contents.
        word: String,
    },
    /// A word occurs twice.
    #[error("line {line} repeats the word `{word}` of line {first}")]
    Duplicate {
        /// The word.
        word: String,
        /// The line of its first occurrence.
        first: usize,
        /// The line of its second occurrence.
        line: usize,
    },
    /// More words than a token id can count.
    #[error("more than {} words", u32::MAX)]
    TooManyWords,
    /// A text has a word that the vocabulary lacks, and the vocabulary has no `<unk>`.
    #[error(
        "line {line} of the text has the word `{word}`, which is not in the vocabulary, \
         and the vocabulary has no `{UNKNOWN}` to stand for it"
    )]
    UnknownWord {
        /// The first such word.
        word: String,
        /// Its line in the text; for `<eos>`, the line that it ends.
        line: usize,
    },
    /// The vocabulary does not belong to the model.
    #[error(
        "the vocabulary has {words} words, the model {model}; \
         use the vocabulary that the model was trained with"
    )]
    Length {
        /// Words in the vocabulary.
        words: usize,
        /// Words that the model has.
        model: usize,
    },
}

impl Vocabulary {
    /// Reads a UTF-8 text file with one word per line; the id of a word is its line number, from 0.
    ///
    /// Lines end with `\n` or `\r\n`; empty lines after the last word and a byte order mark are skipped.
    ///
    /// # Errors
    ///
    /// If `path` cannot be read, is a directory or larger than [`MAX_VOCABULARY_BYTES`], or if the file
    /// is not UTF-8, has no words, or one that is empty, repeated or has white space in it.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, VocabularyError> {
        let path = path.as_ref();
        let unreadable = |reason| VocabularyError::Read { path: path.to_owned(), reason };
        let flawed = |problem| VocabularyError::InFile { path: path.to_owned(), problem: Box::new(problem) };

        if fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Err(VocabularyError::Directory { path: path.to_owned() });
        }
        // Not `fs::read`: a pipe has no length, and a device has no end.
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_VOCABULARY_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_VOCABULARY_BYTES {
            return Err(flawed(VocabularyError::TooLarge));
        }
        Self::from_bytes(&bytes).map_err(flawed)
    }

    /// Reads the contents of a vocabulary file, as [`Vocabulary::read`] does.
    ///
    /// # Errors
    ///
    /// If they are not UTF-8, have no words, or one that is empty, repeated or has white space in it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VocabularyError> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let newlines = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
            VocabularyError::NotUtf8 { line: newlines + 1 }
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::from_words(text.trim_end_matches(['\r', '\n']).lines())
    }

    /// A vocabulary of the given words, in order.
    ///
    /// # Errors
    ///
    /// If there are no words, or one that is empty, repeated or has white space in it.
    pub fn from_words<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> Result<Self, VocabularyError> {
        let mut vocabulary = Vocabulary { words: Vec::new(), ids: HashMap::new() };
        for word in words {
            vocabulary.push(word.as_ref())?;
        }
        if vocabulary.words.is_empty() {
            return Err(VocabularyError::Empty);
        }
        Ok(vocabulary)
    }

    fn push(&mut self, word: &str) -> Result<(), VocabularyError> {
        let line = self.words.len() + 1;
        if word.is_empty() {
            return Err(VocabularyError::EmptyWord { line });
        }
        if word.contains(char::is_whitespace) {
            return Err(VocabularyError::WhiteSpace { line, word: word.to_owned() });
        }
        if let Some(first) = self.id(word) {
            return Err(VocabularyError::Duplicate {
                word: word.to_owned(),
                first: first as usize + 1,
                line,
            });
        }
        let id = u32::try_from(self.words.len()).map_err(|_| VocabularyError::TooManyWords)?;
        let word: Arc<str> = word.into();
        self.words.push(word.clone());
        self.ids.insert(word, id);
        Ok(())
    }

    /// The number of words, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary is never empty")]
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// The words, in the order of their ids.
    pub fn words(&self) -> impl ExactSizeIterator<Item = &str> {
        self.words.iter().map(|word| &**word)
    }

    /// The word of a token; `None` if there is no such token.
    pub fn word(&self, id: u32) -> Option<&str> {
        self.words.get(id as usize).map(|word| &**word)
    }

    /// The token of a word; `None` if the vocabulary lacks the word.
    pub fn id(&self, word: &str) -> Option<u32> {
        self.ids.get(word).copied()
    }

    /// The token of [`UNKNOWN`], if the vocabulary has it.
    pub fn unknown(&self) -> Option<u32> {
        self.id(UNKNOWN)
    }

    /// Turns a text into tokens: it is split on white space, and every `\n` is the token `<eos>` (so a
    /// last line without a newline has none). Words that the vocabulary lacks, `<eos>` among them,
    /// become `<unk>`.
    ///
    /// # Errors
    ///
    /// [`VocabularyError::UnknownWord`], naming the first, if the vocabulary has no `<unk>` for them.
    pub fn encode(&self, text: &str) -> Result<Encoded, VocabularyError> {
        let mut encoded = Encoded { tokens: Vec::new(), unknown: 0 };
        let mut push = |word: &str, line: usize| {
            let token = match (self.id(word), self.unknown()) {
                (Some(id), _) => id,
                (None, Some(unknown)) => {
                    encoded.unknown += 1;
                    unknown
                }
                (None, None) => return Err(VocabularyError::UnknownWord { word: word.to_owned(), line }),
            };
            encoded.tokens.push(token);
            Ok(())
        };
        for (index, line) in text.split_inclusive('\n').enumerate() {
            for word in line.split_whitespace() {
                push(word, index + 1)?;
            }
            if line.ends_with('\n') {
                push(END_OF_LINE, index + 1)?;
            }
        }
        Ok(encoded)
    }

    /// Checks that this can be the vocabulary of a model with `expected` words.
    ///
    /// # Errors
    ///
    /// [`VocabularyError::Length`] if it has another number of words.
    pub fn check_len(&self, expected: usize) -> Result<(), VocabularyError> {
        if self.len() == expected {
            Ok(())
        } else {
            Err(VocabularyError::Length { words: self.len(), model: expected })
        }
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vocabulary({} words)", self.len())
    }
}
