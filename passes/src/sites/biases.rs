//! Biases that compensate for the mean error of a compressed map.

use super::weighting::{Shift, Weighting};
use super::{Site, dense, dense_map, sites};
use crate::options::{Kind, OptionInfo};
use crate::pass::{Context, PassError};
use crate::solve::{Hessian, SolveError};
use lstmc_frontend::ir::{Graph, Part, WeightId};
use lstmc_frontend::tensor::Tensor;
use std::collections::BTreeMap;

/// Rounds of refitting the output layer's bias. On ptb-small with the decoder at rank 96: 116.07, 115.73, 115.43 after none, one, two.
const REFIT_ROUNDS: usize = 2;

/// The option for the number of refits of the bias.
pub(crate) const REFIT_OPTION: OptionInfo = OptionInfo::new(
    "refit-rounds",
    Kind::Integer { min: 0, max: 100 },
    "rounds of refitting the output layer's bias to the words' mean probabilities; needs the text",
)
.or_integer(REFIT_ROUNDS);

/// The bias that compensates for the mean error of a site's outputs after `changes` (indices into its maps, new maps); `None` if there is
/// no bias. `means` are those of the inputs of the changed maps, in this order: in the original model, and now.
pub(crate) fn corrected_bias(
    graph: &Graph,
    site: &Site,
    changes: &[(usize, Part)],
    means: [&[f64]; 2],
) -> Result<Option<(WeightId, Part)>, PassError> {
    let Some(id) = site.bias else { return Ok(None) };
    let mut bias = dense(graph, id)?;
    let mut start = 0;
    for (k, new) in changes {
        let (weight, columns) = &site.maps[*k];
        let name = &graph.weight(*weight).name;
        let [before, now] = means.map(|mean| &mean[start..start + columns.len()]);
        start += columns.len();
        let product = |w: Vec<f32>, x: &[f64]| -> Vec<f64> {
            w.chunks(x.len().max(1)).map(|w| w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()).collect()
        };
        let (old, new) = (product(dense(graph, *weight)?, before), product(dense_map(name, new)?, now));
        let add = site.bias_rows().spread(old.iter().zip(new).map(|(old, new)| old - new).collect());
        bias.iter_mut().zip(add).for_each(|(b, a)| *b = (f64::from(*b) + a) as f32);
    }
    Ok(Some((id, vector(graph, id, bias)?)))
}

/// The bias of the output layer under which the mean probability of each word on the calibration text is the same as before compression. `None`
/// without such a bias or without the text.
///
/// A maximum-likelihood softmax with a bias satisfies `E[p_i] = the frequency of i`, which compression breaks; restoring it costs no bytes. Iterative
/// scaling (Darroch and Ratcliff 1972), with the whole model in the loop: `b_i += log(before_i / now_i)`, both smoothed by a hundredth of the mean.
pub(crate) fn refitted_output_bias(
    graph: &Graph,
    before: &[f64],
    rounds: usize,
    context: &mut Context<'_>,
) -> Result<Option<(WeightId, Part)>, PassError> {
    let bias = sites(graph)?.into_iter().find(Site::is_output).and_then(|s| s.bias);
    let (Some(id), Some(calibration)) = (bias, context.calibration.as_mut().filter(|c| c.has_text())) else {
        return Ok(None);
    };
    let smooth = 0.01 / before.len().max(1) as f64;
    let mut now = graph.clone();
    for _ in 0..rounds {
        let mut bias = dense(&now, id)?;
        let found = calibration.probabilities(&now)?;
        for ((b, t), p) in bias.iter_mut().zip(before).zip(found) {
            *b += ((t + smooth) / (p + smooth)).ln() as f32;
        }
        let map = vector(&now, id, bias)?;
        now.set_weight(id, map).expect("of the same shape");
    }
    Ok(Some((id, now.weight(id).map.clone())))
}

fn vector(graph: &Graph, id: WeightId, values: Vec<f32>) -> Result<Part, PassError> {
    let weight = graph.weight(id);
    let tensor = Tensor::from_f32(weight.map.shape(), values);
    let tensor = tensor.map_err(|e| PassError::Map { weight: weight.name.clone(), source: e.into() })?;
    Ok(tensor.into())
}

