//! What can be wrong with a map.

use super::CodeFormat;
use crate::tensor::TensorError;

/// Elements of the largest matrix that factors or cores are multiplied out to: 1 GiB of f32. Kilobytes of factors may represent terabytes.
pub const MAX_MULTIPLIED_OUT: usize = 1 << 28;

/// Refuses a product of `dimensions` above [`MAX_MULTIPLIED_OUT`].
pub(super) fn check_multiplied_out(dimensions: &[usize]) -> Result<(), MapError> {
    let elements = dimensions.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    if elements > MAX_MULTIPLIED_OUT {
        return Err(MapError::TooLarge { elements });
    }
    Ok(())
}

/// Why a map could not be made or read.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A part has the wrong shape or dtype.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// The part.
        what: &'static str,
        /// The required shape or dtype.
        expected: String,
        /// The shape or dtype found.
        found: String,
    },
    /// A code that exceeds its width.
    #[error("a {what} does not fit in {} bits", format.bits())]
    Code {
        /// Code or zero point.
        what: &'static str,
        /// The width.
        format: CodeFormat,
    },
    /// NaN or infinity where a number is needed.
    #[error("{what}: expected finite numbers, found NaN or infinity")]
    NotFinite {
        /// The part.
        what: &'static str,
    },
    /// Representations that cannot be nested this way.
    #[error("a {outer} map cannot hold a {inner} one: {why}")]
    Nesting {
        /// The outer representation.
        outer: &'static str,
        /// The inner representation.
        inner: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// Factors or cores that represent a matrix too large to multiply out.
    #[error(
        "multiplied out it has {elements} elements, of at most {MAX_MULTIPLIED_OUT}; use a smaller matrix, or store it dense"
    )]
    TooLarge {
        /// Elements of the matrix, or of an intermediate product.
        elements: usize,
    },
    /// A tensor inside could not be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
