//! All functions of one program: their names, parameters and bodies.

use super::cell::{self, CellAt};
use super::emit::{Emit, Memory, Type, Value};
use super::formula::{self, Ends};
use super::integer::CodesAt;
use super::output::{self, Best};
use super::product::{self, Map, Operand, Term};
use super::{gather, norm, quantize};
use crate::plan::{
    Buffer, Cell, Codes, Elements, Format, Head, Input, LANES, Output, PackedId, Packing, Panels, Piece,
    Plan, Product, Rows, Segment, Start, Step, Vector,
};

/// The functions a program has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Entry {
    /// Write the states that a text starts from, where they are not zero.
    Reset,
    /// Consume a token.
    Advance,
    /// The whole output: all logits, or a hidden vector.
    Logits,
    /// The log-probability of one word.
    Score,
    /// The best words.
    TopK,
    /// Insertion into the list of the best; local.
    Insert,
    /// One time step of a loop of the plan; of a cell, the sums of the first state's gates, from those of its input.
    Recurrent(usize),
    /// A token's row of the embedding.
    Gather,
    /// A phase of the plan, for several threads or streams, and for a linked model.
    Phase(usize),
    /// The product with one vector of [`Plan::wide`], by number; see [`wide`](super::wide).
    Panels(usize),
}

impl Entry {
    /// The function's name within the program.
    pub(crate) fn name(self) -> String {
        match self {
            Entry::Reset => "reset".into(),
            Entry::Advance => "advance".into(),
            Entry::Logits => "logits".into(),
            Entry::Score => "score".into(),
            Entry::TopK => "top_k".into(),
            Entry::Insert => "insert".into(),
            Entry::Recurrent(n) => format!("recurrent_{n}"),
            Entry::Gather => "gather".into(),
            Entry::Phase(n) => format!("phase_{n}"),
            Entry::Panels(n) => format!("panels_{n}"),
        }
    }

    /// Whether its body may call another function.
    pub(super) fn calls(self, callee: Entry) -> bool {
        match callee {
            Entry::Panels(_) => true,
            Entry::Phase(_) => matches!(self, Entry::Advance | Entry::Logits),
            Entry::Logits => matches!(self, Entry::Score | Entry::TopK),
            Entry::Insert => self == Entry::TopK,
            _ => false,
        }
    }

    /// The number of its parameters, all as wide as an address, and whether it returns an f32.
    pub(super) fn shape(self) -> (usize, bool) {
        match self {
            Entry::Reset => (2, false),
            Entry::Advance => (4, false),
            Entry::Logits => (3, false),
            Entry::Score => (3, true),
            Entry::TopK => (5, false),
            Entry::Insert => (6, true),
            Entry::Recurrent(_) => (4, false),
            Entry::Gather => (3, false),
            Entry::Phase(_) => (7, false),
            Entry::Panels(_) => (3, false),
        }
    }
}

/// The functions that process a text word by word; each may call those before it.
pub(crate) fn stepwise(plan: &Plan) -> impl Iterator<Item = Entry> {
    let scores = match plan.head {
        Head::Logits => [Entry::Insert, Entry::Score, Entry::TopK].as_slice(),
        Head::Hidden => &[],
    };
    let reset = (!plan.initial.is_empty()).then_some(Entry::Reset);
    reset.into_iter().chain([Entry::Advance, Entry::Logits]).chain(scores.iter().copied())
}

/// The functions of a linked model: phases, which several streams take together, and those, which call them.
pub(crate) fn linked(plan: &Plan) -> impl Iterator<Item = Entry> {
    (0..plan.phases().len()).map(Entry::Phase).chain(stepwise(plan))
}

/// What emits the body of a function with parameters, and returns its result.
pub(super) type Body = fn(&Plan, Entry, &mut dyn Emit, &[Value]) -> Option<Value>;

