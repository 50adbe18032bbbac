//! Masks over dense or quantized values.

use super::{LinearMap, MapError, Part, Quantized, expect_shape, matrix_shape};
use crate::tensor::{DType, Tensor};
use std::fmt;

/// Which positions a sparse map may keep.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pattern {
    /// Blocks of `rows x cols`, aligned to the matrix's corner; those at the far edges may be cut. `1x1` is unstructured.
    Block {
        /// Output units per block.
        rows: usize,
        /// Inputs per block.
        cols: usize,
    },
    /// At most `n` of every `m` consecutive inputs of a row.
    NOfM {
        /// The maximum number kept.
        n: usize,
        /// The group's length.
        m: usize,
    },
}

impl Pattern {
    /// Any position may be kept.
    pub const UNSTRUCTURED: Pattern = Pattern::Block { rows: 1, cols: 1 };

    /// The shape of the mask of a `[rows, cols]` matrix: one flag per block.
    pub fn grid(self, [rows, cols]: [usize; 2]) -> [usize; 2] {
        match self {
            Pattern::Block { rows: r, cols: c } => [rows.div_ceil(r), cols.div_ceil(c)],
            Pattern::NOfM { .. } => [rows, cols],
        }
    }

    /// Rows and columns covered by one flag of the mask.
    pub fn block(self) -> [usize; 2] {
        match self {
            Pattern::Block { rows, cols } => [rows, cols],
            Pattern::NOfM { .. } => [1, 1],
        }
    }

    /// Whether each element of a `[rows, cols]` matrix is kept, row-major, by a mask of [`Pattern::grid`]'s shape.
    pub fn expand(self, [rows, cols]: [usize; 2], mask: &[bool]) -> Vec<bool> {
        let ([r, c], [grid_rows, grid_cols]) = (self.block(), self.grid([rows, cols]));
        let mut out = Vec::with_capacity(rows * cols);
        for bi in 0..grid_rows {
            let start = out.len();
            for bj in 0..grid_cols {
                let width = c.min(cols - bj * c);
                out.extend(std::iter::repeat_n(mask[bi * grid_cols + bj], width));
            }
            for _ in 1..r.min(rows - bi * r) {
                out.extend_from_within(start..start + cols);
            }
        }
        out
    }

    /// The number of elements of a `[rows, cols]` matrix that a mask of [`Pattern::grid`]'s shape keeps.
    pub fn count(self, [rows, cols]: [usize; 2], mask: &[bool]) -> usize {
        let ([r, c], [grid_rows, grid_cols]) = (self.block(), self.grid([rows, cols]));
        let mut kept = 0;
        for bi in 0..grid_rows {
            let height = r.min(rows - bi * r);
            for bj in 0..grid_cols {
                if mask[bi * grid_cols + bj] {
                    kept += height * c.min(cols - bj * c);
                }
            }
        }
        kept
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Pattern::UNSTRUCTURED => f.write_str("unstructured"),
            Pattern::Block { rows, cols } => write!(f, "block {rows}x{cols}"),
            Pattern::NOfM { n, m } => write!(f, "{n}:{m}"),
        }
    }
}

/// A mask over `values`; elements that it drops are zero.
#[derive(Clone, PartialEq, Debug)]
pub struct Sparse {
    pub(super) pattern: Pattern,
    pub(super) mask: Tensor,
    pub(super) values: Part,
    pub(super) kept: Option<usize>,
}

impl Sparse {
    /// A sparse matrix. `mask`: bool, of the shape that [`Pattern::grid`] gives; `values`: dense or quantized `[out, in]`,
    /// whose elements (or codes) outside the mask become zero, so that equal maps have equal data. Values that are
    /// already zero there keep their part's identity.
    pub fn new(pattern: Pattern, mask: Tensor, values: Part) -> Result<Sparse, MapError> {
        let shape = values.matrix_shape()?;
        if !matches!(&*values, LinearMap::Dense(_) | LinearMap::Quantized(_)) {
            return Err(MapError::Nesting {
                outer: "sparse",
                inner: values.kind(),
                why: "a mask applies to single weights, so the values must be dense or quantized",
            });
        }
        match pattern {
            Pattern::Block { rows, cols } if rows == 0 || cols == 0 => {
                return Err(MapError::Shape {
                    what: "block",
                    expected: "at least 1x1".into(),
                    found: format!("{rows}x{cols}"),
                });
            }
            Pattern::NOfM { n, m } if n == 0 || n > m => {
                return Err(MapError::Shape {
                    what: "n:m pattern",
                    expected: "1 <= n <= m".into(),
                    found: format!("{n}:{m}"),
                });
            }
            _ => {}
        }
        let grid = pattern.grid(shape);
        expect_shape("mask", matrix_shape("mask", &mask, &[DType::Bool])?, grid)?;
        if let (Pattern::NOfM { n, m }, false) = (pattern, mask.is_elided()) {
            for row in mask.bools()?.chunks(grid[1].max(1)) {
                if row.chunks(m).any(|group| group.iter().filter(|&&k| k).count() > n) {
                    return Err(MapError::Shape {
                        what: "mask",
                        expected: format!("at most {n} of every {m} kept"),
                        found: "more".into(),
                    });
                }
            }
        }
        if mask.is_elided() {
            return Ok(Sparse { pattern, mask, values, kept: None });
        }
        let kept = pattern.count(shape, mask.bools()?);
        let values = match &*values {
            LinearMap::Dense(t) if !t.is_elided() => masked(t, pattern, shape, &mask)?.map(LinearMap::Dense),
            LinearMap::Quantized(q) if !q.codes.is_elided() => masked(&q.codes, pattern, shape, &mask)?
                .map(|codes| LinearMap::Quantized(Quantized { codes, ..q.clone() })),
            _ => None,
        }
        .map_or(values, Part::new);
        Ok(Sparse { pattern, mask, values, kept: Some(kept) })
    }

    /// Which positions may be kept.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// bool, one flag per block: true is kept.
    pub fn mask(&self) -> &Tensor {
        &self.mask
    }

    /// Dense or quantized, `[out, in]`.
    pub fn values(&self) -> &Part {
        &self.values
    }

    /// Whether each element of the matrix is kept, row-major `[out, in]`.
    pub fn element_mask(&self) -> Result<Vec<bool>, MapError> {
        Ok(self.pattern.expand(self.values.matrix_shape()?, self.mask.bools()?))
    }

    /// The number of elements kept, or `None` if neither the mask's data nor its count is available.
    pub fn kept(&self) -> Option<usize> {
        self.kept
    }

    /// Sets how many elements a mask without data keeps; does nothing if the mask has data.
    pub fn with_kept(mut self, kept: usize) -> Sparse {
        self.kept = self.kept.or(Some(kept));
        self
    }
}

/// `t` with zeros where the mask keeps nothing; `None` if it already has them.
fn masked(
    t: &Tensor,
    pattern: Pattern,
    shape: [usize; 2],
    mask: &Tensor,
) -> Result<Option<Tensor>, MapError> {
    let (mask, size) = (pattern.expand(shape, mask.bools()?), t.dtype().size());
    let mut bytes = t.to_le_bytes()?;
    let mut changed = false;
    for (element, _) in bytes.chunks_mut(size).zip(&mask).filter(|(_, kept)| !**kept) {
        changed |= element.iter().any(|&b| b != 0);
        element.fill(0);
    }
    Ok(if changed { Some(Tensor::from_le_bytes(t.dtype(), shape, &bytes)?) } else { None })
}
