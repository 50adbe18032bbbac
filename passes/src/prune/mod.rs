//! `prune`: sets weights to zero, and the kept weights to their optimum.
//!
//! *Lossy.* Chooses a mask, stores the kept weights, and re-solves them by least squares for the same outputs on calibration text:
//!
//! ```text
//!   scores (w^2 H_jj, times the loss's sensitivity to the row) ──▶ mask ──▶ v_K = (H_KK)^-1 (H w)_K in each row
//! ```
//!
//! The two maps of an LSTM are one matrix here, over the stacked `[x; h]`: their weights compete, and each can compensate for the other. With several
//! layers and `scope=global`, layers are tested one by one at falling densities on calibration text, and the number of weights is distributed so that
//! the sum of the losses is minimal.
//!
//! A quantized map is pruned as the matrix that it represents, and the kept weights get codes of the same width and grouping again; pruning first
//! and quantizing once is better. A pruned map can be pruned further. Low-rank and tensor-train maps are refused.
//!
//! | method | score | source |
//! |---|---|---|
//! | `magnitude` | `w^2` | Han et al. 2015; data-free with `resolve=false` |
//! | `wanda` | `w^2 H_jj` | Sun et al. 2024, eq. 1 |
//! | `obs` | `w^2 / [H^-1]_jj` | Hassibi and Stork 1993, eq. 5 |
//! | `sparsegpt` | `obs`, block of columns by block, errors fed forward | Frantar and Alistarh 2023, algorithm 1 |
//! | `alternate` | starts as `wanda`, alternates between mask and least squares | Boyd et al. 2011; Meng et al. 2024 |

mod allocate;
mod gradual;
mod options;
mod stack;

pub(crate) use options::INFO;

use crate::calibrate::Statistics;
use crate::pass::{Context, Outcome, Pass, PassError};
use crate::sites::{Draft, Moment, Site, SiteKind, corrected_bias, describe, reader_hessian, sites};
use crate::solve::Hessian;
use crate::solve::prune::{
    COLUMNS, Keep, Pattern, Scope, Score, project, resolve, row_weights, scores, select, sparsegpt,
};
use crate::target::Target;
use lstmc_frontend::ir::{Graph, Head, LinearMap, Part, WeightId};
use stack::Stack;

/// How a mask is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Score(Score),
    SparseGpt,
    Alternate,
}

/// Which weights compete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Competition {
    Global,
    Layer,
    Row,
}

/// The option that works without calibration text.
const INSTEAD: &str = "method=magnitude, resolve=false";

struct Prune {
    target: Target,
    /// The fraction kept; `None` if the pattern determines it.
    density: Option<f64>,
    pattern: Pattern,
    method: Method,
    competition: Competition,
    resolves: bool,
    softmax_aware: bool,
    bias_correction: bool,
    refit_rounds: usize,
    damping: f64,
}

/// A layer to prune.
struct Layer {
    site: Site,
    /// The maps of the site that are targets.
    chosen: Vec<usize>,
    stack: Stack,
    h: Option<Hessian>,
    moment: Option<Moment>,
    row_weights: Option<Vec<f64>>,
}

impl Prune {
    fn is_data_free(&self) -> bool {
        self.method == Method::Score(Score::Magnitude) && !self.resolves
    }

