//! The batched path: many time steps of one stream at once.
//!
//! ```text
//!   tokens[t..t+T] ─▶ rows ─▶ X W^T ─▶ recurrent steps ─▶ X W^T ─▶ ... ─▶ X W^T and log-probabilities, some words at a time
//!                            batch     generated code     batch           batch
//! ```
//!
//! Only the recurrence must go step by step; input products and the output layer are batched ([`crate::batch`]), which uses a weight for
//! all steps of a chunk once it is loaded. The plan's steps are followed in order, with rows for the buffers of scratch.

use crate::batch::{self, CodeRows};
use crate::jit::Jit;
use crate::pack::{PackedData, unpack_strips};
use crate::plan::{
    Buffer, Cell, Codes, Format, Input, Integer, Other, PANEL, PackedId, Panels, Plan, Product, Scale,
    Segment, Start, Step, Vector,
};
use lstmc_frontend::ir::{Binary, Unary};
use std::sync::OnceLock;

/// Steps per chunk, at most: enough to use each weight many times, few enough that a chunk's logits stay near.
const CHUNK: usize = 64;

/// What the batched path needs besides a [`Jit`].
pub(crate) struct Sequence {
    threads: usize,
    /// Sparse maps as panels, made when first a sequence is scored: a batch reads a weight once for many steps, and is faster on
    /// zeros in order than on entries with indices. By packed weight.
    twins: Vec<OnceLock<(Panels, PackedData)>>,
}

