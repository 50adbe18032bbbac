//! Forward and backward passes of a program over a window of steps of several streams.
//!
//! Rows of a window are ordered by step, then stream. Work without recurrence is one product per window: the cells' input products,
//! the output layer, and the gradients of all weights; only the recurrent product and the recurrent groups of steps run step by step, in both
//! directions. The gradients of a [`Window`] are a window: that of a state before it is carried backwards from step to step.

use super::cell::Cell;
use super::dropout::{Dropout, Place};
use super::formula::{Backward, Forward};
use super::number::{Number, vectorized};
use super::weights::{Coding, Form, Receive, Weights, leaves};
use crate::pass::PassError;
use crate::target::Target;
use lstmc_frontend::ir::{
    self, Formula, Graph, Layout, Program, Sequence, Slice, StepId, StepKind, Term, WeightId, Window,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// A model that can be trained.
pub(super) struct Network<T> {
    layers: Vec<Layer>,
    layout: Arc<Layout>,
    /// Whether anything that a step's result depends on is trained.
    needed: Vec<bool>,
    /// Whether a step is computed at all.
    computed: Vec<bool>,
    /// The learned start of each state.
    starts: Vec<Option<Form>>,
    output: StepId,
    pub(super) weights: Weights<T>,
}

/// A step.
struct Layer {
    /// Whether another step reads the result.
    is_read: bool,
    /// The vectors that the step multiplies with maps.
    multiplied: Vec<(Slice, Place)>,
    kind: Kind,
}

enum Kind {
    Embed {
        table: Form,
    },
    /// Products of what the step multiplies.
    Apply {
        weights: Vec<Form>,
        bias: Option<Form>,
    },
    Cell(Box<Cell>),
    Map {
        formula: Formula,
        operands: Vec<Source>,
    },
    Norm {
        x: Slice,
        scale: Option<Form>,
        shift: Option<Form>,
        epsilon: f64,
    },
    LogSoftmax(Slice),
    Concat(Vec<Slice>),
}

/// An input of a formula: of a sequence, or a constant; with one element or one per feature.
enum Source {
    Slice(Slice),
    Constant(Form),
}

/// Each state, `[streams, units]`; empty at the start of a text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State<T>(pub(super) Vec<Vec<T>>);

impl<T> State<T> {
    /// Whether this can be the state of this many streams in a network: that of the start, or the right sizes.
    pub(super) fn is_of(&self, network: Option<&Network<T>>, streams: usize) -> bool {
        let sizes = network.into_iter().flat_map(|n| n.layout.states()).map(|s| s.width * streams);
        self.0.is_empty() || self.0.iter().map(Vec::len).eq(sizes)
    }
}

/// The values that a window's forward pass keeps for the backward pass.
pub(super) struct Tape<T> {
    count: usize,
    streams: usize,
    /// Whether the window begins at the start of a text.
    is_start: bool,
    window: Window<T>,
    /// For each step and each vector that it multiplies, the factor of each element in dropout; empty without. For an embedding, that of each word.
    factors: Vec<Vec<Vec<T>>>,
    /// For each step that has a formula, the values of its terms, `[rows, terms, width]`.
    values: Vec<Vec<T>>,
}

impl<T: Number> Tape<T> {
    /// `[rows, vocabulary]`.
    pub(super) fn take_logits(&mut self, network: &Network<T>) -> Vec<T> {
        let (k, logits) = (network.output.index(), &mut self.window.results[network.output.index()]);
        match &network.layers[k] {
            Layer { is_read: false, kind: Kind::Apply { .. }, .. } => std::mem::take(logits),
            _ => logits.clone(),
        }
    }

    /// A vector that a step multiplies, after dropout.
    fn input(&self, step: usize, n: usize, x: Slice, times: Range<usize>) -> Cow<'_, [T]> {
        let rows = self.window.read(x, times.clone());
        match &self.factors[step][n][..] {
            [] => rows,
            factors => {
                let factors = &factors[times.start * self.streams * x.width..];
                Cow::Owned(rows.iter().zip(factors).map(|(&x, &f)| x * f).collect())
            }
        }
    }
}

impl<T: Number> Network<T> {
    /// A network of `graph` that trains the weights of `target`, or no weights if there is no target.
    pub(super) fn new(graph: &Graph, target: Option<&Target>) -> Result<Network<T>, PassError> {
        Network::with_codes(graph, target, Coding::NEAREST)
    }

