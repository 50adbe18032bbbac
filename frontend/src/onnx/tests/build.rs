//! Small models.

use crate::ir::Graph;
use crate::onnx::proto::*;
use crate::onnx::{OnnxError, import};
use prost::Message;

/// A model of `opset` that is changed freely.
pub(super) fn model(opset: i64) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(GraphProto::default()),
        ..Default::default()
    }
}

/// The model of one node `n` that reads f32 inputs of these shapes and makes `y`.
pub(super) fn single(opset: i64, node: NodeProto, inputs: &[(&str, &[i64])]) -> ModelProto {
    let mut model = model(opset);
    let g = graph(&mut model);
    g.input = inputs.iter().map(|(name, dims)| input(name, DataType::Float, dims)).collect();
    g.output = node.output.iter().filter(|o| !o.is_empty()).map(|o| value_info(o)).collect();
    g.node.push(node);
    model
}

pub(super) fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

pub(super) fn node(op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: vec!["y".into()],
        name: "n".into(),
        op_type: op.into(),
        attribute,
        domain: String::new(),
    }
}

pub(super) fn value_info(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: None }
}

pub(super) fn input(name: &str, ty: DataType, dims: &[i64]) -> ValueInfoProto {
    typed(name, ty, dims.iter().map(|&d| Some(dimension::Value::DimValue(d))).collect())
}

pub(super) fn typed(name: &str, ty: DataType, dims: Vec<Option<dimension::Value>>) -> ValueInfoProto {
    let dim = dims.into_iter().map(|value| DimensionProto { value }).collect();
    let tensor = TensorTypeProto { elem_type: ty as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

pub(super) fn f32s(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        raw_data: Some(values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into()),
        ..Default::default()
    }
}

pub(super) fn i64s(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

impl ModelProto {
    /// The model with a changed graph.
    pub(super) fn with(mut self, change: impl FnOnce(&mut GraphProto)) -> ModelProto {
        change(graph(&mut self));
        self
    }
}

fn attribute(name: &str, ty: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: ty as i32, ..Default::default() }
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) }
}

pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f: Some(f), ..attribute(name, AttributeType::Float) }
}

pub(super) fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto { ints: v.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub(super) fn floats(name: &str, v: &[f32]) -> AttributeProto {
    AttributeProto { floats: v.to_vec(), ..attribute(name, AttributeType::Floats) }
}

pub(super) fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: Some(s.to_string().into()), ..attribute(name, AttributeType::String) }
}

pub(super) fn strings(name: &str, v: &[&str]) -> AttributeProto {
    let strings = v.iter().map(|s| s.to_string().into()).collect();
    AttributeProto { strings, ..attribute(name, AttributeType::Strings) }
}

pub(super) fn tensor(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(Box::new(t)), ..attribute(name, AttributeType::Tensor) }
}

/// A subgraph of these nodes.
pub(super) fn subgraph(
    name: &str,
    nodes: Vec<NodeProto>,
    inputs: &[&str],
    outputs: &[&str],
) -> AttributeProto {
    let info = |names: &[&str]| names.iter().map(|n| value_info(n)).collect();
    let graph = GraphProto { node: nodes, input: info(inputs), output: info(outputs), ..Default::default() };
    AttributeProto { g: Some(Box::new(graph)), ..attribute(name, AttributeType::Graph) }
}

/// A node with these outputs.
pub(super) fn making(outputs: &[&str], node: NodeProto) -> NodeProto {
    NodeProto { output: outputs.iter().map(|s| s.to_string()).collect(), ..node }
}

pub(super) fn load(model: &ModelProto) -> Result<Graph, OnnxError> {
    import(model.encode_to_vec().into(), None, "test")
}

/// The graph in one line per node: operator and attributes, operands, results.
pub(super) fn text(graph: &Graph) -> String {
    use crate::ir::{LinearMap, Operand};
    let mut lines = vec![];
    for (_, node) in graph.nodes() {
        let operands = node.operands().iter().map(|&o| match o {
            Operand::Value(v) => format!("%{}", graph.name_of(v)),
            Operand::Weight(w) => match &*graph.weight(w).map {
                LinearMap::Dense(t) if t.len() <= 4 && t.i64s().is_ok() => {
                    format!("@{} {:?}", graph.weight(w).name, t.i64s().unwrap())
                }
                map => format!("@{} {}{:?}", graph.weight(w).name, map.dtype(), map.shape()),
            },
            Operand::None => "-".into(),
        });
        let results = node.results().iter().map(|&v| format!("%{}: {}", graph.name_of(v), graph.type_of(v)));
        let (operands, results) = (operands.collect::<Vec<_>>(), results.collect::<Vec<_>>());
        lines.push(format!("{} = {:?} {}", results.join(", "), node.op, operands.join(", ")));
    }
    for output in graph.outputs() {
        lines.push(format!("return {:?} %{}", output.role, graph.name_of(output.value)));
    }
    lines.join("\n")
}
