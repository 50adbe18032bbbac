//! The operators of the table in [`Onnx`], branches and loops.
//!
//! These rules give what is known at once; they refuse little, because evaluation checks everything on the values.

use super::super::dim::Dim;
use super::super::graph::Type;
use super::super::infer::{Fact, InferError, count};
use super::super::onnx::{Loop, Onnx, OnnxKind, Scan};
use super::algebra::{add, axis_of, broadcast, constant_axes, elements, fact, reduced, required, subtract};
use super::{arithmetic, unranked};
use crate::tensor::DType;

pub(super) fn infer(op: &Onnx, operands: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
    let (inputs, given) = (op.inputs(), operands.iter().take(*op.inputs().start()).flatten().count());
    if !inputs.contains(&operands.len()) || given < *inputs.start() {
        let most = if *inputs.end() == usize::MAX { "any number".into() } else { inputs.end().to_string() };
        return Err(count(&format!("from {} to {most}", inputs.start()), operands));
    }
    let dtypes = dtypes(op, operands)?;
    let is_ranked = operands.iter().flatten().all(|f| f.ty.is_ranked());
    let shapes = if is_ranked { shapes(op, operands)? } else { vec![] };
    let mut shapes = shapes.into_iter();
    Ok(dtypes
        .into_iter()
        .map(|dtype| match shapes.next().flatten() {
            Some(shape) => Fact { content: content(op, operands, &shape), ..Fact::of_type(dtype, shape) },
            None => unranked(dtype),
        })
        .collect())
}

fn dtypes(op: &Onnx, operands: &[Option<Fact>]) -> Result<Vec<DType>, InferError> {
    let first = |i: usize| operands.get(i).and_then(Option::as_ref).map(|f| f.ty.dtype);
    let x = first(0).unwrap_or(DType::F32);
    Ok(match op {
        Onnx::Where {} => vec![first(1).unwrap_or(x)],
        Onnx::TopK { .. } => vec![x, DType::I64],
        Onnx::ArgMax { .. } | Onnx::ArgMin { .. } | Onnx::NonZero {} => vec![DType::I64],
        Onnx::OneHot { .. } => vec![first(2).unwrap_or(x)],
        Onnx::EyeLike { dtype, .. } => vec![dtype.unwrap_or(x)],
        Onnx::LayerNormalization { .. } => {
            let statistics = if x == DType::F64 { DType::F64 } else { DType::F32 };
            vec![x, statistics, statistics]
        }
        Onnx::DequantizeLinear { output_dtype, .. } => vec![output_dtype.or(first(1)).unwrap_or(DType::F32)],
        Onnx::QuantizeLinear { output_dtype, .. } => vec![first(2).or(*output_dtype).unwrap_or(DType::U8)],
        Onnx::DynamicQuantizeLinear {} => vec![DType::U8, x, DType::U8],
        Onnx::MatMulInteger {} => vec![DType::I32],
        _ if matches!(op.kind(), OnnxKind::Test | OnnxKind::Comparison) => vec![DType::Bool],
        _ => vec![x],
    })
}

