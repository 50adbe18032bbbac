//! What the fuzz targets do with their bytes.
//!
//! ```text
//!   fuzz/targets/NAME.rs ──▶ NAME(bytes) ◀── tests/it/fuzz.rs, over testdata/fuzz/NAME/
//!     libFuzzer's bytes        here           every find so far, and seeds
//! ```
//!
//! A target is a safe function of bytes that panics where the library is wrong: where it panics itself, breaks a promise of its
//! documentation, or does not read what it wrote. Errors are the usual outcome; each is formatted, since what a user sees of hostile bytes is the
//! message. A target is a function here, a file in `fuzz/targets`, a `[[bin]]` in `fuzz/Cargo.toml`, a line in [`TARGETS`], its seeds in `fuzz/run`
//! and a folder in `testdata/fuzz`.
//!
//! The sources are compiled twice: as this library for cargo-fuzz, and as a module of the workspace's integration tests.

// What the sources of the C interface call the library.
extern crate lstmc as facade;

mod capi;
mod cursor;
mod files;
mod kernels;
mod models;
mod passes;
mod seeds;
mod texts;

pub use capi::capi;
pub use files::{checkpoint, container, engine, onnx, statistics};
pub use kernels::kernels;
pub use seeds::seeds;
pub use texts::{ir, pipeline, recipe, tokenizer, vocabulary};

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("onnx", onnx),
    ("container", container),
    ("engine", engine),
    ("ir", ir),
    ("pipeline", pipeline),
    ("recipe", recipe),
    ("tokenizer", tokenizer),
    ("vocabulary", vocabulary),
    ("statistics", statistics),
    ("checkpoint", checkpoint),
    ("capi", capi),
    ("kernels", kernels),
];

/// Formats an error, which must have something to say.
fn refused(error: impl std::fmt::Display) {
    assert!(!error.to_string().is_empty(), "an error without a text");
}
