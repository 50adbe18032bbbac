//! Tokenizers for parts of words, as other programs train and write them.

#[cfg(feature = "tokenizers")]
mod hugging_face;
mod index;
mod normalizer;
mod sentencepiece;
#[cfg(test)]
mod tests;

use super::special::Special;
use super::vocabulary::{Vocabulary, VocabularyError};
#[cfg(feature = "tokenizers")]
use hugging_face::HuggingFace;
use sentencepiece::SentencePiece;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest tokenizer file that [`Subwords::read`] accepts, in bytes.
pub const MAX_TOKENIZER_BYTES: usize = 32 << 20;

/// A tokenizer for parts of words: a SentencePiece model (`.model`), or, with the feature `tokenizers`, one of Hugging Face (`tokenizer.json`).
///
/// It cuts a line at a time, as the Python packages do, and adds no tokens for its beginning or end: those are a [`Tokenizer`](super::Tokenizer)'s.
pub struct Subwords {
    file: Box<[u8]>,
    engine: Engine,
}

enum Engine {
    SentencePiece(Box<SentencePiece>),
    #[cfg(feature = "tokenizers")]
    HuggingFace(Box<HuggingFace>),
}

/// Why a tokenizer's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubwordsError {
    /// A problem with the contents of a file.
    #[error("tokenizer `{path}`: {problem}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<SubwordsError>,
    },
    /// The file cannot be read.
    #[error("cannot read tokenizer `{path}`: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: io::Error,
    },
    /// The file is larger than [`MAX_TOKENIZER_BYTES`].
    #[error("it is larger than {MAX_TOKENIZER_BYTES} bytes, too large for a tokenizer")]
    TooLarge,
    /// The file is something else.
    #[error(
        "it is neither a SentencePiece model (.model) nor a tokenizer of Hugging Face (tokenizer.json); \
         a list of words is given with --vocab"
    )]
    Neither,
    /// A SentencePiece model that cannot be used.
    #[error("this SentencePiece model cannot be used: {reason}")]
    SentencePiece {
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON file that is not a tokenizer, or that cannot be used.
    #[error(
        "this is JSON, but no tokenizer.json that can be used: {reason}; a map of words is given with --vocab"
    )]
    HuggingFace {
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer of Hugging Face in a program that was built without them.
    #[error(
        "a tokenizer of Hugging Face needs the feature `tokenizers` of lstmc-runtime, without which this program was built"
    )]
    Feature,
    /// The names of the tokens are not usable.
    #[error("its tokens are not usable: {0}")]
    Vocabulary(#[from] VocabularyError),
    /// A vocabulary that is not the tokenizer's.
    #[error(
        "the vocabulary is not the tokenizer's: token {id} is {word:?} in the vocabulary, {name:?} in the tokenizer; \
         leave it out, or take the one that belongs to the tokenizer"
    )]
    Disagrees {
        /// The first token that differs.
        id: usize,
        /// Its name in the vocabulary; empty if it is not there.
        word: String,
        /// Its name in the tokenizer.
        name: String,
    },
}

