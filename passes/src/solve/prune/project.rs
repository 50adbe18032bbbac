//! Better masks, by alternating between least squares and the mask's constraint.

use super::{Keep, resolve, select};
use crate::solve::{Hessian, SolveError, expect_length, expect_matrix, factor};

/// Steps of the alternation.
const STEPS: usize = 40;

/// The penalty of the first step, relative to a unit diagonal of `H`, and the factor by which it rises with each step.
const PENALTY: f64 = 0.05;
const GROWTH: f64 = 1.1;

/// Prunes `w: [out, in]` by the alternating direction method: returns the mask (one flag per block) and the re-solved weights.
///
/// Minimises `sum_i r_i (V_i - W_i) H (V_i - W_i)^T` over matrices `V` with at most the given number of blocks:
///
/// ```text
///   V = (W H + rho (D - U)) (H + rho I)^-1        least squares, pulled towards D
///   D = the largest of V + U, the rest zero      the constraint
///   U = U + V - D                                 the accumulated difference
/// ```
///
/// in coordinates where `diag H = 1`, with `rho` rising from step to step (Boyd et al. 2011, section 9.1; for layers: Meng et al. 2024, "ALPS",
/// section 3.1; Boža 2024). At the end the weights of the last mask are re-solved exactly. `row_weights` are the `r_i`.
pub fn project(
    w: &[f32],
    shape: [usize; 2],
    h: &Hessian,
    row_weights: Option<&[f64]>,
    keep: Keep,
) -> Result<(Vec<bool>, Vec<f32>), SolveError> {
    let [rows, cols] = shape;
    expect_matrix("w", w, shape)?;
    h.expect_size(cols)?;
    row_weights.map_or(Ok(()), |r| expect_length("row weights", r.len(), rows))?;
    let unit: Vec<f64> = h.diagonal_values().iter().map(|d| d.sqrt()).collect();
    let scaled: Vec<f64> =
        h.as_slice().iter().enumerate().map(|(k, x)| x / (unit[k / cols] * unit[k % cols])).collect();
    let w: Vec<f64> = w.iter().enumerate().map(|(k, &x)| f64::from(x) * unit[k % cols]).collect();
    let wh = factor::multiply(&w, &scaled, rows, cols, cols);
    let choose = |v: &[f64]| -> Result<Vec<bool>, SolveError> {
        let scores: Vec<f64> =
            v.iter().enumerate().map(|(k, x)| x * x * row_weights.map_or(1.0, |r| r[k / cols])).collect();
        select(&scores, shape, keep)
    };
    let apply = |v: &[f64], mask: &[bool]| -> Vec<f64> {
        let kept = keep.pattern.expand(shape, mask);
        v.iter().zip(kept).map(|(&x, k)| if k { x } else { 0.0 }).collect()
    };
    let mut mask = choose(&w)?;
    let mut d = apply(&w, &mask);
    let mut u = vec![0.0; w.len()];
    let mut rho = PENALTY;
    for _ in 0..STEPS {
        let mut a = scaled.clone();
        (0..cols).for_each(|i| a[i * cols + i] += rho);
        let inverse = factor::inverse(&a, cols)?;
        let right: Vec<f64> = wh.iter().zip(&d).zip(&u).map(|((wh, d), u)| wh + rho * (d - u)).collect();
        let mut v = factor::multiply(&right, &inverse, rows, cols, cols);
        v.iter_mut().zip(&u).for_each(|(v, u)| *v += u);
        mask = choose(&v)?;
        d = apply(&v, &mask);
        u = v.iter().zip(&d).map(|(v, d)| v - d).collect();
        rho *= GROWTH;
        u.iter_mut().for_each(|x| *x /= GROWTH);
    }
    let kept = keep.pattern.expand(shape, &mask);
    let w: Vec<f32> = w.iter().enumerate().map(|(k, x)| (x / unit[k % cols]) as f32).collect();
    let v = resolve(&w, shape, h, &kept)?;
    Ok((mask, v))
}
