//! Constants: tensors, or integer codes with scales, which stay codes as long as possible.

use super::evaluate::{Result, evaluate_one, other};
use super::value::Why;
use crate::ir::{Activations, CodeFormat, Granularity, LinearMap, Onnx, Op, Part, Quantized};
use crate::tensor::{DType, Data, Tensor, TensorError};

/// A value that is known when the model is compiled.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Constant {
    Tensor(Tensor),
    Codes(Codes),
}

/// `scales (codes - zeros)`. Along each axis there is one scale for all, for each element, or for each block of elements.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Codes {
    /// i8.
    codes: Tensor,
    /// f32, of the same rank.
    scales: Tensor,
    /// i8, of the same shape as the scales.
    zeros: Option<Tensor>,
    format: CodeFormat,
    activations: Activations,
}

impl From<Tensor> for Constant {
    fn from(t: Tensor) -> Constant {
        Constant::Tensor(t)
    }
}

pub(super) fn wrong(e: TensorError) -> Why {
    Why::Other(e.to_string())
}

impl Constant {
    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Constant::Tensor(t) => t.shape(),
            Constant::Codes(c) => c.codes.shape(),
        }
    }

    pub(super) fn dtype(&self) -> DType {
        match self {
            Constant::Tensor(t) => t.dtype(),
            Constant::Codes(_) => DType::F32,
        }
    }

    /// The numbers.
    pub(super) fn dense(&self) -> Result<Tensor> {
        match self {
            Constant::Tensor(t) => Ok(t.clone()),
            Constant::Codes(c) => c.dense(),
        }
    }

    /// The numbers as f32.
    pub(super) fn values(&self) -> Result<Vec<f32>> {
        Ok(self.dense()?.to_f32().map_err(wrong)?.to_vec())
    }

    /// What `DequantizeLinear` makes of codes: one scale, one for each element of an axis, or one for each block of an axis.
    pub(super) fn dequantized(
        codes: &Tensor,
        scales: &Tensor,
        zeros: Option<&Tensor>,
        axis: usize,
    ) -> Result<Option<Constant>> {
        let offset = match codes.dtype() {
            DType::I8 => 0,
            DType::U8 => 128,
            _ => return Ok(None),
        };
        // Codes are most of a model's bytes: they are shared where they are as they should be, and never copied to a wider type.
        let as_i8 = |t: &Tensor| -> Result<Tensor> {
            let values = match t.data() {
                Data::I8(_) if offset == 0 => return Ok(t.clone()),
                Data::U8(v) => v.iter().map(|&x| (i32::from(x) - offset) as i8).collect(),
                _ => t.to_f32().map_err(wrong)?.iter().map(|&x| (x as i32 - offset) as i8).collect(),
            };
            Tensor::from_i8(t.shape(), values).map_err(wrong)
        };
        let rank = codes.shape().len();
        let mut shape = vec![1; rank];
        match scales.shape() {
            [] | [1] => {}
            [n] if axis < rank && codes.shape()[axis] == *n => shape[axis] = *n,
            s if s.len() == rank => shape = s.to_vec(),
            _ => return Ok(None),
        }
        // The last of several blocks may be shorter in a file; here all are equal.
        let fits = shape.iter().zip(codes.shape()).all(|(&s, &d)| s > 0 && d % s == 0);
        if !fits {
            return Ok(None);
        }
        let zeros = match zeros {
            Some(z) => Some(as_i8(z)?),
            None if offset == 0 => None,
            None => Some(Tensor::from_i8(shape.clone(), vec![-128; shape.iter().product()]).map_err(wrong)?),
        };
        let is_symmetric = |z: &Tensor| z.i8s().is_ok_and(|z| z.iter().all(|&z| z == 0));
        let zeros = zeros.filter(|z| !is_symmetric(z));
        let zeros = match zeros {
            Some(z) if z.len() == 1 => {
                let z = z.i8s().map_err(wrong)?[0];
                Some(Tensor::from_i8(shape.clone(), vec![z; shape.iter().product()]).map_err(wrong)?)
            }
            Some(z) => Some(z.reshaped(shape.clone()).map_err(wrong)?),
            None => None,
        };
        let scales = evaluate_one(&Op::Cast { to: DType::F32 }, std::slice::from_ref(scales))?;
        let codes = as_i8(codes)?;
        // The narrowest format that has all codes: that of a file's type, or as good as it.
        let all = codes.i8s().map_err(wrong)?.iter().chain(zeros.iter().flat_map(|z| z.i8s().unwrap_or(&[])));
        let (low, high) = all.fold((0, 0), |(low, high), &c| (c.min(low), c.max(high)));
        let holds = |f: &CodeFormat| f.range().contains(&low) && f.range().contains(&high);
        let format = CodeFormat::ALL.into_iter().find(holds).unwrap_or(CodeFormat::Int8);
        let scales = scales.reshaped(shape).map_err(wrong)?;
        Ok(Some(Constant::Codes(Codes { codes, scales, zeros, format, activations: Activations::F32 })))
    }

    /// What these codes' scales must be multiplied with to be those of the same codes in another constant.
    pub(super) fn ratio(&self, other: &Constant) -> Option<f32> {
        let (Constant::Codes(a), Constant::Codes(b)) = (self, other) else { return None };
        let (from, to) = (a.scales.f32s().ok()?, b.scales.f32s().ok()?);
        let ratio = to.first()? / from.first()?;
        let is_same = a.codes == b.codes && a.zeros == b.zeros && a.scales.shape() == b.scales.shape();
        (is_same && from.iter().zip(to).all(|(x, y)| x * ratio == *y)).then_some(ratio)
    }

    /// With 8-bit activations in products.
    pub(super) fn with_int8_activations(mut self) -> Constant {
        if let Constant::Codes(c) = &mut self {
            c.activations = Activations::Int8;
        }
        self
    }

    /// What an operator that moves elements makes of it, still as codes; none if that is not known.
    pub(super) fn moved(&self, op: &Op, parameters: &[Option<Tensor>]) -> Result<Option<Constant>> {
        let Constant::Codes(c) = self else { return Ok(None) };
        let run = |t: &Tensor| {
            let mut operands = vec![Some(t.clone())];
            operands.extend(parameters.iter().cloned());
            super::evaluate::evaluate(op, &operands).map(|mut r| r.swap_remove(0))
        };
        let codes = run(&c.codes)?;
        let each = |f: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<Option<Constant>> {
            let (scales, zeros) = (f(&c.scales)?, c.zeros.as_ref().map(f).transpose()?);
            Ok(Some(Constant::Codes(Codes { codes: codes.clone(), scales, zeros, ..c.clone() })))
        };
        match op {
            Op::Identity => Ok(Some(self.clone())),
            Op::Transpose { .. } => each(&run),
            Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze | Op::Flatten { .. } => {
                // Axes of one element come and go; all others stay.
                let kept = |shape: &[usize]| shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
                if kept(codes.shape()) != kept(c.codes.shape()) {
                    return Ok(None);
                }
                let axes = c.codes.shape().iter().zip(c.scales.shape()).filter(|(d, _)| **d != 1);
                let mut axes = axes.map(|(_, s)| *s);
                let shape: Vec<usize> = codes
                    .shape()
                    .iter()
                    .map(|&d| if d == 1 { 1 } else { axes.next().unwrap_or(1) })
                    .collect();
                each(&|t| t.clone().reshaped(shape.clone()).map_err(wrong))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn reshaped(self, shape: &[usize]) -> Result<Constant> {
        let to = super::evaluate::integers(shape);
        if let Some(moved) = self.moved(&Op::Reshape { allow_zero: true }, &[Some(to)])? {
            return Ok(moved);
        }
        Ok(self.dense()?.reshaped(shape).map_err(wrong)?.into())
    }

    pub(super) fn transposed(&self, perm: Vec<i64>) -> Result<Constant> {
        let op = Op::Transpose { perm };
        match self.moved(&op, &[])? {
            Some(moved) => Ok(moved),
            None => Ok(evaluate_one(&op, &[self.dense()?])?.into()),
        }
    }

    /// Some elements along an axis.
    pub(super) fn picked(&self, axis: usize, kept: &[usize]) -> Result<Constant> {
        let indices = kept.iter().map(|&k| k as i64).collect();
        let indices = Tensor::from_i64([kept.len()], indices).map_err(wrong)?;
        let pick =
            |t: &Tensor| evaluate_one(&Op::Gather { axis: axis as i64 }, &[t.clone(), indices.clone()]);
        if let Constant::Codes(c) = self {
            let all = c.scales.shape()[axis] == c.codes.shape()[axis];
            if all || c.scales.shape()[axis] == 1 {
                let of = |t: &Tensor| if all && c.codes.shape()[axis] != 1 { pick(t) } else { Ok(t.clone()) };
                let (scales, zeros) = (of(&c.scales)?, c.zeros.as_ref().map(of).transpose()?);
                return Ok(Constant::Codes(Codes { codes: pick(&c.codes)?, scales, zeros, ..c.clone() }));
            }
        }
        Ok(pick(&self.dense()?)?.into())
    }

    /// One after the other along the first axis.
    pub(super) fn stacked(parts: &[Constant]) -> Result<Constant> {
        let codes: Option<Vec<&Codes>> = parts
            .iter()
            .map(|p| match p {
                Constant::Codes(c) if c.zeros.is_none() => Some(c),
                _ => None,
            })
            .collect();
        let stack = |all: Vec<Tensor>| evaluate_one(&Op::Concat { axis: 0 }, &all);
        if let Some(codes) = codes
            && codes.iter().all(|c| {
                c.scales.shape()[1..] == codes[0].scales.shape()[1..] && c.activations == codes[0].activations
            })
        {
            let scales = codes.iter().map(|c| c.scales_of_rows()).collect::<Result<_>>()?;
            let all = codes.iter().map(|c| c.codes.clone()).collect();
            return Ok(Constant::Codes(Codes {
                codes: stack(all)?,
                scales: stack(scales)?,
                ..codes[0].clone()
            }));
        }
        let all = parts.iter().map(|p| p.dense()).collect::<Result<_>>()?;
        Ok(stack(all)?.into())
    }

    /// With each row multiplied by a factor.
    pub(super) fn scaled(self, factors: &[f32]) -> Result<Constant> {
        if factors.iter().all(|&f| f == 1.0) {
            return Ok(self);
        }
        let mut shape = vec![1; self.shape().len()];
        shape[0] = factors.len();
        let factors = Tensor::from_f32(shape, factors.to_vec()).map_err(wrong)?;
        let times = |t: Tensor| {
            let t = evaluate_one(&Op::Cast { to: DType::F32 }, &[t])?;
            evaluate_one(&Op::Binary(crate::ir::Binary::Mul), &[t, factors.clone()])
        };
        if let Constant::Codes(c) = self {
            let zeros = c.zeros.as_ref().map(|z| c.of_rows(z)).transpose()?;
            return Ok(Constant::Codes(Codes { scales: times(c.scales_of_rows()?)?, zeros, ..c }));
        }
        Ok(times(self.dense()?)?.into())
    }

    /// A matrix as a map; a constant of another rank as a dense one.
    pub(super) fn into_map(self) -> Result<Part> {
        if let Constant::Codes(c) = &self
            && let [_, inputs] = *c.codes.shape()
        {
            let groups = c.scales.shape()[1];
            let granularity = match groups {
                1 => Some(Granularity::Row),
                n if n < inputs => Some(Granularity::Group(inputs.div_ceil(n))),
                _ => None,
            };
            if let Some(granularity) = granularity {
                let zeros = c.zeros.as_ref().map(|z| c.of_rows(z)).transpose()?;
                let made = Quantized::new(c.format, granularity, c.codes.clone(), c.scales_of_rows()?, zeros);
                if let Ok(q) = made {
                    return Ok(LinearMap::Quantized(q.with_activations(c.activations)).into());
                }
            }
        }
        let t = self.dense()?;
        let t = if t.dtype() == DType::F32 { t } else { evaluate_one(&Op::Cast { to: DType::F32 }, &[t])? };
        Ok(t.into())
    }
}

impl Codes {
    /// Scales for each element of the first axis.
    fn scales_of_rows(&self) -> Result<Tensor> {
        self.of_rows(&self.scales)
    }

    fn of_rows(&self, t: &Tensor) -> Result<Tensor> {
        let mut shape = t.shape().to_vec();
        shape[0] = self.codes.shape()[0];
        evaluate_one(&Op::Expand, &[t.clone(), super::evaluate::integers(&shape)])
    }

    fn dense(&self) -> Result<Tensor> {
        let (shape, blocks) = (self.codes.shape(), self.scales.shape());
        let (codes, scales) = (self.codes.i8s().map_err(wrong)?, self.scales.f32s().map_err(wrong)?);
        let zeros = self.zeros.as_ref().map(|z| z.i8s()).transpose().map_err(wrong)?;
        let mut out = Vec::with_capacity(codes.len());
        let mut at = vec![0usize; shape.len()];
        for &code in codes {
            let mut scale = 0;
            for (k, &i) in at.iter().enumerate() {
                scale = scale * blocks[k] + i / shape[k].div_ceil(blocks[k]);
            }
            let zero = zeros.map_or(0, |z| z[scale].into());
            out.push((i32::from(code) - zero) as f32 * scales[scale]);
            for k in (0..shape.len()).rev() {
                at[k] += 1;
                if at[k] < shape[k] {
                    break;
                }
                at[k] = 0;
            }
        }
        Tensor::from_f32(shape, out).map_err(wrong)
    }
}

/// A constant that an operator makes of integers and scales; none if it is another operator.
pub(super) fn decoded(op: &Op, operands: &[Option<Tensor>]) -> Result<Option<Constant>> {
    let given = |k: usize| operands.get(k).and_then(Option::as_ref);
    match op {
        Op::Onnx(Onnx::DequantizeLinear { axis, .. }) => {
            let (Some(codes), Some(scales)) = (given(0), given(1)) else {
                return other("an operand is missing");
            };
            let rank = codes.shape().len() as i64;
            let axis = if *axis < 0 { axis + rank } else { *axis };
            Constant::dequantized(codes, scales, given(2), axis.try_into().unwrap_or(usize::MAX))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes of `scales (codes - zeros)`, with one scale.
    fn codes_of(codes: &Tensor) -> Tensor {
        let scale = Tensor::from_f32([], vec![0.5]).unwrap();
        match Constant::dequantized(codes, &scale, None, 1) {
            Ok(Some(Constant::Codes(c))) => c.codes,
            _ => panic!("no codes"),
        }
    }

    #[test]
    fn signed_codes_are_shared_and_unsigned_ones_shifted() {
        let signed = Tensor::from_i8([2, 2], vec![-128, -1, 0, 127]).unwrap();
        let unsigned = Tensor::from_u8([2, 2], vec![0, 127, 128, 255]).unwrap();
        assert_eq!(codes_of(&signed).i8s().unwrap().as_ptr(), signed.i8s().unwrap().as_ptr());
        assert_eq!(codes_of(&unsigned), signed);
    }
}
