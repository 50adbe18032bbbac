//! The trail: the record of each pass of a run.

use lstmc_frontend::ir::store::{compressed_weight_bytes, is_meant_for_coding, weight_bytes};
use lstmc_frontend::ir::{Graph, Program, parameters};
use serde::Serialize;
use std::fmt;

/// The costs of a model.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Measure {
    /// Bytes of all weights in the container, indices and scales included, entropy-coded if the graph is meant for that
    /// ([`is_meant_for_coding`]); `None` if a mask's data is not available.
    pub bytes: Option<usize>,
    /// Numbers stored.
    pub parameters: usize,
    /// Multiply-adds per token; `None` before the graph is in language-model form.
    pub multiply_adds: Option<usize>,
    /// Perplexity on the validation text, if it was measured.
    pub perplexity: Option<f64>,
}

impl Measure {
    /// The costs of a graph, without perplexity.
    pub fn of(graph: &Graph) -> Measure {
        let bytes = if is_meant_for_coding(graph) { compressed_weight_bytes } else { weight_bytes };
        Measure {
            bytes: bytes(graph).ok().map(|all| all.iter().map(|(_, bytes)| bytes).sum()),
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
    /// Its patch was over the budget, and the previous graph was kept.
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

/// The record of one pass.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Record {
    /// The pass.
    pub pass: &'static str,
    /// The pass with its options, as a pipeline spells it.
    pub invocation: String,
    /// How it ended.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The time that the pass itself took, without measurements.
    #[serde(skip)]
    pub seconds: f64,
    /// The weights that are new or have a new representation in its patch.
    pub weights_changed: Vec<String>,
    /// The model before.
    pub before: Measure,
    /// The model that the pass proposed, or the one before if it proposed none.
    pub after: Measure,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// The records of a run, pass by pass.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Trail {
    /// The records, in order.
    pub records: Vec<Record>,
}

impl Trail {
    /// The model before the first pass. Its perplexity is the first that was measured: passes before it are lossless.
    pub fn before(&self) -> Option<Measure> {
        let first = self.records.first()?.before;
        let perplexity = self.records.iter().find_map(|r| r.before.perplexity);
        Some(Measure { perplexity, ..first })
    }

    /// The model after the last pass, without rejected ones.
    pub fn after(&self) -> Option<Measure> {
        let is_applied = |r: &Record| r.verdict == Verdict::Applied;
        let kept = self.records.iter().rposition(is_applied).map_or(0, |last| last + 1);
        // The state before the trailing passes without effect; the first of them may be too early for perplexity to be known.
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
