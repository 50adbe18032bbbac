//! The second moment of a layer's inputs, which is the Hessian of its squared output error.

use super::{SolveError, expect_finite, expect_length, factor};

/// `H = E[x x^T]` of the inputs of a map, `[n, n]`, damped.
///
/// Half the Hessian of `E |W x - V x|^2` in a row of `V` (Frantar and Alistarh 2022, "Optimal Brain Compression", section 3). Damping adds
/// `damping * mean(diag H)` to the diagonal (GPTQ, section 3.3, step 3, which uses 0.01), so that inputs that never vary leave a
/// definite matrix and the solution stays near the original weights where calibration has no data.
#[derive(Clone, PartialEq, Debug)]
pub struct Hessian {
    n: usize,
    h: Vec<f64>, // [n, n], symmetric
}

impl Hessian {
    /// The damping that GPTQ uses, relative to the mean of the diagonal.
    pub const DAMPING: f64 = 0.01;

    /// The minimum damping, far above the rounding of a Cholesky factorisation in f64 (`n eps` is 3e-13 for 1300 inputs).
    pub const MIN_DAMPING: f64 = 1e-9;

    /// The first raise of a diagonal that has to be raised, relative to its mean.
    const LEAST_RAISE: f64 = 1e-4;

    /// From `sum = sum of x x^T`, `[n, n]`, over `count` inputs.
    pub fn new(sum: &[f64], n: usize, count: f64, damping: f64) -> Result<Hessian, SolveError> {
        expect_length("sum of x x^T", sum.len(), n * n)?;
        Self::damped(sum.iter().map(|x| x / count).collect(), n, count, damping)
    }

    /// The covariance `E[x x^T] - E[x] E[x]^T`, for a map whose bias may be changed.
    ///
    /// With `b' = b + (W - V) E[x]` (see [`bias_correction`](Self::bias_correction)) the error of `V x + b'` is exactly that of `V` in the covariance, for any `V`, and
    /// no other `b'` is better; so a solver given this matrix solves for weights and bias jointly. `mean` is `E[x]`, `[n]`.
    pub fn centered(sum: &[f64], mean: &[f64], count: f64, damping: f64) -> Result<Hessian, SolveError> {
        let n = mean.len();
        expect_length("sum of x x^T", sum.len(), n * n)?;
        expect_finite("mean", mean)?;
        let h = (0..n * n).map(|k| sum[k] / count - mean[k / n] * mean[k % n]).collect();
        Self::damped(h, n, count, damping)
    }

    /// `W^T W` of a matrix `w: [rows, n]`: what an error `d` of the *input* of `W` does to its outputs, `|W d|^2 = d^T (W^T W) d`.
    ///
    /// The rows of an embedding have no inputs to weight their errors, but the map that reads them does; this is their `H`.
    pub fn of_reader(w: &[f32], n: usize, damping: f64) -> Result<Hessian, SolveError> {
        let rows = w.len() / n.max(1);
        super::expect_matrix("reading map", w, [rows, n])?;
        let w: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
        Self::damped(factor::gram(&w, rows, n), n, 1.0, damping)
    }

    /// A diagonal `H`, not damped: with ones, errors of weights count equally and every solver is data-free.
    pub fn diagonal(diagonal: &[f64]) -> Result<Hessian, SolveError> {
        expect_finite("diagonal", diagonal)?;
        let n = diagonal.len();
        let mut h = vec![0.0; n * n];
        for (i, &d) in diagonal.iter().enumerate() {
            h[i * n + i] = d;
        }
        Ok(Hessian { n, h })
    }

    /// `H = I`.
    pub fn identity(n: usize) -> Hessian {
        let h = (0..n * n).map(|k| if k / n == k % n { 1.0 } else { 0.0 }).collect();
        Hessian { n, h }
    }

