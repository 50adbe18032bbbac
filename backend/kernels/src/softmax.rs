//! The log-sum-exp of logits that arrive in parts.
//!
//! ```text
//!   log2e (log-sum-exp of x) = r + log2 sum_o 2^(log2e x_o - r)          r: an integer near log2e max x
//! ```
//!
//! With base 2 a term takes one multiply-add, the split of its exponent, and a polynomial of degree 5, or 2 and a small table. `r` is near the first logit, and moves only
//! when a sum shows that a logit exceeds it by a lot (as in Milakov and Gimelshein 2018, but rarely), and by an integer, so that sums are
//! scaled without rounding.

use crate::exp::exp2;
use crate::level::{Level, Set};
use crate::vector::{MOST_LANES as LANES, Vector, lanes, with_vectors};
use std::f32::consts::LOG2_E;

/// By how much a logit, times log2 e, may exceed the reference: `2^64` times as many words as fit in memory is a finite f32.
const MOST_ABOVE: f32 = 64.0;

/// The same bound, for the power.
const LARGEST: f32 = (1u128 << 64) as f32;

/// Vectors per iteration, enough to hide an addition's latency.
const UNROLL: usize = 4;

/// `log2e` times the log-sum-exp of some logits, as `reference + log2 (sum of lanes)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums {
    reference: f32,
    lanes: [f32; LANES],
}

impl Sums {
    /// The sums of no logits.
    pub(crate) const NOTHING: Sums = Sums { reference: f32::MIN, lanes: [0.0; LANES] };

    /// Adds `count` columns of rows, `stride` apart, each to its own sums.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn add_rows(level: Level, rows: &[f32], stride: usize, count: usize, sums: &mut [Sums]) {
        crate::check_rows("logits", sums.len(), stride, count, rows.len());
        if count == 0 {
            return;
        }
        // SAFETY: the rows were checked above.
        unsafe {
            with_vectors!(
                level,
                "avx512f,avx512dq",
                for (t, sums) in sums.iter_mut().enumerate() {
                    let row = &rows[t * stride..][..count];
                    sums.begin(row[0]);
                    sums.reach(row);
                    sums.add(row);
                },
                add_rows_of(rows: *const f32 = rows.as_ptr(), stride: usize = stride, count: usize = count, sums: &mut [Sums] = sums)
            )
        }
    }

    /// Takes the first reference from the first logit, if that is finite.
    fn begin(&mut self, logit: f32) {
        let near = (LOG2_E * logit).ceil();
        if self.reference == f32::MIN && near.is_finite() {
            self.reference = near;
        }
    }

    /// Moves the reference if the largest of the new logits requires it.
    fn reach(&mut self, logits: &[f32]) {
        let top = LOG2_E * logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if top > self.reference + MOST_ABOVE {
            let reference = top.ceil();
            let scale = power_of_two(self.reference - reference) as f32;
            self.lanes.iter_mut().for_each(|s| *s *= scale);
            self.reference = reference;
        }
    }

    /// Adds logits that do not exceed what the reference allows.
    fn add(&mut self, logits: &[f32]) {
        for logits in logits.chunks(LANES) {
            for (sum, x) in self.lanes.iter_mut().zip(logits) {
                *sum += exp2(x * LOG2_E - self.reference);
            }
        }
    }

    /// The values that [`log_sum_exp_of`] adds up.
    pub(crate) fn total(&self) -> [f32; 2] {
        [self.reference, self.lanes.iter().sum()]
    }
}

/// The log-sum-exp of all logits of some parts, each given by its [`Sums::total`]. A NaN or plus infinity in any of them gives NaN, and so
/// does one with an element above 2^127; no logits, or only minus infinity, give minus infinity.
pub(crate) fn log_sum_exp_of(parts: &[[f32; 2]]) -> f32 {
    let top = parts.iter().map(|p| p[0]).fold(f32::MIN, f32::max);
    let sum: f64 = parts.iter().map(|&[r, sum]| f64::from(sum) * power_of_two(r - top)).sum();
    if top == f32::MIN && !sum.is_nan() {
        return f32::NEG_INFINITY;
    }
    // Divided by the number that the logits were multiplied with, not by the exact log2(e): its rounding error cancels.
    ((f64::from(top) + sum.log2()) / f64::from(LOG2_E)) as f32
}

/// `ln(sum_o exp(row[o]))`; see [`log_sum_exp_of`].
pub fn log_sum_exp(level: Level, row: &[f32]) -> f32 {
    let mut sums = [Sums::NOTHING];
    Sums::add_rows(level, row, row.len(), row.len(), &mut sums);
    log_sum_exp_of(&sums.map(|s| s.total()))
}

/// `2^n` of an integer `n <= 0`; 0 if that is not a normal number. NaN, the difference of two infinities, stays NaN.
fn power_of_two(n: f32) -> f64 {
    if n >= -1022.0 {
        f64::from_bits(((n as i64 + 1023) as u64) << 52)
    } else if n.is_nan() {
        f64::NAN
    } else {
        0.0
    }
}

/// Lanewise sums of `2^(log2e x - reference)` of this many logits, which fill whole vectors.
///
/// # Safety
/// The processor has the instructions, and the logits exist.
#[inline(always)]
unsafe fn sum_of<V: Vector>(row: *const f32, count: usize, reference: f32) -> V {
    // SAFETY: the caller has the instructions; vectors end at or before `count`, which the caller has made a multiple of their lanes.
    unsafe {
        let (log2e, minus) = (V::splat(LOG2_E), V::splat(-reference));
        let mut totals = [V::splat(0.0); UNROLL];
        let blocks = count / (UNROLL * V::LANES) * (UNROLL * V::LANES);
        for at in (0..blocks).step_by(UNROLL * V::LANES) {
            let x: [V; UNROLL] = std::array::from_fn(|u| V::load(row.add(at + u * V::LANES)));
            totals = V::add_exp2(totals, x.map(|x| x.mul_add(log2e, minus)));
        }
        for at in (blocks..count).step_by(V::LANES) {
            [totals[0]] = V::add_exp2([totals[0]], [V::load(row.add(at)).mul_add(log2e, minus)]);
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
        // SAFETY: the row exists, and so do its lanes below `count`; the caller has the instructions.
        unsafe {
            let row = rows.add(t * stride);
            let rest = std::slice::from_raw_parts(row.add(whole), count - whole);
            sums.begin(*row);
            let mut sum: V = sum_of(row, whole, sums.reference);
            if sum.any_above(V::splat(LARGEST)) {
                let mut top = V::splat(f32::NEG_INFINITY);
                for at in (0..whole).step_by(V::LANES) {
                    top = V::load(row.add(at)).max(top);
                }
                sums.reach(&lanes(top)[..V::LANES]);
                sum = sum_of(row, whole, sums.reference);
            }
            let to = sums.lanes.as_mut_ptr();
            V::load(to).add(sum).store(to);
            sums.reach(rest);
            sums.add(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In parts of this many logits.
    fn in_parts(level: Level, row: &[f32], part: usize) -> f32 {
        let parts = row.chunks(part).map(|part| {
            let mut sums = [Sums::NOTHING];
            // In two calls.
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
        for level in Level::all() {
            assert_eq!(log_sum_exp(level, &[]), -inf, "{level:?}");
        }
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
