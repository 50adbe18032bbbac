//! The generic operators without a variant of [`Op`](super::op::Op): one row of a table each.
//!
//! A row gives the name in ONNX (the variant's), the name in the text form, the kind, the number of inputs (the range's start is the number of
//! required ones), the number of outputs, and the attributes with ONNX's names and defaults. Import, text form and checks of counts follow from
//! it; `infer_onnx::generic` derives types and `interpret::generic` computes.

use super::graph::Graph;
use crate::tensor::DType;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What kind of operator it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnnxKind {
    /// An elementwise function that keeps the dtype.
    Unary,
    /// An elementwise function to booleans.
    Test,
    /// An elementwise function of two operands that broadcast; the dtype is the first one's.
    Pair,
    /// An elementwise function of two operands to booleans.
    Comparison,
    /// Elements are picked, joined and reordered, nothing is computed.
    Movement,
    /// Anything else.
    Other,
}

/// An attribute of an operator.
pub(crate) enum Field<'a> {
    Int(&'a mut i64),
    Flag(&'a mut bool),
    Float(&'a mut f32),
    Text(&'a mut String),
    Ints(&'a mut Vec<i64>),
    MaybeInt(&'a mut Option<i64>),
    DType(&'a mut Option<DType>),
}

macro_rules! fields {
    ($($variant:ident $ty:ty;)*) => {
        $(impl<'a> From<&'a mut $ty> for Field<'a> {
            fn from(x: &'a mut $ty) -> Field<'a> {
                Field::$variant(x)
            }
        })*
    };
}

fields! { Int i64; Flag bool; Float f32; Text String; Ints Vec<i64>; MaybeInt Option<i64>; DType Option<DType>; }

macro_rules! operators {
    ($($(#[doc = $doc:literal])* $name:ident $text:literal $kind:ident $inputs:expr, $outputs:literal
        { $($field:ident: $ty:ty = $default:expr),* })*) => {
        /// A generic operator, with the attributes that ONNX gives it.
        #[derive(Clone, PartialEq, Debug)]
        #[allow(missing_docs, reason = "operators and attributes of the ONNX specification, by the same names")]
        pub enum Onnx { $($(#[doc = $doc])* $name { $($field: $ty),* },)* }

        impl Onnx {
            /// Every operator, with ONNX's defaults.
            pub fn all() -> Vec<Onnx> {
                vec![$(Onnx::$name { $($field: $default),* }),*]
            }

            /// The name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Onnx::$name { .. } => concat!("onnx.", $text),)* }
            }

            /// The name in ONNX.
            pub fn onnx_name(&self) -> &'static str {
                match self { $(Onnx::$name { .. } => stringify!($name),)* }
            }

            /// What kind of operator it is.
            pub fn kind(&self) -> OnnxKind {
                match self { $(Onnx::$name { .. } => OnnxKind::$kind,)* }
            }

            /// The number of operands; those from the start of the range on are optional.
            pub fn inputs(&self) -> RangeInclusive<usize> {
                match self { $(Onnx::$name { .. } => $inputs,)* }
            }

            /// The number of results.
            pub fn outputs(&self) -> usize {
                match self { $(Onnx::$name { .. } => $outputs,)* }
            }

            /// The attributes by name.
            pub(crate) fn fields(&mut self) -> Vec<(&'static str, Field<'_>)> {
                match self {
                    $(Onnx::$name { $($field),* } => vec![$((stringify!($field), Field::from($field))),*],)*
                }
            }
        }
    };
}

operators! {
    Exp "exp" Unary 1..=1, 1 {}
    Log "log" Unary 1..=1, 1 {}
    Sqrt "sqrt" Unary 1..=1, 1 {}
    Reciprocal "reciprocal" Unary 1..=1, 1 {}
    Abs "abs" Unary 1..=1, 1 {}
    Neg "neg" Unary 1..=1, 1 {}
    Sign "sign" Unary 1..=1, 1 {}
    Floor "floor" Unary 1..=1, 1 {}
    Ceil "ceil" Unary 1..=1, 1 {}
    Round "round" Unary 1..=1, 1 {}
    Erf "erf" Unary 1..=1, 1 {}
    Sin "sin" Unary 1..=1, 1 {}
    Cos "cos" Unary 1..=1, 1 {}
    Gelu "gelu" Unary 1..=1, 1 { approximate: String = "none".into() }
    Selu "selu" Unary 1..=1, 1 { alpha: f32 = 1.673_263_2, gamma: f32 = 1.050_701 }
    Celu "celu" Unary 1..=1, 1 { alpha: f32 = 1.0 }
    Swish "swish" Unary 1..=1, 1 { alpha: f32 = 1.0 }
    Mish "mish" Unary 1..=1, 1 {}
    HardSwish "hard_swish" Unary 1..=1, 1 {}
    Not "not" Test 1..=1, 1 {}
    IsNaN "is_nan" Test 1..=1, 1 {}
    IsInf "is_inf" Test 1..=1, 1 { detect_negative: bool = true, detect_positive: bool = true }
    Pow "pow" Pair 2..=2, 1 {}
    Mod "mod" Pair 2..=2, 1 { fmod: bool = false }
    PRelu "prelu" Pair 2..=2, 1 {}
    Equal "equal" Comparison 2..=2, 1 {}
    Greater "greater" Comparison 2..=2, 1 {}
    GreaterOrEqual "greater_or_equal" Comparison 2..=2, 1 {}
    Less "less" Comparison 2..=2, 1 {}
    LessOrEqual "less_or_equal" Comparison 2..=2, 1 {}
    And "and" Comparison 2..=2, 1 {}
    Or "or" Comparison 2..=2, 1 {}
    Xor "xor" Comparison 2..=2, 1 {}
    /// Operands `condition, then, else`.
    Where "where" Movement 3..=3, 1 {}
    /// Operands `data, repeats`.
    Tile "tile" Movement 2..=2, 1 {}
    /// Operands `data, indices`.
    GatherElements "gather_elements" Movement 2..=2, 1 { axis: i64 = 0 }
    /// Operands `data, indices`.
    GatherND "gather_nd" Movement 2..=2, 1 { batch_dims: i64 = 0 }
    /// Operands `data, indices, updates`. With a reduction it computes.
    ScatterElements "scatter_elements" Movement 3..=3, 1 { axis: i64 = 0, reduction: String = "none".into() }
    /// Operands `data, indices, updates`. With a reduction it computes.
    ScatterND "scatter_nd" Movement 3..=3, 1 { reduction: String = "none".into() }
    /// Operands `data, pads, value?, axes?`.
    Pad "pad" Movement 2..=4, 1 { mode: String = "constant".into() }
    /// Operands `data, k?`; the rest is zero.
    Trilu "trilu" Movement 1..=2, 1 { upper: bool = true }
    /// Operands `data, lengths`.
    ReverseSequence "reverse_sequence" Movement 2..=2, 1 { batch_axis: i64 = 1, time_axis: i64 = 0 }
    /// Operands `x, min?, max?`.
    Clip "clip" Other 1..=3, 1 {}
    /// Operands `start, limit, delta`.
    Range "range" Other 3..=3, 1 {}
    Einsum "einsum" Other 1..=usize::MAX, 1 { equation: String = String::new() }
    /// Operands `x, w, bias?`: `[N, C, D1, ..]`, `[M, C / group, k1, ..]`, `[M]`.
    Conv "conv" Other 2..=3, 1 {
        auto_pad: String = "NOTSET".into(), dilations: Vec<i64> = vec![], group: i64 = 1, kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![], strides: Vec<i64> = vec![]
    }
    /// Operands `x, scale, bias?`, results `y, mean, 1 / deviation`.
    LayerNormalization "layer_norm" Other 2..=3, 3 { axis: i64 = -1, epsilon: f32 = 1e-5 }
    /// Operands `x, k`, results `values, indices`.
    TopK "top_k" Other 2..=2, 2 { axis: i64 = -1, largest: bool = true, sorted: bool = true }
    ArgMax "arg_max" Other 1..=1, 1 { axis: i64 = 0, keepdims: bool = true, select_last_index: bool = false }
    ArgMin "arg_min" Other 1..=1, 1 { axis: i64 = 0, keepdims: bool = true, select_last_index: bool = false }
    /// Operands `indices, depth, values`.
    OneHot "one_hot" Other 3..=3, 1 { axis: i64 = -1 }
    /// Operands `x, axis`.
    CumSum "cum_sum" Other 2..=2, 1 { exclusive: bool = false, reverse: bool = false }
    EyeLike "eye_like" Other 1..=1, 1 { dtype: Option<DType> = None, k: i64 = 0 }
    NonZero "non_zero" Other 1..=1, 1 {}
    Hardmax "hardmax" Other 1..=1, 1 { axis: i64 = -1 }
    /// Operands `log probabilities, target, weight?`.
    NegativeLogLikelihoodLoss "nll_loss" Other 2..=3, 1 {
        ignore_index: Option<i64> = None, reduction: String = "mean".into()
    }
    /// Operands `x, scale, zero point?`.
    DequantizeLinear "dequantize_linear" Other 2..=3, 1 {
        axis: i64 = 1, block_size: i64 = 0, output_dtype: Option<DType> = None
    }
    /// Operands `x, scale, zero point?`.
    QuantizeLinear "quantize_linear" Other 2..=3, 1 {
        axis: i64 = 1, block_size: i64 = 0, output_dtype: Option<DType> = None
    }
    /// Results `y, scale, zero point`.
    DynamicQuantizeLinear "dynamic_quantize_linear" Other 1..=1, 3 {}
    /// Operands `a, b, zero point of a?, zero point of b?`.
    MatMulInteger "matmul_integer" Other 2..=4, 1 {}
}

impl Onnx {
    /// Whether elements are only moved.
    pub fn is_movement(&self) -> bool {
        match self {
            Onnx::ScatterElements { reduction, .. } | Onnx::ScatterND { reduction } => reduction == "none",
            _ => self.kind() == OnnxKind::Movement,
        }
    }

    /// Whether a movement's operand holds the elements that are moved, not a parameter.
    pub fn moves(&self, operand: usize) -> bool {
        match self {
            Onnx::Where {} => operand > 0,
            Onnx::ScatterElements { .. } | Onnx::ScatterND { .. } | Onnx::Pad { .. } => {
                operand == 0 || operand == 2
            }
            _ => operand == 0,
        }
    }
}

/// The graph of a loop's body. Its inputs are those of ONNX, then the captured values; weights are its own.
#[derive(Clone, Debug)]
pub struct Body(pub Arc<Graph>);

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || super::print::print(&self.0) == super::print::print(&other.0)
    }
}

/// The attributes of an ONNX Loop: operands `count?, condition?, carried.., captured..`, results `carried.., stacked..`.
///
/// The body's inputs are `iteration, condition, carried.., captured..`, its outputs `condition, carried.., stacked..`.
#[derive(Clone, PartialEq, Debug)]
pub struct Loop {
    /// The number of carried values.
    pub carried: usize,
    /// One iteration.
    pub body: Body,
}

/// The attributes of an ONNX Scan: operands `states.., scanned.., captured..`, results `states.., stacked..`.
///
/// The body's inputs are `states.., elements.., captured..`, its outputs `states.., elements..`.
#[derive(Clone, PartialEq, Debug)]
pub struct Scan {
    /// The number of scanned operands.
    pub scanned: usize,
    /// For each scanned operand, the axis.
    pub input_axes: Vec<i64>,
    /// For each scanned operand, whether it is read from its end.
    pub input_reversed: Vec<bool>,
    /// For each stacked result, the axis.
    pub output_axes: Vec<i64>,
    /// For each stacked result, whether it is stacked from its end.
    pub output_reversed: Vec<bool>,
    /// The number of states.
    pub states: usize,
    /// One step.
    pub body: Body,
}
