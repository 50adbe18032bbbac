//! A cell's step: the products over `[x; h]`, then the cell's formula.
//!
//! The gates of all units go through a buffer, which stays in the L1 cache: an activation function is a long chain of dependent
//! operations, and if it ran panel by panel it would delay the product, which waits for memory.

use super::emit::{Constant, Emit, Memory, Type, Value};
use super::formula::{self, Ends};
use super::product::Map;
use crate::plan::{Cell, CellInput, LANES, PANEL, UNITS};
use lstmc_frontend::ir::Term;

/// The operands of a cell's step.
pub(crate) struct CellAt<'p> {
    /// The cell.
    pub(crate) cell: &'p Cell,
    /// The products of the gates, which start from the bias, and the buffers for their sums.
    pub(crate) products: Vec<(Map, Value)>,
    /// The states; all but the first are updated in place.
    pub(crate) states: Vec<Value>,
    /// The cell's own vectors.
    pub(crate) parameters: Option<Value>,
    /// The destination of the new first state; must not be the old one, which every panel still reads.
    pub(crate) out: Value,
}

/// Emits all panels of one step. Lanes past the last unit are zero and are written to the padding of the states and `out`.
pub(crate) fn step(e: &mut dyn Emit, at: &CellAt<'_>) {
    for (map, gates) in &at.products {
        sums(e, map, None, *gates);
    }
    let parts = at.cell.units.div_ceil(UNITS);
    let places = Places::of(at.cell);
    let p = places.pointers(e, at);
    let p = e.repeat(parts / TOGETHER, &p, |e, _, p| places.update(e, p, TOGETHER));
    e.repeat(parts % TOGETHER, &p, |e, _, p| places.update(e, p, 1));
}

/// Emits the gates' sums of all panels, plus the `given` terms, if any: f32s in the panels' order, possibly unaligned.
pub(crate) fn sums(e: &mut dyn Emit, map: &Map, given: Option<Value>, gates: Value) {
    if given.is_none() && map.call(e, None, gates, map.out.next_multiple_of(PANEL)) {
        return;
    }
    let mut carried = map.pointers();
    let pointers = carried.len();
    carried.push(gates);
    carried.extend(given);
    e.repeat(map.out.div_ceil(PANEL), &carried, |e, _, p| product(e, map, pointers, p));
}

/// Emits the shares `from..to`, at least one.
pub(crate) fn range(e: &mut dyn Emit, at: &CellAt<'_>, [from, to]: [Value; 2]) {
    let parts = at.cell.share();
    for ((map, sums), gates) in at.products.iter().zip(&at.cell.gates) {
        let panels = gates.count * UNITS * parts / PANEL;
        let [first, end] = scaled(e, [from, to], panels, map.out.div_ceil(PANEL));
        if map.call(e, Some([first, end]), *sums, map.out.next_multiple_of(PANEL)) {
            continue;
        }
        let mut carried = map.pointers_at(e, first);
        let pointers = carried.len();
        carried.push(e.advance(*sums, first, PANEL * 4));
        e.repeat_range([first, end], &carried, |e, _, p| product(e, map, pointers, p));
    }
    let [first, end] = scaled(e, [from, to], parts, at.cell.units.div_ceil(UNITS));
    let places = Places::of(at.cell);
    let p = places.pointers(e, at);
    let p: Vec<Value> =
        p.into_iter().zip(&places.strides).map(|(p, &stride)| e.advance(p, first, stride)).collect();
    e.repeat_range([first, end], &p, |e, _, p| places.update(e, p, 1));
}

/// The range scaled by `each`, clipped to `all`.
fn scaled(e: &mut dyn Emit, [from, to]: [Value; 2], each: usize, all: usize) -> [Value; 2] {
    if each == 1 {
        return [from, to];
    }
    let [from, to] = [from, to].map(|n| e.with_constant(Constant::Mul, n, each as i64));
    let all = e.size(all);
    let beyond = e.greater(to, all);
    [from, e.select(beyond, all, to)]
}

