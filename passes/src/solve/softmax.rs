//! Output layers under a softmax: which rows matter, and the bias that keeps the words' mean probabilities.
//!
//! The loss of a language model is `-log softmax(W x + b)`. Its second derivative in logit `i` is `p_i (1 - p_i)`, hence the row weights of
//! [`prune`](super::prune) and [`low_rank`](super::low_rank). And whatever was done to `W`, a bias can be refitted: a maximum-likelihood softmax with a bias
//! satisfies `E[p_i] = the frequency of i`, which compression breaks and [`refit_bias`] restores, at the cost of no byte.

use super::{SolveError, expect_finite, expect_length, expect_matrix};
use lstmc_frontend::product;
use rayon::prelude::*;

/// Vectors per batched product.
const BATCH: usize = 256;

/// Averages of the probabilities that an output layer assigns.
#[derive(Clone, PartialEq, Debug)]
pub struct SoftmaxMoments {
    /// `E[p_i]`, `[out]`.
    pub mean: Vec<f64>,
    /// `E[p_i (1 - p_i)]`, `[out]`.
    pub curvature: Vec<f64>,
}

impl SoftmaxMoments {
    /// Row weights `(E[p_i (1 - p_i)] + floor)^exponent`, scaled to mean 1.
    ///
    /// The floor is a hundredth of the mean: a word that calibration never expects still counts. An exponent of 1 would be the second-order estimate of the loss; errors that are not
    /// small ask for less, see the constants of [`SoftmaxMoments`].
    pub fn row_weights(&self, exponent: f64) -> Vec<f64> {
        let n = self.curvature.len().max(1) as f64;
        let floor = 0.01 * self.curvature.iter().sum::<f64>() / n;
        let raw: Vec<f64> = self.curvature.iter().map(|&p| (p.max(0.0) + floor).powf(exponent)).collect();
        let mean = raw.iter().sum::<f64>() / n;
        raw.iter().map(|w| if mean > 0.0 { w / mean } else { 1.0 }).collect()
    }

    /// The exponent for masks.
    pub const PRUNE_EXPONENT: f64 = 0.5;

    /// The exponent for low rank.
    pub const LOW_RANK_EXPONENT: f64 = 0.7;
}

/// Averages over inputs `x: [n, in]` of the softmax of `w x + bias`, `w: [out, in]`, `bias: [out]`.
///
/// ```
/// use lstmc_passes::solve::softmax::softmax_moments;
/// let m = softmax_moments(&[1.0], &[0.0, 0.0], &[0.0, 0.0]).unwrap();
/// assert!((m.mean[0] - 0.5).abs() < 1e-7 && (m.curvature[1] - 0.25).abs() < 1e-7);
/// ```
pub fn softmax_moments(x: &[f32], w: &[f32], bias: &[f32]) -> Result<SoftmaxMoments, SolveError> {
    let out = bias.len();
    let cols = w.len() / out.max(1);
    let n = x.len() / cols.max(1);
    expect_matrix("w", w, [out, cols])?;
    expect_matrix("x", x, [n, cols])?;
    expect_finite("bias", bias)?;
    let mut sums = SoftmaxMoments { mean: vec![0.0; out], curvature: vec![0.0; out] };
    let mut logits = vec![0.0f32; BATCH * out];
    for x in x.chunks(BATCH * cols.max(1)) {
        let m = x.len() / cols.max(1);
        let logits = &mut logits[..m * out];
        product::apply(m, cols, out, x, w, logits);
        logits.par_chunks_mut(out.max(1)).for_each(|row| {
            let mut most = f32::MIN;
            for (l, b) in row.iter_mut().zip(bias) {
                *l += b;
                most = most.max(*l);
            }
            let mut total = 0.0f64;
            for l in row.iter_mut() {
                *l = (*l - most).exp();
                total += f64::from(*l);
            }
            let scale = (1.0 / total) as f32;
            row.iter_mut().for_each(|l| *l *= scale);
        });
        // By blocks of columns, so that each sum is taken in the order of the inputs.
        const COLUMNS: usize = 1024;
        let (mean, curvature) = (sums.mean.par_chunks_mut(COLUMNS), sums.curvature.par_chunks_mut(COLUMNS));
        mean.zip(curvature).enumerate().for_each(|(block, (mean, curvature))| {
            for row in logits.chunks(out.max(1)) {
                let probabilities = &row[block * COLUMNS..];
                for ((m, c), &p) in mean.iter_mut().zip(curvature.iter_mut()).zip(probabilities) {
                    let p = f64::from(p);
                    *m += p;
                    *c += p * (1.0 - p);
                }
            }
        });
    }
    let n = n.max(1) as f64;
    sums.mean.iter_mut().chain(&mut sums.curvature).for_each(|s| *s /= n);
    Ok(sums)
}

