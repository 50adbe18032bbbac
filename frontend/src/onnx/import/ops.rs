//! The operators: one row of a table each, which turns a node of any opset into the operator of the newest version.

use super::super::decode;
use super::super::error::{NodeProblem, TensorProblem};
use super::super::proto::{NodeProto, TensorProto};
use super::attributes::Attributes;
use super::{Importer, is_standard, loops, microsoft, norms, recurrent};
use crate::ir::{Binary, Field, Function, LinearMap, Onnx, Op, Operand, Reduction, Scalar};
use crate::tensor::{DType, Data, Tensor};
use std::ops::RangeInclusive;

/// The translation of a node.
pub(super) enum Lowering {
    /// A node with these operands.
    Node(Op, Vec<Operand>),
    /// A weight.
    Constant(Tensor),
    /// These values.
    Values(Vec<Operand>),
}

pub(super) type Lower = fn(&mut Node) -> Result<Lowering, NodeProblem>;

/// An operator's name, its number of inputs (the range's start is the required number), and its translation.
const OPERATORS: &[(&str, RangeInclusive<usize>, Lower)] = &[
    ("Add", 2..=2, |n| n.becomes(Op::Binary(Binary::Add))),
    ("Cast", 1..=1, cast),
    ("CastLike", 2..=2, |n| {
        n.attributes.ignore("saturate");
        n.attributes.ignore("round_mode");
        let to = n.dtype(1);
        n.operands.truncate(1);
        n.becomes(Op::Cast { to })
    }),
    ("Clip", 1..=3, |n| {
        if n.opset() < 11 {
            for name in ["min", "max"] {
                let limit = n.attributes.float(name)?.map_or(Operand::None, |x| n.scalar(name, x.into(), 0));
                n.operands.push(limit);
            }
        }
        n.trim();
        n.becomes(Op::Onnx(Onnx::Clip {}))
    }),
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
    ("GRU", 3..=6, |n| {
        let op = recurrent::gru(n)?;
        n.operands.resize(6, Operand::None);
        n.becomes(Op::OnnxGru(Box::new(op)))
    }),
    ("Gather", 2..=2, |n| {
        let axis = n.attributes.int("axis")?.unwrap_or(0);
        n.becomes(Op::Gather { axis })
    }),
    ("Gemm", 2..=3, gemm),
    ("Identity", 1..=1, |n| n.becomes(Op::Identity)),
    ("If", 1..=1, |n| {
        let mut operands = std::mem::take(&mut n.operands);
        for name in ["then_branch", "else_branch"] {
            let branch = n.attributes.graph(name)?;
            let results = n.importer.branch(branch).map_err(|e| NodeProblem::Inside(Box::new(e)))?;
            if results.len() != n.outputs.len() {
                return Err(n.attributes.wrong(name, &format!("{} outputs", n.outputs.len()), results.len()));
            }
            operands.extend(results);
        }
        Ok(Lowering::Node(Op::If, operands))
    }),
    ("LSTM", 3..=8, |n| {
        let op = recurrent::lstm(n)?;
        n.operands.resize(8, Operand::None);
        n.becomes(Op::OnnxLstm(Box::new(op)))
    }),
    ("LogSoftmax", 1..=1, |n| softmax(n, |axis, flatten| Op::LogSoftmax { axis, flatten })),
    ("Loop", 0..=usize::MAX, loops::iterate),
    ("Max", 1..=usize::MAX, |n| n.chain(Binary::Max)),
    ("MatMul", 2..=2, |n| n.becomes(Op::MatMul)),
    ("Mean", 1..=usize::MAX, |n| {
        let count = n.scalar("count", n.operands.len() as f64, 0);
        let sum = n.chain(Binary::Add)?;
        let sum = n.emit(sum, "sum")?;
        Ok(Lowering::Node(Op::Binary(Binary::Div), vec![sum, count]))
    }),
    ("Min", 1..=usize::MAX, |n| n.chain(Binary::Min)),
    ("Mul", 2..=2, |n| n.becomes(Op::Binary(Binary::Mul))),
    ("Pad", 1..=4, |n| {
        let mode = n.attributes.string("mode")?.unwrap_or_else(|| "constant".into());
        if n.opset() < 11 {
            let pads = n.attributes.required_ints("pads")?;
            let (pads, value) = (n.constant("pads", pads), n.attributes.float("value")?.unwrap_or(0.0));
            let value = n.scalar("value", value.into(), 0);
            n.operands.extend([pads, value]);
        }
        n.becomes(Op::Onnx(Onnx::Pad { mode }))
    }),
    ("RNN", 3..=6, |n| {
        let op = recurrent::rnn(n, &["Tanh"])?;
        n.operands.resize(6, Operand::None);
        n.becomes(Op::OnnxRnn(Box::new(op)))
    }),
    ("Reshape", 2..=2, |n| {
        let allow_zero = n.opset() >= 14 && n.attributes.flag("allowzero", false)?;
        n.becomes(Op::Reshape { allow_zero })
    }),
    ("Scan", 0..=usize::MAX, loops::scan),
    ("Scatter", 3..=3, |n| {
        let axis = n.attributes.int("axis")?.unwrap_or(0);
        n.becomes(Op::Onnx(Onnx::ScatterElements { axis, reduction: "none".into() }))
    }),
    ("Shape", 1..=1, shape),
    ("Size", 1..=1, |n| {
        let shape = n.becomes(Op::Shape { start: 0, end: None })?;
        let shape = n.emit(shape, "shape")?;
        let product = Op::Reduce { kind: Reduction::Prod, keep_dims: false, noop_with_empty_axes: false };
        Ok(Lowering::Node(product, vec![shape]))
    }),
    ("Slice", 1..=5, slice),
    ("Softmax", 1..=1, |n| softmax(n, |axis, flatten| Op::Softmax { axis, flatten })),
    ("SoftmaxCrossEntropyLoss", 2..=3, |n| {
        let x = n.operands[0];
        let log = n.emit(Lowering::Node(Op::LogSoftmax { axis: 1, flatten: false }, vec![x]), "log_prob")?;
        n.operands[0] = log;
        let mut op = Onnx::NegativeLogLikelihoodLoss { ignore_index: None, reduction: "mean".into() };
        n.read(&mut op)?;
        let loss = n.becomes(Op::Onnx(op))?;
        Ok(Lowering::Values(vec![n.emit(loss, "loss")?, log]))
    }),
    ("Split", 1..=2, split),
    ("Squeeze", 1..=2, |n| {
        n.axes_operand(13, false)?;
        n.becomes(Op::Squeeze)
    }),
    ("Sub", 2..=2, |n| n.becomes(Op::Binary(Binary::Sub))),
    ("Sum", 1..=usize::MAX, |n| n.chain(Binary::Add)),
    ("TopK", 1..=2, |n| {
        if n.opset() < 10 {
            let k = n.attributes.required_int("k")?;
            let k = n.constant("k", vec![k]);
            n.operands.push(k);
        }
        let mut op = Onnx::TopK { axis: -1, largest: true, sorted: true };
        n.read(&mut op)?;
        n.becomes(Op::Onnx(op))
    }),
    ("Transpose", 1..=1, |n| {
        let perm = n.attributes.ints("perm")?.unwrap_or_default();
        n.becomes(Op::Transpose { perm })
    }),
    ("Unsqueeze", 1..=2, |n| {
        n.axes_operand(13, true)?;
        n.becomes(Op::Unsqueeze)
    }),
];

