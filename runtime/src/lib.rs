//! Everything needed to run a compiled LSTM language model, and nothing that is only needed to compile one.
//!
//! ```text
//!   model.lstmc --open--> Container --(a backend compiles it)--> Arc<dyn Kernels>
//!                          |  tokenizer, name, recipe, report         |
//!                          +----------------------+-------------------+
//!                                                 v
//!                                               Model      immutable, shared between threads
//!                                            /    |    \
//!                                      Session Session Session    one stream each: state, scratch
//! ```
//!
//! - [`Container`] reads a `.lstmc` file and [`Contents`] writes one: the graph as text, its weights
//!   as named blobs of bytes, the [`Tokenizer`] with its [`Vocabulary`], the recipe and the report. Everything is checked
//!   before it is used; a damaged or hostile file gives a [`ContainerError`].
//! - [`Kernels`] is the interface to the implementation: a JIT, a linked object file, an interpreter. It
//!   is a safe trait.
//! - [`Model`] and [`Session`] are the types for applications: [`Session::step`],
//!   [`Session::top_k_into`], [`Session::sample`], [`Session::perplexity`]. A session allocates when
//!   it is created, not per token.
//!
//! The crate does not depend on ONNX, on the graph IR (it does not interpret its text) or on code
//! generation.
//!
//! # Example: a file
//!
//! ```
//! use lstmc_runtime::{BlobOut, Container, Contents, Tokenizer, Vocabulary};
//!
//! let words = Tokenizer::words(Vocabulary::from_words(["<unk>", "<eos>", "the", "cat"])?);
//! let tensors = [BlobOut::new("decoder.bias", "f32", &[4], vec![0; 16])];
//! let mut contents = Contents::new("model \"tiny\" (vocabulary 4) { ... }", &tensors);
//! contents.tokenizer = Some(&words);
//! contents.recipe = "quantize(bits=8)";
//! let container = Container::from_bytes(&contents.to_bytes()?)?;
//! assert_eq!(container.recipe(), "quantize(bits=8)");
//! assert_eq!(container.tensor("decoder.bias").unwrap().bytes.len(), 16);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Example: a model
//!
//! The kernels here are a table of logits; those of a backend are compiled code.
//!
//! ```
//! use std::sync::Arc;
//! use lstmc_runtime::{Description, Kernels, Layout, Model, Rng, Sampling, Tokenizer, Vocabulary};
//!
//! struct Bigram(Layout, [[f32; 3]; 3]); // logits of the next word, per word
//!
//! impl Kernels for Bigram {
//!     fn layout(&self) -> &Layout {
//!         &self.0
//!     }
//!     fn step(&self, _state: &mut [f32], _scratch: &mut [u8], token: u32, logits: &mut [f32]) {
//!         logits.copy_from_slice(&self.1[token as usize]);
//!     }
//!     // `score`, `top_k` and `advance` take steps where there is nothing faster.
//! }
//!
//! let kernels = Arc::new(Bigram(Layout::new(3), [[0.0, 5.0, 0.0], [0.0, 0.0, 5.0], [5.0, 0.0, 0.0]]));
//! let words = Arc::new(Tokenizer::words(Vocabulary::from_words(["<eos>", "hello", "world"])?));
//! let model = Model::new(kernels, Some(words.clone()), Description::default())?;
//!
//! let mut session = model.session();
//! let text = words.encode("hello world\nhello world\n")?;
//! assert!(session.perplexity(&text.tokens)? < 1.1);
//!
//! // The most likely word after "hello", then a word drawn at random after that one.
//! let (mut ids, mut log_probabilities) = ([0; 1], [0.0; 1]);
//! let vocabulary = words.vocabulary();
//! session.top_k_into(vocabulary.id("hello").unwrap(), &mut ids, &mut log_probabilities)?;
//! assert_eq!(vocabulary.word(ids[0]), Some("world"));
//! let next = session.sample(ids[0], &Sampling::default(), &mut Rng::new(1))?;
//! assert!(vocabulary.word(next).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod aligned;
mod batch;
mod container;
pub mod file;
mod kernels;
mod sampling;
mod session;
mod streams;
#[cfg(test)]
mod testing;
pub mod text;

pub use aligned::{ALIGNMENT, Aligned};
pub use batch::Batch;
pub use container::{
    Blob, BlobOut, Container, ContainerError, Contents, FORMAT_VERSION, Flaw, Guess, MAGIC, MAX_HEADER_BYTES,
    MAX_RANK, MAX_TENSORS,
};
pub use kernels::{Head, Kernels, Layout, StateSlot, Workspace, score_apart, score_stepwise};
pub use sampling::{Rng, Sampling};
pub use session::{Description, Model, ModelError, SavedState, Session, SessionError};
pub use streams::Streams;
pub use text::{
    Encoded, MAX_TOKENIZER_BYTES, MAX_VOCABULARY_BYTES, Newline, Role, Special, Subwords, SubwordsError,
    TextError, TextReader, Tokenizer, Units, Vocabulary, VocabularyError,
};
