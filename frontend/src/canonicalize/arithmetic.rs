//! Products, elementwise operators, sums over features.

use super::constant::{Constant, wrong};
use super::draft::{Draft, Kind, SlotId};
use super::evaluate::{
    Evaluator, Line, Result, Site, evaluate_numbers, evaluate_one, integers, other, tensor,
};
use super::value::{ANY, Array, Code, Row, Why, constants};
use crate::ir::{Binary, Onnx, OnnxKind, Op, Reduction};
use crate::tensor::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Products of computed values with each other that a token may have.
const MOST_PRODUCTS: usize = 1 << 14;

const MULTIPLIES: &str = "it multiplies computed values with each other, as attention does";

impl<'g> Evaluator<'g> {
    pub(super) fn mat_mul(&mut self, site: &Site<'g>) -> Result<Array> {
        if site.constant(1).is_some() {
            let weight = matrix(site.known(1, "weight")?)?;
            return self.linear(site, &site.array(0)?, &weight.transposed(vec![1, 0])?, None);
        }
        if site.constant(0).is_none() {
            let (x, y) = (site.array(0)?, site.array(1)?);
            if x.shape().len() < 2 || y.shape().len() < 2 {
                return other(MULTIPLIES);
            }
            let at = x.shape().len() - 1;
            let between = |t: Tensor, axis: usize| {
                let mut shape = t.shape().to_vec();
                shape.insert(axis, 1);
                reshaped(t, &shape)
            };
            let turned = swap_last(&y.codes)?;
            let rank = turned.shape().len();
            let x = Array { codes: between(x.codes, at)?, ..x };
            return self.contract(site, x, Array { codes: between(turned, rank - 2)?, ..y }, 1);
        }
        // W X is (X^T W^T)^T.
        let weight = matrix(site.known(0, "weight")?)?;
        let x = site.array(1)?;
        if x.shape().len() < 2 {
            return self.linear(site, &x, &weight, None);
        }
        let x = Array { codes: swap_last(&x.codes)?, ..x };
        let y = self.linear(site, &x, &weight, None)?;
        Ok(Array { codes: swap_last(&y.codes)?, ..y })
    }

    /// A product of a vector that was quantized and integer weights.
    pub(super) fn mat_mul_integer(&mut self, site: &Site<'g>) -> Result<Array> {
        let (x, codes) = (site.array(0)?, site.known(1, "weight")?.dense()?);
        let zero = match site.is_given(3) {
            true => Some(site.known(3, "zero point")?.dense()?),
            false => None,
        };
        let one = Tensor::from_f32([], vec![1.0]).map_err(wrong)?;
        let axis = codes.shape().len().saturating_sub(1);
        let scales = match &zero {
            Some(z) if z.len() > 1 => Tensor::from_f32([z.len()], vec![1.0; z.len()]).map_err(wrong)?,
            _ => one,
        };
        let Some(weight) = Constant::dequantized(&codes, &scales, zero.as_ref(), axis)? else {
            return other("its weights are not integers of eight bits");
        };
        let mut weight = matrix(&weight)?.transposed(vec![1, 0])?;
        let x = if x.is_quantized {
            weight = weight.with_int8_activations();
            x
        } else {
            self.integer_rows(site, x)?
        };
        let y = self.linear(site, &x, &weight, None)?;
        Ok(Array { dtype: DType::I32, is_quantized: true, ..y })
    }

    /// Rows of a table of codes, minus its zero point: as floats they are exact.
    fn integer_rows(&mut self, site: &Site<'g>, x: Array) -> Result<Array> {
        let is_row =
            |c: &i64| Code(*c).slot().is_some_and(|s| matches!(self.draft.kind(s), Kind::Embed { .. }));
        let zero = if site.is_given(2) { site.known(2, "zero point")?.values()? } else { vec![0.0] };
        let [zero] = zero[..] else { return other("its vector has a zero point for each row") };
        if !x.codes().iter().all(is_row) {
            return other("it multiplies integers that are not a quantized vector");
        }
        let number = |x: f32| Ok(Array::new(tensor(&[], vec![Code::constant(x).0])?, DType::F32));
        let op = Op::Onnx(Onnx::DequantizeLinear { axis: 0, block_size: 0, output_dtype: None });
        let y = self.map(&site.label, &op, &[x, number(1.0)?, number(zero)?])?;
        Ok(Array { dtype: DType::F32, ..y })
    }

