//! Scoring long texts with a graph in language-model form.
//!
//! One stream is read in chunks of steps. Work without recurrence (embeddings, input products, the output layer) is computed for a
//! whole chunk at once; only the recurrent product runs step by step:
//!
//! ```text
//!   tokens [n] ─▶ embedding [n, e] ─▶ W x + b [n, 4 h] ─▶ for each step: + R h, gates ─▶ y [n, h] ─▶ ... ─▶ logits [n, v]
//!                                                           └── h, c carried to the next chunk
//! ```
//!
//! The graph is evaluated node by node on buffers of a chunk's rows, so skip connections and elementwise operators between the
//! layers need no special case. Recurrent state is read and written only by cells: anything else would make a result depend on
//! where chunks end, and is refused.

mod build;

use super::error::InterpretError;
use super::layers::{add_rows, update};
use super::matrix::{Matrix, Transposed};
use super::real::Real;
use crate::ir::{CellSpec, Formula, NodeId, StateId, WeightId};
use rayon::prelude::*;
use std::sync::Arc;

/// Steps per chunk, unless [`LanguageModel::with_chunk`] says otherwise.
const CHUNK: usize = 256;

/// A graph in language-model form, decoded for scoring in f32 or f64.
pub struct LanguageModel<T: Real> {
    layers: Vec<Layer<T>>,
    /// Features of each buffer.
    widths: Vec<usize>,
    /// The buffer of the logits.
    logits: usize,
    /// The width of each state.
    states: Vec<usize>,
    chunk: usize,
}

/// A node. The buffer of its result has the layer's index.
struct Layer<T> {
    node: NodeId,
    /// Whether a later layer reads the result.
    read: bool,
    kind: Kind<T>,
}

enum Kind<T> {
    Embedding { table: WeightId, matrix: Arc<Matrix<T>> },
    Cell(Box<Cell<T>>),
    Linear { x: usize, weight: WeightId, matrix: Arc<Matrix<T>>, bias: Option<Vec<T>> },
    Map { formula: Formula, operands: Vec<Source<T>> },
}

struct Cell<T> {
    spec: CellSpec,
    x: usize,
    states: Vec<StateId>,
    weights: [WeightId; 2],
    input: Arc<Matrix<T>>,
    recurrent: Transposed<T>,
    bias: Vec<T>,       // [gates units]
    parameters: Vec<T>, // [parameters units]
}

/// An operand of an elementwise operator.
enum Source<T> {
    Buffer(usize),
    /// One element, or one per feature.
    Constant(Vec<T>),
}

impl<T> Source<T> {
    /// The operand for a row of the result.
    fn row<'a>(&'a self, work: &'a Workspace<T>, row: usize, width: usize) -> &'a [T] {
        match self {
            Source::Buffer(b) => &work.buffers[*b][row * width..][..width],
            Source::Constant(data) => data,
        }
    }
}

/// The recurrent state of one stream.
#[derive(Clone, PartialEq, Debug)]
pub struct State<T> {
    values: Vec<Vec<T>>, // [states][hidden]
}

/// Buffers of one chunk.
struct Workspace<T> {
    buffers: Vec<Vec<T>>, // [buffers][chunk, features]
    gates: Vec<T>,        // [chunk, gates units]
    rows: Vec<T>,         // [chunk, features + hidden], for observers
}

/// A layer's inputs for the steps of one chunk: the vectors before a map that takes int8 rounds them.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Observation<'a, T> {
    /// The tokens that an `embedding` looked up.
    Embedding {
        /// The table.
        table: WeightId,
        /// One token per step.
        tokens: &'a [u32],
    },
    /// The vectors that a cell multiplied by its two maps: the stacked `[x_t; h_(t-1)]`.
    Cell {
        /// The input map, which multiplies the first `features` of each row.
        input: WeightId,
        /// The recurrent map, which multiplies the rest.
        recurrent: WeightId,
        /// The length of `x_t`.
        features: usize,
        /// The length of a row: features and hidden units.
        width: usize,
        /// One row per step, `[steps, width]`.
        rows: &'a [T],
    },
    /// The vectors that a `linear` multiplied by its map.
    Linear {
        /// The map.
        weight: WeightId,
        /// The length of a row.
        width: usize,
        /// One row per step, `[steps, width]`.
        rows: &'a [T],
    },
    /// The logarithms of the probabilities of the next word. Its node is the one that computed the logits.
    Predictions {
        /// The number of words.
        vocabulary: usize,
        /// One row per step, `[steps, vocabulary]`.
        log_probabilities: &'a [T],
        /// The word that came next at each step.
        targets: &'a [u32],
    },
}

