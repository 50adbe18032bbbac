//! All functions of one program: their names, parameters and bodies.

use super::cell::{self, CellAt};
use super::emit::{Emit, Memory, Type, Value};
use super::formula::{self, Ends};
use super::integer::CodesAt;
use super::output::{self, Best};
use super::product::{self, Map, Operand, Term};
use super::{gather, quantize};
use crate::plan::{
    Buffer, Cell, Codes, Format, Input, PackedId, Packing, Panels, Piece, Plan, Product, Rows, Segment,
    Source, Start, Step, Vector,
};

/// The functions a program has. `Recurrent` counts cells in the plan's order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Entry {
    /// Consume a token.
    Advance,
    /// All logits.
    Logits,
    /// The log-probability of one word.
    Score,
    /// The best words.
    TopK,
    /// Insertion into the list of the best; local.
    Insert,
    /// The gates' sums of one cell's step, from those of its input.
    Recurrent(usize),
    /// A token's row of the embedding.
    Gather,
    /// A phase of the plan, for several threads.
    Phase(usize),
}

impl Entry {
    /// The function's name within the program.
    pub(crate) fn name(self) -> String {
        match self {
            Entry::Advance => "advance".into(),
            Entry::Logits => "logits".into(),
            Entry::Score => "score".into(),
            Entry::TopK => "top_k".into(),
            Entry::Insert => "insert".into(),
            Entry::Recurrent(n) => format!("recurrent_{n}"),
            Entry::Gather => "gather".into(),
            Entry::Phase(n) => format!("phase_{n}"),
        }
    }

    /// The number of its parameters, all as wide as an address; whether it returns an f32; and the functions that it calls.
    pub(super) fn shape(self) -> (usize, bool, &'static [Entry]) {
        match self {
            Entry::Advance => (4, false, &[]),
            Entry::Logits => (3, false, &[]),
            Entry::Score => (3, true, &[Entry::Logits]),
            Entry::TopK => (5, false, &[Entry::Logits, Entry::Insert]),
            Entry::Insert => (6, true, &[]),
            Entry::Recurrent(_) => (4, false, &[]),
            Entry::Gather => (3, false, &[]),
            Entry::Phase(_) => (7, false, &[]),
        }
    }
}

/// The functions that process a text word by word; each may call those before it.
pub(crate) const STEPWISE: [Entry; 5] =
    [Entry::Insert, Entry::Advance, Entry::Logits, Entry::Score, Entry::TopK];

/// The functions that read many words at once, in addition to the kernels of [`lstmc_kernels`].
pub(crate) fn batched(plan: &Plan) -> impl Iterator<Item = Entry> {
    let cells = plan.cells().count();
    std::iter::once(Entry::Gather).chain((0..cells).map(Entry::Recurrent))
}

/// The addresses of a function's data.
struct Frame<'p> {
    plan: &'p Plan,
    weights: Value,
    state: Option<Value>,
    scratch: Value,
}

impl Frame<'_> {
    fn weight(&self, e: &mut dyn Emit, id: PackedId) -> Value {
        e.load_address(self.weights, id.0)
    }

    fn buffer(&self, e: &mut dyn Emit, b: Buffer) -> Value {
        e.offset(self.scratch, b.offset * 4)
    }

    fn state(&self, e: &mut dyn Emit, offset: usize) -> Value {
        let state = self.state.expect("only steps that consume a token read the state");
        e.offset(state, offset * 4)
    }

    fn vector(&self, e: &mut dyn Emit, v: Vector) -> Value {
        match v {
            Vector::Scratch(b) => self.buffer(e, b),
            Vector::State(b) => self.state(e, b.offset),
        }
    }

    fn codes(&self, e: &mut dyn Emit, c: Codes) -> CodesAt {
        let at = |e: &mut dyn Emit, f32s: usize| e.offset(self.scratch, (c.offset + f32s) * 4);
        CodesAt { codes: at(e, 0), sums: at(e, c.sums()), scale: at(e, c.scale()) }
    }

    fn terms(&self, e: &mut dyn Emit, segments: &[Segment]) -> Vec<Term> {
        let term = |s: &Segment| Term {
            weights: self.weight(e, s.weights),
            panels: self.plan.panels(s.weights),
            x: match s.input {
                Input::Floats(v) => Operand::Floats(self.vector(e, v)),
                Input::Codes(c) => Operand::Codes(self.codes(e, c)),
                Input::Spread(b, c) => Operand::Spread(self.buffer(e, b), self.codes(e, c)),
            },
        };
        segments.iter().map(term).collect()
    }

    fn map(&self, e: &mut dyn Emit, p: &Product) -> Map {
        let start = match p.start {
            Start::Zero => None,
            Start::Bias(id) => Some(self.weight(e, id)),
            Start::Buffer(b) => Some(self.buffer(e, b)),
        };
        Map { terms: self.terms(e, &p.segments), start, out: p.out }
    }

    /// The output layer, after the preparation of its input.
    fn output(&self, e: &mut dyn Emit) -> Map {
        emit_steps(e, self, None, &self.plan.output.prologue);
        self.map(e, &self.plan.output.product)
    }
}