    /// `alpha A' B' + beta C`, one of whose factors is a constant.
    pub(super) fn gemm(
        &mut self,
        site: &Site<'g>,
        [alpha, beta]: [f32; 2],
        transpose: [bool; 2],
    ) -> Result<Array> {
        let y = if let Some(b) = site.constant(1) {
            // Rows of outputs.
            let weight = if transpose[1] { b.clone() } else { b.transposed(vec![1, 0])? };
            let a = site.array(0)?;
            let codes = if transpose[0] { transposed(&a.codes)? } else { a.codes.clone() };
            let x = Array { codes, ..a };
            let outputs = weight.shape()[0];
            let bias = match site.constant(2) {
                Some(c) => as_vector(c, outputs)?,
                None => None,
            };
            let bias: Option<Vec<f32>> = bias.map(|b| b.iter().map(|x| x * beta).collect());
            let weight = weight.scaled(&vec![alpha; outputs])?;
            let y = self.linear(site, &x, &weight, bias.as_deref())?;
            if bias.is_some() || !site.is_given(2) {
                return Ok(y);
            }
            y
        } else {
            let a = site.known(0, "weight")?;
            let weight = if transpose[0] { a.transposed(vec![1, 0])? } else { a.clone() };
            let outputs = weight.shape()[0];
            let weight = weight.scaled(&vec![alpha; outputs])?;
            let b = site.array(1)?;
            let codes = if transpose[1] { b.codes.clone() } else { transposed(&b.codes)? };
            let y = self.linear(site, &Array { codes, ..b }, &weight, None)?;
            let y = Array { codes: transposed(&y.codes)?, ..y };
            if !site.is_given(2) {
                return Ok(y);
            }
            y
        };
        let c = site.array(2)?;
        let beta = Array::new(tensor(&[], vec![Code::constant(beta).0])?, c.dtype);
        let c = self.map(&site.label, &Op::Binary(Binary::Mul), &[c, beta])?;
        self.map(&site.label, &Op::Binary(Binary::Add), &[y, c])
    }

    /// A convolution of width 1: a product at each place.
    pub(super) fn conv(&mut self, site: &Site<'g>, is_plain: bool) -> Result<Array> {
        let weight = site.known(1, "weight")?;
        let x = site.array(0)?;
        let rank = x.shape().len();
        if !is_plain || rank < 2 || weight.shape().len() < 2 || weight.shape()[2..].iter().any(|&k| k != 1) {
            return other("it is a convolution over more than one time step");
        }
        let weight = weight.clone().reshaped(&weight.shape()[..2])?;
        let bias = match site.is_given(2) {
            true => as_vector(site.known(2, "bias")?, weight.shape()[0])?,
            false => None,
        };
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(1, rank - 1);
        let swap = |t: Tensor| evaluate_one(&Op::Transpose { perm: perm.clone() }, &[t]);
        let y = self.linear(site, &Array { codes: swap(x.codes)?, ..x }, &weight, bias.as_deref())?;
        Ok(Array { codes: swap(y.codes)?, ..y })
    }

