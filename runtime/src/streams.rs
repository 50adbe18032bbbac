//! Several streams of text that advance together.

use std::fmt;

use crate::aligned::Aligned;
use crate::kernels::Workspace;
use crate::session::{Model, SavedState, SessionError};

/// Several streams of one model that each consume a token at a time, together: a weight is loaded once for all of them, so a step takes
/// little longer than one stream's. For a server with several texts, or a search with several hypotheses.
///
/// Nothing is allocated per token. Logits agree with those of a [`Session`](crate::Session) up to rounding.
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
        Ok(&self.logits)
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

    /// Copies the state of stream `from` to stream `to`.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn copy(&mut self, from: usize, to: usize) {
        let each = self.model.layout().state;
        let (from, to) = (self.checked(from) * each, self.checked(to) * each);
        self.states.copy_within(from..from + each, to);
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
