//! From a graph to buffers and decoded weights.

use super::super::error::InterpretError;
use super::super::matrix::{Decoder, Matrix};
use super::super::real::Real;
use super::{CHUNK, Cell, Kind, LanguageModel, Layer, Source};
use crate::ir::{Graph, InferError, Node, Op, Operand, Type, ValueId, WeightId};
use std::collections::BTreeMap;
use std::sync::Arc;

impl<T: Real> LanguageModel<T> {
    /// Decodes a graph in language-model form. Errors where it is not, or where a weight cannot be decoded.
    pub fn new(graph: &Graph) -> Result<LanguageModel<T>, InterpretError> {
        let mut builder = Builder {
            graph,
            decoder: Decoder::new(),
            matrices: BTreeMap::new(),
            buffers: BTreeMap::new(),
            states: BTreeMap::new(),
            widths: vec![],
            state_widths: vec![],
            layers: vec![],
        };
        let tokens = builder.tokens()?;
        for (id, node) in graph.nodes() {
            let kind = match &node.op {
                Op::Input => continue,
                Op::State => {
                    builder.state(node)?;
                    continue;
                }
                Op::Embedding => builder.embedding(node, tokens),
                Op::Lstm { .. } => builder.lstm(node),
                Op::Linear => builder.linear(node),
                Op::Binary(_) => builder.binary(node),
                Op::Unary(op) => builder.buffer(node, 0).map(|x| Kind::Unary { op: *op, x }),
                other => return Err(builder.form("operators of language-model form", other.name())),
            };
            let kind = kind?;
            let value = node.results()[0];
            let result = builder.widths.len();
            builder.widths.push(builder.width(node, value)?);
            builder.buffers.insert(value, result);
            builder.layers.push(Layer { node: id, result, read: graph.users(id).next().is_some(), kind });
        }
        for (&state, &index) in &builder.states {
            if !builder
                .layers
                .iter()
                .any(|l| matches!(&l.kind, Kind::Lstm(c) if c.h == index || c.c == index))
            {
                let name = format!("%{} that none does", graph.name_of(state));
                return Err(builder.form("states that an lstm reads", name));
            }
        }
        let logits = graph.output_named("logits").and_then(|v| builder.buffers.get(&v).copied());
        let Some(logits) = logits else {
            return Err(builder.form("an output \"logits\" that is a sequence", "none"));
        };
        if builder.widths[logits] == 0 {
            return Err(builder.form("logits of at least one word", "none"));
        }
        Ok(LanguageModel {
            logits,
            layers: builder.layers,
            widths: builder.widths,
            states: builder.state_widths,
            chunk: CHUNK,
        })
    }
}

struct Builder<'g, T> {
    graph: &'g Graph,
    decoder: Decoder<T>,
    matrices: BTreeMap<WeightId, Arc<Matrix<T>>>,
    /// The buffer of each sequence.
    buffers: BTreeMap<ValueId, usize>,
    /// The index of each state.
    states: BTreeMap<ValueId, usize>,
    widths: Vec<usize>,
    state_widths: Vec<usize>,
    layers: Vec<Layer<T>>,
}

