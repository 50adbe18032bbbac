//! lstmc: a compression compiler for LSTM language models.
//!
//! This crate joins the parts: it reads models from ONNX or `.lstmc` files, compiles them for this machine, and
//! measures them.
//!
//! ```no_run
//! let model = lstmc::load("model.lstmc")?;
//! let mut session = model.session();
//! let logits = session.step(0)?;
//! assert_eq!(logits.len(), model.layout().vocabulary);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Features, all on by default: `cli` is the command line, `passes` is all compression, `tokenizers` is tokenizers of Hugging Face, `all-targets` is object
//! files for other architectures. A program that only loads models or links them does not need them: `default-features = false`.
//!
//! | crate | contents |
//! |---|---|
//! | [`frontend`] | ONNX, the graph IR, canonicalisation, the interpreter |
//! | `passes` | pipelines and compression passes |
//! | [`backend`] | plans, code generation, the JIT, object files; its [`kernels`](backend::kernels) |
//! | [`runtime`] | the `.lstmc` container, models and sessions |
#![deny(unsafe_code)]

pub use lstmc_backend as backend;
pub use lstmc_frontend as frontend;
#[cfg(feature = "passes")]
pub use lstmc_passes as passes;
pub use lstmc_runtime as runtime;

pub mod build;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
mod commands;
pub mod compare;
pub mod complete;
#[cfg(feature = "passes")]
mod compress;
mod engine;
mod error;
mod evaluate;
#[cfg(feature = "passes")]
pub mod search;
mod source;
#[cfg(feature = "cli")]
mod terminal;
mod text;

#[cfg(feature = "passes")]
pub use compress::{Compression, Text};
pub use engine::{Engine, Scorer};
pub use error::Error;
pub use evaluate::{Evaluation, Line, Reading, evaluate};
pub use source::{Format, Source};
pub use text::TextOptions;

use lstmc_runtime::Model;
use std::path::Path;

/// Reads a model (`.onnx` or `.lstmc`), converts it to language-model form and compiles it for this machine.
pub fn load(path: impl AsRef<Path>) -> Result<Model, Error> {
    Source::read(path)?.canonical()?.compile(backend::Options::default())
}
