//! The operators: one row of a table each, which turns a node of any opset into the operator of the newest version.

use super::super::decode;
use super::super::error::{NodeProblem, TensorProblem};
use super::super::proto::{NodeProto, TensorProto};
use super::attributes::Attributes;
use super::{Importer, is_standard, lstm};
use crate::ir::{Binary, Function, Op, Operand, Scalar};
use crate::tensor::{DType, Data, Tensor};
use std::ops::RangeInclusive;

/// The translation of a node.
enum Lowering {
    /// A node with these operands.
    Node(Op, Vec<Operand>),
    /// A weight.
    Constant(Tensor),
    /// Softmax before opset 13, over everything from `axis` on as one row: `flatten`, the operator, `reshape` back.
    Rows(Op, i64),
}

type Lower = fn(&mut Node) -> Result<Lowering, NodeProblem>;

/// An operator's name, its number of inputs (the range's start is the required number), and its translation.
const OPERATORS: &[(&str, RangeInclusive<usize>, Lower)] = &[
    ("Add", 2..=2, |n| n.becomes(Op::Binary(Binary::Add))),
    ("Cast", 1..=1, cast),
    ("Concat", 1..=usize::MAX, |n| {
        let axis = n.attributes.required_int("axis")?;
        n.becomes(Op::Concat { axis })
    }),
    ("Constant", 0..=0, constant),
    ("ConstantOfShape", 1..=1, constant_of_shape),
    ("Div", 2..=2, |n| n.becomes(Op::Binary(Binary::Div))),
    ("Dropout", 1..=3, dropout),
    ("Expand", 2..=2, |n| n.becomes(Op::Expand)),
    ("Flatten", 1..=1, |n| {
        let axis = n.attributes.int("axis")?.unwrap_or(1);
        n.becomes(Op::Flatten { axis })
    }),
    ("Gather", 2..=2, |n| {
        let axis = n.attributes.int("axis")?.unwrap_or(0);
        n.becomes(Op::Gather { axis })
    }),
    ("Gemm", 2..=3, gemm),
    ("Identity", 1..=1, |n| n.becomes(Op::Identity)),
    ("LSTM", 3..=8, |n| {
        let op = lstm::lstm(&mut n.attributes, n.importer.opset, &n.importer.graph, &n.operands)?;
        n.operands.resize(8, Operand::None);
        n.becomes(Op::OnnxLstm(Box::new(op)))
    }),
    ("LogSoftmax", 1..=1, |n| softmax(n, |axis| Op::LogSoftmax { axis })),
    ("Max", 2..=2, |n| n.becomes(Op::Binary(Binary::Max))),
    ("Min", 2..=2, |n| n.becomes(Op::Binary(Binary::Min))),
    ("MatMul", 2..=2, |n| n.becomes(Op::MatMul)),
    ("Mul", 2..=2, |n| n.becomes(Op::Binary(Binary::Mul))),
    ("ReduceMean", 1..=2, reduce_mean),
    ("Reshape", 2..=2, |n| {
        let allow_zero = n.importer.opset >= 14 && n.attributes.flag("allowzero", false)?;
        n.becomes(Op::Reshape { allow_zero })
    }),
    ("Shape", 1..=1, shape),
    ("Slice", 1..=5, slice),
    ("Softmax", 1..=1, |n| softmax(n, |axis| Op::Softmax { axis })),
    ("Split", 1..=2, split),
    ("Squeeze", 1..=2, |n| {
        n.axes_operand(13, false)?;
        n.becomes(Op::Squeeze)
    }),
    ("Sub", 2..=2, |n| n.becomes(Op::Binary(Binary::Sub))),
    ("Transpose", 1..=1, |n| {
        let perm = n.attributes.ints("perm")?.unwrap_or_default();
        n.becomes(Op::Transpose { perm })
    }),
    ("Unsqueeze", 1..=2, |n| {
        n.axes_operand(13, true)?;
        n.becomes(Op::Unsqueeze)
    }),
];

fn functions() -> impl Iterator<Item = Function> {
    Function::ALL.into_iter().filter(|f| f.is_operator())
}

fn function_named(name: &str) -> Option<Function> {
    functions().find(|f| f.onnx_name() == name)
}

fn function(node: &mut Node) -> Result<Lowering, NodeProblem> {
    let mut function = function_named(&node.op).expect("the table has the operator by this name");
    for (name, parameter) in function.parameters() {
        if let Some(given) = node.attributes.float(name)? {
            *parameter = given;
        }
    }
    node.becomes(Op::Unary(function))
}

