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
}
