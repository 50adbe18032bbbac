//! From a program to buffers and decoded weights.

use super::super::error::InterpretError;
use super::super::matrix::{Decoder, Matrix};
use super::super::real::Real;
use super::{CHUNK, Cell, Kind, LanguageModel, Layer, Source};
use crate::ir;
use crate::ir::{Graph, Program, StepKind, WeightId};
use std::collections::BTreeMap;
use std::sync::Arc;

impl<T: Real> LanguageModel<T> {
    /// Decodes a graph in language-model form. Returns an error if it is not in that form, or if a weight cannot be decoded.
    pub fn new(graph: &Graph) -> Result<LanguageModel<T>, InterpretError> {
        let program = Program::of(graph)?;
        let mut builder = Builder { graph, decoder: Decoder::new(), matrices: BTreeMap::new() };
        let mut layers = vec![];
        for (_, step) in program.steps() {
            let kind = match &step.kind {
                StepKind::Embed(e) => Kind::Embedding { table: e.table, matrix: builder.matrix(e.table)? },
                StepKind::Apply(a) => Kind::Linear {
                    x: a.x.index(),
                    weight: a.weight,
                    matrix: builder.matrix(a.weight)?,
                    bias: a.bias.map(|b| builder.elements(b)).transpose()?,
                },
                StepKind::Cell(cell) => Kind::Cell(Box::new(builder.cell(cell)?)),
                StepKind::Map(map) => Kind::Map {
                    formula: map.formula.clone(),
                    operands: map.operands.iter().map(|o| builder.source(*o)).collect::<Result<_, _>>()?,
                },
            };
            layers.push(Layer { node: step.node, read: step.is_read, kind });
        }
        let widths = program.steps().map(|(_, s)| s.width).collect();
        let states = program.states().iter().map(|s| s.width).collect();
        Ok(LanguageModel { layers, widths, logits: program.logits().index(), states, chunk: CHUNK })
    }
}

struct Builder<'g, T> {
    graph: &'g Graph,
    decoder: Decoder<T>,
    /// A weight that several steps read is decoded once.
    matrices: BTreeMap<WeightId, Arc<Matrix<T>>>,
}

impl<T: Real> Builder<'_, T> {
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

    /// The elements of a constant, of any rank.
    fn elements(&self, w: WeightId) -> Result<Vec<T>, InterpretError> {
        let weight = self.graph.weight(w);
        let dense = weight.map.to_dense().and_then(|t| Ok(T::elements(&t)?));
        dense.map_err(|error| InterpretError::Weight { name: weight.name.clone(), error })
    }

    fn cell(&mut self, cell: &ir::Cell) -> Result<Cell<T>, InterpretError> {
        Ok(Cell {
            spec: cell.spec.clone(),
            x: cell.x.index(),
            states: cell.states.clone(),
            weights: [cell.input, cell.recurrent],
            input: self.matrix(cell.input)?,
            recurrent: self.decode(cell.recurrent)?.transposed(),
            bias: self.elements(cell.bias)?,
            parameters: cell.parameters.map(|p| self.elements(p)).transpose()?.unwrap_or_default(),
        })
    }

    fn source(&self, source: ir::Source) -> Result<Source<T>, InterpretError> {
        Ok(match source {
            ir::Source::Step(s) => Source::Buffer(s.index()),
            ir::Source::Constant(w) => Source::Constant(self.elements(w)?),
        })
    }
}