    /// A sum of products with a constant.
    pub(super) fn einsum(&mut self, site: &Site<'g>, equation: &str) -> Result<Array> {
        let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let parts =
            equation.split_once("->").and_then(|(from, to)| from.split_once(',').map(|(a, b)| (a, b, to)));
        let Some((a, b, to)) = parts.filter(|_| !equation.contains('.') && site.operands.len() == 2) else {
            return other("its equation is not one of two operands with letters");
        };
        let (k, x, w) = if site.constant(1).is_some() { (0, a, b) } else { (1, b, a) };
        if site.constant(1 - k).is_none() {
            let all = [a, b].concat();
            let mut order: Vec<char> = to.chars().collect();
            order.extend(all.chars().filter(|c| !to.contains(*c)).collect::<BTreeSet<char>>());
            let place = |k: usize, from: &str| -> Result<Array> {
                let x = site.array(k)?;
                let perm = order.iter().filter_map(|c| from.find(*c)).map(|k| k as i64).collect::<Vec<_>>();
                if perm.len() != from.len() || from.len() != x.shape().len() {
                    return other("its equation has a letter twice");
                }
                let size = |c: &char| from.find(*c).map_or(1, |k| x.shape()[k]);
                let shape: Vec<usize> = order.iter().map(size).collect();
                Ok(Array {
                    codes: reshaped(
                        evaluate_one(&Op::Transpose { perm }, std::slice::from_ref(&x.codes))?,
                        &shape,
                    )?,
                    ..x
                })
            };
            return self.contract(site, place(0, a)?, place(1, b)?, order.len() - to.len());
        }
        let (array, weight) = (site.array(k)?, site.known(1 - k, "weight")?);
        let shared = |c: &char| w.contains(*c);
        let summed: Vec<char> = x.chars().filter(|c| shared(c) && !to.contains(*c)).collect();
        let free: Vec<char> = x.chars().filter(|c| !summed.contains(c)).collect();
        let rows: Vec<char> = w.chars().filter(|c| !summed.contains(c)).collect();
        let is_product = free.iter().chain(&rows).all(|c| to.contains(*c))
            && to.len() == free.len() + rows.len()
            && !free.iter().any(|c| rows.contains(c));
        if !is_product {
            return other("it is not a matrix product with a constant");
        }
        let order = |from: &str, to: &[&[char]]| -> Vec<i64> {
            to.iter().flat_map(|part| part.iter()).map(|c| from.find(*c).unwrap_or(0) as i64).collect()
        };
        let size = |from: &str, shape: &[usize], c: &char| {
            from.find(*c).and_then(|k| shape.get(k)).copied().unwrap_or(1)
        };
        let len = |from: &str, shape: &[usize], part: &[char]| {
            part.iter().map(|c| size(from, shape, c)).product::<usize>()
        };
        let (xs, ws) = (array.shape().to_vec(), weight.shape().to_vec());
        let moved = evaluate_one(&Op::Transpose { perm: order(x, &[&free, &summed]) }, &[array.codes])?;
        let moved = reshaped(moved, &[len(x, &xs, &free), len(x, &xs, &summed)])?;
        let matrix = weight.transposed(order(w, &[&rows, &summed]))?;
        let matrix = matrix.reshaped(&[len(w, &ws, &rows), len(w, &ws, &summed)])?;
        let y = self.linear(site, &Array::new(moved, array.dtype), &matrix, None)?;
        let all: String = free.iter().chain(&rows).collect();
        let shape: Vec<usize> =
            free.iter().map(|c| size(x, &xs, c)).chain(rows.iter().map(|c| size(w, &ws, c))).collect();
        let perm = to.chars().map(|c| all.find(c).unwrap_or(0) as i64).collect();
        let codes = evaluate_one(&Op::Transpose { perm }, &[reshaped(y.codes, &shape)?])?;
        Ok(Array::new(codes, y.dtype))
    }

    /// The products of computed values of one token, which broadcast, summed over the last axes.
    fn contract(&mut self, site: &Site<'g>, x: Array, y: Array, summed: usize) -> Result<Array> {
        let mut shape = broadcast(&[x.clone(), y.clone()])?;
        let count: usize = shape.iter().product();
        if count > MOST_PRODUCTS * self.sizes.steps * self.sizes.streams {
            return other(MULTIPLIES);
        }
        // Of different tokens it is attention.
        let product = self.map(&site.label, &Op::Binary(Binary::Mul), &[x, y]);
        let product = product.or_else(|_| other(MULTIPLIES))?;
        let len = shape.split_off(shape.len() - summed).iter().product::<usize>();
        if len == 0 {
            return other(MULTIPLIES);
        }
        let lines = Array { codes: reshaped(product.codes, &[count / len, len])?, ..product };
        let y = self.by_halves(&site.label, Binary::Add, lines)?;
        Ok(Array { codes: reshaped(y.codes, &shape)?, ..y })
    }

    pub(super) fn elementwise(&mut self, site: &Site<'g>) -> Result<Array> {
        let operands = (0..site.operands.len()).map(|k| site.array(k)).collect::<Result<Vec<_>>>()?;
        self.map(&site.label, &site.node.op, &operands)
    }

