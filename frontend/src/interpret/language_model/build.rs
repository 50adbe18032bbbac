//! From a program to buffers and decoded weights.

use super::super::error::InterpretError;
use super::super::matrix::{Decoder, Matrix};
use super::super::real::Real;
use super::{CHUNK, Cell, Kind, LanguageModel, Layer, Multiplier, Source, State, Term};
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
        for group in program.groups() {
            for step in group.steps().map(|id| program.step(id)) {
                let kind = builder.kind(&step.kind, group.is_recurrent)?;
                layers.push(Layer { node: step.node, read: step.is_read, kind });
            }
        }
        let start = |state: &ir::State| match state.initial {
            Some(w) => builder.elements(w),
            None => Ok(vec![T::default(); state.width]),
        };
        Ok(LanguageModel {
            layers,
            layout: program.layout(),
            output: program.output(),
            head: program.head(),
            vocabulary: program.vocabulary(),
            start: State { values: program.states().iter().map(start).collect::<Result<_, _>>()? },
            chunk: CHUNK,
        })
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

    fn optional(&self, w: Option<WeightId>) -> Result<Option<Vec<T>>, InterpretError> {
        w.map(|w| self.elements(w)).transpose()
    }

    fn kind(&mut self, kind: &StepKind, is_recurrent: bool) -> Result<Kind<T>, InterpretError> {
        Ok(match kind {
            StepKind::Embed(e) => Kind::Embed { table: e.table, matrix: self.matrix(e.table)? },
            StepKind::Apply(a) => {
                let mut terms = vec![];
                for &(x, weight) in &a.terms {
                    let matrix = self.matrix(weight)?;
                    let matrix = match is_recurrent {
                        true => Multiplier::Stepwise(matrix.transposed()),
                        false => Multiplier::Batched(matrix),
                    };
                    terms.push(Term { x, weight, matrix });
                }
                Kind::Apply { terms, bias: self.optional(a.bias)? }
            }
            StepKind::Cell(cell) => Kind::Cell(Box::new(Cell {
                spec: cell.spec.clone(),
                x: cell.x,
                states: cell.states.clone(),
                weights: [cell.input, cell.recurrent],
                input: self.matrix(cell.input)?,
                recurrent: self.decode(cell.recurrent)?.transposed(),
                bias: self.elements(cell.bias)?,
                parameters: self.optional(cell.parameters)?.unwrap_or_default(),
            })),
            StepKind::Map(map) => {
                let operand = |source: &ir::Source| {
                    Ok(match *source {
                        ir::Source::Slice(x) => Source::Slice(x),
                        ir::Source::Constant(w) => Source::Constant(self.elements(w)?),
                    })
                };
                let operands = map.operands.iter().map(operand).collect::<Result<_, InterpretError>>()?;
                Kind::Map { formula: map.formula.clone(), operands }
            }
            StepKind::Norm(n) => Kind::Norm {
                x: n.x,
                scale: self.optional(n.scale)?,
                shift: self.optional(n.shift)?,
                epsilon: T::of(n.epsilon.into()),
            },
            StepKind::LogSoftmax(x) => Kind::LogSoftmax(*x),
            StepKind::Concat(parts) => Kind::Concat(parts.clone()),
        })
    }
}
