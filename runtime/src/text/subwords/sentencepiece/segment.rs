//! Ways to cut a normalised text into pieces.

use super::{Kind, Part, SPACE, SentencePiece};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Sums of scores beyond this are counted from 0 again, so that `f32` still tells them apart.
const MAX_SUM: f32 = 100_000.0;

/// How often a piece that is not used is cut again.
const MAX_DEPTH: usize = 100;

/// The best way to the end of a piece.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    start: usize,
    id: Option<u32>,
}

/// Pieces that are or may become one, of [`SentencePiece::bpe`].
#[derive(PartialEq, Eq)]
struct Pair {
    /// Of the score: a larger number is a larger score.
    order: i32,
    left: usize,
    right: usize,
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> std::cmp::Ordering {
        (self.order, Reverse(self.left)).cmp(&(other.order, Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A part of a text between its neighbours, of [`SentencePiece::bpe`].
struct Symbol {
    start: usize,
    end: usize, // `start` when it was merged into the one before it
    previous: Option<usize>,
    next: Option<usize>,
    frozen: bool,
}

impl SentencePiece {
    fn is_used(&self, id: u32) -> bool {
        self.pieces[id as usize].kind != Kind::Unused
    }

    /// The piece with this text, if it is in use.
    fn used(&self, text: &str) -> Option<u32> {
        self.index.get(text).filter(|&id| self.is_used(id))
    }

    /// The cut with the largest sum of scores (Viterbi's algorithm).
    pub(super) fn unigram<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1]; // by the end of a piece
        let mut frontier = 0;
        for (start, c) in text.char_indices() {
            let mut so_far = best[start].map_or(0.0, |best| best.score);
            if so_far.abs() > MAX_SUM {
                for best in best[start..=frontier].iter_mut().flatten() {
                    best.score -= so_far;
                }
                so_far = 0.0;
            }
            let mut update = |length: usize, score: f32, id| {
                frontier = frontier.max(start + length);
                let (slot, score) = (&mut best[start + length], score + so_far);
                if slot.is_none_or(|old| score > old.score) {
                    *slot = Some(Best { score, start, id });
                }
            };
            let mut has_character = false;
            for (length, id) in self.index.prefixes(&text.as_bytes()[start..]) {
                let piece = &self.pieces[id as usize];
                let score = match piece.kind {
                    Kind::Unused => continue,
                    // More than any other piece has.
                    Kind::Symbol => (0.1 * (length as i32 - 1) as f64) as f32,
                    _ => piece.score,
                };
                update(length, score, Some(id));
                has_character |= length == c.len_utf8();
            }
            if !has_character {
                update(c.len_utf8(), self.unknown_score, None);
            }
        }
        let mut parts = vec![];
        let mut end = text.len();
        // Every character's end has a best way, and its start is before it.
        while let Some(best) = best[end].filter(|_| end > 0) {
            parts.push((&text[best.start..end], best.id));
            end = best.start;
        }
        parts.reverse();
        parts
    }

    /// Symbols, and all else as characters; whether it is a symbol.
    fn symbols_and_characters<'t>(&self, text: &'t str) -> impl Iterator<Item = (&'t str, bool)> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?.len_utf8();
            let symbol = self.symbols.prefixes(rest.as_bytes()).last();
            let (part, after) = rest.split_at(symbol.map_or(first, |(length, _)| length));
            rest = after;
            Some((part, symbol.is_some()))
        })
    }

    /// Neighbours that together are a piece become one, that with the highest score first, until there are none.
    pub(super) fn bpe<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut symbols: Vec<Symbol> = vec![];
        for (part, frozen) in self.symbols_and_characters(text) {
            let (start, index) = (symbols.last().map_or(0, |s| s.end), symbols.len());
            let end = start + part.len();
            let next = (end < text.len()).then_some(index + 1);
            symbols.push(Symbol { start, end, previous: index.checked_sub(1), next, frozen });
        }
        let mut pairs = BinaryHeap::new();
        // What pieces that are not used were made of.
        let mut unmerged: HashMap<&str, (&str, &str)> = HashMap::new();
        let mut offer =
            |left: Option<usize>, right: Option<usize>, symbols: &[Symbol], pairs: &mut BinaryHeap<Pair>| {
                let (Some(left), Some(right)) = (left, right) else { return };
                let [l, r] = [left, right].map(|index| &symbols[index]);
                let whole = &text[l.start..r.end];
                let Some(id) = self.index.get(whole).filter(|_| !l.frozen && !r.frozen) else { return };
                let bits = self.pieces[id as usize].score.to_bits() as i32;
                // The order of floats, as integers.
                let order = bits ^ ((bits >> 31) as u32 >> 1) as i32;
                pairs.push(Pair { order, left, right, length: whole.len() });
                if !self.is_used(id) {
                    unmerged.insert(whole, (&text[l.start..l.end], &text[r.start..r.end]));
                }
            };
        for right in 1..symbols.len() {
            offer(Some(right - 1), Some(right), &symbols, &mut pairs);
        }
        while let Some(Pair { left, right, length, .. }) = pairs.pop() {
            let [l, r] = [left, right].map(|index| &symbols[index]);
            if l.end == l.start || r.end == r.start || r.end - l.start != length {
                continue; // one of the two has become a part of another piece
            }
            let (end, next) = (r.end, r.next);
            (symbols[left].end, symbols[left].next) = (end, next);
            symbols[right].end = symbols[right].start;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
            }
            offer(symbols[left].previous, Some(left), &symbols, &mut pairs);
            offer(Some(left), next, &symbols, &mut pairs);
        }
        let mut parts = vec![];
        let mut at = (!symbols.is_empty()).then_some(0);
        while let Some(index) = at {
            let symbol = &symbols[index];
            self.unmerge(&text[symbol.start..symbol.end], &unmerged, 0, &mut parts);
            at = symbol.next;
        }
        parts
    }

    /// A piece, or, if it is not used, what it was made of.
    fn unmerge<'t>(
        &self,
        text: &'t str,
        unmerged: &HashMap<&'t str, (&'t str, &'t str)>,
        depth: usize,
        parts: &mut Vec<Part<'t>>,
    ) {
        let id = self.index.get(text);
        match (id.is_some_and(|id| !self.is_used(id)), unmerged.get(text)) {
            (true, Some((left, right))) if depth <= MAX_DEPTH => {
                self.unmerge(left, unmerged, depth + 1, parts);
                self.unmerge(right, unmerged, depth + 1, parts);
            }
            (true, None) if depth <= MAX_DEPTH => parts.push((text, None)),
            _ => parts.push((text, id)),
        }
    }

    /// Words, each from a [`SPACE`] to the next.
    pub(super) fn words<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let starts = text.match_indices(SPACE).map(|(at, _)| at).filter(|&at| at > 0);
        let mut from = 0;
        let words = starts
            .chain((!text.is_empty()).then_some(text.len()))
            .map(|end| &text[std::mem::replace(&mut from, end)..end]);
        words.map(|word| (word, self.used(word))).collect()
    }

    /// Symbols and characters.
    pub(super) fn characters<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        self.symbols_and_characters(text).map(|(part, _)| (part, self.used(part))).collect()
    }
}
