//! Models.

use crate::session::{Session, Streams};
use crate::texts::{self, Given, Reading};
use crate::work::run;
use crate::{error, parts};
use lstmc::backend::{Level, Options};
use lstmc::build::{Config, Emit};
use lstmc::complete::{Generator, suggest};
use lstmc::frontend::ir::{Program, parameters, print};
use lstmc::frontend::onnx::{ExportOptions, export};
use lstmc::passes::registry::PASSES;
use lstmc::runtime::file::write_bytes;
use lstmc::runtime::{Model as Compiled, Sampling};
use lstmc::{Engine, Reading as How, Source};
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// What stands for a file's name where a model was given as bytes.
const BYTES: &str = "model";

/// A language model, as it is in a file, and compiled for this machine when it first computes something.
///
/// Models do not change: what compresses one makes another. They may be used from any number of threads, and pickled.
#[pyclass(frozen, module = "lstmc", weakref)]
pub(crate) struct Model {
    source: Arc<Source>,
    options: Options,
    compiled: OnceLock<Compiled>,
}

/// The options of compiling for this machine: `cpu` is a level's name or `best`.
pub(crate) fn options(cpu: &str, threads: usize) -> PyResult<Options> {
    let level: Level = cpu.parse().map_err(|e| PyValueError::new_err(format!("cpu: {e}")))?;
    Ok(Options { level, threads, ..Options::default() })
}

impl Model {
    pub(crate) fn new(source: Source, options: Options) -> Model {
        Model { source: Arc::new(source), options, compiled: OnceLock::new() }
    }

    pub(crate) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Compiled, once.
    pub(crate) fn compiled(&self, py: Python<'_>) -> PyResult<Compiled> {
        if let Some(compiled) = self.compiled.get() {
            return Ok(compiled.clone());
        }
        let made = py.detach(|| self.source.compile(self.options)).map_err(error)?;
        Ok(self.compiled.get_or_init(|| made).clone())
    }

    /// A source from a path, or from a file's bytes, in language-model form.
    pub(crate) fn read(given: &Bound<'_, PyAny>, reading: &Reading) -> PyResult<Source> {
        reading.apply(Model::read_as_is(given)?)?.canonical().map_err(error)
    }

    /// A source as it was imported.
    pub(crate) fn read_as_is(given: &Bound<'_, PyAny>) -> PyResult<Source> {
        if let Ok(model) = given.cast::<Model>() {
            return Ok(Source::clone(&model.get().source));
        }
        if let Ok(bytes) = given.extract::<&[u8]>() {
            return Source::from_bytes(bytes, BYTES).map_err(error);
        }
        let path: PathBuf = given.extract()?;
        given.py().detach(|| Source::read(path)).map_err(error)
    }
}

/// Reads a model from a file, `.onnx` or `.lstmc`, or from its bytes.
///
/// `vocab` is a file of words or a list of them, `tokenizer` a kind of unit (`words`, `characters`, `bytes`, `ids`) or a tokenizer's file; `bos`, `eos`, `unk` and
/// `pad` are special tokens, by name or id. A `.lstmc` file usually brings all of these. `cpu` is a processor level, or `best`. `threads` are those of scoring; 0 means all cores.
///
/// Raises `Error` if the file is damaged, or is no language model.
#[pyfunction]
#[pyo3(signature = (model, *, vocab=None, tokenizer=None, bos=None, eos=None, unk=None, pad=None, cpu="best", threads=0))]
#[allow(clippy::too_many_arguments, reason = "they are keywords")]
pub(crate) fn load(
    model: &Bound<'_, PyAny>,
    vocab: Option<&Bound<'_, PyAny>>,
    tokenizer: Option<PathBuf>,
    bos: Option<String>,
    eos: Option<String>,
    unk: Option<String>,
    pad: Option<String>,
    cpu: &str,
    threads: usize,
) -> PyResult<Model> {
    let reading = Reading::of(vocab, tokenizer, [bos, eos, unk, pad])?;
    let options = options(cpu, threads)?;
    Ok(Model::new(Model::read(model, &reading)?, options))
}

/// Runs a command of the command line, without the program's name; for what has no function of its own.
#[pyfunction]
#[pyo3(signature = (*args))]
pub(crate) fn call(py: Python<'_>, args: Vec<OsString>) -> PyResult<()> {
    py.detach(|| lstmc::cli::call(args, PASSES)).map_err(error)
}

