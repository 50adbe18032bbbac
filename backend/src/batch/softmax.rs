//! The log-sum-exp of logits, which come some at a time.
//!
//! ```text
//!   log2e (log-sum-exp of x) = r + log2 sum_o 2^(log2e x_o - r)          r: an integer near log2e max x
//! ```
//!
//! With base 2 a term takes one multiply-add, the split of its exponent, and a polynomial of degree 5, the one that generated code uses for sums.
//! `r` moves only when a logit exceeds it by much (as in Milakov and Gimelshein 2018, but rarely), and by an integer, so that sums are scaled
//! without rounding.

use super::level::{Level, Set};
use super::vector::Vector;
use crate::codegen::math::EXP2;
use std::f32::consts::LOG2_E;

/// Largest error of a power of two on `[LOWEST, MOST_ABOVE]` in units in the last place; smaller arguments count as `LOWEST`.
pub const MAX_EXP2_ERROR_ULPS: f64 = 3.5;

/// Below this the result would not be a normal number. So small a term adds nothing to a sum of at least 1/2.
const LOWEST: f32 = -126.0;

/// By how much a logit, times log2 e, may exceed the reference: `2^64` times as many words as fit in memory is a finite f32.
const MOST_ABOVE: f32 = 64.0;

/// Vectors at a time, enough to hide an addition's latency.
const UNROLL: usize = 4;

/// Lanes of the widest vector.
const LANES: usize = 16;

/// `log2e` times the log-sum-exp of some logits, as `reference + log2 (sum of lanes)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    reference: f32,
    lanes: [f32; LANES],
}

impl Sums {
    /// Of no logits.
    pub(super) const NOTHING: Sums = Sums { reference: f32::MIN, lanes: [0.0; LANES] };

