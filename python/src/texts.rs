//! Texts as arguments: a file's path, lines, or tokens.

use crate::error;
use lstmc::runtime::Tokenizer;
use lstmc::{Source, Text, TextOptions};
use numpy::{PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};

/// What stands for a file's name where there is none.
const LINES: &str = "(lines)";
/// As [`LINES`].
const TOKENS: &str = "(tokens)";

/// A text that was given.
#[derive(Clone)]
pub(crate) enum Given {
    Text(Input),
    Tokens(Vec<u32>),
}

/// A text that is to be cut into tokens.
#[derive(Clone)]
pub(crate) enum Input {
    File(PathBuf),
    /// Lines, each with its end.
    Lines(Vec<u8>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given {
    type Error = PyErr;

    fn extract(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Given> {
        if given.is_instance_of::<PyString>() || given.hasattr("__fspath__")? {
            return Ok(Given::Text(Input::File(given.extract()?)));
        }
        if given.is_instance_of::<PyBytes>() {
            return Err(PyTypeError::new_err("a text is a path, lines or tokens; found bytes"));
        }
        if given.hasattr("dtype")? {
            return Ok(Given::Tokens(tokens(&given)?));
        }
        let mut text = vec![];
        let mut numbers = vec![];
        for item in given.try_iter()? {
            let item = item?;
            if let Ok(line) = item.cast::<PyString>() {
                let line = line.to_cow()?;
                text.extend_from_slice(line.strip_suffix('\n').unwrap_or(&line).as_bytes());
                text.push(b'\n');
            } else {
                numbers.push(item.extract::<u32>().map_err(|_| {
                    let found = item.get_type().to_string();
                    PyTypeError::new_err(format!(
                        "a text is a path, lines (str) or tokens (int from 0 on); found {found}"
                    ))
                })?);
            }
        }
        match (text.is_empty(), numbers.is_empty()) {
            (false, false) => Err(PyTypeError::new_err("a text has lines or tokens, not both")),
            (true, false) => Ok(Given::Tokens(numbers)),
            _ => Ok(Given::Text(Input::Lines(text))),
        }
    }
}

/// Tokens of any array or sequence of integers.
pub(crate) fn tokens(given: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(array) = given.extract::<PyReadonlyArray1<'_, u32>>() {
        return Ok(array.to_vec()?);
    }
    if !given.hasattr("dtype")? {
        return given.extract();
    }
    let kind: String = given.getattr("dtype")?.getattr("kind")?.extract()?;
    if !matches!(&kind[..], "i" | "u") {
        let found = given.getattr("dtype")?.to_string();
        return Err(PyTypeError::new_err(format!("tokens are integers; found an array of {found}")));
    }
    let all: PyReadonlyArray1<'_, i64> = given.call_method1("astype", ("int64",))?.extract()?;
    let token = |&t: &i64| {
        u32::try_from(t).map_err(|_| PyValueError::new_err(format!("a token is from 0 on; found {t}")))
    };
    all.as_array().iter().map(token).collect()
}

impl Input {
    /// Opens it, and says what it is called.
    pub(crate) fn open(&self) -> Result<(PathBuf, Box<dyn BufRead + '_>), lstmc::Error> {
        match self {
            Input::File(path) => {
                let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
                    true => Err(std::io::ErrorKind::IsADirectory.into()),
                    false => Ok(file),
                });
                let failed = |reason| lstmc::Error::Read { path: path.clone(), reason };
                Ok((path.clone(), Box::new(BufReader::new(opened.map_err(failed)?))))
            }
            Input::Lines(text) => Ok((LINES.into(), Box::new(Cursor::new(text)))),
        }
    }
}

/// The tokenizer of a model that is to read texts.
pub(crate) fn tokenizer(source: &Source) -> Result<&Tokenizer, lstmc::Error> {
    let missing = || {
        let name = if source.path.as_os_str().is_empty() { "the model" } else { "this model" };
        lstmc::Error::Tokenizer(format!(
            "{name} brings no vocabulary, which texts need; give one with vocab=, or give tokens instead"
        ))
    };
    source.tokenizer.as_deref().ok_or_else(missing)
}

/// A text as tokens.
pub(crate) fn read(given: &Given, source: &Source) -> Result<Text, lstmc::Error> {
    match given {
        Given::Tokens(tokens) => Ok(Text::of_tokens(tokens.clone(), Path::new(TOKENS))),
        Given::Text(input) => {
            let (path, input) = input.open()?;
            Text::read(tokenizer(source)?, &path, input)
        }
    }
}

/// A text's lines as tokens; tokens are one line.
pub(crate) fn sentences(given: &Given, source: &Source) -> Result<Vec<Vec<u32>>, lstmc::Error> {
    match given {
        Given::Tokens(tokens) => Ok(vec![tokens.clone()]),
        Given::Text(input) => {
            let (path, input) = input.open()?;
            Ok(lstmc::compare::sentences(tokenizer(source)?, &path, input)?.0)
        }
    }
}

/// How texts become tokens, where the model does not say so.
#[derive(Default)]
pub(crate) struct Reading {
    words: Option<Vec<String>>,
    options: TextOptions,
}

impl Reading {
    /// Of keyword arguments: `vocab`, `tokenizer`, `bos`, `eos`, `unk`, `pad`.
    pub(crate) fn of(
        vocab: Option<&Bound<'_, PyAny>>,
        tokenizer: Option<PathBuf>,
        [bos, eos, unk, pad]: [Option<String>; 4],
    ) -> PyResult<Reading> {
        let mut reading = Reading::default();
        match vocab {
            None => {}
            Some(path) if path.is_instance_of::<PyString>() || path.hasattr("__fspath__")? => {
                reading.options.vocabulary = Some(path.extract()?);
            }
            Some(words) => {
                reading.words = Some(words.try_iter()?.map(|w| w?.extract()).collect::<PyResult<_>>()?);
            }
        }
        reading.options.tokenizer = tokenizer.map(|t| t.to_string_lossy().into_owned());
        (reading.options.begin, reading.options.end) = (bos, eos);
        (reading.options.unknown, reading.options.pad) = (unk, pad);
        Ok(reading)
    }

    /// A model that reads texts like this.
    pub(crate) fn apply(&self, mut source: Source) -> PyResult<Source> {
        if let Some(words) = &self.words {
            let vocabulary = lstmc::runtime::Vocabulary::from_words(words).map_err(error)?;
            source.tokenizer = Some(Tokenizer::words(vocabulary).into());
        }
        source.with_text(&self.options).map_err(error)
    }
}
