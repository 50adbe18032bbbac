//! A pipeline on a model, with the texts that its passes use.

use crate::{Error, Format, Source, text};
use lstmc_passes::manager::Observer;
use lstmc_passes::{
    Budget, Calibration, Checkpoint, Context, Evaluate, Interrupt, Pipeline, Report, Settings, TextInfo,
    Watcher, run,
};
use lstmc_runtime::{Encoded, TextReader, Tokenizer};
use std::io::BufRead;
use std::path::Path;

/// A text as tokens, and where they are from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// For reports.
    pub info: TextInfo,
}

impl Text {
    /// Reads a text as one stream. `path` names it in errors and reports.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has what the tokenizer cannot express.
    pub fn read(tokenizer: &Tokenizer, path: &Path, input: impl BufRead) -> Result<Text, Error> {
        let mut encoded = Encoded::default();
        let mut reader = TextReader::new(tokenizer, input);
        while reader.stream(&mut encoded).map_err(|error| text::in_file(path, error))? {}
        let mut text = Text::of_tokens(encoded.tokens, path);
        text.info.unknown = Some(encoded.unknown);
        Ok(text)
    }

    /// Tokens as they are.
    pub fn of_tokens(tokens: Vec<u32>, path: &Path) -> Text {
        let info = TextInfo { file: file_name(path), tokens: tokens.len(), unknown: None };
        Text { tokens, info }
    }
}

/// A compression: passes, and what they work with besides the model. All but the passes may be left out.
#[derive(Default)]
pub struct Compression<'a> {
    /// The passes. Where a model is as it was imported, `canonicalize` goes before them.
    pub pipeline: Pipeline,
    /// The limits on perplexity; they need `validation`.
    pub budget: Budget,
    /// Run only this many passes.
    pub stop_after: Option<usize>,
    /// Statistics of text, and the text that they are of.
    pub calibration: Option<(Calibration<'a>, TextInfo)>,
    /// What is trained on.
    pub training: Option<&'a Text>,
    /// The model that `recover(teacher=given)` learns from.
    pub teacher: Option<&'a Source>,
    /// Measures perplexity, and on what text.
    pub validation: Option<(&'a mut dyn Evaluate, TextInfo)>,
    /// Gets the progress of passes.
    pub watcher: Option<&'a Watcher<'a>>,
    /// Keeps training runs.
    pub checkpoint: Option<Checkpoint<'a>>,
    /// Asks training to stop.
    pub interrupt: Option<&'a Interrupt>,
    /// Called after each pass.
    pub observer: Option<Observer<'a>>,
}

impl Compression<'_> {
    /// The model that the passes make, with its recipe and report, and the report of this run alone.
    ///
    /// # Errors
    ///
    /// If a pass fails, or breaks a strict budget.
    pub fn run(self, mut source: Source) -> Result<(Source, Report), Error> {
        let pipeline = canonical_first(self.pipeline, &source);
        let (calibration, calibration_info) = self.calibration.unzip();
        let (evaluator, validation_info) = self.validation.unzip();
        let context = Context {
            watcher: self.watcher,
            training: self.training.map(|t| &t.tokens[..]),
            teacher: self.teacher.map(|t| &t.graph),
            checkpoint: self.checkpoint,
            interrupt: self.interrupt,
            reference: None,
            evaluator,
            calibration,
        };
        let settings =
            Settings { context, budget: self.budget, stop_after: self.stop_after, observer: self.observer };
        let made = run(&pipeline, std::mem::take(&mut source.graph), settings)?;
        let report = Report {
            calibration: calibration_info,
            training: self.training.map(|t| t.info.clone()),
            teacher: self.teacher.map(|t| file_name(&t.path)),
            validation: validation_info,
            ..Report::new(made.graph.name.clone(), &made.trail, self.budget)
        };
        let recipe = match &source.recipe[..] {
            "" => pipeline.to_string(),
            before => format!("{before}, {pipeline}"),
        };
        let of_all = report.json(&source.report, false)?;
        Ok((Source { recipe, report: of_all, ..source }.with_graph(made.graph), report))
    }
}

/// Puts `canonicalize` first where an ONNX model needs it.
pub(crate) fn canonical_first(mut pipeline: Pipeline, source: &Source) -> Pipeline {
    let starts = pipeline.passes.first().is_some_and(|p| p.info().name == "canonicalize");
    if source.format == Format::Onnx && !starts {
        let canonicalize = Pipeline::parse("canonicalize").unwrap_or_default();
        pipeline.passes.splice(0..0, canonicalize.passes);
    }
    pipeline
}

/// A file's name, without folders.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
