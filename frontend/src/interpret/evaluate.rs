//! One generic operator on tensors.

use super::elements::{MAX_ELEMENTS, elided, limited, of_integers, of_reals};
use super::real::Real;
use super::{arithmetic, lines, loops, movement, recurrent, table};
use crate::ir::{Fact, InferError, LinearMap, Op, infer};
use crate::tensor::{DType, Tensor};

/// The results of a generic operator (an `onnx.*` or elementwise one) on tensors; `None` for an optional operand that is not given.
///
/// f16 and bf16 are computed in f32 and rounded. Integers wrap.
pub fn evaluate(op: &Op, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, InferError> {
    if let Some(t) = operands.iter().flatten().find(|t| t.is_elided()) {
        return Err(elided(t));
    }
    if *op == Op::If {
        return branch(operands);
    }
    // With every size known, type inference checks the operands and gives the results' sizes.
    let fact = |t: &Tensor| Fact::of_map(&LinearMap::Dense(t.clone()));
    let facts: Vec<Option<Fact>> = operands.iter().map(|t| t.as_ref().map(fact)).collect();
    let results = infer(op, &facts)?;
    let sizes = |f: &Fact| f.ty.shape.iter().map(|d| d.as_constant()).collect::<Option<Vec<usize>>>();
    match op {
        Op::Onnx(op) => {
            let types: Vec<_> = results.iter().map(|f| (f.ty.dtype, sizes(f))).collect();
            types.iter().filter_map(|(_, s)| s.as_ref()).try_for_each(|s| limited(s).map(drop))?;
            return table::evaluate(op, operands, &types);
        }
        Op::Loop(l) => return loops::iterate(l, operands),
        Op::Scan(s) => return loops::scan(s, operands),
        Op::Unknown { domain, name, .. } => {
            let of = if domain.is_empty() { String::new() } else { format!(" of domain {domain:?}") };
            return Err(InferError::new("an operator that lstmc knows", format!("{name}{of}")));
        }
        _ => {}
    }
    let mut types = vec![];
    for fact in &results {
        let small = |s: &Vec<usize>| limited(s).is_ok();
        let sizes = sizes(fact).filter(small).ok_or_else(|| {
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

/// The results of the branch that the condition selects; the other's need not be given.
fn branch(operands: &[Option<Tensor>]) -> Result<Vec<Tensor>, InferError> {
    let (condition, results) = operands.split_first().unwrap_or((&None, &[]));
    let condition = condition.as_ref().map(|t| t.bools().map(|v| v.first() == Some(&true)));
    let Some(condition) = condition.transpose()? else { return Err(InferError::new("a condition", "none")) };
    let (then, otherwise) = results.split_at(results.len() / 2);
    let taken = if condition { then } else { otherwise };
    let none = || InferError::new("the results of the branch that is taken", "none");
    taken.iter().map(|t| t.clone().ok_or_else(none)).collect()
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
        (Op::Select, Some(a)) => arithmetic::select::<T>([a, given[1]], given[2], given[3], dtype, shape),
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
        (Op::Softmax { axis, flatten }, Some(x)) => arithmetic::softmax::<T>(*axis, *flatten, false, x),
        (Op::LogSoftmax { axis, flatten }, Some(x)) => arithmetic::softmax::<T>(*axis, *flatten, true, x),
        (Op::Reduce { kind, noop_with_empty_axes, .. }, Some(x)) => {
            lines::reduce(*kind, *noop_with_empty_axes, x, optional(1), shape)
        }
        (Op::OnnxLstm(lstm), Some(_)) => return recurrent::lstm::<T>(lstm, operands),
        (Op::OnnxGru(gru), Some(_)) => return recurrent::gru::<T>(gru, operands),
        (Op::OnnxRnn(rnn), Some(_)) => return recurrent::rnn::<T>(rnn, operands),
        _ => Err(InferError::new("a generic operator with operands", op.name())),
    };
    Ok(vec![result?])
}
