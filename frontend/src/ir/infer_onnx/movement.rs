//! Operators that pick, join and reorder elements.

use super::super::dim::Dim;
use super::super::infer::{Fact, InferError, count};
use super::super::op::Content;
use super::algebra::{
    add, axis_of, constant_axes, constants, display, elements, fact, is_index, required, shape_elements,
    unify,
};

/// Ends at or beyond this mean "to the end": exporters write `i32::MAX` or `i64::MAX`.
const TO_THE_END: i64 = i32::MAX as i64;

pub(super) fn gather(axis: i64, data: &Fact, indices: &Fact) -> Result<Fact, InferError> {
    let axis = axis_of(axis, data.ty.shape.len())?;
    if !is_index(indices.ty.dtype) {
        return Err(InferError::new("indices of dtype i64 or i32", indices.ty.to_string()));
    }
    let size = data.ty.shape[axis].as_constant();
    let picked: Option<Vec<Option<i64>>> =
        indices.content.as_ref().map(|c| c.iter().map(Dim::as_integer).collect());
    if let (Some(n), Some(picked)) = (size, &picked) {
        let n = n as i64;
        if let Some(bad) = picked.iter().flatten().find(|&&i| !(-n..n).contains(&i)) {
            let expected = format!("indices in -{n}..{n} of axis {axis} of {}", data.ty);
            return Err(InferError::new(expected, format!("index {bad}")));
        }
    }
    let mut shape = data.ty.shape[..axis].to_vec();
    shape.extend_from_slice(&indices.ty.shape);
    shape.extend_from_slice(&data.ty.shape[axis + 1..]);
    let content = match (&data.content, picked) {
        (Some(c), Some(picked)) if data.ty.shape.len() == 1 => {
            let at = |i: i64| if i < 0 { i + c.len() as i64 } else { i } as usize;
            Some(picked.iter().map(|i| i.map_or(Dim::Unknown, |i| c[at(i)].clone())).collect())
        }
        _ => None,
    };
    Ok(fact(data.ty.dtype, shape, content))
}

pub(super) fn concat(axis: i64, operands: &[Option<Fact>]) -> Result<Fact, InferError> {
    let first = required(operands, 0, "inputs")?;
    let axis = axis_of(axis, first.ty.shape.len())?;
    let mut shape = first.ty.shape.clone();
    let mut content = elements(first);
    for i in 1..operands.len() {
        let next = required(operands, i, "inputs")?;
        let wrong = || {
            let expected = format!("inputs like the first, {}, on every axis but {axis}", first.ty);
            InferError::new(expected, next.ty.to_string())
        };
        if next.ty.dtype != first.ty.dtype || next.ty.shape.len() != shape.len() {
            return Err(wrong());
        }
        for (at, (d, e)) in shape.iter_mut().zip(&next.ty.shape).enumerate() {
            *d = if at == axis { add(d, e) } else { unify(d, e).ok_or_else(wrong)? };
        }
        content = match (content, elements(next)) {
            (Some(mut c), Some(n)) => {
                c.extend(n);
                Some(c)
            }
            _ => None,
        };
    }
    Ok(fact(first.ty.dtype, shape, content))
}

pub(super) fn transpose(perm: &[i64], data: &Fact) -> Result<Fact, InferError> {
    let rank = data.ty.shape.len();
    let perm: Vec<i64> = if perm.is_empty() { (0..rank as i64).rev().collect() } else { perm.to_vec() };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank as i64) {
        let expected = format!("a permutation of the axes of {}", data.ty);
        return Err(InferError::new(expected, format!("{perm:?}")));
    }
    let shape = perm.iter().map(|&p| data.ty.shape[p as usize].clone()).collect();
    Ok(fact(data.ty.dtype, shape, data.content.clone()))
}

pub(super) fn split(axis: i64, outputs: usize, operands: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
    if operands.len() > 2 {
        return Err(count("data and perhaps sizes", operands));
    }
    let data = required(operands, 0, "data")?;
    let axis = axis_of(axis, data.ty.shape.len())?;
    let size = &data.ty.shape[axis];
    let sizes: Vec<Dim> = match operands.get(1).and_then(Option::as_ref) {
        Some(sizes) => {
            let sizes = shape_elements("sizes", sizes)?.unwrap_or_else(|| vec![Dim::Unknown; outputs]);
            let sum = sizes.iter().fold(Dim::from(0), |s, d| add(&s, d));
            let negative =
                sizes.iter().any(|d| matches!(d, Dim::Known { coefficient, .. } if *coefficient < 0));
            if sizes.len() != outputs || negative || unify(&sum, size).is_none() {
                let expected =
                    format!("{outputs} sizes of sum {size}, the size of axis {axis} of {}", data.ty);
                return Err(InferError::new(expected, display(&sizes)));
            }
            sizes
        }
        None if outputs == 0 => return Err(InferError::new("at least one result", "none")),
        None => equal_parts(size, outputs)?,
    };
    // Where the next part starts, as long as the sizes are constants.
    let mut at = Some(0usize);
    let part = |d: Dim| {
        let end = at.zip(d.as_constant()).and_then(|(at, n)| at.checked_add(n));
        let range = at.zip(end).map(|(at, end)| at..end);
        at = end;
        let content =
            data.content.as_ref().zip(range).and_then(|(c, range)| c.get(range)).map(<[Dim]>::to_vec);
        let mut shape = data.ty.shape.clone();
        shape[axis] = d;
        fact(data.ty.dtype, shape, content)
    };
    Ok(sizes.into_iter().map(part).collect())
}

