//! Operators that language-model form does not have, by those that it has.

use super::draft::{Draft, Kind, Term};
use super::value::{Code, Row, constants, whole};
use crate::ir::{Binary, Function, Onnx, Op, Reduction};
use crate::tensor::Tensor;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// A step that computes a row.
fn push(draft: &mut Draft, label: &str, kind: Kind, width: usize) -> Row {
    let slot = draft.push(label, kind, width);
    draft.row(slot)
}

/// A sum over features as a product with ones.
pub(super) fn summed(draft: &mut Draft, label: &str, op: &Op, x: &Row) -> Option<Row> {
    let Op::Reduce { kind, .. } = op else { return None };
    let n = x.len();
    let mut map = |op: Op, operands: Vec<Row>| {
        let width = operands[0].len();
        push(draft, label, Kind::Map { op, operands }, width)
    };
    let (x, factor) = match kind {
        Reduction::Sum | Reduction::LogSum => (x.clone(), 1.0),
        Reduction::Mean => (x.clone(), 1.0 / n as f32),
        Reduction::SumSquare | Reduction::L2 => {
            (map(Op::Binary(Binary::Mul), vec![x.clone(), x.clone()]), 1.0)
        }
        Reduction::L1 => {
            let negative = map(Op::Binary(Binary::Sub), vec![vec![Code::constant(0.0); n].into(), x.clone()]);
            (map(Op::Binary(Binary::Max), vec![x.clone(), negative]), 1.0)
        }
        // What the log-softmax subtracts.
        Reduction::LogSumExp => {
            let y = push(draft, label, Kind::LogSoftmax { x: x.clone() }, n);
            let operands = vec![[x[0]].into(), [y[0]].into()];
            return Some(push(draft, label, Kind::Map { op: Op::Binary(Binary::Sub), operands }, 1));
        }
        _ => return None,
    };
    let weight = Tensor::from_f32([1, n], vec![factor; n]).ok()?.into();
    let y = push(draft, label, Kind::Apply { width: 1, terms: vec![Term { x, weight }], bias: None }, 1);
    let of_sum = match kind {
        Reduction::L2 => Function::Sqrt,
        Reduction::LogSum => Function::Log,
        _ => return Some(y),
    };
    Some(push(draft, label, Kind::Map { op: Op::Unary(of_sum), operands: vec![y] }, 1))
}

/// A softmax by its logarithm.
pub(super) fn softmax(draft: &mut Draft, label: &str, x: &Row) -> Row {
    let y = push(draft, label, Kind::LogSoftmax { x: x.clone() }, x.len());
    push(draft, label, Kind::Map { op: Op::Unary(Function::Exp), operands: vec![y] }, x.len())
}

