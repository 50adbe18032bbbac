//! Cross-entropy of the next word, and its gradient.

use super::number::{Number, vectorized};
use lstmc_frontend::ir::arbitrary::SplitMix64;
use pulp::NullaryFnOnce;
use rayon::prelude::*;

/// Separate accumulators of a loop over a row, so that it vectorises.
const LANES: usize = 16;

/// Turns each row of logits into its gradient: `scale ((1 - mix) (softmax - target) + mix (softmax - teacher))`. `teacher` are logits.
/// Returns the sum of the rows' negative log-likelihoods of their targets.
pub(super) fn cross_entropy<T: Number>(
    logits: &mut [T],
    targets: &[u32],
    scale: f64,
    teacher: Option<(Vec<T>, f64)>,
) -> f64 {
    let width = logits.len() / targets.len().max(1);
    let (mut soft, mix) = teacher.unwrap_or((vec![], 0.0));
    soft.par_chunks_exact_mut(width.max(1)).for_each(|row| {
        vectorized(Softmax { row, scale: mix * scale });
    });
    let rows = logits.par_chunks_exact_mut(width.max(1)).zip(targets).enumerate();
    let losses: Vec<f64> = rows
        .map(|(k, (row, &target))| {
            let target = target as usize;
            let logit = row[target].to_f64();
            let loss = vectorized(Softmax { row, scale }) - logit;
            row[target] -= T::of(scale * (1.0 - mix));
            if let Some(soft) = soft.get(k * width..(k + 1) * width) {
                row.iter_mut().zip(soft).for_each(|(d, &q)| *d -= q);
            }
            loss
        })
        .collect();
    losses.iter().sum()
}

/// Draws a word from each of `n` rows of logits, and turns the row into the gradient of the word's negative log-likelihood.
pub(super) fn draw<T: Number>(logits: &mut [T], n: usize, rng: &mut SplitMix64) -> Vec<u32> {
    let width = (logits.len() / n.max(1)).max(1);
    let uniforms: Vec<f64> = (0..n).map(|_| (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64).collect();
    let rows = logits.par_chunks_exact_mut(width).zip(uniforms);
    let draw = |(row, uniform): (&mut [T], f64)| {
        vectorized(Softmax { row, scale: 1.0 });
        let mut sum = 0.0;
        let is_past = |p: &T| {
            sum += p.to_f64();
            sum > uniform
        };
        let word = row.iter().position(is_past).unwrap_or(width - 1);
        row[word] -= T::of(1.0);
        word as u32
    };
    rows.map(draw).collect()
}

/// Adds the probabilities that rows of logits stand for to `sums`, one for each word. The logits are lost.
pub(super) fn add_probabilities<T: Number>(logits: &mut [T], sums: &mut [f64]) {
    for row in logits.chunks_exact_mut(sums.len().max(1)) {
        vectorized(Softmax { row, scale: 1.0 });
        sums.iter_mut().zip(row).for_each(|(s, p)| *s += p.to_f64());
    }
}

/// Turns logits into probabilities times `scale`; the result is the logarithm of the sum of their exponentials.
struct Softmax<'a, T> {
    row: &'a mut [T],
    scale: f64,
}

impl<T: Number> NullaryFnOnce for Softmax<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let Softmax { row, scale } = self;
        let mut max = [T::of(f64::NEG_INFINITY); LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for (m, &x) in max.iter_mut().zip(chunk) {
                *m = if x > *m { x } else { *m };
            }
        }
        let max = max.iter().chain(rest).fold(T::of(f64::NEG_INFINITY), |m, &x| if x > m { x } else { m });
        let mut sums = [T::of(0.0); LANES];
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (x, s) in chunk.iter_mut().zip(&mut sums) {
                *x = (*x - max).quick_exp();
                *s += *x;
            }
        }
        let mut sum: f64 = sums.iter().map(|s| s.to_f64()).sum();
        for x in rest {
            *x = (*x - max).quick_exp();
            sum += x.to_f64();
        }
        let factor = T::of(scale / sum);
        for x in row {
            *x *= factor;
        }
        max.to_f64() + sum.ln()
    }
}
