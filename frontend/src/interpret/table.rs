//! The operators of the table in [`Onnx`] that compute; `shuffle` has those that move elements.

use super::arithmetic::mat_mul;
use super::elements::{
    broadcast_strides, integers, limited, map_index, of_integers, of_reals, pick, strides, walk,
};
use super::movement::checked_axis;
use super::numbers::{Numbers, erf, pairwise};
use super::{lines, shuffle};
use crate::ir::{Equation, InferError, Onnx, OnnxKind};
use crate::tensor::{DType, Tensor};
use std::cmp::Ordering;
use std::ops::{Add, Mul};

/// More products than an Einsum of any model has.
const MAX_PRODUCTS: usize = 1 << 40;

/// The results, of these dtypes and, where type inference knows them, shapes.
pub(super) fn evaluate(
    op: &Onnx,
    operands: &[Option<Tensor>],
    types: &[(DType, Option<Vec<usize>>)],
) -> Result<Vec<Tensor>, InferError> {
    let get = |i: usize| operands.get(i).and_then(Option::as_ref);
    let need = |i: usize| get(i).ok_or_else(|| InferError::new("every operand", format!("none at {i}")));
    let x = need(0)?;
    let (dtype, shape) = &types[0];
    let (dtype, shape) = (*dtype, shape.as_deref().unwrap_or(&[]));
    let one = match op {
        _ if op.kind() == OnnxKind::Unary => unary(op, x),
        Onnx::Not {} => Ok(Tensor::from_bool(x.shape(), x.bools()?.iter().map(|b| !b).collect())?),
        Onnx::IsNaN {} => test(x, f64::is_nan),
        Onnx::IsInf { detect_negative, detect_positive } => {
            test(x, |v| v.is_infinite() && if v > 0.0 { *detect_positive } else { *detect_negative })
        }
        _ if op.kind() == OnnxKind::Pair => pair(op, [x, need(1)?], dtype, shape),
        _ if op.kind() == OnnxKind::Comparison => compare(op, [x, need(1)?], shape),
        _ if op.kind() == OnnxKind::Movement => shuffle::evaluate(op, operands, shape),
        Onnx::Clip {} => clip(x, get(1), get(2)),
        Onnx::Range {} => range(x, need(1)?, need(2)?),
        Onnx::Einsum { equation } => einsum(equation, operands, dtype),
        Onnx::Conv { .. } => conv(op, x, need(1)?, get(2)),
        Onnx::LayerNormalization { axis, epsilon } => {
            return layer_norm(checked_axis(*axis, x)?, f64::from(*epsilon), x, need(1)?, get(2), types[1].0);
        }
        Onnx::TopK { axis, largest, .. } => {
            return lines::top_k(checked_axis(*axis, x)?, *largest, x, need(1)?);
        }
        Onnx::ArgMax { axis, select_last_index, .. } => {
            lines::extreme(*axis, Ordering::Greater, *select_last_index, x, shape)
        }
        Onnx::ArgMin { axis, select_last_index, .. } => {
            lines::extreme(*axis, Ordering::Less, *select_last_index, x, shape)
        }
        Onnx::OneHot { axis } => one_hot(*axis, x, need(1)?, need(2)?),
        Onnx::CumSum { exclusive, reverse } => lines::cum_sum(*exclusive, *reverse, x, need(1)?),
        Onnx::EyeLike { k, .. } => {
            if x.shape().len() != 2 {
                return Err(InferError::new("a matrix", format!("{:?}", x.shape())));
            }
            let is_one = |at: &[usize]| at[1] as i64 == (at[0] as i64).saturating_add(*k);
            let ones = map_index(x.shape(), |at| usize::from(is_one(at)));
            of_integers(dtype, x.shape(), ones.into_iter().map(|x| x as i64).collect())
        }
        Onnx::NonZero {} => non_zero(x),
        Onnx::Hardmax { axis } => lines::hardmax(*axis, x),
        Onnx::NegativeLogLikelihoodLoss { ignore_index, reduction } => {
            nll(*ignore_index, reduction, x, need(1)?, get(2), dtype)
        }
        Onnx::DequantizeLinear { axis, block_size, .. } => {
            let at = parameters(*axis, *block_size, x, need(1)?, get(2))?;
            let (scale, zero) = (Numbers::floats(need(1)?)?, get(2).map(Numbers::floats).transpose()?);
            let zero = |k: usize| zero.as_ref().map_or(0.0, |z| z[k]);
            let out = Numbers::floats(x)?.into_iter().zip(at).map(|(x, k)| (x - zero(k)) * scale[k]);
            of_reals(dtype, x.shape(), out.collect::<Vec<f64>>())
        }
        Onnx::QuantizeLinear { axis, block_size, .. } => {
            let at = parameters(*axis, *block_size, x, need(1)?, get(2))?;
            let (scale, zero) = (Numbers::floats(need(1)?)?, get(2).map(Numbers::floats).transpose()?);
            let zero = |k: usize| zero.as_ref().map_or(0.0, |z| z[k]);
            // The quotient is rounded to f32 before it is rounded to an integer.
            let round = |x: f64, k: usize| f64::from((x / scale[k]) as f32).round_ties_even() + zero(k);
            let out = Numbers::floats(x)?.into_iter().zip(at).map(|(x, k)| round(x, k));
            of_reals(dtype, x.shape(), out.collect::<Vec<f64>>())
        }
        Onnx::DynamicQuantizeLinear {} => return dynamic_quantize(x),
        Onnx::MatMulInteger {} => {
            let centred = |t: &Tensor, zero: Option<&Tensor>, axis: i64| -> Result<Tensor, InferError> {
                let Some(zero) = zero else { return of_integers(DType::I64, t.shape(), integers(t)?) };
                let at = parameters(axis, 0, t, zero, None)?;
                let zero = integers(zero)?;
                let v = integers(t)?.into_iter().zip(at).map(|(x, k)| x - zero[k]).collect();
                of_integers(DType::I64, t.shape(), v)
            };
            let (a, b) = (centred(x, get(2), -2)?, centred(need(1)?, get(3), -1)?);
            let product = mat_mul::<f64>(&a, &b, DType::I64, shape)?;
            of_integers(dtype, shape, integers(&product)?)
        }
        other => Err(InferError::new("a generic operator", other.name())),
    };
    Ok(vec![one?])
}

