//! The attributes of operators in text: one table, [`visit`], serves the printer and the parser.

use super::error::{Located, ParseError, unknown};
use super::parser::Parser;
use crate::ir::graph::GateOrder;
use crate::ir::op::{Activation, Binary, Direction, OnnxLstm, Op, Scalar, Unary};
use crate::ir::print::{float32, float64};
use crate::tensor::DType;

/// Calls `visitor` for each attribute of `op` in the order of printing.
pub(in crate::ir) fn visit<V: Visitor>(op: &mut Op, v: &mut V) -> Result<(), ParseError> {
    match op {
        Op::Lstm { gates } => v.field("gates", gates),
        Op::Gather { axis }
        | Op::Concat { axis }
        | Op::Flatten { axis }
        | Op::Softmax { axis }
        | Op::LogSoftmax { axis } => v.field("axis", axis),
        Op::OnnxLstm(lstm) => {
            v.field("hidden_size", &mut lstm.hidden_size)?;
            v.field("direction", &mut lstm.direction)?;
            v.field("batch_first", &mut lstm.batch_first)?;
            v.field("clip", &mut lstm.clip)?;
            v.field("input_forget", &mut lstm.input_forget)?;
            v.field("activations", &mut lstm.activations)
        }
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            v.field("alpha", alpha)?;
            v.field("beta", beta)?;
            v.field("trans_a", trans_a)?;
            v.field("trans_b", trans_b)
        }
        Op::Reshape { allow_zero } => v.field("allow_zero", allow_zero),
        Op::Transpose { perm } => v.field("perm", perm),
        Op::Shape { start, end } => {
            v.field("start", start)?;
            v.field("end", end)
        }
        Op::ConstantOfShape { value } => v.field("value", value),
        Op::Cast { to } => v.field("to", to),
        Op::Split { axis, outputs } => {
            v.field("axis", axis)?;
            v.field("outputs", outputs)
        }
        Op::ReduceMean { keep_dims, noop_with_empty_axes } => {
            v.field("keep_dims", keep_dims)?;
            v.field("noop_with_empty_axes", noop_with_empty_axes)
        }
        Op::Input
        | Op::State
        | Op::Embedding
        | Op::Linear
        | Op::Binary(_)
        | Op::Unary(_)
        | Op::MatMul
        | Op::Slice
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Expand
        | Op::Identity
        | Op::Dropout => Ok(()),
    }
}

/// One operator of each name, with attributes that the parser overwrites.
pub(in crate::ir) fn prototypes() -> Vec<Op> {
    let lstm = OnnxLstm {
        hidden_size: 0,
        direction: Direction::Forward,
        batch_first: false,
        clip: None,
        input_forget: false,
        activations: vec![],
    };
    vec![
        Op::Input,
        Op::State,
        Op::Embedding,
        Op::Lstm { gates: GateOrder::Iofc },
        Op::Linear,
        Op::Binary(Binary::Add),
        Op::Binary(Binary::Sub),
        Op::Binary(Binary::Mul),
        Op::Binary(Binary::Div),
        Op::Unary(Unary::Tanh),
        Op::Unary(Unary::Sigmoid),
        Op::Unary(Unary::Relu),
        Op::Gather { axis: 0 },
        Op::OnnxLstm(Box::new(lstm)),
        Op::MatMul,
        Op::Gemm { alpha: 0.0, beta: 0.0, trans_a: false, trans_b: false },
        Op::Concat { axis: 0 },
        Op::Slice,
        Op::Squeeze,
        Op::Unsqueeze,
        Op::Reshape { allow_zero: false },
        Op::Flatten { axis: 0 },
        Op::Transpose { perm: vec![] },
        Op::Shape { start: 0, end: None },
        Op::Expand,
        Op::ConstantOfShape { value: Scalar { dtype: DType::F32, value: 0.0 } },
        Op::Cast { to: DType::F32 },
        Op::Identity,
        Op::Dropout,
        Op::Split { axis: 0, outputs: 0 },
        Op::Softmax { axis: 0 },
        Op::LogSoftmax { axis: 0 },
        Op::ReduceMean { keep_dims: false, noop_with_empty_axes: false },
    ]
}