/// The passes that pipelines may have: their names, and what they do.
#[pyfunction]
pub(crate) fn passes() -> Vec<(&'static str, &'static str)> {
    PASSES.iter().map(|pass| (pass.name, pass.summary)).collect()
}

/// How well a model predicts a text. Logarithms are natural.
#[pyclass(frozen, get_all, module = "lstmc")]
pub(crate) struct Evaluation {
    /// `exp` of the mean negative log-probability of a predicted token.
    perplexity: f64,
    /// The sum of the negative log-probabilities of all predicted tokens.
    loss: f64,
    /// Predicted tokens.
    predicted: usize,
    /// Tokens of the text.
    tokens: usize,
    /// Units of the text that the vocabulary lacks.
    unknown: usize,
    /// `exp` of the loss per word, whatever the tokens are; NaN for a text of tokens.
    word_perplexity: f64,
    /// Bits per character; NaN for a text of tokens.
    bits_per_character: f64,
    /// Bits per byte of UTF-8; NaN for a text of tokens.
    bits_per_byte: f64,
}

#[pymethods]
impl Evaluation {
    fn __repr__(&self) -> String {
        let Evaluation { perplexity, tokens, unknown, .. } = self;
        format!("Evaluation(perplexity={perplexity}, tokens={tokens}, unknown={unknown})")
    }

    fn __float__(&self) -> f64 {
        self.perplexity
    }

    fn __reduce__(&self, py: Python<'_>) -> PyResult<(Py<PyAny>, (Py<PyAny>,))> {
        let restore = py.import("lstmc._native")?.getattr("Evaluation")?.getattr("_restore")?;
        let Evaluation { perplexity, loss, predicted, tokens, unknown, .. } = *self;
        let others = (self.word_perplexity, self.bits_per_character, self.bits_per_byte);
        let fields = (perplexity, loss, predicted, tokens, unknown, others).into_pyobject(py)?;
        Ok((restore.unbind(), (fields.into_any().unbind(),)))
    }

    #[staticmethod]
    fn _restore(fields: (f64, f64, usize, usize, usize, (f64, f64, f64))) -> Evaluation {
        let (perplexity, loss, predicted, tokens, unknown, others) = fields;
        let (word_perplexity, bits_per_character, bits_per_byte) = others;
        Evaluation {
            perplexity,
            loss,
            predicted,
            tokens,
            unknown,
            word_perplexity,
            bits_per_character,
            bits_per_byte,
        }
    }
}

impl From<lstmc::Evaluation> for Evaluation {
    fn from(e: lstmc::Evaluation) -> Evaluation {
        let known = |x: f64| if e.bytes == 0 { f64::NAN } else { x };
        Evaluation {
            perplexity: e.perplexity(),
            loss: e.loss,
            predicted: e.predicted,
            tokens: e.tokens,
            unknown: e.unknown,
            word_perplexity: known(e.word_perplexity()),
            bits_per_character: known(e.bits_per_character()),
            bits_per_byte: known(e.bits_per_byte()),
        }
    }
}

/// A JSON value as Python's objects.
pub(crate) fn python_of<'py>(py: Python<'py>, json: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (json,))
}

