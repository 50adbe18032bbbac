//! Codes at a rate: steps follow what the loss needs, and entropy coding makes small codes cheap.
//!
//! `w[i][j] ~ scale[i] * code[i][j] * column[j]`. With `H` the second moment of the inputs, `f_i` the weight of row `i` (its output's part of the
//! loss's second derivative) and `U` upper triangular in `H^-1 = U^T U`:
//!
//! ```text
//!   step of (i, j) = alpha U_jj / sqrt(f_i)        sqrt(f_i) on a grid of 2^(1/4): scales are few, and coded in a few bits
//!   for each column j:  code = round(t_j / step), the error moves the targets t_k of the columns after it      as GPTQ feeds errors back
//!   columns: least squares for all at once, given codes and scales
//! ```
//!
//! - **Why these steps.** The error of a row is `sum over j of (t_j - step code_j)^2 / U_jj^2`, where `t_j` includes what the columns before left.
//!   Optimal rates at high resolution (reverse water-filling) give each term the same distortion `D`: `f_i step^2 / (12 U_jj^2) = D`. So there is
//!   one number, `alpha = sqrt(12 D)`, and each column gets the rate that its innovation is worth (WaterSIC, arXiv 2603.04956). Entropy coding turns the small codes of coarse columns into few bits; no bits are allocated.
//! - **Rounding has a dead zone**: away from zero only above [`DEAD_ZONE`]. Zero is the cheapest code by far.
//! - **Under a mask** a dropped weight has code 0, and what the feedback moved there goes on to the columns after it.
//! - Codes are in `-127..=127`: where steps are so fine that they would not hold a weight, those of its column or row are made coarser.

mod bound;

use super::{Hessian, SolveError, expect_length, expect_matrix, factor, floored};
pub use bound::rate_bound;
use half::f16;
use rayon::prelude::*;

/// The fraction from which a magnitude rounds up. At 0.5 the error is smallest for a given step, at a given rate it is not: 0.58 gains 0.2 of
/// perplexity at 0.6 MB on ptb-small (validation text), 0.65 nothing more.
pub const DEAD_ZONE: f64 = 0.58;

/// The largest code.
const MAX_CODE: f64 = 127.0;

/// The largest code of a weight before errors of other columns move it.
const SAFE_CODE: f64 = 115.0;

/// Scales are `2^(k / 4)`.
const GRID: f64 = 4.0;

/// The exponents of f16's normal numbers, in which scales and columns stay.
const EXPONENTS: [f64; 2] = [-14.0, 15.0];

/// Rows that are coded together, so that they read a row of `U` once.
const BLOCK: usize = 16;

/// A matrix with what its errors count by; prepared, so that it can be coded at several steps.
#[derive(Clone, Debug)]
pub struct RateProblem {
    shape: [usize; 2],
    w: Vec<f32>,             // [out, in]
    mask: Option<Vec<bool>>, // [out, in]
    weights: Vec<f64>,       // [out]
    h: Hessian,
    lower: Vec<f64>, // [in, in], H = lower^T lower
}

/// The codes of a matrix.
#[derive(Clone, PartialEq, Debug)]
pub struct RateCodes {
    /// `[out, in]`, in `-127..=127`; zero where a mask drops the weight.
    pub codes: Vec<i8>,
    /// `[out]`: `2^(k / 4)`, rounded.
    pub scales: Vec<f16>,
    /// `[in]`; zero where all codes of a column are.
    pub columns: Vec<f16>,
    /// `sum over rows of f_i (W_i - V_i) H (W_i - V_i)^T`.
    pub error: f64,
}

impl RateCodes {
    /// The matrix that the codes represent, `[out, in]`.
    pub fn to_dense(&self) -> Vec<f32> {
        let n = self.columns.len();
        let (scales, columns) = (&self.scales, &self.columns);
        let of =
            |(k, &code): (usize, &i8)| f32::from(scales[k / n]) * f32::from(code) * f32::from(columns[k % n]);
        self.codes.iter().enumerate().map(of).collect()
    }
}

