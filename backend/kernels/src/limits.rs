//! What a core can do at most: loops too simple to be slow, to measure kernels against. For benchmarks alone.

use crate::level::{Level, Set};
use crate::vector::Vector;
use std::hint::black_box;

/// Independent sums: enough to hide an instruction's latency, few enough for sixteen registers.
const SUMS: usize = 12;

/// Reads f32s once, from first to last, in vectors of `level`, and returns their sum (in no particular order).
pub fn read(level: Level, from: &[f32]) -> f32 {
    match level.set() {
        Set::Portable => from.iter().sum(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is proof that the processor has AVX2 and FMA.
        Set::Avx2 => unsafe { x86::read_avx2(from) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is proof that the processor has AVX-512 F.
        Set::Avx512 | Set::Avx512Vnni => unsafe { x86::read_avx512(from) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the level is proof that the processor has NEON.
        Set::Neon => unsafe { read_vectors::<std::arch::aarch64::float32x4_t>(from) },
    }
}

/// Does multiply-adds of f32s in registers, `turns` times in the widest vectors of `level`. Returns how many; none where there is no such loop.
pub fn multiply_floats(level: Level, turns: usize) -> Option<usize> {
    let lanes = match level.set() {
        Set::Portable => return None,
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is proof that the processor has AVX2 and FMA.
        Set::Avx2 => unsafe { x86::multiply_avx2(turns) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is proof that the processor has AVX-512 F.
        Set::Avx512 | Set::Avx512Vnni => unsafe { x86::multiply_avx512(turns) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the level is proof that the processor has NEON.
        Set::Neon => unsafe { multiply_vectors::<std::arch::aarch64::float32x4_t>(turns) },
    };
    Some(turns * SUMS * lanes)
}

/// Does multiply-adds of bytes in registers, `turns` times in the widest vectors of `level`. Returns how many; none where there is no such loop.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "there is no such loop"))]
pub fn multiply_integers(level: Level, turns: usize) -> Option<usize> {
    match level.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is proof that the processor has AVX-512 F and VNNI.
        Set::Avx512Vnni => Some(turns * SUMS * unsafe { x86::dot_vnni(turns) }),
        _ => None,
    }
}

/// # Safety
/// As the methods of [`Vector`].
#[inline(always)]
unsafe fn read_vectors<V: Vector>(from: &[f32]) -> f32 {
    let (block, mut lanes) = (SUMS * V::LANES, [0.0f32; 16]);
    let whole = from.len() / block * block;
    // SAFETY: the caller has the instructions; a block lies within the slice, and sixteen lanes are the most there are.
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
    // SAFETY: the caller has the instructions; nothing else is needed of a vector.
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
    use super::{SUMS, multiply_vectors, read_vectors};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn read_avx2(from: &[f32]) -> f32 {
        // SAFETY: the instructions are enabled here.
        unsafe { read_vectors::<__m256>(from) }
    }

    #[target_feature(enable = "avx512f")]
    pub(crate) fn read_avx512(from: &[f32]) -> f32 {
        // SAFETY: the instructions are enabled here.
        unsafe { read_vectors::<__m512>(from) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn multiply_avx2(turns: usize) -> usize {
        // SAFETY: the instructions are enabled here.
        unsafe { multiply_vectors::<__m256>(turns) }
    }

    #[target_feature(enable = "avx512f")]
    pub(crate) fn multiply_avx512(turns: usize) -> usize {
        // SAFETY: the instructions are enabled here.
        unsafe { multiply_vectors::<__m512>(turns) }
    }

    /// Returns bytes per vector.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(crate) fn dot_vnni(turns: usize) -> usize {
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