/// Emits the body of a function with parameters `p`; returns its result.
pub(super) fn body(plan: &Plan, entry: Entry, e: &mut dyn Emit, p: &[Value]) -> Option<Value> {
    match entry {
        Entry::Advance => {
            let frame = Frame { plan, weights: p[0], state: Some(p[1]), scratch: p[2] };
            emit_steps(e, &frame, Some(p[3]), &plan.steps);
        }
        Entry::Logits => {
            let frame = Frame { plan, weights: p[0], state: None, scratch: p[1] };
            let map = frame.output(e);
            output::store_exact(e, &map, p[2]);
        }
        Entry::Score => {
            let logits = e.offset(p[1], plan.logits.offset * 4);
            e.call(Entry::Logits, &[p[0], p[1], logits]);
            return Some(output::score(e, logits, plan.vocabulary, p[2]));
        }
        Entry::TopK => {
            let logits = e.offset(p[1], plan.logits.offset * 4);
            e.call(Entry::Logits, &[p[0], p[1], logits]);
            let best = Best { ids: p[2], values: p[3], k: p[4] };
            output::top_k(e, logits, plan.vocabulary, &best);
        }
        Entry::Insert => return Some(output::insert(e, p)),
        Entry::Phase(n) => {
            let frame = Frame { plan, weights: p[0], state: Some(p[1]), scratch: p[2] };
            let phase = &plan.phases()[n];
            let range = phase.panels.map(|_| [p[5], p[6]]);
            for &piece in &phase.pieces {
                emit_piece(e, &frame, p[3], p[4], range, piece);
            }
        }
        Entry::Recurrent(n) => {
            let frame = Frame { plan, weights: p[0], state: Some(p[2]), scratch: p[3] };
            if let Some(cell) = plan.cells().nth(n) {
                emit_steps(e, &frame, None, &cell.prologue);
                let map = Map { terms: frame.terms(e, &cell.recurrent), start: None, out: cell.gates.len };
                let gates = frame.buffer(e, cell.gates);
                cell::sums(e, &map, Some(p[1]), gates);
            }
        }
        Entry::Gather => {
            let frame = Frame { plan, weights: p[0], state: None, scratch: p[1] };
            let gather = |s: &&Step| matches!(s, Step::Gather { .. } | Step::GatherTrain { .. });
            if let Some(step) = plan.steps.iter().find(gather) {
                emit_step(e, &frame, Some(p[2]), step);
            }
        }
    }
    None
}

/// A cell's operands.
fn cell_at<'p>(e: &mut dyn Emit, frame: &Frame<'_>, cell: &'p Cell) -> CellAt<'p> {
    let mut terms = frame.terms(e, &cell.inputs);
    terms.extend(frame.terms(e, &cell.recurrent));
    let start = Some(frame.weight(e, cell.bias));
    CellAt {
        cell,
        map: Map { terms, start, out: cell.gates.len },
        gates: frame.buffer(e, cell.gates),
        states: cell.states.iter().map(|s| frame.state(e, s.offset)).collect(),
        parameters: cell.parameters.map(|id| frame.weight(e, id)),
        out: frame.buffer(e, cell.out),
    }
}

/// The new first state replaces the old one.
fn keep(e: &mut dyn Emit, frame: &Frame<'_>, cell: &Cell) {
    let (from, to) = (frame.buffer(e, cell.out), frame.state(e, cell.h().offset));
    e.copy(from, to, cell.units);
}

