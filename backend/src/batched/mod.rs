//! The batched path: many vectors for each weight that is loaded, either many time steps of one stream ([`sequence`]) or a time step of many
//! streams ([`streams`]).
//!
//! What does not depend on the state is the same for both, and is here. The plan's steps are followed in order, with rows for the
//! buffers of scratch.

mod sequence;
mod streams;

use crate::batch::{self, CodeRows, Products};
use crate::jit::Jit;
use crate::level::{Level, Set};
use crate::pack::{PackedData, unpack_strips};
use crate::plan::{
    Buffer, Cell, Codes, Format, Groups, Input, Integer, PANEL, PackedId, Packing, Panels, Plan, Product,
    Scale, Segment, Source, Start, Step, Vector,
};
use std::sync::OnceLock;

/// What the batched path needs besides a [`Jit`] and a [`Work`].
pub(crate) struct Batched {
    level: Level,
    /// 0: all cores.
    threads: usize,
    /// From how many streams on a step together is faster than one after another; none where kernels in plain Rust are slower than generated
    /// code, which then does all, word by word.
    pub(crate) fewest_streams: Option<usize>,
    /// Sparse maps as panels, made with the first [`Work`]: a batch reads a weight once for many steps, and is faster on
    /// zeros in order than on entries with indices. By packed weight.
    twins: Vec<OnceLock<(Panels, PackedData)>>,
}

impl Batched {
    pub(crate) fn new(plan: &Plan, level: Level, threads: usize) -> Batched {
        let twins = plan.weights.iter().map(|_| OnceLock::new()).collect();
        let fewest_streams = (level.set() != Set::Portable).then(|| streams::fewest(plan));
        Batched { level, threads, fewest_streams, twins }
    }

    /// Follows the plan for a vector per token up to the output layer's product: rows of the embedding, layers by
    /// `cell(work, scratch, n, the nth cell)`, and what has nothing to do with the state.
    fn follow(
        &self,
        jit: &Jit,
        work: &mut Work,
        scratch: &mut [u8],
        tokens: &[u32],
        mut cell: impl FnMut(&mut Work, &mut [u8], usize, &Cell),
    ) {
        let plan = jit.plan();
        let mut cells = 0;
        for step in plan.steps.iter().chain(&plan.output.prologue) {
            match step {
                Step::Gather { out, .. } | Step::GatherTrain { out, .. } => {
                    self.gather(jit, work, scratch, tokens, *out);
                }
                Step::Cell(of) => {
                    cell(work, scratch, cells, of);
                    cells += 1;
                }
                other => self.stateless(jit, work, other, tokens.len()),
            }
        }
    }

    /// Reads the rows of the embedding.
    fn gather(&self, jit: &Jit, work: &mut Work, scratch: &mut [u8], tokens: &[u32], out: Buffer) {
        work.floats(out, tokens.len(), |_, rows| {
            for (row, &token) in rows.chunks_exact_mut(stride(out)).zip(tokens) {
                jit.gather(token, scratch);
                row[..out.len].copy_from_slice(floats(scratch, out));
            }
        });
    }

    /// The gates' terms that do not depend on the state, bias included, in rows of whole panels.
    fn inputs(&self, jit: &Jit, work: &Work, cell: &Cell, steps: usize, gates: &mut Vec<f32>) {
        let lanes = cell.lanes();
        let bias = jit.weights()[cell.bias.0].f32s();
        gates.resize(steps * lanes, 0.0);
        if cell.inputs.is_empty() {
            gates.chunks_exact_mut(lanes.max(1)).for_each(|row| row.copy_from_slice(&bias[..lanes]));
        } else {
            let terms = self.terms(jit, work, &cell.inputs, lanes);
            work.products.product(steps, lanes, terms, gates, lanes, batch::Start::Bias(bias));
        }
    }

    /// The new states of a cell of one stream, from the sums of its gates.
    fn update(&self, jit: &Jit, work: &mut Work, cell: &Cell, gates: &[f32], state: &mut [f32]) {
        let parameters = cell.parameters.map_or(&[][..], |id| jit.weights()[id.0].f32s());
        let at = batch::Cell { spec: &cell.spec, units: cell.units, states: &cell.offsets };
        batch::update(self.level, &at, gates, state, parameters, &mut work.terms);
    }

