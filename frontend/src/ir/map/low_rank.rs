//! Products of two maps.

use super::{MapError, Part};

/// `W = left . right`.
#[derive(Clone, PartialEq, Debug)]
pub struct LowRank {
    pub(super) left: Part,
    pub(super) right: Part,
}

impl LowRank {
    /// A product. `left`: `[out, rank]`; `right`: `[rank, in]`.
    pub fn new(left: Part, right: Part) -> Result<LowRank, MapError> {
        let ([_, a], [b, _]) = (left.matrix_shape()?, right.matrix_shape()?);
        if a != b {
            return Err(MapError::Shape {
                what: "right factor",
                expected: format!("{a} rows, the rank of the left factor"),
                found: format!("{b}"),
            });
        }
        Ok(LowRank { left, right })
    }

    /// `[out, rank]`.
    pub fn left(&self) -> &Part {
        &self.left
    }

    /// `[rank, in]`.
    pub fn right(&self) -> &Part {
        &self.right
    }

    /// The inner dimension.
    pub fn rank(&self) -> usize {
        self.left.matrix_shape().map_or(0, |[_, r]| r)
    }
}