/// What is done with each attribute.
pub(in crate::ir) trait Visitor {
    fn field<T: Attribute>(&mut self, name: &'static str, value: &mut T) -> Result<(), ParseError>;
}

/// A type that attributes have.
pub(in crate::ir) trait Attribute: Sized {
    /// Whether the attribute may be left out.
    const OPTIONAL: bool = false;

    /// The text; none where it is left out.
    fn write(&self) -> Option<String>;

    /// Reads the text.
    fn read(p: &mut Parser<'_, '_>) -> Result<Self, ParseError>;
}

/// ` {name = value, ...}`, or nothing.
pub(in crate::ir) fn write(op: &Op) -> String {
    struct Writer(Vec<String>);
    impl Visitor for Writer {
        fn field<T: Attribute>(&mut self, name: &'static str, value: &mut T) -> Result<(), ParseError> {
            self.0.extend(value.write().map(|text| format!("{name} = {text}")));
            Ok(())
        }
    }
    let mut writer = Writer(vec![]);
    // A writer never fails.
    let _ = visit(&mut op.clone(), &mut writer);
    if writer.0.is_empty() { String::new() } else { format!(" {{{}}}", writer.0.join(", ")) }
}

/// Reads `{name = value, ...}` into `op`, if it is there; every attribute that is not optional must be.
pub(super) fn read(p: &mut Parser<'_, '_>, op: &mut Op, at: Located) -> Result<(), ParseError> {
    struct Names(Vec<&'static str>, Vec<&'static str>);
    impl Visitor for Names {
        fn field<T: Attribute>(&mut self, name: &'static str, _: &mut T) -> Result<(), ParseError> {
            self.0.push(name);
            if !T::OPTIONAL {
                self.1.push(name);
            }
            Ok(())
        }
    }
    struct ReadOne<'p, 'a, 's>(&'static str, &'p mut Parser<'a, 's>);
    impl Visitor for ReadOne<'_, '_, '_> {
        fn field<T: Attribute>(&mut self, name: &'static str, value: &mut T) -> Result<(), ParseError> {
            if name == self.0 {
                *value = T::read(self.1)?;
            }
            Ok(())
        }
    }
    let mut names = Names(vec![], vec![]);
    visit(op, &mut names)?;
    let Names(known, mut missing) = names;
    let mut seen: Vec<&'static str> = vec![];
    if p.eat_punct('{')? {
        while !p.eat_punct('}')? {
            if !seen.is_empty() {
                p.expect_punct(',')?;
            }
            let (name, at) = p.word("the name of an attribute")?;
            let Some(&name) = known.iter().find(|k| **k == name) else {
                return Err(p.error(at, unknown(&format!("attribute of {}", op.name()), name, &known)));
            };
            if seen.contains(&name) {
                return Err(p.error(at, format!("attribute `{name}` is given twice")));
            }
            p.expect_punct('=')?;
            visit(op, &mut ReadOne(name, p))?;
            seen.push(name);
        }
    }
    missing.retain(|name| !seen.contains(name));
    if missing.is_empty() {
        return Ok(());
    }
    Err(p.error(
        at,
        format!(
            "{} needs the attribute{} {}",
            op.name(),
            if missing.len() == 1 { "" } else { "s" },
            missing.join(", ")
        ),
    ))
}

impl Attribute for i64 {
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<i64, ParseError> {
        p.number("an integer")
    }
}

impl Attribute for usize {
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<usize, ParseError> {
        p.number("a count")
    }
}