/// Adds a node whose inputs are all defined.
pub(super) fn add(importer: &mut Importer, proto: &mut NodeProto, index: usize) -> Result<(), NodeProblem> {
    // As displayed: escaped if it is not a word.
    let op = proto.op_type.chars().take(80).flat_map(char::escape_debug).collect::<String>();
    if importer.functions.contains(&(proto.domain.clone(), proto.op_type.clone())) {
        return Err(NodeProblem::Function { op });
    }
    if !is_standard(&proto.domain) {
        return Err(NodeProblem::Domain { op, domain: proto.domain.clone() });
    }
    let row = OPERATORS.iter().find(|(name, ..)| *name == proto.op_type);
    let row = row.map(|(_, count, lower)| (count.clone(), *lower));
    let Some((count, lower)) = row.or_else(|| function_named(&op).map(|_| (1..=1, function as Lower))) else {
        let functions = functions().map(Function::onnx_name);
        let mut supported: Vec<&str> = OPERATORS.iter().map(|(name, ..)| *name).chain(functions).collect();
        supported.sort_unstable();
        return Err(NodeProblem::Operator { hint: hint(&op), op, supported: supported.join(", ") });
    };
    let attributes = Attributes::new(proto, importer.opset)?;
    let mut operands =
        proto.input.iter().map(|name| importer.operand(name)).collect::<Result<Vec<_>, _>>()?;
    while operands.last() == Some(&Operand::None) {
        operands.pop();
    }
    let base = proto.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_else(|| format!("node{index}"));
    let mut node = Node { importer, op, attributes, operands, outputs: &proto.output, base };
    node.check_inputs(count)?;
    let lowering = lower(&mut node)?;
    node.add(lowering, &proto.name)
}

/// Suggestions for operators that language models are known to have.
fn hint(op: &str) -> &'static str {
    match op {
        "GRU" | "RNN" => " (only LSTM layers are)",
        "If" | "Loop" | "Scan" => " (there is no control flow: export with tracing and a fixed graph)",
        "Einsum" => " (write the product as a linear layer or matmul)",
        "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" | "DynamicQuantizeLSTM" => {
            " (give the model before quantization, lstmc quantizes it)"
        }
        _ => "",
    }
}

/// A node while it is lowered.
struct Node<'a> {
    importer: &'a mut Importer,
    op: String,
    attributes: Attributes,
    operands: Vec<Operand>,
    outputs: &'a [String],
    /// The prefix of generated names.
    base: String,
}

impl Node<'_> {
    /// This operator on the unchanged operands.
    fn becomes(&mut self, op: Op) -> Result<Lowering, NodeProblem> {
        Ok(Lowering::Node(op, std::mem::take(&mut self.operands)))
    }

    fn count(&self, what: &'static str, range: RangeInclusive<usize>, found: usize) -> NodeProblem {
        let expected = match (*range.start(), *range.end()) {
            (least, usize::MAX) => format!("at least {least}"),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        NodeProblem::Count { op: self.op.clone(), what, expected, found }
    }

    fn check_inputs(&self, range: RangeInclusive<usize>) -> Result<(), NodeProblem> {
        let found = self.operands.len();
        let given = self.operands.iter().take(*range.start()).filter(|o| **o != Operand::None).count();
        if !range.contains(&found) {
            return Err(self.count("inputs", range, found));
        }
        if given < *range.start() {
            return Err(self.count("inputs", range, given));
        }
        Ok(())
    }

    fn unsupported(&self, what: impl Into<String>, advice: &'static str) -> NodeProblem {
        NodeProblem::Unsupported { op: self.op.clone(), what: what.into(), advice }
    }

    /// The attribute `name` as a constant operand.
    fn constant(&mut self, name: &str, values: Vec<i64>) -> Operand {
        let name = format!("{}.{name}", self.base);
        self.importer.constant(&name, values)
    }

    /// Puts `axes` second: an input since opset `since`, an attribute before.
    fn axes_operand(&mut self, since: i64, required: bool) -> Result<(), NodeProblem> {
        if self.importer.opset >= since {
            return self.check_inputs(if required { 2..=2 } else { 1..=2 });
        }
        self.check_inputs(1..=1)?;
        let axes = if required {
            Some(self.attributes.required_ints("axes")?)
        } else {
            self.attributes.ints("axes")?
        };
        if let Some(axes) = axes {
            let axes = self.constant("axes", axes);
            self.operands.push(axes);
        }
        Ok(())
    }

    /// The tensor of an attribute.
    fn tensor(&mut self, attribute: &'static str, proto: TensorProto) -> Result<Tensor, NodeProblem> {
        let tensor = decode::tensor(proto, &mut self.importer.external);
        tensor
            .and_then(|t| decode::check_finite(&t).map(|()| t))
            .map_err(|problem| NodeProblem::Tensor { attribute, problem })
    }

    /// Adds the node's translation and names its results.
    fn add(self, lowering: Lowering, origin: &str) -> Result<(), NodeProblem> {
        let Node { importer, op: name, attributes, operands, outputs, base } = self;
        attributes.finish()?;
        if base.is_empty() || outputs.iter().all(|o| o.is_empty()) {
            return Err(NodeProblem::Count {
                op: name,
                what: "outputs",
                expected: "at least 1".into(),
                found: 0,
            });
        }
        let results = match &lowering {
            Lowering::Node(Op::OnnxLstm(_), _) => 3,
            Lowering::Node(Op::Dropout, _) => 2,
            Lowering::Node(Op::Split { outputs, .. }, _) => *outputs,
            _ => 1,
        };
        if outputs.len() > results {
            let (expected, found) = (format!("at most {results}"), outputs.len());
            return Err(NodeProblem::Count { op: name, what: "outputs", expected, found });
        }
        let names: Vec<String> = (0..results)
            .map(|i| match outputs.get(i) {
                Some(output) if !output.is_empty() => output.clone(),
                _ => importer.fresh(&format!("{base}.{i}")),
            })
            .collect();
        let graph = &mut importer.graph;
        let types = |e: crate::ir::GraphError| NodeProblem::Types { op: name.clone(), error: e.error };
        let values = match lowering {
            Lowering::Constant(tensor) => {
                importer.define_weight(&base, tensor);
                return Ok(());
            }
            Lowering::Node(op, operands) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                graph.add(op, &operands, &names, origin).map_err(types)?
            }
            Lowering::Rows(op, axis) => {
                let wishes = ["flat", "rows", "shape"].map(|part| importer.fresh(&format!("{base}.{part}")));
                let graph = &mut importer.graph;
                let mut one = |op, operands: &[Operand], name: &str| {
                    graph.add(op, operands, &[name], origin).map_err(types).map(|v| v[0])
                };
                let flat = one(Op::Flatten { axis }, &operands, &wishes[0])?;
                let rows = one(op, &[flat.into()], &wishes[1])?;
                let shape = one(Op::Shape { start: 0, end: None }, &operands, &wishes[2])?;
                // The zeros of the shape come from the value itself.
                vec![one(Op::Reshape { allow_zero: true }, &[rows.into(), shape.into()], &names[0])?]
            }
        };
        for (output, value) in outputs.iter().zip(values) {
            if !output.is_empty() {
                importer.values.insert(output.clone(), value.into());
            }
        }
        Ok(())
    }
}

