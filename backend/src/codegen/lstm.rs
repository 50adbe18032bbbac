//! The LSTM step: the product over `[x; h]`, gates, cell and hidden state, all in registers.

use super::emit::{Emit, F32X4, buffer_flags, caller_flags};
use super::math::{sigmoid, tanh};
use super::product::{Map, advance};
use crate::plan::{LANES, PANEL, PANEL_UNITS};
use cranelift_codegen::ir::{InstBuilder, Value};

/// Where an LSTM step finds its operands.
pub(crate) struct CellAt {
    /// The gates' product, in panels of four gates of eight units, with the gate bias as its start.
    pub(crate) map: Map,
    /// What else is added to the gates: f32s in the panels' order, perhaps not aligned.
    pub(crate) gates: Option<Value>,
    /// The cell state, updated in place.
    pub(crate) c: Value,
    /// Where the new hidden state goes; must not be the old one, which every panel still reads.
    pub(crate) out: Value,
    /// Units.
    pub(crate) hidden: usize,
}

/// Emits all panels of one step. Lanes past the last unit are zero and end in the padding of `c` and `out`.
pub(crate) fn step(e: &mut Emit<'_, '_>, cell: &CellAt) {
    let mut carried = cell.map.pointers();
    let pointers = carried.len();
    carried.extend([cell.c, cell.out]);
    carried.extend(cell.gates);
    e.repeat(cell.hidden.div_ceil(PANEL_UNITS), &carried, |e, _, p| panel(e, cell, pointers, p));
}

/// Emits the panels `from..to`, at least one.
pub(crate) fn range(e: &mut Emit<'_, '_>, cell: &CellAt, [from, to]: [Value; 2]) {
    let mut carried = cell.map.pointers_at(e, from);
    let pointers = carried.len();
    carried.extend([cell.c, cell.out].map(|p| advance(e, p, from, PANEL_UNITS * 4)));
    e.repeat_dynamic(from, to, &carried, |e, _, p| panel(e, cell, pointers, p));
}

/// One panel: the product's `pointers` pointers, then those of `c`, `out` and perhaps `gates`, moved on.
fn panel(e: &mut Emit<'_, '_>, cell: &CellAt, pointers: usize, p: &[Value]) -> Vec<Value> {
    let (mut acc, mut next) = cell.map.panel(e, &p[..pointers]);
    let (c, out) = (p[pointers], p[pointers + 1]);
    let gates = p.get(pointers + 2).copied();
    if let Some(gates) = gates {
        for (v, a) in acc.iter_mut().enumerate() {
            let g = e.load(F32X4, caller_flags(), gates, v * LANES * 4);
            *a = e.b.ins().fadd(*a, g);
        }
    }
    update(e, &acc, c, out);
    next.extend([c, out].map(|p| e.offset(p, PANEL_UNITS * 4)));
    next.extend(gates.map(|g| e.offset(g, PANEL * 4)));
    next
}

/// Eight units' new cell and hidden state from their gates before the activation functions.
fn update(e: &mut Emit<'_, '_>, acc: &[Value], c: Value, out: Value) {
    let width = PANEL_UNITS / LANES;
    for v in 0..width {
        // Gate order of packed panels: input, output, forget, cell.
        let [i, o, f, g] = [0, 1, 2, 3].map(|gate| acc[gate * width + v]);
        let (i, f, g) = (sigmoid(e, i), sigmoid(e, f), tanh(e, g));
        let old = e.load(F32X4, buffer_flags(), c, v * LANES * 4);
        let kept = e.b.ins().fmul(f, old);
        let new = e.mul_add(i, g, kept);
        e.store(buffer_flags(), new, c, v * LANES * 4);
        let (o, t) = (sigmoid(e, o), tanh(e, new));
        let h = e.b.ins().fmul(o, t);
        e.store(buffer_flags(), h, out, v * LANES * 4);
    }
}
