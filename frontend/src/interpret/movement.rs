//! Generic operators that pick, join and reorder elements.

use super::elements::{broadcast_strides, integers, interleave, pick, strides, walk};
use crate::ir::InferError;
use crate::tensor::Tensor;

/// The axis, counted from the front; type inference has checked it.
pub(super) fn axis_of(axis: i64, rank: usize) -> usize {
    if axis < 0 { (axis + rank as i64) as usize } else { axis as usize }
}

/// The axis of a tensor, counted from the front.
pub(super) fn checked_axis(axis: i64, t: &Tensor) -> Result<usize, InferError> {
    let rank = t.shape().len() as i64;
    if (-rank..rank).contains(&axis) {
        return Ok(axis_of(axis, t.shape().len()));
    }
    Err(InferError::new(format!("an axis in -{rank}..{rank}"), format!("axis {axis}")))
}

pub(super) fn shape(start: i64, end: Option<i64>, data: &Tensor) -> Result<Tensor, InferError> {
    let dims: Vec<i64> = data.shape().iter().map(|&d| d as i64).collect();
    let rank = dims.len() as i64;
    let clamp = |i: i64| if i < 0 { i.saturating_add(rank) } else { i }.clamp(0, rank) as usize;
    let (start, end) = (clamp(start), clamp(end.unwrap_or(rank)));
    let dims = if start < end { dims[start..end].to_vec() } else { vec![] };
    Ok(Tensor::from_i64([dims.len()], dims)?)
}

pub(super) fn gather(
    axis: i64,
    data: &Tensor,
    indices: &Tensor,
    shape: &[usize],
) -> Result<Tensor, InferError> {
    let axis = axis_of(axis, data.shape().len());
    let size = data.shape()[axis];
    let inner: usize = data.shape()[axis + 1..].iter().product();
    let outer: usize = data.shape()[..axis].iter().product();
    let indices = integers(indices)?;
    let (low, high) = (-(size as i64), size as i64);
    if let Some(bad) = indices.iter().find(|&&i| !(low..high).contains(&i)) {
        let expected = format!("indices in {low}..{high} of axis {axis} of {:?}", data.shape());
        return Err(InferError::new(expected, format!("index {bad}")));
    }
    let at = |i: i64| if i < 0 { (i + high) as usize } else { i as usize };
    let indices = &indices;
    let positions = (0..outer).flat_map(|o| {
        indices.iter().flat_map(move |&i| (0..inner).map(move |k| (o * size + at(i)) * inner + k))
    });
    pick(data, shape, positions)
}

pub(super) fn concat(axis: i64, parts: &[&Tensor], shape: &[usize]) -> Result<Tensor, InferError> {
    let axis = axis_of(axis, shape.len());
    interleave(parts, shape, shape[..axis].iter().product())
}

/// The ends are in the result's shape.
pub(super) fn slice(
    data: &Tensor,
    starts: &Tensor,
    [axes, steps]: [Option<&Tensor>; 2],
    shape: &[usize],
) -> Result<Tensor, InferError> {
    let starts = integers(starts)?;
    let axes = match axes {
        Some(axes) => integers(axes)?,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = match steps {
        Some(steps) => integers(steps)?,
        None => vec![1; starts.len()],
    };
    let mut strides = strides(data.shape());
    let mut first = 0;
    for (i, &axis) in axes.iter().enumerate() {
        let axis = axis_of(axis, shape.len());
        let size = data.shape()[axis] as i64;
        let start = if starts[i] < 0 { starts[i].saturating_add(size) } else { starts[i] };
        let start = if steps[i] > 0 { start.clamp(0, size) } else { start.clamp(-1, size - 1) };
        // The result's size is known; only a first element that is read matters.
        if shape[axis] > 0 {
            first += start as isize * strides[axis];
        }
        strides[axis] = strides[axis].saturating_mul(steps[i] as isize);
        if shape[axis] <= 1 {
            strides[axis] = 0;
        }
    }
    pick(data, shape, walk(shape, &strides, first))
}

pub(super) fn split(axis: i64, data: &Tensor, shapes: &[&[usize]]) -> Result<Vec<Tensor>, InferError> {
    let axis = axis_of(axis, data.shape().len());
    let strides = strides(data.shape());
    let mut first = 0;
    let mut results = vec![];
    for shape in shapes {
        results.push(pick(data, shape, walk(shape, &strides, first))?);
        first += shape[axis] as isize * strides[axis];
    }
    Ok(results)
}

pub(super) fn transpose(perm: &[i64], data: &Tensor, shape: &[usize]) -> Result<Tensor, InferError> {
    let own = strides(data.shape());
    let strides: Vec<isize> = match perm {
        [] => own.into_iter().rev().collect(),
        perm => perm.iter().map(|&p| own[p as usize]).collect(),
    };
    pick(data, shape, walk(shape, &strides, 0))
}

pub(super) fn expand(data: &Tensor, shape: &[usize]) -> Result<Tensor, InferError> {
    let strides = broadcast_strides(data.shape(), shape);
    pick(data, shape, walk(shape, &strides, 0))
}
