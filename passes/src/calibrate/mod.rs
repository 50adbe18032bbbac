//! Calibration: the inputs of a model's layers when it reads text.
//!
//! ```text
//!   text ──▶ the model, layer by layer ──▶ Statistics ──▶ file
//!                                            │
//!       per group of maps with one input:    ├─ H = sum x x^T, sum x, count     (an lstm's x is the stacked [x_t; h_(t-1)])
//!       per embedding:                       ├─ how often each word was looked up
//!       for the output layer:                └─ how often each word came next; p_i = E[softmax_i (1 - softmax_i)]
//! ```
//!
//! [`Statistics`] are collected once, on the model before its first lossy pass, and belong to that model by the names and shapes of its
//! weights: compressing a weight without changing its shape keeps them valid. Passes get them from a [`Calibration`], which
//! reads them from a file or collects them when they are first needed. If it has the text, it can collect them again on a changed model, so that
//! later layers are fitted to the outputs of compressed earlier ones.
//!
//! With the text there are two further kinds, each collected when it is asked for: how sensitive the loss is to the results of maps
//! ([`Sensitivity`]), and the inputs of a map before and after the compression of others, side by side ([`Drift`]).

mod collect;
mod drift;
mod file;
mod sensitivity;

pub use drift::Drift;
pub use file::FileError;
pub use sensitivity::Sensitivity;

use crate::pass::PassError;
use crate::recover::reading;
use lstmc_frontend::interpret::{self, InterpretError};
use lstmc_frontend::ir::{Graph, Head, Program, StepKind, WeightId};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Called with the number of tokens read so far, and the total.
pub type Progress<'p> = dyn FnMut(usize, usize) + Send + 'p;

/// The inputs of a model's layers when it reads a text.
#[derive(Clone, PartialEq, Debug)]
pub struct Statistics {
    tokens: usize,
    inputs: Vec<Inputs>,
    lookups: Vec<Lookups>,
    predictions: Option<Predictions>,
}

/// The inputs of the maps that multiply one vector: a `linear`'s map, or the two of an `lstm`.
#[derive(Clone, PartialEq, Debug)]
pub struct Inputs {
    readers: Vec<Reader>,
    width: usize,
    sum: Vec<f64>,  // sum of x, [width]
    gram: Vec<f64>, // sum of x x^T, [width, width]
    count: u64,
}

/// A map and the part of the input vector that it multiplies.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Reader {
    /// The weight's name.
    pub weight: String,
    /// The elements of the vector that its columns multiply.
    pub columns: Range<usize>,
}

/// How often an embedding looked up each of its rows.
#[derive(Clone, PartialEq, Debug)]
pub struct Lookups {
    table: String,
    counts: Vec<f64>, // [vocabulary]
}

/// The model's predictions.
#[derive(Clone, PartialEq, Debug)]
pub struct Predictions {
    /// How often each word came next, `[vocabulary]`.
    pub targets: Vec<f64>,
    /// `E[softmax_i]` of each word, `[vocabulary]`.
    pub probabilities: Vec<f64>,
    /// `E[softmax_i (1 - softmax_i)]` of each word, `[vocabulary]`: the diagonal of the loss's second derivative in the logits.
    pub curvature: Vec<f64>,
}

impl Inputs {
    /// The maps that multiply the vector.
    pub fn readers(&self) -> &[Reader] {
        &self.readers
    }

    /// Elements of the vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `sum of x x^T`, `[width, width]`, row-major, symmetric; not divided by the count.
    pub fn gram(&self) -> &[f64] {
        &self.gram
    }

    /// `E[x]`, `[width]`.
    pub fn mean(&self) -> Vec<f64> {
        self.sum.iter().map(|s| s / self.count()).collect()
    }

    /// Vectors seen, at least 1.
    pub fn count(&self) -> f64 {
        self.count.max(1) as f64
    }

    /// The part of [`Inputs::gram`] that belongs to these elements, `[n, n]`.
    pub fn gram_of(&self, columns: Range<usize>) -> Vec<f64> {
        let row = |i: usize| &self.gram[i * self.width + columns.start..i * self.width + columns.end];
        columns.clone().flat_map(|i| row(i).iter().copied()).collect()
    }
}

impl Lookups {
    /// The embedding's table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// How often each row was looked up, `[vocabulary]`.
    pub fn counts(&self) -> &[f64] {
        &self.counts
    }
}

