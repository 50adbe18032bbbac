//! Tensors: from messages to the IR, in one copy.

use super::error::{MAX_RANK, TensorProblem, data_type_name};
use super::external::External;
use super::proto::{DataLocation, DataType, SparseTensorProto, TensorProto};
use crate::tensor::{DType, Data, Tensor, TensorError, element_count};
use bytes::Bytes;
use half::{bf16, f16};
use std::sync::Arc;

/// A sparse tensor of more elements is refused: a small file would fill the memory.
const MAX_DENSE: usize = 1 << 28;

/// The IR's element type for a [`DataType`].
pub(super) fn dtype(code: i32) -> Result<DType, TensorProblem> {
    Ok(match DataType::try_from(code) {
        Ok(DataType::Float) => DType::F32,
        Ok(DataType::Double) => DType::F64,
        Ok(DataType::Float16) => DType::F16,
        Ok(DataType::Bfloat16) => DType::Bf16,
        Ok(DataType::Int64) => DType::I64,
        Ok(DataType::Int32) => DType::I32,
        Ok(DataType::Int8) => DType::I8,
        Ok(DataType::Uint8) => DType::U8,
        Ok(DataType::Bool) => DType::Bool,
        _ => return Err(TensorProblem::DataType { found: data_type_name(code) }),
    })
}

/// The element type that holds a [`DataType`]: small integers that the IR does not have are stored in larger ones.
pub(super) fn stored_dtype(code: i32) -> Result<DType, TensorProblem> {
    Ok(match DataType::try_from(code) {
        Ok(DataType::Int4 | DataType::Int2) => DType::I8,
        Ok(DataType::Uint4 | DataType::Uint2) => DType::U8,
        Ok(DataType::Int16 | DataType::Uint16) => DType::I32,
        Ok(DataType::Uint32 | DataType::Uint64) => DType::I64,
        _ => return dtype(code),
    })
}

/// Bits and signedness of the integers that are stored in larger ones.
fn packing(code: i32) -> Option<(usize, bool)> {
    Some(match DataType::try_from(code).ok()? {
        DataType::Int2 => (2, true),
        DataType::Uint2 => (2, false),
        DataType::Int4 => (4, true),
        DataType::Uint4 => (4, false),
        DataType::Int16 => (16, true),
        DataType::Uint16 => (16, false),
        DataType::Uint32 => (32, false),
        DataType::Uint64 => (64, false),
        _ => return None,
    })
}

/// Integers of some bits, the first in the lowest bits of the first byte; the bytes are as many as the shape needs.
fn unpacked(dtype: DType, shape: &[usize], bits: usize, signed: bool, bytes: &[u8]) -> Tensor {
    let element = |i: usize| {
        let (first, shift) = (i * bits / 8, i * bits % 8);
        let value =
            bytes[first..(first + bits.div_ceil(8))].iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
        let top = (value >> shift) << (64 - bits);
        if signed { top as i64 >> (64 - bits) } else { (top >> (64 - bits)) as i64 }
    };
    let all = (0..shape.iter().product()).map(element);
    let bytes: Vec<u8> = all.flat_map(|x: i64| x.to_le_bytes()[..dtype.size()].to_vec()).collect();
    Tensor::from_le_bytes(dtype, shape, &bytes).expect("one element each")
}

/// The [`DataType`] for an element type of the IR.
pub(super) fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::F32 => DataType::Float,
        DType::F64 => DataType::Double,
        DType::F16 => DataType::Float16,
        DType::Bf16 => DataType::Bfloat16,
        DType::I64 => DataType::Int64,
        DType::I32 => DataType::Int32,
        DType::I8 => DataType::Int8,
        DType::U8 => DataType::Uint8,
        DType::Bool => DataType::Bool,
    }
}

