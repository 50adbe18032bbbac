//! How SentencePiece prepares a text: its character map, white space, and the symbols that it leaves alone.

use super::index::Index;

/// What stands for a blank in pieces.
pub(super) const SPACE: &str = "\u{2581}";

/// The rules of a model.
pub(super) struct Normalizer {
    pub(super) rules: Option<Rules>,
    /// White space before a text, so that a word is the same at its beginning and within it.
    pub(super) dummy_prefix: bool,
    /// Whether white space at both ends is dropped, and more than one blank is one.
    pub(super) remove_extra_spaces: bool,
    /// Whether [`SPACE`] stands for a blank.
    pub(super) escape_spaces: bool,
    /// Whether a dummy prefix is a suffix.
    pub(super) suffix: bool,
}

impl Normalizer {
    /// The text that is cut into pieces. Of `symbols`, none is changed.
    pub(super) fn normalize(&self, text: &str, symbols: &Index) -> String {
        let mut rest = text;
        while self.remove_extra_spaces && !rest.is_empty() {
            let (to, length) = self.prefix(rest, symbols);
            if to != " " {
                break;
            }
            rest = &rest[length..];
        }
        let mut out = String::new();
        if rest.is_empty() {
            return out;
        }
        out.reserve(rest.len() + rest.len() / 2);
        let space = if self.escape_spaces { SPACE } else { " " };
        if self.dummy_prefix && !self.suffix {
            out.push_str(space);
        }
        let mut after_space = self.remove_extra_spaces;
        while !rest.is_empty() {
            let (mut to, length) = self.prefix(rest, symbols);
            if after_space {
                to = to.trim_start_matches(' ');
            }
            for (index, part) in to.split(' ').enumerate() {
                out.push_str(if index > 0 { space } else { "" });
                out.push_str(part);
            }
            if !to.is_empty() {
                after_space = self.remove_extra_spaces && to.ends_with(' ');
            }
            rest = &rest[length..];
        }
        if self.remove_extra_spaces {
            out.truncate(out.trim_end_matches(space).len());
        }
        if self.dummy_prefix && self.suffix {
            out.push_str(space);
        }
        out
    }

    /// What the beginning of a text becomes, and the length of that beginning: a symbol, what the longest rule replaces, or a character.
    fn prefix<'t>(&'t self, text: &'t str, symbols: &Index) -> (&'t str, usize) {
        if let Some((length, _)) = symbols.prefixes(text.as_bytes()).last() {
            return (&text[..length], length);
        }
        match self.rules.as_ref().and_then(|rules| rules.longest(text)) {
            Some(found) => found,
            None => {
                let length = text.chars().next().map_or(0, char::len_utf8);
                (&text[..length], length)
            }
        }
    }
}

/// A precompiled character map: what replaces strings of bytes.
///
/// ```text
///   bytes of the trie: u32 | trie: u32... | texts, each up to a zero byte
/// ```
///
/// The trie is a double array (Darts): from the node at `i`, the byte `b` leads to the node at `i ^ offset(i) ^ b` if that one's label is `b`, and the
/// node's value, if it has one, is at `i ^ offset(i)`. Values are positions in the texts.
pub(super) struct Rules {
    trie: Vec<u32>,
    texts: String,
}

impl Rules {
    /// The rules of a file; `None` if they are damaged.
    pub(super) fn new(bytes: &[u8]) -> Option<Rules> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (trie, texts) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let (units, odd) = trie.as_chunks();
        let texts = str::from_utf8(texts).ok().filter(|texts| texts.ends_with('\0'))?;
        let trie: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        (odd.is_empty() && !trie.is_empty()).then(|| Rules { trie, texts: texts.into() })
    }

    /// What replaces the longest beginning of a text that has a rule, and that beginning's length. Every position is checked, as a file's trie may lead
    /// anywhere.
    fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let label = |unit: u32| unit & ((1 << 31) | 0xFF);
        let mut at = offset(*self.trie.first()?);
        let mut longest = None;
        for (index, &byte) in text.as_bytes().iter().enumerate() {
            at ^= u32::from(byte);
            let Some(&unit) = self.trie.get(at as usize).filter(|&&unit| label(unit) == u32::from(byte))
            else {
                break;
            };
            at ^= offset(unit);
            if unit >> 8 & 1 == 1
                && let Some(value) = self.trie.get(at as usize)
            {
                longest = Some((value & !(1 << 31), index + 1));
            }
        }
        let (value, length) = longest?;
        let to = self.texts.get(value as usize..)?.split('\0').next()?;
        text.is_char_boundary(length).then_some((to, length))
    }
}
