//! Recurrent cells that are written out in elementary operators.
//!
//! A cell is recognised by what it computes, not by how that is written: the elementwise part is evaluated for some numbers and compared with the
//! formula of a cell, for every order of the gates. What is not recognised stays as it is, and runs step by step.

use super::constant::{Constant, wrong};
use super::draft::{Cell, CellOp, Draft, Kind, SlotId, StepId, Term, renamed};
use super::evaluate::{Result, evaluate_numbers};
use super::states::Stepwise;
use super::value::{Code, Row};
use crate::ir::arbitrary::SplitMix64;
use crate::ir::{CellSpec, Formula, FormulaBuilder, Function, GateOrder, Gru, Lstm, Op, Reset, Rnn};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// Points that formulas are compared at.
const POINTS: usize = 24;

/// The draft with cells in place of what they consist of, and the rows in it.
pub(super) fn recognise(
    draft: &Draft,
    stepwise: &[Stepwise],
) -> Result<Option<(Draft, BTreeMap<SlotId, Row>)>> {
    let mut before: BTreeMap<Code, Code> = BTreeMap::new();
    for s in stepwise {
        before.extend(s.next.iter().zip(draft.row(s.slot).iter()).map(|(&next, &old)| (next, old)));
    }
    let starts = stepwise
        .iter()
        .flat_map(|s| draft.row(s.slot).iter().copied().zip(s.initial.iter().copied()).collect::<Vec<_>>());
    let finder = Finder { draft, before, starts: starts.collect() };
    let mut cells: BTreeMap<StepId, (SlotId, Option<SlotId>, Cell)> = BTreeMap::new();
    for (id, step) in draft.steps() {
        if matches!(step.kind, Kind::Map { .. })
            && let Some((memory, cell)) = finder.cell(draft.first(id))?
        {
            cells.insert(id, (draft.first(id), memory, cell));
        }
    }
    if cells.is_empty() {
        return Ok(None);
    }
    let mut new = Draft::default();
    let mut rows: BTreeMap<SlotId, Row> = BTreeMap::new();
    for (id, step) in draft.steps() {
        let first = draft.first(id);
        let mut replace = |row: &Row| renamed(&rows, row);
        if let Some((_, memory, cell)) = cells.remove(&id) {
            let kind = Kind::Cell(Box::new(cell)).map_rows(&mut replace);
            let slot = new.push(&step.label, kind, draft.width(first));
            rows.insert(first, new.row(slot));
            if let Some(memory) = memory {
                rows.insert(memory, new.row(SlotId(slot.0 + 1)));
            }
            continue;
        }
        let results = match &step.kind {
            Kind::Cell(cell) => cell.op.states().len(),
            _ => 1,
        };
        let kind = step.kind.clone().map_rows(&mut replace);
        let slot = new.push(&step.label, kind, draft.width(first));
        for k in 0..results {
            rows.insert(SlotId(first.0 + k), new.row(SlotId(slot.0 + k)));
        }
    }
    Ok(Some((new, rows)))
}

struct Finder<'d> {
    draft: &'d Draft,
    /// For each element that comes back, the element of the state that it replaces.
    before: BTreeMap<Code, Code>,
    /// What each element of a state starts at.
    starts: BTreeMap<Code, Code>,
}

/// An elementwise expression of one result, unit by unit.
struct Tail {
    /// What it reads: at each unit, an element of each.
    leaves: Vec<Row>,
}

/// A gate: a product with rows for each unit.
struct Gate {
    slot: SlotId,
    from: usize,
}