/// The results' shapes; `None` where even the rank is unknown.
fn shapes(op: &Onnx, operands: &[Option<Fact>]) -> Result<Vec<Option<Vec<Dim>>>, InferError> {
    let shape = |i: usize| operands.get(i).and_then(Option::as_ref).map_or(&[][..], |f| &f.ty.shape);
    let elements = |i: usize| operands.get(i).and_then(Option::as_ref).and_then(elements);
    // A number, if it is known.
    let scalar = |i: usize| elements(i).and_then(|c| c.first().cloned()).unwrap_or(Dim::Unknown);
    let x = shape(0);
    let one = match op {
        Onnx::Where {} => broadcast(&broadcast(x, shape(1))?, shape(2))?,
        Onnx::Tile {} => {
            let times = |(i, d): (usize, &Dim)| match elements(1).and_then(|c| c.get(i).cloned()) {
                Some(n) => d.times(&n),
                None => Dim::Unknown,
            };
            x.iter().enumerate().map(times).collect()
        }
        Onnx::GatherElements { .. } => shape(1).to_vec(),
        Onnx::GatherND { batch_dims } => {
            let indices = shape(1);
            let depth = indices.last().and_then(Dim::as_constant);
            let rest = depth.and_then(|k| x.get(usize::try_from(*batch_dims).ok()?.checked_add(k)?..));
            let Some(rest) = rest else { return Ok(vec![None]) };
            indices[..indices.len() - 1].iter().chain(rest).cloned().collect()
        }
        Onnx::Pad { .. } => {
            let axes = match operands.get(3).and_then(Option::as_ref) {
                Some(axes) => constant_axes("axes", axes, x.len())?,
                None => Some((0..x.len()).collect()),
            };
            let padded = |axis: usize, d: &Dim| {
                let (axes, pads) = (axes.as_ref()?, elements(1)?);
                let Some(at) = axes.iter().position(|&a| a == axis) else { return Some(d.clone()) };
                Some(add(&add(d, pads.get(at)?), pads.get(axes.len() + at)?))
            };
            x.iter().enumerate().map(|(i, d)| padded(i, d).unwrap_or(Dim::Unknown)).collect()
        }
        Onnx::Range {} => vec![range(&scalar(0), &scalar(1), &scalar(2))],
        Onnx::Einsum { equation } => {
            let all: Vec<&[Dim]> = (0..operands.len()).map(shape).collect();
            let equation = Equation::parse(equation, &all.iter().map(|s| s.len()).collect::<Vec<_>>())?;
            let size = |label: &u32| {
                let dims = equation.inputs.iter().zip(&all);
                let mut found = dims.flat_map(|(labels, dims)| labels.iter().zip(*dims));
                let all = found.by_ref().filter(|(l, _)| *l == label).map(|(_, d)| d);
                all.max_by_key(|d| (!d.is(1), **d != Dim::Unknown)).cloned().unwrap_or(Dim::Unknown)
            };
            equation.output.iter().map(size).collect()
        }
        Onnx::Conv { .. } => {
            let w = shape(1);
            if x.len() < 3 || w.len() != x.len() {
                let found = format!("{} and {} dimensions", x.len(), w.len());
                return Err(InferError::new("x and w of the same rank, at least 3", found));
            }
            let mut dims = vec![x[0].clone(), w[0].clone()];
            dims.extend(x[2..].iter().zip(&w[2..]).map(|(d, k)| conv_size(op, d, k)));
            dims
        }
        Onnx::LayerNormalization { axis, .. } => {
            let axis = axis_of(*axis, x.len())?;
            let statistics = reduced(x, |i| i >= axis, true);
            return Ok(vec![Some(x.to_vec()), Some(statistics.clone()), Some(statistics)]);
        }
        Onnx::TopK { axis, .. } => {
            let mut dims = x.to_vec();
            dims[axis_of(*axis, x.len())?] = scalar(1);
            return Ok(vec![Some(dims.clone()), Some(dims)]);
        }
        Onnx::ArgMax { axis, keepdims, .. } | Onnx::ArgMin { axis, keepdims, .. } => {
            let axis = axis_of(*axis, x.len())?;
            reduced(x, |i| i == axis, *keepdims)
        }
        Onnx::OneHot { axis } => {
            let mut dims = x.to_vec();
            dims.insert(axis_of(*axis, x.len() + 1)?, scalar(1));
            dims
        }
        Onnx::NonZero {} => vec![x.len().into(), Dim::Unknown],
        Onnx::NegativeLogLikelihoodLoss { reduction, .. } if reduction == "none" => shape(1).to_vec(),
        Onnx::NegativeLogLikelihoodLoss { .. } => vec![],
        Onnx::DynamicQuantizeLinear {} => return Ok(vec![Some(x.to_vec()), Some(vec![]), Some(vec![])]),
        Onnx::MatMulInteger {} => {
            let [a, b] = [0, 1].map(|i| Fact::of_type(DType::I32, shape(i).to_vec()));
            arithmetic::mat_mul(&a, &b)?.ty.shape
        }
        _ if matches!(op.kind(), OnnxKind::Pair | OnnxKind::Comparison) => broadcast(x, shape(1))?,
        _ => x.to_vec(),
    };
    Ok(vec![Some(one)])
}

