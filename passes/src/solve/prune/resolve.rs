//! Least squares for the weights that a mask keeps.

use crate::solve::{Hessian, SolveError, expect_length, expect_matrix, factor};
use rayon::prelude::*;
use std::ops::Range;

/// The optimal weights under a mask: for each row with kept columns `K`, `v_K = (H_KK)^-1 (H w)_K`, zero elsewhere.
///
/// `w`, `mask`: `[out, in]`, the mask by element (see [`Pattern::expand`](super::Pattern::expand)). If more than half of a row is kept, the
/// equivalent `v = w - H^-1_:P (H^-1_PP)^-1 w_P` over the pruned columns `P` is solved instead, so the cost of a row is `min(|K|, |P|)^3 / 3`.
/// Consecutive rows with the same mask share a factorisation.
///
/// ```
/// use lstmc_passes::solve::{prune::resolve, Hessian};
/// // Two inputs that are always equal, up to noise: the weight that stays takes over from the one that goes.
/// let h = Hessian::new(&[1.0, 1.0, 1.0, 1.0], 2, 1.0, 1e-6).unwrap();
/// let v = resolve(&[0.5, 0.25], [1, 2], &h, &[true, false]).unwrap();
/// assert!((v[0] - 0.75).abs() < 1e-5 && v[1] == 0.0);
/// ```
pub fn resolve(w: &[f32], shape: [usize; 2], h: &Hessian, mask: &[bool]) -> Result<Vec<f32>, SolveError> {
    let [rows, cols] = shape;
    expect_matrix("w", w, shape)?;
    expect_length("mask", mask.len(), rows * cols)?;
    h.expect_size(cols)?;
    let w64: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
    let hw = h.apply(&w64, rows); // [rows, cols]
    let mostly_kept = mask.iter().filter(|&&k| k).count() * 4 > mask.len();
    let inverse = if mostly_kept { Some(factor::inverse(h.as_slice(), cols)?) } else { None };
    let solve_run = |run: &Range<usize>| -> Result<Vec<f32>, SolveError> {
        let m = run.len();
        let keep = &mask[run.start * cols..(run.start + 1) * cols];
        let (kept, pruned): (Vec<usize>, Vec<usize>) = (0..cols).partition(|&j| keep[j]);
        let mut out = vec![0.0f32; m * cols];
        match &inverse {
            Some(inverse) if pruned.len() < kept.len() => {
                let mut a = factor::select(inverse, cols, &pruned);
                let mut b = gather(&w64, run, cols, &pruned);
                factor::solve_rows(&mut a, pruned.len(), &mut b, m)?;
                for (r, i) in run.clone().enumerate() {
                    let mut v = w64[i * cols..(i + 1) * cols].to_vec();
                    for (x, &p) in b[r * pruned.len()..(r + 1) * pruned.len()].iter().zip(&pruned) {
                        factor::add_scaled(&mut v, -x, &inverse[p * cols..(p + 1) * cols]);
                    }
                    for &j in &kept {
                        out[r * cols + j] = v[j] as f32;
                    }
                }
            }
            _ => {
                let mut a = h.select(&kept);
                let mut b = gather(&hw, run, cols, &kept);
                factor::solve_rows(&mut a, kept.len(), &mut b, m)?;
                for r in 0..m {
                    for (x, &j) in b[r * kept.len()..(r + 1) * kept.len()].iter().zip(&kept) {
                        out[r * cols + j] = *x as f32;
                    }
                }
            }
        }
        Ok(out)
    };
    let parts: Result<Vec<_>, _> = equal_rows(mask, rows, cols).par_iter().map(solve_run).collect();
    Ok(parts?.into_iter().flatten().collect())
}

/// Runs of consecutive rows with the same mask.
pub(crate) fn equal_rows(mask: &[bool], rows: usize, cols: usize) -> Vec<Range<usize>> {
    let row = |i: usize| &mask[i * cols..(i + 1) * cols];
    let mut runs: Vec<Range<usize>> = Vec::new();
    for i in 0..rows {
        match runs.last_mut() {
            Some(run) if row(run.start) == row(i) => run.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

fn gather(a: &[f64], run: &Range<usize>, n: usize, cols: &[usize]) -> Vec<f64> {
    run.clone().flat_map(|i| cols.iter().map(move |&j| a[i * n + j])).collect()
}