/// Why there are no statistics.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// Too little text.
    #[error("calibration needs at least two tokens of text, found {found}")]
    TooFewTokens {
        /// Tokens.
        found: usize,
    },
    /// Statistics of another model.
    #[error(
        "the calibration statistics are of another model: {what}: expected {expected}, found {found}; collect them again with `lstmc calibrate`"
    )]
    Mismatch {
        /// The weight or property that differs.
        what: String,
        /// Its value in this model.
        expected: String,
        /// Its value in the statistics.
        found: String,
    },
    /// Statistics from a file, where the text is read again: for a changed model, or for gradients.
    #[error(
        "the statistics were read from a file, and this needs the text itself, which is read again; give it with --calibrate TEXT"
    )]
    NoText,
    /// A number that is NaN or infinite.
    #[error("the model computes NaN or infinity on the calibration text: {what}")]
    NotFinite {
        /// Its location.
        what: String,
    },
    /// The model cannot be run.
    #[error(transparent)]
    Interpret(#[from] InterpretError),
    /// The model cannot be trained, or read as in training.
    #[error(transparent)]
    Gradients(Box<PassError>),
}

/// Refuses a text that is too short to predict anything, and one with tokens that are no words.
fn check_tokens(tokens: &[u32], vocabulary: usize) -> Result<(), CalibrationError> {
    if tokens.len() < 2 {
        return Err(CalibrationError::TooFewTokens { found: tokens.len() });
    }
    match tokens.iter().position(|&t| t as usize >= vocabulary) {
        Some(position) => Err(InterpretError::Token { position, token: tokens[position], vocabulary }.into()),
        None => Ok(()),
    }
}

impl Statistics {
    /// Reads `tokens` with the model and collects everything. One stream from a zero state; every token except the last is read.
    pub fn collect(
        graph: &Graph,
        tokens: &[u32],
        progress: &mut Progress<'_>,
    ) -> Result<Statistics, CalibrationError> {
        collect::collect(graph, tokens, true, progress)
    }

    /// Like [`Statistics::collect`], but without the predictions, which cost as much as everything else.
    pub fn collect_inputs(
        graph: &Graph,
        tokens: &[u32],
        progress: &mut Progress<'_>,
    ) -> Result<Statistics, CalibrationError> {
        collect::collect(graph, tokens, false, progress)
    }

    /// Tokens read.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The inputs of every group of maps, in the model's order.
    pub fn inputs(&self) -> &[Inputs] {
        &self.inputs
    }

    /// The inputs of exactly these maps.
    pub fn inputs_of_all(&self, readers: &[Reader]) -> Option<&Inputs> {
        self.inputs.iter().find(|i| i.readers == readers)
    }

    /// The inputs of the maps that include the weight with this name, and the part that the weight multiplies.
    pub fn inputs_of(&self, weight: &str) -> Option<(&Inputs, Range<usize>)> {
        self.inputs.iter().find_map(|i| {
            let reader = i.readers.iter().find(|r| r.weight == weight)?;
            Some((i, reader.columns.clone()))
        })
    }

    /// How often the rows of this embedding were looked up.
    pub fn lookups_of(&self, table: &str) -> Option<&Lookups> {
        self.lookups.iter().find(|l| l.table == table)
    }

    /// The model's predictions, if they were collected.
    pub fn predictions(&self) -> Option<&Predictions> {
        self.predictions.as_ref()
    }

    /// Refuses a model whose weights have different names or shapes.
    pub fn check(&self, graph: &Graph) -> Result<(), CalibrationError> {
        let expected = Shape::of(graph)?;
        let found = Shape {
            inputs: self.inputs.iter().map(|i| (i.width, i.readers.clone())).collect(),
            lookups: self.lookups.iter().map(|l| (l.table.clone(), l.counts.len())).collect(),
            vocabulary: self.predictions.as_ref().map_or(expected.vocabulary, |p| p.targets.len()),
        };
        expected.compare(&found)
    }
}

/// The names and shapes that tie statistics to a model.
struct Shape {
    inputs: Vec<(usize, Vec<Reader>)>,
    lookups: Vec<(String, usize)>,
    vocabulary: usize,
}

