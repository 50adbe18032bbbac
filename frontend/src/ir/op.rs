//! Operators.
//!
//! There are two families. *Language-model form* is what canonicalisation produces: `embedding`, cells, `linear` and a few
//! other ops on sequences `[S, B, features]`. *Generic* ops have the meaning of the ONNX operator with the same name in its
//! newest version: the importer converts older versions (axes as attributes, and so on) into that form.

use super::cell::{Gru, Lstm, Rnn};
use super::dim::Dim;
use super::onnx::{Loop, Onnx, Scan};
use crate::tensor::DType;
use std::ops::{Add, Div, Mul, Sub};

/// What a node computes.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// A model input. No operands, one result of the declared type.
    Input,
    /// A recurrent state, carried from one run to the next; starts at zero, or at a weight `[features]`, its only operand. One result of the
    /// declared type: `[B, features]` for a state of a cell, which reads and writes it, or `[S, B, features]` for a *stepwise* state: as a sequence
    /// it is the state's value before each step. Its next value is the sequence of its values after each step.
    State,

    /// `embedding %tokens, @table`: `[S, B]` i64 and `[vocabulary, features]` to `[S, B, features]`.
    Embedding,
    /// `lstm %x, %h, %c, @input, @recurrent, @bias[, @peepholes]`: results `%y [S, B, hidden]`, `%h [B, hidden]`, `%c [B, hidden]`.
    ///
    /// `@input: [4 hidden, features]`, `@recurrent: [4 hidden, hidden]`, `@bias: [4 hidden]` (a single bias: the sum of PyTorch's two), rows in
    /// the given gate order; 3 instead of 4 if gates are coupled. `@peepholes: [3 hidden]` or, if coupled, `[2 hidden]`.
    Lstm(Lstm),
    /// `gru %x, %h, @input, @recurrent, @bias`: results `%y [S, B, hidden]`, `%h [B, hidden]`.
    ///
    /// `@input: [3 hidden, features]`, `@recurrent: [3 hidden, hidden]`, rows in the order z, r, n; `@bias: [3 hidden]` or, with
    /// [`Reset::After`](super::Reset), `[4 hidden]`.
    Gru(Gru),
    /// `rnn %x, %h, @input, @recurrent, @bias`: results `%y [S, B, hidden]`, `%h [B, hidden]`. `@input: [hidden, features]`,
    /// `@recurrent: [hidden, hidden]`, `@bias: [hidden]`.
    Rnn(Rnn),
    /// `linear %x, @weight[, %x2, @weight2 ..][, @bias]`: `[S, B, in]` each to `[S, B, out]`, `y = W x + W2 x2 + .. + b`.
    Linear,
    /// `features %x`: the features `from..to` of a sequence.
    Features {
        /// The first feature.
        from: usize,
        /// One past the last feature.
        to: usize,
    },
    /// `layer_norm %x[, @scale[, @shift]]`: `scale (x - mean) / sqrt(variance + epsilon) + shift` over the features.
    LayerNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// `log_softmax %x`, over the features.
    LogSoftmaxFeatures,
    /// `concat %x, %y ..`: the features of all.
    ConcatFeatures,

    /// Elementwise with NumPy broadcasting.
    Binary(Binary),
    /// Elementwise function of one operand.
    Unary(Function),
    /// `select %a, %b, %then, %otherwise`: elementwise with NumPy broadcasting, `then` where `a < b`, else `otherwise`.
    Select,

    /// ONNX Gather.
    Gather {
        /// The axis gathered from.
        axis: i64,
    },
    /// ONNX LSTM with every attribute: operands `X, W, R, B, sequence_lens, initial_h, initial_c, P`, results `Y, Y_h, Y_c`.
    OnnxLstm(Box<OnnxLstm>),
    /// ONNX GRU with every attribute: operands `X, W, R, B, sequence_lens, initial_h`, results `Y, Y_h`.
    OnnxGru(Box<OnnxRnn>),
    /// ONNX RNN with every attribute: operands and results as of [`Op::OnnxGru`].
    OnnxRnn(Box<OnnxRnn>),
    /// ONNX MatMul (NumPy semantics).
    MatMul,
    /// ONNX Gemm: `alpha A' B' + beta C`.
    Gemm {
        /// Factor of the product.
        alpha: f32,
        /// Factor of `C`.
        beta: f32,
        /// Transpose `A`.
        trans_a: bool,
        /// Transpose `B`.
        trans_b: bool,
    },
    /// ONNX Concat.
    Concat {
        /// The axis joined along.
        axis: i64,
    },
    /// ONNX Slice: operands `data, starts, ends, axes?, steps?`.
    Slice,
    /// ONNX Squeeze: operands `data, axes?`.
    Squeeze,
    /// ONNX Unsqueeze: operands `data, axes`.
    Unsqueeze,
    /// ONNX Reshape: operands `data, shape`.
    Reshape {
        /// A zero in `shape` means zero instead of "copy this dimension".
        allow_zero: bool,
    },
    /// ONNX Flatten: to two dimensions, split before `axis`.
    Flatten {
        /// The first axis of the second dimension.
        axis: i64,
    },
    /// ONNX Transpose.
    Transpose {
        /// The input axis of each output axis; empty reverses them.
        perm: Vec<i64>,
    },
    /// ONNX Shape, of dimensions `start..end`.
    Shape {
        /// First dimension.
        start: i64,
        /// One past the last dimension; `None` means all.
        end: Option<i64>,
    },
    /// ONNX Expand: operands `data, shape`.
    Expand,
    /// ONNX ConstantOfShape: operand `shape`.
    ConstantOfShape {
        /// The element, as stored (i64 for integers and booleans).
        value: Scalar,
    },
    /// ONNX Cast.
    Cast {
        /// The target dtype.
        to: DType,
    },
    /// ONNX Identity.
    Identity,
    /// ONNX Dropout at inference: the identity (and an all-true mask, if requested).
    Dropout,
    /// ONNX Split: operands `data, sizes?`.
    Split {
        /// The axis split along.
        axis: i64,
        /// The number of results.
        outputs: usize,
    },
    /// ONNX Softmax along one axis.
    Softmax {
        /// The axis.
        axis: i64,
        /// Everything from the axis on is one row, as before opset 13.
        flatten: bool,
    },
    /// ONNX LogSoftmax along one axis.
    LogSoftmax {
        /// The axis.
        axis: i64,
        /// Everything from the axis on is one row, as before opset 13.
        flatten: bool,
    },
    /// ONNX ReduceSum, ReduceMean, ..: operands `data, axes?`.
    Reduce {
        /// What the elements become.
        kind: Reduction,
        /// Keep reduced axes as 1.
        keep_dims: bool,
        /// With empty or absent axes, do nothing instead of reducing all.
        noop_with_empty_axes: bool,
    },
    /// A generic operator of the table in [`Onnx`].
    Onnx(Onnx),
    /// ONNX If, its branches' nodes being nodes of this graph: operands `condition, then.., else..`, as many results as each branch has.
    /// Only the branch that is taken is evaluated.
    If,
    /// ONNX Loop.
    Loop(Box<Loop>),
    /// ONNX Scan.
    Scan(Box<Scan>),
    /// An operator that is not known: what needs its results cannot be computed.
    Unknown {
        /// The operator's domain in ONNX; empty for the standard one.
        domain: String,
        /// Its name.
        name: String,
        /// The number of results.
        outputs: usize,
    },
}

