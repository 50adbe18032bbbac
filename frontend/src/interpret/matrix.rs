//! Linear maps decoded to numbers.
//!
//! Quantized, sparse and tensor-train maps become the dense matrix that they represent; a low-rank map stays two factors, so
//! that a vector goes through the same two products here as in compiled code. If a map takes its vectors as int8
//! ([`Activations`]), they are rounded to `scale * code` before the product with the dense matrix: that is exact in f64, and in f32 its error is no
//! larger than the product's. [Columns](crate::ir::Quantized::columns) stay apart, as in compiled code, and multiply the vector first.

use super::real::Real;
use crate::ir::{Activations, LinearMap, MapError, Part, PartId, quantize_activations};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// A decoded map, `[rows, cols]`.
#[derive(Clone, Debug)]
pub(super) enum Matrix<T> {
    /// Row-major.
    Dense { rows: usize, data: Vec<T>, taking: Taking },
    /// `left . right`.
    Product { left: Arc<Matrix<T>>, right: Arc<Matrix<T>> },
}

/// Decodes maps; shared parts are decoded once.
pub(super) struct Decoder<T> {
    shared: HashMap<PartId, Arc<Matrix<T>>>,
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
        let columns = map.columns().map(|c| Ok::<_, MapError>(c.to_f32()?.to_vec())).transpose()?;
        let data = T::elements(&map.without_columns().to_dense()?)?;
        Ok(Matrix::Dense { rows, data, taking: Taking { cols, columns, activations: map.activations() } })
    }

    fn child(&mut self, map: &Part) -> Result<Arc<Matrix<T>>, MapError> {
        if let Some(matrix) = self.shared.get(&map.id()) {
            return Ok(matrix.clone());
        }
        let matrix = Arc::new(self.decode(map)?);
        self.shared.insert(map.id(), matrix.clone());
        Ok(matrix)
    }
}

impl<T: Real> Matrix<T> {
    /// A matrix that takes its vectors as they are.
    pub(super) fn dense([rows, cols]: [usize; 2], data: Vec<T>) -> Matrix<T> {
        Matrix::Dense { rows, data, taking: Taking { cols, columns: None, activations: Activations::F32 } }
    }

    pub(super) fn rows(&self) -> usize {
        match self {
            Matrix::Dense { rows, .. } => *rows,
            Matrix::Product { left, .. } => left.rows(),
        }
    }

    pub(super) fn cols(&self) -> usize {
        match self {
            Matrix::Dense { taking, .. } => taking.cols,
            Matrix::Product { right, .. } => right.cols(),
        }
    }

    /// The map of each of `n` vectors: `x: [n, cols]` to `out: [n, rows]`, in plain code.
    pub(super) fn apply_plain(&self, n: usize, x: &[T]) -> Vec<T> {
        match self {
            Matrix::Dense { rows, data, taking } => {
                let (x, cols) = (taking.vectors(x), taking.cols);
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
            Matrix::Dense { rows, data, taking } => {
                out.resize(n * rows, T::default());
                T::apply([n, taking.cols, *rows], &taking.vectors(x), data, out);
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
            Matrix::Dense { data, taking, .. } => {
                let start = out.len();
                out.extend_from_slice(&data[i * taking.cols..(i + 1) * taking.cols]);
                taking.scale(&mut out[start..]);
            }
            Matrix::Product { left, right } => {
                let mut row = vec![];
                left.push_row(i, &mut row);
                let start = out.len();
                out.resize(start + right.cols(), T::default());
                right.combine(&row, &mut out[start..]);
            }
        }
    }

    /// `out += x^T M`: the rows, each weighted by an element of `x`. This is not a product of a layer, so `x` is not rounded.
    fn combine(&self, x: &[T], out: &mut [T]) {
        match self {
            Matrix::Dense { data, taking, .. } => {
                let mut sum = vec![T::default(); taking.cols];
                combine_rows(data, taking.cols, x, &mut sum);
                taking.scale(&mut sum);
                out.iter_mut().zip(sum).for_each(|(o, s)| *o += s);
            }
            Matrix::Product { left, right } => {
                let mut inner = vec![T::default(); left.cols()];
                left.combine(x, &mut inner);
                right.combine(&inner, out);
            }
        }
    }

    /// The map in a form for one vector at a time.
    pub(super) fn transposed(&self) -> Transposed<T> {
        match self {
            Matrix::Dense { rows, data, taking } => {
                let (cols, taking) = (taking.cols, taking.clone());
                let mut out = Vec::with_capacity(data.len());
                for c in 0..cols {
                    out.extend((0..*rows).map(|r| data[r * cols + c]));
                }
                Transposed { factors: vec![Factor { outputs: *rows, data: out, taking }] }
            }
            Matrix::Product { left, right } => {
                let mut chain = right.transposed();
                chain.factors.extend(left.transposed().factors);
                chain
            }
        }
    }
}

/// A map whose factors are transposed, so that a product adds up contiguous rows.
pub(super) struct Transposed<T> {
    /// At least one, in the order of their application.
    factors: Vec<Factor<T>>,
}

struct Factor<T> {
    outputs: usize,
    data: Vec<T>, // [inputs, outputs]
    taking: Taking,
}

impl<T: Real> Transposed<T> {
    /// The length of a vector.
    pub(super) fn inputs(&self) -> usize {
        self.factors[0].taking.cols
    }

    /// The length of a product.
    pub(super) fn outputs(&self) -> usize {
        self.factors.last().map_or(0, |f| f.outputs)
    }

    /// `out += W x`.
    pub(super) fn add_product(&self, x: &[T], out: &mut [T]) {
        let [before @ .., last] = &self.factors[..] else { return };
        let mut x = Cow::Borrowed(x);
        for factor in before {
            let mut inner = vec![T::default(); factor.outputs];
            factor.add_product(&x, &mut inner);
            x = Cow::Owned(inner);
        }
        last.add_product(&x, out);
    }
}

impl<T: Real> Factor<T> {
    fn add_product(&self, x: &[T], out: &mut [T]) {
        combine_rows(&self.data, self.outputs, &self.taking.vectors(x), out);
    }
}

/// What a product does to its vectors first.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    cols: usize,
    columns: Option<Vec<f32>>, // [cols]
    activations: Activations,
}

impl Taking {
    /// The vectors `x: [n, cols]` as a product takes them.
    fn vectors<'x, T: Real>(&self, x: &'x [T]) -> Cow<'x, [T]> {
        let mut x = Cow::Borrowed(x);
        if self.columns.is_some() {
            x.to_mut().chunks_mut(self.cols.max(1)).for_each(|x| self.scale(x));
        }
        if self.activations == Activations::F32 {
            return x;
        }
        let mut codes = vec![0; self.cols];
        let mut out = Vec::with_capacity(x.len());
        for x in x.chunks(self.cols.max(1)) {
            let x: Vec<f32> = x.iter().map(|x| x.to_f64() as f32).collect();
            let scale = f64::from(quantize_activations(&x, &mut codes));
            out.extend(codes.iter().map(|&q| T::of(scale * f64::from(q))));
        }
        Cow::Owned(out)
    }

    /// Multiplies a row or a vector by the columns. Before int8 the product is one of f32, as everywhere.
    fn scale<T: Real>(&self, x: &mut [T]) {
        let Some(columns) = &self.columns else { return };
        for (x, &c) in x.iter_mut().zip(columns) {
            *x = match self.activations {
                Activations::F32 => *x * T::of(c.into()),
                Activations::Int8 => T::of(f64::from(x.to_f64() as f32 * c)),
            };
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
