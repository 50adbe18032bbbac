//! Choosing how products take their inputs, for whole maps.

use super::{Activations, LinearMap, MapError, Part, Rewrite};

/// Sets how the products of maps take their inputs, one map at a time; parts that several maps share stay shared.
///
/// Quantized maps, quantized values of sparse maps and the factors of low-rank ones are set; the cores of tensor trains always take f32.
#[derive(Debug)]
pub struct SetActivations {
    activations: Activations,
    rewrite: Rewrite,
}

impl SetActivations {
    /// For maps whose inputs get this representation.
    pub fn new(activations: Activations) -> SetActivations {
        SetActivations { activations, rewrite: Rewrite::default() }
    }

    /// The map with its products' inputs in this representation.
    pub fn set(&mut self, map: &Part) -> Part {
        let activations = self.activations;
        let set = &mut |part: &Part| {
            Ok::<_, MapError>(match &**part {
                LinearMap::Quantized(q) => {
                    Some(LinearMap::Quantized(q.clone().with_activations(activations)).into())
                }
                LinearMap::Dense(_) | LinearMap::TensorTrain(_) => Some(part.clone()),
                LinearMap::Sparse(_) | LinearMap::LowRank(_) => None,
            })
        };
        self.rewrite.part(map, set).expect("the same shapes fit again")
    }

    /// Whether the map shares a part with an earlier one.
    pub fn has_met_part_of(&self, map: &LinearMap) -> bool {
        self.rewrite.has_met_part_of(map)
    }
}