impl Shape {
    fn of(graph: &Graph) -> Result<Shape, CalibrationError> {
        let program = Program::of(graph).map_err(InterpretError::Form)?;
        let mut shape = Shape { inputs: vec![], lookups: vec![], vocabulary: program.vocabulary() };
        for (_, step) in program.steps() {
            if let StepKind::Embed(e) = &step.kind {
                let rows = graph.weight(e.table).map.shape()[0];
                shape.lookups.push((graph.weight(e.table).name.clone(), rows));
            }
            let readers = readers(graph, &step.stacked());
            let Some(width) = readers.last().map(|r| r.columns.end) else { continue };
            if !shape.inputs.iter().any(|(_, r)| *r == readers) {
                shape.inputs.push((width, readers));
            }
        }
        Ok(shape)
    }

    fn compare(&self, found: &Shape) -> Result<(), CalibrationError> {
        let mismatch = |what: &str, expected: String, found: String| {
            Err(CalibrationError::Mismatch { what: what.into(), expected, found })
        };
        let maps = |s: &Shape| {
            let readers = s.inputs.iter().flat_map(|(_, r)| r);
            let maps = readers.map(|r| format!("@{} of {} columns", r.weight, r.columns.len()));
            maps.collect::<Vec<_>>().join(", ")
        };
        if self.inputs != found.inputs {
            return mismatch("maps", maps(self), maps(found));
        }
        if self.lookups != found.lookups {
            let tables = |s: &Shape| {
                let tables = s.lookups.iter().map(|(name, rows)| format!("@{name} of {rows} rows"));
                tables.collect::<Vec<_>>().join(", ")
            };
            return mismatch("embeddings", tables(self), tables(found));
        }
        if self.vocabulary != found.vocabulary {
            let words = |s: &Shape| format!("{} words", s.vocabulary);
            return mismatch("vocabulary", words(self), words(found));
        }
        Ok(())
    }
}

/// Maps by name.
pub(crate) fn readers(graph: &Graph, maps: &[(WeightId, Range<usize>)]) -> Vec<Reader> {
    let reader = |(id, columns): &(WeightId, Range<usize>)| Reader {
        weight: graph.weight(*id).name.clone(),
        columns: columns.clone(),
    };
    maps.iter().map(reader).collect()
}

/// Where passes get statistics from.
#[derive(Default)]
pub struct Calibration<'p> {
    tokens: Option<Vec<u32>>,
    reference: Option<Graph>,
    statistics: Option<Arc<Statistics>>,
    /// Of the reference, for all that share it.
    sensitivity: Arc<OnceLock<Arc<Sensitivity>>>,
    progress: Option<Box<Progress<'p>>>,
}

impl fmt::Debug for Calibration<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.tokens.as_ref().map(Vec::len);
        f.debug_struct("Calibration")
            .field("tokens", &tokens)
            .field("collected", &self.statistics.is_some())
            .finish()
    }
}

