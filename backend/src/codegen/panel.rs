//! The product of one panel: a few accumulators, one broadcast input and one weight load per multiply-add.
//!
//! ```text
//!   for k in 0..inputs:   acc[v] += panel[k][4v .. 4v+4] * x[k]      v = 0..8
//! ```
//!
//! The weight pointer simply runs on: a panel's rows are contiguous and the next panel follows.

use super::emit::{Emit, F32X4, buffer_flags, weight_flags};
use crate::plan::LANES;
use cranelift_codegen::ir::{InstBuilder, Value, types};

/// Inputs per turn of the loop.
const UNROLL: usize = 8;

/// `count` f32s to multiply by.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) address: Value,
    pub(crate) count: usize,
}

/// Adds the products of consecutive panel rows with `x` to `acc`. Returns the sums and the pointer after the last row.
pub(crate) fn accumulate(
    e: &mut Emit<'_, '_>,
    acc: &[Value],
    weights: Value,
    x: Segment,
) -> (Vec<Value>, Value) {
    let vectors = acc.len();
    let row = vectors * LANES * 4;
    let turn = |e: &mut Emit<'_, '_>, acc: &mut [Value], w: Value, x: Value, rows: usize| {
        for k in 0..rows {
            let s = e.load(types::F32, buffer_flags(), x, 4 * k);
            let s = e.splat(s);
            for (v, a) in acc.iter_mut().enumerate() {
                let w = e.load(F32X4, weight_flags(), w, k * row + v * LANES * 4);
                // The weight first: the instruction overwrites its first factor, and the broadcast input is still needed.
                *a = e.mul_add(w, s, *a);
            }
        }
    };
    let carried: Vec<Value> = acc.iter().copied().chain([weights, x.address]).collect();
    let out = e.repeat(x.count / UNROLL, &carried, |e, _, p| {
        let mut acc = p[..vectors].to_vec();
        turn(e, &mut acc, p[vectors], p[vectors + 1], UNROLL);
        let w = e.b.ins().iadd_imm_s(p[vectors], (UNROLL * row) as i64);
        let x = e.b.ins().iadd_imm_s(p[vectors + 1], 4 * UNROLL as i64);
        acc.extend([w, x]);
        acc
    });
    let mut acc = out[..vectors].to_vec();
    let rest = x.count % UNROLL;
    turn(e, &mut acc, out[vectors], out[vectors + 1], rest);
    let w = e.offset(out[vectors], rest * row);
    (acc, w)
}

/// Loads `vectors` vectors of a packed bias as the accumulators' start.
pub(crate) fn start(e: &mut Emit<'_, '_>, bias: Value, vectors: usize) -> Vec<Value> {
    (0..vectors).map(|v| e.load(F32X4, weight_flags(), bias, v * LANES * 4)).collect()
}
