//! `quantize` at a rate: codes as fine as the loss needs, counted in bytes after entropy coding.
//!
//! ```text
//!   alpha ──▶ for each layer in order:  inputs of the model as it now is ──▶ W B, H ──▶ codes, scales, columns   solve::rate
//!     ▲                                                                                     │
//!     └── secant on the logarithm of the size (or of the loss) ◀── the store's coder ◀──────┘
//! ```
//!
//! One number `alpha`, the square root of what the loss may rise for each weight, decides all steps of all maps. The loss is seen through its second
//! derivative: row `i` of a map counts by `f_i = E[g_i^2]`, with `g` the gradient at the map's results for words that the model itself predicts, its
//! columns by `H = E[x x^T]`; an embedding's rows by how often they are looked up, its columns by `E[g g^T]`.
//!
//! Layers are coded in order, and each makes up for the ones before: where inputs have become `x` instead of `x0`, what is coded is
//! `W E[x0 x^T] E[x x^T]^-1`.

mod layers;
mod leaves;
mod rotation;

use super::sum::{Errors, Quantizer};
use super::{INFO, refuse_quantized, set_activations};
use crate::options::Options;
use crate::pass::{Context, Outcome, Pass, PassError};
use crate::sites::{Draft, Site, corrected_bias, dense, sites};
use crate::solve::SolveError;
use crate::target::Target;
use crate::watch::Steps;
use layers::{Layer, Seen};
use leaves::{AtStep, Found};
use lstmc_frontend::ir::store::compressed_bytes;
use lstmc_frontend::ir::{Activations, Graph, LinearMap, Part, WeightId};
use lstmc_frontend::tensor::Tensor;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::f64::consts::LN_2;

/// Damping of second moments. Errors are fed back through their Cholesky factor, not through an inverse, so little is enough.
const DAMPING: f64 = 0.0005;

/// Options that mean something only where codes have a given width.
const BITS_ONLY: [&str; 7] = ["group", "method", "asymmetric", "act-order", "scales", "sequential", "sweeps"];

/// Solutions until a size or loss is close enough: to decide about rotations, after that, and with correction of drift.
const TRIES: [usize; 3] = [6, 5, 5];

/// What the predicted rise of the loss is of the measured one: 3.5 on ptb-small at 0.58 MB, where words that are rare in the calibration text count more in
/// the prediction, and errors of several layers are not independent.
const OVERESTIMATE: f64 = 3.0;

/// How near a size must come to its goal before drift is corrected, relative to the goal.
const NEAR: f64 = 0.03;

/// How far below its goal a size or loss may be, relative to the goal.
const CLOSE: f64 = 0.01;

/// The option that works without calibration text.
const INSTEAD: &str = "bits=8";

/// What decides the steps.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Goal {
    Rate(f64),
    Bytes(f64),
    Loss(f64),
}

pub(super) struct AtRate {
    target: Target,
    goal: Goal,
    damping: f64,
    bias_correction: bool,
    refit_rounds: usize,
    f16_biases: bool,
    activations: Activations,
}

impl AtRate {
    pub(super) fn new(options: &Options, goal: (&str, f64)) -> Result<AtRate, PassError> {
        let (name, value) = goal;
        let defaults = Options::new(INFO.options, &[]);
        let changed = |name: &&&str| options.spelled(name) != defaults.spelled(name);
        if let Some(given) = BITS_ONLY.iter().find(changed) {
            return Err(PassError::Options(format!(
                "{given} has no effect with {name}, where steps follow from the loss; it belongs to bits"
            )));
        }
        Ok(AtRate {
            target: options.get("target"),
            goal: match name {
                "rate" => Goal::Rate(value),
                "bytes" => Goal::Bytes(value),
                _ => Goal::Loss(value),
            },
            damping: options.given("damping").unwrap_or(DAMPING),
            bias_correction: options.given("bias-correction").unwrap_or(true),
            refit_rounds: options.get("refit-rounds"),
            f16_biases: options.get::<&str>("biases") == "f16",
            activations: Activations::from_name(options.get("activations")).unwrap_or_default(),
        })
    }
}