    /// The layers that the target names, with the statistics of their inputs.
    fn layers(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Vec<Layer>, PassError> {
        let targets = self.target.matrices(graph)?;
        refuse(graph, &targets)?;
        let mut layers = vec![];
        for site in sites(graph)? {
            let chosen = site.chosen(&targets);
            if chosen.is_empty() {
                continue;
            }
            let maps: Vec<(&str, &LinearMap)> = chosen
                .iter()
                .map(|&k| graph.weight(site.maps[k].0))
                .map(|w| (w.name.as_str(), &*w.map))
                .collect();
            let stack = Stack::new(&maps, self.pattern)?;
            let mut layer = Layer { site, chosen, stack, h: None, moment: None, row_weights: None };
            if !self.is_data_free() {
                let is_embedding = matches!(layer.site.kind, SiteKind::Embedding { .. });
                let needs_text = !is_embedding || self.softmax_aware;
                let statistics = if needs_text { Some(context.statistics(graph, INSTEAD)?) } else { None };
                self.look_up(graph, &mut layer, statistics.as_deref())?;
            }
            layers.push(layer);
        }
        Ok(layers)
    }

    /// Fills in the statistics of a layer's inputs and outputs.
    fn look_up(
        &self,
        graph: &Graph,
        layer: &mut Layer,
        statistics: Option<&Statistics>,
    ) -> Result<(), PassError> {
        let site = &layer.site;
        let error = |source| PassError::Solve { weight: site.name.clone(), source };
        if let SiteKind::Embedding { readers, .. } = &site.kind {
            layer.h = reader_hessian(graph, readers, site.maps[0].1.len(), self.damping)?;
            let lookups = statistics.and_then(|s| s.lookups_of(&site.name));
            layer.row_weights = lookups.map(|l| row_weights(l.counts()));
        } else if let Some(statistics) = statistics {
            let moment = Moment::of(statistics, graph, site, &layer.chosen)?;
            layer.h = Some(moment.hessian(self.corrects(graph, site), self.damping).map_err(error)?);
            layer.moment = Some(moment);
            if let (true, true, Some(p)) = (self.softmax_aware, site.is_output(), statistics.predictions()) {
                layer.row_weights = Some(row_weights(&p.curvature));
            }
        }
        layer.h = layer.h.take().map(|h| layer.stack.pad(&h)).transpose().map_err(error)?;
        Ok(())
    }

    fn corrects(&self, graph: &Graph, site: &Site) -> bool {
        let is_plain = |id: &WeightId| matches!(&*graph.weight(*id).map, LinearMap::Dense(_));
        self.bias_correction && site.bias.as_ref().is_some_and(is_plain)
    }

    /// The score of each weight of a layer, by which it competes.
    fn scores(&self, layer: &Layer) -> Result<Vec<f64>, PassError> {
        let score = match self.method {
            Method::Score(score) => score,
            Method::SparseGpt => Score::Obs,
            Method::Alternate => Score::Activation,
        };
        let Stack { w, shape, .. } = &layer.stack;
        scores(w, *shape, layer.h.as_ref(), score, layer.row_weights.as_deref()).map_err(|e| layer.error(e))
    }

    /// The layer's maps at a density, and the corresponding biases.
    fn pruned(
        &self,
        graph: &Graph,
        layer: &Layer,
        density: f64,
        method: Method,
    ) -> Result<Vec<(WeightId, Part)>, PassError> {
        let Stack { w, shape, .. } = &layer.stack;
        let (h, rows) = (layer.h.as_ref(), layer.row_weights.as_deref());
        let scope = if self.competition == Competition::Row { Scope::Row } else { Scope::Map };
        let keep = Keep { pattern: self.pattern, scope, density };
        let error = |e| layer.error(e);
        let (mask, values) = match (method, h) {
            (Method::SparseGpt, Some(h)) => {
                let columns = layer.stack.step(COLUMNS);
                sparsegpt(w, *shape, h, rows, keep, columns, self.resolves).map_err(error)?
            }
            (Method::Alternate, Some(h)) => project(w, *shape, h, rows, keep).map_err(error)?,
            _ => {
                let scores = self.scores(layer)?;
                let mask = select(&scores, *shape, keep).map_err(error)?;
                let values = match h.filter(|_| self.resolves) {
                    Some(h) => {
                        let kept = self.pattern.expand(*shape, &mask);
                        resolve(w, *shape, h, &kept).map_err(error)?
                    }
                    None => w.clone(),
                };
                (mask, values)
            }
        };
        let maps = layer.stack.maps(self.pattern, &mask, &values, h)?;
        let maps: Vec<(usize, Part)> =
            layer.chosen.iter().copied().zip(maps.into_iter().map(Part::new)).collect();
        let bias = match &layer.moment {
            Some(moment) if self.corrects(graph, &layer.site) => {
                corrected_bias(graph, &layer.site, &maps, [moment.mean(); 2])?
            }
            _ => None,
        };
        Ok(maps.into_iter().map(|(k, m)| (layer.site.maps[k].0, m)).chain(bias).collect())
    }

    /// The density of each layer.
    fn densities(
        &self,
        graph: &Graph,
        layers: &[Layer],
        context: &mut Context<'_>,
    ) -> Result<Vec<f64>, PassError> {
        let Some(density) = self.density else { return Ok(vec![1.0; layers.len()]) };
        if layers.len() < 2 || self.competition != Competition::Global {
            return Ok(vec![density; layers.len()]);
        }
        let has_text = context.calibration.as_ref().is_some_and(|c| c.has_text());
        let has_loss = graph.output_named(Head::Logits.name()).is_some();
        match self.is_data_free() || !has_text || !has_loss {
            true => allocate::by_score(self, layers, density),
            false => allocate::by_trial(self, graph, layers, density, context),
        }
    }
}

impl Layer {
    fn error(&self, source: crate::solve::SolveError) -> PassError {
        PassError::Solve { weight: self.site.name.clone(), source }
    }
}

impl Pass for Prune {
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError> {
        if self.density == Some(1.0) {
            return Ok(Outcome::NoEffect("a sparsity of 0 drops nothing".into()));
        }
        let layers = self.layers(graph, context)?;
        if layers.is_empty() {
            return Ok(Outcome::NoEffect("no layer multiplies with a weight of the target".into()));
        }
        let densities = self.densities(graph, &layers, context)?;
        let mut draft = Draft::of(graph);
        let mut kept = vec![];
        let steps = context.steps(INFO.name, layers.len());
        for (layer, &density) in layers.iter().zip(&densities) {
            // A layer that keeps everything needs no mask; an n:m pattern has its own density.
            if self.density.is_some() && density >= 1.0 {
                kept.push(format!("{} all", layer.site.name));
                continue;
            }
            for (id, map) in self.pruned(&draft.graph, layer, density, self.method)? {
                draft.set(id, map);
            }
            kept.push(format!("{} {:.1}%", layer.site.name, layer.kept(&draft.graph) * 100.0));
            steps.add(1);
        }
        drop(steps);
        if !self.is_data_free() {
            draft.refit_output(graph, self.refit_rounds, INSTEAD, context)?;
        }
        Ok(Outcome::Patch(draft.into_patch(format!("kept: {}", kept.join(", ")))))
    }
}

impl Layer {
    /// The fraction of weights kept.
    fn kept(&self, graph: &Graph) -> f64 {
        let maps = || self.chosen.iter().map(|&k| &graph.weight(self.site.maps[k].0).map);
        let all: usize = maps().map(|m| m.shape().iter().product::<usize>()).sum();
        maps().map(|m| m.parameters()).sum::<usize>() as f64 / all.max(1) as f64
    }
}

/// A mask applies to weights, not to factors.
fn refuse(graph: &Graph, targets: &[WeightId]) -> Result<(), PassError> {
    for id in targets {
        let weight = graph.weight(*id);
        if let LinearMap::LowRank(_) | LinearMap::TensorTrain(_) = &*weight.map {
            let why = "its factors are what is left of it; prune other weights, or run decode on it first";
            let (weight, found) = (weight.name.clone(), describe(&weight.map));
            return Err(PassError::Representation { weight, found, why: why.into() });
        }
    }
    Ok(())
}