/// The tensor of a message. Nothing is allocated before the dimensions and the data are checked to match.
pub(super) fn tensor(proto: TensorProto, external: &mut External) -> Result<Tensor, TensorProblem> {
    let dtype = stored_dtype(proto.data_type)?;
    if proto.segment.is_some() {
        return Err(TensorProblem::Segment);
    }
    if proto.dims.len() > MAX_RANK {
        return Err(TensorProblem::Rank { found: proto.dims.len() });
    }
    let shape = proto.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<usize>, _>>();
    let shape = shape.map_err(|_| TensorProblem::NegativeDimension { found: proto.dims.clone() })?;
    let count = element_count(&shape).map_err(|_| TensorProblem::Overflow { shape: proto.dims.clone() })?;

    let mut given = [
        ("raw_data", proto.raw_data.as_ref().map_or(0, Bytes::len)),
        ("float_data", proto.float_data.len()),
        ("int32_data", proto.int32_data.len()),
        ("int64_data", proto.int64_data.len()),
        ("double_data", proto.double_data.len()),
        ("external data", usize::from(proto.data_location == DataLocation::External as i32)),
    ]
    .into_iter()
    .filter(|&(_, n)| n > 0);
    let first = given.next();
    if let (Some((first, _)), Some((second, _))) = (first, given.next()) {
        return Err(TensorProblem::Twice { first, second });
    }
    let length =
        |unit, expected, found| TensorProblem::Length { unit, shape: proto.dims.clone(), expected, found };
    if let Some((bits, signed)) = packing(proto.data_type) {
        let expected = (count * bits).div_ceil(8);
        let bytes = match first {
            Some(("external data", _)) => {
                let bytes = external.read(&proto.external_data, DType::U8, vec![expected])?;
                bytes.to_le_bytes().unwrap_or_default()
            }
            Some(("raw_data", _)) => proto.raw_data.as_ref().map_or(vec![], |b| b.to_vec()),
            // Each element of the list holds two bytes, or one with several elements.
            _ => proto.int32_data.iter().flat_map(|x| x.to_le_bytes()[..bits.div_ceil(8)].to_vec()).collect(),
        };
        if bytes.len() != expected {
            return Err(length("bytes", expected, bytes.len()));
        }
        return Ok(unpacked(dtype, &shape, bits, signed, &bytes));
    }
    match first {
        Some(("external data", _)) => return external.read(&proto.external_data, dtype, shape),
        Some(("raw_data", found)) => {
            let raw = proto.raw_data.as_ref().map_or(&[][..], |b| &b[..]);
            let expected = count * dtype.size();
            if found != expected {
                return Err(length("bytes", expected, found));
            }
            return Tensor::from_le_bytes(dtype, shape, raw).map_err(|_| length("bytes", expected, found));
        }
        _ => {}
    }
    // The field that ONNX has for this element type; data in another field is not read, and so is missing here.
    let found = match dtype {
        DType::F32 => proto.float_data.len(),
        DType::F64 => proto.double_data.len(),
        DType::I64 => proto.int64_data.len(),
        _ => proto.int32_data.len(),
    };
    if found != count {
        return Err(length("elements", count, found));
    }
    let ints = &proto.int32_data;
    let data = match dtype {
        DType::F32 => Data::F32(Arc::new(proto.float_data)),
        DType::F64 => Data::F64(Arc::new(proto.double_data)),
        DType::I64 => Data::I64(Arc::new(proto.int64_data)),
        DType::I32 => Data::I32(Arc::new(proto.int32_data)),
        DType::F16 => {
            Data::F16(Arc::new(narrow(ints, "float16", |x| u16::try_from(x).ok().map(f16::from_bits))?))
        }
        DType::Bf16 => {
            Data::Bf16(Arc::new(narrow(ints, "bfloat16", |x| u16::try_from(x).ok().map(bf16::from_bits))?))
        }
        DType::I8 => Data::I8(Arc::new(narrow(ints, "int8", |x| i8::try_from(x).ok())?)),
        DType::U8 => Data::U8(Arc::new(narrow(ints, "uint8", |x| u8::try_from(x).ok())?)),
        DType::Bool => Data::Bool(Arc::new(ints.iter().map(|&x| x != 0).collect())),
    };
    Tensor::new(shape, data).map_err(|_| TensorProblem::Overflow { shape: proto.dims })
}

