//! The report of a compression: what was done, what it cost, and what was rejected. It travels with the model; `docs/report.md` describes its JSON.

use crate::budget::Budget;
use crate::trail::{Measure, Record, Trail};
use serde::Serialize;
use serde_json::Value;

/// The version of the JSON form, incremented when a field changes its meaning or is removed.
pub const REPORT_VERSION: u32 = 1;

/// The report of a compression.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The model's name.
    pub model: String,
    /// The text that statistics were collected on.
    pub calibration: Option<TextInfo>,
    /// The text that was trained on.
    pub training: Option<TextInfo>,
    /// The file of the model that `recover` may learn from, without folders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// The text that perplexity was measured on.
    pub validation: Option<TextInfo>,
    /// The budget.
    pub budget: Budget,
    /// The model before the first pass.
    pub before: Option<Measure>,
    /// The model after the last pass.
    pub after: Option<Measure>,
    /// Each pass, in order.
    pub passes: Vec<Record>,
}

/// A text that was used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TextInfo {
    /// The file's name, without folders.
    pub file: String,
    /// Tokens read.
    pub tokens: usize,
    /// Tokens that the vocabulary does not have, read as `<unk>`; unknown for statistics from a file.
    pub unknown: Option<usize>,
}

impl Report {
    /// The report of a run.
    pub fn new(model: impl Into<String>, trail: &Trail, budget: Budget) -> Report {
        Report {
            version: REPORT_VERSION,
            model: model.into(),
            calibration: None,
            training: None,
            teacher: None,
            validation: None,
            budget,
            before: trail.before(),
            after: trail.after(),
            passes: trail.records.clone(),
        }
    }

    /// The report as JSON, for a model that was made in several runs: `earlier`, the report of the model that this run began with, has its passes before those of this one, and
    /// tells of the model before all of them, as far as perplexity was measured on the same text. What is no report of this version is left out.
    pub fn json(&self, earlier: &str, pretty: bool) -> Result<String, serde_json::Error> {
        fn text(report: &impl Serialize, pretty: bool) -> Result<String, serde_json::Error> {
            if pretty {
                Ok(serde_json::to_string_pretty(report)? + "\n")
            } else {
                serde_json::to_string(report)
            }
        }
        let mut earlier: Value = serde_json::from_str(earlier).unwrap_or_default();
        if earlier["version"] != self.version {
            return text(self, pretty);
        }
        let mut all = serde_json::to_value(self)?;
        if let (Value::Array(before), Value::Array(now)) = (earlier["passes"].take(), &mut all["passes"]) {
            now.splice(0..0, before);
        }
        if earlier["before"].is_object() && earlier["validation"] == all["validation"] {
            all["before"] = earlier["before"].take();
        }
        text(&all, pretty)
    }
}
