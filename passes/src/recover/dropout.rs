//! Dropout: factors of what products read, 0 or the one that preserves the mean.

use super::number::Number;
use lstmc_frontend::ir::arbitrary::SplitMix64;
use std::collections::BTreeMap;

/// Where a vector is multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Between,
    /// In a product that a recurrence repeats at each step.
    WithinRecurrence,
}

/// The probabilities of dropout.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Drops {
    /// Of inputs of cells and linear layers (Zaremba et al. 2014).
    pub(super) inputs: f64,
    /// Whether the same inputs of a stream are dropped at all steps of a window (Gal and Ghahramani 2016).
    pub(super) is_variational: bool,
    /// Of what products within a recurrence read, at all steps of a window.
    pub(super) recurrent: f64,
    /// Of words, wherever they are in a window.
    pub(super) words: f64,
}

/// Dropout in a forward pass.
pub(super) struct Dropout<'r> {
    pub(super) drops: Drops,
    pub(super) rng: &'r mut SplitMix64,
}

impl Dropout<'_> {
    /// Draws the factors of a vector of so many elements for the steps up to `end`.
    pub(super) fn draw<T: Number>(
        &mut self,
        place: Place,
        len: usize,
        steps: usize,
        end: usize,
        factors: &mut Vec<T>,
    ) {
        let (probability, is_fixed) = match place {
            Place::Between => (self.drops.inputs, self.drops.is_variational),
            Place::WithinRecurrence => (self.drops.recurrent, true),
        };
        if probability <= 0.0 {
            return;
        }
        let count = match is_fixed {
            true => len - factors.len().min(len),
            false => steps * len,
        };
        factors.extend((0..count).map(|_| factor::<T>(probability, self.rng)));
        if is_fixed {
            (factors.len()..end * len).step_by(len).for_each(|_| factors.extend_from_within(..len));
        }
    }

    /// Draws the factor of each token: the same for the same word.
    pub(super) fn draw_words<T: Number>(&mut self, tokens: &[u32], factors: &mut Vec<T>) {
        let mut drawn = BTreeMap::new();
        for &token in tokens {
            factors.push(*drawn.entry(token).or_insert_with(|| factor(self.drops.words, self.rng)));
        }
    }
}

/// Draws the factor of an element: 0, or the one that preserves the mean.
fn factor<T: Number>(probability: f64, rng: &mut SplitMix64) -> T {
    let uniform = f64::from(rng.centered()) + 0.5;
    T::of(if uniform < probability { 0.0 } else { 1.0 / (1.0 - probability) })
}
