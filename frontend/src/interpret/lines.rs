//! Operators along axes: reductions, sums, the largest elements.

use super::elements::{broadcast_strides, integers, of_integers, of_reals, pick, walk};
use super::movement::checked_axis;
use super::numbers::Numbers;
use crate::ir::{InferError, Reduction};
use crate::tensor::{DType, Tensor};
use std::cmp::Ordering;
use std::ops::Add;

/// The lines along an axis: positions of their elements.
struct Lines {
    count: usize,
    size: usize,
    inner: usize,
}

impl Lines {
    fn new(shape: &[usize], axis: usize) -> Lines {
        let (size, inner) = (shape[axis], shape[axis + 1..].iter().product());
        Lines { count: shape[..axis].iter().product::<usize>() * inner, size, inner }
    }

    fn all(&self) -> impl Iterator<Item = impl DoubleEndedIterator<Item = usize> + Clone + use<>> + '_ {
        (0..self.count).map(|line| {
            let (inner, start) = (self.inner, line / self.inner * self.size * self.inner + line % self.inner);
            (0..self.size).map(move |k| start + k * inner)
        })
    }
}

/// Compares elements by position.
fn comparison(x: &Tensor) -> Result<Box<dyn Fn(usize, usize) -> Ordering>, InferError> {
    Ok(match Numbers::of(x)? {
        Numbers::Integers(v) => Box::new(move |a, b| v[a].cmp(&v[b])),
        Numbers::Floats(v) => Box::new(move |a, b| v[a].partial_cmp(&v[b]).unwrap_or(Ordering::Equal)),
    })
}

pub(super) fn top_k(axis: usize, largest: bool, x: &Tensor, k: &Tensor) -> Result<Vec<Tensor>, InferError> {
    let size = x.shape()[axis];
    let k = match integers(k)?[..] {
        [k] if (0..=size as i64).contains(&k) => k as usize,
        ref other => return Err(InferError::new(format!("k of 0 to {size}"), format!("{other:?}"))),
    };
    let compare = comparison(x)?;
    let lines = Lines::new(x.shape(), axis);
    let mut shape = x.shape().to_vec();
    shape[axis] = k;
    let to = Lines::new(&shape, axis);
    let (mut positions, mut indices) = (vec![0; to.count * k], vec![0; to.count * k]);
    for (line, to) in lines.all().zip(to.all()) {
        let mut order: Vec<(usize, usize)> = line.enumerate().collect();
        // The sort is stable: equal elements keep their order.
        order.sort_by(|a, b| if largest { compare(b.1, a.1) } else { compare(a.1, b.1) });
        for ((index, from), to) in order.into_iter().zip(to) {
            positions[to] = from;
            indices[to] = index as i64;
        }
    }
    Ok(vec![pick(x, &shape, positions.into_iter())?, Tensor::from_i64(shape, indices)?])
}

pub(super) fn extreme(
    axis: i64,
    better: Ordering,
    last: bool,
    x: &Tensor,
    shape: &[usize],
) -> Result<Tensor, InferError> {
    let compare = comparison(x)?;
    let lines = Lines::new(x.shape(), checked_axis(axis, x)?);
    let mut out = vec![];
    for line in lines.all() {
        let best = line.enumerate().reduce(|best, next| {
            let order = compare(next.1, best.1);
            if order == better || (last && order == Ordering::Equal) { next } else { best }
        });
        out.push(best.ok_or_else(|| InferError::new("an axis with elements", "none"))?.0 as i64);
    }
    Ok(Tensor::from_i64(shape, out)?)
}

/// One where each line has its first largest element, else zero.
pub(super) fn hardmax(axis: i64, x: &Tensor) -> Result<Tensor, InferError> {
    let lines = Lines::new(x.shape(), checked_axis(axis, x)?);
    let mut out = vec![0i64; x.len()];
    let v = Numbers::floats(x)?;
    for line in lines.all() {
        let best = line.clone().reduce(|a, b| if v[b] > v[a] { b } else { a });
        best.into_iter().for_each(|at| out[at] = 1);
    }
    of_integers(x.dtype(), x.shape(), out)
}

