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
//! A chunk is a [`Window`] of the program, so the recurrent groups of steps run once for each token.

mod build;

use super::error::InterpretError;
use super::layers::{add_rows, join, log_softmax, log_sum_exp, norm, sums, update};
use super::matrix::{Matrix, Transposed};
use super::real::Real;
use crate::ir::{
    CellSpec, Formula, Head, Layout, NodeId, Sequence, Slice, StateId, StepId, WeightId, Window,
};
use rayon::prelude::*;
use std::sync::Arc;

/// Steps per chunk, unless [`LanguageModel::with_chunk`] says otherwise.
const CHUNK: usize = 256;

/// A graph in language-model form, decoded for scoring in f32 or f64.
pub struct LanguageModel<T: Real> {
    layers: Vec<Layer<T>>,
    layout: Arc<Layout>,
    output: StepId,
    head: Head,
    vocabulary: usize,
    /// The states at the start of a text.
    start: State<T>,
    chunk: usize,
}

/// A step.
struct Layer<T> {
    node: NodeId,
    /// Whether another step reads the result.
    read: bool,
    kind: Kind<T>,
}

enum Kind<T> {
    Embed { table: WeightId, matrix: Arc<Matrix<T>> },
    Apply { terms: Vec<Term<T>>, bias: Option<Vec<T>> },
    Cell(Box<Cell<T>>),
    Map { formula: Formula, operands: Vec<Source<T>> },
    Norm { x: Slice, scale: Option<Vec<T>>, shift: Option<Vec<T>>, epsilon: T },
    LogSoftmax(Slice),
    Concat(Vec<Slice>),
}

struct Term<T> {
    x: Slice,
    weight: WeightId,
    matrix: Multiplier<T>,
}

/// A map in the form that suits how often it is applied to one vector.
enum Multiplier<T> {
    Batched(Arc<Matrix<T>>),
    Stepwise(Transposed<T>),
}

struct Cell<T> {
    spec: CellSpec,
    x: Slice,
    states: Vec<StateId>,
    weights: [WeightId; 2],
    input: Arc<Matrix<T>>,
    recurrent: Transposed<T>,
    bias: Vec<T>,       // [blocks units]
    parameters: Vec<T>, // [parameters units]
}

/// An operand of an elementwise formula.
enum Source<T> {
    Slice(Slice),
    /// One element, or one per feature.
    Constant(Vec<T>),
}

/// The recurrent state of one stream.
#[derive(Clone, PartialEq, Debug)]
pub struct State<T> {
    values: Vec<Vec<T>>, // [states][width]
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
    /// The vectors that maps multiplied whose products are summed, stacked: for a cell `[x_t; h_(t-1)]`.
    Product {
        /// The maps, in the order of the stacked vectors: of a cell the input map, then the recurrent one.
        weights: &'a [WeightId],
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
        self.vocabulary
    }

    /// The length of an output: the vocabulary's, or that of a hidden vector.
    pub fn width(&self) -> usize {
        self.layout.width(self.output)
    }

    /// The state before a text.
    pub fn state(&self) -> State<T> {
        self.start.clone()
    }

