//! Text as a model reads it: the names of its tokens ([`Vocabulary`]), how a text is cut into them ([`Tokenizer`]), the tokens with a meaning
//! of their own ([`Special`]), tokenizers that other programs trained ([`Subwords`]), and texts that are read piece by piece ([`TextReader`]).

mod reader;
mod special;
mod subwords;
mod tokenizer;
mod vocabulary;

pub use reader::TextReader;
pub use special::{Role, Special};
pub use subwords::{MAX_TOKENIZER_BYTES, Subwords, SubwordsError};
pub use tokenizer::{Encoded, Newline, TextError, Tokenizer, Units};
pub use vocabulary::{MAX_VOCABULARY_BYTES, Vocabulary, VocabularyError};
