//! The safe interface between a model and its implementation.

use std::any::Any;
use std::fmt;
use std::ops::Range;

/// How many log-probabilities [`score_stepwise`] passes on together.
const TOGETHER: usize = 256;

/// One vector of a recurrent state: its range of the state's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSlot {
    /// Its name in the model's graph: `h0` and `c0` are the hidden and the cell state of the first LSTM.
    pub name: String,
    /// Its first element.
    pub offset: usize,
    /// The number of its elements.
    pub len: usize,
}

impl StateSlot {
    /// Its elements among the state's.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// What the output of a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A logit for each word of the vocabulary.
    Logits,
    /// A vector of any length, such as that of a transducer's prediction network: it gives no probabilities of words.
    Hidden,
}

/// The sizes that a caller of [`Kernels`] must know.
///
/// ```text
///   state:   [ h0 ....... | padding ][ c0 ....... | padding ][ h1 ..     Layout::state elements in all
///              slots[0]                slots[1]                slots[2]
/// ```
///
/// The kernels choose the order and the start of the slots and the contents of the padding. To get one
/// vector, use [`Layout::slot`] or, for example, [`Session::state_vector`](crate::Session::state_vector).
///
/// A layout is built with [`Layout::new`] and the methods after it. A model without a state, and with the defaults for the rest:
///
/// ```
/// use lstmc_runtime::{Layout, StateSlot};
///
/// let layout = Layout::new(10_000);
/// assert_eq!((layout.vocabulary, layout.state, layout.scratch), (10_000, 0, 0));
///
/// // Two vectors of 200, padded to 224.
/// let slot = |name: &str, offset| StateSlot { name: name.into(), offset, len: 200 };
/// let layout = layout.with_state(448, vec![slot("h0", 0), slot("c0", 224)]).with_scratch(4096);
/// assert_eq!(layout.slot("c0").unwrap().range(), 224..424);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Layout {
    /// Words in the vocabulary: tokens are `0..vocabulary`.
    pub vocabulary: usize,
    /// What a step writes.
    pub head: Head,
    /// `f32` elements of it.
    pub outputs: usize,
    /// `f32` elements of one stream's recurrent state, including padding.
    pub state: usize,
    /// The state's vectors, within `0..state`.
    pub slots: Vec<StateSlot>,
    /// The state before the first token; empty if it is all zeros.
    pub initial: Vec<f32>,
    /// Bytes of working memory that one call needs; its contents between calls do not matter.
    pub scratch: usize,
    /// Bytes of weights that one [`Kernels::step`] reads: the bound of its speed.
    pub weight_bytes_per_token: usize,
}

impl Layout {
    /// A model of the logits of this many words that has no state, needs no scratch and reads no weights.
    pub fn new(vocabulary: usize) -> Self {
        Layout {
            vocabulary,
            head: Head::Logits,
            outputs: vocabulary,
            state: 0,
            slots: Vec::new(),
            initial: Vec::new(),
            scratch: 0,
            weight_bytes_per_token: 0,
        }
    }

    /// With a hidden vector of `len` elements as output.
    #[must_use]
    pub fn with_hidden(self, len: usize) -> Self {
        Layout { head: Head::Hidden, outputs: len, ..self }
    }

    /// With this state before the first token; empty for zeros.
    ///
    /// # Panics
    ///
    /// If it is neither empty nor as long as the state.
    #[must_use]
    pub fn with_initial(self, initial: Vec<f32>) -> Self {
        assert!(initial.is_empty() || initial.len() == self.state, "length of the initial state");
        Layout { initial, ..self }
    }

    /// Sets a state to that before the first token.
    ///
    /// # Panics
    ///
    /// If it has another length.
    pub fn reset(&self, state: &mut [f32]) {
        match self.initial.is_empty() {
            true => state.fill(0.0),
            false => state.copy_from_slice(&self.initial),
        }
    }

    /// With a state of `len` elements, and the vectors in it.
    ///
    /// # Panics
    ///
    /// If a vector is not within the state, or two have the same name.
    #[must_use]
    pub fn with_state(self, len: usize, slots: Vec<StateSlot>) -> Self {
        for (n, slot) in slots.iter().enumerate() {
            let end = slot.offset.checked_add(slot.len);
            assert!(end.is_some_and(|end| end <= len), "{slot:?} lies within a state of {len} elements");
            let known = slots[..n].iter().any(|other| other.name == slot.name);
            assert!(!known, "two vectors of the state have the name {}", slot.name);
        }
        Layout { state: len, slots, ..self }
    }

    /// With this many bytes of scratch.
    #[must_use]
    pub fn with_scratch(self, bytes: usize) -> Self {
        Layout { scratch: bytes, ..self }
    }

