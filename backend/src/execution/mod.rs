//! Executes a plan with the batched kernels: many vectors per loaded weight, either many time steps of one stream ([`sequence`]) or time steps
//! of many streams ([`streams`]).
//!
//! The parts that do not depend on the state are the same for both, and are here. The plan's steps run in order, with rows for the
//! buffers of scratch ([`Buffers`]). Two operations are left to generated code, which the caller supplies: see [`Generated`].

mod buffers;
mod sequence;
mod streams;

pub(crate) use buffers::Buffers;

use crate::plan::{
    Buffer, Cell, Elements, Format, Input, Integer, Loop, PANEL, PackedId, Plan, Product, Segment, Start,
    Step, UNITS, Vector,
};
use buffers::{floats, rounded};
use lstmc_kernels::{self as kernels, CodePanels, Level, PackedData, Term};
use std::sync::OnceLock;

/// The operations that generated code supplies. Lengths and alignment are as for the entries of the program.
pub(crate) trait Generated: Sync {
    /// Reads a token's row of the embedding into its buffer in scratch.
    fn gather(&self, token: u32, scratch: &mut [u8]);

    /// One time step of a loop of the plan. What it reads and writes of scratch is left there.
    ///
    /// Of a cell, only the sums of [`Cell::last`], in its buffer: if there are no other sums, those of the input's terms and the bias are `gates`, in
    /// the order of the panels' lanes.
    fn recurrent(&self, of: usize, gates: &[f32], state: &mut [f32], scratch: &mut [u8]);
}

/// A plan, its packed weights, and its generated code.
#[derive(Clone, Copy)]
pub(crate) struct Model<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) weights: &'a [PackedData],
    pub(crate) code: &'a dyn Generated,
}

/// How a model is executed with batched kernels, apart from the [`Model`] and its [`Buffers`].
pub(crate) struct Execution {
    pub(crate) level: Level,
    /// 0: all cores.
    threads: usize,
    /// The number of streams from which a joint step is faster than single steps; `None` if kernels in plain Rust are slower than generated
    /// code, which then does everything, word by word.
    pub(crate) fewest_streams: Option<usize>,
    /// Sparse maps as panels, packed with the first [`Buffers`]; by packed weight.
    expanded: Vec<OnceLock<(Format, PackedData)>>,
}

impl Execution {
    pub(crate) fn new(plan: &Plan, level: Level, threads: usize) -> Execution {
        let expanded = plan.weights.iter().map(|_| OnceLock::new()).collect();
        let fewest_streams = level.has_batched_kernels().then_some(streams::FEWEST);
        Execution { level, threads, fewest_streams, expanded }
    }

