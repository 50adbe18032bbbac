//! Operators of ONNX Runtime's own domain, `com.microsoft`, that its tools write into models: each becomes standard ones.
//!
//! Quantized weights become what they stand for, so that products are computed in floats; quantizing activations is left out, as an
//! optimisation whose error the model's owner accepted.

use super::super::error::NodeProblem;
use super::ops::{Lower, Lowering, Node};
use super::{norms, recurrent};
use crate::ir::{Binary, Function, LinearMap, Onnx, OnnxLstm, Op, Operand};
use crate::tensor::{DType, Data, Tensor};
use std::ops::RangeInclusive;

/// An operator's name, its number of inputs, and its translation.
const OPERATORS: &[(&str, RangeInclusive<usize>, Lower)] = &[
    ("BiasGelu", 2..=2, |n| gelu(n, "none")),
    ("DequantizeLinear", 2..=3, dequantize),
    ("DynamicQuantizeLSTM", 3..=12, lstm),
    ("DynamicQuantizeMatMul", 3..=5, |n| {
        n.operands.resize(5, Operand::None);
        let &[a, b, scale, zero, bias] = &n.operands[..] else { return n.becomes(Op::MatMul) };
        let b = dequantized(n, [b, scale, zero], "weight")?;
        product(n, a, b, bias)
    }),
    ("FastGelu", 1..=2, |n| gelu(n, "tanh")),
    ("FusedGemm", 2..=3, fused_gemm),
    ("FusedMatMul", 2..=2, fused_mat_mul),
    ("GatherBlockQuantized", 3..=4, gather_blocks),
    ("Gelu", 1..=1, |n| gelu(n, "none")),
    ("MatMulIntegerToFloat", 4..=7, |n| {
        n.operands.resize(7, Operand::None);
        let &[a, b, a_scale, b_scale, a_zero, b_zero, bias] = &n.operands[..] else {
            return n.becomes(Op::MatMul);
        };
        let a = dequantized(n, [a, a_scale, a_zero], "input")?;
        let b = dequantized(n, [b, b_scale, b_zero], "weight")?;
        product(n, a, b, bias)
    }),
    ("MatMulNBits", 3..=6, mat_mul_bits),
    ("QuantizeLinear", 2..=3, |n| {
        let mut op = Onnx::QuantizeLinear { axis: 1, block_size: 0, output_dtype: None };
        n.read(&mut op)?;
        n.becomes(Op::Onnx(op))
    }),
    ("QuickGelu", 1..=1, |n| {
        let alpha = n.attributes.float("alpha")?.unwrap_or(1.702);
        n.becomes(Op::Onnx(Onnx::Swish { alpha }))
    }),
    ("SimplifiedLayerNormalization", 2..=2, norms::root_mean_square),
    ("SkipLayerNormalization", 3..=5, |n| norms::skip(n, true)),
    ("SkipSimplifiedLayerNormalization", 3..=4, |n| norms::skip(n, false)),
];

/// The translation of an operator of this domain.
pub(super) fn operator(name: &str) -> Option<(RangeInclusive<usize>, Lower)> {
    OPERATORS.iter().find(|(n, ..)| *n == name).map(|(_, count, lower)| (count.clone(), *lower))
}

fn gelu(n: &mut Node<'_>, approximate: &str) -> Result<Lowering, NodeProblem> {
    if n.operands.len() == 2 {
        let sum = n.becomes(Op::Binary(Binary::Add))?;
        n.operands = vec![n.emit(sum, "sum")?];
    }
    n.becomes(Op::Onnx(Onnx::Gelu { approximate: approximate.into() }))
}

fn dequantize(n: &mut Node<'_>) -> Result<Lowering, NodeProblem> {
    let mut op = Onnx::DequantizeLinear { axis: 1, block_size: 0, output_dtype: None };
    n.read(&mut op)?;
    n.becomes(Op::Onnx(op))
}

/// A tensor with its scale and zero point, one for all or one for each column.
fn dequantized(n: &mut Node<'_>, operands: [Operand; 3], part: &str) -> Result<Operand, NodeProblem> {
    let op = Onnx::DequantizeLinear { axis: -1, block_size: 0, output_dtype: None };
    let given = if operands[2] == Operand::None { &operands[..2] } else { &operands };
    n.emit(Lowering::Node(Op::Onnx(op), given.to_vec()), part)
}

/// `a b + bias`.
fn product(n: &mut Node<'_>, a: Operand, b: Operand, bias: Operand) -> Result<Lowering, NodeProblem> {
    let product = Lowering::Node(Op::MatMul, vec![a, b]);
    if bias == Operand::None {
        return Ok(product);
    }
    let product = n.emit(product, "product")?;
    Ok(Lowering::Node(Op::Binary(Binary::Add), vec![product, bias]))
}

