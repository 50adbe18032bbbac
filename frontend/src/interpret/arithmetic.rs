//! Generic operators that compute.

use super::elements::{broadcast_strides, integers, of_integers, of_reals, walk};
use super::formula::function;
use super::movement::axis_of;
use super::real::Real;
use crate::ir::{Binary, Function, InferError};
use crate::tensor::{DType, Data, Tensor};
use std::num::Wrapping;
use std::ops::{Add, Mul};

pub(super) fn binary<T: Real>(
    op: Binary,
    a: &Tensor,
    b: &Tensor,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, InferError> {
    let (sa, sb) = (broadcast_strides(a.shape(), shape), broadcast_strides(b.shape(), shape));
    let pairs = walk(shape, &sa, 0).zip(walk(shape, &sb, 0));
    if dtype.is_float() {
        let (x, y) = (T::elements(a)?, T::elements(b)?);
        let out = pairs.map(|(i, j)| op.of(x[i], y[j])).collect();
        return of_reals::<T>(dtype, shape, out);
    }
    let (x, y) = (integers(a)?, integers(b)?);
    let out: Result<Vec<i64>, InferError> = pairs
        .map(|(i, j)| match op {
            Binary::Add => Ok(x[i].wrapping_add(y[j])),
            Binary::Sub => Ok(x[i].wrapping_sub(y[j])),
            Binary::Mul => Ok(x[i].wrapping_mul(y[j])),
            Binary::Div if y[j] == 0 => Err(InferError::new("a divisor other than zero", "0")),
            Binary::Div => Ok(x[i].wrapping_div(y[j])),
            Binary::Max => Ok(x[i].max(y[j])),
            Binary::Min => Ok(x[i].min(y[j])),
        })
        .collect();
    of_integers(dtype, shape, out?)
}

/// `then` where `a < b`, else `otherwise`.
pub(super) fn select<T: Real>(
    [a, b]: [&Tensor; 2],
    then: &Tensor,
    otherwise: &Tensor,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, InferError> {
    let read = |t: &Tensor| -> Result<Vec<T>, InferError> {
        let (x, strides) = (T::elements(t)?, broadcast_strides(t.shape(), shape));
        Ok(walk(shape, &strides, 0).map(|i| x[i]).collect())
    };
    let (a, b, then, otherwise) = (read(a)?, read(b)?, read(then)?, read(otherwise)?);
    let out = (0..a.len()).map(|k| if a[k] < b[k] { then[k] } else { otherwise[k] }).collect();
    of_reals::<T>(dtype, shape, out)
}

pub(super) fn unary<T: Real>(f: Function, x: &Tensor) -> Result<Tensor, InferError> {
    if !x.dtype().is_float() {
        let out = integers(x)?.into_iter().map(|v| v.max(0)).collect();
        return of_integers(x.dtype(), x.shape(), out);
    }
    of_reals::<T>(x.dtype(), x.shape(), function(f, &T::elements(x)?))
}

/// `out += a b` for row-major `a: [m, k]`, `b: [k, n]`.
fn multiply<N>(dims: [usize; 3], a: &[N], b: &[N], out: &mut [N])
where
    N: Copy + Add<Output = N> + Mul<Output = N>,
{
    let [m, k, n] = dims;
    for i in 0..m {
        let row = &mut out[i * n..(i + 1) * n];
        for p in 0..k {
            let x = a[i * k + p];
            for (o, &y) in row.iter_mut().zip(&b[p * n..(p + 1) * n]) {
                *o = *o + x * y;
            }
        }
    }
}

pub(super) fn mat_mul<T: Real>(
    a: &Tensor,
    b: &Tensor,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, InferError> {
    if dtype.is_float() {
        let out = mat_mul_of(a.shape(), b.shape(), &T::elements(a)?, &T::elements(b)?, shape);
        return of_reals::<T>(dtype, shape, out);
    }
    let wrapping = |t| -> Result<Vec<Wrapping<i64>>, InferError> {
        Ok(integers(t)?.into_iter().map(Wrapping).collect())
    };
    let out = mat_mul_of(a.shape(), b.shape(), &wrapping(a)?, &wrapping(b)?, shape);
    of_integers(dtype, shape, out.into_iter().map(|w| w.0).collect())
}

fn mat_mul_of<N>(sa: &[usize], sb: &[usize], a: &[N], b: &[N], shape: &[usize]) -> Vec<N>
where
    N: Copy + Default + Add<Output = N> + Mul<Output = N>,
{
    let k = sa[sa.len() - 1];
    let (batch_a, m) = if sa.len() > 1 { (&sa[..sa.len() - 2], sa[sa.len() - 2]) } else { (&sa[..0], 1) };
    let (batch_b, n) = if sb.len() > 1 { (&sb[..sb.len() - 2], sb[sb.len() - 1]) } else { (&sb[..0], 1) };
    // The dimensions of the result's shape that are not rows or columns are the batch.
    let kept = usize::from(sa.len() > 1) + usize::from(sb.len() > 1);
    let batch = &shape[..shape.len() - kept];
    let (ba, bb) = (broadcast_strides(batch_a, batch), broadcast_strides(batch_b, batch));
    let mut out = vec![N::default(); batch.iter().product::<usize>() * m * n];
    for (o, (i, j)) in walk(batch, &ba, 0).zip(walk(batch, &bb, 0)).enumerate() {
        let (a, b) = (&a[i * m * k..(i + 1) * m * k], &b[j * k * n..(j + 1) * k * n]);
        multiply([m, k, n], a, b, &mut out[o * m * n..(o + 1) * m * n]);
    }
    out
}

/// The factors of a Gemm.
pub(super) struct GemmScale {
    pub(super) alpha: f32,
    pub(super) beta: f32,
}

/// `alpha A B + beta C`, with each matrix transposed if its flag says so.
pub(super) fn gemm<T: Real>(
    scale: GemmScale,
    (a, trans_a): (&Tensor, bool),
    (b, trans_b): (&Tensor, bool),
    c: Option<&Tensor>,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor, InferError> {
    if !dtype.is_float() {
        return Err(InferError::new("matrices of a float dtype", dtype.to_string()));
    }
    let matrix = |t: &Tensor, transposed: bool| -> Result<Vec<T>, InferError> {
        let v = T::elements(t)?;
        let [rows, cols] = [t.shape()[0], t.shape()[1]];
        if !transposed {
            return Ok(v);
        }
        Ok((0..cols).flat_map(|c| (0..rows).map(move |r| r * cols + c)).map(|i| v[i]).collect())
    };
    let (m, n) = (shape[0], shape[1]);
    let k = a.shape()[usize::from(!trans_a)];
    let mut out = vec![T::default(); m * n];
    multiply([m, k, n], &matrix(a, trans_a)?, &matrix(b, trans_b)?, &mut out);
    let (alpha, beta) = (T::of(scale.alpha.into()), T::of(scale.beta.into()));
    out.iter_mut().for_each(|x| *x = alpha * *x);
    if let Some(c) = c {
        let strides = broadcast_strides(c.shape(), shape);
        let c = T::elements(c)?;
        for (x, i) in out.iter_mut().zip(walk(shape, &strides, 0)) {
            *x += beta * c[i];
        }
    }
    of_reals::<T>(dtype, shape, out)
}

pub(super) fn cast(to: DType, data: &Tensor) -> Result<Tensor, InferError> {
    match data.data() {
        Data::Bool(v) => of_integers(to, data.shape(), v.iter().map(|&b| b.into()).collect()),
        _ if data.dtype() == to => Ok(data.clone()),
        // Every float dtype is exact in f64, so there is one rounding.
        _ if data.dtype().is_float() => of_reals(to, data.shape(), f64::elements(data)?),
        _ => of_integers(to, data.shape(), integers(data)?),
    }
}

/// Softmax along an axis, or over everything from it on, or its logarithm, without overflow.
pub(super) fn softmax<T: Real>(
    axis: i64,
    flatten: bool,
    log: bool,
    x: &Tensor,
) -> Result<Tensor, InferError> {
    let axis = axis_of(axis, x.shape().len());
    if flatten {
        let rows = x.shape()[..axis].iter().product();
        let flat = x.clone().reshaped([rows, x.shape()[axis..].iter().product()])?;
        return Ok(softmax::<T>(1, false, log, &flat)?.reshaped(x.shape())?);
    }
    let n = x.shape()[axis];
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let mut v = T::elements(x)?;
    let lines = v.len().checked_div(n).unwrap_or(0);
    for line in 0..lines {
        let start = line / inner * n * inner + line % inner;
        let positions = (0..n).map(|k| start + k * inner);
        let max = positions.clone().map(|i| v[i]).fold(v[start], |a, b| if b > a { b } else { a });
        let sum = positions.clone().fold(T::default(), |s, i| s + Real::exp(v[i] - max));
        let log_sum = T::of(sum.to_f64().ln());
        for i in positions {
            v[i] = if log { v[i] - max - log_sum } else { Real::exp(v[i] - max) / sum };
        }
    }
    of_reals::<T>(x.dtype(), x.shape(), v)
}