impl Sequence {
    pub(crate) fn new(plan: &Plan, threads: usize) -> Sequence {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        Sequence { threads, twins: plan.weights.iter().map(|_| OnceLock::new()).collect() }
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
        let mut work = Work::default();
        let inputs = tokens.len().saturating_sub(1);
        // Chunks of like length: a short last one would use its weights less.
        let chunk = inputs.div_ceil(inputs.div_ceil(CHUNK).max(1)).max(1);
        for start in (0..inputs).step_by(chunk) {
            let end = (start + chunk).min(inputs);
            self.run(jit, &mut work, state, scratch, &tokens[start..end], &tokens[start + 1..=end]);
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
        let plan = jit.plan();
        let mut cell = 0;
        for step in &plan.steps {
            match step {
                Step::Gather { out, .. } | Step::GatherTrain { out, .. } => {
                    work.floats(*out, tokens.len(), |_, rows| {
                        for (row, &token) in rows.chunks_exact_mut(stride(*out)).zip(tokens) {
                            jit.gather(token, scratch);
                            row[..out.len].copy_from_slice(floats(scratch, *out));
                        }
                    });
                }
                Step::Lstm(of) => {
                    self.cell(jit, work, state, scratch, cell, of, tokens.len());
                    cell += 1;
                }
                other => self.step(jit, work, other, tokens.len()),
            }
        }
        for step in &plan.output.prologue {
            self.step(jit, work, step, tokens.len());
        }
        let product = &plan.output.product;
        let start = start(jit, product).expect("nothing but a bias is added to logits");
        let mut found = std::mem::take(&mut work.log_probabilities);
        found.resize(tokens.len(), 0.0);
        let lanes = product.out.next_multiple_of(PANEL);
        let terms = self.terms(jit, work, &product.segments, lanes);
        batch::log_probabilities(self.threads, lanes, product.out, terms, start, targets, &mut found);
        work.log_probabilities = found;
    }

    /// A step that has nothing to do with the state.
    fn step(&self, jit: &Jit, work: &mut Work, step: &Step, steps: usize) {
        match step {
            Step::Quantize { x: Vector::Scratch(x), out } => work.quantize(*x, *out, steps),
            Step::Round { x: Vector::Scratch(x), out } => {
                let groups = crate::plan::Groups { len: x.len, size: x.len.max(1) };
                let codes = Codes { offset: usize::MAX, groups };
                work.quantize(*x, codes, steps);
                work.floats(*out, steps, |work, rows| {
                    let q = work.codes_of(codes).activations();
                    for (t, row) in rows.chunks_exact_mut(stride(*out)).enumerate() {
                        for (y, &c) in row.iter_mut().zip(&q.codes[t * q.stride..][..x.len]) {
                            *y = f32::from(c) * q.scales[t];
                        }
                    }
                });
            }
            // What it is made of is read instead.
            Step::Spread { .. } => {}
            Step::Product { product, out } => work.floats(*out, steps, |work, rows| {
                self.product(jit, work, product, steps, rows);
            }),
            Step::Unary { op, x, out } => work.floats(*out, steps, |work, rows| {
                for (y, &x) in rows.iter_mut().zip(work.rows(*x)) {
                    *y = unary(*op, x);
                }
            }),
            Step::Binary { op, a, b, swapped, out } => work.floats(*out, steps, |work, rows| {
                let width = stride(*out);
                for (t, row) in rows.chunks_exact_mut(width).enumerate() {
                    let a = &work.rows(*a)[t * width..];
                    let b = match b {
                        Other::Buffer(b) => &work.rows(*b)[t * width..],
                        Other::Weight(id) | Other::Scalar(id) => jit.weights()[id.0].f32s(),
                    };
                    let one = matches!(step, Step::Binary { b: Other::Scalar(_), .. });
                    for (i, y) in row[..out.len].iter_mut().enumerate() {
                        let (a, b) = (a[i], if one { b[0] } else { b[i] });
                        let (a, b) = if *swapped { (b, a) } else { (a, b) };
                        *y = binary(*op, a, b);
                    }
                }
            }),
            other => unreachable!("the plan puts {other:?} where the state is at hand"),
        }
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
        let lanes = (4 * cell.h.len).next_multiple_of(PANEL);
        let units = lanes / 4;
        let mut gates = std::mem::take(&mut work.gates);
        gates.resize(steps * lanes, 0.0);
        let bias = jit.weights()[cell.bias.0].f32s();
        if cell.inputs.is_empty() {
            gates.chunks_exact_mut(lanes.max(1)).for_each(|row| row.copy_from_slice(&bias[..lanes]));
        } else {
            let terms = self.terms(jit, work, &cell.inputs, lanes);
            batch::product(self.threads, steps, lanes, terms, &mut gates, lanes, batch::Start::Bias(bias));
        }
        // Where the recurrent term is one plain product, the batched kernels with their wider vectors do it, a step at a time.
        let wide = self.wide(jit, cell);
        let mut h_codes = std::mem::take(&mut work.h_codes);
        work.floats(cell.out, steps, |work, rows| {
            for (t, row) in rows.chunks_exact_mut(stride(cell.out)).enumerate() {
                let gates = &mut gates[t * lanes..][..lanes];
                let gates = if let Some((panels, weights)) = wide {
                    let h = &state[cell.h.offset..][..cell.h.len];
                    let input = h.len();
                    let term = match panels.format {
                        Format::Integer(i) => {
                            h_codes.fill(1, h, input, input, i.groups.size);
                            batch::Term::Codes(h_codes.activations(), codes(i, weights.bytes(), lanes))
                        }
                        _ => {
                            let weights = weights.f32s();
                            batch::Term::Floats(batch::Floats { x: h, stride: input, input, weights })
                        }
                    };
                    batch::recurrent_product(self.threads, lanes, term, gates, t % 2 == 1);
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
                batch::update(gates, &mut state[cell.c.offset..][..units], &mut row[..units]);
                state[cell.h.offset..][..cell.h.len].copy_from_slice(&row[..cell.h.len]);
            }
        });
        work.gates = gates;
        work.h_codes = h_codes;
    }

    /// The panels of a cell's recurrent term, where it is a plain product of the hidden state.
    fn wide<'a>(&'a self, jit: &'a Jit, cell: &Cell) -> Option<(Panels, &'a PackedData)> {
        let h = Vector::State(Buffer { offset: cell.h.offset, len: cell.h.len });
        let [s] = cell.recurrent[..] else { return None };
        let plain = match (s.input, &cell.prologue[..]) {
            (Input::Floats(x), []) => x == h,
            (Input::Codes(codes), [Step::Quantize { x, out }]) => (*x, *out) == (h, codes),
            _ => false,
        };
        let (panels, data) = (jit.plan().panels(s.weights), &jit.weights()[s.weights.0]);
        (plain && !matches!(panels.format, Format::Strips(_))).then_some((panels, data))
    }

    /// A product of `steps` vectors, in rows padded to whole panels.
    fn product(&self, jit: &Jit, work: &Work, p: &Product, steps: usize, to: &mut [f32]) {
        let lanes = p.out.next_multiple_of(PANEL);
        let start = start(jit, p).unwrap_or_else(|buffer| {
            to[..steps * lanes].copy_from_slice(&work.rows(buffer)[..steps * lanes]);
            batch::Start::Accumulate
        });
        let terms = self.terms(jit, work, &p.segments, lanes);
        batch::product(self.threads, steps, lanes, terms, to, lanes, start);
    }

    /// What segments of `out` outputs multiply with what.
    fn terms<'a>(
        &'a self,
        jit: &'a Jit,
        work: &'a Work,
        segments: &'a [Segment],
        out: usize,
    ) -> impl Iterator<Item = batch::Term<'a>> + Clone + Sync {
        let term = move |s: &'a Segment| {
            let (panels, data) = self.batched(jit, s.weights);
            match (panels.format, s.input) {
                (Format::F32, Input::Floats(Vector::Scratch(x))) => batch::Term::Floats(batch::Floats {
                    x: work.rows(x),
                    stride: stride(x),
                    input: panels.input,
                    weights: data.f32s(),
                }),
                (Format::Integer(i), Input::Codes(c) | Input::Spread(_, c)) => {
                    batch::Term::Codes(work.codes_of(c).activations(), codes(i, data.bytes(), out))
                }
                (format, input) => unreachable!("the plan does not multiply {format:?} by {input:?} here"),
            }
        };
        segments.iter().map(term)
    }

    /// A packed weight as the batched products read it.
    fn batched<'a>(&'a self, jit: &'a Jit, id: PackedId) -> (Panels, &'a PackedData) {
        let (panels, data) = (jit.plan().panels(id), &jit.weights()[id.0]);
        match panels.format {
            Format::Strips(s) => {
                let (panels, data) = self.twins[id.0].get_or_init(|| unpack_strips(&panels, s, data.bytes()));
                (*panels, data)
            }
            _ => (panels, data),
        }
    }
}