fn cast(n: &mut Node) -> Result<Lowering, NodeProblem> {
    let code = n.attributes.required_int("to")?;
    // Both apply only to eight-bit floats, which are not supported.
    n.attributes.ignore("saturate");
    n.attributes.ignore("round_mode");
    let to =
        i32::try_from(code).map_or(Err(TensorProblem::DataType { found: code.to_string() }), decode::dtype);
    let to = to.map_err(|problem| NodeProblem::Tensor { attribute: "to", problem })?;
    n.becomes(Op::Cast { to })
}

fn constant(n: &mut Node) -> Result<Lowering, NodeProblem> {
    for attribute in ["sparse_value", "value_string", "value_strings"] {
        if n.attributes.has(attribute) {
            return Err(n.unsupported(attribute, "use a dense tensor of numbers"));
        }
    }
    let a = &mut n.attributes;
    let checked = "one element each";
    let mut found = vec![];
    if let Some(x) = a.float("value_float")? {
        found.push(Tensor::from_f32([], vec![x]).expect(checked));
    }
    if let Some(v) = a.floats("value_floats")? {
        found.push(Tensor::from_f32([v.len()], v).expect(checked));
    }
    if let Some(x) = a.int("value_int")? {
        found.push(Tensor::from_i64([], vec![x]).expect(checked));
    }
    if let Some(v) = a.ints("value_ints")? {
        found.push(Tensor::from_i64([v.len()], v).expect(checked));
    }
    if let Some(t) = a.tensor("value")? {
        found.push(n.tensor("value", t)?);
    }
    let count = found.len();
    match found.pop() {
        Some(tensor) if count == 1 => Ok(Lowering::Constant(tensor)),
        _ => Err(n.attributes.wrong("value", "one of value, value_float(s), value_int(s)", count)),
    }
}

fn constant_of_shape(n: &mut Node) -> Result<Lowering, NodeProblem> {
    let value = match n.attributes.tensor("value")? {
        None => Scalar { dtype: DType::F32, value: 0.0 },
        Some(proto) => {
            let tensor = n.tensor("value", proto)?;
            let value = match tensor.data() {
                _ if tensor.len() != 1 => None,
                Data::F64(v) => Some(v[0]),
                Data::I64(v) => Some(v[0] as f64).filter(|&f| f.abs() < (1u64 << 53) as f64),
                Data::I32(v) => Some(v[0].into()),
                _ => tensor.to_f32().ok().map(|v| v[0].into()),
            };
            let Some(value) = value else {
                let found = format!("{} of shape {:?}", tensor.dtype(), tensor.shape());
                return Err(n.attributes.wrong("value", "one number below 2^53", found));
            };
            Scalar { dtype: tensor.dtype(), value }
        }
    };
    n.becomes(Op::ConstantOfShape { value })
}

