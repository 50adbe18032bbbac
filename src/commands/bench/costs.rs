//! A table of what layers cost at a processor level: written on one machine, read on another by a search.
//!
//! A layer is known by the shapes and representations of its weights, so two layers that are alike are one line, whatever model they are from.

use super::roofline;
use crate::Source;
use crate::backend::Level;
use crate::commands::{read_utf8, write_whole};
use crate::frontend::ir::Graph;
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::Path;

/// Microseconds by layer, by processor level.
#[derive(Default)]
pub(crate) struct Costs(BTreeMap<String, BTreeMap<String, f64>>);

/// A layer's name: what its weights' names begin with.
fn layer(weight: &str) -> &str {
    weight.split(['.', '/']).next().unwrap_or(weight)
}

/// The layers of a graph, by name, as the table knows them.
fn layers(graph: &Graph) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, weight) in graph.weights() {
        let sizes: Vec<String> = weight.map.shape().iter().map(ToString::to_string).collect();
        // A bias is read as f32, however it is stored.
        let stored = if sizes.len() == 1 { "bias".into() } else { weight.map.describe() };
        all.entry(layer(&weight.name).into()).or_default().push(format!("{} {stored}", sizes.join("x")));
    }
    all.into_iter().map(|(name, parts)| (name, parts.join(" + "))).collect()
}

impl Costs {
    /// A table from a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Costs> {
        let table = serde_json::from_str(&read_utf8(path)?);
        let what = || format!("{}: expected a table that `lstmc bench --costs` wrote", path.display());
        Ok(Costs(table.with_context(what)?))
    }

    /// Adds a model's layers to a file, which may have others.
    pub(crate) fn add(path: &Path, source: &Source, level: Level, rounds: u32) -> anyhow::Result<()> {
        let mut costs = if path.exists() { Costs::read(path)? } else { Costs::default() };
        let found = roofline::measure(source, level, rounds)?;
        let of_level = costs.0.entry(level.name().into()).or_default();
        for (name, layer) in layers(&source.graph) {
            let is_it = |row: &&roofline::Row| row.name == name || row.name == format!("{name}: logits");
            let rows = found.rows.iter().filter(is_it);
            let microseconds: f64 = rows.map(roofline::Row::best).sum();
            if microseconds > 0.0 {
                of_level.insert(layer, microseconds);
            }
        }
        let text = serde_json::to_string_pretty(&costs.0)? + "\n";
        Ok(write_whole(path, text.as_bytes())?)
    }

    /// The level to go by: the table's only one, or this machine's.
    pub(crate) fn level(&self, here: Level) -> String {
        match self.0.keys().next() {
            Some(only) if self.0.len() == 1 => only.clone(),
            _ => here.name().into(),
        }
    }

    /// A step's time, as the sum over layers; or the layer that the table lacks.
    pub(crate) fn step(&self, level: &str, graph: &Graph) -> Result<f64, String> {
        let of_level = self.0.get(level);
        let cost = |layer: String| of_level.and_then(|costs| costs.get(&layer)).copied().ok_or(layer);
        layers(graph).into_values().map(cost).sum()
    }
}
