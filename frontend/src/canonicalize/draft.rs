//! The canonical steps that evaluation collects.

use super::constant::Constant;
use super::evaluate::evaluate_numbers;
use super::value::{Code, Row};
use crate::ir::{Gru, Lstm, Op, Rnn, ValueId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// A step of a draft.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct StepId(pub(super) usize);

/// A result of a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SlotId(pub(super) usize);

/// Steps in order of execution.
#[derive(Clone, Default)]
pub(super) struct Draft {
    steps: Vec<Step>,
    slots: Vec<Slot>,
}

#[derive(Clone)]
struct Slot {
    step: StepId,
    /// Which of the step's results.
    result: usize,
    width: usize,
}

#[derive(Clone)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// The node's name in messages.
    pub(super) label: String,
    first: SlotId,
}

/// What a step computes at one position from vectors at the same position.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind {
    /// The token.
    Tokens,
    /// The token as a one-hot vector.
    OneHot,
    /// An input that is not the tokens: a state before the first step, or something that a language model has not.
    Input(ValueId),
    /// A stepwise state, by number: its value before each step.
    State(usize),
    /// A row of `table: [rows, width]`.
    Embed {
        token: Code,
        table: Constant,
    },
    /// A sum of products, and a bias of `width` elements.
    Apply {
        width: usize,
        terms: Vec<Term>,
        bias: Option<Vec<f32>>,
    },
    /// An elementwise operator.
    Map {
        op: Op,
        operands: Vec<Row>,
    },
    /// The vector reduced to one number.
    Reduce {
        op: Op,
        x: Row,
    },
    Softmax {
        x: Row,
    },
    LogSoftmax {
        x: Row,
    },
    Norm {
        x: Row,
        epsilon: f32,
        scale: Option<Vec<f32>>,
        shift: Option<Vec<f32>>,
    },
    Cell(Box<Cell>),
}

/// `weight x`, `weight: [out, in]`.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Term {
    pub(super) x: Row,
    pub(super) weight: Constant,
}

/// A recurrent layer. Its results are its states after each step; the first is its output.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Cell {
    pub(super) op: CellOp,
    pub(super) x: Row,
    pub(super) units: usize,
    /// The operands after the states, by name.
    pub(super) weights: Vec<(&'static str, Constant)>,
    /// Each state before the first step: parts of inputs, or constants.
    pub(super) initial: Vec<Row>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum CellOp {
    Lstm(Lstm),
    Gru(Gru),
    Rnn(Rnn),
}

impl CellOp {
    /// The prefix of its weights' names.
    pub(super) fn name(&self) -> &'static str {
        match self {
            CellOp::Lstm(_) => "lstm",
            CellOp::Gru(_) => "gru",
            CellOp::Rnn(_) => "rnn",
        }
    }

    /// The letters of its states.
    pub(super) fn states(&self) -> &'static [&'static str] {
        match self {
            CellOp::Lstm(_) => &["h", "c"],
            CellOp::Gru(_) | CellOp::Rnn(_) => &["h"],
        }
    }

    pub(super) fn op(&self) -> Op {
        match self {
            CellOp::Lstm(lstm) => Op::Lstm(*lstm),
            CellOp::Gru(gru) => Op::Gru(*gru),
            CellOp::Rnn(rnn) => Op::Rnn(*rnn),
        }
    }
}

impl Kind {
    /// The vectors that are read at the same position. A cell's states before the first step are not among them.
    pub(super) fn rows(&self) -> Vec<&Row> {
        match self {
            Kind::Tokens | Kind::OneHot | Kind::Input(_) | Kind::State(_) | Kind::Embed { .. } => vec![],
            Kind::Apply { terms, .. } => terms.iter().map(|t| &t.x).collect(),
            Kind::Map { operands, .. } => operands.iter().collect(),
            Kind::Reduce { x, .. } | Kind::Softmax { x } | Kind::LogSoftmax { x } | Kind::Norm { x, .. } => {
                vec![x]
            }
            Kind::Cell(c) => vec![&c.x],
        }
    }

    /// The same step with other vectors.
    pub(super) fn map_rows(mut self, f: &mut dyn FnMut(&Row) -> Row) -> Kind {
        match &mut self {
            Kind::Tokens | Kind::OneHot | Kind::Input(_) | Kind::State(_) => {}
            Kind::Embed { token, .. } => *token = f(&[*token].into())[0],
            Kind::Apply { terms, .. } => terms.iter_mut().for_each(|t| t.x = f(&t.x)),
            Kind::Map { operands, .. } => operands.iter_mut().for_each(|o| *o = f(o)),
            Kind::Reduce { x, .. } | Kind::Softmax { x } | Kind::LogSoftmax { x } | Kind::Norm { x, .. } => {
                *x = f(x);
            }
            Kind::Cell(c) => {
                c.x = f(&c.x);
                c.initial.iter_mut().for_each(|i| *i = f(i));
            }
        }
        self
    }
}

