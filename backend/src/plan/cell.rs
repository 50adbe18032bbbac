//! Cells: products of gates, and a formula of their sums.

use super::{Buffer, PANEL, PackedId, Segment, UNITS};
use lstmc_frontend::ir::{Algebra, Binary, CellSpec, Formula, FormulaBuilder, GateRows};

/// Sums of gates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gates {
    /// The number of gates.
    pub count: usize,
    /// The bias that they start from.
    pub start: PackedId,
    /// The sums, `[units / 8][count][8]`.
    pub sums: Buffer,
}

/// One step of a cell.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// The new states. Its inputs are the sums of [`Cell::gates`], then the states, then the parameters.
    pub formula: Formula,
    /// Units.
    pub units: usize,
    /// The gates' terms that do not depend on the first state: those of the input.
    pub inputs: Vec<Segment>,
    /// The gates' terms that depend on the first state.
    pub recurrent: Vec<Segment>,
    /// The sums of all terms; or, if the input and the first state have different gates, those of the input's terms and those of the state's.
    pub gates: Vec<Gates>,
    /// The cell's own vectors, and how many.
    pub parameters: Option<(PackedId, usize)>,
    /// Its states; the first is the output of the previous time step. All but the first are updated in place.
    pub states: Vec<Buffer>,
    /// The new first state, which a [`Step::Delay`](super::Step::Delay) after this step keeps.
    pub out: Buffer,
}

/// What an input of a cell's formula is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CellInput {
    /// A gate of these sums.
    Gate {
        /// Position in [`Cell::gates`].
        sums: usize,
        /// The gate's number.
        gate: usize,
    },
    /// A state, by number.
    State(usize),
    /// A parameter, by number.
    Parameter(usize),
}

impl Cell {
    /// The first state.
    pub fn h(&self) -> Buffer {
        self.states[0]
    }

    /// The numbers of the formula's inputs: gates, states and parameters.
    pub fn counts(&self) -> [usize; 3] {
        let gates = self.gates.iter().map(|g| g.count).sum();
        [gates, self.states.len(), self.parameters.map_or(0, |(_, count)| count)]
    }

    /// An input of the formula.
    pub fn input(&self, mut n: usize) -> CellInput {
        for (sums, gates) in self.gates.iter().enumerate() {
            if n < gates.count {
                return CellInput::Gate { sums, gate: n };
            }
            n -= gates.count;
        }
        match n.checked_sub(self.states.len()) {
            None => CellInput::State(n),
            Some(n) => CellInput::Parameter(n),
        }
    }

    /// The terms of each of [`Cell::gates`].
    pub fn products(&self) -> impl Iterator<Item = (&Gates, Vec<Segment>)> {
        let terms = match self.gates.len() {
            1 => vec![[&self.inputs[..], &self.recurrent].concat()],
            _ => vec![self.inputs.clone(), self.recurrent.clone()],
        };
        self.gates.iter().zip(terms)
    }

    /// The sums that the first state's terms are added to.
    pub fn last(&self) -> &Gates {
        &self.gates[self.gates.len() - 1]
    }

    /// The number of parts of eight units whose gates fill whole panels: what threads can share.
    pub fn share(&self) -> usize {
        let fills =
            |parts: &usize| self.gates.iter().all(|g| (g.count * UNITS * parts).is_multiple_of(PANEL));
        [1, 2].into_iter().find(fills).unwrap_or(PANEL / UNITS)
    }
}

/// The gates that have rows, in order.
pub(super) fn with_rows(rows: GateRows) -> GateRows {
    GateRows::new((0..rows.count()).filter_map(|g| rows.block(g)))
}

/// A cell's formula whose first inputs are sums of gates: for each of `rows`, those of the gates that have rows in it.
pub(super) fn of_sums(spec: &CellSpec, rows: &[GateRows]) -> Formula {
    let sums: Vec<usize> =
        rows.iter().flat_map(|r| (0..spec.gates()).filter(|&g| r.block(g).is_some())).collect();
    let input = |b: &mut FormulaBuilder, n: usize| {
        if n >= spec.gates() {
            return b.input(n - spec.gates() + sums.len());
        }
        let terms = sums.iter().enumerate().filter(|(_, gate)| **gate == n).map(|(at, _)| at);
        let mut sum = None;
        for at in terms {
            let x = b.input(at);
            sum = Some(sum.map_or(x, |sum| b.binary(Binary::Add, &sum, &x)));
        }
        sum.unwrap_or_else(|| b.constant(0.0))
    };
    spec.formula.with_inputs(input, |state| Some(sums.len() + state))
}
