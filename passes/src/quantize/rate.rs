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

use super::sum::{Errors, Quantizer};
use super::{INFO, refuse_quantized, set_activations};
use crate::options::Options;
use crate::pass::{Context, Outcome, Pass, PassError};
use crate::sites::{Draft, Site, corrected_bias, sites};
use crate::solve::SolveError;
use crate::target::Target;
use crate::watch::Steps;
use layers::{Layer, Seen};
use leaves::{AtStep, Found};
use lstmc_frontend::ir::store::compressed_bytes;
use lstmc_frontend::ir::{Activations, Graph, LinearMap, Part, WeightId};
use std::cell::RefCell;

/// Damping of second moments. Errors are fed back through their Cholesky factor, not through an inverse, so little is enough.
const DAMPING: f64 = 0.003;

/// Options that the size of codes, or calibration, makes meaningless.
const BITS_ONLY: [&str; 6] = ["group", "method", "asymmetric", "act-order", "scales", "sequential"];

/// Solutions until a size or loss is close enough; without correction of drift, and with it.
const TRIES: [usize; 2] = [8, 5];

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
    draft: Draft,
    /// Bytes of the target.
    bytes: usize,
    /// The predicted rise of the loss.
    loss: f64,
    /// What each layer came to.
    found: Vec<Found>,
}

/// One run of the pass.
struct Run<'r> {
    options: &'r AtRate,
    graph: &'r Graph,
    layers: Vec<Layer>,
    /// All weights of the target.
    targets: Vec<WeightId>,
    steps: Steps<'r>,
}

impl Run<'_> {
    fn solve(&self, alpha: f64, drifts: bool, context: &mut Context<'_>) -> Result<Solution, PassError> {
        let (graph, damping) = (self.graph, self.options.damping);
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
        let bytes = self.finish(&mut draft)?;
        Ok(Solution { draft, bytes, loss: all.iter().map(|f| f.loss).sum(), found: all })
    }

    /// Stores biases at a rate too, and counts.
    fn finish(&self, draft: &mut Draft) -> Result<usize, PassError> {
        if self.options.f16_biases {
            super::halve_biases(&self.options.target, draft)?;
        }
        let maps = self.targets.iter().map(|&id| &draft.graph.weight(id).map);
        let bytes = compressed_bytes(maps);
        let name = || self.graph.weight(self.targets[0]).name.clone();
        Ok(bytes.map_err(|source| PassError::Map { weight: name(), source })?.iter().sum())
    }

    /// The solution that reaches the goal, at least nearly.
    fn search(&self, context: &mut Context<'_>) -> Result<Solution, PassError> {
        let matrices = self.layers.iter().flat_map(Layer::ids);
        let weights: usize = matrices.map(|id| self.graph.weight(id).map.parameters()).sum();
        let (goal, slope) = match self.options.goal {
            Goal::Rate(rate) => (rate * weights as f64 / 8.0, -0.7),
            Goal::Bytes(bytes) => (bytes, -0.7),
            Goal::Loss(loss) => (loss, 2.0),
        };
        let reference = match (self.options.goal, &context.calibration) {
            (Goal::Loss(_), Some(calibration)) => Some(calibration.loss(self.graph, usize::MAX)?),
            _ => None,
        };
        // Fine steps of one size cost each weight alpha^2 / 24.
        let start = (24.0 * reference.map_or(0.1, |_| 2.0 * goal) / weights.max(1) as f64).sqrt();
        let mut secant = Secant { goal: goal.ln(), slope, at: start.ln(), last: None };
        let mut best: Option<(f64, Solution)> = None;
        for (drifts, tries) in [(false, TRIES[0]), (true, TRIES[1])] {
            for _ in 0..tries {
                let mut solution = self.solve(secant.at.exp(), drifts, context)?;
                let value = match (reference, &context.calibration) {
                    (Some(reference), Some(calibration)) if drifts => {
                        calibration.loss(&solution.draft.graph, usize::MAX)? - reference
                    }
                    (Some(_), _) => solution.loss,
                    (None, _) => solution.bytes as f64,
                };
                tracing::debug!(alpha = secant.at.exp(), drifts, value, loss = solution.loss, bytes = solution.bytes);
                let is_close = (goal * (1.0 - CLOSE)..=goal).contains(&value);
                if drifts {
                    let is_better = best.as_ref().is_none_or(|(old, _)| match (*old <= goal, value <= goal) {
                        (true, true) => value > *old,
                        (true, false) => false,
                        (false, true) => true,
                        (false, false) => value < *old,
                    });
                    solution.loss = value;
                    if is_better {
                        best = Some((value, solution));
                    }
                }
                secant.next(value, if drifts { CLOSE / 2.0 } else { 0.0 });
                if is_close || (!drifts && reference.is_some()) {
                    break;
                }
            }
            secant.last = None;
        }
        Ok(best.expect("at least one solution").1)
    }
}

/// A root of a function between logarithms.
struct Secant {
    goal: f64,
    slope: f64,
    at: f64,
    last: Option<(f64, f64)>,
}

impl Secant {
    /// Moves to where the value should be the goal less a margin.
    fn next(&mut self, value: f64, margin: f64) {
        let y = value.max(f64::MIN_POSITIVE).ln();
        if let Some((x, before)) = self.last {
            let slope = (y - before) / (self.at - x);
            // Between a fourth and four times what is usual, so that noise cannot lead away.
            let ratio = slope / self.slope;
            if ratio.is_finite() {
                self.slope *= ratio.clamp(0.25, 4.0);
            }
        }
        self.last = Some((self.at, y));
        self.at += ((self.goal - margin - y) / self.slope).clamp(-2.0, 2.0);
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
        let steps = context.steps(INFO.name, layers.len() * (TRIES[0] + TRIES[1]) / 2);
        let run = Run { options: self, graph, layers, targets: self.target.weights(graph)?, steps };
        let mut solution = run.search(context)?;
        let mut draft = solution.draft;
        draft.refit_output(graph, self.refit_rounds, INSTEAD, context)?;
        solution.bytes = run.finish(&mut draft)?;
        let notes: Vec<String> = run.layers.iter().zip(&solution.found).map(|(layer, found)| {
            let maps = layer.ids().map(|id| &draft.graph.weight(id).map);
            let bytes: usize = compressed_bytes(maps).map(|b| b.iter().sum()).unwrap_or_default();
            let weights = found.weights.max(1) as f64;
            let rate = 8.0 * bytes as f64 / weights;
            format!("{} {rate:.2} ({:.2})", layer.site.name, found.bound / weights)
        }).collect();
        let note = format!("{} bytes; bits a weight, and a Gaussian source's bound: {}", solution.bytes, notes.join(", "));
        set_activations(self.activations, &mut draft)?;
        Ok(Outcome::Patch(draft.into_patch(note)))
    }
}