    /// An elementwise operator with broadcasting.
    pub(super) fn map(&mut self, label: &str, op: &Op, operands: &[Array]) -> Result<Array> {
        let shape = broadcast(operands)?;
        let mut all = vec![];
        for x in operands {
            all.push(evaluate_one(&Op::Expand, &[x.codes.clone(), integers(&shape)])?);
        }
        let all: Vec<&[i64]> = all.iter().map(|t| t.i64s().expect("codes")).collect();
        let count = shape.iter().product();
        let dtype = match op {
            Op::Onnx(op) if matches!(op.kind(), OnnxKind::Test | OnnxKind::Comparison) => DType::Bool,
            _ => operands[0].dtype,
        };
        // The distinct elements at each position, in order; those of all positions must be the same.
        let mut groups: BTreeMap<usize, HashMap<Vec<Code>, usize>> = BTreeMap::new();
        let mut elements: Vec<Element> = Vec::with_capacity(count);
        let at = |k: usize| -> Vec<Code> { all.iter().map(|codes| Code(codes[k])).collect() };
        // A neutral element among others, such as a bias that is zero by chance, makes no difference.
        let is_neutral = (0..count).all(|k| {
            let of = at(k);
            of.iter().all(|c| c.as_constant().is_some()) || neutral(op, &of).is_some()
        });
        for k in 0..count {
            let of = at(k);
            let simple = match is_neutral {
                true => neutral(op, &of).map_or_else(|| folded(op, &of), |code| Ok(Some(code)))?,
                false => folded(op, &of)?,
            };
            elements.push(match simple {
                Some(code) => Element::Code(code),
                None => {
                    let position = self.position(of.iter().copied())?.unwrap_or(ANY);
                    let group = groups.entry(position).or_default();
                    let (next, key) = (group.len(), of.iter().map(|c| c.anywhere()).collect());
                    Element::Feature { position, feature: *group.entry(key).or_insert(next) }
                }
            });
        }
        let Some(first) = groups.first_key_value().map(|(p, _)| *p) else {
            let codes = elements.iter().map(|e| e.code(SlotId(0), &[])).collect();
            return Ok(Array::new(tensor(&shape, codes)?, dtype));
        };
        let group = &groups[&first];
        // For each position, where its elements are in the first one.
        let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (&position, other_group) in &groups {
            let mut place = vec![0; other_group.len()];
            for (key, &k) in other_group {
                match group.get(key) {
                    Some(&at) => place[k] = at,
                    None => {
                        return Err(Why::Order(
                            "what it computes differs between time steps or streams".into(),
                        ));
                    }
                }
            }
            if other_group.len() != group.len() {
                return Err(Why::Order("what it computes differs between time steps or streams".into()));
            }
            places.insert(position, place);
        }
        let mut rows = vec![vec![Code::constant(0.0); group.len()]; operands.len()];
        for (key, &k) in group {
            for (row, &code) in rows.iter_mut().zip(key) {
                row[k] = code;
            }
        }
        let operands: Vec<Row> = rows.into_iter().map(Row::from).collect();
        let width = group.len();
        let slot = self.draft.push(label, Kind::Map { op: op.clone(), operands }, width);
        let codes = elements
            .iter()
            .map(|e| match e {
                Element::Feature { position, .. } => e.code(slot, &places[position]),
                Element::Code(_) => e.code(slot, &[]),
            })
            .collect();
        Ok(Array::new(tensor(&shape, codes)?, dtype))
    }

    /// Softmax along an axis, or its logarithm.
    pub(super) fn softmax(&mut self, site: &Site<'g>, axis: i64, flatten: bool, log: bool) -> Result<Array> {
        let x = site.array(0)?;
        let axis = axis_of(axis, x.shape().len())?;
        let shape = x.shape().to_vec();
        if flatten {
            // All from the axis on is one line.
            let rows = shape[..axis].iter().product();
            let len = shape[axis..].iter().product();
            let flat = Array { codes: reshaped(x.codes, &[rows, len])?, ..x };
            let y = self.softmax_along(site, &flat, 1, log)?;
            return Ok(Array { codes: reshaped(y.codes, &shape)?, ..y });
        }
        self.softmax_along(site, &x, axis, log)
    }

