//! The product of one f32 panel: eight accumulators, one broadcast input and one weight load per multiply-add.
//!
//! ```text
//!   for k in 0..inputs:   acc[v] += panel[k][4v .. 4v+4] * x[k]      v = 0..8
//! ```
//!
//! The weight pointer only advances: a panel's rows are contiguous and the next panel follows.

use super::emit::{Emit, Memory, Type, Value};
use crate::plan::{LANES, PANEL};

/// Inputs per iteration of the loop.
const UNROLL: usize = 8;

/// Adds the products of consecutive panel rows with `count` f32s at `x` to `acc`. Returns the sums and the pointer after the last
/// row.
pub(crate) fn accumulate(
    e: &mut dyn Emit,
    acc: &[Value],
    weights: Value,
    x: Value,
    count: usize,
) -> (Vec<Value>, Value) {
    let vectors = acc.len();
    const ROW: usize = PANEL * 4;
    let turn = |e: &mut dyn Emit, acc: &mut [Value], w: Value, x: Value, rows: usize| {
        for k in 0..rows {
            let s = e.load(Type::F32, Memory::Buffer, x, 4 * k);
            let s = e.splat(s);
            for (v, a) in acc.iter_mut().enumerate() {
                let w = e.load(Type::F32x4, Memory::Weights, w, k * ROW + v * LANES * 4);
                // The weight first: the instruction overwrites its first factor, and the broadcast input is still needed.
                *a = e.mul_add(w, s, *a);
            }
        }
    };
    let carried: Vec<Value> = acc.iter().copied().chain([weights, x]).collect();
    let out = e.repeat(count / UNROLL, &carried, |e, _, p| {
        let mut acc = p[..vectors].to_vec();
        turn(e, &mut acc, p[vectors], p[vectors + 1], UNROLL);
        let w = e.offset(p[vectors], UNROLL * ROW);
        let x = e.offset(p[vectors + 1], 4 * UNROLL);
        acc.extend([w, x]);
        acc
    });
    let mut acc = out[..vectors].to_vec();
    let rest = count % UNROLL;
    turn(e, &mut acc, out[vectors], out[vectors + 1], rest);
    let w = e.offset(out[vectors], rest * ROW);
    (acc, w)
}
