//! One row: choose scales, round with feedback, descend.

use super::{QuantizeOptions, Rounding, round_to_f16};
use crate::solve::factor::{add_scaled, dot, reverse_cholesky};
use crate::solve::{Hessian, SolveError};
use std::ops::Range;

/// The data that rows with the same kept columns share.
pub(super) struct Problem {
    cols: Vec<usize>,                  // matrix columns in the order of rounding, [n]
    parts: Vec<(usize, Range<usize>)>, // (group, its positions in `cols`)
    width: usize,                      // columns of the matrix
    group: usize,                      // columns of a group
    h: Option<Vec<f64>>,               // [n, n] in the order of `cols`; none: identity
    feed: Option<Vec<f64>>,            // [n, n], U_ik / U_kk at (i, k > i)
    weight: Vec<f64>, // [n], the weight of each column's error once the columns before are fixed
}

/// The solution of a row.
pub(super) struct RowCodes {
    pub(super) codes: Vec<i8>,   // [in]
    pub(super) scales: Vec<f32>, // [groups]
    pub(super) zeros: Vec<i8>,   // [groups]
    pub(super) error: f64,
}

/// A scale and zero point.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Grid {
    scale: f64,
    zero: f64,
    low: f64,
    high: f64,
}

impl Grid {
    /// The code in range nearest to `x`, ties to even.
    #[inline]
    fn code(self, x: f64) -> f64 {
        if self.scale == 0.0 {
            return self.zero;
        }
        // Adding and subtracting 1.5 * 2^52 rounds to an integer.
        const INTEGER: f64 = 6_755_399_441_055_744.0;
        ((x / self.scale + self.zero + INTEGER) - INTEGER).clamp(self.low, self.high)
    }

    #[inline]
    fn value(self, code: f64) -> f64 {
        self.scale * (code - self.zero)
    }
}

impl Problem {
    /// For rows that keep `cols`, in this order, of a matrix with `h`'s columns.
    pub(super) fn new(
        cols: Vec<usize>,
        group: usize,
        h: Option<&Hessian>,
        width: usize,
        options: &QuantizeOptions,
    ) -> Result<Problem, SolveError> {
        let n = cols.len();
        let mut parts: Vec<(usize, Range<usize>)> = Vec::new();
        for (k, j) in cols.iter().enumerate() {
            match parts.last_mut() {
                Some((g, range)) if *g == j / group => range.end = k + 1,
                _ => parts.push((j / group, k..k + 1)),
            }
        }
        let h = h.map(|h| h.select(&cols));
        let (mut feed, mut weight) = (None, vec![1.0; n]);
        if let Some(h) = h.as_ref().filter(|_| options.rounding != Rounding::Nearest) {
            let mut u = reverse_cholesky(h, n)?;
            let diagonal: Vec<f64> = (0..n).map(|k| u[k * n + k]).collect();
            for row in u.chunks_mut(n.max(1)) {
                row.iter_mut().zip(&diagonal).for_each(|(x, d)| *x /= d);
            }
            weight = diagonal.iter().map(|d| d * d).collect();
            feed = Some(u);
        }
        Ok(Problem { cols, parts, width, group, h, feed, weight })
    }

    /// Codes and scales for a row `w: [width]`.
    pub(super) fn solve(&self, w: &[f32], options: &QuantizeOptions) -> RowCodes {
        let n = self.cols.len();
        let w: Vec<f64> = self.cols.iter().map(|&j| f64::from(w[j])).collect();
        let mut targets = w.clone();
        let mut codes = vec![0.0; n];
        let mut grids = Vec::with_capacity(self.parts.len());
        let mut scratch = Vec::new();
        for (_, range) in &self.parts {
            let grid = self.choose(range, &targets, &w, options, &mut scratch);
            for k in range.clone() {
                codes[k] = grid.code(targets[k]);
                if let Some(feed) = &self.feed {
                    let d = grid.value(codes[k]) - w[k];
                    add_scaled(&mut targets[k + 1..], -d, &feed[k * n + k + 1..(k + 1) * n]);
                }
            }
            grids.push(grid);
        }
        let mut delta = vec![0.0; n];
        for ((_, range), grid) in self.parts.iter().zip(&grids) {
            for k in range.clone() {
                delta[k] = grid.value(codes[k]) - w[k];
            }
        }
        let mut slope = self.slope(&delta);
        if options.sweeps > 0 {
            self.descend(&mut codes, &mut grids, &mut slope, options);
        }
        self.finish(&w, &codes, &grids)
    }

