//! Pipelines on models.

use crate::error;
use crate::model::{Model, options};
use crate::texts::{self, Given, Reading};
use crate::work::run;
use lstmc::passes::registry::PASSES;
use lstmc::passes::{Budget, Calibration, Pipeline};
use lstmc::{Compression, Engine, Scorer, Source, Text};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::path::PathBuf;

/// Tokens that a text for passes must have at least.
const LEAST_TOKENS: usize = 2;

/// The texts that passes use.
pub(crate) struct Texts {
    pub(crate) calibration: Option<Text>,
    pub(crate) validation: Option<Text>,
    pub(crate) training: Option<Text>,
}

impl Texts {
    /// Reads them for a model.
    pub(crate) fn read(
        source: &Source,
        calibrate: Option<&Given>,
        validate: Option<&Given>,
        train: Option<&Given>,
    ) -> Result<Texts, lstmc::Error> {
        let read = |given: Option<&Given>, what: &str| {
            let text = given.map(|given| texts::read(given, source)).transpose()?;
            match text {
                Some(text) if text.tokens.len() < LEAST_TOKENS => Err(lstmc::Error::Tokenizer(format!(
                    "{}: {what} needs at least two tokens",
                    text.info.file
                ))),
                text => Ok(text),
            }
        };
        Ok(Texts {
            calibration: read(calibrate, "calibration")?,
            validation: read(validate, "perplexity")?,
            training: read(train, "training")?,
        })
    }
}

/// The pipeline of its text, or of a recipe's file.
fn pipeline(passes: Option<&str>, recipe: Option<PathBuf>) -> PyResult<Pipeline> {
    match (passes, recipe) {
        (Some(_), Some(_)) => Err(PyValueError::new_err("give passes or a recipe, not both")),
        (_, Some(path)) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|reason| error(lstmc::Error::Read { path: path.clone(), reason }))?;
            Pipeline::from_recipe_with(&text, PASSES)
                .map_err(|e| PyValueError::new_err(format!("{}: {e}", path.display())))
        }
        (passes, None) => Pipeline::parse_with(passes.unwrap_or("canonicalize"), PASSES)
            .map_err(|e| PyValueError::new_err(format!("passes: {e}"))),
    }
}

/// `lstmc.compile`, with the model as a path, as bytes or as a `Model`, and a callable for progress.
#[pyfunction]
#[pyo3(signature = (
    model, *, vocab=None, tokenizer=None, bos=None, eos=None, unk=None, pad=None, passes=None, recipe=None, calibrate=None, validate=None,
    train=None, teacher=None, max_increase=None, max_perplexity=None, strict=false, entropy=false, name=None, cpu="best", threads=0, progress=None
))]
#[allow(clippy::too_many_arguments, reason = "they are keywords")]
pub(crate) fn compile(
    py: Python<'_>,
    model: &Bound<'_, PyAny>,
    vocab: Option<&Bound<'_, PyAny>>,
    tokenizer: Option<PathBuf>,
    bos: Option<String>,
    eos: Option<String>,
    unk: Option<String>,
    pad: Option<String>,
    passes: Option<&str>,
    recipe: Option<PathBuf>,
    calibrate: Option<Given>,
    validate: Option<Given>,
    train: Option<Given>,
    teacher: Option<&Bound<'_, PyAny>>,
    max_increase: Option<f64>,
    max_perplexity: Option<f64>,
    strict: bool,
    entropy: bool,
    name: Option<String>,
    cpu: &str,
    threads: usize,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Model> {
    let pipeline = pipeline(passes, recipe)?;
    let options = options(cpu, threads)?;
    let reading = Reading::of(vocab, tokenizer, [bos, eos, unk, pad])?;
    let mut source = reading.apply(Model::read_as_is(model)?)?;
    if let Some(name) = name {
        source.graph.name = name;
    }
    source.entropy |= entropy;
    let teacher = teacher.map(|given| Model::read(given, &Reading::default())).transpose()?;
    let limits = [("max_increase", max_increase, 0.0), ("max_perplexity", max_perplexity, 1.0)];
    for (name, given, least) in limits {
        if given.is_some_and(|x| !x.is_finite() || x < least) {
            return Err(PyValueError::new_err(format!("{name}: expected a number of at least {least}")));
        }
    }
    let budget = Budget { max_perplexity, max_increase, strict };
    let mut made = run(py, progress, move |monitor| {
        let Texts { calibration, validation, training } =
            Texts::read(&source, calibrate.as_ref(), validate.as_ref(), train.as_ref())?;
        let mut scorer = validation.as_ref().map(|v| {
            let total = v.tokens.len() - 1;
            let show = move |n| monitor.show("measuring perplexity", n, total);
            Scorer::new(Engine::Jit, options, &v.tokens, show)
        });
        let statistics = calibration.map(|text| {
            let collected = Calibration::of_text(text.tokens);
            let show = |done, total| monitor.show("collecting statistics", done, total);
            (collected.with_progress(show), text.info)
        });
        let watcher = |status: lstmc::passes::Status<'_>| monitor.pass(status);
        let compression = Compression {
            pipeline,
            budget,
            calibration: statistics,
            training: training.as_ref(),
            teacher: teacher.as_ref(),
            validation: validation.as_ref().zip(scorer.as_mut()).map(|(v, s)| (s as _, v.info.clone())),
            watcher: Some(&watcher),
            ..Compression::default()
        };
        let (made, _) = compression.run(source)?;
        made.canonical()
    })?;
    made.path = PathBuf::new();
    Ok(Model::new(made, options))
}
