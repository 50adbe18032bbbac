//! `canonicalize`: converts a generic graph, as an exporter wrote it, to language-model form.
//!
//! *Lossless* up to the rounding of a sum of two biases (and of weights stored in f64). What it does is [`lstmc_frontend::canonicalize`].

use crate::info::PassInfo;
use crate::pass::{Context, Outcome, Pass, PassError, Patch};
use lstmc_frontend::canonicalize::canonicalize;
use lstmc_frontend::ir::Graph;

/// The pass table's line.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "canonicalize",
    summary: "turn an imported graph into language-model form: embedding, lstm, linear",
    options: &[],
    lossy: false,
    recovers: false,
    needs_calibration: |_| false,
    make: |_| Ok(Box::new(Canonicalize)),
};

struct Canonicalize;

impl Pass for Canonicalize {
    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Outcome, PassError> {
        Ok(match canonicalize(graph)? {
            None => Outcome::NoEffect("the graph is in language-model form already".into()),
            Some(canonical) => Outcome::Patch(Patch::graph(canonical.graph).with_notes(canonical.notes)),
        })
    }
}
