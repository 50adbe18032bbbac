//! What the operators' rules share: axes, dimensions that must agree, sums of dimensions, elements of shape tensors.

use super::super::dim::Dim;
use super::super::graph::Type;
use super::super::infer::{Fact, InferError, MAX_CONTENT, count};
use super::super::op::Content;
use crate::tensor::DType;

/// The operand at `index`, which must be given.
pub(super) fn required<'a>(
    operands: &'a [Option<Fact>],
    index: usize,
    name: &str,
) -> Result<&'a Fact, InferError> {
    operands.get(index).and_then(Option::as_ref).ok_or_else(|| count(&format!("with {name}"), operands))
}

/// A fact whose elements are kept only if the type may have them.
pub(super) fn fact(dtype: DType, shape: Vec<Dim>, content: Option<Content>) -> Fact {
    let fits = |c: &Content| {
        is_index(dtype)
            && c.len() <= MAX_CONTENT
            && match shape.as_slice() {
                [] => c.len() == 1,
                [d] => d.is(c.len()),
                _ => false,
            }
            && (c.is_empty() || c.iter().any(|d| *d != Dim::Unknown))
    };
    let content = content.filter(fits);
    Fact { ty: Type::new(dtype, shape), content }
}

/// Whether shapes, axes and indices may have this dtype.
pub(super) fn is_index(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::I32)
}

/// The element, or unknown if it is outside the range of `dtype`.
pub(super) fn in_range(d: Dim, dtype: DType) -> Dim {
    match (&d, dtype) {
        (Dim::Known { coefficient, .. }, DType::I32) if i32::try_from(*coefficient).is_err() => Dim::Unknown,
        _ => d,
    }
}

/// The elements of a small integer tensor of rank 0 or 1; unknown ones if only the length is known. `None` for other tensors.
pub(super) fn elements(f: &Fact) -> Option<Content> {
    if !is_index(f.ty.dtype) {
        return None;
    }
    let len = match f.ty.shape.as_slice() {
        [] => 1,
        [d] => d.as_constant()?,
        _ => return None,
    };
    match &f.content {
        Some(c) => Some(c.clone()),
        None if len <= MAX_CONTENT => Some(vec![Dim::Unknown; len]),
        None => None,
    }
}

/// The elements of a shape, starts or ends operand: integers of rank 1. `None` if not even their number is known.
pub(super) fn shape_elements(what: &str, f: &Fact) -> Result<Option<Content>, InferError> {
    let fits = is_index(f.ty.dtype)
        && f.ty.shape.len() == 1
        && f.ty.shape[0].as_constant().is_none_or(|n| n <= MAX_CONTENT);
    if fits {
        return Ok(elements(f));
    }
    let expected = format!("{what} of rank 1, an integer dtype and a length of at most {MAX_CONTENT}");
    Err(InferError::new(expected, f.ty.to_string()))
}

/// The elements of an integer operand of rank 0 or 1, if all are constants.
pub(super) fn constants(what: &str, f: &Fact) -> Result<Option<Vec<i64>>, InferError> {
    if !is_index(f.ty.dtype) || f.ty.shape.len() > 1 {
        let expected = format!("{what} of rank 0 or 1 and an integer dtype");
        return Err(InferError::new(expected, f.ty.to_string()));
    }
    Ok(elements(f).and_then(|c| c.iter().map(Dim::as_integer).collect()))
}

/// Distinct axes of a tensor of this rank, if they are constants.
pub(super) fn constant_axes(what: &str, f: &Fact, rank: usize) -> Result<Option<Vec<usize>>, InferError> {
    let Some(all) = constants(what, f)? else { return Ok(None) };
    let mut axes = vec![];
    for axis in all {
        let axis = axis_of(axis, rank)?;
        if axes.contains(&axis) {
            return Err(InferError::new(format!("{what} that differ"), format!("axis {axis} twice")));
        }
        axes.push(axis);
    }
    Ok(Some(axes))
}

