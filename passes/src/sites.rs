//! Where a model multiplies: the maps that read one vector and whose products are summed, and what is known of that vector.

use crate::calibrate::Statistics;
use crate::pass::{Context, PassError};
use crate::solve::{Hessian, SolveError};
use lstmc_frontend::ir::{Graph, LanguageModel, Layer, LinearMap, ValueId, WeightId};
use lstmc_frontend::tensor::Tensor;
use std::ops::Range;

/// A place where a model multiplies.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// What it is called in reports: `embedding`, `lstm0`, `decoder`.
    pub(crate) name: String,
    pub(crate) kind: SiteKind,
    /// The maps whose products are summed, each with its part of the stacked input. An embedding has its table alone, whose
    /// rows are the products.
    pub(crate) maps: Vec<(WeightId, Range<usize>)>,
    /// What is added to the products.
    pub(crate) bias: Option<WeightId>,
}

/// Kinds of sites.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum SiteKind {
    /// A table, and the maps that read its rows.
    Embedding { readers: Vec<WeightId> },
    /// An LSTM's two maps.
    Lstm,
    /// A linear layer; the output layer, if it makes the logits.
    Linear { is_output: bool },
}

/// The sites of a model in order. A weight belongs to one of them: a table that is also an output layer's map, to the output layer.
pub(crate) fn sites(graph: &Graph) -> Result<Vec<Site>, PassError> {
    let model = LanguageModel::of(graph)?;
    let mut all: Vec<Site> = vec![];
    let name_of = |id: WeightId| graph.weight(id).name.clone();
    for layer in model.layers() {
        let site = match layer {
            Layer::Embedding(e) => Site {
                name: name_of(e.table),
                kind: SiteKind::Embedding { readers: readers(&model, e.result) },
                maps: vec![(e.table, 0..e.features)],
                bias: None,
            },
            Layer::Lstm(l) => {
                let name = name_of(l.input);
                Site {
                    name: name.strip_suffix(".input").map_or(name.clone(), str::to_string),
                    kind: SiteKind::Lstm,
                    maps: vec![(l.input, 0..l.features), (l.recurrent, l.features..l.features + l.hidden)],
                    bias: Some(l.bias),
                }
            }
            Layer::Linear(l) => Site {
                name: name_of(l.weight),
                kind: SiteKind::Linear { is_output: l.result == model.logits() },
                maps: vec![(l.weight, 0..l.inputs)],
                bias: l.bias,
            },
            Layer::Elementwise { .. } => continue,
        };
        all.push(site);
    }
    // Later sites go before the embedding, which has the weaker claim; else the first of two.
    let mut seen: Vec<WeightId> = vec![];
    let (tables, mut others): (Vec<Site>, Vec<Site>) =
        all.into_iter().partition(|s| matches!(s.kind, SiteKind::Embedding { .. }));
    others.retain(|site| {
        let is_new = site.maps.iter().all(|(id, _)| !seen.contains(id));
        seen.extend(site.maps.iter().map(|(id, _)| *id));
        is_new
    });
    let tables = tables.into_iter().filter(|s| !seen.contains(&s.maps[0].0));
    Ok(tables.chain(others).collect())
}

/// The maps that multiply a value directly.
fn readers(model: &LanguageModel<'_>, value: ValueId) -> Vec<WeightId> {
    let reader = |layer: &Layer| match layer {
        Layer::Lstm(l) if l.x == value => Some(l.input),
        Layer::Linear(l) if l.x == value => Some(l.weight),
        _ => None,
    };
    model.layers().iter().filter_map(reader).collect()
}

/// The second moment and mean of a part of a site's input.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    gram: Vec<f64>, // [n, n]
    mean: Vec<f64>, // [n]
    count: f64,
}

impl Moment {
    /// Of the columns of the maps `chosen` (indices into the site's), one after the other.
    pub(crate) fn of(
        statistics: &Statistics,
        graph: &Graph,
        site: &Site,
        chosen: &[usize],
    ) -> Result<Moment, PassError> {
        let name = &graph.weight(site.maps[0].0).name;
        let Some((inputs, _)) = statistics.inputs_of(name) else {
            return Err(PassError::Representation {
                weight: name.clone(),
                found: "not in the calibration statistics".into(),
                why: "collect them again on this model".into(),
            });
        };
        let columns: Vec<usize> = chosen.iter().flat_map(|&k| site.maps[k].1.clone()).collect();
        let width = inputs.width();
        let mean = inputs.mean();
        let row = |&i: &usize| columns.iter().map(move |&j| inputs.gram()[i * width + j]);
        Ok(Moment {
            gram: columns.iter().flat_map(row).collect(),
            mean: columns.iter().map(|&j| mean[j]).collect(),
            count: inputs.count(),
        })
    }

    /// `E[x]`.
    pub(crate) fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// `E[x x^T]`, or the covariance where the bias is going to be corrected.
    pub(crate) fn hessian(&self, centered: bool, damping: f64) -> Result<Hessian, SolveError> {
        match centered {
            true => Hessian::centered(&self.gram, &self.mean, self.count, damping),
            false => Hessian::new(&self.gram, self.mean.len(), self.count, damping),
        }
    }
}

