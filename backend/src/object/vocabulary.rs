//! A vocabulary as read-only data: words by id, and ids by word.
//!
//! ```text
//!   strings   the words in the order of their ids, each with a NUL
//!   offsets   u32 [words + 1]   where each word starts in `strings`
//!   sorted    u32 [words]       ids in the order of their words' lengths, then of their bytes
//! ```

use super::ObjectError;
use lstmc_runtime::Vocabulary;

/// The three tables.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) strings: Vec<u8>,
    pub(super) offsets: Vec<u8>,
    pub(super) sorted: Vec<u8>,
    /// The id of `<unk>`, or `u32::MAX`.
    pub(super) unknown: u32,
}

impl Tables {
    pub(super) fn new(words: &Vocabulary) -> Result<Tables, ObjectError> {
        let (mut strings, mut offsets) = (vec![], vec![0u32]);
        for (id, word) in words.words().enumerate() {
            if word.contains('\0') {
                return Err(ObjectError::Nul { id });
            }
            strings.extend_from_slice(word.as_bytes());
            strings.push(0);
            let end = u32::try_from(strings.len()).map_err(|_| ObjectError::Words)?;
            offsets.push(end);
        }
        let all: Vec<&str> = words.words().collect();
        // A vocabulary's ids are u32.
        let mut sorted: Vec<u32> = (0..all.len() as u32).collect();
        sorted.sort_by_key(|&id| (all[id as usize].len(), all[id as usize]));
        let bytes = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        Ok(Tables {
            strings,
            offsets: bytes(&offsets),
            sorted: bytes(&sorted),
            unknown: words.unknown().unwrap_or(u32::MAX),
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.strings.len() + self.offsets.len() + self.sorted.len()
    }
}
