//! The operators of the table in [`Onnx`] that pick, join and reorder elements of any dtype.
//!
//! Each gives the position of every element of the result in its operands' elements, one operand's after the other's.

use super::elements::{broadcast_strides, integers, interleave, limited, map_index, pick, strides, walk};
use super::movement::checked_axis;
use super::numbers::Numbers;
use crate::ir::{InferError, Onnx};
use crate::tensor::Tensor;

pub(super) fn evaluate(
    op: &Onnx,
    operands: &[Option<Tensor>],
    shape: &[usize],
) -> Result<Tensor, InferError> {
    let get = |i: usize| operands.get(i).and_then(Option::as_ref);
    let need = |i: usize| get(i).ok_or_else(|| InferError::new("every operand", format!("none at {i}")));
    let x = need(0)?;
    match op {
        Onnx::Where {} => {
            let (then, otherwise) = (need(1)?, need(2)?);
            let steps = [x, then, otherwise].map(|t| broadcast_strides(t.shape(), shape));
            let [c, a, b] = [0, 1, 2].map(|i| walk(shape, &steps[i], 0));
            let condition = x.bools()?;
            let positions = c.zip(a.zip(b)).map(|(c, (a, b))| if condition[c] { a } else { then.len() + b });
            pick(&joined(then, otherwise)?, shape, positions)
        }
        Onnx::Tile {} => tile(x, need(1)?),
        Onnx::GatherElements { axis } => {
            let indices = need(1)?;
            let positions = along(*axis, x, indices)?;
            pick(x, indices.shape(), positions.into_iter())
        }
        Onnx::GatherND { batch_dims } => gather_nd(*batch_dims, x, need(1)?),
        Onnx::ScatterElements { axis, reduction } => {
            let (indices, updates) = (need(1)?, need(2)?);
            if indices.shape() != updates.shape() {
                let found = format!("{:?} and {:?}", indices.shape(), updates.shape());
                return Err(InferError::new("indices and updates of one shape", found));
            }
            scatter(reduction, x, updates, along(*axis, x, indices)?)
        }
        Onnx::ScatterND { reduction } => {
            let (indices, updates) = (need(1)?, need(2)?);
            let (targets, shape) = slices(0, x, indices)?;
            if updates.shape() != shape {
                return Err(InferError::new(
                    format!("updates of shape {shape:?}"),
                    format!("{:?}", updates.shape()),
                ));
            }
            scatter(reduction, x, updates, targets)
        }
        Onnx::Pad { mode } => pad(mode, x, need(1)?, get(2), get(3)),
        Onnx::Trilu { upper } => {
            let k = get(1).map_or(Ok(vec![0]), integers)?;
            let (k, rank) = (i128::from(k.first().copied().unwrap_or(0)), x.shape().len());
            if rank < 2 {
                return Err(InferError::new("at least two dimensions", format!("{:?}", x.shape())));
            }
            let mut next = 0..x.len();
            let positions = map_index(x.shape(), |at| {
                let distance = at[rank - 1] as i128 - at[rank - 2] as i128;
                let kept = if *upper { distance >= k } else { distance <= k };
                next.next().filter(|_| kept).unwrap_or(x.len())
            });
            pick(&joined(x, &zero(x)?)?, x.shape(), positions.into_iter())
        }
        Onnx::ReverseSequence { batch_axis, time_axis } => {
            let (batch, time) = (checked_axis(*batch_axis, x)?, checked_axis(*time_axis, x)?);
            let lengths = integers(need(1)?)?;
            let most = x.shape()[time] as i64;
            if lengths.len() != x.shape()[batch] || lengths.iter().any(|n| !(0..=most).contains(n)) {
                let expected = format!("{} lengths of 0 to {most}", x.shape()[batch]);
                return Err(InferError::new(expected, format!("{lengths:?}")));
            }
            let own = strides(x.shape());
            let positions = map_index(x.shape(), |at| {
                let n = lengths[at[batch]] as usize;
                let turned = if at[time] < n { n - 1 - at[time] } else { at[time] };
                let of = |i: usize| if i == time { turned } else { at[i] };
                (0..at.len()).map(|i| of(i) * own[i] as usize).sum()
            });
            pick(x, x.shape(), positions.into_iter())
        }
        other => Err(InferError::new("a movement", other.name())),
    }
}

