//! The front end of lstmc: ONNX models become a typed graph IR.
//!
//! A part of `lstmc`, which is what to depend on: this crate's interface changes with any version.
//!
//! ```text
//!   model.onnx ──▶ onnx (decode, import) ──▶ ir::Graph ──▶ canonicalize ──▶ passes, backend
//!                                              │  ▲
//!                                         print ▼  │ parse
//!                                             text form
//!   interpret: what the IR means; everything fast is tested against it
//! ```
#![deny(unsafe_code)]

pub mod canonicalize;
pub mod interpret;
pub mod ir;
pub mod onnx;
mod product;
pub mod tensor;
pub mod testing;