/// What an error of an embedding's row does to the maps that read it: the sum of their `W^T W`. None where no map reads it directly.
pub(crate) fn reader_hessian(
    graph: &Graph,
    readers: &[WeightId],
    features: usize,
    damping: f64,
) -> Result<Option<Hessian>, PassError> {
    let mut rows: Vec<f32> = vec![];
    for &id in readers {
        rows.extend_from_slice(dense(graph, id)?.as_slice());
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let made = Hessian::of_reader(&rows, features, None, damping);
    made.map(Some)
        .map_err(|source| PassError::Solve { weight: graph.weight(readers[0]).name.clone(), source })
}

/// The bias that makes up for the mean error of a site's outputs once `changes` (indices into its maps, new maps) are made; none where there is
/// no bias. `moment` is of the maps changed, in this order.
pub(crate) fn corrected_bias(
    graph: &Graph,
    site: &Site,
    changes: &[(usize, LinearMap)],
    moment: &Moment,
) -> Result<Option<(WeightId, LinearMap)>, PassError> {
    let Some(id) = site.bias else { return Ok(None) };
    let mut bias = dense(graph, id)?;
    let mut start = 0;
    for (k, new) in changes {
        let (weight, columns) = &site.maps[*k];
        let name = &graph.weight(*weight).name;
        let mean = &moment.mean()[start..start + columns.len()];
        start += columns.len();
        let add = Hessian::bias_correction(&dense(graph, *weight)?, &dense_map(name, new)?, mean)
            .map_err(|source| PassError::Solve { weight: name.clone(), source })?;
        bias.iter_mut().zip(add).for_each(|(b, a)| *b = (f64::from(*b) + a) as f32);
    }
    Ok(Some((id, vector(graph, id, bias)?)))
}

/// The bias of the output layer under which the mean probability of each word on the calibration text is what it was before compression. None
/// without such a bias or without the text.
///
/// Iterative scaling (Darroch and Ratcliff 1972), see [`refit_bias`](crate::solve::softmax::refit_bias), with the whole model in the loop:
/// `b_i += log(before_i / now_i)`, both smoothed by a hundredth of the mean.
pub(crate) fn refitted_output_bias(
    graph: &Graph,
    before: &[f64],
    rounds: usize,
    context: &mut Context<'_>,
) -> Result<Option<(WeightId, LinearMap)>, PassError> {
    let is_output = |s: &Site| s.kind == SiteKind::Linear { is_output: true };
    let bias = sites(graph)?.into_iter().find(is_output).and_then(|s| s.bias);
    let (Some(id), Some(calibration)) = (bias, context.calibration.as_mut().filter(|c| c.has_text())) else {
        return Ok(None);
    };
    let smooth = 0.01 / before.len().max(1) as f64;
    let mut now = graph.clone();
    for _ in 0..rounds {
        let mut bias = dense(&now, id)?;
        let found = calibration.predictions(&now)?.probabilities;
        for ((b, t), p) in bias.iter_mut().zip(before).zip(found) {
            *b += ((t + smooth) / (p + smooth)).ln() as f32;
        }
        let map = vector(&now, id, bias)?;
        now.set_weight(id, map).expect("of the same shape");
    }
    Ok(Some((id, now.weight(id).map.clone())))
}

fn vector(graph: &Graph, id: WeightId, values: Vec<f32>) -> Result<LinearMap, PassError> {
    let weight = graph.weight(id);
    let tensor = Tensor::from_f32(weight.map.shape(), values);
    let tensor = tensor.map_err(|e| PassError::Map { weight: weight.name.clone(), source: e.into() })?;
    Ok(LinearMap::Dense(tensor))
}

/// A weight as a dense matrix, `[out, in]` row-major.
pub(crate) fn dense(graph: &Graph, id: WeightId) -> Result<Vec<f32>, PassError> {
    dense_map(&graph.weight(id).name, &graph.weight(id).map)
}

/// A map as a dense matrix, `[out, in]` row-major.
pub(crate) fn dense_map(name: &str, map: &LinearMap) -> Result<Vec<f32>, PassError> {
    let error = |source| PassError::Map { weight: name.to_string(), source };
    let tensor = map.to_dense().map_err(error)?;
    Ok(tensor.to_f32().map_err(|e| error(e.into()))?.to_vec())
}

/// A map in a few words, for messages: `int8`, `sparse`, `low_rank`.
pub(crate) fn describe(map: &LinearMap) -> String {
    match map {
        LinearMap::Quantized(q) => format!("int{}", q.bits()),
        other => other.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lstmc_frontend::ir::arbitrary::language_model;

    #[test]
    fn sites_of_a_model() {
        let graph = language_model(4, 2, 10, 1);
        let sites = sites(&graph).unwrap();
        let names: Vec<&str> = sites.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["embedding", "lstm0", "lstm1", "decoder"]);
        assert_eq!(sites[2].maps[1].1, 4..8);
        assert_eq!(sites[3].kind, SiteKind::Linear { is_output: true });
        let SiteKind::Embedding { readers } = &sites[0].kind else { panic!() };
        assert_eq!(readers.len(), 1);
        let h = reader_hessian(&graph, readers, 4, 0.0).unwrap().unwrap();
        let w = dense(&graph, readers[0]).unwrap();
        let expected: f64 = w.chunks(4).map(|r| f64::from(r[1]) * f64::from(r[2])).sum();
        assert!((h.as_slice()[4 + 2] - expected).abs() < 1e-6);
    }
}
