//! Elementwise operators and matrix products.

use super::super::dim::Dim;
use super::super::infer::{Fact, InferError, MAX_CONTENT, count};
use super::super::op::{Binary, Content};
use super::algebra::{add, broadcast, display, divide, elements, fact, in_range, required, subtract, unify};
use crate::tensor::DType;

/// The common dtype of two operands. A float constant may be stored in half precision; it is read as f32.
fn common(a: &Fact, b: &Fact) -> Result<DType, InferError> {
    match (a.ty.dtype, b.ty.dtype) {
        (DType::Bool, _) | (_, DType::Bool) => {
            Err(InferError::new("operands of a numeric dtype", format!("{} and {}", a.ty, b.ty)))
        }
        (x, y) if x == y => Ok(x),
        (DType::F32, DType::F16) | (DType::F16, DType::F32) => Ok(DType::F32),
        _ => Err(InferError::new("operands of one dtype", format!("{} and {}", a.ty, b.ty))),
    }
}

pub(super) fn binary(op: Binary, a: &Fact, b: &Fact) -> Result<Fact, InferError> {
    let dtype = common(a, b)?;
    let shape = broadcast(&a.ty.shape, &b.ty.shape)?;
    let content = match (elements(a), elements(b)) {
        (Some(x), Some(y)) => elementwise(op, &x, &y, dtype),
        _ => None,
    };
    Ok(fact(dtype, shape, content))
}

fn elementwise(op: Binary, a: &Content, b: &Content, dtype: DType) -> Option<Content> {
    let n = if a.len() == 1 { b.len() } else { a.len() };
    if n > MAX_CONTENT || (a.len() != n && a.len() != 1) || (b.len() != n && b.len() != 1) {
        return None;
    }
    let pick = |c: &Content, i: usize| c[if c.len() == 1 { 0 } else { i }].clone();
    let one = |i| {
        let (x, y) = (pick(a, i), pick(b, i));
        let z = match op {
            Binary::Add => add(&x, &y),
            Binary::Sub => subtract(&x, &y),
            Binary::Mul => x.times(&y),
            Binary::Div => divide(&x, &y),
            Binary::Max | Binary::Min => {
                if x == y {
                    x
                } else {
                    Dim::Unknown
                }
            }
        };
        in_range(z, dtype)
    };
    Some((0..n).map(one).collect())
}

pub(super) fn mat_mul(a: &Fact, b: &Fact) -> Result<Fact, InferError> {
    let dtype = common(a, b)?;
    let (sa, sb) = (&a.ty.shape, &b.ty.shape);
    let wrong = |expected: &str| InferError::new(expected, format!("{} and {}", a.ty, b.ty));
    let Some((ka, rest_a)) = sa.split_last() else {
        return Err(wrong("operands of at least one dimension"));
    };
    let (batch_a, rows): (&[Dim], Option<&Dim>) = match rest_a.split_last() {
        Some((m, batch)) => (batch, Some(m)),
        None => (&[], None),
    };
    let (batch_b, kb, cols): (&[Dim], &Dim, Option<&Dim>) = match sb.as_slice() {
        [] => return Err(wrong("operands of at least one dimension")),
        [k] => (&[], k, None),
        [batch @ .., k, n] => (batch, k, Some(n)),
    };
    if unify(ka, kb).is_none() {
        return Err(wrong("as many columns of A as rows of B"));
    }
    let mut shape = broadcast(batch_a, batch_b)?;
    shape.extend(rows.into_iter().chain(cols).cloned());
    Ok(fact(dtype, shape, None))
}

pub(super) fn gemm(trans_a: bool, trans_b: bool, operands: &[Option<Fact>]) -> Result<Fact, InferError> {
    if operands.len() > 3 {
        return Err(count("A, B and perhaps C", operands));
    }
    let (a, b) = (required(operands, 0, "A")?, required(operands, 1, "B")?);
    let mut dtype = common(a, b)?;
    let wrong = |expected: &str| InferError::new(expected, format!("{} and {}", a.ty, b.ty));
    let ([a0, a1], [b0, b1]) = (a.ty.shape.as_slice(), b.ty.shape.as_slice()) else {
        return Err(wrong("matrices A and B"));
    };
    let (m, ka) = if trans_a { (a1, a0) } else { (a0, a1) };
    let (kb, n) = if trans_b { (b1, b0) } else { (b0, b1) };
    if unify(ka, kb).is_none() {
        return Err(wrong("as many columns of A (transposed where asked) as rows of B"));
    }
    let shape = vec![m.clone(), n.clone()];
    if let Some(c) = operands.get(2).and_then(Option::as_ref) {
        if dtype != c.ty.dtype {
            dtype = common(&Fact::of_type(dtype, vec![]), c)?;
        }
        let fits = c.ty.shape.len() <= 2
            && c.ty.shape.iter().rev().zip(shape.iter().rev()).all(|(c, d)| c.is(1) || unify(c, d).is_some());
        if !fits {
            let expected = format!("C that broadcasts to {}", display(&shape));
            return Err(InferError::new(expected, c.ty.to_string()));
        }
    }
    Ok(fact(dtype, shape, None))
}
