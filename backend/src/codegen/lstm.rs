//! The LSTM step: the product over `[x; h]`, then gates, cell and hidden state.
//!
//! The gates of all units go through a buffer, which stays in the nearest cache: an activation function is a long chain of dependent
//! operations, and done panel by panel it would hold up the product, which waits for memory.

use super::emit::{Emit, Memory, Type, Value};
use super::math::{sigmoid, tanh};
use super::product::Map;
use crate::plan::{LANES, PANEL, PANEL_UNITS};

/// Where an LSTM step finds its operands.
pub(crate) struct CellAt {
    /// The gates' product, in panels of four gates of eight units, with the gate bias as its start.
    pub(crate) map: Map,
    /// Room for the gates of all panels.
    pub(crate) gates: Value,
    /// The cell state, updated in place.
    pub(crate) c: Value,
    /// Where the new hidden state goes; must not be the old one, which every panel still reads.
    pub(crate) out: Value,
    /// Units.
    pub(crate) hidden: usize,
}

/// Emits all panels of one step. Lanes past the last unit are zero and end in the padding of `c` and `out`.
pub(crate) fn step(e: &mut dyn Emit, cell: &CellAt) {
    sums(e, &cell.map, None, cell.gates);
    let panels = cell.hidden.div_ceil(PANEL_UNITS);
    let p = [cell.gates, cell.c, cell.out];
    let p = e.repeat(panels / TOGETHER, &p, |e, _, p| update(e, p, TOGETHER));
    e.repeat(panels % TOGETHER, &p, |e, _, p| update(e, p, 1));
}

/// Emits the gates' sums of all panels, with what else is `given`: f32s in the panels' order, perhaps not aligned.
pub(crate) fn sums(e: &mut dyn Emit, map: &Map, given: Option<Value>, gates: Value) {
    let mut carried = map.pointers();
    let pointers = carried.len();
    carried.push(gates);
    carried.extend(given);
    e.repeat(map.out.div_ceil(PANEL), &carried, |e, _, p| product(e, map, pointers, p));
}

/// Emits the panels `from..to`, at least one.
pub(crate) fn range(e: &mut dyn Emit, cell: &CellAt, [from, to]: [Value; 2]) {
    let mut carried = cell.map.pointers_at(e, from);
    let pointers = carried.len();
    let gates = e.advance(cell.gates, from, PANEL * 4);
    carried.push(gates);
    e.repeat_range([from, to], &carried, |e, _, p| product(e, &cell.map, pointers, p));
    let [c, out] = [cell.c, cell.out].map(|p| e.advance(p, from, PANEL_UNITS * 4));
    e.repeat_range([from, to], &[gates, c, out], |e, _, p| update(e, p, 1));
}

/// One panel's gates: the product's `pointers` pointers, then those of the gates and perhaps of what is given, moved on.
fn product(e: &mut dyn Emit, map: &Map, pointers: usize, p: &[Value]) -> Vec<Value> {
    let (acc, mut next) = map.panel(e, &p[..pointers]);
    let given = p.get(pointers + 1).copied();
    for (v, &a) in acc.iter().enumerate() {
        let a = match given {
            Some(given) => {
                let g = e.load(Type::F32x4, Memory::Caller, given, v * LANES * 4);
                e.add(a, g)
            }
            None => a,
        };
        e.store(Memory::Buffer, a, p[pointers], v * LANES * 4);
    }
    next.extend(p[pointers..].iter().map(|&p| e.offset(p, PANEL * 4)));
    next
}

/// Panels whose units are updated together: four vectors at each operation, whose latencies overlap.
const TOGETHER: usize = 2;

/// The new cell and hidden state of `panels` times eight units from their gates before the activation functions: pointers to gates, `c` and
/// `out`, moved on.
fn update(e: &mut dyn Emit, p: &[Value], panels: usize) -> Vec<Value> {
    const WIDTH: usize = PANEL_UNITS / LANES;
    // Gate order of packed panels: input, output, forget, cell.
    let gate = |e: &mut dyn Emit, gate: usize| -> Vec<Value> {
        let at = |v: usize| ((v / WIDTH * 4 + gate) * WIDTH + v % WIDTH) * LANES * 4;
        (0..panels * WIDTH).map(|v| e.load(Type::F32x4, Memory::Caller, p[0], at(v))).collect()
    };
    let [i, f] = [0, 2].map(|n| {
        let x = gate(e, n);
        sigmoid(e, &x)
    });
    let g = gate(e, 3);
    let g = tanh(e, &g);
    let new: Vec<Value> = (0..panels * WIDTH)
        .map(|v| {
            let old = e.load(Type::F32x4, Memory::Buffer, p[1], v * LANES * 4);
            let kept = e.mul(f[v], old);
            let new = e.mul_add(i[v], g[v], kept);
            e.store(Memory::Buffer, new, p[1], v * LANES * 4);
            new
        })
        .collect();
    let t = tanh(e, &new);
    let o = gate(e, 1);
    let o = sigmoid(e, &o);
    for (v, (&o, &t)) in o.iter().zip(&t).enumerate() {
        let h = e.mul(o, t);
        e.store(Memory::Buffer, h, p[2], v * LANES * 4);
    }
    let moves = [PANEL, PANEL_UNITS, PANEL_UNITS];
    p.iter().zip(moves).map(|(&p, n)| e.offset(p, panels * n * 4)).collect()
}
