//! Reading a text without learning from it: what a layer multiplies in two versions of a model, and which words a model expects.
//!
//! A text is cut into streams that are read side by side, so that recurrent products are products of matrices: many times faster than one stream. Each but the first
//! begins with the state that some tokens before it leave.
//!
//! ```text
//!   tokens   0 ................ | ....... | ....... | .......       part 0: the first stream, as long as need be
//!                          ~~~~~|    ~~~~~|    ~~~~~|               ~: read before, for the state
//!                                stream 1, stream 2, ...            parts 1, 2: the others, of one length
//! ```

use super::loss::add_probabilities;
use super::network::{Network, State};
use super::shard::streams;
use crate::pass::PassError;
use lstmc_frontend::ir::{Graph, Program, StepId, StepKind, WeightId};
use rayon::prelude::*;

/// The least tokens of a stream, and the most streams.
const LENGTH: usize = 500;
/// See [`LENGTH`].
const STREAMS: usize = 40;

/// Tokens before a stream that are read for its state.
const BEFORE: usize = 50;

/// Tokens of a window, about.
const ROWS: usize = 500;

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

    fn read(&self, tokens: &[u32], streams: usize, state: &mut State<f32>) -> Vec<f32> {
        let tape = self.network.forward(tokens, streams, state, None);
        self.network.multiplied(&tape, self.step)
    }
}

/// Reads a text, at least two tokens and all of the vocabulary, with both, up to the last token, which predicts nothing. `found` gets the rows of some tokens, and how many tokens
/// were read so far and are in all.
pub(crate) fn pairs(taps: &[Tap; 2], tokens: &[u32], mut found: impl FnMut([&[f32]; 2], [usize; 2])) {
    let start = || [State::default(), State::default()];
    let read = |[a, b]: &mut [State<f32>; 2], tokens: &[u32], streams: usize, _: bool| {
        [taps[0].read(tokens, streams, a), taps[1].read(tokens, streams, b)]
    };
    each(tokens, start, read, |[a, b], counts| found([&a, &b], counts));
}

/// The mean probability of each word over the tokens of a text but the first: at least two tokens, all of the vocabulary. `progress` gets the number of tokens read, and the total.
/// The model has logits.
pub(crate) fn probabilities(
    graph: &Graph,
    tokens: &[u32],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<f64>, PassError> {
    let network = Network::<f32>::new(graph, None)?;
    let words = Program::of(graph)?.vocabulary();
    let read = |state: &mut State<f32>, tokens: &[u32], streams: usize, counts: bool| {
        let mut tape = network.forward(tokens, streams, state, None);
        let mut of = vec![0.0; words];
        if counts {
            add_probabilities(&mut tape.take_logits(&network), &mut of);
        }
        of
    };
    let mut sums = vec![0.0; words];
    each(tokens, State::default, read, |of, [read, total]| {
        sums.iter_mut().zip(of).for_each(|(s, p)| *s += p / total as f64);
        progress(read, total);
    });
    Ok(sums)
}

/// Reads all but the last of `tokens` in windows. `read` gets the state of a part, the tokens of a window, ordered by step and then stream, the number of streams, and whether these
/// tokens count; `found` what it made of those that do, and how many tokens were read so far and are in all.
fn each<S: Send, R: Send>(
    tokens: &[u32],
    start: impl Fn() -> S,
    read: impl Fn(&mut S, &[u32], usize, bool) -> R + Sync,
    mut found: impl FnMut(R, [usize; 2]),
) {
    let total = tokens.len() - 1;
    let mut parts: Vec<(Part<'_>, S)> =
        parts(&tokens[..total]).into_iter().map(|part| (part, start())).collect();
    parts.par_iter_mut().for_each(|(part, state)| {
        let before = part.before();
        if !before.is_empty() {
            read(state, &before, part.starts.len(), false);
        }
    });
    let windows = parts.iter().map(|(part, _)| part.windows()).max().unwrap_or(0);
    let mut done = 0;
    for k in 0..windows {
        let rows = parts.par_iter_mut().filter(|(part, _)| k < part.windows()).map(|(part, state)| {
            let window = part.window(k);
            (read(state, &window, part.starts.len(), true), window.len())
        });
        for (result, n) in rows.collect::<Vec<_>>() {
            done += n;
            found(result, [done, total]);
        }
    }
}

/// Streams of one length that are read side by side.
struct Part<'t> {
    tokens: &'t [u32],
    starts: Vec<usize>,
    length: usize,
}

/// A text, not empty, in streams.
fn parts(tokens: &[u32]) -> Vec<Part<'_>> {
    let count = (tokens.len() / LENGTH).clamp(1, STREAMS);
    let length = tokens.len() / count;
    let first = tokens.len() - (count - 1) * length;
    let others = streams(count - 1).filter(|of| !of.is_empty()).map(|of| Part {
        tokens,
        starts: of.map(|s| first + s * length).collect(),
        length,
    });
    std::iter::once(Part { tokens, starts: vec![0], length: first }).chain(others).collect()
}

impl Part<'_> {
    fn steps(&self) -> usize {
        ROWS / self.starts.len()
    }

    fn windows(&self) -> usize {
        self.length.div_ceil(self.steps())
    }

    fn window(&self, k: usize) -> Vec<u32> {
        let steps = k * self.steps()..((k + 1) * self.steps()).min(self.length);
        steps.flat_map(|t| self.starts.iter().map(move |s| self.tokens[s + t])).collect()
    }

    /// What is read for the state.
    fn before(&self) -> Vec<u32> {
        let steps = if self.starts[0] == 0 { 0 } else { BEFORE };
        (0..steps).flat_map(|t| self.starts.iter().map(move |s| self.tokens[s - BEFORE + t])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every token is read once, in a stream that those before it lead to.
    #[test]
    fn streams_are_a_text() {
        for n in [1, 7, 499, 500, 1499, 1500, 30_001] {
            let tokens: Vec<u32> = (0..n as u32).collect();
            let parts = parts(&tokens);
            let mut read: Vec<u32> =
                parts.iter().flat_map(|p| (0..p.windows()).flat_map(|k| p.window(k))).collect();
            read.sort_unstable();
            assert_eq!(read, tokens);
            for part in &parts {
                let (before, streams) = (part.before(), part.starts.len());
                for (s, &start) in part.starts.iter().enumerate().filter(|_| !before.is_empty()) {
                    let last = before[before.len() - streams + s];
                    assert_eq!(last as usize + 1, start);
                }
            }
        }
    }
}
