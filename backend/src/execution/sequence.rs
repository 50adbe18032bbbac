//! Many time steps of one stream at once.
//!
//! ```text
//!   tokens[t..t+T] ─▶ rows ─▶ X W^T ─▶ recurrent steps ─▶ X W^T ─▶ ... ─▶ X W^T and log-probabilities, some words at a time
//!                            batch     step by step       batch           batch
//! ```
//!
//! Only the recurrence must run step by step; input products and the output layer are batched ([`lstmc_kernels`]), which uses a weight for
//! all steps of a chunk once it is loaded.

use super::buffers::{floats, floats_mut, stride};
use super::{Buffers, Execution, Model, cell_of, code_panels, start};
use crate::plan::{Buffer, Cell, Format, Input, PANEL, Product, Start, Step, Vector};
use lstmc_kernels::{self as kernels, PackedData, Term};

/// The maximum number of steps per chunk: enough to use each weight many times, few enough that a chunk's logits stay in cache.
const CHUNK: usize = 64;

impl Execution {
    /// Memory to score sequences with.
    pub(crate) fn sequence_buffers(&self, model: Model<'_>) -> Buffers {
        let mut buffers = Buffers::new(self, model, CHUNK);
        buffers.products.reserve_log_probabilities(CHUNK, model.plan.output.product.out);
        buffers
    }

    /// Sum of the log-probabilities of `tokens[1..]`, consuming all but the last. Lengths are checked by the caller.
    pub(crate) fn score(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        state: &mut [f32],
        scratch: &mut [u8],
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> f64 {
        let mut total = 0.0;
        let inputs = tokens.len().saturating_sub(1);
        // Chunks of similar length: a short last one would reuse its weights less.
        let chunk = inputs.div_ceil(inputs.div_ceil(CHUNK).max(1)).max(1);
        let product = &model.plan.output.product;
        let start = start(model, product).expect("nothing but a bias is added to logits");
        let lanes = product.out.next_multiple_of(PANEL);
        for first in (0..inputs).step_by(chunk) {
            let steps = chunk.min(inputs - first);
            self.follow(model, buffers, scratch, &tokens[first..][..steps], |buffers, scratch, n, cell| {
                self.cell(model, buffers, state, scratch, n, cell, steps);
            });
            let mut found = std::mem::take(&mut buffers.log_probabilities);
            found.resize(steps, 0.0);
            let terms = self.terms(model, buffers, &product.segments, lanes);
            let targets = &tokens[first + 1..][..steps];
            buffers.products.log_probabilities([lanes, product.out], terms, start, targets, &mut found);
            total += found.iter().map(|&p| f64::from(p)).sum::<f64>();
            buffers.log_probabilities = found;
            progress(first + steps);
        }
        total
    }

    #[expect(clippy::too_many_arguments, reason = "one stream's buffers and one layer's place in the plan")]
    fn cell(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        state: &mut [f32],
        scratch: &mut [u8],
        n: usize,
        cell: &Cell,
        steps: usize,
    ) {
        let lanes = cell.lanes();
        let (of, parameters) = cell_of(model, cell);
        let mut gates = std::mem::take(&mut buffers.gates);
        self.inputs(model, buffers, cell, steps, &mut gates);
        // If the recurrent term is one plain product, the batched kernels with their wider vectors compute it, one step at a time.
        let wide = self.wide(model, cell);
        let mut h_codes = std::mem::take(&mut buffers.h_codes);
        buffers.floats(cell.out, steps, |buffers, rows| {
            for (t, row) in rows.chunks_exact_mut(stride(cell.out)).enumerate() {
                let gates = &mut gates[t * lanes..][..lanes];
                let gates = if let Some((format, weights)) = wide {
                    let h = &state[cell.h().offset..][..cell.units];
                    let input = h.len();
                    let term = match format {
                        Format::Integer(i) => {
                            h_codes.fill(self.level, 1, h, input, i.groups);
                            Term::Codes(h_codes.activations(), code_panels(i, weights, lanes))
                        }
                        _ => {
                            let weights = weights.f32s();
                            Term::Floats(kernels::Floats { x: h, stride: input, input, weights })
                        }
                    };
                    buffers.products.recurrent_product(lanes, term, gates, t % 2 == 1);
                    &*gates
                } else {
                    for step in &cell.prologue {
                        if let Step::Product { product: Product { start: Start::Buffer(b), .. }, .. } = step {
                            let from = &buffers.rows(*b)[t * stride(*b)..][..b.len];
                            floats_mut(scratch, *b).copy_from_slice(from);
                        }
                    }
                    model.code.recurrent(n, gates, state, scratch);
                    floats(scratch, Buffer { len: lanes, ..cell.gates })
                };
                kernels::update(self.level, &of, gates, state, parameters, &mut buffers.terms);
                row[..cell.units].copy_from_slice(&state[cell.h().offset..][..cell.units]);
            }
        });
        buffers.gates = gates;
        buffers.h_codes = h_codes;
    }

    /// The panels of a cell's recurrent term, if it is a plain product of the hidden state and batched kernels read them as they are.
    fn wide<'a>(&self, model: Model<'a>, cell: &Cell) -> Option<(Format, &'a PackedData)> {
        let h = Vector::State(cell.h());
        let [s] = cell.recurrent[..] else { return None };
        let plain = match (s.input, &cell.prologue[..]) {
            (Input::Floats(x), []) => x == h,
            (Input::Codes(codes), [Step::Quantize { x, out }]) => (*x, *out) == (h, codes),
            _ => false,
        };
        let (format, data) = (model.plan.panels(s.weights).format, &model.weights[s.weights.0]);
        let as_they_are = match format {
            Format::F32 => true,
            // Codes that share bytes would be unpacked for a single vector.
            Format::Integer(i) => i.levels() == 1 && i.groups.count() == 1,
            Format::Strips(_) => false,
        };
        (plain && as_they_are).then_some((format, data))
    }
}