    /// `H d`.
    fn slope(&self, delta: &[f64]) -> Vec<f64> {
        match &self.h {
            None => delta.to_vec(),
            Some(h) => h.chunks(delta.len().max(1)).map(|row| dot(row, delta)).collect(),
        }
    }

    fn finish(&self, w: &[f64], codes: &[f64], grids: &[Grid]) -> RowCodes {
        let groups = self.width.div_ceil(self.group);
        let mut out = RowCodes {
            codes: vec![0; self.width],
            scales: vec![0.0; groups],
            zeros: vec![0; groups],
            error: 0.0,
        };
        let mut delta = vec![0.0; w.len()];
        for ((g, range), grid) in self.parts.iter().zip(grids) {
            out.scales[*g] = grid.scale as f32;
            out.zeros[*g] = grid.zero as i8;
            // Dropped weights read as zero.
            out.codes[g * self.group..((g + 1) * self.group).min(self.width)].fill(grid.zero as i8);
            for k in range.clone() {
                out.codes[self.cols[k]] = codes[k] as i8;
                delta[k] = grid.value(codes[k]) - w[k];
            }
        }
        out.error = dot(&delta, &self.slope(&delta)).max(0.0);
        out
    }

    /// The best grid for the columns of `range`.
    fn choose(
        &self,
        range: &Range<usize>,
        targets: &[f64],
        w: &[f64],
        options: &QuantizeOptions,
        scratch: &mut Vec<f64>,
    ) -> Grid {
        let mut best = (f64::INFINITY, None);
        for grid in candidates(&targets[range.clone()], options) {
            let cost = self.cost(range, targets, w, grid, best.0, scratch);
            if best.1.is_none() || cost < best.0 {
                best = (cost, Some(grid));
            }
        }
        best.1.expect("at least one candidate")
    }

    /// The error that the columns of `range` determine on `grid`, or any value above `limit` once it is exceeded.
    fn cost(
        &self,
        range: &Range<usize>,
        targets: &[f64],
        w: &[f64],
        grid: Grid,
        limit: f64,
        scratch: &mut Vec<f64>,
    ) -> f64 {
        let mut cost = 0.0;
        let is_narrow = range.len() <= QuantizeOptions::FEEDBACK_SEARCH_WIDTH;
        let Some(feed) = self.feed.as_ref().filter(|_| is_narrow) else {
            for k in range.clone() {
                let e = grid.value(grid.code(targets[k])) - targets[k];
                cost += self.weight[k] * e * e;
            }
            return cost;
        };
        let n = self.cols.len();
        scratch.clear();
        scratch.extend_from_slice(&targets[range.clone()]);
        for k in range.clone() {
            let local = k - range.start;
            let target = scratch[local];
            let value = grid.value(grid.code(target));
            cost += self.weight[k] * (value - target).powi(2);
            if cost > limit {
                return cost;
            }
            add_scaled(&mut scratch[local + 1..], w[k] - value, &feed[k * n + k + 1..k * n + range.end]);
        }
        cost
    }

