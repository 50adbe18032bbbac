//! Linear maps: how a weight is represented. Compressing a model is changing representations.
//!
//! ```text
//! LinearMap = Dense(tensor)                       y = W x, W: [out, in]
//!           | Quantized { codes, scales, .. }     w = scale * (code - zero point), per row or per group along `in`
//!           | Sparse { mask, values }             values is again a map; what the mask drops is zero and not stored
//!           | LowRank { left, right }             W = left . right; each side again a map
//!           | TensorTrain { cores, modes }        W[(i1..id), (j1..jd)] = G1[i1, j1] . G2[i2, j2] ... Gd[id, jd]
//! ```
//!
//! Children sit behind [`Arc`]s. Two maps that hold the *same* `Arc` share it: it is stored, printed and counted
//! once (an LSTM cell whose input and recurrent maps have one left factor). A bias or any other constant is a
//! `Dense` tensor of whatever rank: there is no second kind of weight.
//!
//! In memory codes take a byte each and a sparse map's values keep their full shape, which keeps every pass simple;
//! what the container stores is packed, see [`super::store`], and all sizes reported are of that.

use crate::tensor::{DType, Tensor, TensorError};
use std::fmt;
use std::sync::Arc;

/// A weight in one of five representations. Logical shape `[out, in]` but for `Dense` constants of other ranks.
#[derive(Clone, PartialEq, Debug)]
pub enum LinearMap {
    /// The matrix itself, or a constant of any rank.
    Dense(Tensor),
    /// Integer codes and scales.
    Quantized(Quantized),
    /// A mask and the values it keeps.
    Sparse(Sparse),
    /// A product of two maps.
    LowRank(LowRank),
    /// A chain of cores.
    TensorTrain(TensorTrain),
}

/// What one scale covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granularity {
    /// A row: one output unit.
    Row,
    /// This many consecutive inputs of a row; the last group of a row may be shorter.
    Group(usize),
}

impl Granularity {
    /// Inputs per scale for rows of `cols`.
    pub fn group_size(self, cols: usize) -> usize {
        match self {
            Granularity::Row => cols.max(1),
            Granularity::Group(n) => n,
        }
    }

    /// Scales per row of `cols`.
    pub fn groups(self, cols: usize) -> usize {
        cols.div_ceil(self.group_size(cols))
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Row => f.write_str("row"),
            Granularity::Group(n) => write!(f, "group {n}"),
        }
    }
}

/// `w[i][j] = scales[i][g] * (codes[i][j] - zero_points[i][g])`, where `g = j / group size`.
#[derive(Clone, PartialEq, Debug)]
pub struct Quantized {
    bits: u8,
    granularity: Granularity,
    codes: Tensor,
    scales: Tensor,
    zero_points: Option<Tensor>,
}

impl Quantized {
    /// The widths that can be stored, in bits.
    pub const BITS: [u8; 4] = [2, 3, 4, 8];

    /// A quantized matrix.
    ///
    /// `codes`: i8 `[out, in]` in `[-2^(bits-1), 2^(bits-1) - 1]`; `scales`: f32 or f16 `[out, groups]`, finite;
    /// `zero_points`: i8 `[out, groups]` in the range of the codes, or none for symmetric codes.
    pub fn new(
        bits: u8,
        granularity: Granularity,
        codes: Tensor,
        scales: Tensor,
        zero_points: Option<Tensor>,
    ) -> Result<Quantized, MapError> {
        if !Self::BITS.contains(&bits) {
            return Err(MapError::Bits { bits });
        }
        if granularity == Granularity::Group(0) {
            return Err(MapError::Shape {
                what: "group size",
                expected: "at least 1".into(),
                found: "0".into(),
            });
        }
        let [rows, cols] = matrix_shape("codes", &codes, &[DType::I8])?;
        let groups = granularity.groups(cols);
        expect_shape("scales", matrix_shape("scales", &scales, &[DType::F32, DType::F16])?, [rows, groups])?;
        let range = Self::range(bits);
        if let Some(z) = &zero_points {
            expect_shape("zero points", matrix_shape("zero points", z, &[DType::I8])?, [rows, groups])?;
            if !z.is_elided() && z.i8s()?.iter().any(|c| !range.contains(c)) {
                return Err(MapError::Code { what: "zero point", bits });
            }
        }
        if !codes.is_elided() && bits < 8 && codes.i8s()?.iter().any(|c| !range.contains(c)) {
            return Err(MapError::Code { what: "code", bits });
        }
        if !scales.is_elided() && scales.to_f32()?.iter().any(|s| !s.is_finite()) {
            return Err(MapError::NotFinite { what: "scales" });
        }
        Ok(Quantized { bits, granularity, codes, scales, zero_points })
    }

