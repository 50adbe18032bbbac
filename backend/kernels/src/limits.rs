//! The peak rates of a core: loops as simple as possible, to measure kernels against. For benchmarks only.

use crate::level::{Level, Set};
use crate::vector::{Vector, with_vectors};
use std::hint::black_box;

/// Independent sums: enough to hide an instruction's latency, few enough for sixteen registers.
const SUMS: usize = 12;

/// Reads f32s once, from first to last, in vectors of `level`, and returns their sum (in no particular order).
pub fn read(level: Level, from: &[f32]) -> f32 {
    // SAFETY: nothing but instructions is required.
    unsafe { with_vectors!(level, "avx512f", from.iter().sum(), read_vectors(from: &[f32] = from) -> f32) }
}

/// Runs f32 multiply-adds in registers, `turns` times, in the widest vectors of `level`. Returns how many; `None` if there is no such loop.
pub fn multiply_floats(level: Level, turns: usize) -> Option<usize> {
    // SAFETY: nothing but instructions is required.
    let lanes = unsafe {
        with_vectors!(level, "avx512f", return None, multiply_vectors(turns: usize = turns) -> usize)
    };
    Some(turns * SUMS * lanes)
}

/// Runs multiply-adds of bytes in registers, `turns` times, with the instructions of the level's kernels. Returns how many; `None` if it has no kernels.
pub fn multiply_integers(level: Level, turns: usize) -> Option<usize> {
    // SAFETY: the level is proof that the processor has the instructions.
    let each = unsafe {
        match level.set() {
            Set::Portable => return None,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 | Set::Avx512 => x86::widened(turns),
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni => x86::avx_vnni(turns),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => x86::avx512_vnni(turns),
            #[cfg(target_arch = "aarch64")]
            Set::Neon => arm::pairs(turns),
            #[cfg(target_arch = "aarch64")]
            Set::NeonDot => arm::dots(turns),
        }
    };
    Some(turns * SUMS * each)
}

/// # Safety
/// As the methods of [`Vector`].
#[inline(always)]
unsafe fn read_vectors<V: Vector>(from: &[f32]) -> f32 {
    let (block, mut lanes) = (SUMS * V::LANES, [0.0f32; 16]);
    let whole = from.len() / block * block;
    // SAFETY: the caller has the instructions; a block is within the slice, and no vector has more than sixteen lanes.
    unsafe {
        let mut sums = [V::splat(0.0); SUMS];
        for at in (0..whole).step_by(block) {
            let from = from.as_ptr().add(at);
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(V::load(from.add(n * V::LANES)));
            }
        }
        let sum = sums.into_iter().fold(V::splat(0.0), |a, b| a.add(b));
        sum.store(lanes.as_mut_ptr());
    }
    lanes.iter().chain(&from[whole..]).sum()
}

/// Returns f32s per vector.
///
/// # Safety
/// As the methods of [`Vector`].
#[inline(always)]
unsafe fn multiply_vectors<V: Vector>(turns: usize) -> usize {
    // SAFETY: the caller has the instructions; nothing else is required of a vector.
    unsafe {
        let (a, b) = (V::splat(black_box(0.5)), V::splat(black_box(1.0)));
        let mut sums = [V::splat(black_box(0.0)); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = sum.mul_add(a, b);
            }
        }
        black_box(sums);
    }
    V::LANES
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::SUMS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Codes of 16 bits; returns how many a vector has.
    #[target_feature(enable = "avx2")]
    pub(crate) fn widened(turns: usize) -> usize {
        let (a, b) = (_mm256_set1_epi16(black_box(3)), _mm256_set1_epi16(black_box(-5)));
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                // The product depends on the sum, so that it is computed.
                *sum = _mm256_add_epi32(a, _mm256_madd_epi16(*sum, b));
            }
        }
        black_box(sums);
        size_of::<__m256i>() / 2
    }

    /// Returns bytes per vector.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(crate) fn avx_vnni(turns: usize) -> usize {
        let (a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-5)));
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        size_of::<__m256i>()
    }

    /// Returns bytes per vector.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(crate) fn avx512_vnni(turns: usize) -> usize {
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-5)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        size_of::<__m512i>()
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::SUMS;
    use crate::integer::arm::Sdot;
    use std::arch::aarch64::*;
    use std::hint::black_box;

    /// Products of 16 bits, added in pairs; returns how many.
    #[target_feature(enable = "neon")]
    pub(crate) fn pairs(turns: usize) -> usize {
        let b = vdup_n_s8(black_box(-5));
        let mut sums = [vdupq_n_s32(0); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                // The product depends on the sum, so that it is computed.
                let a = vreinterpret_s8_s32(vget_low_s32(*sum));
                *sum = vpadalq_s16(*sum, vmull_s8(a, b));
            }
        }
        black_box(sums);
        size_of::<int8x8_t>()
    }

    /// Returns bytes per vector.
    ///
    /// # Safety
    /// The processor has `dotprod`.
    #[target_feature(enable = "neon,dotprod")]
    pub(crate) unsafe fn dots(turns: usize) -> usize {
        let (a, b) = (vdupq_n_s8(black_box(3)), vdupq_n_s8(black_box(-5)));
        let mut sums = [vdupq_n_s32(0); SUMS];
        for _ in 0..turns {
            for sum in &mut sums {
                // SAFETY: the instruction is enabled here.
                *sum = unsafe { Sdot::dot::<0>(*sum, a, b) };
            }
        }
        black_box(sums);
        size_of::<int8x16_t>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_once() {
        for len in [0, 1, 47, 48, 191, 192, 193, 4000] {
            let numbers: Vec<f32> = (0..len).map(|i| (i % 7) as f32).collect();
            for level in Level::all() {
                assert_eq!(read(level, &numbers), numbers.iter().sum::<f32>(), "{level:?}, {len}");
            }
        }
    }

    #[test]
    fn work_is_counted() {
        for level in Level::all() {
            let counted = [1, 10].map(|turns| multiply_floats(level, turns));
            assert_eq!(counted[0].map(|n| n * 10), counted[1]);
            let counted = [1, 10].map(|turns| multiply_integers(level, turns));
            assert_eq!(counted[0].map(|n| n * 10), counted[1]);
        }
    }
}