    /// Refits scales and codes in turn; each step lowers `d H d`, until nothing changes or `options.sweeps` are done.
    fn descend(&self, codes: &mut [f64], grids: &mut [Grid], slope: &mut [f64], options: &QuantizeOptions) {
        let n = codes.len();
        let mut step = vec![0.0; n]; // H times a change
        for _ in 0..options.sweeps {
            let mut moved = false;
            for ((_, range), grid) in self.parts.iter().zip(grids.iter_mut()) {
                moved |= self.refit_scale(range, codes, grid, slope, &mut step, options);
            }
            for ((_, range), grid) in self.parts.iter().zip(grids.iter()) {
                if grid.scale == 0.0 {
                    continue;
                }
                for k in range.clone() {
                    let curvature = self.h.as_ref().map_or(1.0, |h| h[k * n + k]);
                    let now = grid.value(codes[k]);
                    let code = grid.code(now - slope[k] / curvature);
                    let change = grid.value(code) - now;
                    if change != 0.0 && change * (2.0 * slope[k] + change * curvature) < 0.0 {
                        codes[k] = code;
                        moved = true;
                        match &self.h {
                            None => slope[k] += change,
                            Some(h) => add_scaled(slope, change, &h[k * n..(k + 1) * n]),
                        }
                    }
                }
            }
            if !moved {
                break;
            }
        }
    }

    /// Moves the scale of `range` to its least-squares value given all codes; returns whether the error fell.
    fn refit_scale(
        &self,
        range: &Range<usize>,
        codes: &[f64],
        grid: &mut Grid,
        slope: &mut [f64],
        step: &mut [f64],
        options: &QuantizeOptions,
    ) -> bool {
        let n = codes.len();
        // step = H c, where c is the codes of this group minus the zero point.
        step.fill(0.0);
        for k in range.clone() {
            let c = codes[k] - grid.zero;
            match &self.h {
                None => step[k] = c,
                Some(h) => add_scaled(step, c, &h[k * n..(k + 1) * n]),
            }
        }
        let (mut fall, mut curvature) = (0.0, 0.0);
        for k in range.clone() {
            let c = codes[k] - grid.zero;
            fall += c * slope[k];
            curvature += c * step[k];
        }
        if curvature <= 0.0 {
            return false;
        }
        let scale = stored(grid.scale - fall / curvature, options);
        let change = scale - grid.scale;
        if change == 0.0 || scale == 0.0 || change * (2.0 * fall + change * curvature) >= 0.0 {
            return false;
        }
        grid.scale = scale;
        add_scaled(slope, change, step);
        true
    }
}

/// The scale as it will be stored.
fn stored(scale: f64, options: &QuantizeOptions) -> f64 {
    let scale = scale as f32;
    f64::from(if options.f16_scales { round_to_f16(scale) } else { scale })
}

/// Grids to try for `values`; the first is the max-abs one (of the values' range, with zero points).
fn candidates(values: &[f64], options: &QuantizeOptions) -> impl Iterator<Item = Grid> {
    let [low, high] = options.range().map(f64::from);
    let most = values.iter().fold(0.0f64, |m, &v| m.max(v));
    let least = values.iter().fold(0.0f64, |m, &v| m.min(v));
    let shrinks = options.shrinks;
    let last = (shrinks.max(2) - 1) as f64;
    let (signs, asymmetric, min_shrink) =
        (if options.signed_scales { 2 } else { 1 }, options.asymmetric, options.min_shrink);
    let options = options.clone();
    (0..shrinks).flat_map(move |i| {
        let shrink = 1.0 - (1.0 - min_shrink) * i as f64 / last;
        let grids: [Option<Grid>; 3] = if asymmetric {
            let scale = stored(shrink * (most - least) / (high - low), &options);
            let zero = if scale > 0.0 { (low - shrink * least / scale).round() } else { 0.0 };
            [0.0, 1.0, -1.0].map(|by| {
                let zero = zero + by;
                (low..=high).contains(&zero).then_some(Grid { scale, zero, low, high })
            })
        } else {
            // The smallest scale that clips nothing, with the longer side of the range below zero or, negated, above.
            let plain = f64::max(most / high, least / low);
            let turned = f64::max(most / -low, -least / high);
            let scales = [shrink * plain, -shrink * turned];
            [0, 1, 2].map(|s| {
                (s < signs).then(|| Grid { scale: stored(scales[s], &options), zero: 0.0, low, high })
            })
        };
        grids.into_iter().flatten()
    })
}