    /// With this many bytes of weights that a step reads.
    #[must_use]
    pub fn with_weight_bytes_per_token(self, bytes: usize) -> Self {
        Layout { weight_bytes_per_token: bytes, ..self }
    }

    /// The state's vector with that name.
    pub fn slot(&self, name: &str) -> Option<&StateSlot> {
        self.slots.iter().find(|slot| slot.name == name)
    }
}

/// Memory, in addition to scratch, for calls that take many tokens together. The kernels that create it know its type; the caller
/// keeps it between calls, so that nothing is allocated per token and nothing is hidden in thread-local storage.
#[derive(Default)]
pub struct Workspace(Option<Box<dyn Any + Send + Sync>>);

impl Workspace {
    /// The workspace of kernels that need none.
    pub const fn none() -> Workspace {
        Workspace(None)
    }

    /// A workspace with a value of any type.
    pub fn new(memory: impl Any + Send + Sync) -> Workspace {
        Workspace(Some(Box::new(memory)))
    }

    /// The value, if it has this type.
    pub fn get<T: Any>(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.downcast_mut()
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Workspace" } else { "Workspace(none)" })
    }
}

/// A compiled language model: pure functions of weights, state and token.
///
/// All methods share these arguments:
///
/// - `state`: exactly [`Layout::state`] elements, updated in place. [`Layout::reset`] gives the state before the
///   first token, [`Layout::slots`] says where its vectors are.
/// - `scratch`: at least [`Layout::scratch`] bytes, overwritten.
/// - `workspace`: of the same kernels, from [`Kernels::streams_workspace`] or [`Kernels::sequence_workspace`].
/// - `token`, `target`: ids below [`Layout::vocabulary`].
///
/// `state` (or `states`) and `scratch` start at a multiple of [`ALIGNMENT`](crate::ALIGNMENT) bytes, as an
/// [`Aligned`](crate::Aligned) buffer does. `logits`, `ids` and `log_probabilities` need not.
///
/// If [`Layout::head`] is a hidden vector, there are no words to score or to select: the methods that do are not called.
///
/// # Panics
///
/// This is a safe trait: an implementation that runs compiled code checks every length, alignment and id before it
/// passes on a pointer, and panics if one is wrong. It must not panic for other reasons.
pub trait Kernels: Send + Sync {
    /// The sizes of the buffers below. They never change.
    fn layout(&self) -> &Layout;

    /// Consumes `token`, updates the state and writes the output: the logits (before the softmax) of every word
    /// that may come next, or the hidden vector. `logits` has [`Layout::outputs`] elements.
    fn step(&self, state: &mut [f32], scratch: &mut [u8], token: u32, logits: &mut [f32]);

    /// The workspace that [`Kernels::step_streams`] needs for this many streams.
    fn streams_workspace(&self, streams: usize) -> Workspace {
        let _ = streams;
        Workspace::none()
    }

    /// The workspace that [`Kernels::score_sequence`] needs.
    fn sequence_workspace(&self) -> Workspace {
        Workspace::none()
    }

    /// Takes a [`step`](Kernels::step) in each of `tokens.len()` streams. `states` and `logits` hold
    /// [`Layout::state`] and [`Layout::outputs`] elements for each, one stream after another.
    ///
    /// Implementations may load a weight once for all streams; the default takes them one by one.
    fn step_streams(
        &self,
        states: &mut [f32],
        scratch: &mut [u8],
        workspace: &mut Workspace,
        tokens: &[u32],
        logits: &mut [f32],
    ) {
        let _ = workspace;
        let Layout { outputs, state, .. } = *self.layout();
        assert_eq!(states.len(), tokens.len() * state, "length of the states");
        assert_eq!(logits.len(), tokens.len() * outputs, "length of the output");
        for (n, &token) in tokens.iter().enumerate() {
            let (state, logits) = (&mut states[n * state..][..state], &mut logits[n * outputs..][..outputs]);
            self.step(state, scratch, token, logits);
        }
    }

    /// The workspace that [`Kernels::score_batch`] needs for at most this many texts.
    fn batch_workspace(&self, texts: usize) -> Workspace {
        let _ = texts;
        self.sequence_workspace()
    }

    /// [`Kernels::score_sequence`] of several texts, no one of which is longer than the one before it: their states are consecutive in `states`, and
    /// `found` has places for the log-probabilities of all tokens but the first of each text.
    ///
    /// Implementations may load a weight once for all texts; the default takes them one by one.
    fn score_batch(
        &self,
        states: &mut [f32],
        scratch: &mut [u8],
        workspace: &mut Workspace,
        texts: &[&[u32]],
        found: &mut [&mut [f32]],
    ) {
        score_apart(self, states, scratch, workspace, texts, found);
    }

