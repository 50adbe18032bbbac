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
use lstmc_frontend::ir::{GateRows, Graph, LinearMap, Program, Sequence, Slice, StepId, StepKind, WeightId};
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
    /// All maps that multiply the stacked input, those of other sites too.
    pub(crate) stacked: Vec<(WeightId, Range<usize>)>,
    /// The bias that is added to the products, if nothing else reads it.
    pub(crate) bias: Option<WeightId>,
    bias_rows: BiasRows,
}

/// The elements of a bias that the rows of a site's maps are added to: all in order, or those of the gates, for so many units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct BiasRows(Option<([GateRows; 2], usize)>);

impl BiasRows {
    /// One number for each row as one for each element of the bias.
    pub(crate) fn spread(self, of_rows: Vec<f64>) -> Vec<f64> {
        let Some(([rows, bias], units)) = self.0 else { return of_rows };
        let mut out = vec![0.0; bias.blocks() * units];
        for (from, to) in rows.common(bias) {
            out[to * units..][..units].copy_from_slice(&of_rows[from * units..][..units]);
        }
        out
    }
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

    /// See [`BiasRows::spread`].
    pub(crate) fn bias_rows(&self) -> BiasRows {
        self.bias_rows
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
        let maps = step.stacked();
        let site = |name: String, kind: SiteKind, bias: Option<WeightId>| Site {
            name,
            kind,
            maps: maps.clone(),
            stacked: maps.clone(),
            bias: own(bias),
            bias_rows: BiasRows::default(),
        };
        match &step.kind {
            StepKind::Embed(e) => {
                let readers = readers(&program, id);
                let takes_over = match readers[..] {
                    [(map, bias)] if reads(&program, id) == 1 => own(bias).map(|bias| (map, bias)),
                    _ => None,
                };
                let readers = readers.into_iter().map(|(map, _)| map).collect();
                let maps = vec![(e.table, 0..step.width)];
                let kind = SiteKind::Embedding { readers, takes_over };
                all.push(Site { maps: maps.clone(), stacked: maps, ..site(name_of(e.table), kind, None) });
            }
            StepKind::Cell(c) if c.spec.input == c.spec.recurrent => {
                let name = name_of(c.input);
                let name = name.strip_suffix(".input").map_or(name.clone(), str::to_string);
                let bias_rows = BiasRows(Some(([c.spec.input, c.spec.bias], step.width)));
                all.push(Site { bias_rows, ..site(name, SiteKind::Cell, Some(c.bias)) });
            }
            // Some of the two maps' products are not added up.
            StepKind::Cell(c) => {
                for (map, rows) in maps.iter().zip([c.spec.input, c.spec.recurrent]) {
                    let bias_rows = BiasRows(Some(([rows, c.spec.bias], step.width)));
                    let site = site(name_of(map.0), SiteKind::Linear, Some(c.bias));
                    all.push(Site { maps: vec![map.clone()], bias_rows, ..site });
                }
            }
            StepKind::Apply(a) => {
                let weight = a.terms[0].1;
                let kind = match Some(id) == program.decoder() {
                    true => SiteKind::Output { is_tied: weight == program.embedding() },
                    false => SiteKind::Linear,
                };
                all.push(site(name_of(weight), kind, a.bias));
            }
            StepKind::Map(_) | StepKind::Norm(_) | StepKind::LogSoftmax(_) | StepKind::Concat(_) => {}
        }
    }
    // Later sites take precedence over the embedding, which has the weaker claim; otherwise the first of two does.
    let mut seen: Vec<WeightId> = vec![];
    let (tables, mut others): (Vec<Site>, Vec<Site>) =
        all.into_iter().partition(|s| matches!(s.kind, SiteKind::Embedding { .. }));
    for site in &mut others {
        site.maps.retain(|(id, _)| !seen.contains(id));
        seen.extend(site.maps.iter().map(|(id, _)| *id));
        if site.kind == SiteKind::Cell && site.maps.len() < 2 {
            site.kind = SiteKind::Linear;
        }
    }
    others.retain(|site| !site.maps.is_empty());
    let tables = tables.into_iter().filter(|s| !seen.contains(&s.maps[0].0));
    Ok(tables.chain(others).collect())
}

/// The maps that multiply a step's whole result, with their biases.
fn readers(program: &Program<'_>, x: StepId) -> Vec<(WeightId, Option<WeightId>)> {
    let is_read = |slice: Slice| program.whole(slice).is_ok_and(|s| s == x);
    let readers = |kind: &StepKind| match kind {
        StepKind::Cell(c) if is_read(c.x) => vec![(c.input, Some(c.bias))],
        StepKind::Apply(a) => {
            a.terms.iter().filter(|(x, _)| is_read(*x)).map(|(_, w)| (*w, a.bias)).collect()
        }
        _ => vec![],
    };
    program.steps().flat_map(|(_, s)| readers(&s.kind)).collect()
}

/// How often a step's result is read: by steps, as the next value of a state, as the output.
fn reads(program: &Program<'_>, x: StepId) -> usize {
    let slices = program.steps().flat_map(|(_, s)| s.kind.reads());
    let by_steps = slices.filter(|slice| slice.of == Sequence::Step(x)).count();
    let by_states = program.states().iter().filter(|s| s.is_stepwise && s.next == x).count();
    by_steps + by_states + usize::from(program.output() == x)
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