    /// Executes the plan for one vector per token, except for the output layer's product: rows of the embedding, steps that do not depend on
    /// the state, and by `stateful(buffers, scratch, what)` those that do.
    fn follow(
        &self,
        model: Model<'_>,
        buffers: &mut Buffers,
        scratch: &mut [u8],
        tokens: &[u32],
        mut stateful: impl FnMut(&mut Buffers, &mut [u8], Stateful<'_>),
    ) {
        let (plan, mut end) = (model.plan, 0);
        for (n, step) in plan.all_steps().enumerate() {
            let first_of = plan.loops.iter().position(|of| of.steps.start == n);
            match step {
                _ if let Some(found) = first_of => {
                    let of = &plan.loops[found];
                    end = of.steps.end;
                    stateful(buffers, scratch, Stateful::Loop(found, of));
                }
                _ if n < end => {}
                Step::Gather { out, .. } | Step::GatherTrain { out, .. } => {
                    buffers.floats(*out, tokens.len(), |_, rows| {
                        for (row, &token) in rows.chunks_exact_mut(out.padded()).zip(tokens) {
                            model.code.gather(token, scratch);
                            row[..out.len].copy_from_slice(floats(scratch, *out));
                        }
                    });
                }
                Step::Delay { x, state, out } => {
                    let (x, state, out) = (*x, *state, *out);
                    stateful(buffers, scratch, Stateful::Delay { x, state, out });
                }
                other => self.stateless(model, buffers, other, tokens.len()),
            }
        }
    }

    /// The gates' terms that do not depend on the state, bias included, in rows of whole panels.
    fn inputs(&self, model: Model<'_>, buffers: &Buffers, cell: &Cell, steps: usize, gates: &mut Vec<f32>) {
        let sums = cell.gates[0];
        let (lanes, bias) = (sums.sums.padded(), model.weights[sums.start.0].f32s());
        gates.resize(steps * lanes, 0.0);
        if cell.inputs.is_empty() {
            gates.chunks_exact_mut(lanes.max(1)).for_each(|row| row.copy_from_slice(&bias[..lanes]));
        } else {
            let terms = self.terms(model, buffers, &cell.inputs, lanes);
            buffers.products.product(steps, lanes, terms, gates, lanes, kernels::Start::Bias(bias));
        }
    }

    /// A step that is independent of the state, or reads rows of it that [`Buffers::state`] was given.
    fn stateless(&self, model: Model<'_>, buffers: &mut Buffers, step: &Step, steps: usize) {
        match step {
            Step::Quantize { x, out } => buffers.quantize(*x, *out, steps),
            Step::Round { x, out } => {
                let codes = rounded(*x);
                buffers.quantize(*x, codes, steps);
                buffers.floats(*out, steps, |buffers, rows| {
                    let q = buffers.codes_of(codes).activations();
                    for (t, row) in rows.chunks_exact_mut(out.padded()).enumerate() {
                        for (y, &c) in row.iter_mut().zip(&q.codes[t * q.stride..][..x.len()]) {
                            *y = f32::from(c) * q.scales[t];
                        }
                    }
                });
            }
            // Its source is read instead.
            Step::Spread { .. } => {}
            Step::Product { product, out } => buffers.floats(*out, steps, |buffers, rows| {
                let lanes = product.out.next_multiple_of(PANEL);
                let start = start(model, product).unwrap_or_else(|buffer| {
                    let (from, stride) = buffers.vectors(Vector::Scratch(buffer));
                    rows.copy_from_slice(&from[buffers.first * stride..][..rows.len()]);
                    kernels::Start::Accumulate
                });
                let terms = self.terms(model, buffers, &product.segments, lanes);
                buffers.products.product(steps, lanes, terms, rows, lanes, start);
            }),
            Step::Map { formula, operands, out } => self.each(buffers, *out, steps, |buffers, t, row| {
                let mut terms = std::mem::take(&mut buffers.terms);
                let operands = operands.iter().map(|operand| {
                    let elements = match operand.of {
                        Elements::Vector(x) => buffers.row(x, t),
                        Elements::Weight(id) => model.weights[id.0].f32s(),
                    };
                    if operand.is_scalar {
                        kernels::Row::One(elements[0])
                    } else {
                        kernels::Row::Each(elements)
                    }
                });
                let whole = out.len.next_multiple_of(UNITS);
                kernels::map(self.level, formula, operands, &mut row[..whole], &mut terms);
                buffers.terms = terms;
            }),
            Step::Norm { x, scale, shift, epsilon, out } => {
                self.each(buffers, *out, steps, |buffers, t, row| {
                    let [scale, shift] = [scale, shift].map(|id| id.map(|id| model.weights[id.0].f32s()));
                    kernels::normalize(&buffers.row(*x, t)[..x.len()], scale, shift, *epsilon, row);
                })
            }
            Step::LogSoftmax { x, out } => self.each(buffers, *out, steps, |buffers, t, row| {
                let x = &buffers.row(*x, t)[..x.len()];
                let total = kernels::log_sum_exp(self.level, x);
                row.iter_mut().zip(x).for_each(|(y, x)| *y = x - total);
            }),
            Step::Concat { parts, out } => self.each(buffers, *out, steps, |buffers, t, mut row| {
                for part in parts {
                    let to;
                    (to, row) = row.split_at_mut(part.len());
                    to.copy_from_slice(&buffers.row(*part, t)[..part.len()]);
                }
            }),
            other => unreachable!("the plan puts {other:?} where the state is at hand"),
        }
    }

    /// Fills a buffer row by row: `fill(buffers, t, row)`.
    fn each(
        &self,
        buffers: &mut Buffers,
        out: Buffer,
        steps: usize,
        mut fill: impl FnMut(&mut Buffers, usize, &mut [f32]),
    ) {
        buffers.floats(out, steps, |buffers, rows| {
            for (t, row) in rows.chunks_exact_mut(out.padded().max(1)).enumerate() {
                fill(buffers, t, row);
            }
        });
    }

    /// The weights and inputs of segments with `out` outputs.
    fn terms<'a>(
        &'a self,
        model: Model<'a>,
        buffers: &'a Buffers,
        segments: &'a [Segment],
        out: usize,
    ) -> impl Iterator<Item = Term<'a>> + Clone + Sync {
        let term = move |s: &'a Segment| {
            let (input, format, data) = self.panels(model, s.weights);
            match (format, s.input) {
                (Format::F32, Input::Floats(x)) => {
                    let (x, stride) = buffers.vectors(x);
                    Term::Floats(kernels::Floats { x, stride, input, weights: data.f32s() })
                }
                (Format::Integer(i), Input::Codes(c) | Input::Spread(_, c)) => {
                    Term::Codes(buffers.codes_of(c).activations(), code_panels(i, data, out))
                }
                (format, input) => unreachable!("the plan does not multiply {format:?} by {input:?} here"),
            }
        };
        segments.iter().map(term)
    }

    /// A packed weight as the kernels read it: its inputs, format and data.
    fn panels<'a>(&'a self, model: Model<'a>, id: PackedId) -> (usize, Format, &'a PackedData) {
        let (panels, data) = (model.plan.panels(id), &model.weights[id.0]);
        match panels.format {
            Format::Strips(s) => {
                let expand = || s.expand([panels.count(), panels.input], data.bytes());
                let (format, data) = self.expanded[id.0].get_or_init(expand);
                (panels.input, *format, data)
            }
            format => (panels.input, format, data),
        }
    }
}

/// What depends on the state.
enum Stateful<'p> {
    /// A loop, and its number.
    Loop(usize, &'p Loop),
    /// A [`Step::Delay`] outside of loops.
    Delay { x: Buffer, state: Buffer, out: Option<Buffer> },
}

/// A cell as the kernels take it, and its own vectors.
fn cell_of<'a>(model: Model<'a>, cell: &'a Cell) -> (kernels::Cell<'a>, &'a [f32]) {
    let parameters = cell.parameters.map_or(&[][..], |(id, _)| model.weights[id.0].f32s());
    (kernels::Cell::new(&cell.formula, cell.units, cell.counts()), parameters)
}

/// The start of a product, or its buffer if it starts from one.
fn start<'a>(model: Model<'a>, product: &Product) -> Result<kernels::Start<'a>, Buffer> {
    match product.start {
        Start::Zero => Ok(kernels::Start::Zero),
        Start::Bias(id) => Ok(kernels::Start::Bias(model.weights[id.0].f32s())),
        Start::Buffer(buffer) => Err(buffer),
    }
}

/// Integer panels with this many outputs.
fn code_panels(format: Integer, data: &PackedData, out: usize) -> CodePanels<'_> {
    CodePanels { bytes: data.bytes(), out, format }
}