/// The bodies of [`linked`].
pub(super) fn linked_body(plan: &Plan, entry: Entry, e: &mut dyn Emit, p: &[Value]) -> Option<Value> {
    let none = e.size(0);
    let (of_output, [weights, state, scratch, token, out]) = match entry {
        Entry::Advance => (false, [p[0], p[1], p[2], p[3], none]),
        Entry::Logits => (true, [p[0], none, p[1], none, p[2]]),
        _ => return body(plan, entry, e, p),
    };
    for (n, phase) in plan.phases().iter().enumerate() {
        if plan.is_of_output(phase.pieces[0]) == of_output {
            let shares = e.size(phase.panels.unwrap_or(0));
            e.call(Entry::Phase(n), &[weights, state, scratch, token, out, none, shares]);
        }
    }
    None
}

/// The functions that read many words at once, in addition to the kernels of [`lstmc_kernels`].
pub(crate) fn batched(plan: &Plan) -> impl Iterator<Item = Entry> {
    std::iter::once(Entry::Gather).chain((0..plan.loops.len()).map(Entry::Recurrent))
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
        Map { terms: self.terms(e, &p.segments), start, out: p.out, wide: self.plan.wide_terms(&p.segments) }
    }

    /// Stores the output, or with a `range` some panels of it.
    fn output(&self, e: &mut dyn Emit, range: Option<[Value; 2]>, to: Value) {
        match (&self.plan.output.result, range) {
            (Output::Product(product), Some(range)) => {
                let map = self.map(e, product);
                product::store_range(e, &map, range, to, false);
            }
            (Output::Product(product), None) => {
                let map = self.map(e, product);
                output::store_exact(e, &map, to);
            }
            (Output::Buffer(b), _) => {
                let from = self.buffer(e, *b);
                e.copy_exact([from, to], [Memory::Buffer, Memory::Caller], b.len);
            }
        }
    }
}

