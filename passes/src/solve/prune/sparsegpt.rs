//! SparseGPT: masks chosen block by block of columns, each error moving the columns after it.

use super::{Pattern, Scope, Score, element_mask, resolve, select};
use crate::solve::factor::{add_scaled, reverse_cholesky};
use crate::solve::{Hessian, SolveError, expect_length, expect_matrix};
use rayon::prelude::*;

/// How [`sparsegpt`] goes about it.
#[derive(Clone, PartialEq, Debug)]
pub struct SparseGptOptions {
    /// Which positions may be kept. Blocks and groups should divide `columns`.
    pub pattern: Pattern,
    /// Which weights of a block of columns compete.
    pub scope: Scope,
    /// Fraction kept in each block of columns.
    pub density: f64,
    /// Columns per step.
    pub columns: usize,
    /// How the weights of a step are scored, by their present values: [`Score::Obs`] is SparseGPT's, by what is lost when later columns make up for it.
    pub score: Score,
    /// Re-solve all kept weights by least squares at the end.
    pub resolve: bool,
}

impl SparseGptOptions {
    /// SparseGPT in blocks of 128 columns, with the exact re-solve that its feedback only approximates.
    pub fn new(pattern: Pattern, scope: Scope, density: f64) -> SparseGptOptions {
        SparseGptOptions { pattern, scope, density, columns: 128, score: Score::Obs, resolve: true }
    }
}

/// Prunes `w: [out, in]` as SparseGPT does (Frantar and Alistarh 2023, algorithm 1): returns the mask (one flag per block) and the weights.
///
/// The feedback is that of [`quantize`](crate::solve::quantize), a dropped weight being one rounded to zero.
pub fn sparsegpt(
    w: &[f32],
    shape: [usize; 2],
    h: &Hessian,
    row_weights: Option<&[f64]>,
    options: &SparseGptOptions,
) -> Result<(Vec<bool>, Vec<f32>), SolveError> {
    let [rows, cols] = shape;
    expect_matrix("w", w, shape)?;
    h.expect_size(cols)?;
    row_weights.map_or(Ok(()), |r| expect_length("row weights", r.len(), rows))?;
    let [_, block] = pattern_period(options.pattern);
    if options.columns == 0 || !options.columns.is_multiple_of(block) {
        return Err(SolveError::Option {
            option: "columns",
            expected: format!("a positive multiple of {block}, the width of {}", options.pattern),
            found: options.columns.to_string(),
        });
    }
    let u = reverse_cholesky(h.as_slice(), cols)?;
    let pivots: Vec<f64> = (0..cols).map(|k| u[k * cols + k]).collect();
    let feed: Vec<f64> = u.iter().enumerate().map(|(k, x)| x / pivots[k % cols]).collect();
    let diagonal = h.diagonal_values();
    let mut v: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
    let [grid_rows, grid_cols] = options.pattern.grid(shape);
    let [_, c] = options.pattern.block();
    let mut mask = vec![false; grid_rows * grid_cols];
    for start in (0..cols).step_by(options.columns) {
        let end = (start + options.columns).min(cols);
        let width = end - start;
        let scores: Vec<f64> = (0..rows * width)
            .map(|k| {
                let (i, j) = (k / width, start + k % width);
                let by_column = match options.score {
                    Score::Magnitude => 1.0,
                    Score::Activation => diagonal[j],
                    Score::Obs => pivots[j].powi(2),
                };
                v[i * cols + j].powi(2) * by_column * row_weights.map_or(1.0, |r| r[i])
            })
            .collect();
        let part = select(&scores, [rows, width], options.pattern, options.scope, options.density)?;
        let keep = element_mask(&part, [rows, width], options.pattern)?;
        let part_cols = width.div_ceil(c);
        for (k, &flag) in part.iter().enumerate() {
            mask[k / part_cols * grid_cols + start / c + k % part_cols] = flag;
        }
        v.par_chunks_mut(cols).enumerate().for_each(|(i, row)| {
            for j in start..end {
                if !keep[i * width + j - start] {
                    row[j] = 0.0;
                }
                let change = row[j] - f64::from(w[i * cols + j]);
                add_scaled(&mut row[j + 1..], -change, &feed[j * cols + j + 1..(j + 1) * cols]);
            }
        });
    }
    let keep = element_mask(&mask, shape, options.pattern)?;
    let v = if options.resolve {
        resolve(w, shape, h, &keep)?
    } else {
        v.iter().zip(&keep).map(|(&x, &k)| if k { x as f32 } else { 0.0 }).collect()
    };
    Ok((mask, v))
}

fn pattern_period(pattern: Pattern) -> [usize; 2] {
    match pattern {
        Pattern::Block { rows, cols } => [rows, cols],
        Pattern::NOfM { m, .. } => [1, m],
    }
}