fn solve_error(name: &str, source: SolveError) -> PassError {
    PassError::Solve { weight: name.to_string(), source }
}

/// A solution.
struct Solution {
    alpha: f64,
    draft: Draft,
    /// Bytes of each weight of the target.
    bytes: BTreeMap<WeightId, usize>,
    /// What each layer came to.
    found: Vec<Found>,
}

impl Solution {
    /// Bytes of the target.
    fn size(&self) -> usize {
        self.bytes.values().sum()
    }

    /// Bytes of a layer's maps.
    fn size_of(&self, layer: &Layer) -> usize {
        layer.ids().filter_map(|id| self.bytes.get(&id)).sum()
    }

    /// The predicted rise of the loss.
    fn loss(&self) -> f64 {
        self.found.iter().map(|f| f.loss).sum()
    }
}

/// One run of the pass.
struct Run<'r> {
    options: &'r AtRate,
    /// The model, perhaps in other coordinates.
    graph: Graph,
    layers: Vec<Layer>,
    /// All weights of the target.
    targets: Vec<WeightId>,
    steps: Steps<'r>,
}

impl Run<'_> {
    fn solve(&self, alpha: f64, drifts: bool, context: &mut Context<'_>) -> Result<Solution, PassError> {
        let (graph, damping) = (&self.graph, self.options.damping);
        let mut draft = Draft::of(graph);
        let leaves = AtStep { alpha, has_bounds: drifts, found: RefCell::default() };
        let mut quantizer = Quantizer::new(leaves);
        let mut all = vec![];
        for layer in &self.layers {
            let drifted;
            let seen: &Seen = match drifts && layer.drifts() && !draft.changed.is_empty() {
                true => {
                    drifted = layer.drifted(graph, &draft.graph, damping, context)?;
                    &drifted
                }
                false => &layer.inputs,
            };
            let site = &layer.site;
            let old: Vec<Part> = layer.ids().map(|id| draft.graph.weight(id).map.clone()).collect();
            let name = &graph.weight(site.maps[layer.chosen[0]].0).name;
            let errors = Errors { h: Some(&seen.h), cross: seen.cross.as_deref(), rows: Some(&layer.rows) };
            let new = quantizer.sum(&old, errors).map_err(|e| e.of(name))?;
            all.push(quantizer.leaves().found.take());
            let maps: Vec<(usize, Part)> = layer.chosen.iter().copied().zip(new).collect();
            let bias = match &seen.means {
                Some(means) => {
                    corrected_bias(&draft.graph, site, &maps, means.each_ref().map(Vec::as_slice))?
                }
                None => None,
            };
            for (id, map) in maps.into_iter().map(|(k, m)| (site.maps[k].0, m)).chain(bias) {
                draft.set(id, map);
            }
            self.steps.add(1);
        }
        let bytes = self.finish(&mut draft, alpha)?;
        Ok(Solution { alpha, draft, bytes, found: all })
    }

    /// Rotates the layers for which that is worth it at this step: what a bit should save at least is the slope of a fine code's loss.
    fn rotate(&mut self, alpha: f64, context: &mut Context<'_>) -> Result<(), PassError> {
        let bit = 2.0 * LN_2 * alpha.powi(2) / 24.0;
        let cost = |layers: &[Layer], solution: &Solution, concerned: &[usize]| -> f64 {
            let of = |&k: &usize| solution.found[k].loss + 8.0 * bit * solution.size_of(&layers[k]) as f64;
            concerned.iter().map(of).sum()
        };
        let plain = self.solve(alpha, false, context)?;
        for k in 0..self.layers.len() {
            let concerned = rotation::concerned(&self.graph, &self.layers, k);
            if concerned.is_empty() {
                continue;
            }
            let before = (self.graph.clone(), self.layers.clone());
            self.graph = rotation::rotate(&before.0, &mut self.layers, k)?;
            let rotated = self.solve(alpha, false, context)?;
            let costs = [&plain, &rotated].map(|solution| cost(&self.layers, solution, &concerned));
            tracing::debug!(layer = self.layers[k].site.name, plain = costs[0], rotated = costs[1]);
            if costs[1] >= costs[0] {
                (self.graph, self.layers) = before;
            }
        }
        Ok(())
    }

    /// Rounds biases, and counts the target's bytes.
    fn finish(&self, draft: &mut Draft, alpha: f64) -> Result<BTreeMap<WeightId, usize>, PassError> {
        if self.options.f16_biases {
            for layer in &self.layers {
                if let Some(id) = layer.site.bias.filter(|id| self.targets.contains(id)) {
                    let steps = layer.bias_steps(alpha);
                    if let Some(bias) = rounded(&draft.graph, id, &steps)? {
                        draft.set(id, bias);
                    }
                }
            }
            super::halve_biases(&self.options.target, draft)?;
        }
        let maps = self.targets.iter().map(|&id| &draft.graph.weight(id).map);
        let bytes = compressed_bytes(maps);
        let name = || self.graph.weight(self.targets[0]).name.clone();
        let bytes = bytes.map_err(|source| PassError::Map { weight: name(), source })?;
        Ok(self.targets.iter().copied().zip(bytes).collect())
    }

    /// The solution that reaches the goal, at least nearly.
    fn search(&mut self, context: &mut Context<'_>) -> Result<Solution, PassError> {
        let matrices = self.layers.iter().flat_map(Layer::ids);
        let weights: usize = matrices.map(|id| self.graph.weight(id).map.parameters()).sum();
        let (goal, slope) = match self.options.goal {
            Goal::Rate(rate) => (rate * weights as f64 / 8.0, -0.7),
            Goal::Bytes(bytes) => (bytes, -0.7),
            Goal::Loss(loss) => (loss, 2.0),
        };
        let reference = match (self.options.goal, &context.calibration) {
            (Goal::Loss(_), Some(calibration)) => Some(calibration.loss(&self.graph, usize::MAX)?),
            _ => None,
        };
        // Fine steps of one size cost each weight alpha^2 / 24.
        let start = (24.0 * reference.map_or(0.1, |_| OVERESTIMATE * goal) / weights.max(1) as f64).sqrt();
        let mut secant = Secant { goal: goal.ln(), slope, at: start.ln(), last: None, farthest: 2.0 };
        let mut best: Option<(f64, Solution)> = None;
        for (round, tries) in TRIES.into_iter().enumerate() {
            let drifts = round == 2;
            // What was found without correction of drift is near.
            secant.farthest = if drifts { 0.3 } else { 2.0 };
            for _ in 0..tries {
                let alpha = secant.at.exp();
                let solution = self.solve(alpha, drifts, context)?;
                let value = match (reference, &context.calibration) {
                    (Some(reference), Some(calibration)) if drifts => {
                        calibration.loss(&solution.draft.graph, usize::MAX)? - reference
                    }
                    (Some(_), _) => solution.loss() / OVERESTIMATE,
                    (None, _) => solution.size() as f64,
                };
                tracing::debug!(alpha, round, value, loss = solution.loss(), bytes = solution.size());
                // Correction of drift adds up to a hundredth.
                secant.next(value, if drifts { CLOSE / 2.0 } else { CLOSE });
                let is_close = (value / goal - 1.0).abs() < if drifts { CLOSE } else { NEAR };
                if drifts {
                    let is_better =
                        best.as_ref().is_none_or(|(old, _)| match (*old <= goal, value <= goal) {
                            (true, true) => value > *old,
                            (true, false) => false,
                            (false, true) => true,
                            (false, false) => value < *old,
                        });
                    if is_better {
                        best = Some((value, solution));
                    }
                }
                if is_close && (!drifts || value <= goal) {
                    break;
                }
            }
            if round == 0 {
                self.rotate(secant.at.exp(), context)?;
            }
            secant.last = None;
        }
        let (value, solution) = best.expect("at least one solution");
        if value > goal * (1.0 + NEAR) {
            let (name, given, found) = match self.options.goal {
                Goal::Rate(rate) => ("rate", rate, value * 8.0 / weights as f64),
                Goal::Bytes(bytes) => ("bytes", bytes, value),
                Goal::Loss(loss) => ("loss", loss, value),
            };
            return Err(PassError::Options(format!(
                "{name}={given} was not reached: {found:.3} is the least found; allow for more, or change the representation first"
            )));
        }
        Ok(solution)
    }
}

