//! What was measured: points, the frontier among them, the table.

use crate::commands::figure::{Dot, Figure, number, unit_of_bytes};
use crate::passes::{Measure, TextInfo};
use crate::terminal::{columns, thousands};
use serde::Serialize;
use std::fmt::Write;

/// A model that was measured.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Point {
    /// What the figure calls it.
    pub(crate) name: Option<String>,
    /// The pipeline that made it; none of the model as given.
    pub(crate) pipeline: Option<String>,
    /// Bytes of all weights in the container.
    pub(crate) bytes: usize,
    /// Bytes of the model as given by bytes of this one.
    pub(crate) ratio: f64,
    pub(crate) parameters: usize,
    pub(crate) multiply_adds: Option<usize>,
    pub(crate) perplexity: f64,
    /// Of perplexity against the model as given: 0.02 is 2% more.
    pub(crate) change: f64,
    /// Whether no other is at least as small and as good, and better in one of both.
    pub(crate) frontier: bool,
    /// What a reader should know.
    pub(crate) notes: Vec<String>,
}

impl Point {
    /// A point on its own; [`Survey`] fills in the rest.
    pub(crate) fn new(bytes: usize, perplexity: f64, measure: &Measure) -> Point {
        Point {
            name: None,
            pipeline: None,
            bytes,
            ratio: 1.0,
            parameters: measure.parameters,
            multiply_adds: measure.multiply_adds,
            perplexity,
            change: 0.0,
            frontier: false,
            notes: vec![],
        }
    }

    /// The name, or else the pipeline.
    pub(crate) fn label(&self) -> &str {
        self.name.as_deref().or(self.pipeline.as_deref()).unwrap_or("as given")
    }

    fn is_beaten_by(&self, other: &Point) -> bool {
        let as_good = other.bytes <= self.bytes && other.perplexity <= self.perplexity;
        as_good && (other.bytes < self.bytes || other.perplexity < self.perplexity)
    }
}

/// A pipeline that made no model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) name: Option<String>,
    pub(crate) pipeline: String,
    pub(crate) reason: String,
}

/// All that was measured of one model.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Survey {
    pub(crate) model: String,
    /// What perplexity is of.
    pub(crate) text: TextInfo,
    /// What statistics are of.
    pub(crate) calibration: Option<TextInfo>,
    /// What passes shared out budgets by.
    pub(crate) validation: Option<TextInfo>,
    /// The largest first; of equally large ones the better.
    pub(crate) points: Vec<Point>,
    pub(crate) failed: Vec<Failure>,
}

impl Survey {
    /// A survey that begins with the model as given.
    pub(crate) fn new(model: String, text: TextInfo, given: Point) -> Survey {
        Survey { model, text, calibration: None, validation: None, points: vec![given], failed: vec![] }
    }

    /// Size against perplexity.
    pub(crate) fn figure(&self, title: &str) -> Figure {
        let (unit, by) = unit_of_bytes(self.points.iter().map(|p| p.bytes).max().unwrap_or(0));
        let dot = |p: &Point| {
            let size = number((p.bytes as f64 / by * 1e3).round() / 1e3);
            let what = p.pipeline.as_deref().unwrap_or("as given");
            Dot {
                cost: p.bytes.max(1) as f64 / by,
                perplexity: p.perplexity,
                label: p.label().into(),
                about: format!("{what}: {size} {unit}, perplexity {:.2}", p.perplexity),
                frontier: p.frontier,
            }
        };
        Figure {
            title: title.into(),
            cost: format!("weights in {unit}"),
            text: self.text.file.clone(),
            dots: self.points.iter().map(dot).collect(),
        }
    }

    /// Adds what became of a pipeline.
    pub(crate) fn add(&mut self, name: Option<String>, pipeline: String, measured: Result<Point, String>) {
        match measured {
            Ok(point) => {
                let given = &self.points[0];
                let ratio = given.bytes as f64 / point.bytes.max(1) as f64;
                let change = point.perplexity / given.perplexity - 1.0;
                self.points.push(Point { name, pipeline: Some(pipeline), ratio, change, ..point });
            }
            Err(reason) => self.failed.push(Failure { name, pipeline, reason }),
        }
    }