/// The shape without the axes that are reduced, or with 1 in their place.
pub(super) fn reduced(shape: &[Dim], is_reduced: impl Fn(usize) -> bool, keep: bool) -> Vec<Dim> {
    let kept = |(i, d): (usize, &Dim)| match (is_reduced(i), keep) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(1.into()),
        (true, false) => None,
    };
    shape.iter().enumerate().filter_map(kept).collect()
}

/// The axis, counted from the front.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize, InferError> {
    let rank = rank as i64;
    let normal = if axis < 0 { axis.saturating_add(rank) } else { axis };
    if (0..rank).contains(&normal) {
        return Ok(normal as usize);
    }
    Err(InferError::new(format!("an axis in -{rank}..{rank}"), format!("axis {axis}")))
}

/// The common size of two dimensions that must be equal.
pub(super) fn unify(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Unknown, x) | (x, Dim::Unknown) => Some(x.clone()),
        (a, b) if a == b => Some(a.clone()),
        (a, b) => match (a.as_integer(), b.as_integer()) {
            (Some(_), Some(_)) => None,
            (None, Some(_)) => Some(b.clone()),
            _ => Some(a.clone()),
        },
    }
}

/// NumPy broadcasting of one dimension.
fn broadcast_dim(a: &Dim, b: &Dim) -> Option<Dim> {
    // A multiple of a symbol cannot be one, so the other side must match it.
    let never_one = |d: &Dim| matches!(d, Dim::Known { coefficient, .. } if *coefficient != 1);
    match (a, b) {
        (a, b) if a == b => Some(a.clone()),
        (a, b) if a.is(1) => Some(b.clone()),
        (a, b) if b.is(1) => Some(a.clone()),
        (a, b) if a.as_integer().is_some() && b.as_integer().is_some() => None,
        (a, b) if a.as_integer().is_none() && b.as_integer().is_some() => Some(b.clone()),
        (a, _) if never_one(a) => Some(a.clone()),
        (_, b) if never_one(b) => Some(b.clone()),
        _ => Some(Dim::Unknown),
    }
}

/// NumPy broadcasting of two shapes.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, InferError> {
    let rank = a.len().max(b.len());
    let one = Dim::from(1);
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map_or(one.clone(), |i| s[i].clone());
    (0..rank)
        .map(|i| {
            broadcast_dim(&at(a, i), &at(b, i)).ok_or_else(|| {
                InferError::new(
                    "shapes that broadcast (from the right, equal or 1)",
                    format!("{} and {}", display(a), display(b)),
                )
            })
        })
        .collect()
}

/// `[S, B, 200]`.
pub(super) fn display(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The sum, if it is a monomial.
pub(super) fn add(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (a, b) if a.is(0) => b.clone(),
        (a, b) if b.is(0) => a.clone(),
        (Dim::Known { coefficient: x, symbols: s }, Dim::Known { coefficient: y, symbols: t }) if s == t => {
            match x.checked_add(*y) {
                Some(0) => Dim::constant(0),
                Some(coefficient) => Dim::Known { coefficient, symbols: s.clone() },
                None => Dim::Unknown,
            }
        }
        _ => Dim::Unknown,
    }
}

/// The difference, if it is a monomial.
pub(super) fn subtract(a: &Dim, b: &Dim) -> Dim {
    match b {
        Dim::Known { coefficient, symbols } => match coefficient.checked_neg() {
            Some(coefficient) => add(a, &Dim::Known { coefficient, symbols: symbols.clone() }),
            None => Dim::Unknown,
        },
        other => other.clone(),
    }
}

/// The quotient of integers, rounded toward zero as ONNX does, if it is a monomial.
pub(super) fn divide(a: &Dim, b: &Dim) -> Dim {
    match (a.as_integer(), b.as_integer()) {
        (Some(x), Some(y)) => x.checked_div(y).map_or(Dim::Unknown, integer),
        _ => a.divided_by(b).unwrap_or(Dim::Unknown),
    }
}

/// The product of dimensions.
pub(super) fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1), |p, d| p.times(d))
}

/// A constant element of either sign.
pub(super) fn integer(n: i64) -> Dim {
    Dim::Known { coefficient: n, symbols: vec![] }
}
