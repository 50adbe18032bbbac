//! Activations as integers: one scale per vector, codes in `[-127, 127]`, ties to even.

use super::emit::{Emit, F32X4, buffer_flags, caller_flags};
use super::integer::{CodesAt, bytes, dot, load_bytes};
use crate::plan::{Groups, LANES, QUAD};
use cranelift_codegen::ir::{InstBuilder, Value, types};

/// The largest code.
const TOP: f32 = 127.0;

/// The smallest magnitude that counts as the largest of a vector, so that a vector of zeros has a finite reciprocal.
const LEAST: f32 = 1e-30;

/// Adding this leaves the nearest integer (ties to even) in the low bits of an f32: `1.5 * 2^23`.
const ROUND: f32 = 12_582_912.0;

/// Codes per vector register.
const WIDTH: usize = 16;

/// The largest magnitude of `len` f32s at `x`, at least [`LEAST`].
fn largest(e: &mut Emit<'_, '_>, x: Value, len: usize) -> Value {
    let least = e.constant(LEAST);
    let step = |e: &mut Emit<'_, '_>, m: &mut [Value], x: Value, vectors: usize| {
        for (v, m) in m.iter_mut().enumerate().take(vectors) {
            let a = e.load(F32X4, buffer_flags(), x, v * LANES * 4);
            let a = e.b.ins().fabs(a);
            *m = e.max(a, *m);
        }
    };
    let out = e.repeat(len / WIDTH, &[least, least, least, least, x], |e, _, p| {
        let mut m = p[..4].to_vec();
        step(e, &mut m, p[4], 4);
        m.push(e.offset(p[4], WIDTH * 4));
        m
    });
    let mut m = out[..4].to_vec();
    let vectors = len % WIDTH / LANES;
    step(e, &mut m, out[4], vectors);
    let (a, b) = (e.max(m[0], m[1]), e.max(m[2], m[3]));
    let all = e.max(a, b);
    let mut top = e.b.ins().extractlane(all, 0);
    for lane in 1..4 {
        let x = e.b.ins().extractlane(all, lane);
        top = e.max_scalar(x, top);
    }
    for i in len / LANES * LANES..len {
        let x = e.load(types::F32, buffer_flags(), x, i * 4);
        let x = e.b.ins().fabs(x);
        top = e.max_scalar(x, top);
    }
    top
}

/// The scale of a vector and the factor that makes codes of it.
fn scales(e: &mut Emit<'_, '_>, x: Value, len: usize) -> (Value, Value) {
    let m = largest(e, x, len);
    let top = e.f32(TOP);
    let (scale, inverse) = (e.b.ins().fdiv(m, top), e.b.ins().fdiv(top, m));
    (scale, e.splat(inverse))
}

/// `x * inverse + ROUND`: the code in the low bits.
fn shifted(e: &mut Emit<'_, '_>, x: Value, inverse: Value) -> Value {
    let y = e.b.ins().fmul(x, inverse);
    let round = e.constant(ROUND);
    e.b.ins().fadd(y, round)
}

/// Writes the codes of the f32s at `x`, each group's sum, and the scale.
pub(crate) fn quantize(e: &mut Emit<'_, '_>, x: Value, groups: Groups, to: CodesAt) {
    let (scale, inverse) = scales(e, x, groups.len);
    e.store(buffer_flags(), scale, to.scale, 0);
    let whole = groups.len / groups.size;
    let mut p = e.repeat(whole, &[x, to.codes, to.sums], |e, _, p| group(e, groups, 0, inverse, p));
    if whole < groups.count() {
        p = group(e, groups, whole, inverse, &p);
    }
    debug_assert_eq!(p.len(), 3);
}

