//! One time step of many streams at once: a weight is loaded once for all of them.

use super::{Buffers, Execution, Model, Stateful, cell_of, start};
use crate::plan::{Buffer, Cell, Format, Output, PANEL, Packed, Packing, Panels, Plan, Step, Vector};
use lstmc_kernels as kernels;

/// See [`Execution::fewest_streams`]: a larger number (measured) if codes that share bytes are unpacked for them.
pub(super) fn fewest(plan: &Plan) -> usize {
    let unpacked = |w: &Packed| match w.packing {
        Packing::Panels(Panels { format: Format::Integer(i), .. }) => i.levels() > 1 || i.groups.count() > 1,
        _ => false,
    };
    if plan.weights.iter().any(unpacked) { 4 } else { 2 }
}

impl Execution {
    /// Takes a step of `tokens.len()` streams, whose states are consecutive in `states`, and writes their logits consecutively. Lengths and tokens
    /// are checked by the caller.
    pub(crate) fn step(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        states: &mut [f32],
        scratch: &mut [u8],
        tokens: &[u32],
        logits: &mut [f32],
    ) {
        let (streams, each) = (tokens.len(), model.plan.state_len);
        self.follow(model, buffers, scratch, tokens, |buffers, _, what| match what {
            Stateful::Loop(_, of) => {
                for &slot in &of.states {
                    let rows = buffers.state(slot, streams).chunks_exact_mut(slot.padded());
                    for (row, state) in rows.zip(states.chunks_exact(each)) {
                        row[..slot.len].copy_from_slice(&state[slot.offset..][..slot.len]);
                    }
                }
                for step in &model.plan.steps[of.steps.clone()] {
                    match step {
                        Step::Cell(cell) => self.cell_of_streams(model, buffers, states, cell, streams),
                        // A cell's kernel has replaced its states.
                        Step::Delay { .. } if of.is_cell => {}
                        Step::Delay { x, state, out } => {
                            delay(buffers, states, each, *x, *state, *out);
                        }
                        other => self.stateless(model, buffers, other, streams),
                    }
                }
            }
            Stateful::Delay { x, state, out } => delay(buffers, states, each, x, state, out),
        });
        match &model.plan.output.result {
            Output::Product(product) => {
                let start = start(model, product).expect("nothing but a bias is added to logits");
                let (count, lanes) = (product.out, product.out.next_multiple_of(PANEL));
                let terms = self.terms(model, buffers, &product.segments, lanes);
                buffers.products.first_columns(streams, [lanes, count], terms, logits, count, start);
            }
            Output::Buffer(b) => {
                for (t, to) in logits.chunks_exact_mut(b.len).enumerate() {
                    to.copy_from_slice(&buffers.row(Vector::Scratch(*b), t)[..b.len]);
                }
            }
        }
    }

    fn cell_of_streams(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        states: &mut [f32],
        cell: &Cell,
        streams: usize,
    ) {
        let (last, each, h) = (cell.last(), model.plan.state_len, cell.h());
        let lanes = last.sums.padded();
        let (of, parameters) = cell_of(model, cell);
        let mut gates = std::mem::take(&mut buffers.gates);
        let mut apart = std::mem::take(&mut buffers.apart);
        self.inputs(model, buffers, cell, streams, &mut gates);
        let is_apart = cell.gates.len() > 1;
        let (to, start) = if is_apart {
            apart.resize(streams * lanes, 0.0);
            (&mut apart, kernels::Start::Bias(model.weights[last.start.0].f32s()))
        } else {
            (&mut gates, kernels::Start::Accumulate)
        };
        let terms = self.terms(model, buffers, &cell.recurrent, lanes);
        buffers.products.product(streams, lanes, terms, to, lanes, start);
        buffers.floats(cell.out, streams, |buffers, rows| {
            let rows = rows.chunks_exact_mut(cell.out.padded()).zip(states.chunks_exact_mut(each));
            for (t, (row, state)) in rows.enumerate() {
                let sums = [(cell.gates[0], &gates), (*last, &apart)].map(|(g, sums)| {
                    let lanes = g.sums.padded();
                    (g.count, sums.get(t * lanes..(t + 1) * lanes).unwrap_or(&[]))
                });
                let offsets = cell.states.iter().map(|s| s.offset);
                let sums = &sums[..cell.gates.len()];
                kernels::update(self.level, &of, sums, state, offsets, parameters, &mut buffers.terms);
                row[..h.len].copy_from_slice(&state[h.offset..][..h.len]);
            }
        });
        buffers.gates = gates;
        buffers.apart = apart;
    }
}

/// The states so far, and their next values.
fn delay(buffers: &mut Buffers, states: &mut [f32], each: usize, x: Buffer, of: Buffer, out: Option<Buffer>) {
    let slot = of.offset..of.offset + of.len;
    if let Some(out) = out {
        buffers.floats(out, states.len() / each, |_, rows| {
            for (row, state) in rows.chunks_exact_mut(out.padded()).zip(states.chunks_exact(each)) {
                row[..of.len].copy_from_slice(&state[slot.clone()]);
            }
        });
    }
    for (t, state) in states.chunks_exact_mut(each).enumerate() {
        state[slot.clone()].copy_from_slice(&buffers.row(Vector::Scratch(x), t)[..of.len]);
    }
}
