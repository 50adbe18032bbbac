//! A model's program and the tensors of its weights, as dictionaries; and a model with other tensors.
//!
//! Every part of a weight has a number, and parts that weights share have one. A tensor is named by its part and what it is there: `data`, `codes`, `scales`,
//! `zero_points`, `columns`, `mask`.

use crate::error;
use lstmc::frontend::ir::{
    Activations, CellSpec, Formula, GateRows, Graph, LinearMap, MapError, Part, PartId, Program, Quantized,
    Rewrite, Sequence, Slice, Source, StepKind, Term, WeightId,
};
use lstmc::frontend::tensor::{DType, Tensor};
use numpy::IntoPyArray;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use std::collections::BTreeMap;

/// What describes a program: numbers of weights and parts, in order.
struct Describing<'py> {
    py: Python<'py>,
    /// The number of each part.
    numbers: BTreeMap<PartId, usize>,
    parts: Bound<'py, PyList>,
}

/// The numbers of a graph's parts, as [`program`] gives them.
fn numbers(graph: &Graph) -> Vec<Part> {
    fn add(part: &Part, all: &mut Vec<Part>) {
        if all.iter().any(|p| p.id() == part.id()) {
            return;
        }
        for (_, inner) in part.children() {
            add(inner, all);
        }
        all.push(part.clone());
    }
    let mut all = vec![];
    graph.weights().for_each(|(_, weight)| add(&weight.map, &mut all));
    all
}

/// The model as a program: `steps`, `groups`, `states`, `weights` and `parts`; see `lstmc/torch.py`, which runs it.
pub(crate) fn program<'py>(py: Python<'py>, graph: &Graph) -> PyResult<Bound<'py, PyDict>> {
    let program = Program::of(graph).map_err(error)?;
    let all = numbers(graph);
    let numbers = all.iter().enumerate().map(|(n, part)| (part.id(), n)).collect();
    let describing = Describing { py, numbers, parts: PyList::empty(py) };
    for part in &all {
        describing.parts.append(describing.part(part)?)?;
    }
    let ids: Vec<WeightId> = graph.weights().map(|(id, _)| id).collect();
    let number = |id: WeightId| ids.iter().position(|&w| w == id).unwrap_or_default();
    let steps = PyList::empty(py);
    for (_, step) in program.steps() {
        let described = describing.step(&step.kind, &number)?;
        described.set_item("width", step.width)?;
        steps.append(described)?;
    }
    let states = PyList::empty(py);
    for state in program.states() {
        let row = PyDict::new(py);
        row.set_item("name", graph.name_of(state.value))?;
        row.set_item("width", state.width)?;
        row.set_item("initial", state.initial.map(number))?;
        row.set_item("next", state.next.index())?;
        row.set_item("stepwise", state.is_stepwise)?;
        states.append(row)?;
    }
    let weights = PyList::empty(py);
    for (_, weight) in graph.weights() {
        weights.append((&weight.name, describing.numbers[&weight.map.id()]))?;
    }
    let groups = PyList::empty(py);
    for group in program.groups() {
        let steps: Vec<usize> = group.steps().map(|s| s.index()).collect();
        groups.append((steps, group.is_recurrent))?;
    }
    let found = PyDict::new(py);
    found.set_item("words", program.vocabulary())?;
    found.set_item("output", program.output().index())?;
    found.set_item("steps", steps)?;
    found.set_item("groups", groups)?;
    found.set_item("states", states)?;
    found.set_item("weights", weights)?;
    found.set_item("parts", &describing.parts)?;
    Ok(found)
}

/// `(is a state, number, first feature, features)`.
fn slice(x: Slice) -> (bool, usize, usize, usize) {
    match x.of {
        Sequence::Step(step) => (false, step.index(), x.from, x.width),
        Sequence::State(state) => (true, state.index(), x.from, x.width),
    }
}

/// The block of each gate's rows, if there is one.
fn blocks(rows: GateRows) -> Vec<Option<usize>> {
    (0..rows.count()).map(|n| rows.block(n)).collect()
}

