//! One time step of many streams at once: a weight is loaded once for all of them.

use super::buffers::stride;
use super::{Buffers, Execution, Model, cell_of, start};
use crate::plan::{Cell, Format, PANEL, Packed, Packing, Panels, Plan};
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
        let streams = tokens.len();
        self.follow(model, buffers, scratch, tokens, |buffers, _, _, cell| {
            self.cell_of_streams(model, buffers, states, cell, streams);
        });
        let product = &model.plan.output.product;
        let start = start(model, product).expect("nothing but a bias is added to logits");
        let (count, lanes) = (product.out, product.out.next_multiple_of(PANEL));
        let terms = self.terms(model, buffers, &product.segments, lanes);
        buffers.products.first_columns(streams, [lanes, count], terms, logits, count, start);
    }

    fn cell_of_streams(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        states: &mut [f32],
        cell: &Cell,
        streams: usize,
    ) {
        let (lanes, each, h) = (cell.lanes(), model.plan.state_len, cell.h());
        let (of, parameters) = cell_of(model, cell);
        let mut gates = std::mem::take(&mut buffers.gates);
        self.inputs(model, buffers, cell, streams, &mut gates);
        for (row, state) in
            buffers.hidden(h, streams).chunks_exact_mut(stride(h)).zip(states.chunks_exact(each))
        {
            row[..h.len].copy_from_slice(&state[h.offset..][..h.len]);
        }
        for step in &cell.prologue {
            self.stateless(model, buffers, step, streams);
        }
        if !cell.recurrent.is_empty() {
            let terms = self.terms(model, buffers, &cell.recurrent, lanes);
            buffers.products.product(streams, lanes, terms, &mut gates, lanes, kernels::Start::Accumulate);
        }
        buffers.floats(cell.out, streams, |buffers, rows| {
            let rows = rows.chunks_exact_mut(stride(cell.out)).zip(states.chunks_exact_mut(each));
            for ((row, state), gates) in rows.zip(gates.chunks_exact(lanes)) {
                kernels::update(self.level, &of, gates, state, parameters, &mut buffers.terms);
                row[..h.len].copy_from_slice(&state[h.offset..][..h.len]);
            }
        });
        buffers.gates = gates;
    }
}
