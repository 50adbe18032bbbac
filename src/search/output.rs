//! What a search leaves: the frontier's models and recipes, and their list.

use super::Point;
use super::amount::thousands;
use super::choice::Budget;
use super::plan::Stop;
use super::run::Search;
use crate::Error;
use lstmc_passes::Pipeline;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What was written.
#[derive(Clone, Debug)]
pub struct Left {
    /// The frontier, from the largest model on.
    pub points: Vec<Point>,
    /// The names of its files, without endings.
    pub names: Vec<String>,
    /// The best model, or the one nearest to the budget.
    pub best: Point,
    /// What frontier.json holds.
    pub list: Value,
}

impl Search {
    /// Writes the frontier's models and recipes, `best.lstmc` and `frontier.json`, in place of those of an earlier end. None if no candidate became a model.
    pub fn write(&mut self, stop: Stop) -> Result<Option<Left>, Error> {
        let Some((points, best)) = self.timed_frontier()? else { return Ok(None) };
        let budget = self.budget();
        let names: Vec<String> = points.iter().enumerate().map(|(k, p)| name(&budget, k, p)).collect();
        self.files(&points, &names, &best)?;
        let list = self.list(stop, &points, &names, &best)?;
        self.folder.write("frontier.json", format!("{list:#}\n").as_bytes())?;
        Ok(Some(Left { points, names, best, list }))
    }

    /// The first candidate of which there is no model, and the reason.
    pub fn failed(&self) -> Option<(&str, &str)> {
        self.known().iter().find_map(|(p, outcome)| Some((&p[..], &outcome.as_ref().err()?[..])))
    }

    /// The models of a report: of the frontier the ends and some between, at most so many.
    pub fn reported(&self, left: &Left, most: usize) -> Vec<PathBuf> {
        let count = left.points.len();
        let chosen: Vec<usize> = match count {
            n if n <= most => (0..n).collect(),
            n => (0..most).map(|k| k * (n - 1) / (most - 1)).collect(),
        };
        chosen.iter().map(|&k| self.folder.file(&format!("{}.lstmc", left.names[k]))).collect()
    }

    fn files(&self, points: &[Point], names: &[String], best: &Point) -> Result<(), Error> {
        let folder = &self.folder;
        let earlier = std::fs::read(folder.file("frontier.json")).unwrap_or_default();
        let earlier: Value = serde_json::from_slice(&earlier).unwrap_or_default();
        for point in earlier["points"].as_array().into_iter().flatten() {
            for file in ["file", "recipe"].iter().filter_map(|which| point[which].as_str()) {
                // Names of this folder only, whatever a file says. What is not there need not be removed.
                if !file.contains(['/', '\\']) {
                    let _ = std::fs::remove_file(folder.file(file));
                }
            }
        }
        let model = |point: &Point, name: &str| -> Result<(), Error> {
            let path = folder.model(&point.pipeline);
            let bytes = std::fs::read(&path).map_err(|reason| Error::Read { path, reason })?;
            folder.write(name, &bytes)
        };
        for (point, name) in points.iter().zip(names) {
            model(point, &format!("{name}.lstmc"))?;
            folder.write(&format!("{name}.toml"), self.recipe(point).as_bytes())?;
        }
        model(best, "best.lstmc")
    }

    /// A point's pipeline as a recipe.
    fn recipe(&self, point: &Point) -> String {
        let found = &point.found;
        let description = format!(
            "{}: {} bytes, perplexity {:.2} where the model as given has {:.2}",
            self.setup().source().graph.name,
            thousands(found.bytes),
            found.perplexity,
            found.before
        );
        // It was read before.
        let pipeline = Pipeline::parse_with(&point.pipeline, self.setup().table()).unwrap_or_default();
        Pipeline { description: Some(description), ..pipeline }.to_recipe()
    }

    /// What frontier.json holds.
    fn list(&self, stop: Stop, points: &[Point], names: &[String], best: &Point) -> Result<Value, Error> {
        let source = self.setup().source();
        let given: usize = source.weight_bytes()?.iter().map(|(_, bytes)| bytes).sum();
        let figures = |p: &Point| {
            json!({
                "pipeline": p.pipeline,
                "bytes": p.found.bytes,
                "perplexity": p.found.perplexity,
                "increase": p.found.perplexity / p.found.before - 1.0,
                "microseconds_per_step": p.found.microseconds,
            })
        };
        let listed: Vec<Value> = points
            .iter()
            .zip(names)
            .map(|(p, name)| {
                let mut value = figures(p);
                value["file"] = format!("{name}.lstmc").into();
                value["recipe"] = format!("{name}.toml").into();
                value
            })
            .collect();
        let failed: Vec<Value> = self
            .known()
            .iter()
            .filter_map(|(pipeline, outcome)| {
                Some(json!({"pipeline": pipeline, "reason": outcome.as_ref().err()?}))
            })
            .collect();
        let budget = self.budget();
        let (option, value) = budget.named();
        Ok(json!({
            "model": source.graph.name,
            "version": env!("CARGO_PKG_VERSION"),
            "level": self.options().level.name(),
            "budget": {option: value},
            "met": budget.is_met(&best.found),
            "stop": stop.name(),
            "candidates": self.known().len(),
            "given": {"bytes": given, "perplexity": best.found.before},
            "best": figures(best),
            "points": listed,
            "failed": failed,
        }))
    }
}

/// A point's name in the folder.
fn name(budget: &Budget, place: usize, point: &Point) -> String {
    let size = match (budget, point.found.microseconds) {
        (Budget::Microseconds(_), Some(us)) => format!("{us:.0}us"),
        _ => format!("{}kB", point.found.bytes.div_ceil(1000)),
    };
    format!("{:02}-{size}", place + 1)
}
