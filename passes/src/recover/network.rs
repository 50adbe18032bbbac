//! A graph in language-model form, forwards and backwards over a window of steps of several streams.
//!
//! Rows of a window are ordered by step, then stream. What needs no recurrence is one product per window: the lstms' input products and
//! the output layer, and the gradients of all weights; only the recurrent product goes step by step, in both directions.

use super::number::{Number, vectorized};
use super::weights::{Form, Gradients, Weights, leaves};
use crate::pass::PassError;
use crate::target::Target;
use lstmc_frontend::ir::arbitrary::SplitMix64;
use lstmc_frontend::ir::{
    Binary, Gate, GateOrder, Graph, LanguageModel, Layer as IrLayer, NodeId, Op, Operand, Unary, ValueId,
};
use pulp::NullaryFnOnce;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A model that can be trained.
pub(super) struct Network<T> {
    layers: Vec<Layer>,
    widths: Vec<usize>,
    /// Whether something that a layer's result depends on is trained.
    needed: Vec<bool>,
    logits: usize,
    pub(super) weights: Weights<T>,
}

enum Layer {
    Embedding { table: Form },
    Lstm(Box<Cell>),
    Linear { x: usize, weight: Form, bias: Option<Form> },
    Binary { op: Binary, a: Source, b: Source },
    Unary { op: Unary, x: usize },
}

struct Cell {
    x: usize,
    state: usize,
    hidden: usize,
    gates: GateOrder,
    input: Form,
    recurrent: Form,
    bias: Form,
}

/// What an elementwise operator reads: a layer's result, or a constant of one element or one for each feature.
enum Source {
    Layer(usize),
    Constant(Form),
}

/// `h` and `c` of each lstm, `[streams, hidden]`; empty stands for zeros.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State<T>(Vec<[Vec<T>; 2]>);

impl<T> State<T> {
    /// Whether this can be the state of so many streams in a network: of zeros, or of the right sizes.
    pub(super) fn is_of(&self, network: Option<&Network<T>>, streams: usize) -> bool {
        let cells = network.into_iter().flat_map(|n| &n.layers).filter_map(|layer| match layer {
            Layer::Lstm(cell) => Some(cell.hidden * streams),
            _ => None,
        });
        let sizes: Vec<usize> = cells.collect();
        let found = self.0.iter().map(|parts| parts.each_ref().map(Vec::len));
        self.0.is_empty() || found.eq(sizes.iter().map(|&n| [n, n]))
    }
}

/// What a window's way forward leaves for the way back.
pub(super) struct Tape<T> {
    rows: usize,
    streams: usize,
    /// Of each layer, `[rows, width]`.
    values: Vec<Vec<T>>,
    /// What lstm and linear layers read where dropout changed it, and what each element was multiplied with.
    dropped: Vec<Option<[Vec<T>; 2]>>,
    cells: Vec<Option<CellTape<T>>>,
}

struct CellTape<T> {
    gates: Vec<T>,  // [rows, 4 hidden], after their functions
    h: Vec<T>,      // [rows, hidden], before each step
    c: Vec<T>,      // [rows, hidden], before each step
    tanh_c: Vec<T>, // [rows, hidden], after each step
}