/// At inference the ratio and the seed have no effect; training mode must be off.
fn dropout(n: &mut Node) -> Result<Lowering, NodeProblem> {
    if n.importer.opset < 12 {
        n.check_inputs(1..=1)?;
        n.attributes.ignore("ratio");
    } else {
        n.attributes.ignore("seed");
    }
    let training = match n.operands.get(2) {
        None | Some(Operand::None) => Some(false),
        Some(&Operand::Weight(w)) => match &*n.importer.graph.weight(w).map {
            crate::ir::LinearMap::Dense(t) => t.bools().ok().and_then(|v| v.first().copied()),
            _ => None,
        },
        Some(Operand::Value(_)) => None,
    };
    if training != Some(false) {
        let advice = "call model.eval() before the export, so that training_mode is the constant false";
        return Err(n.unsupported("training mode", advice));
    }
    n.operands.truncate(1);
    n.becomes(Op::Dropout)
}

fn gemm(n: &mut Node) -> Result<Lowering, NodeProblem> {
    if n.importer.opset < 11 {
        n.check_inputs(3..=3)?;
    }
    let a = &mut n.attributes;
    let op = Op::Gemm {
        alpha: a.float("alpha")?.unwrap_or(1.0),
        beta: a.float("beta")?.unwrap_or(1.0),
        trans_a: a.flag("transA", false)?,
        trans_b: a.flag("transB", false)?,
    };
    n.becomes(op)
}

fn reduce_mean(n: &mut Node) -> Result<Lowering, NodeProblem> {
    n.axes_operand(18, false)?;
    let keep_dims = n.attributes.flag("keepdims", true)?;
    let noop_with_empty_axes = n.importer.opset >= 18 && n.attributes.flag("noop_with_empty_axes", false)?;
    n.becomes(Op::ReduceMean { keep_dims, noop_with_empty_axes })
}

fn shape(n: &mut Node) -> Result<Lowering, NodeProblem> {
    let (mut start, mut end) = (0, None);
    if n.importer.opset >= 15 {
        start = n.attributes.int("start")?.unwrap_or(0);
        end = n.attributes.int("end")?;
    }
    n.becomes(Op::Shape { start, end })
}

fn slice(n: &mut Node) -> Result<Lowering, NodeProblem> {
    if n.importer.opset >= 10 {
        n.check_inputs(3..=5)?;
        return n.becomes(Op::Slice);
    }
    n.check_inputs(1..=1)?;
    for name in ["starts", "ends"] {
        let values = n.attributes.required_ints(name)?;
        let operand = n.constant(name, values);
        n.operands.push(operand);
    }
    if let Some(axes) = n.attributes.ints("axes")? {
        let axes = n.constant("axes", axes);
        n.operands.push(axes);
    }
    n.becomes(Op::Slice)
}

fn softmax(n: &mut Node, op: fn(i64) -> Op) -> Result<Lowering, NodeProblem> {
    let axis = n.attributes.int("axis")?;
    if n.importer.opset >= 13 {
        return n.becomes(op(axis.unwrap_or(-1)));
    }
    let axis = axis.unwrap_or(1);
    let rank = n.importer.graph.fact(n.operands[0]).map_or(0, |f| f.ty.shape.len() as i64);
    if !(-rank..rank).contains(&axis) {
        return Err(n.attributes.wrong("axis", &format!("an axis of {rank} dimensions"), axis));
    }
    if axis == -1 || axis == rank - 1 {
        return n.becomes(op(-1));
    }
    Ok(Lowering::Rows(op(1), axis))
}

fn split(n: &mut Node) -> Result<Lowering, NodeProblem> {
    let axis = n.attributes.int("axis")?.unwrap_or(0);
    let outputs = n.outputs.len();
    if n.importer.opset < 13 {
        n.check_inputs(1..=1)?;
        if let Some(sizes) = n.attributes.ints("split")? {
            let sizes = n.constant("split", sizes);
            n.operands.push(sizes);
        }
    }
    if n.importer.opset >= 18
        && let Some(found) = n.attributes.int("num_outputs")?
        && (n.operands.len() > 1 || usize::try_from(found).ok() != Some(outputs))
    {
        let expected = format!("the {outputs} outputs of the node, and no sizes besides");
        return Err(n.attributes.wrong("num_outputs", &expected, found));
    }
    n.becomes(Op::Split { axis, outputs })
}
