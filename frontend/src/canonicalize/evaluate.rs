//! Abstract evaluation: what every generic value is, node by node.

use super::constant::{self, Constant, wrong};
use super::draft::{Draft, Kind, SlotId, Term};
use super::error::label;
use super::sizes::Sizes;
use super::states::Stepwise;
use super::unrolled::Repeated;
use super::value::{ANY, Abstract, Array, Code, MOST_POSITIONS, Row, Why};
use crate::interpret;
use crate::ir::{Graph, LinearMap, Node, NodeId, Onnx, OnnxKind, Op, Operand, ValueId};
use crate::tensor::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// Results of at most this many elements are always folded; larger ones only if they are no larger than all weights together.
const MIN_FOLD_LIMIT: usize = 1 << 20;

/// The maximum number of elements of an input.
pub(super) const MOST_ELEMENTS: usize = 1 << 24;

/// The state of an evaluation.
pub(super) struct Evaluator<'g> {
    pub(super) graph: &'g Graph,
    pub(super) sizes: &'g Sizes,
    pub(super) draft: Draft,
    values: BTreeMap<ValueId, Abstract>,
    /// Remaining uses of each value: a constant is dropped after its last use.
    uses: BTreeMap<ValueId, usize>,
    fold_limit: usize,
    /// The states of loops.
    pub(super) carried: Vec<Stepwise>,
    /// Of loops that are unrolled.
    pub(super) repeated: Vec<Repeated>,
    /// Which of these an operand of a node is, at which step.
    pub(super) readers: HashMap<(NodeId, usize), (usize, usize)>,
    /// Iterations of all loops so far.
    pub(super) iterations: usize,
    /// Loops around the current graph.
    depth: usize,
    /// A value that is looked up and is not the tokens as they are, with its shape.
    pub(super) cut: Option<(ValueId, Vec<usize>)>,
}

pub(super) type Result<T> = std::result::Result<T, Why>;

/// An error that has no more specific form.
pub(super) fn other<T>(why: impl Into<String>) -> Result<T> {
    Err(Why::Other(why.into()))
}

/// What one line of elements becomes.
pub(super) enum Line {
    /// The result of a step.
    Step(SlotId),
    /// Constants.
    Values(Vec<f32>),
}

/// The current node, with its operands' values.
pub(super) struct Site<'g> {
    pub(super) node: &'g Node,
    pub(super) label: String,
    pub(super) operands: Vec<Option<Abstract>>,
}

impl Site<'_> {
    /// An operand, if it is constant.
    pub(super) fn constant(&self, k: usize) -> Option<&Constant> {
        match self.operands.get(k)?.as_ref()? {
            Abstract::Constant(c) => Some(c),
            _ => None,
        }
    }

    pub(super) fn is_given(&self, k: usize) -> bool {
        self.operands.get(k).is_some_and(Option::is_some)
    }

    /// An operand as an array, constant or not.
    pub(super) fn array(&self, k: usize) -> Result<Array> {
        match self.operands.get(k).and_then(Option::as_ref) {
            Some(Abstract::Array(a)) => Ok(a.clone()),
            Some(Abstract::Constant(c)) => encode(&c.dense()?),
            _ => other("an operand is missing"),
        }
    }

    /// An operand that must be known when the model is compiled.
    pub(super) fn known(&self, k: usize, operand: &str) -> Result<&Constant> {
        match self.constant(k) {
            Some(c) => Ok(c),
            None => other(format!(
                "its {operand} must be a constant: the values of weights are needed to compile the model"
            )),
        }
    }
}

/// A constant as an array of codes.
pub(super) fn encode(t: &Tensor) -> Result<Array> {
    let values = t.to_f32().map_err(wrong)?;
    let codes = values.iter().map(|&x| Code::constant(x).0).collect();
    Ok(Array::new(tensor(t.shape(), codes)?, t.dtype()))
}

pub(super) fn tensor(shape: &[usize], codes: Vec<i64>) -> Result<Tensor> {
    Tensor::from_i64(shape, codes).map_err(wrong)
}

pub(super) fn integers(shape: &[usize]) -> Tensor {
    let values = shape.iter().map(|&d| d as i64).collect();
    Tensor::from_i64([shape.len()], values).expect("as many as there are")
}

