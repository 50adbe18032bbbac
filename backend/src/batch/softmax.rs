//! The log-sum-exp of rows of logits.
//!
//! A row is read twice: for its largest element `m`, and for the sum of `exp(x - m)`; a row of 10,000 logits stays in the second-level cache
//! between. `exp` is a polynomial of degree 5 (Moshier's Cephes library, `expf`), the one that generated code uses.

use super::check_rows;
use super::level::{Level, Set};
use super::share::deserved;
use super::vector::Vector;

/// Largest error of an exponential on `[EXP_LOW, 0]` in units in the last place; smaller arguments count as `EXP_LOW`.
pub const MAX_EXP_ERROR_ULPS: f64 = 2.0;

/// Below this the result would not be a normal number. So small a term adds nothing to a sum of at least 1.
const EXP_LOW: f32 = -87.33;
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: leaves the nearest integer in the low bits
/// ln 2 in two parts; the first has few enough bits that its multiples are exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// Vectors at a time, enough to hide an addition's latency.
const UNROLL: usize = 4;
/// Lanes of the widest vector.
const MOST_LANES: usize = 16;

/// Multiply-adds in the time of an exponential, as measured.
const EXP_WORK: usize = 14;

/// `to[t] = ln(sum_o exp(rows[t][o]))` over `count` columns of `steps` rows, `stride` apart; minus infinity where `count` is 0. A row that
/// holds a NaN or plus infinity, or nothing but minus infinity, gives NaN.
///
/// # Panics
/// Where a slice is too short for its shape, or the stride for its row.
pub fn log_sum_exp_rows(
    threads: usize,
    steps: usize,
    rows: &[f32],
    stride: usize,
    count: usize,
    to: &mut [f32],
) {
    check_rows("rows", steps, stride, count, rows.len());
    let threads = deserved(threads, steps, steps * count * EXP_WORK);
    let level = Level::best();
    let to = &mut to[..steps];
    if threads == 1 {
        return run(level, rows, stride, count, to);
    }
    let share = steps.div_ceil(threads);
    std::thread::scope(|scope| {
        for (i, to) in to.chunks_mut(share).enumerate() {
            scope.spawn(move || run(level, &rows[i * share * stride..], stride, count, to));
        }
    });
}

/// All rows on this thread.
pub(super) fn run(level: Level, rows: &[f32], stride: usize, count: usize, to: &mut [f32]) {
    for (t, to) in to.iter_mut().enumerate() {
        let row = &rows[t * stride..][..count];
        *to = match level.set() {
            Set::Portable => portable(row),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level is proof that the processor has its instructions.
            Set::Avx2 => unsafe { avx2(row) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Set::Avx512 | Set::Avx512Vnni => unsafe { avx512(row) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Set::Neon => unsafe { neon(row) },
        };
    }
}

/// From the largest element and the sum of exponentials of the differences.
fn finish(top: f32, sum: f64) -> f32 {
    (f64::from(top) + sum.ln()) as f32
}

/// The plain twin of the vectors' `exp`, for `x <= 0`.
pub(super) fn exp(x: f32) -> f32 {
    // NaN stays.
    let x = if x < EXP_LOW { EXP_LOW } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = EXP[1..].iter().fold(EXP[0], |p, c| p * r + c);
    let y = p * (r * r) + (r + 1.0);
    f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// The plain twin of [`vectors`].
fn portable(row: &[f32]) -> f32 {
    let larger = |m: f32, x: f32| if x > m { x } else { m };
    let (chunks, rest) = row.as_chunks::<MOST_LANES>();
    let mut tops = [f32::NEG_INFINITY; MOST_LANES];
    for chunk in chunks {
        for (top, x) in tops.iter_mut().zip(chunk) {
            *top = larger(*top, *x);
        }
    }
    let top = tops.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    let mut sums = [0.0f32; MOST_LANES];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += exp(x - top);
        }
    }
    finish(top, sums.into_iter().chain(rest.iter().map(|x| exp(x - top))).map(f64::from).sum())
}

/// Lanewise `e^x` for `x <= 0`; NaN stays NaN.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn exp_of<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        // The constant first: where x is NaN it is kept.
        let x = V::splat(EXP_LOW).max(x);
        let round = V::splat(ROUND);
        let shifted = x.mul_add(V::splat(std::f32::consts::LOG2_E), round);
        let n = shifted.sub(round);
        let r = n.mul_add(V::splat(-LN2_HIGH), x);
        let r = n.mul_add(V::splat(-LN2_LOW), r);
        let mut p = V::splat(EXP[0]);
        for c in &EXP[1..] {
            p = p.mul_add(r, V::splat(*c));
        }
        p.mul_add(r.mul(r), r.add(V::splat(1.0))).add_exponent(shifted)
    }
}

