//! Batched matrix products, by `faer`.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// `out = a b` with row-major `a: [m, k]`, `b: [k, n]`, `out: [m, n]`.
///
/// # Panics
/// Where a slice's length is not that of its shape.
pub fn multiply(m: usize, k: usize, n: usize, a: &[f32], b: &[f32], out: &mut [f32]) {
    let (a, b) = (MatRef::from_row_major_slice(a, m, k), MatRef::from_row_major_slice(b, k, n));
    let out = MatMut::from_row_major_slice_mut(out, m, n);
    matmul(out, Accum::Replace, a, b, 1.0f32, Par::rayon(0));
}

/// `out = a w^T` with row-major `a: [m, k]`, `w: [n, k]` (a linear map applied to `m` vectors), `out: [m, n]`, on all cores.
///
/// # Panics
/// Where a slice's length is not that of its shape.
pub fn apply<T: faer::traits::ComplexField>(m: usize, k: usize, n: usize, a: &[T], w: &[T], out: &mut [T]) {
    let (a, w) = (MatRef::from_row_major_slice(a, m, k), MatRef::from_row_major_slice(w, n, k));
    let out = MatMut::from_row_major_slice_mut(out, m, n);
    matmul(out, Accum::Replace, a, w.transpose(), T::one_impl(), Par::rayon(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_small_matrices() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let mut out = [0.0f32; 4];
        multiply(2, 3, 2, &a, &b, &mut out);
        assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
        apply(2, 3, 2, &a, &[1.0, 0.0, 1.0, 0.0, 1.0, 1.0], &mut out);
        assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
    }
}
