//! Codes of a few bits and their scales.
//!
//! `w[i][j] ~ scale[i][g] * (code[i][j] - zero[i][g])` with `g = j / group`, codes in the full range of their [`CodeFormat`], `[-2^(b-1), 2^(b-1) - 1]`.
//!
//! ```text
//!   per row:  for each group, in order:  try each scale on the targets, keep the best ─▶ round its columns one by one,
//!                                        each error moves the targets of the columns not yet rounded (GPTQ)
//!             then descend:              least squares for each scale given the codes; each code given all else
//! ```
//!
//! - **Error feedback.** GPTQ (Frantar et al. 2023, algorithm 1) fixes the columns one after another and moves the remaining ones to
//!   where the error is smallest. With `H = U U^T`, `U` upper triangular, the error of a row is `sum over k of U_kk^2 (q_k - t_k)^2`, where the
//!   target `t_k = w_k - sum over i < k of (q_i - w_i) U_ik / U_kk` is known when column `k` is rounded: the same steps as with the Cholesky
//!   factor of `H^-1`, without an inversion. With `H = I` it is round to nearest.
//! - **Scales** are chosen per group from shrunken max-abs scales, by exactly those terms of the error that the group determines; if it is
//!   wider than [`QuantizeOptions::FEEDBACK_SEARCH_WIDTH`], each column's error counts by `1 / [H^-1]_jj` of the remaining columns instead. Without
//!   feedback, by the squared error of the weights. The range of the codes reaches one step further below zero than above, which matters for few
//!   bits: a *negative* scale reverses this, at no cost in bytes ([`QuantizeOptions::signed_scales`]).
//! - **Descent.** Greedy rounding never revisits a code. Afterwards each scale is refitted in closed form, each code is moved to its best value given
//!   all others, and so on; every step lowers the error, so the result is never worse than GPTQ's.
//! - **Scales in f16** are rounded *before* they are judged, so that codes fit the scale that is stored.

mod row;

use super::{Hessian, SolveError, expect_length, expect_matrix};
use crate::watch::Steps;
use lstmc_frontend::ir::CodeFormat;
use rayon::prelude::*;
use row::{Problem, RowCodes};

/// How codes are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rounding {
    /// The code nearest to each weight.
    Nearest,
    /// GPTQ, columns from first to last.
    Feedback,
    /// GPTQ, groups by decreasing sum of `H_jj`, columns by decreasing `H_jj` inside each: important columns are rounded
    /// while most others can still compensate for them ("act-order"), and scales still cover consecutive inputs.
    #[default]
    FeedbackByActivation,
}

/// The options of [`quantize`]. The default suits 2 to 4 bits.
#[derive(Clone, PartialEq, Debug)]
pub struct QuantizeOptions {
    /// The width of codes.
    pub format: CodeFormat,
    /// Consecutive inputs per scale; `None` means one scale per row.
    pub group: Option<usize>,
    /// How codes are chosen.
    pub rounding: Rounding,
    /// Scales tried per sign and zero point, from the max-abs scale down.
    pub shrinks: usize,
    /// The smallest scale tried, relative to the max-abs scale.
    pub min_shrink: f64,
    /// Round scales to f16.
    pub f16_scales: bool,
    /// Try negative scales as well. No effect with zero points.
    pub signed_scales: bool,
    /// A zero point per group.
    pub asymmetric: bool,
    /// Rounds of descent after rounding; 0 for none.
    pub sweeps: usize,
}

impl Default for QuantizeOptions {
    /// 4 bits, with error feedback.
    fn default() -> Self {
        QuantizeOptions::new(CodeFormat::Int4, true)
    }
}

impl QuantizeOptions {
    /// The default number of rounds of descent.
    pub const SWEEPS: usize = 8;

