//! The output layer stores logits; what is wanted of them, one word's log-probability or the best words, is found in a pass over them: the
//! exponentials' long chains do not then hold up the products, which wait for memory.
//!
//! The log-sum-exp is kept online (Milakov and Gimelshein 2018): each lane has a reference `m`, near its running maximum, and a sum `s` of
//! `e^(x - m)`. The lanes meet once, at the end.

use super::emit::{Emit, F32X4, buffer_flags, caller_flags};
use super::math::{exp, exp2_of_sum as exp2, ln};
use super::product::{Map, for_each_panel};
use crate::plan::{Fill, LANES, PANEL};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{FuncRef, InstBuilder, Value, types};

/// Stores every output at `to`, which belongs to the caller and has room for exactly as many.
pub(crate) fn store_exact(e: &mut Emit<'_, '_>, map: &Map, to: Value) {
    for_each_panel(e, map, &[to], |e, _, acc, outputs, p| {
        store_lanes(e, acc, p[0], outputs);
        vec![e.offset(p[0], outputs * 4)]
    });
}

/// Stores every output in a buffer of ours, padding included.
pub(crate) fn store_padded(e: &mut Emit<'_, '_>, map: &Map, to: Value) {
    for_each_panel(e, map, &[to], |e, _, acc, _, p| {
        for (v, &a) in acc.iter().enumerate() {
            e.store(buffer_flags(), a, p[0], v * LANES * 4);
        }
        vec![e.offset(p[0], acc.len() * LANES * 4)]
    });
}

pub(crate) fn store_lanes(e: &mut Emit<'_, '_>, acc: &[Value], to: Value, outputs: usize) {
    for (v, &a) in acc.iter().enumerate() {
        let left = outputs.saturating_sub(v * LANES);
        if left >= LANES {
            e.store(caller_flags(), a, to, v * LANES * 4);
        } else {
            for lane in 0..left {
                let x = e.b.ins().extractlane(a, lane as u8);
                e.store(caller_flags(), x, to, (v * LANES + lane) * 4);
            }
        }
    }
}

/// How far a logit may exceed its lane's reference before the reference is moved: `e^64` times as many words as fit in memory is a finite f32.
const MOST_ABOVE: f32 = 64.0;

/// Lanes' references and sums before the first panel: a reference so low that any logit moves it, a sum of nothing.
fn nothing(e: &mut Emit<'_, '_>) -> [Value; 2] {
    [e.constant(f32::MIN), e.constant(0.0)]
}

/// The lanewise maximum of some vectors.
fn maximum(e: &mut Emit<'_, '_>, x: &[Value]) -> Value {
    let mut level = x.to_vec();
    while level.len() > 1 {
        level = level.chunks(2).map(|p| if p.len() == 2 { e.max(p[0], p[1]) } else { p[0] }).collect();
    }
    level[0]
}

/// Folds vectors of logits, whose lanewise maximum is `best`, into lanes' references and sums.
///
/// The reference is a logit that was the largest of its lane once, not always the largest: nothing waits for the maximum, and the sum
/// is scaled anew only where it would grow too large.
fn fold(e: &mut Emit<'_, '_>, x: &[Value], best: Value, m: Value, s: Value) -> [Value; 2] {
    let most = e.constant(MOST_ABOVE);
    let most = e.b.ins().fadd(m, most);
    let above = e.b.ins().fcmp(FloatCC::LessThan, most, best);
    let any = e.b.ins().vany_true(above);
    let moved = e.choose(any, &[m, s], |e| {
        let new = e.select(above, best, m);
        let d = e.b.ins().fsub(m, new);
        let scale = exp(e, &[d])[0];
        vec![new, e.b.ins().fmul(s, scale)]
    });
    let (m, s) = (moved[0], moved[1]);
    let log2e = e.constant(std::f32::consts::LOG2_E);
    let reference = e.b.ins().fmul(m, log2e);
    let reference = e.b.ins().fneg(reference);
    let mut terms = vec![];
    for four in x.chunks(4) {
        terms.extend(exp2(e, four, log2e, reference));
    }
    // A tree, so that the rounding error grows with the number of panels and not of words.
    while terms.len() > 1 {
        terms =
            terms.chunks(2).map(|p| if p.len() == 2 { e.b.ins().fadd(p[0], p[1]) } else { p[0] }).collect();
    }
    [m, e.b.ins().fadd(s, terms[0])]
}