/// The elements of the results that shape arithmetic goes through.
fn content(op: &Onnx, operands: &[Option<Fact>], shape: &[Dim]) -> Option<Vec<Dim>> {
    let of = |i: usize| operands[i].as_ref().and_then(elements);
    let content = match op {
        Onnx::Range {} => {
            let (start, delta) = (of(0)?.first()?.as_integer()?, of(2)?.first()?.as_integer()?);
            let n = shape[0].as_constant().filter(|&n| n <= super::super::infer::MAX_CONTENT)?;
            let at = |i: usize| start.checked_add(delta.checked_mul(i as i64)?);
            (0..n).map(|i| at(i).map_or(Dim::Unknown, super::algebra::integer)).collect()
        }
        _ => return None,
    };
    fact(DType::I64, shape.to_vec(), Some(content)).content
}

/// The number of elements of a range.
fn range(start: &Dim, limit: &Dim, delta: &Dim) -> Dim {
    match (start.as_integer(), limit.as_integer(), delta.as_integer()) {
        (Some(_), Some(_), Some(0)) => Dim::Unknown,
        (Some(start), Some(limit), Some(delta)) => {
            let (distance, step) = (i128::from(limit) - i128::from(start), i128::from(delta));
            let n =
                if (distance > 0) == (step > 0) { (distance.abs() + step.abs() - 1) / step.abs() } else { 0 };
            usize::try_from(n).ok().filter(|&n| n < isize::MAX as usize).map_or(Dim::Unknown, Dim::from)
        }
        (_, _, Some(1)) => match subtract(limit, start) {
            Dim::Known { coefficient, symbols } if coefficient > 0 => Dim::Known { coefficient, symbols },
            _ => Dim::Unknown,
        },
        _ => Dim::Unknown,
    }
}

/// The size of a spatial axis after a convolution: known if the kernel has width 1 and moves by 1.
fn conv_size(op: &Onnx, d: &Dim, kernel: &Dim) -> Dim {
    match op {
        Onnx::Conv { pads, strides, .. }
            if kernel.is(1) && pads.iter().all(|&p| p == 0) && strides.iter().all(|&s| s == 1) =>
        {
            d.clone()
        }
        _ => Dim::Unknown,
    }
}

/// An Einsum's equation with a number for each label: letters are their code points, the axes of an ellipsis numbers from 0 on.
pub(crate) struct Equation {
    /// The labels of each operand.
    pub(crate) inputs: Vec<Vec<u32>>,
    /// The labels of the result.
    pub(crate) output: Vec<u32>,
}

impl Equation {
    /// Reads an equation for operands of these ranks.
    pub(crate) fn parse(text: &str, ranks: &[usize]) -> Result<Equation, InferError> {
        let wrong = || InferError::new(format!("an equation for operands of ranks {ranks:?}"), text);
        let clean: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = clean.split_once("->").map_or((clean.as_str(), None), |(l, r)| (l, Some(r)));
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(wrong());
        }
        let letters = |term: &str| term.chars().filter(|&c| c != '.').count();
        // The axes of ellipses align at their ends.
        let wide = terms.iter().zip(ranks).filter(|(t, _)| t.contains("..."));
        let wide = wide.map(|(t, rank)| rank.saturating_sub(letters(t))).max().unwrap_or(0);
        let labels = |term: &str, axes: usize| -> Option<Vec<u32>> {
            let (before, after) = term.split_once("...").unwrap_or((term, ""));
            let rest = if term.contains("...") { wide.checked_sub(axes)? as u32..wide as u32 } else { 0..0 };
            let letters = |part: &str| part.chars().all(|c| c.is_ascii_alphabetic());
            (letters(before) && letters(after)).then(|| {
                before.chars().map(u32::from).chain(rest).chain(after.chars().map(u32::from)).collect()
            })
        };
        let mut inputs = vec![];
        for (term, &rank) in terms.iter().zip(ranks) {
            let axes = rank.checked_sub(letters(term)).ok_or_else(wrong)?;
            inputs.push(labels(term, axes).filter(|l| l.len() == rank).ok_or_else(wrong)?);
        }
        let output = match right {
            Some(right) => labels(right, wide).ok_or_else(wrong)?,
            // The axes of ellipses, then the letters that occur once, in the order of the alphabet.
            None => {
                let mut all: Vec<u32> = inputs.concat();
                all.sort_unstable();
                let once = |l: &u32| (*l < wide as u32) || all.iter().filter(|k| *k == l).count() == 1;
                let mut output: Vec<u32> = all.iter().copied().filter(once).collect();
                output.dedup();
                output
            }
        };
        let known = |l: &u32| inputs.iter().any(|labels| labels.contains(l));
        let twice = (1..output.len()).any(|i| output[..i].contains(&output[i]));
        if twice || !output.iter().all(known) {
            return Err(wrong());
        }
        Ok(Equation { inputs, output })
    }
}