    /// Good options for codes of this width, with error feedback (which needs a second moment) or without.
    pub fn new(format: CodeFormat, has_feedback: bool) -> Self {
        QuantizeOptions {
            format,
            group: None,
            rounding: if has_feedback { Rounding::FeedbackByActivation } else { Rounding::Nearest },
            shrinks: 26,
            // With fine codes, even a little clipping costs more than a finer step gains.
            min_shrink: if format.is_fine() { 0.9 } else { 0.4 },
            f16_scales: true,
            // The extra code on the negative side is worth a sign only if codes are few.
            signed_scales: !format.is_fine(),
            asymmetric: false,
            sweeps: Self::SWEEPS,
        }
    }

    /// The widest group whose scales are tried with feedback: each try costs `width^2 / 2`.
    pub const FEEDBACK_SEARCH_WIDTH: usize = 256;

    /// The smallest and the largest code.
    pub fn range(&self) -> [i32; 2] {
        let (low, high) = self.format.range().into_inner();
        [low.into(), high.into()]
    }

    fn check(&self) -> Result<(), SolveError> {
        let wrong = |option, expected: &str, found: String| {
            Err(SolveError::Option { option, expected: expected.into(), found })
        };
        if self.group == Some(0) {
            return wrong("group", "at least 1", "0".into());
        }
        if self.shrinks == 0 {
            return wrong("shrinks", "at least 1", "0".into());
        }
        if !(self.min_shrink > 0.0 && self.min_shrink <= 1.0) {
            return wrong("min_shrink", "a number over 0, at most 1", self.min_shrink.to_string());
        }
        Ok(())
    }
}

/// Codes and scales of a matrix.
#[derive(Clone, PartialEq, Debug)]
pub struct QuantizedMatrix {
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Inputs per scale.
    pub group: usize,
    /// `[out, in]`; the zero point where a mask drops the weight, so that it reads as zero.
    pub codes: Vec<i8>,
    /// `[out, groups]`, representable in f16 if that was requested.
    pub scales: Vec<f32>,
    /// `[out, groups]`, or `None` for symmetric codes.
    pub zero_points: Option<Vec<i8>>,
    /// Mean squared output error against the matrix given, of each row.
    pub row_errors: Vec<f64>,
}

impl QuantizedMatrix {
    /// Scales per row.
    pub fn groups(&self) -> usize {
        self.shape[1].div_ceil(self.group)
    }

    /// The matrix that the codes represent, `[out, in]`.
    pub fn to_dense(&self) -> Vec<f32> {
        let ([_, cols], groups) = (self.shape, self.groups());
        let of = |k: usize| {
            let g = k / cols * groups + k % cols / self.group;
            let zero = self.zero_points.as_ref().map_or(0, |z| i32::from(z[g]));
            self.scales[g] * (i32::from(self.codes[k]) - zero) as f32
        };
        (0..self.codes.len()).map(of).collect()
    }
}

/// Quantizes `w: [out, in]`.
///
/// `h` is the second moment of the inputs (`None`: all weights count equally). `mask`, `[out, in]`, says what is kept: the rest is zero, does not
/// affect scales and takes no error; `w` should then be zero there, or better, re-solved (see [`prune::resolve`](super::prune::resolve)), since the
/// error is measured against `w` on the kept columns.
///
/// ```
/// use lstmc_frontend::ir::CodeFormat;
/// use lstmc_passes::solve::quantize::{quantize, QuantizeOptions};
/// let w = [0.7, -0.8, 0.1, 0.3];
/// let options = QuantizeOptions { format: CodeFormat::Int4, group: Some(2), ..Default::default() };
/// let q = quantize(&w, [2, 2], None, None, &options).unwrap();
/// assert_eq!(q.codes[..2], [7, -8]);
/// ```
pub fn quantize(
    w: &[f32],
    shape: [usize; 2],
    h: Option<&Hessian>,
    mask: Option<&[bool]>,
    options: &QuantizeOptions,
) -> Result<QuantizedMatrix, SolveError> {
    quantize_watched(w, shape, h, mask, options, &Steps::unwatched())
}

