//! The layers of language-model form, in plain code.

use super::elements::of_reals;
use super::matrix::Matrix;
use super::real::Real;
use crate::ir::{CellSpec, Gru, InferError};
use crate::tensor::Tensor;
use std::sync::Arc;

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

/// `linear`: the sum of `W x` over all terms, and a bias.
pub(super) fn linear<T: Real>(
    terms: &[(&Tensor, Arc<Matrix<T>>)],
    bias: Option<&Tensor>,
) -> Result<Tensor, InferError> {
    let mut sum: Option<([usize; 3], Vec<T>)> = None;
    for (x, weight) in terms {
        let [s, b, _] = sequence(x, Some(weight.cols()))?;
        let (shape, product) = ([s, b, weight.rows()], weight.apply_plain(s * b, &T::elements(x)?));
        match &mut sum {
            None => sum = Some((shape, product)),
            Some((of, sum)) if *of == shape => sum.iter_mut().zip(product).for_each(|(s, x)| *s += x),
            Some((of, _)) => {
                return Err(InferError::new(format!("a product of shape {of:?}"), format!("{shape:?}")));
            }
        }
    }
    let (shape, mut sum) = sum.ok_or_else(|| InferError::new("a product", "none"))?;
    if let Some(bias) = bias {
        add_rows(&mut sum, &vector("a bias", bias, shape[2])?);
    }
    of_reals(T::DTYPE, &shape, sum)
}

/// An operator on each row of features.
pub(super) fn by_row<T: Real>(x: &Tensor, f: impl Fn(&mut [T])) -> Result<Tensor, InferError> {
    let [_, _, width] = sequence(x, None)?;
    let mut rows = T::elements(x)?;
    rows.chunks_mut(width.max(1)).for_each(f);
    of_reals(T::DTYPE, x.shape(), rows)
}

/// `features`.
pub(super) fn features<T: Real>(x: &Tensor, from: usize, to: usize) -> Result<Tensor, InferError> {
    let [s, b, width] = sequence(x, None)?;
    let rows = T::elements(x)?;
    let kept = rows.chunks(width.max(1)).flat_map(|row| row.get(from..to).unwrap_or_default());
    of_reals(T::DTYPE, &[s, b, to - from], kept.copied().collect())
}

/// `concat`.
pub(super) fn concat<T: Real>(parts: &[&Tensor]) -> Result<Tensor, InferError> {
    let shapes: Vec<[usize; 3]> = parts.iter().map(|x| sequence(x, None)).collect::<Result<_, _>>()?;
    let data: Vec<Vec<T>> = parts.iter().map(|x| T::elements(x)).collect::<Result<_, _>>()?;
    let [s, b, _] = shapes.first().copied().unwrap_or_default();
    if shapes.iter().any(|shape| shape[..2] != [s, b]) {
        return Err(InferError::new(format!("parts of shape [{s}, {b}, _]"), format!("{shapes:?}")));
    }
    let widths = shapes.iter().map(|shape| shape[2]);
    let rows = join(s * b, data.iter().map(Vec::as_slice).zip(widths.clone()));
    of_reals(T::DTYPE, &[s, b, widths.sum()], rows)
}

/// Rows side by side, `[rows, width]` each.
pub(super) fn join<'a, T: Copy + 'a>(
    n: usize,
    parts: impl Iterator<Item = (&'a [T], usize)> + Clone,
) -> Vec<T> {
    (0..n).flat_map(|row| parts.clone().flat_map(move |(x, w)| &x[row * w..][..w])).copied().collect()
}

/// Layer normalisation of one row; statistics in f64.
pub(super) fn norm<T: Real>(row: &mut [T], [scale, shift]: [Option<&[T]>; 2], epsilon: T) {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| x.to_f64()).sum::<f64>() / n;
    let variance = row.iter().map(|x| (x.to_f64() - mean).powi(2)).sum::<f64>() / n;
    let scaling = 1.0 / (variance + epsilon.to_f64()).sqrt();
    for (k, x) in row.iter_mut().enumerate() {
        *x = T::of((x.to_f64() - mean) * scaling);
        *x = scale.map_or(*x, |s| *x * s[k]);
        *x = shift.map_or(*x, |s| *x + s[k]);
    }
}

/// The logarithms of one row's softmax.
pub(super) fn log_softmax<T: Real>(row: &mut [T]) {
    let log_sum = T::of(log_sum_exp(row));
    row.iter_mut().for_each(|x| *x -= log_sum);
}

