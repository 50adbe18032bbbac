//! Streams in shards, each of which goes forwards and backwards on its own.
//!
//! ```text
//!   streams 0..10  ─▶ forward, loss, backward ─▶ gradients ─┐
//!                                                           +─▶ step
//!   streams 10..20 ─▶ forward, loss, backward ─▶ gradients ─┘
//! ```
//!
//! There are as many whatever the number of threads, and they are summed in order, so that results do not depend on it. Steps of the recurrence are too small
//! to be spread over threads in another way.

use super::loss::cross_entropy;
use super::network::{Dropout, Network, State};
use super::number::CHUNK;
use super::run::Plan;
use super::text::Text;
use super::weights::{Gradients, Weights};
use lstmc_frontend::ir::arbitrary::SplitMix64;
use rayon::prelude::*;
use std::ops::Range;

/// More would make products smaller, and slower by more than they save where there are few cores.
pub(super) const SHARDS: usize = 2;

/// Some of the streams, and what belongs to them alone.
pub(super) struct Shard {
    streams: Range<usize>,
    state: State<f32>,
    of_teacher: State<f32>,
    rng: SplitMix64,
    gradients: Gradients<f32>,
}

impl Shard {
    /// The shards of a run: at least one.
    pub(super) fn of(plan: &Plan, weights: &Weights<f32>) -> Vec<Shard> {
        let n = SHARDS.min(plan.batch);
        let shards = (0..n).map(|k| Shard {
            streams: k * plan.batch / n..(k + 1) * plan.batch / n,
            state: State::default(),
            of_teacher: State::default(),
            rng: SplitMix64::new(plan.seed.wrapping_add(k as u64)),
            gradients: weights.gradients(),
        });
        shards.collect()
    }

    /// The gradients of what products read are added to this shard's. Returns the sum of the words' losses.
    fn read(
        &mut self,
        network: &Network<f32>,
        teacher: Option<&Network<f32>>,
        text: &Text<'_>,
        window: usize,
        plan: &Plan,
    ) -> f64 {
        if window == 0 {
            (self.state, self.of_teacher) = (State::default(), State::default());
        }
        let (n, [inputs, targets]) = (self.streams.len(), text.window(window, self.streams.clone()));
        let dropout = Dropout { probability: plan.dropout, rng: &mut self.rng };
        let dropout = (plan.dropout > 0.0).then_some(dropout);
        let mut tape = network.forward(&inputs, n, &mut self.state, dropout);
        let soft = teacher.map(|t| {
            let mut tape = t.forward(&inputs, n, &mut self.of_teacher, None);
            (tape.take_logits(t), plan.distill)
        });
        let mut logits = tape.take_logits(network);
        // The mean over all streams, summed over steps (Zaremba et al. 2014), so that rates and the clip mean what they do there.
        let loss = cross_entropy(&mut logits, &targets, 1.0 / plan.batch as f64, soft);
        network.backward(&inputs, &tape, logits, &mut self.gradients);
        loss
    }
}

/// Reads a window: the mean loss of a word, and the gradients of the parameters, which are to be zero again before the next.
pub(super) fn read<'s>(
    shards: &'s mut [Shard],
    network: &Network<f32>,
    teacher: Option<&Network<f32>>,
    text: &Text<'_>,
    window: usize,
    plan: &Plan,
) -> (f64, &'s mut Gradients<f32>) {
    let losses = shards.par_iter_mut().map(|s| s.read(network, teacher, text, window, plan));
    let losses: Vec<f64> = losses.collect();
    let loss = losses.iter().sum::<f64>() / text.tokens_in(window) as f64;
    let (first, others) = shards.split_at_mut(1);
    let sum = &mut first[0].gradients;
    others.iter_mut().for_each(|other| move_into(sum, &mut other.gradients));
    network.weights.pull(sum);
    (loss, sum)
}

/// Adds gradients to others and leaves zeros.
fn move_into(sum: &mut Gradients<f32>, gradients: &mut Gradients<f32>) {
    for (sum, from) in sum.iter_mut().zip(gradients) {
        sum.par_chunks_mut(CHUNK).zip(from.par_chunks_mut(CHUNK)).for_each(|(sum, from)| {
            sum.iter_mut().zip(from).for_each(|(s, x)| *s += std::mem::take(x));
        });
    }
}