/// Like [`quantize`], but counts rows.
pub(crate) fn quantize_watched(
    w: &[f32],
    shape: [usize; 2],
    h: Option<&Hessian>,
    mask: Option<&[bool]>,
    options: &QuantizeOptions,
    steps: &Steps<'_>,
) -> Result<QuantizedMatrix, SolveError> {
    let [rows, cols] = shape;
    options.check()?;
    expect_matrix("w", w, shape)?;
    h.map_or(Ok(()), |h| h.expect_size(cols))?;
    mask.map_or(Ok(()), |m| expect_length("mask", m.len(), w.len()))?;
    let group = options.group.unwrap_or(cols).clamp(1, cols.max(1));
    let groups = cols.div_ceil(group);
    let order = column_order(h, cols, group, options.rounding);
    let solve = |problem: &Problem, i: usize| {
        let row = problem.solve(&w[i * cols..(i + 1) * cols], options);
        steps.add(1);
        row
    };

    let solved: Vec<RowCodes> = match mask {
        None => {
            let problem = Problem::new(order, group, h, cols, options)?;
            (0..rows).into_par_iter().map(|i| solve(&problem, i)).collect()
        }
        // Runs of rows with the same mask (blocks of rows) share a factorisation.
        Some(mask) => {
            let runs = super::prune::equal_rows(mask, rows, cols);
            let solve_run = |run: &std::ops::Range<usize>| -> Result<Vec<RowCodes>, SolveError> {
                let keep = &mask[run.start * cols..(run.start + 1) * cols];
                let kept = order.iter().copied().filter(|&j| keep[j]).collect();
                let problem = Problem::new(kept, group, h, cols, options)?;
                Ok(run.clone().map(|i| solve(&problem, i)).collect())
            };
            let parts: Result<Vec<_>, _> = runs.par_iter().map(solve_run).collect();
            parts?.into_iter().flatten().collect()
        }
    };

    let mut out = QuantizedMatrix {
        shape,
        group,
        codes: Vec::with_capacity(rows * cols),
        scales: Vec::with_capacity(rows * groups),
        zero_points: options.asymmetric.then(|| Vec::with_capacity(rows * groups)),
        row_errors: Vec::with_capacity(rows),
    };
    for row in solved {
        out.codes.extend(row.codes);
        out.scales.extend(row.scales);
        if let Some(z) = &mut out.zero_points {
            z.extend(row.zeros);
        }
        out.row_errors.push(row.error);
    }
    Ok(out)
}

/// The order in which columns are rounded: groups stay together.
fn column_order(h: Option<&Hessian>, cols: usize, group: usize, rounding: Rounding) -> Vec<usize> {
    let mut order: Vec<usize> = (0..cols).collect();
    let (Some(h), Rounding::FeedbackByActivation) = (h, rounding) else { return order };
    let diagonal = h.diagonal_values();
    let sums: Vec<f64> = diagonal.chunks(group).map(|c| c.iter().sum()).collect();
    order.sort_by(|&a, &b| {
        let (ga, gb) = (a / group, b / group);
        sums[gb]
            .total_cmp(&sums[ga])
            .then(ga.cmp(&gb))
            .then(diagonal[b].total_cmp(&diagonal[a]))
            .then(a.cmp(&b))
    });
    order
}

/// The f16 nearest to `x`, ties to even, as f32; beyond the range, the largest finite f16.
pub fn round_to_f16(x: f32) -> f32 {
    const MAX: f32 = 65504.0;
    const MIN_NORMAL: f32 = 6.103_515_6e-5; // 2^-14
    let magnitude = x.abs();
    if magnitude >= MAX {
        return MAX.copysign(x);
    }
    if magnitude < MIN_NORMAL {
        // Subnormal f16 are multiples of 2^-24, the spacing of f32 in [0.5, 1).
        return ((magnitude + 0.5) - 0.5).copysign(x);
    }
    // Drop 13 of the 23 bits of the significand, rounding half to even.
    let bits = magnitude.to_bits();
    let rounded = (bits + 0xfff + ((bits >> 13) & 1)) & !0x1fff;
    f32::from_bits(rounded).min(MAX).copysign(x)
}

#[cfg(test)]
mod tests;