impl<'p> Calibration<'p> {
    /// Statistics of this text, collected when they are first requested.
    pub fn of_text(tokens: Vec<u32>) -> Calibration<'p> {
        Calibration { tokens: Some(tokens), ..Calibration::default() }
    }

    /// Statistics that were collected before.
    pub fn of_statistics(statistics: Statistics) -> Calibration<'p> {
        Calibration { statistics: Some(Arc::new(statistics)), ..Calibration::default() }
    }

    /// Reports reading to `progress`.
    pub fn with_progress(self, progress: impl FnMut(usize, usize) + Send + 'p) -> Calibration<'p> {
        Calibration { progress: Some(Box::new(progress)), ..self }
    }

    /// Sets the model that the statistics describe: the driver passes the graph before the first lossy pass. Later calls have no effect;
    /// see [`Calibration::refer_to_trained`].
    pub fn refer_to(&mut self, graph: &Graph) {
        self.reference.get_or_insert_with(|| graph.clone());
    }

    /// Tells that `graph` has been trained: earlier statistics no longer describe it well, so if there is text, statistics are of `graph` from now
    /// on.
    pub fn refer_to_trained(&mut self, graph: &Graph) {
        if self.tokens.is_some() {
            (self.statistics, self.reference) = (None, Some(graph.clone()));
            self.sensitivity = Arc::default();
        }
    }

    /// The statistics of the model before the first lossy pass, or after the last training, from which `graph` was made.
    pub fn statistics(&mut self, graph: &Graph) -> Result<Arc<Statistics>, CalibrationError> {
        let statistics = match &self.statistics {
            Some(statistics) => statistics.clone(),
            None => {
                let (reference, tokens, progress) = self.source()?;
                let reference = reference.get_or_insert_with(|| graph.clone());
                let collected = Statistics::collect(reference, tokens, progress)?;
                self.statistics.insert(Arc::new(collected)).clone()
            }
        };
        statistics.check(graph)?;
        Ok(statistics)
    }

    /// How sensitive the loss of that model is to its maps' results. Needs the text.
    pub fn sensitivity(&mut self, graph: &Graph) -> Result<Arc<Sensitivity>, CalibrationError> {
        let cell = self.sensitivity.clone();
        let sensitivity = match cell.get() {
            Some(sensitivity) => sensitivity,
            None => {
                let (reference, tokens, progress) = self.source()?;
                let reference = reference.get_or_insert_with(|| graph.clone());
                let collected = Sensitivity::collect(reference, tokens, progress)?;
                cell.get_or_init(|| Arc::new(collected))
            }
        };
        sensitivity.check(graph)?;
        Ok(sensitivity.clone())
    }

    /// The inputs of some maps in the model as it was, `original`, and in its current form, `now`, on the same tokens. Both have weights with the names
    /// in `of`, of any number of columns. Needs the text.
    pub fn drift(&mut self, original: &Graph, now: &Graph, of: &[Reader]) -> Result<Drift, CalibrationError> {
        let (_, tokens, progress) = self.source()?;
        Drift::collect([original, now], tokens, of, progress)
    }

    /// The model that statistics describe, if it is known; the text, and where progress is reported.
    fn source(&mut self) -> Result<(&mut Option<Graph>, &[u32], &mut Progress<'p>), CalibrationError> {
        let tokens = self.tokens.as_deref().ok_or(CalibrationError::NoText)?;
        let progress = self.progress.get_or_insert_with(|| Box::new(|_, _| {}));
        Ok((&mut self.reference, tokens, progress))
    }

    /// Another source of the same statistics, and of the same text if there is one, for another run on the same model; statistics not collected yet
    /// are collected now.
    pub fn share<'q>(&mut self, graph: &Graph) -> Result<Calibration<'q>, CalibrationError> {
        Ok(Calibration {
            statistics: Some(self.statistics(graph)?),
            tokens: self.tokens.clone(),
            reference: self.reference.clone(),
            sensitivity: self.sensitivity.clone(),
            progress: None,
        })
    }

    /// Whether [`Calibration::inputs`] can collect on a changed model.
    pub fn has_text(&self) -> bool {
        self.tokens.is_some()
    }

    /// Statistics of `graph` in its current form, without predictions. Needs the text.
    pub fn inputs(&mut self, graph: &Graph) -> Result<Statistics, CalibrationError> {
        let (_, tokens, progress) = self.source()?;
        collect::collect(graph, tokens, false, progress)
    }

    /// The mean probability of each word on the text, by `graph` in its current form, which reads it in streams side by side. Needs the text.
    pub fn probabilities(&mut self, graph: &Graph) -> Result<Vec<f64>, CalibrationError> {
        let (_, tokens, progress) = self.source()?;
        let program = Program::of(graph).map_err(InterpretError::Form)?;
        if program.head() == Head::Hidden {
            return Err(InterpretError::NoPredictions.into());
        }
        check_tokens(tokens, program.vocabulary())?;
        let found = reading::probabilities(graph, tokens, progress);
        let found = found.map_err(|error| CalibrationError::Gradients(Box::new(error)))?;
        collect::finite(&found, || "the predictions".into())?;
        Ok(found)
    }

    /// The mean negative log-likelihood of `graph` on the first `most` tokens of the text.
    pub fn loss(&self, graph: &Graph, most: usize) -> Result<f64, CalibrationError> {
        let tokens = self.tokens.as_deref().ok_or(CalibrationError::NoText)?;
        let tokens = &tokens[..tokens.len().min(most)];
        if tokens.len() < 2 {
            return Err(CalibrationError::TooFewTokens { found: tokens.len() });
        }
        let model = interpret::LanguageModel::<f32>::new(graph)?;
        Ok(-model.log_likelihood(tokens, &mut |_| {})? / (tokens.len() - 1) as f64)
    }
}

#[cfg(test)]
mod tests;
