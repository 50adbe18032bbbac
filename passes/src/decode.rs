//! `decode`: converts weights to their dense form.
//!
//! *Lossless* with respect to the weights: every representation stands for a matrix, and this pass stores that matrix. Products that took their
//! vectors as int8 take them as f32 from then on, so the model's outputs may change: *lossy* to the driver, which measures it. It
//! undoes no other loss of earlier passes, and makes the model larger. It is useful to give a compressed model to another pass
//! that needs dense weights, and to export it.

use crate::info::PassInfo;
use crate::options::OptionInfo;
use crate::pass::{Context, Outcome, Pass, PassError, Patch};
use crate::target::Target;
use lstmc_frontend::ir::{Graph, LinearMap};
use lstmc_frontend::tensor::DType;

/// The pass table's line.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "decode",
    summary: "store weights as dense matrices again",
    options: &[OptionInfo::target("the weights, by name")],
    // Where products took int8.
    lossy: true,
    recovers: false,
    needs_calibration: |_| false,
    make: |options| Ok(Box::new(Decode { target: options.get("target") })),
};

struct Decode {
    target: Target,
}

impl Pass for Decode {
    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Outcome, PassError> {
        let is_decoded = |map: &LinearMap| matches!(map, LinearMap::Dense(t) if t.dtype() != DType::F16);
        let mut changes = vec![];
        for id in self.target.weights(graph)? {
            let weight = graph.weight(id);
            if !is_decoded(&weight.map) {
                let dense = weight.map.to_dense();
                let error = |source| PassError::Map { weight: weight.name.clone(), source };
                changes.push((id, LinearMap::Dense(dense.map_err(error)?)));
            }
        }
        if changes.is_empty() {
            return Ok(Outcome::NoEffect("every weight of the target is dense already".into()));
        }
        Ok(Outcome::Patch(Patch::weights(changes)))
    }
}