    /// The codes of `bits` bits.
    pub fn range(bits: u8) -> std::ops::RangeInclusive<i8> {
        let half = 1i16 << (bits - 1);
        (-half) as i8..=(half - 1) as i8
    }

    /// Bits per code.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// What one scale covers.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// i8 `[out, in]`.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// f32 or f16 `[out, groups]`.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// i8 `[out, groups]`; none means zero.
    pub fn zero_points(&self) -> Option<&Tensor> {
        self.zero_points.as_ref()
    }

    fn to_dense(&self) -> Result<Vec<f32>, MapError> {
        let [rows, cols] = [self.codes.shape()[0], self.codes.shape()[1]];
        let (codes, scales) = (self.codes.i8s()?, self.scales.to_f32()?);
        let zeros = self.zero_points.as_ref().map(|z| z.i8s()).transpose()?;
        let (size, groups) = (self.granularity.group_size(cols), self.granularity.groups(cols));
        let mut out = Vec::with_capacity(rows * cols);
        for i in 0..rows {
            for (g, group) in codes[i * cols..(i + 1) * cols].chunks(size).enumerate() {
                let scale = scales[i * groups + g];
                let zero = zeros.map_or(0, |z| i32::from(z[i * groups + g]));
                out.extend(group.iter().map(|&c| scale * (i32::from(c) - zero) as f32));
            }
        }
        Ok(out)
    }
}

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
        /// Kept at most.
        n: usize,
        /// Group length.
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

/// A mask over `values`; what it drops is zero.
#[derive(Clone, PartialEq, Debug)]
pub struct Sparse {
    pattern: Pattern,
    mask: Tensor,
    values: Arc<LinearMap>,
    kept: Option<usize>,
}