    fn damped(mut h: Vec<f64>, n: usize, count: f64, damping: f64) -> Result<Hessian, SolveError> {
        if !(count.is_finite() && count > 0.0) {
            return Err(SolveError::Option {
                option: "count",
                expected: "a positive number of inputs".into(),
                found: count.to_string(),
            });
        }
        if !(damping.is_finite() && damping >= 0.0) {
            return Err(SolveError::Option {
                option: "damping",
                expected: "a number from 0 up".into(),
                found: damping.to_string(),
            });
        }
        expect_finite("second moment", &h)?;
        let mean = (0..n).map(|i| h[i * n + i]).sum::<f64>() / n.max(1) as f64;
        let add = if mean > 0.0 { damping.max(Self::MIN_DAMPING) * mean } else { 1.0 };
        for i in 0..n {
            h[i * n + i] += add;
        }
        Ok(Hessian { n, h })
    }

    /// The same, with its diagonal raised until it is definite: rounding may leave it indefinite where inputs are few, in coordinates of very different sizes.
    pub(crate) fn definite(mut self) -> Result<Hessian, SolveError> {
        let n = self.n;
        let mut add = Self::LEAST_RAISE * self.diagonal_values().iter().sum::<f64>() / n.max(1) as f64;
        let most = add / Self::LEAST_RAISE;
        loop {
            match factor::cholesky_in_place(&mut self.h.clone(), n) {
                Ok(()) => return Ok(self),
                Err(error) if add > most => return Err(error),
                Err(_) => (0..n).for_each(|j| self.h[j * n + j] += add),
            }
            add *= 10.0;
        }
    }

    /// Inputs.
    pub fn size(&self) -> usize {
        self.n
    }

    /// `[n, n]`, row-major, symmetric.
    pub fn as_slice(&self) -> &[f64] {
        &self.h
    }

    /// `H_jj`.
    pub fn diagonal_values(&self) -> Vec<f64> {
        (0..self.n).map(|j| self.h[j * self.n + j]).collect()
    }

    /// The part that belongs to inputs `range`: the `H` of a slice of the map's columns.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Hessian {
        let cols: Vec<usize> = range.collect();
        Hessian { n: cols.len(), h: self.select(&cols) }
    }

    /// `[H^-1]_jj`: how far the error is from what column `j` alone gives (Hassibi and Stork 1993, "Optimal Brain Surgeon", eq. 5).
    pub fn inverse_diagonal(&self) -> Result<Vec<f64>, SolveError> {
        let inverse = factor::inverse(&self.h, self.n)?;
        Ok((0..self.n).map(|j| inverse[j * self.n + j]).collect())
    }

    /// The correction of the bias after `W` has become `V`: `(W - V) E[x]`, one number per row.
    pub fn bias_correction(w: &[f32], v: &[f32], mean: &[f64]) -> Result<Vec<f64>, SolveError> {
        expect_length("v", v.len(), w.len())?;
        let n = mean.len().max(1);
        Ok(w.chunks(n)
            .zip(v.chunks(n))
            .map(|(a, b)| {
                a.iter().zip(b).zip(mean).map(|((&a, &b), m)| (f64::from(a) - f64::from(b)) * m).sum()
            })
            .collect())
    }

    /// Refuses a matrix with another number of columns.
    pub(crate) fn expect_size(&self, cols: usize) -> Result<(), SolveError> {
        expect_length("second moment's side", self.n, cols)
    }

    /// `rows` vectors times `H`: `[rows, n]`.
    pub(crate) fn apply(&self, x: &[f64], rows: usize) -> Vec<f64> {
        factor::multiply(x, &self.h, rows, self.n, self.n)
    }

    /// `H[cols, cols]`.
    pub(crate) fn select(&self, cols: &[usize]) -> Vec<f64> {
        factor::select(&self.h, self.n, cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rounding_left_indefinite_becomes_definite() {
        let almost = Hessian::new(&[1.0, 1.0 + 1e-7, 1.0 + 1e-7, 1.0], 2, 1.0, 0.0).unwrap();
        assert!(almost.inverse_diagonal().is_err());
        let raised = almost.definite().unwrap();
        assert!(raised.inverse_diagonal().is_ok());
        assert!(raised.diagonal_values().iter().all(|d| (d - 1.0).abs() < 2e-4));
        let already = Hessian::new(&[2.0, 1.0, 1.0, 2.0], 2, 1.0, 0.0).unwrap();
        assert_eq!(already.clone().definite().unwrap(), already);
        // What no small raise mends is an error.
        assert!(Hessian::new(&[1.0, 9.0, 9.0, 1.0], 2, 1.0, 0.0).unwrap().definite().is_err());
    }
}
