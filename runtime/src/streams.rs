//! Several streams of text that advance together.

use std::fmt;

use crate::aligned::Aligned;
use crate::kernels::{Layout, Workspace};
use crate::session::{self, Model, SavedState, SessionError};

/// Several streams of one model that each consume a token at a time, together: a weight is loaded once for all of them, so a step takes
/// little longer than one stream's. For a server with several texts, or a search with several hypotheses.
///
/// Nothing is allocated after they are made.
///
/// A stream's state and logits are, bit for bit, a function of the tokens that it consumed: they do not depend on the other streams, on how many there are,
/// on its place among them, or on how often it was copied, forked or moved. One thing matters: whether streams take a step together. One stream by itself takes
/// it as a [`Session`](crate::Session); at processor levels without batched kernels all do. Sums of f32s are then rounded in another order, and the results agree up to that.
///
/// For a beam search, streams are a pool: [`Streams::add`] and [`Streams::fork`] take a free one, [`Streams::remove`] gives it back, and
/// [`Streams::step_some`] takes a step of some of them; or the best hypotheses are brought to the front by [`Streams::reorder`]. What is copied includes the
/// logits of the last step, for [`Streams::top_k`] and [`Streams::score`].
///
/// ```
/// # fn example(model: &lstmc_runtime::Model) -> Result<(), lstmc_runtime::SessionError> {
/// let mut streams = model.streams(2);
/// streams.step(&[17, 4])?;
/// // The second stream goes on from where the first one is.
/// streams.copy(0, 1);
/// streams.step(&[23, 5])?;
/// let [first, second] = [0, 1].map(|stream| streams.logits(stream));
/// # let _ = (first, second);
/// # Ok(())
/// # }
/// ```
pub struct Streams {
    model: Model,
    count: usize,
    states: Aligned<f32>, // [count][layout.state], vectors and padding
    scratch: Aligned<u8>, // [layout.scratch]
    workspace: Workspace,
    logits: Aligned<f32>, // [count][layout.outputs]
    /// Log-sum-exp of the logits, NaN until it is asked for.
    totals: Vec<f32>, // [count]
    /// States and logits of some streams while they take a step together.
    some: (Aligned<f32>, Aligned<f32>), // [count][layout.state], [count][layout.outputs]
    /// Streams that [`Streams::add`] may give out; the last is next.
    free: Vec<usize>,
    /// How often each stream is still to be copied while they are reordered, and those that are not.
    uses: (Vec<usize>, Vec<usize>),
}

impl Model {
    /// This many new streams of text, each at its beginning. Allocates all that they need.
    ///
    /// # Panics
    ///
    /// If they do not fit memory.
    pub fn streams(&self, count: usize) -> Streams {
        let layout = self.layout();
        let all = |each: usize| each.checked_mul(count).expect("streams fit memory");
        let mut streams = Streams {
            count,
            states: Aligned::zeroed(all(layout.state)),
            scratch: Aligned::zeroed(layout.scratch),
            workspace: self.kernels().streams_workspace(count),
            logits: Aligned::zeroed(all(layout.outputs)),
            totals: vec![f32::NAN; count],
            some: (Aligned::zeroed(all(layout.state)), Aligned::zeroed(all(layout.outputs))),
            free: Vec::with_capacity(count),
            uses: (vec![0; count], Vec::with_capacity(count)),
            model: self.clone(),
        };
        (0..count).for_each(|stream| streams.reset(stream));
        streams
    }
}

