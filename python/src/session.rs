//! Streams of text.

use crate::error;
use crate::texts;
use lstmc::runtime::{Model as Compiled, Rng, Sampling, SavedState, Session as Stream, Streams as Many};
use numpy::ndarray::{ArrayView1, ArrayView2};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Tokens and their log-probabilities.
pub(crate) type Best<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);

/// The best `k` tokens after one.
pub(crate) fn best<'py>(py: Python<'py>, session: &mut Stream, token: u32, k: usize) -> PyResult<Best<'py>> {
    let k = k.min(session.model().layout().vocabulary);
    let (mut ids, mut scores) = (vec![0u32; k], vec![0f32; k]);
    let count = session.top_k_into(token, &mut ids, &mut scores).map_err(error)?;
    ids.truncate(count);
    scores.truncate(count);
    Ok((ids.into_pyarray(py), scores.into_pyarray(py)))
}

/// Makes an array refuse to be written.
fn read_only(array: &Bound<'_, PyAny>) -> PyResult<()> {
    array.getattr("flags")?.setattr("writeable", false)
}

/// One stream of text: a model's state after the tokens so far. It is used by one thread at a time, and keeps its model alive.
#[pyclass(module = "lstmc", weakref)]
pub(crate) struct Session {
    stream: Stream,
    rng: Rng,
}

impl Session {
    pub(crate) fn new(model: &Compiled) -> Session {
        Session { stream: model.session(), rng: Rng::new(0) }
    }
}

#[pymethods]
impl Session {
    /// Consumes a token. Returns the logits of every token that may come next, `float32 [words]`, or the model's hidden vector: a view of the session's own
    /// memory, which the next call changes. Copy it to keep it.
    fn step<'py>(slf: Bound<'py, Self>, token: u32) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let view = {
            let mut session = slf.try_borrow_mut()?;
            let logits = session.stream.step(token).map_err(error)?;
            // SAFETY: the session allocates its logits once and never moves or frees them before it is dropped, and the array keeps the session alive. It is read-only,
            // and both are used with the interpreter's lock held.
            unsafe { ArrayView1::from_shape_ptr(logits.len(), logits.as_ptr()) }
        };
        // SAFETY: the owner of the memory is the session, as said above.
        let array = unsafe { PyArray1::borrow_from_array(&view, slf.into_any()) };
        read_only(&array)?;
        Ok(array)
    }

    /// Consumes a token without computing what may come next, which is faster.
    fn advance(&mut self, token: u32) -> PyResult<()> {
        self.stream.advance(token).map_err(error)
    }

    /// Consumes a token. Returns the `k` likeliest next ones, best first: `uint32 [k]`, and their natural log-probabilities, `float32 [k]`.
    #[pyo3(signature = (token, k=5))]
    fn top_k<'py>(&mut self, py: Python<'py>, token: u32, k: usize) -> PyResult<Best<'py>> {
        best(py, &mut self.stream, token, k)
    }

    /// Consumes a token, and draws the next one, which is not consumed. `temperature` 0 takes the likeliest.
    #[pyo3(signature = (token, *, temperature=1.0, top_k=None, top_p=None))]
    fn sample(
        &mut self,
        token: u32,
        temperature: f32,
        top_k: Option<usize>,
        top_p: Option<f32>,
    ) -> PyResult<u32> {
        let mut sampling = Sampling::at(temperature);
        (sampling.top_k, sampling.top_p) = (top_k, top_p);
        self.stream.sample(token, &sampling, &mut self.rng).map_err(error)
    }

    /// Sets the seed of `sample`, which is 0 at first.
    fn seed(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
    }

    /// Consumes tokens. Returns the natural log-probability of each but the first, `float32 [tokens - 1]`, given those before it.
    fn score<'py>(
        &mut self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let tokens = texts::tokens(tokens)?;
        let mut found = Vec::with_capacity(tokens.len());
        let stream = &mut self.stream;
        py.detach(|| stream.score_each(&tokens, &mut |part| found.extend_from_slice(part))).map_err(error)?;
        Ok(found.into_pyarray(py))
    }

    /// Back to the beginning of a text.
    fn reset(&mut self) {
        self.stream.reset();
    }

    /// The recurrent state: a dictionary of its vectors by name, `float32 [width]` each, copied.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = PyDict::new(py);
        for (name, values) in self.stream.state() {
            state.set_item(name, PyArray1::from_slice(py, values))?;
        }
        Ok(state)
    }

    /// The state as one opaque array, for `restore` of a session of the same model on the same machine.
    fn save<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, self.stream.save_state().values())
    }

    /// Goes back to a saved state.
    fn restore(&mut self, state: numpy::PyReadonlyArray1<'_, f32>) -> PyResult<()> {
        self.stream.restore_state(&SavedState::from_values(state.to_vec()?)).map_err(error)
    }

    fn __repr__(&self) -> String {
        format!("<lstmc.Session of {:?}>", self.stream.model().name())
    }
}

