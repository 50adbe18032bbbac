//! Forward and backward passes of a cell.

use super::formula::{Backward, Forward};
use super::network::{State, add_to, add_to_rows, times};
use super::number::{Number, vectorized};
use super::weights::{Form, Receive, Weights};
use lstmc_frontend::ir::{CellSpec, GateRows, Term};
use std::borrow::Cow;

pub(super) struct Cell {
    pub(super) spec: CellSpec,
    pub(super) states: Vec<usize>,
    pub(super) units: usize,
    pub(super) input: Form,
    pub(super) recurrent: Form,
    pub(super) bias: Form,
    pub(super) parameters: Option<Form>,
}

/// The gradients of a cell's sums in the order of the bias, and of its parameters; `[rows, _]` each.
pub(super) struct OfSums<T> {
    bias: Vec<T>,
    parameters: Vec<T>,
}

/// Rows with blocks in another order. A gate that `from` has no block for is zero.
fn in_order<T: Number>(rows: &[T], [from, to]: [GateRows; 2], units: usize) -> Cow<'_, [T]> {
    if from == to {
        return Cow::Borrowed(rows);
    }
    let [old, new] = [from, to].map(|order| order.blocks() * units);
    let mut out = vec![T::of(0.0); rows.len() / old * new];
    for (row, out) in rows.chunks_exact(old).zip(out.chunks_exact_mut(new)) {
        for (a, b) in from.common(to) {
            out[b * units..][..units].copy_from_slice(&row[a * units..][..units]);
        }
    }
    Cow::Owned(out)
}

impl Cell {
    /// The outputs of some time steps. `values` gets those of all terms, `[rows, terms, units]`. `factors`: what the recurrent map reads of the first
    /// state is multiplied by, `[streams, units]`; empty for 1.
    pub(super) fn forward<T: Number>(
        &self,
        w: &Weights<T>,
        streams: usize,
        x: &[T],
        factors: &[T],
        state: &mut State<T>,
        values: &mut [T],
    ) -> Vec<T> {
        let (n, spec) = (self.units, &self.spec);
        let (width, terms) = (spec.bias.blocks() * n, spec.formula.terms().len());
        let rows = values.len() / (terms * n);
        let mut states: Vec<Vec<T>> = self.states.iter().map(|&s| std::mem::take(&mut state.0[s])).collect();
        let parameters = self.parameters.as_ref().map_or(&[][..], |p| w.vector(p));
        let product = w.apply(&self.input, rows, x);
        let mut gates = in_order(&product, [spec.input, spec.bias], n).into_owned();
        add_to_rows(&mut gates, w.vector(&self.bias));
        let mut out = Vec::with_capacity(rows * n);
        let steps = gates.chunks_exact_mut(streams * width);
        for (gates, values) in steps.zip(values.chunks_exact_mut(streams * terms * n)) {
            let recurrent = w.apply(&self.recurrent, streams, &times(&states[0], factors));
            add_to(gates, &in_order(&recurrent, [spec.recurrent, spec.bias], n));
            for (s, values) in values.chunks_exact_mut(terms * n).enumerate() {
                let of_gates = (0..spec.gates())
                    .filter_map(|g| Some(&gates[s * width + spec.bias.block(g)? * n..][..n]));
                let of_states = states.iter().map(|state| &state[s * n..][..n]);
                let inputs: Vec<&[T]> = of_gates.chain(of_states).chain(parameters.chunks_exact(n)).collect();
                vectorized(Forward { formula: &spec.formula, len: n, inputs: &inputs, values });
                for (state, result) in states.iter_mut().zip(spec.formula.results()) {
                    state[s * n..][..n].copy_from_slice(&values[result.index() * n..][..n]);
                }
            }
            out.extend_from_slice(&states[0]);
        }
        for (&id, values) in self.states.iter().zip(states) {
            state.0[id] = values;
        }
        out
    }

    /// The gradients of the sums of some time steps, given those of the outputs and, in `of_states`, those of the states after these steps, which
    /// become those of the states before: through the first step's recurrent map only if this `goes_on`. The forward pass made `values` with
    /// `factors`.
    pub(super) fn backward<T: Number>(
        &self,
        w: &Weights<T>,
        [rows, streams]: [usize; 2],
        [values, factors]: [&[T]; 2],
        dy: &[T],
        of_states: &mut [Vec<T>],
        goes_on: bool,
    ) -> OfSums<T> {
        let (n, zero, spec) = (self.units, T::of(0.0), &self.spec);
        let (width, terms) = (spec.bias.blocks() * n, spec.formula.terms().len());
        let mut bias = vec![zero; rows * width];
        let mut parameters = vec![zero; rows * spec.parameters * n];
        let mut slopes = vec![zero; terms * n];
        for (step, gates) in bias.chunks_exact_mut(streams * width).enumerate().rev() {
            for s in 0..streams {
                let row = step * streams + s;
                slopes.fill(zero);
                for (k, result) in spec.formula.results().enumerate() {
                    let to = &mut slopes[result.index() * n..][..n];
                    add_to(to, &of_states[k][s * n..]);
                    if k == 0 {
                        add_to(to, &dy[row * n..]);
                    }
                }
                let values = &values[row * terms * n..][..terms * n];
                vectorized(Backward { formula: &spec.formula, len: n, values, slopes: &mut slopes });
                of_states.iter_mut().for_each(|state| state[s * n..][..n].fill(zero));
                for (k, term) in spec.formula.terms().iter().enumerate() {
                    let Term::Input(input) = *term else { continue };
                    let to = if input < spec.gates() {
                        let Some(block) = spec.bias.block(input) else { continue };
                        &mut gates[s * width + block * n..][..n]
                    } else if input < spec.parameter_input(0) {
                        &mut of_states[input - spec.state_input(0)][s * n..][..n]
                    } else {
                        let parameter = input - spec.parameter_input(0);
                        &mut parameters[(row * spec.parameters + parameter) * n..][..n]
                    };
                    to.copy_from_slice(&slopes[k * n..][..n]);
                }
            }
            if step > 0 || goes_on {
                let of_product = in_order(gates, [spec.bias, spec.recurrent], n);
                let of_h = w.apply_transposed(&self.recurrent, streams, &of_product);
                add_to(&mut of_states[0], &times(&of_h, factors));
            }
        }
        OfSums { bias, parameters }
    }

    /// The gradients of the input's products.
    pub(super) fn of_input<'a, T: Number>(&self, of: &'a OfSums<T>) -> Cow<'a, [T]> {
        in_order(&of.bias, [self.spec.bias, self.spec.input], self.units)
    }

    /// Gives the gradients of the cell's products, given what its maps have read.
    pub(super) fn give_gradients<T: Number, R: Receive<T>>(
        &self,
        w: &Weights<T>,
        of: &OfSums<T>,
        x: &[T],
        h: &[T],
        to: &mut R,
    ) {
        let rows = h.len() / self.units;
        let of_h = in_order(&of.bias, [self.spec.bias, self.spec.recurrent], self.units);
        to.product(w, &self.recurrent, rows, h, &of_h);
        to.product(w, &self.input, rows, x, &self.of_input(of));
        to.vector(w, &self.bias, &of.bias);
        if let Some(parameters) = &self.parameters {
            to.vector(w, parameters, &of.parameters);
        }
    }
}
