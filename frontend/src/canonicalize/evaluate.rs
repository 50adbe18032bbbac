//! Abstract evaluation: what every generic value is, node by node.

use super::draft::Draft;
use super::error::{CanonicalizeError, label};
use super::fold;
use super::layout::{Axis, Layout};
use super::value::{Abstract, Finals, Sequence, StateSlice};
use crate::ir::{Dim, Graph, Node, Op, Operand, ValueId};
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// The state of an evaluation.
pub(super) struct Evaluator<'g> {
    pub(super) graph: &'g Graph,
    pub(super) draft: Draft,
    /// The axis of the tokens that counts time steps, once an LSTM has determined it.
    pub(super) steps_axis: Option<usize>,
    values: BTreeMap<ValueId, Abstract>,
    /// Remaining uses of each value: a constant is dropped after its last use.
    uses: BTreeMap<ValueId, usize>,
    fold_limit: usize,
}

pub(super) type Result<T> = std::result::Result<T, CanonicalizeError>;

/// The current node, with its operands' values.
pub(super) struct Site<'g> {
    pub(super) node: &'g Node,
    pub(super) label: String,
    pub(super) operands: Vec<Option<Abstract>>,
}

impl Site<'_> {
    /// An operand; `None` if it is not given.
    pub(super) fn operand(&self, k: usize) -> Option<&Abstract> {
        self.operands.get(k)?.as_ref()
    }

    pub(super) fn unsupported<T>(&self, why: impl Into<String>) -> Result<T> {
        Err(CanonicalizeError::Unsupported { node: self.label.clone(), why: why.into() })
    }

    pub(super) fn wrong_layout<T>(&self, expected: &str, found: &Layout) -> Result<T> {
        Err(CanonicalizeError::Layout {
            node: self.label.clone(),
            expected: expected.to_string(),
            found: found.to_string(),
        })
    }
}

