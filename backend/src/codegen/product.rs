//! Products: `start + sum of W x` by panels of 32 outputs, for any representation of the terms.

use super::emit::{Emit, Memory, Type, Value};
use super::integer::{self, CodesAt};
use super::program::Entry;
use super::wide;
use super::{panel, strips};
use crate::plan::{Format, LANES, PANEL, Panels};

/// The input of a term's panels.
#[derive(Clone, Copy)]
pub(crate) enum Operand {
    /// f32s at this address.
    Floats(Value),
    /// Integers.
    Codes(CodesAt),
    /// The table of integers that sparse maps read, and the integers themselves.
    Spread(Value, CodesAt),
}

/// One term.
#[derive(Clone, Copy)]
pub(crate) struct Term {
    /// The first panel.
    pub(crate) weights: Value,
    /// The panels' layout.
    pub(crate) panels: Panels,
    /// The input.
    pub(crate) x: Operand,
}

/// A product and the addresses of its operands.
pub(crate) struct Map {
    /// The terms.
    pub(crate) terms: Vec<Term>,
    /// The address of the vector that they are added to, padded to whole panels; `None` for zero.
    pub(crate) start: Option<Value>,
    /// The number of outputs, without padding.
    pub(crate) out: usize,
    /// The function of [`wide`] for each term, if there are such.
    pub(crate) wide: Option<Vec<usize>>,
}

impl Map {
    /// Stores panels `from..to` of `columns` columns at `out` by functions of [`wide`], one for each term; false if there are none.
    pub(crate) fn call(
        &self,
        e: &mut dyn Emit,
        range: Option<[Value; 2]>,
        out: Value,
        columns: usize,
    ) -> bool {
        let Some(functions) = &self.wide else { return false };
        let [from, end] = range.unwrap_or_else(|| [e.size(0), e.size(columns.div_ceil(PANEL))]);
        let mut start = self.start.unwrap_or_else(|| e.size(0));
        for (term, &function) in self.terms.iter().zip(functions) {
            let Operand::Codes(x) = term.x else { unreachable!("only integer panels are multiplied so") };
            let columns = e.size(columns);
            let fields: [Value; wide::FIELDS] = [term.weights, x.codes, x.sums, x.scale, start, out, columns];
            let call = e.stack(8 * wide::FIELDS);
            for (n, value) in fields.into_iter().enumerate() {
                e.store(Memory::Caller, value, call, 8 * n);
            }
            e.call(Entry::Panels(function), &[call, from, end]);
            start = out;
        }
        true
    }

    /// The pointers that one panel advances: those of the terms, then the start.
    pub(crate) fn pointers(&self) -> Vec<Value> {
        self.terms.iter().map(|t| t.weights).chain(self.start).collect()
    }

    /// [`Map::pointers`] of the panel with this number. All panels must have the same length: see [`Panels::panel_bytes`].
    pub(crate) fn pointers_at(&self, e: &mut dyn Emit, panel: Value) -> Vec<Value> {
        let strides: Vec<usize> = self
            .terms
            .iter()
            .map(|t| t.panels.panel_bytes().expect("the plan shares only panels that can be found"))
            .chain(self.start.map(|_| PANEL * 4))
            .collect();
        let pointers = self.pointers();
        pointers.into_iter().zip(strides).map(|(p, stride)| e.advance(p, panel, stride)).collect()
    }

