//! Streams in shards, each with its own forward and backward pass.
//!
//! ```text
//!   streams 0..10  ─▶ forward, loss, backward ─▶ gradients ─┐
//!                                                           +─▶ step
//!   streams 10..20 ─▶ forward, loss, backward ─▶ gradients ─┘
//! ```
//!
//! Their number does not depend on the number of threads, and they are summed in order, so that results do not depend on it either. Steps of the
//! recurrence are too small to be distributed over threads in another way.

use super::loss::cross_entropy;
use super::network::{Dropout, Network, State};
use super::number::CHUNK;
use super::run::{Job, Plan};
use super::weights::Gradients;
use lstmc_frontend::ir::arbitrary::SplitMix64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// More would make products smaller, and on few cores slower by more than they save.
pub(super) const SHARDS: usize = 2;

/// Some of the streams, and their own data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Shard {
    streams: Range<usize>,
    state: State<f32>,
    of_teacher: State<f32>,
}

/// The streams of each shard: at least one shard.
pub(super) fn streams(batch: usize) -> impl Iterator<Item = Range<usize>> {
    let n = SHARDS.min(batch);
    (0..n).map(move |k| k * batch / n..(k + 1) * batch / n)
}

impl Shard {
    /// The shards of a run: at least one.
    pub(super) fn of(plan: &Plan) -> Vec<Shard> {
        let shard = |streams| Shard { streams, state: State::default(), of_teacher: State::default() };
        streams(plan.batch).map(shard).collect()
    }

    /// Whether both have the same streams, and this one has states of these networks.
    pub(super) fn is_like(
        &self,
        other: &Shard,
        network: &Network<f32>,
        teacher: Option<&Network<f32>>,
    ) -> bool {
        let n = self.streams.len();
        self.streams == other.streams
            && self.state.is_of(Some(network), n)
            && self.of_teacher.is_of(teacher, n)
    }

    /// Adds the gradients of the products' inputs. Returns the sum of the words' losses.
    fn read(
        &mut self,
        network: &Network<f32>,
        job: &Job<'_>,
        step: usize,
        gradients: &mut Gradients<f32>,
    ) -> f64 {
        let Job { text, plan, teacher, .. } = job;
        let window = step % text.windows();
        if window == 0 {
            (self.state, self.of_teacher) = (State::default(), State::default());
        }
        let (n, [inputs, targets]) = (self.streams.len(), text.window(window, self.streams.clone()));
        let mut rng = self.rng(plan.seed, step);
        let dropout = Dropout { probability: plan.dropout, rng: &mut rng };
        let dropout = (plan.dropout > 0.0).then_some(dropout);
        let mut tape = network.forward(&inputs, n, &mut self.state, dropout);
        let soft = teacher.map(|t| {
            let mut tape = t.forward(&inputs, n, &mut self.of_teacher, None);
            (tape.take_logits(t), plan.distill)
        });
        let mut logits = tape.take_logits(network);
        // The mean over all streams, summed over steps (Zaremba et al. 2014), so that rates and the clip have the same meaning as there.
        let loss = cross_entropy(&mut logits, &targets, 1.0 / plan.batch as f64, soft);
        network.backward(&inputs, &tape, logits, gradients);
        loss
    }

    /// A generator for a step: its draws do not depend on other steps.
    fn rng(&self, seed: u64, step: usize) -> SplitMix64 {
        [step, self.streams.start].into_iter().fold(SplitMix64::new(seed), |mut rng, by| {
            SplitMix64::new(rng.next_u64().wrapping_add(by as u64))
        })
    }
}

/// Reads the window of a step, with zeroed gradients for each shard. Returns the mean loss per word; the gradients of the parameters are in the first
/// shard.
pub(super) fn read(
    shards: &mut [Shard],
    network: &Network<f32>,
    job: &Job<'_>,
    step: usize,
    gradients: &mut [Gradients<f32>],
) -> f64 {
    let each = shards.par_iter_mut().zip(&mut *gradients);
    let losses: Vec<f64> = each.map(|(shard, gradients)| shard.read(network, job, step, gradients)).collect();
    if let Some((sum, others)) = gradients.split_first_mut() {
        others.iter_mut().for_each(|other| move_into(sum, other));
        network.weights.pull(sum);
    }
    losses.iter().sum::<f64>() / job.text.tokens_in(step % job.text.windows()) as f64
}

/// Adds gradients to others and leaves zeros.
fn move_into(sum: &mut Gradients<f32>, gradients: &mut Gradients<f32>) {
    for (sum, from) in sum.iter_mut().zip(gradients) {
        sum.par_chunks_mut(CHUNK).zip(from.par_chunks_mut(CHUNK)).for_each(|(sum, from)| {
            sum.iter_mut().zip(from).for_each(|(s, x)| *s += std::mem::take(x));
        });
    }
}
