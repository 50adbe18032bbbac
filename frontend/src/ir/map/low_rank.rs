//! Products of two maps.

use super::{LinearMap, MapError};
use std::sync::Arc;

/// `W = left . right`.
#[derive(Clone, PartialEq, Debug)]
pub struct LowRank {
    pub(super) left: Arc<LinearMap>,
    pub(super) right: Arc<LinearMap>,
}

impl LowRank {
    /// A product. `left`: `[out, rank]`; `right`: `[rank, in]`.
    pub fn new(left: Arc<LinearMap>, right: Arc<LinearMap>) -> Result<LowRank, MapError> {
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
    pub fn left(&self) -> &Arc<LinearMap> {
        &self.left
    }

    /// `[rank, in]`.
    pub fn right(&self) -> &Arc<LinearMap> {
        &self.right
    }

    /// The inner dimension.
    pub fn rank(&self) -> usize {
        self.left.matrix_shape().map_or(0, |[_, r]| r)
    }
}