/// What a reduction makes of the elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the operators of the ONNX specification, after `Reduce`")]
pub enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

impl Reduction {
    /// Every reduction.
    pub const ALL: [Reduction; 10] = [
        Reduction::Sum,
        Reduction::Mean,
        Reduction::Max,
        Reduction::Min,
        Reduction::Prod,
        Reduction::L1,
        Reduction::L2,
        Reduction::SumSquare,
        Reduction::LogSum,
        Reduction::LogSumExp,
    ];

    /// The name in the text form and in ONNX.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Reduction::Sum => ("onnx.reduce_sum", "ReduceSum"),
            Reduction::Mean => ("onnx.reduce_mean", "ReduceMean"),
            Reduction::Max => ("onnx.reduce_max", "ReduceMax"),
            Reduction::Min => ("onnx.reduce_min", "ReduceMin"),
            Reduction::Prod => ("onnx.reduce_prod", "ReduceProd"),
            Reduction::L1 => ("onnx.reduce_l1", "ReduceL1"),
            Reduction::L2 => ("onnx.reduce_l2", "ReduceL2"),
            Reduction::SumSquare => ("onnx.reduce_sum_square", "ReduceSumSquare"),
            Reduction::LogSum => ("onnx.reduce_log_sum", "ReduceLogSum"),
            Reduction::LogSumExp => ("onnx.reduce_log_sum_exp", "ReduceLogSumExp"),
        }
    }
}

/// Elementwise operators of two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "arithmetic")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
}

impl Binary {
    /// Every operator.
    pub const ALL: [Binary; 6] =
        [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Max => "max",
            Binary::Min => "min",
        }
    }

    /// The operation on two numbers. `Max` and `Min` return the second if either is NaN.
    pub fn of<T>(self, a: T, b: T) -> T
    where
        T: Add<Output = T> + Sub<Output = T> + Mul<Output = T> + Div<Output = T> + PartialOrd,
    {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Max => {
                if b < a {
                    a
                } else {
                    b
                }
            }
            Binary::Min => {
                if a < b {
                    a
                } else {
                    b
                }
            }
        }
    }
}

