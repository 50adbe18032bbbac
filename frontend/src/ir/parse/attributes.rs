//! The attributes of operators in text: one table, [`visit`], serves the printer and the parser.

use super::error::{Located, ParseError, unknown};
use super::parser::Parser;
use crate::ir::cell::{GateOrder, Gru, Lstm, Reset, Rnn};
use crate::ir::graph::Graph;
use crate::ir::onnx::{Body, Field, Loop, Onnx, Scan};
use crate::ir::op::{Binary, Direction, Function, OnnxLstm, OnnxRnn, Op, Reduction, Scalar};
use crate::ir::print::{float32, float64, quoted};
use crate::tensor::DType;

/// Calls `visitor` for each attribute of `op` in the order of printing.
pub(in crate::ir) fn visit<V: Visitor>(op: &mut Op, v: &mut V) -> Result<(), ParseError> {
    match op {
        Op::Lstm(lstm) => {
            v.field("gates", &mut lstm.gates)?;
            v.usually("coupled", &mut lstm.coupled, false)?;
            v.field("clip", &mut lstm.clip)?;
            v.usually("activations", &mut lstm.activations, Lstm::ACTIVATIONS)
        }
        Op::Gru(gru) => {
            v.field("reset", &mut gru.reset)?;
            v.field("clip", &mut gru.clip)?;
            v.usually("activations", &mut gru.activations, Gru::ACTIVATIONS)
        }
        Op::Rnn(rnn) => {
            v.field("activation", &mut rnn.activation)?;
            v.field("clip", &mut rnn.clip)
        }
        Op::Features { from, to } => {
            v.field("from", from)?;
            v.field("to", to)
        }
        Op::LayerNorm { epsilon } => v.field("epsilon", epsilon),
        Op::Unary(function) => function.parameters().into_iter().try_for_each(|(name, x)| v.field(name, x)),
        Op::Gather { axis } | Op::Concat { axis } | Op::Flatten { axis } => v.field("axis", axis),
        Op::Softmax { axis, flatten } | Op::LogSoftmax { axis, flatten } => {
            v.field("axis", axis)?;
            v.usually("flatten", flatten, false)
        }
        Op::OnnxLstm(lstm) => {
            v.field("hidden_size", &mut lstm.hidden_size)?;
            v.field("direction", &mut lstm.direction)?;
            v.field("batch_first", &mut lstm.batch_first)?;
            v.field("clip", &mut lstm.clip)?;
            v.field("input_forget", &mut lstm.input_forget)?;
            v.field("activations", &mut lstm.activations)?;
            v.usually("dynamic", &mut lstm.dynamic, false)
        }
        Op::OnnxGru(rnn) | Op::OnnxRnn(rnn) => {
            v.field("hidden_size", &mut rnn.hidden_size)?;
            v.field("direction", &mut rnn.direction)?;
            v.field("batch_first", &mut rnn.batch_first)?;
            v.field("clip", &mut rnn.clip)?;
            v.usually("linear_before_reset", &mut rnn.linear_before_reset, false)?;
            v.field("activations", &mut rnn.activations)
        }
        Op::Onnx(op) => op.fields().into_iter().try_for_each(|(name, field)| match field {
            Field::Int(x) => v.field(name, x),
            Field::Flag(x) => v.field(name, x),
            Field::Float(x) => v.field(name, x),
            Field::Text(x) => v.field(name, x),
            Field::Ints(x) => v.field(name, x),
            Field::MaybeInt(x) => v.field(name, x),
            Field::DType(x) => v.field(name, x),
        }),
        Op::Loop(l) => {
            v.field("carried", &mut l.carried)?;
            v.field("body", &mut l.body)
        }
        Op::Scan(s) => {
            v.field("states", &mut s.states)?;
            v.field("scanned", &mut s.scanned)?;
            v.field("input_axes", &mut s.input_axes)?;
            v.field("input_reversed", &mut s.input_reversed)?;
            v.field("output_axes", &mut s.output_axes)?;
            v.field("output_reversed", &mut s.output_reversed)?;
            v.field("body", &mut s.body)
        }
        Op::Unknown { domain, name, outputs } => {
            v.field("domain", domain)?;
            v.field("name", name)?;
            v.field("outputs", outputs)
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
        Op::Reduce { keep_dims, noop_with_empty_axes, .. } => {
            v.field("keep_dims", keep_dims)?;
            v.field("noop_with_empty_axes", noop_with_empty_axes)
        }
        Op::Input
        | Op::State
        | Op::Embedding
        | Op::Linear
        | Op::LogSoftmaxFeatures
        | Op::ConcatFeatures
        | Op::Binary(_)
        | Op::Select
        | Op::MatMul
        | Op::Slice
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Expand
        | Op::Identity
        | Op::If
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
        dynamic: false,
    };
    let rnn = OnnxRnn {
        hidden_size: 0,
        direction: Direction::Forward,
        batch_first: false,
        clip: None,
        linear_before_reset: false,
        activations: vec![],
    };
    let body = Body(Graph::default().into());
    let scan = Scan {
        scanned: 0,
        input_axes: vec![],
        input_reversed: vec![],
        output_axes: vec![],
        output_reversed: vec![],
        states: 0,
        body: body.clone(),
    };
    let mut all = vec![
        Op::Input,
        Op::State,
        Op::Embedding,
        Op::Lstm(Lstm::new(GateOrder::Iofc)),
        Op::Gru(Gru::new(Reset::After)),
        Op::Rnn(Rnn { activation: Function::Tanh, clip: None }),
        Op::Linear,
        Op::Features { from: 0, to: 0 },
        Op::LayerNorm { epsilon: 0.0 },
        Op::LogSoftmaxFeatures,
        Op::ConcatFeatures,
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
        Op::Select,
        Op::Dropout,
        Op::Split { axis: 0, outputs: 0 },
        Op::Softmax { axis: 0, flatten: false },
        Op::LogSoftmax { axis: 0, flatten: false },
        Op::OnnxGru(Box::new(rnn.clone())),
        Op::OnnxRnn(Box::new(rnn)),
        Op::If,
        Op::Loop(Box::new(Loop { carried: 0, body })),
        Op::Scan(Box::new(scan)),
        Op::Unknown { domain: String::new(), name: String::new(), outputs: 0 },
    ];
    let reduce = |kind| Op::Reduce { kind, keep_dims: false, noop_with_empty_axes: false };
    all.extend(Reduction::ALL.map(reduce));
    all.extend(Onnx::all().into_iter().map(Op::Onnx));
    all.extend(Binary::ALL.map(Op::Binary));
    all.extend(Function::ALL.into_iter().filter(|f| f.is_operator()).map(Op::Unary));
    all
}

/// An operation on each attribute.
pub(in crate::ir) trait Visitor {
    fn field<T: Attribute>(&mut self, name: &'static str, value: &mut T) -> Result<(), ParseError>;

    /// An attribute that is omitted if it has its default value, which is the prototype's.
    fn usually<T: Attribute + PartialEq>(
        &mut self,
        name: &'static str,
        value: &mut T,
        _usual: T,
    ) -> Result<(), ParseError> {
        self.field(name, value)
    }
}

/// A type that attributes have.
pub(in crate::ir) trait Attribute: Sized {
    /// Whether the attribute may be omitted.
    const OPTIONAL: bool = false;

    /// The text; `None` if the attribute is omitted.
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

        fn usually<T: Attribute + PartialEq>(
            &mut self,
            name: &'static str,
            value: &mut T,
            usual: T,
        ) -> Result<(), ParseError> {
            if *value == usual { Ok(()) } else { self.field(name, value) }
        }
    }
    let mut writer = Writer(vec![]);
    // A writer never fails.
    let _ = visit(&mut op.clone(), &mut writer);
    if writer.0.is_empty() { String::new() } else { format!(" {{{}}}", writer.0.join(", ")) }
}

/// Reads `{name = value, ...}` into `op`, if present; every attribute that is not optional must be present.
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

        fn usually<T: Attribute + PartialEq>(
            &mut self,
            name: &'static str,
            _: &mut T,
            _: T,
        ) -> Result<(), ParseError> {
            self.0.push(name);
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

impl Attribute for String {
    fn write(&self) -> Option<String> {
        Some(quoted(self))
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<String, ParseError> {
        Ok(p.string("a text in quotes")?.0.into_owned())
    }
}

/// The number of nodes; a body cannot be read from text.
impl Attribute for Body {
    fn write(&self) -> Option<String> {
        Some(format!("{} nodes", self.0.nodes().count()))
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<Body, ParseError> {
        Err(p.unexpected("a model from a file: the text of a loop does not hold its body"))
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
named!(Reset, "place of the reset gate", Reset::ALL);
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

/// `tanh`, or with parameters `affine(alpha, beta)`.
impl Attribute for Function {
    fn write(&self) -> Option<String> {
        let mut copy = *self;
        let texts: Vec<String> = copy.parameters().iter().map(|(_, x)| float32(**x)).collect();
        let texts = if texts.is_empty() { String::new() } else { format!("({})", texts.join(", ")) };
        Some(format!("{}{texts}", self.name()))
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<Function, ParseError> {
        let mut function = p.one_of("activation", &Function::ALL, |f| f.name())?;
        let parameters = function.parameters();
        let any = !parameters.is_empty();
        for (i, (_, parameter)) in parameters.into_iter().enumerate() {
            p.expect_punct(if i == 0 { '(' } else { ',' })?;
            *parameter = p.number("a number")?;
        }
        if any {
            p.expect_punct(')')?;
        }
        Ok(function)
    }
}

impl<T: Attribute + Copy, const N: usize> Attribute for [T; N] {
    fn write(&self) -> Option<String> {
        self.to_vec().write()
    }

    fn read(p: &mut Parser<'_, '_>) -> Result<[T; N], ParseError> {
        let at = p.here();
        let all = Vec::read(p)?;
        let found = all.len();
        <[T; N]>::try_from(all).map_err(|_| p.error(at, format!("expected {N} of them, found {found}")))
    }
}
