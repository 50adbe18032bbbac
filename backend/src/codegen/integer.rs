//! The product of one integer panel: exact sums of products of bytes, then the scales.
//!
//! ```text
//!   for each quad of inputs:   acc[a] += dot4(bytes & mask[level(a)], activations)       a = 0..8
//!   per group:                 y[a] += scale[a] * f32(acc[a] - acc[a + 1])               (the difference unless it is the top level)
//!   at the end:                y = start + activation scale * y
//! ```
//!
//! A byte holds the codes of several outputs, one above the other. Masked from a level up, its product with the activation is that
//! level's plus all above it; the difference of neighbours is the level's own, times `2^(bits * level)`, which the scale takes back.

use super::emit::{Emit, F32X4, buffer_flags, caller_flags, weight_flags};
use crate::plan::{Integer, LANES, PANEL, QUAD, Scale};
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};

/// Bytes of one vector register.
pub(crate) const I8X16: Type = types::I8X16;
const I32X4: Type = types::I32X4;

/// Accumulators of a panel.
const VECTORS: usize = PANEL / LANES;

/// Quads per turn of the loop over a long group.
const UNROLL: usize = 8;

/// Groups of up to this many quads are one straight piece of code.
const STRAIGHT: usize = 16;

/// Where integer activations are.
#[derive(Clone, Copy)]
pub(crate) struct CodesAt {
    /// Codes, groups padded to quads.
    pub(crate) codes: Value,
    /// i32 sums of each group's codes.
    pub(crate) sums: Value,
    /// The f32 scale.
    pub(crate) scale: Value,
}

/// Adds to each i32 lane the four products of its bytes: weights as the target takes them (see [`Integer::signed`]), activations signed.
///
/// This tree of exact operations is what the code generator knows as one instruction: `vpdpbusd`, `sdot`.
pub(crate) fn dot(e: &mut Emit<'_, '_>, weights: Value, activations: Value, acc: Value) -> Value {
    let signed = e.features.signed_bytes;
    let widen = |e: &mut Emit<'_, '_>, high: bool| {
        let a = if high { e.b.ins().swiden_high(activations) } else { e.b.ins().swiden_low(activations) };
        let w = match (signed, high) {
            (true, false) => e.b.ins().swiden_low(weights),
            (true, true) => e.b.ins().swiden_high(weights),
            (false, false) => e.b.ins().uwiden_low(weights),
            (false, true) => e.b.ins().uwiden_high(weights),
        };
        let p = e.b.ins().imul(a, w);
        let (low, high) = (e.b.ins().swiden_low(p), e.b.ins().swiden_high(p));
        e.b.ins().iadd_pairwise(low, high)
    };
    let (low, high) = (widen(e, false), widen(e, true));
    let sum = e.b.ins().iadd_pairwise(low, high);
    e.b.ins().iadd(sum, acc)
}

/// [`dot`] where it is no instruction, of unsigned weights and a quad of activations that is the same in every lane, widened to i16: the
/// tree is two `pmaddwd` and a sum of neighbours.
fn dot_of_quad(e: &mut Emit<'_, '_>, weights: Value, quad: Value, acc: Value) -> Value {
    let half = |e: &mut Emit<'_, '_>, w: Value| {
        let (a, b) = (e.b.ins().swiden_low(quad), e.b.ins().swiden_low(w));
        let low = e.b.ins().imul(a, b);
        let (a, b) = (e.b.ins().swiden_high(quad), e.b.ins().swiden_high(w));
        let high = e.b.ins().imul(a, b);
        e.b.ins().iadd_pairwise(low, high)
    };
    let (low, high) = (e.b.ins().uwiden_low(weights), e.b.ins().uwiden_high(weights));
    let (low, high) = (half(e, low), half(e, high));
    let sum = e.b.ins().iadd_pairwise(low, high);
    e.b.ins().iadd(sum, acc)
}

/// Four bytes at `address`, in every lane.
pub(crate) fn broadcast_quad(e: &mut Emit<'_, '_>, address: Value, bytes: usize) -> Value {
    // As an f32, whose load and spread are one instruction; nothing is computed with it.
    let quad = e.load(types::F32, buffer_flags(), address, bytes);
    let all = e.splat(quad);
    e.cast(I8X16, all)
}