fn fused_gemm(n: &mut Node<'_>) -> Result<Lowering, NodeProblem> {
    let a = &mut n.attributes;
    let name = a.string("activation")?.unwrap_or_default();
    let mut values = ["activation_alpha", "activation_beta", "activation_gamma"].map(|name| a.float(name));
    let gemm = super::ops::gemm(n)?;
    if name.is_empty() {
        return Ok(gemm);
    }
    let known = Function::ALL.into_iter().find(|f| f.is_operator() && f.onnx_name() == name);
    let Some(mut function) = known else {
        return Err(n.unsupported(format!("activation {name:?}"), "export the model without fusions"));
    };
    for ((_, parameter), value) in function.parameters().into_iter().zip(&mut values) {
        *parameter = std::mem::replace(value, Ok(None))?.unwrap_or(*parameter);
    }
    let product = n.emit(gemm, "product")?;
    Ok(Lowering::Node(Op::Unary(function), vec![product]))
}

fn fused_mat_mul(n: &mut Node<'_>) -> Result<Lowering, NodeProblem> {
    let alpha = n.attributes.float("alpha")?.unwrap_or(1.0);
    let transposed = [n.attributes.flag("transA", false)?, n.attributes.flag("transB", false)?];
    if n.attributes.flag("transBatchA", false)? || n.attributes.flag("transBatchB", false)? {
        return Err(n.unsupported("transposed batches", "export the model without fusions"));
    }
    for (i, _) in transposed.iter().enumerate().filter(|&(_, &t)| t) {
        let ty = n.importer.graph().fact(n.operands[i]).map(|f| f.ty).filter(|ty| ty.is_ranked());
        let Some(rank) = ty.map(|ty| ty.shape.len() as i64).filter(|&rank| rank >= 2) else {
            return Err(n.unsupported("operands of unknown rank", "export the model without fusions"));
        };
        let mut perm: Vec<i64> = (0..rank).collect();
        perm.swap(rank as usize - 2, rank as usize - 1);
        let turned = Lowering::Node(Op::Transpose { perm }, vec![n.operands[i]]);
        n.operands[i] = n.emit(turned, ["a", "b"][i])?;
    }
    let alpha = (alpha != 1.0).then(|| n.scalar("alpha", alpha.into(), 0));
    let product = n.becomes(Op::MatMul)?;
    let Some(alpha) = alpha else { return Ok(product) };
    let product = n.emit(product, "product")?;
    Ok(Lowering::Node(Op::Binary(Binary::Mul), vec![product, alpha]))
}

/// A weight that this translation reads.
fn weight(n: &mut Node<'_>, operand: usize) -> Result<Option<Tensor>, NodeProblem> {
    match n.operands.get(operand) {
        None | Some(Operand::None) => Ok(None),
        Some(&Operand::Weight(w)) => match &*n.importer.graph().weight(w).map {
            LinearMap::Dense(t) => Ok(Some(t.clone())),
            _ => Ok(None),
        },
        Some(Operand::Value(_)) => {
            Err(n.unsupported("weights that are computed", "fold the model's constants"))
        }
    }
}

fn wrong(n: &Node<'_>, expected: &str, found: impl std::fmt::Debug) -> NodeProblem {
    n.attributes.wrong("weights", expected, format!("{found:?}"))
}

fn floats(n: &Node<'_>, t: &Tensor) -> Result<Vec<f64>, NodeProblem> {
    t.to_f64().map_err(|e| wrong(n, "numbers", e))
}