    /// The same, with codes that are trained in this way.
    pub(super) fn with_codes(
        graph: &Graph,
        target: Option<&Target>,
        coding: Coding,
    ) -> Result<Network<T>, PassError> {
        let program = Program::of(graph)?;
        let mut trained = BTreeSet::new();
        for id in target.map_or(Ok(vec![]), |t| t.weights(graph))? {
            let map = &graph.weight(id).map;
            if map.dtype().is_float() {
                leaves(map, &mut trained);
            }
        }
        let mut weights = Weights::new(coding);
        let mut add = |id: WeightId| weights.add(graph, id, &trained);
        let mut layers = vec![];
        for group in program.groups() {
            for step in group.steps().map(|id| program.step(id)) {
                let place = |x: Slice| {
                    let is_within = match x.of {
                        Sequence::Step(s) => group.contains(s),
                        Sequence::State(_) => true,
                    };
                    if group.is_recurrent && is_within { Place::WithinRecurrence } else { Place::Between }
                };
                let mut multiplied = vec![];
                let kind = match &step.kind {
                    StepKind::Embed(e) => Kind::Embed { table: add(e.table)? },
                    StepKind::Apply(a) => {
                        multiplied.extend(a.terms.iter().map(|(x, _)| (*x, place(*x))));
                        let bias = a.bias.map(&mut add).transpose()?;
                        let weights = a.terms.iter().map(|(_, w)| add(*w)).collect::<Result<_, _>>()?;
                        Kind::Apply { weights, bias }
                    }
                    StepKind::Cell(cell) => {
                        let h = Slice { of: Sequence::State(cell.states[0]), from: 0, width: step.width };
                        multiplied.extend([(cell.x, place(cell.x)), (h, Place::WithinRecurrence)]);
                        Kind::Cell(Box::new(Cell {
                            spec: cell.spec.clone(),
                            states: cell.states.iter().map(|s| s.index()).collect(),
                            units: step.width,
                            input: add(cell.input)?,
                            recurrent: add(cell.recurrent)?,
                            bias: add(cell.bias)?,
                            parameters: cell.parameters.map(&mut add).transpose()?,
                        }))
                    }
                    StepKind::Map(map) => {
                        let source = |source: &ir::Source| {
                            Ok(match *source {
                                ir::Source::Slice(x) => Source::Slice(x),
                                ir::Source::Constant(w) => Source::Constant(add(w)?),
                            })
                        };
                        let operands = map.operands.iter().map(source).collect::<Result<_, PassError>>()?;
                        Kind::Map { formula: map.formula.clone(), operands }
                    }
                    StepKind::Norm(n) => Kind::Norm {
                        x: n.x,
                        scale: n.scale.map(&mut add).transpose()?,
                        shift: n.shift.map(&mut add).transpose()?,
                        epsilon: n.epsilon.into(),
                    },
                    StepKind::LogSoftmax(x) => Kind::LogSoftmax(*x),
                    StepKind::Concat(parts) => Kind::Concat(parts.clone()),
                };
                layers.push(Layer { is_read: step.is_read, multiplied, kind });
            }
        }
        let starts = program.states().iter().map(|s| s.initial.map(&mut add).transpose());
        let starts = starts.collect::<Result<_, _>>()?;
        weights.refresh();
        let (needed, computed) = (vec![false; layers.len()], vec![true; layers.len()]);
        let (layout, output) = (program.layout(), program.output());
        let mut network = Network { layers, layout, needed, computed, starts, output, weights };
        // States may be read before the step that computes them.
        loop {
            let found: Vec<bool> = program
                .steps()
                .map(|(id, step)| {
                    network.layers[id.index()].kind.is_trained(&network)
                        || step.kind.reads().iter().any(|x| network.is_needed(*x))
                })
                .collect();
            if found == network.needed {
                return Ok(network);
            }
            network.needed = found;
        }
    }

    /// The network with gradients of all products, whether or not a weight is trained.
    pub(super) fn with_all_gradients(self) -> Network<T> {
        Network { needed: vec![true; self.layers.len()], ..self }
    }

    /// The network as far as the vectors depend on it that a step multiplies.
    pub(super) fn up_to(self, program: &Program<'_>, step: StepId) -> Network<T> {
        let mut computed = vec![false; self.layers.len()];
        let mut left: Vec<Slice> = self.layers[step.index()].multiplied.iter().map(|(x, _)| *x).collect();
        while let Some(x) = left.pop() {
            let step = match x.of {
                Sequence::Step(s) => s,
                Sequence::State(s) => self.layout.states()[s.index()].next,
            };
            if !std::mem::replace(&mut computed[step.index()], true) {
                left.extend(program.step(step).kind.reads());
            }
        }
        Network { computed, ..self }
    }

