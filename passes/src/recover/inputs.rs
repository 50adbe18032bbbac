//! What a layer multiplies, in two versions of a model that read the same text.
//!
//! Streams are read side by side, as in training and by [`fisher`](super::fisher), so that recurrent products are products of matrices: many times faster than one stream, at the
//! price of one start of a text for each.

use super::network::{Network, State};
use super::shard::streams;
use super::text::Text;
use crate::pass::PassError;
use lstmc_frontend::ir::{Graph, Program, StepId, StepKind, WeightId};
use rayon::prelude::*;
use std::ops::Range;

/// The least tokens of a stream, so that starts do not count much; and the most streams.
const LENGTH: usize = 500;
/// See [`LENGTH`].
const STREAMS: usize = 40;

/// Steps of a window.
const STEPS: usize = 25;

/// A model up to the vectors that some maps multiply.
pub(crate) struct Tap {
    network: Network<f32>,
    step: StepId,
    width: usize,
}

impl Tap {
    /// Before the step that sums the products of exactly these maps; `None` if there is none.
    pub(crate) fn new(graph: &Graph, maps: &[WeightId]) -> Result<Option<Tap>, PassError> {
        let program = Program::of(graph)?;
        let sums_these = |kind: &StepKind| match kind {
            StepKind::Cell(c) => maps == [c.input, c.recurrent],
            StepKind::Apply(a) => a.terms.iter().map(|(_, w)| w).eq(maps),
            _ => false,
        };
        let Some((step, _)) = program.steps().find(|(_, step)| sums_these(&step.kind)) else {
            return Ok(None);
        };
        let network = Network::new(graph, None)?.up_to(&program, step);
        let width = network.widths(step).iter().sum();
        Ok(Some(Tap { network, step, width }))
    }

    /// The length of a row: the vectors of all maps, one after the other.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    fn read(&self, inputs: &[u32], streams: usize, state: &mut State<f32>) -> Vec<f32> {
        let tape = self.network.forward(inputs, streams, state, None);
        self.network.multiplied(&tape, self.step)
    }
}

/// Reads a text, at least two tokens and all of the vocabulary, with both. `found` gets the rows of some tokens, and how many tokens were read so far and are in all.
pub(crate) fn pairs(taps: &[Tap; 2], tokens: &[u32], mut found: impl FnMut([&[f32]; 2], [usize; 2])) {
    let text = Text::of(tokens, (tokens.len() / LENGTH).clamp(1, STREAMS), STEPS);
    let shard = |of: Range<usize>| (of, [State::default(), State::default()]);
    let mut shards: Vec<_> = streams(text.batch).map(shard).collect();
    let total = (0..text.windows()).map(|k| text.tokens_in(k)).sum();
    let mut read = 0;
    for k in 0..text.windows() {
        let rows = shards.par_iter_mut().map(|(of, states)| {
            let [inputs, _] = text.window(k, of.clone());
            let [a, b] = states;
            [taps[0].read(&inputs, of.len(), a), taps[1].read(&inputs, of.len(), b)]
        });
        read += text.tokens_in(k);
        for [a, b] in rows.collect::<Vec<_>>() {
            found([&a, &b], [read, total]);
        }
    }
}
