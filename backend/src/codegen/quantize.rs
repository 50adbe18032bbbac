//! Activations as integers: one scale per vector, codes in `[-127, 127]`, ties to even.

use super::emit::{Constant, Emit, Memory, Type, Value};
use super::integer::CodesAt;
use crate::plan::{Groups, LANES, QUAD};
use lstmc_kernels::elementary::ROUND;
use lstmc_kernels::{LARGEST_CODE, LEAST_MAGNITUDE};

/// Codes per vector register.
const WIDTH: usize = 16;

/// The largest magnitude of `len` f32s at `x`, at least [`LEAST_MAGNITUDE`].
fn largest(e: &mut dyn Emit, x: Value, len: usize) -> Value {
    let least = e.constant(LEAST_MAGNITUDE);
    let step = |e: &mut dyn Emit, m: &mut [Value], x: Value, vectors: usize| {
        for (v, m) in m.iter_mut().enumerate().take(vectors) {
            let a = e.load(Type::F32x4, Memory::Buffer, x, v * LANES * 4);
            let a = e.abs(a);
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
    let mut top = e.lane(all, 0);
    for lane in 1..4 {
        let x = e.lane(all, lane);
        top = e.max_scalar(x, top);
    }
    for i in len / LANES * LANES..len {
        let x = e.load(Type::F32, Memory::Buffer, x, i * 4);
        let x = e.abs(x);
        top = e.max_scalar(x, top);
    }
    top
}

/// The scale of a vector and the factor that converts it to codes.
fn scales(e: &mut dyn Emit, x: Value, len: usize) -> (Value, Value) {
    let m = largest(e, x, len);
    let top = e.f32(LARGEST_CODE);
    let (scale, inverse) = (e.div(m, top), e.div(top, m));
    (scale, e.splat(inverse))
}

/// `x * inverse + ROUND`: the code in the low bits.
fn shifted(e: &mut dyn Emit, x: Value, inverse: Value) -> Value {
    let y = e.mul(x, inverse);
    let round = e.constant(ROUND);
    e.add(y, round)
}

/// Writes the codes of the f32s at `x`, each group's sum, and the scale.
pub(crate) fn quantize(e: &mut dyn Emit, x: Value, groups: Groups, to: CodesAt) {
    let (scale, inverse) = scales(e, x, groups.len);
    e.store(Memory::Buffer, scale, to.scale, 0);
    let whole = groups.len / groups.size;
    let mut p = e.repeat(whole, &[x, to.codes, to.sums], |e, _, p| group(e, groups, 0, inverse, p));
    if whole < groups.count() {
        p = group(e, groups, whole, inverse, &p);
    }
    debug_assert_eq!(p.len(), 3);
}

/// One group: takes `[x, codes, sums]`, returns them for the next group. The last vector reads and writes beyond the group; what
/// it writes is overwritten by the next.
fn group(e: &mut dyn Emit, groups: Groups, g: usize, inverse: Value, p: &[Value]) -> Vec<Value> {
    let padded = groups.quads(g) * QUAD;
    let base = e.i32(ROUND.to_bits() as i32);
    let base = e.splat(base);
    let ones = e.bytes([1; WIDTH]);
    let zero = e.i32(0);
    let zero = e.splat(zero);
    let codes = |e: &mut dyn Emit, x: Value| {
        let words = [0, 1, 2, 3].map(|v| {
            let x = e.load(Type::F32x4, Memory::Caller, x, v * LANES * 4);
            let y = shifted(e, x, inverse);
            let y = e.cast(Type::I32x4, y);
            e.sub(y, base)
        });
        e.narrow(words)
    };
    let out = e.repeat(padded / WIDTH, &[p[0], p[1], zero], |e, _, p| {
        let c = codes(e, p[0]);
        e.store(Memory::Caller, c, p[1], 0);
        let sum = e.dot(ones, c, p[2]);
        vec![e.offset(p[0], WIDTH * 4), e.offset(p[1], WIDTH), sum]
    });
    let mut sum = out[2];
    let rest = padded % WIDTH;
    if rest > 0 {
        let c = codes(e, out[0]);
        e.store(Memory::Caller, c, out[1], 0);
        // Padding within the last quad is included, as it is in the product; quads beyond it are not.
        let mask = e.bytes(std::array::from_fn(|i| if i < rest { 0xff } else { 0 }));
        let c = e.and(c, mask);
        sum = e.dot(ones, c, sum);
    }
    let lanes = e.lanes(sum);
    let (a, b) = (e.add(lanes[0], lanes[1]), e.add(lanes[2], lanes[3]));
    let total = e.add(a, b);
    e.store(Memory::Buffer, total, p[2], 0);
    vec![e.offset(p[0], groups.size * 4), e.offset(p[1], padded), e.offset(p[2], 4)]
}

/// `to[k][j]` = code `j`, offset as `Step::Spread` says, as byte `k` of a word.
pub(crate) fn spread(e: &mut dyn Emit, codes: Value, count: usize, to: Value) {
    // The code in every byte of a vector, then only that byte of each word.
    let pick = e.bytes(std::array::from_fn(|i| if i % 4 == i / 4 { 0xff } else { 0 }));
    e.repeat(count, &[codes, to], |e, _, p| {
        let code = e.load(Type::I8, Memory::Caller, p[0], 0);
        let code =
            if e.features().signed_eight() { code } else { e.with_constant(Constant::Xor, code, 0x80) };
        let all = e.splat(code);
        let words = e.and(all, pick);
        let words = e.cast(Type::I32x4, words);
        for k in 0..QUAD {
            let word = e.lane(words, k as u8);
            e.store(Memory::Buffer, word, p[1], k * count * 4);
        }
        vec![e.offset(p[0], 1), e.offset(p[1], 4)]
    });
}

/// `to = x`, rounded to codes and back.
pub(crate) fn round(e: &mut dyn Emit, x: Value, len: usize, to: Value) {
    let (scale, inverse) = scales(e, x, len);
    let scale = e.splat(scale);
    let round = e.constant(ROUND);
    e.repeat(len.div_ceil(LANES), &[x, to], |e, _, p| {
        let x = e.load(Type::F32x4, Memory::Buffer, p[0], 0);
        let y = shifted(e, x, inverse);
        let code = e.sub(y, round);
        let y = e.mul(code, scale);
        e.store(Memory::Buffer, y, p[1], 0);
        vec![e.offset(p[0], LANES * 4), e.offset(p[1], LANES * 4)]
    });
}

/// `to = codes * scale` for a group of `count` bytes at `codes`; whole vectors are read and written.
pub(crate) fn expand(e: &mut dyn Emit, codes: Value, count: usize, scale: Value, to: Value) {
    let scale = e.splat(scale);
    e.repeat(count.div_ceil(WIDTH), &[codes, to], |e, _, p| {
        let c = e.load(Type::I8x16, Memory::Caller, p[0], 0);
        let floats = e.widen(c).map(|word| e.to_float(word));
        for (v, x) in floats.into_iter().enumerate() {
            let x = e.mul(x, scale);
            e.store(Memory::Caller, x, p[1], v * LANES * 4);
        }
        vec![e.offset(p[0], WIDTH), e.offset(p[1], WIDTH * 4)]
    });
}