    /// Consumes `token`, updates the state and returns the natural log-probability that `target`
    /// comes next.
    ///
    /// Implementations need not compute all logits; the default takes a step and allocates their memory in each call.
    fn score(&self, state: &mut [f32], scratch: &mut [u8], token: u32, target: u32) -> f32 {
        let logits = logits_of(self, state, scratch, token);
        (f64::from(logits[target as usize]) - log_sum_exp(&logits)) as f32
    }

    /// Consumes all of `tokens` except the last, updates the state and returns the sum (in `f64`) of the
    /// log-probabilities of `tokens[1..]`; `0.0` for fewer than two tokens.
    ///
    /// `found` gets the log-probabilities themselves, some at a time, in order. Implementations may compute many time steps together; the
    /// default takes them one by one.
    fn score_sequence(
        &self,
        state: &mut [f32],
        scratch: &mut [u8],
        workspace: &mut Workspace,
        tokens: &[u32],
        found: &mut dyn FnMut(&[f32]),
    ) -> f64 {
        let _ = workspace;
        score_stepwise(self, state, scratch, tokens, found)
    }

    /// Consumes `token`, updates the state and writes the most likely next words with their natural
    /// log-probabilities, best first, ties in order of id. Returns the number written:
    /// the smaller of `ids.len()` and [`Layout::vocabulary`].
    ///
    /// `ids` and `log_probabilities` have the same length, at least 1. A NaN ranks above every number,
    /// so that it is visible.
    ///
    /// Implementations may track the best words directly; the default takes a step, sorts all words and allocates memory for both in each call.
    fn top_k(
        &self,
        state: &mut [f32],
        scratch: &mut [u8],
        token: u32,
        ids: &mut [u32],
        log_probabilities: &mut [f32],
    ) -> usize {
        let logits = logits_of(self, state, scratch, token);
        self.best_of(&logits, ids, log_probabilities)
    }

    /// [`Kernels::top_k`] of logits that a step wrote.
    ///
    /// Implementations may select faster; the default sorts all words.
    fn best_of(&self, logits: &[f32], ids: &mut [u32], log_probabilities: &mut [f32]) -> usize {
        assert_eq!(ids.len(), log_probabilities.len(), "length of the log-probabilities");
        let total = log_sum_exp(logits);
        // A NaN of either sign is above every number, and zeros of either sign are equal.
        let rank = |id: u32| if logits[id as usize].is_nan() { f32::NAN } else { logits[id as usize] + 0.0 };
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| rank(b).total_cmp(&rank(a)));
        let best = order.into_iter().zip(ids).zip(log_probabilities);
        best.map(|((id, to), log_probability)| {
            *to = id;
            *log_probability = (f64::from(logits[id as usize]) - total) as f32;
        })
        .count()
    }

    /// `log sum exp` of logits that a step wrote: the number that is subtracted from each to get its log-probability.
    fn log_sum_exp(&self, logits: &[f32]) -> f32 {
        log_sum_exp(logits) as f32
    }

    /// Consumes `token` and updates the state, without computing the output layer: for reading a prompt.
    ///
    /// The default takes a whole step.
    fn advance(&self, state: &mut [f32], scratch: &mut [u8], token: u32) {
        logits_of(self, state, scratch, token);
    }
}

/// [`Kernels::score_batch`], text by text.
pub fn score_apart<K: Kernels + ?Sized>(
    kernels: &K,
    states: &mut [f32],
    scratch: &mut [u8],
    workspace: &mut Workspace,
    texts: &[&[u32]],
    found: &mut [&mut [f32]],
) {
    let each = kernels.layout().state;
    for (n, (text, found)) in texts.iter().zip(found).enumerate() {
        let (state, mut rest) = (&mut states[n * each..][..each], &mut **found);
        kernels.score_sequence(state, scratch, workspace, text, &mut |part| {
            let (to, after) = std::mem::take(&mut rest).split_at_mut(part.len());
            to.copy_from_slice(part);
            rest = after;
        });
    }
}

/// [`Kernels::score_sequence`], word by word.
pub fn score_stepwise<K: Kernels + ?Sized>(
    kernels: &K,
    state: &mut [f32],
    scratch: &mut [u8],
    tokens: &[u32],
    found: &mut dyn FnMut(&[f32]),
) -> f64 {
    let mut sum = 0.0;
    let mut log_probabilities = [0.0; TOGETHER];
    // Each part shares a token with the next: its last target is the next one's first input.
    for first in (0..tokens.len().saturating_sub(1)).step_by(TOGETHER) {
        let pairs = tokens[first..].windows(2).take(TOGETHER);
        let mut count = 0;
        for (pair, to) in pairs.zip(&mut log_probabilities) {
            *to = kernels.score(state, scratch, pair[0], pair[1]);
            sum += f64::from(*to);
            count += 1;
        }
        found(&log_probabilities[..count]);
    }
    sum
}

