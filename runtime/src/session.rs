//! A model, and the streams of text that it reads.

use std::fmt;
use std::sync::Arc;

use crate::aligned::Aligned;
use crate::kernels::{Head, Kernels, Layout, StateSlot, Workspace};
use crate::sampling::{self, Rng, Sampling};
use crate::text::{Tokenizer, Vocabulary, VocabularyError};

#[cfg(test)]
mod tests;

/// A model's description of itself. All fields may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// Its name.
    pub name: String,
    /// The passes that it went through, in their text form.
    pub recipe: String,
    /// The report of the passes, as JSON.
    pub report: String,
}

/// A compiled model with its tokenizer: immutable, shared by threads, and cheap to clone.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

struct Shared {
    kernels: Arc<dyn Kernels>,
    tokenizer: Option<Arc<Tokenizer>>,
    description: Description,
}

/// Why a [`Model`] cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The vocabulary does not belong to the kernels.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The kernels have no words, or more than a token can count.
    #[error("the kernels are for {found} words; a model has from 1 to {} words", u32::MAX)]
    Words {
        /// Words in their layout.
        found: usize,
    },
}

/// Why an operation of a [`Session`] failed. Except after [`SessionError::NotFinite`], its state is
/// unchanged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A token that the model does not have.
    #[error(
        "token {token} is out of range: the model has {vocabulary} words, so tokens are 0 to {}",
        .vocabulary - 1
    )]
    Token {
        /// The token.
        token: u32,
        /// Words in the model.
        vocabulary: usize,
    },
    /// A perplexity of a text without predictions.
    #[error("perplexity needs at least 2 tokens, the text has {found}")]
    TooFewTokens {
        /// Tokens in the text.
        found: usize,
    },
    /// A saved state of another model.
    #[error(
        "the saved state has {found} elements, this model's has {expected}; \
         a state can only be restored to the model that it was saved from"
    )]
    State {
        /// Elements of this model's state.
        expected: usize,
        /// Elements of the saved state.
        found: usize,
    },
    /// The buffers for ids and for log-probabilities differ in length.
    #[error("there is room for {ids} ids but for {log_probabilities} log-probabilities")]
    Buffers {
        /// Length of the buffer for ids.
        ids: usize,
        /// Length of the buffer for log-probabilities.
        log_probabilities: usize,
    },
    /// The number of tokens is not the number of streams.
    #[error("{tokens} token{} for {streams} streams; a step takes one token for each", if *.tokens == 1 { "" } else { "s" })]
    Streams {
        /// Streams.
        streams: usize,
        /// Tokens given.
        tokens: usize,
    },
    /// A stream that takes a step twice, or does not exist.
    #[error("stream {stream} takes a step twice, or does not exist: there are {streams}")]
    Stream {
        /// The stream.
        stream: usize,
        /// Streams.
        streams: usize,
    },
    /// Probabilities of words, of a model that has none.
    #[error(
        "the model's output is a hidden vector of {width} elements, not logits: it gives no probabilities of words, so there is no \
         scoring, perplexity, suggestion or sampling; a step gives the vector"
    )]
    Hidden {
        /// Elements of the vector.
        width: usize,
    },
    /// A temperature that is negative, infinite or NaN.
    #[error("temperature {0} is not a finite number of at least 0")]
    Temperature(f32),
    /// A `top_p` that is no probability above 0.
    #[error("top_p {0} is not a number above 0 and at most 1")]
    TopP(f32),
    /// A repetition penalty that is zero, negative, infinite or NaN.
    #[error("repetition penalty {0} is not a finite number above 0")]
    Penalty(f32),
    /// Sampling with a `top_k` of 0.
    #[error("cannot sample from the 0 most likely words; use at least 1")]
    NoCandidates,
    /// The model's output is not a probability distribution. The session has consumed the tokens; reset it
    /// or restore a state before it is used again.
    #[error(
        "the model's output is not finite (NaN or infinity), so it is no probability distribution; \
         its weights are damaged or overflow"
    )]
    NotFinite,
}

