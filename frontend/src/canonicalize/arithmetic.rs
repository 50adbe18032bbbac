//! MatMul, Gemm, elementwise operators and softmax.

use super::draft::{Argument, Kind};
use super::error::CanonicalizeError;
use super::evaluate::{Evaluator, Result, Site};
use super::fold;
use super::value::{Abstract, Part, Sequence};
use crate::ir::{Binary, Function};
use crate::tensor::Tensor;

impl<'g> Evaluator<'g> {
    /// Operand `k` as a sequence: the result of a step, or the last hidden state, which is the last step of an LSTM's result.
    fn sequence(&self, site: &Site<'_>, k: usize) -> Result<Sequence> {
        match site.operand(k) {
            Some(Abstract::Sequence(Sequence { normalised: Some(name), .. })) => site
                .unsupported(format!("it computes with the result of {name}, which must be the last node")),
            Some(Abstract::Sequence(s)) => Ok(s.clone()),
            Some(Abstract::Finals(f)) => match f.parts[..] {
                [(step, Part::Hidden)] => {
                    let features = self.hidden(step);
                    Ok(Sequence { step, layout: f.layout.clone(), features, last: true, normalised: None })
                }
                _ => site.unsupported("it computes with states after the last step"),
            },
            Some(other) => site.unsupported(format!("it computes with {}", self.describe(other))),
            None => site.unsupported("an operand is missing"),
        }
    }

    fn hidden(&self, step: super::draft::StepId) -> usize {
        match &self.draft.step(step).kind {
            Kind::Cell(c) => c.hidden,
            _ => 0,
        }
    }

    fn weight(&self, site: &Site<'_>, k: usize, operand: &'static str) -> Result<Tensor> {
        match self.constant(site, k) {
            Some(t) => Ok(t),
            None => Err(CanonicalizeError::NotConstant { node: site.label.clone(), operand }),
        }
    }

    fn wrong_shape<T>(
        &self,
        site: &Site<'_>,
        operand: &'static str,
        expected: String,
        found: &Tensor,
    ) -> Result<T> {
        let (node, found) = (site.label.clone(), found.shape().to_vec());
        Err(CanonicalizeError::WeightShape { node, operand, expected, found })
    }

    pub(super) fn mat_mul(&mut self, site: &Site<'g>) -> Result<Abstract> {
        let x = self.sequence(site, 0)?;
        let weight = self.weight(site, 1, "weight")?;
        self.linear(site, x, weight, false, None)
    }

    pub(super) fn gemm(
        &mut self,
        site: &Site<'g>,
        factors: [f32; 2],
        transpose: [bool; 2],
    ) -> Result<Abstract> {
        let x = self.sequence(site, 0)?;
        if transpose[0] {
            return site.wrong_layout("features last (transA is set)", &x.layout);
        }
        let weight = self.weight(site, 1, "weight")?;
        let outputs = weight.shape().get(usize::from(!transpose[1])).copied().unwrap_or(0);
        let weight = self.scaled(site, weight, factors[0])?;
        let bias = match site.operand(2) {
            None => None,
            Some(_) => {
                let bias = self.weight(site, 2, "bias")?;
                match as_vector(&bias, outputs) {
                    Some(b) => Some(self.scaled(site, b, factors[1])?),
                    None => return self.wrong_shape(site, "bias", format!("[{outputs}]"), &bias),
                }
            }
        };
        self.linear(site, x, weight, transpose[1], bias)
    }

    fn scaled(&self, site: &Site<'_>, t: Tensor, factor: f32) -> Result<Tensor> {
        if factor == 1.0 {
            return Ok(t);
        }
        let values = t.to_f32().map(|v| v.iter().map(|x| x * factor).collect());
        values
            .and_then(|v| Tensor::from_f32(t.shape().to_vec(), v))
            .map_err(|source| CanonicalizeError::Tensor { node: site.label.clone(), source })
    }

    /// `weight`: `[in, out]`, or `[out, in]` if `transposed`.
    fn linear(
        &mut self,
        site: &Site<'g>,
        x: Sequence,
        weight: Tensor,
        transposed: bool,
        bias: Option<Tensor>,
    ) -> Result<Abstract> {
        if !x.layout.ends_in_features() {
            return site.wrong_layout("features last", &x.layout);
        }
        let shape = weight.shape().to_vec();
        let matrix = match shape[..] {
            [ref ones @ .., a, b] if ones.iter().all(|&n| n == 1) => weight.reshaped([a, b]).ok(),
            _ => None,
        };
        let Some(matrix) = matrix else {
            return Err(CanonicalizeError::WeightShape {
                node: site.label.clone(),
                operand: "weight",
                expected: format!("[{}, out]", x.features),
                found: shape,
            });
        };
        let fold = |why| CanonicalizeError::Fold { node: site.label.clone(), why };
        let weight = if transposed { matrix } else { fold::transposed(matrix).map_err(fold)? };
        let [features, inputs] = [weight.shape()[0], weight.shape()[1]];
        if inputs != x.features {
            return self.wrong_shape(site, "weight", format!("{} inputs", x.features), &weight);
        }
        let step = self.draft.push(&site.label, Kind::Linear { x: x.step, weight, bias });
        let layout = x.layout.replace_features(features);
        Ok(Abstract::Sequence(Sequence { step, layout, features, ..x }))
    }