/// A vector with each element rounded to a multiple of its step, a power of two: numbers of few bits, which the store's coder makes small. None if it is no vector.
fn rounded(graph: &Graph, id: WeightId, steps: &[f64]) -> Result<Option<Part>, PassError> {
    let weight = graph.weight(id);
    if !matches!(&*weight.map, LinearMap::Dense(_)) {
        return Ok(None);
    }
    let round = |(&b, &step): (&f32, &f64)| match step.is_normal() {
        true => ((f64::from(b) / step).round() * step) as f32,
        false => b,
    };
    let values = dense(graph, id)?.iter().zip(steps).map(round).collect();
    let tensor = Tensor::from_f32(weight.map.shape(), values);
    let tensor = tensor.map_err(|e| PassError::Map { weight: weight.name.clone(), source: e.into() })?;
    Ok(Some(tensor.into()))
}

/// A root of a function between logarithms.
struct Secant {
    goal: f64,
    slope: f64,
    at: f64,
    last: Option<(f64, f64)>,
    /// Of one move.
    farthest: f64,
}

impl Secant {
    /// Moves to where the value should be the goal less a margin.
    fn next(&mut self, value: f64, margin: f64) {
        // A loss may fall as well; a hundredth of the goal is as good as nothing.
        let y = value.ln().max(self.goal - 100f64.ln());
        if let Some((x, before)) = self.last {
            let slope = (y - before) / (self.at - x);
            // Between a half and four times what is usual, so that noise cannot lead away: at rates of few tenths of a bit sizes jump, and may even rise with the step.
            let ratio = slope / self.slope;
            if ratio > 0.0 {
                self.slope *= ratio.clamp(0.5, 4.0);
            }
        }
        self.last = Some((self.at, y));
        self.at += ((self.goal - margin - y) / self.slope).clamp(-self.farthest, self.farthest);
    }
}

