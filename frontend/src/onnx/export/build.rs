//! Nodes, constants and names of an ONNX graph under construction.

use super::super::proto::*;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// A dimension of an input or output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dimension {
    /// Time steps.
    Steps,
    /// Streams.
    Streams,
    /// A number.
    Constant(usize),
}

/// A graph under construction. Requested names are suggestions: a name that is taken is made unique.
pub(super) struct Builder {
    opset: i64,
    graph: GraphProto,
    names: BTreeSet<String>,
    /// Integer constants made so far, by requested name.
    ints: BTreeMap<(String, Vec<i64>), String>,
    /// The outputs that values have become.
    returned: BTreeMap<String, String>,
}

impl Builder {
    pub(super) fn new(opset: i64) -> Builder {
        // Callers use the names of inputs and outputs.
        let names = ["tokens", "logits", "h0", "c0", "hn", "cn"].map(String::from);
        let (ints, returned) = (BTreeMap::new(), BTreeMap::new());
        Builder { opset, graph: GraphProto::default(), names: names.into(), ints, returned }
    }

    /// Keeps a name for an output that is made later.
    pub(super) fn reserve(&mut self, name: String) {
        self.names.insert(name);
    }

    fn unique(&mut self, wish: &str) -> String {
        let mut name = wish.to_string();
        let mut n = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{wish}_{n}");
            n += 1;
        }
        name
    }

    /// An input with exactly this name.
    pub(super) fn input(&mut self, name: &str, ty: DataType, shape: &[Dimension]) -> String {
        self.names.insert(name.to_string());
        self.graph.input.push(info(name, ty, shape));
        name.to_string()
    }

    /// Returns `value` as an output with exactly this name.
    pub(super) fn output(&mut self, name: &str, value: &str, ty: DataType, shape: &[Dimension]) {
        // The node that computes the value gets the output's name for it, unless it is an output already.
        let is_free =
            !self.returned.contains_key(value) && !self.graph.output.iter().any(|o| o.name == value);
        let maker = self.graph.node.iter().position(|n| is_free && n.output.iter().any(|o| o == value));
        match maker {
            Some(_) => {
                let parts = self.graph.node.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
                parts.filter(|n| *n == value).for_each(|n| *n = name.to_string());
                self.returned.insert(value.to_string(), name.to_string());
            }
            None => self.push("Identity", &[value], vec![name.to_string()], vec![]),
        }
        self.graph.output.push(info(name, ty, shape));
    }

    /// Adds a node; returns the names of its results.
    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Vec<String> {
        let outputs: Vec<String> = outputs.iter().map(|o| self.unique(o)).collect();
        self.push(op, inputs, outputs.clone(), attributes);
        outputs
    }

    /// Adds a node with one result.
    pub(super) fn node1(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.node(op, inputs, &[output], attributes).remove(0)
    }

    fn push(&mut self, op: &str, inputs: &[&str], output: Vec<String>, attribute: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&s| self.returned.get(s).cloned().unwrap_or(s.to_string())).collect(),
            name: format!("{op}_{}", self.graph.node.len()),
            output,
            op_type: op.into(),
            attribute,
            domain: String::new(),
        });
    }

    /// A constant of any element type.
    pub(super) fn constant(&mut self, wish: &str, ty: DataType, shape: &[usize], bytes: Vec<u8>) -> String {
        let name = self.unique(wish);
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: ty as i32,
            raw_data: Some(Bytes::from(bytes)),
            ..TensorProto::default()
        });
        name
    }

    /// The number of the constant that was made last.
    pub(super) fn last_constant(&self) -> usize {
        self.graph.initializer.len().saturating_sub(1)
    }

    /// A constant of f32.
    pub(super) fn f32_constant(&mut self, wish: &str, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(wish, DataType::Float, shape, bytes)
    }

    /// A vector of i64; equal ones with the same requested name are one.
    pub(super) fn int_constant(&mut self, wish: &str, values: &[i64]) -> String {
        let key = (wish.to_string(), values.to_vec());
        if let Some(name) = self.ints.get(&key) {
            return name.clone();
        }
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let name = self.constant(wish, DataType::Int64, &[values.len()], bytes);
        self.ints.insert(key, name.clone());
        name
    }

    /// The model.
    pub(super) fn finish(mut self, name: &str) -> ModelProto {
        self.graph.name = name.to_string();
        ModelProto {
            // The first versions with the element types that are used.
            ir_version: if self.opset >= super::BLOCKS_OPSET { 10 } else { 8 },
            producer_name: "lstmc".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: self.opset }],
            ..ModelProto::default()
        }
    }
}

fn info(name: &str, ty: DataType, shape: &[Dimension]) -> ValueInfoProto {
    use dimension::Value::{DimParam, DimValue};
    let value = |d: &Dimension| match d {
        Dimension::Steps => DimParam("seq".into()),
        Dimension::Streams => DimParam("batch".into()),
        Dimension::Constant(n) => DimValue(*n as i64),
    };
    let dim = shape.iter().map(|d| DimensionProto { value: Some(value(d)) }).collect();
    let tensor = TensorTypeProto { elem_type: ty as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

/// An attribute of one integer.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

/// An attribute of integers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

/// An attribute of one f32.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// An attribute of f32s.
pub(super) fn floats(name: &str, values: &[f32]) -> AttributeProto {
    AttributeProto { floats: values.to_vec(), ..attribute(name, AttributeType::Floats) }
}

/// An attribute of strings.
pub(super) fn strings(name: &str, values: &[&str]) -> AttributeProto {
    let strings = values.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
    AttributeProto { strings, ..attribute(name, AttributeType::Strings) }
}

fn attribute(name: &str, ty: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: ty as i32, ..AttributeProto::default() }
}