fn unary(op: &Onnx, x: &Tensor) -> Result<Tensor, InferError> {
    let f = |x: f64| match op {
        Onnx::Exp {} => x.exp(),
        Onnx::Log {} => x.ln(),
        Onnx::Sqrt {} => x.sqrt(),
        Onnx::Reciprocal {} => 1.0 / x,
        Onnx::Abs {} => x.abs(),
        Onnx::Neg {} => -x,
        Onnx::Sign {} if x == 0.0 || x.is_nan() => x,
        Onnx::Sign {} => x.signum(),
        Onnx::Floor {} => x.floor(),
        Onnx::Ceil {} => x.ceil(),
        Onnx::Round {} => x.round_ties_even(),
        Onnx::Erf {} => erf(x),
        Onnx::Sin {} => x.sin(),
        Onnx::Cos {} => x.cos(),
        Onnx::Gelu { approximate } if approximate == "tanh" => {
            let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Onnx::Gelu { .. } => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Onnx::Selu { alpha, gamma } => {
            f64::from(*gamma) * if x > 0.0 { x } else { f64::from(*alpha) * x.exp_m1() }
        }
        Onnx::Celu { alpha } => {
            let alpha = f64::from(*alpha);
            x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0)
        }
        Onnx::Swish { alpha } => x / (1.0 + (-f64::from(*alpha) * x).exp()),
        Onnx::Mish {} => x * (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh(),
        Onnx::HardSwish {} => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        _ => f64::NAN,
    };
    match (Numbers::of(x)?, op) {
        (Numbers::Floats(v), _) => of_reals(x.dtype(), x.shape(), v.into_iter().map(f).collect()),
        (Numbers::Integers(v), Onnx::Abs {} | Onnx::Neg {} | Onnx::Sign {}) => {
            let g = |x: i64| match op {
                Onnx::Abs {} => x.wrapping_abs(),
                Onnx::Neg {} => x.wrapping_neg(),
                _ => x.signum(),
            };
            of_integers(x.dtype(), x.shape(), v.into_iter().map(g).collect())
        }
        _ => Err(InferError::new("an operand of a float dtype", x.dtype().to_string())),
    }
}

fn test(x: &Tensor, f: impl Fn(f64) -> bool) -> Result<Tensor, InferError> {
    Ok(Tensor::from_bool(x.shape(), Numbers::floats(x)?.into_iter().map(f).collect())?)
}

fn pair(op: &Onnx, operands: [&Tensor; 2], dtype: DType, shape: &[usize]) -> Result<Tensor, InferError> {
    match op {
        Onnx::Pow {} => {
            let power = |a: i64, b: i64| match u32::try_from(b) {
                Ok(b) => a.wrapping_pow(b),
                Err(_) => (a as f64).powf(b as f64) as i64,
            };
            pairwise(operands, dtype, shape, power, f64::powf)
        }
        Onnx::Mod { fmod } => {
            let floats = |a: f64, b: f64| if *fmod { a % b } else { a - b * (a / b).floor() };
            if operands[1].dtype().is_float() {
                return pairwise(operands, dtype, shape, |a, _| a, floats);
            }
            if integers(operands[1])?.contains(&0) {
                return Err(InferError::new("a divisor other than zero", "0"));
            }
            // The sign of the divisor, or with `fmod` that of the dividend.
            let ints = |a: i64, b: i64| {
                let rest = a.wrapping_rem(b);
                if !fmod && rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
            };
            pairwise(operands, dtype, shape, ints, floats)
        }
        _ => pairwise(
            operands,
            dtype,
            shape,
            |a, slope| if a < 0 { a.wrapping_mul(slope) } else { a },
            |a, slope| if a < 0.0 { a * slope } else { a },
        ),
    }
}

fn compare(op: &Onnx, operands: [&Tensor; 2], shape: &[usize]) -> Result<Tensor, InferError> {
    let of = |order: Option<Ordering>| match op {
        Onnx::Equal {} => order == Some(Ordering::Equal),
        Onnx::Greater {} => order == Some(Ordering::Greater),
        Onnx::GreaterOrEqual {} => order.is_some_and(Ordering::is_ge),
        Onnx::Less {} => order == Some(Ordering::Less),
        _ => order.is_some_and(Ordering::is_le),
    };
    let logical = matches!(op, Onnx::And {} | Onnx::Or {} | Onnx::Xor {});
    if logical && operands.iter().any(|t| t.dtype() != DType::Bool) {
        return Err(InferError::new(
            "booleans",
            format!("{} and {}", operands[0].dtype(), operands[1].dtype()),
        ));
    }
    let ints = |a: i64, b: i64| match op {
        Onnx::And {} => a != 0 && b != 0,
        Onnx::Or {} => a != 0 || b != 0,
        Onnx::Xor {} => (a != 0) != (b != 0),
        _ => of(Some(a.cmp(&b))),
    };
    pairwise(operands, DType::Bool, shape, ints, |a, b| of(a.partial_cmp(&b)))
}

fn clip(x: &Tensor, low: Option<&Tensor>, high: Option<&Tensor>) -> Result<Tensor, InferError> {
    if low.into_iter().chain(high).any(|t| t.len() != 1) {
        return Err(InferError::new("limits of one element", "others"));
    }
    match Numbers::of(x)? {
        Numbers::Integers(v) => {
            let limit = |t: Option<&Tensor>, none| t.map_or(Ok(none), |t| integers(t).map(|v| v[0]));
            let (low, high) = (limit(low, i64::MIN)?, limit(high, i64::MAX)?);
            of_integers(x.dtype(), x.shape(), v.into_iter().map(|x| x.max(low).min(high)).collect())
        }
        Numbers::Floats(v) => {
            let limit = |t: Option<&Tensor>, none| t.map_or(Ok(none), |t| Numbers::floats(t).map(|v| v[0]));
            let (low, high) = (limit(low, f64::NEG_INFINITY)?, limit(high, f64::INFINITY)?);
            let clip = |x: f64| if x < low { low } else { x };
            let clip = |x: f64| if clip(x) > high { high } else { clip(x) };
            of_reals(x.dtype(), x.shape(), v.into_iter().map(clip).collect())
        }
    }
}

fn range(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor, InferError> {
    if [start, limit, delta].iter().any(|t| t.len() != 1) {
        return Err(InferError::new("scalars", "tensors of other sizes"));
    }
    let [from, to, by] = [Numbers::floats(start)?[0], Numbers::floats(limit)?[0], Numbers::floats(delta)?[0]];
    let count = ((to - from) / by).ceil().max(0.0);
    if by == 0.0 || !count.is_finite() {
        return Err(InferError::new("a delta other than zero", by.to_string()));
    }
    let n = limited(&[count as usize])?;
    let numbers = match (Numbers::of(start)?, Numbers::of(delta)?) {
        (Numbers::Integers(s), Numbers::Integers(d)) => {
            Numbers::Integers((0..n).map(|i| s[0].wrapping_add((i as i64).wrapping_mul(d[0]))).collect())
        }
        _ => Numbers::Floats((0..n).map(|i| from + i as f64 * by).collect()),
    };
    numbers.tensor(start.dtype(), &[n])
}

fn einsum(equation: &str, operands: &[Option<Tensor>], dtype: DType) -> Result<Tensor, InferError> {
    let all: Vec<&Tensor> = operands.iter().flatten().collect();
    let ranks: Vec<usize> = all.iter().map(|t| t.shape().len()).collect();
    let equation = Equation::parse(equation, &ranks)?;
    // The result's axes, then those that are summed over.
    let mut labels = equation.output.clone();
    for label in equation.inputs.iter().flatten() {
        if !labels.contains(label) {
            labels.push(*label);
        }
    }
    let mut sizes = vec![1; labels.len()];
    let mut steps = vec![];
    for (t, own) in all.iter().zip(&equation.inputs) {
        let mut of_operand = vec![0isize; labels.len()];
        for ((label, &size), stride) in own.iter().zip(t.shape()).zip(strides(t.shape())) {
            let at = labels.iter().position(|l| l == label).unwrap_or(0);
            if size != 1 {
                if sizes[at] != 1 && sizes[at] != size {
                    let found = format!("{} and {size}", sizes[at]);
                    return Err(InferError::new("one size for each letter of the equation", found));
                }
                sizes[at] = size;
                of_operand[at] += stride;
            }
        }
        steps.push(of_operand);
    }
    let shape = &sizes[..equation.output.len()];
    limited(shape)?;
    let work = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_PRODUCTS);
    if work.is_none() {
        return Err(InferError::new(format!("at most {MAX_PRODUCTS} products"), format!("axes {sizes:?}")));
    }
    let inner: usize = sizes[shape.len()..].iter().product();
    fn sums<N>(data: &[Vec<N>], sizes: &[usize], steps: &[Vec<isize>], count: usize, inner: usize) -> Vec<N>
    where
        N: Copy + Default + Add<Output = N> + Mul<Output = N>,
    {
        let mut out = vec![N::default(); count];
        if inner == 0 {
            return out;
        }
        // Products of the operands, one operand at a time, for each sum.
        let mut positions: Vec<_> = steps.iter().map(|s| walk(sizes, s, 0)).collect();
        for o in &mut out {
            for _ in 0..inner {
                let mut factors = positions.iter_mut().zip(data).filter_map(|(p, v)| Some(v[p.next()?]));
                let Some(first) = factors.next() else { break };
                *o = *o + factors.fold(first, |a, b| a * b);
            }
        }
        out
    }
    let count = shape.iter().product();
    let numbers = if dtype.is_float() {
        let data = all.iter().map(|t| Numbers::floats(t)).collect::<Result<Vec<_>, _>>()?;
        Numbers::Floats(sums(&data, &sizes, &steps, count, inner))
    } else {
        let wrapping = |t: &&Tensor| -> Result<Vec<std::num::Wrapping<i64>>, InferError> {
            Ok(integers(t)?.into_iter().map(std::num::Wrapping).collect())
        };
        let data = all.iter().map(wrapping).collect::<Result<Vec<_>, _>>()?;
        Numbers::Integers(sums(&data, &sizes, &steps, count, inner).into_iter().map(|w| w.0).collect())
    };
    numbers.tensor(dtype, shape)
}

fn conv(op: &Onnx, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, InferError> {
    let Onnx::Conv { auto_pad, dilations, group, pads, strides: moves, .. } = op else {
        return Err(InferError::new("a convolution", op.name()));
    };
    let (sx, sw) = (x.shape(), w.shape());
    let wrong = |what: &str| InferError::new(what, format!("x {sx:?}, w {sw:?}, {op:?}"));
    let n = sx.len() - 2;
    let list = |given: &[i64], usual: i64, len: usize| -> Option<Vec<i64>> {
        let given = if given.is_empty() { vec![usual; len] } else { given.to_vec() };
        (given.len() == len && given.iter().all(|&v| (usual..1 << 32).contains(&v))).then_some(given)
    };
    let (Some(dilations), Some(moves), Some(mut pads), Ok(groups)) =
        (list(dilations, 1, n), list(moves, 1, n), list(pads, 0, 2 * n), usize::try_from(*group))
    else {
        return Err(wrong("dilations, strides and pads for each axis"));
    };
    if groups == 0 || sw[1].checked_mul(groups) != Some(sx[1]) || sw[0] % groups != 0 || sw.contains(&0) {
        return Err(wrong("channels that fit the groups"));
    }
    if bias.is_some_and(|b| b.shape() != [sw[0]]) {
        return Err(wrong("a bias for each output channel"));
    }
    let mut shape = vec![sx[0], sw[0]];
    for k in 0..n {
        let (size, width) = (sx[k + 2] as i64, (sw[k + 2] as i64 - 1) * dilations[k] + 1);
        if auto_pad.starts_with("SAME") {
            let total = ((size + moves[k] - 1) / moves[k] - 1) * moves[k] + width - size;
            let (small, large) = (total.max(0) / 2, total.max(0) - total.max(0) / 2);
            (pads[k], pads[n + k]) = if auto_pad == "SAME_LOWER" { (large, small) } else { (small, large) };
        }
        let free = size + pads[k] + pads[n + k] - width;
        shape.push(if free < 0 { 0 } else { (free / moves[k] + 1) as usize });
    }
    limited(&shape)?;
    let (vx, vw) = (Numbers::floats(x)?, Numbers::floats(w)?);
    let bias = bias.map(Numbers::floats).transpose()?;
    let own = strides(sx);
    // For each weight of an output channel, its input channel and its offset on each axis.
    let mut kernel: Vec<Vec<usize>> = vec![];
    map_index(&sw[1..], |at| {
        kernel.push(at.to_vec());
        0
    });
    let mut out = vec![];
    map_index(&shape, |at| {
        let first = at[1] / (sw[0] / groups) * sw[1];
        let weights = &vw[at[1] * kernel.len()..];
        let mut sum = bias.as_ref().map_or(0.0, |b| b[at[1]]);
        for (offsets, &weight) in kernel.iter().zip(weights) {
            let mut position = at[0] as i64 * own[0] as i64 + (first + offsets[0]) as i64 * own[1] as i64;
            let inside = (0..n).all(|k| {
                let p = at[k + 2] as i64 * moves[k] + offsets[k + 1] as i64 * dilations[k] - pads[k];
                position += p * own[k + 2] as i64;
                (0..sx[k + 2] as i64).contains(&p)
            });
            if inside {
                sum += weight * vx[position as usize];
            }
        }
        out.push(sum);
        0
    });
    of_reals(x.dtype(), &shape, out)
}

fn layer_norm(
    axis: usize,
    epsilon: f64,
    x: &Tensor,
    scale: &Tensor,
    bias: Option<&Tensor>,
    statistics: DType,
) -> Result<Vec<Tensor>, InferError> {
    let (outer, inner) = x.shape().split_at(axis);
    for t in [Some(scale), bias].into_iter().flatten() {
        let fits = |(&a, &b): (&usize, &usize)| a == 1 || a == b;
        if t.shape().len() > x.shape().len() || !t.shape().iter().rev().zip(x.shape().iter().rev()).all(fits)
        {
            let expected = format!("a scale and a bias that broadcast to {:?}", x.shape());
            return Err(InferError::new(expected, format!("{:?}", t.shape())));
        }
    }
    let n = inner.iter().product::<usize>().max(1);
    let mut v = Numbers::floats(x)?;
    let (mut means, mut deviations) = (vec![], vec![]);
    for line in v.chunks_mut(n) {
        let mean = line.iter().sum::<f64>() / n as f64;
        let variance = line.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        line.iter_mut().for_each(|x| *x = (*x - mean) * inverse);
        means.push(mean);
        deviations.push(inverse);
    }
    let steps = broadcast_strides(scale.shape(), x.shape());
    let scales = Numbers::floats(scale)?;
    v.iter_mut().zip(walk(x.shape(), &steps, 0)).for_each(|(x, i)| *x *= scales[i]);
    if let Some(bias) = bias {
        let steps = broadcast_strides(bias.shape(), x.shape());
        let bias = Numbers::floats(bias)?;
        v.iter_mut().zip(walk(x.shape(), &steps, 0)).for_each(|(x, i)| *x += bias[i]);
    }
    let mut shape = outer.to_vec();
    shape.resize(x.shape().len(), 1);
    let count = shape.iter().product();
    means.resize(count, 0.0);
    deviations.resize(count, 0.0);
    Ok(vec![
        of_reals(x.dtype(), x.shape(), v)?,
        of_reals(statistics, &shape, means)?,
        of_reals(statistics, &shape, deviations)?,
    ])
}

fn one_hot(axis: i64, x: &Tensor, depth: &Tensor, values: &Tensor) -> Result<Tensor, InferError> {
    let depth = match Numbers::floats(depth)?[..] {
        [depth] if depth >= 1.0 && values.shape() == [2] => depth as usize,
        ref other => {
            return Err(InferError::new("a depth of at least 1 and two values", format!("{other:?}")));
        }
    };
    let rank = x.shape().len() + 1;
    let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(rank);
    if axis >= rank {
        return Err(InferError::new(format!("an axis of {rank}"), axis.to_string()));
    }
    let mut shape = x.shape().to_vec();
    shape.insert(axis, depth);
    limited(&shape)?;
    let wanted = |x: &f64| if *x < 0.0 { *x + depth as f64 } else { *x };
    let indices: Vec<f64> = Numbers::floats(x)?.iter().map(wanted).collect();
    let mut own = strides(x.shape());
    own.insert(axis, 0);
    let at = map_index(&shape, |at| at[axis]);
    let positions: Vec<usize> =
        walk(&shape, &own, 0).zip(at).map(|(i, k)| usize::from(indices[i] == k as f64)).collect();
    pick(values, &shape, positions.into_iter())
}

fn non_zero(x: &Tensor) -> Result<Tensor, InferError> {
    let v = Numbers::floats(x)?;
    let rank = x.shape().len().max(1);
    let mut found: Vec<Vec<i64>> = vec![vec![]; rank];
    let mut k = 0;
    map_index(x.shape(), |at| {
        if v[k] != 0.0 {
            for (i, list) in found.iter_mut().enumerate() {
                list.push(at.get(i).copied().unwrap_or(0) as i64);
            }
        }
        k += 1;
        0
    });
    Ok(Tensor::from_i64(
        [x.shape().len(), found[0].len()],
        found.concat()[..x.shape().len() * found[0].len()].to_vec(),
    )?)
}

fn nll(
    ignore: Option<i64>,
    reduction: &str,
    x: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    dtype: DType,
) -> Result<Tensor, InferError> {
    let (sx, st) = (x.shape(), target.shape());
    let fits = sx.len() >= 2 && st.len() + 1 == sx.len() && st[0] == sx[0] && st[1..] == sx[2..];
    if !fits || weight.is_some_and(|w| w.shape() != [sx[1]]) {
        let found = format!("{sx:?} and {st:?}");
        return Err(InferError::new("log probabilities [N, C, ..], targets [N, ..] and weights [C]", found));
    }
    let (v, weight) = (Numbers::floats(x)?, weight.map(Numbers::floats).transpose()?);
    let (classes, inner): (usize, usize) = (sx[1], sx[2..].iter().product());
    let (mut losses, mut total) = (vec![], 0.0);
    for (i, class) in integers(target)?.into_iter().enumerate() {
        if Some(class) == ignore {
            losses.push(0.0);
            continue;
        }
        let class = usize::try_from(class).ok().filter(|&c| c < classes);
        let class = class.ok_or_else(|| InferError::new(format!("targets below {classes}"), "another"))?;
        let weight = weight.as_ref().map_or(1.0, |w| w[class]);
        losses.push(-weight * v[(i / inner * classes + class) * inner + i % inner]);
        total += weight;
    }
    match reduction {
        "none" => of_reals(dtype, st, losses),
        "sum" => of_reals(dtype, &[], vec![losses.iter().sum::<f64>()]),
        _ => of_reals(dtype, &[], vec![losses.iter().sum::<f64>() / total]),
    }
}

/// For each element of `x`, the position of its scale: one for all, one for each index of an axis, or one for each block along it.
fn parameters(
    axis: i64,
    block: i64,
    x: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
) -> Result<Vec<usize>, InferError> {
    let wrong = |found: &Tensor| {
        let expected =
            format!("scales and zero points for {:?}, one for all or along axis {axis}", x.shape());
        InferError::new(expected, format!("{:?}", found.shape()))
    };
    if let Some(zero) = zero.filter(|z| z.len() != scale.len()) {
        return Err(wrong(zero));
    }
    if scale.len() == 1 {
        return Ok(vec![0; x.len()]);
    }
    let axis = checked_axis(axis, x)?;
    if block <= 0 {
        if scale.len() != x.shape()[axis] {
            return Err(wrong(scale));
        }
        return Ok(map_index(x.shape(), |at| at[axis]));
    }
    let block = block as usize;
    let mut shape = x.shape().to_vec();
    shape[axis] = shape[axis].div_ceil(block);
    if scale.shape() != shape {
        return Err(wrong(scale));
    }
    let own = strides(&shape);
    let of = |i: usize, at: usize| if i == axis { at / block } else { at };
    Ok(map_index(x.shape(), |at| at.iter().enumerate().map(|(i, &k)| of(i, k) * own[i] as usize).sum()))
}

/// In f32, as ONNX writes it.
fn dynamic_quantize(x: &Tensor) -> Result<Vec<Tensor>, InferError> {
    let v: Vec<f32> = Numbers::floats(x)?.into_iter().map(|x| x as f32).collect();
    let low = v.iter().fold(0f32, |a, &b| a.min(b));
    let high = v.iter().fold(0f32, |a, &b| a.max(b));
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let y = v.iter().map(|x| ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8).collect();
    Ok(vec![
        Tensor::from_u8(x.shape(), y)?,
        of_reals(x.dtype(), &[], vec![f64::from(scale)])?,
        Tensor::from_u8([], vec![zero as u8])?,
    ])
}
