//! Passes on a model so small that a run takes a moment.

use super::refused;
use lstmc::frontend::ir::Graph;
use lstmc::frontend::ir::arbitrary::language_model;
use lstmc::passes::{Context, Pipeline, RunError, Settings, StepError, run};

/// Words of [`tiny`].
pub(super) const WORDS: usize = 5;

/// A language model.
pub(super) fn tiny() -> Graph {
    language_model(2, 1, WORDS, 1)
}

/// Runs a pipeline, which may refuse but must not make what is invalid.
pub(super) fn refused_or_valid(passes: &str, graph: Graph, context: Context<'_>) {
    let pipeline = Pipeline::parse(passes).expect("a pipeline");
    match run(&pipeline, graph, Settings { context, ..Settings::default() }) {
        Ok(run) => super::models::check(&run.graph),
        Err(RunError::Step { problem, .. })
            if matches!(*problem, StepError::Invalid(_) | StepError::Patch(_)) =>
        {
            panic!("{problem}")
        }
        Err(error @ RunError::Input(_)) => panic!("{error}"),
        Err(error) => refused(error),
    }
}