/// The log-sum-exp of all lanes.
fn finish(e: &mut Emit<'_, '_>, m: Value, s: Value) -> Value {
    let lanes = |e: &mut Emit<'_, '_>, v: Value| [0u8, 1, 2, 3].map(|i| e.b.ins().extractlane(v, i));
    let of_m = lanes(e, m);
    let top = of_m[1..].iter().fold(of_m[0], |a, &x| e.max_scalar(a, x));
    let all = e.splat(top);
    let d = e.b.ins().fsub(m, all);
    let scale = exp(e, &[d])[0];
    let s = e.b.ins().fmul(s, scale);
    let s = lanes(e, s);
    let (a, b) = (e.b.ins().fadd(s[0], s[1]), e.b.ins().fadd(s[2], s[3]));
    let sum = e.b.ins().fadd(a, b);
    let log = ln(e, sum);
    e.b.ins().fadd(top, log)
}

/// Stores a number that never counts behind the last of `count` logits, up to a whole panel.
fn pad(e: &mut Emit<'_, '_>, logits: Value, count: usize) {
    let low = e.f32(Fill::Low.value());
    for i in count..count.next_multiple_of(PANEL) {
        e.store(buffer_flags(), low, logits, i * 4);
    }
}

/// Runs `body(e, panel's address, first output, its vectors, carried)` on each panel of `count` logits, the last padded.
fn for_each_panel_of<'f>(
    e: &mut Emit<'_, 'f>,
    logits: Value,
    count: usize,
    carried: &[Value],
    body: impl FnOnce(&mut Emit<'_, 'f>, Value, Value, &[Value], &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    pad(e, logits, count);
    let mut all = vec![logits];
    all.extend_from_slice(carried);
    let out = e.repeat(count.div_ceil(PANEL), &all, |e, i, p| {
        let first = e.b.ins().ishl_imm_s(i, PANEL.trailing_zeros() as i64);
        let x: Vec<Value> =
            (0..PANEL / LANES).map(|v| e.load(F32X4, buffer_flags(), p[0], v * LANES * 4)).collect();
        let mut next = vec![e.offset(p[0], PANEL * 4)];
        next.extend(body(e, p[0], first, &x, &p[1..]));
        next
    });
    out[1..].to_vec()
}