    /// The widths of the vectors that a step multiplies.
    pub(super) fn widths(&self, step: StepId) -> Vec<usize> {
        self.layers[step.index()].multiplied.iter().map(|(x, _)| x.width).collect()
    }

    /// The vectors that a step multiplied in a window, side by side: `[rows, sum of their widths]`.
    pub(super) fn multiplied(&self, tape: &Tape<T>, step: StepId) -> Vec<T> {
        let (k, widths) = (step.index(), self.widths(step));
        let all = self.layers[k].multiplied.iter().enumerate();
        let parts: Vec<Cow<'_, [T]>> = all.map(|(n, (x, _))| tape.input(k, n, *x, 0..tape.count)).collect();
        let row = |r: usize| parts.iter().zip(&widths).flat_map(move |(part, &w)| &part[r * w..][..w]);
        (0..tape.count * tape.streams).flat_map(row).copied().collect()
    }

    /// The maps whose products are summed to logits, and are nothing else.
    pub(super) fn output_maps(&self) -> Vec<&Form> {
        let all: Vec<&Form> = self.layers.iter().flat_map(|layer| layer.kind.maps()).collect();
        let is_once = |form: &&Form| all.iter().filter(|f| *f == form).count() == 1;
        match &self.layers[self.output.index()] {
            Layer { is_read: false, kind: Kind::Apply { weights, .. }, .. } => {
                weights.iter().filter(is_once).collect()
            }
            _ => vec![],
        }
    }

    /// Whether anything that a slice depends on is trained.
    fn is_needed(&self, x: Slice) -> bool {
        match x.of {
            Sequence::Step(s) => self.needed[s.index()],
            Sequence::State(s) => {
                self.needed[self.layout.states()[s.index()].next.index()] || self.is_start_trained(s.index())
            }
        }
    }

    fn is_start_trained(&self, state: usize) -> bool {
        self.starts[state].as_ref().is_some_and(|f| self.weights.is_trained(f))
    }

