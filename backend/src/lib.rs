//! The back end of lstmc: plans a language model's layout, generates kernels with Cranelift, and runs them in memory.
//!
//! ```text
//!   ir::Graph ──▶ plan ──▶ codegen (CLIF) ──▶ jit (machine code) ──▶ runtime::Kernels
//!                  └─────▶ pack (weights in panels) ──┘
//!                           object: the same code and weights as a file to link
//! ```
#![deny(unsafe_code)]

pub mod batch;
mod batched;
pub mod codegen;
mod error;
pub mod isa;
mod jit;
mod level;
mod listing;
pub mod object;
pub mod pack;
pub mod plan;
mod team;

pub use error::CompileError;
pub use jit::{Jit, Options};
pub use level::{Level, LevelError};
pub use listing::{Stage, listing};
