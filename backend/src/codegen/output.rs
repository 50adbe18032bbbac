//! The output layer stores logits; one word's log-probability or the best words are then computed in a pass over them: the
//! exponentials' long chains then do not delay the products, which wait for memory.
//!
//! The log-sum-exp is kept online (Milakov and Gimelshein 2018): each lane has a reference `m`, near its running maximum, and a sum `s` of
//! `e^(x - m)`. The lanes are combined once, at the end.

use super::Entry;
use super::emit::{Constant, Emit, Memory, Type, Value};
use super::math::{exp, exp2_of_sum as exp2, ln};
use super::product::{Map, for_each_panel};
use crate::plan::{LANES, PANEL};

/// Stores every output at `to`, which belongs to the caller and has room for exactly that many.
pub(crate) fn store_exact(e: &mut dyn Emit, map: &Map, to: Value) {
    if map.call(e, None, to, map.out) {
        return;
    }
    for_each_panel(e, map, &[to], |e, _, acc, outputs, p| {
        store_lanes(e, acc, p[0], outputs);
        vec![e.offset(p[0], outputs * 4)]
    });
}

/// Stores every output in our own buffer, padding included.
pub(crate) fn store_padded(e: &mut dyn Emit, map: &Map, to: Value) {
    if map.call(e, None, to, map.out.next_multiple_of(PANEL)) {
        return;
    }
    for_each_panel(e, map, &[to], |e, _, acc, _, p| {
        for (v, &a) in acc.iter().enumerate() {
            e.store(Memory::Buffer, a, p[0], v * LANES * 4);
        }
        vec![e.offset(p[0], acc.len() * LANES * 4)]
    });
}

pub(crate) fn store_lanes(e: &mut dyn Emit, acc: &[Value], to: Value, outputs: usize) {
    for (v, &a) in acc.iter().enumerate() {
        let left = outputs.saturating_sub(v * LANES);
        if left >= LANES {
            e.store(Memory::Caller, a, to, v * LANES * 4);
        } else {
            for lane in 0..left {
                let x = e.lane(a, lane as u8);
                e.store(Memory::Caller, x, to, (v * LANES + lane) * 4);
            }
        }
    }
}

/// How far a logit may exceed its lane's reference before the reference is moved: `e^64` times as many words as fit in memory is a finite f32.
const MOST_ABOVE: f32 = 64.0;

/// Lanes' references and sums before the first panel: a reference so low that any logit moves it, and an empty sum.
fn nothing(e: &mut dyn Emit) -> [Value; 2] {
    [e.constant(f32::MIN), e.constant(0.0)]
}

/// Folds vectors of logits, whose lanewise maximum is `best`, into lanes' references and sums.
///
/// The reference is a logit that was the largest of its lane at some point, not always the current one: nothing waits for the maximum, and the sum
/// is rescaled only if it would grow too large.
fn fold(e: &mut dyn Emit, x: &[Value], best: Value, m: Value, s: Value) -> [Value; 2] {
    let most = e.constant(MOST_ABOVE);
    let most = e.add(m, most);
    let above = e.less(most, best);
    let any = e.any(above);
    let moved = e.choose(any, &[m, s], |e| {
        let new = e.select(above, best, m);
        let d = e.sub(m, new);
        let scale = exp(e, &[d])[0];
        vec![new, e.mul(s, scale)]
    });
    let (m, s) = (moved[0], moved[1]);
    let log2e = e.constant(std::f32::consts::LOG2_E);
    let reference = e.mul(m, log2e);
    let reference = e.neg(reference);
    let mut terms = vec![];
    for four in x.chunks(4) {
        terms.extend(exp2(e, four, log2e, reference));
    }
    // A tree, so that the rounding error grows with the number of panels and not of words.
    let sum = e.tree(terms, |e, x, y| e.add(x, y));
    [m, e.add(s, sum)]
}

