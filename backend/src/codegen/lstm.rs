//! The LSTM step: the product over `[x; h]`, gates, cell and hidden state, all in registers.

use super::emit::{Emit, F32X4, buffer_flags, caller_flags, weight_flags};
use super::math::{sigmoid, tanh};
use super::panel::{Segment, accumulate};
use crate::plan::{LANES, PANEL_UNITS, tail_vectors};
use cranelift_codegen::ir::{InstBuilder, Value};

/// Where an LSTM step finds its operands.
pub(crate) struct Cell {
    /// Gate panels.
    pub(crate) weights: Value,
    /// Gate bias.
    pub(crate) bias: Value,
    /// The hidden state that is read.
    pub(crate) h: Value,
    /// The cell state, updated in place.
    pub(crate) c: Value,
    /// Where the new hidden state goes; must not be `h`, which every panel still reads.
    pub(crate) out: Value,
    /// Units.
    pub(crate) hidden: usize,
    /// What the input contributes.
    pub(crate) input: Input,
}

/// What the input contributes to the gates.
pub(crate) enum Input {
    /// A vector to be multiplied by the panels' first rows.
    Vector(Segment),
    /// The product, computed before: `[4 gates][hidden]` at this address; the panels' first `rows` rows are skipped.
    Product { gates: Value, rows: usize },
}

/// Emits all panels of one step.
pub(crate) fn step(e: &mut Emit<'_, '_>, cell: &Cell) {
    let full = cell.hidden / PANEL_UNITS;
    let after = e.repeat(full, &[cell.weights, cell.bias], |e, i, p| {
        let unit = e.b.ins().ishl_imm_s(i, PANEL_UNITS.trailing_zeros() as i64);
        panel(e, cell, p[0], p[1], unit, PANEL_UNITS / LANES)
    });
    let tail = tail_vectors(cell.hidden % PANEL_UNITS);
    if tail > 0 {
        let unit = e.size(full * PANEL_UNITS);
        panel(e, cell, after[0], after[1], unit, tail);
    }
}

/// One panel of `4 * width` vectors from `unit` on. Returns the pointers to the next panel and its bias.
fn panel(
    e: &mut Emit<'_, '_>,
    cell: &Cell,
    weights: Value,
    bias: Value,
    unit: Value,
    width: usize,
) -> Vec<Value> {
    let vectors = 4 * width;
    let at = e.b.ins().ishl_imm_s(unit, 2);
    let mut acc: Vec<Value> =
        (0..vectors).map(|v| e.load(F32X4, weight_flags(), bias, v * LANES * 4)).collect();
    let mut w = weights;
    match cell.input {
        Input::Vector(x) => (acc, w) = accumulate(e, &acc, w, x),
        Input::Product { gates, rows } => {
            let from = e.b.ins().iadd(gates, at);
            for gate in 0..4 {
                for v in 0..width {
                    // Lanes past the last unit read the next gate; they end in the padding of c and out, which nothing reads.
                    let g = e.load(F32X4, caller_flags(), from, (gate * cell.hidden + v * LANES) * 4);
                    let a = &mut acc[gate * width + v];
                    *a = e.b.ins().fadd(*a, g);
                }
            }
            w = e.offset(w, rows * vectors * LANES * 4);
        }
    }
    let (acc, w) = accumulate(e, &acc, w, Segment { address: cell.h, count: cell.hidden });
    let (c, out) = (e.b.ins().iadd(cell.c, at), e.b.ins().iadd(cell.out, at));
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
    vec![w, e.offset(bias, vectors * LANES * 4)]
}
