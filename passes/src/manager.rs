//! The driver: runs a pipeline, and is the only place where a graph is changed.

use crate::budget::{Budget, Evaluate};
use crate::pass::{Context, Outcome, PassError};
use crate::pipeline::{Invocation, Pipeline};
use crate::trail::{Measure, Record, Trail, Verdict};
use lstmc_frontend::ir::verify::FINITE;
use lstmc_frontend::ir::{Graph, InferError, VerifyErrors, verify, verify_language_model};
use std::time::Instant;

/// The inputs of a run, and where it stops.
#[derive(Default)]
pub struct Settings<'a> {
    /// The data that passes may read.
    pub context: Context<'a>,
    /// The limits on perplexity.
    pub budget: Budget,
    /// Run only this many passes: to find the one that breaks a model.
    pub stop_after: Option<usize>,
    /// Called after each pass with its record and the current graph.
    pub observer: Option<Observer<'a>>,
}

/// Called after each pass with its record and the current graph.
pub type Observer<'a> = &'a mut dyn FnMut(&Record, &Graph);

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The model.
    pub graph: Graph,
    /// The record of each pass.
    pub trail: Trail,
}

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The graph that was given breaks an invariant.
    #[error("the graph is invalid before the first pass:\n{0}")]
    Input(VerifyErrors),
    /// A pass failed, or its result was refused.
    #[error("pass {step}, {invocation}{problem}")]
    Step {
        /// Its position in the pipeline, from 1.
        step: usize,
        /// The pass with its options.
        invocation: String,
        /// Why.
        #[source]
        problem: Box<StepError>,
    },
    /// A budget without an evaluator.
    #[error("a perplexity budget needs a vocabulary and a validation text to measure on")]
    NoEvaluator,
    /// Measuring failed.
    #[error("measuring perplexity {when}: {why}")]
    Evaluate {
        /// The pass before or after which it failed.
        when: String,
        /// Why.
        why: String,
    },
}

