//! The batched path: many time steps of one stream at once.
//!
//! ```text
//!   tokens[t..t+T] ─▶ rows ─▶ X W^T ─▶ recurrent steps ─▶ X W^T ─▶ ... ─▶ logits [T, V] ─▶ log-sum-exp of each row
//!                            faer       generated code    faer            faer            generated code
//! ```
//!
//! Only the recurrence must go step by step; input products and the output layer are matrix products, which use a weight for all
//! steps of a chunk once it is loaded.

use crate::error::CompileError;
use crate::jit::Jit;
use crate::pack::{PACKED_GATES, gate_order};
use crate::plan::{Buffer, Other, PackedId, Plan, Step, dense};
use lstmc_frontend::ir::{Binary, Graph, Unary, WeightId};
use lstmc_frontend::product::apply_on;
use std::sync::Arc;

/// Steps per chunk: enough to use each weight many times, few enough that a chunk's logits stay in cache.
const CHUNK: usize = 256;

/// f32s that may be read behind the last gate of a row.
pub(crate) const GATES_SLACK: usize = 8;

/// The row-major maps that the batched products use, in order of the plan's steps; shared with the graph where they are dense.
pub(crate) struct Sequence {
    threads: usize,
    /// One per LSTM or linear step, in order: `[4 hidden][input]` in packed gate order, or `[out][input]`.
    maps: Vec<Arc<Vec<f32>>>,
    hidden: Vec<usize>,
    output: Arc<Vec<f32>>,
}

impl Sequence {
    pub(crate) fn new(plan: &Plan, graph: &Graph, threads: usize) -> Result<Sequence, CompileError> {
        let mut maps = vec![];
        let mut hidden = vec![];
        for step in &plan.steps {
            match step {
                Step::Lstm { input_map, h, .. } => {
                    hidden.push(h.len);
                    maps.push(in_packed_order(graph, *input_map, h.len)?);
                }
                Step::Linear { weights, .. } => maps.push(dense(graph, plan.packed(*weights).sources[0])?),
                _ => {}
            }
        }
        Ok(Sequence { threads, maps, hidden, output: dense(graph, plan.output.map)? })
    }

    pub(crate) fn hidden(&self, cell: usize) -> usize {
        self.hidden[cell]
    }

