//! The product of one panel of a sparse map: strips of a few outputs that read the same inputs.
//!
//! ```text
//!   for each entry:   acc[v] += values[entry][v] * x[index[entry]]
//! ```
//!
//! Four indices are loaded at once. Short strips have few accumulators; entries alternate over several sets of them so that their
//! latencies overlap.

use super::emit::{Emit, Memory, Type, Value};
use crate::plan::{LANES, PANEL, QUAD, Strips};

/// Accumulators that hide the latency of a multiply-add.
const ACCUMULATORS: usize = 8;

/// A strip's iterations and where its indices and values start.
fn header(e: &mut dyn Emit, w: Value) -> (Value, Value, Value) {
    let turns = e.load(Type::I32, Memory::Weights, w, 0);
    let turns = e.extend(turns);
    let bytes = e.load(Type::I32, Memory::Weights, w, 4);
    let bytes = e.extend(bytes);
    let indices = e.offset(w, Strips::HEADER);
    let values = e.add(indices, bytes);
    (turns, indices, values)
}

/// Runs `turn(e, [indices, values, carried..])` as often as the strip says, possibly never.
fn turns(
    e: &mut dyn Emit,
    w: Value,
    carried: &[Value],
    turn: impl FnOnce(&mut dyn Emit, &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    let (count, indices, values) = header(e, w);
    let mut all = vec![indices, values];
    all.extend_from_slice(carried);
    let any = e.is_not_zero(count);
    let otherwise = all.clone();
    e.choose(any, &otherwise, |e| {
        let zero = e.size(0);
        e.repeat_range([zero, count], &all, |e, _, p| turn(e, p))
    })
}

/// Adds an f32 panel's products to `acc`. Returns the sums and the pointer to the next panel.
pub(crate) fn accumulate_floats(
    e: &mut dyn Emit,
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
            for (i, index) in e.load_indices(p[0]).into_iter().enumerate() {
                let at = e.element(x, index);
                let s = e.load(Type::F32, Memory::Buffer, at, 0);
                let s = e.splat(s);
                for v in 0..vectors {
                    let w = e.load(Type::F32x4, Memory::Weights, p[1], (i * vectors + v) * LANES * 4);
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
            let parts = (0..sets).map(|set| p[2 + set * vectors + v]).collect();
            out.push(e.tree(parts, |e, x, y| e.add(x, y)));
        }
    }
    (out, w)
}

/// Multiplies one panel of codes by integer activations, looked up in a `table` of `inputs` (see `Step::Spread`); `start` gives what the product is added to.
pub(crate) fn accumulate_integers(
    e: &mut dyn Emit,
    s: Strips,
    weights: Value,
    (table, inputs): (Value, usize),
    scale: Value,
    start: impl FnOnce(&mut dyn Emit) -> Vec<Value>,
) -> (Vec<Value>, Value) {
    let vectors = s.height / LANES;
    let (signed, pairs) = (e.features().signed_eight(), e.features().pairs);
    let zero = e.i32(0);
    let zero = e.splat(zero);
    let mut w = weights;
    let mut sums = vec![];
    for _ in 0..PANEL / s.height {
        let p = turns(e, w, &vec![zero; vectors], |e, p| {
            let quad = gather(e, p[0], table, inputs);
            let signs = pairs.then(|| e.signs(quad));
            let mut sums = vec![];
            for v in 0..vectors {
                let w = e.load(Type::I8x16, Memory::Weights, p[1], v * LANES * QUAD);
                sums.push(match signs {
                    Some(signs) => e.dot_signs(w, signs, p[2 + v]),
                    None if signed => e.dot(w, quad, p[2 + v]),
                    // Offset activations replace offset weights.
                    None => e.dot(quad, w, p[2 + v]),
                });
            }
            // Last: a pointer that is advanced while the old one is still read needs an extra register and move.
            let mut next = vec![e.offset(p[0], QUAD * 2), e.offset(p[1], s.entry_bytes())];
            next.append(&mut sums);
            next
        });
        w = p[1];
        sums.extend_from_slice(&p[2..]);
    }
    let scale = e.load(Type::F32, Memory::Buffer, scale, 0);
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
                let raised = e.load(Type::I32x4, Memory::Weights, w, (PANEL + v * LANES) * 4);
                e.sub(sum, raised)
            };
            let sum = e.to_float(exact);
            let s = e.load(Type::F32x4, Memory::Weights, w, v * LANES * 4);
            let y = e.mul(sum, s);
            e.mul_add(y, scale, b)
        })
        .collect();
    (y, e.offset(w, s.panel_bytes()))
}

/// The four activations that an entry's indices name, in every lane: from a table with each code in each byte of a word.
fn gather(e: &mut dyn Emit, at: Value, table: Value, inputs: usize) -> Value {
    let mut quad: Option<Value> = None;
    for k in 0..QUAD {
        let index = e.load(Type::U16, Memory::Weights, at, 2 * k);
        let word = e.element(table, index);
        let word = e.load(Type::I32, Memory::Buffer, word, k * inputs * 4);
        quad = Some(quad.map_or(word, |q| e.or(q, word)));
    }
    let all = e.splat(quad.expect("a quad has codes"));
    e.cast(Type::I8x16, all)
}