impl Sparse {
    /// A sparse matrix. `mask`: bool, of the shape that [`Pattern::grid`] says; `values`: dense or quantized `[out, in]`,
    /// whose elements (or codes) outside of the mask become zero, so that equal maps have equal data. Values that are
    /// zero there already keep their `Arc`.
    pub fn new(pattern: Pattern, mask: Tensor, values: Arc<LinearMap>) -> Result<Sparse, MapError> {
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
        .map_or(values, Arc::new);
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
    pub fn values(&self) -> &Arc<LinearMap> {
        &self.values
    }

    /// Whether each element of the matrix is kept, row-major `[out, in]`.
    pub fn element_mask(&self) -> Result<Vec<bool>, MapError> {
        Ok(self.pattern.expand(self.values.matrix_shape()?, self.mask.bools()?))
    }

    /// The number of elements kept, or `None` where neither the mask's data nor its count is at hand.
    pub fn kept(&self) -> Option<usize> {
        self.kept
    }

    /// Says how many elements a mask without data keeps; does nothing where the mask has data.
    pub fn with_kept(mut self, kept: usize) -> Sparse {
        self.kept = self.kept.or(Some(kept));
        self
    }
}

/// `t` with zeros where the mask keeps nothing; none where it is so already.
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

/// `W = left . right`.
#[derive(Clone, PartialEq, Debug)]
pub struct LowRank {
    left: Arc<LinearMap>,
    right: Arc<LinearMap>,
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

/// A matrix in tensor-train form (Oseledets 2011; for layers Novikov et al. 2015, eq. 3).
///
/// Row `i` and column `j` are written in mixed radix, first mode most significant: `i = (i1, .., id)` over `out_modes`,
/// `j = (j1, .., jd)` over `in_modes`. Core `k` is a map of shape `[r(k-1) * out_modes[k], in_modes[k] * r(k)]` whose element
/// `(a * m + i, j * r + b)` is `Gk[a, i, j, b]`; `r(0) = r(d) = 1`. The modes' products may exceed the matrix: the rest is cut.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorTrain {
    shape: [usize; 2],
    out_modes: Vec<usize>,
    in_modes: Vec<usize>,
    cores: Vec<Arc<LinearMap>>,
}

impl TensorTrain {
    /// A tensor train of logical `shape`.
    pub fn new(
        shape: [usize; 2],
        out_modes: Vec<usize>,
        in_modes: Vec<usize>,
        cores: Vec<Arc<LinearMap>>,
    ) -> Result<TensorTrain, MapError> {
        let wrong = |what, expected: String, found: String| MapError::Shape { what, expected, found };
        if cores.is_empty() || out_modes.len() != cores.len() || in_modes.len() != cores.len() {
            return Err(wrong(
                "modes",
                "one output and one input mode per core, at least one core".into(),
                format!("{} and {} modes for {} cores", out_modes.len(), in_modes.len(), cores.len()),
            ));
        }
        for (modes, size) in [(&out_modes, shape[0]), (&in_modes, shape[1])] {
            let product = modes.iter().try_fold(1usize, |n, &m| n.checked_mul(m));
            if product.is_none_or(|p| p < size) || modes.contains(&0) {
                return Err(wrong("modes", format!("a product of at least {size}"), format!("{modes:?}")));
            }
        }
        let mut rank = 1usize;
        for (k, core) in cores.iter().enumerate() {
            let [r, c] = core.matrix_shape()?;
            if rank.checked_mul(out_modes[k]) != Some(r) || c % in_modes[k] != 0 {
                return Err(wrong(
                    "core",
                    format!("[{rank} * {}, {} * rank]", out_modes[k], in_modes[k]),
                    format!("[{r}, {c}] for core {k}"),
                ));
            }
            rank = c / in_modes[k];
        }
        if rank != 1 {
            return Err(wrong("last core", "rank 1 to the right".into(), format!("rank {rank}")));
        }
        Ok(TensorTrain { shape, out_modes, in_modes, cores })
    }

    /// Logical `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Radices of the output index, first most significant.
    pub fn out_modes(&self) -> &[usize] {
        &self.out_modes
    }

    /// Radices of the input index, first most significant.
    pub fn in_modes(&self) -> &[usize] {
        &self.in_modes
    }

    /// Cores, each `[r(k-1) * out_modes[k], in_modes[k] * r(k)]`.
    pub fn cores(&self) -> &[Arc<LinearMap>] {
        &self.cores
    }

    /// `r(0), .., r(d)`; the ends are 1.
    pub fn ranks(&self) -> Vec<usize> {
        let inner =
            self.cores.iter().zip(&self.in_modes).map(|(c, n)| c.matrix_shape().map_or(0, |[_, c]| c / n));
        std::iter::once(1).chain(inner).collect()
    }

    fn to_dense(&self) -> Result<Vec<f32>, MapError> {
        // acc: [rows so far, cols so far, rank], contracted core by core from the left.
        let (mut acc, mut rows, mut cols, mut rank) = (vec![1.0f32], 1usize, 1usize, 1usize);
        for (k, core) in self.cores.iter().enumerate() {
            let (m, n) = (self.out_modes[k], self.in_modes[k]);
            let g = core.to_dense()?;
            let g = g.f32s()?;
            let next = core.matrix_shape()?[1] / n;
            let mut out = vec![0.0f32; rows * m * cols * n * next];
            for i in 0..rows {
                for im in 0..m {
                    for j in 0..cols {
                        for a in 0..rank {
                            let x = acc[(i * cols + j) * rank + a];
                            for jn in 0..n {
                                let to = ((i * m + im) * (cols * n) + j * n + jn) * next;
                                let from = (a * m + im) * (n * next) + jn * next;
                                for b in 0..next {
                                    out[to + b] += x * g[from + b];
                                }
                            }
                        }
                    }
                }
            }
            (acc, rows, cols, rank) = (out, rows * m, cols * n, next);
        }
        Ok(acc
            .chunks(cols.max(1))
            .take(self.shape[0])
            .flat_map(|r| r[..self.shape[1]].iter().copied())
            .collect())
    }
}

impl LinearMap {
    /// The representation's name, as the text form spells it.
    pub fn kind(&self) -> &'static str {
        match self {
            LinearMap::Dense(_) => "dense",
            LinearMap::Quantized(_) => "quantized",
            LinearMap::Sparse(_) => "sparse",
            LinearMap::LowRank(_) => "low_rank",
            LinearMap::TensorTrain(_) => "tensor_train",
        }
    }