/// Sees the inputs of every layer while a text is read. `H = sum x x^T` of calibration is one of these.
pub trait Observer<T> {
    /// Called once for each layer and chunk, in the order of the graph and the text.
    fn observe(&mut self, node: NodeId, observation: Observation<'_, T>);

    /// Whether to compute and show [`Observation::Predictions`], which costs the output layer.
    fn wants_predictions(&self) -> bool {
        false
    }
}

impl<T: Real> LanguageModel<T> {
    /// Reads this many steps at once. Results do not depend on it, except for rounding.
    pub fn with_chunk(mut self, steps: usize) -> LanguageModel<T> {
        self.chunk = steps.max(1);
        self
    }

    /// The number of words.
    pub fn vocabulary(&self) -> usize {
        self.widths[self.logits]
    }

    /// The state before a text: zero.
    pub fn state(&self) -> State<T> {
        State { values: self.states.iter().map(|&n| vec![T::default(); n]).collect() }
    }

    /// Reads tokens and returns the logits after each, `[tokens, vocabulary]`. The state is advanced.
    pub fn logits(&self, state: &mut State<T>, tokens: &[u32]) -> Result<Vec<T>, InterpretError> {
        self.check(tokens)?;
        let mut work = self.workspace();
        let mut all = Vec::with_capacity(tokens.len() * self.vocabulary());
        for chunk in tokens.chunks(self.chunk) {
            self.read(&mut work, state, chunk, true, None);
            all.extend_from_slice(&work.buffers[self.logits]);
        }
        Ok(all)
    }