/// `log sum exp` of a row, without overflow; the sum in f64.
pub(super) fn log_sum_exp<T: Real>(row: &[T]) -> f64 {
    let Some(&first) = row.first() else { return f64::NEG_INFINITY };
    let max = row.iter().copied().fold(first, |a, b| if b > a { b } else { a });
    let sum: f64 = row.iter().map(|&x| Real::exp(x - max).to_f64()).sum();
    max.to_f64() + sum.ln()
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
        let [s, b, _] = sequence(x, Some(self.input.cols()))?;
        let (spec, n) = (self.spec, self.recurrent.cols());
        for (k, state) in states.iter().enumerate() {
            if state.shape() != [b, n] {
                let expected = format!("state {k} of shape [{b}, {n}]");
                return Err(InferError::new(expected, format!("{:?}", state.shape())));
            }
        }
        let bias = vector::<T>("a bias", self.bias, spec.bias.blocks() * n)?;
        let parameters =
            self.parameters.map(|p| vector::<T>("parameters", p, spec.parameters * n)).transpose()?;
        let parameters = parameters.unwrap_or_default();
        let of_x = self.input.apply_plain(s * b, &T::elements(x)?);
        let mut states: Vec<Vec<T>> = states.iter().map(|t| T::elements(t)).collect::<Result<_, _>>()?;
        let mut y = Vec::with_capacity(s * b * n);
        for (row, of_x) in of_x.chunks((spec.input.blocks() * n).max(1)).enumerate().take(s * b) {
            let at = row % b * n..(row % b + 1) * n;
            let add = |h: &[T], sums: &mut [T]| {
                sums.iter_mut().zip(self.recurrent.apply_plain(1, h)).for_each(|(s, r)| *s += r);
            };
            let gates = sums(spec, of_x, &bias, &states[0][at.clone()], add);
            let mut of_stream: Vec<&mut [T]> = states.iter_mut().map(|s| &mut s[at.clone()]).collect();
            update(spec, &gates, &parameters, &mut of_stream);
            y.extend_from_slice(&states[0][at]);
        }
        let mut results = vec![of_reals(T::DTYPE, &[s, b, n], y)?];
        for state in states {
            results.push(of_reals(T::DTYPE, &[b, n], state)?);
        }
        Ok(results)
    }
}

/// A GRU whose reset gate is applied before the product: all outputs, and the last state.
pub(super) fn reset_before<T: Real>(
    gru: &Gru,
    x: &Tensor,
    h: &Tensor,
    [input, recurrent]: [&Matrix<T>; 2],
    bias: &Tensor,
) -> Result<Vec<Tensor>, InferError> {
    let [s, b, _] = sequence(x, Some(input.cols()))?;
    let n = recurrent.cols();
    let mut of_x = input.apply_plain(s * b, &T::elements(x)?);
    add_rows(&mut of_x, &vector("a bias", bias, 3 * n)?);
    let (mut h, mut y) = (T::elements(h)?, vec![]);
    for (row, of_x) in of_x.chunks((3 * n).max(1)).enumerate() {
        let h = &mut h[row % b * n..][..n];
        let of_h = recurrent.apply_plain(1, h);
        let gate = |all: &[T], k: usize| all[k * n..(k + 1) * n].to_vec();
        let reset = gru.reset_state().values(&[&gate(of_x, 1), &gate(&of_h, 1), &*h]).swap_remove(0);
        let of_reset = recurrent.apply_plain(1, &reset);
        let inputs = [gate(of_x, 0), gate(&of_h, 0), gate(of_x, 2), gate(&of_reset, 2), h.to_vec()];
        h.copy_from_slice(&gru.next_state().values(&inputs.each_ref().map(Vec::as_slice)).swap_remove(0));
        y.extend_from_slice(h);
    }
    Ok(vec![of_reals(T::DTYPE, &[s, b, n], y)?, of_reals(T::DTYPE, &[b, n], h)?])
}

/// The sums of all gates of one stream, in the order of the bias, `[blocks units]`, from the input's products. `add` adds the products of `h`.
pub(super) fn sums<T: Real>(
    spec: &CellSpec,
    of_x: &[T],
    bias: &[T],
    h: &[T],
    add: impl FnOnce(&[T], &mut [T]),
) -> Vec<T> {
    let (n, mut gates) = (h.len(), bias.to_vec());
    let at = |block: usize| block * n..(block + 1) * n;
    for (from, to) in spec.input.common(spec.bias) {
        gates[at(to)].iter_mut().zip(&of_x[at(from)]).for_each(|(g, &x)| *g = x + *g);
    }
    let mut with_h = vec![T::default(); spec.recurrent.blocks() * n];
    for (to, from) in spec.recurrent.common(spec.bias) {
        with_h[at(to)].copy_from_slice(&gates[at(from)]);
    }
    add(h, &mut with_h);
    for (from, to) in spec.recurrent.common(spec.bias) {
        gates[at(to)].copy_from_slice(&with_h[at(from)]);
    }
    gates
}

/// One stream's new states, `[units]` each, from its gates' inputs in the order of the bias, `[blocks units]`, and the cell's parameters,
/// `[parameters units]`.
pub(super) fn update<T: Real>(spec: &CellSpec, gates: &[T], parameters: &[T], states: &mut [&mut [T]]) {
    let n = states[0].len();
    let mut inputs: Vec<&[T]> = vec![];
    inputs.extend((0..spec.gates()).map(|g| &gates[spec.bias.block(g).unwrap_or(0) * n..][..n]));
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

fn sequence(x: &Tensor, features: Option<usize>) -> Result<[usize; 3], InferError> {
    match x.shape() {
        &[s, b, f] if features.is_none_or(|n| f == n) => Ok([s, b, f]),
        other => {
            let width = features.map_or("_".into(), |n| n.to_string());
            Err(InferError::new(format!("x of shape [S, B, {width}]"), format!("{other:?}")))
        }
    }
}

pub(super) fn vector<T: Real>(what: &str, t: &Tensor, n: usize) -> Result<Vec<T>, InferError> {
    if t.shape() != [n] {
        return Err(InferError::new(format!("{what} of shape [{n}]"), format!("{:?}", t.shape())));
    }
    Ok(T::elements(t)?)
}