impl Finder<'_> {
    /// The state that a result replaces.
    fn old(&self, slot: SlotId) -> Option<Row> {
        self.draft.row(slot).iter().map(|c| self.before.get(c).copied()).collect()
    }

    /// The cell whose output is this result, and the result that is its second state.
    fn cell(&self, slot: SlotId) -> Result<Option<(Option<SlotId>, Cell)>> {
        let Some(hidden) = self.old(slot) else { return Ok(None) };
        let units = self.draft.width(slot);
        let inner = self.inner(slot);
        let memory = inner.iter().copied().filter(|&s| s != slot).find_map(|s| {
            let old = self.old(s)?;
            (self.draft.width(s) == units).then_some((s, old))
        });
        let mut states = vec![hidden.clone()];
        states.extend(memory.iter().map(|(_, old)| old.clone()));
        let Some(tail) = self.tail(slot) else { return Ok(None) };
        let (of_state, products): (Vec<Row>, Vec<Row>) =
            tail.leaves.into_iter().partition(|l| states.contains(l));
        let _ = of_state;
        let mut gates = vec![];
        for leaf in &products {
            match self.gate(leaf) {
                Some(gate) => gates.push(gate),
                None => return Ok(None),
            }
        }
        let candidates: Vec<(CellOp, CellSpec)> = match (memory.is_some(), gates.len()) {
            (true, 3 | 4) => lstms(gates.len() == 3),
            (false, 4) => grus(),
            (false, 1) => rnns(),
            _ => return Ok(None),
        };
        let results: Vec<SlotId> = [slot].into_iter().chain(memory.iter().map(|(s, _)| *s)).collect();
        for (op, spec) in candidates {
            for order in permutations(gates.len()) {
                let ordered: Vec<&Row> = order.iter().map(|&k| &products[k]).collect();
                if self.computes(&spec, &ordered, &states, &results) {
                    let gates: Vec<&Gate> = order.iter().map(|&k| &gates[k]).collect();
                    let cell = self.assemble(op.clone(), &spec, &gates, &states, units)?;
                    if let Some(cell) = cell {
                        return Ok(Some((memory.map(|(s, _)| s), cell)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The elementwise steps that a result is computed by, itself included.
    fn inner(&self, slot: SlotId) -> BTreeSet<SlotId> {
        let (mut found, mut stack) = (BTreeSet::new(), vec![slot]);
        while let Some(s) = stack.pop() {
            if let Kind::Map { operands, .. } = self.draft.kind(s)
                && found.insert(s)
            {
                stack.extend(operands.iter().flat_map(|r| r.iter()).filter_map(|c| c.slot()));
            }
        }
        found
    }

    /// The leaves of an expression: the same for every unit, one unit further.
    fn tail(&self, slot: SlotId) -> Option<Tail> {
        let units = self.draft.width(slot);
        let first = self.leaves(Code::reference(slot, 0, 0));
        let mut leaves: Vec<Row> = vec![];
        for &code in &first {
            leaves.push(
                (0..units)
                    .map(|u| Code::reference(code.slot().expect("a leaf"), 0, code.feature() + u))
                    .collect(),
            );
        }
        let fits = leaves.iter().all(|l| {
            let last = l[units - 1];
            last.feature() < self.draft.width(last.slot().expect("a leaf"))
        });
        let same = (1..units).all(|u| {
            let mut here: Vec<Code> = leaves.iter().map(|l| l[u]).collect();
            let mut found = self.leaves(Code::reference(slot, 0, u));
            here.sort();
            found.sort();
            here == found
        });
        // Constants that differ between units, such as peepholes, are not part of these formulas.
        let constants = self.inner(slot).iter().all(|&s| match self.draft.kind(s) {
            Kind::Map { operands, .. } => operands.iter().all(|row| {
                let mut fixed = row.iter().filter_map(|c| c.as_constant());
                let first = fixed.next();
                fixed.all(|x| Some(x) == first)
            }),
            _ => true,
        });
        (fits && same && constants).then_some(Tail { leaves })
    }

    /// What one element is computed from.
    fn leaves(&self, code: Code) -> Vec<Code> {
        let (mut found, mut seen, mut stack) = (vec![], BTreeSet::new(), vec![code]);
        while let Some(code) = stack.pop() {
            let Some(slot) = code.slot() else { continue };
            if !seen.insert(code) {
                continue;
            }
            match self.draft.kind(slot) {
                Kind::Map { operands, .. } => stack.extend(operands.iter().map(|r| r[code.feature()])),
                _ => found.push(code),
            }
        }
        found
    }

    fn gate(&self, leaf: &Row) -> Option<Gate> {
        let slot = leaf[0].slot()?;
        matches!(self.draft.kind(slot), Kind::Apply { .. }).then(|| Gate { slot, from: leaf[0].feature() })
    }

    /// Whether the results are the cell's new states, for some numbers in place of gates and states.
    fn computes(&self, spec: &CellSpec, gates: &[&Row], states: &[Row], results: &[SlotId]) -> bool {
        if gates.len() != spec.gates() {
            return false;
        }
        let mut rng = SplitMix64::new(1);
        (0..POINTS).all(|_| {
            let mut known: BTreeMap<Code, f64> = BTreeMap::new();
            let mut inputs: Vec<[f64; 1]> = vec![];
            for leaf in gates.iter().copied().chain(states) {
                let x = 6.0 * f64::from(rng.centered());
                known.insert(leaf[0], x);
                inputs.push([x]);
            }
            let inputs: Vec<&[f64]> = inputs.iter().map(|x| x.as_slice()).collect();
            let expected = spec.formula.values(&inputs);
            results.iter().zip(expected).all(|(&slot, expected)| {
                let found = self.value(Code::reference(slot, 0, 0), &mut known);
                found.is_some_and(|y| (y - expected[0]).abs() <= 1e-6 * (1.0 + expected[0].abs()))
            })
        })
    }

    fn value(&self, code: Code, known: &mut BTreeMap<Code, f64>) -> Option<f64> {
        if let Some(x) = code.as_constant() {
            return Some(x.into());
        }
        if let Some(&x) = known.get(&code) {
            return Some(x);
        }
        let Kind::Map { op, operands } = self.draft.kind(code.slot()?) else { return None };
        let mut x = vec![];
        for row in operands {
            x.push(self.value(row[code.feature()], known)?);
        }
        let y = match (op, &x[..]) {
            (Op::Binary(op), [a, b]) => op.of(*a, *b),
            (Op::Unary(f), [x]) => of_function(*f).values(&[&[*x][..]])[0][0],
            _ => {
                let x = x.iter().map(|&x| Tensor::from_f64([], vec![x]).ok()).collect::<Option<Vec<_>>>()?;
                *evaluate_numbers(op, x).ok()?.to_f64().ok()?.first()?
            }
        };
        known.insert(code, y);
        Some(y)
    }

    /// The cell's weights from those of its gates; none if the gates do not read one input and the hidden state.
    fn assemble(
        &self,
        op: CellOp,
        spec: &CellSpec,
        gates: &[&Gate],
        states: &[Row],
        units: usize,
    ) -> Result<Option<Cell>> {
        // Blocks of rows by gate, for each product.
        let (mut inputs, mut recurrents, mut biases) = (vec![], vec![], vec![]);
        let mut x: Option<Row> = None;
        for gate in gates {
            let Kind::Apply { terms, bias, .. } = self.draft.kind(gate.slot) else { return Ok(None) };
            let rows = gate.from..gate.from + units;
            let (mut of_x, mut of_h) = (None, None);
            for Term { x: row, weight } in terms {
                let block = weight.picked(0, &rows.clone().collect::<Vec<usize>>())?;
                let place = if *row == states[0] { &mut of_h } else { &mut of_x };
                if place.is_some() || (*row != states[0] && x.as_ref().is_some_and(|x| x != row)) {
                    return Ok(None);
                }
                if *row != states[0] {
                    x = Some(row.clone());
                }
                *place = Some(block);
            }
            biases.push(bias.as_ref().map_or_else(|| vec![0.0; units], |b| b[rows].to_vec()));
            inputs.push(of_x);
            recurrents.push(of_h);
        }
        let Some(x) = x else { return Ok(None) };
        let stack = |rows: crate::ir::GateRows, blocks: &[Option<Constant>]| -> Result<Option<Constant>> {
            let mut ordered: Vec<(usize, Constant)> = vec![];
            for (gate, block) in blocks.iter().enumerate() {
                match (rows.block(gate), block) {
                    (Some(k), Some(block)) => ordered.push((k, block.clone())),
                    (None, None) => {}
                    _ => return Ok(None),
                }
            }
            ordered.sort_by_key(|(k, _)| *k);
            let blocks: Vec<Constant> = ordered.into_iter().map(|(_, b)| b).collect();
            Constant::stacked(&blocks).map(Some)
        };
        let (Some(input), Some(recurrent)) =
            (stack(spec.input, &inputs)?, stack(spec.recurrent, &recurrents)?)
        else {
            return Ok(None);
        };
        let mut bias: Vec<(usize, Vec<f32>)> = vec![];
        for (gate, values) in biases.into_iter().enumerate() {
            match spec.bias.block(gate) {
                Some(k) => bias.push((k, values)),
                None => return Ok(None),
            }
        }
        bias.sort_by_key(|(k, _)| *k);
        let bias: Vec<f32> = bias.into_iter().flat_map(|(_, b)| b).collect();
        let bias = Tensor::from_f32([bias.len()], bias).map_err(wrong)?.into();
        let weights = vec![("input", input), ("recurrent", recurrent), ("bias", bias)];
        let start = |row: &Row| row.iter().map(|c| self.starts[c]).collect();
        Ok(Some(Cell { op, x, units, weights, initial: states.iter().map(start).collect() }))
    }
}

/// A function by itself.
fn of_function(f: Function) -> Formula {
    use crate::ir::Algebra;
    let mut b = FormulaBuilder::new();
    let x = b.input(0);
    let y = b.function(f, &x);
    b.result(0, &y);
    b.build(|_| None)
}

/// Functions of gates that exporters write out.
const SIGMOIDS: [Function; 3] = [
    Function::Sigmoid,
    Function::HardSigmoid { alpha: 0.2, beta: 0.5 },
    Function::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
];

/// Functions of candidates.
const TANHS: [Function; 3] = [Function::Tanh, Function::Relu, Function::Softsign];

fn lstms(coupled: bool) -> Vec<(CellOp, CellSpec)> {
    let all = SIGMOIDS.into_iter().flat_map(|f| TANHS.map(|g| [f, g, g]));
    all.map(|activations| {
        let lstm = Lstm { coupled, activations, ..Lstm::new(GateOrder::Iofc) };
        (CellOp::Lstm(lstm), lstm.spec(false))
    })
    .collect()
}

fn grus() -> Vec<(CellOp, CellSpec)> {
    let all = SIGMOIDS.into_iter().flat_map(|f| TANHS.map(|g| [f, g]));
    all.map(|activations| {
        let gru = Gru { activations, ..Gru::new(Reset::After) };
        (CellOp::Gru(gru), gru.spec())
    })
    .collect()
}

fn rnns() -> Vec<(CellOp, CellSpec)> {
    let all = TANHS.into_iter().chain(SIGMOIDS);
    all.map(|activation| {
        let rnn = Rnn { activation, clip: None };
        (CellOp::Rnn(rnn), rnn.spec())
    })
    .collect()
}

/// Every order of `n` things.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let mut all = vec![];
    for shorter in permutations(n - 1) {
        for at in 0..n {
            let mut order = shorter.clone();
            order.insert(at, n - 1);
            all.push(order);
        }
    }
    all
}