/// The numbers that are compared by a row of ones, where the first is less than the second, and zeros; or the other way round.
fn compared(draft: &Draft, row: &Row) -> Option<(Row, Row, bool)> {
    let Kind::Map { op: Op::Select, operands } = draft.kind(whole(row, draft)?) else { return None };
    let [a, b, then, otherwise] = &operands[..] else { return None };
    let is = |row: &Row, x: f32| row.iter().all(|c| c.as_constant() == Some(x));
    match (is(then, 1.0) && is(otherwise, 0.0), is(then, 0.0) && is(otherwise, 1.0)) {
        (true, _) => Some((a.clone(), b.clone(), true)),
        (_, true) => Some((a.clone(), b.clone(), false)),
        _ => None,
    }
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
    let condition = match op {
        Op::Onnx(Onnx::Where {}) => compared(draft, &x),
        _ => None,
    };
    let mut map = |op: Op, operands: Vec<Row>| push(draft, label, Kind::Map { op, operands }, width);
    let mut select = |less: [&Row; 2], then: &Row, otherwise: &Row| {
        map(Op::Select, vec![less[0].clone(), less[1].clone(), then.clone(), otherwise.clone()])
    };
    match (op, operands) {
        (Op::Onnx(Onnx::Where {}), [x, then, otherwise]) => {
            return Some(match condition {
                Some((a, b, true)) => select([&a, &b], then, otherwise),
                Some((a, b, false)) => select([&a, &b], otherwise, then),
                None => select([&all(0.5), x], then, otherwise),
            });
        }
        (Op::Onnx(Onnx::Less {}), [a, b]) | (Op::Onnx(Onnx::Greater {}), [b, a]) => {
            return Some(select([a, b], &all(1.0), &all(0.0)));
        }
        (Op::Onnx(Onnx::GreaterOrEqual {}), [a, b]) | (Op::Onnx(Onnx::LessOrEqual {}), [b, a]) => {
            return Some(select([a, b], &all(0.0), &all(1.0)));
        }
        (Op::Onnx(Onnx::Equal {}), [a, b]) => {
            let not_above = select([b, a], &all(0.0), &all(1.0));
            return Some(select([a, b], &all(0.0), &not_above));
        }
        (Op::Onnx(Onnx::Sign {}), [x]) => {
            let positive = select([&all(0.0), x], &all(1.0), &all(0.0));
            return Some(select([x, &all(0.0)], &all(-1.0), &positive));
        }
        _ => {}
    }
    Some(match op {
        Op::Onnx(Onnx::Neg {}) => map(Op::Binary(Binary::Sub), vec![all(0.0), x]),
        Op::Onnx(Onnx::Abs {}) => {
            let negative = map(Op::Binary(Binary::Sub), vec![all(0.0), x.clone()]);
            map(Op::Binary(Binary::Max), vec![x, negative])
        }
        Op::Onnx(Onnx::Reciprocal {}) => map(Op::Binary(Binary::Div), vec![all(1.0), x]),
        Op::Onnx(Onnx::Pow {}) => {
            let exponents = constants(&operands[1])?;
            let first = *exponents.first()?;
            let all_equal = exponents.iter().all(|&p| p == first);
            match first {
                2.0 if all_equal => map(Op::Binary(Binary::Mul), vec![x.clone(), x]),
                3.0 if all_equal => {
                    let square = map(Op::Binary(Binary::Mul), vec![x.clone(), x.clone()]);
                    map(Op::Binary(Binary::Mul), vec![square, x])
                }
                -1.0 if all_equal => map(Op::Binary(Binary::Div), vec![all(1.0), x]),
                0.5 if all_equal => map(Op::Unary(Function::Sqrt), vec![x]),
                -0.5 if all_equal => {
                    let root = map(Op::Unary(Function::Sqrt), vec![x]);
                    map(Op::Binary(Binary::Div), vec![all(1.0), root])
                }
                // Of negative numbers it is NaN, as the logarithm is.
                _ if exponents.iter().all(|p| p.fract() != 0.0) => {
                    let y = map(Op::Unary(Function::Log), vec![x]);
                    let y = map(Op::Binary(Binary::Mul), vec![operands[1].clone(), y]);
                    map(Op::Unary(Function::Exp), vec![y])
                }
                _ => return None,
            }
        }
        Op::Onnx(Onnx::Erf {}) => map(Op::Unary(Function::Erf), vec![x]),
        Op::Onnx(Onnx::Sqrt {}) => map(Op::Unary(Function::Sqrt), vec![x]),
        Op::Onnx(Onnx::Gelu { approximate }) if approximate != "tanh" => {
            let scaled = map(Op::Binary(Binary::Mul), vec![all(FRAC_1_SQRT_2), x.clone()]);
            let erf = map(Op::Unary(Function::Erf), vec![scaled]);
            let sum = map(Op::Binary(Binary::Add), vec![all(1.0), erf]);
            let half = map(Op::Binary(Binary::Mul), vec![all(0.5), x]);
            map(Op::Binary(Binary::Mul), vec![half, sum])
        }
        Op::Onnx(Onnx::Exp {}) => map(Op::Unary(Function::Exp), vec![x]),
        Op::Onnx(Onnx::Log {}) => match of_sigmoid {
            Some(of) => {
                let negative = map(Op::Binary(Binary::Sub), vec![all(0.0), of]);
                let y = map(Op::Unary(Function::Softplus), vec![negative]);
                map(Op::Binary(Binary::Sub), vec![all(0.0), y])
            }
            None => map(Op::Unary(Function::Log), vec![x]),
        },
        Op::Onnx(Onnx::Not {}) => map(Op::Binary(Binary::Sub), vec![all(1.0), x]),
        Op::Onnx(Onnx::And {}) => map(Op::Binary(Binary::Min), operands.to_vec()),
        Op::Onnx(Onnx::Or {}) => map(Op::Binary(Binary::Max), operands.to_vec()),
        Op::Onnx(Onnx::PRelu {}) => {
            let above = map(Op::Unary(Function::Relu), vec![x.clone()]);
            let below = map(Op::Binary(Binary::Min), vec![all(0.0), x]);
            let below = map(Op::Binary(Binary::Mul), vec![operands[1].clone(), below]);
            map(Op::Binary(Binary::Add), vec![above, below])
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