/// One operator on tensors.
pub(super) fn evaluate(op: &Op, operands: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    interpret::evaluate(op, operands).map_err(|e| Why::Other(e.to_string()))
}

/// One operator with one result.
pub(super) fn evaluate_one(op: &Op, operands: &[Tensor]) -> Result<Tensor> {
    let operands: Vec<Option<Tensor>> = operands.iter().cloned().map(Some).collect();
    match evaluate(op, &operands)?.into_iter().next() {
        Some(t) => Ok(t),
        None => other("it has no result"),
    }
}

/// An elementwise operator on numbers, some of which it may take as conditions.
pub(super) fn evaluate_numbers(op: &Op, numbers: Vec<Tensor>) -> Result<Tensor> {
    let is_condition = |k: usize| match op {
        Op::Onnx(Onnx::Where {}) => k == 0,
        Op::Onnx(op) => matches!(op, Onnx::Not {} | Onnx::And {} | Onnx::Or {} | Onnx::Xor {}),
        _ => false,
    };
    let mut operands = vec![];
    for (k, x) in numbers.into_iter().enumerate() {
        operands.push(match is_condition(k) {
            true => evaluate_one(&Op::Cast { to: DType::Bool }, &[x])?,
            false => x,
        });
    }
    evaluate_one(op, &operands)
}

