//! Models side by side.

use crate::error;
use crate::model::Model;
use crate::texts::{self, Given};
use crate::work::run;
use lstmc::compare::{BEST, compare as compared, step_times};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::path::Path;

/// `lstmc.compare`, with a callable for progress.
#[pyfunction]
#[pyo3(signature = (models, text, *, resamples=2000, seed=1, progress=None))]
pub(crate) fn compare<'py>(
    py: Python<'py>,
    models: Vec<Py<Model>>,
    text: Given,
    resamples: usize,
    seed: u64,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let Some(first) = models.first() else {
        return Err(PyValueError::new_err("a comparison needs at least one model"));
    };
    let reader = models.iter().find(|m| m.get().source().tokenizer.is_some()).unwrap_or(first);
    let source = reader.get().source().clone();
    let compiled = models.iter().map(|m| m.get().compiled(py)).collect::<PyResult<Vec<_>>>()?;
    let (found, times) = run(py, progress, move |monitor| {
        let sentences = texts::sentences(&text, &source)?;
        let total: usize = sentences.iter().map(Vec::len).sum::<usize>().saturating_sub(1);
        let show = &mut |n| monitor.show("tokens compared", n, total);
        let found = compared(&compiled, &sentences, (resamples, seed), show)?;
        let times = step_times(&compiled, &sentences)?;
        Ok((found, times))
    })?;
    let all = PyList::empty(py);
    for ((model, found), time) in models.iter().zip(&found.models).zip(times) {
        let source = model.get().source();
        let row = PyDict::new(py);
        let best = |shares: [f64; BEST.len()]| -> PyResult<Bound<'py, PyDict>> {
            let by_count = PyDict::new(py);
            for (k, share) in BEST.iter().zip(shares) {
                by_count.set_item(k, share)?;
            }
            Ok(by_count)
        };
        let bytes: usize = source.weight_bytes().map_err(error)?.iter().map(|(_, bytes)| bytes).sum();
        row.set_item("model", name(&source.path, &source.graph.name))?;
        row.set_item("bytes", bytes)?;
        row.set_item("perplexity", found.perplexity())?;
        row.set_item("increase", found.increase.estimate)?;
        row.set_item("interval", (found.increase.low, found.increase.high))?;
        row.set_item("divergence", found.divergence)?;
        row.set_item("agreement", best(found.agreement)?)?;
        row.set_item("recall", best(found.recall)?)?;
        row.set_item("calibration_error", found.calibration_error)?;
        row.set_item("keystrokes_saved", found.keystrokes_saved)?;
        row.set_item("microseconds_per_step", time.as_secs_f64() * 1e6)?;
        all.append(row)?;
    }
    Ok(all)
}

/// A model's file, or else its name.
fn name(path: &Path, name: &str) -> String {
    if path.as_os_str().is_empty() { name.into() } else { path.display().to_string() }
}