/// One panel's gates: the product's `pointers` pointers, then those of the gates and of the given terms, if any, advanced.
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

/// Parts that are updated together: four vectors per operation, so that their latencies overlap.
const TOGETHER: usize = 2;

/// Vectors per part.
const WIDTH: usize = UNITS / LANES;

/// The positions of the pointers that a part advances: those of the gates' sums are first, `out` last.
struct Places<'p> {
    cell: &'p Cell,
    /// `None` for a first state that the formula does not read.
    states: Vec<Option<usize>>,
    parameters: Vec<usize>,
    /// Bytes from a part to the next, by pointer.
    strides: Vec<usize>,
}

impl<'p> Places<'p> {
    fn of(cell: &'p Cell) -> Places<'p> {
        let mut strides: Vec<usize> = cell.gates.iter().map(|g| g.count * UNITS * 4).collect();
        let mut next = || {
            strides.push(UNITS * 4);
            strides.len() - 1
        };
        let [gates, states, parameters] = cell.counts();
        let reads = |n: usize| cell.formula.terms().contains(&Term::Input(n));
        let states = (0..states).map(|k| (k > 0 || reads(gates)).then(&mut next)).collect();
        let parameters = (0..parameters).map(|_| next()).collect();
        next();
        Places { cell, states, parameters, strides }
    }

    fn pointers(&self, e: &mut dyn Emit, at: &CellAt<'_>) -> Vec<Value> {
        let mut p: Vec<Value> = at.products.iter().map(|(_, sums)| *sums).collect();
        p.extend(at.states.iter().zip(&self.states).filter(|(_, place)| place.is_some()).map(|(&s, _)| s));
        let bytes = self.cell.units.next_multiple_of(PANEL) * 4;
        for k in 0..self.parameters.len() {
            let first = at.parameters.expect("the plan packs a cell's parameters");
            p.push(e.offset(first, k * bytes));
        }
        p.push(at.out);
        p
    }

    /// The new states of `parts` times eight units from the sums of their gates; and the advanced pointers.
    fn update(&self, e: &mut dyn Emit, p: &[Value], parts: usize) -> Vec<Value> {
        formula::emit(e, &self.cell.formula, parts * WIDTH, &Parts { places: self, p, parts });
        p.iter().zip(&self.strides).map(|(&p, &stride)| e.offset(p, parts * stride)).collect()
    }
}

/// The inputs and results of a cell's formula for some parts.
struct Parts<'a> {
    places: &'a Places<'a>,
    p: &'a [Value],
    parts: usize,
}

impl Ends for Parts<'_> {
    fn load(&self, e: &mut dyn Emit, input: usize) -> Vec<Value> {
        let (places, cell) = (self.places, self.places.cell);
        let all = 0..self.parts * WIDTH;
        let (place, memory) = match cell.input(input) {
            CellInput::Gate { sums, gate } => {
                let count = cell.gates[sums].count;
                let at = |v: usize| ((v / WIDTH * count + gate) * WIDTH + v % WIDTH) * LANES * 4;
                return all.map(|v| e.load(Type::F32x4, Memory::Caller, self.p[sums], at(v))).collect();
            }
            CellInput::Parameter(k) => (Some(places.parameters[k]), Memory::Weights),
            CellInput::State(k) => (places.states[k], Memory::Buffer),
        };
        let p = self.p[place.expect("a state that is read has a pointer")];
        all.map(|v| e.load(Type::F32x4, memory, p, v * LANES * 4)).collect()
    }

    fn store(&self, e: &mut dyn Emit, result: usize, vectors: &[Value]) {
        let place = match result {
            0 => self.p.len() - 1,
            _ => self.places.states[result].expect("all states but the first have pointers"),
        };
        for (v, &x) in vectors.iter().enumerate() {
            e.store(Memory::Buffer, x, self.p[place], v * LANES * 4);
        }
    }
}
