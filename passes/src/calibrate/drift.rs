//! The inputs of a map in two versions of a model, side by side.

use super::collect::STEPS;
use super::{CalibrationError, Inputs, Progress, Reader};
use lstmc_frontend::interpret::LanguageModel;
use lstmc_frontend::ir::{Graph, StepId, WeightId};
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
        let Some((_, read)) = tokens.split_last().filter(|(_, read)| !read.is_empty()) else {
            return Err(CalibrationError::TooFewTokens { found: tokens.len() });
        };
        let sides = [Side::new(graphs[0], of)?, Side::new(graphs[1], of)?];
        let [a, b] = &sides;
        let mut states = sides.each_ref().map(|side| side.model.state());
        let mut joint = Inputs::zero(of.to_vec(), a.width + b.width);
        let (mut product, mut done) = (vec![], 0);
        for chunk in read.chunks(STEPS) {
            let [of_a, of_b] = &mut states;
            let inputs = |side: &Side, state| side.model.inputs(side.step, state, chunk);
            let (original, now) = rayon::join(|| inputs(a, of_a), || inputs(b, of_b));
            let (original, now) = (original?, now?);
            let rows = original.chunks(a.width.max(1)).zip(now.chunks(b.width.max(1)));
            let rows: Vec<f32> = rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect();
            joint.add(&rows, &mut product);
            done += chunk.len();
            progress(done, read.len());
        }
        joint.finish()?;
        Ok(Drift { joint, original: a.width })
    }
}

/// A model, and the step that the maps belong to.
struct Side {
    model: LanguageModel<f32>,
    step: StepId,
    width: usize,
}

impl Side {
    fn new(graph: &Graph, of: &[Reader]) -> Result<Side, CalibrationError> {
        let model = LanguageModel::new(graph)?.with_chunk(STEPS);
        let maps: Option<Vec<WeightId>> = of.iter().map(|r| graph.weight_named(&r.weight)).collect();
        let found = maps.and_then(|maps| Some((model.step_of(&maps)?, maps)));
        let Some((step, maps)) = found else {
            let names: Vec<String> = of.iter().map(|r| format!("@{}", r.weight)).collect();
            return Err(CalibrationError::Mismatch {
                what: "maps".into(),
                expected: format!("a layer of {}", names.join(" and ")),
                found: "none".into(),
            });
        };
        let width = maps.iter().map(|&id| graph.weight(id).map.shape()[1]).sum();
        Ok(Side { model, step, width })
    }
}
