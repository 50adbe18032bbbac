//! Folding of constants.

use crate::interpret;
use crate::ir::Op;
use crate::tensor::Tensor;

/// Results of at most this many elements are always folded; larger ones only if they are no larger than all weights together.
pub(super) const MIN_LIMIT: usize = 1 << 20;

/// The results of `op` on constants.
pub(super) fn evaluate(op: &Op, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, String> {
    interpret::evaluate(op, operands).map_err(|e| e.to_string())
}

/// The transpose of a matrix.
pub(super) fn transposed(t: Tensor) -> Result<Tensor, String> {
    let mut results = evaluate(&Op::Transpose { perm: vec![1, 0] }, &[Some(t)])?;
    results.pop().ok_or_else(|| "a transpose has a result".into())
}
