//! Integer kernels with AVX-VNNI: the product of bytes of AVX-512 VNNI in vectors of 256 bits. Parts, and their order, are as in [`avx2`](super::avx2).

use super::avx2::{PARTS, TOKENS, opaque, part, prefetch, scaled, scales, store};
use super::{Kernel, LINE, Operands};
use crate::share::Tile;
use crate::{Integer, PANEL, QUAD};
use lstmc_frontend::ir::PackedWidth;
use std::arch::x86_64::*;

/// An instruction that adds to each i32 the products of four unsigned bytes with signed ones.
trait Dot {
    /// # Safety
    /// The processor has the instruction.
    unsafe fn dot(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i;
}

/// As AVX-VNNI encodes it.
struct Vex;

impl Dot for Vex {
    #[inline(always)]
    unsafe fn dot(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller promises the instruction.
        unsafe { _mm256_dpbusd_avx_epi32(sum, weights, x) }
    }
}

pub(super) fn kernel(format: Integer) -> Option<(usize, Kernel)> {
    match (format.width, format.signed) {
        (PackedWidth::Eight, false) => Some((TOKENS, vex::<8>)),
        (PackedWidth::Four, false) => Some((TOKENS, vex::<4>)),
        (PackedWidth::Two, false) => Some((TOKENS, vex::<2>)),
        _ => None,
    }
}

/// # Safety
/// The processor has AVX2, FMA and AVX-VNNI; operands and tile have `n <= TOKENS` tokens, and the weights `BITS`-bit codes, offset.
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn vex<const BITS: u32>(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; the rest is the caller's promise.
    unsafe { several::<Vex, BITS>(n, of, tile) }
}

/// # Safety
/// As [`vex`], with the instruction of `D`.
#[inline(always)]
unsafe fn several<D: Dot, const BITS: u32>(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: operands and tile have `n` tokens, and the processor has the instructions, as the caller promises.
    unsafe {
        match n {
            1 => tile_of::<D, 1, PARTS, BITS>(of, tile),
            2 => tile_of::<D, 2, PARTS, BITS>(of, tile),
            3 => tile_of::<D, 3, 2, BITS>(of, tile),
            4 => tile_of::<D, 4, 2, BITS>(of, tile),
            5 => tile_of::<D, 5, 2, BITS>(of, tile),
            _ => tile_of::<D, TOKENS, 2, BITS>(of, tile),
        }
    }
}

/// `T` tokens: `P` parts at a time.
///
/// # Safety
/// As [`several`], with `T` tokens.
#[inline(always)]
unsafe fn tile_of<D: Dot, const T: usize, const P: usize, const BITS: u32>(of: &Operands, tile: Tile) {
    // SAFETY: the processor has the instructions; groups are below their number and tokens below `T`.
    unsafe {
        let mut values = [[_mm256_setzero_ps(); PARTS]; T];
        for g in 0..of.groups {
            let starts: [i32; T] = std::array::from_fn(|t| -of.raised(t, g));
            for first in (0..PARTS).step_by(P) {
                let sums = if first == 0 {
                    part_sums::<D, T, P, BITS, 0>(of, g, &starts)
                } else {
                    part_sums::<D, T, P, BITS, 2>(of, g, &starts)
                };
                let scales = scales::<BITS>(of, g);
                for (values, sums) in values.iter_mut().zip(&sums) {
                    for (p, &sum) in sums.iter().enumerate() {
                        values[first + p] = scaled(sum, scales[first + p], values[first + p]);
                    }
                }
            }
        }
        store::<T, BITS>(of, tile, &values);
    }
}

/// The exact sums of parts of group `g`, `P` of them from `FIRST` on, from where they start.
///
/// # Safety
/// As [`tile_of`]; the group exists.
#[inline(always)]
unsafe fn part_sums<D: Dot, const T: usize, const P: usize, const BITS: u32, const FIRST: usize>(
    of: &Operands,
    g: usize,
    starts: &[i32; T],
) -> [[__m256i; P]; T] {
    let quad_bytes = PANEL * QUAD / 8 * BITS as usize;
    // SAFETY: the processor has the instructions; the group's quads are within the panel and within each token's codes. Prefetches may use any address.
    unsafe {
        let (quads, weights, x) = (of.quads(g), of.weights(g), of.codes(g));
        let next = of.next.wrapping_add((g * PARTS + FIRST) * of.quads[0] * LINE / 4);
        let rows: [*const i8; T] = opaque(std::array::from_fn(|t| x.add(t * of.x_stride)));
        let mut sums = [[_mm256_setzero_si256(); P]; T];
        for (sums, &start) in sums.iter_mut().zip(starts) {
            *sums = [_mm256_set1_epi32(start); P];
        }
        for q in 0..quads {
            let quad = weights.add(q * quad_bytes);
            if T == 1 {
                prefetch(quad, quad_bytes);
            } else {
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(q * LINE / 4 * P).cast());
            }
            let mut w = [_mm256_setzero_si256(); P];
            for (n, w) in w.iter_mut().enumerate() {
                *w = part::<BITS>(quad, FIRST + n);
            }
            for (row, sums) in rows.iter().zip(&mut sums) {
                let x = _mm256_set1_epi32(row.add(q * QUAD).cast::<i32>().read_unaligned());
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = D::dot(*sum, w, x);
                }
            }
        }
        sums
    }
}

/// The same kernels in the encoding of AVX-512, for tests on processors that have only that.
#[cfg(test)]
pub(in crate::integer) mod evex {
    use super::*;

    struct Evex;

    impl Dot for Evex {
        #[inline(always)]
        unsafe fn dot(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            // SAFETY: the caller promises the instruction.
            unsafe { _mm256_dpbusd_epi32(sum, weights, x) }
        }
    }

    pub(crate) fn kernel(format: Integer) -> Option<(usize, Kernel)> {
        match (format.width, format.signed) {
            (PackedWidth::Eight, false) => Some((TOKENS, evex::<8>)),
            (PackedWidth::Four, false) => Some((TOKENS, evex::<4>)),
            (PackedWidth::Two, false) => Some((TOKENS, evex::<2>)),
            _ => None,
        }
    }

    /// # Safety
    /// As [`vex`], with AVX-512 VL and VNNI.
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512vnni")]
    unsafe fn evex<const BITS: u32>(n: usize, of: &Operands, tile: Tile) {
        // SAFETY: the instructions are enabled here; the rest is the caller's promise.
        unsafe { several::<Evex, BITS>(n, of, tile) }
    }
}
