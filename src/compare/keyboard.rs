//! Keystrokes that suggestions save.

use super::{Prediction, is_special};
use lstmc_runtime::{Tokenizer, Units};

/// Suggestions above the keys.
const SUGGESTIONS: usize = 3;

/// Someone who types a text on a keyboard that suggests the three likeliest words that begin with what is typed of a word, and takes the word as soon as it is
/// among them.
pub(super) struct Keyboard<'t> {
    tokenizer: &'t Tokenizer,
    special: Vec<bool>, // [vocabulary]
}

impl<'t> Keyboard<'t> {
    /// `None` where tokens are not words.
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Option<Keyboard<'t>> {
        let special = (0..tokenizer.vocabulary().len() as u32).map(|id| is_special(tokenizer, id));
        (*tokenizer.units() == Units::Words).then(|| Keyboard { tokenizer, special: special.collect() })
    }

    /// Keystrokes without suggestions: a word's letters and a space; a special token is not typed.
    pub(super) fn letters(&self, token: u32) -> f64 {
        if self.special[token as usize] {
            return 0.0;
        }
        self.tokenizer.vocabulary().word(token).map_or(0.0, |word| word.chars().count() as f64 + 1.0)
    }

    /// Keystrokes with suggestions: letters until the word is suggested, and one to take it, which adds the space.
    pub(super) fn strokes(&self, token: u32, prediction: &Prediction) -> f64 {
        let all = self.letters(token);
        let Some(word) = self.tokenizer.vocabulary().word(token).filter(|_| all > 0.0) else { return 0.0 };
        let logs = &prediction.log_probabilities;
        let own = (logs[token as usize], std::cmp::Reverse(token));
        let is_better = |id: u32| {
            let other = (logs[id as usize], std::cmp::Reverse(id));
            !self.special[id as usize] && other > own
        };
        for (typed, (at, _)) in word.char_indices().enumerate() {
            let rivals = self.tokenizer.vocabulary().with_prefix(&word[..at]);
            if rivals.iter().filter(|&&id| is_better(id)).take(SUGGESTIONS).count() < SUGGESTIONS {
                return typed as f64 + 1.0;
            }
        }
        all
    }
}
