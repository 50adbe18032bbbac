//! What no code can do better.

use super::RateProblem;
use crate::solve::{SolveError, factor};

/// Steps of bisection: more than a logarithm's bits.
const STEPS: usize = 60;

/// The fewest bits for each weight at this error, if the weights were Gaussian: the rate-distortion function of their components in the metric of `H` and `f`.
///
/// In coordinates where the error is a sum of squares, component `j` of row `i` has the variance `rho_i lambda_j / sum of lambda`: `rho_i` is the row's energy
/// `f_i W_i H W_i^T`, `lambda` are the eigenvalues of the second moment of all rows. Reverse water-filling (Cover and Thomas 2006, theorem 10.3.3):
///
/// ```text
/// rate = mean of max(0, log2(variance / theta) / 2)        theta: sum of min(variance, theta) is the error
/// ```
pub fn rate_bound(problem: &RateProblem, error: f64) -> Result<f64, SolveError> {
    let [rows, cols] = problem.shape;
    // W U, so that squares of its elements are errors.
    let transposed: Vec<f64> = (0..cols * cols).map(|k| problem.lower[k % cols * cols + k / cols]).collect();
    let roots = problem.weights.iter().map(|f| f.sqrt());
    let w = problem.w.chunks(cols.max(1)).zip(roots);
    let w: Vec<f64> = w.flat_map(|(row, root)| row.iter().map(move |&x| root * f64::from(x))).collect();
    let rotated = factor::multiply(&w, &transposed, rows, cols, cols);
    let moment = factor::gram(&rotated, rows, cols);
    let values = factor::eigenvalues(&moment, cols)?;
    let total: f64 = values.iter().map(|v| v.max(0.0)).sum();
    let energies: Vec<f64> = rotated.chunks(cols.max(1)).map(|row| factor::dot(row, row)).collect();
    // Logarithms of the variances: one of each list.
    let logs = |all: &[f64], by: f64| -> Vec<f64> {
        let mut logs: Vec<f64> = all.iter().filter(|v| **v > 0.0).map(|v| (v / by).log2()).collect();
        logs.sort_by(f64::total_cmp);
        logs
    };
    let (rho, lambda) = (logs(&energies, 1.0), logs(&values, total));
    if rho.is_empty() || lambda.is_empty() || error >= energies.iter().sum() {
        return Ok(0.0);
    }
    // Sums over the rows from one on, and up to it.
    let mut log_sums = vec![0.0; rho.len() + 1];
    let mut sums = vec![0.0; rho.len() + 1];
    for (k, log) in rho.iter().enumerate() {
        sums[k + 1] = sums[k] + log.exp2();
    }
    for (k, log) in rho.iter().enumerate().rev() {
        log_sums[k] = log_sums[k + 1] + log;
    }
    let at = |theta: f64| -> (f64, f64) {
        let (mut bits, mut distortion) = (0.0, 0.0);
        for &l in &lambda {
            let k = rho.partition_point(|r| r + l <= theta);
            let above = (rho.len() - k) as f64;
            bits += (log_sums[k] + above * (l - theta)) / 2.0;
            distortion += sums[k] * l.exp2() + above * theta.exp2();
        }
        (bits, distortion)
    };
    let (mut low, mut high) = (rho[0] + lambda[0] - 64.0, rho[rho.len() - 1] + lambda[lambda.len() - 1]);
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        if at(middle).1 < error { low = middle } else { high = middle }
    }
    Ok(at(low).0 / (rows * cols).max(1) as f64)
}
