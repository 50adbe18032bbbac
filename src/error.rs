//! Errors of the facade.

use std::path::PathBuf;

/// What can go wrong between a file and a running model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An ONNX file that cannot be read or imported.
    #[error(transparent)]
    Onnx(#[from] lstmc_frontend::onnx::OnnxError),
    /// A container that cannot be read or written.
    #[error(transparent)]
    Container(#[from] lstmc_runtime::ContainerError),
    /// A container whose graph or weights do not form a model.
    #[error("{path}: the model inside is damaged: {reason}", path = .path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A way to read texts that does not exist or does not fit the model.
    #[error("{0}")]
    Tokenizer(String),
    /// A prompt without a token.
    #[error("the prompt is empty; give at least one word")]
    EmptyPrompt,
    /// A text that cannot be read as the model's tokens.
    #[error("{path}: {error}", path = .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: lstmc_runtime::TextError,
    },
    /// A vocabulary that cannot be read or does not fit.
    #[error(transparent)]
    Vocabulary(#[from] lstmc_runtime::VocabularyError),
    /// A tokenizer's file that cannot be used.
    #[error(transparent)]
    Subwords(#[from] lstmc_runtime::SubwordsError),
    /// A model that cannot be brought to language-model form.
    #[error(transparent)]
    Canonicalize(#[from] lstmc_frontend::canonicalize::CanonicalizeError),
    /// A model that cannot be compiled.
    #[error(transparent)]
    Compile(#[from] lstmc_backend::CompileError),
    /// A compiled model that does not fit its vocabulary.
    #[error(transparent)]
    Model(#[from] lstmc_runtime::ModelError),
    /// An error of a session.
    #[error(transparent)]
    Session(#[from] lstmc_runtime::SessionError),
    /// An error of the interpreter.
    #[error(transparent)]
    Interpret(#[from] lstmc_frontend::interpret::InterpretError),
    /// A file that cannot be written.
    #[error("{path}: cannot be written: {reason}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// A file that cannot be written, and what to do about it.
    #[error(transparent)]
    File(#[from] lstmc_runtime::file::WriteError),
    /// A function for build scripts was called elsewhere.
    #[error("OUT_DIR is not set: this is to be called by a build script (build.rs), which Cargo runs")]
    NoBuildScript,
    /// A pipeline that stopped.
    #[cfg(feature = "passes")]
    #[error(transparent)]
    Passes(#[from] lstmc_passes::RunError),
    /// A report that cannot be written as JSON.
    #[error("the report: {0}")]
    Report(#[from] serde_json::Error),
    /// Models or a text that cannot be compared.
    #[error("{0}")]
    Compare(String),
    /// A search that cannot begin or go on.
    #[error("{0}")]
    Search(String),
    /// A file that cannot be read.
    #[error("{path}: cannot be read: {reason}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: std::io::Error,
    },
}
