//! Kernels of lstmc at every processor level: batched products, cells and softmax on packed weights, and the worker pool. This crate has no
//! notion of a graph, a plan or a code generator.
//!
//! A batched product is many time steps (tokens) times a packed map, with each weight loaded once for many tokens:
//!
//! ```text
//!            weights, in panels of 32 outputs
//!              ┌────┐┌────┐┌────┐┌──┐
//!              └────┘└────┘└────┘└──┘      a panel stays in the caches while every token of a block passes
//!   x [T, in] ═══▶ │     │     │    │
//!                  ▼     ▼     ▼    ▼
//!             to [T, out]                  a tile of 12 tokens x 32 outputs stays in registers
//! ```
//!
//! The functions, all on slices whose shapes they check:
//!
//! ```text
//! Products::product(steps, out, terms, to, to_stride, start)
//! Products::first_columns(steps, [out, count], terms, ..)         a product's first columns
//! Products::recurrent_product(out, term, to, reversed)            one vector's, step after step
//! Products::log_probabilities(out, count, terms, start, targets, to)    a product's, whose logits are not kept
//! CodeRows::fill(level, steps, x, x_stride, groups)               quantizes tokens' activations
//! update(level, cell, gates, state, parameters, terms)            a cell's step from its gates' sums
//! map(level, formula, inputs, to, terms)                          a formula, element by element
//! normalize(x, scale, shift, epsilon, to)                         a vector's normalisation
//! log_sum_exp(level, row), top_k(level, row, ids, log_probabilities)    of one token's logits
//! ```
//!
//! A term is a packed map, of f32s or of codes, and the vectors that it is multiplied by. [`Products`] holds the processor level, the number of
//! threads and the memory that they need. Panels are distributed among threads; if the work is too short to pay for waking
//! a thread, fewer are used. Results do not depend on the number of threads.
//!
//! # Layouts
//!
//! [`Format`] names the layouts of packed weights, which generated code reads one token at a time.
//!
//! **f32**: `[out / 32][input][32]`, the last panel padded.
//!
//! **Integers** of a [`PackedWidth`](lstmc_frontend::ir::PackedWidth), `L = 8 / bits` codes per byte: for every panel of 32 outputs (the last one
//! padded) and every group of inputs (the last one may be shorter), `[quads][8 / L][16]` bytes and the group's scales, `[32]` f32 or f16. A quad is
//! four inputs; a group is padded to whole quads. Vector `b` of a quad holds the outputs `4a..4a + 4` for `a = b L + level`, as bytes
//! `[output in 4][input in 4]`; the code of level `l` occupies the bits `l bits..(l + 1) bits` of its byte and is stored as `code + 2^(bits - 1)`. If
//! `signed`, every byte is then XORed with 0x80. Padding holds the code 0.
//!
//! A token's activations are i8 codes with one scale, group by group, each padded to quads like the weights.
//!
//! # Kernels
//!
//! Each product exists in plain Rust, the reference implementation that tests compare with, and with instructions of AVX2, AVX-VNNI, AVX-512
//! (with and without VNNI) and NEON; a [`Level`] selects which one runs. Integer sums are exact in all of them; f32 sums differ only in rounding.
//!
//! `unsafe` is used for three things: instructions that the processor must have, for which a level is the proof; pointers into slices; and threads
//! that outlive a call.
//! Shapes are checked on entry, in every build and with arithmetic that cannot wrap; a tile is checked against the destination when it is
//! created. Inner loops check nothing.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "elsewhere only the reference implementations run")
)]

mod best;
mod cell;
mod dense;
pub mod elementary;
mod exp;
mod formula;
mod integer;
mod layout;
mod level;
pub mod limits;
mod norm;
mod packed;
mod pool;
mod product;
mod quantize;
mod share;
mod softmax;
mod strips;
#[cfg(test)]
mod tests;
mod vector;

pub use best::top_k;
pub use cell::{Cell, update};
pub use dense::Floats;
pub use formula::{Row, Terms, map};
pub use integer::CodePanels;
pub use layout::{
    Format, Groups, Integer, LANES, PANEL, QUAD, Scale, StripValues, Strips, UNITS, gate_lanes,
};
pub use level::{Level, LevelError};
pub use norm::normalize;
pub use packed::PackedData;
pub use pool::Pool;
pub use product::{Products, Term};
pub use quantize::{Activations, CodeRows, LARGEST_CODE, LEAST_MAGNITUDE};
pub use softmax::log_sum_exp;

/// The value that a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Zero: the destination is overwritten.
    Zero,
    /// This vector, one f32 per output: the destination is overwritten.
    Bias(&'a [f32]),
    /// The contents of the destination.
    Accumulate,
}

/// f32s of a map packed in f32 panels; `usize::MAX` if there are more.
pub(crate) fn f32_panels_len(out: usize, input: usize) -> usize {
    out.div_ceil(PANEL).saturating_mul(PANEL).saturating_mul(input)
}

/// Panics unless `steps` rows of `len` at `stride` fit in `have` elements.
fn check_rows(what: &str, steps: usize, stride: usize, len: usize, have: usize) {
    let need = if steps == 0 { 0 } else { (steps - 1).saturating_mul(stride).saturating_add(len) };
    assert!(
        stride >= len && have >= need,
        "{what}: {steps} rows of {len} at a stride of {stride} do not fit {have} elements"
    );
}

impl Start<'_> {
    /// Panics unless a bias has an element per output.
    fn check(&self, out: usize) {
        if let Start::Bias(bias) = self {
            assert!(bias.len() >= out, "a bias of {} elements for {out} outputs", bias.len());
        }
    }
}