/// The graph with these maps.
pub(crate) fn patched(graph: &Graph, changed: &[(WeightId, Part)]) -> Graph {
    let mut new = graph.clone();
    for (id, map) in changed {
        new.set_weight(*id, map.clone()).expect("a map of the shape of the one it replaces");
    }
    new
}

/// A dense constant with numbers added.
fn add_to_constant(graph: &Graph, id: WeightId, more: Vec<f64>) -> Result<(WeightId, Part), PassError> {
    let more = more.into_iter().chain(std::iter::repeat(0.0));
    let sum = dense(graph, id)?.iter().zip(more).map(|(&b, m)| (f64::from(b) + m) as f32).collect();
    Ok((id, vector(graph, id, sum)?))
}

/// Biases with the vectors added to them.
#[derive(Debug, Default)]
pub(crate) struct Biases {
    added: BTreeMap<WeightId, Vec<f64>>,
    shifts: Vec<Shift>,
    /// Whether the output layer's matrix changes and its bias may change.
    has_output: bool,
}

impl Biases {
    /// Records what the weighting's biases must compensate for after `shifted: [out, in]` has become `v`.
    pub(crate) fn add(
        &mut self,
        weighting: &Weighting,
        shifted: &[f32],
        v: &[f32],
    ) -> Result<(), SolveError> {
        if let Some((bias, mean)) = &weighting.correction {
            self.has_output |= weighting.is_output;
            let more = Hessian::bias_correction(shifted, v, mean)?;
            self.add_to(*bias, weighting.bias_rows.spread(more));
        }
        self.shifts.extend(weighting.shift.iter().filter(|s| s.reader.is_some()).cloned());
        Ok(())
    }

    fn add_to(&mut self, bias: WeightId, more: Vec<f64>) {
        let sum = self.added.entry(bias).or_default();
        // A bias may have more blocks than the rows of a map.
        sum.resize(sum.len().max(more.len()), 0.0);
        sum.iter_mut().zip(more).for_each(|(s, m)| *s += m);
    }

    /// All changes: the maps, the biases that compensate for means, and the output layer's refitted one if its matrix is among the maps.
    pub(crate) fn complete(
        self,
        graph: &Graph,
        mut changed: Vec<(WeightId, Part)>,
        context: &mut Context<'_>,
    ) -> Result<Vec<(WeightId, Part)>, PassError> {
        let has_output = self.has_output;
        changed.extend(self.finish(graph, &changed)?);
        if has_output && context.calibration.is_some() {
            let statistics = context.statistics(graph, "bias=false")?;
            let before = statistics.predictions().map(|p| p.probabilities.as_slice()).unwrap_or_default();
            let now = patched(graph, &changed);
            if let Some((id, map)) = refitted_output_bias(&now, before, REFIT_ROUNDS, context)? {
                changed.retain(|(other, _)| *other != id);
                changed.push((id, map));
            }
        }
        Ok(changed)
    }

    /// The new biases of `graph`, given the maps that change.
    ///
    /// The loss of an embedding's rows reaches the bias through its reader's new map, since the reader's own correction is for
    /// the original inputs.
    fn finish(
        mut self,
        graph: &Graph,
        changed: &[(WeightId, Part)],
    ) -> Result<Vec<(WeightId, Part)>, PassError> {
        for shift in std::mem::take(&mut self.shifts) {
            let Some((reader, bias)) = shift.reader else { continue };
            let old = graph.weight(reader);
            let map = changed.iter().find(|(id, _)| *id == reader).map(|(_, m)| m);
            let dense = dense_map(&old.name, map.unwrap_or(&old.map))?;
            let product = dense
                .chunks(shift.row.len())
                .map(|w| w.iter().zip(&shift.row).map(|(&w, m)| f64::from(w) * m).sum());
            self.add_to(bias, product.collect());
        }
        self.added.into_iter().map(|(id, more)| add_to_constant(graph, id, more)).collect()
    }
}