/// What is left out at random on the way forward: each input of an lstm or linear layer with this probability.
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
    /// A network of `graph`, of which the weights of `target` are trained; nothing where there is no target.
    pub(super) fn new(graph: &Graph, target: Option<&Target>) -> Result<Network<T>, PassError> {
        let model = LanguageModel::of(graph)?;
        let mut trained = BTreeSet::new();
        for id in target.map_or(Ok(vec![]), |t| t.weights(graph))? {
            let map = &graph.weight(id).map;
            if map.dtype().is_float() {
                leaves(map, &mut trained);
            }
        }
        let mut builder = Builder { graph, trained, weights: Weights::new(), results: BTreeMap::new() };
        let (mut layers, mut widths, mut needed) = (vec![], vec![], vec![]);
        let mut states = 0;
        for layer in model.layers() {
            let (layer, result) = builder.layer(layer, &mut states)?;
            needed.push(layer.is_needed(&builder.weights, &needed));
            builder.results.insert(result, layers.len());
            widths.push(graph.type_of(result).shape.last().and_then(|d| d.as_constant()).unwrap_or(0));
            layers.push(layer);
        }
        let logits = builder.results[&model.logits()];
        let mut weights = builder.weights;
        weights.refresh();
        Ok(Network { layers, widths, needed, logits, weights })
    }

    /// Reads `tokens`, by step and then stream, and moves the state on.
    pub(super) fn forward(
        &self,
        tokens: &[u32],
        streams: usize,
        state: &mut State<T>,
        mut dropout: Option<Dropout<'_>>,
    ) -> Tape<T> {
        let rows = tokens.len();
        let mut tape = Tape { rows, streams, values: vec![], dropped: vec![], cells: vec![] };
        let w = &self.weights;
        for layer in &self.layers {
            let (mut dropped, mut cell) = (None, None);
            if let (Some(Dropout { probability, rng }), Some(x)) = (&mut dropout, layer.multiplied()) {
                dropped = Some(drop_out(&tape.values[x], *probability, rng));
            }
            let read = |x: usize| dropped.as_ref().map_or(&tape.values[x], |[kept, _]| kept);
            let value = match layer {
                Layer::Embedding { table } => w.rows(table, tokens),
                Layer::Lstm(l) => {
                    if state.0.len() <= l.state {
                        state.0.resize(l.state + 1, [vec![], vec![]]);
                    }
                    let (y, saved) = l.forward(w, rows, streams, read(l.x), &mut state.0[l.state]);
                    cell = Some(saved);
                    y
                }
                Layer::Linear { x, weight, bias } => {
                    let mut y = w.apply(weight, rows, read(*x));
                    if let Some(bias) = bias {
                        add_to_rows(&mut y, w.vector(bias));
                    }
                    y
                }
                Layer::Binary { op, a, b } => {
                    let width = self.widths[tape.values.len()];
                    let (a, b) = (self.read(a, &tape), self.read(b, &tape));
                    (0..rows * width).map(|k| binary(*op, at(a, k, width), at(b, k, width))).collect()
                }
                Layer::Unary { op, x } => tape.values[*x].iter().map(|&x| unary(*op, x)).collect(),
            };
            tape.values.push(value);
            tape.dropped.push(dropped);
            tape.cells.push(cell);
        }
        tape
    }

    fn read<'a>(&'a self, source: &Source, tape: &'a Tape<T>) -> &'a [T] {
        match source {
            Source::Layer(x) => &tape.values[*x],
            Source::Constant(form) => self.weights.vector(form),
        }
    }

    /// Adds the gradients of all that products read, given that of the logits; [`Weights::pull`] takes them to the parameters.
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
            match layer {
                Layer::Embedding { table } => w.add_rows_gradient(table, tokens, &dy, gradients),
                Layer::Lstm(l) => {
                    let Some(saved) = &tape.cells[k] else { continue };
                    let of_gates = l.backward(w, rows, tape.streams, saved, &dy);
                    w.add_gradient(&l.recurrent, rows, &saved.h, &of_gates, gradients);
                    w.add_gradient(&l.input, rows, read(l.x), &of_gates, gradients);
                    add_vector_gradient(w, &l.bias, &of_gates, gradients);
                    if self.needed[l.x] {
                        pass_on(l.x, w.apply_transposed(&l.input, rows, &of_gates));
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
                Layer::Binary { op, a, b } => {
                    let width = self.widths[k];
                    let (va, vb) = (self.read(a, tape), self.read(b, tape));
                    for (first, source) in [(true, a), (false, b)] {
                        let d = dy.iter().enumerate().map(|(k, &d)| {
                            let [da, db] = binary_slopes(*op, at(va, k, width), at(vb, k, width));
                            d * if first { da } else { db }
                        });
                        match source {
                            Source::Layer(x) if self.needed[*x] => pass_on(*x, d.collect()),
                            Source::Layer(_) => {}
                            Source::Constant(form) => {
                                add_vector_gradient(w, form, &d.collect::<Vec<T>>(), gradients);
                            }
                        }
                    }
                }
                Layer::Unary { op, x } => {
                    let d = dy.iter().zip(&tape.values[k]).map(|(&d, &y)| d * unary_slope(*op, y));
                    pass_on(*x, d.collect());
                }
            }
        }
    }
}

