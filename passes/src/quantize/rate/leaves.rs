//! Leaves in codes at a rate.

use super::super::sum::{Errors, Leaves, Stacked, SumError, under_mask};
use crate::solve::Hessian;
use crate::solve::rate::{RateCodes, RateProblem, rate_bound};
use lstmc_frontend::ir::{CodeFormat, Granularity, Part, Quantized};
use lstmc_frontend::tensor::Tensor;
use std::cell::RefCell;
use std::ops::Range;

/// Solves leaves with one step, and sums up what was found.
pub(super) struct AtStep {
    pub(super) alpha: f64,
    /// Whether to compute bounds, which takes as long as a solution.
    pub(super) has_bounds: bool,
    pub(super) found: RefCell<Found>,
}

/// What some leaves came to.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    /// Half the sum of their errors: the rise of the loss, if it were quadratic.
    pub(super) loss: f64,
    /// The sum of the bounds of their bits.
    pub(super) bound: f64,
    pub(super) weights: usize,
}

impl Leaves for AtStep {
    fn solve(&self, stacked: &Stacked<'_>, errors: Errors<'_>) -> Result<Vec<Part>, SumError> {
        let shape = [stacked.rows, stacked.cols()];
        let h = errors.h.cloned().unwrap_or_else(|| Hessian::identity(shape[1]));
        let alike;
        let rows = match errors.rows {
            Some(rows) => rows,
            None => {
                alike = vec![1.0; shape[0]];
                &alike
            }
        };
        let problem = RateProblem::new(stacked.w.clone(), shape, h, rows, stacked.keep.clone())?;
        let codes = problem.solve(self.alpha)?;
        let mut found = self.found.borrow_mut();
        let weights = shape[0] * shape[1];
        found.loss += codes.error / 2.0;
        found.weights += weights;
        if self.has_bounds {
            found.bound += rate_bound(&problem, codes.error)? * weights as f64;
        }
        let parts = stacked.maps.iter().zip(&stacked.columns);
        parts.map(|(map, columns)| under_mask(map, quantized(&codes, columns.clone())?)).collect()
    }
}

/// Columns of a solution, in the narrowest format that holds their codes.
fn quantized(solved: &RateCodes, columns: Range<usize>) -> Result<Quantized, SumError> {
    let (rows, all) = (solved.scales.len(), solved.columns.len());
    let codes: Vec<i8> = (0..rows)
        .flat_map(|i| &solved.codes[i * all + columns.start..i * all + columns.end])
        .copied()
        .collect();
    let holds = |format: &CodeFormat| codes.iter().all(|code| format.range().contains(code));
    let format = CodeFormat::ALL.into_iter().find(holds).unwrap_or(CodeFormat::Int8);
    let factors = Tensor::from_f16([columns.len()], solved.columns[columns.clone()].to_vec())?;
    let codes = Tensor::from_i8([rows, columns.len()], codes)?;
    let scales = Tensor::from_f16([rows, 1], solved.scales.clone())?;
    Ok(Quantized::new(format, Granularity::Row, codes, scales, None)?.with_columns(Some(factors))?)
}
