//! Operators that change the shape and keep the elements, and those that create a tensor of a computed shape.

use super::super::dim::Dim;
use super::super::infer::{Fact, InferError, MAX_CONTENT, count};
use super::super::op::Scalar;
use super::algebra::{
    axis_of, broadcast, constant_axes, constants, display, elements, fact, integer, product, required,
    shape_elements,
};
use super::unranked;
use crate::tensor::DType;

pub(super) fn squeeze(operands: &[Option<Fact>]) -> Result<Fact, InferError> {
    if operands.len() > 2 {
        return Err(count("data and perhaps axes", operands));
    }
    let data = required(operands, 0, "data")?;
    let dims = &data.ty.shape;
    let axes = match operands.get(1).and_then(Option::as_ref) {
        Some(axes) => constant_axes("axes", axes, dims.len())?,
        None if dims.iter().all(|d| d.as_constant().is_some()) => {
            Some((0..dims.len()).filter(|&i| dims[i].is(1)).collect())
        }
        None => None,
    };
    // Without axes, which symbolic dimensions are 1 is not known.
    let Some(axes) = axes else { return Ok(unranked(data.ty.dtype)) };
    if let Some(&axis) = axes.iter().find(|&&i| dims[i].as_constant().is_some_and(|d| d != 1)) {
        return Err(InferError::new(format!("size 1 on axis {axis}"), data.ty.to_string()));
    }
    let shape = dims.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect();
    Ok(fact(data.ty.dtype, shape, data.content.clone()))
}

pub(super) fn unsqueeze(data: &Fact, axes: &Fact) -> Result<Fact, InferError> {
    let Some(given) = constants("axes", axes)? else { return Ok(unranked(data.ty.dtype)) };
    let rank = data.ty.shape.len() + given.len();
    let axes = constant_axes("axes", axes, rank)?.unwrap_or_default();
    let mut rest = data.ty.shape.iter();
    let shape = (0..rank)
        .map(|i| if axes.contains(&i) { Dim::from(1) } else { rest.next().cloned().unwrap_or(Dim::Unknown) })
        .collect();
    Ok(fact(data.ty.dtype, shape, data.content.clone()))
}

pub(super) fn reshape(allow_zero: bool, data: &Fact, shape: &Fact) -> Result<Fact, InferError> {
    let Some(targets) = shape_elements("shape", shape)? else { return Ok(unranked(data.ty.dtype)) };
    let wrong =
        |expected: String| InferError::new(expected, format!("{} for {}", display(&targets), data.ty));
    let minus_one = integer(-1);
    let inferred = targets.iter().filter(|&t| *t == minus_one).count();
    if inferred > 1 {
        return Err(wrong("at most one -1".into()));
    }
    if allow_zero && inferred == 1 && targets.iter().any(|t| t.is(0)) {
        return Err(wrong("no zero beside a -1, since zero means zero here (allowzero)".into()));
    }
    // Dimensions that are copied cancel, known or not.
    let mut sources: Vec<Option<Dim>> = data.ty.shape.iter().cloned().map(Some).collect();
    let mut result: Vec<Option<Dim>> = vec![];
    let mut others = vec![];
    for (i, t) in targets.iter().enumerate() {
        match t {
            Dim::Known { coefficient: 0, .. } if !allow_zero => match sources.get_mut(i) {
                Some(d) => result.push(d.take()),
                None => return Err(wrong(format!("a zero only where the data has a dimension, not at {i}"))),
            },
            t if *t == minus_one || *t == Dim::Unknown => result.push(None),
            Dim::Known { coefficient, .. } if *coefficient < 0 => {
                return Err(wrong("dimensions of at least -1".into()));
            }
            t => {
                others.push(t.clone());
                result.push(Some(t.clone()));
            }
        }
    }
    let sources: Vec<Dim> = sources.into_iter().flatten().collect();
    let (total, others) = (product(&sources), product(&others));
    let constants = total.as_constant().zip(others.as_constant());
    match result.iter().filter(|d| d.is_none()).count() {
        0 if constants.is_some_and(|(t, o)| t != o) => {
            return Err(wrong(format!("a shape of {total} elements besides those copied")));
        }
        1 if constants.is_some_and(|(t, o)| o != 0 && t % o != 0) => {
            return Err(wrong(format!("a shape whose {others} elements besides the -1 divide {total}")));
        }
        1 => {
            let quotient = total.divided_by(&others);
            result.iter_mut().filter(|d| d.is_none()).for_each(|d| d.clone_from(&quotient));
        }
        _ => {}
    }
    let result = result.into_iter().map(|d| d.unwrap_or(Dim::Unknown)).collect();
    Ok(fact(data.ty.dtype, result, data.content.clone()))
}

