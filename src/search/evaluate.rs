//! A pipeline becomes a model, with its perplexity in its report.

use super::folder::{HASH, hash, without_position};
use crate::{Compression, Engine, Scorer, Source, Text};
use lstmc_backend::Options;
use lstmc_frontend::ir::{Graph, Head, print};
use lstmc_passes::{Calibration, CalibrationError, Evaluate, Invocation, Pipeline, Table, Watcher};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// All that pipelines work on; shared by threads.
pub struct Setup {
    /// The model as given, in language-model form.
    source: Source,
    calibration: Text,
    training: Option<Text>,
    validation: Text,
    options: Options,
    table: Table,
    /// Statistics, once they are collected.
    statistics: Mutex<Calibration<'static>>,
    /// Those of the trained model that was compressed last, by the pipeline that trained it.
    trained: Mutex<Option<(String, Calibration<'static>)>>,
    /// Of models that candidates began with.
    perplexities: Mutex<BTreeMap<String, f64>>,
}

impl Setup {
    /// A setup. `options` are those of measuring, `table` has the passes.
    pub fn new(
        source: Source,
        calibration: Text,
        training: Option<Text>,
        validation: Text,
        options: Options,
        table: Table,
    ) -> Setup {
        let statistics = Mutex::new(Calibration::of_text(calibration.tokens.clone()));
        Setup {
            source,
            calibration,
            training,
            validation,
            options,
            table,
            statistics,
            trained: Mutex::default(),
            perplexities: Mutex::default(),
        }
    }

    /// The model as given.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The passes there are.
    pub fn table(&self) -> Table {
        self.table
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
    fn calibration(&self, start: &Start) -> Result<Calibration<'static>, CalibrationError> {
        let Start::Trained { passes, model } = start else {
            let mut shared = self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
            return shared.share(&self.source.graph);
        };
        let mut trained = self.trained.lock().unwrap_or_else(PoisonError::into_inner);
        if trained.as_ref().is_none_or(|(of, _)| of != passes) {
            *trained = None;
        }
        let new = || (passes.clone(), Calibration::of_text(self.calibration.tokens.clone()));
        trained.get_or_insert_with(new).1.share(&model.graph)
    }

    /// A pipeline as two: up to the first pass that trains, and from there. None if it does not train, or ends with that.
    pub fn parts(&self, pipeline: &str) -> Option<Parts> {
        let Pipeline { passes, .. } = Pipeline::parse_with(pipeline, self.table).ok()?;
        let trains = |p: &Invocation| p.info().recovers;
        let end = passes.iter().position(trains)? + 1;
        let (first, rest) = passes.split_at(end);
        let text = |part: &[Invocation]| Pipeline { passes: part.to_vec(), description: None }.to_string();
        (!rest.is_empty()).then(|| Parts {
            first: text(first),
            rest: text(rest),
            trains_again: rest.iter().any(trains),
        })
    }

    /// The model that a pipeline makes of what it begins with, entropy-coded, or why there is none.
    pub fn compress(
        &self,
        pipeline: &str,
        start: &Start,
        watcher: Option<&Watcher<'_>>,
    ) -> Result<Source, String> {
        let (source, passes) = match start {
            Start::Given => (&self.source, String::new()),
            Start::Trained { model, passes } => (&**model, passes.clone()),
        };
        let pipeline = Pipeline::parse_with(pipeline, self.table).map_err(|e| e.to_string())?;
        let calibration = self.calibration(start).map_err(|e| e.to_string())?;
        let scorer = Scorer::new(Engine::Jit, self.options, &self.validation.tokens, |_| ());
        let mut scorer = Remembering { scorer, start: Some(passes), known: &self.perplexities };
        let compression = Compression {
            pipeline,
            watcher,
            training: self.training.as_ref(),
            calibration: Some((calibration, self.calibration.info.clone())),
            validation: Some((&mut scorer, self.validation.info.clone())),
            ..Compression::default()
        };
        let (made, _) =
            compression.run(source.clone()).map_err(|e| without_position(&e.to_string()).to_string())?;
        Ok(Source { entropy: true, ..made })
    }
}

/// Measures models; the first is that which a candidate begins with, and it is measured once for all of them.
struct Remembering<'s, 't> {
    scorer: Scorer<'t>,
    /// The passes that made it; empty if it is the one as given. None once it was measured.
    start: Option<String>,
    known: &'s Mutex<BTreeMap<String, f64>>,
}

impl Evaluate for Remembering<'_, '_> {
    fn perplexity(&mut self, graph: &Graph) -> Result<f64, String> {
        // What stands for perplexity of hidden vectors is relative to the model that was measured first.
        let has_vectors = graph.output_named(Head::Hidden.name()).is_some();
        let Some(start) = self.start.take().filter(|_| !has_vectors) else {
            return Evaluate::perplexity(&mut self.scorer, graph);
        };
        // Who asks while it is measured waits.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&start) {
            Some(perplexity) => Ok(*perplexity),
            None => {
                let perplexity = Evaluate::perplexity(&mut self.scorer, graph)?;
                known.insert(start, perplexity);
                Ok(perplexity)
            }
        }
    }
}

/// A pipeline in two: training takes longest by far, and candidates that have it in common are made from one trained model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    /// The passes up to the first that trains, as text.
    pub first: String,
    /// Those after it.
    pub rest: String,
    /// Whether one of these trains: towards the better of the model as given and the trained one.
    pub trains_again: bool,
}

/// The model that passes begin with.
pub enum Start {
    /// That as given.
    Given,
    /// One that was trained by these passes, the first of the pipeline.
    Trained {
        /// As text.
        passes: String,
        /// What they made.
        model: Box<Source>,
    },
}
