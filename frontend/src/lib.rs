//! The front end of lstmc: it turns ONNX models into a typed graph IR.
//!
//! This crate is a part of `lstmc`. Depend on `lstmc` instead: this crate's interface may change in any version.
//!
//! ```text
//!   model.onnx ──▶ onnx (decode, import) ──▶ ir::Graph ──▶ canonicalize ──▶ passes, backend
//!                                              │  ▲
//!                                         print ▼  │ parse
//!                                             text form
//!   interpret: defines what the IR means; everything fast is tested against it
//! ```
#![deny(unsafe_code)]

pub mod canonicalize;
pub mod interpret;
pub mod ir;
pub mod onnx;
mod product;
pub mod tensor;
pub mod testing;