/// The elements of two tensors in one.
fn joined(a: &Tensor, b: &Tensor) -> Result<Tensor, InferError> {
    // A float constant may be stored in half precision.
    let cast = super::arithmetic::cast(a.dtype(), b)?;
    if a.dtype() != b.dtype() && !(a.dtype().is_float() && b.dtype().is_float()) {
        return Err(InferError::new("operands of one dtype", format!("{} and {}", a.dtype(), b.dtype())));
    }
    interleave(&[a, &cast], &[a.len() + b.len()], 1)
}

/// A zero of the dtype of `x`.
fn zero(x: &Tensor) -> Result<Tensor, InferError> {
    Ok(Tensor::from_le_bytes(x.dtype(), [1], &vec![0; x.dtype().size()])?)
}

/// An index counted from the front.
fn checked(index: i64, size: usize) -> Result<usize, InferError> {
    let n = size as i64;
    if !(-n..n).contains(&index) {
        return Err(InferError::new(format!("indices in {}..{n}", -n), format!("index {index}")));
    }
    Ok(if index < 0 { index + n } else { index } as usize)
}

fn tile(x: &Tensor, repeats: &Tensor) -> Result<Tensor, InferError> {
    let repeats = integers(repeats)?;
    let times = |(&d, &n): (&usize, &i64)| usize::try_from(n).ok().and_then(|n| n.checked_mul(d));
    let shape: Option<Vec<usize>> = x.shape().iter().zip(&repeats).map(times).collect();
    let Some(shape) = shape.filter(|s| s.len() == repeats.len() && s.len() == x.shape().len()) else {
        let expected = format!("a number of repeats for each axis of {:?}", x.shape());
        return Err(InferError::new(expected, format!("{repeats:?}")));
    };
    limited(&shape)?;
    let own = strides(x.shape());
    let positions = map_index(&shape, |at| {
        at.iter().zip(x.shape()).zip(&own).map(|((&i, &d), &s)| i % d * s as usize).sum()
    });
    pick(x, &shape, positions.into_iter())
}

/// For each index, the position in the data at the same place, with the index on the axis.
fn along(axis: i64, data: &Tensor, indices: &Tensor) -> Result<Vec<usize>, InferError> {
    let axis = checked_axis(axis, data)?;
    let (shape, own) = (data.shape(), strides(data.shape()));
    let fits = |(i, (&a, &b)): (usize, (&usize, &usize))| i == axis || a <= b;
    if indices.shape().len() != shape.len() || !indices.shape().iter().zip(shape).enumerate().all(fits) {
        let expected = format!("indices within {shape:?} but on axis {axis}");
        return Err(InferError::new(expected, format!("{:?}", indices.shape())));
    }
    let values = integers(indices)?.into_iter().map(|i| checked(i, shape[axis]));
    let mut values = values.collect::<Result<Vec<_>, _>>()?.into_iter();
    Ok(map_index(indices.shape(), |at| {
        let index = values.next().unwrap_or(0);
        (0..at.len()).map(|i| if i == axis { index } else { at[i] } * own[i] as usize).sum()
    }))
}

/// For each element of the slices that the rows of `indices` select, its position in the data; and their shape.
fn slices(batch: usize, data: &Tensor, indices: &Tensor) -> Result<(Vec<usize>, Vec<usize>), InferError> {
    let (shape, own) = (data.shape(), strides(data.shape()));
    let wrong = || {
        let expected = format!("indices of axes of {shape:?} after {batch} common ones");
        InferError::new(expected, format!("{:?}", indices.shape()))
    };
    let Some((&depth, outer)) = indices.shape().split_last() else { return Err(wrong()) };
    let end = batch.checked_add(depth).filter(|&end| end <= shape.len()).ok_or_else(wrong)?;
    if batch > outer.len() || outer[..batch] != shape[..batch] || depth == 0 {
        return Err(wrong());
    }
    let inner: usize = shape[end..].iter().product();
    let result = [outer, &shape[end..]].concat();
    limited(&result)?;
    let rows_of_batch: usize = outer[batch..].iter().product();
    let of_batch: usize = shape[batch..].iter().product();
    let mut positions = vec![];
    for (row, index) in integers(indices)?.chunks(depth).enumerate() {
        let mut start = row / rows_of_batch.max(1) * of_batch;
        for (k, &i) in index.iter().enumerate() {
            start += checked(i, shape[batch + k])? * own[batch + k] as usize;
        }
        positions.extend(start..start + inner);
    }
    Ok((positions, result))
}

fn gather_nd(batch: i64, data: &Tensor, indices: &Tensor) -> Result<Tensor, InferError> {
    let (positions, shape) = slices(usize::try_from(batch).unwrap_or(usize::MAX), data, indices)?;
    pick(data, &shape, positions.into_iter())
}