    /// Adds `count` columns of rows, `stride` apart, each to its own sums.
    ///
    /// # Panics
    /// Where the slice is too short.
    pub(super) fn add_rows(level: Level, rows: &[f32], stride: usize, count: usize, sums: &mut [Sums]) {
        super::check_rows("logits", sums.len(), stride, count, rows.len());
        match level.set() {
            Set::Portable => {
                for (t, sums) in sums.iter_mut().enumerate() {
                    let row = &rows[t * stride..][..count];
                    sums.reach(row);
                    sums.add(row);
                }
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level is proof that the processor has its instructions; the rows were checked.
            Set::Avx2 => unsafe { avx2(rows.as_ptr(), stride, count, sums) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Set::Avx512 | Set::Avx512Vnni => unsafe { avx512(rows.as_ptr(), stride, count, sums) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Set::Neon => unsafe { neon(rows.as_ptr(), stride, count, sums) },
        }
    }

    /// Moves the reference, where the largest of new logits asks for it.
    fn reach(&mut self, logits: &[f32]) {
        let top = LOG2_E * logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if top > self.reference + MOST_ABOVE {
            let reference = top.ceil();
            let scale = power_of_two(self.reference - reference) as f32;
            self.lanes.iter_mut().for_each(|s| *s *= scale);
            self.reference = reference;
        }
    }

    /// Adds logits that are not above what the reference allows.
    fn add(&mut self, logits: &[f32]) {
        for logits in logits.chunks(LANES) {
            for (sum, x) in self.lanes.iter_mut().zip(logits) {
                *sum += exp2(x * LOG2_E - self.reference);
            }
        }
    }

    /// What [`log_sum_exp_of`] adds up.
    pub(super) fn total(&self) -> [f32; 2] {
        [self.reference, self.lanes.iter().sum()]
    }
}

/// The log-sum-exp of all logits of some parts, of each of which [`Sums::total`] is given. One that holds a NaN or plus infinity gives NaN, and so
/// does one with an element above 2^127; no logits, or nothing but minus infinity, give minus infinity.
pub(super) fn log_sum_exp_of(parts: &[[f32; 2]]) -> f32 {
    let top = parts.iter().map(|p| p[0]).fold(f32::MIN, f32::max);
    let sum: f64 = parts.iter().map(|&[r, sum]| f64::from(sum) * power_of_two(r - top)).sum();
    if top == f32::MIN && !sum.is_nan() {
        return f32::NEG_INFINITY;
    }
    // Divided by the number that the logits were multiplied with, not by log2(e): its rounding error cancels.
    ((f64::from(top) + sum.log2()) / f64::from(LOG2_E)) as f32
}

/// `ln(sum_o exp(row[o]))`; see [`log_sum_exp_of`].
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let mut sums = [Sums::NOTHING];
    Sums::add_rows(Level::best(), row, row.len(), row.len(), &mut sums);
    log_sum_exp_of(&sums.map(|s| s.total()))
}

/// `2^n` of an integer `n <= 0`; 0 where that is no normal number. NaN, the difference of two infinities, stays.
fn power_of_two(n: f32) -> f64 {
    if n >= -1022.0 {
        f64::from_bits(((n as i64 + 1023) as u64) << 52)
    } else if n.is_nan() {
        f64::NAN
    } else {
        0.0
    }
}

/// The plain twin of the vectors' `2^t`, for `t` of at most [`MOST_ABOVE`].
pub(super) fn exp2(t: f32) -> f32 {
    // NaN stays.
    let t = if t < LOWEST { LOWEST } else { t };
    let n = t.round_ties_even();
    let f = t - n;
    let p = EXP2[1..].iter().fold(EXP2[0], |p, c| p * f + c);
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Lanewise `2^t` of vectors, for `t` of at most [`MOST_ABOVE`]; NaN stays NaN.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn exp2_of<V: Vector, const N: usize>(t: [V; N]) -> [V; N] {
    // SAFETY: the caller's.
    unsafe {
        // The constant first: where t is NaN it is kept.
        let t = t.map(|t| V::splat(LOWEST).max(t));
        let n = t.map(|t| t.nearest());
        let f: [V; N] = std::array::from_fn(|i| t[i].sub(n[i]));
        let mut p = [V::splat(EXP2[0]); N];
        for c in &EXP2[1..] {
            p = std::array::from_fn(|i| p[i].mul_add(f[i], V::splat(*c)));
        }
        std::array::from_fn(|i| p[i].scale2(n[i]))
    }
}

/// Lanewise sums of `2^(log2e x - reference)` of so many logits, which fill whole vectors.
///
/// # Safety
/// The processor has the instructions, and the logits exist.
#[inline(always)]
unsafe fn sum_of<V: Vector>(row: *const f32, count: usize, reference: f32) -> V {
    // SAFETY: the caller's.
    unsafe {
        let (log2e, minus) = (V::splat(LOG2_E), V::splat(-reference));
        let mut totals = [V::splat(0.0); UNROLL];
        let blocks = count / (UNROLL * V::LANES) * (UNROLL * V::LANES);
        for at in (0..blocks).step_by(UNROLL * V::LANES) {
            let x: [V; UNROLL] = std::array::from_fn(|u| V::load(row.add(at + u * V::LANES)));
            let terms = exp2_of(x.map(|x| x.mul_add(log2e, minus)));
            for (total, term) in totals.iter_mut().zip(terms) {
                *total = total.add(term);
            }
        }
        for at in (blocks..count).step_by(V::LANES) {
            let [term] = exp2_of([V::load(row.add(at)).mul_add(log2e, minus)]);
            totals[0] = totals[0].add(term);
        }
        totals[0].add(totals[1]).add(totals[2].add(totals[3]))
    }
}

/// See [`Sums::add_rows`].
///
/// # Safety
/// The processor has the instructions, and the rows exist.
#[inline(always)]
unsafe fn add_rows_of<V: Vector>(rows: *const f32, stride: usize, count: usize, sums: &mut [Sums]) {
    let whole = count / LANES * LANES;
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the row exists, and its lanes do below `count`; the instructions are the caller's to have.
        unsafe {
            let row = rows.add(t * stride);
            let rest = std::slice::from_raw_parts(row.add(whole), count - whole);
            let mut top = V::splat(f32::NEG_INFINITY);
            for at in (0..whole).step_by(V::LANES) {
                top = V::load(row.add(at)).max(top);
            }
            let most = V::splat(sums.reference + MOST_ABOVE);
            if top.mul_add(V::splat(LOG2_E), V::splat(0.0)).any_above(most) {
                sums.reach(&lanes(top)[..V::LANES]);
            }
            let to = sums.lanes.as_mut_ptr();
            V::load(to).add(sum_of(row, whole, sums.reference)).store(to);
            sums.reach(rest);
            sums.add(rest);
        }
    }
}

/// A vector's lanes, the first of those returned.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn lanes<V: Vector>(v: V) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    // SAFETY: no vector has more lanes; the instructions are the caller's to have.
    unsafe { v.store(lanes.as_mut_ptr()) };
    lanes
}

/// # Safety
/// As [`add_rows_of`]; the instructions are those of AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(rows: *const f32, stride: usize, count: usize, sums: &mut [Sums]) {
    // SAFETY: the caller's.
    unsafe { add_rows_of::<std::arch::x86_64::__m512>(rows, stride, count, sums) }
}

/// # Safety
/// As [`add_rows_of`]; the instructions are those of AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(rows: *const f32, stride: usize, count: usize, sums: &mut [Sums]) {
    // SAFETY: the caller's.
    unsafe { add_rows_of::<std::arch::x86_64::__m256>(rows, stride, count, sums) }
}

