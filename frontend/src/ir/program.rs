//! A language model as a program: language-model form in dense tables, checked once.
//!
//! ```text
//!   graph in language-model form ──▶ Program { steps, states, logits } ──▶ interpreter, training, plan, export, calibration
//!
//!   %tokens ──▶ Embed ──▶ (Cell | Apply | Map)* ──▶ logits [S, B, vocabulary]
//!                            │ ▲
//!                            ▼ │ the states of each cell, fed back
//! ```
//!
//! Each step computes one sequence and reads those of earlier steps, by [`StepId`]. Passes edit the graph, and the text form shows it; a program
//! is what runs. A graph that is not a program cannot be planned.

use super::cell::CellSpec;
use super::formula::{Algebra, Formula, FormulaBuilder};
use super::graph::{Graph, Node, NodeId, Operand, OutputRole, Type, ValueId, WeightId};
use super::map::{LinearMap, Part, PartId, TensorTrain};
use super::op::Op;
use std::collections::{BTreeMap, BTreeSet};

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
    states: Vec<State>,
    logits: StepId,
    vocabulary: usize,
}

/// A step, which computes one sequence `[S, B, width]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The node.
    pub node: NodeId,
    /// The node's first result.
    pub value: ValueId,
    /// Features of the sequence.
    pub width: usize,
    /// Whether another step reads it.
    pub is_read: bool,
    /// What it computes.
    pub kind: StepKind,
}

/// What a step computes.
#[derive(Clone, PartialEq, Debug)]
pub enum StepKind {
    /// Tokens to vectors.
    Embed(Embed),
    /// A product, with an optional bias.
    Apply(Apply),
    /// A recurrent cell.
    Cell(Box<Cell>),
    /// An elementwise formula.
    Map(Map),
}

/// `table[token]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Embed {
    /// `[vocabulary, width]`.
    pub table: WeightId,
}

/// `W x + b`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Apply {
    /// `[S, B, inputs]`.
    pub x: StepId,
    /// `[width, inputs]`.
    pub weight: WeightId,
    /// `[width]`.
    pub bias: Option<WeightId>,
    /// Columns of the weight.
    pub inputs: usize,
}

/// `states' = formula(W x + U h + b, states, parameters)`, where `h` is the first state, which is also the output.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// What is computed from the products.
    pub spec: CellSpec,
    /// `[S, B, inputs]`.
    pub x: StepId,
    /// Columns of the input map.
    pub inputs: usize,
    /// `[gates units, inputs]`.
    pub input: WeightId,
    /// `[gates units, units]`.
    pub recurrent: WeightId,
    /// `[gates units]`.
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

/// An input of a formula.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A sequence as wide as the result.
    Step(StepId),
    /// A constant of one element, or of one per feature.
    Constant(WeightId),
}

/// A recurrent state `[B, width]`, zero at the start of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// The state.
    pub value: ValueId,
    /// Its next value.
    pub next: ValueId,
    /// Elements per stream.
    pub width: usize,
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
        let states = graph.sources(&Op::State).into_iter().map(|value| (value, None)).collect();
        let mut reader = Reader { graph, results: BTreeMap::new(), steps: vec![], states };
        let tokens = reader.tokens()?;
        let logits = reader.logits()?;
        for (id, node) in graph.nodes().filter(|(_, n)| !matches!(n.op, Op::Input | Op::State)) {
            reader.step(id, node)?;
        }
        let states = reader.states()?;
        let vocabulary = reader.vocabulary(logits)?;
        let logits = reader.results[&logits];
        Ok(Program { graph, tokens, steps: reader.steps, states, logits, vocabulary })
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// `i64[S, B]`.
    pub fn tokens(&self) -> ValueId {
        self.tokens
    }

    /// The step that computes `[S, B, vocabulary]`.
    pub fn logits(&self) -> StepId {
        self.logits
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
            StepKind::Apply(a) => map(a.weight).multiply_adds(),
            StepKind::Cell(c) => stacked_multiply_adds(map(c.input), map(c.recurrent)),
            StepKind::Map(_) => 0,
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

/// `input x + recurrent h`; a left factor that both share is applied once, to the sum of the right products.
fn stacked_multiply_adds(input: &LinearMap, recurrent: &LinearMap) -> usize {
    let both = input.multiply_adds().saturating_add(recurrent.multiply_adds());
    match (input, recurrent) {
        (LinearMap::LowRank(a), LinearMap::LowRank(b)) if a.left().id() == b.left().id() => {
            both - a.left().multiply_adds()
        }
        _ => both,
    }
}

struct Reader<'g> {
    graph: &'g Graph,
    /// The step that computes a sequence.
    results: BTreeMap<ValueId, StepId>,
    steps: Vec<Step>,
    /// The next value of each state, once a cell has computed it.
    states: Vec<(ValueId, Option<ValueId>)>,
}