/// Emits the body of a function with parameters `p`; returns its result.
pub(super) fn body(plan: &Plan, entry: Entry, e: &mut dyn Emit, p: &[Value]) -> Option<Value> {
    match entry {
        Entry::Advance => {
            let frame = Frame { plan, weights: p[0], state: Some(p[1]), scratch: p[2] };
            emit_steps(e, &frame, Some(p[3]), &plan.steps);
        }
        Entry::Reset => {
            let frame = Frame { plan, weights: p[0], state: Some(p[1]), scratch: p[1] };
            for &(state, from) in &plan.initial {
                let (from, to) = (frame.weight(e, from), frame.state(e, state.offset));
                e.copy(from, to, state.len);
            }
        }
        Entry::Logits => {
            let frame = Frame { plan, weights: p[0], state: None, scratch: p[1] };
            emit_steps(e, &frame, None, &plan.output.prologue);
            frame.output(e, None, p[2]);
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
            let phase = &plan.phases()[n];
            let state = (!plan.is_of_output(phase.pieces[0])).then_some(p[1]);
            let frame = Frame { plan, weights: p[0], state, scratch: p[2] };
            let range = phase.panels.map(|_| [p[5], p[6]]);
            for &piece in &phase.pieces {
                emit_piece(e, &frame, p[3], p[4], range, piece);
            }
        }
        Entry::Recurrent(n) => {
            let frame = Frame { plan, weights: p[0], state: Some(p[2]), scratch: p[3] };
            let of = &plan.loops[n];
            match plan.cell(of) {
                Some((cell, prologue)) => {
                    emit_steps(e, &frame, None, prologue);
                    let sums = cell.last();
                    // Sums of their own start from their own bias, others from those of the input.
                    let apart = cell.gates.len() > 1;
                    let start = apart.then(|| frame.weight(e, sums.start));
                    let terms = frame.terms(e, &cell.recurrent);
                    let map =
                        Map { terms, start, out: sums.sums.len, wide: plan.wide_terms(&cell.recurrent) };
                    let to = frame.buffer(e, sums.sums);
                    cell::sums(e, &map, (!apart).then_some(p[1]), to);
                }
                None => emit_steps(e, &frame, None, &plan.steps[of.steps.clone()]),
            }
        }
        Entry::Panels(_) => unreachable!("it is made as machine code"),
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
    let mut products = vec![];
    for (gates, terms) in cell.products() {
        let wide = frame.plan.wide_terms(&terms);
        let (terms, start) = (frame.terms(e, &terms), Some(frame.weight(e, gates.start)));
        let sums = frame.buffer(e, gates.sums);
        products.push((Map { terms, start, out: gates.sums.len, wide }, sums));
    }
    CellAt {
        cell,
        products,
        states: cell.states.iter().map(|s| frame.state(e, s.offset)).collect(),
        parameters: cell.parameters.map(|(id, _)| frame.weight(e, id)),
        out: frame.buffer(e, cell.out),
    }
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
    let step = |n: usize| frame.plan.all_steps().nth(n).expect("a phase has pieces of steps");
    match (piece, range) {
        (Piece::Output, range) => frame.output(e, range, logits),
        (Piece::Panels(n), Some(range)) => match step(n) {
            Step::Product { product, out } => {
                let (map, to) = (frame.map(e, product), frame.buffer(e, *out));
                product::store_range(e, &map, range, to, true);
            }
            Step::Cell(cell) => {
                let at = cell_at(e, frame, cell);
                cell::range(e, &at, range);
            }
            other => unreachable!("{other:?} has no panels"),
        },
        (Piece::Step(n) | Piece::Panels(n), _) => emit_step(e, frame, Some(token), step(n)),
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
            let at = cell_at(e, frame, cell);
            cell::step(e, &at);
        }
        Step::Map { formula, operands, out } => {
            let mut p = vec![frame.buffer(e, *out)];
            p.extend(operands.iter().map(|source| match source.of {
                Elements::Vector(v) => frame.vector(e, v),
                Elements::Weight(id) => frame.weight(e, id),
            }));
            let scalars: Vec<bool> = operands.iter().map(|source| source.is_scalar).collect();
            e.repeat(out.len.div_ceil(LANES), &p, |e, _, p| {
                formula::emit(e, formula, 1, &OneVector { p, scalars: &scalars });
                let stays = std::iter::once(&false).chain(&scalars);
                p.iter().zip(stays).map(|(&p, &stays)| if stays { p } else { e.offset(p, VECTOR) }).collect()
            });
        }
        Step::Norm { x, scale, shift, epsilon, out } => {
            let (from, to) = (frame.vector(e, *x), frame.buffer(e, *out));
            let own = [*scale, *shift].map(|id| id.map(|id| frame.weight(e, id)));
            norm::normalize(e, from, x.len(), own, *epsilon, to);
        }
        Step::LogSoftmax { x, out } => {
            let (from, to) = (frame.vector(e, *x), frame.buffer(e, *out));
            output::log_softmax(e, from, x.len(), to);
        }
        Step::Concat { parts, out } => {
            let mut at = *out;
            for part in parts {
                let (from, to) = (frame.vector(e, *part), frame.buffer(e, at));
                e.copy_exact([from, to], [Memory::Caller; 2], part.len());
                at.offset += part.len();
            }
        }
        Step::Delay { x, state, out } => {
            let at = frame.state(e, state.offset);
            if let Some(out) = out {
                let to = frame.buffer(e, *out);
                e.copy(at, to, state.len);
            }
            let from = frame.buffer(e, *x);
            e.copy(from, at, state.len);
        }
    }
}

/// Bytes of a vector.
const VECTOR: usize = LANES * 4;

/// One vector: the pointer of the result, then those of the operands, and which of these are scalars.
struct OneVector<'a> {
    p: &'a [Value],
    scalars: &'a [bool],
}

impl Ends for OneVector<'_> {
    fn load(&self, e: &mut dyn Emit, input: usize) -> Vec<Value> {
        let at = self.p[1 + input];
        if self.scalars[input] {
            let x = e.load(Type::F32, Memory::Buffer, at, 0);
            return vec![e.splat(x)];
        }
        vec![e.load(Type::F32x4, Memory::Buffer, at, 0)]
    }

    fn store(&self, e: &mut dyn Emit, _: usize, vectors: &[Value]) {
        e.store(Memory::Buffer, vectors[0], self.p[0], 0);
    }
}
