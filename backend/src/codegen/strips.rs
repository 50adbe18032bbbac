//! The product of one panel of a sparse map: strips of a few outputs that read the same inputs.
//!
//! ```text
//!   for each entry:   acc[v] += values[entry][v] * x[index[entry]]
//! ```
//!
//! Four indices are loaded at once. Short strips have few accumulators; entries take turns over several sets of them so that their
//! latencies overlap.

use super::emit::{Emit, F32X4, buffer_flags, weight_flags};
use super::integer::{I8X16, dot};
use crate::plan::{LANES, PANEL, QUAD, Strips};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

/// Accumulators that hide the latency of a multiply-add.
const ACCUMULATORS: usize = 8;

/// A strip's turns and where its indices and values start.
fn header(e: &mut Emit<'_, '_>, w: Value) -> (Value, Value, Value) {
    let pointer = e.features.pointer;
    let turns = e.load(types::I32, weight_flags(), w, 0);
    let turns = e.b.ins().uextend(pointer, turns);
    let bytes = e.load(types::I32, weight_flags(), w, 4);
    let bytes = e.b.ins().uextend(pointer, bytes);
    let indices = e.offset(w, Strips::HEADER);
    let values = e.b.ins().iadd(indices, bytes);
    (turns, indices, values)
}

/// Runs `turn(e, [indices, values, carried..])` as often as the strip says, perhaps never.
fn turns<'f>(
    e: &mut Emit<'_, 'f>,
    w: Value,
    carried: &[Value],
    turn: impl FnOnce(&mut Emit<'_, 'f>, &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    let (count, indices, values) = header(e, w);
    let mut all = vec![indices, values];
    all.extend_from_slice(carried);
    let any = e.b.ins().icmp_imm_s(IntCC::NotEqual, count, 0);
    let otherwise = all.clone();
    e.choose(any, &otherwise, |e| {
        let zero = e.size(0);
        e.repeat_dynamic(zero, count, &all, |e, _, p| turn(e, p))
    })
}

/// The four indices at `address`.
fn indices(e: &mut Emit<'_, '_>, address: Value) -> [Value; 4] {
    let all = e.load(types::I64, weight_flags(), address, 0);
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
    let sets = (ACCUMULATORS / vectors).min(QUAD);
    let mut w = weights;
    let mut out = vec![];
    for strip in acc.chunks(vectors) {
        let zero = e.constant(0.0);
        let mut start = strip.to_vec();
        start.resize(sets * vectors, zero);
        let p = turns(e, w, &start, |e, p| {
            let mut acc = p[2..].to_vec();
            for (i, index) in indices(e, p[0]).into_iter().enumerate() {
                let at = e.b.ins().ishl_imm_s(index, 2);
                let at = e.b.ins().iadd(x, at);
                let s = e.load(types::F32, buffer_flags(), at, 0);
                let s = e.splat(s);
                for v in 0..vectors {
                    let w = e.load(F32X4, weight_flags(), p[1], (i * vectors + v) * LANES * 4);
                    let a = &mut acc[i % sets * vectors + v];
                    *a = e.mul_add(w, s, *a);
                }
            }
            let mut next = vec![e.offset(p[0], QUAD * 2), e.offset(p[1], QUAD * vectors * LANES * 4)];
            next.append(&mut acc);
            next
        });
        w = p[1];
        for v in 0..vectors {
            let mut parts: Vec<Value> = (0..sets).map(|set| p[2 + set * vectors + v]).collect();
            while parts.len() > 1 {
                parts = parts
                    .chunks(2)
                    .map(|p| if p.len() == 2 { e.b.ins().fadd(p[0], p[1]) } else { p[0] })
                    .collect();
            }
            out.push(parts[0]);
        }
    }
    (out, w)
}

/// Multiplies one panel of codes by integer activations, looked up in a `table` of `inputs` (see `Step::Spread`); `start` gives what the product is added to.
pub(crate) fn accumulate_integers<'f>(
    e: &mut Emit<'_, 'f>,
    s: Strips,
    weights: Value,
    (table, inputs): (Value, usize),
    scale: Value,
    start: impl FnOnce(&mut Emit<'_, 'f>) -> Vec<Value>,
) -> (Vec<Value>, Value) {
    let vectors = s.height / LANES;
    let signed = e.features.signed_bytes;
    let zero = e.b.ins().iconst(types::I32, 0);
    let zero = e.b.ins().splat(types::I32X4, zero);
    let mut w = weights;
    let mut sums = vec![];
    for _ in 0..PANEL / s.height {
        let p = turns(e, w, &vec![zero; vectors], |e, p| {
            let quad = gather(e, p[0], table, inputs);
            let mut sums = vec![];
            for v in 0..vectors {
                let w = e.load(I8X16, weight_flags(), p[1], v * LANES * QUAD);
                // Raised activations take the place of raised weights.
                let (a, b) = if signed { (w, quad) } else { (quad, w) };
                sums.push(dot(e, a, b, p[2 + v]));
            }
            // Last: a pointer that has moved on while the old one is still read needs a register and a move of its own.
            let mut next = vec![e.offset(p[0], QUAD * 2), e.offset(p[1], s.entry_bytes())];
            next.append(&mut sums);
            next
        });
        w = p[1];
        sums.extend_from_slice(&p[2..]);
    }
    let scale = e.load(types::F32, buffer_flags(), scale, 0);
    let scale = e.splat(scale);
    let start = start(e);
    let y = sums
        .iter()
        .zip(start)
        .enumerate()
        .map(|(v, (&sum, b))| {
            let exact = if signed {
                sum
            } else {
                let raised = e.load(types::I32X4, weight_flags(), w, (PANEL + v * LANES) * 4);
                e.b.ins().isub(sum, raised)
            };
            let sum = e.b.ins().fcvt_from_sint(F32X4, exact);
            let s = e.load(F32X4, weight_flags(), w, v * LANES * 4);
            let y = e.b.ins().fmul(sum, s);
            e.mul_add(y, scale, b)
        })
        .collect();
    (y, e.offset(w, s.panel_bytes()))
}

/// The four activations that an entry's indices name, in every lane: from a table with each code at each byte of a word.
fn gather(e: &mut Emit<'_, '_>, at: Value, table: Value, inputs: usize) -> Value {
    let pointer = e.features.pointer;
    let mut quad: Option<Value> = None;
    for k in 0..QUAD {
        let index = e.b.ins().uload16(pointer, weight_flags(), at, 2 * k as i32);
        let word = e.b.ins().ishl_imm_s(index, 2);
        let word = e.b.ins().iadd(table, word);
        let word = e.load(types::I32, buffer_flags(), word, k * inputs * 4);
        quad = Some(quad.map_or(word, |q| e.b.ins().bor(q, word)));
    }
    let all = e.b.ins().splat(types::I32X4, quad.expect("a quad has codes"));
    e.cast(I8X16, all)
}