impl<'g> Evaluator<'g> {
    pub(super) fn new(graph: &'g Graph) -> Evaluator<'g> {
        let mut uses = BTreeMap::new();
        for operand in graph.nodes().flat_map(|(_, n)| n.operands()) {
            if let Operand::Value(v) = operand {
                *uses.entry(*v).or_insert(0) += 1;
            }
        }
        for output in graph.outputs() {
            *uses.entry(output.value).or_insert(0) += 1;
        }
        let weights: usize = graph.weights().map(|(_, w)| w.map.shape().iter().product::<usize>()).sum();
        Evaluator {
            graph,
            draft: Draft::default(),
            steps_axis: None,
            values: BTreeMap::new(),
            uses,
            fold_limit: weights.max(fold::MIN_LIMIT),
        }
    }

    /// Evaluates every node.
    pub(super) fn run(&mut self) -> Result<()> {
        self.sources()?;
        for (_, node) in self.graph.nodes() {
            if matches!(node.op, Op::Input | Op::State) {
                continue;
            }
            let operands = node.operands().iter().map(|&o| self.read(node, o)).collect::<Result<_>>()?;
            let site = Site { node, label: label(self.graph, node), operands };
            let results = self.node(&site)?;
            let Site { label, .. } = site;
            for operand in node.operands() {
                if let Operand::Value(v) = operand
                    && let Some(n) = self.uses.get_mut(v)
                {
                    *n -= 1;
                    if *n == 0 {
                        self.values.remove(v);
                    }
                }
            }
            for (&value, result) in node.results().iter().zip(results) {
                if self.uses.get(&value).is_some_and(|&n| n > 0) {
                    let result = self.ranked(&label, value, result)?;
                    self.values.insert(value, result);
                }
            }
        }
        Ok(())
    }

    /// A result with as many axes as its type says: broadcasting with a constant of higher rank adds axes of size 1.
    fn ranked(&self, label: &str, value: ValueId, mut result: Abstract) -> Result<Abstract> {
        let shape = &self.graph.type_of(value).shape;
        let layout = match &mut result {
            Abstract::Tokens(layout) => layout,
            Abstract::Sequence(s) => &mut s.layout,
            Abstract::State(s) => &mut s.layout,
            Abstract::Finals(f) => &mut f.layout,
            _ => return Ok(result),
        };
        if layout.rank() != shape.len() {
            *layout = layout.regrouped(shape).ok_or_else(|| CanonicalizeError::Layout {
                node: label.to_string(),
                expected: format!("axes that group into {}", self.graph.type_of(value)),
                found: layout.to_string(),
            })?;
        }
        Ok(result)
    }

    /// The value of an output.
    pub(super) fn value(&self, id: ValueId) -> &Abstract {
        &self.values[&id]
    }

    fn sources(&mut self) -> Result<()> {
        let used = |v: &ValueId| self.uses.contains_key(v);
        let all: Vec<ValueId> =
            [Op::Input, Op::State].iter().flat_map(|op| self.graph.sources(op)).filter(used).collect();
        let is_integer = |v: &ValueId| matches!(self.graph.type_of(*v).dtype, DType::I64 | DType::I32);
        let show = |v: &ValueId| format!("%{}: {}", self.graph.name_of(*v), self.graph.type_of(*v));
        let integers: Vec<ValueId> = all.iter().copied().filter(is_integer).collect();
        match integers.len() {
            0 => return Err(CanonicalizeError::NoTokens { inputs: all.iter().map(show).collect() }),
            1 => {}
            _ => {
                return Err(CanonicalizeError::SeveralTokens { inputs: integers.iter().map(show).collect() });
            }
        }
        for v in all {
            let shape = &self.graph.type_of(v).shape;
            let value = if v == integers[0] {
                Abstract::Tokens(Layout::new(shape, Axis::Token))
            } else {
                let ranges = vec![(0, None); shape.len()];
                Abstract::State(StateSlice { input: v, ranges, layout: Layout::new(shape, Axis::State) })
            };
            self.values.insert(v, value);
        }
        Ok(())
    }

    fn read(&self, node: &Node, operand: Operand) -> Result<Option<Abstract>> {
        Ok(match operand {
            Operand::None => None,
            Operand::Value(v) => Some(self.values[&v].clone()),
            Operand::Weight(w) => {
                let fold = |e: crate::ir::MapError| CanonicalizeError::Fold {
                    node: label(self.graph, node),
                    why: e.to_string(),
                };
                let map = &self.graph.weight(w).map;
                // A tensor without data may still be shape arithmetic or unused: only reading it fails.
                Some(Abstract::Constant(match &**map {
                    crate::ir::LinearMap::Dense(t) => t.clone(),
                    other => other.to_dense().map_err(fold)?,
                }))
            }
        })
    }

    fn node(&mut self, site: &Site<'g>) -> Result<Vec<Abstract>> {
        let node = site.node;
        if node.results().iter().all(|&v| self.graph.content_of(v).is_some()) {
            return Ok(vec![Abstract::Integers; node.results().len()]);
        }
        if let Some(folded) = self.fold(site)? {
            return Ok(folded);
        }
        let one = |a: Abstract| vec![a];
        Ok(match &node.op {
            Op::OnnxLstm(lstm) => self.lstm(site, lstm)?,
            Op::Gather { axis } => one(self.gather(site, *axis)?),
            Op::MatMul => one(self.mat_mul(site)?),
            Op::Gemm { alpha, beta, trans_a, trans_b } => {
                one(self.gemm(site, [*alpha, *beta], [*trans_a, *trans_b])?)
            }
            Op::Binary(op) => one(self.binary(site, *op)?),
            Op::Unary(op) => one(self.unary(site, *op)?),
            Op::Softmax { axis } | Op::LogSoftmax { axis } => one(self.softmax(site, *axis)?),
            Op::Slice => one(self.slice(site)?),
            Op::Split { axis, outputs } => self.split(site, *axis, *outputs)?,
            Op::Concat { axis } => one(self.concat(site, *axis)?),
            Op::Transpose { perm } => one(self.rearrange(site, "", |l| l.transposed(perm))?),
            Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze => {
                let shape = self.result_shape(site).to_vec();
                let expected = format!("axes that group into {}", self.graph.type_of(node.results()[0]));
                one(self.rearrange(site, &expected, |l| l.regrouped(&shape))?)
            }
            Op::Identity => one(self.rearrange(site, "", |l| Some(l.clone()))?),
            Op::Dropout => {
                let mut results = one(self.rearrange(site, "", |l| Some(l.clone()))?);
                results.resize(node.results().len(), Abstract::Other("the mask of a dropout".into()));
                results
            }
            Op::Cast { to } => one(self.cast(site, *to)?),
            Op::ConstantOfShape { value } if value.value == 0.0 => one(Abstract::Zeros),
            Op::ConstantOfShape { .. } => one(Abstract::Other("a constant other than zero".into())),
            Op::Expand => one(self.expand(site)?),
            Op::Shape { .. } => one(Abstract::Other("a shape".into())),
            Op::ReduceMean { .. } => return site.unsupported("a mean has no place in a language model"),
            Op::Input | Op::State | Op::Embedding | Op::Lstm(_) | Op::Linear => {
                return site.unsupported("an operator of language-model form among generic ones");
            }
        })
    }

    pub(super) fn result_shape(&self, site: &Site<'_>) -> &'g [Dim] {
        &self.graph.type_of(site.node.results()[0]).shape
    }

    /// The elements of an operand that is shape arithmetic.
    pub(super) fn elements(&self, site: &Site<'_>, k: usize) -> Option<Vec<Dim>> {
        self.graph.fact(*site.node.operands().get(k)?)?.content
    }

    /// The elements of an operand that is a constant of integers.
    pub(super) fn integers(&self, site: &Site<'_>, k: usize) -> Option<Vec<i64>> {
        self.elements(site, k)?.iter().map(Dim::as_integer).collect()
    }

    /// An operand as a tensor, if it is constant.
    pub(super) fn constant(&self, site: &Site<'_>, k: usize) -> Option<Tensor> {
        match site.operand(k)? {
            Abstract::Constant(t) => Some(t.clone()),
            Abstract::Integers => {
                let values = self.integers(site, k)?;
                let ty = self.graph.fact(site.node.operands()[k])?.ty;
                let shape: Option<Vec<usize>> = ty.shape.iter().map(Dim::as_constant).collect();
                match ty.dtype {
                    DType::I64 => Tensor::from_i64(shape?, values).ok(),
                    DType::I32 => {
                        let values: Option<_> = values.iter().map(|&v| i32::try_from(v).ok()).collect();
                        Tensor::from_i32(shape?, values?).ok()
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The results of a node all of whose operands are constant.
    fn fold(&self, site: &Site<'_>) -> Result<Option<Vec<Abstract>>> {
        if matches!(site.node.op, Op::OnnxLstm(_)) {
            return Ok(None);
        }
        let mut operands = vec![];
        for k in 0..site.operands.len() {
            operands.push(match site.operand(k) {
                None => None,
                Some(_) => match self.constant(site, k) {
                    Some(t) => Some(t),
                    None => return Ok(None),
                },
            });
        }
        for &result in site.node.results() {
            let shape = &self.graph.type_of(result).shape;
            let known: Option<Vec<usize>> = shape.iter().map(Dim::as_constant).collect();
            let elements = known.and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
            if elements.is_none_or(|n| n > self.fold_limit) {
                return Ok(None);
            }
        }
        let results = fold::evaluate(&site.node.op, &operands)
            .map_err(|why| CanonicalizeError::Fold { node: site.label.clone(), why })?;
        Ok(Some(results.into_iter().map(Abstract::Constant).collect()))
    }

    /// Changes the layout of the first operand, for any kind of value.
    pub(super) fn rearrange(
        &self,
        site: &Site<'_>,
        expected: &str,
        change: impl Fn(&Layout) -> Option<Layout>,
    ) -> Result<Abstract> {
        let change = |layout: &Layout| match change(layout) {
            Some(l) => Ok(l),
            None => site.wrong_layout(expected, layout),
        };
        Ok(match site.operand(0) {
            Some(Abstract::Tokens(layout)) => Abstract::Tokens(change(layout)?),
            Some(Abstract::Sequence(s)) => {
                Abstract::Sequence(Sequence { layout: change(&s.layout)?, ..s.clone() })
            }
            Some(Abstract::State(s)) => {
                Abstract::State(StateSlice { layout: change(&s.layout)?, ..s.clone() })
            }
            Some(Abstract::Finals(f)) => Abstract::Finals(Finals { layout: change(&f.layout)?, ..f.clone() }),
            Some(Abstract::Zeros) => Abstract::Zeros,
            Some(other) => return site.unsupported(format!("it reads {}", self.describe(other))),
            None => return site.unsupported("its operand is missing"),
        })
    }

    fn cast(&self, site: &Site<'_>, to: DType) -> Result<Abstract> {
        match site.operand(0) {
            Some(Abstract::Tokens(_)) if to.is_float() => Ok(Abstract::Other("tokens as numbers".into())),
            Some(Abstract::Sequence(_) | Abstract::State(_) | Abstract::Finals(_)) if !to.is_float() => {
                Ok(Abstract::Other(format!("features cast to {to}")))
            }
            _ => self.rearrange(site, "", |l| Some(l.clone())),
        }
    }

    fn expand(&self, site: &Site<'_>) -> Result<Abstract> {
        let operand = self.graph.fact(site.node.operands()[0]);
        if operand.is_some_and(|f| f.ty.shape == self.result_shape(site)) {
            return self.rearrange(site, "", |l| Some(l.clone()));
        }
        match site.operand(0) {
            Some(Abstract::Zeros) => Ok(Abstract::Zeros),
            Some(Abstract::Constant(t)) if is_zero(t) => Ok(Abstract::Zeros),
            Some(Abstract::Constant(_)) => Ok(Abstract::Other("a constant other than zero".into())),
            Some(other) => site.unsupported(format!("it repeats {}", self.describe(other))),
            None => site.unsupported("its operand is missing"),
        }
    }

    /// A value's description, for messages.
    pub(super) fn describe(&self, value: &Abstract) -> String {
        match value {
            Abstract::Constant(t) => format!("a constant {}{:?}", t.dtype(), t.shape()),
            Abstract::Integers => "a shape".into(),
            Abstract::Zeros => "zeros".into(),
            Abstract::Tokens(_) => "the tokens".into(),
            Abstract::Sequence(s) => match s.normalised {
                Some(name) => format!("the result of {name}"),
                None => format!("a sequence of {} features", s.features),
            },
            Abstract::State(s) => format!("input %{}", self.graph.name_of(s.input)),
            Abstract::Finals(_) => "states after the last step".into(),
            Abstract::Other(what) => what.clone(),
        }
    }
}

/// Whether every element is zero.
pub(super) fn is_zero(t: &Tensor) -> bool {
    t.to_f32().is_ok_and(|v| v.iter().all(|&x| x == 0.0))
}
