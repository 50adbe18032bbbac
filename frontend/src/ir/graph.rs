//! The graph: nodes and edges on petgraph, values with types, weights with representations.
//!
//! ```text
//!   %tokens ──▶ embedding ──▶ lstm ──▶ lstm ──▶ linear ──▶ return logits
//!                   ▲         ▲  ▲                 ▲
//!               @embedding  state @lstm0.*      @decoder
//! ```
//!
//! Nodes hold their operands and results; the petgraph edges (one per use of a value) are created from them by
//! [`Graph::add`] only, and give order and reachability. Every value has a [`Type`], inferred when its node is added, so an
//! ill-typed graph cannot be built.

use super::dim::{Dim, Symbol};
use super::infer::{Fact, InferError, check_state, infer};
use super::map::Part;
use super::op::Op;
use crate::tensor::DType;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use std::collections::BTreeMap;
use std::fmt;

/// A node of one graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub(super) u32);

/// A value of one graph: a node's result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ValueId(pub(super) u32);

/// A weight of one graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WeightId(pub(super) u32);

/// `%7`: what a value without its own name is called in the text form.
impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// dtype and dimensions of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Type {
    /// The element type.
    pub dtype: DType,
    /// The dimensions.
    pub shape: Vec<Dim>,
}

impl Type {
    /// A type.
    pub fn new(dtype: DType, shape: Vec<Dim>) -> Type {
        Type { dtype, shape }
    }

    /// The type of a value whose number of dimensions is not known before it is computed: `f32[..]`. The dtype may be a guess.
    pub fn unranked(dtype: DType) -> Type {
        Type::new(dtype, vec![Dim::Rest])
    }

    /// Whether the number of dimensions is known.
    pub fn is_ranked(&self) -> bool {
        self.shape != [Dim::Rest]
    }

    /// `f32[S, B, features]`, the sequences of language-model form.
    pub fn sequence(features: usize) -> Type {
        Type::new(
            DType::F32,
            vec![Dim::symbol(Symbol::steps()), Dim::symbol(Symbol::streams()), features.into()],
        )
    }

    /// `f32[B, hidden]`, the states of language-model form.
    pub fn state(hidden: usize) -> Type {
        Type::new(DType::F32, vec![Dim::symbol(Symbol::streams()), hidden.into()])
    }

    /// `i64[S, B]`, the tokens of language-model form.
    pub fn tokens() -> Type {
        Type::new(DType::I64, vec![Dim::symbol(Symbol::steps()), Dim::symbol(Symbol::streams())])
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// What a node reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operand {
    /// Another node's result.
    Value(ValueId),
    /// A weight.
    Weight(WeightId),
    /// An optional operand that is not given.
    None,
}

impl From<ValueId> for Operand {
    fn from(v: ValueId) -> Operand {
        Operand::Value(v)
    }
}

impl From<WeightId> for Operand {
    fn from(w: WeightId) -> Operand {
        Operand::Weight(w)
    }
}

/// An operator with its operands and results.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// The name the model's file gave it, for messages; may be empty.
    pub origin: String,
    pub(super) operands: Vec<Operand>,
    pub(super) results: Vec<ValueId>,
}

impl Node {
    /// Its operands, in the operator's order.
    pub fn operands(&self) -> &[Operand] {
        &self.operands
    }

    /// Its results, in the operator's order.
    pub fn results(&self) -> &[ValueId] {
        &self.results
    }
}

/// A node's result: name, type, and its elements if it is shape arithmetic.
#[derive(Clone, PartialEq, Debug)]
pub struct Value {
    pub(super) name: String,
    pub(super) fact: Fact,
    pub(super) node: NodeId,
}

/// A weight's name and representation.
#[derive(Clone, PartialEq, Debug)]
pub struct Weight {
    /// The name, unique in the graph.
    pub name: String,
    /// The representation.
    pub map: Part,
}

/// What the graph returns.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    /// Its role in the model.
    pub role: OutputRole,
    /// The value.
    pub value: ValueId,
}

/// The role of an output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutputRole {
    /// The next value of a state.
    State(ValueId),
    /// A named result; `logits` in language-model form.
    Named(String),
}

/// Why a node could not be added.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{op}{}: {error}", if origin.is_empty() { String::new() } else { format!(" (node \"{origin}\")") })]
pub struct GraphError {
    /// The operator.
    pub op: &'static str,
    /// The node's name in the model's file.
    pub origin: String,
    /// What is wrong.
    pub error: InferError,
}

