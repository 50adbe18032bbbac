//! Integer kernels for 64-bit Arm. A quad of a panel is eight *parts*, vectors of four outputs, whose codes are separated in registers.
//!
//! One body serves two products: NEON's of pairs, and SDOT. SMMLA, which i8mm adds, would do twice the work of SDOT: it multiplies two outputs with two
//! tokens, eight inputs at a time. But quads would have to be interleaved by pairs of outputs for it, in weights that generated code reads too, or
//! rearranged in every tile, which costs what is gained. So i8mm has SDOT's kernels.

use super::{Kernel, Operands};
use crate::level::Set;
use crate::share::Tile;
use crate::vector::Vector;
use crate::{Integer, PANEL, QUAD};
use lstmc_frontend::ir::PackedWidth;
use std::arch::aarch64::*;
use std::arch::asm;

/// Parts of a quad.
const PARTS: usize = PANEL / 4;

/// Quads of activations in a vector.
const LOADED: usize = 4;

/// Products of bytes, added up for four outputs.
trait Dot {
    /// Sums of a part.
    type Sums: Copy;

    /// Every output starts at this.
    fn starting_at(start: i32) -> Self::Sums;

    /// Adds the products of two quads of codes, from -128 to 127, with quads `A` and `B` of activations, from -127 to 127.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add<const A: i32, const B: i32>(sums: &mut Self::Sums, w: [int8x16_t; 2], x: int8x16_t);

    /// The outputs' sums.
    fn total(sums: Self::Sums) -> int32x4_t;
}

/// NEON: products of 16 bits, of which two fit, and are then added in pairs as i32. There are two sums per output.
struct Pairs;

impl Dot for Pairs {
    type Sums = [int32x4_t; 2];

    #[inline(always)]
    fn starting_at(start: i32) -> Self::Sums {
        // SAFETY: every 64-bit Arm has NEON.
        unsafe { [vreinterpretq_s32_s64(vdupq_n_s64(i64::from(start as u32))); 2] }
    }

    #[inline(always)]
    unsafe fn add<const A: i32, const B: i32>(sums: &mut Self::Sums, w: [int8x16_t; 2], x: int8x16_t) {
        // SAFETY: every 64-bit Arm has NEON.
        unsafe {
            let x = vreinterpretq_s32_s8(x);
            let a = opaque(vreinterpretq_s8_s32(vdupq_laneq_s32::<A>(x)));
            let b = opaque(vreinterpretq_s8_s32(vdupq_laneq_s32::<B>(x)));
            let w = w.map(opaque);
            // At most 2 * 128 * 127.
            let low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(a));
            let high = vmull_high_s8(w[0], a);
            sums[0] = vpadalq_s16(sums[0], vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(b)));
            sums[1] = vpadalq_s16(sums[1], vmlal_high_s8(high, w[1], b));
        }
    }

    #[inline(always)]
    fn total(sums: Self::Sums) -> int32x4_t {
        // SAFETY: every 64-bit Arm has NEON.
        unsafe { vpaddq_s32(sums[0], sums[1]) }
    }
}

/// The same vector. The compiler must not know more about it, or it replaces products of bytes by widened ones.
#[inline(always)]
fn opaque(mut v: int8x16_t) -> int8x16_t {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {v:v} */", v = inlateout(vreg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// SDOT, which has no stable intrinsic.
pub(crate) struct Sdot;

impl Sdot {
    /// Adds to each i32 the products of four bytes with quad `N` of `x`.
    ///
    /// # Safety
    /// The processor has `dotprod`.
    #[inline(always)]
    pub(crate) unsafe fn dot<const N: i32>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the caller promises the instruction, which changes nothing but the sum. The assembler takes it in any function.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{n}]",
                sum = inlateout(vreg) sum,
                w = in(vreg) w,
                x = in(vreg) x,
                n = const N,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }
}

impl Dot for Sdot {
    type Sums = int32x4_t;

    #[inline(always)]
    fn starting_at(start: i32) -> int32x4_t {
        // SAFETY: every 64-bit Arm has NEON.
        unsafe { vdupq_n_s32(start) }
    }