/// A vector with the same byte in every lane.
pub(crate) fn bytes(e: &mut Emit<'_, '_>, byte: u8) -> Value {
    e.vector_constant(&[byte; 16])
}

/// Multiplies one panel. `start` gives what the product is added to, after the sums are done: its registers are wanted before.
/// Returns the results and the pointer to the next panel.
pub(crate) fn accumulate<'f>(
    e: &mut Emit<'_, 'f>,
    i: Integer,
    weights: Value,
    x: CodesAt,
    start: impl FnOnce(&mut Emit<'_, 'f>) -> Vec<Value>,
) -> (Vec<Value>, Value) {
    let groups = i.groups.count();
    if groups == 1 {
        let (sums, w) = group(e, i, weights, x.codes, x.sums, i.groups.quads(0));
        let y = scaled(e, i, &sums, w);
        let w = e.offset(w, PANEL * i.scale.size());
        let s = e.load(types::F32, buffer_flags(), x.scale, 0);
        let s = e.splat(s);
        let start = start(e);
        let y = y.iter().zip(start).map(|(&y, b)| e.mul_add(y, s, b)).collect();
        return (y, w);
    }
    // The results of the groups so far are kept on the stack: eight more accumulators do not fit the registers.
    let tile = e.stack(PANEL * 4);
    let zero = e.constant(0.0);
    for v in 0..VECTORS {
        e.store(buffer_flags(), zero, tile, v * LANES * 4);
    }
    let one = |e: &mut Emit<'_, 'f>, p: &[Value], g: usize| {
        let (sums, w) = group(e, i, p[0], p[1], p[2], i.groups.quads(g));
        for (v, y) in scaled(e, i, &sums, w).into_iter().enumerate() {
            let old = e.load(F32X4, buffer_flags(), tile, v * LANES * 4);
            let new = e.b.ins().fadd(old, y);
            e.store(buffer_flags(), new, tile, v * LANES * 4);
        }
        let w = e.offset(w, PANEL * i.scale.size());
        vec![w, e.offset(p[1], i.groups.quads(g) * QUAD), e.offset(p[2], 4)]
    };
    let whole = i.groups.len / i.groups.size;
    let mut p = e.repeat(whole, &[weights, x.codes, x.sums], |e, _, p| one(e, p, 0));
    if whole < groups {
        p = one(e, &p, whole);
    }
    let s = e.load(types::F32, buffer_flags(), x.scale, 0);
    let s = e.splat(s);
    let start = start(e);
    let y = start
        .into_iter()
        .enumerate()
        .map(|(v, b)| {
            let y = e.load(F32X4, buffer_flags(), tile, v * LANES * 4);
            e.mul_add(y, s, b)
        })
        .collect();
    (y, p[0])
}