pub(super) fn cum_sum(
    exclusive: bool,
    reverse: bool,
    x: &Tensor,
    axis: &Tensor,
) -> Result<Tensor, InferError> {
    let axis = integers(axis)?.first().copied().unwrap_or(0);
    let lines = Lines::new(x.shape(), checked_axis(axis, x)?);
    fn sums<N: Copy + Default + Add<Output = N>>(
        lines: &Lines,
        v: &[N],
        exclusive: bool,
        reverse: bool,
    ) -> Vec<N> {
        let mut out = vec![N::default(); v.len()];
        for line in lines.all() {
            let mut line: Vec<usize> = line.collect();
            if reverse {
                line.reverse();
            }
            let mut sum = N::default();
            for at in line {
                let before = sum;
                sum = sum + v[at];
                out[at] = if exclusive { before } else { sum };
            }
        }
        out
    }
    match Numbers::of(x)? {
        Numbers::Floats(v) => of_reals(x.dtype(), x.shape(), sums(&lines, &v, exclusive, reverse)),
        Numbers::Integers(v) => {
            let v: Vec<_> = v.into_iter().map(std::num::Wrapping).collect();
            let v = sums(&lines, &v, exclusive, reverse).into_iter().map(|w| w.0).collect();
            of_integers(x.dtype(), x.shape(), v)
        }
    }
}

/// Every reduction over axes.
pub(super) fn reduce(
    kind: Reduction,
    noop: bool,
    x: &Tensor,
    axes: Option<&Tensor>,
    shape: &[usize],
) -> Result<Tensor, InferError> {
    use Reduction::{L1, L2, LogSum, LogSumExp, Max, Mean, Min, Prod, Sum, SumSquare};
    let rank = x.shape().len();
    let axes = axes.map_or(Ok(vec![]), integers)?;
    let axes = axes.into_iter().map(|a| checked_axis(a, x)).collect::<Result<Vec<_>, _>>()?;
    if axes.is_empty() && noop {
        return Ok(x.clone());
    }
    let reduced = |i: usize| axes.is_empty() || axes.contains(&i);
    let size: usize = (0..rank).filter(|&i| reduced(i)).map(|i| x.shape()[i]).product();
    // Strides into the result: zero along reduced axes.
    let kept: Vec<usize> = (0..rank).map(|i| if reduced(i) { 1 } else { x.shape()[i] }).collect();
    let steps = broadcast_strides(&kept, x.shape());
    let count = shape.iter().product();
    fn fold<N: Copy>(
        v: &[N],
        to: impl Iterator<Item = usize>,
        mut out: Vec<N>,
        f: impl Fn(N, N) -> N,
    ) -> Vec<N> {
        for (&x, to) in v.iter().zip(to) {
            out[to] = f(out[to], x);
        }
        out
    }
    let to = || walk(x.shape(), &steps, 0);
    let numbers = match Numbers::of(x)? {
        Numbers::Integers(v) => {
            let (start, f): (i64, fn(i64, i64) -> i64) = match kind {
                Sum | Mean => (0, i64::wrapping_add),
                L1 => (0, |a, x| a.wrapping_add(x.wrapping_abs())),
                SumSquare => (0, |a, x| a.wrapping_add(x.wrapping_mul(x))),
                Prod => (1, i64::wrapping_mul),
                Max if x.dtype() == DType::Bool => (0, i64::max),
                Max => (i64::MIN, i64::max),
                Min => (i64::MAX, i64::min),
                L2 | LogSum | LogSumExp => {
                    return Err(InferError::new("a float dtype", x.dtype().to_string()));
                }
            };
            let mut out = fold(&v, to(), vec![start; count], f);
            if kind == Mean {
                out.iter_mut().for_each(|x| *x = x.checked_div(size as i64).unwrap_or(0));
            }
            Numbers::Integers(out)
        }
        Numbers::Floats(v) => {
            // The largest of each sum of exponentials, against overflow.
            let most = fold(&v, to(), vec![f64::NEG_INFINITY; count], f64::max);
            let most: Vec<f64> = most.into_iter().map(|m| if m.is_finite() { m } else { 0.0 }).collect();
            let v: Vec<f64> = match kind {
                LogSumExp => v.iter().zip(to()).map(|(x, to)| (x - most[to]).exp()).collect(),
                L1 => v.iter().map(|x| x.abs()).collect(),
                L2 | SumSquare => v.iter().map(|x| x * x).collect(),
                _ => v,
            };
            let (start, f): (f64, fn(f64, f64) -> f64) = match kind {
                Prod => (1.0, |a, b| a * b),
                Max => (f64::NEG_INFINITY, |a, b| if a.is_nan() || a > b { a } else { b }),
                Min => (f64::INFINITY, |a, b| if a.is_nan() || a < b { a } else { b }),
                _ => (0.0, |a, b| a + b),
            };
            let out = fold(&v, to(), vec![start; count], f).into_iter().zip(most);
            let of = |(s, most): (f64, f64)| match kind {
                Mean => s / size as f64,
                L2 => s.sqrt(),
                LogSum => s.ln(),
                LogSumExp => s.ln() + most,
                _ => s,
            };
            Numbers::Floats(out.map(of).collect())
        }
    };
    numbers.tensor(x.dtype(), shape)
}