impl Reader<'_> {
    fn label(&self, node: &Node) -> String {
        let result = node.results().first().map(|&v| format!("%{} = ", self.graph.name_of(v)));
        format!("{}{}", result.unwrap_or_default(), node.op.name())
    }

    fn tokens(&self) -> Result<ValueId, NotCanonical> {
        let inputs = self.graph.sources(&Op::Input);
        let [tokens] = inputs[..] else {
            return Err(NotCanonical::new("inputs", "one, the tokens", inputs.len().to_string()));
        };
        self.expect(tokens, &Type::tokens())?;
        Ok(tokens)
    }

    fn logits(&self) -> Result<ValueId, NotCanonical> {
        let named: Vec<&str> = self
            .graph
            .outputs()
            .iter()
            .filter_map(|o| match &o.role {
                OutputRole::Named(n) => Some(n.as_str()),
                OutputRole::State(_) => None,
            })
            .collect();
        if named != ["logits"] {
            return Err(NotCanonical::new("outputs", "`logits` and states", format!("{named:?}")));
        }
        Ok(self.graph.output_named("logits").expect("found above"))
    }

    fn expect(&self, value: ValueId, ty: &Type) -> Result<(), NotCanonical> {
        let found = self.graph.type_of(value);
        if found == ty {
            return Ok(());
        }
        let at = format!("%{}", self.graph.name_of(value));
        Err(NotCanonical::new(at, ty.to_string(), found.to_string()))
    }

    /// The features of a sequence.
    fn sequence(&self, value: ValueId) -> Result<usize, NotCanonical> {
        let found = self.graph.type_of(value);
        let features = found.shape.last().and_then(|d| d.as_constant()).unwrap_or(0);
        self.expect(value, &Type::sequence(features))?;
        Ok(features)
    }

    fn wrong<T>(&self, node: &Node, k: usize, expected: &str) -> Result<T, NotCanonical> {
        let found = match node.operands().get(k) {
            Some(Operand::Value(v)) => format!("%{}: {}", self.graph.name_of(*v), self.graph.type_of(*v)),
            Some(Operand::Weight(w)) => format!("@{}", self.graph.weight(*w).name),
            Some(Operand::None) | None => "none".into(),
        };
        Err(NotCanonical::new(self.label(node), format!("{expected} as operand {k}"), found))
    }

    /// The step that computes an operand.
    fn operand(&self, node: &Node, k: usize) -> Result<StepId, NotCanonical> {
        match node.operands().get(k) {
            Some(Operand::Value(v)) if self.results.contains_key(v) => Ok(self.results[v]),
            _ => self.wrong(node, k, "a sequence"),
        }
    }

    fn weight(&self, node: &Node, k: usize) -> Result<WeightId, NotCanonical> {
        match node.operands().get(k) {
            Some(Operand::Weight(w)) => Ok(*w),
            _ => self.wrong(node, k, "a weight"),
        }
    }

    /// An optional weight.
    fn optional(&self, node: &Node, k: usize) -> Result<Option<WeightId>, NotCanonical> {
        match node.operands().get(k) {
            None | Some(Operand::None) => Ok(None),
            Some(_) => self.weight(node, k).map(Some),
        }
    }

    fn step(&mut self, id: NodeId, node: &Node) -> Result<(), NotCanonical> {
        let kind = match &node.op {
            Op::Embedding => StepKind::Embed(Embed { table: self.weight(node, 1)? }),
            Op::Linear => {
                let x = self.operand(node, 0)?;
                let (weight, bias) = (self.weight(node, 1)?, self.optional(node, 2)?);
                StepKind::Apply(Apply { x, weight, bias, inputs: self.steps[x.index()].width })
            }
            Op::Lstm(lstm) => {
                let parameters = self.optional(node, 6)?;
                StepKind::Cell(Box::new(self.cell(node, lstm.spec(parameters.is_some()), parameters)?))
            }
            Op::Binary(_) | Op::Unary(_) => StepKind::Map(self.map(node)?),
            other => {
                let expected = "embedding, lstm, linear or an elementwise operator";
                return Err(NotCanonical::new(self.label(node), expected, other.name()));
            }
        };
        let value = node.results()[0];
        let is_read = self.graph.users(id).next().is_some();
        let step = Step { node: id, value, width: self.sequence(value)?, is_read, kind };
        self.results.insert(value, StepId(self.steps.len() as u32));
        self.steps.push(step);
        Ok(())
    }

    /// A cell whose operands are `x`, its states, the two maps, the bias and optional parameters, and whose results are the output and the
    /// next states.
    fn cell(
        &mut self,
        node: &Node,
        spec: CellSpec,
        parameters: Option<WeightId>,
    ) -> Result<Cell, NotCanonical> {
        let x = self.operand(node, 0)?;
        let mut states = vec![];
        for k in 0..spec.states {
            let Some(&Operand::Value(state)) = node.operands().get(1 + k) else {
                return self.wrong(node, 1 + k, "a state");
            };
            states.push(self.state(state, node.results()[1 + k])?);
        }
        let first = 1 + spec.states;
        Ok(Cell {
            x,
            inputs: self.steps[x.index()].width,
            input: self.weight(node, first)?,
            recurrent: self.weight(node, first + 1)?,
            bias: self.weight(node, first + 2)?,
            parameters,
            states,
            spec,
        })
    }

    /// A state that belongs to one cell, which computes its next value.
    fn state(&mut self, state: ValueId, next: ValueId) -> Result<StateId, NotCanonical> {
        let at = format!("%{}", self.graph.name_of(state));
        let Some(id) = self.states.iter().position(|(value, _)| *value == state) else {
            return Err(NotCanonical::new(at, "a state", "another value"));
        };
        if self.states[id].1.is_some() {
            return Err(NotCanonical::new(at, "a state of one cell", "two that read it"));
        }
        if self.graph.next_state(state) != Some(next) {
            let expected = format!("%{} as its next value", self.graph.name_of(next));
            let found = self.graph.next_state(state);
            let found = found.map_or("none".into(), |v| format!("%{}", self.graph.name_of(v)));
            return Err(NotCanonical::new(at, expected, found));
        }
        self.states[id].1 = Some(next);
        Ok(StateId(id as u32))
    }

    /// All states; each is read by a cell.
    fn states(&self) -> Result<Vec<State>, NotCanonical> {
        let state = |&(value, next): &(ValueId, Option<ValueId>)| {
            let width = self.graph.type_of(value).shape.last().and_then(|d| d.as_constant()).unwrap_or(0);
            match next {
                Some(next) => Ok(State { value, next, width }),
                None => {
                    let at = format!("%{}", self.graph.name_of(value));
                    Err(NotCanonical::new(at, "a cell that reads it", "none"))
                }
            }
        };
        self.states.iter().map(state).collect()
    }

    /// An elementwise node, whose sequences are as wide as its result and whose constants have one element or one per feature.
    fn map(&self, node: &Node) -> Result<Map, NotCanonical> {
        let width = self.sequence(node.results()[0])?;
        let mut operands = vec![];
        for (k, operand) in node.operands().iter().enumerate() {
            operands.push(match operand {
                Operand::Weight(w) => {
                    let elements: usize = self.graph.weight(*w).map.shape().iter().product();
                    if elements != 1 && elements != width {
                        return self.wrong(node, k, "a constant of one element or one for each feature");
                    }
                    Source::Constant(*w)
                }
                _ => {
                    let step = self.operand(node, k)?;
                    if self.steps[step.index()].width != width {
                        return self.wrong(node, k, "a sequence as wide as the result");
                    }
                    Source::Step(step)
                }
            });
        }
        let mut b = FormulaBuilder::new();
        let result = match (&node.op, operands.len()) {
            (Op::Unary(f), 1) => {
                let x = b.input(0);
                b.function(*f, &x)
            }
            (Op::Binary(op), 2) => {
                let (x, y) = (b.input(0), b.input(1));
                b.binary(*op, &x, &y)
            }
            (_, n) => {
                return Err(NotCanonical::new(self.label(node), "its operands", n.to_string()));
            }
        };
        b.result(0, &result);
        Ok(Map { formula: b.build(|_| None), operands })
    }

    fn vocabulary(&self, logits: ValueId) -> Result<usize, NotCanonical> {
        let tables: Vec<WeightId> = self
            .steps
            .iter()
            .filter_map(|s| match s.kind {
                StepKind::Embed(e) => Some(e.table),
                _ => None,
            })
            .collect();
        let [table] = tables[..] else {
            return Err(NotCanonical::new("nodes", "one embedding", tables.len().to_string()));
        };
        let rows = self.graph.weight(table).map.shape()[0];
        self.expect(logits, &Type::sequence(rows))?;
        if self.graph.vocabulary != Some(rows) {
            let found = self.graph.vocabulary.map_or("none".into(), |n| n.to_string());
            return Err(NotCanonical::new("vocabulary", format!("{rows}, the embedding's rows"), found));
        }
        Ok(rows)
    }
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
        let StepKind::Apply(output) = &model.step(model.logits()).kind else { panic!("a product") };
        let train = graph.weight(output.weight).map.multiply_adds();
        // A row of the embedding is a row of the left factor times the right one; the shared factor is applied once.
        assert_eq!(model.multiply_adds(), 3 * 4 + (8 + 4 + 2) + train);
    }

    #[test]
    fn steps_have_their_sizes() {
        let graph = parse(MODEL).unwrap();
        let model = Program::of(&graph).unwrap();
        let (step, cell) = model.cells().next().unwrap();
        assert_eq!((cell.inputs, step.width, model.vocabulary()), (4, 2, 6));
        assert_eq!(graph.name_of(model.states()[cell.states[1].index()].next), "c0.next");
        assert!(matches!(&model.step(model.logits()).kind, StepKind::Apply(output) if output.inputs == 2));
        let widths: Vec<usize> = model.steps().map(|(_, s)| s.width).collect();
        assert_eq!(widths, [4, 2, 6]);
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