impl Model {
    /// Joins kernels and, if it is known, how a text becomes their tokens.
    ///
    /// # Errors
    ///
    /// If the vocabulary and the kernels differ in their number of words, or the kernels have none.
    pub fn new(
        kernels: Arc<dyn Kernels>,
        tokenizer: Option<Arc<Tokenizer>>,
        description: Description,
    ) -> Result<Self, ModelError> {
        let words = kernels.layout().vocabulary;
        if words == 0 || u32::try_from(words).is_err() {
            return Err(ModelError::Words { found: words });
        }
        if let Some(tokenizer) = &tokenizer {
            tokenizer.vocabulary().check_len(words)?;
        }
        Ok(Model { shared: Arc::new(Shared { kernels, tokenizer, description }) })
    }

    /// A new stream of text, at its beginning. Allocates all that the stream needs.
    pub fn session(&self) -> Session {
        let layout = self.layout();
        let mut session = Session {
            state: Aligned::zeroed(layout.state),
            scratch: Aligned::zeroed(layout.scratch),
            workspace: None,
            logits: Aligned::zeroed(layout.outputs),
            candidates: Vec::new(),
            model: self.clone(),
        };
        session.reset();
        session
    }

    /// The sizes of the model and of its sessions' buffers.
    pub fn layout(&self) -> &Layout {
        self.shared.kernels.layout()
    }

    /// An error if the output gives no probabilities.
    pub(crate) fn check_logits(&self) -> Result<(), SessionError> {
        match self.layout().head {
            Head::Logits => Ok(()),
            Head::Hidden => Err(SessionError::Hidden { width: self.layout().outputs }),
        }
    }

    /// The compiled code and its weights.
    pub fn kernels(&self) -> &Arc<dyn Kernels> {
        &self.shared.kernels
    }

    /// How a text becomes tokens, if the model came with it.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.shared.tokenizer.as_ref()
    }

    /// The names of the tokens, if the model came with them.
    pub fn vocabulary(&self) -> Option<&Arc<Vocabulary>> {
        self.tokenizer().map(|t| t.vocabulary())
    }

    /// The model's name; may be empty.
    pub fn name(&self) -> &str {
        &self.shared.description.name
    }

    /// The passes that the model went through, in their text form; may be empty.
    pub fn recipe(&self) -> &str {
        &self.shared.description.recipe
    }

    /// The report of the passes, as JSON; may be empty.
    pub fn report(&self) -> &str {
        &self.shared.description.report
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name())
            .field("layout", self.layout())
            .finish_non_exhaustive()
    }
}

/// One stream of text: the model's recurrent state after the tokens so far, and the memory to continue.
///
/// Every method that takes a `token` *consumes* it: the state advances by one word. Nothing is
/// allocated per token.
pub struct Session {
    model: Model,
    state: Aligned<f32>,          // [layout.state], vectors and padding
    scratch: Aligned<u8>,         // [layout.scratch]
    workspace: Option<Workspace>, // made when first a sequence is scored
    logits: Aligned<f32>,         // [layout.outputs]
    candidates: Vec<u32>,         // [largest k sampled from so far]
}

/// A recurrent state, as saved by [`Session::save_state`]. It belongs to one model, compiled for one machine: its layout may
/// differ on others. [`Layout::slots`] says where its vectors are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedState {
    values: Vec<f32>, // [layout.state], vectors and padding
}

impl SavedState {
    /// A state from its elements, for instance of [`SavedState::values`] that were stored elsewhere.
    pub fn from_values(values: Vec<f32>) -> Self {
        SavedState { values }
    }

    /// All [`Layout::state`] elements, including the padding between vectors: opaque, to be stored and passed to
    /// [`SavedState::from_values`] again.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// One vector of the state, as the model's layout has it; `None` if this is too short to be a state of that model.
    pub fn vector(&self, slot: &StateSlot) -> Option<&[f32]> {
        self.values.get(slot.range())
    }

    /// [`SavedState::vector`], mutable.
    pub fn vector_mut(&mut self, slot: &StateSlot) -> Option<&mut [f32]> {
        self.values.get_mut(slot.range())
    }
}