    #[inline(always)]
    unsafe fn add<const A: i32, const B: i32>(sums: &mut int32x4_t, w: [int8x16_t; 2], x: int8x16_t) {
        // SAFETY: the caller promises the instruction.
        unsafe { *sums = Sdot::dot::<B>(Sdot::dot::<A>(*sums, w[0], x), w[1], x) }
    }

    #[inline(always)]
    fn total(sums: int32x4_t) -> int32x4_t {
        sums
    }
}

/// The most tokens of a tile, and a function for them: for each number of tokens, from 1 on, as many parts at a time as there are registers for their sums.
/// Those of the codes that share a byte are taken together.
macro_rules! kernel {
    ($dot:ty, $features:literal, $bits:literal: $($tokens:literal x $parts:literal)*) => {{
        /// # Safety
        /// The processor has the features; operands and tile have `n` tokens, and the weights codes of these bits, whose bytes are stored with the
        /// highest bit inverted.
        #[target_feature(enable = $features)]
        unsafe fn tiles(n: usize, of: &Operands, tile: Tile) {
            // SAFETY: the product's instructions are enabled here; the rest is the caller's promise.
            unsafe {
                match n {
                    $($tokens => tile_of::<$dot, $tokens, $parts, $bits>(of, tile),)*
                    n => unreachable!("a tile of {n} tokens"),
                }
            }
        }
        Some(([$($tokens),*].len(), tiles as Kernel))
    }};
}

/// See [`kernel`](super::kernel).
pub(super) fn kernel(set: Set, format: Integer) -> Option<(usize, Kernel)> {
    match (set, format.width, format.signed) {
        (Set::Neon, PackedWidth::Eight, true) => kernel!(Pairs, "neon", 8: 1 x 8 2 x 4 3 x 2),
        (Set::Neon, PackedWidth::Four, true) => kernel!(Pairs, "neon", 4: 1 x 4 2 x 4 3 x 2),
        (Set::Neon, PackedWidth::Two, true) => kernel!(Pairs, "neon", 2: 1 x 8 2 x 4),
        (Set::NeonDot, PackedWidth::Eight, true) => {
            kernel!(Sdot, "neon,dotprod", 8: 1 x 8 2 x 8 3 x 8 4 x 4 5 x 4 6 x 2 7 x 2 8 x 2)
        }
        (Set::NeonDot, PackedWidth::Four, true) => {
            kernel!(Sdot, "neon,dotprod", 4: 1 x 8 2 x 8 3 x 8 4 x 4 5 x 4 6 x 2 7 x 2 8 x 2)
        }
        (Set::NeonDot, PackedWidth::Two, true) => {
            kernel!(Sdot, "neon,dotprod", 2: 1 x 8 2 x 8 3 x 4 4 x 4 5 x 4)
        }
        _ => None,
    }
}

/// The codes of a part of a quad: signed if they are the highest of their bytes, otherwise offset.
///
/// # Safety
/// A quad of `BITS`-bit codes is at the address.
#[inline(always)]
unsafe fn part<const BITS: usize>(quad: *const u8, part: usize) -> int8x16_t {
    let (levels, level) = (8 / BITS, part % (8 / BITS));
    // SAFETY: every 64-bit Arm has NEON; a quad has 128, 64 or 32 bytes, of which 16 are loaded.
    unsafe {
        let v = vld1q_s8(quad.add(part / levels * 16).cast());
        // The inverted bit is the highest code's sign.
        let v = match level * BITS {
            2 => vshrq_n_s8::<2>(v),
            4 => vshrq_n_s8::<4>(v),
            6 => vshrq_n_s8::<6>(v),
            _ => v,
        };
        if level + 1 == levels { v } else { vandq_s8(v, vdupq_n_s8((1 << BITS) - 1)) }
    }
}

