//! The layers of language-model form, in plain code.

use super::elements::of_reals;
use super::matrix::Matrix;
use super::real::Real;
use crate::ir::{CellSpec, InferError};
use crate::tensor::Tensor;

/// `embedding`: the rows of the table that the tokens select.
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
        add_rows(&mut out, &vector("a bias", bias, weight.rows())?);
    }
    of_reals(T::DTYPE, &[s, b, weight.rows()], out)
}

/// A recurrent cell and its weights.
pub(super) struct Cell<'a, T> {
    pub(super) spec: &'a CellSpec,
    pub(super) input: &'a Matrix<T>,
    pub(super) recurrent: &'a Matrix<T>,
    pub(super) bias: &'a Tensor,
    pub(super) parameters: Option<&'a Tensor>,
}

impl<T: Real> Cell<'_, T> {
    /// All outputs, and the last states.
    pub(super) fn run(&self, x: &Tensor, states: &[&Tensor]) -> Result<Vec<Tensor>, InferError> {
        let [s, b, _] = sequence(x, self.input.cols())?;
        let n = self.recurrent.cols();
        for (k, state) in states.iter().enumerate() {
            if state.shape() != [b, n] {
                let expected = format!("state {k} of shape [{b}, {n}]");
                return Err(InferError::new(expected, format!("{:?}", state.shape())));
            }
        }
        let width = self.spec.gates.count() * n;
        let bias = vector::<T>("a bias", self.bias, width)?;
        let parameters =
            self.parameters.map(|p| vector::<T>("parameters", p, self.spec.parameters * n)).transpose()?;
        let parameters = parameters.unwrap_or_default();
        let mut gates = self.input.apply_plain(s * b, &T::elements(x)?);
        add_rows(&mut gates, &bias);
        let mut states: Vec<Vec<T>> = states.iter().map(|t| T::elements(t)).collect::<Result<_, _>>()?;
        let mut y = Vec::with_capacity(s * b * n);
        for step in gates.chunks_mut((b * width).max(1)).take(s) {
            let recurrent = self.recurrent.apply_plain(b, &states[0]);
            step.iter_mut().zip(recurrent).for_each(|(g, r)| *g += r);
            for stream in 0..b {
                let gates = &step[stream * width..(stream + 1) * width];
                let mut of_stream: Vec<&mut [T]> =
                    states.iter_mut().map(|state| &mut state[stream * n..(stream + 1) * n]).collect();
                update(self.spec, gates, &parameters, &mut of_stream);
            }
            y.extend_from_slice(&states[0]);
        }
        let mut results = vec![of_reals(T::DTYPE, &[s, b, n], y)?];
        for state in states {
            results.push(of_reals(T::DTYPE, &[b, n], state)?);
        }
        Ok(results)
    }
}

/// One stream's new states, `[units]` each, from its gates' inputs, `[gates units]`, and the cell's parameters, `[parameters units]`.
pub(super) fn update<T: Real>(spec: &CellSpec, gates: &[T], parameters: &[T], states: &mut [&mut [T]]) {
    let n = states[0].len();
    let mut inputs: Vec<&[T]> = vec![];
    inputs.extend((0..spec.gates.count()).map(|g| &gates[spec.gates.block(g) * n..][..n]));
    inputs.extend(states.iter().map(|s| &**s));
    inputs.extend((0..spec.parameters).map(|p| &parameters[p * n..][..n]));
    let next = spec.formula.values(&inputs);
    for (state, next) in states.iter_mut().zip(next) {
        state.copy_from_slice(&next);
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

fn vector<T: Real>(what: &str, t: &Tensor, n: usize) -> Result<Vec<T>, InferError> {
    if t.shape() != [n] {
        return Err(InferError::new(format!("{what} of shape [{n}]"), format!("{:?}", t.shape())));
    }
    Ok(T::elements(t)?)
}
