//! `tie`: merges equal weights.
//!
//! *Lossless* for equal weights, which is the default. With a `tolerance`, a weight that differs from an earlier
//! one of its shape by at most this much is replaced by it: *lossy*.
//!
//! Canonicalisation already ties a decoder to the embedding that it is a copy of. This pass handles models that were not
//! imported (text, `.lstmc`), equal layers (a cell that was unrolled over depth, zero biases), and parts of maps: two weights whose left factors or
//! cores are equal share them. A shared weight is stored once, and later passes change it for all its users.

use crate::info::PassInfo;
use crate::options::{Kind, OptionInfo};
use crate::pass::{Context, Outcome, Pass, PassError, Patch};
use crate::target::Target;
use lstmc_frontend::ir::{
    Graph, InferError, LinearMap, MapError, Op, Operand, OutputRole, Part, Rewrite, ValueId, Weight, WeightId,
};
use std::collections::BTreeMap;

/// The pass table's row.
pub(crate) const INFO: PassInfo = PassInfo {
    name: "tie",
    summary: "make one of weights that are equal",
    options: &[
        OptionInfo::target("the weights, by name"),
        OptionInfo::new(
            "tolerance",
            Kind::FRACTION,
            "the greatest distance that counts as equal, as a fraction of the norm",
        )
        .or("0"),
    ],
    // With a tolerance.
    lossy: true,
    recovers: false,
    needs_calibration: |_| false,
    make: |options| Ok(Box::new(Tie { target: options.get("target"), tolerance: options.get("tolerance") })),
};

struct Tie {
    target: Target,
    tolerance: f64,
}

impl Tie {
    /// The distance of `b` from `a`, if it is small enough.
    fn distance(&self, a: &Weight, b: &Weight) -> Result<Option<f64>, MapError> {
        if a.map.shape() != b.map.shape() || a.map.dtype() != b.map.dtype() {
            return Ok(None);
        }
        if a.map == b.map {
            return Ok(Some(0.0));
        }
        if self.tolerance == 0.0 || !a.map.dtype().is_float() {
            return Ok(None);
        }
        let (a, b) = (a.map.to_dense()?.to_f64()?, b.map.to_dense()?.to_f64()?);
        let norm = a.iter().map(|x| x * x).sum::<f64>().sqrt();
        let apart = a.iter().zip(&b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
        Ok(Some(apart / norm).filter(|d| *d <= self.tolerance))
    }
}

impl Pass for Tie {
    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Outcome, PassError> {
        let ids = self.target.weights(graph)?;
        let mut replaced: BTreeMap<WeightId, WeightId> = BTreeMap::new();
        let mut notes = vec![];
        for (k, &id) in ids.iter().enumerate() {
            let weight = graph.weight(id);
            for &earlier in ids[..k].iter().filter(|e| !replaced.contains_key(e)) {
                let first = graph.weight(earlier);
                let error = |source| PassError::Map { weight: weight.name.clone(), source };
                let Some(distance) = self.distance(first, weight).map_err(error)? else { continue };
                notes.push(match distance {
                    0.0 => format!("@{} is @{}", weight.name, first.name),
                    d => format!(
                        "@{} is within {:.2}% of @{}, which replaces it",
                        weight.name,
                        100.0 * d,
                        first.name
                    ),
                });
                replaced.insert(id, earlier);
                break;
            }
        }
        let (mut seen, mut rewrite, mut shared) = (vec![], Rewrite::default(), 0);
        // Whole weights are compared above.
        let mut tied = |part: &Part| {
            if let Some(equal) = seen.iter().find(|s: &&Part| **s == *part) {
                shared += usize::from(equal.id() != part.id());
                return Ok(Some(equal.clone()));
            }
            seen.push(part.clone());
            Ok(None)
        };
        let mut maps = BTreeMap::new();
        for &id in ids.iter().filter(|id| !replaced.contains_key(id)) {
            let weight = graph.weight(id);
            let error = |source: MapError| PassError::Map { weight: weight.name.clone(), source };
            let is_factored = matches!(&*weight.map, LinearMap::LowRank(_) | LinearMap::TensorTrain(_));
            let map = match is_factored {
                true => weight.map.map_parts(|part| rewrite.part(part, &mut tied)).map_err(error)?.into(),
                false => weight.map.clone(),
            };
            maps.insert(id, map);
        }
        if shared > 0 {
            notes.push(format!("{} equal factors or cores became one with another", shared));
        }
        if notes.is_empty() {
            return Ok(Outcome::NoEffect("no two weights of the target are equal".into()));
        }
        let error = |e: InferError| PassError::Options(format!("tie: {e}"));
        Ok(Outcome::Patch(Patch::graph(retied(graph, &replaced, maps).map_err(error)?).with_notes(notes)))
    }
}

/// The graph with some weights replaced by others, and with new maps.
fn retied(
    graph: &Graph,
    replaced: &BTreeMap<WeightId, WeightId>,
    mut maps: BTreeMap<WeightId, Part>,
) -> Result<Graph, InferError> {
    let mut new = Graph::new(graph.name.clone());
    new.vocabulary = graph.vocabulary;
    let mut weights: BTreeMap<WeightId, WeightId> = BTreeMap::new();
    for (id, weight) in graph.weights().filter(|(id, _)| !replaced.contains_key(id)) {
        let map = maps.remove(&id).unwrap_or_else(|| weight.map.clone());
        weights.insert(id, new.add_weight(&weight.name, map).unwrap_or_else(|taken| taken));
    }
    let mut values: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for (_, node) in graph.nodes() {
        let names: Vec<&str> = node.results().iter().map(|&v| graph.name_of(v)).collect();
        let results = if matches!(node.op, Op::Input | Op::State) {
            let (value, ty) = (node.results()[0], graph.type_of(node.results()[0]).clone());
            vec![match graph.initial_state(value) {
                None => new.add_source(node.op.clone(), names[0], ty),
                Some(w) => new.add_state(names[0], ty, weights[replaced.get(&w).unwrap_or(&w)])?,
            }]
        } else {
            let operands = node.operands().iter().map(|operand| match operand {
                Operand::Value(v) => Operand::Value(values[v]),
                Operand::Weight(w) => Operand::Weight(weights[replaced.get(w).unwrap_or(w)]),
                Operand::None => Operand::None,
            });
            let operands: Vec<Operand> = operands.collect();
            new.add(node.op.clone(), &operands, &names, &node.origin).map_err(|e| e.error)?
        };
        values.extend(node.results().iter().copied().zip(results));
    }
    for output in graph.outputs() {
        let role = match &output.role {
            OutputRole::State(s) => OutputRole::State(values[s]),
            named => named.clone(),
        };
        new.add_output(role, values[&output.value]);
    }
    Ok(new)
}
