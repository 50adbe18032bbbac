//! A graph that a pass changes weight by weight.

use super::{Site, refitted_output_bias, sites};
use crate::pass::{Context, PassError, Patch};
use lstmc_frontend::ir::{Graph, Part, WeightId};
use std::collections::BTreeSet;

/// A graph with its changes so far.
pub(crate) struct Draft {
    pub(crate) graph: Graph,
    pub(crate) changed: BTreeSet<WeightId>,
}

impl Draft {
    pub(crate) fn of(graph: &Graph) -> Draft {
        Draft { graph: graph.clone(), changed: BTreeSet::new() }
    }

    /// Replaces a weight by a map of its shape.
    pub(crate) fn set(&mut self, id: WeightId, map: Part) {
        self.graph.set_weight(id, map).expect("a map of the shape of the one it replaces");
        self.changed.insert(id);
    }

    /// Refits the output layer's bias, if it has one, so that words are predicted as often as by `before`; `instead` is the option that works without
    /// calibration.
    pub(crate) fn refit_output(
        &mut self,
        before: &Graph,
        rounds: usize,
        instead: &str,
        context: &mut Context<'_>,
    ) -> Result<(), PassError> {
        let has_bias = |site: &Site| site.is_output() && site.bias.is_some();
        if rounds == 0 || self.changed.is_empty() || !sites(&self.graph)?.iter().any(has_bias) {
            return Ok(());
        }
        let statistics = context.statistics(before, instead)?;
        let before = statistics.predictions().map_or(&[][..], |p| &p.probabilities);
        if let Some((id, map)) = refitted_output_bias(&self.graph, before, rounds, context)? {
            self.set(id, map);
        }
        Ok(())
    }

    /// The patch that makes all changes.
    pub(crate) fn into_patch(self, note: String) -> Patch {
        let weights = self.changed.into_iter().map(|id| (id, self.graph.weight(id).map.clone()));
        Patch::weights(weights.collect()).with_notes(vec![note])
    }
}
