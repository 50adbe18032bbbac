//! A language model as a program: language-model form in dense tables, checked once.
//!
//! ```text
//!   graph in language-model form ──▶ Program { steps, groups, states, output } ──▶ interpreter, training, plan, export, calibration
//!
//!   %tokens ──▶ Embed ──▶ (Apply | Cell | Map | Norm | LogSoftmax | Concat)* ──▶ output [S, B, width]
//!                            │ ▲
//!                            ▼ │ the states, fed back
//! ```
//!
//! Each step computes one sequence and reads [slices](Slice) of those of other steps and of stepwise states. Passes edit the graph, and the text form
//! shows it; a program is what runs. A graph that is not a program cannot be planned.
//!
//! # Order
//!
//! A stepwise state is the sequence that one step computes, its *next* step, delayed by one time step. Steps that depend on each other through such
//! states are a *recurrent* [`Group`]: they run together, once for each time step. Every other step is a group of its own and may run for many time
//! steps at once, because what it reads is complete. Groups, and the steps in them, are numbered in order of execution: a step reads earlier steps,
//! and states whose next steps are in the same group or in an earlier one. If the whole program runs for one time step, states are therefore
//! replaced at its end.

mod arrange;
mod read;
mod window;

use super::cell::CellSpec;
use super::formula::Formula;
use super::graph::{Graph, NodeId, Operand, Type, ValueId, WeightId};
use super::map::{LinearMap, Part, PartId, TensorTrain};
use read::Reader;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

pub use window::{Layout, Window};

/// A step of a program, by position; also the sequence that it computes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StepId(u32);

/// A recurrent state of a program, by position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StateId(u32);

impl StepId {
    /// The position.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl StateId {
    /// The position.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A graph that was checked to be in language-model form, as steps in order of execution.
#[derive(Clone, Debug)]
pub struct Program<'g> {
    graph: &'g Graph,
    tokens: ValueId,
    steps: Vec<Step>,
    groups: Vec<Group>,
    states: Vec<State>,
    output: StepId,
    head: Head,
    vocabulary: usize,
}

/// What a program returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Head {
    /// The unnormalised logarithms of the next word's probabilities, `[S, B, vocabulary]`.
    Logits,
    /// A vector of any length, such as that of a transducer's prediction network.
    Hidden,
}

impl Head {
    /// The name of the output.
    pub fn name(self) -> &'static str {
        match self {
            Head::Logits => "logits",
            Head::Hidden => "hidden",
        }
    }
}

/// Steps that run together: one that may run for many time steps at once, or a recurrent component.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    steps: Range<u32>,
    /// Whether the steps must run together, once for each time step.
    pub is_recurrent: bool,
}

impl Group {
    /// Its steps, in order of execution.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = StepId> + use<> {
        self.steps.clone().map(StepId)
    }

    /// Whether it has this step.
    pub fn contains(&self, step: StepId) -> bool {
        self.steps.contains(&step.0)
    }
}

/// A step, which computes one sequence `[S, B, width]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The node; one node may become several steps, and several elementwise nodes one.
    pub node: NodeId,
    /// Features of the sequence.
    pub width: usize,
    /// Whether another step or a stepwise state reads it.
    pub is_read: bool,
    /// What it computes.
    pub kind: StepKind,
}

/// What a step computes.
#[derive(Clone, PartialEq, Debug)]
pub enum StepKind {
    /// Tokens to vectors.
    Embed(Embed),
    /// A sum of products, with an optional bias.
    Apply(Apply),
    /// A recurrent cell.
    Cell(Box<Cell>),
    /// An elementwise formula.
    Map(Map),
    /// Normalisation over the features.
    Norm(Norm),
    /// `log_softmax` over the features.
    LogSoftmax(Slice),
    /// The features of all, side by side; of one, a copy.
    Concat(Vec<Slice>),
}

