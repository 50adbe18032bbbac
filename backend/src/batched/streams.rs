//! A time step of many streams at once: a weight is loaded once for all of them.

use super::{Batched, Work, start, stride};
use crate::batch;
use crate::jit::Jit;
use crate::pack::PackedData;
use crate::plan::{Cell, Format, PANEL, Packed, Packing, Panels, Plan};

/// See [`Batched::fewest_streams`]: more where codes that share bytes are unpacked for them, as measured.
pub(super) fn fewest(plan: &Plan) -> usize {
    let unpacked = |w: &Packed| match w.packing {
        Packing::Panels(Panels { format: Format::Integer(i), .. }) => i.levels() > 1 || i.groups.count() > 1,
        _ => false,
    };
    if plan.weights.iter().any(unpacked) { 4 } else { 2 }
}

impl Batched {
    /// Memory for steps of so many streams.
    pub(crate) fn streams_work(&self, plan: &Plan, weights: &[PackedData], streams: usize) -> Work {
        Work::new(self, plan, weights, streams)
    }

    /// Takes a step of `tokens.len()` streams, whose states follow one another in `states`, and writes their logits, likewise. Lengths and tokens are
    /// checked by the caller.
    pub(crate) fn step(
        &self,
        jit: &Jit,
        work: &mut Work,
        states: &mut [f32],
        scratch: &mut [u8],
        tokens: &[u32],
        logits: &mut [f32],
    ) {
        let streams = tokens.len();
        self.follow(jit, work, scratch, tokens, |work, _, _, cell| {
            self.cell_of_streams(jit, work, states, cell, streams);
        });
        let product = &jit.plan().output.product;
        let start = start(jit, product).expect("nothing but a bias is added to logits");
        let (count, lanes) = (product.out, product.out.next_multiple_of(PANEL));
        let terms = self.terms(jit, work, &product.segments, lanes);
        work.products.first_columns(streams, [lanes, count], terms, logits, count, start);
    }

    fn cell_of_streams(&self, jit: &Jit, work: &mut Work, states: &mut [f32], cell: &Cell, streams: usize) {
        let (lanes, each, h) = (cell.lanes(), jit.plan().state_len, cell.h());
        let mut gates = std::mem::take(&mut work.gates);
        self.inputs(jit, work, cell, streams, &mut gates);
        for (row, state) in work.hidden(h, streams).chunks_exact_mut(stride(h)).zip(states.chunks_exact(each))
        {
            row[..h.len].copy_from_slice(&state[h.offset..][..h.len]);
        }
        for step in &cell.prologue {
            self.stateless(jit, work, step, streams);
        }
        if !cell.recurrent.is_empty() {
            let terms = self.terms(jit, work, &cell.recurrent, lanes);
            work.products.product(streams, lanes, terms, &mut gates, lanes, batch::Start::Accumulate);
        }
        work.floats(cell.out, streams, |work, rows| {
            let rows = rows.chunks_exact_mut(stride(cell.out)).zip(states.chunks_exact_mut(each));
            for ((row, state), gates) in rows.zip(gates.chunks_exact(lanes)) {
                self.update(jit, work, cell, gates, state);
                row[..h.len].copy_from_slice(&state[h.offset..][..h.len]);
            }
        });
        work.gates = gates;
    }
}