/// `outputs` parts, the last one shorter if they cannot be equal.
fn equal_parts(size: &Dim, outputs: usize) -> Result<Vec<Dim>, InferError> {
    let Some(n) = size.as_constant() else {
        return Ok(vec![size.divided_by(&outputs.into()).unwrap_or(Dim::Unknown); outputs]);
    };
    let part = n.div_ceil(outputs);
    let Some(last) = n.checked_sub(part * (outputs - 1)) else {
        return Err(InferError::new(format!("an axis that splits into {outputs}"), format!("size {n}")));
    };
    let mut sizes: Vec<Dim> = vec![part.into(); outputs - 1];
    sizes.push(last.into());
    Ok(sizes)
}

pub(super) fn slice(operands: &[Option<Fact>]) -> Result<Fact, InferError> {
    if operands.len() > 5 {
        return Err(count("data, starts, ends and perhaps axes and steps", operands));
    }
    let data = required(operands, 0, "data")?;
    let starts = shape_elements("starts", required(operands, 1, "starts")?)?;
    let ends = shape_elements("ends", required(operands, 2, "ends")?)?;
    let rank = data.ty.shape.len();
    let count = starts.as_ref().or(ends.as_ref()).map(Vec::len);
    let axes = match operands.get(3).and_then(Option::as_ref) {
        Some(axes) => constant_axes("axes", axes, rank)?,
        None => count.map(|n| (0..n).collect()),
    };
    let Some((axes, count)) = axes.zip(count) else {
        return Ok(fact(data.ty.dtype, vec![Dim::Unknown; rank], None));
    };
    let starts = starts.unwrap_or_else(|| vec![Dim::Unknown; count]);
    let ends = ends.unwrap_or_else(|| vec![Dim::Unknown; count]);
    let steps: Vec<Option<i64>> = match operands.get(4).and_then(Option::as_ref) {
        Some(steps) => {
            constants("steps", steps)?.map_or(vec![None; count], |s| s.into_iter().map(Some).collect())
        }
        None => vec![Some(1); count],
    };
    let counts = [starts.len(), ends.len(), axes.len(), steps.len()];
    if counts.iter().any(|&n| n != starts.len()) || starts.len() > rank {
        let expected = format!("as many starts, ends, axes and steps, at most {rank}");
        return Err(InferError::new(expected, format!("{counts:?}")));
    }
    let mut shape = data.ty.shape.clone();
    let mut content = data.content.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let Some(step) = steps[i] else {
            (shape[axis], content) = (Dim::Unknown, None);
            continue;
        };
        if step == 0 {
            return Err(InferError::new("steps other than zero", "0"));
        }
        shape[axis] = sliced(&data.ty.shape[axis], &starts[i], &ends[i], step);
        content = content.and_then(|c| slice_content(&c, &starts[i], &ends[i], step));
    }
    Ok(fact(data.ty.dtype, shape, content))
}

/// First index and count of `start..end` by `step` in `size` elements, clamped as ONNX specifies.
fn slice_range(size: i64, start: i64, end: i64, step: i64) -> (i64, i64) {
    let from_front = |i: i64| if i < 0 { i.saturating_add(size) } else { i };
    let (start, end) = (from_front(start), from_front(end));
    if step > 0 {
        let (start, end) = (start.clamp(0, size), end.clamp(0, size));
        let length = (end - start).max(0);
        (start, length / step + i64::from(length % step != 0))
    } else {
        let (start, end) = (start.clamp(-1, size - 1), end.clamp(-1, size - 1));
        let length = (start - end).max(0);
        let step = step.saturating_neg();
        (start, length / step + i64::from(length % step != 0))
    }
}

/// The size of `start..end` by `step` of a dimension.
fn sliced(size: &Dim, start: &Dim, end: &Dim, step: i64) -> Dim {
    if let (Some(size), Some(start), Some(end)) = (size.as_constant(), start.as_integer(), end.as_integer()) {
        return Dim::constant(slice_range(size as i64, start, end, step).1 as usize);
    }
    let (start, end_constant) = (start.as_integer(), end.as_integer());
    let forward_all = start == Some(0) && (end == size || end_constant.is_some_and(|e| e >= TO_THE_END));
    let backward_all =
        start.is_some_and(|s| s == -1 || s >= TO_THE_END) && end_constant.is_some_and(|e| e <= -TO_THE_END);
    if *size != Dim::Unknown && ((step == 1 && forward_all) || (step == -1 && backward_all)) {
        return size.clone();
    }
    // A symbol is at least one, so a multiple of symbols has at least `coefficient` elements at either end.
    let (Dim::Known { coefficient: least, .. }, Some(start), Some(end), 1) =
        (size, start, end_constant, step)
    else {
        return Dim::Unknown;
    };
    if 0 <= start && start <= end && end <= *least {
        return Dim::constant((end - start) as usize);
    }
    let end = if end >= TO_THE_END { 0 } else { end };
    if start < 0
        && end <= 0
        && (end < 0 || end_constant >= Some(TO_THE_END))
        && start <= end
        && -start <= *least
    {
        return Dim::constant((end - start) as usize);
    }
    Dim::Unknown
}

fn slice_content(c: &Content, start: &Dim, end: &Dim, step: i64) -> Option<Content> {
    let (first, count) = slice_range(c.len() as i64, start.as_integer()?, end.as_integer()?, step);
    // Saturating: with one element and a huge step the second index is never read.
    Some((0..count).map(|k| c[first.saturating_add(k.saturating_mul(step)) as usize].clone()).collect())
}