/// # Safety
/// As [`add_rows_of`]; the instructions are those of NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(rows: *const f32, stride: usize, count: usize, sums: &mut [Sums]) {
    // SAFETY: the caller's.
    unsafe { add_rows_of::<std::arch::aarch64::float32x4_t>(rows, stride, count, sums) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Exp = Box<dyn Fn(f32) -> f32>;

    /// The plain twin, and the vectors' `2^t` on every level, one number at a time.
    fn exps() -> Vec<(&'static str, Exp)> {
        let mut all: Vec<(&str, Exp)> = vec![("plain", Box::new(exp2))];
        for level in Level::all() {
            match level.set() {
                Set::Portable => {}
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a level is proof that the processor has its instructions.
                Set::Avx2 => all.push(("AVX2", Box::new(|x| unsafe { exp_avx2(x) }))),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Set::Avx512 => all.push(("AVX-512", Box::new(|x| unsafe { exp_avx512(x) }))),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512Vnni => {}
                #[cfg(target_arch = "aarch64")]
                // SAFETY: as above.
                Set::Neon => all.push(("NEON", Box::new(|x| unsafe { exp_neon(x) }))),
            }
        }
        all
    }

    /// # Safety
    /// As [`exp2_of`].
    #[inline(always)]
    unsafe fn one<V: Vector>(x: f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { lanes(exp2_of([V::splat(x)])[0])[0] }
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn exp_avx2(x: f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { one::<std::arch::x86_64::__m256>(x) }
    }

    /// # Safety
    /// The processor has AVX-512F.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn exp_avx512(x: f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { one::<std::arch::x86_64::__m512>(x) }
    }

    /// # Safety
    /// The processor has NEON.
    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    unsafe fn exp_neon(x: f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { one::<std::arch::aarch64::float32x4_t>(x) }
    }

    fn check_errors(stride: usize) {
        let bits = |end: f32| (0..=end.to_bits()).step_by(stride);
        let below = || bits(-LOWEST).map(|b| -f32::from_bits(b));
        for (name, exp) in exps() {
            for x in below().chain(bits(MOST_ABOVE).map(f32::from_bits)) {
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
        check_errors(4099);
    }

    #[test]
    #[ignore = "every f32 of the range: minutes; run by `just exhaustive`"]
    fn errors_of_every_argument_are_within_their_bound() {
        check_errors(1);
    }

    /// In parts of so many logits.
    fn in_parts(level: Level, row: &[f32], part: usize) -> f32 {
        let parts = row.chunks(part).map(|part| {
            let mut sums = [Sums::NOTHING];
            // In two goes.
            let (first, second) = part.split_at(part.len() / 2);
            for part in [first, second] {
                Sums::add_rows(level, part, part.len(), part.len(), &mut sums);
            }
            sums[0].total()
        });
        log_sum_exp_of(&parts.collect::<Vec<_>>())
    }

    #[test]
    fn rows_of_odd_lengths_on_every_level() {
        for count in [1usize, 3, 31, 33, 257, 1000] {
            let row: Vec<f32> = (0..count).map(|i| ((i * 7919) % 1013) as f32 / 40.0 - 12.0).collect();
            let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let want = top + row.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln();
            // In units of 2^-24: a term of at most 3.5 ULP, an exponent of up to 37 that was rounded, a lane's sum, and the result.
            let bound = (7.0 + 37.0 + count as f64 / 4.0 + want.abs()) * 2f64.powi(-24);
            for (level, part) in Level::all().into_iter().flat_map(|l| [1, 40, 4000].map(|p| (l, p))) {
                let have = in_parts(level, &row, part);
                let error = (f64::from(have) - want).abs();
                assert!(error <= bound, "{level:?}, {count} by {part}: {have}, expected {want}");
            }
        }
    }

    #[test]
    fn rows_that_are_not_finite() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for (level, part) in Level::all().into_iter().flat_map(|l| [24, 100].map(|p| (l, p))) {
            let of = |row: &[f32]| in_parts(level, row, part);
            for at in [0, 20, 71] {
                let mut row = [1.0f32; 72];
                row[at] = nan;
                assert!(of(&row).is_nan(), "{level:?}: NaN at {at}");
                row[at] = -inf;
                assert!((of(&row) - (1.0 + 71f32.ln())).abs() < 1e-6);
            }
            assert!(of(&[inf, 0.0]).is_nan());
            assert_eq!(of(&[-inf; 40]), -inf);
        }
        assert_eq!(log_sum_exp(&[]), -inf);
    }

    #[test]
    fn logits_that_rise_far_move_the_reference() {
        for level in Level::all() {
            let row: Vec<f32> = (0..100).map(|i| (i as f32) * 30.0 - 1000.0).collect();
            for part in [1, 7, 48, 100] {
                assert_eq!(in_parts(level, &row, part), 1970.0, "{level:?}");
            }
        }
    }
}