    /// Reads `tokens`, ordered by step and then stream, and advances the state.
    pub(super) fn forward(
        &self,
        tokens: &[u32],
        streams: usize,
        state: &mut State<T>,
        mut dropout: Option<Dropout<'_>>,
    ) -> Tape<T> {
        let (w, count, is_start) = (&self.weights, tokens.len() / streams.max(1), state.0.is_empty());
        if is_start {
            let start = |(state, start): (&ir::State, &Option<Form>)| match start {
                Some(form) => w.vector(form).repeat(streams),
                None => vec![T::of(0.0); state.width * streams],
            };
            state.0 = self.layout.states().iter().zip(&self.starts).map(start).collect();
        }
        let window = Window::new(&self.layout, count, streams, state.0.clone());
        let factors = self.layers.iter().map(|layer| vec![vec![]; layer.multiplied.len()]).collect();
        let mut tape =
            Tape { count, streams, is_start, window, factors, values: vec![vec![]; self.layers.len()] };
        for (step, times) in self.layout.schedule(count).filter(|(s, _)| self.computed[s.index()]) {
            let (k, width, layer) = (step.index(), self.layout.width(step), &self.layers[step.index()]);
            let rows = times.start * streams..times.end * streams;
            if let Some(dropout) = &mut dropout {
                for ((x, place), factors) in layer.multiplied.iter().zip(&mut tape.factors[k]) {
                    dropout.draw(*place, streams * x.width, times.len(), times.end, factors);
                }
            }
            let mut values = std::mem::take(&mut tape.values[k]);
            if let Some(formula) = layer.kind.formula() {
                values.resize(count * streams * formula.terms().len() * width, T::of(0.0));
            }
            let each = values.len().checked_div(count * streams).unwrap_or(0);
            let of_rows = &mut values[rows.start * each..rows.end * each];
            let read = |x: Slice| tape.window.read(x, times.clone());
            let input = |n: usize| tape.input(k, n, layer.multiplied[n].0, times.clone());
            let mut words = vec![];
            let result = match &layer.kind {
                Kind::Embed { table } => {
                    let mut out = w.rows(table, &tokens[rows.clone()]);
                    if let Some(dropout) = dropout.as_mut().filter(|d| d.drops.words > 0.0) {
                        let mut factors = vec![];
                        dropout.draw_words(&tokens[rows.clone()], &mut factors);
                        times_rows(&mut out, &factors);
                        words = factors;
                    }
                    out
                }
                Kind::Apply { weights, bias } => {
                    let mut products =
                        weights.iter().enumerate().map(|(n, f)| w.apply(f, rows.len(), &input(n)));
                    let mut sum = products.next().unwrap_or_default();
                    products.for_each(|more| add_to(&mut sum, &more));
                    if let Some(bias) = bias {
                        add_to_rows(&mut sum, w.vector(bias));
                    }
                    sum
                }
                Kind::Cell(cell) => cell.forward(w, streams, &input(0), &tape.factors[k][1], state, of_rows),
                Kind::Map { formula, operands } => {
                    let result = formula.results().next().map_or(0, |t| t.index());
                    let slices: Vec<Cow<'_, [T]>> = operands
                        .iter()
                        .map(|operand| match operand {
                            Source::Slice(x) => read(*x),
                            Source::Constant(form) => Cow::Borrowed(w.vector(form)),
                        })
                        .collect();
                    let mut out = Vec::with_capacity(rows.len() * width);
                    for (row, values) in of_rows.chunks_exact_mut(each.max(1)).enumerate() {
                        let inputs: Vec<&[T]> = operands
                            .iter()
                            .zip(&slices)
                            .map(|(operand, all)| match operand {
                                Source::Slice(x) => &all[row * x.width..][..x.width],
                                Source::Constant(_) => all,
                            })
                            .collect();
                        vectorized(Forward { formula, len: width, inputs: &inputs, values });
                        out.extend_from_slice(&values[result * width..][..width]);
                    }
                    out
                }
                Kind::Norm { x, scale, shift, epsilon } => {
                    let mut rows = read(*x).into_owned();
                    for row in rows.chunks_exact_mut(width) {
                        let (mean, scaling) = moments(row, *epsilon);
                        row.iter_mut().for_each(|x| *x = (*x - mean) * scaling);
                        if let Some(scale) = scale {
                            row.iter_mut().zip(w.vector(scale)).for_each(|(x, &s)| *x *= s);
                        }
                        if let Some(shift) = shift {
                            add_to(row, w.vector(shift));
                        }
                    }
                    rows
                }
                Kind::LogSoftmax(x) => {
                    let mut rows = read(*x).into_owned();
                    for row in rows.chunks_exact_mut(width) {
                        let most = row.iter().fold(row[0], |a, &b| if a < b { b } else { a });
                        let sum: f64 = row.iter().map(|&x| (x - most).quick_exp().to_f64()).sum();
                        let log_sum = most + T::of(sum.ln());
                        row.iter_mut().for_each(|x| *x -= log_sum);
                    }
                    rows
                }
                Kind::Concat(parts) => {
                    let parts: Vec<_> = parts.iter().map(|&x| (read(x), x.width)).collect();
                    let row = |r: usize| parts.iter().flat_map(move |(x, w)| &x[r * w..][..*w]);
                    (0..rows.len()).flat_map(row).copied().collect()
                }
            };
            if !words.is_empty() {
                tape.factors[k] = vec![words];
            }
            tape.window.write(step, times, result);
            tape.values[k] = values;
        }
        for (k, (of, values)) in self.layout.states().iter().zip(&mut state.0).enumerate() {
            if of.is_stepwise {
                values.copy_from_slice(tape.window.after(k));
            }
        }
        tape
    }

