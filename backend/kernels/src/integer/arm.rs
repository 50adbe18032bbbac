//! Integer kernels for 64-bit Arm. A quad of a panel is eight *parts*, vectors of four outputs.

use super::{Kernel, Operands};
use crate::share::Tile;
use crate::vector::Vector;
use crate::{Integer, PANEL, QUAD};
use lstmc_frontend::ir::PackedWidth;
use std::arch::aarch64::*;

/// Tokens per tile: two vectors of sums each, weights, activations, products.
const TOKENS: usize = 8;

/// Parts of a quad.
const PARTS: usize = PANEL / 4;

pub(super) fn kernel(format: Integer) -> Option<(usize, Kernel)> {
    match (format.width, format.signed) {
        (PackedWidth::Eight, true) => Some((TOKENS, tile_of::<8>)),
        (PackedWidth::Four, true) => Some((TOKENS, tile_of::<4>)),
        (PackedWidth::Two, true) => Some((TOKENS, tile_of::<2>)),
        _ => None,
    }
}

/// # Safety
/// The processor has NEON; operands and tile have `n <= TOKENS` tokens, and the weights `BITS`-bit codes, whose bytes are stored with the highest bit inverted.
#[target_feature(enable = "neon")]
unsafe fn tile_of<const BITS: i32>(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: the same instructions are enabled here; operands and tile have `n` tokens, as the caller promises.
    unsafe {
        match n {
            1 => several::<1, BITS>(of, tile),
            2 => several::<2, BITS>(of, tile),
            3 => several::<3, BITS>(of, tile),
            4 => several::<4, BITS>(of, tile),
            5 => several::<5, BITS>(of, tile),
            6 => several::<6, BITS>(of, tile),
            7 => several::<7, BITS>(of, tile),
            _ => several::<TOKENS, BITS>(of, tile),
        }
    }
}

/// The signed codes of a part of a quad.
///
/// # Safety
/// The processor has NEON; a quad of `BITS`-bit codes is at the address.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn part<const BITS: i32>(quad: *const u8, part: usize) -> int8x16_t {
    let levels = 8 / BITS as usize;
    // SAFETY: a quad has 128, 64 or 32 bytes, of which 16 are loaded.
    let v = unsafe { vld1q_u8(quad.add(part / levels * 16)) };
    if BITS == 8 {
        return vreinterpretq_s8_u8(v);
    }
    let v = veorq_u8(v, vdupq_n_u8(0x80));
    let down = vdupq_n_s8(-((part % levels) as i8 * BITS as i8));
    let code = vandq_u8(vshlq_u8(v, down), vdupq_n_u8(u8::MAX >> (8 - BITS)));
    vsubq_s8(vreinterpretq_s8_u8(code), vdupq_n_s8(1 << (BITS - 1)))
}

/// # Safety
/// As [`tile_of`], with `T` tokens.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn several<const T: usize, const BITS: i32>(of: &Operands, tile: Tile) {
    let quad_bytes = PANEL * QUAD / 8 * BITS as usize;
    // SAFETY: NEON is enabled here; groups are below their number and tokens below `T`; a group's quads are within the panel and within each token's codes.
    unsafe {
        let mut values = [[vdupq_n_f32(0.0); PARTS]; T];
        for g in 0..of.groups {
            let (weights, x) = (of.weights(g), of.codes(g));
            let mut room = [0.0; PANEL];
            let scales = of.scales_at(g, &mut room);
            for n in 0..PARTS {
                // Two sums per output.
                let mut sums = [[vdupq_n_s32(0); 2]; T];
                for q in 0..of.quads(g) {
                    let w = part::<BITS>(weights.add(q * quad_bytes), n);
                    for (t, sums) in sums.iter_mut().enumerate() {
                        let x = x.add(t * of.x_stride + q * QUAD).cast::<i32>().read_unaligned();
                        let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
                        // A product of two i8 fits an i16; pairs are added as i32.
                        sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(w), vget_low_s8(x)));
                        sums[1] = vpadalq_s16(sums[1], vmull_high_s8(w, x));
                    }
                }
                let scale = vld1q_f32(scales.add(4 * n));
                for (sums, values) in sums.into_iter().zip(&mut values) {
                    let sum = vcvtq_f32_s32(vpaddq_s32(sums[0], sums[1]));
                    values[n] = vfmaq_f32(values[n], sum, scale);
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
