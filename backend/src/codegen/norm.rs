//! Normalisation of a vector.

use super::emit::{Emit, Memory, Type, Value};
use crate::plan::LANES;

/// The sum of the terms of `len` f32s at `x`, taken four at a time.
fn sum(e: &mut dyn Emit, x: Value, len: usize, mut term: impl FnMut(&mut dyn Emit, Value) -> Value) -> Value {
    let zero = e.constant(0.0);
    let p = e.repeat(len / LANES, &[zero, x], |e, _, p| {
        let v = e.load(Type::F32x4, Memory::Buffer, p[1], 0);
        let v = term(e, v);
        vec![e.add(p[0], v), e.offset(p[1], LANES * 4)]
    });
    let mut total = p[0];
    let rest = len % LANES;
    if rest > 0 {
        let v = e.load(Type::F32x4, Memory::Buffer, p[1], 0);
        let v = term(e, v);
        let mask = e.bytes(std::array::from_fn(|i| if i < rest * 4 { 0xff } else { 0 }));
        let v = e.cast(Type::I8x16, v);
        let v = e.and(v, mask);
        let v = e.cast(Type::F32x4, v);
        total = e.add(total, v);
    }
    let lanes = e.lanes(total);
    let (a, b) = (e.add(lanes[0], lanes[1]), e.add(lanes[2], lanes[3]));
    e.add(a, b)
}

/// `to = scale (x - mean) / sqrt(variance + epsilon) + shift` of `len` f32s; without `scale` 1, without `shift` 0.
pub(crate) fn normalize(
    e: &mut dyn Emit,
    x: Value,
    len: usize,
    [scale, shift]: [Option<Value>; 2],
    epsilon: f32,
    to: Value,
) {
    let count = e.f32(len as f32);
    let total = sum(e, x, len, |_, v| v);
    let mean = e.div(total, count);
    let mean = e.splat(mean);
    let squares = sum(e, x, len, |e, v| {
        let d = e.sub(v, mean);
        e.mul(d, d)
    });
    let variance = e.div(squares, count);
    let epsilon = e.f32(epsilon);
    let variance = e.add(variance, epsilon);
    let deviation = e.sqrt(variance);
    let one = e.f32(1.0);
    let inverse = e.div(one, deviation);
    let inverse = e.splat(inverse);
    let mut all = vec![x, to];
    all.extend(scale.iter().chain(&shift));
    e.repeat(len.div_ceil(LANES), &all, |e, _, p| {
        let v = e.load(Type::F32x4, Memory::Buffer, p[0], 0);
        let v = e.sub(v, mean);
        let mut v = e.mul(v, inverse);
        if scale.is_some() {
            let s = e.load(Type::F32x4, Memory::Weights, p[2], 0);
            v = e.mul(v, s);
        }
        if shift.is_some() {
            let s = e.load(Type::F32x4, Memory::Weights, p[p.len() - 1], 0);
            v = e.add(v, s);
        }
        e.store(Memory::Buffer, v, p[1], 0);
        p.iter().map(|&p| e.offset(p, LANES * 4)).collect()
    });
}