/// The product with a matrix of codes of a few bits in blocks along the rows: `B: [N, blocks, bytes]`, scales and zero points `[N, blocks]`.
fn mat_mul_bits(n: &mut Node<'_>) -> Result<Lowering, NodeProblem> {
    // At this level vectors may be rounded to eight bits.
    if n.attributes.int("accuracy_level")? == Some(4) && n.dtype(0) == DType::F32 {
        let rounded = Lowering::Node(Op::Onnx(Onnx::DynamicQuantizeLinear {}), vec![n.operands[0]]);
        let rounded = n.emit_all(rounded, "rounded")?;
        n.operands[0] = dequantized(n, [rounded[0], rounded[1], rounded[2]], "input")?;
    }
    if n.attributes.flag("weight_prepacked", false)? {
        return Err(
            n.unsupported("weights in the order of one processor", "save the model without prepacking")
        );
    }
    let mut size = |name: &str, usual: Option<i64>| -> Result<usize, NodeProblem> {
        let found = n.attributes.int(name)?.or(usual);
        let good = found.and_then(|v| usize::try_from(v).ok()).filter(|&v| v > 0 && v <= 1 << 31);
        good.ok_or_else(|| n.attributes.wrong(name, "a number above zero", format!("{found:?}")))
    };
    let (k, rows) = (size("K", None)?, size("N", None)?);
    let (bits, block) = (size("bits", Some(4))?, size("block_size", None)?);
    if ![2, 4, 8].contains(&bits) || block * bits % 8 != 0 {
        return Err(n.unsupported(format!("{bits} bits in blocks of {block}"), "quantize to 4 or 8 bits"));
    }
    let blocks = k.div_ceil(block);
    let (bytes, zero_bytes) = (block * bits / 8, (blocks * bits).div_ceil(8));
    let (codes, scales) = (weight(n, 1)?, weight(n, 2)?);
    let (Some(codes), Some(scales)) = (codes, scales) else {
        return Err(wrong(n, "codes and scales", "none"));
    };
    let (dtype, zeros, groups) = (scales.dtype(), weight(n, 3)?, weight(n, 4)?);
    let (scales, groups) = (floats(n, &scales)?, groups.map(|g| floats(n, &g)).transpose()?);
    let packed = codes.u8s().map_err(|e| wrong(n, "codes of type uint8", e))?;
    let sizes = [packed.len(), scales.len()];
    if sizes != [rows * blocks * bytes, rows * blocks] || groups.as_ref().is_some_and(|g| g.len() < k) {
        return Err(wrong(
            n,
            &format!("{} codes and {} scales", rows * blocks * bytes, rows * blocks),
            sizes,
        ));
    }
    let code = |data: &[u8], at: usize| {
        f64::from(data[at * bits / 8] >> (at * bits % 8) & (0xff >> (8 - bits)) as u8)
    };
    let zero: Vec<f64> = match &zeros {
        None => vec![f64::from(1u32 << (bits - 1)); rows * blocks],
        Some(t) => match t.data() {
            Data::U8(z) if z.len() == rows * zero_bytes => {
                (0..rows * blocks).map(|i| code(&z[i / blocks * zero_bytes..], i % blocks)).collect()
            }
            _ if t.dtype().is_float() && t.len() == rows * blocks => floats(n, t)?,
            _ => return Err(wrong(n, "a zero point for each block", t.shape())),
        },
    };
    let half = f64::from(1u32 << (bits - 1));
    let (a, bias) = (n.operands[0], n.operands.get(5).copied().unwrap_or(Operand::None));
    let is_whole = |&z: &f64| z.fract() == 0.0;
    if groups.is_none() && k % block == 0 && dtype == DType::F32 && zero.iter().all(is_whole) {
        // As codes, which compression keeps.
        let codes = (0..rows * k).map(|i| {
            let (row, at) = (i / k, i % k);
            (code(&packed[(row * blocks + at / block) * bytes..], at % block) - half) as i8
        });
        let tensor = |t: Result<Tensor, _>| t.map_err(|e| wrong(n, "a tensor", e));
        let codes = tensor(Tensor::from_i8([rows, k], codes.collect()))?;
        let zeros = zero.iter().map(|z| (z - half) as i8).collect();
        let zeros = tensor(Tensor::from_i8([rows, blocks], zeros))?;
        let scales = scales.iter().map(|&s| s as f32).collect();
        let scales = tensor(Tensor::from_f32([rows, blocks], scales))?;
        let b = decoded(n, [codes, scales, zeros], 1, block)?;
        let b = n.emit(Lowering::Node(Op::Transpose { perm: vec![1, 0] }, vec![b]), "transposed")?;
        return product(n, a, b, bias);
    }
    // Transposed: [K, N].
    let mut values = vec![0.0; k * rows];
    for row in 0..rows {
        for at in 0..k {
            let group = groups.as_ref().map_or(at / block, |g| (g[at] as usize).min(blocks - 1));
            let code = code(&packed[(row * blocks + at / block) * bytes..], at % block);
            values[at * rows + row] = (code - zero[row * blocks + group]) * scales[row * blocks + group];
        }
    }
    let b = constant(n, "weight", &[k, rows], values, dtype)?;
    product(n, a, b, bias)
}

