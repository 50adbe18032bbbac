//! Type inference of the generic operators.
//!
//! Every operator states what it takes and what it returns: dtypes, dimensions and, for small integer tensors of rank 0 or 1, the
//! elements. With the elements, the chains that exporters write for a reshape resolve while the graph is built:
//!
//! ```text
//!   Shape [S, B, 1, 200] ─▶ Slice [2, 3) ─▶ Mul [200] ─▶ Reshape(-1) ─▶ Concat [S, B, 200] ─▶ Reshape f32[S, B, 200]
//! ```
//!
//! A symbol stands for a size of at least one. A dimension that cannot be derived is [`Dim::Unknown`]; if even the number of dimensions cannot be,
//! the type is [`Type::unranked`], and so is what is computed from it, without checks. Two constants that should agree and do not are an
//! error; symbols that should agree are assumed to, and the run checks it.

mod algebra;
mod arithmetic;
mod generic;
mod movement;
mod recurrent;
mod shape;
#[cfg(test)]
mod tests;

use super::dim::Dim;
use super::graph::Type;
use super::infer::{Fact, InferError, count, exactly};
use super::op::{Function, Op};
use crate::tensor::DType;
use algebra::{axis_of, required};
pub(crate) use generic::Equation;

pub(super) fn infer(op: &Op, operands: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
    let is_ranked = |i: usize| operands.get(i).and_then(Option::as_ref).is_none_or(|f| f.ty.is_ranked());
    let one = match op {
        Op::Input
        | Op::State
        | Op::Embedding
        | Op::Lstm(_)
        | Op::Gru(_)
        | Op::Rnn(_)
        | Op::Linear
        | Op::Features { .. }
        | Op::LayerNorm { .. }
        | Op::LogSoftmaxFeatures
        | Op::ConcatFeatures => {
            return Err(InferError::new("a generic operator", op.name()));
        }
        Op::Unknown { outputs, .. } => return Ok(vec![unranked(DType::F32); *outputs]),
        Op::If => return generic::branches(operands),
        Op::Loop(l) => return Ok(generic::iterations(l, operands)),
        Op::Scan(s) => return Ok(generic::steps(s)),
        Op::Onnx(op) => return generic::infer(op, operands),
        // A shape is all that these take from the operand of unknown rank.
        Op::Shape { .. } if !is_ranked(0) => {
            return Ok(vec![Fact::of_type(DType::I64, vec![Dim::Unknown])]);
        }
        Op::Reshape { .. } if !is_ranked(0) && is_ranked(1) => {
            let [data, shape] = exactly(operands, ["data", "shape"])?;
            Ok(shape::reshape_unranked(data, shape))
        }
        Op::Cast { to } if !is_ranked(0) => Ok(unranked(*to)),
        Op::ConstantOfShape { value } if !is_ranked(0) => Ok(unranked(value.dtype)),
        _ if (0..operands.len()).any(|i| !is_ranked(i)) => {
            let dtype = operands.iter().flatten().next().map_or(DType::F32, |f| f.ty.dtype);
            return Ok(vec![unranked(dtype); op.results(operands.len())]);
        }
        Op::OnnxLstm(lstm) => return recurrent::infer(&recurrent::Layer::of_lstm(lstm), operands),
        Op::OnnxGru(rnn) => return recurrent::infer(&recurrent::Layer::of_rnn(rnn, 3, 2), operands),
        Op::OnnxRnn(rnn) => return recurrent::infer(&recurrent::Layer::of_rnn(rnn, 1, 1), operands),
        Op::Split { axis, outputs } => return movement::split(*axis, *outputs, operands),
        Op::Dropout => return dropout(operands),
        Op::Binary(binary) => {
            let [a, b] = exactly(operands, ["A", "B"])?;
            arithmetic::binary(*binary, a, b)
        }
        Op::Unary(unary) => {
            let [x] = exactly(operands, ["X"])?;
            arithmetic_operand("X", x, *unary == Function::Relu)?;
            Ok(Fact { ty: x.ty.clone(), content: None })
        }
        Op::Select => {
            let [a, b, then, otherwise] = exactly(operands, ["A", "B", "then", "otherwise"])?;
            let mut shape = vec![];
            for (what, x) in [("A", a), ("B", b), ("then", then), ("otherwise", otherwise)] {
                arithmetic_operand(what, x, false)?;
                shape = algebra::broadcast(&shape, &x.ty.shape)?;
            }
            Ok(Fact::of_type(then.ty.dtype, shape))
        }
        Op::MatMul => {
            let [a, b] = exactly(operands, ["A", "B"])?;
            arithmetic::mat_mul(a, b)
        }
        Op::Gemm { trans_a, trans_b, .. } => arithmetic::gemm(*trans_a, *trans_b, operands),
        Op::Gather { axis } => {
            let [data, indices] = exactly(operands, ["data", "indices"])?;
            movement::gather(*axis, data, indices)
        }
        Op::Concat { axis } => movement::concat(*axis, operands),
        Op::Slice => movement::slice(operands),
        Op::Transpose { perm } => {
            let [data] = exactly(operands, ["data"])?;
            movement::transpose(perm, data)
        }
        Op::Squeeze => shape::squeeze(operands),
        Op::Unsqueeze => {
            let [data, axes] = exactly(operands, ["data", "axes"])?;
            shape::unsqueeze(data, axes)
        }
        Op::Reshape { allow_zero } => {
            let [data, shape] = exactly(operands, ["data", "shape"])?;
            shape::reshape(*allow_zero, data, shape)
        }
        Op::Flatten { axis } => {
            let [data] = exactly(operands, ["data"])?;
            shape::flatten(*axis, data)
        }
        Op::Shape { start, end } => {
            let [data] = exactly(operands, ["data"])?;
            Ok(shape::shape(*start, *end, data))
        }
        Op::Expand => {
            let [data, shape] = exactly(operands, ["data", "shape"])?;
            shape::expand(data, shape)
        }
        Op::ConstantOfShape { value } => {
            let [shape] = exactly(operands, ["shape"])?;
            shape::constant_of_shape(*value, shape)
        }
        Op::Cast { to } => {
            let [data] = exactly(operands, ["data"])?;
            let content = match (&data.content, algebra::is_index(*to)) {
                (Some(c), true) => Some(c.iter().map(|d| algebra::in_range(d.clone(), *to)).collect()),
                _ => None,
            };
            Ok(algebra::fact(*to, data.ty.shape.clone(), content))
        }
        Op::Identity => {
            let [data] = exactly(operands, ["data"])?;
            Ok(data.clone())
        }
        Op::Softmax { axis, .. } | Op::LogSoftmax { axis, .. } => {
            let [x] = exactly(operands, ["input"])?;
            arithmetic_operand("input", x, false)?;
            axis_of(*axis, x.ty.shape.len())?;
            Ok(x.clone())
        }
        Op::Reduce { keep_dims, noop_with_empty_axes, .. } => {
            reduce(*keep_dims, *noop_with_empty_axes, operands)
        }
    };
    Ok(vec![one?])
}