    /// A step that has nothing to do with the state, or reads rows of it that [`Work::hidden`] was given.
    fn stateless(&self, jit: &Jit, work: &mut Work, step: &Step, steps: usize) {
        match step {
            Step::Quantize { x, out } => work.quantize(*x, *out, steps),
            Step::Round { x, out } => {
                let codes = rounded(*x);
                work.quantize(*x, codes, steps);
                work.floats(*out, steps, |work, rows| {
                    let q = work.codes_of(codes).activations();
                    for (t, row) in rows.chunks_exact_mut(stride(*out)).enumerate() {
                        for (y, &c) in row.iter_mut().zip(&q.codes[t * q.stride..][..x.len()]) {
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
            Step::Map { formula, operands, out } => work.floats(*out, steps, |work, rows| {
                let width = stride(*out);
                let mut terms = std::mem::take(&mut work.terms);
                for (t, row) in rows.chunks_exact_mut(width).enumerate() {
                    let operands = operands.iter().map(|operand| match *operand {
                        Source::Buffer(b) => batch::Row::Each(&work.rows(b)[t * width..][..width]),
                        Source::Weight(id) => batch::Row::Each(jit.weights()[id.0].f32s()),
                        Source::Scalar(id) => {
                            let eight = jit.weights()[id.0].f32s().first_chunk();
                            batch::Row::One(eight.expect("a scalar is packed eight times"))
                        }
                    });
                    batch::map(self.level, formula, operands, row, &mut terms);
                }
                work.terms = terms;
            }),
            other => unreachable!("the plan puts {other:?} where the state is at hand"),
        }
    }

    /// A product of `steps` vectors, in rows padded to whole panels.
    fn product(&self, jit: &Jit, work: &Work, p: &Product, steps: usize, to: &mut [f32]) {
        let lanes = p.out.next_multiple_of(PANEL);
        let start = start(jit, p).unwrap_or_else(|buffer| {
            to[..steps * lanes].copy_from_slice(&work.rows(buffer)[..steps * lanes]);
            batch::Start::Accumulate
        });
        let terms = self.terms(jit, work, &p.segments, lanes);
        work.products.product(steps, lanes, terms, to, lanes, start);
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
            let (panels, data) = self.panels(jit.plan(), jit.weights(), s.weights);
            match (panels.format, s.input) {
                (Format::F32, Input::Floats(x)) => batch::Term::Floats(batch::Floats {
                    x: work.vectors(x),
                    stride: stride(x.buffer()),
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
    fn panels<'a>(
        &'a self,
        plan: &Plan,
        weights: &'a [PackedData],
        id: PackedId,
    ) -> (Panels, &'a PackedData) {
        let (panels, data) = (plan.panels(id), &weights[id.0]);
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
        width: i.width,
        group: i.groups.size,
        scale: match i.scale {
            Scale::F32 => batch::Scale::F32,
            Scale::F16 => batch::Scale::F16,
        },
        signed: i.signed,
    }
}

/// Where the codes of a vector are that is rounded, but kept in f32.
fn rounded(x: Vector) -> Codes {
    Codes { offset: usize::MAX, groups: Groups { len: x.len(), size: x.len().max(1) } }
}

/// Buffers of one run over a sequence, or of steps of streams: allocated once, for so many rows. Rows of f32s are padded to whole panels.
pub(crate) struct Work {
    products: Products,
    /// `[T, width]` by offset in scratch.
    floats: Vec<(usize, Vec<f32>)>,
    /// Hidden states `[T, width]`, by offset in the state.
    hidden: Vec<(usize, Vec<f32>)>,
    /// Integer activations by offset in scratch.
    codes: Vec<(usize, CodeRows)>,
    /// `[T, lanes]` of the layer at hand.
    gates: Vec<f32>,
    /// Its hidden state.
    h_codes: CodeRows,
    /// Of the formula at hand.
    terms: batch::Terms,
    /// Of a chunk's targets.
    log_probabilities: Vec<f32>,
}

/// f32s from a row to the next.
fn stride(buffer: Buffer) -> usize {
    buffer.len.next_multiple_of(PANEL)
}

impl Work {
    /// For at most so many rows: streams, or steps of a chunk.
    fn new(batched: &Batched, plan: &Plan, weights: &[PackedData], rows: usize) -> Work {
        let mut work = Work {
            products: Products::new(batched.level, batched.threads),
            floats: vec![],
            hidden: vec![],
            codes: vec![],
            gates: vec![],
            h_codes: CodeRows::default(),
            terms: batch::Terms::default(),
            log_probabilities: Vec::with_capacity(rows),
        };
        for step in plan.steps.iter().chain(&plan.output.prologue) {
            work.reserve(step, rows);
        }
        for (n, packed) in plan.weights.iter().enumerate() {
            if let Packing::Panels(_) | Packing::Transposed(_) = packed.packing
                && let (Panels { format: Format::Integer(i), out, .. }, data) =
                    batched.panels(plan, weights, PackedId(n))
            {
                work.products.reserve(&codes(i, data.bytes(), out.next_multiple_of(PANEL)));
            }
        }
        work
    }

    /// Room for what a step writes.
    fn reserve(&mut self, step: &Step, rows: usize) {
        let mut floats = |out: &Buffer| at(&mut self.floats, out.offset).reserve(rows * stride(*out));
        match step {
            Step::Gather { out, .. } | Step::GatherTrain { out, .. } | Step::Product { out, .. } => {
                floats(out)
            }
            Step::Map { formula, out, .. } => {
                floats(out);
                self.terms.reserve(formula);
            }
            Step::Quantize { x, out } => {
                at(&mut self.codes, out.offset).reserve(rows, x.len(), out.groups.size);
            }
            Step::Round { x, out } => {
                floats(out);
                let codes = rounded(*x);
                at(&mut self.codes, codes.offset).reserve(rows, x.len(), codes.groups.size);
            }
            Step::Spread { .. } => {}
            Step::Cell(cell) => {
                floats(&cell.out);
                let h = cell.h();
                at(&mut self.hidden, h.offset).reserve(rows * stride(h));
                let gates = rows * cell.lanes();
                self.terms.reserve(&cell.spec.formula);
                self.gates.reserve(gates.saturating_sub(self.gates.len()));
                self.h_codes.reserve(1, h.len, h.len);
                cell.prologue.iter().for_each(|step| self.reserve(step, rows));
            }
        }
    }

    fn vectors(&self, vector: Vector) -> &[f32] {
        match vector {
            Vector::Scratch(buffer) => self.rows(buffer),
            Vector::State(h) => {
                let found = self.hidden.iter().find(|(offset, _)| *offset == h.offset);
                &found.expect("what needs rows of the state is done where they are made").1
            }
        }
    }

    /// Rows of a hidden state, to be filled.
    fn hidden(&mut self, h: Buffer, steps: usize) -> &mut [f32] {
        let rows = at(&mut self.hidden, h.offset);
        rows.resize(steps * stride(h), 0.0);
        rows
    }

    fn rows(&self, buffer: Buffer) -> &[f32] {
        let found = self.floats.iter().find(|(offset, _)| *offset == buffer.offset);
        &found.expect("a step fills a buffer before another reads it").1
    }

    fn codes_of(&self, codes: Codes) -> &CodeRows {
        let found = self.codes.iter().find(|(offset, _)| *offset == codes.offset);
        &found.expect("codes are made before they are read").1
    }

    /// Fills the rows of a buffer.
    fn floats(&mut self, to: Buffer, steps: usize, fill: impl FnOnce(&mut Work, &mut [f32])) {
        let mut rows = std::mem::take(at(&mut self.floats, to.offset));
        rows.resize(steps * stride(to), 0.0);
        fill(self, &mut rows);
        *at(&mut self.floats, to.offset) = rows;
    }

    fn quantize(&mut self, x: Vector, to: Codes, steps: usize) {
        let mut q = std::mem::take(at(&mut self.codes, to.offset));
        q.fill(self.products.level(), steps, self.vectors(x), stride(x.buffer()), x.len(), to.groups.size);
        *at(&mut self.codes, to.offset) = q;
    }
}

/// The rows at an offset, empty ones where there were none.
fn at<T: Default>(all: &mut Vec<(usize, T)>, offset: usize) -> &mut T {
    let found = all.iter().position(|(o, _)| *o == offset).unwrap_or_else(|| {
        all.push((offset, T::default()));
        all.len() - 1
    });
    &mut all[found].1
}

/// A buffer of scratch.
fn floats(scratch: &[u8], buffer: Buffer) -> &[f32] {
    bytemuck::cast_slice(&scratch[buffer.offset * 4..(buffer.offset + buffer.len) * 4])
}

fn floats_mut(scratch: &mut [u8], buffer: Buffer) -> &mut [f32] {
    bytemuck::cast_slice_mut(&mut scratch[buffer.offset * 4..(buffer.offset + buffer.len) * 4])
}
