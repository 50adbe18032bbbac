//! A better mask, by alternating between least squares and the mask's constraint.

use super::{Pattern, Scope, element_mask, resolve, select};
use crate::solve::{Hessian, SolveError, expect_length, expect_matrix, factor};

/// How [`project`] goes about it.
#[derive(Clone, PartialEq, Debug)]
pub struct ProjectOptions {
    /// Which positions may be kept.
    pub pattern: Pattern,
    /// Which weights compete with which.
    pub scope: Scope,
    /// Fraction of blocks kept.
    pub density: f64,
    /// Steps of the alternation.
    pub steps: usize,
    /// The penalty of the first step, relative to a unit diagonal of `H`.
    pub penalty: f64,
    /// The factor by which the penalty rises with each step.
    pub growth: f64,
}

impl ProjectOptions {
    /// The defaults for a pattern and density.
    pub fn new(pattern: Pattern, scope: Scope, density: f64) -> ProjectOptions {
        ProjectOptions { pattern, scope, density, steps: 40, penalty: 0.05, growth: 1.1 }
    }
}

/// Prunes `w: [out, in]` by the alternating direction method: returns the mask (one flag per block) and the re-solved weights.
///
/// Minimises `sum_i r_i (V_i - W_i) H (V_i - W_i)^T` over matrices `V` with at most the given number of blocks:
///
/// ```text
///   V = (W H + rho (D - U)) (H + rho I)^-1        least squares, pulled towards D
///   D = the greatest of V + U, the rest zero      the constraint
///   U = U + V - D                                 what they disagree about, summed
/// ```
///
/// in coordinates where `diag H = 1`, `rho` rising from step to step (Boyd et al. 2011, section 9.1; for layers: Meng et al. 2024, "ALPS", section 3.1; Boža 2024). At the end the weights of the
/// last mask are re-solved exactly. `row_weights` are the `r_i`.
pub fn project(
    w: &[f32],
    shape: [usize; 2],
    h: &Hessian,
    row_weights: Option<&[f64]>,
    options: &ProjectOptions,
) -> Result<(Vec<bool>, Vec<f32>), SolveError> {
    let [rows, cols] = shape;
    expect_matrix("w", w, shape)?;
    h.expect_size(cols)?;
    row_weights.map_or(Ok(()), |r| expect_length("row weights", r.len(), rows))?;
    if !(options.penalty > 0.0 && options.growth >= 1.0) {
        return Err(SolveError::Option {
            option: "penalty",
            expected: "a positive number, growing by a factor of at least 1".into(),
            found: format!("{}, growing by {}", options.penalty, options.growth),
        });
    }
    let unit: Vec<f64> = h.diagonal_values().iter().map(|d| d.sqrt()).collect();
    let scaled: Vec<f64> =
        h.as_slice().iter().enumerate().map(|(k, x)| x / (unit[k / cols] * unit[k % cols])).collect();
    let w: Vec<f64> = w.iter().enumerate().map(|(k, &x)| f64::from(x) * unit[k % cols]).collect();
    let wh = factor::multiply(&w, &scaled, rows, cols, cols);
    let choose = |v: &[f64]| -> Result<Vec<bool>, SolveError> {
        let scores: Vec<f64> =
            v.iter().enumerate().map(|(k, x)| x * x * row_weights.map_or(1.0, |r| r[k / cols])).collect();
        select(&scores, shape, options.pattern, options.scope, options.density)
    };
    let apply = |v: &[f64], mask: &[bool]| -> Result<Vec<f64>, SolveError> {
        let keep = element_mask(mask, shape, options.pattern)?;
        Ok(v.iter().zip(keep).map(|(&x, k)| if k { x } else { 0.0 }).collect())
    };
    let mut mask = choose(&w)?;
    let mut d = apply(&w, &mask)?;
    let mut u = vec![0.0; w.len()];
    let mut rho = options.penalty;
    for _ in 0..options.steps {
        let mut a = scaled.clone();
        (0..cols).for_each(|i| a[i * cols + i] += rho);
        let inverse = factor::inverse(&a, cols)?;
        let right: Vec<f64> = wh.iter().zip(&d).zip(&u).map(|((wh, d), u)| wh + rho * (d - u)).collect();
        let mut v = factor::multiply(&right, &inverse, rows, cols, cols);
        v.iter_mut().zip(&u).for_each(|(v, u)| *v += u);
        mask = choose(&v)?;
        d = apply(&v, &mask)?;
        u = v.iter().zip(&d).map(|(v, d)| v - d).collect();
        rho *= options.growth;
        u.iter_mut().for_each(|x| *x /= options.growth);
    }
    let keep = element_mask(&mask, shape, options.pattern)?;
    let w: Vec<f32> = w.iter().enumerate().map(|(k, x)| (x / unit[k % cols]) as f32).collect();
    let v = resolve(&w, shape, h, &keep)?;
    Ok((mask, v))
}
