//! From a graph's nodes to steps.

use super::{
    Apply, Cell, Embed, Head, Map, Norm, NotCanonical, Sequence, Slice, Source, State, StateId, Step, StepId,
    StepKind,
};
use crate::ir::cell::{CellSpec, Gru, Reset};
use crate::ir::formula::{Algebra, FormulaBuilder, TermId};
use crate::ir::graph::{Graph, Node, NodeId, Operand, OutputRole, Type, ValueId, WeightId};
use crate::ir::op::Op;
use std::collections::BTreeMap;

/// The most elementwise nodes that become one formula.
const MOST_FUSED: usize = 32;

pub(super) struct Reader<'g> {
    graph: &'g Graph,
    sequences: BTreeMap<ValueId, Slice>,
    /// Elementwise nodes that become part of their readers' formulas, and the number of nodes in each of these parts.
    fused: BTreeMap<ValueId, (NodeId, usize)>,
    pub(super) steps: Vec<Step>,
    states: Vec<(State, Option<StepId>)>,
}

impl<'g> Reader<'g> {
    pub(super) fn new(graph: &'g Graph) -> Result<Reader<'g>, NotCanonical> {
        let mut reader = Reader {
            graph,
            sequences: BTreeMap::new(),
            fused: BTreeMap::new(),
            steps: vec![],
            states: vec![],
        };
        for value in graph.sources(&Op::State) {
            let ty = graph.type_of(value);
            let is_stepwise = ty.shape.len() == 3;
            let width = ty.shape.last().and_then(|d| d.as_constant()).unwrap_or(0);
            reader.expect(value, &if is_stepwise { Type::sequence(width) } else { Type::state(width) })?;
            if is_stepwise {
                let of = Sequence::State(StateId(reader.states.len() as u32));
                reader.sequences.insert(value, Slice { of, from: 0, width });
            }
            let initial = graph.initial_state(value);
            let state = State { value, width, initial, next: StepId(0), is_stepwise };
            reader.states.push((state, None));
        }
        Ok(reader)
    }

    fn label(&self, node: &Node) -> String {
        let result = node.results().first().map(|&v| format!("%{} = ", self.graph.name_of(v)));
        format!("{}{}", result.unwrap_or_default(), node.op.name())
    }

    pub(super) fn tokens(&self) -> Result<ValueId, NotCanonical> {
        let inputs = self.graph.sources(&Op::Input);
        let [tokens] = inputs[..] else {
            return Err(NotCanonical::new("inputs", "one, the tokens", inputs.len().to_string()));
        };
        self.expect(tokens, &Type::tokens())?;
        Ok(tokens)
    }

    pub(super) fn output(&self) -> Result<(Head, ValueId), NotCanonical> {
        let role = |role: &OutputRole| match role {
            OutputRole::Named(n) => Some(n.clone()),
            OutputRole::State(_) => None,
        };
        let named: Vec<(String, ValueId)> =
            self.graph.outputs().iter().filter_map(|o| Some((role(&o.role)?, o.value))).collect();
        let head =
            [Head::Logits, Head::Hidden].into_iter().find(|h| named.iter().any(|(n, _)| n == h.name()));
        match (head, &named[..]) {
            (Some(head), [(_, value)]) => Ok((head, *value)),
            _ => {
                let names: Vec<&String> = named.iter().map(|(n, _)| n).collect();
                Err(NotCanonical::new("outputs", "`logits` or `hidden`, and states", format!("{names:?}")))
            }
        }
    }

    pub(super) fn expect(&self, value: ValueId, ty: &Type) -> Result<(), NotCanonical> {
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

    /// An operand that is a sequence.
    fn operand(&self, node: &Node, k: usize) -> Result<Slice, NotCanonical> {
        match node.operands().get(k) {
            Some(Operand::Value(v)) if self.sequences.contains_key(v) => Ok(self.sequences[v]),
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

    pub(super) fn step(&mut self, id: NodeId, node: &Node) -> Result<(), NotCanonical> {
        let kind = match &node.op {
            Op::Input | Op::State => return Ok(()),
            Op::Embedding => StepKind::Embed(Embed { table: self.weight(node, 1)? }),
            Op::Linear => {
                let pairs = node.operands().len() / 2;
                let term = |k: usize| Ok((self.operand(node, 2 * k)?, self.weight(node, 2 * k + 1)?));
                let terms = (0..pairs).map(term).collect::<Result<_, _>>()?;
                StepKind::Apply(Apply { terms, bias: self.optional(node, 2 * pairs)? })
            }
            Op::Lstm(lstm) => {
                let parameters = self.optional(node, 6)?;
                self.cell(node, lstm.spec(parameters.is_some()), parameters)?
            }
            Op::Gru(gru) if gru.reset == Reset::Before => return self.reset_before(id, node, gru),
            Op::Gru(gru) => self.cell(node, gru.spec(), None)?,
            Op::Rnn(rnn) => self.cell(node, rnn.spec(), None)?,
            Op::Features { from, to } => {
                let x = self.operand(node, 0)?;
                let slice = Slice { from: x.from + from, width: to - from, ..x };
                self.sequences.insert(node.results()[0], slice);
                return Ok(());
            }
            Op::LayerNorm { epsilon } => StepKind::Norm(Norm {
                x: self.operand(node, 0)?,
                scale: self.optional(node, 1)?,
                shift: self.optional(node, 2)?,
                epsilon: *epsilon,
            }),
            Op::LogSoftmaxFeatures => StepKind::LogSoftmax(self.operand(node, 0)?),
            Op::ConcatFeatures => {
                let parts = (0..node.operands().len()).map(|k| self.operand(node, k));
                StepKind::Concat(parts.collect::<Result<_, _>>()?)
            }
            Op::Binary(_) | Op::Unary(_) | Op::Select => match self.fused(id, node) {
                Some(size) => {
                    self.fused.insert(node.results()[0], (id, size));
                    return Ok(());
                }
                None => StepKind::Map(self.map(node)?),
            },
            other => {
                let expected = "an operator of language-model form";
                return Err(NotCanonical::new(self.label(node), expected, other.name()));
            }
        };
        let value = node.results()[0];
        let slice = self.push(id, self.sequence(value)?, kind);
        self.sequences.insert(value, slice);
        Ok(())
    }

    /// A new step's whole result.
    fn push(&mut self, node: NodeId, width: usize, kind: StepKind) -> Slice {
        let id = StepId(self.steps.len() as u32);
        if let StepKind::Cell(cell) = &kind {
            cell.states.iter().for_each(|s| self.states[s.index()].1 = Some(id));
        }
        self.steps.push(Step { node, width, is_read: false, kind });
        Slice { of: Sequence::Step(id), from: 0, width }
    }

    /// The step whose whole result a sequence is, which may have to be copied.
    pub(super) fn whole(&mut self, value: ValueId) -> StepId {
        let x = self.sequences[&value];
        match x.of {
            Sequence::Step(s) if x.from == 0 && x.width == self.steps[s.index()].width => s,
            _ => {
                self.push(self.graph.producer(value), x.width, StepKind::Concat(vec![x]));
                StepId(self.steps.len() as u32 - 1)
            }
        }
    }

    /// A cell whose operands are `x`, its states, the two maps, the bias and optional parameters, and whose results are the output and the
    /// next states.
    fn cell(
        &mut self,
        node: &Node,
        spec: CellSpec,
        parameters: Option<WeightId>,
    ) -> Result<StepKind, NotCanonical> {
        let states = (0..spec.states).map(|k| self.state(node, k)).collect::<Result<_, _>>()?;
        let first = 1 + spec.states;
        Ok(StepKind::Cell(Box::new(Cell {
            x: self.operand(node, 0)?,
            input: self.weight(node, first)?,
            recurrent: self.weight(node, first + 1)?,
            bias: self.weight(node, first + 2)?,
            parameters,
            states,
            spec,
        })))
    }

    /// A GRU whose reset gate is applied before the product, as steps. The recurrent map multiplies both `h` and `r h`.
    fn reset_before(&mut self, id: NodeId, node: &Node, gru: &Gru) -> Result<(), NotCanonical> {
        let (state, value) = (self.state(node, 0)?, node.results()[0]);
        let n = self.sequence(value)?;
        let h = Slice { of: Sequence::State(state), from: 0, width: n };
        let (input, recurrent, bias) = (self.weight(node, 2)?, self.weight(node, 3)?, self.weight(node, 4)?);
        let x = self.operand(node, 0)?;
        let apply = |reader: &mut Self, x, weight, bias| {
            reader.push(id, 3 * n, StepKind::Apply(Apply { terms: vec![(x, weight)], bias }))
        };
        let of_x = apply(self, x, input, Some(bias));
        let of_h = apply(self, h, recurrent, None);
        let gate = |of: Slice, k: usize| Source::Slice(Slice { from: k * n, width: n, ..of });
        let operands = vec![gate(of_x, 1), gate(of_h, 1), Source::Slice(h)];
        let rh = self.push(id, n, StepKind::Map(Map { formula: gru.reset_state(), operands }));
        let of_rh = apply(self, rh, recurrent, None);
        let operands = vec![gate(of_x, 0), gate(of_h, 0), gate(of_x, 2), gate(of_rh, 2), Source::Slice(h)];
        let new = self.push(id, n, StepKind::Map(Map { formula: gru.next_state(), operands }));
        let Sequence::Step(next) = new.of else { unreachable!("a new step") };
        let (of_state, known) = &mut self.states[state.index()];
        (of_state.is_stepwise, *known) = (true, Some(next));
        self.sequences.insert(value, new);
        Ok(())
    }

    /// State `k` of a cell, which alone reads and writes it.
    fn state(&self, node: &Node, k: usize) -> Result<StateId, NotCanonical> {
        let Some(&Operand::Value(state)) = node.operands().get(1 + k) else {
            return self.wrong(node, 1 + k, "a state");
        };
        let (at, next) = (format!("%{}", self.graph.name_of(state)), node.results()[1 + k]);
        let Some(id) =
            self.states.iter().position(|(s, _)| s.value == state && !self.sequences.contains_key(&state))
        else {
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
        Ok(StateId(id as u32))
    }

    /// All states; each is read by a cell or is a sequence.
    pub(super) fn states(&mut self) -> Result<Vec<State>, NotCanonical> {
        let mut all = vec![];
        for (mut state, mut next) in std::mem::take(&mut self.states) {
            let wrong = |expected: &str| {
                NotCanonical::new(format!("%{}", self.graph.name_of(state.value)), expected, "none")
            };
            if self.sequences.contains_key(&state.value) {
                let value = self.graph.next_state(state.value).ok_or_else(|| wrong("a next value"))?;
                self.expect(value, &Type::sequence(state.width))?;
                next = Some(self.whole(value));
            }
            state.next = next.ok_or_else(|| wrong("a cell that reads it"))?;
            all.push(state);
        }
        Ok(all)
    }

    /// The number of nodes in the formula of an elementwise node, if it becomes part of that of its only reader.
    fn fused(&self, id: NodeId, node: &Node) -> Option<usize> {
        let value = node.results()[0];
        let mut users = self.graph.users(id);
        let reader = self.graph.node(users.next()?);
        let is_elementwise = matches!(reader.op, Op::Binary(_) | Op::Unary(_) | Op::Select);
        let is_returned = self.graph.outputs().iter().any(|o| o.value == value);
        if users.next().is_some()
            || !is_elementwise
            || is_returned
            || self.graph.type_of(value) != self.graph.type_of(reader.results()[0])
        {
            return None;
        }
        Some(self.size(node)).filter(|n| *n < MOST_FUSED)
    }

    /// Elementwise nodes in the formula that ends with this one.
    fn size(&self, node: &Node) -> usize {
        let part = |o: &Operand| match o {
            Operand::Value(v) => self.fused.get(v).map(|(_, n)| n),
            _ => None,
        };
        1 + node.operands().iter().filter_map(part).sum::<usize>()
    }

    /// An elementwise node and those that are fused with it. Sequences and constants have one element or one per feature.
    fn map(&self, node: &Node) -> Result<Map, NotCanonical> {
        let width = self.sequence(node.results()[0])?;
        let (mut b, mut operands) = (FormulaBuilder::new(), vec![]);
        let result = self.formula(node, width, &mut b, &mut operands)?;
        b.result(0, &result);
        Ok(Map { formula: b.build(|_| None), operands })
    }

    fn formula(
        &self,
        node: &Node,
        width: usize,
        b: &mut FormulaBuilder,
        operands: &mut Vec<Source>,
    ) -> Result<TermId, NotCanonical> {
        let mut terms = vec![];
        for (k, operand) in node.operands().iter().enumerate() {
            if let Operand::Value(v) = operand
                && let Some((inner, _)) = self.fused.get(v)
            {
                terms.push(self.formula(self.graph.node(*inner), width, b, operands)?);
                continue;
            }
            let (source, elements) = match operand {
                Operand::Weight(w) => {
                    (Source::Constant(*w), self.graph.weight(*w).map.shape().iter().product())
                }
                _ => {
                    let x = self.operand(node, k)?;
                    (Source::Slice(x), x.width)
                }
            };
            if elements != 1 && elements != width {
                return self.wrong(node, k, "one element, or one for each feature of the result");
            }
            let at = operands.iter().position(|o| *o == source).unwrap_or_else(|| {
                operands.push(source);
                operands.len() - 1
            });
            terms.push(b.input(at));
        }
        match (&node.op, &terms[..]) {
            (Op::Unary(f), [x]) => Ok(b.function(*f, x)),
            (Op::Binary(op), [x, y]) => Ok(b.binary(*op, x, y)),
            (Op::Select, [x, y, then, otherwise]) => Ok(b.select([x, y], then, otherwise)),
            _ => Err(NotCanonical::new(self.label(node), "its operands", terms.len().to_string())),
        }
    }

    pub(super) fn vocabulary(&self) -> Result<usize, NotCanonical> {
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
        if self.graph.vocabulary != Some(rows) {
            let found = self.graph.vocabulary.map_or("none".into(), |n| n.to_string());
            return Err(NotCanonical::new("vocabulary", format!("{rows}, the embedding's rows"), found));
        }
        Ok(rows)
    }
}