impl Streams {
    /// The model that reads these streams.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The number of streams.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Consumes a token in each stream and returns the logits (before the softmax) of every word that may come next,
    /// `[streams][vocabulary]`, or the model's hidden vectors. They are as the kernels wrote them, NaNs included.
    ///
    /// # Errors
    ///
    /// If the number of tokens is not the number of streams, or the model lacks one of them. Nothing is consumed then.
    pub fn step(&mut self, tokens: &[u32]) -> Result<&[f32], SessionError> {
        if tokens.len() != self.count {
            return Err(SessionError::Streams { streams: self.count, tokens: tokens.len() });
        }
        let vocabulary = self.model.layout().vocabulary;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(SessionError::Token { token, vocabulary });
        }
        let Streams { model, states, scratch, workspace, logits, .. } = self;
        model.kernels().step_streams(states, scratch, workspace, tokens, logits);
        self.totals.fill(f32::NAN);
        Ok(&self.logits)
    }

    /// Consumes a token in each of some streams; the others stay as they are. The first streams, in order, need no copying.
    ///
    /// # Errors
    ///
    /// If the number of tokens is not that of these streams, one of them occurs twice or does not exist, or the model lacks a token. Nothing is consumed then.
    pub fn step_some(&mut self, streams: &[usize], tokens: &[u32]) -> Result<(), SessionError> {
        if tokens.len() != streams.len() {
            return Err(SessionError::Streams { streams: streams.len(), tokens: tokens.len() });
        }
        let Layout { vocabulary, state: each, outputs, .. } = *self.model.layout();
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(SessionError::Token { token, vocabulary });
        }
        let seen = &mut self.uses.0;
        seen.fill(0);
        for &stream in streams {
            match seen.get_mut(stream) {
                Some(seen) if *seen == 0 => *seen = 1,
                _ => return Err(SessionError::Stream { stream, streams: self.count }),
            }
        }
        let (kernels, n) = (self.model.kernels(), streams.len());
        let Streams { states, scratch, workspace, logits, some, totals, .. } = self;
        if streams.iter().copied().eq(0..n) {
            let (states, logits) = (&mut states[..n * each], &mut logits[..n * outputs]);
            kernels.step_streams(states, scratch, workspace, tokens, logits);
            totals[..n].fill(f32::NAN);
            return Ok(());
        }
        for (k, stream) in streams.iter().enumerate() {
            some.0[k * each..][..each].copy_from_slice(&states[stream * each..][..each]);
        }
        let (moved, found) = (&mut some.0[..n * each], &mut some.1[..n * outputs]);
        kernels.step_streams(moved, scratch, workspace, tokens, found);
        for (k, &stream) in streams.iter().enumerate() {
            states[stream * each..][..each].copy_from_slice(&moved[k * each..][..each]);
            logits[stream * outputs..][..outputs].copy_from_slice(&found[k * outputs..][..outputs]);
            totals[stream] = f32::NAN;
        }
        Ok(())
    }

    /// The likeliest next words of one stream after its last step and their natural log-probabilities, best first, ties in order of id. Returns the number
    /// written: the length of the buffers, or the size of the vocabulary if that is less.
    ///
    /// # Errors
    ///
    /// If the model has no logits, the buffers differ in length, or what was written is not finite.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn top_k(
        &self,
        stream: usize,
        ids: &mut [u32],
        log_probabilities: &mut [f32],
    ) -> Result<usize, SessionError> {
        self.model.check_logits()?;
        if ids.len() != log_probabilities.len() {
            return Err(SessionError::Buffers { ids: ids.len(), log_probabilities: log_probabilities.len() });
        }
        let logits = self.logits(stream);
        if ids.is_empty() {
            return Ok(0);
        }
        let count = self.model.kernels().best_of(logits, ids, log_probabilities);
        session::check_best(&log_probabilities[..count])?;
        Ok(count)
    }

    /// The natural log-probability that `target` comes next in one stream after its last step.
    ///
    /// # Errors
    ///
    /// If the model has no logits or no such token, or the log-probability is NaN or positive infinity.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn score(&mut self, stream: usize, target: u32) -> Result<f32, SessionError> {
        self.model.check_logits()?;
        let vocabulary = self.model.layout().vocabulary;
        if target as usize >= vocabulary {
            return Err(SessionError::Token { token: target, vocabulary });
        }
        if self.totals[self.checked(stream)].is_nan() {
            self.totals[stream] = self.model.kernels().log_sum_exp(self.logits(stream));
        }
        let score = self.logits(stream)[target as usize] - self.totals[stream];
        if score.is_nan() || score == f32::INFINITY { Err(SessionError::NotFinite) } else { Ok(score) }
    }

    /// Gives all streams to the pool from which [`Streams::add`] and [`Streams::fork`] take them.
    pub fn clear(&mut self) {
        self.free.clear();
        self.free.extend((0..self.count).rev());
    }

    /// A stream of the pool, at the beginning of a text; `None` if all are in use, as they are until [`Streams::clear`].
    pub fn add(&mut self) -> Option<usize> {
        let stream = self.free.pop()?;
        self.reset(stream);
        Some(stream)
    }

    /// A stream of the pool that goes on from where another one is; `None` if all are in use.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn fork(&mut self, from: usize) -> Option<usize> {
        self.checked(from);
        let stream = self.free.pop()?;
        self.copy(from, stream);
        Some(stream)
    }

    /// Gives a stream back to the pool.
    ///
    /// # Panics
    ///
    /// If there is no such stream, or it is there already.
    pub fn remove(&mut self, stream: usize) {
        assert!(!self.free.contains(&self.checked(stream)), "stream {stream} is in use");
        self.free.push(stream);
    }

    /// Makes each of the first streams what another one is now: stream `n` goes on from where stream `from[n]` is. The streams after those stay.
    ///
    /// # Panics
    ///
    /// If there are no such streams, or `from` is longer than their number.
    pub fn reorder(&mut self, from: &[usize]) {
        assert!(from.len() <= self.count, "{} of {} streams", from.len(), self.count);
        from.iter().for_each(|&stream| _ = self.checked(stream));
        // Streams that nobody else needs are replaced first; what is left are cycles.
        let (mut uses, mut ready) = std::mem::take(&mut self.uses);
        uses.fill(0);
        from.iter().enumerate().filter(|(to, from)| to != *from).for_each(|(_, &from)| uses[from] += 1);
        let moves = |to: usize| from.get(to).copied().filter(|&from| from != to);
        ready.clear();
        ready.extend((0..from.len()).filter(|&to| uses[to] == 0 && moves(to).is_some()));
        // A stream that was replaced counts as used, so that it is not taken for a part of a cycle.
        let done = usize::MAX;
        while let Some(to) = ready.pop() {
            let source = from[to];
            self.copy(source, to);
            uses[to] = done;
            uses[source] -= 1;
            if uses[source] == 0 && moves(source).is_some() {
                ready.push(source);
            }
        }
        for first in 0..from.len() {
            let mut at = first;
            while uses[at] == 1
                && let Some(source) = moves(at)
            {
                uses[at] = done;
                if source != first {
                    self.swap(at, source);
                    at = source;
                }
            }
        }
        self.uses = (uses, ready);
    }

    fn swap(&mut self, one: usize, other: usize) {
        let Layout { state, outputs, .. } = *self.model.layout();
        swap_rows(&mut self.states, one, other, state);
        swap_rows(&mut self.logits, one, other, outputs);
        self.totals.swap(one, other);
    }

    /// The logits of one stream after the last step, `[vocabulary]`, or its hidden vector; zeros before the first.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn logits(&self, stream: usize) -> &[f32] {
        let each = self.model.layout().outputs;
        &self.logits[self.checked(stream) * each..][..each]
    }

    /// The vectors of one stream's state by name, in the layout's order.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn state(&self, stream: usize) -> impl Iterator<Item = (&str, &[f32])> {
        let state = self.all(stream);
        self.model.layout().slots.iter().map(|slot| (slot.name.as_str(), &state[slot.range()]))
    }

    /// One vector of one stream's state; `None` if the model has none with that name.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn state_vector(&self, stream: usize, name: &str) -> Option<&[f32]> {
        let state = self.all(stream);
        Some(&state[self.model.layout().slot(name)?.range()])
    }

    /// [`Streams::state_vector`], mutable: the stream continues from the new value.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn state_vector_mut(&mut self, stream: usize, name: &str) -> Option<&mut [f32]> {
        self.checked(stream);
        let range = self.model.layout().slot(name)?.range();
        Some(&mut self.all_mut(stream)[range])
    }

    /// Returns one stream to the beginning: the model's initial state.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn reset(&mut self, stream: usize) {
        self.checked(stream);
        let model = self.model.clone();
        model.layout().reset(self.all_mut(stream));
    }

    /// Copies the state and the logits of stream `from` to stream `to`.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn copy(&mut self, from: usize, to: usize) {
        let Layout { state, outputs, .. } = *self.model.layout();
        let (from, to) = (self.checked(from), self.checked(to));
        self.states.copy_within(from * state..(from + 1) * state, to * state);
        self.logits.copy_within(from * outputs..(from + 1) * outputs, to * outputs);
        self.totals[to] = self.totals[from];
    }

    /// A copy of one stream's state, to be restored in any stream or session of the model.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn save_state(&self, stream: usize) -> SavedState {
        SavedState::from_values(self.all(stream).to_vec())
    }

    /// Restores a saved state in one stream.
    ///
    /// # Errors
    ///
    /// [`SessionError::State`] if it has another length, and so is from another model.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn restore_state(&mut self, stream: usize, saved: &SavedState) -> Result<(), SessionError> {
        let state = self.all_mut(stream);
        if saved.values().len() != state.len() {
            return Err(SessionError::State { expected: state.len(), found: saved.values().len() });
        }
        state.copy_from_slice(saved.values());
        Ok(())
    }

    /// All of a stream's state.
    fn all(&self, stream: usize) -> &[f32] {
        let each = self.model.layout().state;
        &self.states[self.checked(stream) * each..][..each]
    }

    fn all_mut(&mut self, stream: usize) -> &mut [f32] {
        let each = self.model.layout().state;
        let at = self.checked(stream) * each;
        &mut self.states[at..][..each]
    }

    /// The stream, which must exist: with an empty state, any number would pass.
    fn checked(&self, stream: usize) -> usize {
        assert!(stream < self.count, "stream {stream} of {}", self.count);
        stream
    }
}

