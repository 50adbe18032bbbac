//! Where a model multiplies: the maps that read one vector and whose products are summed, and the statistics of that vector.
//!
//! ```text
//!   x = [x_t; h_(t-1)] ──▶ maps: input, recurrent ──▶ sum + bias          a site: embedding, lstm, linear, output layer
//!         │                      │                        │
//!      Moment              what a pass changes        biases: compensate for the mean error
//!         └──▶ Weighting: how an error of each row and column counts
//! ```
//!
//! Every lossy pass goes through the sites of its target. `quantize` and `prune` take a site's [`Moment`] and weigh rows themselves; `low-rank` and
//! `tensor-train` take a [`Weighting`].

mod biases;
mod draft;
mod moment;
mod weighting;

pub(crate) use biases::{Biases, REFIT_OPTION, corrected_bias, patched, refitted_output_bias};
pub(crate) use draft::Draft;
pub(crate) use moment::{DAMPING_OPTION, Moment, reader_hessian};
pub(crate) use weighting::{Means, Weighting};

use crate::pass::PassError;
use lstmc_frontend::ir::{Graph, LinearMap, Program, StepId, StepKind, WeightId};
use std::ops::Range;

/// A place where a model multiplies.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Its name in reports: `embedding`, `lstm0`, `decoder`.
    pub(crate) name: String,
    pub(crate) kind: SiteKind,
    /// The maps whose products are summed, each with its part of the stacked input. An embedding has only its table, whose
    /// rows are the products.
    pub(crate) maps: Vec<(WeightId, Range<usize>)>,
    /// The bias that is added to the products, if nothing else reads it.
    pub(crate) bias: Option<WeightId>,
}

/// Kinds of sites.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SiteKind {
    /// A table, and the maps that read its rows. If only one map reads them, that map and its own bias can absorb what is subtracted from all
    /// rows.
    Embedding { readers: Vec<WeightId>, takes_over: Option<(WeightId, WeightId)> },
    /// A cell's two maps: input, recurrent.
    Cell,
    /// A linear layer.
    Linear,
    /// The linear layer that computes the logits; tied if its map is also the embedding's table.
    Output { is_tied: bool },
}

impl Site {
    /// Whether it computes the logits.
    pub(crate) fn is_output(&self) -> bool {
        matches!(self.kind, SiteKind::Output { .. })
    }

    /// The index of a map among the site's.
    pub(crate) fn position(&self, id: WeightId) -> Option<usize> {
        self.maps.iter().position(|(map, _)| *map == id)
    }

    /// The indices of those of its maps that are among `ids`.
    pub(crate) fn chosen(&self, ids: &[WeightId]) -> Vec<usize> {
        (0..self.maps.len()).filter(|&k| ids.contains(&self.maps[k].0)).collect()
    }
}

/// The sites of a model in order. A weight belongs to one of them: a table that is also an output layer's map, to the output layer.
pub(crate) fn sites(graph: &Graph) -> Result<Vec<Site>, PassError> {
    let program = Program::of(graph)?;
    let mut all: Vec<Site> = vec![];
    let name_of = |id: WeightId| graph.weight(id).name.clone();
    let own = |bias: Option<WeightId>| bias.filter(|&b| program.uses(b) == 1);
    for (id, step) in program.steps() {
        let site = match &step.kind {
            StepKind::Embed(e) => {
                let readers = readers(&program, id);
                let takes_over = match readers[..] {
                    [(map, bias)] if graph.users(step.node).count() == 1 => own(bias).map(|bias| (map, bias)),
                    _ => None,
                };
                let readers = readers.into_iter().map(|(map, _)| map).collect();
                Site {
                    name: name_of(e.table),
                    kind: SiteKind::Embedding { readers, takes_over },
                    maps: vec![(e.table, 0..step.width)],
                    bias: None,
                }
            }
            StepKind::Cell(c) => {
                let name = name_of(c.input);
                Site {
                    name: name.strip_suffix(".input").map_or(name.clone(), str::to_string),
                    kind: SiteKind::Cell,
                    maps: vec![(c.input, 0..c.inputs), (c.recurrent, c.inputs..c.inputs + step.width)],
                    bias: own(Some(c.bias)),
                }
            }
            StepKind::Apply(a) => Site {
                name: name_of(a.weight),
                kind: match id == program.logits() {
                    true => SiteKind::Output { is_tied: a.weight == program.embedding() },
                    false => SiteKind::Linear,
                },
                maps: vec![(a.weight, 0..a.inputs)],
                bias: own(a.bias),
            },
            StepKind::Map(_) => continue,
        };
        all.push(site);
    }
    // Later sites take precedence over the embedding, which has the weaker claim; otherwise the first of two does.
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

/// The maps that multiply a step's result, with their biases.
fn readers(program: &Program<'_>, x: StepId) -> Vec<(WeightId, Option<WeightId>)> {
    let reader = |kind: &StepKind| match kind {
        StepKind::Cell(c) if c.x == x => Some((c.input, Some(c.bias))),
        StepKind::Apply(a) if a.x == x => Some((a.weight, a.bias)),
        _ => None,
    };
    program.steps().filter_map(|(_, s)| reader(&s.kind)).collect()
}

/// Refuses a weight that is not dense.
pub(crate) fn expect_dense(graph: &Graph, id: WeightId) -> Result<(), PassError> {
    let weight = graph.weight(id);
    if matches!(&*weight.map, LinearMap::Dense(_)) {
        return Ok(());
    }
    let why = "it must be dense; factorise first and then prune or quantize the factors, or put `decode` before this pass";
    Err(PassError::Representation {
        weight: weight.name.clone(),
        found: weight.map.describe(),
        why: why.into(),
    })
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
        LinearMap::Quantized(q) => q.format().to_string(),
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
        assert_eq!(sites[3].kind, SiteKind::Output { is_tied: false });
        let SiteKind::Embedding { readers, takes_over } = &sites[0].kind else { panic!() };
        assert_eq!(readers[..], [sites[1].maps[0].0]);
        assert_eq!(*takes_over, Some((readers[0], sites[1].bias.unwrap())));
        let h = reader_hessian(&graph, readers, 4, 0.0).unwrap().unwrap();
        let w = dense(&graph, readers[0]).unwrap();
        let expected: f64 = w.chunks(4).map(|r| f64::from(r[1]) * f64::from(r[2])).sum();
        assert!((h.as_slice()[4 + 2] - expected).abs() < 1e-6);
    }
}
