//! f32 vectors, so that one body serves every instruction set.

/// A vector of f32s. Its methods are instructions.
///
/// # Safety
/// Call a method only if the processor has the instructions, from a function that enables them (otherwise each becomes a
/// call), and with pointers to as many f32s as it loads or stores.
pub(crate) trait Vector: Copy {
    /// The number of f32s.
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// Loads the first `n` lanes, with zero in the others.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Stores the first `n` lanes.
    unsafe fn store_first(self, to: *mut f32, n: usize);
    /// `self * a + b`, rounded once.
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// The larger; `other` if either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `totals + 2^t`, lane by lane; NaN stays NaN.
    unsafe fn add_exp2<const N: usize>(totals: [Self; N], t: [Self; N]) -> [Self; N];
    /// Whether any lane is greater than that of `other`; NaN in either is not greater.
    unsafe fn any_above(self, other: Self) -> bool;
    /// Prefetches a cache line, at least into the second-level cache. Any address is valid.
    unsafe fn prefetch(at: *const f32);
}

/// A vector without instructions for powers of two, which are built from these methods.
///
/// # Safety
/// As [`Vector`].
pub(crate) trait Split: Vector {
    /// `self`, clamped to `[LOWEST, HIGHEST]`, minus its floor, and that floor. NaN stays NaN.
    unsafe fn split_exponent(self) -> (Self, Self);
    /// `self * 2^n` of a number in `[0.5, 2.5]` and an integer within `[LOWEST, HIGHEST]`.
    unsafe fn scale2(self, n: Self) -> Self;
    /// Lanewise `then` where `self < other`, else `otherwise`, also if either is NaN.
    unsafe fn select_less(self, other: Self, then: Self, otherwise: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
}

/// Lanes of the widest vector.
pub(crate) const MOST_LANES: usize = 16;

/// A vector's lanes, as the first of the returned ones.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
pub(crate) unsafe fn lanes<V: Vector>(v: V) -> [f32; MOST_LANES] {
    let mut lanes = [0.0; MOST_LANES];
    // SAFETY: no vector has more lanes; the caller has the instructions.
    unsafe { v.store(lanes.as_mut_ptr()) };
    lanes
}

/// The methods of a vector, with the conditions of their instructions.
macro_rules! instructions {
    ($($(#[$doc:meta])* fn $name:ident$(<const $n:ident: usize>)?($($args:tt)*) $(-> $ret:ty)? { $($body:tt)* })*) => {
        $($(#[$doc])*
        #[inline(always)]
        unsafe fn $name$(<const $n: usize>)?($($args)*) $(-> $ret)? {
            // SAFETY: the trait's condition: the processor has the instructions, and pointers are valid for what they touch.
            unsafe { $($body)* }
        })*
    };
}

/// Calls `f::<V>(arguments)` with the vectors `V` of a level, from a function that enables their instructions (`$avx512` are those of 512 bits), or
/// evaluates `$plain` if there are none. Unsafe, as `f` is, except for the instructions: the level is proof that the processor has them.
macro_rules! with_vectors {
    ($level:expr, $avx512:literal, $plain:expr, $($call:tt)*) => {
        match $level.set() {
            Set::Portable => $plain,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 | Set::AvxVnni => $crate::vector::enabled!("avx2,fma", std::arch::x86_64::__m256, $($call)*),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 | Set::Avx512Vnni => $crate::vector::enabled!($avx512, std::arch::x86_64::__m512, $($call)*),
            #[cfg(target_arch = "aarch64")]
            Set::Neon | Set::NeonDot => $crate::vector::enabled!("neon", std::arch::aarch64::float32x4_t, $($call)*),
        }
    };
}

/// See [`with_vectors`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! enabled {
    ($features:literal, $v:ty, $f:ident($($x:ident: $ty:ty = $value:expr),*) $(-> $ret:ty)?) => {{
        #[target_feature(enable = $features)]
        unsafe fn enabled($($x: $ty),*) $(-> $ret)? {
            // SAFETY: the vector's instructions are enabled here; the caller promises the rest.
            unsafe { $f::<$v>($($x),*) }
        }
        enabled($($value),*)
    }};
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use enabled;
pub(crate) use with_vectors;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Split, Vector};
    use crate::elementary::{EXP2_OF_A_PART, HIGHEST, LOWEST, PARTS, ROUND};
    use crate::exp::add_powers;
    use std::arch::x86_64::*;

    impl Vector for __m512 {
        const LANES: usize = 16;
        instructions! {
            fn splat(x: f32) -> Self { _mm512_set1_ps(x) }
            fn load(from: *const f32) -> Self { _mm512_loadu_ps(from) }
            fn load_first(from: *const f32, n: usize) -> Self { _mm512_maskz_loadu_ps(mask(n), from) }
            fn store(self, to: *mut f32) { _mm512_storeu_ps(to, self); }
            fn store_first(self, to: *mut f32, n: usize) { _mm512_mask_storeu_ps(to, mask(n), self); }
            fn mul_add(self, a: Self, b: Self) -> Self { _mm512_fmadd_ps(self, a, b) }
            fn add(self, other: Self) -> Self { _mm512_add_ps(self, other) }
            fn mul(self, other: Self) -> Self { _mm512_mul_ps(self, other) }
            fn div(self, other: Self) -> Self { _mm512_div_ps(self, other) }
            fn max(self, other: Self) -> Self { _mm512_max_ps(self, other) }
            /// A vector holds half a table of `2^(j / 32)`, which saves half the polynomial.
            fn add_exp2<const N: usize>(totals: [Self; N], t: [Self; N]) -> [Self; N] {
                /// Adding this rounds to a multiple of 1/32, which is then in the low bits. Numbers too large for that are so large, or small,
                /// that their fraction does not matter.
                const ROUND_PARTS: f32 = ROUND / 32.0;
                const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
                const FIVE_BITS_DOWN: i32 = 5 << 4 | _MM_FROUND_TO_NEG_INF;
                let parts = [Self::load(PARTS.as_ptr()), Self::load(PARTS.as_ptr().add(16))];
                let [a, b] = EXP2_OF_A_PART;
                let mut totals = totals;
                for (total, t) in totals.iter_mut().zip(t) {
                    let f = _mm512_reduce_ps::<FIVE_BITS_DOWN>(t);
                    let p = f.mul_add(Self::splat(a), Self::splat(b)).mul_add(f, Self::splat(1.0));
                    let j = _mm512_castps_si512(_mm512_add_round_ps::<DOWN>(t, Self::splat(ROUND_PARTS)));
                    let part = _mm512_permutex2var_ps(parts[0], j, parts[1]);
                    *total = _mm512_scalef_ps(p, t).mul_add(part, *total);
                }
                totals
            }
            fn any_above(self, other: Self) -> bool { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self, other) != 0 }
            fn prefetch(at: *const f32) { _mm_prefetch::<_MM_HINT_T1>(at.cast()); }
        }
    }

    /// The first `n` of 16 lanes.
    #[inline(always)]
    fn mask(n: usize) -> __mmask16 {
        ((1u32 << n.min(16)) - 1) as u16
    }

    impl Vector for __m256 {
        const LANES: usize = 8;
        instructions! {
            fn splat(x: f32) -> Self { _mm256_set1_ps(x) }
            fn load(from: *const f32) -> Self { _mm256_loadu_ps(from) }
            fn load_first(from: *const f32, n: usize) -> Self { _mm256_maskload_ps(from, lanes(n)) }
            fn store(self, to: *mut f32) { _mm256_storeu_ps(to, self); }
            fn store_first(self, to: *mut f32, n: usize) { _mm256_maskstore_ps(to, lanes(n), self); }
            fn mul_add(self, a: Self, b: Self) -> Self { _mm256_fmadd_ps(self, a, b) }
            fn add(self, other: Self) -> Self { _mm256_add_ps(self, other) }
            fn mul(self, other: Self) -> Self { _mm256_mul_ps(self, other) }
            fn div(self, other: Self) -> Self { _mm256_div_ps(self, other) }
            fn max(self, other: Self) -> Self { _mm256_max_ps(self, other) }
            fn add_exp2<const N: usize>(totals: [Self; N], t: [Self; N]) -> [Self; N] { add_powers(totals, t) }
            fn any_above(self, other: Self) -> bool {
                _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self, other)) != 0
            }
            fn prefetch(at: *const f32) { _mm_prefetch::<_MM_HINT_T1>(at.cast()); }
        }
    }

    impl Split for __m256 {
        instructions! {
            fn split_exponent(self) -> (Self, Self) {
                // The constants first: if t is NaN it is kept.
                let t = _mm256_min_ps(Self::splat(HIGHEST), _mm256_max_ps(Self::splat(LOWEST), self));
                let n = _mm256_floor_ps(t);
                (_mm256_sub_ps(t, n), n)
            }
            fn scale2(self, n: Self) -> Self {
                let n = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self), n))
            }
            fn select_less(self, other: Self, then: Self, otherwise: Self) -> Self {
                _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps::<_CMP_LT_OQ>(self, other))
            }
            fn sqrt(self) -> Self { _mm256_sqrt_ps(self) }
        }
    }

    /// The first `n` of 8 lanes.
    #[inline(always)]
    fn lanes(n: usize) -> __m256i {
        static LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: eight i32s follow each of the places 0 to 8; the caller has the instruction.
        unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - n.min(8)).cast()) }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Split, Vector};
    use crate::elementary::{HIGHEST, LOWEST};
    use crate::exp::add_powers;
    use std::arch::aarch64::*;

    impl Vector for float32x4_t {
        const LANES: usize = 4;
        instructions! {
            fn splat(x: f32) -> Self { vdupq_n_f32(x) }
            fn load(from: *const f32) -> Self { vld1q_f32(from) }
            fn load_first(from: *const f32, n: usize) -> Self {
                let mut lanes = [0.0; 4];
                for (i, x) in lanes.iter_mut().enumerate().take(n) {
                    *x = *from.add(i);
                }
                vld1q_f32(lanes.as_ptr())
            }
            fn store(self, to: *mut f32) { vst1q_f32(to, self); }
            fn store_first(self, to: *mut f32, n: usize) {
                let mut lanes = [0.0; 4];
                vst1q_f32(lanes.as_mut_ptr(), self);
                for (i, x) in lanes.into_iter().enumerate().take(n) {
                    *to.add(i) = x;
                }
            }
            fn mul_add(self, a: Self, b: Self) -> Self { vfmaq_f32(b, self, a) }
            fn add(self, other: Self) -> Self { vaddq_f32(self, other) }
            fn mul(self, other: Self) -> Self { vmulq_f32(self, other) }
            fn div(self, other: Self) -> Self { vdivq_f32(self, other) }
            fn max(self, other: Self) -> Self { vbslq_f32(vcgtq_f32(self, other), self, other) }
            fn add_exp2<const N: usize>(totals: [Self; N], t: [Self; N]) -> [Self; N] { add_powers(totals, t) }
            fn any_above(self, other: Self) -> bool { vmaxvq_u32(vcgtq_f32(self, other)) != 0 }
        }
        /// Left to the hardware prefetcher: the instruction is not stable in Rust.
        #[inline(always)]
        unsafe fn prefetch(_: *const f32) {}
    }

    impl Split for float32x4_t {
        instructions! {
            fn split_exponent(self) -> (Self, Self) {
                // These keep NaN.
                let t = vminq_f32(vmaxq_f32(self, Self::splat(LOWEST)), Self::splat(HIGHEST));
                let n = vrndmq_f32(t);
                (vsubq_f32(t, n), n)
            }
            fn scale2(self, n: Self) -> Self {
                let n = vshlq_n_s32::<23>(vcvtnq_s32_f32(n));
                vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self), n))
            }
            fn select_less(self, other: Self, then: Self, otherwise: Self) -> Self {
                vbslq_f32(vcltq_f32(self, other), then, otherwise)
            }
            fn sqrt(self) -> Self { vsqrtq_f32(self) }
        }
    }
}
