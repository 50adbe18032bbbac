//! The tokens of a model, by name.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

mod file;
#[cfg(test)]
mod tests;

/// The largest vocabulary file that [`Vocabulary::read`] accepts, in bytes.
pub const MAX_VOCABULARY_BYTES: u64 = 64 << 20;

/// An ordered list of distinct words: whole words, characters, or parts of words. A word's position is its id, the token that the model sees.
///
/// Words are not empty. Comparison is by bytes: no case folding, no normalisation.
#[derive(Clone)]
pub struct Vocabulary {
    words: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u32>, // shares the bytes of `words`
    sorted: OnceLock<Vec<u32>>,  // ids in the order of their words, made when first asked for
}

impl PartialEq for Vocabulary {
    fn eq(&self, other: &Vocabulary) -> bool {
        self.words == other.words
    }
}

impl Eq for Vocabulary {}

/// Why a vocabulary cannot be read, or cannot be used.
///
/// Lines are counted from 1. A word's line is its id plus 1 if the words do not come from a file.
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
         name a text file with one word a line, or a map in JSON"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The file is larger than [`MAX_VOCABULARY_BYTES`].
    #[error(
        "it is larger than {MAX_VOCABULARY_BYTES} bytes, too large for a vocabulary; \
         name a text file with one word a line, or a map in JSON"
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
    /// A line without a word, before the last word.
    #[error(
        "line {line} is empty; line numbers are token ids, so every line needs a word (a line feed is written \\u{{a}}, as escapes are)"
    )]
    EmptyWord {
        /// The line.
        line: usize,
    },
    /// White space beside other characters in a line.
    #[error(
        "line {line}, {word:?}, has white space in it; expected one word a line without counts or other columns, or a word and its id in \
         each line (white space in a word is written as an escape, such as \\u{{20}})"
    )]
    WhiteSpace {
        /// The line.
        line: usize,
        /// Its contents.
        word: String,
    },
    /// Words with numbers that are not ids.
    #[error(
        "the numbers beside the words are not the ids 0 to {last}, each once: {word:?} has {id}; remove columns that are not ids"
    )]
    Ids {
        /// The largest id of as many words.
        last: usize,
        /// The first word whose number is too large or repeated.
        word: String,
        /// Its number.
        id: u64,
    },
    /// A JSON file of another form.
    #[error("it is JSON, but {reason}; expected a map from words to ids, or a list of words")]
    Json {
        /// What is wrong with it.
        reason: String,
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
    /// A model with fewer tokens than there are bytes.
    #[error("a model that reads bytes has at least 256 tokens, this one {model}; give its vocabulary")]
    Bytes {
        /// Tokens of the model.
        model: usize,
    },
    /// More words than a token id can count.
    #[error("more than {} words", u32::MAX)]
    TooManyWords,
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
    /// Reads a vocabulary file, in UTF-8, with or without a byte order mark, in one of these forms:
    ///
    /// - one word a line; the id of a word is its line number, from 0;
    /// - a word and its id in each line, separated by white space (`tokens.txt` of k2 and icefall, `words.txt` of Kaldi), in any order;
    /// - a word and its score in each line, separated by a tab (`.vocab` of SentencePiece); the id is the line number, from 0;
    /// - JSON: a map from words to ids, or a list of words.
    ///
    /// Lines end with `\n` or `\r\n`; empty lines after the last word are skipped. A line of one blank is the word of one blank. Any other
    /// white space, and any other character, may be written as an escape: `\u{20}`, with one to six hexadecimal digits.
    ///
    /// # Errors
    ///
    /// If `path` cannot be read, is a directory or larger than [`MAX_VOCABULARY_BYTES`], or if the file
    /// is not UTF-8, has no words, one that is empty, repeated or has white space beside other characters in it, or ids with gaps.
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
    /// As [`Vocabulary::read`], for what is wrong with the contents.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VocabularyError> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let newlines = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
            VocabularyError::NotUtf8 { line: newlines + 1 }
        })?;
        file::parse(text.strip_prefix('\u{feff}').unwrap_or(text))
    }

    /// The contents of a file from which [`Vocabulary::from_bytes`] reads the same words: one a line, with escapes.
    pub fn to_text(&self) -> String {
        file::text(self)
    }

    /// A vocabulary of the given words, in order.
    ///
    /// # Errors
    ///
    /// If there are no words, or one that is empty or repeated.
    pub fn from_words<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> Result<Self, VocabularyError> {
        let mut vocabulary = Vocabulary { words: Vec::new(), ids: HashMap::new(), sorted: OnceLock::new() };
        for word in words {
            vocabulary.push(word.as_ref())?;
        }
        if vocabulary.words.is_empty() {
            return Err(VocabularyError::Empty);
        }
        Ok(vocabulary)
    }

    /// The vocabulary of a model that reads bytes, named `<0x00>` to `<0xFF>`, and `len - 256` more tokens, which are named after their ids: `<256>`.
    ///
    /// # Errors
    ///
    /// [`VocabularyError::Bytes`] if `len` is less than 256.
    pub fn of_bytes(len: usize) -> Result<Self, VocabularyError> {
        if len < 256 {
            return Err(VocabularyError::Bytes { model: len });
        }
        Self::from_words(
            (0..len).map(|id| if id < 256 { format!("<0x{id:02X}>") } else { format!("<{id}>") }),
        )
    }

    /// The vocabulary of a model whose tokens are named after their ids: `0`, `1` and so on.
    ///
    /// # Errors
    ///
    /// If `len` is 0.
    pub fn of_ids(len: usize) -> Result<Self, VocabularyError> {
        Self::from_words((0..len).map(|id| id.to_string()))
    }

    fn push(&mut self, word: &str) -> Result<(), VocabularyError> {
        let line = self.words.len() + 1;
        if word.is_empty() {
            return Err(VocabularyError::EmptyWord { line });
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

    /// The tokens of all words that begin with `prefix`, in the order of their words' bytes. The first call sorts the vocabulary.
    pub fn with_prefix(&self, prefix: &str) -> &[u32] {
        let sorted = self.sorted.get_or_init(|| {
            let mut ids: Vec<u32> = (0..self.words.len() as u32).collect();
            ids.sort_unstable_by_key(|&id| &self.words[id as usize]);
            ids
        });
        let word = |id: &u32| &*self.words[*id as usize];
        let start = sorted.partition_point(|id| word(id) < prefix);
        let count = sorted[start..].partition_point(|id| word(id).starts_with(prefix));
        &sorted[start..start + count]
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
