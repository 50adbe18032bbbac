//! Parameters that are rounded to the values of codes, and the codes' factors, which are trained too: scales, and one factor for each column.
//!
//! ```text
//!   step = s c                                                  s: of the group, c: of the column, or 1
//!   t = x / step                                                from the zero point
//!   code = clamp(sign(t) nearest(max(|t| - dead zone + 1/2, 0)))
//!   value = code step
//! ```
//!
//! There are two sets of parameters. *In units of the weights*, `x` is the parameter, and factors are learned step sizes (LSQ: Esser et al. 2020,
//! equations 3 and section 2.2):
//!
//! ```text
//!   dx = dvalue                                                 straight through (Bengio et al. 2013)
//!   ds = sum of dvalue c e,  dc = sum of dvalue s e             e = code - t within the range of the codes, code out of it
//! ```
//!
//! *In units of steps*, `t` is the parameter, so that codes do not change with factors, which get the derivatives of `value`:
//!
//! ```text
//!   dt = dvalue step                                            straight through
//!   ds = sum of dvalue c code,  dc = sum of dvalue s code
//! ```
//!
//! In both, `ds` and `dc` are multiplied by `1 / sqrt(n max code)`, for the `n` numbers of a factor, as in LSQ. The rate penalty `lambda` is the gradient
//! of `lambda ln(0.3 + |t|)`, which stands for the length of an entropy coder's code. Numbers that a window does not read (rows of an embedding) get
//! none: adaptive methods would take it for all that their loss depends on.

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

/// Of the rate penalty: codes from about this magnitude on cost the logarithm of their magnitude.
const RATE_OFFSET: f64 = 0.3;

/// The units of the parameters that are rounded to codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Units {
    Weights,
    Steps,
    /// Steps where columns have factors, and weights elsewhere.
    StepsOfColumns,
}

/// How codes are trained.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in super::super) struct Coding {
    /// Whether codes change.
    pub(in super::super) codes: bool,
    /// Whether their factors do.
    pub(in super::super) factors: bool,
    pub(in super::super) units: Units,
    /// The fraction of a step from which on magnitudes are rounded up.
    pub(in super::super) dead_zone: f64,
    pub(in super::super) rate_penalty: f64,
}

impl Coding {
    /// Nearest codes, trained in units of the weights.
    pub(in super::super) const NEAREST: Coding =
        Coding { codes: true, factors: true, units: Units::Weights, dead_zone: 0.5, rate_penalty: 0.0 };

    /// Whether the parameters of these codes are in units of steps.
    pub(super) fn is_in_steps(&self, q: &Quantized) -> bool {
        match self.units {
            Units::Weights => false,
            Units::Steps => true,
            Units::StepsOfColumns => q.columns().is_some(),
        }
    }
}

/// Parameters that are rounded.
pub(super) struct Codes<T> {
    pub(super) trained: Vec<T>,
    /// The slot of the scales, `[rows, groups]`.
    pub(super) scales: usize,
    /// The slot of the factors of columns, `[1, cols]`.
    pub(super) columns: Option<usize>,
    pub(super) coding: Coding,
    in_steps: bool,
    cols: usize,
    group: usize,
    groups: usize,
    zeros: Vec<T>,
    range: [T; 2],
    /// The factors of columns if there are none.
    ones: Vec<T>,
}

/// The parameters of one scale.
#[derive(Clone, Copy)]
struct Grid<T> {
    scale: T,
    /// The first and the last code, counted from the zero point.
    low: T,
    high: T,
    /// What is taken off a magnitude before it is rounded to the nearest.
    dead: T,
    in_steps: bool,
}

impl<T: Number> Grid<T> {
    /// A parameter in steps from the zero point.
    #[inline(always)]
    fn steps(self, x: T, step: T) -> T {
        match self.in_steps {
            true => x,
            false if step == T::of(0.0) => T::of(0.0),
            false => x / step,
        }
    }

    /// The code, counted from the zero point.
    #[inline(always)]
    fn code(self, t: T) -> T {
        let zero = T::of(0.0);
        let below = if t < -self.dead { t + self.dead } else { zero };
        let nearest = if t > self.dead { t - self.dead } else { below }.nearest();
        clamp(nearest, self.low, self.high)
    }
}

