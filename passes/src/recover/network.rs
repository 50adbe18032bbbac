//! Forward and backward passes of a program over a window of steps of several streams.
//!
//! Rows of a window are ordered by step, then stream. Work without recurrence is one product per window: the cells' input products,
//! the output layer, and the gradients of all weights; only the recurrent product runs step by step, in both directions.

use super::formula::{Backward, Forward};
use super::number::{Number, vectorized};
use super::weights::{Form, Gradients, Weights, leaves};
use crate::pass::PassError;
use crate::target::Target;
use lstmc_frontend::ir::arbitrary::SplitMix64;
use lstmc_frontend::ir::{self, CellSpec, Formula, Graph, Program, StateId, StepKind, Term, WeightId};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A model that can be trained.
pub(super) struct Network<T> {
    layers: Vec<Layer>,
    widths: Vec<usize>,
    /// Whether anything that a layer's result depends on is trained.
    needed: Vec<bool>,
    /// The width of each state.
    states: Vec<usize>,
    logits: usize,
    pub(super) weights: Weights<T>,
}

enum Layer {
    Embedding { table: Form },
    Cell(Box<Cell>),
    Linear { x: usize, weight: Form, bias: Option<Form> },
    Map { formula: Formula, operands: Vec<Source> },
}

struct Cell {
    spec: CellSpec,
    x: usize,
    states: Vec<StateId>,
    units: usize,
    input: Form,
    recurrent: Form,
    bias: Form,
    parameters: Option<Form>,
}

/// An input of a formula: a layer's result, or a constant with one element or one per feature.
enum Source {
    Layer(usize),
    Constant(Form),
}

/// Each state, `[streams, units]`; empty means zeros.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State<T>(Vec<Vec<T>>);

impl<T> State<T> {
    /// Whether this can be the state of this many streams in a network: zeros, or the right sizes.
    pub(super) fn is_of(&self, network: Option<&Network<T>>, streams: usize) -> bool {
        let sizes = network.into_iter().flat_map(|n| &n.states).map(|width| width * streams);
        self.0.is_empty() || self.0.iter().map(Vec::len).eq(sizes)
    }
}

/// The values that a window's forward pass keeps for the backward pass.
pub(super) struct Tape<T> {
    rows: usize,
    streams: usize,
    /// For each layer, `[rows, width]`.
    values: Vec<Vec<T>>,
    /// Inputs of cells and linear layers after dropout, and the factor of each element.
    dropped: Vec<Option<[Vec<T>; 2]>>,
    /// For each layer that has a formula.
    formulas: Vec<FormulaTape<T>>,
}

#[derive(Default)]
struct FormulaTape<T> {
    values: Vec<T>, // [rows, terms, width]
    h: Vec<T>,      // [rows, units], what a cell's recurrent map read
}

/// Dropout in the forward pass: each input of a cell or linear layer is dropped with this probability.
pub(super) struct Dropout<'r> {
    pub(super) probability: f64,
    pub(super) rng: &'r mut SplitMix64,
}

impl<T: Number> Tape<T> {
    /// `[rows, vocabulary]`.
    pub(super) fn take_logits(&mut self, network: &Network<T>) -> Vec<T> {
        std::mem::take(&mut self.values[network.logits])
    }
}

