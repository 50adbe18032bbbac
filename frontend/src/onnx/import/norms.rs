//! Normalisations, by reductions and elementwise operators.

use super::super::error::NodeProblem;
use super::ops::{Lower, Lowering, Node};
use crate::ir::{Binary, Onnx, Op, Operand, Reduction, Scalar};
use crate::tensor::DType;
use std::ops::RangeInclusive;

/// An operator's name, its number of inputs, and its translation.
pub(super) const OPERATORS: &[(&str, RangeInclusive<usize>, Lower)] = &[
    ("BatchNormalization", 5..=5, batch),
    ("GroupNormalization", 3..=3, group),
    ("InstanceNormalization", 3..=3, instance),
    ("RMSNormalization", 2..=2, root_mean_square),
    // ONNX Runtime's name for it.
    ("SimplifiedLayerNormalization", 2..=2, root_mean_square),
];

type Result<T> = std::result::Result<T, NodeProblem>;

impl Node<'_> {
    fn two(&mut self, op: Binary, a: Operand, b: Operand, part: &str) -> Result<Operand> {
        self.emit(Lowering::Node(Op::Binary(op), vec![a, b]), part)
    }

    /// The number of axes of an operand, if it is known.
    fn rank(&mut self, operand: Operand) -> Option<usize> {
        let ty = self.importer.graph().fact(operand).map(|f| f.ty).filter(|ty| ty.is_ranked())?;
        Some(ty.shape.len())
    }

    fn known_rank(&mut self, operand: Operand) -> Result<i64> {
        let rank = self.rank(operand).map(|rank| rank as i64);
        rank.ok_or_else(|| self.unsupported("an operand of unknown rank", "infer the model's shapes"))
    }

    /// A vector with an element for each channel of `x: [N, C, ..]`, so that it broadcasts to it.
    fn of_channels(&mut self, vector: Operand, x: Operand, part: &str) -> Result<Operand> {
        let emit = |n: &mut Self, op: Op, operands: Vec<Operand>, name: &str| {
            n.emit(Lowering::Node(op, operands), &format!("{part}.{name}"))
        };
        match self.rank(x) {
            Some(..=2) => Ok(vector),
            Some(rank) => {
                let axes = self.constant(&format!("{part}.axes"), (1..rank as i64 - 1).collect());
                emit(self, Op::Unsqueeze, vec![vector, axes], "channels")
            }
            None => {
                // As many ones as x has axes after the channels.
                let one = Scalar { dtype: DType::I64, value: 1.0 };
                let rest = emit(self, Op::Shape { start: 2, end: None }, vec![x], "rest")?;
                let count = emit(self, Op::Shape { start: 0, end: None }, vec![rest], "count")?;
                let ones = emit(self, Op::ConstantOfShape { value: one }, vec![count], "ones")?;
                let all = self.constant(&format!("{part}.all"), vec![-1]);
                let shape = emit(self, Op::Concat { axis: 0 }, vec![all, ones], "shape")?;
                emit(self, Op::Reshape { allow_zero: false }, vec![vector, shape], "channels")
            }
        }
    }

    /// `sqrt(x + epsilon)`.
    fn root(&mut self, x: Operand, epsilon: f64) -> Result<Operand> {
        let epsilon = self.scalar("epsilon", epsilon, 0);
        let sum = self.two(Binary::Add, x, epsilon, "variance")?;
        self.emit(Lowering::Node(Op::Onnx(Onnx::Sqrt {}), vec![sum]), "deviation")
    }

    /// The mean of the squares of `x` over axes.
    fn mean_square(&mut self, x: Operand, axes: Operand) -> Result<Operand> {
        let square = self.two(Binary::Mul, x, x, "square")?;
        self.emit(Lowering::Node(MEAN, vec![square, axes]), "mean_square")
    }

    /// `(x - mean) / sqrt(variance + epsilon)` over axes.
    fn normal(&mut self, x: Operand, axes: Vec<i64>, epsilon: f64) -> Result<Operand> {
        let axes = self.constant("axes", axes);
        let mean = self.emit(Lowering::Node(MEAN, vec![x, axes]), "mean")?;
        let centred = self.two(Binary::Sub, x, mean, "centred")?;
        let variance = self.mean_square(centred, axes)?;
        let deviation = self.root(variance, epsilon)?;
        self.two(Binary::Div, centred, deviation, "normal")
    }

    fn epsilon(&mut self) -> Result<f64> {
        Ok(self.attributes.float("epsilon")?.unwrap_or(1e-5).into())
    }
}

const MEAN: Op = Op::Reduce { kind: Reduction::Mean, keep_dims: true, noop_with_empty_axes: false };

/// `y scale + shift`, as the last operators.
fn affine(n: &mut Node<'_>, y: Operand, scale: Operand, shift: Operand) -> Result<Lowering> {
    let y = n.two(Binary::Mul, y, scale, "scaled")?;
    Ok(Lowering::Node(Op::Binary(Binary::Add), vec![y, shift]))
}

