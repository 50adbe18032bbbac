//! The attributes of one node: each is consumed by the code that knows it, and a remaining one is an error.

use super::super::error::{NodeProblem, attribute_type_name};
use super::super::proto::{
    AttributeProto, AttributeType, GraphProto, NodeProto, SparseTensorProto, TensorProto,
};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

/// The attributes of a node that have not been taken yet.
pub(super) struct Attributes {
    op: String,
    opset: i64,
    rest: BTreeMap<String, AttributeProto>,
}

impl Attributes {
    /// Takes the attributes out of a node; `given` are those of the function call that the node is in.
    pub(super) fn new(
        node: &mut NodeProto,
        opset: i64,
        given: Option<&HashMap<String, AttributeProto>>,
    ) -> Result<Attributes, NodeProblem> {
        let mut attributes = Attributes { op: node.op_type.clone(), opset, rest: BTreeMap::new() };
        for mut a in std::mem::take(&mut node.attribute) {
            if !a.ref_attr_name.is_empty() {
                let Some(given) = given else {
                    return Err(attributes.wrong(
                        &a.name,
                        "a value",
                        "a reference, which only functions have",
                    ));
                };
                // An attribute that the call leaves out is left out here.
                let Some(value) = given.get(&a.ref_attr_name) else { continue };
                a = AttributeProto { name: a.name, ..value.clone() };
            }
            let name = a.name.clone();
            if attributes.rest.insert(name.clone(), a).is_some() {
                return Err(attributes.wrong(&name, "one", "two"));
            }
        }
        Ok(attributes)
    }

    /// No attributes.
    pub(super) fn none(opset: i64) -> Attributes {
        Attributes { op: String::new(), opset, rest: BTreeMap::new() }
    }

    /// The error for an attribute's value.
    pub(super) fn wrong(&self, name: &str, expected: &str, found: impl ToString) -> NodeProblem {
        NodeProblem::Attribute {
            op: self.op.clone(),
            attribute: name.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// The attribute with this name and type, if any.
    fn take(&mut self, name: &str, ty: AttributeType) -> Result<Option<AttributeProto>, NodeProblem> {
        match self.rest.remove(name) {
            Some(a) if a.r#type != ty as i32 => {
                let expected = attribute_type_name(ty as i32);
                Err(self.wrong(name, &expected, attribute_type_name(a.r#type)))
            }
            found => Ok(found),
        }
    }

    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>, NodeProblem> {
        Ok(self.take(name, AttributeType::Int)?.map(|a| a.i.unwrap_or(0)))
    }

    pub(super) fn required_int(&mut self, name: &str) -> Result<i64, NodeProblem> {
        self.int(name)?.ok_or_else(|| self.wrong(name, "an integer", "none"))
    }

    /// An integer that is a boolean.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, NodeProblem> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => Err(self.wrong(name, "0 or 1", other)),
        }
    }

    pub(super) fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, NodeProblem> {
        Ok(self.take(name, AttributeType::Ints)?.map(|a| a.ints))
    }

    pub(super) fn required_ints(&mut self, name: &str) -> Result<Vec<i64>, NodeProblem> {
        self.ints(name)?.ok_or_else(|| self.wrong(name, "a list of integers", "none"))
    }

    /// A finite number.
    pub(super) fn float(&mut self, name: &str) -> Result<Option<f32>, NodeProblem> {
        match self.take(name, AttributeType::Float)?.map(|a| a.f.unwrap_or(0.0)) {
            Some(f) if !f.is_finite() => Err(self.wrong(name, "a finite number", f)),
            found => Ok(found),
        }
    }

    /// Finite numbers.
    pub(super) fn floats(&mut self, name: &str) -> Result<Option<Vec<f32>>, NodeProblem> {
        let found = self.take(name, AttributeType::Floats)?.map(|a| a.floats);
        match found.iter().flatten().find(|f| !f.is_finite()) {
            Some(f) => Err(self.wrong(name, "finite numbers", f)),
            None => Ok(found),
        }
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, NodeProblem> {
        Ok(self.take(name, AttributeType::String)?.map(|a| text(&a.s.unwrap_or_default())))
    }

    pub(super) fn strings(&mut self, name: &str) -> Result<Option<Vec<String>>, NodeProblem> {
        Ok(self.take(name, AttributeType::Strings)?.map(|a| a.strings.iter().map(text).collect()))
    }

    pub(super) fn tensor(&mut self, name: &str) -> Result<Option<TensorProto>, NodeProblem> {
        match self.take(name, AttributeType::Tensor)? {
            None => Ok(None),
            Some(a) => match a.t {
                Some(t) => Ok(Some(*t)),
                None => Err(self.wrong(name, "a tensor", "none")),
            },
        }
    }

    pub(super) fn graph(&mut self, name: &str) -> Result<GraphProto, NodeProblem> {
        match self.take(name, AttributeType::Graph)?.and_then(|a| a.g) {
            Some(graph) => Ok(*graph),
            None => Err(self.wrong(name, "a graph", "none")),
        }
    }

    pub(super) fn sparse_tensor(&mut self, name: &str) -> Result<Option<SparseTensorProto>, NodeProblem> {
        Ok(self.take(name, AttributeType::SparseTensor)?.and_then(|a| a.sparse_tensor).map(|t| *t))
    }

    /// Whether all have been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All of them, by name.
    pub(super) fn into_map(self) -> HashMap<String, AttributeProto> {
        self.rest.into_iter().collect()
    }

    /// Whether the attribute is present, with any type.
    pub(super) fn has(&self, name: &str) -> bool {
        self.rest.contains_key(name)
    }

    /// Takes an attribute that has no effect here, with any value.
    pub(super) fn ignore(&mut self, name: &str) {
        self.rest.remove(name);
    }

    /// Checks that nothing is left.
    pub(super) fn finish(mut self) -> Result<(), NodeProblem> {
        match self.rest.pop_first() {
            None => Ok(()),
            Some((attribute, _)) => {
                Err(NodeProblem::UnknownAttribute { op: self.op, opset: self.opset, attribute })
            }
        }
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
