//! Choosing how products take their inputs, for whole maps.

use super::{Activations, LinearMap, LowRank, Sparse};
use std::sync::Arc;

/// Sets how the products of maps take their inputs, in one map after another; parts that several of them share stay shared.
///
/// Quantized maps, quantized values of sparse maps and the factors of low-rank ones are set; the cores of tensor trains take f32 always.
#[derive(Debug)]
pub struct SetActivations {
    activations: Activations,
    /// Old parts and what became of them; holding the old ones keeps their addresses theirs.
    done: Vec<(Arc<LinearMap>, Arc<LinearMap>)>,
}

impl SetActivations {
    /// For maps whose inputs are to be represented so.
    pub fn new(activations: Activations) -> SetActivations {
        SetActivations { activations, done: vec![] }
    }

    /// The map with its products' inputs represented so.
    pub fn set(&mut self, map: &LinearMap) -> LinearMap {
        match map {
            LinearMap::Quantized(q) => LinearMap::Quantized(q.clone().with_activations(self.activations)),
            LinearMap::Sparse(s) => LinearMap::Sparse(Sparse { values: self.part(&s.values), ..s.clone() }),
            LinearMap::LowRank(l) => {
                LinearMap::LowRank(LowRank { left: self.part(&l.left), right: self.part(&l.right) })
            }
            LinearMap::Dense(_) | LinearMap::TensorTrain(_) => map.clone(),
        }
    }

    /// Whether the map has a part that an earlier one has too.
    pub fn has_met_part_of(&self, map: &LinearMap) -> bool {
        map.children().iter().any(|(_, part)| self.result_of(part).is_some() || self.has_met_part_of(part))
    }

    fn result_of(&self, part: &Arc<LinearMap>) -> Option<&Arc<LinearMap>> {
        self.done.iter().find(|(old, _)| Arc::ptr_eq(old, part)).map(|(_, new)| new)
    }

    fn part(&mut self, part: &Arc<LinearMap>) -> Arc<LinearMap> {
        if let Some(new) = self.result_of(part) {
            return new.clone();
        }
        let new = Arc::new(self.set(part));
        self.done.push((part.clone(), new.clone()));
        new
    }
}
