//! The canonical steps that evaluation collects, and the graph made from those that the logits need.

use super::error::CanonicalizeError;
use super::value::{Part, StateSlice};
use crate::ir::{Binary, Function, Graph, LinearMap, Lstm, Op, Operand, OutputRole, Type, ValueId, WeightId};
use crate::tensor::{DType, Data, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// A step of a draft.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct StepId(usize);

/// Steps in order of execution.
#[derive(Default)]
pub(super) struct Draft {
    steps: Vec<Step>,
}

pub(super) struct Step {
    pub(super) kind: Kind,
    /// The node's name in messages.
    pub(super) label: String,
}

pub(super) enum Kind {
    Embedding { table: Tensor },
    Cell(Box<Cell>),
    Linear { x: StepId, weight: Tensor, bias: Option<Tensor> },
    Binary { op: Binary, operands: [Argument; 2] },
    Unary { function: Function, x: StepId },
}

pub(super) struct Cell {
    pub(super) op: Lstm,
    pub(super) x: StepId,
    pub(super) hidden: usize,
    /// `[gates hidden, features]`
    pub(super) input: Tensor,
    /// `[gates hidden, hidden]`
    pub(super) recurrent: Tensor,
    /// `[gates hidden]`
    pub(super) bias: Tensor,
    /// `[peepholes hidden]`
    pub(super) peepholes: Option<Tensor>,
    /// The sources of the hidden and the cell state; `None` means zero.
    pub(super) initial: [Option<StateSlice>; 2],
}

pub(super) enum Argument {
    Step(StepId),
    Constant(Tensor),
}

impl Kind {
    /// The steps that are read.
    fn reads(&self) -> Vec<StepId> {
        match self {
            Kind::Embedding { .. } => vec![],
            Kind::Cell(c) => vec![c.x],
            Kind::Linear { x, .. } | Kind::Unary { x, .. } => vec![*x],
            Kind::Binary { operands, .. } => operands
                .iter()
                .filter_map(|o| match o {
                    Argument::Step(s) => Some(*s),
                    Argument::Constant(_) => None,
                })
                .collect(),
        }
    }
}

impl Draft {
    pub(super) fn push(&mut self, label: &str, kind: Kind) -> StepId {
        self.steps.push(Step { kind, label: label.to_string() });
        StepId(self.steps.len() - 1)
    }

    pub(super) fn step(&self, id: StepId) -> &Step {
        &self.steps[id.0]
    }

    /// The steps that `logits` needs, in order of execution.
    pub(super) fn live(&self, logits: StepId) -> BTreeSet<StepId> {
        let mut live = BTreeSet::from([logits]);
        for k in (0..=logits.0).rev() {
            if live.contains(&StepId(k)) {
                live.extend(self.steps[k].kind.reads());
            }
        }
        live
    }

    /// The rows of the first embedding.
    pub(super) fn vocabulary(&self) -> Option<usize> {
        self.steps.iter().find_map(|s| match &s.kind {
            Kind::Embedding { table } => Some(table.shape()[0]),
            _ => None,
        })
    }

    /// The cells of `live`, first to last, with their initial states.
    pub(super) fn cells<'a>(
        &'a self,
        live: &'a BTreeSet<StepId>,
    ) -> impl Iterator<Item = (StepId, &'a Cell)> + 'a {
        live.iter().filter_map(|&id| match &self.step(id).kind {
            Kind::Cell(c) => Some((id, &**c)),
            _ => None,
        })
    }

    /// The graph of the steps that `logits` needs.
    pub(super) fn emit(
        self,
        name: &str,
        live: &BTreeSet<StepId>,
        logits: StepId,
    ) -> Result<Graph, CanonicalizeError> {
        let mut emitter = Emitter::new(name, &self, live);
        for (k, step) in self.steps.into_iter().enumerate() {
            if live.contains(&StepId(k)) {
                emitter.step(StepId(k), step, StepId(k) == logits)?;
            }
        }
        emitter.finish(logits)
    }
}

struct Emitter {
    graph: Graph,
    tokens: ValueId,
    states: Vec<[ValueId; 2]>,
    next_states: Vec<[ValueId; 2]>,
    values: BTreeMap<StepId, ValueId>,
    embedding: Option<WeightId>,
    decoder: Option<StepId>,
    sequences: usize,
    linears: usize,
    constants: usize,
}

impl Emitter {
    fn new(name: &str, draft: &Draft, live: &BTreeSet<StepId>) -> Emitter {
        let mut graph = Graph::new(name);
        let tokens = graph.add_source(Op::Input, "tokens", Type::tokens());
        let mut states = vec![];
        for (k, (_, cell)) in draft.cells(live).enumerate() {
            let pair = Part::ALL.map(|p| {
                graph.add_source(Op::State, &format!("{}{k}", p.letter()), Type::state(cell.hidden))
            });
            states.push(pair);
        }
        let decoder = live.iter().rev().copied().find(|&s| matches!(draft.step(s).kind, Kind::Linear { .. }));
        Emitter {
            graph,
            tokens,
            states,
            next_states: vec![],
            values: BTreeMap::new(),
            embedding: None,
            decoder,
            sequences: 0,
            linears: 0,
            constants: 0,
        }
    }

    fn weight(&mut self, label: &str, name: &str, tensor: Tensor) -> Result<WeightId, CanonicalizeError> {
        let tensor = as_f32(label, tensor)?;
        Ok(self.graph.add_weight(name, tensor).unwrap_or_else(|existing| existing))
    }

    fn step(&mut self, id: StepId, step: Step, is_logits: bool) -> Result<(), CanonicalizeError> {
        let label = step.label;
        let name = if is_logits { "logits".to_string() } else { format!("x{}", self.sequences) };
        self.sequences += 1;
        let (op, operands) = match step.kind {
            Kind::Embedding { table } => {
                let table = self.weight(&label, "embedding", table)?;
                self.embedding = Some(table);
                (Op::Embedding, vec![self.tokens.into(), table.into()])
            }
            Kind::Cell(cell) => return self.cell(id, &label, &name, *cell),
            Kind::Linear { x, weight, bias } => {
                let prefix = if self.decoder == Some(id) {
                    "decoder".to_string()
                } else {
                    self.linears += 1;
                    format!("linear{}", self.linears - 1)
                };
                let weight = as_f32(&label, weight)?;
                let weight = match self.tied(&weight) {
                    Some(table) => table,
                    None => self.weight(&label, &prefix, weight)?,
                };
                let mut operands: Vec<Operand> = vec![self.values[&x].into(), weight.into()];
                if let Some(bias) = bias {
                    operands.push(self.weight(&label, &format!("{prefix}.bias"), bias)?.into());
                }
                (Op::Linear, operands)
            }
            Kind::Binary { op, operands } => {
                let mut read = vec![];
                for operand in operands {
                    read.push(match operand {
                        Argument::Step(s) => self.values[&s].into(),
                        Argument::Constant(t) => {
                            self.constants += 1;
                            let name = format!("constant{}", self.constants - 1);
                            self.weight(&label, &name, t)?.into()
                        }
                    });
                }
                (Op::Binary(op), read)
            }
            Kind::Unary { function, x } => (Op::Unary(function), vec![self.values[&x].into()]),
        };
        let result = self.graph.add(op, &operands, &[&name], "")?[0];
        self.values.insert(id, result);
        Ok(())
    }

    /// The embedding's table, if `weight` is the same matrix.
    fn tied(&self, weight: &Tensor) -> Option<WeightId> {
        let table = self.embedding?;
        let same = match &*self.graph.weight(table).map {
            LinearMap::Dense(t) => t == weight,
            _ => false,
        };
        same.then_some(table)
    }

    fn cell(&mut self, id: StepId, label: &str, name: &str, cell: Cell) -> Result<(), CanonicalizeError> {
        let k = self.next_states.len();
        let [h, c] = self.states[k];
        let mut operands: Vec<Operand> = vec![self.values[&cell.x].into(), h.into(), c.into()];
        let mut parts = vec![("input", cell.input), ("recurrent", cell.recurrent), ("bias", cell.bias)];
        parts.extend(cell.peepholes.map(|p| ("peepholes", p)));
        for (part, tensor) in parts {
            operands.push(self.weight(label, &format!("lstm{k}.{part}"), tensor)?.into());
        }
        let names = [name.to_string(), format!("h{k}.next"), format!("c{k}.next")];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let results = self.graph.add(Op::Lstm(cell.op), &operands, &names, "")?;
        self.values.insert(id, results[0]);
        self.next_states.push([results[1], results[2]]);
        Ok(())
    }

    fn finish(mut self, logits: StepId) -> Result<Graph, CanonicalizeError> {
        self.graph.add_output(OutputRole::Named("logits".into()), self.values[&logits]);
        for (states, next) in self.states.iter().zip(&self.next_states) {
            for (state, next) in states.iter().zip(next) {
                self.graph.add_output(OutputRole::State(*state), *next);
            }
        }
        let rows = self.embedding.map(|e| self.graph.weight(e).map.shape()[0]);
        self.graph.vocabulary = rows;
        Ok(self.graph)
    }
}

/// The tensor as f32; the same one if it is f32 already.
fn as_f32(label: &str, tensor: Tensor) -> Result<Tensor, CanonicalizeError> {
    if tensor.dtype() == DType::F32 {
        return Ok(tensor);
    }
    tensor
        .to_f32()
        .and_then(|v| Tensor::new(tensor.shape().to_vec(), Data::F32(v)))
        .map_err(|source| CanonicalizeError::Tensor { node: label.to_string(), source })
}
