//! How sure a difference of perplexities is: the paired bootstrap over sentences.

use lstmc_runtime::Rng;

/// An estimate and the interval that it is in, with 95% confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// The end below.
    pub low: f64,
    /// The end above.
    pub high: f64,
}

/// The share of resamples that each end of the interval leaves out.
const TAIL: f64 = 0.025;

/// By how much the perplexity of a model is above a reference's, relative to that: `exp(mean loss - mean loss of the reference) - 1`, with its 95%
/// interval.
///
/// Sentences are drawn with replacement, the same ones for both models, and the interval is between the percentiles of what the draws give (Efron and
/// Tibshirani 1993, chapter 13; for language tasks Koehn 2004). `losses` and `reference` are the summed losses of each sentence, `counts` its predicted
/// tokens. The same seed gives the same interval.
///
/// ```
/// use lstmc::compare::paired_interval;
/// let (reference, losses, counts) = ([4.0, 8.0, 12.0], [4.4, 8.8, 13.2], [1.0, 2.0, 3.0]);
/// let found = paired_interval(&reference, &losses, &counts, 1000, 1);
/// assert!((found.estimate - (0.4f64.exp() - 1.0)).abs() < 1e-12);
/// assert!(found.high - found.low < 1e-12, "every sentence differs by the same");
/// ```
///
/// # Panics
/// If the slices differ in length.
pub fn paired_interval(
    reference: &[f64],
    losses: &[f64],
    counts: &[f64],
    resamples: usize,
    seed: u64,
) -> Interval {
    assert!(reference.len() == losses.len() && losses.len() == counts.len(), "a number for each sentence");
    let differences: Vec<f64> = losses.iter().zip(reference).map(|(a, b)| a - b).collect();
    let increase = |difference: f64, count: f64| (difference / count.max(1.0)).exp() - 1.0;
    let estimate = increase(differences.iter().sum(), counts.iter().sum());
    let mut rng = Rng::new(seed);
    let n = differences.len();
    let mut found: Vec<f64> = (0..resamples)
        .map(|_| {
            let (mut difference, mut count) = (0.0, 0.0);
            for _ in 0..n {
                let k = ((rng.next_f64() * n as f64) as usize).min(n - 1);
                difference += differences[k];
                count += counts[k];
            }
            increase(difference, count)
        })
        .collect();
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found.get((share * found.len() as f64) as usize).copied().unwrap_or(estimate);
    Interval { estimate, low: at(TAIL), high: at(1.0 - TAIL) }
}