fn narrow<T>(
    ints: &[i32],
    dtype: &'static str,
    f: impl Fn(i32) -> Option<T>,
) -> Result<Vec<T>, TensorProblem> {
    let checked = ints.iter().enumerate();
    checked.map(|(index, &found)| f(found).ok_or(TensorProblem::Range { index, found, dtype })).collect()
}

/// The dense tensor of a sparse one.
pub(super) fn sparse(proto: SparseTensorProto, external: &mut External) -> Result<Tensor, TensorProblem> {
    let wrong = |expected: &str, found: String| TensorProblem::Sparse { expected: expected.into(), found };
    let (Some(values), Some(indices)) = (proto.values, proto.indices) else {
        return Err(wrong("values and indices", "one missing".into()));
    };
    let (values, indices) = (tensor(values, external)?, tensor(indices, external)?);
    check_finite(&values)?;
    let shape = proto.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<usize>, _>>();
    let shape = shape.map_err(|_| TensorProblem::NegativeDimension { found: proto.dims.clone() })?;
    let count = element_count(&shape).ok().filter(|&n| n <= MAX_DENSE);
    let count = count.ok_or_else(|| TensorProblem::Overflow { shape: proto.dims.clone() })?;
    let depth = match *indices.shape() {
        [n] if n == values.len() => 1,
        [n, rank] if n == values.len() && rank == shape.len() && rank > 0 => rank,
        _ => return Err(wrong("an index for each value", format!("indices of shape {:?}", indices.shape()))),
    };
    let sizes = if depth == 1 { &[count][..] } else { &shape };
    let all = indices.i64s().map_err(|e| wrong("indices of type int64", e.to_string()))?;
    let mut bytes = vec![0; count * values.dtype().size()];
    let elements = values.to_le_bytes().map_err(|e| wrong("values", e.to_string()))?;
    for (index, element) in all.chunks(depth).zip(elements.chunks(values.dtype().size())) {
        let at = index.iter().zip(sizes).try_fold(0, |at, (&i, &size)| {
            usize::try_from(i).ok().filter(|&i| i < size).map(|i| at * size + i)
        });
        let at = at.ok_or_else(|| wrong("indices within the shape", format!("{index:?}")))?;
        bytes[at * element.len()..(at + 1) * element.len()].copy_from_slice(element);
    }
    Tensor::from_le_bytes(values.dtype(), shape, &bytes)
        .map_err(|_| TensorProblem::Overflow { shape: proto.dims })
}

/// Checks that floating-point elements are neither NaN nor infinite.
pub(super) fn check_finite(tensor: &Tensor) -> Result<(), TensorProblem> {
    fn first<T: Copy>(v: &[T], finite: impl Fn(T) -> bool, wide: impl Fn(T) -> f64) -> Option<(usize, f64)> {
        // Blocks without a branch inside are checked at memory speed.
        let bad = |chunk: &[T]| chunk.iter().fold(false, |bad, &x| bad | !finite(x));
        let (n, chunk) = v.chunks(4096).enumerate().find(|(_, chunk)| bad(chunk))?;
        let at = chunk.iter().position(|&x| !finite(x))?;
        Some((n * 4096 + at, wide(chunk[at])))
    }
    let found = match tensor.data() {
        Data::F32(v) => first(v, f32::is_finite, f64::from),
        Data::F64(v) => first(v, f64::is_finite, |x| x),
        Data::F16(v) => first(v, f16::is_finite, f64::from),
        Data::Bf16(v) => first(v, bf16::is_finite, f64::from),
        _ => None,
    };
    match found {
        Some((index, found)) => Err(TensorProblem::NotFinite { index, found }),
        None => Ok(()),
    }
}

/// The message of a tensor, with its elements as raw data.
pub(super) fn to_proto(name: &str, tensor: &Tensor) -> Result<TensorProto, TensorError> {
    Ok(TensorProto {
        name: name.to_string(),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: data_type(tensor.dtype()) as i32,
        raw_data: Some(tensor.to_le_bytes()?.into()),
        ..TensorProto::default()
    })
}