impl Layer {
    /// The layer whose result this one multiplies with a map.
    fn multiplied(&self) -> Option<usize> {
        match self {
            Layer::Lstm(l) => Some(l.x),
            Layer::Linear { x, .. } => Some(*x),
            Layer::Embedding { .. } | Layer::Binary { .. } | Layer::Unary { .. } => None,
        }
    }

    fn is_needed<T: Number>(&self, w: &Weights<T>, needed: &[bool]) -> bool {
        let source = |s: &Source| match s {
            Source::Layer(x) => needed[*x],
            Source::Constant(form) => w.is_trained(form),
        };
        match self {
            Layer::Embedding { table } => w.is_trained(table),
            Layer::Lstm(l) => {
                needed[l.x] || [&l.input, &l.recurrent, &l.bias].into_iter().any(|f| w.is_trained(f))
            }
            Layer::Linear { x, weight, bias } => {
                needed[*x] || w.is_trained(weight) || bias.as_ref().is_some_and(|b| w.is_trained(b))
            }
            Layer::Binary { a, b, .. } => source(a) || source(b),
            Layer::Unary { x, .. } => needed[*x],
        }
    }
}

impl Cell {
    /// Where the gates are in a row: input, forget, cell, output.
    fn offsets(&self) -> [usize; 4] {
        [Gate::Input, Gate::Forget, Gate::Cell, Gate::Output].map(|g| self.gates.position(g) * self.hidden)
    }

    fn forward<T: Number>(
        &self,
        w: &Weights<T>,
        rows: usize,
        streams: usize,
        x: &[T],
        [h, c]: &mut [Vec<T>; 2],
    ) -> (Vec<T>, CellTape<T>) {
        let (n, zero) = (self.hidden, T::of(0.0));
        for state in [&mut *h, &mut *c] {
            state.resize(streams * n, zero);
        }
        let mut tape = CellTape {
            gates: w.apply(&self.input, rows, x),
            h: Vec::with_capacity(rows * n),
            c: Vec::with_capacity(rows * n),
            tanh_c: vec![zero; rows * n],
        };
        add_to_rows(&mut tape.gates, w.vector(&self.bias));
        let mut out = Vec::with_capacity(rows * n);
        let offsets = self.offsets();
        let steps = tape.gates.chunks_exact_mut(streams * 4 * n);
        for (gates, tanh_c) in steps.zip(tape.tanh_c.chunks_exact_mut(streams * n)) {
            tape.h.extend_from_slice(h);
            tape.c.extend_from_slice(c);
            let recurrent = w.apply(&self.recurrent, streams, h);
            vectorized(Step { hidden: n, offsets, gates, recurrent: &recurrent, h, c, tanh_c });
            out.extend_from_slice(h);
        }
        (out, tape)
    }

    /// The gradient of what enters the gates, `[rows, 4 hidden]`, given that of the outputs.
    fn backward<T: Number>(
        &self,
        w: &Weights<T>,
        rows: usize,
        streams: usize,
        tape: &CellTape<T>,
        dy: &[T],
    ) -> Vec<T> {
        let (n, zero) = (self.hidden, T::of(0.0));
        let mut out = vec![zero; rows * 4 * n];
        let (mut dh, mut dc) = (vec![zero; streams * n], vec![zero; streams * n]);
        for (step, of_gates) in out.chunks_exact_mut(streams * 4 * n).enumerate().rev() {
            let at = step * streams * n;
            vectorized(StepBack {
                hidden: n,
                offsets: self.offsets(),
                gates: &tape.gates[4 * at..],
                c: &tape.c[at..],
                tanh_c: &tape.tanh_c[at..],
                dy: &dy[at..],
                dh: &dh,
                dc: &mut dc,
                of_gates,
            });
            if step > 0 {
                dh = w.apply_transposed(&self.recurrent, streams, of_gates);
            }
        }
        out
    }
}

