//! Reading, storing and rearranging elements of any dtype.

use super::real::Real;
use crate::ir::InferError;
use crate::tensor::{DType, Data, Tensor, TensorError, element_count};
use half::{bf16, f16};
use std::sync::Arc;

/// Larger results are refused: shapes are data, and data may be hostile.
pub(super) const MAX_ELEMENTS: usize = 1 << 28;

/// Applies the same operation to the elements of every dtype.
macro_rules! each_dtype {
    ($tensor:expr, $v:ident => $body:expr) => {
        match $tensor.data() {
            Data::F32($v) => Data::F32(Arc::new($body)),
            Data::F64($v) => Data::F64(Arc::new($body)),
            Data::F16($v) => Data::F16(Arc::new($body)),
            Data::Bf16($v) => Data::Bf16(Arc::new($body)),
            Data::I64($v) => Data::I64(Arc::new($body)),
            Data::I32($v) => Data::I32(Arc::new($body)),
            Data::I8($v) => Data::I8(Arc::new($body)),
            Data::U8($v) => Data::U8(Arc::new($body)),
            Data::Bool($v) => Data::Bool(Arc::new($body)),
            Data::Elided(..) => return Err(elided($tensor)),
        }
    };
}

/// The error for a tensor without its data.
pub(super) fn elided(t: &Tensor) -> InferError {
    TensorError::Elided { dtype: t.dtype(), shape: t.shape().to_vec(), hash: t.hash() }.into()
}

/// A tensor of `shape` whose elements are those of `t` at the given positions.
pub(super) fn pick(
    t: &Tensor,
    shape: &[usize],
    positions: impl Iterator<Item = usize>,
) -> Result<Tensor, InferError> {
    let data = each_dtype!(t, v => positions.map(|i| v[i]).collect());
    Ok(Tensor::new(shape.to_vec(), data)?)
}

/// A tensor of `shape` with alternating blocks of the parts: `rounds` times a block of each part.
pub(super) fn interleave(parts: &[&Tensor], shape: &[usize], rounds: usize) -> Result<Tensor, InferError> {
    fn blocks<'a, T: Copy + 'a>(parts: impl Iterator<Item = &'a [T]> + Clone, rounds: usize) -> Vec<T> {
        let mut out = vec![];
        for round in 0..rounds {
            for part in parts.clone() {
                let block = part.len() / rounds;
                out.extend_from_slice(&part[round * block..(round + 1) * block]);
            }
        }
        out
    }
    macro_rules! of {
        ($variant:ident) => {
            Data::$variant(Arc::new(blocks(
                parts.iter().map(|t| match t.data() {
                    Data::$variant(v) => v.as_slice(),
                    _ => &[],
                }),
                rounds,
            )))
        };
    }
    let data = match parts[0].dtype() {
        DType::F32 => of!(F32),
        DType::F64 => of!(F64),
        DType::F16 => of!(F16),
        DType::Bf16 => of!(Bf16),
        DType::I64 => of!(I64),
        DType::I32 => of!(I32),
        DType::I8 => of!(I8),
        DType::U8 => of!(U8),
        DType::Bool => of!(Bool),
    };
    Ok(Tensor::new(shape.to_vec(), data)?)
}

/// Row-major strides.
pub(super) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as isize;
    }
    strides
}

/// The positions visited by walking `shape` in row-major order, `strides` apart on each axis, from `start`.
pub(super) fn walk<'a>(
    shape: &'a [usize],
    strides: &'a [isize],
    start: isize,
) -> impl Iterator<Item = usize> + 'a {
    let count = shape.iter().product();
    let mut at = vec![0usize; shape.len()];
    let mut position = start;
    (0..count).map(move |_| {
        let here = position as usize;
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            position += strides[axis];
            if at[axis] < shape[axis] {
                break;
            }
            position -= strides[axis] * shape[axis] as isize;
            at[axis] = 0;
        }
        here
    })
}