    pub(super) fn unary(&mut self, site: &Site<'g>, function: Function) -> Result<Abstract> {
        let x = self.sequence(site, 0)?;
        let step = self.draft.push(&site.label, Kind::Unary { function, x: x.step });
        Ok(Abstract::Sequence(Sequence { step, ..x }))
    }

    pub(super) fn binary(&mut self, site: &Site<'g>, op: Binary) -> Result<Abstract> {
        let constants = [self.constant(site, 0), self.constant(site, 1)];
        let (x, operands) = match constants {
            [None, None] => {
                let (a, b) = (self.sequence(site, 0)?, self.sequence(site, 1)?);
                if a.layout != b.layout || a.last != b.last {
                    return site
                        .wrong_layout(&format!("axes {}, as of the first operand", a.layout), &b.layout);
                }
                let operands = [Argument::Step(a.step), Argument::Step(b.step)];
                (a, operands)
            }
            [constant, other] => {
                let first = constant.is_some();
                let Some(constant) = constant.or(other) else {
                    return site.unsupported("an operand is missing");
                };
                let x = self.sequence(site, usize::from(first))?;
                let constant = self.broadcast(site, &x, constant)?;
                if let Some(biased) = self.bias(site, op, &x, &constant) {
                    return Ok(biased);
                }
                let operands = match first {
                    true => [Argument::Constant(constant), Argument::Step(x.step)],
                    false => [Argument::Step(x.step), Argument::Constant(constant)],
                };
                (x, operands)
            }
        };
        let step = self.draft.push(&site.label, Kind::Binary { op, operands });
        Ok(Abstract::Sequence(Sequence { step, ..x }))
    }

    /// A constant that is combined with a sequence, as one number or a vector over its features.
    fn broadcast(&self, site: &Site<'_>, x: &Sequence, constant: Tensor) -> Result<Tensor> {
        if constant.len() == 1 {
            return match constant.clone().reshaped(Vec::new()) {
                Ok(t) => Ok(t),
                Err(source) => Err(CanonicalizeError::Tensor { node: site.label.clone(), source }),
            };
        }
        if !x.layout.ends_in_features() {
            return site.wrong_layout("features last", &x.layout);
        }
        match as_vector(&constant, x.features) {
            Some(t) => Ok(t),
            None => self.wrong_shape(site, "constant", format!("one number or [{}]", x.features), &constant),
        }
    }

    /// `Add` of a vector to a product without a bias.
    fn bias(&mut self, site: &Site<'g>, op: Binary, x: &Sequence, constant: &Tensor) -> Option<Abstract> {
        if op != Binary::Add || constant.shape() != [x.features] {
            return None;
        }
        let Kind::Linear { x: from, weight, bias: None } = &self.draft.step(x.step).kind else {
            return None;
        };
        let kind = Kind::Linear { x: *from, weight: weight.clone(), bias: Some(constant.clone()) };
        let step = self.draft.push(&site.label, kind);
        Some(Abstract::Sequence(Sequence { step, ..x.clone() }))
    }

    /// Dropped: perplexity is defined on the logits, and both softmaxes preserve their order and differences.
    pub(super) fn softmax(&mut self, site: &Site<'g>, axis: i64) -> Result<Abstract> {
        let x = self.sequence(site, 0)?;
        if !x.layout.ends_in_features() || x.layout.axis(axis) != Some(x.layout.rank() - 1) {
            return site.wrong_layout("a softmax over the features", &x.layout);
        }
        Ok(Abstract::Sequence(Sequence { normalised: Some(site.node.op.name()), ..x }))
    }
}

/// A constant of shape `[features]`, or with leading axes of size 1.
fn as_vector(t: &Tensor, features: usize) -> Option<Tensor> {
    match t.shape() {
        [ones @ .., n] if *n == features && ones.iter().all(|&n| n == 1) => {
            t.clone().reshaped([features]).ok()
        }
        _ => None,
    }
}