/// If: what both branches have in common.
pub(super) fn branches(operands: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
    required(operands, 0, "condition")?;
    let branches = &operands[1..];
    if !branches.len().is_multiple_of(2) || branches.iter().any(Option::is_none) {
        return Err(count("condition and the results of both branches", operands));
    }
    let (then, otherwise) = branches.split_at(branches.len() / 2);
    let joined = |(a, b): (&Fact, &Fact)| match (&a.ty, &b.ty) {
        _ if a == b => a.clone(),
        (s, t) if s.dtype == t.dtype && s.shape.len() == t.shape.len() && s.is_ranked() && t.is_ranked() => {
            let dims = s.shape.iter().zip(&t.shape);
            Fact::of_type(s.dtype, dims.map(|(d, e)| if d == e { d.clone() } else { Dim::Unknown }).collect())
        }
        (s, _) => unranked(s.dtype),
    };
    Ok(then.iter().flatten().zip(otherwise.iter().flatten()).map(joined).collect())
}

/// A type of a body, outside: its symbols say nothing here.
fn outside(ty: &Type) -> Type {
    let dim = |d: &Dim| if d.as_constant().is_some() || *d == Dim::Rest { d.clone() } else { Dim::Unknown };
    Type::new(ty.dtype, ty.shape.iter().map(dim).collect())
}

fn stacked(ty: &Type, axis: i64) -> Fact {
    let mut ty = outside(ty);
    match axis_of(axis, ty.shape.len() + 1) {
        Ok(axis) if ty.is_ranked() => ty.shape.insert(axis, Dim::Unknown),
        _ => ty = Type::unranked(ty.dtype),
    }
    Fact { ty, content: None }
}

/// Loop: a carried value may have another shape after each iteration.
pub(super) fn iterations(l: &Loop, operands: &[Option<Fact>]) -> Vec<Fact> {
    let body = &l.body.0;
    let types = body.outputs().iter().skip(1).map(|o| body.type_of(o.value));
    let of = |(i, ty): (usize, &Type)| match operands.get(2 + i).and_then(Option::as_ref) {
        _ if i >= l.carried => stacked(ty, 0),
        Some(initial) if initial.ty == *ty && outside(ty) == *ty => Fact { content: None, ..initial.clone() },
        _ => unranked(ty.dtype),
    };
    types.enumerate().map(of).collect()
}

/// Scan: states keep their shapes.
pub(super) fn steps(s: &Scan) -> Vec<Fact> {
    let body = &s.body.0;
    let types = body.outputs().iter().map(|o| body.type_of(o.value));
    let of = |(i, ty): (usize, &Type)| match i.checked_sub(s.states) {
        None => Fact { ty: outside(ty), content: None },
        Some(k) => stacked(ty, s.output_axes.get(k).copied().unwrap_or(0)),
    };
    types.enumerate().map(of).collect()
}
