//! Maps side by side as one matrix, so that each block and group of inputs is within one map.

use crate::pass::PassError;
use crate::quantize::requantized;
use crate::sites::dense_map;
use crate::solve::prune::period;
use crate::solve::{Hessian, SolveError};
use lstmc_frontend::ir::{LinearMap, MapError, Pattern, Quantized, Sparse};
use lstmc_frontend::tensor::Tensor;

/// `[W1 0 W2 0 ..]`: the columns of each map are zero-padded to a multiple of the pattern's period.
pub(super) struct Stack {
    pub(super) w: Vec<f32>, // [rows, width]
    pub(super) shape: [usize; 2],
    parts: Vec<Part>,
    period: usize,
}

/// One of the maps.
struct Part {
    name: String,
    start: usize,
    cols: usize,
    /// The codes that it had, which its kept weights will have again.
    codes: Option<Quantized>,
}

/// The codes of a quantized map, or of a sparse one's values.
fn codes(map: &LinearMap) -> Option<Quantized> {
    match map {
        LinearMap::Quantized(q) => Some(q.clone()),
        LinearMap::Sparse(s) => codes(s.values()),
        _ => None,
    }
}

impl Stack {
    pub(super) fn new(maps: &[(&str, &LinearMap)], pattern: Pattern) -> Result<Stack, PassError> {
        let period = period(pattern);
        let rows = maps[0].1.shape()[0];
        let mut parts = vec![];
        let mut width = 0usize;
        for (k, (name, map)) in maps.iter().enumerate() {
            let cols = map.shape()[1];
            parts.push(Part { name: name.to_string(), start: width, cols, codes: codes(map) });
            // The last map needs no padding: patterns may be cut at the edge.
            width += if k + 1 < maps.len() { cols.div_ceil(period) * period } else { cols };
        }
        let mut w = vec![0.0; rows * width];
        for ((name, map), part) in maps.iter().zip(&parts) {
            let dense = dense_map(name, map)?;
            for (to, from) in w.chunks_mut(width).zip(dense.chunks(part.cols)) {
                to[part.start..part.start + part.cols].copy_from_slice(from);
            }
        }
        Ok(Stack { w, shape: [rows, width], parts, period })
    }

    /// A second moment of the maps' inputs, with unrelated inputs for the zero padding.
    pub(super) fn pad(&self, h: &Hessian) -> Result<Hessian, SolveError> {
        let [_, width] = self.shape;
        if h.size() == width {
            return Ok(h.clone());
        }
        let to: Vec<usize> = self.parts.iter().flat_map(|p| p.start..p.start + p.cols).collect();
        let n = h.size();
        let mean = h.diagonal_values().iter().sum::<f64>() / n.max(1) as f64;
        let mut out = vec![0.0; width * width];
        (0..width).for_each(|k| out[k * width + k] = mean);
        for (i, &a) in to.iter().enumerate() {
            for (j, &b) in to.iter().enumerate() {
                out[a * width + b] = h.as_slice()[i * n + j];
            }
        }
        Hessian::new(&out, width, 1.0, 0.0)
    }

    /// The multiple of the period nearest to `columns`, at least one.
    pub(super) fn step(&self, columns: usize) -> usize {
        (columns / self.period).max(1) * self.period
    }

    /// A mask over the stack and its weights, as one sparse map per part. `h`: the second moment of the stack's inputs.
    pub(super) fn maps(
        &self,
        pattern: Pattern,
        mask: &[bool],
        values: &[f32],
        h: Option<&Hessian>,
    ) -> Result<Vec<LinearMap>, PassError> {
        let [rows, width] = self.shape;
        let [grid_rows, grid_cols] = pattern.grid(self.shape);
        let [_, block_cols] = pattern.block();
        let sparse = |&Part { start, cols, .. }: &Part| -> Result<LinearMap, MapError> {
            let first = start / block_cols;
            let [_, own_cols] = pattern.grid([rows, cols]);
            let flags =
                (0..grid_rows).flat_map(|i| &mask[i * grid_cols + first..i * grid_cols + first + own_cols]);
            let flags = Tensor::from_bool([grid_rows, own_cols], flags.copied().collect())?;
            let values = (0..rows).flat_map(|i| &values[i * width + start..i * width + start + cols]);
            let values = Tensor::from_f32([rows, cols], values.copied().collect())?;
            Ok(LinearMap::Sparse(Sparse::new(pattern, flags, values.into())?))
        };
        let map = |part: &Part| {
            let map = sparse(part).map_err(|source| PassError::Map { weight: part.name.clone(), source })?;
            let h = h.map(|h| h.slice(part.start..part.start + part.cols));
            match &part.codes {
                Some(codes) => requantized(map, codes, h.as_ref(), &part.name),
                None => Ok(map),
            }
        };
        self.parts.iter().map(map).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lstmc_frontend::ir::arbitrary::{Kind, random_map};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stack_comes_apart_again(rows in 1usize..6, a in 1usize..9, b in 1usize..9, r in 1usize..4, c in 1usize..4, seed in 0u64..100) {
            let maps = [random_map(Kind::Dense, [rows, a], seed), random_map(Kind::Dense, [rows, b], seed + 1)];
            let pattern = Pattern::Block { rows: r, cols: c };
            let stack = Stack::new(&[("a", &maps[0]), ("b", &maps[1])], pattern).unwrap();
            let [grid_rows, grid_cols] = pattern.grid(stack.shape);
            let all = stack.maps(pattern, &vec![true; grid_rows * grid_cols], &stack.w, None).unwrap();
            for (map, old) in all.iter().zip(&maps) {
                let (new, old) = (map.to_dense().unwrap(), old.to_dense().unwrap());
                prop_assert_eq!(new.f32s().unwrap(), old.f32s().unwrap());
            }
            let h = stack.pad(&Hessian::identity(a + b)).unwrap();
            prop_assert_eq!(h.size(), stack.shape[1]);
        }
    }
}