impl Session {
    /// The model that reads this stream.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Consumes `token` and returns the logits (before the softmax) of every word that may come next,
    /// `[vocabulary]`, or the model's hidden vector: see [`Layout::head`]. They are as the kernels wrote them, NaNs included.
    ///
    /// # Errors
    ///
    /// [`SessionError::Token`] if the model has no such token.
    pub fn step(&mut self, token: u32) -> Result<&[f32], SessionError> {
        self.check(token)?;
        self.model.shared.kernels.step(&mut self.state, &mut self.scratch, token, &mut self.logits);
        Ok(&self.logits)
    }

    /// Consumes `token` without computing what may come next: faster than [`Session::step`] for all
    /// tokens of a prompt except the last.
    ///
    /// # Errors
    ///
    /// [`SessionError::Token`] if the model has no such token.
    pub fn advance(&mut self, token: u32) -> Result<(), SessionError> {
        self.check(token)?;
        self.model.shared.kernels.advance(&mut self.state, &mut self.scratch, token);
        Ok(())
    }

    /// Consumes `token` and writes the most likely next words and their natural log-probabilities, best
    /// first, ties in order of id. Returns the number written: the length of the buffers, or
    /// the size of the vocabulary if that is less.
    ///
    /// # Errors
    ///
    /// If the model has no such token or no logits, the buffers differ in length, or what was written is not finite.
    pub fn top_k_into(
        &mut self,
        token: u32,
        ids: &mut [u32],
        log_probabilities: &mut [f32],
    ) -> Result<usize, SessionError> {
        self.check(token)?;
        self.check_logits()?;
        if ids.len() != log_probabilities.len() {
            return Err(SessionError::Buffers { ids: ids.len(), log_probabilities: log_probabilities.len() });
        }
        if ids.is_empty() {
            self.advance(token)?;
            return Ok(0);
        }
        let kernels = &self.model.shared.kernels;
        let count = kernels.top_k(&mut self.state, &mut self.scratch, token, ids, log_probabilities);
        check_best(&log_probabilities[..count])?;
        Ok(count)
    }

    /// [`Session::top_k_into`] of some words only, such as those that begin with what is being typed
    /// ([`Vocabulary::with_prefix`]): the most likely ones of `among`, with their probabilities among all words.
    ///
    /// # Errors
    ///
    /// As [`Session::top_k_into`], also if the model lacks a word of `among`.
    pub fn top_k_among(
        &mut self,
        token: u32,
        among: &[u32],
        ids: &mut [u32],
        log_probabilities: &mut [f32],
    ) -> Result<usize, SessionError> {
        self.check(token)?;
        among.iter().max().map_or(Ok(()), |&token| self.check(token))?;
        self.check_logits()?;
        if ids.len() != log_probabilities.len() {
            return Err(SessionError::Buffers { ids: ids.len(), log_probabilities: log_probabilities.len() });
        }
        let kernels = &self.model.shared.kernels;
        kernels.step(&mut self.state, &mut self.scratch, token, &mut self.logits);
        let total = kernels.log_sum_exp(&self.logits);
        let logits = &self.logits;
        let before = |a: u32, b: u32| {
            let (x, y) = (logits[a as usize], logits[b as usize]);
            x > y || x == y && a < b
        };
        // Most words are below the last of the best so far.
        let (mut count, mut last) = (0, f32::NEG_INFINITY);
        for &id in among {
            if count == ids.len() && (logits[id as usize] < last || count == 0 || !before(id, ids[count - 1]))
            {
                continue;
            }
            let at = ids[..count].iter().position(|&other| before(id, other)).unwrap_or(count);
            count = (count + 1).min(ids.len());
            ids[at..count].rotate_right(1);
            ids[at] = id;
            last = logits[ids[count - 1] as usize];
        }
        for (to, &id) in log_probabilities.iter_mut().zip(&ids[..count]) {
            *to = logits[id as usize] - total;
        }
        let broken = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        if !total.is_finite() || log_probabilities[..count].iter().any(broken) {
            return Err(SessionError::NotFinite);
        }
        Ok(count)
    }