impl StepKind {
    /// The sequences that it reads.
    pub fn reads(&self) -> Vec<Slice> {
        match self {
            StepKind::Embed(_) => vec![],
            StepKind::Apply(a) => a.terms.iter().map(|(x, _)| *x).collect(),
            StepKind::Cell(c) => vec![c.x],
            StepKind::Map(m) => m.operands.iter().filter_map(|o| o.slice()).collect(),
            StepKind::Norm(n) => vec![n.x],
            StepKind::LogSoftmax(x) => vec![*x],
            StepKind::Concat(parts) => parts.clone(),
        }
    }

    fn reads_mut(&mut self) -> Vec<&mut Slice> {
        match self {
            StepKind::Embed(_) => vec![],
            StepKind::Apply(a) => a.terms.iter_mut().map(|(x, _)| x).collect(),
            StepKind::Cell(c) => vec![&mut c.x],
            StepKind::Map(m) => {
                let slices = m.operands.iter_mut().filter_map(|o| match o {
                    Source::Slice(x) => Some(x),
                    Source::Constant(_) => None,
                });
                slices.collect()
            }
            StepKind::Norm(n) => vec![&mut n.x],
            StepKind::LogSoftmax(x) => vec![x],
            StepKind::Concat(parts) => parts.iter_mut().collect(),
        }
    }
}

impl Step {
    /// The maps whose products the step sums, each with its columns of the stacked vector: of a cell `[x; h]`.
    pub fn stacked(&self) -> Vec<(WeightId, Range<usize>)> {
        let terms: Vec<(usize, WeightId)> = match &self.kind {
            StepKind::Apply(a) => a.terms.iter().map(|(x, w)| (x.width, *w)).collect(),
            StepKind::Cell(c) => vec![(c.x.width, c.input), (self.width, c.recurrent)],
            _ => vec![],
        };
        let mut end = 0;
        let columns = |(width, weight): (usize, WeightId)| {
            end += width;
            (weight, end - width..end)
        };
        terms.into_iter().map(columns).collect()
    }
}

/// A sequence that steps read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Sequence {
    /// A step's result.
    Step(StepId),
    /// A stepwise state: its values before each time step.
    State(StateId),
}

/// Features `from..from + width` of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Slice {
    /// The sequence.
    pub of: Sequence,
    /// The first feature.
    pub from: usize,
    /// The number of features.
    pub width: usize,
}

/// `table[token]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Embed {
    /// `[vocabulary, width]`.
    pub table: WeightId,
}

/// `W x + W' x' + .. + b`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Apply {
    /// Each with its weight, `[width, x.width]`; at least one.
    pub terms: Vec<(Slice, WeightId)>,
    /// `[width]`.
    pub bias: Option<WeightId>,
}

/// `states' = formula(W x + U h + b, states, parameters)`, where `h` is the first state, which is also the output.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// What is computed from the products.
    pub spec: CellSpec,
    /// The input.
    pub x: Slice,
    /// `[blocks units, x.width]`.
    pub input: WeightId,
    /// `[blocks units, units]`.
    pub recurrent: WeightId,
    /// `[blocks units]`.
    pub bias: WeightId,
    /// `[parameters units]`, if the spec has any.
    pub parameters: Option<WeightId>,
    /// One for each state of the spec.
    pub states: Vec<StateId>,
}

/// A formula over sequences and constants.
#[derive(Clone, PartialEq, Debug)]
pub struct Map {
    /// The formula, with one result.
    pub formula: Formula,
    /// Its inputs.
    pub operands: Vec<Source>,
}

/// An input of a formula. Its features are as many as the result's, or one for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Of a sequence.
    Slice(Slice),
    /// Of a constant.
    Constant(WeightId),
}

impl Source {
    /// The slice, if it is one.
    pub fn slice(self) -> Option<Slice> {
        match self {
            Source::Slice(x) => Some(x),
            Source::Constant(_) => None,
        }
    }
}

/// `scale (x - mean) / sqrt(variance + epsilon) + shift`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Norm {
    /// `x`.
    pub x: Slice,
    /// `[width]`; without it 1.
    pub scale: Option<WeightId>,
    /// `[width]`; without it 0.
    pub shift: Option<WeightId>,
    /// Added to the variance.
    pub epsilon: f32,
}

