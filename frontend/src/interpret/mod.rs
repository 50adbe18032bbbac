//! The interpreter: the definition of the IR's meaning.
//!
//! Plain code, one function per operator; everything fast is tested against it. There are three entry points:
//!
//! - [`Interpreter`] runs any graph, generic or in language-model form, on tensors, in the graph's dtypes or all in f64.
//! - [`evaluate`] runs one generic operator; constant folding uses it.
//! - [`LanguageModel`] scores long texts with a graph in language-model form, in chunks of steps, and shows every layer's inputs to
//!   an [`Observer`], which is how calibration statistics are collected.
//!
//! ```
//! use lstmc_frontend::interpret::Interpreter;
//! use lstmc_frontend::ir::{Binary, Graph, Op, OutputRole, Type};
//! use lstmc_frontend::tensor::{DType, Tensor};
//!
//! let mut graph = Graph::new("twice");
//! let x = graph.add_source(Op::Input, "x", Type::new(DType::F32, vec![2.into()]));
//! let y = graph.add(Op::Binary(Binary::Add), &[x.into(), x.into()], &["y"], "").unwrap()[0];
//! graph.add_output(OutputRole::Named("y".into()), y);
//!
//! let x = Tensor::from_f32([2], vec![1.0, 2.0]).unwrap();
//! let results = Interpreter::new(&graph).unwrap().run(&[("x", x)]).unwrap();
//! assert_eq!(results[0].0, "y");
//! assert_eq!(results[0].1.f32s().unwrap(), [2.0, 4.0]);
//! ```

mod arithmetic;
mod bind;
mod elements;
mod error;
mod evaluate;
mod formula;
mod language_model;
mod layers;
mod lines;
mod loops;
mod matrix;
mod movement;
mod numbers;
mod real;
mod recurrent;
mod shuffle;
mod table;

#[cfg(test)]
mod tests;

pub use error::InterpretError;
pub use evaluate::evaluate;
pub use language_model::{LanguageModel, Observation, Observer, State};
pub use real::Real;

use crate::ir::{
    CellSpec, Dim, Field, Graph, InferError, MapError, Node, Op, Operand, OutputRole, Reset, Scalar, Type,
    ValueId, WeightId,
};
use crate::tensor::{DType, Tensor};
use bind::Bindings;
use matrix::{Decoder, Matrix};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Runs a graph on tensors.
pub struct Interpreter<'g> {
    graph: &'g Graph,
    /// The weights that generic operators and biases read.
    constants: BTreeMap<WeightId, Tensor>,
    matrices: Matrices,
    /// How often each value is read.
    uses: HashMap<ValueId, usize>,
}

/// The maps of layers in language-model form, in the precision of the run.
enum Matrices {
    Single(BTreeMap<WeightId, Arc<Matrix<f32>>>),
    Double(BTreeMap<WeightId, Arc<Matrix<f64>>>),
}

/// The values of a run that will still be read.
struct Values {
    /// The values that have been computed.
    known: HashSet<ValueId>,
    tensors: HashMap<ValueId, Tensor>,
    uses: HashMap<ValueId, usize>,
}

impl Values {
    fn insert(&mut self, value: ValueId, tensor: Tensor) {
        self.known.insert(value);
        if self.uses.contains_key(&value) {
            self.tensors.insert(value, tensor);
        }
    }

    /// The tensor, for one of its readers; the last reader removes it.
    fn read(&mut self, value: ValueId) -> Option<Tensor> {
        let left = self.uses.get_mut(&value)?;
        *left -= 1;
        if *left == 0 { self.tensors.remove(&value) } else { self.tensors.get(&value).cloned() }
    }
}

/// Whether operand `k` of a layer is a linear map, not a tensor.
fn is_map(op: &Op, k: usize) -> bool {
    match op {
        Op::Embedding => k == 1,
        Op::Linear => k % 2 == 1,
        Op::Lstm(_) => k == 3 || k == 4,
        Op::Gru(_) | Op::Rnn(_) => k == 2 || k == 3,
        _ => false,
    }
}