    /// Consumes `token` and draws the next word at random, as `sampling` says. The word is not consumed:
    /// pass it to the next call.
    ///
    /// # Errors
    ///
    /// If the model has no such token, a field of `sampling` is out of its range, or the model's output is not finite.
    pub fn sample(&mut self, token: u32, sampling: &Sampling, rng: &mut Rng) -> Result<u32, SessionError> {
        self.sample_after(token, &[], sampling, rng)
    }

    /// [`Session::sample`], with the words that [`Sampling::repetition_penalty`] makes less likely.
    ///
    /// # Errors
    ///
    /// As [`Session::sample`], also if the model lacks one of the words seen.
    pub fn sample_after(
        &mut self,
        token: u32,
        seen: &[u32],
        sampling: &Sampling,
        rng: &mut Rng,
    ) -> Result<u32, SessionError> {
        self.check(token)?;
        seen.iter().try_for_each(|&token| self.check(token))?;
        self.check_logits()?;
        sampling.check()?;
        let temperature = sampling.temperature;
        if sampling.needs_order() {
            self.model.shared.kernels.step(&mut self.state, &mut self.scratch, token, &mut self.logits);
            let drawn = sampling.draw_ordered(&mut self.logits, seen, &mut self.candidates, rng);
            return drawn.ok_or(SessionError::NotFinite);
        }
        if temperature == 0.0 {
            let (mut id, mut log_probability) = ([0], [0.0]);
            self.top_k_into(token, &mut id, &mut log_probability)?;
            return Ok(id[0]);
        }
        let kernels = &self.model.shared.kernels;
        let (state, scratch) = (&mut self.state, &mut self.scratch);
        match sampling.top_k {
            Some(k) if k < self.logits.len() => {
                if self.candidates.len() < k {
                    self.candidates.resize(k, 0);
                }
                let ids = &mut self.candidates[..k];
                let weights = &mut self.logits[..k];
                let count = kernels.top_k(state, scratch, token, ids, weights);
                sampling::draw(&mut weights[..count], temperature, rng).map(|index| ids[index])
            }
            _ => {
                kernels.step(state, scratch, token, &mut self.logits);
                sampling::draw(&mut self.logits, temperature, rng).map(|index| index as u32)
            }
        }
        .ok_or(SessionError::NotFinite)
    }

    /// Consumes all of `tokens` except the last and returns the sum of the natural log-probabilities of
    /// `tokens[1..]`, each given what came before it in this stream; `0.0` for fewer than two tokens.
    ///
    /// A long text may be scored in pieces that share one token: the last of a piece is the first of the
    /// next. The result is negative infinity if the model gives a token the probability 0.
    ///
    /// # Errors
    ///
    /// If the model lacks one of the tokens (nothing is consumed then), or the sum is NaN or positive
    /// infinity.
    pub fn score(&mut self, tokens: &[u32]) -> Result<f64, SessionError> {
        self.score_each(tokens, &mut |_| {})
    }

    /// [`Session::score`]; `found` gets the log-probabilities themselves, some at a time, in order.
    ///
    /// # Errors
    ///
    /// As [`Session::score`].
    pub fn score_each(&mut self, tokens: &[u32], found: &mut dyn FnMut(&[f32])) -> Result<f64, SessionError> {
        tokens.iter().try_for_each(|&token| self.check(token))?;
        self.check_logits()?;
        if tokens.len() < 2 {
            return Ok(0.0);
        }
        let kernels = &self.model.shared.kernels;
        let workspace = self.workspace.get_or_insert_with(|| kernels.sequence_workspace());
        let sum = kernels.score_sequence(&mut self.state, &mut self.scratch, workspace, tokens, found);
        if sum.is_nan() || sum == f64::INFINITY {
            return Err(SessionError::NotFinite);
        }
        Ok(sum)
    }

