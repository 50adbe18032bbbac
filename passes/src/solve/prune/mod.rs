//! Masks, and the optimal weights under them.
//!
//! ```text
//!   scores ──▶ select (pattern, scope, density) ──▶ resolve (least squares in H for the kept weights)
//!                                              └──▶ project (alternate between the two, a better mask)
//!   sparsegpt: columns in blocks, the error of each block moving the columns after it
//! ```
//!
//! For a row with kept columns `K` the best weights are `v_K = (H_KK)^-1 (H w)_K`: [`resolve`] is never worse than leaving the kept
//! weights as they are, in any row, for any mask.

mod project;
mod resolve;
mod sparsegpt;

pub use lstmc_frontend::ir::Pattern;
pub use project::project;
pub(crate) use resolve::equal_rows;
pub use resolve::resolve;
pub use sparsegpt::{COLUMNS, sparsegpt};

use super::{Hessian, SolveError, expect_finite, expect_length, expect_matrix};

/// The score of a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Score {
    /// `w^2`.
    Magnitude,
    /// `w^2 H_jj`: Wanda (Sun et al. 2024, eq. 1), squared.
    #[default]
    Activation,
    /// `w^2 / [H^-1]_jj`: the loss after the others compensate (Optimal Brain Surgeon, eq. 5).
    Obs,
}

/// Which weights compete with which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scope {
    /// All of the matrix.
    #[default]
    Map,
    /// Those of a row; for blocks, of a row of blocks.
    Row,
}

/// The constraints of a mask.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Keep {
    /// Which positions may be kept.
    pub pattern: Pattern,
    /// Which weights compete with which.
    pub scope: Scope,
    /// The fraction of blocks kept.
    pub density: f64,
}

/// Scores of `w: [out, in]`, times `row_weights: [out]` if given.
///
/// For an output layer under a softmax the row weights are [`row_weights`].
pub fn scores(
    w: &[f32],
    shape: [usize; 2],
    h: Option<&Hessian>,
    score: Score,
    row_weights: Option<&[f64]>,
) -> Result<Vec<f64>, SolveError> {
    let [rows, cols] = shape;
    expect_matrix("w", w, shape)?;
    h.map_or(Ok(()), |h| h.expect_size(cols))?;
    if let Some(r) = row_weights {
        expect_length("row weights", r.len(), rows)?;
        expect_finite("row weights", r)?;
    }
    let by_column: Vec<f64> = match (score, h) {
        (Score::Magnitude, _) | (_, None) => vec![1.0; cols],
        (Score::Activation, Some(h)) => h.diagonal_values(),
        (Score::Obs, Some(h)) => h.inverse_diagonal()?.iter().map(|x| 1.0 / x).collect(),
    };
    let of = |(k, &x): (usize, &f32)| {
        f64::from(x).powi(2) * by_column[k % cols] * row_weights.map_or(1.0, |r| r[k / cols])
    };
    Ok(w.iter().enumerate().map(of).collect())
}

/// Row weights of an output layer, or of an embedding: `(c + floor)^0.5`, scaled to mean 1, where `c` is the loss's sensitivity to an error of each
/// output.
///
/// The loss of a language model is `-log softmax(W x + b)`; its second derivative in logit `i` is `c_i = E[p_i (1 - p_i)]`. The floor is a hundredth of the mean: a word that
/// calibration never expects still counts. An exponent of 1 would be the second-order estimate of the loss; errors that are not small need a smaller
/// one.
///
/// ```
/// use lstmc_passes::solve::prune::row_weights;
/// let weights = row_weights(&[0.2, 0.1, 0.0]);
/// assert!(weights[0] > weights[1] && weights[1] > weights[2] && weights[2] > 0.0);
/// ```
pub fn row_weights(counts: &[f64]) -> Vec<f64> {
    const EXPONENT: f64 = 0.5;
    let n = counts.len().max(1) as f64;
    let floor = 0.01 * counts.iter().sum::<f64>() / n;
    let raw: Vec<f64> = counts.iter().map(|&c| (c.max(0.0) + floor).powf(EXPONENT)).collect();
    let mean = raw.iter().sum::<f64>() / n;
    raw.iter().map(|w| if mean > 0.0 { w / mean } else { 1.0 }).collect()
}