impl RateProblem {
    /// `w: [out, in]`; `h` is of its inputs; `weights: [out]`, those below a millionth of the largest are raised to it. `mask`, `[out, in]`, says what is
    /// kept; `w` should be zero elsewhere.
    pub fn new(
        w: Vec<f32>,
        shape: [usize; 2],
        h: Hessian,
        weights: &[f64],
        mask: Option<Vec<bool>>,
    ) -> Result<RateProblem, SolveError> {
        let [rows, cols] = shape;
        expect_matrix("w", &w, shape)?;
        h.expect_size(cols)?;
        mask.as_ref().map_or(Ok(()), |m| expect_length("mask", m.len(), w.len()))?;
        let weights = floored(weights, rows)?;
        let upper = factor::reverse_cholesky(h.as_slice(), cols)?;
        let lower = (0..cols * cols).map(|k| upper[k % cols * cols + k / cols]).collect();
        Ok(RateProblem { shape, w, mask, weights, h, lower })
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Codes with the step `alpha`.
    pub fn solve(&self, alpha: f64) -> Result<RateCodes, SolveError> {
        if !(alpha.is_finite() && alpha > 0.0) {
            return Err(SolveError::Option {
                option: "alpha",
                expected: "a number over 0".into(),
                found: alpha.to_string(),
            });
        }
        let [_, cols] = self.shape;
        let mut steps: Vec<f64> = (0..cols).map(|j| alpha / self.lower[j * cols + j]).collect();
        // The octave of all steps goes to the scales, so that columns are about 1.
        let octave = (steps.iter().map(|s| s.log2()).sum::<f64>() / cols.max(1) as f64).round();
        steps.iter_mut().for_each(|s| *s *= (-octave).exp2());
        let mut exponents: Vec<f64> = self.weights.iter().map(|f| GRID * (octave - f.log2() / 2.0)).collect();
        exponents.iter_mut().for_each(|e| *e = e.round().clamp(GRID * EXPONENTS[0], GRID * EXPONENTS[1]));
        self.widen(&mut exponents, &mut steps);
        let scale = |e: &f64| f16::from_f64((e / GRID).min(EXPONENTS[1]).exp2());
        let scales: Vec<f16> = exponents.iter().map(scale).collect();
        let (codes, error) = self.codes(&scales, &steps);
        let (columns, error) = self.columns(&codes, &scales, &steps, error)?;
        Ok(RateCodes { codes, scales, columns, error })
    }

    /// Coarsens steps that are so fine that codes would not hold the weights: a column's where that concerns more than a row in so many as there are columns,
    /// which costs less, and the rows' that are left.
    fn widen(&self, exponents: &mut [f64], steps: &mut [f64]) {
        let [rows, cols] = self.shape;
        let few = rows.div_ceil(cols.max(1));
        let excess = |i: usize, j: usize, e: &[f64], steps: &[f64]| {
            f64::from(self.w[i * cols + j]).abs() / ((e[i] / GRID).exp2() * steps[j] * SAFE_CODE)
        };
        for j in 0..cols {
            let mut over: Vec<f64> =
                (0..rows).map(|i| excess(i, j, exponents, steps)).filter(|x| *x > 1.0).collect();
            if over.len() > few {
                over.sort_by(|a, b| b.total_cmp(a));
                steps[j] *= over[few];
            }
        }
        for i in 0..rows {
            let most = (0..cols).map(|j| excess(i, j, exponents, steps)).fold(1.0, f64::max);
            exponents[i] += (GRID * most.log2()).ceil();
        }
    }

    /// Error feedback, row by row; also the error. With `H = U U^T`, `U` upper triangular, the error of a row is `sum over k of U_kk^2 (t_k - v_k)^2`,
    /// `t_k = w_k + sum over i < k of (w_i - v_i) U_ik / U_kk`.
    fn codes(&self, scales: &[f16], steps: &[f64]) -> (Vec<i8>, f64) {
        let cols = self.shape[1];
        let mut codes = vec![0i8; self.w.len()];
        let size = (BLOCK * cols).max(1);
        let code_block = |(block, codes): (usize, &mut [i8])| {
            let first = block * BLOCK;
            let start = first * cols;
            let mut errors = vec![0.0; codes.len()]; // w - v
            let mut total = 0.0;
            for j in 0..cols {
                let row = &self.lower[j * cols..=j * cols + j];
                let inverse = 1.0 / row[j];
                for i in 0..codes.len() / cols {
                    let k = i * cols + j;
                    let w = f64::from(self.w[start + k]);
                    let target = w + factor::dot(&errors[i * cols..k], &row[..j]) * inverse;
                    let step = f64::from(scales[first + i]) * steps[j];
                    let is_kept = self.mask.as_ref().is_none_or(|m| m[start + k]);
                    let code = if is_kept { round(target / step) } else { 0.0 };
                    codes[k] = code as i8;
                    errors[k] = w - code * step;
                    total += self.weights[first + i] * (row[j] * (target - code * step)).powi(2);
                }
            }
            total
        };
        let totals: Vec<f64> = codes.par_chunks_mut(size).enumerate().map(code_block).collect();
        (codes, totals.iter().sum())
    }

    /// The columns with the smallest error, and that error; `error` is that of `steps`.
    ///
    /// With `v_ij = s_i q_ij c_j` it is `c A c^T - 2 b c + constant`, `A = H o (sum of f_i s_i^2 q_i^T q_i)`, `b = diag(H (sum of f_i s_i w_i^T q_i))`.
    fn columns(
        &self,
        codes: &[i8],
        scales: &[f16],
        steps: &[f64],
        error: f64,
    ) -> Result<(Vec<f16>, f64), SolveError> {
        let [rows, cols] = self.shape;
        let mut scaled = vec![0.0f64; rows * cols]; // sqrt(f_i) s_i q_ij
        let mut w = vec![0.0f64; rows * cols]; // sqrt(f_i) w_ij
        for (i, &scale) in scales.iter().enumerate() {
            let root = self.weights[i].sqrt();
            let scale = root * f64::from(scale);
            for k in i * cols..(i + 1) * cols {
                scaled[k] = scale * f64::from(codes[k]);
                w[k] = root * f64::from(self.w[k]);
            }
        }
        let h = self.h.as_slice();
        let mut a = factor::gram(&scaled, rows, cols);
        a.iter_mut().zip(h).for_each(|(a, h)| *a *= h);
        let cross = factor::multiply_transposed(&scaled, &w, rows, cols, cols);
        let rows_of = cross.chunks(cols.max(1)).zip(h.chunks(cols.max(1)));
        let b: Vec<f64> = rows_of.map(|(cross, h)| factor::dot(cross, h)).collect();
        let mut damped = a.clone();
        for j in 0..cols {
            // A column without codes has no equation.
            let diagonal = &mut damped[j * cols + j];
            *diagonal = if *diagonal > 0.0 { *diagonal * (1.0 + Hessian::MIN_DAMPING) } else { 1.0 };
        }
        let mut c = b.clone();
        factor::solve_rows(&mut damped, cols, &mut c, 1)?;
        let limit = EXPONENTS[1].exp2();
        let columns: Vec<f16> = c.iter().map(|c| f16::from_f64(c.clamp(-limit, limit))).collect();
        let c: Vec<f64> = columns.iter().map(|&c| f64::from(c)).collect();
        let at = |c: &[f64]| {
            let product = factor::multiply(c, &a, 1, cols, cols);
            factor::dot(&product, c) - 2.0 * factor::dot(&b, c)
        };
        Ok((columns, (error - at(steps) + at(&c)).max(0.0)))
    }
}

/// The nearest integer, with a dead zone, in the range of codes.
fn round(x: f64) -> f64 {
    (x.abs() + (1.0 - DEAD_ZONE)).floor().min(MAX_CODE).copysign(x)
}

#[cfg(test)]
mod tests;