/// One row, four vectors at a time.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn vectors<V: Vector>(row: &[f32]) -> f32 {
    let larger = |m: f32, x: f32| if x > m { x } else { m };
    let (whole, rest) = row.split_at(row.len() / V::LANES * V::LANES);
    let block = UNROLL * V::LANES;
    let blocks = whole.len() / block * block;
    // SAFETY: vectors lie within `whole`; the instructions are the caller's to have.
    unsafe {
        let load = whole.as_ptr();
        let mut tops = [V::splat(f32::NEG_INFINITY); UNROLL];
        for at in (0..blocks).step_by(block) {
            for (u, top) in tops.iter_mut().enumerate() {
                *top = V::load(load.add(at + u * V::LANES)).max(*top);
            }
        }
        for at in (blocks..whole.len()).step_by(V::LANES) {
            tops[0] = V::load(load.add(at)).max(tops[0]);
        }
        let tops = lanes(tops[0].max(tops[1]).max(tops[2].max(tops[3])));
        let top = tops[..V::LANES].iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
        let shift = V::splat(top);
        let mut sums = [V::splat(0.0); UNROLL];
        for at in (0..blocks).step_by(block) {
            for (u, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(exp_of(V::load(load.add(at + u * V::LANES)).sub(shift)));
            }
        }
        for at in (blocks..whole.len()).step_by(V::LANES) {
            sums[0] = sums[0].add(exp_of(V::load(load.add(at)).sub(shift)));
        }
        let sums = lanes(sums[0].add(sums[1]).add(sums[2].add(sums[3])));
        let rest = rest.iter().map(|x| exp(x - top));
        finish(top, sums[..V::LANES].iter().copied().chain(rest).map(f64::from).sum())
    }
}

/// A vector's lanes, the first of those returned.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn lanes<V: Vector>(v: V) -> [f32; MOST_LANES] {
    let mut lanes = [0.0; MOST_LANES];
    // SAFETY: no vector has more lanes; the instructions are the caller's to have.
    unsafe { v.store(lanes.as_mut_ptr()) };
    lanes
}

/// # Safety
/// The processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(row: &[f32]) -> f32 {
    // SAFETY: the caller's.
    unsafe { vectors::<std::arch::x86_64::__m512>(row) }
}

/// # Safety
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(row: &[f32]) -> f32 {
    // SAFETY: the caller's.
    unsafe { vectors::<std::arch::x86_64::__m256>(row) }
}

/// # Safety
/// The processor has NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(row: &[f32]) -> f32 {
    // SAFETY: the caller's.
    unsafe { vectors::<std::arch::aarch64::float32x4_t>(row) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Exp = Box<dyn Fn(f32) -> f32>;

    /// The plain twin, and the vectors' `exp` on every level, one number at a time.
    fn exps() -> Vec<(&'static str, Exp)> {
        let mut all: Vec<(&str, Exp)> = vec![("plain", Box::new(exp))];
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
    /// As [`exp_of`].
    #[inline(always)]
    unsafe fn one<V: Vector>(x: f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { lanes(exp_of(V::splat(x)))[0] }
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
        for (name, exp) in exps() {
            for bits in (0..=(-EXP_LOW).to_bits()).step_by(stride) {
                let x = -f32::from_bits(bits);
                let want = f64::from(x).exp();
                let rounded = want as f32;
                let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
                let error = (f64::from(exp(x)) - want).abs() / ulp;
                assert!(error <= MAX_EXP_ERROR_ULPS, "{name} exp({x:e}): {error:.3} ULP");
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

    #[test]
    fn rows_of_odd_lengths_on_every_level() {
        for count in [1usize, 3, 31, 33, 257, 1000] {
            let (steps, stride) = (5, count + 3);
            let rows: Vec<f32> =
                (0..steps * stride).map(|i| ((i * 7919) % 1013) as f32 / 40.0 - 12.0).collect();
            let want: Vec<f64> = rows
                .chunks(stride)
                .map(|row| {
                    let row = &row[..count];
                    let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                    top + row.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln()
                })
                .collect();
            // In units of 2^-24: an exponential of at most 2 ULP, a difference from the top of up to 26 that was rounded, a lane's sum, and
            // the result.
            let bound = |want: f64| (4.0 + 26.0 + count as f64 / 8.0 + want.abs()) * 2f64.powi(-24);
            for level in Level::all() {
                let mut have = [0.0; 5];
                run(level, &rows, stride, count, &mut have);
                for (have, &want) in have.into_iter().zip(&want) {
                    let error = (f64::from(have) - want).abs();
                    assert!(error <= bound(want), "{level:?}, {count}: {have}, expected {want}");
                }
            }
            let (mut one, mut two) = ([0.0; 5], [0.0; 5]);
            log_sum_exp_rows(1, steps, &rows, stride, count, &mut one);
            log_sum_exp_rows(2, steps, &rows, stride, count, &mut two);
            assert_eq!(one, two);
        }
    }

    #[test]
    fn rows_that_are_not_finite() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for level in Level::all() {
            let of = |row: &[f32]| {
                let mut to = [0.0];
                run(level, row, row.len(), row.len(), &mut to);
                to[0]
            };
            assert_eq!(of(&[]), -inf);
            for at in [0, 20, 71] {
                let mut row = [1.0f32; 72];
                row[at] = nan;
                assert!(of(&row).is_nan(), "{level:?}: NaN at {at}");
                row[at] = -inf;
                assert!((of(&row) - (1.0 + 71f32.ln())).abs() < 1e-6);
            }
            assert!(of(&[inf, 0.0]).is_nan() && of(&[-inf; 3]).is_nan());
        }
    }
}