/// With the statistics of training: a scale and a shift of each channel.
fn batch(n: &mut Node<'_>) -> Result<Lowering> {
    let epsilon = n.epsilon()?;
    n.attributes.ignore("momentum");
    let is_other = n.attributes.flag("training_mode", false)? || !n.attributes.flag("spatial", true)?;
    if is_other || n.outputs() > 1 {
        return Err(n.unsupported("training mode", "call model.eval() before the export"));
    }
    let &[x, scale, shift, mean, variance] = &n.operands[..] else { return n.becomes(Op::Identity) };
    let deviation = n.root(variance, epsilon)?;
    let scale = n.two(Binary::Div, scale, deviation, "scale")?;
    let moved = n.two(Binary::Mul, mean, scale, "moved")?;
    let shift = n.two(Binary::Sub, shift, moved, "shift")?;
    let scale = n.of_channels(scale, x, "scales")?;
    let shift = n.of_channels(shift, x, "shifts")?;
    affine(n, x, scale, shift)
}

/// Each channel over the axes after it.
fn instance(n: &mut Node<'_>) -> Result<Lowering> {
    let epsilon = n.epsilon()?;
    let &[x, scale, shift] = &n.operands[..] else { return n.becomes(Op::Identity) };
    let axes = (2..n.known_rank(x)?).collect();
    let y = n.normal(x, axes, epsilon)?;
    let scale = n.of_channels(scale, x, "scales")?;
    let shift = n.of_channels(shift, x, "shifts")?;
    affine(n, y, scale, shift)
}

/// Each group of channels, with the axes after them.
fn group(n: &mut Node<'_>) -> Result<Lowering> {
    let epsilon = n.epsilon()?;
    let groups = n.attributes.required_int("num_groups")?;
    n.attributes.ignore("stash_type");
    let &[x, scale, shift] = &n.operands[..] else { return n.becomes(Op::Identity) };
    let shape = n.emit(Lowering::Node(Op::Shape { start: 0, end: None }, vec![x]), "shape")?;
    let grouped = n.constant("grouped", vec![0, groups, -1]);
    let grouped = n.emit(Lowering::Node(Op::Reshape { allow_zero: false }, vec![x, grouped]), "groups")?;
    let y = n.normal(grouped, vec![2], epsilon)?;
    let back = |n: &mut Node<'_>, y| {
        n.emit(Lowering::Node(Op::Reshape { allow_zero: false }, vec![y, shape]), "channels")
    };
    // Before opset 21 each group has a scale, since then each channel.
    if n.opset() < 21 {
        let scale = n.of_channels(scale, y, "scales")?;
        let shift = n.of_channels(shift, y, "shifts")?;
        let y = affine(n, y, scale, shift)?;
        let y = n.emit(y, "shifted")?;
        return Ok(Lowering::Values(vec![back(n, y)?]));
    }
    let y = back(n, y)?;
    let scale = n.of_channels(scale, x, "scales")?;
    let shift = n.of_channels(shift, x, "shifts")?;
    affine(n, y, scale, shift)
}

/// `scale x / sqrt(mean of squares + epsilon)` over the axes from one on.
pub(super) fn root_mean_square(n: &mut Node<'_>) -> Result<Lowering> {
    let epsilon = n.epsilon()?;
    let axis = n.attributes.int("axis")?.unwrap_or(-1);
    n.attributes.ignore("stash_type");
    let &[x, scale] = &n.operands[..] else { return n.becomes(Op::Identity) };
    if n.outputs() > 1 {
        return Err(n.unsupported("its deviation", "use its first output"));
    }
    let axes = match axis {
        ..0 => (axis..0).collect(),
        _ => (axis..n.known_rank(x)?).collect(),
    };
    let axes = n.constant("axes", axes);
    let square = n.mean_square(x, axes)?;
    let deviation = n.root(square, epsilon)?;
    let normal = n.two(Binary::Div, x, deviation, "normal")?;
    Ok(Lowering::Node(Op::Binary(Binary::Mul), vec![normal, scale]))
}

/// The norm of a sum: `x, skip, scale, shift?, bias?`, without the shift if it is a root mean square. The fourth result is the sum.
pub(super) fn skip(n: &mut Node<'_>, has_mean: bool) -> Result<Lowering> {
    let epsilon = n.attributes.float("epsilon")?.unwrap_or(1e-12);
    let mut operands = n.operands.clone();
    operands.resize(5, Operand::None);
    let [x, other, scale] = [operands[0], operands[1], operands[2]];
    let (shift, bias) = match has_mean {
        true => (operands[3], operands[4]),
        false => (Operand::None, operands[3]),
    };
    if n.is_output(1) || n.is_output(2) {
        return Err(n.unsupported("its mean or deviation", "use its first output"));
    }
    let mut sum = n.two(Binary::Add, x, other, "sum")?;
    if bias != Operand::None {
        sum = n.two(Binary::Add, sum, bias, "biased")?;
    }
    let y = if has_mean {
        let mut operands = vec![sum, scale, shift];
        if shift == Operand::None {
            operands.truncate(2);
        }
        let op = Op::Onnx(Onnx::LayerNormalization { axis: -1, epsilon });
        n.emit(Lowering::Node(op, operands), "normal")?
    } else {
        let axes = n.constant("axes", vec![-1]);
        let square = n.mean_square(sum, axes)?;
        let deviation = n.root(square, epsilon.into())?;
        let normal = n.two(Binary::Div, sum, deviation, "normal")?;
        n.two(Binary::Mul, normal, scale, "scaled")?
    };
    Ok(Lowering::Values(vec![y, Operand::None, Operand::None, sum]))
}