/// Exchanges two rows of `each` elements.
fn swap_rows(all: &mut [f32], one: usize, other: usize, each: usize) {
    let (low, high) = (one.min(other) * each, one.max(other) * each);
    if low != high {
        let (before, after) = all.split_at_mut(high);
        before[low..][..each].swap_with_slice(&mut after[..each]);
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("model", &self.model)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Description;
    use crate::testing::Bigram;

    fn model() -> Model {
        let table: [&[f32]; 3] = [&[0.0, 1.0, 2.0], &[0.5, -1.0, 0.0], &[3.0, 0.0, 1.0]];
        Model::new(Arc::new(Bigram::new(&table)), None, Description::default()).unwrap()
    }

    #[test]
    fn streams_are_sessions_in_step() {
        let model = model();
        let mut streams = model.streams(3);
        let mut sessions = [(); 3].map(|()| model.session());
        assert_eq!((streams.len(), streams.is_empty()), (3, false));
        for tokens in [[0, 1, 2], [2, 2, 0], [1, 0, 0]] {
            streams.step(&tokens).unwrap();
            for (stream, session) in sessions.iter_mut().enumerate() {
                assert_eq!(session.step(tokens[stream]).unwrap(), streams.logits(stream));
            }
        }
        streams.copy(2, 0);
        streams.reset(1);
        let saved = sessions[0].save_state();
        streams.restore_state(2, &saved).unwrap();
        sessions[1].reset();
        let all = streams.step(&[1, 1, 1]).unwrap().to_vec();
        let want = [2, 1, 0].map(|session| sessions[session].step(1).unwrap().to_vec());
        assert_eq!(all, want.concat());
        assert_eq!(streams.save_state(2), sessions[0].save_state());
        let own: Vec<_> = streams.state(0).collect();
        assert!(own.iter().copied().eq(sessions[2].state()));
        assert_eq!(streams.state_vector(0, "high"), sessions[2].state_vector("high"));
        streams.state_vector_mut(1, "high").unwrap()[1] = 100.0;
        sessions[1].state_vector_mut("high").unwrap()[1] = 100.0;
        streams.step(&[0, 0, 0]).unwrap();
        assert_eq!(sessions[1].step(0).unwrap(), streams.logits(1));
        assert!(streams.state_vector(0, "h0").is_none() && streams.state_vector_mut(0, "h0").is_none());
    }

    #[test]
    fn some_streams_are_sessions_apart() {
        let model = model();
        let mut streams = model.streams(5);
        let mut sessions = [(); 5].map(|()| model.session());
        let mut logits = [const { vec![] }; 5];
        for some in [&[0, 1, 2, 3, 4][..], &[3, 1], &[0, 1], &[4], &[], &[4, 3, 2, 1, 0]] {
            let tokens: Vec<u32> = some.iter().map(|&s| (s as u32 * 2 + some.len() as u32) % 3).collect();
            streams.step_some(some, &tokens).unwrap();
            for (&stream, &token) in some.iter().zip(&tokens) {
                logits[stream] = sessions[stream].step(token).unwrap().to_vec();
            }
            for stream in 0..5 {
                assert_eq!(streams.save_state(stream), sessions[stream].save_state());
                assert_eq!(streams.logits(stream), logits[stream]);
                let all = crate::testing::log_softmax(&logits[stream]);
                let (mut ids, mut best) = ([9; 2], [0.0; 2]);
                assert_eq!(streams.top_k(stream, &mut ids, &mut best).unwrap(), 2);
                assert!((best[0] - all[ids[0] as usize]).abs() < 1e-6 && best[0] >= best[1]);
                assert!((streams.score(stream, ids[1]).unwrap() - best[1]).abs() < 1e-6);
            }
        }
        let twice = streams.step_some(&[2, 0, 2], &[0, 0, 0]).unwrap_err();
        assert_eq!(twice, SessionError::Stream { stream: 2, streams: 5 });
        let none = streams.step_some(&[5], &[0]).unwrap_err();
        assert_eq!(none.to_string(), "stream 5 takes a step twice, or does not exist: there are 5");
        assert_eq!(streams.save_state(2), sessions[2].save_state());
    }

    #[test]
    fn a_pool_of_streams() {
        let model = model();
        let mut streams = model.streams(3);
        assert_eq!(streams.add(), None);
        streams.clear();
        let first = streams.add().unwrap();
        streams.step_some(&[first], &[2]).unwrap();
        let second = streams.fork(first).unwrap();
        streams.step_some(&[second], &[1]).unwrap();
        let third = streams.add().unwrap();
        assert_eq!((first, second, third, streams.fork(second)), (0, 1, 2, None));
        let mut session = model.session();
        assert_eq!(streams.save_state(third), session.save_state());
        session.step(2).unwrap();
        assert_eq!(streams.save_state(first), session.save_state());
        session.step(1).unwrap();
        assert_eq!(streams.save_state(second), session.save_state());
        streams.remove(first);
        assert_eq!(streams.fork(second), Some(first));
        assert_eq!(streams.save_state(first), session.save_state());
        assert_eq!(streams.logits(first), streams.logits(second));
    }

    #[test]
    fn every_order_of_four_streams() {
        let model = model();
        let mut made = model.streams(4);
        made.step(&[0, 1, 2, 0]).unwrap();
        made.step(&[0, 1, 2, 1]).unwrap();
        let before: Vec<_> = (0..4).map(|s| (made.save_state(s), made.logits(s).to_vec())).collect();
        for code in 0..256 {
            let from: Vec<usize> = (0..4).map(|k| code >> (2 * k) & 3).collect();
            for len in 0..=4 {
                for (stream, (state, _)) in before.iter().enumerate() {
                    made.restore_state(stream, state).unwrap();
                }
                made.step(&[0, 0, 0, 0]).unwrap();
                let now: Vec<_> = (0..4).map(|s| (made.save_state(s), made.logits(s).to_vec())).collect();
                made.reorder(&from[..len]);
                for stream in 0..4 {
                    let want = &now[from[..len].get(stream).copied().unwrap_or(stream)];
                    let have = (made.save_state(stream), made.logits(stream).to_vec());
                    assert_eq!(have, *want, "{from:?} {len} {stream}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_consumes_nothing() {
        let mut streams = model().streams(2);
        streams.step(&[0, 1]).unwrap();
        let before = streams.save_state(0);
        let few = streams.step(&[0]).unwrap_err();
        assert_eq!(few.to_string(), "1 token for 2 streams; a step takes one token for each");
        let unknown = streams.step(&[0, 3]).unwrap_err();
        assert_eq!(unknown, SessionError::Token { token: 3, vocabulary: 3 });
        let wrong = streams.restore_state(1, &SavedState::from_values(vec![0.0; 4])).unwrap_err();
        assert_eq!(wrong, SessionError::State { expected: 3, found: 4 });
        assert_eq!(streams.save_state(0), before);
        assert!(model().streams(0).step(&[]).unwrap().is_empty());
    }

    #[test]
    #[should_panic(expected = "stream 2 of 2")]
    fn streams_that_do_not_exist_panic() {
        model().streams(2).reset(2);
    }
}
