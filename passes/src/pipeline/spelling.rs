//! What a misspelt name was meant to be.

/// The element of `known` closest to a misspelt `name`, if it is close.
pub(crate) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// More edits than a third of the word's length make it another word.
    const EDITS_PER_LETTER: usize = 3;
    known
        .map(|k| (edits(name, k), k))
        .min()
        .filter(|&(n, k)| n * EDITS_PER_LETTER <= k.len().max(EDITS_PER_LETTER))
        .map(|(_, k)| k)
}

/// Levenshtein distance, one row at a time.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_are_recognised() {
        let known = ["canonicalize", "quantize", "low-rank"];
        assert_eq!(closest("quantise", known.into_iter()), Some("quantize"));
        assert_eq!(closest("canonicalise", known.into_iter()), Some("canonicalize"));
        assert_eq!(closest("lowrank", known.into_iter()), Some("low-rank"));
        assert_eq!(closest("prune", known.into_iter()), None);
    }
}