impl<'g> Evaluator<'g> {
    pub(super) fn new(graph: &'g Graph, sizes: &'g Sizes) -> Evaluator<'g> {
        let weights: usize = graph.weights().map(|(_, w)| w.map.shape().iter().product::<usize>()).sum();
        let fold_limit = weights.max(MIN_FOLD_LIMIT);
        Evaluator {
            graph,
            sizes,
            draft: Draft::default(),
            values: BTreeMap::new(),
            uses: uses(graph),
            fold_limit,
            carried: vec![],
            repeated: vec![],
            readers: HashMap::new(),
            iterations: 0,
            depth: 0,
            cut: None,
        }
    }

    /// Evaluates every node.
    pub(super) fn run(&mut self) {
        for op in [Op::Input, Op::State] {
            for v in self.graph.sources(&op) {
                let value = self.source(v).unwrap_or_else(|why| {
                    Abstract::poison(&format!("input `{}`", self.graph.name_of(v)), why)
                });
                self.values.insert(v, value);
            }
        }
        self.nodes();
    }

    /// The outputs of a graph inside the current one, for its inputs.
    pub(super) fn within(
        &mut self,
        graph: &'g Graph,
        inputs: impl Iterator<Item = (ValueId, Abstract)>,
    ) -> Vec<Abstract> {
        let outer = std::mem::replace(&mut self.graph, graph);
        let values = std::mem::replace(&mut self.values, inputs.collect());
        let uses = std::mem::replace(&mut self.uses, uses(graph));
        self.depth += 1;
        self.nodes();
        self.depth -= 1;
        let outputs = graph.outputs().iter().map(|o| self.value(o.value).clone()).collect();
        (self.graph, self.values, self.uses) = (outer, values, uses);
        outputs
    }

    fn nodes(&mut self) {
        let graph = self.graph;
        for (id, node) in graph.nodes() {
            if matches!(node.op, Op::Input | Op::State) {
                continue;
            }
            let results = self.results(id, node);
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
                    let result = match self.depth == 0 && value == self.sizes.tokens {
                        true => self.tokens("the tokens", self.graph.type_of(value).dtype).unwrap_or(result),
                        false => result,
                    };
                    self.values.insert(value, result);
                }
            }
        }
    }

    /// A node's results; poison if it has no abstract form, or reads poison.
    fn results(&mut self, id: NodeId, node: &'g Node) -> Vec<Abstract> {
        let count = node.results().len();
        let mut operands = vec![];
        for (k, &operand) in node.operands().iter().enumerate() {
            let state = if self.depth == 0 { self.repeated(id, k) } else { None };
            operands.push(match state.map_or_else(|| self.read(operand), |state| Ok(Some(state))) {
                Ok(value) => value,
                Err(why) => return vec![Abstract::poison(&label(self.graph, node), why); count],
            });
        }
        let needs = |k: usize| node.op != Op::If || k == 0;
        let poison = operands.iter().enumerate().find_map(|(k, o)| match o {
            Some(Abstract::Poison(reason)) if needs(k) => Some(reason.clone()),
            _ => None,
        });
        if let Some(reason) = poison {
            return vec![Abstract::Poison(reason); count];
        }
        let site = Site { node, label: label(self.graph, node), operands };
        match self.node(&site) {
            Ok(mut results) => {
                let missing = Abstract::poison(&site.label, Why::Other("it has no such result".into()));
                results.resize(count, missing);
                results
            }
            Err(why) => vec![Abstract::poison(&site.label, why); count],
        }
    }

    /// Keeps values until the end.
    pub(super) fn keep(&mut self, operands: &[Operand]) {
        for operand in operands {
            if let Operand::Value(v) = operand {
                *self.uses.entry(*v).or_insert(0) += 1;
            }
        }
    }

    /// A value that has been evaluated.
    pub(super) fn known(&self, operand: Operand) -> Option<Abstract> {
        match operand {
            Operand::Value(v) => self.values.get(&v).cloned(),
            operand => self.read(operand).ok()?,
        }
    }

    /// The value of an output.
    pub(super) fn value(&self, id: ValueId) -> &Abstract {
        &self.values[&id]
    }

    fn source(&mut self, v: ValueId) -> Result<Abstract> {
        let name = format!("input `{}`", self.graph.name_of(v));
        let dtype = self.graph.type_of(v).dtype;
        let shape = self.sizes.shape(v);
        if shape.iter().fold(1usize, |n, &d| n.saturating_mul(d)) > MOST_ELEMENTS {
            return other(format!(
                "it has shape {shape:?}; export the model with smaller or open dimensions"
            ));
        }
        let (streams, steps) = (self.sizes.streams, self.sizes.steps);
        if v == self.sizes.tokens {
            return self.tokens(&name, dtype);
        }
        if !dtype.is_float() && shape.len() <= 1 {
            // Lengths of the texts: each is whole.
            let full = vec![steps as i64; shape.iter().product()];
            let lengths = Tensor::from_i64(shape, full).map_err(wrong)?;
            return Ok(Abstract::Constant(evaluate_one(&Op::Cast { to: dtype }, &[lengths])?.into()));
        }
        if !dtype.is_float() && shape == self.sizes.shape(self.sizes.tokens) {
            // Words that a loss is computed of, or a mask.
            let slot = self.draft.push(&name, Kind::Input(v), 1);
            let places = self.sizes.places();
            let codes = places.iter().map(|[t, b]| Code::reference(slot, t * streams + b, 0).0).collect();
            return Ok(Abstract::Array(Array::new(tensor(shape, codes)?, dtype)));
        }
        let axis = self.sizes.streams_axis(v);
        let width = shape.iter().enumerate().filter(|(k, _)| Some(*k) != axis).map(|(_, d)| d).product();
        let slot = self.draft.push(&name, Kind::Input(v), width);
        let everywhere = if streams * steps == 1 { 0 } else { ANY };
        let code = |at: &[usize]| {
            let mut feature = 0;
            for (_, (&i, &d)) in at.iter().zip(shape).enumerate().filter(|(k, _)| Some(*k) != axis) {
                feature = feature * d + i;
            }
            Code::reference(slot, axis.map_or(everywhere, |a| at[a]), feature)
        };
        Ok(Abstract::Array(Array::new(indexed(shape, code)?, dtype)))
    }

    /// The tokens, one number or one one-hot vector each.
    fn tokens(&mut self, name: &str, dtype: DType) -> Result<Abstract> {
        let shape = self.sizes.shape(self.sizes.tokens);
        let count = self.sizes.steps.saturating_mul(self.sizes.streams);
        if count >= MOST_POSITIONS {
            return other(format!("it has {count} tokens; export the model with fewer or open time steps"));
        }
        let (kind, features) = match self.sizes.one_hot {
            true => (Kind::OneHot, *shape.last().unwrap_or(&1)),
            false => (Kind::Tokens, 1),
        };
        let slot = self.draft.push(name, kind, features);
        let (places, streams) = (self.sizes.places(), self.sizes.streams);
        let codes = places
            .iter()
            .flat_map(|[t, b]| (0..features).map(move |f| Code::reference(slot, t * streams + b, f).0))
            .collect();
        Ok(Abstract::Array(Array::new(tensor(shape, codes)?, dtype)))
    }

    fn read(&self, operand: Operand) -> Result<Option<Abstract>> {
        Ok(match operand {
            Operand::None => None,
            Operand::Value(v) => Some(self.values[&v].clone()),
            Operand::Weight(w) => {
                // A tensor without data may be unused: only reading it fails.
                Some(Abstract::Constant(match &*self.graph.weight(w).map {
                    LinearMap::Dense(t) => t.clone().into(),
                    map => map.to_dense().map_err(|e| Why::Other(e.to_string()))?.into(),
                }))
            }
        })
    }

    fn node(&mut self, site: &Site<'g>) -> Result<Vec<Abstract>> {
        let op = &site.node.op;
        let is_recurrent = matches!(op, Op::OnnxLstm(_) | Op::OnnxGru(_) | Op::OnnxRnn(_));
        let all_constant = site.operands.iter().flatten().all(|o| matches!(o, Abstract::Constant(_)));
        if all_constant && !is_recurrent && !matches!(op, Op::Unknown { .. }) {
            return self.fold(site);
        }
        let one = |a: Array| vec![Abstract::Array(a)];
        Ok(match op {
            Op::Unknown { name, .. } => return Err(Why::Operator(name.clone())),
            Op::Shape { .. } => {
                // The shape is that of the codes.
                let x = site.array(0)?;
                vec![Abstract::Constant(evaluate_one(op, &[x.codes])?.into())]
            }
            Op::Scan(s) => self.scan(site, s)?,
            Op::Loop(l) => self.repeat(site, l)?,
            Op::If => {
                let taken = site.known(0, "condition")?.values()?.first().is_some_and(|&x| x != 0.0);
                let count = site.node.results().len();
                let first = if taken { 1 } else { 1 + count };
                site.operands[first..first + count].iter().flatten().cloned().collect()
            }
            Op::Onnx(Onnx::Where {}) if site.constant(0).is_none() => {
                one(Array { dtype: site.array(1)?.dtype, ..self.elementwise(site)? })
            }
            Op::Gather { axis } if site.constant(1).is_none() => one(self.look_up(site, *axis)?),
            Op::OnnxLstm(lstm) => self.lstm(site, lstm)?,
            Op::OnnxGru(gru) => self.gru(site, gru)?,
            Op::OnnxRnn(rnn) => self.rnn(site, rnn)?,
            Op::MatMul => one(self.mat_mul(site)?),
            Op::Gemm { alpha, beta, trans_a, trans_b } => {
                one(self.gemm(site, [*alpha, *beta], [*trans_a, *trans_b])?)
            }
            Op::Softmax { axis, flatten } => one(self.softmax(site, *axis, *flatten, false)?),
            Op::LogSoftmax { axis, flatten } => one(self.softmax(site, *axis, *flatten, true)?),
            Op::Reduce { .. } => one(self.reduce(site)?),
            Op::Cast { to } => one(self.cast(site, *to)?),
            Op::Dropout => one(site.array(0)?),
            Op::Onnx(Onnx::Conv { group, strides, pads, .. }) => {
                let plain = *group == 1 && strides.iter().all(|&s| s == 1) && pads.iter().all(|&p| p == 0);
                one(self.conv(site, plain)?)
            }
            // Rounding belongs to the map that reads the vector: here it is left out, and the scale is one.
            Op::Onnx(Onnx::DynamicQuantizeLinear {}) => {
                let x = Array { is_quantized: true, ..site.array(0)? };
                let scale = Tensor::from_f32([], vec![1.0]).map_err(wrong)?;
                let zero = Tensor::from_u8([], vec![0]).map_err(wrong)?;
                vec![Abstract::Array(x), Abstract::Constant(scale.into()), Abstract::Constant(zero.into())]
            }
            Op::Onnx(Onnx::QuantizeLinear { .. }) => one(Array { is_quantized: true, ..site.array(0)? }),
            Op::Onnx(Onnx::DequantizeLinear { .. }) if self.is_quantized(site) => {
                one(Array { is_quantized: false, ..site.array(0)? })
            }
            Op::Onnx(Onnx::DequantizeLinear { .. }) => {
                let y = self.elementwise(site)?;
                one(Array { dtype: DType::F32, ..y })
            }
            Op::Onnx(Onnx::MatMulInteger {}) => one(self.mat_mul_integer(site)?),
            Op::Onnx(Onnx::Einsum { equation }) => one(self.einsum(site, equation)?),
            Op::Onnx(Onnx::OneHot { axis }) => one(self.one_hot(site, *axis)?),
            Op::Onnx(Onnx::LayerNormalization { axis, epsilon }) => {
                vec![Abstract::Array(self.layer_norm(site, *axis, *epsilon)?)]
            }
            _ if op.is_movement() => self.moved(site)?,
            _ if is_elementwise(op) => one(self.elementwise(site)?),
            _ => return other("it has no place in a language model"),
        })
    }

    /// The results of a node all of whose operands are constant.
    fn fold(&self, site: &Site<'_>) -> Result<Vec<Abstract>> {
        let op = &site.node.op;
        let mut operands: Vec<Option<Tensor>> = vec![];
        for k in 1..site.operands.len() {
            operands.push(site.constant(k).map(Constant::dense).transpose()?);
        }
        let Some(first) = site.constant(0) else {
            operands.insert(0, None);
            return self.fold_tensors(op, &operands);
        };
        if let Some(moved) = first.moved(op, &operands)? {
            return Ok(vec![Abstract::Constant(moved)]);
        }
        if let (Op::Cast { to: DType::F32 }, Constant::Codes(_)) = (op, first) {
            return Ok(vec![Abstract::Constant(first.clone())]);
        }
        operands.insert(0, Some(first.dense()?));
        if let Some(decoded) = constant::decoded(op, &operands)? {
            return Ok(vec![Abstract::Constant(decoded)]);
        }
        self.fold_tensors(op, &operands)
    }

    fn fold_tensors(&self, op: &Op, operands: &[Option<Tensor>]) -> Result<Vec<Abstract>> {
        let results =
            interpret::evaluate(op, operands).map_err(|e| Why::Other(format!("folding constants: {e}")))?;
        if results.iter().any(|t| t.len() > self.fold_limit) {
            return other("a constant larger than all weights together");
        }
        Ok(results.into_iter().map(|t| Abstract::Constant(t.into())).collect())
    }

    /// Operators that move elements: they are run on the codes.
    fn moved(&self, site: &Site<'_>) -> Result<Vec<Abstract>> {
        let op = &site.node.op;
        let (mut operands, mut dtype) = (vec![], None);
        for k in 0..site.operands.len() {
            operands.push(match site.is_given(k) {
                false => None,
                true if op.moves(k) => {
                    let x = site.array(k)?;
                    dtype.get_or_insert(x.dtype);
                    Some(x.codes)
                }
                true => Some(site.known(k, "shape or indices")?.dense()?),
            });
        }
        let dtype = dtype.unwrap_or(DType::F32);
        // What a pad fills with by default is zero, as a number.
        if matches!(op, Op::Onnx(Onnx::Pad { .. })) && !site.is_given(2) {
            operands.resize(3.max(operands.len()), None);
            operands[2] = Some(tensor(&[], vec![Code::constant(0.0).0])?);
        }
        // Shapes that do not fit are a sign of wrong sizes.
        let results = interpret::evaluate(op, &operands).map_err(|e| Why::Order(e.to_string()))?;
        let is_quantized = self.is_quantized(site);
        let array = |codes| Array { codes, dtype, is_quantized };
        Ok(results.into_iter().map(|t| constant_or_array(array(t))).collect())
    }

    fn is_quantized(&self, site: &Site<'_>) -> bool {
        matches!(site.operands.first(), Some(Some(Abstract::Array(a))) if a.is_quantized)
    }

    fn cast(&self, site: &Site<'_>, to: DType) -> Result<Array> {
        let x = site.array(0)?;
        let is_token = |slot: SlotId| self.draft.is_of_token(slot);
        if x.is_quantized {
            return Ok(Array { dtype: to, is_quantized: false, ..x });
        }
        if x.dtype.is_float()
            && !to.is_float()
            && !x.codes().iter().filter_map(|&c| Code(c).slot()).all(is_token)
        {
            return other(format!("it rounds features to {to}"));
        }
        Ok(Array { dtype: to, ..x })
    }

    /// `table[token]`.
    fn look_up(&mut self, site: &Site<'g>, axis: i64) -> Result<Array> {
        let indices = site.array(1)?;
        let Some(table) = site.constant(0) else {
            return other(
                "it picks elements of computed values by an input, as a loss does of the words that come next",
            );
        };
        let rank = table.shape().len();
        let axis = if axis < 0 { axis + rank as i64 } else { axis } as usize;
        let rows = table.shape().get(axis).copied().unwrap_or(0);
        let rest: Vec<usize> =
            table.shape().iter().enumerate().filter(|(k, _)| *k != axis).map(|(_, &d)| d).collect();
        let width: usize = rest.iter().product();
        let by_row = match axis {
            0 => table.clone(),
            _ => {
                let mut order: Vec<i64> = (0..rank as i64).collect();
                order.remove(axis);
                order.insert(0, axis as i64);
                table.transposed(order)?
            }
        };
        let by_row = by_row.reshaped(&[rows, width])?;
        let mut found: HashMap<Code, SlotId> = HashMap::new();
        let mut codes = Vec::with_capacity(indices.codes().len() * width);
        for &index in indices.codes() {
            let index = Code(index);
            let (Some(position), Some(of)) = (index.position(), index.slot()) else {
                if let Some(Operand::Value(v)) = site.node.operands().get(1).filter(|_| self.depth == 0) {
                    self.cut = Some((*v, indices.shape().to_vec()));
                }
                return other("it looks up tokens that are fixed in the model besides those of the input");
            };
            if !self.draft.is_of_token(of) {
                return other("it looks up what is computed from features");
            }
            let token = index.anywhere();
            let slot = match found.get(&token) {
                Some(&slot) => slot,
                None => {
                    let kind = Kind::Embed { token, table: by_row.clone() };
                    let slot = self.draft.push(&site.label, kind, width);
                    found.insert(token, slot);
                    slot
                }
            };
            codes.extend((0..width).map(|f| Code::reference(slot, position, f).0));
        }
        // [indices, rest] to the rest around the indices.
        let mut shape = indices.shape().to_vec();
        shape.extend(&rest);
        let codes = tensor(&shape, codes)?;
        let n = indices.shape().len() as i64;
        let perm = (n..n + axis as i64).chain(0..n).chain(n + axis as i64..shape.len() as i64).collect();
        Ok(Array::new(evaluate_one(&Op::Transpose { perm }, &[codes])?, table.dtype()))
    }

    /// The common position of some elements; none if all are constant.
    pub(super) fn position(&self, elements: impl Iterator<Item = Code>) -> Result<Option<usize>> {
        let mut found = None;
        for position in elements.filter_map(Code::position) {
            match found {
                Some(p) if p != position => {
                    let streams = self.sizes.streams;
                    let what = if p % streams == position % streams { "time steps" } else { "streams" };
                    return Err(Why::Order(format!("it combines different {what}")));
                }
                _ => found = Some(position),
            }
        }
        Ok(found)
    }

    /// One step for each distinct vector that some lines of codes are, wherever they are; the results' elements are placed after each other for each line.
    pub(super) fn for_each_line(
        &mut self,
        lines: &[Code],
        len: usize,
        width: usize,
        step: &mut dyn FnMut(&mut Draft, Row) -> Result<Line>,
    ) -> Result<Vec<i64>> {
        let mut found: HashMap<Vec<Code>, Line> = HashMap::new();
        let mut codes = Vec::with_capacity(lines.len() / len.max(1) * width);
        for line in lines.chunks_exact(len.max(1)) {
            let position = self.position(line.iter().copied())?.unwrap_or(ANY);
            let row: Vec<Code> = line.iter().map(|c| c.anywhere()).collect();
            if !found.contains_key(&row) {
                let made = step(&mut self.draft, row.as_slice().into())?;
                found.insert(row.clone(), made);
            }
            match &found[&row] {
                Line::Step(slot) => codes.extend((0..width).map(|f| Code::reference(*slot, position, f).0)),
                Line::Values(values) => codes.extend(values.iter().map(|&x| Code::constant(x).0)),
            }
        }
        Ok(codes)
    }

    /// `x weight^T + bias` for `x: [.., in]`, `weight: [out, in]`.
    pub(super) fn linear(
        &mut self,
        site: &Site<'_>,
        x: &Array,
        weight: &Constant,
        bias: Option<&[f32]>,
    ) -> Result<Array> {
        let [out, inputs] = [weight.shape()[0], weight.shape()[1]];
        if x.shape().last() != Some(&inputs) {
            return Err(Why::Order(format!("expected {inputs} features, found shape {:?}", x.shape())));
        }
        let lines: Vec<Code> = x.codes().iter().map(|&c| Code(c)).collect();
        let codes = self.for_each_line(&lines, inputs, out, &mut |draft, row| {
            let values: Option<Vec<f32>> = super::value::constants(&row);
            if let Some(values) = values {
                return multiply(weight, &values, bias).map(Line::Values);
            }
            // Constants among the features go into the bias.
            let mut bias = bias.map(<[f32]>::to_vec);
            let mut x = row.clone();
            let mut weight = weight.clone();
            if row.iter().any(|c| c.as_constant().is_some()) {
                let fixed: Vec<f32> = row.iter().map(|c| c.as_constant().unwrap_or(0.0)).collect();
                if fixed.iter().any(|&v| v != 0.0) {
                    bias = Some(multiply(&weight, &fixed, bias.as_deref())?);
                }
                let kept: Vec<usize> = (0..row.len()).filter(|&k| row[k].as_constant().is_none()).collect();
                weight = weight.picked(1, &kept)?;
                x = kept.iter().map(|&k| row[k]).collect();
            }
            let terms = vec![Term { x, weight }];
            Ok(Line::Step(draft.push(&site.label, Kind::Apply { width: out, terms, bias }, out)))
        })?;
        let mut shape = x.shape().to_vec();
        *shape.last_mut().expect("it has features") = out;
        Ok(Array::new(tensor(&shape, codes)?, x.dtype))
    }
}

