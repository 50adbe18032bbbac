//! Leaves in codes of a fixed number of bits: scales per row or group, GPTQ and descent.

use super::sum::{Errors, Leaves, Stacked, SumError};
use crate::solve::quantize::{QuantizeOptions, QuantizedMatrix, quantize_watched};
use crate::solve::{Hessian, SolveError};
use crate::watch::Steps;
use half::f16;
use lstmc_frontend::ir::{Granularity, LinearMap, Part, Quantized};
use lstmc_frontend::tensor::Tensor;
use std::ops::Range;

/// Solves leaves and counts their rows.
pub(super) struct Bits<'s> {
    pub(super) options: QuantizeOptions,
    pub(super) steps: Steps<'s>,
}

impl Leaves for Bits<'_> {
    fn solve(&self, stacked: &Stacked<'_>, errors: Errors<'_>) -> Result<Vec<Part>, SumError> {
        let Stacked { rows, columns, .. } = stacked;
        let rows = *rows;
        let cols = stacked.cols();
        let widest = columns.iter().map(Range::len).max().unwrap_or(0).max(1);
        let group = self.options.group.unwrap_or(widest).min(widest);
        // Each map starts a new group; the last one of the previous map is padded with zeros.
        let mut starts = vec![];
        let mut width = 0;
        for c in columns {
            starts.push(width);
            width += c.len().div_ceil(group) * group;
        }
        let spread = |i: usize| {
            columns
                .iter()
                .zip(&starts)
                .flat_map(move |(c, &s)| c.clone().map(move |j| (i * cols + j, i * width + s + j - c.start)))
        };
        let (mut padded, mut padded_keep) = (vec![0.0f32; rows * width], None);
        (0..rows).flat_map(spread).for_each(|(from, to)| padded[to] = stacked.w[from]);
        if let Some(keep) = &stacked.keep {
            let mut all = vec![false; rows * width];
            (0..rows).flat_map(spread).for_each(|(from, to)| all[to] = keep[from]);
            padded_keep = Some(all);
        }
        let h = errors.h.map(|h| pad(h, columns, &starts, width)).transpose()?;
        let options = QuantizeOptions { group: Some(group), ..self.options.clone() };
        let keep = padded_keep.as_deref();
        let solved = quantize_watched(&padded, [rows, width], h.as_ref(), keep, &options, &self.steps)?;
        let parts = stacked.maps.iter().zip(columns).zip(&starts);
        parts.map(|((map, c), &start)| self.part(&solved, map, start..start + c.len())).collect()
    }
}

impl Bits<'_> {
    /// The map that columns of a solution represent.
    fn part(
        &self,
        solved: &QuantizedMatrix,
        map: &LinearMap,
        columns: Range<usize>,
    ) -> Result<Part, SumError> {
        let [rows, width] = solved.shape;
        let (groups, cols) = (solved.groups(), columns.len());
        let mine = columns.start / solved.group..columns.end.div_ceil(solved.group);
        let codes = (0..rows).flat_map(|i| &solved.codes[i * width + columns.start..i * width + columns.end]);
        let codes = Tensor::from_i8([rows, cols], codes.copied().collect())?;
        let scales = (0..rows).flat_map(|i| &solved.scales[i * groups + mine.start..i * groups + mine.end]);
        let shape = [rows, mine.len()];
        let scales = match self.options.f16_scales {
            true => Tensor::from_f16(shape, scales.map(|&s| f16::from_f32(s)).collect())?,
            false => Tensor::from_f32(shape, scales.copied().collect())?,
        };
        let zeros = solved.zero_points.as_ref().map(|z| {
            let mine = (0..rows).flat_map(|i| &z[i * groups + mine.start..i * groups + mine.end]);
            Tensor::from_i8(shape, mine.copied().collect())
        });
        let granularity = match self.options.group {
            Some(group) if group < cols => Granularity::Group(group),
            _ => Granularity::Row,
        };
        let quantized = Quantized::new(self.options.format, granularity, codes, scales, zeros.transpose()?)?;
        super::sum::under_mask(map, quantized)
    }
}

/// A second moment with independent inputs of unit scale between those of the maps; nothing multiplies them.
fn pad(h: &Hessian, columns: &[Range<usize>], starts: &[usize], width: usize) -> Result<Hessian, SolveError> {
    if h.size() == width {
        return Ok(h.clone());
    }
    let to: Vec<usize> =
        columns.iter().zip(starts).flat_map(|(c, &s)| (0..c.len()).map(move |j| s + j)).collect();
    let n = h.size();
    let mean = h.diagonal_values().iter().sum::<f64>() / n.max(1) as f64;
    let mut out = vec![0.0; width * width];
    for k in 0..width {
        out[k * width + k] = mean;
    }
    for (i, &a) in to.iter().enumerate() {
        for (j, &b) in to.iter().enumerate() {
            out[a * width + b] = h.as_slice()[i * n + j];
        }
    }
    Hessian::new(&out, width, 1.0, 0.0)
}