/// Streams of text that take their steps together, which is faster than one by one.
#[pyclass(module = "lstmc", weakref)]
pub(crate) struct Streams {
    streams: Many,
}

impl Streams {
    pub(crate) fn new(model: &Compiled, count: usize) -> PyResult<Streams> {
        let layout = model.layout();
        let floats = count.checked_mul(layout.state + 2 * layout.vocabulary);
        if floats.and_then(|n| n.checked_mul(8)).is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(PyValueError::new_err(format!("{count} streams do not fit memory")));
        }
        Ok(Streams { streams: model.streams(count) })
    }

    /// A stream's number, checked.
    fn at(&self, stream: usize) -> PyResult<usize> {
        let count = self.streams.len();
        if stream < count {
            return Ok(stream);
        }
        Err(PyValueError::new_err(format!("there is no stream {stream}: there are {count}, from 0 on")))
    }
}

#[pymethods]
impl Streams {
    fn __len__(&self) -> usize {
        self.streams.len()
    }

    /// Consumes a token in each stream: `[streams]`. Returns the logits, `float32 [streams, words]`: a view of memory that the next call changes.
    fn step<'py>(slf: Bound<'py, Self>, tokens: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let tokens = texts::tokens(tokens)?;
        let view = {
            let mut streams = slf.try_borrow_mut()?;
            let count = streams.streams.len();
            let many = &mut streams.streams;
            let logits = many.step(&tokens).map_err(error)?;
            let width = logits.len().checked_div(count).unwrap_or_default();
            // SAFETY: as in `Session::step`: allocated once, and the array keeps its owner alive.
            unsafe { ArrayView2::from_shape_ptr((count, width), logits.as_ptr()) }
        };
        // SAFETY: the owner of the memory is these streams.
        let array = unsafe { PyArray2::borrow_from_array(&view, slf.into_any()) };
        read_only(&array)?;
        Ok(array)
    }

    /// Natural log-probability of a token that may come next in a stream.
    fn score(&mut self, stream: usize, token: u32) -> PyResult<f32> {
        let stream = self.at(stream)?;
        self.streams.score(stream, token).map_err(error)
    }

    /// The `k` likeliest next tokens of a stream, best first, and their natural log-probabilities.
    #[pyo3(signature = (stream, k=5))]
    fn top_k<'py>(&mut self, py: Python<'py>, stream: usize, k: usize) -> PyResult<Best<'py>> {
        let stream = self.at(stream)?;
        let k = k.min(self.streams.model().layout().vocabulary);
        let (mut ids, mut scores) = (vec![0u32; k], vec![0f32; k]);
        let count = self.streams.top_k(stream, &mut ids, &mut scores).map_err(error)?;
        ids.truncate(count);
        scores.truncate(count);
        Ok((ids.into_pyarray(py), scores.into_pyarray(py)))
    }

    /// Copies a stream to the place of another.
    fn copy(&mut self, from_: usize, to: usize) -> PyResult<()> {
        let (from, to) = (self.at(from_)?, self.at(to)?);
        self.streams.copy(from, to);
        Ok(())
    }

    /// Puts copies of some streams, one for each place from the first on, as a beam does with its best hypotheses: `[streams]`.
    fn reorder(&mut self, from_: Vec<usize>) -> PyResult<()> {
        if from_.len() > self.streams.len() {
            let (found, count) = (from_.len(), self.streams.len());
            return Err(PyValueError::new_err(format!("{found} places are given for {count} streams")));
        }
        from_.iter().try_for_each(|&stream| self.at(stream).map(drop))?;
        self.streams.reorder(&from_);
        Ok(())
    }

    /// A stream back to the beginning of a text; all of them, if none is named.
    #[pyo3(signature = (stream=None))]
    fn reset(&mut self, stream: Option<usize>) -> PyResult<()> {
        match stream {
            Some(stream) => {
                let stream = self.at(stream)?;
                self.streams.reset(stream);
            }
            None => (0..self.streams.len()).for_each(|stream| self.streams.reset(stream)),
        }
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<lstmc.Streams: {} of {:?}>", self.streams.len(), self.streams.model().name())
    }
}