    /// Sum of the log-probabilities of `tokens[1..]`, consuming all but the last. Lengths are checked by the caller.
    pub(crate) fn score(
        &self,
        jit: &Jit,
        state: &mut [f32],
        scratch: &mut [u8],
        tokens: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> f64 {
        let mut total = 0.0;
        let mut work = Work::new(jit.plan());
        let inputs = tokens.len().saturating_sub(1);
        for start in (0..inputs).step_by(CHUNK) {
            let end = (start + CHUNK).min(inputs);
            self.run(jit, &mut work, state, scratch, &tokens[start..end]);
            for (row, &target) in
                work.logits.chunks_exact(jit.plan().vocabulary).zip(&tokens[start + 1..=end])
            {
                total += f64::from(row[target as usize] - jit.log_sum_exp(row, scratch));
            }
            progress(end);
        }
        total
    }

    /// Consumes a chunk of tokens; leaves their logits in `work.logits`.
    fn run(&self, jit: &Jit, work: &mut Work, state: &mut [f32], scratch: &mut [u8], tokens: &[u32]) {
        let plan = jit.plan();
        let steps = tokens.len();
        let mut maps = self.maps.iter();
        let mut cell = 0;
        for (n, step) in plan.steps.iter().enumerate() {
            let mut out = std::mem::take(&mut work.values[n]);
            match step {
                Step::Gather { table, out: to } => {
                    let table = jit.weights()[table.0].as_slice();
                    out.clear();
                    for &token in tokens {
                        out.extend_from_slice(&table[token as usize * to.len..][..to.len]);
                    }
                }
                Step::Lstm { x, out: to, .. } => {
                    let mut gates = std::mem::take(&mut work.gates);
                    let (width, rows) = (x.len, 4 * to.len);
                    gates.resize(steps * rows + GATES_SLACK, 0.0);
                    let map = maps.next().expect("a map per layer");
                    apply_on(self.threads, steps, width, rows, work.of(*x), map, &mut gates[..steps * rows]);
                    out.clear();
                    for t in 0..steps {
                        jit.recurrent(cell, &gates[t * rows..], state, scratch);
                        let h = &scratch[to.offset * 4..(to.offset + to.len) * 4];
                        let (h, _) = h.as_chunks::<4>();
                        out.extend(h.iter().map(|b| f32::from_ne_bytes(*b)));
                    }
                    work.gates = gates;
                    cell += 1;
                }
                Step::Linear { x, bias, out: to, .. } => {
                    let map = maps.next().expect("a map per layer");
                    let x = work.of(*x);
                    out.resize(steps * to.len, 0.0);
                    apply_on(self.threads, steps, x.len() / steps, to.len, x, map, &mut out);
                    add_bias(&mut out, vector(jit, *bias, to.len));
                }
                Step::Unary { op, x, .. } => {
                    out.clear();
                    out.extend(work.of(*x).iter().map(|&x| unary(*op, x)));
                }
                Step::Binary { op, a, b, swapped, out: to } => {
                    let a = work.of(*a);
                    let one: &[f32];
                    let b = match b {
                        Other::Buffer(b) => work.of(*b),
                        Other::Weight(id) => vector(jit, *id, to.len),
                        Other::Scalar(id) => {
                            one = vector(jit, *id, 1);
                            one
                        }
                    };
                    out.clear();
                    out.extend(a.iter().zip(b.iter().cycle()).map(|(&a, &b)| {
                        let (a, b) = if *swapped { (b, a) } else { (a, b) };
                        binary(*op, a, b)
                    }));
                }
            }
            work.values[n] = out;
        }
        let mut logits = std::mem::take(&mut work.logits);
        let x = work.of(plan.output.x);
        logits.resize(steps * plan.vocabulary, 0.0);
        apply_on(self.threads, steps, x.len() / steps, plan.vocabulary, x, &self.output, &mut logits);
        add_bias(&mut logits, vector(jit, plan.output.bias, plan.vocabulary));
        work.logits = logits;
    }
}

/// Buffers of one run over a sequence.
struct Work {
    /// Result of each step: `[T, width]`.
    values: Vec<Vec<f32>>,
    /// Offsets of the plan's buffers, to find a result by.
    offsets: Vec<usize>,
    /// `[T, 4 hidden]` of the layer at hand, and slack.
    gates: Vec<f32>,
    /// `[T, vocabulary]`.
    logits: Vec<f32>,
}

impl Work {
    fn new(plan: &Plan) -> Work {
        let offsets = plan
            .steps
            .iter()
            .map(|s| match s {
                Step::Gather { out, .. }
                | Step::Lstm { out, .. }
                | Step::Linear { out, .. }
                | Step::Binary { out, .. }
                | Step::Unary { out, .. } => out.offset,
            })
            .collect();
        Work { values: vec![vec![]; plan.steps.len()], offsets, gates: vec![], logits: vec![] }
    }

    fn of(&self, buffer: Buffer) -> &[f32] {
        let n = self.offsets.iter().position(|&o| o == buffer.offset).expect("a buffer of the plan");
        &self.values[n]
    }
}

fn vector(jit: &Jit, id: PackedId, len: usize) -> &[f32] {
    &jit.weights()[id.0].as_slice()[..len]
}

fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x += b;
        }
    }
}

fn unary(op: Unary, x: f32) -> f32 {
    match op {
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Relu => x.max(0.0),
    }
}

fn binary(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
    }
}

/// An input map with its gates in the order of packed panels.
fn in_packed_order(graph: &Graph, map: WeightId, hidden: usize) -> Result<Arc<Vec<f32>>, CompileError> {
    let data = dense(graph, map)?;
    let order = gate_order(graph, map);
    if order.gates() == PACKED_GATES {
        return Ok(data);
    }
    let block = data.len() / 4;
    debug_assert_eq!(block % hidden.max(1), 0);
    Ok(Arc::new(
        PACKED_GATES
            .iter()
            .flat_map(|&g| data[order.position(g) * block..][..block].iter().copied())
            .collect(),
    ))
}