    /// One panel of the product. Returns its eight vectors and the pointers to the next panel.
    pub(crate) fn panel(&self, e: &mut dyn Emit, pointers: &[Value]) -> (Vec<Value>, Vec<Value>) {
        let at = self.start.map(|_| pointers[self.terms.len()]);
        let mut acc: Option<Vec<Value>> = None;
        let mut next = vec![];
        for (term, &w) in self.terms.iter().zip(pointers) {
            let begin = |e: &mut dyn Emit| acc.clone().unwrap_or_else(|| load_start(e, at));
            let (sums, w) = match (term.panels.format, term.x) {
                (Format::F32, Operand::Floats(x)) => {
                    let acc = begin(e);
                    panel::accumulate(e, &acc, w, x, term.panels.input)
                }
                (Format::Strips(s), Operand::Floats(x)) => {
                    let acc = begin(e);
                    strips::accumulate_floats(e, s, &acc, w, x)
                }
                (Format::Integer(i), Operand::Codes(x)) => integer::accumulate(e, i, w, x, begin),
                (Format::Strips(s), Operand::Spread(table, x)) => {
                    strips::accumulate_integers(e, s, w, (table, term.panels.input), x.scale, begin)
                }
                (format, _) => unreachable!("the plan gives {format:?} the input it takes"),
            };
            acc = Some(sums);
            next.push(w);
        }
        next.extend(at.map(|at| e.offset(at, PANEL * 4)));
        let acc = acc.unwrap_or_else(|| load_start(e, at));
        (acc, next)
    }
}

/// Stores the panels `from..to` (at least one) at `out`, which has room for exactly [`Map::out`] f32s, or with `padded` for whole panels.
pub(crate) fn store_range(e: &mut dyn Emit, map: &Map, [from, to]: [Value; 2], out: Value, padded: bool) {
    let panels = map.out.div_ceil(PANEL);
    let whole = if padded { panels } else { map.out / PANEL };
    if map.call(e, Some([from, to]), out, if padded { panels * PANEL } else { map.out }) {
        return;
    }
    let end = e.size(whole);
    let beyond = e.greater(to, end);
    let stop = e.select(beyond, end, to);
    let some = e.less(from, stop);
    e.choose(some, &[], |e| {
        let mut carried = map.pointers_at(e, from);
        let pointers = carried.len();
        carried.push(e.advance(out, from, PANEL * 4));
        e.repeat_range([from, stop], &carried, |e, _, p| {
            let (acc, mut next) = map.panel(e, &p[..pointers]);
            for (v, &a) in acc.iter().enumerate() {
                e.store(Memory::Caller, a, p[pointers], v * LANES * 4);
            }
            next.push(e.offset(p[pointers], PANEL * 4));
            next
        });
        vec![]
    });
    if !padded && !map.out.is_multiple_of(PANEL) {
        e.choose(beyond, &[], |e| {
            let last = e.size(whole);
            let pointers = map.pointers_at(e, last);
            let (acc, _) = map.panel(e, &pointers);
            let out = e.offset(out, whole * PANEL * 4);
            super::output::store_lanes(e, &acc, out, map.out % PANEL);
            vec![]
        });
    }
}

/// A panel of f32s at `at`, or zeros.
pub(crate) fn load_start(e: &mut dyn Emit, at: Option<Value>) -> Vec<Value> {
    let vectors = PANEL / LANES;
    match at {
        Some(at) => (0..vectors).map(|v| e.load(Type::F32x4, Memory::Weights, at, v * LANES * 4)).collect(),
        None => vec![e.constant(0.0); vectors],
    }
}

/// Runs `epilogue(e, first output of the panel, its vectors, outputs without padding, carried)` on every panel.
pub(crate) fn for_each_panel(
    e: &mut dyn Emit,
    map: &Map,
    carried: &[Value],
    mut epilogue: impl FnMut(&mut dyn Emit, Value, &[Value], usize, &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    let full = map.out / PANEL;
    let mut all = map.pointers();
    let pointers = all.len();
    all.extend_from_slice(carried);
    let mut one = |e: &mut dyn Emit, first: Value, outputs: usize, p: &[Value]| {
        let (acc, mut next) = map.panel(e, &p[..pointers]);
        next.extend(epilogue(e, first, &acc, outputs, &p[pointers..]));
        next
    };
    all = e.repeat(full, &all, |e, i, p| {
        let first = e.shift_left(i, PANEL.trailing_zeros());
        one(e, first, PANEL, p)
    });
    let rest = map.out % PANEL;
    if rest > 0 {
        let first = e.size(full * PANEL);
        all = one(e, first, rest, &all);
    }
    all[pointers..].to_vec()
}
