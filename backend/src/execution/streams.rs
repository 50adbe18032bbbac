//! Many streams at once: a weight is loaded once for all of them.
//!
//! What several time steps have in common is computed for all of them together. Rows of buffers are then in order of time, and within a time step in order of
//! streams. Streams may end: those that are left come first.

use super::{Buffers, Execution, Model, Stateful, cell_of, start};
use crate::plan::{Buffer, Cell, Loop, Output, PANEL, Step, Vector};
use lstmc_kernels as kernels;
use std::ops::Range;

/// See [`Execution::fewest_streams`].
pub(super) const FEWEST: usize = 2;

/// The most rows of a part of a batch: enough to use each weight often, few enough for their logits' blocks to stay in cache.
const ROWS: usize = 192;

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
        self.steps(model, buffers, states, scratch, tokens, std::slice::from_ref(&(0..streams)));
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

    /// Memory for [`Execution::score_batch`] of this many streams.
    pub(crate) fn batch_buffers(&self, model: Model<'_>, streams: usize) -> Buffers {
        let rows = ROWS.max(streams);
        let mut buffers = Buffers::new(self, model, rows);
        if let Output::Product(product) = &model.plan.output.result {
            buffers.products.reserve_log_probabilities(rows, product.out);
        }
        buffers
    }

    /// Log-probabilities of all tokens but the first of each text; no text is longer than the one before it. The texts' states are consecutive in
    /// `states`. Lengths and tokens are checked by the caller.
    pub(crate) fn score_batch(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        states: &mut [f32],
        scratch: &mut [u8],
        texts: &[&[u32]],
        found: &mut [&mut [f32]],
    ) {
        // General steps of a loop read each other's rows of one time step.
        let is_apart = |of: &Loop| model.plan.cell(of).is_none();
        let one_step = model.plan.loops.iter().any(is_apart);
        let steps = texts.first().map_or(0, |text| text.len().saturating_sub(1));
        let left = |t: usize| texts.partition_point(|text| text.len() > t + 1);
        let (mut t, mut parts, mut tokens, mut targets) = (0, vec![], vec![], vec![]);
        while t < steps {
            parts.clear();
            tokens.clear();
            targets.clear();
            let first = t;
            while t < steps && (t == first || !one_step && tokens.len() + left(t) <= ROWS) {
                parts.push(tokens.len()..tokens.len() + left(t));
                for text in &texts[..left(t)] {
                    tokens.push(text[t]);
                    targets.push(text[t + 1]);
                }
                t += 1;
            }
            self.steps(model, buffers, states, scratch, &tokens, &parts);
            let mut all = std::mem::take(&mut buffers.log_probabilities);
            self.log_probabilities(model, buffers, &targets, &mut all);
            for (t, part) in (first..t).zip(&parts) {
                for (to, &p) in found.iter_mut().zip(&all[part.clone()]) {
                    to[t] = p;
                }
            }
            buffers.log_probabilities = all;
        }
    }

    /// Everything up to the output, for time steps that each have these rows: one for each of the first streams.
    fn steps(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        states: &mut [f32],
        scratch: &mut [u8],
        tokens: &[u32],
        parts: &[Range<usize>],
    ) {
        let each = model.plan.state_len;
        self.follow(model, buffers, scratch, tokens, |buffers, _, what| match what {
            Stateful::Loop(_, of) => match model.plan.cell(of) {
                Some((cell, prologue)) => {
                    self.cell_of_streams(model, buffers, states, (Some(of), cell, prologue), parts);
                }
                None => {
                    let streams = tokens.len();
                    gather_states(buffers, states, each, of, streams);
                    for step in &model.plan.steps[of.steps.clone()] {
                        match step {
                            Step::Cell(cell) => {
                                self.cell_of_streams(model, buffers, states, (None, cell, &[]), parts);
                            }
                            Step::Delay { x, state, out } => {
                                delay(buffers, states, each, *x, *state, *out, parts);
                            }
                            other => self.stateless(model, buffers, other, streams),
                        }
                    }
                }
            },
            Stateful::Delay { x, state, out } => delay(buffers, states, each, x, state, out, parts),
        });
    }

    /// A cell and the steps before it, at each time step. Without its loop, its states are in rows already.
    fn cell_of_streams(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        states: &mut [f32],
        (of, cell, prologue): (Option<&Loop>, &Cell, &[Step]),
        parts: &[Range<usize>],
    ) {
        let (last, each, h) = (cell.last(), model.plan.state_len, cell.h());
        let (first_lanes, lanes) = (cell.gates[0].sums.padded(), last.sums.padded());
        let (kernel, parameters) = cell_of(model, cell);
        let rows = parts.last().map_or(0, |part| part.end);
        let mut gates = std::mem::take(&mut buffers.gates);
        let mut apart = std::mem::take(&mut buffers.apart);
        self.inputs(model, buffers, cell, rows, &mut gates);
        let is_apart = cell.gates.len() > 1;
        buffers.floats(cell.out, rows, |buffers, out| {
            for part in parts {
                let streams = part.len();
                if let Some(of) = of {
                    gather_states(buffers, states, each, of, streams);
                }
                buffers.first = part.start;
                prologue.iter().for_each(|step| self.stateless(model, buffers, step, streams));
                buffers.first = 0;
                let gates = &mut gates[part.start * first_lanes..part.end * first_lanes];
                let (to, start) = if is_apart {
                    apart.resize(streams * lanes, 0.0);
                    (&mut apart[..], kernels::Start::Bias(model.weights[last.start.0].f32s()))
                } else {
                    (&mut *gates, kernels::Start::Accumulate)
                };
                let terms = self.terms(model, buffers, &cell.recurrent, lanes);
                buffers.products.product(streams, lanes, terms, to, lanes, start);
                let width = cell.out.padded();
                let out = out[part.start * width..part.end * width].chunks_exact_mut(width);
                for (t, (row, state)) in out.zip(states.chunks_exact_mut(each)).enumerate() {
                    let sums = [(cell.gates[0], &*gates), (*last, &apart)].map(|(g, sums)| {
                        let lanes = g.sums.padded();
                        (g.count, sums.get(t * lanes..(t + 1) * lanes).unwrap_or(&[]))
                    });
                    let offsets = cell.states.iter().map(|s| s.offset);
                    let sums = &sums[..cell.gates.len()];
                    let terms = &mut buffers.terms;
                    kernels::update(self.level, &kernel, sums, state, offsets, parameters, terms);
                    row[..h.len].copy_from_slice(&state[h.offset..][..h.len]);
                }
            }
        });
        buffers.gates = gates;
        buffers.apart = apart;
    }
}

/// Copies the states of a loop to rows: one for each of the first streams.
fn gather_states(buffers: &mut Buffers, states: &[f32], each: usize, of: &Loop, streams: usize) {
    for &slot in &of.states {
        let rows = buffers.state(slot, streams).chunks_exact_mut(slot.padded());
        for (row, state) in rows.zip(states.chunks_exact(each)) {
            row[..slot.len].copy_from_slice(&state[slot.offset..][..slot.len]);
        }
    }
}

/// The states so far, and their next values.
fn delay(
    buffers: &mut Buffers,
    states: &mut [f32],
    each: usize,
    x: Buffer,
    of: Buffer,
    out: Option<Buffer>,
    parts: &[Range<usize>],
) {
    let slot = of.offset..of.offset + of.len;
    let rows = parts.last().map_or(0, |part| part.end);
    for part in parts {
        for (t, state) in part.clone().zip(states.chunks_exact_mut(each)) {
            if let Some(out) = out {
                buffers.floats(out, rows, |_, rows| {
                    rows[t * out.padded()..][..of.len].copy_from_slice(&state[slot.clone()]);
                });
            }
            state[slot.clone()].copy_from_slice(&buffers.row(Vector::Scratch(x), t)[..of.len]);
        }
    }
}