/// The log-probability of word `target` (a pointer-sized integer) of `count` logits in scratch, which has room for whole panels.
pub(crate) fn score(e: &mut Emit<'_, '_>, logits: Value, count: usize, target: Value) -> Value {
    let start = nothing(e);
    let out = for_each_panel_of(e, logits, count, &start, |e, _, _, x, p| {
        let best = maximum(e, x);
        fold(e, x, best, p[0], p[1]).to_vec()
    });
    let total = finish(e, out[0], out[1]);
    let at = e.b.ins().ishl_imm_s(target, 2);
    let at = e.b.ins().iadd(logits, at);
    let logit = e.load(types::F32, buffer_flags(), at, 0);
    e.b.ins().fsub(logit, total)
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

/// The `k` largest of `count` logits in scratch, in descending order, as log-probabilities; equal ones by rising id.
///
/// A panel is looked at more closely only if one of its lanes beats the smallest logit kept so far.
pub(crate) fn top_k(e: &mut Emit<'_, '_>, logits: Value, count: usize, best: &Best, insert: FuncRef) {
    let lowest = e.f32(f32::NEG_INFINITY);
    let zero = e.size(0);
    let none = e.b.ins().iconst(types::I32, 0);
    e.repeat_dynamic(zero, best.k, &[best.values, best.ids], |e, _, p| {
        e.store(caller_flags(), lowest, p[0], 0);
        e.store(caller_flags(), none, p[1], 0);
        vec![e.offset(p[0], 4), e.offset(p[1], 4)]
    });
    let [m, s] = nothing(e);
    let all = e.size(count);
    let out = for_each_panel_of(e, logits, count, &[m, s, lowest], |e, at, first, x, p| {
        let best_lanes = maximum(e, x);
        let [m, s] = fold(e, x, best_lanes, p[0], p[1]);
        let bar = e.splat(p[2]);
        let beats = e.greater(best_lanes, bar);
        let any = e.b.ins().vany_true(beats);
        let bar = e.choose(any, &[p[2]], |e| {
            let left = e.b.ins().isub(all, first);
            let panel = e.size(PANEL);
            let whole = e.b.ins().icmp(IntCC::UnsignedLessThan, panel, left);
            let here = e.b.ins().select(whole, panel, left);
            let call = e.b.ins().call(insert, &[at, first, here, best.ids, best.values, best.k]);
            e.b.inst_results(call).to_vec()
        });
        vec![m, s, bar[0]]
    });
    let total = finish(e, out[0], out[1]);
    e.repeat_dynamic(zero, best.k, &[best.values], |e, _, p| {
        let x = e.load(types::F32, caller_flags(), p[0], 0);
        let x = e.b.ins().fsub(x, total);
        e.store(caller_flags(), x, p[0], 0);
        vec![e.offset(p[0], 4)]
    });
}

/// Body of `insert(tile, first, count, ids, values, k) -> f32`: inserts a tile's logits in the sorted list of the best, from the
/// first lane on. Returns the smallest kept.
pub(crate) fn insert(e: &mut Emit<'_, '_>, p: &[Value]) -> Value {
    let [tile, first, count, ids, values, k] = [p[0], p[1], p[2], p[3], p[4], p[5]];
    let last = e.b.ins().iadd_imm_s(k, -1);
    let at_last = e.b.ins().ishl_imm_s(last, 2);
    let smallest = e.b.ins().iadd(values, at_last);
    let zero = e.size(0);
    e.repeat_dynamic(zero, count, &[tile], |e, i, p| {
        let x = e.load(types::F32, buffer_flags(), p[0], 0);
        let bar = e.load(types::F32, caller_flags(), smallest, 0);
        let beats = e.greater(x, bar);
        e.choose(beats, &[], |e| {
            let id = e.b.ins().iadd(first, i);
            let id = e.b.ins().ireduce(types::I32, id);
            let place = sift(e, x, values, ids, at_last);
            let (to, id_to) = (e.b.ins().iadd(values, place), e.b.ins().iadd(ids, place));
            e.store(caller_flags(), x, to, 0);
            e.store(caller_flags(), id, id_to, 0);
            vec![]
        });
        vec![e.offset(p[0], 4)]
    });
    e.load(types::F32, caller_flags(), smallest, 0)
}

/// Moves smaller entries down from the list's end; returns the byte offset that has become free.
fn sift(e: &mut Emit<'_, '_>, x: Value, values: Value, ids: Value, last: Value) -> Value {
    let pointer = e.features.pointer;
    let (head, look, shift, done) =
        (e.b.create_block(), e.b.create_block(), e.b.create_block(), e.b.create_block());
    e.b.append_block_param(head, pointer);
    e.b.ins().jump(head, &[last.into()]);
    e.b.switch_to_block(head);
    let at = e.b.block_params(head)[0];
    e.b.ins().brif(at, look, &[], done, &[]);
    e.b.switch_to_block(look);
    e.b.seal_block(look);
    let above = e.b.ins().iadd_imm_s(at, -4);
    let from = e.b.ins().iadd(values, above);
    let y = e.load(types::F32, caller_flags(), from, 0);
    let smaller = e.b.ins().fcmp(FloatCC::GreaterThan, x, y);
    e.b.ins().brif(smaller, shift, &[], done, &[]);
    e.b.switch_to_block(shift);
    e.b.seal_block(shift);
    e.store(caller_flags(), y, from, 4);
    let id_from = e.b.ins().iadd(ids, above);
    let id = e.load(types::I32, caller_flags(), id_from, 0);
    e.store(caller_flags(), id, id_from, 4);
    e.b.ins().jump(head, &[above.into()]);
    e.b.seal_block(head);
    e.b.switch_to_block(done);
    e.b.seal_block(done);
    at
}
