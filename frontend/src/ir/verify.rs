//! The verifier: the invariants of every graph, checked between every two passes in every build.
//!
//! # Invariants of every graph
//!
//! - **I1** (operands): every operand is a weight of the graph, or a value that an earlier node computes.
//! - **I2** (results): every result is a value of the graph whose producer is that node, and every value is a node's result.
//! - **I3** (facts): the types and the known contents of a node's results are those that inference derives from its operands. `input` and
//!   `state` have one result of the declared type, and no operands except the weight that a state starts at: a vector as long as the state's
//!   features.
//! - **I4** (edges): petgraph has exactly one edge for each use of a value, and no cycle.
//! - **I5** (names): no two values, weights or outputs have the same name.
//! - **I6** (outputs): every output is a value of the graph; the next value of a state has the type of its state, which
//!   is the result of a `state`.
//! - **I7** (uses): every weight has a use.
//! - **I8** (finite): no float of any weight is NaN or infinite, if the data is available.
//!
//! # Invariants of language-model form
//!
//! All of the above, and:
//!
//! - **L1** (vocabulary): the vocabulary's size is known and positive.
//! - **L2** (tokens): there is exactly one input, `i64[S, B]`.
//! - **L3** (output): there is exactly one named output: `logits` of type `f32[S, B, vocabulary]`, or `hidden` of type `f32[S, B, _]`.
//! - **L4** (states): every state has exactly one next value.
//! - **L5** (operators): no generic operator is left.
//! - **L6** (embedding): every embedding's table has a row for each word.
//!
//! All errors are collected, and each is shown below the line of the text form that it refers to:
//!
//! ```text
//! model "m" breaks 2 invariants:
//!     %x0: f32[S, B, 8] = embedding %tokens, @embedding
//!     ^ L6: the table has 19 rows, the vocabulary 20 words
//!   @decoder.bias: f32[20] #63d9732f
//!   ^ I8: element 3 is NaN
//! ```

use super::graph::{Graph, Node, NodeId, Operand, OutputRole, Type, ValueId, WeightId};
use super::infer::check_state;
use super::map::LinearMap;
use super::op::Op;
use super::print::{Line, PrintOptions, lines, name};
use super::program::Head;
use crate::tensor::{Data, Tensor};
use petgraph::algo::is_cyclic_directed;
use petgraph::visit::{EdgeRef, IntoEdgeReferences};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

/// The invariant that no weight holds NaN or infinity.
pub const FINITE: &str = "I8";

/// One broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct VerifyError {
    /// The invariant, such as `I3`; see the module's text.
    pub invariant: &'static str,
    /// What is wrong.
    pub message: String,
    line: Line,
}

/// Every broken invariant of a graph; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyErrors {
    model: String,
    errors: Vec<VerifyError>,
    lines: Vec<(Line, String)>,
}

impl VerifyErrors {
    /// The errors, in order of the lines they refer to.
    pub fn errors(&self) -> &[VerifyError] {
        &self.errors
    }
}

impl std::error::Error for VerifyErrors {}

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.errors.len();
        write!(
            f,
            "model \"{}\" breaks {n} invariant{}:",
            self.model.escape_debug(),
            if n == 1 { "" } else { "s" }
        )?;
        for (line, text) in &self.lines {
            let indent = text.len() - text.trim_start().len();
            let shown: String = text.chars().take(200).collect();
            write!(f, "\n  {shown}{}", if shown.len() < text.len() { "..." } else { "" })?;
            for error in self.errors.iter().filter(|e| e.line == *line) {
                write!(f, "\n  {}^ {}: {}", " ".repeat(indent), error.invariant, error.message)?;
            }
        }
        Ok(())
    }
}

/// Checks the invariants of every graph.
pub fn verify(graph: &Graph) -> Result<(), VerifyErrors> {
    let mut verifier = Verifier::new(graph);
    verifier.structure();
    verifier.data();
    verifier.finish()
}

/// Checks the invariants of every graph and those of language-model form.
pub fn verify_language_model(graph: &Graph) -> Result<(), VerifyErrors> {
    let mut verifier = Verifier::new(graph);
    verifier.structure();
    verifier.data();
    verifier.language_model();
    verifier.finish()
}

impl Graph {
    /// Whether this graph is in language-model form: [`verify_language_model`] without its scan of the weights' data.
    pub fn is_language_model(&self) -> bool {
        let mut verifier = Verifier::new(self);
        verifier.structure();
        verifier.language_model();
        verifier.errors.is_empty()
    }
}

