//! Strings, looked up as a whole or as the beginning of a text.

/// Strings with their tokens, in order.
#[derive(Default)]
pub(super) struct Index(Vec<(Box<[u8]>, u32)>);

impl Index {
    /// Of distinct strings; otherwise, the one that is there twice.
    pub(super) fn new<'s>(entries: impl Iterator<Item = (&'s str, u32)>) -> Result<Index, String> {
        let mut entries: Vec<(Box<[u8]>, u32)> = entries.map(|(s, id)| (s.as_bytes().into(), id)).collect();
        entries.sort_unstable();
        match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(String::from_utf8_lossy(&pair[0].0).into_owned()),
            None => Ok(Index(entries)),
        }
    }

    /// The token of a string.
    pub(super) fn get(&self, key: &str) -> Option<u32> {
        let found = self.0.binary_search_by(|(entry, _)| (**entry).cmp(key.as_bytes()));
        found.ok().map(|at| self.0[at].1)
    }

    /// Length and token of all that a text begins with, shortest first.
    pub(super) fn prefixes(&self, text: &[u8]) -> impl Iterator<Item = (usize, u32)> {
        // All that share `length` bytes with the text; the first of them may be no longer.
        let mut range = &self.0[..];
        text.iter()
            .enumerate()
            .map_while(move |(length, byte)| {
                let start = range.partition_point(|(entry, _)| entry.get(length) < Some(byte));
                let end =
                    start + range[start..].partition_point(|(entry, _)| entry.get(length) == Some(byte));
                range = &range[start..end];
                let (first, id) = range.first()?;
                Some((first.len() == length + 1).then_some((length + 1, *id)))
            })
            .flatten()
    }
}
