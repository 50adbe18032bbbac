//! The product of one integer panel: exact sums of products of bytes, then the scales.
//!
//! ```text
//!   for each quad of inputs:   acc[a] += dot4(bytes & mask[level(a)], activations)       a = 0..8
//!   per group:                 y[a] += scale[a] * f32(acc[a] - acc[a + 1])               (the top level: without the difference)
//!   at the end:                y = start + activation scale * y
//! ```
//!
//! A byte holds the codes of several outputs, one above the other. Masked from a level upwards, its product with the activation is that
//! level's plus all above it; the difference of neighbours is the level's own, times `2^(bits * level)`, which the scale divides out.

use super::emit::{Constant, Emit, Features, Memory, Type, Value};
use crate::plan::{Integer, LANES, PANEL, QUAD, Scale};
use lstmc_kernels::LARGEST_CODE;

/// Accumulators of a panel.
const VECTORS: usize = PANEL / LANES;

/// Quads per iteration of the loop over a long group.
const UNROLL: usize = 8;

/// Groups of up to this many quads are straight-line code.
const STRAIGHT: usize = 16;

/// The addresses of integer activations.
#[derive(Clone, Copy)]
pub(crate) struct CodesAt {
    /// Codes, groups padded to quads.
    pub(crate) codes: Value,
    /// i32 sums of each group's codes.
    pub(crate) sums: Value,
    /// The f32 scale.
    pub(crate) scale: Value,
}

/// Multiplies one panel. `start` returns the values that the product is added to, after the sums are done: its registers are needed before.
/// Returns the results and the pointer to the next panel.
pub(crate) fn accumulate(
    e: &mut dyn Emit,
    i: Integer,
    weights: Value,
    x: CodesAt,
    start: impl FnOnce(&mut dyn Emit) -> Vec<Value>,
) -> (Vec<Value>, Value) {
    let groups = i.groups.count();
    if groups == 1 {
        let (sums, w) = group(e, i, weights, x.codes, x.sums, i.groups.quads(0));
        let y = scaled(e, i, &sums, w, None);
        let w = e.offset(w, PANEL * i.scale.size());
        let s = e.load(Type::F32, Memory::Buffer, x.scale, 0);
        let s = e.splat(s);
        let start = start(e);
        let y = y.iter().zip(start).map(|(&y, b)| e.mul_add(y, s, b)).collect();
        return (y, w);
    }
    // The results of the groups so far are kept on the stack: eight more accumulators do not fit the registers.
    let tile = e.stack(PANEL * 4);
    let zero = e.constant(0.0);
    for v in 0..VECTORS {
        e.store(Memory::Buffer, zero, tile, v * LANES * 4);
    }
    let one = |e: &mut dyn Emit, p: &[Value], g: usize| {
        let (sums, w) = group(e, i, p[0], p[1], p[2], i.groups.quads(g));
        for (v, y) in scaled(e, i, &sums, w, Some(tile)).into_iter().enumerate() {
            e.store(Memory::Buffer, y, tile, v * LANES * 4);
        }
        let w = e.offset(w, PANEL * i.scale.size());
        vec![w, e.offset(p[1], i.groups.quads(g) * QUAD), e.offset(p[2], 4)]
    };
    let whole = i.groups.len / i.groups.size;
    let mut p = e.repeat(whole, &[weights, x.codes, x.sums], |e, _, p| one(e, p, 0));
    if whole < groups {
        p = one(e, &p, whole);
    }
    let s = e.load(Type::F32, Memory::Buffer, x.scale, 0);
    let s = e.splat(s);
    let start = start(e);
    let y = start
        .into_iter()
        .enumerate()
        .map(|(v, b)| {
            let y = e.load(Type::F32x4, Memory::Buffer, tile, v * LANES * 4);
            e.mul_add(y, s, b)
        })
        .collect();
    (y, p[0])
}

/// The exact sums of one group, by accumulator, each times `2^(bits * level)`, or with [`Features::apart`] times one. Returns them and the pointer to the scales.
fn group(
    e: &mut dyn Emit,
    i: Integer,
    weights: Value,
    codes: Value,
    sums: Value,
    quads: usize,
) -> (Vec<Value>, Value) {
    let Features { pairs, sums: is_one, .. } = e.features();
    let apart = e.features().apart();
    // Signed weights become offset ones, as this target's products take them.
    let raised = i.signed && !e.features().signed_eight();
    let i = Integer { signed: i.signed && !raised, ..i };
    let offset = raised.then(|| e.bytes([0x80; 16]));
    let levels = i.levels();
    let sum = e.load(Type::I32, Memory::Buffer, sums, 0);
    let starts: Vec<Value> = (0..levels)
        .map(|l| {
            let raised =
                e.with_constant(Constant::Mul, sum, -if apart { i.raise_apart() } else { i.raise(l) });
            e.splat(raised)
        })
        .collect();
    let acc: Vec<Value> = (0..VECTORS).map(|a| starts[a % levels]).collect();
    if is_one {
        let sums = e.sums(i.width, [weights, codes], quads);
        let sums = sums.into_iter().zip(acc).map(|(sum, start)| e.add(sum, start)).collect();
        return (sums, e.offset(weights, quads * i.quad_bytes()));
    }
    if pairs && levels > 1 {
        return narrow_pairs(e, i, acc, [weights, codes], quads);
    }
    let masks: Vec<Value> = (1..levels).map(|l| e.bytes([i.mask(l); 16])).collect();
    let row = i.quad_bytes();
    let turn = |e: &mut dyn Emit, acc: &mut [Value], w: Value, x: Value, quads: usize| {
        for q in 0..quads {
            let quad = e.load_quad(x, q * QUAD);
            let signs = pairs.then(|| e.signs(quad[0]));
            for (b, acc) in acc.chunks_mut(levels).enumerate() {
                let w = e.load(Type::I8x16, Memory::Weights, w, q * row + b * 16);
                let w = offset.map_or(w, |offset| e.add(w, offset));
                for (level, acc) in acc.iter_mut().enumerate() {
                    let w = match level {
                        0 => w,
                        _ => e.and(w, masks[level - 1]),
                    };
                    *acc = match signs {
                        Some(signs) => e.dot_signs(w, signs, *acc),
                        None => e.dot_quad(w, quad, *acc),
                    };
                }
            }
        }
    };
    let unroll = match quads {
        // An iteration is long enough then, and unrolling it would be too much code.
        _ if !e.features().dot => 1,
        0..=STRAIGHT => quads.max(1),
        _ => UNROLL,
    };
    let (mut acc, w) = by_quads(e, acc, [weights, codes], [quads, unroll, row], turn);
    for a in 0..VECTORS {
        if a % levels + 1 < levels {
            acc[a] = e.sub(acc[a], acc[a + 1]);
        }
    }
    (acc, w)
}