    /// The logical dimensions.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            LinearMap::Dense(t) => t.shape().to_vec(),
            LinearMap::Quantized(q) => q.codes.shape().to_vec(),
            LinearMap::Sparse(s) => s.values.shape(),
            LinearMap::LowRank(l) => vec![l.left.shape()[0], l.right.shape()[1]],
            LinearMap::TensorTrain(t) => t.shape.to_vec(),
        }
    }

    /// `[out, in]`, or an error for a constant of another rank.
    pub fn matrix_shape(&self) -> Result<[usize; 2], MapError> {
        let shape = self.shape();
        <[usize; 2]>::try_from(shape.as_slice()).map_err(|_| MapError::Shape {
            what: "map",
            expected: "a matrix".into(),
            found: format!("rank {}", shape.len()),
        })
    }

    /// What an element is to a reader: the tensor's dtype where dense, f32 otherwise.
    pub fn dtype(&self) -> DType {
        match self {
            LinearMap::Dense(t) => t.dtype(),
            _ => DType::F32,
        }
    }

    /// The matrix this map stands for, as a dense f32 tensor (of the same dtype where it is a constant that is not f16).
    pub fn to_dense(&self) -> Result<Tensor, MapError> {
        let shape = self.shape();
        Ok(match self {
            LinearMap::Dense(t) if t.dtype() == DType::F16 => Tensor::from_f32(shape, t.to_f32()?.to_vec())?,
            LinearMap::Dense(t) => {
                if t.is_elided() {
                    t.to_f32()?;
                }
                t.clone()
            }
            LinearMap::Quantized(q) => Tensor::from_f32(shape, q.to_dense()?)?,
            LinearMap::Sparse(s) => {
                let values = s.values.to_dense()?;
                let mask = s.element_mask()?;
                let kept = values.f32s()?.iter().zip(&mask).map(|(&v, &k)| if k { v } else { 0.0 });
                Tensor::from_f32(shape, kept.collect())?
            }
            LinearMap::LowRank(l) => {
                let (left, right) = (l.left.to_dense()?, l.right.to_dense()?);
                let (m, k, n) = (shape[0], l.rank(), shape[1]);
                let mut out = vec![0.0f32; m * n];
                crate::product::multiply(m, k, n, left.f32s()?, right.f32s()?, &mut out);
                Tensor::from_f32(shape, out)?
            }
            LinearMap::TensorTrain(t) => Tensor::from_f32(shape, t.to_dense()?)?,
        })
    }

    /// Numbers stored: weights, codes or factors' elements that are kept; scales and indices are not parameters.
    pub fn parameters(&self) -> usize {
        match self {
            LinearMap::Dense(t) => t.len(),
            LinearMap::Quantized(q) => q.codes.len(),
            LinearMap::Sparse(s) => s.kept().unwrap_or_else(|| s.values.parameters()),
            LinearMap::LowRank(l) => l.left.parameters() + l.right.parameters(),
            LinearMap::TensorTrain(t) => t.cores.iter().map(|c| c.parameters()).sum(),
        }
    }

    /// Multiply-adds of one product with a vector.
    pub fn multiply_adds(&self) -> usize {
        match self {
            LinearMap::TensorTrain(t) => t.multiply_adds(),
            LinearMap::LowRank(l) => l.left.multiply_adds() + l.right.multiply_adds(),
            _ => self.parameters(),
        }
    }

    /// The maps directly inside this one, each with the name that its path uses.
    pub fn children(&self) -> Vec<(String, &Arc<LinearMap>)> {
        match self {
            LinearMap::Dense(_) | LinearMap::Quantized(_) => vec![],
            LinearMap::Sparse(s) => vec![("values".into(), &s.values)],
            LinearMap::LowRank(l) => vec![("left".into(), &l.left), ("right".into(), &l.right)],
            LinearMap::TensorTrain(t) => {
                t.cores.iter().enumerate().map(|(k, c)| (format!("core{k}"), c)).collect()
            }
        }
    }

    /// The tensors directly inside this one, each with the name that its path uses.
    pub fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            LinearMap::Dense(t) => vec![("data", t)],
            LinearMap::Quantized(q) => {
                let mut all = vec![("codes", &q.codes), ("scales", &q.scales)];
                all.extend(q.zero_points.as_ref().map(|z| ("zero_points", z)));
                all
            }
            LinearMap::Sparse(s) => vec![("mask", &s.mask)],
            LinearMap::LowRank(_) | LinearMap::TensorTrain(_) => vec![],
        }
    }

    /// Whether any tensor inside lacks its data.
    pub fn is_elided(&self) -> bool {
        self.tensors().iter().any(|(_, t)| t.is_elided())
            || self.children().iter().any(|(_, c)| c.is_elided())
    }
}