/// A piece of a phase; `range` gives this thread's panels, if they are shared.
fn emit_piece(
    e: &mut dyn Emit,
    frame: &Frame<'_>,
    token: Value,
    logits: Value,
    range: Option<[Value; 2]>,
    piece: Piece,
) {
    let cell = |n: usize| match &frame.plan.steps[n] {
        Step::Cell(cell) => cell,
        other => unreachable!("{other:?} is no cell"),
    };
    match (piece, range) {
        (Piece::Step(n), _) => emit_step(e, frame, Some(token), &frame.plan.steps[n]),
        (Piece::Prologue(n), _) => {
            emit_steps(e, frame, None, &cell(n).prologue);
        }
        (Piece::Panels(n), _) => match &frame.plan.steps[n] {
            Step::Product { product, out } => {
                let (map, to) = (frame.map(e, product), frame.buffer(e, *out));
                let range = range.expect("panels are a piece of their own only if they are shared");
                product::store_range(e, &map, range, to, true);
            }
            _ => {
                let at = cell_at(e, frame, cell(n));
                match range {
                    Some(range) => cell::range(e, &at, range),
                    None => cell::step(e, &at),
                }
            }
        },
        (Piece::Keep(n), _) => keep(e, frame, cell(n)),
        (Piece::OutputPrologue, _) => {
            emit_steps(e, frame, None, &frame.plan.output.prologue);
        }
        (Piece::Output, range) => {
            let map = frame.map(e, &frame.plan.output.product);
            match range {
                Some(range) => product::store_range(e, &map, range, logits, false),
                None => output::store_exact(e, &map, logits),
            }
        }
    }
}

fn emit_steps(e: &mut dyn Emit, frame: &Frame<'_>, token: Option<Value>, steps: &[Step]) {
    steps.iter().for_each(|step| emit_step(e, frame, token, step));
}

fn emit_step(e: &mut dyn Emit, frame: &Frame<'_>, token: Option<Value>, step: &Step) {
    let token = || token.expect("tables are read by the step that consumes the token");
    match step {
        Step::Gather { table, out } => {
            let (from, to) = (frame.weight(e, *table), frame.buffer(e, *out));
            match frame.plan.packed(*table).packing {
                Packing::Rows { rows, format: Rows::Codes { groups }, .. } => {
                    gather::codes(e, from, rows, token(), to, groups);
                }
                Packing::Panels(Panels { format: Format::Integer(i), .. }) => {
                    gather::panel_codes(e, from, i, token(), to);
                }
                Packing::Panels(p) => gather::panel_floats(e, from, p.input, token(), to),
                _ => gather::floats(e, from, token(), to, out.len),
            }
        }
        Step::GatherTrain { cores, out, work } => {
            let cores: Vec<_> =
                cores.iter().map(|&c| (frame.weight(e, c), &frame.plan.packed(c).packing)).collect();
            let (to, work) = (frame.buffer(e, *out), work.map(|b| frame.buffer(e, b)));
            gather::train(e, &cores, token(), to, work);
        }
        Step::Quantize { x, out } => {
            let (x, to) = (frame.vector(e, *x), frame.codes(e, *out));
            quantize::quantize(e, x, out.groups, to);
        }
        Step::Spread { codes, out } => {
            let (from, to) = (frame.codes(e, *codes), frame.buffer(e, *out));
            quantize::spread(e, from.codes, codes.groups.len, to);
        }
        Step::Round { x, out } => {
            let (from, to) = (frame.vector(e, *x), frame.buffer(e, *out));
            quantize::round(e, from, x.len(), to);
        }
        Step::Product { product, out } => {
            let (map, to) = (frame.map(e, product), frame.buffer(e, *out));
            output::store_padded(e, &map, to);
        }
        Step::Cell(cell) => {
            emit_steps(e, frame, None, &cell.prologue);
            let at = cell_at(e, frame, cell);
            cell::step(e, &at);
            keep(e, frame, cell);
        }
        Step::Map { formula, operands, out } => {
            let mut p = vec![frame.buffer(e, *out)];
            p.extend(operands.iter().map(|source| match source {
                Source::Buffer(b) => frame.buffer(e, *b),
                Source::Weight(id) | Source::Scalar(id) => frame.weight(e, *id),
            }));
            let strides: Vec<usize> = std::iter::once(VECTOR)
                .chain(operands.iter().map(|s| if matches!(s, Source::Scalar(_)) { 0 } else { VECTOR }))
                .collect();
            e.repeat(out.len.div_ceil(4), &p, |e, _, p| {
                formula::emit(e, formula, 1, &OneVector(p));
                p.iter().zip(&strides).map(|(&p, &stride)| e.offset(p, stride)).collect()
            });
        }
    }
}

/// Bytes of a vector.
const VECTOR: usize = 16;

/// One vector: the pointer of the result, then those of the operands.
struct OneVector<'a>(&'a [Value]);

impl Ends for OneVector<'_> {
    fn load(&self, e: &mut dyn Emit, input: usize) -> Vec<Value> {
        vec![e.load(Type::F32x4, Memory::Buffer, self.0[1 + input], 0)]
    }

    fn store(&self, e: &mut dyn Emit, _: usize, vectors: &[Value]) {
        e.store(Memory::Buffer, vectors[0], self.0[0], 0);
    }
}