impl<T: Real> Builder<'_, T> {
    fn form(&self, expected: impl Into<String>, found: impl Into<String>) -> InterpretError {
        InterpretError::Form {
            graph: self.graph.name.clone(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn wrong(&self, node: &Node, expected: impl Into<String>, found: impl Into<String>) -> InterpretError {
        InterpretError::node(self.graph, node, InferError::new(expected, found))
    }

    /// The one input.
    fn tokens(&self) -> Result<ValueId, InterpretError> {
        let inputs = self.graph.sources(&Op::Input);
        match inputs.as_slice() {
            &[v] if *self.graph.type_of(v) == Type::tokens() => Ok(v),
            all => {
                let types: Vec<String> = all
                    .iter()
                    .map(|&v| format!("%{}: {}", self.graph.name_of(v), self.graph.type_of(v)))
                    .collect();
                let found = if types.is_empty() { "none".to_string() } else { types.join(", ") };
                Err(self.form(format!("one input of type {}", Type::tokens()), found))
            }
        }
    }

    fn state(&mut self, node: &Node) -> Result<(), InterpretError> {
        let value = node.results()[0];
        let ty = self.graph.type_of(value);
        let width = ty.shape.get(1).and_then(|d| d.as_constant());
        match width.filter(|&n| *ty == Type::state(n)) {
            Some(n) => {
                self.states.insert(value, self.state_widths.len());
                self.state_widths.push(n);
                Ok(())
            }
            None => Err(self.form("states of type f32[B, hidden]", ty.to_string())),
        }
    }

    /// The features of a sequence.
    fn width(&self, node: &Node, value: ValueId) -> Result<usize, InterpretError> {
        let ty = self.graph.type_of(value);
        let width = ty.shape.get(2).and_then(|d| d.as_constant());
        width
            .filter(|&n| *ty == Type::sequence(n))
            .ok_or_else(|| self.wrong(node, "a result of type f32[S, B, features]", ty.to_string()))
    }

    /// The buffer of an operand that is a sequence.
    fn buffer(&self, node: &Node, index: usize) -> Result<usize, InterpretError> {
        let found = match node.operands().get(index) {
            Some(Operand::Value(v)) => match self.buffers.get(v) {
                Some(&b) => return Ok(b),
                None if self.states.contains_key(v) => format!("the state %{}", self.graph.name_of(*v)),
                None => format!("%{}", self.graph.name_of(*v)),
            },
            Some(Operand::Weight(w)) => format!("@{}", self.graph.weight(*w).name),
            _ => "none".to_string(),
        };
        let expected =
            format!("as operand {index} a sequence that embedding, lstm, linear or elementwise made");
        Err(self.wrong(node, expected, found))
    }

    fn weight(&self, node: &Node, index: usize) -> Result<WeightId, InterpretError> {
        match node.operands().get(index) {
            Some(Operand::Weight(w)) => Ok(*w),
            _ => Err(self.wrong(node, format!("a weight as operand {index}"), "none")),
        }
    }

    fn matrix(&mut self, w: WeightId) -> Result<Arc<Matrix<T>>, InterpretError> {
        if let Some(m) = self.matrices.get(&w) {
            return Ok(m.clone());
        }
        let m = Arc::new(self.decode(w)?);
        self.matrices.insert(w, m.clone());
        Ok(m)
    }

    fn decode(&mut self, w: WeightId) -> Result<Matrix<T>, InterpretError> {
        let weight = self.graph.weight(w);
        self.decoder
            .decode(&weight.map)
            .map_err(|error| InterpretError::Weight { name: weight.name.clone(), error })
    }

    /// The elements of a constant, whatever its rank.
    fn elements(&self, w: WeightId) -> Result<Vec<T>, InterpretError> {
        let weight = self.graph.weight(w);
        let dense = weight.map.to_dense().and_then(|t| Ok(T::elements(&t)?));
        dense.map_err(|error| InterpretError::Weight { name: weight.name.clone(), error })
    }

    fn embedding(&mut self, node: &Node, tokens: ValueId) -> Result<Kind<T>, InterpretError> {
        if node.operands().first() != Some(&Operand::Value(tokens)) {
            return Err(self.wrong(node, "the model's tokens", "another value"));
        }
        let table = self.weight(node, 1)?;
        Ok(Kind::Embedding { table, matrix: self.matrix(table)? })
    }

    fn linear(&mut self, node: &Node) -> Result<Kind<T>, InterpretError> {
        let x = self.buffer(node, 0)?;
        let weight = self.weight(node, 1)?;
        let bias = match node.operands().get(2) {
            None | Some(Operand::None) => None,
            Some(_) => Some(self.elements(self.weight(node, 2)?)?),
        };
        Ok(Kind::Linear { x, weight, matrix: self.matrix(weight)?, bias })
    }

    fn lstm(&mut self, node: &Node) -> Result<Kind<T>, InterpretError> {
        let Op::Lstm { gates } = node.op else {
            return Err(self.wrong(node, "an lstm", node.op.name()));
        };
        let state = |index: usize| -> Result<usize, InterpretError> {
            let name = if index == 1 { "h" } else { "c" };
            let value = match node.operands().get(index) {
                Some(Operand::Value(v)) if self.states.contains_key(v) => *v,
                _ => return Err(self.wrong(node, format!("a state as {name}"), "another value")),
            };
            if self.graph.next_state(value) != Some(node.results()[index]) {
                let (state, result) = (self.graph.name_of(value), self.graph.name_of(node.results()[index]));
                let expected = format!("its result %{result} returned as the next %{state}");
                return Err(self.wrong(node, expected, "another value, or none"));
            }
            Ok(self.states[&value])
        };
        let (h, c) = (state(1)?, state(2)?);
        let x = self.buffer(node, 0)?;
        // Its states are one chunk's first and last; a sequence cannot be made of them.
        let later = |v: &ValueId| self.graph.nodes().any(|(_, n)| n.operands().contains(&Operand::Value(*v)));
        if node.results()[1..].iter().any(later) {
            return Err(self.wrong(node, "states that are only returned", "one that another node reads"));
        }
        let weights = [self.weight(node, 3)?, self.weight(node, 4)?];
        let bias = self.elements(self.weight(node, 5)?)?;
        let input = self.matrix(weights[0])?;
        let recurrent = self.decode(weights[1])?.transposed();
        Ok(Kind::Lstm(Box::new(Cell { x, h, c, weights, gates, input, recurrent, bias })))
    }

    fn binary(&mut self, node: &Node) -> Result<Kind<T>, InterpretError> {
        let Op::Binary(op) = node.op else {
            return Err(self.wrong(node, "an elementwise operator", node.op.name()));
        };
        let source = |index: usize| match node.operands().get(index) {
            Some(Operand::Weight(w)) => {
                // Only the features may vary: what varies with steps or streams is no constant of the model.
                let shape = self.graph.weight(*w).map.shape();
                if shape.iter().rev().skip(1).any(|&d| d != 1) {
                    let found = format!("@{} of shape {shape:?}", self.graph.weight(*w).name);
                    return Err(self.wrong(node, "a constant of one row", found));
                }
                Ok(Source::Constant(self.elements(*w)?))
            }
            _ => Ok(Source::Buffer(self.buffer(node, index)?)),
        };
        Ok(Kind::Binary { op, a: source(0)?, b: source(1)? })
    }
}
