//! Many time steps of one stream at once.
//!
//! ```text
//!   tokens[t..t+T] ─▶ rows ─▶ X W^T ─▶ recurrent steps ─▶ X W^T ─▶ ... ─▶ X W^T and log-probabilities, some words at a time
//!                            batch     step by step       batch           batch
//! ```
//!
//! Only the recurrence must run step by step; input products and the output layer are batched ([`lstmc_kernels`]), which uses a weight for
//! all steps of a chunk once it is loaded.

use super::buffers::{floats, floats_mut};
use super::{Buffers, Execution, Model, Stateful, cell_of, code_panels, start};
use crate::plan::{Buffer, Cell, Format, Input, Loop, Output, PANEL, Product, Start, Step, Vector};
use lstmc_kernels::{self as kernels, PackedData, Term};

/// The maximum number of steps per chunk: enough to use each weight many times, few enough that a chunk's logits stay in cache.
const CHUNK: usize = 64;

impl Execution {
    /// Memory to score sequences with.
    pub(crate) fn sequence_buffers(&self, model: Model<'_>) -> Buffers {
        let mut buffers = Buffers::new(self, model, CHUNK);
        if let Output::Product(product) = &model.plan.output.result {
            buffers.products.reserve_log_probabilities(CHUNK, product.out);
        }
        buffers
    }

    /// Sum of the log-probabilities of `tokens[1..]`, which `each` gets in order, consuming all but the last. Lengths are checked by the caller.
    pub(crate) fn score(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        state: &mut [f32],
        scratch: &mut [u8],
        tokens: &[u32],
        each: &mut dyn FnMut(&[f32]),
    ) -> f64 {
        let mut total = 0.0;
        let inputs = tokens.len().saturating_sub(1);
        // Chunks of similar length: a short last one would reuse its weights less.
        let chunk = inputs.div_ceil(inputs.div_ceil(CHUNK).max(1)).max(1);
        for first in (0..inputs).step_by(chunk) {
            let steps = chunk.min(inputs - first);
            self.follow(model, buffers, scratch, &tokens[first..][..steps], |buffers, scratch, what| {
                match what {
                    Stateful::Loop(n, of) => match model.plan.cell(of) {
                        Some((cell, prologue)) => {
                            self.cell(model, buffers, state, scratch, (n, cell, prologue), steps);
                        }
                        None => step_by_step(model, buffers, state, scratch, (n, of), steps),
                    },
                    Stateful::Delay { x, state: of, out } => delay(buffers, state, x, of, out, steps),
                }
            });
            let mut found = std::mem::take(&mut buffers.log_probabilities);
            self.log_probabilities(model, buffers, &tokens[first + 1..][..steps], &mut found);
            total += found.iter().map(|&p| f64::from(p)).sum::<f64>();
            each(&found);
            buffers.log_probabilities = found;
        }
        total
    }

    /// Log-probabilities of one target for each row of the output.
    pub(super) fn log_probabilities(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        targets: &[u32],
        found: &mut Vec<f32>,
    ) {
        found.resize(targets.len(), 0.0);
        match &model.plan.output.result {
            Output::Product(product) => {
                let start = start(model, product).expect("nothing but a bias is added to logits");
                let lanes = product.out.next_multiple_of(PANEL);
                let terms = self.terms(model, buffers, &product.segments, lanes);
                let out = [lanes, product.out];
                buffers.products.log_probabilities(out, terms, start, targets, found);
            }
            Output::Buffer(b) => {
                for (t, (found, &target)) in found.iter_mut().zip(targets).enumerate() {
                    let logits = &buffers.row(Vector::Scratch(*b), t)[..b.len];
                    *found = logits[target as usize] - kernels::log_sum_exp(self.level, logits);
                }
            }
        }
    }

