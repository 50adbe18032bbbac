//! A vocabulary as read-only data: words by id, and ids by word.
//!
//! ```text
//!   strings   the words in the order of their ids, each with a NUL
//!   places    u32 [words / 16, rounded up]   where every sixteenth word starts in `strings`
//!   sorted    u16 or u32 [words]             ids in the order of their words' bytes; u16 if that is enough
//! ```

use crate::error::ObjectError;
use lstmc_runtime::{Role, Tokenizer};

/// Words per entry of `places`, as a power of two: to find a word, the ones before it are skipped.
pub(super) const STRIDE_BITS: u32 = 4;

/// The three tables.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) strings: Vec<u8>,
    pub(super) places: Vec<u8>,
    pub(super) sorted: Vec<u8>,
    /// Whether ids in `sorted` are u16.
    pub(super) short: bool,
    /// The token for unknown words, or `u32::MAX`.
    pub(super) unknown: u32,
}

impl Tables {
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Tables, ObjectError> {
        let words = tokenizer.vocabulary();
        let (mut strings, mut places) = (vec![], vec![]);
        for (id, word) in words.words().enumerate() {
            if word.contains('\0') {
                return Err(ObjectError::Nul { id });
            }
            let place = u32::try_from(strings.len()).map_err(|_| ObjectError::Words)?;
            if id % (1 << STRIDE_BITS) == 0 {
                places.extend(place.to_le_bytes());
            }
            strings.extend_from_slice(word.as_bytes());
            strings.push(0);
        }
        let all: Vec<&[u8]> = words.words().map(str::as_bytes).collect();
        // A vocabulary's ids are u32.
        let mut sorted: Vec<u32> = (0..all.len() as u32).collect();
        sorted.sort_unstable_by_key(|&id| all[id as usize]);
        let short = all.len() <= 1 << 16;
        let width = if short { 2 } else { 4 };
        Ok(Tables {
            strings,
            places,
            sorted: sorted.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)).collect(),
            short,
            unknown: tokenizer.special().get(Role::Unknown).unwrap_or(u32::MAX),
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.strings.len() + self.places.len() + self.sorted.len()
    }
}