/// The translation of a standard operator.
fn standard(name: &str) -> Option<(RangeInclusive<usize>, Lower)> {
    if let Some((_, count, lower)) = OPERATORS.iter().chain(norms::OPERATORS).find(|(n, ..)| *n == name) {
        return Some((count.clone(), *lower));
    }
    if let Some(op) = Onnx::all().into_iter().find(|op| op.onnx_name() == name) {
        return Some((op.inputs(), table));
    }
    if Reduction::ALL.iter().any(|r| r.names().1 == name) {
        return Some((1..=2, reduce));
    }
    Function::ALL.iter().any(|f| f.is_operator() && f.onnx_name() == name).then_some((1..=1, function))
}

/// An operator of the table in [`Onnx`], whose newest version differs in no way from the older ones.
fn table(node: &mut Node) -> Result<Lowering, NodeProblem> {
    let mut op = Onnx::all().into_iter().find(|op| op.onnx_name() == node.op).expect("found by this name");
    if let Onnx::Hardmax { axis } = &mut op
        && node.opset() < 13
    {
        *axis = node.attributes.int("axis")?.unwrap_or(1);
        let rank = node.importer.graph().fact(node.operands[0]).map_or(0, |f| f.ty.shape.len() as i64);
        if *axis != -1 && *axis != rank - 1 {
            return Err(
                node.unsupported("rows of several axes, as before opset 13", "export it with opset 13")
            );
        }
    }
    // Types of the results that inference gives without them.
    ["stash_type", "precision", "saturate"].iter().for_each(|name| node.attributes.ignore(name));
    node.read(&mut op)?;
    node.becomes(Op::Onnx(op))
}