/// The log-sum-exp of all lanes.
fn finish(e: &mut dyn Emit, m: Value, s: Value) -> Value {
    let of_m = e.lanes(m);
    let top = of_m[1..].iter().fold(of_m[0], |a, &x| e.max_scalar(a, x));
    let all = e.splat(top);
    let d = e.sub(m, all);
    let scale = exp(e, &[d])[0];
    let s = e.mul(s, scale);
    let s = e.lanes(s);
    let (a, b) = (e.add(s[0], s[1]), e.add(s[2], s[3]));
    let sum = e.add(a, b);
    let log = ln(e, sum);
    e.add(top, log)
}

/// A logit that never counts. It is finite: the difference of two infinities would be NaN.
const LOW: f32 = -1e30;

/// Pads the `count` logits to a whole panel with numbers that never count.
fn pad(e: &mut dyn Emit, logits: Value, count: usize) {
    let low = e.f32(LOW);
    for i in count..count.next_multiple_of(PANEL) {
        e.store(Memory::Buffer, low, logits, i * 4);
    }
}

/// Runs `body(e, panel's address, first output, its vectors, carried)` on each panel of `count` logits, the last padded.
fn for_each_panel_of(
    e: &mut dyn Emit,
    logits: Value,
    count: usize,
    carried: &[Value],
    body: impl FnOnce(&mut dyn Emit, Value, Value, &[Value], &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    pad(e, logits, count);
    let mut all = vec![logits];
    all.extend_from_slice(carried);
    let out = e.repeat(count.div_ceil(PANEL), &all, |e, i, p| {
        let first = e.shift_left(i, PANEL.trailing_zeros());
        let x: Vec<Value> =
            (0..PANEL / LANES).map(|v| e.load(Type::F32x4, Memory::Buffer, p[0], v * LANES * 4)).collect();
        let mut next = vec![e.offset(p[0], PANEL * 4)];
        next.extend(body(e, p[0], first, &x, &p[1..]));
        next
    });
    out[1..].to_vec()
}

/// The log-probability of word `target` (a pointer-sized integer) from `count` logits in scratch, which has room for whole panels.
pub(crate) fn score(e: &mut dyn Emit, logits: Value, count: usize, target: Value) -> Value {
    let total = log_sum_exp(e, logits, count);
    let at = e.element(logits, target);
    let logit = e.load(Type::F32, Memory::Buffer, at, 0);
    e.sub(logit, total)
}

/// The log-sum-exp of `count` logits in scratch, which has room for whole panels.
fn log_sum_exp(e: &mut dyn Emit, logits: Value, count: usize) -> Value {
    let start = nothing(e);
    let out = for_each_panel_of(e, logits, count, &start, |e, _, _, x, p| {
        let best = e.tree(x.to_vec(), |e, x, y| e.max(x, y));
        fold(e, x, best, p[0], p[1]).to_vec()
    });
    finish(e, out[0], out[1])
}

/// `to = x - log-sum-exp of x`; `to` has room for whole panels.
pub(crate) fn log_softmax(e: &mut dyn Emit, x: Value, count: usize, to: Value) {
    e.copy(x, to, count);
    let total = log_sum_exp(e, to, count);
    let total = e.splat(total);
    e.repeat(count.div_ceil(LANES), &[to], |e, _, p| {
        let x = e.load(Type::F32x4, Memory::Buffer, p[0], 0);
        let x = e.sub(x, total);
        e.store(Memory::Buffer, x, p[0], 0);
        vec![e.offset(p[0], LANES * 4)]
    });
}

/// The addresses and the count that `top_k` fills.
pub(crate) struct Best {
    /// u32 ids.
    pub(crate) ids: Value,
    /// f32 logits, at the end log-probabilities.
    pub(crate) values: Value,
    /// How many, at least 1 and at most the outputs.
    pub(crate) k: Value,
}

/// The `k` largest of `count` logits in scratch, in descending order, as log-probabilities; ties in order of id.
///
/// A panel is examined in detail only if one of its lanes beats the smallest logit kept so far.
pub(crate) fn top_k(e: &mut dyn Emit, logits: Value, count: usize, best: &Best) {
    let lowest = e.f32(f32::NEG_INFINITY);
    let zero = e.size(0);
    let none = e.i32(0);
    e.repeat_range([zero, best.k], &[best.values, best.ids], |e, _, p| {
        e.store(Memory::Caller, lowest, p[0], 0);
        e.store(Memory::Caller, none, p[1], 0);
        vec![e.offset(p[0], 4), e.offset(p[1], 4)]
    });
    let [m, s] = nothing(e);
    let all = e.size(count);
    let out = for_each_panel_of(e, logits, count, &[m, s, lowest], |e, at, first, x, p| {
        let best_lanes = e.tree(x.to_vec(), |e, x, y| e.max(x, y));
        let [m, s] = fold(e, x, best_lanes, p[0], p[1]);
        let bar = e.splat(p[2]);
        let beats = e.greater(best_lanes, bar);
        let any = e.any(beats);
        let bar = e.choose(any, &[p[2]], |e| {
            let left = e.sub(all, first);
            let panel = e.size(PANEL);
            let whole = e.less(panel, left);
            let here = e.select(whole, panel, left);
            e.call(Entry::Insert, &[at, first, here, best.ids, best.values, best.k]).into_iter().collect()
        });
        vec![m, s, bar[0]]
    });
    let total = finish(e, out[0], out[1]);
    e.repeat_range([zero, best.k], &[best.values], |e, _, p| {
        let x = e.load(Type::F32, Memory::Caller, p[0], 0);
        let x = e.sub(x, total);
        e.store(Memory::Caller, x, p[0], 0);
        vec![e.offset(p[0], 4)]
    });
}

/// Body of `insert(tile, first, count, ids, values, k) -> f32`: inserts a tile's logits into the sorted list of the best, from the
/// first lane on. Returns the smallest kept.
pub(crate) fn insert(e: &mut dyn Emit, p: &[Value]) -> Value {
    let [tile, first, count, ids, values, k] = [p[0], p[1], p[2], p[3], p[4], p[5]];
    let last = e.with_constant(Constant::Add, k, -1);
    let at_last = e.shift_left(last, 2);
    let smallest = e.add(values, at_last);
    let zero = e.size(0);
    e.repeat_range([zero, count], &[tile], |e, i, p| {
        let x = e.load(Type::F32, Memory::Buffer, p[0], 0);
        let bar = e.load(Type::F32, Memory::Caller, smallest, 0);
        let beats = e.greater(x, bar);
        e.choose(beats, &[], |e| {
            let id = e.add(first, i);
            let id = e.truncate(id);
            let place = sift(e, x, values, ids, at_last);
            let (to, id_to) = (e.add(values, place), e.add(ids, place));
            e.store(Memory::Caller, x, to, 0);
            e.store(Memory::Caller, id, id_to, 0);
            vec![]
        });
        vec![e.offset(p[0], 4)]
    });
    e.load(Type::F32, Memory::Caller, smallest, 0)
}

/// Moves smaller entries down from the list's end; returns the byte offset that has become free.
fn sift(e: &mut dyn Emit, x: Value, values: Value, ids: Value, last: Value) -> Value {
    e.descend(
        last,
        &mut |e, at| {
            let above = e.with_constant(Constant::Add, at, -4);
            let from = e.add(values, above);
            let y = e.load(Type::F32, Memory::Caller, from, 0);
            (e.greater(x, y), vec![above, from, y])
        },
        &mut |e, found| {
            let &[above, from, y] = found else { unreachable!("the test gives three values") };
            e.store(Memory::Caller, y, from, 4);
            let id_from = e.add(ids, above);
            let id = e.load(Type::I32, Memory::Caller, id_from, 0);
            e.store(Memory::Caller, id, id_from, 4);
            above
        },
    )
}