impl<'py> Describing<'py> {
    fn step(&self, kind: &StepKind, number: &dyn Fn(WeightId) -> usize) -> PyResult<Bound<'py, PyDict>> {
        let row = PyDict::new(self.py);
        let name = |name: &str| row.set_item("kind", name);
        match kind {
            StepKind::Embed(embed) => {
                name("embed")?;
                row.set_item("table", number(embed.table))?;
            }
            StepKind::Apply(apply) => {
                name("apply")?;
                let terms: Vec<_> = apply.terms.iter().map(|&(x, w)| (slice(x), number(w))).collect();
                row.set_item("terms", terms)?;
                row.set_item("bias", apply.bias.map(number))?;
            }
            StepKind::Cell(cell) => {
                name("cell")?;
                row.set_item("x", slice(cell.x))?;
                row.set_item("input", number(cell.input))?;
                row.set_item("recurrent", number(cell.recurrent))?;
                row.set_item("bias", number(cell.bias))?;
                row.set_item("parameters", cell.parameters.map(number))?;
                let states: Vec<usize> = cell.states.iter().map(|s| s.index()).collect();
                row.set_item("states", states)?;
                let CellSpec { input, recurrent, bias, formula, .. } = &cell.spec;
                row.set_item("rows", (blocks(*input), blocks(*recurrent), blocks(*bias)))?;
                row.set_item("formula", self.formula(formula)?)?;
            }
            StepKind::Map(map) => {
                name("map")?;
                row.set_item("formula", self.formula(&map.formula)?)?;
                let operands = PyList::empty(self.py);
                for operand in &map.operands {
                    match *operand {
                        Source::Slice(x) => operands.append(slice(x))?,
                        Source::Constant(w) => operands.append(number(w))?,
                    }
                }
                row.set_item("operands", operands)?;
            }
            StepKind::Norm(norm) => {
                name("norm")?;
                row.set_item("x", slice(norm.x))?;
                row.set_item("scale", norm.scale.map(number))?;
                row.set_item("shift", norm.shift.map(number))?;
                row.set_item("epsilon", norm.epsilon)?;
            }
            StepKind::LogSoftmax(x) => {
                name("log_softmax")?;
                row.set_item("x", slice(*x))?;
            }
            StepKind::Concat(parts) => {
                name("concat")?;
                row.set_item("parts", parts.iter().map(|&x| slice(x)).collect::<Vec<_>>())?;
            }
        }
        Ok(row)
    }

    /// Terms, each a tuple of its operation and operands, and the results' positions.
    fn formula(&self, formula: &Formula) -> PyResult<Bound<'py, PyTuple>> {
        let terms = PyList::empty(self.py);
        for term in formula.terms() {
            match *term {
                Term::Input(n) => terms.append(("input", n))?,
                Term::Constant(x) => terms.append(("constant", x))?,
                Term::Binary(op, a, b) => terms.append((op.name(), a.index(), b.index()))?,
                Term::MulAdd(a, b, c) => terms.append(("mul_add", a.index(), b.index(), c.index()))?,
                Term::Select { less: [a, b], then, otherwise } => {
                    terms.append(("select", a.index(), b.index(), then.index(), otherwise.index()))?
                }
                Term::Primitive(f, x) => terms.append((format!("{f:?}").to_lowercase(), x.index()))?,
            }
        }
        let results: Vec<usize> = formula.results().map(|t| t.index()).collect();
        (terms, results).into_pyobject(self.py)
    }

    fn part(&self, part: &Part) -> PyResult<Bound<'py, PyDict>> {
        let row = PyDict::new(self.py);
        row.set_item("kind", part.kind())?;
        row.set_item("shape", PyTuple::new(self.py, part.shape())?)?;
        let inner: Vec<usize> = part.children().iter().map(|(_, p)| self.numbers[&p.id()]).collect();
        row.set_item("parts", inner)?;
        for (name, tensor) in part.tensors() {
            row.set_item(name, self.tensor(tensor)?)?;
        }
        match &**part {
            LinearMap::Dense(_) | LinearMap::LowRank(_) => {}
            LinearMap::Quantized(q) => {
                let [_, cols] = part.matrix_shape().map_err(error)?;
                let range = q.format().range();
                row.set_item("range", (*range.start(), *range.end()))?;
                row.set_item("group", q.granularity().group_size(cols))?;
                row.set_item("int8", q.activations() == Activations::Int8)?;
            }
            LinearMap::Sparse(s) => {
                let kept = s.element_mask().map_err(error)?;
                row.set_item("kept", kept.into_pyarray(self.py))?;
            }
            LinearMap::TensorTrain(t) => {
                row.set_item("out_modes", t.out_modes())?;
                row.set_item("in_modes", t.in_modes())?;
            }
        }
        Ok(row)
    }

    fn tensor(&self, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
        let bytes = PyBytes::new(self.py, &tensor.to_le_bytes().map_err(error)?);
        let array = self.py.import("numpy")?.call_method1("frombuffer", (bytes, dtype(tensor.dtype())?))?;
        array.call_method1("reshape", (PyTuple::new(self.py, tensor.shape())?,))
    }
}