/// Why a run stopped at a pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// It failed.
    #[error(": {0}")]
    Pass(#[source] PassError),
    /// Its result has NaN or infinity: its inputs are too large.
    #[error(
        ", comes to numbers that are NaN or infinite: the weights before, or the statistics it was given, are too large; leave these weights out by `target`, or calibrate on another text:\n{0}"
    )]
    NotFinite(#[source] VerifyErrors),
    /// It proposed a graph that breaks an invariant: an error in lstmc.
    #[error(", made an invalid graph, which is an error in lstmc; please report it:\n{0}")]
    Invalid(#[source] VerifyErrors),
    /// It proposed a weight of another shape: an error in lstmc.
    #[error(", made a weight that does not fit, which is an error in lstmc; please report it: {0}")]
    Patch(#[source] InferError),
    /// It was over a strict budget.
    #[error(": rejected: {0}; use fewer or weaker passes, or a larger budget")]
    OverBudget(String),
}

/// Runs `pipeline` on `graph`.
pub fn run(pipeline: &Pipeline, graph: Graph, mut settings: Settings<'_>) -> Result<Run, RunError> {
    if settings.budget.is_limited() && settings.context.evaluator.is_none() {
        return Err(RunError::NoEvaluator);
    }
    check(&graph).map_err(RunError::Input)?;
    let mut perplexity = Perplexity { budget: settings.budget, baseline: None, current: None };
    let mut state = Run { graph, trail: Trail::default() };
    // The starting point of the passes that are judged next.
    let mut start: Option<Start> = None;
    // Whether a pass has made the model smaller, or meant to: what was trained before that is what training afterwards is to come near to, and what was
    // trained after it, as far as it became better.
    let mut is_compressed = false;
    let mut of_reference: Option<f64> = None;
    let passes: Vec<&Invocation> =
        pipeline.passes.iter().take(settings.stop_after.unwrap_or(usize::MAX)).collect();
    for (k, &invocation) in passes.iter().enumerate() {
        let at = At { step: k + 1, invocation };
        if invocation.info().lossy {
            let is_first = settings.context.reference.is_none();
            settings.context.reference.get_or_insert_with(|| state.graph.clone());
            if let Some(calibration) = &mut settings.context.calibration {
                calibration.refer_to(&state.graph);
            }
            perplexity.before(&at, &state.graph, &mut settings.context.evaluator)?;
            if is_first {
                of_reference = perplexity.current;
            }
        }
        let here = || Start { graph: state.graph.clone(), perplexity: perplexity.current, records: k };
        let from = start.take().unwrap_or_else(here);
        let before = Measure { perplexity: perplexity.current, ..Measure::of(&state.graph) };
        let started = Instant::now();
        let outcome = at.run(&state.graph, &mut settings.context)?;
        let mut record = at.record(started, before);
        match outcome {
            Outcome::NoEffect(why) => record.verdict = Verdict::NoEffect(why),
            Outcome::Patch(patch) => {
                record.weights_changed = patch.changed(&state.graph);
                record.notes.clone_from(&patch.notes);
                let proposed = patch.apply(&state.graph).map_err(|e| at.error(StepError::Patch(e)))?;
                check(&proposed).map_err(|e| at.invalid(e))?;
                record.after = Measure::of(&proposed);
                record.after.perplexity =
                    perplexity.after(&at, &proposed, &mut settings.context.evaluator)?;
                (state.graph, perplexity.current) = (proposed, record.after.perplexity);
            }
        }
        state.trail.records.push(record);
        if invocation.info().lossy && passes.get(k + 1).is_some_and(|next| next.info().recovers) {
            start = Some(from);
        } else if let Some(reason) = perplexity.exceeded(&state.trail.records[from.records..]) {
            if perplexity.budget.strict {
                return Err(at.error(StepError::OverBudget(reason)));
            }
            (state.graph, perplexity.current) = (from.graph, from.perplexity);
            for record in state.trail.records[from.records..].iter_mut() {
                if record.verdict == Verdict::Applied {
                    record.verdict = Verdict::Rejected(reason.clone());
                }
            }
        }
        let record = &state.trail.records[k];
        let info = invocation.info();
        is_compressed |= info.lossy && !info.recovers;
        if info.recovers && record.verdict == Verdict::Applied {
            if let Some(calibration) = &mut settings.context.calibration {
                calibration.refer_to_trained(&state.graph);
            }
            let is_better = perplexity.current.zip(of_reference).is_some_and(|(now, before)| now < before);
            if !is_compressed || is_better {
                settings.context.reference = Some(state.graph.clone());
                of_reference = perplexity.current;
            }
        }
        tracing::info!(pass = record.pass, seconds = record.seconds, "{record}");
        if let Some(observer) = &mut settings.observer {
            observer(record, &state.graph);
        }
    }
    Ok(state)
}

/// The starting point of passes that are judged together.
struct Start {
    graph: Graph,
    perplexity: Option<f64>,
    /// The number of records then.
    records: usize,
}

/// The verifier; on a graph without generic operators it checks language-model form too.
fn check(graph: &Graph) -> Result<(), VerifyErrors> {
    let is_generic = graph.nodes().any(|(_, n)| !n.op.is_language_model_form());
    if is_generic { verify(graph) } else { verify_language_model(graph) }
}

/// The current pass.
struct At<'p> {
    step: usize,
    invocation: &'p Invocation,
}

impl At<'_> {
    fn run(&self, graph: &Graph, context: &mut Context<'_>) -> Result<Outcome, RunError> {
        let outcome = self.invocation.pass().and_then(|pass| pass.run(graph, context));
        outcome.map_err(|e| self.error(StepError::Pass(e)))
    }

    fn error(&self, problem: StepError) -> RunError {
        RunError::Step { step: self.step, invocation: self.name(), problem: Box::new(problem) }
    }

    fn record(&self, started: Instant, before: Measure) -> Record {
        Record {
            pass: self.invocation.info().name,
            invocation: self.name(),
            verdict: Verdict::Applied,
            seconds: started.elapsed().as_secs_f64(),
            weights_changed: vec![],
            before,
            after: before,
            notes: vec![],
        }
    }

    fn name(&self) -> String {
        self.invocation.to_string()
    }

    fn invalid(&self, errors: VerifyErrors) -> RunError {
        let is_broken = errors.errors().iter().any(|e| e.invariant != FINITE);
        self.error(if is_broken { StepError::Invalid(errors) } else { StepError::NotFinite(errors) })
    }
}

/// Perplexity during a run.
struct Perplexity {
    budget: Budget,
    /// Before the first lossy pass.
    baseline: Option<f64>,
    /// Of the current graph, once known.
    current: Option<f64>,
}

type Evaluator<'e, 'a> = &'e mut Option<&'a mut dyn Evaluate>;

impl Perplexity {
    /// Measures the baseline before the first lossy pass.
    fn before(&mut self, at: &At<'_>, graph: &Graph, evaluator: Evaluator<'_, '_>) -> Result<(), RunError> {
        if self.current.is_none() {
            self.current = measure(evaluator, graph, || format!("before {}", at.name()))?;
        }
        self.baseline = self.baseline.or(self.current);
        Ok(())
    }

    /// Perplexity of a lossy pass's proposal. That of a lossless pass is the same as before.
    fn after(
        &self,
        at: &At<'_>,
        graph: &Graph,
        evaluator: Evaluator<'_, '_>,
    ) -> Result<Option<f64>, RunError> {
        if !at.invocation.info().lossy {
            return Ok(self.current);
        }
        measure(evaluator, graph, || format!("after {}", at.name()))
    }

    /// Why the result of passes is over the budget, if it is and any of them changed something.
    fn exceeded(&self, records: &[Record]) -> Option<String> {
        records.iter().find(|r| r.verdict == Verdict::Applied)?;
        self.current.zip(self.baseline).and_then(|(p, b)| self.budget.exceeded(p, b))
    }
}

fn measure(
    evaluator: Evaluator<'_, '_>,
    graph: &Graph,
    when: impl Fn() -> String,
) -> Result<Option<f64>, RunError> {
    let Some(evaluator) = evaluator else { return Ok(None) };
    evaluator.perplexity(graph).map(Some).map_err(|why| RunError::Evaluate { when: when(), why })
}
