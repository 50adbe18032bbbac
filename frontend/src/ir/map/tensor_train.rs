//! Chains of cores.

use super::error::check_multiplied_out;
use super::{MapError, Part};

/// A matrix in tensor-train form (Oseledets 2011; for layers Novikov et al. 2015, eq. 3).
///
/// Row `i` and column `j` are written in mixed radix, most significant mode first: `i = (i1, .., id)` over `out_modes`,
/// `j = (j1, .., jd)` over `in_modes`. Core `k` is a map of shape `[r(k-1) * out_modes[k], in_modes[k] * r(k)]` whose element
/// `(a * m + i, j * r + b)` is `Gk[a, i, j, b]`; `r(0) = r(d) = 1`. The modes' products may exceed the
/// matrix's dimensions, at most twofold: the rest is cut off. Cores may be quantized, but products with them take f32 vectors.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorTrain {
    pub(super) shape: [usize; 2],
    pub(super) out_modes: Vec<usize>,
    pub(super) in_modes: Vec<usize>,
    pub(super) cores: Vec<Part>,
}

impl TensorTrain {
    /// A tensor train of logical `shape`.
    pub fn new(
        shape: [usize; 2],
        out_modes: Vec<usize>,
        in_modes: Vec<usize>,
        cores: Vec<Part>,
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
            if product.is_none_or(|p| p < size || p > size.saturating_mul(2)) || modes.contains(&0) {
                return Err(wrong(
                    "modes",
                    format!("a product from {size} to twice that"),
                    format!("{modes:?}"),
                ));
            }
        }
        if cores.iter().any(|core| core.has_int8_activations()) {
            return Err(MapError::Nesting {
                outer: "tensor_train",
                inner: "quantized",
                why: "products with cores take f32 vectors, and this one says `activations int8`; leave that out",
            });
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

    /// Radices of the output index, most significant first.
    pub fn out_modes(&self) -> &[usize] {
        &self.out_modes
    }

    /// Radices of the input index, most significant first.
    pub fn in_modes(&self) -> &[usize] {
        &self.in_modes
    }

    /// Cores, each `[r(k-1) * out_modes[k], in_modes[k] * r(k)]`.
    pub fn cores(&self) -> &[Part] {
        &self.cores
    }

    /// `r(0), .., r(d)`; the ends are 1.
    pub fn ranks(&self) -> Vec<usize> {
        let inner =
            self.cores.iter().zip(&self.in_modes).map(|(c, n)| c.matrix_shape().map_or(0, |[_, c]| c / n));
        std::iter::once(1).chain(inner).collect()
    }

    pub(super) fn to_dense(&self) -> Result<Vec<f32>, MapError> {
        // acc: [rows so far, cols so far, rank], contracted core by core from the left.
        let (mut acc, mut rows, mut cols, mut rank) = (vec![1.0f32], 1usize, 1usize, 1usize);
        for (k, core) in self.cores.iter().enumerate() {
            let (m, n) = (self.out_modes[k], self.in_modes[k]);
            let g = core.to_dense()?;
            let g = g.f32s()?;
            let next = core.matrix_shape()?[1] / n;
            check_multiplied_out(&[rows, m, cols, n, next])?;
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
