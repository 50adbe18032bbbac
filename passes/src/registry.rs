//! The pass table: what passes there are, for the parser, help and documentation alike.

use crate::options::{OptionInfo, Options};
use crate::pass::{Pass, PassError};
use crate::{canonicalize, decode, low_rank, prune, quantize, recover, tensor_train, tie};

/// Every pass, in the order in which they are usually run.
pub static PASSES: &[PassInfo] = &[
    canonicalize::INFO,
    tie::INFO,
    low_rank::INFO,
    tensor_train::INFO,
    decode::INFO,
    prune::INFO,
    quantize::INFO,
    recover::INFO,
    recover::REFIT,
];

/// A pass's line in the table.
#[derive(Debug)]
pub struct PassInfo {
    /// The name in pipelines, in words joined by `-`.
    pub name: &'static str,
    /// What it does, in one line without a full stop.
    pub summary: &'static str,
    /// Its options.
    pub options: &'static [OptionInfo],
    /// Whether it changes what the model computes: perplexity is measured after it.
    pub lossy: bool,
    /// Whether it makes good what the pass directly before it lost: the gate judges both together.
    pub recovers: bool,
    /// Whether it reads statistics of calibration text, with these options.
    pub needs_calibration: fn(&Options) -> bool,
    /// Makes the pass. An error where options are valid one by one but not together.
    pub make: fn(&Options) -> Result<Box<dyn Pass>, PassError>,
}

impl PassInfo {
    /// The option of this name.
    pub fn option(&self, name: &str) -> Option<&'static OptionInfo> {
        self.options.iter().find(|o| o.name == name)
    }
}

/// The one of `known` that a misspelt `name` is closest to, if it is close.
pub(crate) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// More edits than a third of the word make it another word.
    const EDITS_PER_LETTER: usize = 3;
    known
        .map(|k| (edits(name, k), k))
        .min()
        .filter(|&(n, k)| n * EDITS_PER_LETTER <= k.len().max(EDITS_PER_LETTER))
        .map(|(_, k)| k)
}

/// Levenshtein's distance, one row at a time.
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
    use crate::options::Presence;

    #[test]
    fn the_table_is_well_formed() {
        let mut names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PASSES.len(), "names are unique");
        for pass in PASSES {
            for option in pass.options {
                if let Presence::Default(text) = option.presence {
                    assert!(option.kind.parse(text).is_ok(), "default of {}({})", pass.name, option.name);
                }
            }
        }
    }

    #[test]
    fn misspelt_names_are_recognised() {
        let known = ["canonicalize", "quantize", "low-rank"];
        assert_eq!(closest("quantise", known.into_iter()), Some("quantize"));
        assert_eq!(closest("canonicalise", known.into_iter()), Some("canonicalize"));
        assert_eq!(closest("lowrank", known.into_iter()), Some("low-rank"));
        assert_eq!(closest("prune", known.into_iter()), None);
    }
}