/// Rows of a matrix of codes in blocks along the rows.
fn gather_blocks(n: &mut Node<'_>) -> Result<Lowering, NodeProblem> {
    let a = &mut n.attributes;
    let axes = [a.int("gather_axis")?.unwrap_or(0), a.int("quantize_axis")?.unwrap_or(1)];
    let (block, bits) = (a.int("block_size")?.unwrap_or(128), a.int("bits")?);
    let mut operands = n.operands.clone();
    let indices = operands.remove(1);
    let shape = weight(n, 0)?.map(|t| t.shape().to_vec());
    let columns = match shape.as_deref() {
        Some(&[_, columns]) if [[0, 1], [0, -1]].contains(&axes) && block > 0 => columns as i64,
        _ => return Err(n.unsupported("other axes", "gather rows of a matrix")),
    };
    // Two codes of four bits in a byte look like one of eight.
    if bits.is_some_and(|bits| bits != 8) || n.dtype(0) == DType::U8 && operands.len() < 3 {
        return Err(n.unsupported("packed codes", "save codes of type int4 or uint4 with their zero points"));
    }
    let op = Onnx::DequantizeLinear { axis: 1, block_size: block.min(columns), output_dtype: None };
    let rows = n.emit(Lowering::Node(Op::Onnx(op), operands), "rows")?;
    Ok(Lowering::Node(Op::Gather { axis: 0 }, vec![rows, indices]))
}

/// Codes, their scales and zero points as the values that they stand for.
fn decoded(n: &mut Node<'_>, parts: [Tensor; 3], axis: i64, block: usize) -> Result<Operand, NodeProblem> {
    let mut operands = vec![];
    for (part, name) in parts.into_iter().zip(["codes", "scales", "zeros"]) {
        operands.push(n.emit(Lowering::Constant(part), name)?);
    }
    let op = Onnx::DequantizeLinear { axis, block_size: block as i64, output_dtype: None };
    n.emit(Lowering::Node(Op::Onnx(op), operands), "weight")
}

/// A constant of floats.
fn constant(
    n: &mut Node<'_>,
    part: &str,
    shape: &[usize],
    values: Vec<f64>,
    dtype: DType,
) -> Result<Operand, NodeProblem> {
    let tensor = Tensor::from_f64(shape, values).map_err(|e| wrong(n, "a tensor", e))?;
    let cast = crate::interpret::evaluate(&Op::Cast { to: dtype }, &[Some(tensor)]);
    let tensor = cast.map(|mut t| t.swap_remove(0)).map_err(|e| wrong(n, "a tensor", e))?;
    n.emit(Lowering::Constant(tensor), part)
}

/// An LSTM with integer weights `[directions, inputs, 4 hidden]`, each direction or each of its columns with a scale and a zero point.
fn lstm(n: &mut Node<'_>) -> Result<Lowering, NodeProblem> {
    for (operand, scale, part) in [(1, 8, "W"), (2, 10, "R")] {
        let (codes, scales, zeros) = (weight(n, operand)?, weight(n, scale)?, weight(n, scale + 1)?);
        let (Some(codes), Some(scales)) = (codes, scales) else {
            return Err(wrong(n, "codes and scales", part));
        };
        let &[directions, inputs, rows] = codes.shape() else {
            return Err(wrong(n, "codes of rank 3", codes.shape()));
        };
        let groups = scales.len();
        let zero = zeros.map_or(Ok(vec![0.0; groups]), |z| floats(n, &z))?;
        if ![directions, directions * rows].contains(&groups) || zero.len() != groups || groups == 0 {
            return Err(wrong(n, "a scale for each direction or column", [groups, zero.len()]));
        }
        let scales = floats(n, &scales)?;
        if directions == 1 {
            let tensor = |t: Result<Tensor, _>| t.map_err(|e| wrong(n, "a tensor", e));
            let one = tensor(Tensor::from_f32([groups], scales.iter().map(|&s| s as f32).collect()))?;
            let all = tensor(match codes.dtype() {
                DType::U8 => Tensor::from_u8([groups], zero.iter().map(|&z| z as u8).collect()),
                _ => Tensor::from_i8([groups], zero.iter().map(|&z| z as i8).collect()),
            })?;
            let shape: &[usize] = if groups == 1 { &[] } else { &[groups] };
            let (one, all) = (tensor(one.reshaped(shape))?, tensor(all.reshaped(shape))?);
            let decoded = decoded(n, [codes, one, all], 2, 0)?;
            let turned = Lowering::Node(Op::Transpose { perm: vec![0, 2, 1] }, vec![decoded]);
            n.operands[operand] = n.emit(turned, part)?;
            continue;
        }
        let q = floats(n, &codes)?;
        let mut values = vec![0.0; q.len()];
        for (at, value) in values.iter_mut().enumerate() {
            let (d, row, i) = (at / (rows * inputs), at / inputs % rows, at % inputs);
            let group = if groups == directions { d } else { d * rows + row };
            *value = (q[(d * inputs + i) * rows + row] - zero[group]) * scales[group];
        }
        n.operands[operand] = constant(n, part, &[directions, rows, inputs], values, DType::F32)?;
    }
    n.operands.truncate(8);
    let op = OnnxLstm { dynamic: true, ..recurrent::lstm(n)? };
    n.becomes(Op::OnnxLstm(Box::new(op)))
}
