//! From a graph to buffers and decoded weights.

use super::super::error::InterpretError;
use super::super::matrix::{Decoder, Matrix};
use super::super::real::Real;
use super::{CHUNK, Cell, Kind, LanguageModel, Layer, Source};
use crate::ir;
use crate::ir::{Graph, InferError, LstmLayer, Node, NodeId, Op, Operand, ValueId, WeightId};
use std::collections::BTreeMap;
use std::sync::Arc;

impl<T: Real> LanguageModel<T> {
    /// Decodes a graph in language-model form. Errors where it is not, or where a weight cannot be decoded.
    pub fn new(graph: &Graph) -> Result<LanguageModel<T>, InterpretError> {
        let model = ir::LanguageModel::of(graph)?;
        let mut builder = Builder {
            graph,
            decoder: Decoder::new(),
            matrices: BTreeMap::new(),
            buffers: BTreeMap::new(),
            states: vec![],
        };
        let (mut layers, mut widths) = (vec![], vec![]);
        for layer in model.layers() {
            let (node, value, kind) = match layer {
                ir::Layer::Embedding(e) => {
                    let kind = Kind::Embedding { table: e.table, matrix: builder.matrix(e.table)? };
                    (e.node, e.result, kind)
                }
                ir::Layer::Lstm(l) => (l.node, l.result, builder.lstm(l)?),
                ir::Layer::Linear(l) => {
                    let bias = l.bias.map(|b| builder.elements(b)).transpose()?;
                    let x = builder.buffer(graph.node(l.node), 0)?;
                    let matrix = builder.matrix(l.weight)?;
                    (l.node, l.result, Kind::Linear { x, weight: l.weight, matrix, bias })
                }
                ir::Layer::Elementwise { node, result } => (*node, *result, builder.elementwise(*node)?),
            };
            let result = widths.len();
            builder.buffers.insert(value, result);
            widths.push(graph.type_of(value).shape.last().and_then(|d| d.as_constant()).unwrap_or(0));
            layers.push(Layer { node, result, read: graph.users(node).next().is_some(), kind });
        }
        let logits = builder.buffers[&model.logits()];
        Ok(LanguageModel { layers, widths, logits, states: builder.states, chunk: CHUNK })
    }
}

struct Builder<'g, T> {
    graph: &'g Graph,
    decoder: Decoder<T>,
    /// A weight that several nodes read is decoded once.
    matrices: BTreeMap<WeightId, Arc<Matrix<T>>>,
    /// The buffer of each sequence.
    buffers: BTreeMap<ValueId, usize>,
    /// The width of each state.
    states: Vec<usize>,
}

impl<T: Real> Builder<'_, T> {
    fn wrong(&self, node: &Node, expected: impl Into<String>, found: impl Into<String>) -> InterpretError {
        InterpretError::node(self.graph, node, InferError::new(expected, found))
    }

    /// The buffer of an operand, which must be a sequence.
    fn buffer(&self, node: &Node, index: usize) -> Result<usize, InterpretError> {
        let found = match node.operands().get(index) {
            Some(Operand::Value(v)) => match self.buffers.get(v) {
                Some(&b) => return Ok(b),
                None => format!("%{}: {}", self.graph.name_of(*v), self.graph.type_of(*v)),
            },
            Some(Operand::Weight(w)) => format!("@{}", self.graph.weight(*w).name),
            Some(Operand::None) | None => "none".to_string(),
        };
        Err(self.wrong(node, format!("a sequence as operand {index}"), found))
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

    fn lstm(&mut self, l: &LstmLayer) -> Result<Kind<T>, InterpretError> {
        let x = self.buffer(self.graph.node(l.node), 0)?;
        let (h, c) = (self.states.len(), self.states.len() + 1);
        self.states.extend([l.hidden; 2]);
        Ok(Kind::Lstm(Box::new(Cell {
            x,
            h,
            c,
            weights: [l.input, l.recurrent],
            gates: l.gates,
            input: self.matrix(l.input)?,
            recurrent: self.decode(l.recurrent)?.transposed(),
            bias: self.elements(l.bias)?,
        })))
    }

    fn elementwise(&mut self, id: NodeId) -> Result<Kind<T>, InterpretError> {
        let node = self.graph.node(id);
        match node.op {
            Op::Unary(op) => Ok(Kind::Unary { op, x: self.buffer(node, 0)? }),
            Op::Binary(op) => Ok(Kind::Binary { op, a: self.source(node, 0)?, b: self.source(node, 1)? }),
            _ => Err(self.wrong(node, "an elementwise operator", node.op.name())),
        }
    }

    fn source(&self, node: &Node, index: usize) -> Result<Source<T>, InterpretError> {
        match node.operands().get(index) {
            // The result is a sequence, so the constant has one row: one element, or one for each feature.
            Some(Operand::Weight(w)) => Ok(Source::Constant(self.elements(*w)?)),
            _ => Ok(Source::Buffer(self.buffer(node, index)?)),
        }
    }
}