impl<T: Number> Network<T> {
    /// A network of `graph` that trains the weights of `target`, or no weights if there is no target.
    pub(super) fn new(graph: &Graph, target: Option<&Target>) -> Result<Network<T>, PassError> {
        let program = Program::of(graph)?;
        let mut trained = BTreeSet::new();
        for id in target.map_or(Ok(vec![]), |t| t.weights(graph))? {
            let map = &graph.weight(id).map;
            if map.dtype().is_float() {
                leaves(map, &mut trained);
            }
        }
        let mut weights = Weights::new();
        let mut add = |id: WeightId| weights.add(graph, id, &trained);
        let mut layers = vec![];
        for (_, step) in program.steps() {
            layers.push(match &step.kind {
                StepKind::Embed(e) => Layer::Embedding { table: add(e.table)? },
                StepKind::Apply(a) => Layer::Linear {
                    x: a.x.index(),
                    bias: a.bias.map(&mut add).transpose()?,
                    weight: add(a.weight)?,
                },
                StepKind::Cell(cell) => Layer::Cell(Box::new(Cell {
                    spec: cell.spec.clone(),
                    x: cell.x.index(),
                    states: cell.states.clone(),
                    units: step.width,
                    input: add(cell.input)?,
                    recurrent: add(cell.recurrent)?,
                    bias: add(cell.bias)?,
                    parameters: cell.parameters.map(&mut add).transpose()?,
                })),
                StepKind::Map(map) => {
                    let source = |source: &ir::Source| {
                        Ok(match source {
                            ir::Source::Step(s) => Source::Layer(s.index()),
                            ir::Source::Constant(w) => Source::Constant(add(*w)?),
                        })
                    };
                    let operands = map.operands.iter().map(source).collect::<Result<_, PassError>>()?;
                    Layer::Map { formula: map.formula.clone(), operands }
                }
            });
        }
        weights.refresh();
        let mut needed = vec![];
        for layer in &layers {
            needed.push(layer.is_needed(&weights, &needed));
        }
        let widths = program.steps().map(|(_, s)| s.width).collect();
        let states = program.states().iter().map(|s| s.width).collect();
        Ok(Network { layers, widths, needed, states, logits: program.logits().index(), weights })
    }

    /// Reads `tokens`, ordered by step and then stream, and advances the state.
    pub(super) fn forward(
        &self,
        tokens: &[u32],
        streams: usize,
        state: &mut State<T>,
        mut dropout: Option<Dropout<'_>>,
    ) -> Tape<T> {
        let rows = tokens.len();
        state.0.resize(self.states.len(), vec![]);
        for (values, width) in state.0.iter_mut().zip(&self.states) {
            values.resize(streams * width, T::of(0.0));
        }
        let mut tape = Tape { rows, streams, values: vec![], dropped: vec![], formulas: vec![] };
        let w = &self.weights;
        for (layer, &width) in self.layers.iter().zip(&self.widths) {
            let (mut dropped, mut saved) = (None, FormulaTape::default());
            if let (Some(Dropout { probability, rng }), Some(x)) = (&mut dropout, layer.multiplied()) {
                dropped = Some(drop_out(&tape.values[x], *probability, rng));
            }
            let read = |x: usize| dropped.as_ref().map_or(&tape.values[x], |[kept, _]| kept);
            let value = match layer {
                Layer::Embedding { table } => w.rows(table, tokens),
                Layer::Cell(cell) => cell.forward(w, rows, streams, read(cell.x), state, &mut saved),
                Layer::Linear { x, weight, bias } => {
                    let mut y = w.apply(weight, rows, read(*x));
                    if let Some(bias) = bias {
                        add_to_rows(&mut y, w.vector(bias));
                    }
                    y
                }
                Layer::Map { formula, operands } => {
                    let terms = formula.terms().len();
                    saved.values = vec![T::of(0.0); rows * terms * width];
                    let result = formula.results().next().map_or(0, |t| t.index());
                    let mut out = Vec::with_capacity(rows * width);
                    for (row, values) in saved.values.chunks_exact_mut(terms * width).enumerate() {
                        let inputs: Vec<&[T]> = operands
                            .iter()
                            .map(|operand| match operand {
                                Source::Layer(x) => &tape.values[*x][row * width..][..width],
                                Source::Constant(form) => w.vector(form),
                            })
                            .collect();
                        vectorized(Forward { formula, len: width, inputs: &inputs, values });
                        out.extend_from_slice(&values[result * width..][..width]);
                    }
                    out
                }
            };
            tape.values.push(value);
            tape.dropped.push(dropped);
            tape.formulas.push(saved);
        }
        tape
    }