/// One number of a dtype.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scalar {
    /// The dtype.
    pub dtype: DType,
    /// The value; f64 holds every dtype used for constants in practice.
    pub value: f64,
}

/// The attributes of an ONNX LSTM.
#[derive(Clone, PartialEq, Debug)]
pub struct OnnxLstm {
    /// Units.
    pub hidden_size: usize,
    /// Direction(s).
    pub direction: Direction,
    /// Batch-first: `X: [B, S, I]`, `Y: [B, S, D, H]`, states `[B, D, H]`.
    pub batch_first: bool,
    /// Clip of the gates' pre-activations to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// Couple the forget gate to the input gate: `f = 1 - i`.
    pub input_forget: bool,
    /// `f, g, h` for each direction.
    pub activations: Vec<Function>,
    /// Whether the vectors that the weights multiply are rounded to integers, as ONNX Runtime's `DynamicQuantizeLSTM` does. The interpreter does not.
    pub dynamic: bool,
}

/// The attributes of an ONNX GRU or RNN.
#[derive(Clone, PartialEq, Debug)]
pub struct OnnxRnn {
    /// Units.
    pub hidden_size: usize,
    /// Direction(s).
    pub direction: Direction,
    /// Batch-first: `X: [B, S, I]`, `Y: [B, S, D, H]`, states `[B, D, H]`.
    pub batch_first: bool,
    /// Clip of the gates' pre-activations to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// The reset gate multiplies the recurrent product, not the state; of a GRU only.
    pub linear_before_reset: bool,
    /// For each direction the GRU's `f, g` or the RNN's `f`.
    pub activations: Vec<Function>,
}

/// Direction of a recurrent layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the words of the ONNX attribute")]
pub enum Direction {
    Forward,
    Reverse,
    Bidirectional,
}

/// An elementwise function with its parameters: a separate operator, or a component of a cell.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs, reason = "the functions of the ONNX specification, with its alpha and beta")]
pub enum Function {
    Sigmoid,
    Tanh,
    Relu,
    Affine {
        alpha: f32,
        beta: f32,
    },
    LeakyRelu {
        alpha: f32,
    },
    /// `x` from `alpha` on, as in an ONNX LSTM; the operator of that name gives 0 at `alpha` itself.
    ThresholdedRelu {
        alpha: f32,
    },
    ScaledTanh {
        alpha: f32,
        beta: f32,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    Elu {
        alpha: f32,
    },
    Softsign,
    Softplus,
    /// The error function, within [`ERF_ERROR`](super::ERF_ERROR).
    Erf,
    Sqrt,
    /// `e^x`, which overflows to infinity and underflows to zero.
    Exp,
    /// The natural logarithm: of zero minus infinity, of negative numbers NaN.
    Log,
}

impl Function {
    /// Every function, with the defaults of the ONNX operators of the same names. `Affine` and `ScaledTanh` are no longer ONNX operators; their
    /// defaults are ONNX Runtime's, which give `x` and `tanh x`.
    pub const ALL: [Function; 15] = [
        Function::Sigmoid,
        Function::Tanh,
        Function::Relu,
        Function::Affine { alpha: 1.0, beta: 0.0 },
        Function::LeakyRelu { alpha: 0.01 },
        Function::ThresholdedRelu { alpha: 1.0 },
        Function::ScaledTanh { alpha: 1.0, beta: 1.0 },
        Function::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Function::Elu { alpha: 1.0 },
        Function::Softsign,
        Function::Softplus,
        Function::Erf,
        Function::Sqrt,
        Function::Exp,
        Function::Log,
    ];

    /// Whether it is an operator, not only a function of cells.
    pub fn is_operator(self) -> bool {
        !matches!(self, Function::Affine { .. } | Function::ScaledTanh { .. })
    }

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// The name in ONNX.
    pub fn onnx_name(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Function::Sigmoid => ("sigmoid", "Sigmoid"),
            Function::Tanh => ("tanh", "Tanh"),
            Function::Relu => ("relu", "Relu"),
            Function::Affine { .. } => ("affine", "Affine"),
            Function::LeakyRelu { .. } => ("leaky_relu", "LeakyRelu"),
            Function::ThresholdedRelu { .. } => ("thresholded_relu", "ThresholdedRelu"),
            Function::ScaledTanh { .. } => ("scaled_tanh", "ScaledTanh"),
            Function::HardSigmoid { .. } => ("hard_sigmoid", "HardSigmoid"),
            Function::Elu { .. } => ("elu", "Elu"),
            Function::Softsign => ("softsign", "Softsign"),
            Function::Softplus => ("softplus", "Softplus"),
            Function::Erf => ("erf", "Erf"),
            Function::Sqrt => ("sqrt", "Sqrt"),
            Function::Exp => ("exp", "Exp"),
            Function::Log => ("log", "Log"),
        }
    }