fn function(node: &mut Node) -> Result<Lowering, NodeProblem> {
    let known = Function::ALL.into_iter().find(|f| f.onnx_name() == node.op);
    let mut function = known.expect("the table has the operator by this name");
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
    let function = importer.functions.get(&(proto.domain.clone(), proto.op_type.clone())).cloned();
    let row = match proto.domain.as_str() {
        "com.microsoft" => microsoft::operator(&proto.op_type),
        domain if is_standard(domain) => standard(&proto.op_type),
        _ => None,
    };
    let opset = importer.scope().opset;
    let given = importer.scopes.iter().rev().find_map(|s| s.function.as_ref());
    let attributes = Attributes::new(proto, opset, given)?;
    let mut operands = vec![];
    for name in &proto.input {
        operands.push(importer.operand(name)?);
    }
    let base = proto.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_else(|| format!("node{index}"));
    let mut node =
        Node { importer, op, attributes, operands, outputs: &proto.output, base, origin: &proto.name };
    node.trim();
    let lowering = if let Some(function) = function {
        if node
            .importer
            .calls
            .iter()
            .any(|(domain, name)| *domain == function.domain && *name == function.name)
        {
            return Err(NodeProblem::Recursion { op: node.op });
        }
        let attributes = std::mem::replace(&mut node.attributes, Attributes::none(opset)).into_map();
        let results = node.importer.call(&function, &node.operands, attributes);
        Ok(Lowering::Values(results.map_err(|e| NodeProblem::Inside(Box::new(e)))?))
    } else if let Some((count, lower)) = row {
        node.check_inputs(count)?;
        lower(&mut node)
    } else {
        let domain = if is_standard(&proto.domain) { String::new() } else { proto.domain.clone() };
        let name = node.op.clone();
        Ok(node.unknown(domain, name))
    };
    let lowering = match lowering {
        Err(NodeProblem::Unsupported { op, what, .. }) => {
            node.unknown(String::new(), format!("{op} with {what}"))
        }
        Err(NodeProblem::Tensor { problem: TensorProblem::DataType { found }, .. }) => {
            let name = format!("{} with type {found}", node.op);
            node.unknown(String::new(), name)
        }
        // An attribute that changes what it does.
        Ok(_) if !is_standard(&proto.domain) && !node.attributes.is_empty() => {
            let name = format!("{} with other attributes", node.op);
            node.unknown(proto.domain.clone(), name)
        }
        other => other?,
    };
    node.add(lowering)
}

/// A node while it is lowered.
pub(super) struct Node<'a> {
    pub(super) importer: &'a mut Importer,
    op: String,
    pub(super) attributes: Attributes,
    pub(super) operands: Vec<Operand>,
    outputs: &'a [String],
    /// The prefix of generated names.
    base: String,
    /// The node's own name.
    origin: &'a str,
}