    /// The perplexity of a text of `N` tokens: from the initial state, tokens `1..N-1` predict tokens
    /// `2..N`, and the result is `exp` of the mean negative natural log-probability. The stream is reset
    /// first and ends after the second-to-last token.
    ///
    /// # Errors
    ///
    /// If there are fewer than two tokens or one that the model lacks (nothing happens then), or if the
    /// model's output is not finite.
    pub fn perplexity(&mut self, tokens: &[u32]) -> Result<f64, SessionError> {
        self.perplexity_with_progress(tokens, &mut |_| {})
    }

    /// [`Session::perplexity`], calling `progress` occasionally with the number of tokens predicted so far.
    ///
    /// # Errors
    ///
    /// As [`Session::perplexity`].
    pub fn perplexity_with_progress(
        &mut self,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> Result<f64, SessionError> {
        if tokens.len() < 2 {
            return Err(SessionError::TooFewTokens { found: tokens.len() });
        }
        tokens.iter().try_for_each(|&token| self.check(token))?;
        self.check_logits()?;
        self.reset();
        let mut done = 0;
        let sum = self.score_each(tokens, &mut |found| {
            done += found.len();
            progress(done);
        })?;
        Ok((-sum / (tokens.len() - 1) as f64).exp())
    }

    /// Returns to the beginning: the model's initial state.
    pub fn reset(&mut self) {
        self.model.shared.kernels.layout().reset(&mut self.state);
    }

    /// The vectors of the state by name, in the layout's order.
    ///
    /// ```
    /// # fn example(session: &lstmc_runtime::Session) {
    /// for (name, vector) in session.state() {
    ///     println!("{name}: {} elements, the first is {}", vector.len(), vector[0]);
    /// }
    /// # }
    /// ```
    pub fn state(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.layout().slots.iter().map(|slot| (slot.name.as_str(), &self.state[slot.range()]))
    }

    /// One vector of the state; `None` if the model has none with that name.
    pub fn state_vector(&self, name: &str) -> Option<&[f32]> {
        let slot = self.layout().slot(name)?;
        Some(&self.state[slot.range()])
    }

    /// [`Session::state_vector`], mutable: the stream continues from the new value.
    ///
    /// ```
    /// # fn example(session: &mut lstmc_runtime::Session, trained: &[f32]) -> Option<()> {
    /// // A state that was trained apart from the model.
    /// session.state_vector_mut("h0")?.copy_from_slice(trained);
    /// # Some(())
    /// # }
    /// ```
    pub fn state_vector_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        let range = self.layout().slot(name)?.range();
        Some(&mut self.state[range])
    }

    fn layout(&self) -> &Layout {
        self.model.layout()
    }

    /// A copy of the state, to be restored later, in this session or in another one of the model.
    pub fn save_state(&self) -> SavedState {
        SavedState { values: self.state.to_vec() }
    }

    /// [`Session::save_state`] into an old copy, whose memory is reused.
    pub fn save_state_into(&self, saved: &mut SavedState) {
        saved.values.clear();
        saved.values.extend_from_slice(&self.state);
    }

    /// Restores a saved state.
    ///
    /// # Errors
    ///
    /// [`SessionError::State`] if it has another length, and so is from another model.
    pub fn restore_state(&mut self, saved: &SavedState) -> Result<(), SessionError> {
        if saved.values.len() != self.state.len() {
            return Err(SessionError::State { expected: self.state.len(), found: saved.values.len() });
        }
        self.state.copy_from_slice(&saved.values);
        Ok(())
    }

    fn check(&self, token: u32) -> Result<(), SessionError> {
        let vocabulary = self.layout().vocabulary;
        if (token as usize) < vocabulary { Ok(()) } else { Err(SessionError::Token { token, vocabulary }) }
    }

    fn check_logits(&self) -> Result<(), SessionError> {
        self.model.check_logits()
    }
}

/// Checks log-probabilities of the likeliest words: a word may be impossible (negative infinity), but not the likeliest one.
pub(crate) fn check_best(log_probabilities: &[f32]) -> Result<(), SessionError> {
    let broken = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    let best = log_probabilities.first().is_none_or(|x| x.is_finite());
    if !best || log_probabilities.iter().any(broken) { Err(SessionError::NotFinite) } else { Ok(()) }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("model", &self.model).finish_non_exhaustive()
    }
}
