//! Many time steps of one stream at once.
//!
//! ```text
//!   tokens[t..t+T] ─▶ rows ─▶ X W^T ─▶ recurrent steps ─▶ X W^T ─▶ ... ─▶ X W^T and log-probabilities, some words at a time
//!                            batch     step by step       batch           batch
//! ```
//!
//! Only the recurrence must go step by step; input products and the output layer are batched ([`crate::batch`]), which uses a weight for
//! all steps of a chunk once it is loaded.

use super::{Batched, Work, codes, floats, floats_mut, start, stride};
use crate::batch;
use crate::jit::Jit;
use crate::pack::PackedData;
use crate::plan::{Buffer, Cell, Format, Input, PANEL, Panels, Plan, Product, Start, Step, Vector};

/// Steps per chunk, at most: enough to use each weight many times, few enough that a chunk's logits stay near.
const CHUNK: usize = 64;

impl Batched {
    /// Memory to score sequences with.
    pub(crate) fn sequence_work(&self, plan: &Plan, weights: &[PackedData]) -> Work {
        let mut work = Work::new(self, plan, weights, CHUNK);
        work.products.reserve_log_probabilities(CHUNK, plan.output.product.out);
        work
    }

    /// Sum of the log-probabilities of `tokens[1..]`, consuming all but the last. Lengths are checked by the caller.
    pub(crate) fn score(
        &self,
        jit: &Jit,
        work: &mut Work,
        state: &mut [f32],
        scratch: &mut [u8],
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> f64 {
        let mut total = 0.0;
        let inputs = tokens.len().saturating_sub(1);
        // Chunks of like length: a short last one would use its weights less.
        let chunk = inputs.div_ceil(inputs.div_ceil(CHUNK).max(1)).max(1);
        for start in (0..inputs).step_by(chunk) {
            let end = (start + chunk).min(inputs);
            self.run(jit, work, state, scratch, &tokens[start..end], &tokens[start + 1..=end]);
            total += work.log_probabilities.iter().map(|&p| f64::from(p)).sum::<f64>();
            progress(end);
        }
        total
    }

    /// Consumes a chunk of tokens; leaves the log-probabilities of their targets in `work`.
    fn run(
        &self,
        jit: &Jit,
        work: &mut Work,
        state: &mut [f32],
        scratch: &mut [u8],
        tokens: &[u32],
        targets: &[u32],
    ) {
        self.follow(jit, work, scratch, tokens, |work, scratch, n, cell| {
            self.cell(jit, work, state, scratch, n, cell, tokens.len());
        });
        let product = &jit.plan().output.product;
        let start = start(jit, product).expect("nothing but a bias is added to logits");
        let mut found = std::mem::take(&mut work.log_probabilities);
        found.resize(tokens.len(), 0.0);
        let lanes = product.out.next_multiple_of(PANEL);
        let terms = self.terms(jit, work, &product.segments, lanes);
        work.products.log_probabilities([lanes, product.out], terms, start, targets, &mut found);
        work.log_probabilities = found;
    }

    #[expect(clippy::too_many_arguments, reason = "one stream's buffers and one layer's place in the plan")]
    fn cell(
        &self,
        jit: &Jit,
        work: &mut Work,
        state: &mut [f32],
        scratch: &mut [u8],
        n: usize,
        cell: &Cell,
        steps: usize,
    ) {
        let lanes = cell.lanes();
        let mut gates = std::mem::take(&mut work.gates);
        self.inputs(jit, work, cell, steps, &mut gates);
        // Where the recurrent term is one plain product, the batched kernels with their wider vectors do it, a step at a time.
        let wide = self.wide(jit, cell);
        let mut h_codes = std::mem::take(&mut work.h_codes);
        work.floats(cell.out, steps, |work, rows| {
            for (t, row) in rows.chunks_exact_mut(stride(cell.out)).enumerate() {
                let gates = &mut gates[t * lanes..][..lanes];
                let gates = if let Some((panels, weights)) = wide {
                    let h = &state[cell.h().offset..][..cell.units];
                    let input = h.len();
                    let term = match panels.format {
                        Format::Integer(i) => {
                            h_codes.fill(self.level, 1, h, input, input, i.groups.size);
                            batch::Term::Codes(h_codes.activations(), codes(i, weights.bytes(), lanes))
                        }
                        _ => {
                            let weights = weights.f32s();
                            batch::Term::Floats(batch::Floats { x: h, stride: input, input, weights })
                        }
                    };
                    work.products.recurrent_product(lanes, term, gates, t % 2 == 1);
                    &*gates
                } else {
                    for step in &cell.prologue {
                        if let Step::Product { product: Product { start: Start::Buffer(b), .. }, .. } = step {
                            let from = &work.rows(*b)[t * stride(*b)..][..b.len];
                            floats_mut(scratch, *b).copy_from_slice(from);
                        }
                    }
                    jit.recurrent(n, gates, state, scratch);
                    floats(scratch, Buffer { len: lanes, ..cell.gates })
                };
                self.update(jit, work, cell, gates, state);
                row[..cell.units].copy_from_slice(&state[cell.h().offset..][..cell.units]);
            }
        });
        work.gates = gates;
        work.h_codes = h_codes;
    }

    /// The panels of a cell's recurrent term, where it is a plain product of the hidden state and batched kernels read them as they are.
    fn wide<'a>(&'a self, jit: &'a Jit, cell: &Cell) -> Option<(Panels, &'a PackedData)> {
        let h = Vector::State(cell.h());
        let [s] = cell.recurrent[..] else { return None };
        let plain = match (s.input, &cell.prologue[..]) {
            (Input::Floats(x), []) => x == h,
            (Input::Codes(codes), [Step::Quantize { x, out }]) => (*x, *out) == (h, codes),
            _ => false,
        };
        let (panels, data) = (jit.plan().panels(s.weights), &jit.weights()[s.weights.0]);
        let as_they_are = match panels.format {
            Format::F32 => true,
            // Codes that share bytes would be unpacked for a single vector.
            Format::Integer(i) => i.levels() == 1 && i.groups.count() == 1,
            Format::Strips(_) => false,
        };
        (plain && as_they_are).then_some((panels, data))
    }
}
