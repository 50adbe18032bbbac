//! From a budget to a model: the plan and the folder of a search. Who evaluates candidates is `lstmc.search`'s business.

use crate::compile::Texts;
use crate::error;
use crate::model::{Model, options, python_of};
use crate::texts::Given;
use lstmc::passes::registry::PASSES;
use lstmc::search::choice::Budget;
use lstmc::search::evaluate::Setup;
use lstmc::search::plan::Stop;
use lstmc::search::{Choosing, Job, Round, Search as Search_, amount};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

/// A candidate: its pipeline, the passes that are left, and the file of the model to begin with, if that is a trained one.
type Candidate = (String, String, Option<PathBuf>);

/// A search under way.
#[pyclass(module = "lstmc")]
pub(crate) struct Search {
    search: Search_,
}

/// A budget of the only argument that is given.
fn budget(given: [(&str, Option<&Bound<'_, PyAny>>); 4]) -> PyResult<Budget> {
    let mut all = vec![];
    for (name, value) in given {
        let Some(value) = value else { continue };
        // A number as it is; a text as the command line has it.
        let wrong = |why: String| PyValueError::new_err(format!("{name}: {why}"));
        let number: Option<f64> = value.extract().ok();
        let text: Option<String> = value.extract().ok();
        let text = || text.clone().ok_or_else(|| wrong("expected a number or a text".into()));
        all.push(match (name, number) {
            ("max_bytes", Some(n)) if n >= 1.0 => Budget::Bytes(n as usize),
            ("max_bytes", None) => Budget::Bytes(amount::bytes(&text()?).map_err(wrong)?),
            ("max_latency", Some(n)) if n > 0.0 && n.is_finite() => Budget::Microseconds(n),
            ("max_latency", None) => Budget::Microseconds(amount::microseconds(&text()?).map_err(wrong)?),
            ("max_increase", Some(n)) if n >= 0.0 && n.is_finite() => Budget::Increase(n),
            ("max_increase", None) => Budget::Increase(amount::fraction(&text()?).map_err(wrong)?),
            ("max_perplexity", Some(n)) if n >= 1.0 && n.is_finite() => Budget::Perplexity(n),
            _ => return Err(wrong("out of range".into())),
        });
    }
    match &all[..] {
        [budget] => Ok(*budget),
        _ => Err(PyValueError::new_err(
            "give one budget: max_bytes, max_latency (microseconds), max_increase or max_perplexity",
        )),
    }
}

#[pymethods]
impl Search {
    #[new]
    #[pyo3(signature = (
        model, output, *, calibrate, validate, train=None, max_bytes=None, max_latency=None, max_increase=None, max_perplexity=None, candidates=None,
        seed=1, cpu="best"
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords")]
    fn new(
        py: Python<'_>,
        model: &Model,
        output: PathBuf,
        calibrate: Given,
        validate: Given,
        train: Option<Given>,
        max_bytes: Option<&Bound<'_, PyAny>>,
        max_latency: Option<&Bound<'_, PyAny>>,
        max_increase: Option<&Bound<'_, PyAny>>,
        max_perplexity: Option<&Bound<'_, PyAny>>,
        candidates: Option<usize>,
        seed: u64,
        cpu: &str,
    ) -> PyResult<Search> {
        let budget = budget([
            ("max_bytes", max_bytes),
            ("max_latency", max_latency),
            ("max_increase", max_increase),
            ("max_perplexity", max_perplexity),
        ])?;
        let source = lstmc::Source::clone(model.source());
        let options = options(cpu, 0)?;
        let seed = train.is_some().then_some(seed);
        let search = py.detach(|| {
            let texts = Texts::read(&source, Some(&calibrate), Some(&validate), train.as_ref())?;
            let needed = "both texts were given";
            let (calibration, validation) =
                (texts.calibration.expect(needed), texts.validation.expect(needed));
            let setup = Setup::new(source, calibration, texts.training, validation, options, PASSES);
            let most = candidates.unwrap_or(usize::MAX);
            let choosing = Choosing { budget, seed, most, options, predict: None };
            Search_::new(Arc::new(setup), &output, choosing)
        });
        Ok(Search { search: search.map_err(error)? })
    }

    /// The next candidates, the most promising first; None once the search has ended.
    fn next_round(&mut self, py: Python<'_>) -> PyResult<Option<Vec<Candidate>>> {
        let round = py.detach(|| self.search.next_round()).map_err(error)?;
        let candidate = |job: Job| match job.trained {
            None => (job.pipeline.clone(), job.pipeline, None),
            Some(trained) => {
                let [_, rest] = trained.passes;
                (job.pipeline, rest, Some(trained.model))
            }
        };
        Ok(match round {
            Round::Jobs(jobs) => Some(jobs.into_iter().map(candidate).collect()),
            Round::End(_) => None,
        })
    }

    /// Takes in a candidate's model, or why there is none; returns a line about it.
    #[pyo3(signature = (pipeline, model, reason=None))]
    fn take(
        &mut self,
        py: Python<'_>,
        pipeline: &str,
        model: Option<&Model>,
        reason: Option<String>,
    ) -> PyResult<String> {
        let made = match model {
            Some(model) => Ok(lstmc::Source::clone(model.source())),
            None => Err(reason.unwrap_or_else(|| "no reason is known".into())),
        };
        py.detach(|| self.search.take(pipeline, made)).map_err(error)
    }

    /// Candidates so far, and the best model's bytes and perplexity, if there is one.
    fn state(&self) -> (usize, Option<(usize, f64)>) {
        let best = self.search.best().map(|p| (p.found.bytes, p.found.perplexity));
        (self.search.known().len(), best)
    }

    /// Writes the frontier's models and recipes, and returns what `frontier.json` holds; None if no candidate became a model. `stop` is `exhausted`, `time` or `interrupted`.
    fn write<'py>(&mut self, py: Python<'py>, stop: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let all = [Stop::Exhausted, Stop::Candidates, Stop::Time, Stop::Interrupted];
        let stop = all.into_iter().find(|s| s.name() == stop).unwrap_or(Stop::Exhausted);
        let left = py.detach(|| self.search.write(stop)).map_err(error)?;
        left.map(|left| python_of(py, &left.list.to_string())).transpose()
    }
}