/// A recurrent state `[B, width]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// The state.
    pub value: ValueId,
    /// Elements per stream.
    pub width: usize,
    /// Its value at the start of a text, `[width]`; without it zero.
    pub initial: Option<WeightId>,
    /// The step that computes its next value: as its result if the state is stepwise, otherwise the cell that alone reads and writes the state.
    pub next: StepId,
    /// Whether steps read it as a sequence.
    pub is_stepwise: bool,
}

/// Why a graph is not in language-model form.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "not in language-model form: {at}: expected {expected}, found {found}; the pass `canonicalize` makes it so"
)]
pub struct NotCanonical {
    /// The node, value or output.
    pub at: String,
    /// What language-model form requires there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl NotCanonical {
    fn new(at: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> NotCanonical {
        NotCanonical { at: at.into(), expected: expected.into(), found: found.into() }
    }
}

impl<'g> Program<'g> {
    /// Checks that `graph` is in language-model form and lists its steps.
    pub fn of(graph: &'g Graph) -> Result<Program<'g>, NotCanonical> {
        let mut reader = Reader::new(graph)?;
        let tokens = reader.tokens()?;
        let (head, output) = reader.output()?;
        for (id, node) in graph.nodes() {
            reader.step(id, node)?;
        }
        let output = reader.whole(output);
        let states = reader.states()?;
        let vocabulary = reader.vocabulary()?;
        if head == Head::Logits {
            reader.expect(graph.output_named("logits").expect("found above"), &Type::sequence(vocabulary))?;
        }
        let mut program =
            Program { graph, tokens, steps: reader.steps, groups: vec![], states, output, head, vocabulary };
        program.arrange();
        Ok(program)
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// `i64[S, B]`.
    pub fn tokens(&self) -> ValueId {
        self.tokens
    }

    /// The step that computes what the program returns.
    pub fn output(&self) -> StepId {
        self.output
    }

    /// The product that computes the logits, up to a number that is the same for all words.
    pub fn decoder(&self) -> Option<StepId> {
        let mut id = self.output;
        loop {
            match &self.step(id).kind {
                StepKind::Apply(_) if self.head == Head::Logits => return Some(id),
                StepKind::LogSoftmax(x) => id = self.whole(*x).ok()?,
                _ => return None,
            }
        }
    }

    /// What that is.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The steps that run together, in order of execution.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The number of words.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Every step, in order of execution.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = (StepId, &Step)> {
        self.steps.iter().enumerate().map(|(k, s)| (StepId(k as u32), s))
    }

    /// A step.
    pub fn step(&self, id: StepId) -> &Step {
        &self.steps[id.index()]
    }

    /// The step whose whole result a slice is.
    pub fn whole(&self, x: Slice) -> Result<StepId, NotCanonical> {
        match x.of {
            Sequence::Step(s) if x.from == 0 && x.width == self.step(s).width => Ok(s),
            Sequence::Step(s) => Err(self.unsupported(s, "a whole sequence")),
            Sequence::State(s) => Err(self.unsupported(self.states[s.index()].next, "no stepwise state")),
        }
    }

    /// The error that a step is not supported where `expected` is.
    pub fn unsupported(&self, step: StepId, expected: &str) -> NotCanonical {
        let node = self.graph.node(self.step(step).node);
        NotCanonical::new(format!("%{}", self.graph.name_of(node.results()[0])), expected, node.op.name())
    }

    /// The sizes of its sequences and the order in which they are computed.
    pub fn layout(&self) -> Arc<Layout> {
        let widths = self.steps.iter().map(|s| s.width).collect();
        Arc::new(Layout { widths, states: self.states.clone(), groups: self.groups.clone() })
    }

    /// The states, as declared.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// The embedding's table, `[vocabulary, features]`.
    pub fn embedding(&self) -> WeightId {
        let found = self.steps.iter().find_map(|s| match s.kind {
            StepKind::Embed(e) => Some(e.table),
            _ => None,
        });
        found.expect("Program::of checked that there is one")
    }

    /// The cells, first to last.
    pub fn cells(&self) -> impl Iterator<Item = (&Step, &Cell)> {
        self.steps.iter().filter_map(|s| match &s.kind {
            StepKind::Cell(cell) => Some((s, &**cell)),
            _ => None,
        })
    }

    /// The number of operands of the graph's nodes that are this weight.
    pub fn uses(&self, weight: WeightId) -> usize {
        let operands = self.graph.nodes().flat_map(|(_, n)| n.operands());
        operands.filter(|&&o| o == Operand::Weight(weight)).count()
    }

    /// Numbers stored in all weights; shared parts count once.
    pub fn parameters(&self) -> usize {
        parameters(self.graph)
    }

    /// Multiply-adds in products with weights for one token of one stream. Elementwise work is not counted.
    pub fn multiply_adds(&self) -> usize {
        let map = |w: WeightId| &self.graph.weight(w).map;
        let cost = |step: &Step| match &step.kind {
            StepKind::Embed(e) => lookup_multiply_adds(map(e.table)),
            StepKind::Apply(a) => stacked_multiply_adds(a.terms.iter().map(|(_, w)| map(*w))),
            StepKind::Cell(c) => stacked_multiply_adds([c.input, c.recurrent].into_iter().map(map)),
            StepKind::Map(_) | StepKind::Norm(_) | StepKind::LogSoftmax(_) | StepKind::Concat(_) => 0,
        };
        self.steps.iter().map(cost).fold(0, usize::saturating_add)
    }
}

/// Numbers stored in all weights of any graph; a map that several weights share counts once.
pub fn parameters(graph: &Graph) -> usize {
    fn count(part: &Part, seen: &mut BTreeSet<PartId>) -> usize {
        if !seen.insert(part.id()) {
            return 0;
        }
        match &**part {
            LinearMap::Dense(_) | LinearMap::Quantized(_) | LinearMap::Sparse(_) => part.parameters(),
            LinearMap::LowRank(_) | LinearMap::TensorTrain(_) => {
                part.children().iter().map(|(_, child)| count(child, seen)).sum()
            }
        }
    }
    let mut seen = BTreeSet::new();
    graph.weights().map(|(_, w)| count(&w.map, &mut seen)).sum()
}

/// Multiply-adds of reading one row of a table.
fn lookup_multiply_adds(table: &LinearMap) -> usize {
    match table {
        LinearMap::Dense(_) | LinearMap::Quantized(_) | LinearMap::Sparse(_) => 0,
        LinearMap::LowRank(l) => {
            // As many as for the map times a vector, unless a factor is a tensor train, which passes do not make.
            lookup_multiply_adds(l.left()).saturating_add(l.right().multiply_adds())
        }
        LinearMap::TensorTrain(t) => train_row_multiply_adds(t),
    }
}

/// A row is built left to right: `[n1 .. n(k-1), r(k-1)]` times the core's slice `[r(k-1), nk rk]`.
fn train_row_multiply_adds(t: &TensorTrain) -> usize {
    let ranks = t.ranks();
    let mut before = 1usize;
    let mut total = 0usize;
    for (k, &n) in t.in_modes().iter().enumerate() {
        if k > 0 {
            total = total.saturating_add(before.saturating_mul(ranks[k] * n * ranks[k + 1]));
        }
        before = before.saturating_mul(n);
    }
    total
}

/// A sum of products; a left factor that several maps share is applied once, to the sum of the right products.
fn stacked_multiply_adds<'a>(maps: impl Iterator<Item = &'a Part>) -> usize {
    let mut lefts = BTreeSet::new();
    let cost = |map: &Part| match &**map {
        LinearMap::LowRank(l) if !lefts.insert(l.left().id()) => l.right().multiply_adds(),
        _ => map.multiply_adds(),
    };
    maps.map(cost).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse;

    const MODEL: &str = r#"
model "m" (vocabulary 6) {
  %tokens: i64[S, B] = input
  %h0: f32[B, 2] = state
  %c0: f32[B, 2] = state
  %x0 = embedding %tokens, @embedding
  %x1, %h0.next, %c0.next = lstm %x0, %h0, %c0, @lstm0.input, @lstm0.recurrent, @lstm0.bias {gates = iofc}
  %logits = linear %x1, @decoder, @decoder.bias
  return logits %logits, state %h0 = %h0.next, state %c0 = %c0.next
}
@embedding: low_rank [6, 4] { left: f32[6, 3] random 1, right: f32[3, 4] random 2 }
@lstm0.input: low_rank [8, 4] { left: f32[8, 1] random 3, right: f32[1, 4] random 4 }
@lstm0.recurrent: low_rank [8, 2] { left: @lstm0.input/left, right: f32[1, 2] random 5 }
@lstm0.bias: f32[8] random 6
@decoder: tensor_train [6, 2] modes 2x3 by 1x2 { core0: f32[2, 2] random 7, core1: f32[6, 2] random 8 }
@decoder.bias: f32[6] random 9
"#;

    #[test]
    fn what_is_shared_counts_once() {
        let graph = parse(MODEL).unwrap();
        let model = Program::of(&graph).unwrap();
        let (embedding, lstm, decoder) = (6 * 3 + 3 * 4, 8 + 4 + 2 + 8, 4 + 12 + 6);
        assert_eq!(model.parameters(), embedding + lstm + decoder);
        let StepKind::Apply(output) = &model.step(model.output()).kind else { panic!("a product") };
        let train = graph.weight(output.terms[0].1).map.multiply_adds();
        // A row of the embedding is a row of the left factor times the right one; the shared factor is applied once.
        assert_eq!(model.multiply_adds(), 3 * 4 + (8 + 4 + 2) + train);
    }

    #[test]
    fn steps_have_their_sizes() {
        let graph = parse(MODEL).unwrap();
        let model = Program::of(&graph).unwrap();
        let (step, cell) = model.cells().next().unwrap();
        assert_eq!((cell.x.width, step.width, model.vocabulary()), (4, 2, 6));
        assert_eq!(model.states()[cell.states[1].index()].next.index(), 1);
        assert!(
            matches!(&model.step(model.output()).kind, StepKind::Apply(output) if output.terms[0].0.width == 2)
        );
        let widths: Vec<usize> = model.steps().map(|(_, s)| s.width).collect();
        assert_eq!(widths, [4, 2, 6]);
    }

    /// Every operator; `%s0` delays, `%s1` and `%s2` feed back through each other.
    const GENERAL: &str = r#"
model "g" (vocabulary 6) {
  %tokens: i64[S, B] = input
  %s0: f32[S, B, 4] = state
  %s1: f32[S, B, 3] = state @s1.initial
  %s2: f32[S, B, 2] = state
  %h0: f32[B, 2] = state @gru0.initial
  %h1: f32[B, 2] = state
  %h2: f32[B, 2] = state
  %x0 = embedding %tokens, @embedding
  %a = linear %x0, @a0, %s1, @a1, @a.bias
  %t = tanh %a
  %u = sigmoid %t
  %l = features %u {from = 1, to = 3}
  %m = add %l, %s2
  %n = layer_norm %x0, none, @shift {epsilon = 1e-5}
  %o = concat %n, %s0
  %x1, %h0.next = gru %o, %h0, @gru0.input, @gru0.recurrent, @gru0.bias {reset = after}
  %x2, %h1.next = gru %x1, %h1, @gru1.input, @gru1.recurrent, @gru1.bias {reset = before, clip = 2}
  %x3, %h2.next = rnn %x2, %h2, @rnn2.input, @rnn2.recurrent, @rnn2.bias {activation = relu}
  %p = log_softmax %x3
  %q = features %p {from = 0, to = 1}
  %r = mul %q, %l
  %hidden = features %r {from = 1, to = 2}
  return hidden %hidden, state %s0 = %x0, state %s1 = %u, state %s2 = %m, state %h0 = %h0.next, state %h1 = %h1.next, state %h2 = %h2.next
}
@embedding: f32[6, 4] random 1
@s1.initial: f32[3] random 2
@gru0.initial: f32[2] random 3
@a0: f32[3, 4] random 4
@a1: f32[3, 3] random 5
@a.bias: f32[3] random 6
@shift: f32[4] random 7
@gru0.input: f32[6, 8] random 8
@gru0.recurrent: f32[6, 2] random 9
@gru0.bias: f32[8] random 10
@gru1.input: f32[6, 2] random 11
@gru1.recurrent: f32[6, 2] random 12
@gru1.bias: f32[6] random 13
@rnn2.input: f32[2, 2] random 14
@rnn2.recurrent: f32[2, 2] random 15
@rnn2.bias: f32[2] random 16
"#;

    #[test]
    fn a_general_program() {
        let graph = parse(GENERAL).unwrap();
        crate::ir::verify_language_model(&graph).unwrap();
        let inline = crate::ir::PrintOptions { inline_up_to: usize::MAX };
        let text = crate::ir::print_with(&graph, &inline);
        assert_eq!(crate::ir::print_with(&parse(&text).unwrap(), &inline), text);
        let program = Program::of(&graph).unwrap();
        let slice = |x: &Slice| {
            let of = match x.of {
                Sequence::Step(s) => s.index().to_string(),
                Sequence::State(s) => format!("state {}", s.index()),
            };
            format!("{of}[{}..{}]", x.from, x.from + x.width)
        };
        let mut lines = vec![];
        for group in program.groups() {
            let kind = if group.is_recurrent { "recurrent" } else { "batched" };
            for id in group.steps() {
                let step = program.step(id);
                let node = graph.node(step.node).op.name();
                let reads: Vec<String> = step.kind.reads().iter().map(slice).collect();
                let (id, width) = (id.index(), step.width);
                lines.push(format!("{kind} {id}: {node} of {} -> {width}", reads.join(", ")));
            }
        }
        lines.extend(program.states().iter().map(|s| format!("state {} from {}", s.width, s.next.index())));
        lines.push(format!(
            "{:?} {}, vocabulary {}",
            program.head(),
            program.output().index(),
            program.vocabulary()
        ));
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let error = |from: &str, to: &str| {
            assert!(GENERAL.contains(from), "{from}");
            let error = parse(&GENERAL.replace(from, to)).unwrap_err().to_string();
            error.lines().next().unwrap_or_default().to_string()
        };
        let errors = [
            error("{from = 1, to = 3}", "{from = 1, to = 4}"),
            error("%s1, @a1,", "%s2, @a1,"),
            error("%s1, @a1, @a.bias", "%s1"),
            error("1e-5", "-1"),
            error("none, @shift", "@a0, @shift"),
            error("clip = 2", "clip = 0"),
            error("concat %n, %s0", "concat"),
            error("state @s1.initial", "state @shift"),
            error("state @s1.initial", "state %s0"),
            error("{reset = before", "{reset = after"),
        ];
        insta::assert_snapshot!(errors.join("\n"));
    }

    #[test]
    fn what_is_not_canonical_is_said() {
        let error = |from: &str, to: &str| {
            assert!(MODEL.contains(from));
            Program::of(&parse(&MODEL.replace(from, to)).unwrap()).unwrap_err().to_string()
        };
        let errors = [
            error(", state %c0 = %c0.next", ""),
            error("state %h0 = %h0.next, state %c0 = %c0.next", "state %h0 = %c0.next, state %c0 = %h0.next"),
            error("return logits", "return scores"),
            error("(vocabulary 6)", "(vocabulary 7)"),
            error("%logits = linear", "%copy = onnx.identity %x1\n  %logits = linear"),
        ];
        insta::assert_snapshot!(errors.join("\n"));
    }
}