    fn cell(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        state: &mut [f32],
        scratch: &mut [u8],
        (n, cell, prologue): (usize, &Cell, &[Step]),
        steps: usize,
    ) {
        let (lanes, last) = (cell.gates[0].sums.padded(), cell.last());
        let (of, parameters) = cell_of(model, cell);
        let mut gates = std::mem::take(&mut buffers.gates);
        self.inputs(model, buffers, cell, steps, &mut gates);
        // The sums of the first state's terms, if they are apart, and the bias that they start from.
        let mut apart = std::mem::take(&mut buffers.apart);
        let (is_apart, bias) = (cell.gates.len() > 1, model.weights[last.start.0].f32s());
        apart.resize(if is_apart { last.sums.padded() } else { 0 }, 0.0);
        // If the recurrent term is one plain product, the batched kernels with their wider vectors compute it, one step at a time.
        let wide = self.wide(model, cell, prologue);
        let mut h_codes = std::mem::take(&mut buffers.h_codes);
        let mut scaled = std::mem::take(&mut buffers.scaled);
        buffers.floats(cell.out, steps, |buffers, rows| {
            for (t, row) in rows.chunks_exact_mut(cell.out.padded()).enumerate() {
                let gates = &mut gates[t * lanes..][..lanes];
                let generated = if let Some(Wide { format, weights, columns }) = wide {
                    let sums = if is_apart { &mut apart[..] } else { &mut *gates };
                    let mut h = &state[cell.h().offset..][..cell.units];
                    if let Some(columns) = columns {
                        scaled.clear();
                        scaled.extend(h.iter().zip(columns).map(|(h, c)| h * c));
                        h = &scaled;
                    }
                    let input = h.len();
                    let term = match format {
                        Format::Integer(i) => {
                            h_codes.fill(self.level, 1, h, input, i.groups);
                            Term::Codes(h_codes.activations(), code_panels(i, weights, sums.len()))
                        }
                        _ => {
                            let weights = weights.f32s();
                            Term::Floats(kernels::Floats { x: h, stride: input, input, weights })
                        }
                    };
                    if is_apart {
                        sums.copy_from_slice(bias);
                    }
                    buffers.products.recurrent_product(sums.len(), term, sums, t % 2 == 1);
                    None
                } else {
                    for step in prologue {
                        if let Step::Product { product: Product { start: Start::Buffer(b), .. }, .. } = step {
                            floats_mut(scratch, *b)
                                .copy_from_slice(&buffers.row(Vector::Scratch(*b), t)[..b.len]);
                        }
                    }
                    model.code.recurrent(n, gates, state, scratch);
                    Some(floats(scratch, Buffer { len: last.sums.padded(), ..last.sums }))
                };
                let sums = generated.unwrap_or(if is_apart { &apart } else { gates });
                let both = [(cell.gates[0].count, &*gates), (last.count, sums)];
                let offsets = cell.states.iter().map(|s| s.offset);
                let terms = &mut buffers.terms;
                let sums = if is_apart { &both[..] } else { &both[1..] };
                kernels::update(self.level, &of, sums, state, offsets, parameters, terms);
                row[..cell.units].copy_from_slice(&state[cell.h().offset..][..cell.units]);
            }
        });
        buffers.gates = gates;
        buffers.apart = apart;
        buffers.h_codes = h_codes;
        buffers.scaled = scaled;
    }

    /// A cell's recurrent term, if it is a plain product of the hidden state and batched kernels read its panels as they are.
    fn wide<'a>(&self, model: Model<'a>, cell: &Cell, prologue: &[Step]) -> Option<Wide<'a>> {
        let [s] = cell.recurrent[..] else { return None };
        let (mut h, mut columns, mut rest) = (Vector::State(cell.h()), None, prologue);
        if let [first, others @ ..] = prologue
            && let Some((x, by, out)) = first.scaled().filter(|(x, ..)| *x == h)
        {
            debug_assert_eq!(x.len(), out.len);
            (h, columns, rest) = (Vector::Scratch(out), Some(model.weights[by.0].f32s()), others);
        }
        let plain = match (s.input, rest) {
            (Input::Floats(x), []) => x == h,
            (Input::Codes(codes), [Step::Quantize { x, out }]) => (*x, *out) == (h, codes),
            _ => false,
        };
        let (format, weights) = (model.plan.panels(s.weights).format, &model.weights[s.weights.0]);
        (plain && !matches!(format, Format::Strips(_))).then_some(Wide { format, weights, columns })
    }
}

/// A recurrent term for batched kernels.
#[derive(Clone, Copy)]
struct Wide<'a> {
    format: Format,
    weights: &'a PackedData,
    /// What the hidden state is multiplied by first.
    columns: Option<&'a [f32]>,
}

/// A loop by generated code.
fn step_by_step(
    model: Model<'_>,
    buffers: &mut Buffers,
    state: &mut [f32],
    scratch: &mut [u8],
    (n, of): (usize, &Loop),
    steps: usize,
) {
    of.writes.iter().for_each(|&to| buffers.floats(to, steps, |_, _| ()));
    for t in 0..steps {
        for &from in &of.reads {
            floats_mut(scratch, from).copy_from_slice(&buffers.row(Vector::Scratch(from), t)[..from.len]);
        }
        model.code.recurrent(n, &[], state, scratch);
        for &to in &of.writes {
            let row = t * to.padded();
            buffers.floats(to, steps, |_, rows| rows[row..][..to.len].copy_from_slice(floats(scratch, to)));
        }
    }
}

/// The rows of a state before each step, and its value after the last one.
fn delay(buffers: &mut Buffers, state: &mut [f32], x: Buffer, of: Buffer, out: Option<Buffer>, steps: usize) {
    let slot = &mut state[of.offset..][..of.len];
    if let Some(out) = out {
        buffers.floats(out, steps, |buffers, rows| {
            let (x, stride) = buffers.vectors(Vector::Scratch(x));
            rows[..of.len].copy_from_slice(slot);
            for (to, from) in rows[out.padded()..].chunks_exact_mut(out.padded()).zip(x.chunks_exact(stride))
            {
                to[..of.len].copy_from_slice(&from[..of.len]);
            }
        });
    }
    slot.copy_from_slice(&buffers.row(Vector::Scratch(x), steps - 1)[..of.len]);
}
