//! Parameters that are rounded to the values of codes, and the codes' scales, which are trained too.
//!
//! ```text
//!   forward    u = x / s,  code = clamp(round(u) + zero),  value = (code - zero) s
//!   backward   dx = dvalue                                      straight through (Bengio et al. 2013)
//!              ds = sum of dvalue (code - zero - u)             u within the range of the codes
//!                 + sum of dvalue (code - zero)                 u out of range
//!              times 1 / sqrt(n max code), of n parameters      (LSQ: Esser et al. 2020, equations 3 and section 2.2)
//! ```

use super::super::number::{CHUNK, Number, vectorized};
use lstmc_frontend::ir::{MapError, Quantized};
use pulp::NullaryFnOnce;
use rayon::prelude::*;

/// Separate accumulators of a loop, so that it vectorises.
const LANES: usize = 16;

/// How many steps beyond the last code a number still counts as in range: more than the rounding error of a division.
const EDGE: f64 = 1e-3;

/// How many steps beyond the last code a number may go; from further away, it would take as long to return as it took to get there.
const MARGIN: f64 = 0.5;

/// Parameters that are rounded.
pub(super) struct Codes<T> {
    pub(super) trained: Vec<T>,
    /// The slot of the scales, `[rows, groups]`.
    pub(super) scales: usize,
    group: usize,
    groups: usize,
    zeros: Vec<T>,
    range: [T; 2],
}

/// The parameters of one scale.
#[derive(Clone, Copy)]
struct Grid<T> {
    scale: T,
    /// The first and the last code, counted from the zero point.
    low: T,
    high: T,
}

impl<T: Number> Grid<T> {
    /// The nearest code, counted from the zero point.
    #[inline(always)]
    fn nearest(self, x: T) -> T {
        if self.scale == T::of(0.0) {
            T::of(0.0)
        } else {
            clamp((x / self.scale).nearest(), self.low, self.high)
        }
    }
}

impl<T: Number> Codes<T> {
    pub(super) fn of(q: &Quantized, trained: Vec<T>, scales: usize) -> Result<Codes<T>, MapError> {
        let [rows, cols] = [q.codes().shape()[0], q.codes().shape()[1]];
        let (group, groups) = (q.granularity().group_size(cols), q.granularity().groups(cols));
        let zeros = match q.zero_points() {
            Some(z) => z.i8s()?.iter().map(|&z| T::of(z.into())).collect(),
            None => vec![T::of(0.0); rows * groups],
        };
        let (low, high) = q.format().range().into_inner();
        let range = [low, high].map(|code| T::of(code.into()));
        Ok(Codes { trained, scales, group, groups, zeros, range })
    }

    /// The parameters of a row.
    fn cols(&self) -> usize {
        self.trained.len() / (self.zeros.len() / self.groups).max(1)
    }

    fn grid(scale: T, zero: T, [low, high]: [T; 2]) -> Grid<T> {
        Grid { scale, low: low - zero, high: high - zero }
    }

    /// Writes the values of the nearest codes, and clamps parameters that went too far.
    pub(super) fn round(&mut self, scales: &[T], values: &mut [T]) {
        let (cols, group, groups, range) = (self.cols(), self.group, self.groups, self.range);
        let rows = self.trained.par_chunks_exact_mut(cols).zip(values.par_chunks_exact_mut(cols));
        let scales = scales.par_chunks_exact(groups).zip(self.zeros.par_chunks_exact(groups));
        rows.zip(scales).with_min_len(CHUNK.div_ceil(cols)).for_each(|((row, values), (scales, zeros))| {
            let parts = row.chunks_mut(group).zip(values.chunks_mut(group));
            for ((part, values), (&scale, &zero)) in parts.zip(scales.iter().zip(zeros)) {
                vectorized(Rounding { part, values, grid: Codes::grid(scale, zero, range) });
            }
        });
    }

    /// Adds the gradients of the scales, given those of the values.
    pub(super) fn add_scale_gradients(&self, scales: &[T], of_values: &[T], gradients: &mut [T]) {
        let (cols, group, groups) = (self.cols(), self.group, self.groups);
        let rows = self.trained.par_chunks_exact(cols).zip(of_values.par_chunks_exact(cols));
        let scales = scales.par_chunks_exact(groups).zip(self.zeros.par_chunks_exact(groups));
        let rows = rows.zip(scales).zip(gradients.par_chunks_exact_mut(groups));
        rows.with_min_len(CHUNK.div_ceil(cols)).for_each(
            |(((row, of_values), (scales, zeros)), gradients)| {
                let parts = row.chunks(group).zip(of_values.chunks(group));
                let grids =
                    scales.iter().zip(zeros).map(|(&scale, &zero)| Codes::grid(scale, zero, self.range));
                for (((part, of_values), grid), gradient) in parts.zip(grids).zip(gradients) {
                    if grid.scale != T::of(0.0) {
                        let sum = vectorized(ScaleGradient { part, of_values, grid });
                        let reach = part.len() as f64 * self.range[1].to_f64();
                        *gradient += T::of(sum / reach.sqrt());
                    }
                }
            },
        );
    }

    /// The nearest codes.
    pub(super) fn codes(&self, scales: &[T]) -> Vec<i8> {
        let cols = self.cols();
        let code = |(k, &x): (usize, &T)| {
            let g = (k / cols) * self.groups + (k % cols) / self.group;
            (Codes::grid(scales[g], self.zeros[g], self.range).nearest(x) + self.zeros[g]).to_f64() as i8
        };
        self.trained.iter().enumerate().map(code).collect()
    }
}

struct Rounding<'a, T> {
    part: &'a mut [T],
    values: &'a mut [T],
    grid: Grid<T>,
}

impl<T: Number> NullaryFnOnce for Rounding<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Rounding { part, values, grid } = self;
        let margin = T::of(MARGIN);
        let [a, b] = [(grid.low - margin) * grid.scale, (grid.high + margin) * grid.scale];
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        for (x, value) in part.iter_mut().zip(values) {
            *x = clamp(*x, low, high);
            *value = grid.nearest(*x) * grid.scale;
        }
    }
}

struct ScaleGradient<'a, T> {
    part: &'a [T],
    of_values: &'a [T],
    grid: Grid<T>,
}

impl<T: Number> NullaryFnOnce for ScaleGradient<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let ScaleGradient { part, of_values, grid } = self;
        let edge = T::of(EDGE);
        let (low, high) = (grid.low - edge, grid.high + edge);
        let mut sums = [T::of(0.0); LANES];
        for (part, of_values) in part.chunks(LANES).zip(of_values.chunks(LANES)) {
            for ((sum, &x), &d) in sums.iter_mut().zip(part).zip(of_values) {
                let u = x / grid.scale;
                let within = if clamp(u, low, high) == u { u } else { T::of(0.0) };
                *sum += d * (grid.nearest(x) - within);
            }
        }
        sums.iter().map(|s| s.to_f64()).sum()
    }
}

#[inline(always)]
fn clamp<T: Number>(x: T, low: T, high: T) -> T {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}