impl TensorTrain {
    /// Multiply-adds of a product with a vector, contracting the cores from the last to the first.
    ///
    /// Before core `k` the buffer is `[n1 .. nk, (rk), m(k+1) .. md]`; the core turns `nk * rk` into `r(k-1) * mk`.
    pub fn multiply_adds(&self) -> usize {
        let ranks = self.ranks();
        let mut total = 0usize;
        for k in (0..self.cores.len()).rev() {
            let before: usize = self.in_modes[..k].iter().product();
            let after: usize = self.out_modes[k + 1..].iter().product();
            let core = ranks[k] * self.out_modes[k] * self.in_modes[k] * ranks[k + 1];
            total = total.saturating_add(before.saturating_mul(after).saturating_mul(core));
        }
        total
    }
}

impl From<Tensor> for LinearMap {
    fn from(t: Tensor) -> LinearMap {
        LinearMap::Dense(t)
    }
}

fn matrix_shape(what: &'static str, t: &Tensor, dtypes: &[DType]) -> Result<[usize; 2], MapError> {
    if !dtypes.contains(&t.dtype()) {
        let expected = dtypes.iter().map(|d| d.name()).collect::<Vec<_>>().join(" or ");
        return Err(MapError::Shape { what, expected, found: t.dtype().to_string() });
    }
    <[usize; 2]>::try_from(t.shape()).map_err(|_| MapError::Shape {
        what,
        expected: "a matrix".into(),
        found: format!("shape {:?}", t.shape()),
    })
}

fn expect_shape(what: &'static str, found: [usize; 2], expected: [usize; 2]) -> Result<(), MapError> {
    if found == expected {
        return Ok(());
    }
    Err(MapError::Shape { what, expected: format!("{expected:?}"), found: format!("{found:?}") })
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
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A width that cannot be stored.
    #[error("{bits} bits per code: expected one of 2, 3, 4, 8")]
    Bits {
        /// The width asked for.
        bits: u8,
    },
    /// A code outside of its width.
    #[error("a {what} does not fit in {bits} bits")]
    Code {
        /// Code or zero point.
        what: &'static str,
        /// The width.
        bits: u8,
    },
    /// NaN or infinity where a number is needed.
    #[error("{what}: expected finite numbers, found NaN or infinity")]
    NotFinite {
        /// The part.
        what: &'static str,
    },
    /// Representations that cannot be nested so.
    #[error("a {outer} map cannot hold a {inner} one: {why}")]
    Nesting {
        /// The outer representation.
        outer: &'static str,
        /// The inner representation.
        inner: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// A tensor inside could not be read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