/// The data with each update at, or combined with the element at, its target.
fn scatter(
    reduction: &str,
    data: &Tensor,
    updates: &Tensor,
    targets: Vec<usize>,
) -> Result<Tensor, InferError> {
    if reduction == "none" {
        let mut positions: Vec<usize> = (0..data.len()).collect();
        targets.into_iter().enumerate().for_each(|(update, target)| positions[target] = data.len() + update);
        return pick(&joined(data, updates)?, data.shape(), positions.into_iter());
    }
    fn combine<N: Copy>(out: &mut [N], updates: &[N], targets: &[usize], f: impl Fn(N, N) -> N) {
        targets.iter().zip(updates).for_each(|(&to, &x)| out[to] = f(out[to], x));
    }
    let unknown = || InferError::new("one of none, add, mul, max and min", reduction);
    match (Numbers::of(data)?, Numbers::of(updates)?) {
        (Numbers::Integers(mut out), Numbers::Integers(x)) => {
            let f = match reduction {
                "add" => i64::wrapping_add,
                "mul" => i64::wrapping_mul,
                "max" => i64::max,
                "min" => i64::min,
                _ => return Err(unknown()),
            };
            combine(&mut out, &x, &targets, f);
            Numbers::Integers(out).tensor(data.dtype(), data.shape())
        }
        (Numbers::Floats(mut out), Numbers::Floats(x)) => {
            let f: fn(f64, f64) -> f64 = match reduction {
                "add" => |a, b| a + b,
                "mul" => |a, b| a * b,
                "max" => f64::max,
                "min" => f64::min,
                _ => return Err(unknown()),
            };
            combine(&mut out, &x, &targets, f);
            Numbers::Floats(out).tensor(data.dtype(), data.shape())
        }
        _ => Err(InferError::new("data and updates of one dtype", updates.dtype().to_string())),
    }
}

fn pad(
    mode: &str,
    x: &Tensor,
    pads: &Tensor,
    value: Option<&Tensor>,
    axes: Option<&Tensor>,
) -> Result<Tensor, InferError> {
    let rank = x.shape().len();
    let axes = match axes {
        Some(axes) => {
            integers(axes)?.into_iter().map(|a| checked_axis(a, x)).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..rank).collect(),
    };
    let pads = integers(pads)?;
    if pads.len() != 2 * axes.len()
        || pads.iter().any(|p| p.unsigned_abs() > 1 << 40)
        || value.is_some_and(|v| v.len() != 1)
    {
        let expected = format!("{} pads within 2^40, and a value of one element", 2 * axes.len());
        return Err(InferError::new(expected, format!("{pads:?}")));
    }
    let (mut before, mut sizes) = (vec![0i64; rank], vec![]);
    for (i, &d) in x.shape().iter().enumerate() {
        let at = axes.iter().position(|&a| a == i);
        before[i] = at.map_or(0, |at| pads[at]);
        let after = at.map_or(0, |at| pads[axes.len() + at]);
        let size = (d as i64).checked_add(before[i]).and_then(|n| n.checked_add(after));
        let size = size.and_then(|n| usize::try_from(n).ok());
        sizes.push(size.ok_or_else(|| InferError::new("pads that leave a size", format!("{pads:?}")))?);
        if d == 0 && sizes[i] > 0 && mode != "constant" {
            return Err(InferError::new("an axis with elements to repeat", format!("{:?}", x.shape())));
        }
    }
    limited(&sizes)?;
    let own = strides(x.shape());
    let source = |k: i64, d: i64| match mode {
        _ if (0..d).contains(&k) => Some(k),
        "edge" => Some(k.clamp(0, d - 1)),
        "wrap" => Some(k.rem_euclid(d)),
        "reflect" if d == 1 => Some(0),
        "reflect" => {
            let k = k.rem_euclid(2 * d - 2);
            Some(if k < d { k } else { 2 * d - 2 - k })
        }
        _ => None,
    };
    let positions = map_index(&sizes, |at| {
        let of = |i: usize| {
            Some(source(at[i] as i64 - before[i], x.shape()[i] as i64)? as usize * own[i] as usize)
        };
        (0..rank).map(of).sum::<Option<usize>>().unwrap_or(x.len())
    });
    let value = value.map_or_else(|| zero(x), |v| Ok(v.clone()))?;
    pick(&joined(x, &value)?, &sizes, positions.into_iter())
}
