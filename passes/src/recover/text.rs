//! The training text in windows.

use super::run::Plan;
use crate::pass::PassError;
use std::fmt;
use std::ops::Range;

/// A text as streams that are read in parallel: each is a contiguous part of it.
#[derive(Clone, Copy)]
pub(super) struct Text<'t> {
    tokens: &'t [u32],
    pub(super) batch: usize,
    pub(super) bptt: usize,
}

impl<'t> Text<'t> {
    pub(super) fn new(tokens: &'t [u32], plan: &Plan, vocabulary: usize) -> Result<Text<'t>, PassError> {
        let (batch, bptt) = (plan.batch, plan.bptt);
        if tokens.len() / batch < 2 {
            return Err(PassError::Options(format!(
                "the training text has {} tokens, and batch={batch} needs at least {}: two in each stream",
                tokens.len(),
                2 * batch
            )));
        }
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(PassError::Options(format!(
                "the training text has token {token}, and the model has words 0 to {}",
                vocabulary - 1
            )));
        }
        Ok(Text::of(tokens, batch, bptt))
    }

    /// The same without checks. Each stream must have a token and the next.
    pub(super) fn of(tokens: &'t [u32], batch: usize, bptt: usize) -> Text<'t> {
        Text { tokens, batch, bptt }
    }

    fn length(&self) -> usize {
        self.tokens.len() / self.batch
    }

    /// Windows in an epoch.
    pub(super) fn windows(&self) -> usize {
        (self.length() - 1).div_ceil(self.bptt)
    }

    /// Steps of a window.
    fn steps(&self, k: usize) -> Range<usize> {
        k * self.bptt..((k + 1) * self.bptt).min(self.length() - 1)
    }

    /// Words that all streams predict in a window.
    pub(super) fn tokens_in(&self, k: usize) -> usize {
        self.steps(k).len() * self.batch
    }

    /// Inputs and targets of some streams in a window, ordered by step and then stream.
    pub(super) fn window(&self, k: usize, streams: Range<usize>) -> [Vec<u32>; 2] {
        [0, 1].map(|ahead| {
            let words = |t| streams.clone().map(move |s| self.tokens[s * self.length() + t + ahead]);
            self.steps(k).flat_map(words).collect()
        })
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hash = crc32fast::Hasher::new();
        self.tokens.iter().for_each(|t| hash.update(&t.to_le_bytes()));
        write!(f, "{} tokens #{:08x}", self.tokens.len(), hash.finalize())
    }
}