/// Reshape of data of unknown rank: what the shape says by itself.
pub(super) fn reshape_unranked(data: &Fact, shape: &Fact) -> Fact {
    let Ok(Some(targets)) = shape_elements("shape", shape) else { return unranked(data.ty.dtype) };
    let known = |d: Dim| if d.as_integer().is_some_and(|n| n <= 0) { Dim::Unknown } else { d };
    fact(data.ty.dtype, targets.into_iter().map(known).collect(), None)
}

pub(super) fn flatten(axis: i64, data: &Fact) -> Result<Fact, InferError> {
    let rank = data.ty.shape.len();
    let axis = if axis == rank as i64 { rank } else { axis_of(axis, rank)? };
    let (outer, inner) = data.ty.shape.split_at(axis);
    Ok(fact(data.ty.dtype, vec![product(outer), product(inner)], None))
}

/// The dimensions that the Shape operator returns, counted from the front.
fn shape_range(start: i64, end: Option<i64>, rank: usize) -> std::ops::Range<usize> {
    let n = rank as i64;
    let clamp = |i: i64| if i < 0 { i.saturating_add(n) } else { i }.clamp(0, n) as usize;
    let (start, end) = (clamp(start), end.map_or(rank, clamp));
    start..end.max(start)
}

pub(super) fn shape(start: i64, end: Option<i64>, data: &Fact) -> Fact {
    let dims = data.ty.shape[shape_range(start, end, data.ty.shape.len())].to_vec();
    fact(DType::I64, vec![dims.len().into()], Some(dims))
}

/// The elements of a shape, none of them negative.
fn sizes(shape: &Fact) -> Result<Option<Vec<Dim>>, InferError> {
    let Some(dims) = shape_elements("shape", shape)? else { return Ok(None) };
    if dims.iter().any(|d| matches!(d, Dim::Known { coefficient, .. } if *coefficient < 0)) {
        return Err(InferError::new("a shape without negative sizes", display(&dims)));
    }
    Ok(Some(dims))
}

pub(super) fn expand(data: &Fact, shape: &Fact) -> Result<Fact, InferError> {
    let Some(sizes) = sizes(shape)? else { return Ok(unranked(data.ty.dtype)) };
    let shape = broadcast(&data.ty.shape, &sizes)?;
    let n = match shape.as_slice() {
        [] => Some(1),
        [d] => d.as_constant(),
        _ => None,
    };
    let content = match (elements(data), n) {
        (Some(c), Some(n)) if c.len() == 1 && n <= MAX_CONTENT => Some(vec![c[0].clone(); n]),
        (c, _) => c,
    };
    Ok(fact(data.ty.dtype, shape, content))
}

pub(super) fn constant_of_shape(value: Scalar, shape: &Fact) -> Result<Fact, InferError> {
    let Some(shape) = sizes(shape)? else { return Ok(unranked(value.dtype)) };
    let element = integer(value.value as i64);
    let content = match shape.as_slice() {
        [] => Some(vec![element]),
        [d] => d.as_constant().filter(|&n| n <= MAX_CONTENT).map(|n| vec![element; n]),
        _ => None,
    };
    Ok(fact(value.dtype, shape, content))
}