/// The output of a step.
fn logits_of<K: Kernels + ?Sized>(
    kernels: &K,
    state: &mut [f32],
    scratch: &mut [u8],
    token: u32,
) -> Vec<f32> {
    let mut logits = vec![0.0; kernels.layout().outputs];
    kernels.step(state, scratch, token, &mut logits);
    logits
}

/// `log sum exp` of logits: the number that is subtracted from each to get its log-probability.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    f64::from(largest) + total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bigram;
    use crate::{Description, Model};
    use std::sync::Arc;

    /// Kernels that use all defaults of the trait.
    struct Least(Bigram);

    impl Kernels for Least {
        fn layout(&self) -> &Layout {
            self.0.layout()
        }

        fn step(&self, state: &mut [f32], scratch: &mut [u8], token: u32, logits: &mut [f32]) {
            self.0.step(state, scratch, token, logits);
        }
    }

    /// Both divide by the same sum of exponentials in f64, and round once more or less to f32.
    const TOLERANCE: f32 = 1e-6;

    #[test]
    fn what_the_trait_gives_is_what_kernels_of_their_own_give() {
        let table: [&[f32]; 4] =
            [&[0.0, 1.0, 2.0, 1.0], &[0.5, -1.0, 0.0, -0.0], &[3.0, 0.0, 1.0, 3.0], &[-9.0, 40.0, 7.0, 7.0]];
        let session =
            |kernels: Arc<dyn Kernels>| Model::new(kernels, None, Description::default()).unwrap().session();
        let mut own = session(Arc::new(Bigram::new(&table)));
        let mut given = session(Arc::new(Least(Bigram::new(&table))));
        let tokens = [0, 2, 1, 3, 3, 0, 1];
        for pair in tokens.windows(2) {
            let scores = [&mut own, &mut given].map(|s| s.score(pair).unwrap() as f32);
            assert!((scores[0] - scores[1]).abs() <= TOLERANCE, "{scores:?}");
        }
        for k in [1, 3, 4, 6] {
            let best = |s: &mut crate::Session| {
                let (mut ids, mut scores) = (vec![0; k], vec![0.0; k]);
                let n = s.top_k_into(2, &mut ids, &mut scores).unwrap();
                (ids[..n].to_vec(), scores[..n].to_vec())
            };
            let ((ids, scores), (same, close)) = (best(&mut own), best(&mut given));
            assert_eq!(ids, same);
            assert!(
                scores.iter().zip(&close).all(|(a, b)| (a - b).abs() <= TOLERANCE),
                "{scores:?} {close:?}"
            );
        }
        own.advance(3).unwrap();
        given.advance(3).unwrap();
        assert_eq!(own.save_state(), given.save_state());
    }

    #[test]
    fn all_log_probabilities_are_passed_on() {
        let kernels = Least(Bigram::new(&[&[0.0; 3], &[0.0; 3], &[0.0; 3]]));
        for tokens in [0, 1, 2, 257, 600] {
            let (mut state, mut scratch, mut seen) = (vec![0.0; 3], vec![0; 12], vec![]);
            let tokens = vec![1; tokens];
            let mut found = |part: &[f32]| seen.extend_from_slice(part);
            let mut workspace = Workspace::default();
            let sum = kernels.score_sequence(&mut state, &mut scratch, &mut workspace, &tokens, &mut found);
            assert_eq!(seen.len(), tokens.len().saturating_sub(1));
            assert_eq!(sum, seen.iter().map(|&p| f64::from(p)).sum::<f64>());
        }
    }

    #[test]
    fn a_nan_is_seen_and_equal_words_come_in_order() {
        let kernels = Least(Bigram::new(&[&[1.0, 5.0, -f32::NAN], &[0.5, -0.0, -1.0], &[0.0; 3]]));
        let best = |token: u32| {
            let (mut state, mut scratch) = (vec![0.0; 3], vec![0; 12]);
            let (mut ids, mut scores) = ([9; 3], [0.0; 3]);
            assert_eq!(kernels.top_k(&mut state, &mut scratch, token, &mut ids, &mut scores), 3);
            (ids, scores)
        };
        let (ids, scores) = best(0);
        assert_eq!(ids, [2, 1, 0]);
        assert!(scores[0].is_nan());
        // The logit of a word that was just read is higher by one.
        assert_eq!(best(1).0, [1, 0, 2]);
        assert_eq!(best(2).0, [2, 0, 1]);
    }
}