struct Verifier<'g> {
    graph: &'g Graph,
    values: BTreeSet<ValueId>,
    weights: BTreeSet<WeightId>,
    errors: Vec<VerifyError>,
}

impl<'g> Verifier<'g> {
    fn new(graph: &'g Graph) -> Verifier<'g> {
        Verifier {
            graph,
            values: graph.values().map(|(id, _)| id).collect(),
            weights: graph.weights().map(|(id, _)| id).collect(),
            errors: vec![],
        }
    }

    fn error(&mut self, invariant: &'static str, line: Line, message: impl Into<String>) {
        self.errors.push(VerifyError { invariant, message: message.into(), line });
    }

    fn finish(self) -> Result<(), VerifyErrors> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let about: BTreeSet<Line> = self.errors.iter().map(|e| e.line).collect();
        let lines = lines(self.graph, &PrintOptions::default(), |line| about.contains(&line));
        let mut errors = self.errors;
        errors.sort_by_key(|e| lines.iter().position(|(line, _)| *line == e.line));
        Err(VerifyErrors { model: self.graph.name.clone(), errors, lines })
    }

    /// The name in the text form of a value that the graph has.
    fn value(&self, id: ValueId) -> String {
        format!("%{}", name(self.graph.name_of(id)))
    }

    /// The results of the inputs or states; dangling ones are reported elsewhere.
    fn sources(&self, op: &Op) -> Vec<ValueId> {
        self.graph.sources(op).into_iter().filter(|v| self.values.contains(v)).collect()
    }

    fn structure(&mut self) {
        let graph = self.graph;
        let mut defined = BTreeSet::new();
        for (id, node) in graph.nodes() {
            let sound = self.operands(id, node, &defined) & self.results(id, node, &mut defined);
            if sound {
                self.facts(id, node);
            }
        }
        for (id, value) in graph.values() {
            if !defined.contains(&id) {
                self.error("I2", Line::Model, format!("no node makes %{}", name(&value.name)));
            }
        }
        self.edges();
        self.names();
        self.outputs();
        let used: HashSet<Operand> = graph.nodes().flat_map(|(_, n)| n.operands().iter().copied()).collect();
        for id in self.weights.clone() {
            if !used.contains(&Operand::Weight(id)) {
                self.error("I7", Line::Weight(id), "no node uses this weight");
            }
        }
    }

    fn operands(&mut self, id: NodeId, node: &Node, defined: &BTreeSet<ValueId>) -> bool {
        let before = self.errors.len();
        for (i, operand) in node.operands().iter().enumerate() {
            let message = match operand {
                Operand::Weight(w) if !self.weights.contains(w) => {
                    format!("operand {i} is a weight that the graph does not have")
                }
                Operand::Value(v) if !self.values.contains(v) => {
                    format!("operand {i} is a value that the graph does not have")
                }
                Operand::Value(v) if !defined.contains(v) => {
                    format!("operand {i}, {}, is not made by an earlier node", self.value(*v))
                }
                _ => continue,
            };
            self.error("I1", Line::Node(id), message);
        }
        self.errors.len() == before
    }

    fn results(&mut self, id: NodeId, node: &Node, defined: &mut BTreeSet<ValueId>) -> bool {
        let before = self.errors.len();
        for (i, &result) in node.results().iter().enumerate() {
            if !self.values.contains(&result) {
                self.error(
                    "I2",
                    Line::Node(id),
                    format!("result {i} is a value that the graph does not have"),
                );
            } else if !defined.insert(result) {
                let message = format!("{} is the result of two nodes", self.value(result));
                self.error("I2", Line::Node(id), message);
            } else if self.graph.producer(result) != id {
                let message = format!("{} names another node as its producer", self.value(result));
                self.error("I2", Line::Node(id), message);
            }
        }
        self.errors.len() == before
    }