impl Subwords {
    /// Reads a tokenizer's file. Its contents tell which kind it is.
    ///
    /// # Errors
    ///
    /// [`SubwordsError`].
    pub fn read(path: impl AsRef<Path>) -> Result<Subwords, SubwordsError> {
        let path = path.as_ref();
        let mut bytes = vec![];
        // Not `fs::read`: a device has no end.
        let read = File::open(path)
            .and_then(|file| file.take(MAX_TOKENIZER_BYTES as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|reason| SubwordsError::Read { path: path.into(), reason })?;
        Subwords::from_bytes(bytes)
            .map_err(|problem| SubwordsError::InFile { path: path.into(), problem: Box::new(problem) })
    }

    /// Reads the contents of a tokenizer's file, as [`Subwords::read`] does.
    ///
    /// # Errors
    ///
    /// [`SubwordsError`], for what is wrong with the contents.
    pub fn from_bytes(file: impl Into<Box<[u8]>>) -> Result<Subwords, SubwordsError> {
        let file = file.into();
        if file.len() > MAX_TOKENIZER_BYTES {
            return Err(SubwordsError::TooLarge);
        }
        let is_json = str::from_utf8(&file).is_ok_and(|text| text.trim_start().starts_with('{'));
        let engine = match is_json {
            false => Engine::SentencePiece(Box::new(SentencePiece::new(&file)?)),
            #[cfg(feature = "tokenizers")]
            true => Engine::HuggingFace(Box::new(HuggingFace::new(&file)?)),
            #[cfg(not(feature = "tokenizers"))]
            true => return Err(SubwordsError::Feature),
        };
        let subwords = Subwords { file, engine };
        // So that names that are not usable are found here.
        subwords.vocabulary(0)?;
        Ok(subwords)
    }

    /// The file that it was read from.
    pub fn file(&self) -> &[u8] {
        &self.file
    }

    /// The special tokens that the file names.
    pub fn special(&self) -> Special {
        match &self.engine {
            Engine::SentencePiece(model) => model.special(),
            #[cfg(feature = "tokenizers")]
            Engine::HuggingFace(tokenizer) => tokenizer.special(),
        }
    }

    /// Whether characters that it does not know are left out: it has no token for them.
    pub fn drops_unknown(&self) -> bool {
        match &self.engine {
            Engine::SentencePiece(_) => false,
            #[cfg(feature = "tokenizers")]
            Engine::HuggingFace(tokenizer) => tokenizer.drops(),
        }
    }

    /// Its kind, in a few words.
    pub fn summary(&self) -> String {
        match &self.engine {
            Engine::SentencePiece(model) => model.summary(),
            #[cfg(feature = "tokenizers")]
            Engine::HuggingFace(tokenizer) => tokenizer.summary().into(),
        }
    }

    /// The names of its tokens, in the order of their ids; `None` for ids that it leaves out, and for a token of no characters.
    fn names(&self) -> Vec<Option<&str>> {
        match &self.engine {
            Engine::SentencePiece(model) => model.names().map(Some).collect(),
            #[cfg(feature = "tokenizers")]
            Engine::HuggingFace(tokenizer) => {
                tokenizer.names().map(|name| name.filter(|name| !name.is_empty())).collect()
            }
        }
    }

    /// The number of its tokens: the largest id and one.
    #[expect(clippy::len_without_is_empty, reason = "a tokenizer without tokens is refused")]
    pub fn len(&self) -> usize {
        self.names().len()
    }

    /// The names of its tokens, and `<unused-N>` for ids that it leaves out and for what a model of `rows` tokens has more.
    ///
    /// # Errors
    ///
    /// [`VocabularyError`] if a name is repeated.
    pub fn vocabulary(&self, rows: usize) -> Result<Vocabulary, VocabularyError> {
        let names = self.names();
        let taken: HashSet<&str> = names.iter().copied().flatten().collect();
        let unused = |id: usize| {
            let mut name = format!("<unused-{id}>");
            while taken.contains(name.as_str()) {
                name.push('\'');
            }
            name
        };
        let named = (0..rows.max(names.len())).map(|id| match names.get(id).copied().flatten() {
            Some(name) => name.to_owned(),
            None => unused(id),
        });
        Vocabulary::from_words(named)
    }

    /// Checks that a vocabulary is the tokenizer's, with names of its own for ids that the tokenizer leaves out.
    ///
    /// # Errors
    ///
    /// [`SubwordsError::Disagrees`], for the first token with another name.
    pub fn check(&self, vocabulary: &Vocabulary) -> Result<(), SubwordsError> {
        let names = self.names();
        let differs = |(id, name): (usize, &Option<&str>)| {
            let word = vocabulary.word(id as u32);
            let name = name.filter(|name| word != Some(*name))?;
            Some((id, word.unwrap_or_default().to_owned(), name.to_owned()))
        };
        match names.iter().enumerate().find_map(differs) {
            Some((id, word, name)) => Err(SubwordsError::Disagrees { id, word, name }),
            None => Ok(()),
        }
    }

    /// The tokens of a line; `None` for what is unknown.
    pub(super) fn encode(&self, line: &str) -> Result<Vec<Option<u32>>, String> {
        match &self.engine {
            Engine::SentencePiece(model) => Ok(model.encode(line)),
            #[cfg(feature = "tokenizers")]
            Engine::HuggingFace(tokenizer) => tokenizer.encode(line),
        }
    }

    /// The text of some tokens of one line.
    pub(super) fn decode(&self, tokens: &[u32]) -> String {
        match &self.engine {
            Engine::SentencePiece(model) => model.decode(tokens),
            #[cfg(feature = "tokenizers")]
            Engine::HuggingFace(tokenizer) => tokenizer.decode(tokens),
        }
    }
}

impl PartialEq for Subwords {
    fn eq(&self, other: &Subwords) -> bool {
        self.file == other.file
    }
}

impl Eq for Subwords {}

impl fmt::Debug for Subwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subwords({}, {} tokens)", self.summary(), self.len())
    }
}
