//! The training run: windows of streams, steps, and the best weights.

use super::dropout::Drops;
use super::network::Network;
use super::number::CHUNK;
use super::optimizer::{Method, Optimizer, Schedule, norm};
use super::shard::{self, Shard};
use super::text::Text;
use super::weights::{Coding, Values, Weights, sizes};
use crate::budget::Evaluate;
use crate::checkpoint::{CheckpointError, Identity};
use crate::pass::{Context, PassError};
use crate::watch::{Interrupt, Listening};
use lstmc_frontend::ir::{Graph, Part, WeightId, print};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Measurements of perplexity per epoch.
const CHECKS_PER_EPOCH: f64 = 4.0;

/// The maximum number of perplexities in the report.
const MEASURED_SHOWN: usize = 8;

/// A loss that exceeds both the uniform guess's loss and the initial loss by this many nats has diverged.
const DIVERGED: f64 = 5.0;

/// How to train.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) epochs: f64,
    pub(super) rate: f64,
    pub(super) bptt: usize,
    pub(super) batch: usize,
    pub(super) drops: Drops,
    pub(super) coding: Coding,
    pub(super) clip: f64,
    pub(super) method: Method,
    pub(super) schedule: Schedule,
    pub(super) decay: f64,
    pub(super) distill: f64,
    /// The fraction of the run whose parameters are averaged, its last.
    pub(super) average: f64,
    pub(super) seed: u64,
}

/// The inputs of a run.
pub(super) struct Job<'a> {
    /// The steps of the pass.
    pub(super) name: &'static str,
    pub(super) graph: &'a Graph,
    pub(super) teacher: Option<&'a Network<f32>>,
    /// What names the teacher.
    pub(super) taught_by: String,
    pub(super) text: Text<'a>,
    pub(super) plan: &'a Plan,
}

/// The result of a run.
pub(super) struct Found {
    /// The weights to keep, if they are better than before.
    pub(super) maps: Option<Vec<(WeightId, Part)>>,
    pub(super) notes: Vec<String>,
}

/// The progress of a run: together with the parameters, all that its next step depends on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) step: usize,
    optimizer: Optimizer<f32>,
    shards: Vec<Shard>,
    average: Average,
    losses: Losses,
    kept: Kept,
}

impl Progress {
    /// Whether a run of `job` that starts as `start` can have reached this state with these parameters: sizes and counts fit, and weights are finite.
    fn is_of(
        &self,
        job: &Job<'_>,
        start: &Progress,
        network: &Network<f32>,
        parameters: &[Vec<f32>],
    ) -> bool {
        let shards = self.shards.len() == start.shards.len()
            && self.shards.iter().zip(&start.shards).all(|(a, b)| a.is_like(b, network, job.teacher));
        let expected = sizes(&network.weights.values());
        let fits = |values: &[Vec<f32>]| sizes(values) == expected && is_finite(values);
        shards
            && self.step <= job.steps()
            && self.optimizer.is_like(&start.optimizer, self.step)
            && self.losses.is_of(&job.text, self.step)
            && self.average.count == self.step.saturating_sub(job.steps_before_average())
            && (self.average.count == 0 || fits(&self.average.mean))
            && fits(parameters)
            && self.kept.best.as_ref().is_none_or(|best| fits(best))
            && self.kept.measured.is_empty() == start.kept.measured.is_empty()
    }
}

