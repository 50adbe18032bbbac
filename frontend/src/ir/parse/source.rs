//! Sources for the data of tensors given by hash.

use crate::ir::map::Pattern;
use crate::tensor::{DType, Tensor};

/// A tensor whose data is requested.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Weight, parts, tensor: `decoder/values/codes`. A weight's name that is not plain is quoted as in the text form: `"onnx::W"/data`.
    pub path: &'a str,
    /// The dtype it must have.
    pub dtype: DType,
    /// The shape it must have.
    pub shape: &'a [usize],
    /// For the values or codes of a sparse map: which elements are kept. All others must be zero.
    pub kept: Option<Kept<'a>>,
}

/// Which elements of a matrix a sparse map keeps.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The region that a flag of the mask covers.
    pub pattern: Pattern,
    /// The mask, of the shape that [`Pattern::grid`] gives.
    pub mask: &'a [bool],
}

/// Supplies data to [`parse_with`](super::parse_with).
pub trait WeightSource {
    /// The tensor, of exactly the requested dtype and shape. `None` leaves it elided; an error becomes the parser's error.
    fn tensor(&mut self, wanted: &Wanted<'_>) -> Result<Option<Tensor>, String>;

    /// Whether the hashes in the text need not be checked against the data, because a checksum already covers both.
    fn is_trusted(&self) -> bool {
        false
    }
}

/// No data: every tensor given by hash is elided.
#[derive(Clone, Copy, Debug)]
pub struct NoWeights;

impl WeightSource for NoWeights {
    fn tensor(&mut self, _: &Wanted<'_>) -> Result<Option<Tensor>, String> {
        Ok(None)
    }
}
