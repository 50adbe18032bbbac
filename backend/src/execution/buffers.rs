//! Memory of one run over a sequence, or of steps of streams.

use super::{Execution, Model, code_panels};
use crate::plan::{Buffer, Codes, Format, Groups, PANEL, PackedId, Packing, Step, Vector};
use lstmc_kernels::{CodeRows, Products, Terms};

/// Buffers of one run over a sequence, or of steps of streams: allocated once, for a fixed number of rows. Rows of f32s are padded to whole panels.
pub(crate) struct Buffers {
    pub(super) products: Products,
    /// `[T, width]` by offset in scratch.
    floats: Vec<(usize, Vec<f32>)>,
    /// Hidden states `[T, width]`, by offset in the state.
    hidden: Vec<(usize, Vec<f32>)>,
    /// Integer activations by offset in scratch.
    codes: Vec<(usize, CodeRows)>,
    /// `[T, lanes]` of the current layer.
    pub(super) gates: Vec<f32>,
    /// Its hidden state.
    pub(super) h_codes: CodeRows,
    /// For the current formula.
    pub(super) terms: Terms,
    /// For a chunk's targets.
    pub(super) log_probabilities: Vec<f32>,
}

impl Buffers {
    /// For at most this many rows: streams, or steps of a chunk.
    pub(crate) fn new(execution: &Execution, model: Model<'_>, rows: usize) -> Buffers {
        let mut buffers = Buffers {
            products: Products::new(execution.level, execution.threads),
            floats: vec![],
            hidden: vec![],
            codes: vec![],
            gates: vec![],
            h_codes: CodeRows::default(),
            terms: Terms::default(),
            log_probabilities: Vec::with_capacity(rows),
        };
        let plan = model.plan;
        for step in plan.steps.iter().chain(&plan.output.prologue) {
            buffers.reserve(step, rows);
        }
        for (n, packed) in plan.weights.iter().enumerate() {
            if let Packing::Panels(p) | Packing::Transposed(p) = packed.packing
                && let (_, Format::Integer(i), data) = execution.panels(model, PackedId(n))
            {
                buffers.products.reserve(&code_panels(i, data, p.lanes()));
            }
        }
        buffers
    }

    /// Allocates the rows that a step writes.
    pub(super) fn reserve(&mut self, step: &Step, rows: usize) {
        let mut floats = |out: &Buffer| at(&mut self.floats, out.offset).reserve(rows * stride(*out));
        match step {
            Step::Gather { out, .. } | Step::GatherTrain { out, .. } | Step::Product { out, .. } => {
                floats(out)
            }
            Step::Map { formula, out, .. } => {
                floats(out);
                self.terms.reserve(formula);
            }
            Step::Quantize { out, .. } => at(&mut self.codes, out.offset).reserve(rows, out.groups),
            Step::Round { x, out } => {
                floats(out);
                let codes = rounded(*x);
                at(&mut self.codes, codes.offset).reserve(rows, codes.groups);
            }
            Step::Spread { .. } => {}
            Step::Cell(cell) => {
                floats(&cell.out);
                let h = cell.h();
                at(&mut self.hidden, h.offset).reserve(rows * stride(h));
                let gates = rows * cell.lanes();
                self.terms.reserve(&cell.spec.formula);
                self.gates.reserve(gates.saturating_sub(self.gates.len()));
                self.h_codes.reserve(1, Groups::one(h.len));
                cell.prologue.iter().for_each(|step| self.reserve(step, rows));
            }
        }
    }

    pub(super) fn vectors(&self, vector: Vector) -> &[f32] {
        match vector {
            Vector::Scratch(buffer) => self.rows(buffer),
            Vector::State(h) => {
                let found = self.hidden.iter().find(|(offset, _)| *offset == h.offset);
                &found.expect("what needs rows of the state is done where they are made").1
            }
        }
    }

    /// The rows of a hidden state, to be filled.
    pub(super) fn hidden(&mut self, h: Buffer, steps: usize) -> &mut [f32] {
        let rows = at(&mut self.hidden, h.offset);
        rows.resize(steps * stride(h), 0.0);
        rows
    }

    pub(super) fn rows(&self, buffer: Buffer) -> &[f32] {
        let found = self.floats.iter().find(|(offset, _)| *offset == buffer.offset);
        &found.expect("a step fills a buffer before another reads it").1
    }

    pub(super) fn codes_of(&self, codes: Codes) -> &CodeRows {
        let found = self.codes.iter().find(|(offset, _)| *offset == codes.offset);
        &found.expect("codes are made before they are read").1
    }

    /// Fills the rows of a buffer.
    pub(super) fn floats(&mut self, to: Buffer, steps: usize, fill: impl FnOnce(&mut Buffers, &mut [f32])) {
        let mut rows = std::mem::take(at(&mut self.floats, to.offset));
        rows.resize(steps * stride(to), 0.0);
        fill(self, &mut rows);
        *at(&mut self.floats, to.offset) = rows;
    }

    pub(super) fn quantize(&mut self, x: Vector, to: Codes, steps: usize) {
        let mut q = std::mem::take(at(&mut self.codes, to.offset));
        q.fill(self.products.level(), steps, self.vectors(x), stride(x.buffer()), to.groups);
        *at(&mut self.codes, to.offset) = q;
    }
}

/// The rows at an offset, created empty if there are none.
fn at<T: Default>(all: &mut Vec<(usize, T)>, offset: usize) -> &mut T {
    let found = all.iter().position(|(o, _)| *o == offset).unwrap_or_else(|| {
        all.push((offset, T::default()));
        all.len() - 1
    });
    &mut all[found].1
}

/// The codes of a vector that is rounded but kept in f32.
pub(super) fn rounded(x: Vector) -> Codes {
    Codes { offset: usize::MAX, groups: Groups::one(x.len()) }
}

/// f32s from one row to the next.
pub(super) fn stride(buffer: Buffer) -> usize {
    buffer.len.next_multiple_of(PANEL)
}

/// A buffer of scratch.
pub(super) fn floats(scratch: &[u8], buffer: Buffer) -> &[f32] {
    bytemuck::cast_slice(&scratch[buffer.offset * 4..(buffer.offset + buffer.len) * 4])
}

pub(super) fn floats_mut(scratch: &mut [u8], buffer: Buffer) -> &mut [f32] {
    bytemuck::cast_slice_mut(&mut scratch[buffer.offset * 4..(buffer.offset + buffer.len) * 4])
}
