//! Powers of two, from which exponentials, sigmoid and hyperbolic tangent are built.

use crate::elementary::{EXP_LOW, EXP2_OF_FLOOR as EXP2, HIGHEST, LOG2_E_LOW, LOWEST};
use crate::vector::Split;
use std::f32::consts::LOG2_E;

/// The reference implementation of the vectors' `2^t`.
pub(crate) fn exp2(t: f32) -> f32 {
    // NaN stays NaN.
    let t = if t < LOWEST { LOWEST } else { t };
    let t = if t > HIGHEST { HIGHEST } else { t };
    let n = t.floor();
    let f = t - n;
    let p = EXP2[1..].iter().fold(EXP2[0], |p, c| p * f + c);
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Lanewise `2^t` of vectors; NaN stays NaN.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
pub(crate) unsafe fn exp2_of<V: Split, const N: usize>(t: [V; N]) -> [V; N] {
    // SAFETY: the caller has the instructions; nothing else is required of a vector.
    unsafe {
        // Loops, because a closure would be a function without the instructions and might not be inlined.
        let (mut f, mut n) = (t, t);
        for i in 0..N {
            (f[i], n[i]) = t[i].split_exponent();
        }
        exp2_of_sum(f, n)
    }
}

/// Lanewise `e^x` of vectors, `x` clamped to `[EXP_LOW, -EXP_LOW]`; NaN stays NaN.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
pub(crate) unsafe fn exp_of<V: Split, const N: usize>(x: [V; N]) -> [V; N] {
    // SAFETY: the caller has the instructions; nothing else is required of a vector.
    unsafe {
        let (mut f, mut n) = (x, x);
        let (minus, low, scale) = (V::splat(-1.0), V::splat(EXP_LOW), V::splat(LOG2_E));
        for i in 0..N {
            // The lower bound of -x is the upper one of x.
            let x = low.max(low.max(x[i]).mul(minus)).mul(minus);
            n[i] = x.mul(scale).split_exponent().1;
            // The products are not rounded, so that the fraction is as accurate as near zero.
            f[i] = x.mul_add(V::splat(LOG2_E_LOW), x.mul_add(scale, n[i].mul(minus)));
        }
        exp2_of_sum(f, n)
    }
}

/// Lanewise `2^(f + n)` of fractions within `[0, 1]` and integers within `[LOWEST, HIGHEST]`.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn exp2_of_sum<V: Split, const N: usize>(f: [V; N], n: [V; N]) -> [V; N] {
    // SAFETY: the caller has the instructions; nothing else is required of a vector.
    unsafe {
        let mut p = [V::splat(EXP2[0]); N];
        for c in &EXP2[1..] {
            for i in 0..N {
                p[i] = p[i].mul_add(f[i], V::splat(*c));
            }
        }
        for i in 0..N {
            p[i] = p[i].scale2(n[i]);
        }
        p
    }
}

/// `totals + 2^t`, lane by lane; NaN stays NaN.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
pub(crate) unsafe fn add_powers<V: Split, const N: usize>(mut totals: [V; N], t: [V; N]) -> [V; N] {
    // SAFETY: the caller has the instructions; nothing else is required of a vector.
    unsafe {
        let terms = exp2_of(t);
        for (total, term) in totals.iter_mut().zip(terms) {
            *total = total.add(term);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementary::MAX_EXP2_ERROR_ULPS;
    use crate::level::{Level, Set};
    use crate::vector::{Vector, lanes};

    type Exp = Box<dyn Fn(f32) -> f32>;

    /// The reference implementation, and the vectors' `2^t` on every level, one number at a time.
    fn exps() -> Vec<(&'static str, Exp)> {
        let mut all: Vec<(&str, Exp)> = vec![("plain", Box::new(exp2))];
        for level in Level::all() {
            match level.set() {
                Set::Portable => {}
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the level is proof that the processor has AVX2 and FMA.
                Set::Avx2 | Set::AvxVnni => all.push(("AVX2", Box::new(|x| unsafe { exp_avx2(x) }))),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the level is proof that the processor has AVX-512 F and DQ.
                Set::Avx512 => all.push(("AVX-512", Box::new(|x| unsafe { exp_avx512(x) }))),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512Vnni => {}
                #[cfg(target_arch = "aarch64")]
                // SAFETY: the level is proof that the processor has NEON.
                Set::Neon | Set::NeonDot => all.push(("NEON", Box::new(|x| unsafe { exp_neon(x) }))),
            }
        }
        // Several levels use the same vectors.
        all.dedup_by_key(|(name, _)| *name);
        all
    }

    /// # Safety
    /// As [`Vector::add_exp2`].
    #[inline(always)]
    unsafe fn one<V: Vector>(x: f32) -> f32 {
        // SAFETY: the caller has the instructions.
        unsafe { lanes(V::add_exp2([V::splat(0.0)], [V::splat(x)])[0])[0] }
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn exp_avx2(x: f32) -> f32 {
        // SAFETY: the vector's instructions are enabled here.
        unsafe { one::<std::arch::x86_64::__m256>(x) }
    }

    /// # Safety
    /// The processor has AVX-512 F and DQ.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn exp_avx512(x: f32) -> f32 {
        // SAFETY: the vector's instructions are enabled here.
        unsafe { one::<std::arch::x86_64::__m512>(x) }
    }

    /// # Safety
    /// The processor has NEON.
    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    unsafe fn exp_neon(x: f32) -> f32 {
        // SAFETY: the vector's instructions are enabled here.
        unsafe { one::<std::arch::aarch64::float32x4_t>(x) }
    }

    fn check_errors(stride: usize) {
        let bits = |end: f32| (0..=end.to_bits()).step_by(stride);
        let below = || bits(-LOWEST).map(|b| -f32::from_bits(b));
        for (name, exp) in exps() {
            for x in below().chain(bits(HIGHEST).map(f32::from_bits)) {
                let want = f64::from(x).exp2();
                let rounded = want as f32;
                let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
                let error = (f64::from(exp(x)) - want).abs() / ulp;
                assert!(error <= MAX_EXP2_ERROR_ULPS, "{name} 2^{x:e}: {error:.3} ULP");
            }
        }
    }

    #[test]
    fn errors_of_a_dense_sample_are_within_their_bound() {
        check_errors(if cfg!(miri) { 40_000_003 } else { 4099 });
    }

    #[test]
    #[ignore = "every f32 of the range: minutes; run by `just exhaustive`"]
    fn errors_of_every_argument_are_within_their_bound() {
        check_errors(1);
    }
}