    fn facts(&mut self, id: NodeId, node: &Node) {
        let line = Line::Node(id);
        if matches!(node.op, Op::Input | Op::State) {
            if node.results().len() != 1 || (node.op == Op::Input && !node.operands().is_empty()) {
                return self.error("I3", line, format!("{} has one result and no operands", node.op.name()));
            }
            let operands: Vec<_> = node.operands().iter().map(|&o| self.graph.fact(o)).collect();
            match check_state(self.graph.type_of(node.results()[0]), &operands) {
                Ok(()) if node.operands().iter().all(|o| matches!(o, Operand::Weight(_))) => {}
                Ok(()) => self.error("I3", line, "a state starts at a weight"),
                Err(e) => self.error("I3", line, format!("{}: {e}", node.op.name())),
            }
            return;
        }
        let facts = match self.graph.infer(&node.op, node.operands()) {
            Ok(facts) => facts,
            Err(e) => return self.error("I3", line, format!("{}: {e}", node.op.name())),
        };
        if facts.len() != node.results().len() {
            let message =
                format!("inference gives results: {}, the node has {}", facts.len(), node.results().len());
            return self.error("I3", line, message);
        }
        for (&result, fact) in node.results().iter().zip(&facts) {
            let (found, value) = (self.graph.value(result).fact.clone(), self.value(result));
            if found.ty != fact.ty {
                let message =
                    format!("the type of {value} is {} by inference, the graph says {}", fact.ty, found.ty);
                self.error("I3", line, message);
            } else if found.content != fact.content {
                self.error("I3", line, format!("the known elements of {value} are not those of inference"));
            }
        }
    }

    fn edges(&mut self) {
        let graph = self.graph;
        if is_cyclic_directed(graph.petgraph()) {
            self.error("I4", Line::Model, "the graph has a cycle");
        }
        let mut counts: BTreeMap<NodeId, BTreeMap<NodeId, i64>> = BTreeMap::new();
        for edge in graph.petgraph().edge_references() {
            let (from, to) = (NodeId(edge.source().index() as u32), NodeId(edge.target().index() as u32));
            *counts.entry(to).or_default().entry(from).or_default() += 1;
        }
        for (id, node) in graph.nodes() {
            let mut edges = counts.remove(&id).unwrap_or_default();
            for operand in node.operands() {
                if let Operand::Value(v) = operand
                    && self.values.contains(v)
                {
                    *edges.entry(graph.producer(*v)).or_default() -= 1;
                }
            }
            if edges.values().any(|&n| n != 0) {
                self.error("I4", Line::Node(id), "the edges are not those of the operands");
            }
        }
    }

    fn names(&mut self) {
        let graph = self.graph;
        let mut seen = BTreeSet::new();
        for (id, value) in graph.values() {
            if !seen.insert(&value.name) {
                let message = format!("another value is called {}", self.value(id));
                self.error("I5", Line::Node(value.node), message);
            }
        }
        seen.clear();
        for (id, weight) in graph.weights() {
            if !seen.insert(&weight.name) {
                self.error("I5", Line::Weight(id), "another weight has this name");
            }
        }
        for (i, output) in graph.outputs().iter().enumerate() {
            if graph.outputs()[..i].iter().any(|o| o.role == output.role) {
                let message = match &output.role {
                    OutputRole::Named(n) => format!("{} is returned twice", name(n)),
                    OutputRole::State(s) if self.values.contains(s) => {
                        format!("state {} has two next values", self.value(*s))
                    }
                    OutputRole::State(_) => "a state has two next values".into(),
                };
                self.error("I5", Line::Return, message);
            }
        }
    }

    fn outputs(&mut self) {
        let graph = self.graph;
        let states: BTreeSet<ValueId> = graph.sources(&Op::State).into_iter().collect();
        for output in graph.outputs() {
            if !self.values.contains(&output.value) {
                self.error("I6", Line::Return, "an output is a value that the graph does not have");
                continue;
            }
            let OutputRole::State(state) = output.role else { continue };
            if !self.values.contains(&state) {
                self.error("I6", Line::Return, "the graph does not have the state of a next value");
            } else if !states.contains(&state) {
                let message = format!("{} is given a next value, but is no state", self.value(state));
                self.error("I6", Line::Return, message);
            } else if graph.type_of(state) != graph.type_of(output.value) {
                let (state_name, value) = (self.value(state), self.value(output.value));
                let types = (graph.type_of(state), graph.type_of(output.value));
                let message =
                    format!("state {state_name} is {}, its next value {value} is {}", types.0, types.1);
                self.error("I6", Line::Return, message);
            }
        }
    }

    fn data(&mut self) {
        for (id, weight) in self.graph.weights() {
            let mut found = vec![];
            not_finite(&weight.map, "", &mut found);
            for message in found {
                self.error(FINITE, Line::Weight(id), message);
            }
        }
    }