    fn softmax_along(&mut self, site: &Site<'g>, x: &Array, axis: usize, log: bool) -> Result<Array> {
        self.along(site, x, axis, &mut |draft, label, x| {
            let width = x.len();
            draft.push(label, if log { Kind::LogSoftmax { x } } else { Kind::Softmax { x } }, width)
        })
    }

    /// `scale (x - mean) / sqrt(variance + epsilon) + bias` over the last axis.
    pub(super) fn layer_norm(&mut self, site: &Site<'g>, axis: i64, epsilon: f32) -> Result<Array> {
        let x = site.array(0)?;
        let rank = x.shape().len();
        if axis_of(axis, rank)? + 1 != rank {
            return other("it normalises over more than the features");
        }
        let width = x.shape()[rank - 1];
        let vector = |k: usize, name: &str| -> Result<Option<Vec<f32>>> {
            if !site.is_given(k) {
                return Ok(None);
            }
            match as_vector(site.known(k, name)?, width)? {
                Some(v) => Ok(Some(v)),
                None => other(format!("its {name} has not {width} elements")),
            }
        };
        let (scale, shift) = (vector(1, "scale")?, vector(2, "bias")?);
        self.along(site, &x, rank - 1, &mut |draft, label, x| {
            let width = x.len();
            draft.push(label, Kind::Norm { x, epsilon, scale: scale.clone(), shift: shift.clone() }, width)
        })
    }

    /// One-hot vectors of tokens, with zeros and ones.
    pub(super) fn one_hot(&mut self, site: &Site<'g>, axis: i64) -> Result<Array> {
        let x = site.array(0)?;
        let rank = x.shape().len() as i64;
        let depth = site.known(1, "depth")?.values()?.first().map_or(0, |&d| d as usize);
        let values = site.known(2, "values")?;
        let is_token = |c: &i64| Code(*c).slot().is_some_and(|s| *self.draft.kind(s) == Kind::Tokens);
        if values.values()? != [0.0, 1.0] || !x.codes().iter().all(is_token) {
            return other("it makes vectors other than one-hot vectors of tokens");
        }
        let slot = self.draft.push(&site.label, Kind::OneHot, depth);
        let positions = x.codes().iter().map(|&c| Code(c).position().unwrap_or(0));
        let codes = positions.flat_map(|p| (0..depth).map(move |f| Code::reference(slot, p, f).0)).collect();
        let mut shape = x.shape().to_vec();
        shape.push(depth);
        let axis = if axis < 0 { axis + rank + 1 } else { axis };
        let mut perm: Vec<i64> = (0..rank).collect();
        perm.insert(usize::try_from(axis).unwrap_or(0).min(rank as usize), rank);
        let codes = evaluate_one(&Op::Transpose { perm }, &[tensor(&shape, codes)?])?;
        Ok(Array::new(codes, values.dtype()))
    }

    /// One step per line along an axis; its result is as long as the line.
    pub(super) fn along(
        &mut self,
        site: &Site<'g>,
        x: &Array,
        axis: usize,
        step: &mut dyn FnMut(&mut Draft, &str, Row) -> SlotId,
    ) -> Result<Array> {
        let rank = x.shape().len();
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(axis, rank - 1);
        let last = evaluate_one(&Op::Transpose { perm: perm.clone() }, std::slice::from_ref(&x.codes))?;
        let len = x.shape()[axis];
        let lines: Vec<Code> = last.i64s().expect("codes").iter().map(|&c| Code(c)).collect();
        let codes = self.for_each_line(&lines, len, len, &mut |draft, row| {
            Ok(Line::Step(step(draft, &site.label, row)))
        })?;
        let codes = tensor(last.shape(), codes)?;
        Ok(Array::new(evaluate_one(&Op::Transpose { perm }, &[codes])?, x.dtype))
    }