    /// Adds the gradients of all that products read, given that of the logits; [`Weights::pull`] carries them to the parameters.
    pub(super) fn backward(
        &self,
        tokens: &[u32],
        tape: &Tape<T>,
        of_logits: Vec<T>,
        gradients: &mut Gradients<T>,
    ) {
        let (w, rows) = (&self.weights, tape.rows);
        let mut of_values: Vec<Vec<T>> = self.layers.iter().map(|_| vec![]).collect();
        of_values[self.logits] = of_logits;
        for (k, layer) in self.layers.iter().enumerate().rev().filter(|(k, _)| self.needed[*k]) {
            let dy = std::mem::take(&mut of_values[k]);
            if dy.is_empty() {
                continue;
            }
            let read = |x: usize| tape.dropped[k].as_ref().map_or(&tape.values[x], |[kept, _]| kept);
            let mut pass_on = |x: usize, mut dx: Vec<T>| {
                if let Some([_, factors]) = &tape.dropped[k] {
                    dx.iter_mut().zip(factors).for_each(|(d, &f)| *d *= f);
                }
                match &mut of_values[x] {
                    empty if empty.is_empty() => *empty = dx,
                    sum => sum.iter_mut().zip(dx).for_each(|(s, d)| *s += d),
                }
            };
            let saved = &tape.formulas[k];
            match layer {
                Layer::Embedding { table } => w.add_rows_gradient(table, tokens, &dy, gradients),
                Layer::Cell(cell) => {
                    let [of_gates, of_parameters] = cell.backward(w, rows, tape.streams, saved, &dy);
                    w.add_gradient(&cell.recurrent, rows, &saved.h, &of_gates, gradients);
                    w.add_gradient(&cell.input, rows, read(cell.x), &of_gates, gradients);
                    add_vector_gradient(w, &cell.bias, &of_gates, gradients);
                    if let Some(parameters) = &cell.parameters {
                        add_vector_gradient(w, parameters, &of_parameters, gradients);
                    }
                    if self.needed[cell.x] {
                        pass_on(cell.x, w.apply_transposed(&cell.input, rows, &of_gates));
                    }
                }
                Layer::Linear { x, weight, bias } => {
                    w.add_gradient(weight, rows, read(*x), &dy, gradients);
                    if let Some(bias) = bias {
                        add_vector_gradient(w, bias, &dy, gradients);
                    }
                    if self.needed[*x] {
                        pass_on(*x, w.apply_transposed(weight, rows, &dy));
                    }
                }
                Layer::Map { formula, operands } => {
                    let of_operands = map_slopes(formula, operands.len(), self.widths[k], &saved.values, &dy);
                    for (operand, d) in operands.iter().zip(of_operands) {
                        match operand {
                            Source::Layer(x) if self.needed[*x] => pass_on(*x, d),
                            Source::Layer(_) => {}
                            Source::Constant(form) => add_vector_gradient(w, form, &d, gradients),
                        }
                    }
                }
            }
        }
    }
}

impl Layer {
    /// The layer whose result this one multiplies with a map.
    fn multiplied(&self) -> Option<usize> {
        match self {
            Layer::Cell(cell) => Some(cell.x),
            Layer::Linear { x, .. } => Some(*x),
            Layer::Embedding { .. } | Layer::Map { .. } => None,
        }
    }

    fn is_needed<T: Number>(&self, w: &Weights<T>, needed: &[bool]) -> bool {
        match self {
            Layer::Embedding { table } => w.is_trained(table),
            Layer::Cell(cell) => {
                let own = [&cell.input, &cell.recurrent, &cell.bias].into_iter().chain(&cell.parameters);
                needed[cell.x] || own.into_iter().any(|f| w.is_trained(f))
            }
            Layer::Linear { x, weight, bias } => {
                needed[*x] || w.is_trained(weight) || bias.as_ref().is_some_and(|b| w.is_trained(b))
            }
            Layer::Map { operands, .. } => operands.iter().any(|source| match source {
                Source::Layer(x) => needed[*x],
                Source::Constant(form) => w.is_trained(form),
            }),
        }
    }
}

