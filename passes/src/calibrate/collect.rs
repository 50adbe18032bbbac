//! Collecting statistics: an observer of the interpreter.

use super::{CalibrationError, Inputs, Lookups, Predictions, Progress, Reader, Shape, Statistics};
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use lstmc_frontend::interpret::{self, InterpretError, Observation, Observer};
use lstmc_frontend::ir::{Graph, Head, NodeId, Program, WeightId};
use rayon::prelude::*;

/// Steps between two sums in f64. Between them, products are summed in f32, whose relative error of `STEPS * 2^-24`, 6e-5 in the worst case
/// and `sqrt(STEPS) * 2^-24` in practice, is far below the sampling error of a second moment of so few steps.
pub(super) const STEPS: usize = 1024;

/// Words per task when summing over the vocabulary.
const WORDS: usize = 512;

pub(super) fn collect(
    graph: &Graph,
    tokens: &[u32],
    predictions: bool,
    progress: &mut Progress<'_>,
) -> Result<Statistics, CalibrationError> {
    if tokens.len() < 2 {
        return Err(CalibrationError::TooFewTokens { found: tokens.len() });
    }
    let head = Program::of(graph).map_err(InterpretError::Form)?.head();
    let shape = Shape::of(graph)?;
    let model = interpret::LanguageModel::<f32>::new(graph)?.with_chunk(STEPS);
    let inputs = shape.inputs.into_iter().map(|(width, readers)| Inputs::zero(readers, width));
    let lookups = shape.lookups.into_iter().map(|(table, rows)| Lookups { table, counts: vec![0.0; rows] });
    let words = vec![0.0; shape.vocabulary];
    let statistics = Statistics {
        tokens: tokens.len() - 1,
        inputs: inputs.collect(),
        lookups: lookups.collect(),
        predictions: (predictions && head == Head::Logits).then(|| Predictions {
            targets: words.clone(),
            probabilities: words.clone(),
            curvature: words,
        }),
    };
    let mut collector =
        Collector { graph, statistics, product: vec![], total: tokens.len() - 1, read: 0, progress };
    model.run_with(tokens, &mut collector)?;
    collector.finish()
}

impl Inputs {
    /// No vectors.
    pub(super) fn zero(readers: Vec<Reader>, width: usize) -> Inputs {
        Inputs { readers, width, sum: vec![0.0; width], gram: vec![0.0; width * width], count: 0 }
    }

    /// Adds at most [`STEPS`] vectors, to the lower triangle only. `product` is memory for their product.
    pub(super) fn add(&mut self, rows: &[f32], product: &mut Vec<f32>) {
        let width = self.width;
        let steps = rows.len() / width.max(1);
        if steps == 0 {
            return;
        }
        self.count += steps as u64;
        for row in rows.chunks(width) {
            self.sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
        }
        product.resize(width * width, 0.0);
        let x = MatRef::from_row_major_slice(rows, steps, width);
        triangular::matmul(
            MatMut::from_row_major_slice_mut(&mut product[..width * width], width, width),
            BlockStructure::TriangularLower,
            Accum::Replace,
            x.transpose(),
            BlockStructure::Rectangular,
            x,
            BlockStructure::Rectangular,
            1.0f32,
            Par::rayon(0),
        );
        let rows = self.gram.par_chunks_mut(width).zip(product.par_chunks(width)).enumerate();
        rows.for_each(|(i, (to, from))| {
            to[..=i].iter_mut().zip(from).for_each(|(t, &f)| *t += f64::from(f));
        });
    }

    /// Completes the upper triangle.
    pub(super) fn finish(&mut self) -> Result<(), CalibrationError> {
        let n = self.width;
        for i in 0..n {
            for j in i + 1..n {
                self.gram[i * n + j] = self.gram[j * n + i];
            }
        }
        let readers = || self.readers.iter().map(|r| format!("@{}", r.weight)).collect::<Vec<_>>();
        finite(self.gram.iter().chain(&self.sum), || format!("input of {}", readers().join(" and ")))
    }
}

/// Refuses NaN and infinity.
pub(super) fn finite<'x>(
    values: impl IntoIterator<Item = &'x f64>,
    what: impl Fn() -> String,
) -> Result<(), CalibrationError> {
    match values.into_iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(CalibrationError::NotFinite { what: what() }),
    }
}

struct Collector<'a, 'p> {
    graph: &'a Graph,
    statistics: Statistics,
    product: Vec<f32>, // [width, width]
    total: usize,
    read: usize,
    progress: &'a mut Progress<'p>,
}

impl Observer<f32> for Collector<'_, '_> {
    fn observe(&mut self, _: NodeId, observation: Observation<'_, f32>) {
        match observation {
            Observation::Embedding { table, tokens } => {
                let name = &self.graph.weight(table).name;
                if let Some(lookups) = self.statistics.lookups.iter_mut().find(|l| l.table == *name) {
                    tokens.iter().for_each(|&t| lookups.counts[t as usize] += 1.0);
                }
                self.read += tokens.len();
                (self.progress)(self.read, self.total);
            }
            Observation::Product { weights, rows, .. } => self.add(weights, rows),
            Observation::Predictions { vocabulary, log_probabilities, targets } => {
                self.predicted(vocabulary, log_probabilities, targets);
            }
            // Kinds that are unknown here are not inputs of maps.
            _ => {}
        }
    }

    fn wants_predictions(&self) -> bool {
        self.statistics.predictions.is_some()
    }
}

impl Collector<'_, '_> {
    fn add(&mut self, weights: &[WeightId], rows: &[f32]) {
        let names = || weights.iter().map(|&w| &self.graph.weight(w).name);
        let is_these = |i: &&mut Inputs| i.readers.iter().map(|r| &r.weight).eq(names());
        let Some(inputs) = self.statistics.inputs.iter_mut().find(is_these) else { return };
        inputs.add(rows, &mut self.product);
    }

    fn predicted(&mut self, vocabulary: usize, log_probabilities: &[f32], targets: &[u32]) {
        let Some(predictions) = &mut self.statistics.predictions else { return };
        targets.iter().for_each(|&t| predictions.targets[t as usize] += 1.0);
        // Each task sums its own words over all steps, so the order of a sum does not depend on threads.
        let (means, curvatures) = (&mut predictions.probabilities, &mut predictions.curvature);
        let sums = means.par_chunks_mut(WORDS).zip(curvatures.par_chunks_mut(WORDS)).enumerate();
        sums.for_each(|(k, (means, curvatures))| {
            for row in log_probabilities.chunks(vocabulary) {
                for ((mean, curvature), &log) in means.iter_mut().zip(&mut *curvatures).zip(&row[k * WORDS..])
                {
                    let p = log.exp();
                    *mean += f64::from(p);
                    *curvature += f64::from(p * (1.0 - p));
                }
            }
        });
    }

    fn finish(self) -> Result<Statistics, CalibrationError> {
        let mut statistics = self.statistics;
        for inputs in &mut statistics.inputs {
            inputs.finish()?;
        }
        if let Some(p) = &mut statistics.predictions {
            let sums = p.probabilities.iter_mut().chain(&mut p.curvature);
            sums.for_each(|s| *s /= self.total as f64);
            finite(p.probabilities.iter().chain(&p.curvature), || "the predictions".into())?;
        }
        Ok(statistics)
    }
}