/// A model.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    /// The number of words, if known; in language-model form it always is.
    pub vocabulary: Option<usize>,
    nodes: StableDiGraph<Node, ()>,
    values: BTreeMap<ValueId, Value>,
    weights: BTreeMap<WeightId, Weight>,
    outputs: Vec<Output>,
    value_names: BTreeMap<String, ValueId>,
    weight_names: BTreeMap<String, WeightId>,
    next_value: u32,
    next_weight: u32,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds a model input or a state with a declared type.
    pub fn add_source(&mut self, op: Op, name: &str, ty: Type) -> ValueId {
        debug_assert!(matches!(op, Op::Input | Op::State));
        self.insert(op, vec![], vec![Fact { ty, content: None }], &[name], "").1[0]
    }

    /// Adds a state that starts at a weight, `[features]`.
    pub fn add_state(&mut self, name: &str, ty: Type, initial: WeightId) -> Result<ValueId, InferError> {
        check_state(&ty, &[self.fact(initial.into())])?;
        let facts = vec![Fact { ty, content: None }];
        Ok(self.insert(Op::State, vec![initial.into()], facts, &[name], "").1[0])
    }

    /// The weight that a state starts at.
    pub fn initial_state(&self, state: ValueId) -> Option<WeightId> {
        match self.node(self.producer(state)).operands() {
            [Operand::Weight(w)] => Some(*w),
            _ => None,
        }
    }

    /// Adds a node; infers the types of its results. `names` are suggestions: a name that is taken or missing is made unique.
    pub fn add(
        &mut self,
        op: Op,
        operands: &[Operand],
        names: &[&str],
        origin: &str,
    ) -> Result<Vec<ValueId>, GraphError> {
        let facts = self.infer(&op, operands).map_err(|error| GraphError {
            op: op.name(),
            origin: origin.to_string(),
            error,
        })?;
        Ok(self.insert(op, operands.to_vec(), facts, names, origin).1)
    }

    /// The facts of `op`'s results on these operands of this graph.
    pub fn infer(&self, op: &Op, operands: &[Operand]) -> Result<Vec<Fact>, InferError> {
        let facts: Vec<Option<Fact>> = operands.iter().map(|&o| self.fact(o)).collect();
        infer(op, &facts)
    }

    /// The fact of an operand; `None` if it is not given.
    pub fn fact(&self, operand: Operand) -> Option<Fact> {
        match operand {
            Operand::Value(v) => Some(self.value(v).fact.clone()),
            Operand::Weight(w) => Some(Fact::of_map(&self.weight(w).map)),
            Operand::None => None,
        }
    }

    fn insert(
        &mut self,
        op: Op,
        operands: Vec<Operand>,
        facts: Vec<Fact>,
        names: &[&str],
        origin: &str,
    ) -> (NodeId, Vec<ValueId>) {
        let node = Node { op, origin: origin.to_string(), operands: operands.clone(), results: vec![] };
        let index = self.nodes.add_node(node);
        let id = NodeId(index.index() as u32);
        for operand in &operands {
            if let Operand::Value(v) = operand {
                let from = NodeIndex::new(self.value(*v).node.0 as usize);
                self.nodes.add_edge(from, index, ());
            }
        }
        let mut results = vec![];
        for (i, fact) in facts.into_iter().enumerate() {
            let value = ValueId(self.next_value);
            self.next_value += 1;
            let name = self.unique_name(names.get(i).copied().unwrap_or(""), value);
            self.values.insert(value, Value { name, fact, node: id });
            results.push(value);
        }
        self.nodes[index].results.clone_from(&results);
        (id, results)
    }

    fn unique_name(&mut self, wish: &str, value: ValueId) -> String {
        let base = if wish.is_empty() { value.0.to_string() } else { wish.to_string() };
        let mut name = base.clone();
        let mut n = 1;
        while self.value_names.contains_key(&name) {
            name = format!("{base}.{n}");
            n += 1;
        }
        self.value_names.insert(name.clone(), value);
        name
    }

    /// Adds a weight. The name must be new; otherwise the error is the existing weight's id.
    pub fn add_weight(&mut self, name: &str, map: impl Into<Part>) -> Result<WeightId, WeightId> {
        if let Some(id) = self.weight_named(name) {
            return Err(id);
        }
        let id = WeightId(self.next_weight);
        self.next_weight += 1;
        self.weight_names.insert(name.to_string(), id);
        self.weights.insert(id, Weight { name: name.to_string(), map: map.into() });
        Ok(id)
    }

    /// Replaces a weight's representation. The logical shape must stay.
    pub fn set_weight(&mut self, id: WeightId, map: Part) -> Result<(), InferError> {
        let weight = self.weights.get_mut(&id).expect("a weight id of this graph");
        if weight.map.shape() != map.shape() {
            return Err(InferError::new(
                format!("a map of shape {:?} for @{}", weight.map.shape(), weight.name),
                format!("{:?}", map.shape()),
            ));
        }
        weight.map = map;
        Ok(())
    }

    /// Removes a weight and returns it; for importers that fold weights. It must have no uses.
    pub fn remove_weight(&mut self, id: WeightId) -> Option<Weight> {
        let weight = self.weights.remove(&id)?;
        self.weight_names.remove(&weight.name);
        Some(weight)
    }

    /// Declares an output.
    pub fn add_output(&mut self, role: OutputRole, value: ValueId) {
        self.outputs.push(Output { role, value });
    }

    /// The nodes in an order in which every operand comes before its use: the order of addition, which [`Graph::add`] guarantees to be one.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.node_indices().map(|i| (NodeId(i.index() as u32), &self.nodes[i]))
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[NodeIndex::new(id.0 as usize)]
    }

    /// The nodes that read some result of `id`.
    pub fn users(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.nodes
            .neighbors_directed(NodeIndex::new(id.0 as usize), Direction::Outgoing)
            .map(|i| NodeId(i.index() as u32))
    }

    /// The petgraph itself, to run its algorithms on.
    pub fn petgraph(&self) -> &StableDiGraph<Node, ()> {
        &self.nodes
    }

    /// The values in order of their ids.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().map(|(&id, v)| (id, v))
    }

    pub(super) fn value(&self, id: ValueId) -> &Value {
        &self.values[&id]
    }

    /// A value's type.
    pub fn type_of(&self, id: ValueId) -> &Type {
        &self.value(id).fact.ty
    }

    /// A value's elements, if it is shape arithmetic.
    pub fn content_of(&self, id: ValueId) -> Option<&[Dim]> {
        self.value(id).fact.content.as_deref()
    }

    /// A value's name, without the `%`.
    pub fn name_of(&self, id: ValueId) -> &str {
        &self.value(id).name
    }

    /// The node that computes a value.
    pub fn producer(&self, id: ValueId) -> NodeId {
        self.value(id).node
    }

    /// The value with this name.
    pub fn value_named(&self, name: &str) -> Option<ValueId> {
        self.value_names.get(name).copied()
    }

    /// The weights, in order of addition.
    pub fn weights(&self) -> impl Iterator<Item = (WeightId, &Weight)> {
        self.weights.iter().map(|(&id, w)| (id, w))
    }

    /// A weight.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[&id]
    }

    /// The weight with this name.
    pub fn weight_named(&self, name: &str) -> Option<WeightId> {
        self.weight_names.get(name).copied()
    }

    /// What the graph returns, in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The declared inputs and states, in order of addition.
    pub fn sources(&self, op: &Op) -> Vec<ValueId> {
        self.nodes().filter(|(_, n)| n.op == *op).flat_map(|(_, n)| n.results.iter().copied()).collect()
    }

    /// The next value of a state.
    pub fn next_state(&self, state: ValueId) -> Option<ValueId> {
        self.outputs.iter().find(|o| o.role == OutputRole::State(state)).map(|o| o.value)
    }

    /// The value returned under `name`.
    pub fn output_named(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|o| matches!(&o.role, OutputRole::Named(n) if n == name)).map(|o| o.value)
    }
}

/// Breaks invariants, which no caller can do; for the verifier's tests.
#[cfg(test)]
impl Graph {
    pub(super) fn nodes_mut(&mut self) -> &mut StableDiGraph<Node, ()> {
        &mut self.nodes
    }

    pub(super) fn values_mut(&mut self) -> &mut BTreeMap<ValueId, Value> {
        &mut self.values
    }

    pub(super) fn weights_mut(&mut self) -> &mut BTreeMap<WeightId, Weight> {
        &mut self.weights
    }

    pub(super) fn outputs_mut(&mut self) -> &mut Vec<Output> {
        &mut self.outputs
    }
}
