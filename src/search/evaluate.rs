//! A pipeline becomes a model, with its perplexity in its report.

use super::folder::{HASH, hash, without_position};
use crate::{Engine, Scorer, Source};
use lstmc_backend::Options;
use lstmc_frontend::ir::print;
use lstmc_passes::{
    Budget, Calibration, CalibrationError, Context, Pipeline, Report, Settings, Table, TextInfo, Watcher, run,
};
use std::sync::{Mutex, PoisonError};

/// A text as tokens, and where they are from.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// At least two.
    pub tokens: Vec<u32>,
    /// For reports.
    pub info: TextInfo,
}

/// All that pipelines work on; shared by threads.
pub struct Setup {
    /// The model as given, in language-model form.
    source: Source,
    calibration: Tokens,
    training: Option<Tokens>,
    validation: Tokens,
    options: Options,
    table: Table,
    /// Statistics, once they are collected.
    statistics: Mutex<Calibration<'static>>,
}

impl Setup {
    /// A setup. `options` are those of measuring, `table` has the passes.
    pub fn new(
        source: Source,
        calibration: Tokens,
        training: Option<Tokens>,
        validation: Tokens,
        options: Options,
        table: Table,
    ) -> Setup {
        let statistics = Mutex::new(Calibration::of_text(calibration.tokens.clone()));
        Setup { source, calibration, training, validation, options, table, statistics }
    }

    /// The model as given.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The text that is measured on.
    pub fn validation(&self) -> &[u32] {
        &self.validation.tokens
    }

    /// A hash of everything that results depend on.
    pub fn identity(&self) -> u64 {
        let text = |start: u64, tokens: &[u32]| {
            let start = hash(start, &(tokens.len() as u64).to_le_bytes());
            tokens.iter().fold(start, |h, token| hash(h, &token.to_le_bytes()))
        };
        let model =
            hash(hash(HASH, env!("CARGO_PKG_VERSION").as_bytes()), print(&self.source.graph).as_bytes());
        let h = text(text(model, &self.calibration.tokens), &self.validation.tokens);
        let h = text(h, self.training.as_ref().map_or(&[], |t| &t.tokens));
        hash(h, self.options.level.name().as_bytes())
    }

    /// The calibration of one run: statistics are collected once for all.
    fn calibration(&self) -> Result<Calibration<'static>, CalibrationError> {
        let mut shared = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        shared.share(&self.source.graph)
    }

    /// The model that a pipeline makes, entropy-coded, or why there is none.
    pub fn compress(&self, pipeline: &str, watcher: Option<&Watcher<'_>>) -> Result<Source, String> {
        let pipeline = Pipeline::parse_with(pipeline, self.table).map_err(|e| e.to_string())?;
        let calibration = self.calibration().map_err(|e| e.to_string())?;
        let mut scorer = Scorer::new(Engine::Jit, self.options, &self.validation.tokens, |_| ());
        let context = Context {
            watcher,
            training: self.training.as_ref().map(|t| &t.tokens[..]),
            evaluator: Some(&mut scorer),
            calibration: Some(calibration),
            ..Context::default()
        };
        let settings = Settings { context, ..Settings::default() };
        let made = run(&pipeline, self.source.graph.clone(), settings)
            .map_err(|e| without_position(&e.to_string()).to_string())?;
        let report = Report {
            calibration: Some(self.calibration.info.clone()),
            training: self.training.as_ref().map(|t| t.info.clone()),
            validation: Some(self.validation.info.clone()),
            ..Report::new(made.graph.name.clone(), &made.trail, Budget::default())
        };
        let report = serde_json::to_string(&report).map_err(|e| e.to_string())?;
        let recipe = match &self.source.recipe[..] {
            "" => pipeline.to_string(),
            before => format!("{before}, {pipeline}"),
        };
        Ok(Source { graph: made.graph, recipe, report, entropy: true, ..self.source.clone() })
    }
}