/// The slopes of a formula's inputs, `[rows, width]` each, from those of its result.
fn map_slopes<T: Number>(
    formula: &Formula,
    inputs: usize,
    width: usize,
    values: &[T],
    dy: &[T],
) -> Vec<Vec<T>> {
    let terms = formula.terms().len();
    let result = formula.results().next().map_or(0, |t| t.index());
    let mut out = vec![Vec::with_capacity(dy.len()); inputs];
    let mut slopes = vec![T::of(0.0); terms * width];
    for (values, dy) in values.chunks_exact(terms * width).zip(dy.chunks_exact(width)) {
        slopes.fill(T::of(0.0));
        slopes[result * width..][..width].copy_from_slice(dy);
        vectorized(Backward { formula, len: width, values, slopes: &mut slopes });
        for (k, term) in formula.terms().iter().enumerate() {
            if let Term::Input(n) = *term {
                out[n].extend_from_slice(&slopes[k * width..][..width]);
            }
        }
    }
    out
}

impl Cell {
    fn forward<T: Number>(
        &self,
        w: &Weights<T>,
        rows: usize,
        streams: usize,
        x: &[T],
        state: &mut State<T>,
        tape: &mut FormulaTape<T>,
    ) -> Vec<T> {
        let (n, spec) = (self.units, &self.spec);
        let (width, terms) = (spec.gates.count() * n, spec.formula.terms().len());
        let mut states: Vec<Vec<T>> =
            self.states.iter().map(|s| std::mem::take(&mut state.0[s.index()])).collect();
        let parameters = self.parameters.as_ref().map_or(&[][..], |p| w.vector(p));
        let mut gates = w.apply(&self.input, rows, x);
        add_to_rows(&mut gates, w.vector(&self.bias));
        tape.values = vec![T::of(0.0); rows * terms * n];
        tape.h = Vec::with_capacity(rows * n);
        let mut out = Vec::with_capacity(rows * n);
        let steps = gates.chunks_exact_mut(streams * width);
        for (gates, values) in steps.zip(tape.values.chunks_exact_mut(streams * terms * n)) {
            tape.h.extend_from_slice(&states[0]);
            let recurrent = w.apply(&self.recurrent, streams, &states[0]);
            gates.iter_mut().zip(&recurrent).for_each(|(g, &r)| *g += r);
            for (s, values) in values.chunks_exact_mut(terms * n).enumerate() {
                let of_gates =
                    (0..spec.gates.count()).map(|g| &gates[s * width + spec.gates.block(g) * n..][..n]);
                let of_states = states.iter().map(|state| &state[s * n..][..n]);
                let inputs: Vec<&[T]> = of_gates.chain(of_states).chain(parameters.chunks_exact(n)).collect();
                vectorized(Forward { formula: &spec.formula, len: n, inputs: &inputs, values });
                for (state, result) in states.iter_mut().zip(spec.formula.results()) {
                    state[s * n..][..n].copy_from_slice(&values[result.index() * n..][..n]);
                }
            }
            out.extend_from_slice(&states[0]);
        }
        for (id, values) in self.states.iter().zip(states) {
            state.0[id.index()] = values;
        }
        out
    }