impl<'g> Interpreter<'g> {
    /// An interpreter in the graph's own dtypes. Returns an error if a weight cannot be decoded.
    pub fn new(graph: &'g Graph) -> Result<Interpreter<'g>, InterpretError> {
        let matrices = Matrices::Single(decode_matrices(graph)?);
        Interpreter::with(graph, matrices, false)
    }

    /// An interpreter that computes all floats in f64, regardless of the graph's dtypes: the reference that
    /// f32 results are measured against. It takes float inputs of any dtype and returns f64.
    pub fn in_f64(graph: &'g Graph) -> Result<Interpreter<'g>, InterpretError> {
        let matrices = Matrices::Double(decode_matrices(graph)?);
        Interpreter::with(graph, matrices, true)
    }

    fn with(graph: &'g Graph, matrices: Matrices, wide: bool) -> Result<Interpreter<'g>, InterpretError> {
        let mut constants = BTreeMap::new();
        let mut uses: HashMap<ValueId, usize> = HashMap::new();
        for (_, node) in graph.nodes() {
            for (i, operand) in node.operands().iter().enumerate() {
                match *operand {
                    Operand::Value(v) => *uses.entry(v).or_default() += 1,
                    Operand::Weight(w) if !is_map(&node.op, i) && !constants.contains_key(&w) => {
                        let constant = constant(&graph.weight(w).map, wide).map_err(|error| {
                            InterpretError::Weight { name: graph.weight(w).name.clone(), error }
                        })?;
                        constants.insert(w, constant);
                    }
                    _ => {}
                }
            }
        }
        for output in graph.outputs() {
            *uses.entry(output.value).or_default() += 1;
        }
        Ok(Interpreter { graph, constants, matrices, uses })
    }

    /// Runs the graph. Every input must be given, by name; a state that is not given starts at its initial value. The results are in the order
    /// of the graph's outputs; the next value of a state has the state's name. A stepwise state is given and returned for one time step,
    /// `[1, B, features]`.
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, InterpretError> {
        let states = self.graph.sources(&Op::State);
        // By definition, many time steps are runs of one time step, each from the states that the one before leaves.
        let is_state = |name: &str| states.iter().any(|&v| self.graph.name_of(v) == name);
        let steps = inputs.iter().filter(|(name, _)| !is_state(name)).filter_map(|(_, t)| t.shape().first());
        let steps = steps.copied().next().unwrap_or(0);
        let is_stepwise = |v: ValueId| {
            let ty = self.graph.type_of(v);
            let features = ty.shape.last().and_then(Dim::as_constant).unwrap_or(0);
            *ty == Type::sequence(features)
        };
        if steps == 0 || !states.iter().any(|&v| is_stepwise(v)) {
            return self.run_at_once(inputs);
        }
        let (mut now, mut all): (Vec<(String, Tensor)>, Vec<Vec<Tensor>>) = (vec![], vec![]);
        for t in 0..steps as i64 {
            let mut given = vec![];
            for (name, tensor) in inputs.iter().filter(|(name, _)| t == 0 || !is_state(name)) {
                let wrong = |e: InferError| InterpretError::Input {
                    name: name.to_string(),
                    expected: e.expected,
                    found: e.found,
                };
                given.push((
                    *name,
                    if is_state(name) { tensor.clone() } else { time_step(tensor, t).map_err(wrong)? },
                ));
            }
            given.extend(now.iter().filter(|(name, _)| is_state(name)).map(|(n, t)| (n.as_str(), t.clone())));
            now = self.run_at_once(&given)?;
            all.resize(now.len(), vec![]);
            all.iter_mut().zip(&now).for_each(|(all, (_, tensor))| all.push(tensor.clone()));
        }
        let joined = now.into_iter().zip(all).map(|((name, last), all)| {
            let parts: Vec<Option<Tensor>> = all.into_iter().map(Some).collect();
            let whole = if is_state(&name) { last } else { join_time_steps(&parts).unwrap_or(last) };
            (name, whole)
        });
        Ok(joined.collect())
    }

    fn run_at_once(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, InterpretError> {
        let mut values = Values { known: HashSet::new(), tensors: HashMap::new(), uses: self.uses.clone() };
        let mut bindings = Bindings::default();
        self.bind(inputs, &mut bindings, &mut values)?;
        // By need: a branch that is not taken may fail, and so may what no output reads.
        for output in self.graph.outputs() {
            let mut waiting = vec![output.value];
            while let Some(&value) = waiting.last() {
                if values.known.contains(&value) {
                    waiting.pop();
                    continue;
                }
                let node = self.graph.node(self.graph.producer(value));
                match self.missing(node, &values) {
                    Some(operand) => waiting.push(operand),
                    None => self.node(node, &mut bindings, &mut values)?,
                }
            }
        }
        let mut results = vec![];
        for output in self.graph.outputs() {
            let name = match &output.role {
                OutputRole::Named(name) => name,
                OutputRole::State(state) => self.graph.name_of(*state),
            };
            // Every value has been computed by now: nodes are in order.
            results.extend(values.read(output.value).map(|t| (name.to_string(), t)));
        }
        Ok(results)
    }

    /// An operand that the node needs and that is not computed yet.
    fn missing(&self, node: &Node, values: &Values) -> Option<ValueId> {
        let mut needed = node.operands();
        if node.op == Op::If {
            let (condition, branches) = needed.split_first()?;
            let taken = match condition {
                Operand::Value(v) if !values.known.contains(v) => return Some(*v),
                Operand::Value(v) => values.tensors.get(v),
                Operand::Weight(w) => self.constants.get(w),
                Operand::None => None,
            };
            let (then, otherwise) = branches.split_at(branches.len() / 2);
            let holds = taken.and_then(|t| t.bools().ok()).is_some_and(|v| v.first() == Some(&true));
            needed = if holds { then } else { otherwise };
        }
        needed.iter().find_map(|operand| match operand {
            Operand::Value(v) if !values.known.contains(v) => Some(*v),
            _ => None,
        })
    }

    /// Computes the results of a node whose operands are there.
    fn node(&self, node: &Node, bindings: &mut Bindings, values: &mut Values) -> Result<(), InterpretError> {
        let wrong = |error| InterpretError::node(self.graph, node, error);
        let operands: Vec<Option<Tensor>> = node
            .operands()
            .iter()
            .map(|operand| match operand {
                Operand::Value(v) => values.read(*v),
                Operand::Weight(w) => self.constants.get(w).cloned(),
                Operand::None => None,
            })
            .collect();
        let results = match &self.matrices {
            Matrices::Single(m) => layer(node, &operands, m),
            Matrices::Double(m) => layer(node, &operands, m),
        };
        let results = match results {
            Some(results) => results,
            None => evaluate(&self.widen_op(&node.op), &operands),
        };
        for (&value, tensor) in node.results().iter().zip(results.map_err(wrong)?) {
            let ty = self.widen(self.graph.type_of(value));
            let expected = bindings.resolve_type(&ty);
            if !bindings.accept(&ty, &tensor) {
                let expected = format!("a result of type {expected}, as inferred");
                return Err(wrong(InferError::new(expected, describe(&tensor))));
            }
            values.insert(value, tensor);
        }
        Ok(())
    }

    /// Takes the inputs, binds the symbols in their shapes and creates the states that are not given.
    fn bind(
        &self,
        inputs: &[(&str, Tensor)],
        bindings: &mut Bindings,
        values: &mut Values,
    ) -> Result<(), InterpretError> {
        let sources: Vec<(ValueId, &Op)> = self
            .graph
            .nodes()
            .filter(|(_, n)| matches!(n.op, Op::Input | Op::State))
            .filter_map(|(_, n)| Some((*n.results().first()?, &n.op)))
            .collect();
        let wrong = |name: &str, expected: String, found: String| {
            Err(InterpretError::Input { name: name.to_string(), expected, found })
        };
        for (i, (name, _)) in inputs.iter().enumerate() {
            if !sources.iter().any(|&(v, _)| self.graph.name_of(v) == *name) {
                let names: Vec<&str> = sources.iter().map(|&(v, _)| self.graph.name_of(v)).collect();
                return wrong(name, format!("one of {}", names.join(", ")), "no input of that name".into());
            }
            if inputs[..i].iter().any(|(n, _)| n == name) {
                return wrong(name, "each input once".into(), "it twice".into());
            }
        }
        let given = |v: ValueId| inputs.iter().find(|(n, _)| *n == self.graph.name_of(v)).map(|(_, t)| t);
        // Twice, because a product of symbols can only be checked once its factors are known.
        for _ in 0..2 {
            for &(v, op) in &sources {
                let (name, ty) = (self.graph.name_of(v), self.widen(self.graph.type_of(v)));
                match given(v) {
                    Some(tensor) => {
                        let tensor = self.widen_tensor(tensor);
                        let expected = bindings.resolve_type(&ty);
                        if !bindings.accept(&ty, &tensor) {
                            return wrong(name, expected.to_string(), describe(&tensor));
                        }
                        values.insert(v, tensor.into_owned());
                    }
                    None if *op == Op::Input => return wrong(name, ty.to_string(), "nothing".into()),
                    None => {}
                }
            }
        }
        for &(v, _) in sources.iter().filter(|&&(v, _)| given(v).is_none()) {
            let (name, ty) = (self.graph.name_of(v), self.widen(self.graph.type_of(v)));
            match bindings.sizes(&ty) {
                Ok(shape) => {
                    let initial = self.graph.initial_state(v).and_then(|w| self.constants.get(&w));
                    match self.start(&ty, shape, initial) {
                        Ok(start) => values.insert(v, start),
                        Err(e) => return wrong(name, ty.to_string(), e.found),
                    }
                }
                Err(dim) => {
                    let expected = format!("{ty}, because no input says what {dim} is");
                    return wrong(name, expected, "nothing".into());
                }
            }
        }
        Ok(())
    }

    /// A state at the start: a vector for each stream, or zeros.
    fn start(&self, ty: &Type, shape: Vec<usize>, initial: Option<&Tensor>) -> Result<Tensor, InferError> {
        let (&width, streams) = shape.split_last().ok_or_else(|| InferError::new("a vector", "a number"))?;
        let row = match initial {
            Some(initial) => arithmetic::cast(ty.dtype, initial)?.to_le_bytes()?,
            None => vec![0; width * ty.dtype.size()],
        };
        let streams = crate::tensor::element_count(streams)?;
        crate::tensor::element_count(&shape)?;
        Ok(Tensor::from_le_bytes(ty.dtype, shape, &row.repeat(streams))?)
    }

    fn is_wide(&self) -> bool {
        matches!(self.matrices, Matrices::Double(_))
    }

    fn widen_dtype(&self, dtype: DType) -> DType {
        if self.is_wide() && dtype.is_float() { DType::F64 } else { dtype }
    }

    fn widen(&self, ty: &Type) -> Type {
        Type::new(self.widen_dtype(ty.dtype), ty.shape.clone())
    }

    fn widen_tensor<'t>(&self, t: &'t Tensor) -> Cow<'t, Tensor> {
        match self.is_wide() && t.dtype().is_float() {
            true => arithmetic::cast(DType::F64, t).map_or(Cow::Borrowed(t), Cow::Owned),
            false => Cow::Borrowed(t),
        }
    }

    fn widen_op<'o>(&self, op: &'o Op) -> Cow<'o, Op> {
        match *op {
            Op::Cast { to } => Cow::Owned(Op::Cast { to: self.widen_dtype(to) }),
            Op::ConstantOfShape { value: Scalar { dtype, value } } => {
                Cow::Owned(Op::ConstantOfShape { value: Scalar { dtype: self.widen_dtype(dtype), value } })
            }
            Op::Onnx(ref onnx) if self.is_wide() => {
                let mut onnx = onnx.clone();
                for (_, field) in onnx.fields() {
                    if let Field::DType(Some(dtype)) = field {
                        *dtype = self.widen_dtype(*dtype);
                    }
                }
                Cow::Owned(Op::Onnx(onnx))
            }
            _ => Cow::Borrowed(op),
        }
    }
}