    /// The natural log-likelihood of `tokens[1..]`, each given the tokens before it, from a zero state; log-softmax in `T`, the sum in
    /// f64. Perplexity is `exp(-log_likelihood / (tokens.len() - 1))`. `progress` gets the number of tokens predicted so far.
    pub fn log_likelihood(
        &self,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> Result<f64, InterpretError> {
        self.check(tokens)?;
        let Some((_, targets)) = tokens.split_first() else { return Ok(0.0) };
        let (mut work, mut state) = (self.workspace(), self.state());
        let (mut sum, mut done) = (0.0, 0);
        for (chunk, targets) in tokens[..targets.len()].chunks(self.chunk).zip(targets.chunks(self.chunk)) {
            self.read(&mut work, &mut state, chunk, true, None);
            let rows = work.buffers[self.logits].par_chunks(self.vocabulary());
            let terms: Vec<f64> = rows
                .zip(targets)
                .map(|(row, &target)| row[target as usize].to_f64() - log_sum_exp(row))
                .collect();
            if let Some(bad) = terms.iter().position(|t| t.is_nan()) {
                return Err(InterpretError::NotANumber { position: done + bad + 1 });
            }
            sum += terms.iter().sum::<f64>();
            done += chunk.len();
            progress(done);
        }
        Ok(sum)
    }

    /// Reads a text as [`LanguageModel::log_likelihood`] does and shows the observer every layer's inputs: those for all tokens except
    /// the last, which predicts nothing. Results that only the score needs are not computed.
    pub fn run_with(&self, tokens: &[u32], observer: &mut dyn Observer<T>) -> Result<(), InterpretError> {
        self.check(tokens)?;
        let Some((_, targets)) = tokens.split_first() else { return Ok(()) };
        let (mut work, mut state) = (self.workspace(), self.state());
        let predictions = observer.wants_predictions();
        let node = self.layers[self.logits].node;
        for (chunk, targets) in tokens[..targets.len()].chunks(self.chunk).zip(targets.chunks(self.chunk)) {
            self.read(&mut work, &mut state, chunk, predictions, Some(observer));
            if predictions {
                let vocabulary = self.vocabulary();
                let logits = &mut work.buffers[self.logits];
                logits.par_chunks_mut(vocabulary).for_each(|row| {
                    let log_sum = T::of(log_sum_exp(row));
                    row.iter_mut().for_each(|x| *x -= log_sum);
                });
                let log_probabilities = &work.buffers[self.logits];
                observer.observe(node, Observation::Predictions { vocabulary, log_probabilities, targets });
            }
        }
        Ok(())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), InterpretError> {
        let vocabulary = self.vocabulary();
        match tokens.iter().position(|&t| t as usize >= vocabulary) {
            Some(position) => Err(InterpretError::Token { position, token: tokens[position], vocabulary }),
            None => Ok(()),
        }
    }

    fn workspace(&self) -> Workspace<T> {
        Workspace { buffers: vec![vec![]; self.widths.len()], gates: vec![], rows: vec![] }
    }

    /// Evaluates the graph on one chunk.
    fn read(
        &self,
        work: &mut Workspace<T>,
        state: &mut State<T>,
        tokens: &[u32],
        logits: bool,
        mut observer: Option<&mut (dyn Observer<T> + '_)>,
    ) {
        let n = tokens.len();
        for (k, layer) in self.layers.iter().enumerate() {
            // Moved out, so that a layer can read other buffers while it writes its own.
            let mut out = std::mem::take(&mut work.buffers[k]);
            let needed = layer.read || (logits && k == self.logits);
            match &layer.kind {
                Kind::Embedding { table, matrix } => {
                    out.clear();
                    tokens.iter().for_each(|&t| matrix.push_row(t as usize, &mut out));
                    if let Some(observer) = &mut observer {
                        observer.observe(layer.node, Observation::Embedding { table: *table, tokens });
                    }
                }
                Kind::Cell(cell) => {
                    let before = observer.is_some().then(|| state.values[cell.states[0].index()].clone());
                    cell.run(n, &work.buffers[cell.x], state, &mut work.gates, &mut out);
                    if let (Some(observer), Some(before)) = (&mut observer, before) {
                        cell.stack(n, &work.buffers[cell.x], &before, &out, &mut work.rows);
                        observer.observe(layer.node, cell.observation(&work.rows));
                    }
                }
                Kind::Linear { x, weight, matrix, bias } => {
                    let rows = &work.buffers[*x];
                    if let Some(observer) = &mut observer {
                        let seen = Observation::Linear { weight: *weight, width: matrix.cols(), rows };
                        observer.observe(layer.node, seen);
                    }
                    if needed {
                        matrix.apply(n, rows, &mut out);
                        if let Some(bias) = bias {
                            add_rows(&mut out, bias);
                        }
                    }
                }
                Kind::Map { formula, operands } if needed => {
                    let width = self.widths[k];
                    out.clear();
                    for row in 0..n {
                        let inputs: Vec<&[T]> = operands.iter().map(|o| o.row(work, row, width)).collect();
                        out.extend(formula.values(&inputs).swap_remove(0));
                    }
                }
                Kind::Map { .. } => {}
            }
            work.buffers[k] = out;
        }
    }
}

impl<T: Real> Cell<T> {
    /// All steps of a chunk; `y: [n, hidden]` is overwritten.
    fn run(&self, n: usize, x: &[T], state: &mut State<T>, gates: &mut Vec<T>, y: &mut Vec<T>) {
        self.input.apply(n, x, gates);
        add_rows(gates, &self.bias);
        let mut states: Vec<Vec<T>> =
            self.states.iter().map(|s| std::mem::take(&mut state.values[s.index()])).collect();
        y.clear();
        for gates in gates.chunks_exact_mut(self.bias.len().max(1)) {
            self.recurrent.add_product(&states[0], gates);
            let mut all: Vec<&mut [T]> = states.iter_mut().map(Vec::as_mut_slice).collect();
            update(&self.spec, gates, &self.parameters, &mut all);
            y.extend_from_slice(&states[0]);
        }
        for (id, values) in self.states.iter().zip(states) {
            state.values[id.index()] = values;
        }
    }

    /// `[x_t; h_(t-1)]` for each step, from the state before the chunk and the outputs of it.
    fn stack(&self, n: usize, x: &[T], before: &[T], y: &[T], rows: &mut Vec<T>) {
        let (features, hidden) = (self.input.cols(), self.recurrent.inputs());
        rows.clear();
        for t in 0..n {
            rows.extend_from_slice(&x[t * features..(t + 1) * features]);
            rows.extend_from_slice(if t == 0 { before } else { &y[(t - 1) * hidden..t * hidden] });
        }
    }

    fn observation<'a>(&self, rows: &'a [T]) -> Observation<'a, T> {
        let [input, recurrent] = self.weights;
        let features = self.input.cols();
        Observation::Cell { input, recurrent, features, width: features + self.recurrent.inputs(), rows }
    }
}

/// `log sum exp` of a row, without overflow; the sum in f64.
fn log_sum_exp<T: Real>(row: &[T]) -> f64 {
    let max = row.iter().copied().fold(row[0], |a, b| if b > a { b } else { a });
    let sum: f64 = row.iter().map(|&x| Real::exp(x - max).to_f64()).sum();
    max.to_f64() + sum.ln()
}