    /// Sorts the points and finds the frontier.
    pub(crate) fn finish(mut self) -> Survey {
        let key = |p: &Point| (std::cmp::Reverse(p.bytes), p.perplexity);
        self.points.sort_by(|a, b| key(a).partial_cmp(&key(b)).expect("perplexities are finite"));
        let beaten: Vec<bool> =
            self.points.iter().map(|p| self.points.iter().any(|other| p.is_beaten_by(other))).collect();
        self.points.iter_mut().zip(beaten).for_each(|(p, beaten)| p.frontier = !beaten);
        self
    }

    /// A line for each point, then one for each that failed, then the notes.
    pub(crate) fn table(&self) -> String {
        let header = ["", "bytes", "ratio", "perplexity", "change", "pipeline"];
        let spelled = |name: &Option<String>, pipeline: &str| match name {
            Some(name) => format!("{name}: {pipeline}"),
            None => pipeline.to_string(),
        };
        let mut rows = vec![header.map(str::to_string)];
        for p in &self.points {
            rows.push([
                if p.frontier { "*" } else { "" }.to_string(),
                thousands(p.bytes),
                format!("{:.2}x", p.ratio),
                format!("{:.2}", p.perplexity),
                percent(p.change),
                p.pipeline.as_ref().map_or("(as given)".into(), |text| spelled(&p.name, text)),
            ]);
        }
        for f in &self.failed {
            let empty = String::new;
            let text = spelled(&f.name, &f.pipeline);
            rows.push([empty(), empty(), empty(), "failed".into(), empty(), text]);
        }
        let mut out = columns(&rows, &[0, header.len() - 1]);
        // Writing to a string cannot fail.
        for p in &self.points {
            p.notes.iter().for_each(|note| _ = writeln!(out, "note: {}: {note}", p.label()));
        }
        for f in &self.failed {
            let _ = writeln!(out, "failed: {}: {}", f.name.as_ref().unwrap_or(&f.pipeline), f.reason);
        }
        out
    }
}

/// A change with its sign; none is never negative.
fn percent(change: f64) -> String {
    let text = format!("{:+.2}%", change * 100.0);
    if text == "-0.00%" { "+0.00%".into() } else { text }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A survey of a few pipelines: one beaten, one without a name, one that failed.
    pub(crate) fn survey() -> Survey {
        let measure = Measure { bytes: None, parameters: 100, multiply_adds: Some(50), perplexity: None };
        let point = |bytes, perplexity| Point::new(bytes, perplexity, &measure);
        let text = TextInfo { file: "test.txt".into(), tokens: 1000, unknown: Some(0) };
        let mut survey = Survey::new("m".into(), text, point(18_606_400, 112.63));
        survey.add(None, "quantize(bits=8)".into(), Ok(point(4_709_600, 112.65)));
        survey.add(Some("int4".into()), "quantize(bits=4, group=40)".into(), Ok(point(2_575_200, 113.47)));
        survey.add(Some("int3".into()), "quantize(bits=3, group=40)".into(), Ok(point(1_995_200, 115.18)));
        survey.add(Some("worse & larger".into()), "tie".into(), Ok(point(2_700_000, 118.0)));
        let failed = "pass 1, prune(target=x): target `x` matches none of the weights: embedding, decoder";
        survey.add(Some("none".into()), "prune(target=x)".into(), Err(failed.into()));
        survey.points[2].notes.push("tie: no effect: no equal weights".into());
        survey.finish()
    }

    #[test]
    fn the_frontier_and_the_table() {
        insta::assert_snapshot!(survey().table());
    }

    #[test]
    fn equal_points_do_not_beat_each_other() {
        let mut survey = survey();
        survey.points.extend(survey.points.clone());
        let survey = survey.finish();
        assert_eq!(survey.points.iter().filter(|p| p.frontier).count(), 8);
    }
}