/// The mask that keeps the highest scores: one flag per block of `pattern`, in the shape of [`Pattern::grid`].
///
/// `density` is the fraction of blocks kept (to the nearest block; per row of blocks for [`Scope::Row`]); an `n:m` pattern has its own, `n` of every `m`, and a last group
/// of `l < m` inputs keeps `round(l n / m)` of them. A block's score is the mean of its elements', so that blocks cut at the edge compete fairly. Ties go
/// to the earlier position.
pub fn select(
    scores: &[f64],
    shape: [usize; 2],
    Keep { pattern, scope, density }: Keep,
) -> Result<Vec<bool>, SolveError> {
    let [rows, cols] = shape;
    expect_length("scores", scores.len(), rows * cols)?;
    expect_finite("scores", scores)?;
    check_pattern(pattern)?;
    check_density(density)?;
    let [grid_rows, grid_cols] = pattern.grid(shape);
    let mut mask = vec![false; grid_rows * grid_cols];
    if let Pattern::NOfM { n, m } = pattern {
        for (flags, values) in mask.chunks_mut(cols.max(1)).zip(scores.chunks(cols.max(1))) {
            for (flags, values) in flags.chunks_mut(m).zip(values.chunks(m)) {
                keep_greatest(values, flags, (values.len() * n + m / 2) / m);
            }
        }
        return Ok(mask);
    }
    let [r, c] = pattern.block();
    let mut blocks = vec![0.0; mask.len()];
    for (k, &s) in scores.iter().enumerate() {
        blocks[k / cols / r * grid_cols + k % cols / c] += s;
    }
    for (k, b) in blocks.iter_mut().enumerate() {
        let (i, j) = (k / grid_cols, k % grid_cols);
        *b /= (r.min(rows - i * r) * c.min(cols - j * c)) as f64;
    }
    let kept = |n: usize| (density * n as f64).round() as usize;
    match scope {
        Scope::Map => keep_greatest(&blocks, &mut mask, kept(blocks.len())),
        Scope::Row => {
            for (flags, values) in mask.chunks_mut(grid_cols.max(1)).zip(blocks.chunks(grid_cols.max(1))) {
                keep_greatest(values, flags, kept(grid_cols));
            }
        }
    }
    Ok(mask)
}

/// The period of a pattern, in columns.
pub(crate) fn period(pattern: Pattern) -> usize {
    match pattern {
        Pattern::Block { cols, .. } => cols,
        Pattern::NOfM { m, .. } => m,
    }
}

/// Distributes one number of kept weights over several maps, given the scores of each: the density of each map when all compete in one list.
///
/// Scores of different maps must be in one unit, an estimate of the loss: `w^2 H_jj` times row weights for the loss's sensitivity (see
/// [`scores`]); `factors` multiplies each map's.
pub fn allocate_density(
    maps: &[(&[f64], f64)],
    density: f64,
    min_density: f64,
) -> Result<Vec<f64>, SolveError> {
    check_density(density)?;
    check_density(min_density)?;
    let total: usize = maps.iter().map(|(s, _)| s.len()).sum();
    let mut all: Vec<(f64, usize)> = Vec::with_capacity(total);
    let mut counts = vec![0usize; maps.len()];
    let mut left = (density * total as f64).round() as usize;
    for (k, (scores, factor)) in maps.iter().enumerate() {
        expect_finite("scores", scores)?;
        // Each map gets its minimum first; the rest compete.
        let least = ((min_density * scores.len() as f64).round() as usize).min(left);
        let mut sorted = scores.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        all.extend(sorted[least..].iter().map(|s| (s * factor, k)));
        counts[k] = least;
        left -= least;
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, k) in all.iter().take(left) {
        counts[*k] += 1;
    }
    Ok(counts.iter().zip(maps).map(|(&c, (s, _))| c as f64 / s.len().max(1) as f64).collect())
}

/// Sets the flags of the `count` largest values.
fn keep_greatest(values: &[f64], flags: &mut [bool], count: usize) {
    flags.fill(false);
    let count = count.min(values.len());
    if count == 0 {
        return;
    }
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let by = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, by);
    }
    for &k in &order[..count] {
        flags[k as usize] = true;
    }
}

fn check_density(density: f64) -> Result<(), SolveError> {
    if (0.0..=1.0).contains(&density) {
        return Ok(());
    }
    Err(SolveError::Option {
        option: "density",
        expected: "the fraction kept, from 0 to 1".into(),
        found: density.to_string(),
    })
}

fn check_pattern(pattern: Pattern) -> Result<(), SolveError> {
    let valid = match pattern {
        Pattern::Block { rows, cols } => rows > 0 && cols > 0,
        Pattern::NOfM { n, m } => n > 0 && n <= m,
    };
    if valid {
        return Ok(());
    }
    Err(SolveError::Option {
        option: "pattern",
        expected: "blocks of at least 1x1, or n:m with 1 <= n <= m".into(),
        found: pattern.to_string(),
    })
}

#[cfg(test)]
mod tests;