/// The fact of a value of which at most the dtype is known.
fn unranked(dtype: DType) -> Fact {
    Fact { ty: Type::unranked(dtype), content: None }
}

/// Checks for a float operand, or a signed one.
fn arithmetic_operand(what: &str, x: &Fact, signed: bool) -> Result<(), InferError> {
    let dtype = x.ty.dtype;
    if dtype.is_float() || (signed && matches!(dtype, DType::I64 | DType::I32 | DType::I8)) {
        return Ok(());
    }
    let expected = if signed { "of a signed dtype" } else { "of a float dtype" };
    Err(InferError::new(format!("{what} {expected}"), x.ty.to_string()))
}

fn dropout(operands: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
    if operands.len() > 3 {
        return Err(count("data, ratio and training mode", operands));
    }
    let data = required(operands, 0, "data")?;
    Ok(vec![data.clone(), Fact::of_type(DType::Bool, data.ty.shape.clone())])
}

fn reduce(keep_dims: bool, noop: bool, operands: &[Option<Fact>]) -> Result<Fact, InferError> {
    if operands.len() > 2 {
        return Err(count("data and perhaps axes", operands));
    }
    let data = required(operands, 0, "data")?;
    let rank = data.ty.shape.len();
    let axes = match operands.get(1).and_then(Option::as_ref) {
        Some(axes) => algebra::constant_axes("axes", axes, rank)?,
        None => Some(vec![]),
    };
    Ok(match axes {
        Some(axes) if axes.is_empty() && noop => data.clone(),
        Some(axes) => {
            let reduced = |i: usize| axes.is_empty() || axes.contains(&i);
            Fact::of_type(data.ty.dtype, algebra::reduced(&data.ty.shape, reduced, keep_dims))
        }
        None if keep_dims => Fact::of_type(data.ty.dtype, vec![Dim::Unknown; rank]),
        None => unranked(data.ty.dtype),
    })
}