/// A step of an lstm after its products: makes gates of what enters them, and moves the state on. Slices start with the step's streams, `[streams, hidden]`; those of gates are `[streams, 4 hidden]`.
struct Step<'a, T> {
    hidden: usize,
    offsets: [usize; 4],
    gates: &'a mut [T],
    recurrent: &'a [T],
    h: &'a mut [T],
    c: &'a mut [T],
    tanh_c: &'a mut [T],
}

impl<T: Number> NullaryFnOnce for Step<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Step { hidden: n, offsets: [i, f, g, o], gates, recurrent, h, c, tanh_c } = self;
        for (g, &r) in gates.iter_mut().zip(recurrent) {
            *g += r;
        }
        for (s, gates) in gates.chunks_exact_mut(4 * n).enumerate() {
            for at in [i, f, o] {
                for x in &mut gates[at..at + n] {
                    *x = x.quick_sigmoid();
                }
            }
            for x in &mut gates[g..g + n] {
                *x = x.quick_tanh();
            }
            let [i, f, g, o] = [i, f, g, o].map(|at| &gates[at..][..n]);
            let (h, c, tanh_c) = (&mut h[s * n..][..n], &mut c[s * n..][..n], &mut tanh_c[s * n..][..n]);
            for k in 0..n {
                c[k] = f[k] * c[k] + i[k] * g[k];
                tanh_c[k] = c[k].quick_tanh();
                h[k] = o[k] * tanh_c[k];
            }
        }
    }
}

/// The way back through a step: writes the gradient of what enters the gates, and takes that of `c` a step back. Slices are as in [`Step`].
struct StepBack<'a, T> {
    hidden: usize,
    offsets: [usize; 4],
    gates: &'a [T],
    c: &'a [T],
    tanh_c: &'a [T],
    dy: &'a [T],
    dh: &'a [T],
    dc: &'a mut [T],
    of_gates: &'a mut [T],
}

impl<T: Number> NullaryFnOnce for StepBack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let StepBack { hidden: n, offsets: [i, f, g, o], gates, c, tanh_c, dy, dh, dc, of_gates } = self;
        let one = T::of(1.0);
        for (s, d) in of_gates.chunks_exact_mut(4 * n).enumerate() {
            let [vi, vf, vg, vo] = [i, f, g, o].map(|at| &gates[s * 4 * n + at..][..n]);
            let [c, tanh_c, dy, dh] = [c, tanh_c, dy, dh].map(|all| &all[s * n..][..n]);
            let dc = &mut dc[s * n..][..n];
            for k in 0..n {
                let of_h = dy[k] + dh[k];
                let of_c = of_h * vo[k] * (one - tanh_c[k] * tanh_c[k]) + dc[k];
                d[i + k] = of_c * vg[k] * vi[k] * (one - vi[k]);
                d[f + k] = of_c * c[k] * vf[k] * (one - vf[k]);
                d[g + k] = of_c * vi[k] * (one - vg[k] * vg[k]);
                d[o + k] = of_h * tanh_c[k] * vo[k] * (one - vo[k]);
                dc[k] = of_c * vf[k];
            }
        }
    }
}

struct Builder<'g, T> {
    graph: &'g Graph,
    /// Leaves.
    trained: BTreeSet<usize>,
    weights: Weights<T>,
    results: BTreeMap<ValueId, usize>,
}

