//! The back end of lstmc: plans a language model's layout, generates kernels with Cranelift, and runs them in memory.
//!
//! ```text
//!   ir::Graph ──▶ plan ──▶ codegen (CLIF) ──▶ jit (machine code) ──▶ runtime::Kernels
//!                  └─────▶ pack (weights in panels) ──┘
//!                           object: the same code and weights as a file to link
//! ```
#![deny(unsafe_code)]

mod codegen;
mod error;
mod execution;
pub mod isa;
mod jit;
mod listing;
pub mod object;
pub mod pack;
pub mod plan;

pub use error::CompileError;
pub use jit::{Jit, Options};
pub use listing::{Stage, listing};
pub use lstmc_kernels::{self as kernels, Level, LevelError};