impl<T: Number> Codes<T> {
    /// The codes of a map whose matrix is `value`; the slots are those of its scales and columns.
    pub(super) fn of(
        q: &Quantized,
        value: &[T],
        coding: Coding,
        scales: usize,
        columns: Option<usize>,
    ) -> Result<Codes<T>, MapError> {
        let [rows, cols] = [q.codes().shape()[0], q.codes().shape()[1]];
        let (group, groups) = (q.granularity().group_size(cols), q.granularity().groups(cols));
        let zeros: Vec<T> = match q.zero_points() {
            Some(z) => z.i8s()?.iter().map(|&z| T::of(z.into())).collect(),
            None => vec![T::of(0.0); rows * groups],
        };
        let (low, high) = q.format().range().into_inner();
        let range = [low, high].map(|code| T::of(code.into()));
        let ones = vec![T::of(1.0); if columns.is_none() { cols } else { 0 }];
        let trained = value.to_vec();
        let in_steps = coding.is_in_steps(q);
        let mut codes =
            Codes { trained, scales, columns, coding, in_steps, cols, group, groups, zeros, range, ones };
        if in_steps {
            let given = q.codes().i8s()?.iter().enumerate();
            codes.trained = given.map(|(k, &code)| T::of(code.into()) - codes.zero(k)).collect();
        }
        Ok(codes)
    }

    /// The group of a parameter.
    fn group_of(&self, k: usize) -> usize {
        (k / self.cols) * self.groups + (k % self.cols) / self.group
    }

    /// The zero point of a parameter.
    fn zero(&self, k: usize) -> T {
        self.zeros[self.group_of(k)]
    }

    fn grid(&self, scale: T, zero: T) -> Grid<T> {
        let [low, high] = self.range.map(|code| code - zero);
        let dead = T::of(self.coding.dead_zone - 0.5);
        Grid { scale, low, high, dead, in_steps: self.in_steps }
    }

    /// Rows that one thread works on at a time.
    fn rows_at_once(&self) -> usize {
        CHUNK.div_ceil(self.cols.max(1))
    }

    /// The factors of columns, where those that are parameters are given.
    fn columns<'a>(&'a self, columns: &'a [T]) -> &'a [T] {
        if self.columns.is_some() { columns } else { &self.ones }
    }

    /// Writes the values of the codes, and clamps parameters that went too far.
    pub(super) fn round(&mut self, [scales, columns]: [&[T]; 2], values: &mut [T]) {
        let mut trained = std::mem::take(&mut self.trained);
        let (this, columns) = (&*self, self.columns(columns));
        let rows = trained.par_chunks_exact_mut(this.cols).zip(values.par_chunks_exact_mut(this.cols));
        let scales = scales.par_chunks_exact(this.groups).zip(this.zeros.par_chunks_exact(this.groups));
        let rows = rows.zip(scales).with_min_len(this.rows_at_once());
        rows.for_each(|((row, values), (scales, zeros))| {
            let parts = row.chunks_mut(this.group).zip(values.chunks_mut(this.group));
            let parts = parts.zip(columns.chunks(this.group)).zip(scales.iter().zip(zeros));
            for (((part, values), columns), (&scale, &zero)) in parts {
                vectorized(Rounding { part, values, columns, grid: this.grid(scale, zero) });
            }
        });
        self.trained = trained;
    }

    /// Adds the gradients of the factors, given those of the values, which become those of the parameters: zero if codes are kept.
    pub(super) fn pull(
        &self,
        [scales, columns]: [&[T]; 2],
        of_values: &mut [T],
        [of_scales, of_columns]: [&mut [T]; 2],
    ) {
        let (cols, groups, at_once) = (self.cols, self.groups, self.rows_at_once());
        let (columns, rows) = (self.columns(columns), self.zeros.len() / groups.max(1));
        let n = if self.coding.factors { of_columns.len() } else { 0 };
        let blocks = self.trained.par_chunks(cols * at_once).zip(of_values.par_chunks_mut(cols * at_once));
        let factors = scales.par_chunks(groups * at_once).zip(self.zeros.par_chunks(groups * at_once));
        let blocks = blocks.zip(factors).zip(of_scales.par_chunks_mut(groups * at_once));
        let of_blocks = blocks.map(|(((block, of_values), (scales, zeros)), of_scales)| {
            let mut of_columns = vec![T::of(0.0); n];
            let rows = block.chunks(cols).zip(of_values.chunks_mut(cols));
            let factors = scales.chunks(groups).zip(zeros.chunks(groups));
            for (((row, of_values), (scales, zeros)), of_scales) in
                rows.zip(factors).zip(of_scales.chunks_mut(groups))
            {
                let parts = row.chunks(self.group).zip(of_values.chunks_mut(self.group));
                let grids = scales.iter().zip(zeros).map(|(&scale, &zero)| self.grid(scale, zero));
                for (g, (((part, of_values), grid), of_scale)) in parts.zip(grids).zip(of_scales).enumerate()
                {
                    let range = g * self.group..g * self.group + part.len();
                    let columns = &columns[range.clone()];
                    if self.coding.factors && grid.scale != T::of(0.0) {
                        let of_columns = of_columns.get_mut(range).unwrap_or_default();
                        let sum = vectorized(FactorGradients { part, of_values, columns, grid, of_columns });
                        *of_scale += self.normalized(sum, part.len());
                    }
                    vectorized(ParameterGradients { part, of_values, columns, grid, coding: self.coding });
                }
            }
            of_columns
        });
        // Summed in order, so that results do not depend on the number of threads.
        for of_block in of_blocks.collect::<Vec<_>>() {
            let pairs = of_columns.iter_mut().zip(of_block);
            pairs.for_each(|(sum, g)| *sum += self.normalized(g.to_f64(), rows));
        }
    }