/// One group: `[x, codes, sums]` in, what they are for the next group out. The last vector reads and writes beyond the group; what
/// it writes is overwritten by the next.
fn group(e: &mut Emit<'_, '_>, groups: Groups, g: usize, inverse: Value, p: &[Value]) -> Vec<Value> {
    let padded = groups.quads(g) * QUAD;
    let base = e.b.ins().iconst(types::I32, i64::from(ROUND.to_bits()));
    let base = e.b.ins().splat(types::I32X4, base);
    let ones = bytes(e, 1);
    let zero = e.b.ins().iconst(types::I32, 0);
    let zero = e.b.ins().splat(types::I32X4, zero);
    let codes = |e: &mut Emit<'_, '_>, x: Value| {
        let words: Vec<Value> = (0..4)
            .map(|v| {
                let x = e.load(F32X4, caller_flags(), x, v * LANES * 4);
                let y = shifted(e, x, inverse);
                let y = e.cast(types::I32X4, y);
                e.b.ins().isub(y, base)
            })
            .collect();
        let (a, b) = (e.b.ins().snarrow(words[0], words[1]), e.b.ins().snarrow(words[2], words[3]));
        e.b.ins().snarrow(a, b)
    };
    let out = e.repeat(padded / WIDTH, &[p[0], p[1], zero], |e, _, p| {
        let c = codes(e, p[0]);
        e.store(caller_flags(), c, p[1], 0);
        let sum = dot(e, ones, c, p[2]);
        vec![e.offset(p[0], WIDTH * 4), e.offset(p[1], WIDTH), sum]
    });
    let mut sum = out[2];
    let rest = padded % WIDTH;
    if rest > 0 {
        let c = codes(e, out[0]);
        e.store(caller_flags(), c, out[1], 0);
        // Padding within the last quad counts, as it does in the product; quads beyond it do not.
        let mask: Vec<u8> = (0..WIDTH).map(|i| if i < rest { 0xff } else { 0 }).collect();
        let mask = e.vector_constant(&mask);
        let c = e.b.ins().band(c, mask);
        sum = dot(e, ones, c, sum);
    }
    let lanes = [0u8, 1, 2, 3].map(|lane| e.b.ins().extractlane(sum, lane));
    let (a, b) = (e.b.ins().iadd(lanes[0], lanes[1]), e.b.ins().iadd(lanes[2], lanes[3]));
    let total = e.b.ins().iadd(a, b);
    e.store(buffer_flags(), total, p[2], 0);
    vec![e.offset(p[0], groups.size * 4), e.offset(p[1], padded), e.offset(p[2], 4)]
}

/// `to[k][j]` = code `j`, raised as `Step::Spread` says, as byte `k` of a word.
pub(crate) fn spread(e: &mut Emit<'_, '_>, codes: Value, count: usize, to: Value) {
    // The code in every byte of a vector, and of that one byte in each word.
    let pick: Vec<u8> = (0..WIDTH).map(|i| if i % 4 == i / 4 { 0xff } else { 0 }).collect();
    let pick = e.vector_constant(&pick);
    e.repeat(count, &[codes, to], |e, _, p| {
        let code = e.load(types::I8, caller_flags(), p[0], 0);
        let code = if e.features.signed_bytes { code } else { e.b.ins().bxor_imm_s(code, 0x80) };
        let all = e.b.ins().splat(types::I8X16, code);
        let words = e.b.ins().band(all, pick);
        let words = e.cast(types::I32X4, words);
        for k in 0..QUAD {
            let word = e.b.ins().extractlane(words, k as u8);
            e.store(buffer_flags(), word, p[1], k * count * 4);
        }
        vec![e.offset(p[0], 1), e.offset(p[1], 4)]
    });
}

/// `to = x`, rounded to codes and back.
pub(crate) fn round(e: &mut Emit<'_, '_>, x: Value, len: usize, to: Value) {
    let (scale, inverse) = scales(e, x, len);
    let scale = e.splat(scale);
    let round = e.constant(ROUND);
    e.repeat(len.div_ceil(LANES), &[x, to], |e, _, p| {
        let x = e.load(F32X4, buffer_flags(), p[0], 0);
        let y = shifted(e, x, inverse);
        let code = e.b.ins().fsub(y, round);
        let y = e.b.ins().fmul(code, scale);
        e.store(buffer_flags(), y, p[1], 0);
        vec![e.offset(p[0], LANES * 4), e.offset(p[1], LANES * 4)]
    });
}

/// `to = codes * scale` for a group of `count` bytes at `codes`; whole vectors are read and written.
pub(crate) fn expand(e: &mut Emit<'_, '_>, codes: Value, count: usize, scale: Value, to: Value) {
    let scale = e.splat(scale);
    e.repeat(count.div_ceil(WIDTH), &[codes, to], |e, _, p| {
        let c = load_bytes(e, p[0], 0);
        for (v, x) in super::integer::to_floats(e, c).into_iter().enumerate() {
            let x = e.b.ins().fmul(x, scale);
            e.store(caller_flags(), x, p[1], v * LANES * 4);
        }
        vec![e.offset(p[0], WIDTH), e.offset(p[1], WIDTH * 4)]
    });
}