/// `f` of every index of a shape, in row-major order.
pub(super) fn map_index(shape: &[usize], mut f: impl FnMut(&[usize]) -> usize) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    let count: usize = shape.iter().product();
    let mut next = || {
        let x = f(&at);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
        x
    };
    (0..count).map(|_| next()).collect()
}

/// The number of elements of a result, if it is not too large.
pub(super) fn limited(shape: &[usize]) -> Result<usize, InferError> {
    element_count(shape).ok().filter(|&n| n <= MAX_ELEMENTS).ok_or_else(|| {
        InferError::new(format!("a result of at most {MAX_ELEMENTS} elements"), format!("shape {shape:?}"))
    })
}

/// Strides that walk a tensor of shape `from` under the larger shape `to`: zero for broadcast axes.
pub(super) fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<isize> {
    let own = strides(from);
    let missing = to.len() - from.len();
    (0..to.len()).map(|i| if i < missing || from[i - missing] == 1 { 0 } else { own[i - missing] }).collect()
}

/// The elements of an integer tensor.
pub(super) fn integers(t: &Tensor) -> Result<Vec<i64>, InferError> {
    Ok(match t.data() {
        Data::I64(v) => v.to_vec(),
        Data::I32(v) => v.iter().map(|&x| x.into()).collect(),
        Data::I8(v) => v.iter().map(|&x| x.into()).collect(),
        Data::U8(v) => v.iter().map(|&x| x.into()).collect(),
        Data::Elided(..) => return Err(elided(t)),
        _ => return Err(InferError::new("integers", t.dtype().to_string())),
    })
}

/// An integer tensor of a dtype; elements that do not fit wrap.
pub(super) fn of_integers(dtype: DType, shape: &[usize], v: Vec<i64>) -> Result<Tensor, InferError> {
    let data = match dtype {
        DType::I64 => Data::I64(Arc::new(v)),
        DType::I32 => Data::I32(Arc::new(v.into_iter().map(|x| x as i32).collect())),
        DType::I8 => Data::I8(Arc::new(v.into_iter().map(|x| x as i8).collect())),
        DType::U8 => Data::U8(Arc::new(v.into_iter().map(|x| x as u8).collect())),
        DType::Bool => Data::Bool(Arc::new(v.into_iter().map(|x| x != 0).collect())),
        DType::F64 => Data::F64(Arc::new(v.into_iter().map(|x| x as f64).collect())),
        DType::F32 => Data::F32(Arc::new(v.into_iter().map(|x| x as f32).collect())),
        DType::F16 => Data::F16(Arc::new(v.into_iter().map(|x| f16::from_f64(x as f64)).collect())),
        DType::Bf16 => Data::Bf16(Arc::new(v.into_iter().map(|x| bf16::from_f64(x as f64)).collect())),
    };
    Ok(Tensor::new(shape.to_vec(), data)?)
}

/// A tensor of a dtype: floats rounded to nearest, integers truncated and clamped to the range, booleans "not zero".
pub(super) fn of_reals<T: Real>(dtype: DType, shape: &[usize], v: Vec<T>) -> Result<Tensor, InferError> {
    let v = v.into_iter().map(T::to_f64);
    let data = match dtype {
        DType::F64 => Data::F64(Arc::new(v.collect())),
        DType::F32 => Data::F32(Arc::new(v.map(|x| x as f32).collect())),
        DType::F16 => Data::F16(Arc::new(v.map(f16::from_f64).collect())),
        DType::Bf16 => Data::Bf16(Arc::new(v.map(bf16::from_f64).collect())),
        DType::I64 => Data::I64(Arc::new(v.map(|x| x as i64).collect())),
        DType::I32 => Data::I32(Arc::new(v.map(|x| x as i32).collect())),
        DType::I8 => Data::I8(Arc::new(v.map(|x| x as i8).collect())),
        DType::U8 => Data::U8(Arc::new(v.map(|x| x as u8).collect())),
        DType::Bool => Data::Bool(Arc::new(v.map(|x| x != 0.0).collect())),
    };
    Ok(Tensor::new(shape.to_vec(), data)?)
}
