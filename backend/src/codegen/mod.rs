//! From a plan to code: one function per entry point, the same for JIT and object files.
//!
//! ```text
//!   reset(weights, state)                            initial states that are not zero (object files)
//!   advance(weights, state, scratch, token)          gather, layers; the state is replaced
//!   logits(weights, scratch, out)                    output layer: all logits, or a hidden vector
//!   score(weights, scratch, target) -> f32           `logits`, and the log-probability of one word (object files)
//!   top_k(weights, scratch, ids, values, k)          `logits`, and the k best words (object files)
//!   recurrent_N(weights, gates, state, scratch)      a loop's time step; of a cell, the gates' sums from those of its input (batched path)
//!   gather(weights, scratch, token)                  a row of the embedding (batched path)
//!   phase_N(weights, state, scratch, token, out,     a phase of a step, its panels from..to if they are shared
//!           from, to)                                (several threads or streams; a linked model's `advance` and `logits` call them)
//!   panels_N(call, from, to)                         one vector times integer panels, in 256 bits; see [`wide`]
//! ```
//!
//! `weights` is the address of a table with the address of every packed weight; all vectors are of four f32 lanes.
//!
//! Everything here uses the vocabulary of [`emit`]. But for [`wide`], which is machine code. Only [`clif`], which implements it, and [`module`], which declares the functions, depend on
//! Cranelift.

pub(crate) mod c;
mod cell;
mod clif;
pub(crate) mod emit;
mod formula;
mod gather;
mod integer;
mod math;
mod module;
mod norm;
mod output;
mod panel;
mod product;
mod program;
mod quantize;
mod strips;
#[cfg(test)]
mod testing;
mod wide;

pub(crate) use module::{
    Place, build_engine, build_listed, build_stepwise, define, define_public, public_types, signature,
};
pub(crate) use program::Entry;
