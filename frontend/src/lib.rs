//! The front end of lstmc: ONNX models become a typed graph IR.
//!
//! ```text
//!   model.onnx ──▶ onnx (decode, import) ──▶ ir::Graph ──▶ passes, backend
//!                                              │  ▲
//!                                         print ▼  │ parse
//!                                             text form
//!   interpret: what the IR means; everything fast is tested against it
//! ```
#![deny(unsafe_code)]

pub mod interpret;
pub mod ir;
pub mod onnx;
mod product;
pub mod tensor;
pub mod testing;
