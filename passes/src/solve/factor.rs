//! Small wrappers of `faer` on row-major f64 slices.

use super::SolveError;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Svd;
use faer::{Accum, MatMut, MatRef, Par};

/// `a . b`.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for l in 0..8 {
            lanes[l] += x[l] * y[l];
        }
    }
    lanes.iter().sum::<f64>() + tail
}

/// `y += a x`.
pub(crate) fn add_scaled(y: &mut [f64], a: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `a b` with `a: [m, k]`, `b: [k, n]`.
pub(crate) fn multiply(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    product(MatRef::from_row_major_slice(a, m, k), MatRef::from_row_major_slice(b, k, n))
}

/// `a^T a` with `a: [m, n]`.
pub(crate) fn gram(a: &[f64], m: usize, n: usize) -> Vec<f64> {
    let a = MatRef::from_row_major_slice(a, m, n);
    product(a.transpose(), a)
}

/// `a^T b` with `a: [k, m]`, `b: [k, n]`.
pub(crate) fn multiply_transposed(a: &[f64], b: &[f64], k: usize, m: usize, n: usize) -> Vec<f64> {
    let a = MatRef::from_row_major_slice(a, k, m);
    product(a.transpose(), MatRef::from_row_major_slice(b, k, n))
}

/// `a b`, row-major.
fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Vec<f64> {
    let (m, n) = (a.nrows(), b.ncols());
    let mut out = vec![0.0; m * n];
    if m * n * a.ncols() > 0 {
        let to = MatMut::from_row_major_slice_mut(&mut out, m, n);
        matmul(to, Accum::Replace, a, b, 1.0, Par::rayon(0));
    }
    out
}

/// The rows and columns `chosen` of `a: [n, n]`.
pub(crate) fn select(a: &[f64], n: usize, chosen: &[usize]) -> Vec<f64> {
    chosen.iter().flat_map(|&i| chosen.iter().map(move |&j| a[i * n + j])).collect()
}

/// Overwrites the lower triangle of `a: [n, n]` with `L`, where `a = L L^T`; one thread, for use inside parallel loops.
pub(crate) fn cholesky_in_place(a: &mut [f64], n: usize) -> Result<(), SolveError> {
    if n == 0 {
        return Ok(());
    }
    let mut memory =
        MemBuffer::new(llt::factor::cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default()));
    llt::factor::cholesky_in_place(
        MatMut::from_row_major_slice_mut(a, n, n),
        Default::default(),
        Par::Seq,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .map(|_| ())
    .map_err(|e| SolveError::Factorisation { what: "Cholesky", why: format!("{e:?}") })
}

/// `L` of `a = L L^T`, with zeros above the diagonal.
pub(crate) fn cholesky(a: &[f64], n: usize) -> Result<Vec<f64>, SolveError> {
    let mut l = a.to_vec();
    cholesky_in_place(&mut l, n)?;
    for i in 0..n {
        l[i * n + i + 1..(i + 1) * n].fill(0.0);
    }
    Ok(l)
}

/// Solves `a x = b` for each of the `m` rows of `b: [m, n]` in place; `a: [n, n]` is definite and overwritten.
pub(crate) fn solve_rows(a: &mut [f64], n: usize, b: &mut [f64], m: usize) -> Result<(), SolveError> {
    if n == 0 || m == 0 {
        return Ok(());
    }
    cholesky_in_place(a, n)?;
    let l = MatRef::from_row_major_slice(&*a, n, n);
    let b = MatMut::from_row_major_slice_mut(b, m, n).transpose_mut();
    let mut memory = MemBuffer::new(llt::solve::solve_in_place_scratch::<f64>(n, m, Par::Seq));
    llt::solve::solve_in_place(l, b, Par::Seq, MemStack::new(&mut memory));
    Ok(())
}

/// `a^-1` of a definite `a: [n, n]`.
pub(crate) fn inverse(a: &[f64], n: usize) -> Result<Vec<f64>, SolveError> {
    let mut a = a.to_vec();
    let mut out: Vec<f64> = (0..n * n).map(|k| if k / n == k % n { 1.0 } else { 0.0 }).collect();
    solve_rows(&mut a, n, &mut out, n)?;
    Ok(out)
}

/// `U`, upper triangular, of `a = U U^T`: the Cholesky factor for elimination from the last variable to the first.
///
/// `d a d^T = sum over k of (sum over i <= k of U_ik d_i)^2`, so that term `k` is determined by the variables up to `k`.
pub(crate) fn reverse_cholesky(a: &[f64], n: usize) -> Result<Vec<f64>, SolveError> {
    let mut l: Vec<f64> = a.iter().rev().copied().collect();
    cholesky_in_place(&mut l, n)?;
    l.reverse();
    for i in 0..n {
        l[i * n..i * n + i].fill(0.0);
    }
    Ok(l)
}

/// `x := x L^-1` for `x: [m, n]` and a lower-triangular `l: [n, n]`.
pub(crate) fn undo_right(x: &mut [f64], l: &[f64], m: usize, n: usize) {
    if m * n == 0 {
        return;
    }
    // (x L^-1)^T = L^-T x^T, and L^T is upper triangular.
    let x = MatMut::from_row_major_slice_mut(x, m, n).transpose_mut();
    MatRef::from_row_major_slice(l, n, n).transpose().solve_upper_triangular_in_place(x);
}

/// The singular value decomposition of `a: [m, n]`.
pub(crate) fn thin_svd(a: &[f64], m: usize, n: usize) -> Result<Svd<f64>, SolveError> {
    MatRef::from_row_major_slice(a, m, n)
        .thin_svd()
        .map_err(|e| SolveError::Factorisation { what: "SVD", why: format!("{e:?}") })
}

/// The sum of the squares of a spectrum from `rank` on.
pub(crate) fn tail(spectrum: &[f64], rank: usize) -> f64 {
    spectrum.iter().skip(rank).rev().map(|s| s * s).sum()
}

/// The eigenvalues of a symmetric `a: [n, n]`, ascending.
pub(crate) fn eigenvalues(a: &[f64], n: usize) -> Result<Vec<f64>, SolveError> {
    MatRef::from_row_major_slice(a, n, n)
        .self_adjoint_eigenvalues(faer::Side::Lower)
        .map_err(|e| SolveError::Factorisation { what: "eigenvalues", why: format!("{e:?}") })
}

/// The eigenvectors of a symmetric `a: [n, n]`, of descending eigenvalues, as columns.
pub(crate) fn eigenvectors(a: &[f64], n: usize) -> Result<Vec<f64>, SolveError> {
    let found = MatRef::from_row_major_slice(a, n, n).self_adjoint_eigen(faer::Side::Lower);
    let found =
        found.map_err(|e| SolveError::Factorisation { what: "eigenvectors", why: format!("{e:?}") })?;
    Ok((0..n * n).map(|k| found.U()[(k / n, n - 1 - k % n)]).collect())
}