    /// A reduction over features.
    pub(super) fn reduce(&mut self, site: &Site<'g>) -> Result<Array> {
        let Op::Reduce { kind, keep_dims, noop_with_empty_axes } = &site.node.op else {
            return other("it is not a reduction");
        };
        let x = site.array(0)?;
        let rank = x.shape().len();
        let axes: Vec<usize> = match site.is_given(1) {
            true => {
                let axes = site.known(1, "axes")?.values()?;
                axes.iter().map(|&a| axis_of(a as i64, rank)).collect::<Result<_>>()?
            }
            false => vec![],
        };
        if axes.is_empty() && *noop_with_empty_axes {
            return Ok(x);
        }
        let axes: Vec<usize> = if axes.is_empty() { (0..rank).collect() } else { axes };
        let kept: Vec<usize> = (0..rank).filter(|k| !axes.contains(k)).collect();
        let perm = kept.iter().chain(&axes).map(|&k| k as i64).collect();
        let last = evaluate_one(&Op::Transpose { perm }, std::slice::from_ref(&x.codes))?;
        let len: usize = axes.iter().map(|&k| x.shape()[k]).product();
        let lines: Vec<Code> = last.i64s().expect("codes").iter().map(|&c| Code(c)).collect();
        let size = |k: usize| if axes.contains(&k) { 1 } else { x.shape()[k] };
        let shape: Vec<usize> = match keep_dims {
            true => (0..rank).map(size).collect(),
            false => kept.iter().map(|&k| x.shape()[k]).collect(),
        };
        let distinct = || -> usize {
            let line = |l: &[i64]| l.iter().map(|&c| Code(c).anywhere()).collect::<Vec<Code>>();
            last.i64s().expect("codes").chunks(len.max(1)).map(line).collect::<HashSet<_>>().len()
        };
        let halves = match kind {
            Reduction::Max => Some(Binary::Max),
            Reduction::Min => Some(Binary::Min),
            // Several sums are elementwise steps, not a product for each.
            Reduction::Sum | Reduction::Mean if distinct() > 1 => Some(Binary::Add),
            _ => None,
        };
        if let Some(op) = halves.filter(|_| len > 0) {
            let lines = Array { codes: reshaped(last, &[x.codes().len() / len, len])?, ..x };
            let mut y = self.by_halves(&site.label, op, lines)?;
            if *kind == Reduction::Mean {
                let count = Array::new(tensor(&[], vec![Code::constant(len as f32).0])?, y.dtype);
                y = self.map(&site.label, &Op::Binary(Binary::Div), &[y, count])?;
            }
            return Ok(Array { codes: reshaped(y.codes, &shape)?, ..y });
        }
        let op = Op::Reduce { kind: *kind, keep_dims: false, noop_with_empty_axes: false };
        let codes = self.for_each_line(&lines, len, 1, &mut |draft, x| {
            if let Some(values) = constants(&x) {
                let values = Tensor::from_f32([len], values).map_err(wrong)?;
                let result = evaluate_one(&op, &[values])?;
                return Ok(Line::Values(result.to_f32().map_err(wrong)?.to_vec()));
            }
            Ok(Line::Step(draft.push(&site.label, Kind::Reduce { op: op.clone(), x }, 1)))
        })?;
        Ok(Array::new(tensor(&shape, codes)?, x.dtype))
    }

    /// The sum, the largest or the smallest element of each of `[lines, len]`, by halves.
    fn by_halves(&mut self, label: &str, op: Binary, mut x: Array) -> Result<Array> {
        while x.shape()[1] > 1 {
            let len = x.shape()[1];
            let part = |from: usize, to: usize| -> Result<Array> {
                let [from, to, axis] = [from, to, 1].map(|n| integers(&[n]));
                Ok(Array {
                    codes: evaluate_one(&Op::Slice, &[x.codes.clone(), from, to, axis])?,
                    ..x.clone()
                })
            };
            let half = len / 2;
            let mut y = self.map(label, &Op::Binary(op), &[part(0, half)?, part(half, 2 * half)?])?;
            if len % 2 == 1 {
                let rest = [y.codes.clone(), part(len - 1, len)?.codes];
                y.codes = evaluate_one(&Op::Concat { axis: 1 }, &rest)?;
            }
            x = y;
        }
        Ok(x)
    }
}