/// A bias for the compressed `w` under which mean probabilities are those of `target`, `E[p_i]` of the original model.
///
/// Iterative scaling, `b_i += log(target_i / E[p_i])` (Darroch and Ratcliff 1972), `rounds` times; both sides of the quotient are smoothed by a hundredth of
/// `1 / out`, so that what calibration hardly saw hardly moves. `x: [n, in]` are inputs of the compressed model, `w: [out, in]` its dense matrix. Each round is one product
/// of `x` with `w`.
pub fn refit_bias(
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    target: &[f64],
    rounds: usize,
) -> Result<Vec<f32>, SolveError> {
    expect_length("target", target.len(), bias.len())?;
    expect_finite("target", target)?;
    let smooth = 0.01 / bias.len().max(1) as f64;
    let mut bias = bias.to_vec();
    for _ in 0..rounds {
        let now = softmax_moments(x, w, &bias)?;
        for ((b, t), p) in bias.iter_mut().zip(target).zip(&now.mean) {
            *b += ((t.max(0.0) + smooth) / (p + smooth)).ln() as f32;
        }
    }
    Ok(bias)
}

/// The rounds of [`refit_bias`] after which nothing more is to be had.
pub const BIAS_ROUNDS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(n: usize) -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-2.0f32..2.0, n)
    }

    proptest! {
        #[test]
        fn moments_are_those_of_the_definition((n, cols, out) in (1usize..600, 1usize..4, 1usize..5), seed in vector(40)) {
            let value = |k: usize| seed[k % seed.len()] * (1.0 + (k % 7) as f32 / 7.0);
            let x: Vec<f32> = (0..n * cols).map(value).collect();
            let w: Vec<f32> = (0..out * cols).map(|k| value(k + 5)).collect();
            let b: Vec<f32> = (0..out).map(|k| value(k + 11)).collect();
            let moments = softmax_moments(&x, &w, &b).unwrap();
            let (mut mean, mut curvature) = (vec![0.0f64; out], vec![0.0f64; out]);
            for x in x.chunks(cols) {
                let logit = |i: usize| f64::from(b[i]) + (0..cols).map(|j| f64::from(w[i * cols + j]) * f64::from(x[j])).sum::<f64>();
                let total: f64 = (0..out).map(|i| logit(i).exp()).sum();
                for i in 0..out {
                    let p = logit(i).exp() / total;
                    mean[i] += p / n as f64;
                    curvature[i] += p * (1.0 - p) / n as f64;
                }
            }
            for i in 0..out {
                prop_assert!((mean[i] - moments.mean[i]).abs() < 1e-5);
                prop_assert!((curvature[i] - moments.curvature[i]).abs() < 1e-5);
            }
        }

        #[test]
        fn a_refitted_bias_restores_the_means(x in vector(60), w in vector(12), v in vector(12), b in vector(4)) {
            let target = softmax_moments(&x, &w, &b).unwrap().mean;
            let refitted = refit_bias(&x, &v, &b, &target, 200).unwrap();
            let mean = softmax_moments(&x, &v, &refitted).unwrap().mean;
            for (a, b) in mean.iter().zip(&target) {
                prop_assert!((a - b).abs() < 1e-3, "{mean:?} {target:?}");
            }
        }
    }

    #[test]
    fn weights_average_one_and_follow_the_curvature() {
        let m = SoftmaxMoments { mean: vec![0.0; 3], curvature: vec![0.2, 0.1, 0.0] };
        let w = m.row_weights(0.5);
        assert!((w.iter().sum::<f64>() - 3.0).abs() < 1e-12);
        assert!(w[0] > w[1] && w[1] > w[2] && w[2] > 0.0);
        assert_eq!(m.row_weights(0.0), [1.0; 3]);
    }
}