    fn language_model(&mut self) {
        let graph = self.graph;
        let vocabulary = graph.vocabulary.filter(|&n| n > 0);
        if vocabulary.is_none() {
            self.error(
                "L1",
                Line::Model,
                "the size of the vocabulary is not known; give it as (vocabulary N)",
            );
        }
        let inputs = self.sources(&Op::Input);
        match inputs[..] {
            [tokens] if *graph.type_of(tokens) == Type::tokens() => {}
            [tokens] => {
                let message = format!("the tokens are {}, not {}", graph.type_of(tokens), Type::tokens());
                self.error("L2", Line::Node(graph.producer(tokens)), message);
            }
            _ => self.error(
                "L2",
                Line::Model,
                format!("expected one input, the tokens, found {}", inputs.len()),
            ),
        }
        self.output(vocabulary);
        for state in self.sources(&Op::State) {
            let next = graph.outputs().iter().filter(|o| o.role == OutputRole::State(state)).count();
            if next != 1 {
                let line = Line::Node(graph.producer(state));
                self.error(
                    "L4",
                    line,
                    format!("expected one next value of this state in `return`, found {next}"),
                );
            }
        }
        for (id, node) in graph.nodes() {
            if !node.op.is_language_model_form() {
                let message = format!("{} has no place in language-model form", node.op.name());
                self.error("L5", Line::Node(id), message);
            }
            let Some(table) = node.operands().get(1).filter(|_| node.op == Op::Embedding) else { continue };
            let rows = match table {
                Operand::Weight(w) if self.weights.contains(w) => {
                    graph.weight(*w).map.shape().first().copied()
                }
                _ => None,
            };
            if rows.is_none() || rows != vocabulary {
                let words = vocabulary.map_or("unknown".into(), |n| n.to_string());
                let message = match rows {
                    Some(rows) => format!("the table has {rows} rows, the vocabulary {words} words"),
                    None => "the table must be a weight".into(),
                };
                self.error("L6", Line::Node(id), message);
            }
        }
    }

    fn output(&mut self, vocabulary: Option<usize>) {
        let graph = self.graph;
        let mut found = 0;
        for output in graph.outputs() {
            let OutputRole::Named(output_name) = &output.role else { continue };
            let head = [Head::Logits, Head::Hidden].into_iter().find(|h| h.name() == output_name);
            let Some(head) = head else {
                let other = name(output_name);
                let message =
                    format!("{other} is returned; language-model form returns logits or hidden, and states");
                self.error("L3", Line::Return, message);
                continue;
            };
            found += 1;
            let (Some(words), true) = (vocabulary, self.values.contains(&output.value)) else { continue };
            let ty = graph.type_of(output.value);
            let width = match head {
                Head::Logits => words,
                Head::Hidden => ty.shape.last().and_then(|d| d.as_constant()).unwrap_or(0),
            };
            let expected = Type::sequence(width);
            if *ty != expected {
                self.error("L3", Line::Return, format!("{} is {ty}, not {expected}", head.name()));
            }
        }
        if found != 1 {
            self.error(
                "L3",
                Line::Return,
                format!("expected one output `logits` or `hidden`, found {found}"),
            );
        }
    }
}

/// Collects the places where a map holds NaN or infinity.
fn not_finite(map: &LinearMap, path: &str, found: &mut Vec<String>) {
    for (tensor_name, tensor) in map.tensors() {
        if let Some(at) = first_not_finite(tensor) {
            let whole = path.is_empty() && tensor_name == "data";
            let place = if whole { String::new() } else { format!(" of {path}{tensor_name}") };
            found.push(format!("element {at}{place} is NaN or infinite"));
        }
    }
    for (child_name, child) in map.children() {
        not_finite(child, &format!("{path}{child_name}/"), found);
    }
}

/// The first element that is NaN or infinite: the first whose exponent bits are all ones.
fn first_not_finite(t: &Tensor) -> Option<usize> {
    // Whole blocks first: a maximum over integers is a loop that vectorises, and runs at memory speed.
    fn find<T: Copy>(all: &[T], magnitude: impl Fn(T) -> u64 + Copy, infinity: u64) -> Option<usize> {
        const BLOCK: usize = 4096;
        let bad = |block: &&[T]| block.iter().fold(0, |m, &x| m.max(magnitude(x))) >= infinity;
        let at = all.chunks(BLOCK).position(|block| bad(&block))? * BLOCK;
        all[at..].iter().position(|&x| magnitude(x) >= infinity).map(|i| at + i)
    }
    match t.data() {
        Data::F32(v) => find(v, |x| u64::from(x.to_bits() << 1 >> 1), f32::INFINITY.to_bits().into()),
        Data::F64(v) => find(v, |x| x.to_bits() << 1 >> 1, f64::INFINITY.to_bits()),
        Data::F16(v) => find(v, |x| u64::from(x.to_bits() & 0x7fff), half::f16::INFINITY.to_bits().into()),
        Data::Bf16(v) => find(v, |x| u64::from(x.to_bits() & 0x7fff), half::bf16::INFINITY.to_bits().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