/// A row in a draft that was made from another: `rows` says what each result has become.
pub(super) fn renamed(rows: &BTreeMap<SlotId, Row>, row: &[Code]) -> Row {
    row.iter().map(|c| c.slot().map_or(*c, |s| rows[&s][c.feature()])).collect()
}

impl Draft {
    /// A step whose results have `width` elements; an equal one that exists already is reused, except for a cell, unless it is that of another iteration.
    pub(super) fn push(&mut self, label: &str, kind: Kind, width: usize) -> SlotId {
        let is_new = match &kind {
            Kind::Cell(cell) => !cell.initial.iter().flat_map(|r| r.iter()).any(|&c| self.is_state(c)),
            _ => false,
        };
        if !is_new && let Some(step) = self.steps.iter().rev().find(|s| s.kind == kind) {
            return step.first;
        }
        let results = match &kind {
            Kind::Cell(cell) => cell.op.states().len(),
            _ => 1,
        };
        let (step, first) = (StepId(self.steps.len()), SlotId(self.slots.len()));
        self.slots.extend((0..results).map(|result| Slot { step, result, width }));
        self.steps.push(Step { kind, label: label.to_string(), first });
        first
    }

    /// Whether an element is of a stepwise state.
    pub(super) fn is_state(&self, code: Code) -> bool {
        code.slot().is_some_and(|s| matches!(self.kind(s), Kind::State(_)))
    }

    /// Whether a result depends on nothing but the token.
    pub(super) fn is_of_token(&self, slot: SlotId) -> bool {
        match self.kind(slot) {
            Kind::Tokens => true,
            Kind::Map { operands, .. } => {
                let mut slots = operands.iter().flat_map(|r| r.iter()).filter_map(|c| c.slot()).peekable();
                slots.peek().is_some() && slots.all(|s| self.is_of_token(s))
            }
            _ => false,
        }
    }

    /// What is computed from one token.
    pub(super) fn token_value(&self, code: Code, token: f32) -> Option<f32> {
        if let Some(value) = code.as_constant() {
            return Some(value);
        }
        match self.kind(code.slot()?) {
            Kind::Tokens => Some(token),
            Kind::Map { op, operands } => {
                let mut values = vec![];
                for row in operands {
                    let value = self.token_value(row[code.feature()], token)?;
                    values.push(Tensor::from_f32([], vec![value]).ok()?);
                }
                let result = evaluate_numbers(op, values).ok()?;
                result.to_f32().ok()?.first().copied()
            }
            _ => None,
        }
    }

    /// The number of words that a table of so many rows has rows for, by what is computed from the token.
    pub(super) fn words(&self, token: Code, rows: usize) -> usize {
        if token.slot().is_some_and(|s| *self.kind(s) == Kind::Tokens) {
            return rows;
        }
        let has_row = |word: &usize| {
            self.token_value(token, *word as f32).is_some_and(|row| row >= 0.0 && (row as usize) < rows)
        };
        (0..rows).take_while(has_row).count()
    }

    /// The elements of a result.
    pub(super) fn width(&self, slot: SlotId) -> usize {
        self.slots[slot.0].width
    }

    /// The step that a result is of, and which result.
    pub(super) fn source(&self, slot: SlotId) -> (StepId, usize) {
        let slot = &self.slots[slot.0];
        (slot.step, slot.result)
    }

    pub(super) fn kind(&self, slot: SlotId) -> &Kind {
        &self.step(self.source(slot).0).kind
    }

    pub(super) fn step(&self, id: StepId) -> &Step {
        &self.steps[id.0]
    }

    /// The step's first result.
    pub(super) fn first(&self, id: StepId) -> SlotId {
        self.steps[id.0].first
    }

    pub(super) fn steps(&self) -> impl DoubleEndedIterator<Item = (StepId, &Step)> {
        self.steps.iter().enumerate().map(|(k, s)| (StepId(k), s))
    }

    /// The recurrent layers, with their first results.
    pub(super) fn cells_mut(&mut self) -> impl Iterator<Item = (SlotId, &str, &mut Cell)> {
        self.steps.iter_mut().filter_map(|s| match &mut s.kind {
            Kind::Cell(cell) => Some((s.first, s.label.as_str(), &mut **cell)),
            _ => None,
        })
    }

    /// All elements of a result.
    pub(super) fn row(&self, slot: SlotId) -> Row {
        (0..self.width(slot)).map(|f| Code::reference(slot, 0, f)).collect()
    }

    /// The steps that the rows need.
    pub(super) fn live<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> BTreeSet<StepId> {
        let mut live = BTreeSet::new();
        let need = |row: &[Code], live: &mut BTreeSet<StepId>| {
            live.extend(row.iter().filter_map(|c| c.slot()).map(|s| self.source(s).0));
        };
        rows.into_iter().for_each(|row| need(row, &mut live));
        for k in (0..self.steps.len()).rev() {
            if live.contains(&StepId(k)) {
                match &self.steps[k].kind {
                    Kind::Embed { token, .. } => need(&[*token], &mut live),
                    kind => kind.rows().into_iter().for_each(|row| need(row, &mut live)),
                }
            }
        }
        live
    }
}
