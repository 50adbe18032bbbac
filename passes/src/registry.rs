//! The pass table: all passes, for the parser, help and documentation.

use crate::info::{PassInfo, Table};
use crate::options::Presence;
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

/// The passes that are built in, followed by these: a table for [`Pipeline::parse_with`](crate::Pipeline::parse_with) that lives as long as the
/// program.
///
/// # Panics
/// If two passes have the same name, or a default is not of its option's kind.
pub fn extended(passes: &[PassInfo]) -> Table {
    let table: Vec<PassInfo> = PASSES.iter().chain(passes).copied().collect();
    if let Err(why) = check(&table) {
        panic!("{why}");
    }
    table.leak()
}

/// What is wrong with a table, if anything is.
fn check(table: &[PassInfo]) -> Result<(), String> {
    for (k, pass) in table.iter().enumerate() {
        if table[..k].iter().any(|other| other.name == pass.name) {
            return Err(format!("two passes are called {}", pass.name));
        }
        for option in pass.options {
            if let Presence::Default(value) = option.presence
                && let Err(expected) = option.kind.parse(&value.to_string())
            {
                return Err(format!(
                    "{}: the default of {} is {value}, expected {expected}",
                    pass.name, option.name
                ));
            }
        }
    }
    Ok(())
}

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
    fn the_table_is_well_formed() {
        assert_eq!(check(PASSES), Ok(()));
    }

    #[test]
    fn tables_are_extended_by_new_names_only() {
        let mine = PassInfo { name: "mine", ..PASSES[0] };
        let table = extended(&[mine]);
        assert_eq!(table.iter().map(|p| p.name).collect::<Vec<_>>().last(), Some(&"mine"));
        assert_eq!(check(&[PASSES[0], PASSES[0]]), Err("two passes are called canonicalize".into()));
        assert!(std::panic::catch_unwind(|| extended(&[PASSES[0]])).is_err());
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