/// An element of an elementwise result.
enum Element {
    Code(Code),
    Feature { position: usize, feature: usize },
}

impl Element {
    fn code(&self, slot: SlotId, places: &[usize]) -> i64 {
        match *self {
            Element::Code(code) => code.0,
            Element::Feature { position, feature } => Code::reference(slot, position, places[feature]).0,
        }
    }
}

/// The result of constants.
fn folded(op: &Op, of: &[Code]) -> Result<Option<Code>> {
    let Some(values) = constants(of) else { return Ok(None) };
    let operands = values.iter().map(|&v| Tensor::from_f32([], vec![v]).expect("one")).collect();
    let result = evaluate_numbers(op, operands)?;
    Ok(result.to_f32().ok().and_then(|v| v.first().copied()).map(Code::constant))
}

/// The result where one operand is a neutral element.
fn neutral(op: &Op, of: &[Code]) -> Option<Code> {
    let [a, b] = of else { return None };
    let (x, y) = (a.as_constant(), b.as_constant());
    match op {
        Op::Binary(Binary::Add) if x == Some(0.0) => Some(*b),
        Op::Binary(Binary::Add | Binary::Sub) if y == Some(0.0) => Some(*a),
        Op::Binary(Binary::Mul) if x == Some(1.0) => Some(*b),
        Op::Binary(Binary::Mul | Binary::Div) if y == Some(1.0) => Some(*a),
        // Exporters write zeros of a computed shape so; what they multiply is finite.
        Op::Binary(Binary::Mul) if x == Some(0.0) || y == Some(0.0) => Some(Code::constant(0.0)),
        Op::Binary(Binary::Sub) if a == b => Some(Code::constant(0.0)),
        Op::Binary(Binary::Max | Binary::Min) if a == b => Some(*a),
        _ => None,
    }
}

pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize> {
    let k = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(k) {
        Ok(k) if k < rank => Ok(k),
        _ => other(format!("axis {axis} of {rank} axes")),
    }
}

/// The shape that all broadcast to.
fn broadcast(operands: &[Array]) -> Result<Vec<usize>> {
    let rank = operands.iter().map(|x| x.shape().len()).max().unwrap_or(0);
    let mut shape = vec![1; rank];
    for x in operands {
        for (k, &d) in x.shape().iter().rev().enumerate() {
            let to = &mut shape[rank - 1 - k];
            match (*to, d) {
                (1, d) => *to = d,
                (_, 1) => {}
                (a, b) if a == b => {}
                _ => {
                    let shapes: Vec<_> = operands.iter().map(Array::shape).collect();
                    return Err(Why::Order(format!("shapes that do not broadcast: {shapes:?}")));
                }
            }
        }
    }
    Ok(shape)
}

/// The last two axes, if all others are 1.
fn matrix(c: &Constant) -> Result<Constant> {
    match *c.shape() {
        [n] => c.clone().reshaped(&[n, 1]),
        [_, _] => Ok(c.clone()),
        [ref ones @ .., a, b] if ones.iter().all(|&n| n == 1) => c.clone().reshaped(&[a, b]),
        _ => other(format!("expected a matrix of weights, found shape {:?}", c.shape())),
    }
}

fn reshaped(t: Tensor, shape: &[usize]) -> Result<Tensor> {
    t.reshaped(shape).map_err(wrong)
}

pub(super) fn transposed(t: &Tensor) -> Result<Tensor> {
    evaluate_one(&Op::Transpose { perm: vec![1, 0] }, std::slice::from_ref(t))
}

fn swap_last(t: &Tensor) -> Result<Tensor> {
    let rank = t.shape().len();
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    perm.swap(rank - 1, rank - 2);
    evaluate_one(&Op::Transpose { perm }, std::slice::from_ref(t))
}

/// A bias of one element per output, however it is shaped.
fn as_vector(c: &Constant, outputs: usize) -> Result<Option<Vec<f32>>> {
    let is_row = c.shape().iter().rev().skip(1).all(|&d| d == 1) && c.shape().last() == Some(&outputs);
    let values = c.values()?;
    Ok(match values.len() {
        n if n == outputs && is_row => Some(values),
        1 => Some(vec![values[0]; outputs]),
        _ => None,
    })
}
