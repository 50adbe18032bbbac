//! Operators that language-model form does not have, by those that it has.

use super::draft::{Draft, Kind, Term};
use super::value::{Code, Row, constants, whole};
use crate::ir::{Binary, Function, Onnx, Op, Reduction};
use crate::tensor::Tensor;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// A sum over features as a product with ones.
pub(super) fn summed(draft: &mut Draft, label: &str, op: &Op, x: &Row) -> Option<Row> {
    let Op::Reduce { kind, .. } = op else { return None };
    let n = x.len();
    let (squared, factor, root) = match kind {
        Reduction::Sum => (false, 1.0, false),
        Reduction::Mean => (false, 1.0 / n as f32, false),
        Reduction::SumSquare => (true, 1.0, false),
        Reduction::L2 => (true, 1.0, true),
        _ => return None,
    };
    let x = match squared {
        true => {
            let kind = Kind::Map { op: Op::Binary(Binary::Mul), operands: vec![x.clone(), x.clone()] };
            let slot = draft.push(label, kind, n);
            draft.row(slot)
        }
        false => x.clone(),
    };
    let weight = Tensor::from_f32([1, n], vec![factor; n]).ok()?.into();
    let kind = Kind::Apply { width: 1, terms: vec![Term { x, weight }], bias: None };
    let mut slot = draft.push(label, kind, 1);
    if root {
        let kind = Kind::Map { op: Op::Unary(Function::Sqrt), operands: vec![draft.row(slot)] };
        slot = draft.push(label, kind, 1);
    }
    Some(draft.row(slot))
}

/// Elementwise operators that language-model form does not have, by those that it has.
pub(super) fn spelled_out(draft: &mut Draft, label: &str, op: &Op, operands: &[Row]) -> Option<Row> {
    let width = operands[0].len();
    let all = |x: f32| -> Row { vec![Code::constant(x); width].into() };
    let x = operands[0].clone();
    // The logarithm of sigmoid x is -softplus(-x).
    let of_sigmoid = match whole(&x, draft).map(|s| draft.kind(s)) {
        Some(Kind::Map { op: Op::Unary(Function::Sigmoid), operands }) => Some(operands[0].clone()),
        _ => None,
    };
    let mut map = |op: Op, operands: Vec<Row>| {
        let slot = draft.push(label, Kind::Map { op, operands }, width);
        draft.row(slot)
    };
    Some(match op {
        Op::Onnx(Onnx::Neg {}) => map(Op::Binary(Binary::Sub), vec![all(0.0), x]),
        Op::Onnx(Onnx::Abs {}) => {
            let negative = map(Op::Binary(Binary::Sub), vec![all(0.0), x.clone()]);
            map(Op::Binary(Binary::Max), vec![x, negative])
        }
        Op::Onnx(Onnx::Reciprocal {}) => map(Op::Binary(Binary::Div), vec![all(1.0), x]),
        Op::Onnx(Onnx::Pow {}) => match constants(&operands[1])?.first() {
            Some(&2.0) => map(Op::Binary(Binary::Mul), vec![x.clone(), x]),
            Some(&3.0) => {
                let square = map(Op::Binary(Binary::Mul), vec![x.clone(), x.clone()]);
                map(Op::Binary(Binary::Mul), vec![square, x])
            }
            Some(&-1.0) => map(Op::Binary(Binary::Div), vec![all(1.0), x]),
            _ => return None,
        },
        Op::Onnx(Onnx::Erf {}) => map(Op::Unary(Function::Erf), vec![x]),
        Op::Onnx(Onnx::Sqrt {}) => map(Op::Unary(Function::Sqrt), vec![x]),
        Op::Onnx(Onnx::Gelu { approximate }) if approximate != "tanh" => {
            let scaled = map(Op::Binary(Binary::Mul), vec![all(FRAC_1_SQRT_2), x.clone()]);
            let erf = map(Op::Unary(Function::Erf), vec![scaled]);
            let sum = map(Op::Binary(Binary::Add), vec![all(1.0), erf]);
            let half = map(Op::Binary(Binary::Mul), vec![all(0.5), x]);
            map(Op::Binary(Binary::Mul), vec![half, sum])
        }
        Op::Onnx(Onnx::Log {}) => {
            let negative = map(Op::Binary(Binary::Sub), vec![all(0.0), of_sigmoid?]);
            let y = map(Op::Unary(Function::Softplus), vec![negative]);
            map(Op::Binary(Binary::Sub), vec![all(0.0), y])
        }
        Op::Onnx(Onnx::HardSwish {}) => {
            let gate = map(Op::Unary(Function::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }), vec![x.clone()]);
            map(Op::Binary(Binary::Mul), vec![x, gate])
        }
        Op::Onnx(Onnx::Mish {}) => {
            let gate = map(Op::Unary(Function::Softplus), vec![x.clone()]);
            let gate = map(Op::Unary(Function::Tanh), vec![gate]);
            map(Op::Binary(Binary::Mul), vec![x, gate])
        }
        Op::Onnx(Onnx::Selu { alpha, gamma }) => {
            let y = map(Op::Unary(Function::Elu { alpha: *alpha }), vec![x]);
            map(Op::Binary(Binary::Mul), vec![all(*gamma), y])
        }
        Op::Onnx(Onnx::Celu { alpha }) => {
            let y = map(Op::Binary(Binary::Div), vec![x, all(*alpha)]);
            let y = map(Op::Unary(Function::Elu { alpha: 1.0 }), vec![y]);
            map(Op::Binary(Binary::Mul), vec![all(*alpha), y])
        }
        Op::Onnx(Onnx::Clip {}) => {
            let mut y = x;
            for (bound, op) in operands[1..].iter().zip([Binary::Max, Binary::Min]) {
                y = map(Op::Binary(op), vec![bound.clone(), y]);
            }
            y
        }
        Op::Onnx(Onnx::Gelu { approximate }) if approximate == "tanh" => {
            let square = map(Op::Binary(Binary::Mul), vec![x.clone(), x.clone()]);
            let cube = map(Op::Binary(Binary::Mul), vec![square, x.clone()]);
            let cube = map(Op::Binary(Binary::Mul), vec![all(0.044_715), cube]);
            let sum = map(Op::Binary(Binary::Add), vec![x.clone(), cube]);
            let scaled = map(Op::Binary(Binary::Mul), vec![all(FRAC_2_SQRT_PI * FRAC_1_SQRT_2), sum]);
            let t = map(Op::Unary(Function::Tanh), vec![scaled]);
            let t = map(Op::Binary(Binary::Add), vec![all(1.0), t]);
            let half = map(Op::Binary(Binary::Mul), vec![all(0.5), x]);
            map(Op::Binary(Binary::Mul), vec![half, t])
        }
        Op::Onnx(Onnx::Swish { alpha }) => {
            let scaled = if *alpha == 1.0 {
                x.clone()
            } else {
                map(Op::Binary(Binary::Mul), vec![all(*alpha), x.clone()])
            };
            let s = map(Op::Unary(Function::Sigmoid), vec![scaled]);
            map(Op::Binary(Binary::Mul), vec![x, s])
        }
        _ => return None,
    })
}