#[pymethods]
impl Model {
    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.source.graph.name
    }

    /// The file that it was read from; empty if it was made or given as bytes.
    #[getter]
    fn path(&self) -> PathBuf {
        self.source.path.clone()
    }

    /// The passes that made it, as text.
    #[getter]
    fn recipe(&self) -> &str {
        &self.source.recipe
    }

    /// What the passes did and cost, as `docs/report.md` describes it; None if none has run.
    #[getter]
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.source.report.is_empty() {
            return Ok(None);
        }
        python_of(py, &self.source.report).map(Some)
    }

    /// What was dropped or assumed when it was imported.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.source.notes.clone()
    }

    /// The processor level that it is compiled for.
    #[getter]
    fn level(&self) -> &'static str {
        self.options.level.name()
    }

    /// The words, in order of their ids; None if the model brings none.
    #[getter]
    fn vocabulary(&self) -> Option<Vec<String>> {
        let tokenizer = self.source.tokenizer.as_ref()?;
        Some(tokenizer.vocabulary().words().map(String::from).collect())
    }

    /// How texts are read, for people; None without a vocabulary.
    #[getter]
    fn tokenizer(&self) -> Option<String> {
        self.source.tokenizer.as_ref().map(|t| t.summary())
    }

    /// The number of tokens that it knows.
    #[getter]
    fn words(&self) -> PyResult<usize> {
        Ok(Program::of(&self.source.graph).map_err(error)?.vocabulary())
    }

    /// Numbers that it stores as weights, scales and indices not counted.
    #[getter]
    fn parameters(&self) -> usize {
        parameters(&self.source.graph)
    }

    /// Multiply-adds of a step.
    #[getter]
    fn multiply_adds(&self) -> PyResult<usize> {
        Ok(Program::of(&self.source.graph).map_err(error)?.multiply_adds())
    }

    /// Bytes of its weights in a file.
    #[getter]
    fn nbytes(&self) -> PyResult<usize> {
        Ok(self.source.weight_bytes().map_err(error)?.iter().map(|(_, bytes)| bytes).sum())
    }

    /// Its weights: dictionaries with `name`, `shape`, `representation` and `bytes`.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        let sizes = self.source.weight_bytes().map_err(error)?;
        for ((_, weight), (_, bytes)) in self.source.graph.weights().zip(sizes) {
            let row = PyDict::new(py);
            row.set_item("name", &weight.name)?;
            row.set_item("shape", PyTuple::new(py, weight.map.shape())?)?;
            row.set_item("representation", weight.map.describe())?;
            row.set_item("bytes", bytes)?;
            list.append(row)?;
        }
        Ok(list)
    }

    /// The graph, in the text form of the IR.
    fn ir(&self) -> String {
        print(&self.source.graph)
    }

    /// Writes a `.lstmc` file, and returns its size in bytes. The file is whole or not there.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<u64> {
        py.detach(|| self.source.write(path)).map_err(error)
    }

    /// The bytes of a `.lstmc` file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.source.to_bytes()).map_err(error)?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        // Another machine compiles it for its own processor.
        let level = if self.options.level == Level::best() { "best" } else { self.options.level.name() };
        let args = (self.to_bytes(py)?, level, self.options.threads).into_pyobject(py)?;
        Ok((py.import("lstmc._native")?.getattr("Model")?.getattr("_restore")?, args))
    }

    #[staticmethod]
    fn _restore(bytes: &[u8], cpu: &str, threads: usize) -> PyResult<Model> {
        Ok(Model::new(Source::from_bytes(bytes, "").map_err(error)?, options(cpu, threads)?))
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("<lstmc.Model {:?}: {} words, {} bytes>", self.name(), self.words()?, self.nbytes()?))
    }

    /// A text's tokens, `uint32 [tokens]`.
    fn encode<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let encoded = texts::tokenizer(&self.source).map_err(error)?.encode(text).map_err(error)?;
        Ok(encoded.tokens.into_pyarray(py))
    }

    /// The text of tokens.
    fn decode(&self, tokens: &Bound<'_, PyAny>) -> PyResult<String> {
        let tokens = texts::tokens(tokens)?;
        let tokenizer = texts::tokenizer(&self.source).map_err(error)?;
        let words = tokenizer.vocabulary().len();
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= words) {
            return Err(PyValueError::new_err(format!(
                "token {token} is out of range: the model has {words} words"
            )));
        }
        Ok(tokenizer.decode(&tokens))
    }

    /// `eval` with a callable for progress.
    #[pyo3(signature = (text, *, sentences=false, interpreter=false, progress=None))]
    fn _eval(
        &self,
        py: Python<'_>,
        text: Given,
        sentences: bool,
        interpreter: bool,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Evaluation> {
        let (source, options) = (self.source.clone(), self.options);
        let engine = if interpreter { Engine::Interpreter } else { Engine::Jit };
        let how = if sentences { How::Sentences } else { How::Stream };
        let found = run(py, progress, move |monitor| {
            let mut show = |n: usize| monitor.show("tokens scored", n, 0);
            match &text {
                Given::Tokens(tokens) => {
                    let mut scorer = lstmc::Scorer::new(engine, options, tokens, show);
                    let perplexity = scorer.perplexity(&source.graph)?;
                    let mut found = lstmc::Evaluation::default();
                    (found.tokens, found.predicted) = (tokens.len(), tokens.len() - 1);
                    found.loss = perplexity.ln() * found.predicted as f64;
                    Ok(found)
                }
                Given::Text(input) => {
                    let (path, input) = input.open()?;
                    let tokenizer = texts::tokenizer(&source)?;
                    let (graph, each) = (&source.graph, &mut |_| Ok(()));
                    let text = (&*path, input);
                    lstmc::evaluate((engine, options), graph, tokenizer, how, text, each, &mut show)
                }
            }
        })?;
        if found.predicted == 0 {
            return Err(PyValueError::new_err("perplexity needs a text of at least two tokens"));
        }
        Ok(found.into())
    }

    /// Natural log-probabilities of tokens, each given those before it: `float32 [tokens - 1]`, from the initial state. Of a list of arrays, a list; those are
    /// scored together, on all cores.
    fn score<'py>(&self, py: Python<'py>, tokens: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let compiled = self.compiled(py)?;
        if let Ok(list) = tokens.cast::<PyList>()
            && list.iter().all(|item| item.try_iter().is_ok())
            && !list.is_empty()
        {
            let all = list.iter().map(|t| texts::tokens(&t)).collect::<PyResult<Vec<_>>>()?;
            let threads = self.options.threads;
            // Texts are shared out among threads, which then need none for their products.
            let found = py.detach(|| compiled.batch(threads).score(&all)).map_err(error)?;
            let found = found.into_iter().map(|f| f.into_pyarray(py));
            return Ok(PyList::new(py, found.collect::<Vec<_>>())?.into_any());
        }
        let tokens = texts::tokens(tokens)?;
        let mut found = Vec::with_capacity(tokens.len());
        let scored = py.detach(|| {
            let mut session = compiled.session();
            session.score_each(&tokens, &mut |part| found.extend_from_slice(part))
        });
        scored.map_err(error)?;
        Ok(found.into_pyarray(py).into_any())
    }

    /// A stream of text, at its beginning.
    fn session(&self, py: Python<'_>) -> PyResult<Session> {
        Ok(Session::new(&self.compiled(py)?))
    }

    /// So many streams of text that take their steps together, each at its beginning.
    fn streams(&self, py: Python<'_>, count: usize) -> PyResult<Streams> {
        Streams::new(&self.compiled(py)?, count)
    }

    /// The likeliest next words after the beginning of a sentence, best first: tuples `(word, probability)`. Only those that begin with `prefix`.
    #[pyo3(signature = (prompt, k=5, *, prefix=""))]
    fn suggest(&self, py: Python<'_>, prompt: &str, k: usize, prefix: &str) -> PyResult<Vec<(String, f32)>> {
        let compiled = self.compiled(py)?;
        let found = py.detach(|| suggest(&compiled, prompt, prefix, k)).map_err(error)?;
        Ok(found.into_iter().map(|s| (s.word, s.log_probability.exp())).collect())
    }

    /// The `k` likeliest tokens after some, from the initial state, best first: `uint32 [k]` and their natural log-probabilities, `float32 [k]`.
    #[pyo3(signature = (tokens, k=5))]
    fn top_k<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        k: usize,
    ) -> PyResult<crate::session::Best<'py>> {
        let tokens = texts::tokens(tokens)?;
        let Some((&last, before)) = tokens.split_last() else {
            return Err(PyValueError::new_err("no token is given; give at least one"));
        };
        let mut session = self.compiled(py)?.session();
        for &token in before {
            session.advance(token).map_err(error)?;
        }
        crate::session::best(py, &mut session, last, k)
    }

    /// A prompt with what comes after it, drawn token by token: at most `tokens`, with `sentence` up to the end of the sentence. `temperature` 1 is the
    /// model's own distribution, 0 always the likeliest token; `top_k` and `top_p` draw from the likeliest only. The same seed gives the same text.
    #[pyo3(signature = (prompt="", *, tokens=50, sentence=false, temperature=1.0, top_k=None, top_p=None, repetition_penalty=1.0, seed=0))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords")]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: &str,
        tokens: usize,
        sentence: bool,
        temperature: f32,
        top_k: Option<usize>,
        top_p: Option<f32>,
        repetition_penalty: f32,
        seed: u64,
    ) -> PyResult<String> {
        let compiled = self.compiled(py)?;
        let mut sampling = Sampling::at(temperature);
        (sampling.top_k, sampling.top_p) = (top_k, top_p);
        sampling.repetition_penalty = repetition_penalty;
        let mut generator = Generator::new(&compiled, sampling, seed).map_err(error)?;
        let mut show = |_: &str| Ok::<(), lstmc::Error>(());
        let drawn = py.detach(|| generator.text(prompt, tokens, sentence, &mut show));
        Ok(drawn.map_err(error)?.0)
    }

    /// Writes a library with the model inside to a folder, for programs in C, C++ or Rust; returns what was written and its sizes in bytes. `target` is a triple, this
    /// machine's by default; `cpu` and `emit` are as for `lstmc build`.
    #[pyo3(signature = (folder, *, name, target=None, cpu="dispatch", emit=None))]
    fn build<'py>(
        &self,
        py: Python<'py>,
        folder: PathBuf,
        name: &str,
        target: Option<&str>,
        cpu: &str,
        emit: Option<Vec<String>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let Ok(cpu) = cpu.parse();
        let mut config = Config::of(Source::clone(&self.source)).name(name).cpu(cpu);
        if let Some(target) = target {
            config = config.target(target);
        }
        let emit = match emit {
            None => vec![Emit::StaticLib, Emit::Header],
            Some(names) => names.iter().map(|name| kind(name)).collect::<PyResult<Vec<_>>>()?,
        };
        let built = py.detach(|| config.build(&emit)).map_err(error)?;
        let files = PyList::empty(py);
        for file in &built.files {
            let path = folder.join(&file.path);
            let parent = path.parent().unwrap_or(&folder);
            std::fs::create_dir_all(parent)
                .map_err(|e| error(format!("{}: the folder cannot be made: {e}", parent.display())))?;
            write_bytes(&path, &file.bytes).map_err(error)?;
            files.append(path)?;
        }
        let found = PyDict::new(py);
        found.set_item("files", files)?;
        found.set_item("target", built.target)?;
        found.set_item("levels", built.levels)?;
        found.set_item("features", built.features)?;
        found.set_item("code_bytes", built.sizes.code)?;
        found.set_item("weight_bytes", built.sizes.weights)?;
        found.set_item("word_bytes", built.sizes.words)?;
        found.set_item("state_bytes", built.sizes.state)?;
        Ok(found)
    }

    /// Writes the model as ONNX, and returns notes about what the format cannot say. `dense` undoes every compression.
    #[pyo3(signature = (path, *, dense=false, opset=None))]
    fn export(
        &self,
        py: Python<'_>,
        path: PathBuf,
        dense: bool,
        opset: Option<i64>,
    ) -> PyResult<Vec<String>> {
        let options = ExportOptions { dense, opset: opset.unwrap_or(ExportOptions::default().opset) };
        let exported = py.detach(|| export(&self.source.graph, &options)).map_err(error)?;
        write_bytes(&path, &exported.to_bytes()).map_err(error)?;
        Ok(exported.notes)
    }

    /// The model as a program of steps: see `lstmc.torch`.
    fn _program<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        parts::program(py, &self.source.graph)
    }

    /// The model with other numbers in its weights: a dictionary `(part, tensor) -> array`, as `_program` names them.
    fn _with_tensors(&self, tensors: &Bound<'_, PyDict>, name: &str) -> PyResult<Model> {
        let graph = parts::with_tensors(&self.source.graph, tensors)?;
        let mut source = Source::clone(&self.source).with_graph(graph);
        // What its report says is of other weights.
        source.report = String::new();
        source.recipe = match &source.recipe[..] {
            "" => name.into(),
            before => format!("{before}, {name}"),
        };
        source.path = PathBuf::new();
        Ok(Model::new(source, self.options))
    }
}

/// A kind of file, by the name that the command line has for it.
fn kind(name: &str) -> PyResult<Emit> {
    Ok(match name {
        "staticlib" => Emit::StaticLib,
        "object" => Emit::Object,
        "c" => Emit::C,
        "header" => Emit::Header,
        "rust" => Emit::Rust,
        _ => {
            let expected = "expected staticlib, object, c, header or rust";
            return Err(PyValueError::new_err(format!("emit: {name:?}: {expected}")));
        }
    })
}