    /// The gradients of the gates' inputs, `[rows, gates units]`, and of the parameters, `[rows, parameters units]`, given that of the outputs.
    fn backward<T: Number>(
        &self,
        w: &Weights<T>,
        rows: usize,
        streams: usize,
        tape: &FormulaTape<T>,
        dy: &[T],
    ) -> [Vec<T>; 2] {
        let (n, zero, spec) = (self.units, T::of(0.0), &self.spec);
        let (width, terms) = (spec.gates.count() * n, spec.formula.terms().len());
        let mut of_gates = vec![zero; rows * width];
        let mut of_parameters = vec![zero; rows * spec.parameters * n];
        // The next step's gradients of the states, and of the first one through the recurrent map.
        let mut of_states = vec![vec![zero; streams * n]; spec.states];
        let mut through_map = vec![zero; streams * n];
        let mut slopes = vec![zero; terms * n];
        for (step, gates) in of_gates.chunks_exact_mut(streams * width).enumerate().rev() {
            for s in 0..streams {
                let row = step * streams + s;
                slopes.fill(zero);
                for (k, result) in spec.formula.results().enumerate() {
                    let to = &mut slopes[result.index() * n..][..n];
                    to.iter_mut().zip(&of_states[k][s * n..]).for_each(|(t, &d)| *t += d);
                    if k == 0 {
                        let sum = dy[row * n..].iter().zip(&through_map[s * n..]);
                        to.iter_mut().zip(sum).for_each(|(t, (&dy, &dh))| *t += dy + dh);
                    }
                }
                let values = &tape.values[row * terms * n..][..terms * n];
                vectorized(Backward { formula: &spec.formula, len: n, values, slopes: &mut slopes });
                of_states.iter_mut().for_each(|state| state[s * n..][..n].fill(zero));
                for (k, term) in spec.formula.terms().iter().enumerate() {
                    let Term::Input(input) = *term else { continue };
                    let to = if input < spec.gates.count() {
                        &mut gates[s * width + spec.gates.block(input) * n..][..n]
                    } else if input < spec.parameter_input(0) {
                        &mut of_states[input - spec.state_input(0)][s * n..][..n]
                    } else {
                        let parameter = input - spec.parameter_input(0);
                        &mut of_parameters[(row * spec.parameters + parameter) * n..][..n]
                    };
                    to.copy_from_slice(&slopes[k * n..][..n]);
                }
            }
            if step > 0 {
                through_map = w.apply_transposed(&self.recurrent, streams, gates);
            }
        }
        [of_gates, of_parameters]
    }
}

fn add_to_rows<T: Number>(rows: &mut [T], bias: &[T]) {
    rows.par_chunks_exact_mut(bias.len()).for_each(|row| {
        row.iter_mut().zip(bias).for_each(|(x, &b)| *x += b);
    });
}

/// Adds the gradient of a vector that was added to (or multiplied with) every row.
fn add_vector_gradient<T: Number>(w: &Weights<T>, form: &Form, dy: &[T], gradients: &mut Gradients<T>) {
    /// Columns that one thread sums.
    const COLUMNS: usize = 1024;
    let (Form::Slot(slot), true) = (form, w.is_trained(form)) else { return };
    let gradient = &mut gradients[*slot];
    if gradient.len() == 1 {
        dy.iter().for_each(|&d| gradient[0] += d);
        return;
    }
    let width = gradient.len();
    gradient.par_chunks_mut(COLUMNS).enumerate().for_each(|(k, columns)| {
        for row in dy.chunks_exact(width) {
            columns.iter_mut().zip(&row[k * COLUMNS..]).for_each(|(g, &d)| *g += d);
        }
    });
}

/// The input after dropout, and the factor of each element: 0, or the one that preserves the mean.
fn drop_out<T: Number>(x: &[T], probability: f64, rng: &mut SplitMix64) -> [Vec<T>; 2] {
    let kept = T::of(1.0 / (1.0 - probability));
    let factor = |rng: &mut SplitMix64| {
        let uniform = f64::from(rng.centered()) + 0.5;
        if uniform < probability { T::of(0.0) } else { kept }
    };
    let factors: Vec<T> = x.iter().map(|_| factor(rng)).collect();
    [x.iter().zip(&factors).map(|(&x, &f)| x * f).collect(), factors]
}