impl Attribute for f32 {
    fn write(&self) -> Option<String> {
        Some(float32(*self))
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<f32, ParseError> {
        p.number("a number")
    }
}

impl Attribute for bool {
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<bool, ParseError> {
        p.number("true or false")
    }
}

/// Types whose values have names.
macro_rules! named {
    ($ty:ty, $what:literal, $all:expr) => {
        impl Attribute for $ty {
            fn write(&self) -> Option<String> {
                Some(self.name().to_string())
            }

            fn read(p: &mut Parser<'_, '_>) -> Result<$ty, ParseError> {
                p.one_of($what, &$all, |x| x.name())
            }
        }
    };
}

named!(GateOrder, "gate order", GateOrder::ALL);
named!(DType, "dtype", DType::ALL);
named!(Direction, "direction", [Direction::Forward, Direction::Reverse, Direction::Bidirectional]);

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Reverse => "reverse",
            Direction::Bidirectional => "bidirectional",
        }
    }
}

/// `dtype(value)`.
impl Attribute for Scalar {
    fn write(&self) -> Option<String> {
        Some(format!("{}({})", self.dtype, float64(self.value)))
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<Scalar, ParseError> {
        let dtype = DType::read(p)?;
        p.expect_punct('(')?;
        let value = p.number("a number")?;
        p.expect_punct(')')?;
        Ok(Scalar { dtype, value })
    }
}

impl<T: Attribute> Attribute for Option<T> {
    const OPTIONAL: bool = true;

    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<Option<T>, ParseError> {
        T::read(p).map(Some)
    }
}

impl<T: Attribute> Attribute for Vec<T> {
    fn write(&self) -> Option<String> {
        Some(format!("[{}]", self.iter().filter_map(T::write).collect::<Vec<_>>().join(", ")))
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<Vec<T>, ParseError> {
        p.expect_punct('[')?;
        let mut all = vec![];
        while !p.eat_punct(']')? {
            if !all.is_empty() {
                p.expect_punct(',')?;
            }
            all.push(T::read(p)?);
        }
        Ok(all)
    }
}

const ACTIVATIONS: [Activation; 11] = [
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Relu,
    Activation::Affine { alpha: 0.0, beta: 0.0 },
    Activation::LeakyRelu { alpha: 0.0 },
    Activation::ThresholdedRelu { alpha: 0.0 },
    Activation::ScaledTanh { alpha: 0.0, beta: 0.0 },
    Activation::HardSigmoid { alpha: 0.0, beta: 0.0 },
    Activation::Elu { alpha: 0.0 },
    Activation::Softsign,
    Activation::Softplus,
];

/// An activation's name and parameters.
fn parts(activation: &mut Activation) -> (&'static str, Vec<&mut f32>) {
    match activation {
        Activation::Sigmoid => ("sigmoid", vec![]),
        Activation::Tanh => ("tanh", vec![]),
        Activation::Relu => ("relu", vec![]),
        Activation::Affine { alpha, beta } => ("affine", vec![alpha, beta]),
        Activation::LeakyRelu { alpha } => ("leaky_relu", vec![alpha]),
        Activation::ThresholdedRelu { alpha } => ("thresholded_relu", vec![alpha]),
        Activation::ScaledTanh { alpha, beta } => ("scaled_tanh", vec![alpha, beta]),
        Activation::HardSigmoid { alpha, beta } => ("hard_sigmoid", vec![alpha, beta]),
        Activation::Elu { alpha } => ("elu", vec![alpha]),
        Activation::Softsign => ("softsign", vec![]),
        Activation::Softplus => ("softplus", vec![]),
    }
}

/// `tanh`, or with parameters `affine(alpha, beta)`.
impl Attribute for Activation {
    fn write(&self) -> Option<String> {
        let mut copy = *self;
        let (name, parameters) = parts(&mut copy);
        if parameters.is_empty() {
            return Some(name.into());
        }
        let texts: Vec<String> = parameters.iter().map(|x| float32(**x)).collect();
        Some(format!("{name}({})", texts.join(", ")))
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<Activation, ParseError> {
        let mut activation = p.one_of("activation", &ACTIVATIONS, |&a| parts(&mut { a }).0)?;
        let (_, parameters) = parts(&mut activation);
        let any = !parameters.is_empty();
        for (i, parameter) in parameters.into_iter().enumerate() {
            p.expect_punct(if i == 0 { '(' } else { ',' })?;
            *parameter = p.number("a number")?;
        }
        if any {
            p.expect_punct(')')?;
        }
        Ok(activation)
    }
}