/// One of a sequence's time steps.
fn time_step(t: &Tensor, step: i64) -> Result<Tensor, InferError> {
    let int = |n: i64| Ok::<_, InferError>(Some(Tensor::from_i64([1], vec![n])?));
    let operands = [Some(t.clone()), int(step)?, int(step + 1)?, int(0)?];
    evaluate(&Op::Slice, &operands).map(|mut all| all.swap_remove(0))
}

fn join_time_steps(parts: &[Option<Tensor>]) -> Result<Tensor, InferError> {
    evaluate(&Op::Concat { axis: 0 }, parts).map(|mut all| all.swap_remove(0))
}

/// `f32[2, 3]`.
fn describe(t: &Tensor) -> String {
    let dims = t.shape().iter().map(|&d| d.into()).collect();
    Type::new(t.dtype(), dims).to_string()
}

/// A weight as a tensor: constants in their own dtype (or f64), other maps dense.
fn constant(map: &crate::ir::LinearMap, wide: bool) -> Result<Tensor, MapError> {
    let dense = match map {
        crate::ir::LinearMap::Dense(t) if !t.is_elided() => t.clone(),
        other => other.to_dense()?,
    };
    if wide && dense.dtype().is_float() {
        let shape = dense.shape().to_vec();
        return Ok(Tensor::from_f64(shape, f64::elements(&dense)?)?);
    }
    Ok(dense)
}

