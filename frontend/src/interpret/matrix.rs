//! Linear maps decoded to numbers.
//!
//! Quantized, sparse and tensor-train maps become the dense matrix they stand for; a low-rank map stays two factors, so
//! that a vector meets the same two products here as in compiled code.

use super::real::Real;
use crate::ir::{LinearMap, MapError};
use crate::product;
use std::collections::HashMap;
use std::sync::Arc;

/// A decoded map, `[rows, cols]`.
#[derive(Clone, Debug)]
pub(super) enum Matrix<T> {
    /// Row-major.
    Dense { rows: usize, cols: usize, data: Vec<T> },
    /// `left . right`.
    Product { left: Arc<Matrix<T>>, right: Arc<Matrix<T>> },
}

/// Decodes maps; what several maps share is decoded once.
pub(super) struct Decoder<T> {
    // The maps are kept so that their addresses stay theirs.
    shared: HashMap<*const LinearMap, (Arc<LinearMap>, Arc<Matrix<T>>)>,
}

impl<T: Real> Decoder<T> {
    pub(super) fn new() -> Decoder<T> {
        Decoder { shared: HashMap::new() }
    }

    pub(super) fn decode(&mut self, map: &LinearMap) -> Result<Matrix<T>, MapError> {
        if let LinearMap::LowRank(l) = map {
            return Ok(Matrix::Product { left: self.child(l.left())?, right: self.child(l.right())? });
        }
        let [rows, cols] = map.matrix_shape()?;
        Ok(Matrix::Dense { rows, cols, data: T::elements(&map.to_dense()?)? })
    }

    fn child(&mut self, map: &Arc<LinearMap>) -> Result<Arc<Matrix<T>>, MapError> {
        if let Some((_, matrix)) = self.shared.get(&Arc::as_ptr(map)) {
            return Ok(matrix.clone());
        }
        let matrix = Arc::new(self.decode(map)?);
        self.shared.insert(Arc::as_ptr(map), (map.clone(), matrix.clone()));
        Ok(matrix)
    }
}

impl<T: Real> Matrix<T> {
    pub(super) fn rows(&self) -> usize {
        match self {
            Matrix::Dense { rows, .. } => *rows,
            Matrix::Product { left, .. } => left.rows(),
        }
    }

    pub(super) fn cols(&self) -> usize {
        match self {
            Matrix::Dense { cols, .. } => *cols,
            Matrix::Product { right, .. } => right.cols(),
        }
    }

    /// The map of each of `n` vectors: `x: [n, cols]` to `out: [n, rows]`, plainly.
    pub(super) fn apply_plain(&self, n: usize, x: &[T]) -> Vec<T> {
        match self {
            Matrix::Dense { rows, cols, data } => {
                let mut out = Vec::with_capacity(n * rows);
                for i in 0..n {
                    let x = &x[i * cols..(i + 1) * cols];
                    for r in 0..*rows {
                        let w = &data[r * cols..(r + 1) * cols];
                        out.push(x.iter().zip(w).fold(T::default(), |s, (&a, &b)| s + a * b));
                    }
                }
                out
            }
            Matrix::Product { left, right } => left.apply_plain(n, &right.apply_plain(n, x)),
        }
    }

    /// Like [`Matrix::apply_plain`], batched; `out` is overwritten.
    pub(super) fn apply(&self, n: usize, x: &[T], out: &mut Vec<T>) {
        match self {
            Matrix::Dense { rows, cols, data } => {
                out.resize(n * rows, T::default());
                product::apply(n, *cols, *rows, x, data, out);
            }
            Matrix::Product { left, right } => {
                let mut inner = vec![];
                right.apply(n, x, &mut inner);
                left.apply(n, &inner, out);
            }
        }
    }

    /// Appends row `i`.
    pub(super) fn push_row(&self, i: usize, out: &mut Vec<T>) {
        match self {
            Matrix::Dense { cols, data, .. } => out.extend_from_slice(&data[i * cols..(i + 1) * cols]),
            Matrix::Product { left, right } => {
                let mut row = vec![];
                left.push_row(i, &mut row);
                let start = out.len();
                out.resize(start + right.cols(), T::default());
                right.combine(&row, &mut out[start..]);
            }
        }
    }

    /// `out += x^T M`: the rows, each weighted by an element of `x`.
    pub(super) fn combine(&self, x: &[T], out: &mut [T]) {
        match self {
            Matrix::Dense { cols, data, .. } => combine_rows(data, *cols, x, out),
            Matrix::Product { left, right } => {
                let mut inner = vec![T::default(); left.cols()];
                left.combine(x, &mut inner);
                right.combine(&inner, out);
            }
        }
    }

    /// The transpose: `combine` of it is `apply` of this.
    pub(super) fn transposed(&self) -> Matrix<T> {
        match self {
            Matrix::Dense { rows, cols, data } => {
                let mut out = Vec::with_capacity(data.len());
                for c in 0..*cols {
                    out.extend((0..*rows).map(|r| data[r * cols + c]));
                }
                Matrix::Dense { rows: *cols, cols: *rows, data: out }
            }
            Matrix::Product { left, right } => {
                Matrix::Product { left: right.transposed().into(), right: left.transposed().into() }
            }
        }
    }
}

/// `out[j] += sum over k of x[k] data[k][j]`.
fn combine_rows<T: Real>(data: &[T], cols: usize, x: &[T], out: &mut [T]) {
    let row = |k: usize| &data[k * cols..(k + 1) * cols];
    let (fours, rest) = x.as_chunks::<4>();
    // Four rows at a time: `out` is read and written once for the four.
    for (k, &[a, b, c, d]) in fours.iter().enumerate() {
        let (p, q, r, s) = (row(4 * k), row(4 * k + 1), row(4 * k + 2), row(4 * k + 3));
        for ((((o, &p), &q), &r), &s) in out.iter_mut().zip(p).zip(q).zip(r).zip(s) {
            *o += (a * p + b * q) + (c * r + d * s);
        }
    }
    for (k, &a) in rest.iter().enumerate() {
        for (o, &p) in out.iter_mut().zip(row(4 * fours.len() + k)) {
            *o += a * p;
        }
    }
}
