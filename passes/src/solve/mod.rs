//! Numeric solvers behind the lossy passes: pure functions of matrices, which do not depend on graphs.
//!
//! Every weight is a row-major f32 matrix `W: [out, in]`; the inputs are described by a [`Hessian`] `H = E[x x^T]`. The measure that
//! every solver minimises and reports is the mean squared error of the layer's outputs,
//!
//! ```text
//!   E |W x - V x|^2  =  sum over rows i of  (W_i - V_i) H (W_i - V_i)^T
//! ```
//!
//! which splits over rows: a weight per row (the loss's sensitivity to an error of that output) changes nothing inside a row, only how
//! rows compete for rank or for positions in a mask.
//!
//! ```text
//!   quantize       codes and scales: nearest, or error feedback (GPTQ), then descent on codes and scales
//!   prune          scores -> mask -> least squares for the kept weights; SparseGPT; alternating projections
//!   low_rank       whitened SVD and its spectrum, the curve of error by rank
//!   tensor_train   TT-SVD with chosen or automatic modes
//!   allocate       a budget distributed over several maps by their curves
//! ```
//!
//! Everything is deterministic: rows are solved in parallel but never summed in an order that depends on threads.

pub mod allocate;
pub(crate) mod factor;
mod hessian;
pub mod low_rank;
pub mod prune;
pub mod quantize;
pub mod rate;
#[cfg(test)]
mod samples;
pub mod tensor_train;

pub use hessian::Hessian;

/// Why a solver refused its input.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// A slice whose length does not match its shape.
    #[error("{what}: expected {expected} numbers, found {found}")]
    Length {
        /// The slice.
        what: &'static str,
        /// The length that the other arguments require.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// NaN or infinity where a number is needed.
    #[error("{what}: expected finite numbers, found NaN or infinity")]
    NotFinite {
        /// The slice.
        what: &'static str,
    },
    /// An option outside its range.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its valid values.
        expected: String,
        /// Its value.
        found: String,
    },
    /// A factorisation that failed.
    #[error("{what} failed: {why}; a larger damping helps where inputs are few or constant")]
    Factorisation {
        /// The factorisation.
        what: &'static str,
        /// The message of the linear algebra library.
        why: String,
    },
}

/// Refuses a slice of another length than `expected`.
pub(crate) fn expect_length(what: &'static str, found: usize, expected: usize) -> Result<(), SolveError> {
    if found == expected { Ok(()) } else { Err(SolveError::Length { what, expected, found }) }
}

/// Refuses NaN and infinity.
pub(crate) fn expect_finite<T: Copy + Into<f64>>(what: &'static str, values: &[T]) -> Result<(), SolveError> {
    if values.iter().all(|&v| v.into().is_finite()) { Ok(()) } else { Err(SolveError::NotFinite { what }) }
}

/// Refuses a matrix of the wrong length or with NaN or infinity in it.
pub(crate) fn expect_matrix(
    what: &'static str,
    w: &[f32],
    [rows, cols]: [usize; 2],
) -> Result<(), SolveError> {
    expect_length(what, w.len(), rows * cols)?;
    expect_finite(what, w)
}

/// Row weights of `rows` rows; those below a millionth of the largest are raised to it, so that every row can be recovered.
pub(crate) fn floored(weights: &[f64], rows: usize) -> Result<Vec<f64>, SolveError> {
    expect_length("row weights", weights.len(), rows)?;
    expect_finite("row weights", weights)?;
    let most = weights.iter().fold(0.0f64, |m, &x| m.max(x));
    let floor = if most > 0.0 { most * 1e-6 } else { 1.0 };
    Ok(weights.iter().map(|x| x.max(floor)).collect())
}

/// Mean squared output error of each row, `(W_i - V_i) H (W_i - V_i)^T`; with no `H`, the squared distance of the rows.
///
/// `w`, `v`: `[rows, cols]`, where `cols` is the size of `h`.
///
/// ```
/// use lstmc_passes::solve::{row_errors, Hessian};
/// let h = Hessian::diagonal(&[4.0, 1.0]).unwrap();
/// assert_eq!(row_errors(&[1.0, 2.0], &[0.5, 2.0], [1, 2], Some(&h)).unwrap(), [1.0]);
/// ```
pub fn row_errors(
    w: &[f32],
    v: &[f32],
    shape: [usize; 2],
    h: Option<&Hessian>,
) -> Result<Vec<f64>, SolveError> {
    let [rows, cols] = shape;
    expect_length("w", w.len(), rows * cols)?;
    expect_length("v", v.len(), rows * cols)?;
    let delta: Vec<f64> = w.iter().zip(v).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect();
    Ok(match h {
        None => delta.chunks(cols.max(1)).map(|d| d.iter().map(|x| x * x).sum()).collect(),
        Some(h) => {
            h.expect_size(cols)?;
            let dh = h.apply(&delta, rows);
            delta.chunks(cols).zip(dh.chunks(cols)).map(|(a, b)| factor::dot(a, b)).collect()
        }
    })
}