/// What a product is added to; the buffer, where that is one.
fn start<'a>(jit: &'a Jit, product: &Product) -> Result<batch::Start<'a>, Buffer> {
    match product.start {
        Start::Zero => Ok(batch::Start::Zero),
        Start::Bias(id) => Ok(batch::Start::Bias(jit.weights()[id.0].f32s())),
        Start::Buffer(buffer) => Err(buffer),
    }
}

/// Integer panels as the batched product takes them.
fn codes(i: Integer, bytes: &[u8], lanes: usize) -> batch::Codes<'_> {
    batch::Codes {
        bytes,
        out: lanes,
        input: i.groups.len,
        bits: i.bits.into(),
        group: i.groups.size,
        scale: match i.scale {
            Scale::F32 => batch::Scale::F32,
            Scale::F16 => batch::Scale::F16,
        },
        signed: i.signed,
    }
}

/// Buffers of one run over a sequence. Rows of f32s are padded to whole panels.
#[derive(Default)]
struct Work {
    /// `[T, width]` by offset in scratch.
    floats: Vec<(usize, Vec<f32>)>,
    /// Integer activations by offset in scratch.
    codes: Vec<(usize, CodeRows)>,
    /// `[T, lanes]` of the layer at hand.
    gates: Vec<f32>,
    /// Its hidden state.
    h_codes: CodeRows,
    /// Of the chunk's targets.
    log_probabilities: Vec<f32>,
}

/// f32s from a row to the next.
fn stride(buffer: Buffer) -> usize {
    buffer.len.next_multiple_of(PANEL)
}

impl Work {
    fn rows(&self, buffer: Buffer) -> &[f32] {
        let found = self.floats.iter().find(|(offset, _)| *offset == buffer.offset);
        &found.expect("a step fills a buffer before another reads it").1
    }

    fn codes_of(&self, codes: Codes) -> &CodeRows {
        let found = self.codes.iter().find(|(offset, _)| *offset == codes.offset);
        &found.expect("codes are made before they are read").1
    }

    /// Fills the rows of a buffer.
    fn floats(&mut self, to: Buffer, steps: usize, fill: impl FnOnce(&Work, &mut [f32])) {
        let at = match self.floats.iter().position(|(offset, _)| *offset == to.offset) {
            Some(at) => at,
            None => {
                self.floats.push((to.offset, vec![]));
                self.floats.len() - 1
            }
        };
        let mut rows = std::mem::take(&mut self.floats[at].1);
        rows.resize(steps * stride(to), 0.0);
        fill(self, &mut rows);
        self.floats[at].1 = rows;
    }

    fn quantize(&mut self, x: Buffer, to: Codes, steps: usize) {
        let at = match self.codes.iter().position(|(offset, _)| *offset == to.offset) {
            Some(at) => at,
            None => {
                self.codes.push((to.offset, CodeRows::default()));
                self.codes.len() - 1
            }
        };
        let mut q = std::mem::take(&mut self.codes[at].1);
        q.fill(steps, self.rows(x), stride(x), x.len, to.groups.size);
        self.codes[at].1 = q;
    }
}

/// A buffer of scratch.
fn floats(scratch: &[u8], buffer: Buffer) -> &[f32] {
    bytemuck::cast_slice(&scratch[buffer.offset * 4..(buffer.offset + buffer.len) * 4])
}

fn floats_mut(scratch: &mut [u8], buffer: Buffer) -> &mut [f32] {
    bytemuck::cast_slice_mut(&mut scratch[buffer.offset * 4..(buffer.offset + buffer.len) * 4])
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
