//! What the Python package `lstmc` calls: the facade, with arrays of numpy, exceptions, progress and Ctrl-C.
//!
//! | module | contents |
//! |---|---|
//! | `model` | models: reading, writing, measuring, completing texts |
//! | `session` | streams of text, one or many |
//! | `compile` | pipelines on models |
//! | `search` | from a budget to a model |
//! | `compare` | models side by side |
//! | `parts` | a model's program and its weights' tensors, for `lstmc.torch` |
//! | `texts` | texts as arguments: files, lines, tokens |
//! | `work` | long work: a thread, progress, Ctrl-C |

use pyo3::prelude::*;

mod compare;
mod compile;
mod model;
mod parts;
mod search;
mod session;
mod texts;
mod work;

pyo3::create_exception!(
    lstmc,
    Error,
    pyo3::exceptions::PyException,
    "What can go wrong with a file, a text, a model or a pipeline. The message names it and says what to do."
);

/// An error of the facade, or of a part of it, as an exception.
pub(crate) fn error(error: impl std::fmt::Display) -> PyErr {
    Error::new_err(error.to_string())
}

/// Runs the command line, and returns its exit code.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<std::ffi::OsString>) -> u8 {
    py.detach(|| lstmc::cli::run_with(args, lstmc::passes::registry::PASSES))
}

#[pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::Error;
    #[pymodule_export]
    use super::compare::compare;
    #[pymodule_export]
    use super::compile::compile;
    #[pymodule_export]
    use super::main;
    #[pymodule_export]
    use super::model::{Evaluation, Model, call, load, passes};
    #[pymodule_export]
    use super::search::Search;
    #[pymodule_export]
    use super::session::{Session, Streams};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