/// Decodes the weights that layers read as linear maps.
fn decode_matrices<T: Real>(graph: &Graph) -> Result<BTreeMap<WeightId, Arc<Matrix<T>>>, InterpretError> {
    let mut decoder = Decoder::new();
    let mut matrices = BTreeMap::new();
    for (_, node) in graph.nodes() {
        for (k, operand) in node.operands().iter().enumerate() {
            if let Operand::Weight(w) = *operand
                && is_map(&node.op, k)
                && !matrices.contains_key(&w)
            {
                let weight = graph.weight(w);
                let matrix = decoder
                    .decode(&weight.map)
                    .map_err(|error| InterpretError::Weight { name: weight.name.clone(), error })?;
                matrices.insert(w, Arc::new(matrix));
            }
        }
    }
    Ok(matrices)
}

/// The results of a layer of language-model form; `None` for another operator.
fn layer<T: Real>(
    node: &Node,
    operands: &[Option<Tensor>],
    matrices: &BTreeMap<WeightId, Arc<Matrix<T>>>,
) -> Option<Result<Vec<Tensor>, InferError>> {
    let tensor = |i: usize| {
        operands
            .get(i)
            .and_then(Option::as_ref)
            .ok_or_else(|| InferError::new("every operand", format!("none at {i}")))
    };
    let map = |i: usize| match node.operands().get(i) {
        Some(Operand::Weight(w)) if matrices.contains_key(w) => Ok(matrices[w].clone()),
        _ => {
            let t = tensor(i)?;
            let &[rows, cols] = t.shape() else {
                return Err(InferError::new("a matrix", describe(t)));
            };
            Ok(Arc::new(Matrix::dense([rows, cols], T::elements(t)?)))
        }
    };
    let cell = |spec: &CellSpec, parameters: Option<&Tensor>| {
        let first = 1 + spec.states;
        let (input, recurrent, bias) = (map(first)?, map(first + 1)?, tensor(first + 2)?);
        let states = (1..first).map(tensor).collect::<Result<Vec<_>, _>>()?;
        let cell = layers::Cell { spec, input: &input, recurrent: &recurrent, bias, parameters };
        cell.run(tensor(0)?, &states)
    };
    match &node.op {
        Op::Embedding => Some((|| Ok(vec![layers::embedding(tensor(0)?, &*map(1)?)?]))()),
        Op::Linear => Some((|| {
            let pairs = node.operands().len() / 2;
            let terms = (0..pairs).map(|k| Ok((tensor(2 * k)?, map(2 * k + 1)?)));
            let terms = terms.collect::<Result<Vec<_>, InferError>>()?;
            Ok(vec![layers::linear(&terms, tensor(2 * pairs).ok())?])
        })()),
        Op::Lstm(lstm) => {
            let parameters = tensor(6).ok();
            Some(cell(&lstm.spec(parameters.is_some()), parameters))
        }
        Op::Gru(gru) if gru.reset == Reset::After => Some(cell(&gru.spec(), None)),
        Op::Gru(gru) => {
            Some((|| layers::reset_before(gru, tensor(0)?, tensor(1)?, [&*map(2)?, &*map(3)?], tensor(4)?))())
        }
        Op::Rnn(rnn) => Some(cell(&rnn.spec(), None)),
        Op::Features { from, to } => Some((|| Ok(vec![layers::features::<T>(tensor(0)?, *from, *to)?]))()),
        Op::LayerNorm { epsilon } => Some((|| {
            let vector = |k: usize| {
                let width = tensor(0)?.shape().last().copied().unwrap_or(0);
                tensor(k).ok().map(|t| layers::vector::<T>("scale or shift", t, width)).transpose()
            };
            let (scale, shift) = (vector(1)?, vector(2)?);
            let epsilon = T::of((*epsilon).into());
            let norm = |row: &mut [T]| layers::norm(row, [scale.as_deref(), shift.as_deref()], epsilon);
            Ok(vec![layers::by_row(tensor(0)?, norm)?])
        })()),
        Op::LogSoftmaxFeatures => {
            Some((|| Ok(vec![layers::by_row(tensor(0)?, layers::log_softmax::<T>)?]))())
        }
        Op::ConcatFeatures => Some((|| {
            let parts = (0..operands.len()).map(tensor).collect::<Result<Vec<_>, _>>()?;
            Ok(vec![layers::concat::<T>(&parts)?])
        })()),
        _ => None,
    }
}