impl Pass for AtRate {
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError> {
        let matrices = self.target.matrices(graph)?;
        refuse_quantized(graph, &matrices)?;
        let statistics = context.statistics(graph, INSTEAD)?;
        let sensitivity = context.sensitivity(graph, INSTEAD)?;
        let is_plain = |id: &WeightId| matches!(&*graph.weight(*id).map, LinearMap::Dense(_));
        let chosen = |site: Site| {
            let chosen = site.chosen(&matrices);
            (!chosen.is_empty()).then_some((site, chosen))
        };
        let layer = |(site, chosen): (Site, Vec<usize>)| {
            let corrects = self.bias_correction && site.bias.as_ref().is_some_and(is_plain);
            Layer::new(graph, (site, chosen), corrects, self.damping, &statistics, &sensitivity)
        };
        let layers = sites(graph)?.into_iter().filter_map(chosen).map(layer);
        let layers = layers.collect::<Result<Vec<Layer>, PassError>>()?;
        if layers.is_empty() {
            return Ok(Outcome::NoEffect("no layer multiplies with a weight of the target".into()));
        }
        let steps = context.steps(INFO.name, layers.len() * TRIES.iter().sum::<usize>() / 2);
        let targets = self.target.weights(graph)?;
        let mut run = Run { options: self, graph: graph.clone(), layers, targets, steps };
        let mut solution = run.search(context)?;
        solution.draft.refit_output(graph, self.refit_rounds, INSTEAD, context)?;
        solution.bytes = run.finish(&mut solution.draft, solution.alpha)?;
        let rate = |(layer, found): (&Layer, &Found)| {
            let weights = found.weights.max(1) as f64;
            let rate = 8.0 * solution.size_of(layer) as f64 / weights;
            format!("{} {rate:.2} bits, bound {:.2}", layer.site.name, found.bound / weights)
        };
        let rates: Vec<String> = run.layers.iter().zip(&solution.found).map(rate).collect();
        let note =
            format!("{} bytes when entropy-coded; for each weight: {}", solution.size(), rates.join("; "));
        let mut draft = solution.draft;
        set_activations(self.activations, &mut draft)?;
        Ok(Outcome::Patch(draft.into_patch(note)))
    }
}
