//! Passes: the trait, its context and its results.

use crate::budget::Evaluate;
use crate::calibrate::{Calibration, CalibrationError, Drift, Reader, Sensitivity, Statistics};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::solve::SolveError;
use crate::target::TargetError;
use crate::watch::{Interrupt, Steps, Watcher};
use lstmc_frontend::canonicalize::CanonicalizeError;
use lstmc_frontend::ir::{Graph, InferError, MapError, NotCanonical, Part, WeightId};
use std::sync::Arc;

/// A transformation of a model.
pub trait Pass {
    /// Proposes a change to `graph`, or says why there is none. A pass changes nothing itself, and the same graph and context give
    /// the same outcome.
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, PassError>;
}

/// The data that passes may read, apart from the graph.
#[derive(Default)]
pub struct Context<'a> {
    /// Measures perplexity on the validation text.
    pub evaluator: Option<&'a mut dyn Evaluate>,
    /// Gives statistics of calibration text.
    pub calibration: Option<Calibration<'a>>,
    /// The text that `recover` trains on, as tokens.
    pub training: Option<&'a [u32]>,
    /// The model that `recover` may learn from, if it is not that before compression.
    pub teacher: Option<&'a Graph>,
    /// The model before the first pass that compresses, trained if training came first; or one that was trained later and is better, where perplexity is measured.
    /// Set by the driver.
    pub reference: Option<Graph>,
    /// Receives the progress of a pass.
    pub watcher: Option<&'a Watcher<'a>>,
    /// Where `recover` saves its runs.
    pub checkpoint: Option<Checkpoint<'a>>,
    /// Asks `recover` to stop.
    pub interrupt: Option<&'a Interrupt>,
}

impl<'a> Context<'a> {
    /// The calibration statistics of the model that `graph` was made from. Without any, returns an error that names `instead`, the option that works
    /// without, as a pipeline spells it.
    pub fn statistics(&mut self, graph: &Graph, instead: &str) -> Result<Arc<Statistics>, PassError> {
        Ok(self.calibration(instead)?.statistics(graph)?)
    }

    /// How sensitive the loss of that model is to its maps' results; needs the calibration text.
    pub fn sensitivity(&mut self, graph: &Graph, instead: &str) -> Result<Arc<Sensitivity>, PassError> {
        Ok(self.calibration(instead)?.sensitivity(graph)?)
    }

    /// The inputs of some maps in `original` and in `now`, side by side; needs the calibration text. See [`Calibration::drift`].
    pub fn drift(
        &mut self,
        original: &Graph,
        now: &Graph,
        of: &[Reader],
        instead: &str,
    ) -> Result<Drift, PassError> {
        Ok(self.calibration(instead)?.drift(original, now, of)?)
    }

    /// Statistics of the inputs of `graph` in its current form; needs the calibration text.
    pub fn inputs_now(&mut self, graph: &Graph, instead: &str) -> Result<Statistics, PassError> {
        Ok(self.calibration(instead)?.inputs(graph)?)
    }

    /// The steps of a pass, which are reported to the watcher.
    pub(crate) fn steps(&self, pass: &'static str, total: usize) -> Steps<'a> {
        Steps::new(self.watcher, pass, total)
    }

    fn calibration(&mut self, instead: &str) -> Result<&mut Calibration<'a>, PassError> {
        match &mut self.calibration {
            Some(calibration) => Ok(calibration),
            None => Err(PassError::NeedsCalibration { instead: instead.into() }),
        }
    }
}

/// The result of a pass.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A change.
    Patch(Patch),
    /// No change, and the reason.
    NoEffect(String),
}

/// A change to a graph, and notes for the user.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The change.
    pub change: Change,
    /// Sentences for the report.
    pub notes: Vec<String>,
}

/// A change to a graph.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new graph.
    Graph(Box<Graph>),
    /// New representations of weights, of the same logical shapes.
    Weights(Vec<(WeightId, Part)>),
}

impl Patch {
    /// A patch that replaces the graph.
    pub fn graph(graph: Graph) -> Patch {
        Patch { change: Change::Graph(Box::new(graph)), notes: vec![] }
    }

    /// A patch that replaces representations.
    pub fn weights<M: Into<Part>>(weights: Vec<(WeightId, M)>) -> Patch {
        let weights = weights.into_iter().map(|(id, map)| (id, map.into())).collect();
        Patch { change: Change::Weights(weights), notes: vec![] }
    }

    /// The same patch with these notes.
    pub fn with_notes(self, notes: Vec<String>) -> Patch {
        Patch { notes, ..self }
    }

    /// The names of the weights that are new in the patched graph or have a new representation.
    pub fn changed(&self, graph: &Graph) -> Vec<String> {
        match &self.change {
            Change::Graph(new) => new.weights().map(|(_, w)| w.name.clone()).collect(),
            Change::Weights(list) => list.iter().map(|(id, _)| graph.weight(*id).name.clone()).collect(),
        }
    }

    /// The patched graph. An error if a map's shape differs from that of the weight it replaces.
    pub fn apply(self, graph: &Graph) -> Result<Graph, InferError> {
        match self.change {
            Change::Graph(new) => Ok(*new),
            Change::Weights(list) => {
                let mut new = graph.clone();
                for (id, map) in list {
                    new.set_weight(id, map)?;
                }
                Ok(new)
            }
        }
    }
}

/// Why a pass failed.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// A model that cannot be brought to language-model form.
    #[error(transparent)]
    Canonicalize(#[from] CanonicalizeError),
    /// A pass that needs language-model form, on a graph that is not in it.
    #[error(transparent)]
    NotCanonical(#[from] NotCanonical),
    /// A target that matches nothing.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A representation that could not be created or read.
    #[error("@{weight}: {source}")]
    Map {
        /// The weight.
        weight: String,
        /// The reason.
        source: MapError,
    },
    /// Options that are valid one by one but not together.
    #[error("{0}")]
    Options(String),
    /// A pass that needs statistics of text, without any.
    #[error(
        "this needs calibration text: give some with --calibrate TEXT, or use {instead}, which needs none"
    )]
    NeedsCalibration {
        /// The option that works without them, as a pipeline spells it.
        instead: String,
    },
    /// A pass that trains, without a text.
    #[error("this needs training text: give some with --train TEXT")]
    NeedsTraining,
    /// A pass that learns from another model, without one.
    #[error("teacher=given needs a model to learn from: give one with --teacher MODEL")]
    NeedsTeacher,
    /// A training run that could not be saved or resumed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Statistics that could not be collected or do not fit.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// A weight whose representation the pass cannot work on.
    #[error("@{weight} is {found}: {why}")]
    Representation {
        /// The weight.
        weight: String,
        /// Its representation.
        found: String,
        /// Why it cannot be changed, and what to do.
        why: String,
    },
    /// Perplexity that could not be measured.
    #[error("measuring perplexity: {0}")]
    Evaluate(String),
    /// A solver that refused its input.
    #[error("@{weight}: {source}")]
    Solve {
        /// The weight.
        weight: String,
        /// The reason.
        source: SolveError,
    },
}