impl Job<'_> {
    /// Trains `network`, which is of the job's graph. The best parameters on validation are kept; without an evaluator, the last.
    pub(super) fn run(
        &self,
        network: &mut Network<f32>,
        options: &str,
        context: &mut Context<'_>,
    ) -> Result<Found, PassError> {
        let Job { graph, text, plan, .. } = self;
        let total = self.steps();
        let (vocabulary, every) = (graph.vocabulary.unwrap_or(1), self.steps_between_checks());
        let steps = context.steps(self.name, total);
        let evaluator = &mut context.evaluator;
        let before =
            evaluator.as_mut().map(|e| e.perplexity(graph)).transpose().map_err(PassError::Evaluate)?;
        let identity = Identity {
            model: digest(graph),
            teacher: self.taught_by.clone(),
            options: options.into(),
            training: text.to_string(),
            validation: before.map_or("none".into(), |p| format!("one of perplexity {p}")),
        };
        let mut progress = Progress {
            step: 0,
            optimizer: Optimizer::new(plan.method, plan.decay, &network.weights),
            shards: Shard::of(plan),
            average: Average::default(),
            losses: Losses::default(),
            kept: Kept::starting(before),
        };
        if let Some(checkpoint) = &mut context.checkpoint
            && let Some((parameters, saved)) = checkpoint.begin::<(Values<f32>, Progress)>(&identity)?
        {
            if !saved.is_of(self, &progress, network, &parameters) {
                return Err(CheckpointError::Damaged("its numbers do not fit the run".into()).into());
            }
            network.weights.set(parameters);
            progress = saved;
            steps.add(progress.step);
        }
        let mut gradients: Vec<_> = progress.shards.iter().map(|_| network.weights.gradients()).collect();
        let interrupt = context.interrupt.map(Interrupt::listen);
        let (mut stopped, mut since) = (None, Since::now(&progress.losses));
        while progress.step < total && stopped.is_none() {
            let Progress { step, optimizer, shards, average, losses, kept } = &mut progress;
            let loss = shard::read(shards, network, self, *step, &mut gradients);
            losses.add(loss, text.tokens_in(*step % text.windows()));
            *step += 1;
            let length = norm(&mut network.weights, &gradients[0]);
            if !loss.is_finite() || !length.is_finite() || loss > losses.limit(vocabulary) {
                stopped = Some(format!(
                    "training diverged at window {step} of {total} (loss {loss:.2}, gradient {length:.1}); use a lower lr or clip"
                ));
                break;
            }
            let factor = if length > plan.clip { plan.clip / length } else { 1.0 };
            let rate = plan.rate * plan.schedule.at(*step - 1, total);
            optimizer.step(&mut network.weights, &mut gradients[0], rate, factor);
            network.weights.refresh();
            if *step > self.steps_before_average() {
                average.add(&mut network.weights);
            }
            steps.add_and_say(1, || since.say(losses, &kept.measured));
            let epochs = *step as f64 / text.windows() as f64;
            let is_check = *step % every == 0 || *step == total;
            let is_asked = interrupt.as_ref().is_some_and(Listening::is_asked);
            // The effect of the last step is in no loss.
            if (is_check || is_asked) && !is_finite(&network.weights.values()) {
                stopped = Some(format!(
                    "training diverged at window {step} of {total} (weights are NaN or infinite); use a lower lr or clip"
                ));
                break;
            }
            if is_check {
                since.log(losses, epochs);
                kept.check_both(graph, network, average, epochs, evaluator)?;
            }
            if let (Some(checkpoint), true) = (&mut context.checkpoint, is_check || is_asked) {
                checkpoint.keep(&identity, &(network.weights.values(), &progress))?;
            }
            if is_asked && progress.step < total {
                stopped = Some(format!("interrupted after window {} of {total}", progress.step));
                // Not in the checkpoint: a resumed run checks at the same steps as one that was not interrupted.
                if !is_check {
                    progress.kept.check_both(graph, network, &progress.average, epochs, evaluator)?;
                }
            }
        }
        let Progress { losses, kept, .. } = progress;
        let mut notes = vec![losses.note(text)];
        notes.extend(kept.note());
        notes.extend(stopped);
        let maps = kept.best.map(|best| {
            network.weights.set(best);
            network.weights.maps(graph)
        });
        Ok(Found { maps: maps.transpose()?, notes })
    }

    /// Windows between two measurements of perplexity.
    fn steps_between_checks(&self) -> usize {
        ((self.text.windows() as f64 / CHECKS_PER_EPOCH).ceil() as usize).max(1)
    }

    /// Windows before those whose parameters are averaged.
    fn steps_before_average(&self) -> usize {
        let total = self.steps();
        total - (self.plan.average * total as f64).round() as usize
    }

    /// Windows in a run.
    fn steps(&self) -> usize {
        ((self.plan.epochs * self.text.windows() as f64).round() as usize).max(1)
    }
}

/// A name for a graph with its weights.
pub(super) fn digest(graph: &Graph) -> String {
    format!("#{:08x}", crc32fast::hash(print(graph).as_bytes()))
}

/// The mean of the parameters after each of some steps.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Average {
    mean: Values<f32>,
    count: usize,
}

impl Average {
    fn add(&mut self, weights: &mut Weights<f32>) {
        self.count += 1;
        if self.count == 1 {
            self.mean = weights.values();
            return;
        }
        let share = 1.0 / self.count as f32;
        for (mean, (_, now)) in self.mean.iter_mut().zip(weights.parameters()) {
            mean.par_chunks_mut(CHUNK).zip(now.par_chunks(CHUNK)).for_each(|(mean, now)| {
                mean.iter_mut().zip(now).for_each(|(m, &x)| *m += (x - *m) * share);
            });
        }
    }
}

/// A perplexity on validation.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Measured {
    epochs: f64,
    perplexity: f64,
    /// Whether it is that of the averaged parameters.
    averaged: bool,
}

/// The best so far.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// Its parameters.
    best: Option<Values<f32>>,
    /// The number of epochs before it.
    epochs: f64,
    averaged: bool,
    /// The first is before training.
    measured: Vec<Measured>,
}

impl Kept {
    fn starting(before: Option<f64>) -> Kept {
        let measured = |perplexity| Measured { epochs: 0.0, perplexity, averaged: false };
        Kept { measured: before.map(measured).into_iter().collect(), ..Kept::default() }
    }