/// What numpy calls a dtype.
fn dtype(dtype: DType) -> PyResult<&'static str> {
    Ok(match dtype {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I8 => "i1",
        DType::Bool => "?",
        other => return Err(error(format!("a weight of {other} cannot be trained"))),
    })
}

/// The tensors of [`with_tensors`].
struct Given<'g, 'py> {
    numbers: BTreeMap<PartId, usize>,
    tensors: &'g Bound<'py, PyDict>,
}

impl Given<'_, '_> {
    /// The tensor that stands in the place of one, of the same shape and dtype.
    fn instead(&self, part: &Part, name: &str, tensor: &Tensor) -> PyResult<Tensor> {
        let number = self.numbers[&part.id()];
        let Some(array) = self.tensors.get_item((number, name))? else { return Ok(tensor.clone()) };
        let shape: Vec<usize> = array.getattr("shape")?.extract()?;
        if shape != tensor.shape() {
            return Err(PyValueError::new_err(format!(
                "part {number}: {name}: expected the shape {:?}, found {shape:?}",
                tensor.shape()
            )));
        }
        let array = array.call_method1("astype", (dtype(tensor.dtype())?,))?;
        let bytes = array.call_method0("tobytes")?;
        Tensor::from_le_bytes(tensor.dtype(), shape, bytes.extract()?).map_err(error)
    }

    fn optional(&self, part: &Part, name: &str, tensor: Option<&Tensor>) -> PyResult<Option<Tensor>> {
        tensor.map(|tensor| self.instead(part, name, tensor)).transpose()
    }

    /// A part with other numbers. None for one that has none itself.
    fn part(&self, part: &Part) -> PyResult<Option<Part>> {
        Ok(match &**part {
            LinearMap::Dense(tensor) => Some(LinearMap::Dense(self.instead(part, "data", tensor)?).into()),
            LinearMap::Quantized(q) => {
                let codes = self.instead(part, "codes", q.codes())?;
                let scales = self.instead(part, "scales", q.scales())?;
                let zero_points = self.optional(part, "zero_points", q.zero_points())?;
                let columns = self.optional(part, "columns", q.columns())?;
                let new = Quantized::new(q.format(), q.granularity(), codes, scales, zero_points)
                    .and_then(|new| new.with_columns(columns))
                    .map_err(error)?;
                Some(LinearMap::Quantized(new.with_activations(q.activations())).into())
            }
            LinearMap::Sparse(_) | LinearMap::LowRank(_) | LinearMap::TensorTrain(_) => None,
        })
    }
}

/// An error of rewriting.
struct Failed(PyErr);

impl From<MapError> for Failed {
    fn from(e: MapError) -> Failed {
        Failed(error(e))
    }
}

/// The graph with other numbers in its weights: a dictionary `(part, tensor's name) -> array`, each of the shape of the one that it replaces.
pub(crate) fn with_tensors(graph: &Graph, tensors: &Bound<'_, PyDict>) -> PyResult<Graph> {
    let numbers = numbers(graph).iter().enumerate().map(|(n, part)| (part.id(), n)).collect();
    let given = Given { numbers, tensors };
    let (mut new, mut rewrite) = (graph.clone(), Rewrite::default());
    for (id, weight) in graph.weights() {
        let map = rewrite.part(&weight.map, &mut |part| given.part(part).map_err(Failed));
        new.set_weight(id, map.map_err(|Failed(e)| e)?).map_err(error)?;
    }
    lstmc::frontend::ir::verify(&new).map_err(error)?;
    Ok(new)
}
