//! The product of one panel of a sparse map: strips of a few outputs that read the same inputs.
//!
//! ```text
//!   for each turn, each strip, k in 0..4:   acc[strip][v] += values[turn][strip][k][v] * x[index[turn][strip][k]]
//! ```
//!
//! The strips of a panel advance together: see [`Strips`].

use super::emit::{Emit, F32X4, buffer_flags, weight_flags};
use super::integer::{I8X16, bytes, dot};
use crate::plan::{LANES, PANEL, QUAD, Strips};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

/// Runs `turn(e, [indices, values, carried..])` as often as the panel at `w` says, perhaps never. Returns the pointer after the values, and what
/// is carried.
fn turns<'f>(
    e: &mut Emit<'_, 'f>,
    s: Strips,
    w: Value,
    carried: &[Value],
    turn: impl FnOnce(&mut Emit<'_, 'f>, &[Value]) -> Vec<Value>,
) -> (Value, Vec<Value>) {
    let pointer = e.features.pointer;
    let count = e.load(types::I32, weight_flags(), w, 0);
    let count = e.b.ins().uextend(pointer, count);
    let indices = e.offset(w, Strips::HEADER);
    let bytes = e.b.ins().imul_imm_s(count, (s.count() * QUAD * 2) as i64);
    let values = e.b.ins().iadd(indices, bytes);
    // Aligned as `Strips::index_bytes` says.
    let values = e.b.ins().iadd_imm_s(values, 15);
    let values = e.b.ins().band_imm_s(values, -16);
    let mut all = vec![indices, values];
    all.extend_from_slice(carried);
    let any = e.b.ins().icmp_imm_s(IntCC::NotEqual, count, 0);
    let otherwise = all.clone();
    let out = e.choose(any, &otherwise, |e| {
        let zero = e.size(0);
        e.repeat_dynamic(zero, count, &all, |e, _, p| {
            let mut next =
                vec![e.offset(p[0], s.count() * QUAD * 2), e.offset(p[1], s.count() * s.turn_bytes())];
            next.extend(turn(e, p));
            next
        })
    });
    (out[1], out[2..].to_vec())
}

/// The four indices at `address`.
fn indices(e: &mut Emit<'_, '_>, address: Value, bytes: usize) -> [Value; 4] {
    let all = e.load(types::I64, weight_flags(), address, bytes);
    [0, 16, 32, 48].map(|shift| {
        let x = if shift == 0 { all } else { e.b.ins().ushr_imm_u(all, shift) };
        if shift == 48 { x } else { e.b.ins().band_imm_s(x, 0xffff) }
    })
}

/// Adds an f32 panel's products to `acc`. Returns the sums and the pointer to the next panel.
pub(crate) fn accumulate_floats(
    e: &mut Emit<'_, '_>,
    s: Strips,
    acc: &[Value],
    weights: Value,
    x: Value,
) -> (Vec<Value>, Value) {
    let vectors = s.height / LANES;
    let (w, acc) = turns(e, s, weights, acc, |e, p| {
        let mut acc = p[2..].to_vec();
        let all: Vec<[Value; 4]> = (0..s.count()).map(|n| indices(e, p[0], n * QUAD * 2)).collect();
        for k in 0..QUAD {
            // Strip by strip, so that neighbouring multiply-adds have different accumulators.
            for (n, indices) in all.iter().enumerate() {
                let at = e.b.ins().ishl_imm_s(indices[k], 2);
                let at = e.b.ins().iadd(x, at);
                let factor = e.load(types::F32, buffer_flags(), at, 0);
                let factor = e.splat(factor);
                for v in 0..vectors {
                    let value = n * s.turn_bytes() + (k * vectors + v) * LANES * 4;
                    let w = e.load(F32X4, weight_flags(), p[1], value);
                    let a = &mut acc[n * vectors + v];
                    *a = e.mul_add(w, factor, *a);
                }
            }
        }
        acc
    });
    (acc, w)
}

/// Multiplies one panel of codes by integer activations, looked up in a `table` of `inputs` (see `Step::Spread`); `start` gives what the product
/// is added to.
pub(crate) fn accumulate_integers<'f>(
    e: &mut Emit<'_, 'f>,
    s: Strips,
    weights: Value,
    (table, inputs): (Value, usize),
    scale: Value,
    start: impl FnOnce(&mut Emit<'_, 'f>) -> Vec<Value>,
) -> (Vec<Value>, Value) {
    let vectors = s.height / LANES;
    let zero = e.b.ins().iconst(types::I32, 0);
    let zero = e.b.ins().splat(types::I32X4, zero);
    // Per strip its vectors and, last, the sum of the activations that it reads.
    let carried = vec![zero; s.count() * (vectors + 1)];
    let (w, sums) = turns(e, s, weights, &carried, |e, p| {
        let mut acc = p[2..].to_vec();
        for (n, acc) in acc.chunks_mut(vectors + 1).enumerate() {
            let quad = gather(e, p[0], n * QUAD * 2, table, inputs);
            for (v, a) in acc[..vectors].iter_mut().enumerate() {
                let w = e.load(I8X16, weight_flags(), p[1], n * s.turn_bytes() + v * LANES * QUAD);
                *a = dot(e, w, quad, *a);
            }
            if !e.features.signed_bytes {
                let ones = bytes(e, 1);
                acc[vectors] = dot(e, ones, quad, acc[vectors]);
            }
        }
        acc
    });
    let mut exact = vec![];
    for strip in sums.chunks(vectors + 1) {
        // Codes are raised by 128 where weights are unsigned.
        let raised = e.b.ins().ishl_imm_s(strip[vectors], 7);
        for &sum in &strip[..vectors] {
            let sum = e.b.ins().isub(sum, raised);
            exact.push(e.b.ins().fcvt_from_sint(F32X4, sum));
        }
    }
    let scale = e.load(types::F32, buffer_flags(), scale, 0);
    let scale = e.splat(scale);
    let start = start(e);
    let y = exact
        .iter()
        .zip(start)
        .enumerate()
        .map(|(v, (&sum, b))| {
            let s = e.load(F32X4, weight_flags(), w, v * LANES * 4);
            let y = e.b.ins().fmul(sum, s);
            e.mul_add(y, scale, b)
        })
        .collect();
    (y, e.offset(w, PANEL * 4))
}

/// The four activations that an entry's indices name, in every lane: from a table with each code at each byte of a word.
fn gather(e: &mut Emit<'_, '_>, at: Value, bytes: usize, table: Value, inputs: usize) -> Value {
    let pointer = e.features.pointer;
    let mut quad: Option<Value> = None;
    for k in 0..QUAD {
        let index = e.b.ins().uload16(pointer, weight_flags(), at, (bytes + 2 * k) as i32);
        let word = e.b.ins().ishl_imm_s(index, 2);
        let word = e.b.ins().iadd(table, word);
        let word = e.load(types::I32, buffer_flags(), word, k * inputs * 4);
        quad = Some(quad.map_or(word, |q| e.b.ins().bor(q, word)));
    }
    let all = e.b.ins().splat(types::I32X4, quad.expect("a quad has codes"));
    e.cast(I8X16, all)
}