    /// Those of `alpha` and `beta` that it has, by name.
    pub fn parameters(&mut self) -> Vec<(&'static str, &mut f32)> {
        match self {
            Function::Sigmoid
            | Function::Tanh
            | Function::Relu
            | Function::Softsign
            | Function::Softplus
            | Function::Erf
            | Function::Sqrt
            | Function::Exp
            | Function::Log => vec![],
            Function::LeakyRelu { alpha } | Function::ThresholdedRelu { alpha } | Function::Elu { alpha } => {
                vec![("alpha", alpha)]
            }
            Function::Affine { alpha, beta }
            | Function::ScaledTanh { alpha, beta }
            | Function::HardSigmoid { alpha, beta } => vec![("alpha", alpha), ("beta", beta)],
        }
    }
}

impl Op {
    /// The operator's name in the text form: plain for language-model form, with the prefix `onnx.` for generic operators.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input => "input",
            Op::State => "state",
            Op::Embedding => "embedding",
            Op::Lstm(_) => "lstm",
            Op::Gru(_) => "gru",
            Op::Rnn(_) => "rnn",
            Op::Linear => "linear",
            Op::Features { .. } => "features",
            Op::LayerNorm { .. } => "layer_norm",
            Op::LogSoftmaxFeatures => "log_softmax",
            Op::ConcatFeatures => "concat",
            Op::Binary(binary) => binary.name(),
            Op::Unary(function) => function.name(),
            Op::Select => "select",
            Op::Gather { .. } => "onnx.gather",
            Op::OnnxLstm(_) => "onnx.lstm",
            Op::MatMul => "onnx.matmul",
            Op::Gemm { .. } => "onnx.gemm",
            Op::Concat { .. } => "onnx.concat",
            Op::Slice => "onnx.slice",
            Op::Squeeze => "onnx.squeeze",
            Op::Unsqueeze => "onnx.unsqueeze",
            Op::Reshape { .. } => "onnx.reshape",
            Op::Flatten { .. } => "onnx.flatten",
            Op::Transpose { .. } => "onnx.transpose",
            Op::Shape { .. } => "onnx.shape",
            Op::Expand => "onnx.expand",
            Op::ConstantOfShape { .. } => "onnx.constant_of_shape",
            Op::Cast { .. } => "onnx.cast",
            Op::Identity => "onnx.identity",
            Op::Dropout => "onnx.dropout",
            Op::Split { .. } => "onnx.split",
            Op::Softmax { .. } => "onnx.softmax",
            Op::LogSoftmax { .. } => "onnx.log_softmax",
            Op::Reduce { kind, .. } => kind.names().0,
            Op::OnnxGru(_) => "onnx.gru",
            Op::OnnxRnn(_) => "onnx.rnn",
            Op::Onnx(op) => op.name(),
            Op::If => "onnx.if",
            Op::Loop(_) => "onnx.loop",
            Op::Scan(_) => "onnx.scan",
            Op::Unknown { .. } => "onnx.unknown",
        }
    }

    /// Whether it only picks, joins and reorders the elements of its operands; see [`Op::moves`].
    pub fn is_movement(&self) -> bool {
        match self {
            Op::Gather { .. }
            | Op::Concat { .. }
            | Op::Slice
            | Op::Squeeze
            | Op::Unsqueeze
            | Op::Reshape { .. }
            | Op::Flatten { .. }
            | Op::Transpose { .. }
            | Op::Expand
            | Op::Identity
            | Op::Dropout
            | Op::Split { .. } => true,
            Op::Onnx(op) => op.is_movement(),
            _ => false,
        }
    }

    /// Whether a movement's operand holds the elements that are moved, not a parameter such as a shape, an index or a condition.
    pub fn moves(&self, operand: usize) -> bool {
        match self {
            Op::Concat { .. } => true,
            Op::Onnx(op) => op.moves(operand),
            _ => operand == 0,
        }
    }

    /// The number of results that this operator has on so many operands.
    pub(crate) fn results(&self, operands: usize) -> usize {
        match self {
            Op::OnnxLstm(_) | Op::Lstm(_) => 3,
            Op::OnnxGru(_) | Op::OnnxRnn(_) | Op::Dropout => 2,
            Op::Split { outputs, .. } | Op::Unknown { outputs, .. } => *outputs,
            Op::Onnx(op) => op.outputs(),
            Op::If => operands.saturating_sub(1) / 2,
            Op::Loop(l) => l.body.0.outputs().len().saturating_sub(1),
            Op::Scan(s) => s.body.0.outputs().len(),
            _ => 1,
        }
    }

    /// Whether language-model form may hold this operator.
    pub fn is_language_model_form(&self) -> bool {
        !self.name().starts_with("onnx.")
    }
}

/// Shape arithmetic on small integer tensors, element by element.
pub type Content = Vec<Dim>;