/// How often each value is read.
fn uses(graph: &Graph) -> BTreeMap<ValueId, usize> {
    let mut uses = BTreeMap::new();
    let read = graph.nodes().flat_map(|(_, n)| n.operands()).filter_map(|o| match o {
        Operand::Value(v) => Some(*v),
        _ => None,
    });
    for v in read.chain(graph.outputs().iter().map(|o| o.value)) {
        *uses.entry(v).or_insert(0) += 1;
    }
    uses
}

/// `weight x + bias` of constants.
fn multiply(weight: &Constant, x: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let w = weight.values()?;
    let sum = |row: &[f32]| row.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let rows = w.chunks_exact(x.len().max(1)).map(sum);
    Ok(rows.enumerate().map(|(k, y)| (y + bias.map_or(0.0, |b| f64::from(b[k]))) as f32).collect())
}

/// Whether each element of the result is computed from those at its place.
fn is_elementwise(op: &Op) -> bool {
    match op {
        Op::Binary(_) | Op::Unary(_) | Op::Onnx(Onnx::Clip {}) => true,
        Op::Onnx(op) => {
            matches!(op.kind(), OnnxKind::Unary | OnnxKind::Test | OnnxKind::Pair | OnnxKind::Comparison)
        }
        _ => false,
    }
}

/// A constant if all codes are.
pub(super) fn constant_or_array(array: Array) -> Abstract {
    let codes = array.codes();
    let values: Option<Vec<f32>> = codes.iter().map(|&c| Code(c).as_constant()).collect();
    let constant = values.and_then(|v| Tensor::from_f32(array.shape(), v).ok());
    let cast = constant.and_then(|t| evaluate_one(&Op::Cast { to: array.dtype }, &[t]).ok());
    match cast {
        Some(t) => Abstract::Constant(t.into()),
        None => Abstract::Array(array),
    }
}

/// An array whose elements depend on where they are.
fn indexed(shape: &[usize], code: impl Fn(&[usize]) -> Code) -> Result<Tensor> {
    let mut at = vec![0; shape.len()];
    let mut codes = vec![];
    for _ in 0..shape.iter().product() {
        codes.push(code(&at).0);
        for k in (0..shape.len()).rev() {
            at[k] += 1;
            if at[k] < shape[k] {
                break;
            }
            at[k] = 0;
        }
    }
    tensor(shape, codes)
}
