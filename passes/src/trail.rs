//! The trail: what each pass of a run did.

use lstmc_frontend::ir::store::weight_bytes;
use lstmc_frontend::ir::{Graph, Program, parameters};
use serde::Serialize;
use std::fmt;

/// What a model costs.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Measure {
    /// Bytes of all weights in the container, indices and scales included; none where a mask's data is not at hand.
    pub bytes: Option<usize>,
    /// Numbers stored.
    pub parameters: usize,
    /// Multiply-adds per token; none before the graph is in language-model form.
    pub multiply_adds: Option<usize>,
    /// Perplexity on the validation text, where it was measured.
    pub perplexity: Option<f64>,
}

impl Measure {
    /// The costs of a graph, without perplexity.
    pub fn of(graph: &Graph) -> Measure {
        Measure {
            bytes: weight_bytes(graph).ok().map(|all| all.iter().map(|(_, bytes)| bytes).sum()),
            parameters: parameters(graph),
            multiply_adds: Program::of(graph).ok().map(|m| m.multiply_adds()),
            perplexity: None,
        }
    }
}

/// How a pass ended.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "reason")]
pub enum Verdict {
    /// Its patch was applied.
    Applied,
    /// It had nothing to do.
    NoEffect(String),
    /// Its patch was over the budget, and the graph before was kept.
    Rejected(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Applied => f.write_str("applied"),
            Verdict::NoEffect(why) => write!(f, "no effect: {why}"),
            Verdict::Rejected(why) => write!(f, "rejected: {why}"),
        }
    }
}

/// What one pass did.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Record {
    /// The pass.
    pub pass: &'static str,
    /// The pass with its options, as a pipeline spells it.
    pub invocation: String,
    /// How it ended.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The time that the pass itself took; measuring is not counted.
    #[serde(skip)]
    pub seconds: f64,
    /// The weights that are new or have a new representation in its patch.
    pub weights_changed: Vec<String>,
    /// The model before.
    pub before: Measure,
    /// The model that the pass proposed, or the one before where it proposed none.
    pub after: Measure,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// What a run did, pass by pass.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Trail {
    /// In order.
    pub records: Vec<Record>,
}

impl Trail {
    /// The model before the first pass. Its perplexity is the first that was measured: passes before it are lossless.
    pub fn before(&self) -> Option<Measure> {
        let first = self.records.first()?.before;
        let perplexity = self.records.iter().find_map(|r| r.before.perplexity);
        Some(Measure { perplexity, ..first })
    }

    /// The model after the last pass, rejected ones left out.
    pub fn after(&self) -> Option<Measure> {
        let is_applied = |r: &Record| r.verdict == Verdict::Applied;
        let kept = self.records.iter().rposition(is_applied).map_or(0, |last| last + 1);
        // Before what came to nothing, the first of which may have been too early for perplexity to be known.
        let Some(first) = self.records.get(kept) else { return Some(self.records.last()?.after) };
        let perplexity = self.records[kept..].iter().find_map(|r| r.before.perplexity);
        Some(Measure { perplexity, ..first.before })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invocation, self.verdict)?;
        if !matches!(self.verdict, Verdict::NoEffect(_)) {
            if let (Some(a), Some(b)) = (self.before.bytes, self.after.bytes) {
                write!(f, "; {a} -> {b} bytes")?;
            }
            if let (Some(a), Some(b)) = (self.before.multiply_adds, self.after.multiply_adds) {
                write!(f, ", {a} -> {b} multiply-adds per token")?;
            }
            if let (Some(a), Some(b)) = (self.before.perplexity, self.after.perplexity) {
                write!(f, ", perplexity {a:.2} -> {b:.2}")?;
            }
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n  note: {note}"))
    }
}

/// A line for each pass; no times, so that it can be compared.
impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.records.iter().try_for_each(|r| writeln!(f, "{r}"))
    }
}
