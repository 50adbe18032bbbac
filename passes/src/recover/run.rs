//! The training run: windows of streams, steps, and what is kept.

use super::network::Network;
use super::optimizer::{Method, Optimizer, Schedule, norm};
use super::shard::{self, Shard};
use super::text::Text;
use crate::gate::Evaluate;
use crate::pass::PassError;
use crate::watch::Steps;
use lstmc_frontend::ir::{Graph, LinearMap, WeightId};
use std::time::Instant;

/// Perplexity is measured so often in each epoch.
const CHECKS_PER_EPOCH: f64 = 4.0;

/// At most so many perplexities are in the report.
const MEASURED_SHOWN: usize = 8;

/// A loss in nats above both that of knowing nothing and that at the start by so much is one that will not come back.
const DIVERGED: f64 = 5.0;

/// How to train.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) epochs: f64,
    pub(super) rate: f64,
    pub(super) bptt: usize,
    pub(super) batch: usize,
    pub(super) dropout: f64,
    pub(super) clip: f64,
    pub(super) method: Method,
    pub(super) schedule: Schedule,
    pub(super) decay: f64,
    pub(super) distill: f64,
    pub(super) seed: u64,
}

/// What a run comes to.
pub(super) struct Found {
    /// The weights to keep, if they are any better than before.
    pub(super) maps: Option<Vec<(WeightId, LinearMap)>>,
    pub(super) notes: Vec<String>,
}

/// Trains `network`, which is of `graph`. The best on validation is kept; without an evaluator, the last.
pub(super) fn train(
    graph: &Graph,
    network: &mut Network<f32>,
    teacher: Option<&Network<f32>>,
    text: Text<'_>,
    plan: &Plan,
    mut evaluator: Option<&mut dyn Evaluate>,
    steps: &Steps<'_>,
) -> Result<Found, PassError> {
    let total = windows(plan, &text);
    let vocabulary = graph.vocabulary.unwrap_or(1);
    let every = ((text.windows() as f64 / CHECKS_PER_EPOCH).ceil() as usize).max(1);
    let mut kept = Kept::default();
    if let Some(evaluator) = &mut evaluator {
        let perplexity = evaluator.perplexity(graph).map_err(PassError::Evaluate)?;
        kept.measured.push((0.0, perplexity));
    }
    let mut stopped = None;
    let mut shards = Shard::of(plan, &network.weights);
    let mut optimizer = Optimizer::new(plan.method, plan.decay, &network.weights);
    let mut losses = Losses::new();
    for step in 0..total {
        let window = step % text.windows();
        let (loss, gradients) = shard::read(&mut shards, network, teacher, &text, window, plan);
        losses.add(loss, text.tokens_in(window));
        let length = norm(&mut network.weights, gradients);
        if !loss.is_finite() || !length.is_finite() || loss > losses.limit(vocabulary) {
            stopped = Some(format!(
                "training diverged at window {} of {total} (loss {loss:.2}, gradient {length:.1}); use a lower lr or clip",
                step + 1
            ));
            break;
        }
        let factor = if length > plan.clip { plan.clip / length } else { 1.0 };
        let rate = plan.rate * plan.schedule.at(step, total);
        optimizer.step(&mut network.weights, gradients, rate, factor);
        network.weights.refresh();
        steps.add(1);
        if (step + 1) % every == 0 || step + 1 == total {
            let epochs = (step + 1) as f64 / text.windows() as f64;
            losses.log(epochs);
            kept.check(graph, network, epochs, &mut evaluator)?;
        }
    }
    let mut notes = vec![losses.note(&text)];
    notes.extend(kept.note());
    notes.extend(stopped);
    Ok(Found { maps: kept.maps, notes })
}

/// Windows in a run.
pub(super) fn windows(plan: &Plan, text: &Text<'_>) -> usize {
    ((plan.epochs * text.windows() as f64).round() as usize).max(1)
}

/// The best so far.
#[derive(Default)]
struct Kept {
    maps: Option<Vec<(WeightId, LinearMap)>>,
    /// After how many epochs it was.
    epochs: f64,
    /// Perplexity on validation after so many epochs; the first is before training.
    measured: Vec<(f64, f64)>,
}

impl Kept {
    /// Keeps what the weights are now, if it is better than all before.
    fn check(
        &mut self,
        graph: &Graph,
        network: &Network<f32>,
        epochs: f64,
        evaluator: &mut Option<&mut dyn Evaluate>,
    ) -> Result<(), PassError> {
        let maps = network.weights.maps(graph)?;
        if let Some(evaluator) = evaluator {
            let mut new = graph.clone();
            for (id, map) in &maps {
                let fits = new.set_weight(*id, map.clone());
                fits.map_err(|e| PassError::Evaluate(e.to_string()))?;
            }
            let perplexity = evaluator.perplexity(&new).map_err(PassError::Evaluate)?;
            let best = self.measured.iter().map(|m| m.1).fold(f64::INFINITY, f64::min);
            self.measured.push((epochs, perplexity));
            tracing::info!(epochs, perplexity, "recover: validation");
            if perplexity.is_nan() || perplexity >= best {
                return Ok(());
            }
        }
        (self.maps, self.epochs) = (Some(maps), epochs);
        Ok(())
    }

    fn note(&self) -> Option<String> {
        let ((_, before), after) = self.measured.split_first()?;
        // The last ones of equal parts of the run.
        let every = after.len().div_ceil(MEASURED_SHOWN).max(1);
        let shown = after.chunks(every).filter_map(|part| part.last());
        let after: Vec<String> = shown.map(|(e, p)| format!("{p:.2} after {e:.2}")).collect();
        let kept = match self.maps {
            Some(_) => format!("kept: after {:.2} epochs", self.epochs),
            None => "none is better".into(),
        };
        Some(format!("validation perplexity {before:.2} before, {}; {kept}", after.join(", ")))
    }
}

/// Losses of windows.
struct Losses {
    first: Option<f64>,
    /// Sum over tokens and their number: of the whole run, and since the last line of the log.
    whole: (f64, usize),
    recent: (f64, usize),
    since: Instant,
}

impl Losses {
    fn new() -> Losses {
        Losses { first: None, whole: (0.0, 0), recent: (0.0, 0), since: Instant::now() }
    }

    fn add(&mut self, loss: f64, tokens: usize) {
        self.first = self.first.or(Some(loss));
        for (sum, n) in [&mut self.whole, &mut self.recent] {
            *sum += loss * tokens as f64;
            *n += tokens;
        }
    }

    fn limit(&self, vocabulary: usize) -> f64 {
        (vocabulary as f64).ln().max(self.first.unwrap_or(0.0)) + DIVERGED
    }

    fn log(&mut self, epochs: f64) {
        let (sum, n) = std::mem::take(&mut self.recent);
        let speed = n as f64 / self.since.elapsed().as_secs_f64();
        tracing::info!(epochs, loss = sum / n as f64, tokens_per_second = speed, "recover: training");
        self.since = Instant::now();
    }

    fn note(&self, text: &Text<'_>) -> String {
        let (sum, n) = self.whole;
        let perplexity = (sum / n.max(1) as f64).exp();
        format!(
            "{n} tokens in {} streams of {} steps a window; mean training perplexity {perplexity:.2}",
            text.batch, text.bptt
        )
    }
}