    /// Reads tokens and returns the output after each, `[tokens, width]`: logits, or hidden vectors. The state is advanced.
    pub fn outputs(&self, state: &mut State<T>, tokens: &[u32]) -> Result<Vec<T>, InterpretError> {
        self.check(tokens)?;
        let mut all = Vec::with_capacity(tokens.len() * self.width());
        for chunk in tokens.chunks(self.chunk) {
            let mut window = self.read(state, chunk, &self.whole(true));
            all.append(&mut window.results[self.output.index()]);
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
        let mut done = 0;
        self.log_likelihoods(tokens, &mut |terms| {
            done += terms.len();
            progress(done);
        })
    }

    /// [`LanguageModel::log_likelihood`]; `found` gets that of each token, some at a time, in order.
    pub fn log_likelihoods(
        &self,
        tokens: &[u32],
        found: &mut dyn FnMut(&[f64]),
    ) -> Result<f64, InterpretError> {
        self.check(tokens)?;
        if self.head == Head::Hidden {
            return Err(InterpretError::NoPredictions);
        }
        let Some((_, targets)) = tokens.split_first() else { return Ok(0.0) };
        let mut state = self.state();
        let (mut sum, mut done) = (0.0, 0);
        for (chunk, targets) in tokens[..targets.len()].chunks(self.chunk).zip(targets.chunks(self.chunk)) {
            let window = self.read(&mut state, chunk, &self.whole(true));
            let rows = window.results[self.output.index()].par_chunks(self.vocabulary);
            let terms: Vec<f64> = rows
                .zip(targets)
                .map(|(row, &target)| row[target as usize].to_f64() - log_sum_exp(row))
                .collect();
            if let Some(bad) = terms.iter().position(|t| t.is_nan()) {
                return Err(InterpretError::NotANumber { position: done + bad + 1 });
            }
            sum += terms.iter().sum::<f64>();
            done += chunk.len();
            found(&terms);
        }
        Ok(sum)
    }

    /// How far the outputs on a text, from the start, are from those of a reference: `|y - y'| / |y|` over all tokens. This is the quality of a model
    /// that returns hidden vectors. `progress` gets the number of tokens read so far.
    pub fn relative_error(
        &self,
        reference: &LanguageModel<T>,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> Result<f64, InterpretError> {
        let (mut states, mut done) = ([self.state(), reference.state()], 0);
        let (mut error, mut size) = (0.0, 0.0);
        for chunk in tokens.chunks(self.chunk) {
            let [mine, other] = &mut states;
            let (have, want) = (self.outputs(mine, chunk)?, reference.outputs(other, chunk)?);
            error += have.iter().zip(&want).map(|(&a, &b)| (a - b).to_f64().powi(2)).sum::<f64>();
            size += want.iter().map(|&b| b.to_f64().powi(2)).sum::<f64>();
            done += chunk.len();
            progress(done);
        }
        Ok(if error == 0.0 { 0.0 } else { (error / size).sqrt() })
    }

    /// Reads a text as [`LanguageModel::log_likelihood`] does and shows the observer every layer's inputs: those for all tokens except
    /// the last, which predicts nothing. Results that only the score needs are not computed. A model without predictions shows none.
    pub fn run_with(&self, tokens: &[u32], observer: &mut dyn Observer<T>) -> Result<(), InterpretError> {
        self.check(tokens)?;
        let Some((_, targets)) = tokens.split_first() else { return Ok(()) };
        let mut state = self.state();
        let predictions = observer.wants_predictions() && self.head == Head::Logits;
        let (k, vocabulary) = (self.output.index(), self.vocabulary);
        for (chunk, targets) in tokens[..targets.len()].chunks(self.chunk).zip(targets.chunks(self.chunk)) {
            let mut window = self.read(&mut state, chunk, &self.whole(predictions));
            self.show(&window, chunk, observer);
            if predictions {
                let rows = &mut window.results[k];
                rows.par_chunks_mut(vocabulary).for_each(log_softmax);
                let log_probabilities = &window.results[k];
                let seen = Observation::Predictions { vocabulary, log_probabilities, targets };
                observer.observe(self.layers[k].node, seen);
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

    /// All steps, except the output if it is not requested and no other step reads it.
    fn whole(&self, output: bool) -> Vec<bool> {
        let is_needed = |(k, layer): (usize, &Layer<T>)| {
            layer.read || (output && k == self.output.index()) || matches!(layer.kind, Kind::Cell(_))
        };
        self.layers.iter().enumerate().map(is_needed).collect()
    }

    /// Runs the steps that are needed on one chunk and advances their states.
    fn read(&self, state: &mut State<T>, tokens: &[u32], needed: &[bool]) -> Window<T> {
        let mut window = Window::new(&self.layout, tokens.len(), 1, state.values.clone());
        for (step, times) in self.layout.schedule(tokens.len()) {
            let layer = &self.layers[step.index()];
            let (n, width) = (times.len(), self.layout.width(step));
            if !needed[step.index()] {
                continue;
            }
            let read = |x: Slice| window.read(x, times.clone());
            let rows = match &layer.kind {
                Kind::Embed { matrix, .. } => {
                    let mut rows = vec![];
                    tokens[times.clone()].iter().for_each(|&t| matrix.push_row(t as usize, &mut rows));
                    rows
                }
                Kind::Apply { terms, bias } => {
                    let mut products = terms.iter().map(|term| term.matrix.apply(n, &read(term.x)));
                    let mut sum = products.next().unwrap_or_default();
                    products.for_each(|more| sum.iter_mut().zip(more).for_each(|(s, x)| *s += x));
                    if let Some(bias) = bias {
                        add_rows(&mut sum, bias);
                    }
                    sum
                }
                Kind::Cell(cell) => cell.run(n, &read(cell.x), state),
                Kind::Map { formula, operands } => {
                    let slices: Vec<_> = operands.iter().map(|o| o.slice().map(read)).collect();
                    let row = |row: usize| {
                        let inputs =
                            operands.iter().zip(&slices).map(|(operand, slice)| match (operand, slice) {
                                (Source::Slice(x), Some(rows)) => &rows[row * x.width..][..x.width],
                                (Source::Constant(data), _) => &data[..],
                                (Source::Slice(_), None) => &[],
                            });
                        formula.values_of(width, &inputs.collect::<Vec<_>>()).swap_remove(0)
                    };
                    (0..n).flat_map(row).collect()
                }
                Kind::Norm { x, scale, shift, epsilon } => {
                    let mut rows = read(*x).into_owned();
                    let vectors = [scale.as_deref(), shift.as_deref()];
                    rows.chunks_mut(width.max(1)).for_each(|row| norm(row, vectors, *epsilon));
                    rows
                }
                Kind::LogSoftmax(x) => {
                    let mut rows = read(*x).into_owned();
                    rows.chunks_mut(width.max(1)).for_each(log_softmax);
                    rows
                }
                Kind::Concat(parts) => {
                    let rows: Vec<_> = parts.iter().map(|&x| read(x)).collect();
                    join(n, rows.iter().map(|r| &**r).zip(parts.iter().map(|x| x.width)))
                }
            };
            window.write(step, times, rows);
        }
        for (k, (of, values)) in self.layout.states().iter().zip(&mut state.values).enumerate() {
            if of.is_stepwise && needed[of.next.index()] {
                values.copy_from_slice(window.after(k));
            }
        }
        window
    }

    /// Shows what the steps of a window have read.
    fn show(&self, window: &Window<T>, tokens: &[u32], observer: &mut dyn Observer<T>) {
        for layer in &self.layers {
            if let Kind::Embed { table, .. } = &layer.kind {
                observer.observe(layer.node, Observation::Embedding { table: *table, tokens });
            }
            let (parts, weights) = layer.products();
            if weights.is_empty() {
                continue;
            }
            let rows = stacked(window, &parts, tokens.len());
            let width = parts.iter().map(|x| x.width).sum();
            observer.observe(layer.node, Observation::Product { weights: &weights, width, rows: &rows });
        }
    }
}

impl<T: Real> Layer<T> {
    /// The maps whose products the step sums, and what they multiply.
    fn products(&self) -> (Vec<Slice>, Vec<WeightId>) {
        match &self.kind {
            Kind::Apply { terms, .. } => terms.iter().map(|t| (t.x, t.weight)).unzip(),
            Kind::Cell(cell) => {
                let width = cell.recurrent.inputs();
                let h = Slice { of: Sequence::State(cell.states[0]), from: 0, width };
                (vec![cell.x, h], cell.weights.to_vec())
            }
            _ => (vec![], vec![]),
        }
    }
}

/// Slices of all steps of a window, side by side.
fn stacked<T: Real>(window: &Window<T>, parts: &[Slice], n: usize) -> Vec<T> {
    let rows: Vec<_> = parts.iter().map(|&x| window.read(x, 0..n)).collect();
    join(n, rows.iter().map(|r| &**r).zip(parts.iter().map(|x| x.width)))
}

impl<T> Source<T> {
    fn slice(&self) -> Option<Slice> {
        match self {
            Source::Slice(x) => Some(*x),
            Source::Constant(_) => None,
        }
    }
}

impl<T: Real> Multiplier<T> {
    fn apply(&self, n: usize, x: &[T]) -> Vec<T> {
        match self {
            Multiplier::Batched(matrix) => {
                let mut out = vec![];
                matrix.apply(n, x, &mut out);
                out
            }
            Multiplier::Stepwise(matrix) => {
                let mut out = vec![T::default(); n * matrix.outputs()];
                let rows = out.chunks_exact_mut(matrix.outputs().max(1));
                rows.zip(x.chunks_exact(matrix.inputs().max(1)))
                    .for_each(|(out, x)| matrix.add_product(x, out));
                out
            }
        }
    }
}

impl<T: Real> Cell<T> {
    /// All steps of a chunk.
    fn run(&self, n: usize, x: &[T], state: &mut State<T>) -> Vec<T> {
        let mut of_x = vec![];
        self.input.apply(n, x, &mut of_x);
        let mut states: Vec<Vec<T>> =
            self.states.iter().map(|s| std::mem::take(&mut state.values[s.index()])).collect();
        let units = states[0].len();
        let mut y = Vec::with_capacity(n * units);
        for of_x in of_x.chunks_exact((self.spec.input.blocks() * units).max(1)) {
            let add = |h: &[T], sums: &mut [T]| self.recurrent.add_product(h, sums);
            let gates = sums(&self.spec, of_x, &self.bias, &states[0], add);
            let mut all: Vec<&mut [T]> = states.iter_mut().map(Vec::as_mut_slice).collect();
            update(&self.spec, &gates, &self.parameters, &mut all);
            y.extend_from_slice(&states[0]);
        }
        for (id, values) in self.states.iter().zip(states) {
            state.values[id.index()] = values;
        }
        y
    }
}
