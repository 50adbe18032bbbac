//! The layers of language-model form, plainly.

use super::elements::of_reals;
use super::matrix::Matrix;
use super::real::Real;
use crate::ir::{Gate, GateOrder, InferError};
use crate::tensor::Tensor;

/// `embedding`: the rows of the table that the tokens name.
pub(super) fn embedding<T: Real>(tokens: &Tensor, table: &Matrix<T>) -> Result<Tensor, InferError> {
    let mut out = Vec::with_capacity(tokens.len() * table.cols());
    for &token in tokens.i64s()? {
        let row = usize::try_from(token).ok().filter(|&i| i < table.rows()).ok_or_else(|| {
            InferError::new(format!("tokens in 0..{}", table.rows()), format!("token {token}"))
        })?;
        table.push_row(row, &mut out);
    }
    let mut shape = tokens.shape().to_vec();
    shape.push(table.cols());
    of_reals(T::DTYPE, &shape, out)
}

/// `linear`: `y = W x + b`.
pub(super) fn linear<T: Real>(
    x: &Tensor,
    weight: &Matrix<T>,
    bias: Option<&Tensor>,
) -> Result<Tensor, InferError> {
    let [s, b, _] = sequence(x, weight.cols())?;
    let mut out = weight.apply_plain(s * b, &T::elements(x)?);
    if let Some(bias) = bias {
        add_rows(&mut out, &vector(bias, weight.rows())?);
    }
    of_reals(T::DTYPE, &[s, b, weight.rows()], out)
}

/// The weights of an `lstm`.
pub(super) struct Cell<'a, T> {
    pub(super) input: &'a Matrix<T>,
    pub(super) recurrent: &'a Matrix<T>,
    pub(super) bias: &'a Tensor,
    pub(super) gates: GateOrder,
}

impl<T: Real> Cell<'_, T> {
    /// `lstm`: all outputs, and the last hidden and cell state.
    pub(super) fn run(&self, x: &Tensor, h: &Tensor, c: &Tensor) -> Result<Vec<Tensor>, InferError> {
        let [s, b, _] = sequence(x, self.input.cols())?;
        let n = self.recurrent.cols();
        for (name, state) in [("h", h), ("c", c)] {
            if state.shape() != [b, n] {
                let expected = format!("{name} of shape [{b}, {n}]");
                return Err(InferError::new(expected, format!("{:?}", state.shape())));
            }
        }
        let bias = vector::<T>(self.bias, 4 * n)?;
        let mut gates = self.input.apply_plain(s * b, &T::elements(x)?);
        add_rows(&mut gates, &bias);
        let (mut h, mut c) = (T::elements(h)?, T::elements(c)?);
        let mut y = Vec::with_capacity(s * b * n);
        for step in gates.chunks_mut((b * 4 * n).max(1)).take(s) {
            let recurrent = self.recurrent.apply_plain(b, &h);
            step.iter_mut().zip(recurrent).for_each(|(g, r)| *g += r);
            for stream in 0..b {
                let state = stream * n..(stream + 1) * n;
                let gates = &step[stream * 4 * n..(stream + 1) * 4 * n];
                update(self.gates, gates, &mut h[state.clone()], &mut c[state]);
            }
            y.extend_from_slice(&h);
        }
        Ok(vec![
            of_reals(T::DTYPE, &[s, b, n], y)?,
            of_reals(T::DTYPE, &[b, n], h)?,
            of_reals(T::DTYPE, &[b, n], c)?,
        ])
    }
}

/// One stream's new state from what enters its gates, `[4 hidden]`.
pub(super) fn update<T: Real>(order: GateOrder, gates: &[T], h: &mut [T], c: &mut [T]) {
    let n = h.len();
    let of = |gate: Gate| &gates[order.position(gate) * n..][..n];
    let (i, f, g, o) = (of(Gate::Input), of(Gate::Forget), of(Gate::Cell), of(Gate::Output));
    for k in 0..n {
        c[k] = f[k].sigmoid() * c[k] + i[k].sigmoid() * Real::tanh(g[k]);
        h[k] = o[k].sigmoid() * Real::tanh(c[k]);
    }
}

/// Adds a bias to every row.
pub(super) fn add_rows<T: Real>(rows: &mut [T], bias: &[T]) {
    for row in rows.chunks_mut(bias.len().max(1)) {
        row.iter_mut().zip(bias).for_each(|(x, &b)| *x += b);
    }
}

fn sequence(x: &Tensor, features: usize) -> Result<[usize; 3], InferError> {
    match x.shape() {
        &[s, b, f] if f == features => Ok([s, b, f]),
        other => Err(InferError::new(format!("x of shape [S, B, {features}]"), format!("{other:?}"))),
    }
}

fn vector<T: Real>(t: &Tensor, n: usize) -> Result<Vec<T>, InferError> {
    if t.shape() != [n] {
        return Err(InferError::new(format!("a bias of shape [{n}]"), format!("{:?}", t.shape())));
    }
    Ok(T::elements(t)?)
}
