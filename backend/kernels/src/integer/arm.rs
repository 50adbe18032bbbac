//! Integer kernels for 64-bit Arm.

use super::{Operands, QUAD, QUAD_BYTES};
use crate::share::Tile;
use crate::vector::Vector;
use std::arch::aarch64::*;

/// One token.
///
/// # Safety
/// The processor has NEON; the tile has a token.
#[target_feature(enable = "neon")]
pub(super) unsafe fn neon(of: &Operands, tile: Tile) {
    // SAFETY: NEON is enabled here; operands and tile have a token, as the caller promises; the group's quads are within the weights and
    // within the token's codes.
    unsafe {
        let mut values = [vdupq_n_f32(0.0); 8];
        for g in 0..of.groups {
            let quads = of.quads[usize::from(g + 1 == of.groups)];
            let weights = of.weights.add(g * of.group_stride);
            let x = of.x.add(g * of.quads[0] * QUAD);
            // Two outputs each, two sums per output.
            let mut sums = [vdupq_n_s32(0); 16];
            for q in 0..quads {
                let x = vdup_n_s32(x.add(q * QUAD).cast::<i32>().read_unaligned());
                let x = vreinterpret_s8_s32(x);
                let w = weights.add(q * QUAD_BYTES).cast::<i8>();
                for (n, sum) in sums.iter_mut().enumerate() {
                    // A product of two i8 fits an i16; pairs are added as i32.
                    *sum = vpadalq_s16(*sum, vmull_s8(vld1_s8(w.add(8 * n)), x));
                }
            }
            for (n, value) in values.iter_mut().enumerate() {
                let sum = vcvtq_f32_s32(vpaddq_s32(sums[2 * n], sums[2 * n + 1]));
                *value = vfmaq_f32(*value, sum, vld1q_f32(of.scales.add(g * 32 + 4 * n)));
            }
        }
        let sx = vdupq_n_f32(*of.sx);
        for (n, value) in values.iter().enumerate() {
            tile.store(0, n * float32x4_t::LANES, vmulq_f32(*value, sx));
        }
    }
}
