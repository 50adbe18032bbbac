//! A model small enough to be computed by hand.

use crate::kernels::{Kernels, Layout, StateSlot};

/// A bigram table with a memory: the logits of the next word are the row of the last word, plus how
/// often (fading by half with each token) the next word itself was seen. The state has two vectors, `low` for the first half of the
/// words and `high` for the others.
pub(crate) struct Bigram {
    layout: Layout,
    table: Vec<Vec<f32>>, // [vocabulary, vocabulary]
}

impl Bigram {
    /// Kernels of a square table of logits.
    pub(crate) fn new(table: &[&[f32]]) -> Self {
        let words = table.len();
        let half = words / 2;
        let slots = [("low", 0, half), ("high", half, words - half)].map(|(name, offset, len)| StateSlot {
            name: name.into(),
            offset,
            len,
        });
        let layout = Layout::new(words).with_state(words, slots.to_vec()).with_scratch(4 * words);
        Bigram { layout, table: table.iter().map(|row| row.to_vec()).collect() }
    }

    fn logits(&self, state: &mut [f32], scratch: &mut [u8], token: u32) -> Vec<f32> {
        self.advance(state, scratch, token);
        scratch.fill(0xaa);
        self.table[token as usize].iter().zip(state).map(|(logit, seen)| logit + *seen).collect()
    }
}

/// The log-probabilities that belong to `logits`.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    logits.iter().map(|&x| (f64::from(x - largest) - total.ln()) as f32).collect()
}

impl Kernels for Bigram {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn step(&self, state: &mut [f32], scratch: &mut [u8], token: u32, logits: &mut [f32]) {
        logits.copy_from_slice(&self.logits(state, scratch, token));
    }

    fn score(&self, state: &mut [f32], scratch: &mut [u8], token: u32, target: u32) -> f32 {
        log_softmax(&self.logits(state, scratch, token))[target as usize]
    }

    fn top_k(
        &self,
        state: &mut [f32],
        scratch: &mut [u8],
        token: u32,
        ids: &mut [u32],
        log_probabilities: &mut [f32],
    ) -> usize {
        let all = log_softmax(&self.logits(state, scratch, token));
        let mut order: Vec<u32> = (0..all.len() as u32).collect();
        order.sort_by(|&a, &b| all[b as usize].total_cmp(&all[a as usize]));
        let count = ids.len().min(all.len());
        for (rank, &id) in order[..count].iter().enumerate() {
            ids[rank] = id;
            log_probabilities[rank] = all[id as usize];
        }
        count
    }

    fn advance(&self, state: &mut [f32], scratch: &mut [u8], token: u32) {
        assert_eq!(state.len(), self.layout.state);
        assert!(scratch.len() >= self.layout.scratch);
        state.iter_mut().for_each(|seen| *seen *= 0.5);
        state[token as usize] += 1.0;
    }
}
