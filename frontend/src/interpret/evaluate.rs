//! One generic operator on tensors.

use super::elements::{MAX_ELEMENTS, elided, of_integers, of_reals};
use super::real::Real;
use super::{arithmetic, movement, onnx_lstm};
use crate::ir::{Fact, InferError, LinearMap, Op, infer};
use crate::tensor::{DType, Tensor, element_count};

/// The results of a generic operator (an `onnx.*` or elementwise one) on tensors; `None` for an optional operand that is not given.
///
/// f16 and bf16 are computed in f32 and rounded. Integers wrap.
pub fn evaluate(op: &Op, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, InferError> {
    if let Some(t) = operands.iter().flatten().find(|t| t.is_elided()) {
        return Err(elided(t));
    }
    // With every size known, type inference checks the operands and gives the results' sizes.
    let fact = |t: &Tensor| Fact::of_map(&LinearMap::Dense(t.clone()));
    let facts: Vec<Option<Fact>> = operands.iter().map(|t| t.as_ref().map(fact)).collect();
    let results = infer(op, &facts)?;
    let mut types = vec![];
    for fact in &results {
        let sizes: Option<Vec<usize>> = fact.ty.shape.iter().map(|d| d.as_constant()).collect();
        let small = |s: &Vec<usize>| element_count(s).is_ok_and(|n| n <= MAX_ELEMENTS);
        let sizes = sizes.filter(small).ok_or_else(|| {
            InferError::new(format!("a result of at most {MAX_ELEMENTS} elements"), fact.ty.to_string())
        })?;
        types.push((fact.ty.dtype, sizes));
    }
    let Some((dtype, shape)) = types.first() else { return Ok(vec![]) };
    let given: Vec<&Tensor> = operands.iter().flatten().collect();
    if *dtype == DType::F64 {
        generic::<f64>(op, operands, &given, *dtype, shape, &types)
    } else {
        generic::<f32>(op, operands, &given, *dtype, shape, &types)
    }
}

fn generic<T: Real>(
    op: &Op,
    operands: &[Option<Tensor>],
    given: &[&Tensor],
    dtype: DType,
    shape: &[usize],
    types: &[(DType, Vec<usize>)],
) -> Result<Vec<Tensor>, InferError> {
    let optional = |i: usize| operands.get(i).and_then(Option::as_ref);
    let x = given.first().copied();
    let result = match (op, x) {
        (Op::Shape { start, end }, Some(x)) => movement::shape(*start, *end, x),
        (Op::ConstantOfShape { value }, _) => {
            let n = shape.iter().product();
            if dtype.is_float() {
                of_reals(dtype, shape, vec![value.value; n])
            } else {
                of_integers(dtype, shape, vec![value.value as i64; n])
            }
        }
        (Op::Binary(binary), Some(a)) => arithmetic::binary::<T>(*binary, a, given[1], dtype, shape),
        (Op::Unary(unary), Some(x)) => arithmetic::unary::<T>(*unary, x),
        (Op::MatMul, Some(a)) => arithmetic::mat_mul::<T>(a, given[1], dtype, shape),
        (Op::Gemm { alpha, beta, trans_a, trans_b }, Some(a)) => {
            let scale = arithmetic::GemmScale { alpha: *alpha, beta: *beta };
            let b = (given[1], *trans_b);
            arithmetic::gemm::<T>(scale, (a, *trans_a), b, optional(2), dtype, shape)
        }
        (Op::Gather { axis }, Some(data)) => movement::gather(*axis, data, given[1], shape),
        (Op::Concat { axis }, Some(_)) => movement::concat(*axis, given, shape),
        (Op::Slice, Some(data)) => movement::slice(data, given[1], [optional(3), optional(4)], shape),
        (Op::Split { axis, .. }, Some(data)) => {
            let shapes: Vec<&[usize]> = types.iter().map(|(_, s)| s.as_slice()).collect();
            return movement::split(*axis, data, &shapes);
        }
        (Op::Transpose { perm }, Some(data)) => movement::transpose(perm, data, shape),
        (Op::Expand, Some(data)) => movement::expand(data, shape),
        (
            Op::Squeeze | Op::Unsqueeze | Op::Reshape { .. } | Op::Flatten { .. } | Op::Identity,
            Some(data),
        ) => Ok(data.clone().reshaped(shape)?),
        (Op::Cast { to }, Some(data)) => arithmetic::cast(*to, data),
        (Op::Dropout, Some(data)) => {
            let mask = Tensor::from_bool(shape, vec![true; data.len()])?;
            return Ok(vec![data.clone(), mask]);
        }
        (Op::Softmax { axis }, Some(x)) => arithmetic::softmax::<T>(*axis, false, x),
        (Op::LogSoftmax { axis }, Some(x)) => arithmetic::softmax::<T>(*axis, true, x),
        (Op::ReduceMean { noop_with_empty_axes, .. }, Some(x)) => {
            arithmetic::reduce_mean(*noop_with_empty_axes, x, optional(1), shape)
        }
        (Op::OnnxLstm(lstm), Some(_)) => return onnx_lstm::evaluate::<T>(lstm, operands),
        _ => Err(InferError::new("a generic operator with operands", op.name())),
    };
    Ok(vec![result?])
}