    /// The gradient of a factor of `n` numbers.
    fn normalized(&self, sum: f64, n: usize) -> T {
        T::of(sum / (n as f64 * self.range[1].to_f64()).sqrt())
    }

    /// The codes.
    pub(super) fn codes(&self, [scales, columns]: [&[T]; 2]) -> Vec<i8> {
        let columns = self.columns(columns);
        let code = |(k, &x): (usize, &T)| {
            let (scale, zero) = (scales[self.group_of(k)], self.zero(k));
            let grid = self.grid(scale, zero);
            (grid.code(grid.steps(x, scale * columns[k % self.cols])) + zero).to_f64() as i8
        };
        self.trained.iter().enumerate().map(code).collect()
    }
}

struct Rounding<'a, T> {
    part: &'a mut [T],
    values: &'a mut [T],
    columns: &'a [T],
    grid: Grid<T>,
}

impl<T: Number> NullaryFnOnce for Rounding<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Rounding { part, values, columns, grid } = self;
        let [low, high] = [grid.low - T::of(MARGIN), grid.high + T::of(MARGIN)];
        for ((x, value), &column) in part.iter_mut().zip(values).zip(columns) {
            let step = grid.scale * column;
            let unit = if grid.in_steps { T::of(1.0) } else { step };
            let (a, b) = (low * unit, high * unit);
            *x = if a < b { clamp(*x, a, b) } else { clamp(*x, b, a) };
            *value = grid.code(grid.steps(*x, step)) * step;
        }
    }
}

/// Adds to those of columns, if there are any; the result is that of the scale.
struct FactorGradients<'a, T> {
    part: &'a [T],
    of_values: &'a [T],
    columns: &'a [T],
    grid: Grid<T>,
    of_columns: &'a mut [T],
}

impl<T: Number> NullaryFnOnce for FactorGradients<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let FactorGradients { part, of_values, columns, grid, of_columns } = self;
        let (low, high) = (grid.low - T::of(EDGE), grid.high + T::of(EDGE));
        let slope = |x: T, d: T, column: T| {
            let t = grid.steps(x, grid.scale * column);
            let within = if !grid.in_steps && clamp(t, low, high) == t { t } else { T::of(0.0) };
            d * (grid.code(t) - within)
        };
        let mut sums = [T::of(0.0); LANES];
        let all = part.chunks(LANES).zip(of_values.chunks(LANES)).zip(columns.chunks(LANES));
        for ((part, of_values), columns) in all {
            for (((sum, &x), &d), &column) in sums.iter_mut().zip(part).zip(of_values).zip(columns) {
                *sum += slope(x, d, column) * column;
            }
        }
        for (((sum, &x), &d), &column) in of_columns.iter_mut().zip(part).zip(of_values).zip(columns) {
            *sum += slope(x, d, column) * grid.scale;
        }
        sums.iter().map(|s| s.to_f64()).sum()
    }
}

/// Turns gradients of values into those of parameters.
struct ParameterGradients<'a, T> {
    part: &'a [T],
    of_values: &'a mut [T],
    columns: &'a [T],
    grid: Grid<T>,
    coding: Coding,
}

impl<T: Number> NullaryFnOnce for ParameterGradients<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let ParameterGradients { part, of_values, columns, grid, coding } = self;
        let (zero, one) = (T::of(0.0), T::of(1.0));
        if !coding.codes {
            of_values.fill(zero);
            return;
        }
        if grid.in_steps {
            for (d, &column) in of_values.iter_mut().zip(columns) {
                *d *= grid.scale * column;
            }
        }
        if coding.rate_penalty > 0.0 {
            let [penalty, offset] = [coding.rate_penalty, RATE_OFFSET].map(T::of);
            for ((d, &x), &column) in of_values.iter_mut().zip(part).zip(columns) {
                let step = grid.scale * column;
                let (t, unit) = (grid.steps(x, step), if grid.in_steps { one } else { step });
                let slope = if t < zero { -(penalty / (offset - t)) } else { penalty / (offset + t) };
                let slope = if t == zero || *d == zero { zero } else { slope / unit };
                *d += slope;
            }
        }
    }
}

#[inline(always)]
fn clamp<T: Number>(x: T, low: T, high: T) -> T {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}
