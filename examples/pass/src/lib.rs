//! `row-prune`: small weights to zero, by a threshold that every row learns from itself.
//!
//! The magnitudes of a row are split in two clusters by Lloyd's algorithm (k-means with k = 2): the threshold lies half way between the
//! clusters' means, and what is below it is dropped. *Lossy*; needs no text.

use lstmc::frontend::ir::{Graph, LinearMap, Pattern, Sparse};
use lstmc::frontend::tensor::{Data, Tensor};
use lstmc::passes::Table;
use lstmc::passes::options::{Kind, OptionInfo, Options};
use lstmc::passes::registry::extended;
use lstmc::passes::{Context, Outcome, Pass, PassError, PassInfo, Patch, Target};
use std::sync::Arc;

/// The pass table's line.
pub const INFO: PassInfo = PassInfo {
    name: "row-prune",
    summary: "drop the small weights of every row, by a threshold between two clusters of magnitudes",
    options: &[
        OptionInfo::target("the weights, by name"),
        OptionInfo::new(
            "rounds",
            Kind::Integer { min: 1, max: 1000 },
            "rounds of Lloyd's algorithm, at most",
        )
        .or("20"),
    ],
    lossy: true,
    recovers: false,
    needs_calibration: |_| false,
    make: |options| Ok(Box::new(RowPrune::new(options))),
};

/// The passes of lstmc, and this one.
pub fn passes() -> Table {
    extended(&[INFO])
}

struct RowPrune {
    target: Target,
    rounds: usize,
}

impl RowPrune {
    fn new(options: &Options) -> RowPrune {
        RowPrune { target: options.get("target"), rounds: options.get("rounds") }
    }
}

impl Pass for RowPrune {
    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Outcome, PassError> {
        let (mut changes, mut notes) = (vec![], vec![]);
        for id in self.target.matrices(graph)? {
            let weight = graph.weight(id);
            // What is compressed already stays as it is.
            let LinearMap::Dense(tensor) = &*weight.map else { continue };
            let error = |source| PassError::Map { weight: weight.name.clone(), source };
            let [_, cols] = weight.map.matrix_shape().map_err(error)?;
            let values = tensor.to_f32().map_err(|e| error(e.into()))?;
            let rows = values.chunks(cols.max(1));
            let kept: Vec<bool> = rows.flat_map(|row| above(row, threshold(row, self.rounds))).collect();
            let count = kept.iter().filter(|&&k| k).count();
            notes.push(format!("@{}: {count} of {} weights kept", weight.name, kept.len()));
            let mask = Tensor::new(tensor.shape().to_vec(), Data::Bool(Arc::new(kept)));
            let mask = mask.map_err(|e| error(e.into()))?;
            let map = Sparse::new(Pattern::UNSTRUCTURED, mask, weight.map.clone()).map_err(error)?;
            changes.push((id, LinearMap::Sparse(map)));
        }
        if changes.is_empty() {
            return Ok(Outcome::NoEffect("no matrix of the target is dense".into()));
        }
        Ok(Outcome::Patch(Patch::weights(changes).with_notes(notes)))
    }
}

fn above(row: &[f32], threshold: f32) -> impl Iterator<Item = bool> + '_ {
    row.iter().map(move |w| w.abs() >= threshold)
}

/// Half way between the means of the row's small and large magnitudes.
fn threshold(row: &[f32], rounds: usize) -> f32 {
    let mean = |large: bool, threshold: f32| {
        let cluster = row.iter().zip(above(row, threshold)).filter(|&(_, is_large)| is_large == large);
        let (sum, count) = cluster.fold((0.0, 0.0f32), |(s, n), (w, _)| (s + w.abs(), n + 1.0));
        sum / count.max(1.0)
    };
    let mut threshold = mean(true, 0.0);
    for _ in 0..rounds {
        let next = (mean(false, threshold) + mean(true, threshold)) / 2.0;
        if next == threshold {
            break;
        }
        threshold = next;
    }
    threshold
}
