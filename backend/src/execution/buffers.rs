//! Memory of one run over a sequence, or of steps of streams.

use super::{Execution, Model};
use crate::plan::{Buffer, Codes, Gates, Groups, PackedId, Packing, Step, UNITS, Vector};
use lstmc_kernels::{CodeRows, Products, Terms};

/// Buffers of one run over a sequence, or of steps of streams: allocated once, for a fixed number of rows. Rows of f32s are padded to whole panels.
pub(crate) struct Buffers {
    pub(super) products: Products,
    /// `[T, width]` of buffers in scratch.
    floats: Vec<(Buffer, Vec<f32>)>,
    /// `[T, width]` of states, which streams read.
    states: Vec<(Buffer, Vec<f32>)>,
    /// Integer activations by offset in scratch.
    codes: Vec<(usize, CodeRows)>,
    /// `[T, lanes]` of the current layer.
    pub(super) gates: Vec<f32>,
    /// `[T, lanes]` of its first state's sums, if they are apart.
    pub(super) apart: Vec<f32>,
    /// Its hidden state.
    pub(super) h_codes: CodeRows,
    /// A hidden state times the columns of the map that multiplies it.
    pub(super) scaled: Vec<f32>,
    /// For the current formula.
    pub(super) terms: Terms,
    /// For a chunk's targets.
    pub(super) log_probabilities: Vec<f32>,
    /// The row at which the current time step begins, in buffers that have rows for several.
    pub(super) first: usize,
}

impl Buffers {
    /// For at most this many rows: streams, or steps of a chunk.
    pub(crate) fn new(execution: &Execution, model: Model<'_>, rows: usize) -> Buffers {
        let mut buffers = Buffers {
            products: Products::new(execution.level, execution.threads),
            floats: vec![],
            states: vec![],
            codes: vec![],
            gates: vec![],
            apart: vec![],
            h_codes: CodeRows::default(),
            scaled: vec![],
            terms: Terms::default(),
            log_probabilities: Vec::with_capacity(rows),
            first: 0,
        };
        let plan = model.plan;
        for step in plan.all_steps() {
            buffers.reserve(step, rows);
        }
        for state in plan.loops.iter().flat_map(|of| &of.states) {
            at(&mut buffers.states, *state).reserve(rows * state.padded());
        }
        for (n, packed) in plan.weights.iter().enumerate() {
            // Sparse maps are expanded now.
            if let Packing::Panels(_) = packed.packing {
                execution.panels(model, PackedId(n));
            }
        }
        buffers
    }

    /// Allocates the rows that a step writes.
    fn reserve(&mut self, step: &Step, rows: usize) {
        if let Some(out) = step.out() {
            at(&mut self.floats, out).reserve(rows * out.padded());
        }
        match step {
            Step::Map { formula, .. } => self.terms.reserve(formula),
            Step::Quantize { out, .. } => at(&mut self.codes, out.offset).reserve(rows, out.groups),
            Step::Round { x, .. } => {
                let codes = rounded(*x);
                at(&mut self.codes, codes.offset).reserve(rows, codes.groups);
            }
            Step::Cell(cell) => {
                self.terms.reserve(&cell.formula);
                let reserve = |to: &mut Vec<f32>, gates: &Gates| {
                    to.reserve((rows * gates.sums.padded()).saturating_sub(to.len()));
                };
                reserve(&mut self.gates, &cell.gates[0]);
                cell.gates[1..].iter().for_each(|apart| reserve(&mut self.apart, apart));
                self.h_codes.reserve(1, Groups::one(cell.units));
                self.scaled.reserve(cell.units.saturating_sub(self.scaled.len()));
            }
            _ => {}
        }
    }

    /// The rows of a vector, and how far apart they are.
    pub(super) fn vectors(&self, vector: Vector) -> (&[f32], usize) {
        let (all, b) = match vector {
            Vector::Scratch(b) => (&self.floats, b),
            Vector::State(b) => (&self.states, b),
        };
        let (whole, rows) = all
            .iter()
            .find(|(whole, _)| whole.has(b))
            .expect("a step fills a buffer before another reads it");
        (rows.get(b.offset - whole.offset..).unwrap_or(&[]), whole.padded())
    }

    /// One row, in whole parts of [`UNITS`] as far as they belong to the vector.
    pub(super) fn row(&self, vector: Vector, t: usize) -> &[f32] {
        let (rows, stride) = self.vectors(vector);
        let end = (t * stride + vector.len().next_multiple_of(UNITS)).min(rows.len());
        &rows[t * stride..end]
    }

    /// The rows of a state, to be filled.
    pub(super) fn state(&mut self, state: Buffer, count: usize) -> &mut [f32] {
        let rows = at(&mut self.states, state);
        rows.resize(count * state.padded(), 0.0);
        rows
    }

    pub(super) fn codes_of(&self, codes: Codes) -> &CodeRows {
        let found = self.codes.iter().find(|(offset, _)| *offset == codes.offset);
        &found.expect("codes are made before they are read").1
    }

    /// Fills the rows of a buffer.
    pub(super) fn floats(&mut self, to: Buffer, steps: usize, fill: impl FnOnce(&mut Buffers, &mut [f32])) {
        let mut rows = std::mem::take(at(&mut self.floats, to));
        rows.resize(steps * to.padded(), 0.0);
        fill(self, &mut rows);
        *at(&mut self.floats, to) = rows;
    }

    pub(super) fn quantize(&mut self, x: Vector, to: Codes, steps: usize) {
        let mut q = std::mem::take(at(&mut self.codes, to.offset));
        let (rows, stride) = self.vectors(x);
        q.fill(self.products.level(), steps, rows, stride, to.groups);
        *at(&mut self.codes, to.offset) = q;
    }
}

/// The rows of a place, created empty if there are none.
fn at<K: PartialEq, T: Default>(all: &mut Vec<(K, T)>, place: K) -> &mut T {
    let found = all.iter().position(|(p, _)| *p == place).unwrap_or_else(|| {
        all.push((place, T::default()));
        all.len() - 1
    });
    &mut all[found].1
}

/// The codes of a vector that is rounded but kept in f32.
pub(super) fn rounded(x: Vector) -> Codes {
    Codes { offset: usize::MAX, groups: Groups::one(x.len()) }
}

/// A buffer of scratch.
pub(super) fn floats(scratch: &[u8], buffer: Buffer) -> &[f32] {
    bytemuck::cast_slice(&scratch[buffer.offset * 4..(buffer.offset + buffer.len) * 4])
}

pub(super) fn floats_mut(scratch: &mut [u8], buffer: Buffer) -> &mut [f32] {
    bytemuck::cast_slice_mut(&mut scratch[buffer.offset * 4..(buffer.offset + buffer.len) * 4])
}
