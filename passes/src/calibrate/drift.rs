//! The inputs of a map in two versions of a model, side by side.

use super::collect::STEPS;
use super::{CalibrationError, Inputs, Progress, Reader, check_tokens};
use crate::recover::reading::{Tap, pairs};
use lstmc_frontend::interpret::InterpretError;
use lstmc_frontend::ir::{Graph, Program, WeightId};
use std::ops::Range;

/// The inputs `z0` of some maps in a model, and `z` in a changed version of it that has read the same tokens.
///
/// `W E[z0 z^T] E[z z^T]^-1` is the map of `z` that is nearest to `W z0`. The moments of the vector between the factors of a low-rank map follow from
/// these: with right factors `R0` and `R` they are `R0 E[z0 z^T] R^T` and `R E[z z^T] R^T`.
#[derive(Clone, PartialEq, Debug)]
pub struct Drift {
    joint: Inputs,   // of [z0; z]
    original: usize, // elements of z0
}

impl Drift {
    /// Elements of `z0` and of `z`.
    pub fn widths(&self) -> [usize; 2] {
        [self.original, self.joint.width - self.original]
    }

    /// `E[z0]` and `E[z]`.
    pub fn means(&self) -> [Vec<f64>; 2] {
        let mut original = self.joint.mean();
        let now = original.split_off(self.original);
        [original, now]
    }

    /// `E[z0 z^T]`, `[width of z0, width of z]`, row-major.
    pub fn cross(&self) -> Vec<f64> {
        self.block(0..self.original)
    }

    /// `E[z z^T]`, `[width, width]`.
    pub fn gram(&self) -> Vec<f64> {
        self.block(self.original..self.joint.width)
    }

    /// Rows of the joint second moment, in the columns of `z`.
    fn block(&self, rows: Range<usize>) -> Vec<f64> {
        let (width, count) = (self.joint.width, self.joint.count());
        let row = |i: usize| &self.joint.gram[i * width + self.original..(i + 1) * width];
        rows.flat_map(row).map(|x| x / count).collect()
    }

    pub(super) fn collect(
        graphs: [&Graph; 2],
        tokens: &[u32],
        of: &[Reader],
        progress: &mut Progress<'_>,
    ) -> Result<Drift, CalibrationError> {
        for graph in graphs {
            check_tokens(tokens, Program::of(graph).map_err(InterpretError::Form)?.vocabulary())?;
        }
        let taps = [tap(graphs[0], of)?, tap(graphs[1], of)?];
        let [a, b] = taps.each_ref().map(Tap::width);
        let mut joint = Inputs::zero(of.to_vec(), a + b);
        let (mut rows, mut product) = (vec![], vec![]);
        pairs(&taps, tokens, |[original, now], [read, total]| {
            let both = original.chunks(a.max(1)).zip(now.chunks(b.max(1)));
            rows.extend(both.flat_map(|(a, b)| a.iter().chain(b)));
            // As many as are summed in f32.
            let full = STEPS * (a + b);
            while rows.len() >= full || (read == total && !rows.is_empty()) {
                let rest = rows.split_off(full.min(rows.len()));
                joint.add(&rows, &mut product);
                rows = rest;
            }
            progress(read, total);
        });
        joint.finish()?;
        Ok(Drift { joint, original: a })
    }
}

/// Where a model multiplies these maps.
fn tap(graph: &Graph, of: &[Reader]) -> Result<Tap, CalibrationError> {
    let maps: Option<Vec<WeightId>> = of.iter().map(|r| graph.weight_named(&r.weight)).collect();
    let found = maps.map(|maps| Tap::new(graph, &maps)).transpose();
    let found = found.map_err(|error| CalibrationError::Gradients(Box::new(error)))?.flatten();
    found.ok_or_else(|| {
        let names: Vec<String> = of.iter().map(|r| format!("@{}", r.weight)).collect();
        CalibrationError::Mismatch {
            what: "maps".into(),
            expected: format!("a layer of {}", names.join(" and ")),
            found: "none".into(),
        }
    })
}