/// `T` tokens: `P` parts at a time.
///
/// # Safety
/// The processor has the instructions of `D`; operands and tile have `T` tokens, and the weights `BITS`-bit codes, whose bytes are stored with the highest
/// bit inverted.
#[inline(always)]
unsafe fn tile_of<D: Dot, const T: usize, const P: usize, const BITS: usize>(of: &Operands, tile: Tile) {
    const { assert!(PARTS.is_multiple_of(P) && P.is_multiple_of(8 / BITS)) };
    // SAFETY: groups are below their number and tokens below `T`; the rest is the caller's promise.
    unsafe {
        let mut values = [[vdupq_n_f32(0.0); PARTS]; T];
        for g in 0..of.groups {
            let mut room = [0.0; PANEL];
            let scales = of.scales_at(g, &mut room);
            for first in (0..PARTS).step_by(P) {
                let sums = part_sums::<D, T, P, BITS>(of, g, first);
                for (values, sums) in values.iter_mut().zip(sums) {
                    for (n, sum) in (first..).zip(sums) {
                        let scale = vld1q_f32(scales.add(4 * n));
                        values[n] = vfmaq_f32(values[n], vcvtq_f32_s32(D::total(sum)), scale);
                    }
                }
            }
        }
        for (t, values) in values.iter().enumerate() {
            let sx = vdupq_n_f32(*of.sx.add(t));
            for (n, value) in values.iter().enumerate() {
                tile.store_scaled(t, n * float32x4_t::LANES, *value, sx);
            }
        }
    }
}

/// The exact sums of `P` parts of group `g`, from `first` on.
///
/// # Safety
/// As [`tile_of`]; the group and the parts exist.
#[inline(always)]
unsafe fn part_sums<D: Dot, const T: usize, const P: usize, const BITS: usize>(
    of: &Operands,
    g: usize,
    first: usize,
) -> [[D::Sums; P]; T] {
    let (levels, quad_bytes) = (8 / BITS, PANEL * QUAD / 8 * BITS);
    // SAFETY: the group's quads are within the panel and within each token's codes; the rest is the caller's promise.
    unsafe {
        let (quads, x) = (of.quads(g), of.codes(g));
        let weights = of.weights(g).add(first / levels * 16);
        let mut sums: [[D::Sums; P]; T] = std::array::from_fn(|t| {
            let raised = of.raised(t, g);
            std::array::from_fn(|n| D::starting_at(if n % levels + 1 == levels { 0 } else { -raised }))
        });
        let whole = quads / LOADED * LOADED;
        for q in (0..whole).step_by(LOADED) {
            let x = std::array::from_fn(|t| vld1q_s8(x.add(t * of.x_stride + q * QUAD)));
            let quad = weights.add(q * quad_bytes);
            add::<D, T, P, BITS, 0, 1>(&mut sums, [quad, quad.add(quad_bytes)].map(Some), &x);
            let quad = quad.add(2 * quad_bytes);
            add::<D, T, P, BITS, 2, 3>(&mut sums, [quad, quad.add(quad_bytes)].map(Some), &x);
        }
        for q in whole..quads {
            let x = std::array::from_fn(|t| {
                let quad = x.add(t * of.x_stride + q * QUAD).cast::<i32>().read_unaligned();
                vreinterpretq_s8_s32(vdupq_n_s32(quad))
            });
            add::<D, T, P, BITS, 0, 1>(&mut sums, [Some(weights.add(q * quad_bytes)), None], &x);
        }
        sums
    }
}

/// Adds the products of two quads, or of one.
///
/// # Safety
/// As [`tile_of`]; the quads exist.
#[inline(always)]
unsafe fn add<D: Dot, const T: usize, const P: usize, const BITS: usize, const A: i32, const B: i32>(
    sums: &mut [[D::Sums; P]; T],
    quads: [Option<*const u8>; 2],
    x: &[int8x16_t; T],
) {
    // SAFETY: as the caller promises.
    unsafe {
        for n in 0..P {
            let w = quads.map(|quad| quad.map_or(vdupq_n_s8(0), |quad| part::<BITS>(quad, n)));
            for (sums, &x) in sums.iter_mut().zip(x) {
                D::add::<A, B>(&mut sums[n], w, x);
            }
        }
    }
}