/// Runs `turn(e, values, weights, codes, quads)` on all `quads`, `unroll` at a time. Returns the values and the pointer after the weights.
fn by_quads(
    e: &mut dyn Emit,
    values: Vec<Value>,
    [weights, codes]: [Value; 2],
    [quads, unroll, row]: [usize; 3],
    turn: impl Fn(&mut dyn Emit, &mut [Value], Value, Value, usize),
) -> (Vec<Value>, Value) {
    let count = values.len();
    let carried: Vec<Value> = values.into_iter().chain([weights, codes]).collect();
    let out = e.repeat(quads / unroll, &carried, |e, _, p| {
        let mut values = p[..count].to_vec();
        turn(e, &mut values, p[count], p[count + 1], unroll);
        let w = e.offset(p[count], unroll * row);
        let x = e.offset(p[count + 1], unroll * QUAD);
        values.extend([w, x]);
        values
    });
    let mut values = out[..count].to_vec();
    let rest = quads % unroll;
    turn(e, &mut values, out[count], out[count + 1], rest);
    (values, e.offset(out[count], rest * row))
}

/// Accumulators whose sums of 16 bits are in registers at the same time.
const TOGETHER: usize = VECTORS / 2;

/// The sums of narrow codes with [`Features::pairs`]: the products of some quads fit 16 bits, and only their sum is widened. A level is shifted down, and its sums
/// are its own.
fn narrow_pairs(
    e: &mut dyn Emit,
    i: Integer,
    mut acc: Vec<Value>,
    [weights, codes]: [Value; 2],
    quads: usize,
) -> (Vec<Value>, Value) {
    let (levels, bits, row) = (i.levels(), i.width.bits(), i.quad_bytes());
    let most = 2 * (usize::from(u8::MAX) >> (8 - bits)) * LARGEST_CODE as usize;
    let run = i16::MAX as usize / most;
    let low = e.bytes([u8::MAX >> (8 - bits); 16]);
    let runs = |e: &mut dyn Emit, acc: &mut [Value], w: Value, x: Value, quads: usize| {
        for half in (0..VECTORS).step_by(TOGETHER) {
            let mut short: Vec<Option<Value>> = vec![None; TOGETHER];
            for q in 0..quads {
                let [quad, _] = e.load_quad(x, q * QUAD);
                let mut loaded = None;
                for (n, short) in short.iter_mut().enumerate() {
                    let (vector, level) = ((half + n) / levels, (half + n) % levels);
                    let w = match loaded {
                        Some((of, w)) if of == vector => w,
                        _ => e.load(Type::I8x16, Memory::Weights, w, q * row + vector * 16),
                    };
                    loaded = Some((vector, w));
                    let code = if level == 0 {
                        w
                    } else {
                        let words = e.cast(Type::I16x8, w);
                        let down = e.with_constant(Constant::ShiftRight, words, (bits * level) as i64);
                        e.cast(Type::I8x16, down)
                    };
                    let code = e.and(code, low);
                    let pairs = e.pairs(code, quad);
                    *short = Some(short.map_or(pairs, |sum| e.add(sum, pairs)));
                }
            }
            for (acc, short) in acc[half..].iter_mut().zip(short) {
                if let Some(short) = short {
                    *acc = e.add_pairs(short, *acc);
                }
            }
        }
    };
    let w;
    (acc, w) = by_quads(e, acc, [weights, codes], [quads, run.min(UNROLL), row], runs);
    (acc, w)
}

/// The sums times the scales at `scales`, plus what is at `start`.
fn scaled(e: &mut dyn Emit, i: Integer, sums: &[Value], scales: Value, start: Option<Value>) -> Vec<Value> {
    let levels = i.levels();
    sums.iter()
        .enumerate()
        .map(|(a, &sum)| {
            let factor = if e.features().apart() {
                1.0
            } else {
                1.0 / f32::from(1u16 << (i.width.bits() * (a % levels)))
            };
            let y = e.to_float(sum);
            let scale = match i.scale {
                Scale::F32 => {
                    let s = e.load(Type::F32x4, Memory::Weights, scales, a * LANES * 4);
                    if factor == 1.0 {
                        s
                    } else {
                        let factor = e.constant(factor);
                        e.mul(s, factor)
                    }
                }
                Scale::F16 => e.load_halves(scales, a * LANES * 2, factor),
            };
            match start {
                Some(start) => {
                    let start = e.load(Type::F32x4, Memory::Buffer, start, a * LANES * 4);
                    e.mul_add(y, scale, start)
                }
                None => e.mul(y, scale),
            }
        })
        .collect()
}
