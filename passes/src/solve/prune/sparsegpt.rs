//! SparseGPT: masks chosen one block of columns at a time, with each error compensated in later columns.

use super::{Keep, period, resolve, select};
use crate::solve::factor::{add_scaled, reverse_cholesky};
use crate::solve::{Hessian, SolveError, expect_length, expect_matrix};
use rayon::prelude::*;

/// The columns per step in the paper.
pub const COLUMNS: usize = 128;

/// Prunes `w: [out, in]` as SparseGPT does (Frantar and Alistarh 2023, algorithm 1): returns the mask (one flag per block) and the weights.
///
/// The feedback is that of [`quantize`](crate::solve::quantize), with a dropped weight rounded to zero. Weights are scored by their current values
/// and by the loss after later columns compensate for them. A step has `columns` columns, which blocks and groups should divide, and keeps the
/// density. With `resolves`, all kept weights are re-solved by least squares at the end, which the feedback only approximates.
pub fn sparsegpt(
    w: &[f32],
    shape: [usize; 2],
    h: &Hessian,
    row_weights: Option<&[f64]>,
    keep: Keep,
    columns: usize,
    resolves: bool,
) -> Result<(Vec<bool>, Vec<f32>), SolveError> {
    let [rows, cols] = shape;
    expect_matrix("w", w, shape)?;
    h.expect_size(cols)?;
    row_weights.map_or(Ok(()), |r| expect_length("row weights", r.len(), rows))?;
    let Keep { pattern, .. } = keep;
    let period = period(pattern);
    if columns == 0 || !columns.is_multiple_of(period) {
        return Err(SolveError::Option {
            option: "columns",
            expected: format!("a positive multiple of {period}, the width of {pattern}"),
            found: columns.to_string(),
        });
    }
    let u = reverse_cholesky(h.as_slice(), cols)?;
    let pivots: Vec<f64> = (0..cols).map(|k| u[k * cols + k]).collect();
    let feed: Vec<f64> = u.iter().enumerate().map(|(k, x)| x / pivots[k % cols]).collect();
    let mut v: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
    let [grid_rows, grid_cols] = pattern.grid(shape);
    let [_, c] = pattern.block();
    let mut mask = vec![false; grid_rows * grid_cols];
    for start in (0..cols).step_by(columns) {
        let end = (start + columns).min(cols);
        let width = end - start;
        let scores: Vec<f64> = (0..rows * width)
            .map(|k| {
                let (i, j) = (k / width, start + k % width);
                v[i * cols + j].powi(2) * pivots[j].powi(2) * row_weights.map_or(1.0, |r| r[i])
            })
            .collect();
        let part = select(&scores, [rows, width], keep)?;
        let kept = pattern.expand([rows, width], &part);
        let part_cols = width.div_ceil(c);
        for (k, &flag) in part.iter().enumerate() {
            mask[k / part_cols * grid_cols + start / c + k % part_cols] = flag;
        }
        v.par_chunks_mut(cols).enumerate().for_each(|(i, row)| {
            for j in start..end {
                if !kept[i * width + j - start] {
                    row[j] = 0.0;
                }
                let change = row[j] - f64::from(w[i * cols + j]);
                add_scaled(&mut row[j + 1..], -change, &feed[j * cols + j + 1..(j + 1) * cols]);
            }
        });
    }
    let kept = pattern.expand(shape, &mask);
    let v = if resolves {
        resolve(w, shape, h, &kept)?
    } else {
        v.iter().zip(&kept).map(|(&x, &k)| if k { x as f32 } else { 0.0 }).collect()
    };
    Ok((mask, v))
}