/// The exact sums of one group, by accumulator, each times `2^(bits * level)`. Returns them and the pointer to the scales.
fn group(
    e: &mut Emit<'_, '_>,
    i: Integer,
    weights: Value,
    codes: Value,
    sums: Value,
    quads: usize,
) -> (Vec<Value>, Value) {
    let levels = i.levels();
    let sum = e.load(types::I32, buffer_flags(), sums, 0);
    let starts: Vec<Value> = (0..levels)
        .map(|l| {
            let raised = e.b.ins().imul_imm_s(sum, -i.raise(l));
            e.b.ins().splat(I32X4, raised)
        })
        .collect();
    let acc: Vec<Value> = (0..VECTORS).map(|a| starts[a % levels]).collect();
    let masks: Vec<Value> = (1..levels).map(|l| bytes(e, i.mask(l))).collect();
    let row = i.quad_bytes();
    let turn = |e: &mut Emit<'_, '_>, acc: &mut [Value], w: Value, x: Value, quads: usize| {
        for q in 0..quads {
            let a = broadcast_quad(e, x, q * QUAD);
            let wide = !e.features.dot && !e.features.signed_bytes;
            let wide = wide.then(|| e.b.ins().swiden_low(a));
            for (b, acc) in acc.chunks_mut(levels).enumerate() {
                let w = e.load(I8X16, weight_flags(), w, q * row + b * 16);
                for (level, acc) in acc.iter_mut().enumerate() {
                    let w = match level {
                        0 => w,
                        _ => e.b.ins().band(w, masks[level - 1]),
                    };
                    *acc = match wide {
                        Some(quad) => dot_of_quad(e, w, quad, *acc),
                        None => dot(e, w, a, *acc),
                    };
                }
            }
        }
    };
    let unroll = match quads {
        // A turn is long enough then, and several are a lot of code.
        _ if !e.features.dot => 1,
        0..=STRAIGHT => quads.max(1),
        _ => UNROLL,
    };
    let carried: Vec<Value> = acc.iter().copied().chain([weights, codes]).collect();
    let out = e.repeat(quads / unroll, &carried, |e, _, p| {
        let mut acc = p[..VECTORS].to_vec();
        turn(e, &mut acc, p[VECTORS], p[VECTORS + 1], unroll);
        let w = e.offset(p[VECTORS], unroll * row);
        let x = e.offset(p[VECTORS + 1], unroll * QUAD);
        acc.extend([w, x]);
        acc
    });
    let mut acc = out[..VECTORS].to_vec();
    let rest = quads % unroll;
    turn(e, &mut acc, out[VECTORS], out[VECTORS + 1], rest);
    for a in 0..VECTORS {
        if a % levels + 1 < levels {
            acc[a] = e.b.ins().isub(acc[a], acc[a + 1]);
        }
    }
    (acc, e.offset(out[VECTORS], rest * row))
}

/// The sums times the scales at `scales`.
fn scaled(e: &mut Emit<'_, '_>, i: Integer, sums: &[Value], scales: Value) -> Vec<Value> {
    let levels = i.levels();
    sums.iter()
        .enumerate()
        .map(|(a, &sum)| {
            let factor = 1.0 / f32::from(1u16 << (i.width.bits() * (a % levels)));
            let y = e.b.ins().fcvt_from_sint(F32X4, sum);
            let scale = match i.scale {
                Scale::F32 => {
                    let s = e.load(F32X4, weight_flags(), scales, a * LANES * 4);
                    if factor == 1.0 {
                        s
                    } else {
                        let factor = e.constant(factor);
                        e.b.ins().fmul(s, factor)
                    }
                }
                Scale::F16 => half(e, scales, a * LANES * 2, factor),
            };
            e.b.ins().fmul(y, scale)
        })
        .collect()
}

/// Four f16s times a power of two, exactly: their bits, shifted into an f32's place and less the difference of exponents.
fn half(e: &mut Emit<'_, '_>, address: Value, bytes: usize, factor: f32) -> Value {
    /// The bias of an f32's exponent is 127, that of an f16's is 15.
    const REBIAS: f32 = (1u128 << 112) as f32;
    let address = e.offset(address, bytes);
    let h = e.b.ins().sload16x4(weight_flags(), address, 0);
    let h = e.b.ins().ishl_imm_s(h, 13);
    // Sign, five bits of exponent in the low part of the field, ten of mantissa.
    let keep = e.b.ins().iconst(types::I32, i64::from(0x8fff_e000u32 as i32));
    let keep = e.b.ins().splat(I32X4, keep);
    let h = e.b.ins().band(h, keep);
    let h = e.cast(F32X4, h);
    let rebias = e.constant(REBIAS * factor);
    e.b.ins().fmul(h, rebias)
}

/// An i8 vector's lanes as four vectors of f32.
pub(crate) fn to_floats(e: &mut Emit<'_, '_>, codes: Value) -> [Value; 4] {
    let (low, high) = (e.b.ins().swiden_low(codes), e.b.ins().swiden_high(codes));
    let words = [
        e.b.ins().swiden_low(low),
        e.b.ins().swiden_high(low),
        e.b.ins().swiden_low(high),
        e.b.ins().swiden_high(high),
    ];
    words.map(|w| e.b.ins().fcvt_from_sint(F32X4, w))
}

/// A load of sixteen bytes from any address.
pub(crate) fn load_bytes(e: &mut Emit<'_, '_>, address: Value, bytes: usize) -> Value {
    e.load(I8X16, caller_flags(), address, bytes)
}