    /// Keeps the current weights or the averaged ones, if they are better than all before.
    fn check_both(
        &mut self,
        graph: &Graph,
        network: &mut Network<f32>,
        average: &Average,
        epochs: f64,
        evaluator: &mut Option<&mut dyn Evaluate>,
    ) -> Result<(), PassError> {
        self.check(graph, network, epochs, false, evaluator)?;
        if average.count == 0 {
            return Ok(());
        }
        let now = network.weights.values();
        network.weights.set(average.mean.clone());
        let checked = self.check(graph, network, epochs, true, evaluator);
        network.weights.set(now);
        checked
    }

    fn check(
        &mut self,
        graph: &Graph,
        network: &Network<f32>,
        epochs: f64,
        averaged: bool,
        evaluator: &mut Option<&mut dyn Evaluate>,
    ) -> Result<(), PassError> {
        if let Some(evaluator) = evaluator {
            let mut new = graph.clone();
            for (id, map) in network.weights.maps(graph)? {
                new.set_weight(id, map).map_err(|e| PassError::Evaluate(e.to_string()))?;
            }
            let perplexity = evaluator.perplexity(&new).map_err(PassError::Evaluate)?;
            let best = self.measured.iter().map(|m| m.perplexity).fold(f64::INFINITY, f64::min);
            self.measured.push(Measured { epochs, perplexity, averaged });
            tracing::info!(epochs, perplexity, averaged, "recover: validation");
            if perplexity.is_nan() || perplexity >= best {
                return Ok(());
            }
        }
        (self.best, self.epochs, self.averaged) = (Some(network.weights.values()), epochs, averaged);
        Ok(())
    }

    fn note(&self) -> Option<String> {
        let (before, after) = self.measured.split_first()?;
        let said = |averaged| if averaged { ", averaged" } else { "" };
        // The last ones of equal parts of the run.
        let every = after.len().div_ceil(MEASURED_SHOWN).max(1);
        let shown = after.chunks(every).filter_map(|part| part.last());
        let after = shown.map(|m| format!("{:.2} after {:.2}{}", m.perplexity, m.epochs, said(m.averaged)));
        let kept = match self.best {
            Some(_) => format!("kept: after {:.2} epochs{}", self.epochs, said(self.averaged)),
            None => "none is better".into(),
        };
        let after: Vec<String> = after.collect();
        Some(format!("validation perplexity {:.2} before, {}; {kept}", before.perplexity, after.join(", ")))
    }
}

/// Whether no number is NaN or infinite.
fn is_finite(values: &[Vec<f32>]) -> bool {
    values.iter().flatten().all(|x| x.is_finite())
}

/// Losses of windows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Losses {
    first: Option<f64>,
    /// Over all tokens.
    sum: f64,
    tokens: usize,
}

impl Losses {
    fn add(&mut self, loss: f64, tokens: usize) {
        self.first = self.first.or(Some(loss));
        self.sum += loss * tokens as f64;
        self.tokens += tokens;
    }

    /// Whether these may be the losses of this many first steps of a text.
    fn is_of(&self, text: &Text<'_>, steps: usize) -> bool {
        let tokens: usize = (0..steps).map(|k| text.tokens_in(k % text.windows())).sum();
        let is_finite = self.sum.is_finite() && self.first.is_none_or(f64::is_finite);
        self.tokens == tokens && self.first.is_some() == (steps > 0) && is_finite
    }

    fn limit(&self, vocabulary: usize) -> f64 {
        (vocabulary as f64).ln().max(self.first.unwrap_or(0.0)) + DIVERGED
    }

    fn note(&self, text: &Text<'_>) -> String {
        let perplexity = (self.sum / self.tokens.max(1) as f64).exp();
        format!(
            "{} tokens in {} streams of {} steps a window; mean training perplexity {perplexity:.2}",
            self.tokens, text.batch, text.bptt
        )
    }
}

/// Losses and time since a starting point.
struct Since {
    then: Losses,
    started: Instant,
}

impl Since {
    fn now(losses: &Losses) -> Since {
        Since { then: losses.clone(), started: Instant::now() }
    }

    /// The mean loss since then, and tokens per second.
    fn measure(&self, losses: &Losses) -> [f64; 2] {
        let tokens = (losses.tokens - self.then.tokens) as f64;
        [(losses.sum - self.then.sum) / tokens, tokens / self.started.elapsed().as_secs_f64()]
    }

    /// The text for a progress bar.
    fn say(&self, losses: &Losses, measured: &[Measured]) -> String {
        let [loss, speed] = self.measure(losses);
        let validation = measured.last().map(|m| format!(", validation perplexity {:.2}", m.perplexity));
        format!("loss {loss:.3}{}, {speed:.0} tokens/s", validation.unwrap_or_default())
    }

    /// Logs the losses since then, and starts again.
    fn log(&mut self, losses: &Losses, epochs: f64) {
        let [loss, tokens_per_second] = self.measure(losses);
        tracing::info!(epochs, loss, tokens_per_second, "recover: training");
        *self = Since::now(losses);
    }
}