impl Node<'_> {
    /// The version of the standard operators.
    pub(super) fn opset(&mut self) -> i64 {
        self.importer.scope().opset
    }

    /// The dtype of an operand.
    pub(super) fn dtype(&mut self, operand: usize) -> DType {
        let operand = self.operands.get(operand).copied().unwrap_or(Operand::None);
        self.importer.graph().fact(operand).map_or(DType::F32, |f| f.ty.dtype)
    }

    /// Removes operands from the end that are not given.
    pub(super) fn trim(&mut self) {
        while self.operands.last() == Some(&Operand::None) {
            self.operands.pop();
        }
    }

    /// The number of outputs.
    pub(super) fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Whether an output is given.
    pub(super) fn is_output(&self, k: usize) -> bool {
        self.outputs.get(k).is_some_and(|o| !o.is_empty())
    }

    /// This operator on the unchanged operands.
    pub(super) fn becomes(&mut self, op: Op) -> Result<Lowering, NodeProblem> {
        Ok(Lowering::Node(op, std::mem::take(&mut self.operands)))
    }

    /// An operator that is not known, without its attributes.
    fn unknown(&mut self, domain: String, name: String) -> Lowering {
        self.attributes = Attributes::none(0);
        let op = Op::Unknown { domain, name, outputs: self.outputs.len() };
        Lowering::Node(op, std::mem::take(&mut self.operands))
    }

    /// `a op b op c ..`
    fn chain(&mut self, op: Binary) -> Result<Lowering, NodeProblem> {
        let operands = std::mem::take(&mut self.operands);
        let [first, rest @ ..] = &operands[..] else { return Err(self.count("inputs", 1..=usize::MAX, 0)) };
        let mut lowering = Lowering::Node(Op::Identity, vec![*first]);
        let mut left = *first;
        for (i, &right) in rest.iter().enumerate() {
            if i > 0 {
                left = self.emit(lowering, &i.to_string())?;
            }
            lowering = Lowering::Node(Op::Binary(op), vec![left, right]);
        }
        Ok(lowering)
    }

    /// Adds a node of a longer translation; its first result.
    pub(super) fn emit(&mut self, lowering: Lowering, part: &str) -> Result<Operand, NodeProblem> {
        Ok(self.emit_all(lowering, part)?[0])
    }

    /// Adds a node of a longer translation; all results.
    pub(super) fn emit_all(&mut self, lowering: Lowering, part: &str) -> Result<Vec<Operand>, NodeProblem> {
        let name = self.importer.fresh(&format!("{}.{part}", self.base));
        let (op, operands) = match lowering {
            Lowering::Node(op, operands) => (op, operands),
            Lowering::Constant(tensor) => return Ok(vec![self.importer.constant(&name, tensor)]),
            Lowering::Values(values) => return Ok(values),
        };
        Ok(self.node(op, &operands, &[&name])?.into_iter().map(Operand::from).collect())
    }

    /// Adds a node.
    fn node(
        &mut self,
        op: Op,
        operands: &[Operand],
        names: &[&str],
    ) -> Result<Vec<crate::ir::ValueId>, NodeProblem> {
        let (branch, origin) = (self.importer.scope().branch, self.origin);
        let graph = self.importer.graph();
        match graph.add(op.clone(), operands, names, origin) {
            // A branch that is not taken for these operands.
            Err(_) if branch => {
                let (name, outputs) = (self.op.clone(), op.results(operands.len()));
                graph.add(Op::Unknown { domain: String::new(), name, outputs }, operands, names, origin)
            }
            added => added,
        }
        .map_err(|e| NodeProblem::Types { op: self.op.clone(), error: e.error })
    }

    /// Reads the attributes of an operator of the table.
    pub(super) fn read(&mut self, op: &mut Onnx) -> Result<(), NodeProblem> {
        let a = &mut self.attributes;
        for (name, field) in op.fields() {
            match field {
                Field::Int(x) => *x = a.int(name)?.unwrap_or(*x),
                Field::Flag(x) => *x = a.flag(name, *x)?,
                Field::Float(x) => *x = a.float(name)?.unwrap_or(*x),
                Field::Text(x) => *x = a.string(name)?.unwrap_or_else(|| std::mem::take(x)),
                Field::Ints(x) => *x = a.ints(name)?.unwrap_or_else(|| std::mem::take(x)),
                Field::MaybeInt(x) => *x = a.int(name)?,
                Field::DType(x) => {
                    let code = a.int(name)?.filter(|&code| code != 0);
                    *x = code.map(|code| dtype(name, code)).transpose()?;
                }
            }
        }
        Ok(())
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

    pub(super) fn unsupported(&self, what: impl Into<String>, advice: &'static str) -> NodeProblem {
        NodeProblem::Unsupported { op: self.op.clone(), what: what.into(), advice }
    }

    /// Integers as a constant operand.
    pub(super) fn constant(&mut self, name: &str, values: Vec<i64>) -> Operand {
        let tensor = Tensor::from_i64([values.len()], values).expect("one element each");
        self.importer.constant(&format!("{}.{name}", self.base), tensor)
    }

    /// A number as a constant operand of the dtype of another operand.
    pub(super) fn scalar(&mut self, name: &str, value: f64, like: usize) -> Operand {
        let tensor = Tensor::from_f64([], vec![value]).expect("one element");
        let cast = crate::interpret::evaluate(&Op::Cast { to: self.dtype(like) }, &[Some(tensor.clone())]);
        let tensor = cast.map_or(tensor, |mut results| results.swap_remove(0));
        self.importer.constant(&format!("{}.{name}", self.base), tensor)
    }

    /// Puts `axes` second: an input since opset `since`, an attribute before.
    fn axes_operand(&mut self, since: i64, required: bool) -> Result<(), NodeProblem> {
        if self.opset() >= since {
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
    fn add(mut self, lowering: Lowering) -> Result<(), NodeProblem> {
        let attributes = std::mem::replace(&mut self.attributes, Attributes::none(0));
        attributes.finish()?;
        let (outputs, name) = (self.outputs, self.op.clone());
        let count =
            |expected: String, found| NodeProblem::Count { op: name, what: "outputs", expected, found };
        if outputs.iter().all(|o| o.is_empty()) {
            return Err(count("at least 1".into(), 0));
        }
        let results = match &lowering {
            Lowering::Node(op, operands) => op.results(operands.len()),
            Lowering::Values(values) => values.len(),
            Lowering::Constant(_) => 1,
        };
        if outputs.len() > results {
            return Err(count(format!("at most {results}"), outputs.len()));
        }
        let values: Vec<Operand> = match lowering {
            Lowering::Constant(tensor) => {
                self.importer.define_weight(&self.base, tensor);
                return Ok(());
            }
            Lowering::Values(values) => values,
            Lowering::Node(op, operands) => {
                let names: Vec<String> = (0..results)
                    .map(|i| match outputs.get(i) {
                        Some(output) if !output.is_empty() => self.importer.own_name(output),
                        _ => self.importer.fresh(&format!("{}.{i}", self.base)),
                    })
                    .collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.node(op, &operands, &names)?.into_iter().map(Operand::from).collect()
            }
        };
        for (output, value) in outputs.iter().zip(values) {
            if !output.is_empty() {
                self.importer.define(output, value);
            }
        }
        Ok(())
    }
}

/// The dtype of a code in an attribute.
fn dtype(attribute: &'static str, code: i64) -> Result<DType, NodeProblem> {
    i32::try_from(code)
        .map_or(Err(TensorProblem::DataType { found: code.to_string() }), decode::dtype)
        .map_err(|problem| NodeProblem::Tensor { attribute, problem })
}

fn cast(n: &mut Node) -> Result<Lowering, NodeProblem> {
    let code = n.attributes.required_int("to")?;
    // Both apply only to eight-bit floats, which are not supported.
    n.attributes.ignore("saturate");
    n.attributes.ignore("round_mode");
    let to = dtype("to", code)?;
    n.becomes(Op::Cast { to })
}

fn constant(n: &mut Node) -> Result<Lowering, NodeProblem> {
    if let Some(sparse) = n.attributes.sparse_tensor("sparse_value")? {
        let tensor = decode::sparse(sparse, &mut n.importer.external);
        let wrong = |problem| NodeProblem::Tensor { attribute: "sparse_value", problem };
        return Ok(Lowering::Constant(tensor.map_err(wrong)?));
    }
    for attribute in ["value_string", "value_strings"] {
        if n.attributes.has(attribute) {
            return Err(n.unsupported(attribute, "use a tensor of numbers"));
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
    if n.opset() < 12 {
        n.check_inputs(1..=1)?;
        n.attributes.ignore("ratio");
    } else {
        n.attributes.ignore("seed");
    }
    let training = match n.operands.get(2) {
        None | Some(Operand::None) => Some(false),
        Some(&Operand::Weight(w)) => match &*n.importer.graph().weight(w).map {
            LinearMap::Dense(t) => t.bools().ok().and_then(|v| v.first().copied()),
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

pub(super) fn gemm(n: &mut Node) -> Result<Lowering, NodeProblem> {
    if n.opset() < 11 {
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

fn reduce(n: &mut Node) -> Result<Lowering, NodeProblem> {
    let kind = Reduction::ALL.into_iter().find(|r| r.names().1 == n.op).expect("found by this name");
    let since = if kind == Reduction::Sum { 13 } else { 18 };
    n.axes_operand(since, false)?;
    let keep_dims = n.attributes.flag("keepdims", true)?;
    let noop_with_empty_axes = n.opset() >= since && n.attributes.flag("noop_with_empty_axes", false)?;
    n.becomes(Op::Reduce { kind, keep_dims, noop_with_empty_axes })
}

fn shape(n: &mut Node) -> Result<Lowering, NodeProblem> {
    let (mut start, mut end) = (0, None);
    if n.opset() >= 15 {
        start = n.attributes.int("start")?.unwrap_or(0);
        end = n.attributes.int("end")?;
    }
    n.becomes(Op::Shape { start, end })
}

fn slice(n: &mut Node) -> Result<Lowering, NodeProblem> {
    if n.opset() >= 10 {
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

fn softmax(n: &mut Node, op: fn(i64, bool) -> Op) -> Result<Lowering, NodeProblem> {
    let axis = n.attributes.int("axis")?;
    if n.opset() >= 13 {
        return n.becomes(op(axis.unwrap_or(-1), false));
    }
    let axis = axis.unwrap_or(1);
    let ty = n.importer.graph().fact(n.operands[0]).map(|f| f.ty);
    let rank = ty.filter(|ty| ty.is_ranked()).map(|ty| ty.shape.len() as i64);
    // A row of the last axis alone is what it is today.
    if axis == -1 || Some(axis + 1) == rank { n.becomes(op(-1, false)) } else { n.becomes(op(axis, true)) }
}

fn split(n: &mut Node) -> Result<Lowering, NodeProblem> {
    let axis = n.attributes.int("axis")?.unwrap_or(0);
    let outputs = n.outputs.len();
    if n.opset() < 13 {
        n.check_inputs(1..=1)?;
        if let Some(sizes) = n.attributes.ints("split")? {
            let sizes = n.constant("split", sizes);
            n.operands.push(sizes);
        }
    }
    if n.opset() >= 18
        && let Some(found) = n.attributes.int("num_outputs")?
        && (n.operands.len() > 1 || usize::try_from(found).ok() != Some(outputs))
    {
        let expected = format!("the {outputs} outputs of the node, and no sizes besides");
        return Err(n.attributes.wrong("num_outputs", &expected, found));
    }
    n.becomes(Op::Split { axis, outputs })
}