impl<T: Number> Builder<'_, T> {
    fn layer(&mut self, layer: &IrLayer, states: &mut usize) -> Result<(Layer, ValueId), PassError> {
        let (graph, trained) = (self.graph, &self.trained);
        let w = &mut self.weights;
        Ok(match layer {
            IrLayer::Embedding(e) => (Layer::Embedding { table: w.add(graph, e.table, trained)? }, e.result),
            IrLayer::Lstm(l) => {
                let cell = Cell {
                    x: self.results[&l.x],
                    state: *states,
                    hidden: l.hidden,
                    gates: l.gates,
                    input: w.add(graph, l.input, trained)?,
                    recurrent: w.add(graph, l.recurrent, trained)?,
                    bias: w.add(graph, l.bias, trained)?,
                };
                *states += 1;
                (Layer::Lstm(Box::new(cell)), l.result)
            }
            IrLayer::Linear(l) => {
                let bias = l.bias.map(|b| w.add(graph, b, trained)).transpose()?;
                let weight = w.add(graph, l.weight, trained)?;
                (Layer::Linear { x: self.results[&l.x], weight, bias }, l.result)
            }
            IrLayer::Elementwise { node, result } => (self.elementwise(*node)?, *result),
        })
    }

    fn elementwise(&mut self, id: NodeId) -> Result<Layer, PassError> {
        let node = self.graph.node(id);
        let operands = node.operands();
        let name = || format!("%{} = {}", self.graph.name_of(node.results()[0]), node.op.name());
        let refused = || PassError::Options(format!("recover: {} cannot be trained through", name()));
        let features = |v: ValueId| self.graph.type_of(v).shape.last().and_then(|d| d.as_constant());
        let width = features(node.results()[0]);
        let mut sources = vec![];
        for operand in operands {
            // Of constants one element may meet a whole row; sequences are as wide as the result.
            let fits = match operand {
                Operand::Value(v) => features(*v) == width,
                Operand::Weight(w) => {
                    let elements: usize = self.graph.weight(*w).map.shape().iter().product();
                    elements == 1 || Some(elements) == width
                }
                Operand::None => false,
            };
            if !fits {
                return Err(refused());
            }
            sources.push(match operand {
                Operand::Value(v) => Source::Layer(*self.results.get(v).ok_or_else(refused)?),
                Operand::Weight(w) => Source::Constant(self.weights.add(self.graph, *w, &self.trained)?),
                Operand::None => return Err(refused()),
            });
        }
        match (&node.op, <[Source; 1]>::try_from(sources)) {
            (Op::Unary(op), Ok([Source::Layer(x)])) => Ok(Layer::Unary { op: *op, x }),
            (Op::Binary(op), Err(sources)) => match <[Source; 2]>::try_from(sources) {
                Ok([a, b]) => Ok(Layer::Binary { op: *op, a, b }),
                Err(_) => Err(refused()),
            },
            _ => Err(refused()),
        }
    }
}

/// An element of a source that may have one element or one row.
fn at<T: Number>(source: &[T], k: usize, width: usize) -> T {
    match source.len() {
        1 => source[0],
        n if n == width => source[k % width],
        _ => source[k],
    }
}

fn binary<T: Number>(op: Binary, a: T, b: T) -> T {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
    }
}

fn binary_slopes<T: Number>(op: Binary, a: T, b: T) -> [T; 2] {
    let one = T::of(1.0);
    match op {
        Binary::Add => [one, one],
        Binary::Sub => [one, -one],
        Binary::Mul => [b, a],
        Binary::Div => [one / b, -(a / (b * b))],
    }
}

fn unary<T: Number>(op: Unary, x: T) -> T {
    match op {
        Unary::Tanh => x.quick_tanh(),
        Unary::Sigmoid => x.quick_sigmoid(),
        Unary::Relu if x > T::of(0.0) => x,
        Unary::Relu => T::of(0.0),
    }
}

/// The slope where the function is `y`.
fn unary_slope<T: Number>(op: Unary, y: T) -> T {
    let one = T::of(1.0);
    match op {
        Unary::Tanh => one - y * y,
        Unary::Sigmoid => y * (one - y),
        Unary::Relu if y > T::of(0.0) => one,
        Unary::Relu => T::of(0.0),
    }
}

fn add_to_rows<T: Number>(rows: &mut [T], bias: &[T]) {
    rows.par_chunks_exact_mut(bias.len()).for_each(|row| {
        row.iter_mut().zip(bias).for_each(|(x, &b)| *x += b);
    });
}

/// Adds the gradient of a vector that was added to (or met) every row.
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

/// What is kept, and the factor of each element: 0, or what keeps the mean.
fn drop_out<T: Number>(x: &[T], probability: f64, rng: &mut SplitMix64) -> [Vec<T>; 2] {
    let kept = T::of(1.0 / (1.0 - probability));
    let factor = |rng: &mut SplitMix64| {
        let uniform = f64::from(rng.centered()) + 0.5;
        if uniform < probability { T::of(0.0) } else { kept }
    };
    let factors: Vec<T> = x.iter().map(|_| factor(rng)).collect();
    [x.iter().zip(&factors).map(|(&x, &f)| x * f).collect(), factors]
}