    /// Gives `to` the gradients of all products, given that of the logits. [`Gradients`](super::weights::Gradients) sum them over the window;
    /// [`Weights::pull`] carries those to the parameters.
    pub(super) fn backward<R: Receive<T>>(
        &self,
        tokens: &[u32],
        tape: &Tape<T>,
        of_logits: Vec<T>,
        to: &mut R,
    ) {
        let (w, streams) = (&self.weights, tape.streams);
        let zeros = self.layout.states().iter().map(|s| vec![T::of(0.0); s.width * streams]).collect();
        let mut of = Window::new(&self.layout, tape.count, streams, zeros);
        of.results[self.output.index()] = of_logits;
        for (step, times) in self.layout.schedule(tape.count).rev().filter(|(s, _)| self.needed[s.index()]) {
            let (k, width, layer) = (step.index(), self.layout.width(step), &self.layers[step.index()]);
            let rows = times.start * streams..times.end * streams;
            let dy = match times.len() == tape.count {
                true => std::mem::take(&mut of.results[k]),
                false => of.results[k].get(rows.start * width..rows.end * width).unwrap_or_default().to_vec(),
            };
            if dy.is_empty() {
                continue;
            }
            let each = tape.values[k].len().checked_div(tape.count * streams).unwrap_or(0);
            let values = &tape.values[k][rows.start * each..rows.end * each];
            let read = |x: Slice| tape.window.read(x, times.clone());
            let input = |n: usize| tape.input(k, n, layer.multiplied[n].0, times.clone());
            // The gradient of vector `n` that the step multiplies, to that before dropout.
            let undropped = |n: usize, mut dx: Vec<T>| {
                let all = &tape.factors[k][n];
                if let Some(factors) = all.get(rows.start * layer.multiplied[n].0.width..) {
                    dx.iter_mut().zip(factors).for_each(|(d, &f)| *d *= f);
                }
                dx
            };
            match &layer.kind {
                Kind::Embed { table } => {
                    let mut dy = dy;
                    if let Some(factors) = tape.factors[k].first() {
                        times_rows(&mut dy, factors);
                    }
                    to.rows(w, table, &tokens[rows.clone()], &dy);
                }
                Kind::Cell(cell) => {
                    let mut of_states: Vec<Vec<T>> =
                        cell.states.iter().map(|&s| std::mem::take(&mut of.before[s])).collect();
                    let goes_on = times.start > 0 || (tape.is_start && self.is_start_trained(cell.states[0]));
                    let factors = &tape.factors[k][1];
                    let (of_rows, made) = ([rows.len(), streams], [values, factors]);
                    let of_sums = cell.backward(w, of_rows, made, &dy, &mut of_states, goes_on);
                    cell.states.iter().zip(of_states).for_each(|(&s, d)| of.before[s] = d);
                    cell.give_gradients(w, &of_sums, &input(0), &input(1), to);
                    let (x, _) = layer.multiplied[0];
                    if self.is_needed(x) {
                        let dx = w.apply_transposed(&cell.input, rows.len(), &cell.of_input(&of_sums));
                        of.add(x, times, &undropped(0, dx));
                    }
                }
                Kind::Apply { weights, bias } => {
                    for (n, form) in weights.iter().enumerate() {
                        to.product(w, form, rows.len(), &input(n), &dy);
                        let (x, _) = layer.multiplied[n];
                        if self.is_needed(x) {
                            let dx = w.apply_transposed(form, rows.len(), &dy);
                            of.add(x, times.clone(), &undropped(n, dx));
                        }
                    }
                    if let Some(bias) = bias {
                        to.vector(w, bias, &dy);
                    }
                }
                Kind::Map { formula, operands } => {
                    let of_operands = map_slopes(formula, operands.len(), width, values, &dy);
                    for (operand, d) in operands.iter().zip(of_operands) {
                        match operand {
                            Source::Slice(x) if !self.is_needed(*x) => {}
                            // A feature for all gets the sum.
                            Source::Slice(x) if x.width < width => {
                                let sum = |d: &[T]| d.iter().fold(T::of(0.0), |s, &d| s + d);
                                let sums: Vec<T> = d.chunks_exact(width).map(sum).collect();
                                of.add(*x, times.clone(), &sums);
                            }
                            Source::Slice(x) => of.add(*x, times.clone(), &d),
                            Source::Constant(form) => to.vector(w, form, &d),
                        }
                    }
                }
                Kind::Norm { x, scale, shift, epsilon } => {
                    if let Some(shift) = shift {
                        to.vector(w, shift, &dy);
                    }
                    let (all, mut of_scale, mut dx) = (read(*x), dy.clone(), dy);
                    let scales = scale.as_ref().map(|s| w.vector(s));
                    let of_rows = of_scale.chunks_exact_mut(width).zip(dx.chunks_exact_mut(width));
                    for (x, (of_scale, d)) in all.chunks_exact(width).zip(of_rows) {
                        let (mean, scaling) = moments(x, *epsilon);
                        let normal: Vec<T> = x.iter().map(|&x| (x - mean) * scaling).collect();
                        of_scale.iter_mut().zip(&normal).for_each(|(d, &x)| *d *= x);
                        if let Some(scales) = scales {
                            d.iter_mut().zip(scales).for_each(|(d, &s)| *d *= s);
                        }
                        let share = T::of(1.0 / width as f64);
                        let mean = share * d.iter().fold(T::of(0.0), |s, &d| s + d);
                        let along = share * d.iter().zip(&normal).fold(T::of(0.0), |s, (&d, &x)| s + d * x);
                        d.iter_mut().zip(&normal).for_each(|(d, &x)| *d = scaling * (*d - mean - x * along));
                    }
                    if let Some(scale) = scale {
                        to.vector(w, scale, &of_scale);
                    }
                    if self.is_needed(*x) {
                        of.add(*x, times, &dx);
                    }
                }
                Kind::LogSoftmax(x) => {
                    let (mut dx, y) = (dy, &tape.window.results[k][rows.start * width..rows.end * width]);
                    for (d, y) in dx.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
                        let sum = d.iter().fold(T::of(0.0), |s, &d| s + d);
                        d.iter_mut().zip(y).for_each(|(d, &y)| *d -= sum * y.quick_exp());
                    }
                    of.add(*x, times, &dx);
                }
                Kind::Concat(parts) => {
                    let mut from = 0;
                    for &x in parts {
                        let part = dy.chunks_exact(width).flat_map(|d| &d[from..from + x.width]);
                        let part: Vec<T> = part.copied().collect();
                        from += x.width;
                        if self.is_needed(x) {
                            of.add(x, times.clone(), &part);
                        }
                    }
                }
            }
        }
        if tape.is_start {
            for (start, d) in self.starts.iter().zip(&of.before) {
                if let Some(form) = start {
                    to.vector(w, form, d);
                }
            }
        }
    }
}

impl Kind {
    fn formula(&self) -> Option<&Formula> {
        match self {
            Kind::Cell(cell) => Some(&cell.spec.formula),
            Kind::Map { formula, .. } => Some(formula),
            _ => None,
        }
    }

    /// The maps whose products it sums.
    fn maps(&self) -> Vec<&Form> {
        match self {
            Kind::Apply { weights, .. } => weights.iter().collect(),
            Kind::Cell(cell) => vec![&cell.input, &cell.recurrent],
            _ => vec![],
        }
    }

    /// Whether a weight of its own is trained.
    fn is_trained<T: Number>(&self, network: &Network<T>) -> bool {
        let is_trained = |form: &Form| network.weights.is_trained(form);
        match self {
            Kind::Embed { table } => is_trained(table),
            Kind::Apply { weights, bias } => weights.iter().chain(bias).any(is_trained),
            Kind::Cell(cell) => {
                let own = [&cell.input, &cell.recurrent, &cell.bias].into_iter().chain(&cell.parameters);
                own.into_iter().any(is_trained) || cell.states.iter().any(|&s| network.is_start_trained(s))
            }
            Kind::Map { operands, .. } => operands.iter().any(|source| match source {
                Source::Slice(_) => false,
                Source::Constant(form) => is_trained(form),
            }),
            Kind::Norm { scale, shift, .. } => scale.iter().chain(shift).any(is_trained),
            Kind::LogSoftmax(_) | Kind::Concat(_) => false,
        }
    }
}

/// The mean of a row, and one over its deviation.
fn moments<T: Number>(row: &[T], epsilon: f64) -> (T, T) {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| x.to_f64()).sum::<f64>() / n;
    let variance = row.iter().map(|x| (x.to_f64() - mean).powi(2)).sum::<f64>() / n;
    (T::of(mean), T::of(1.0 / (variance + epsilon).sqrt()))
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

/// The products with some factors, element by element; without any, `x` itself.
pub(super) fn times<'a, T: Number>(x: &'a [T], factors: &[T]) -> Cow<'a, [T]> {
    match factors {
        [] => Cow::Borrowed(x),
        factors => Cow::Owned(x.iter().zip(factors).map(|(&x, &f)| x * f).collect()),
    }
}

/// Multiplies each row with its factor.
fn times_rows<T: Number>(rows: &mut [T], factors: &[T]) {
    let width = rows.len() / factors.len().max(1);
    for (row, &factor) in rows.chunks_exact_mut(width.max(1)).zip(factors) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

pub(super) fn add_to<T: Number>(sum: &mut [T], more: &[T]) {
    sum.iter_mut().zip(more).for_each(|(s, &x)| *s += x);
}

pub(super) fn add_to_rows<T: Number>(rows: &mut [T], bias: &[T]) {
    rows.par_chunks_exact_mut(bias.len()).for_each(|row| {
        row.iter_mut().zip(bias).for_each(|(x, &b)| *x += b);
    });
}
