//! From a decoded model to a graph: versions, names, order, inputs and outputs.

mod attributes;
mod loops;
mod microsoft;
mod norms;
mod ops;
mod order;
mod recurrent;

use super::decode;
use super::error::{MAX_RANK, NodeProblem, OnnxError, Quoted, data_type_name};
use super::external::External;
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
    dimension,
};
use crate::ir::{Dim, Graph, Op, Operand, OutputRole, Part, Symbol, Type, ValueId, WeightId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// The oldest supported operator set: the first with NumPy broadcasting.
const OLDEST_OPSET: i64 = 7;
/// The newest operator set that the operators here were compared with. Newer ones are tried, and their new features are refused.
const NEWEST_OPSET: i64 = 28;
/// ONNX gets about two sets a year: beyond this the number is corrupt.
const LARGEST_OPSET: i64 = 100;
/// The oldest version of the file format.
const OLDEST_IR_VERSION: i64 = 3;
/// The maximum number of nodes, or of tensors; exports of unrolled models have thousands.
const MAX_NODES: usize = 20_000;

/// The maximum number of named dimensions; exports have a handful.
const MAX_SYMBOLS: usize = 1000;

/// The graph of a model; inputs that are `fixed` become weights.
pub(super) fn import(
    model: ModelProto,
    external: External,
    name: &str,
    fixed: &[(String, Tensor)],
) -> Result<Graph, OnnxError> {
    let mut proto = model.graph.ok_or(OnnxError::Missing { what: "graph" })?;
    if model.ir_version < OLDEST_IR_VERSION {
        return Err(OnnxError::IrVersion { found: model.ir_version });
    }
    let opset = opset(&model.opset_import)?;
    let most = proto.node.len().max(proto.initializer.len()).max(proto.input.len());
    if most.max(proto.output.len()) > MAX_NODES {
        return Err(OnnxError::TooLarge { what: "nodes, tensors, inputs or outputs", limit: MAX_NODES });
    }
    let functions = model.functions.into_iter().map(|f| ((f.domain.clone(), f.name.clone()), Rc::new(f)));
    let mut importer = Importer {
        frames: vec![Frame::new(name)],
        scopes: vec![Scope::new(opset, 0)],
        functions: functions.collect(),
        calls: vec![],
        external,
        reserved: reserved(&proto)?,
        symbols: BTreeMap::new(),
        unnamed: 0,
        nodes: 0,
    };
    importer.initialisers(&mut proto)?;
    for (name, tensor) in fixed {
        if importer.is_known(name) || !proto.input.iter().any(|i| i.name == *name) {
            return Err(interface("input", name, "the name of an input", "none of this name"));
        }
        importer.define_weight(name, tensor.clone());
    }
    importer.inputs(&proto)?;
    importer.nodes(&mut proto.node)?;
    importer.outputs(&proto)?;
    Ok(importer.frames.remove(0).finish().0)
}

/// Drops the weights that no node reads: initialisers without a use, and those that an operator's form here does not need, such as a dropout ratio.
fn drop_unused(graph: &mut Graph) {
    let used: HashSet<Operand> = graph.nodes().flat_map(|(_, n)| n.operands()).copied().collect();
    let unused: Vec<WeightId> =
        graph.weights().map(|(id, _)| id).filter(|&id| !used.contains(&id.into())).collect();
    for id in unused {
        graph.remove_weight(id);
    }
}

fn opset(imports: &[OperatorSetIdProto]) -> Result<i64, OnnxError> {
    let standard = imports.iter().filter(|o| is_standard(&o.domain));
    let mut versions: Vec<i64> = standard.map(|o| o.version).collect();
    versions.dedup();
    let found = match versions[..] {
        [] => return Err(OnnxError::Missing { what: "opset version of the standard operators" }),
        [found] => found,
        _ => return Err(OnnxError::Opsets { found: versions }),
    };
    let advice = if found < OLDEST_OPSET {
        "convert it with onnx.version_converter or export it again"
    } else if found > LARGEST_OPSET {
        "the file is damaged"
    } else {
        if found > NEWEST_OPSET {
            tracing::warn!(
                "opset {found} is newer than {NEWEST_OPSET}, the newest that lstmc was checked with"
            );
        }
        return Ok(found);
    };
    Err(OnnxError::Opset { found, oldest: OLDEST_OPSET, newest: NEWEST_OPSET, advice })
}

/// Whether this is the domain of the standard operators, which has two spellings.
fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// A node's name in messages.
fn node_name(node: &NodeProto, index: usize) -> String {
    match (node.name.as_str(), node.output.iter().find(|o| !o.is_empty())) {
        ("", Some(output)) => format!("the node that makes {}", Quoted(output)),
        ("", None) => format!("node number {index}"),
        (name, _) => format!("node {}", Quoted(name)),
    }
}

/// Every name in the graph, checked to be defined once.
fn reserved(proto: &GraphProto) -> Result<HashSet<String>, OnnxError> {
    let mut defined: HashMap<&str, String> = HashMap::new();
    let mut define = |name, by: String| {
        let second = by.clone();
        match defined.insert(name, by) {
            Some(first) => Err(OnnxError::Duplicate { name: name.to_string(), first, second }),
            None => Ok(()),
        }
    };
    let sparse = proto.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let weights: HashSet<&str> = proto.initializer.iter().chain(sparse).map(|t| t.name.as_str()).collect();
    for tensor in &proto.initializer {
        define(&tensor.name, "an initialiser".into())?;
    }
    let mut inputs = HashSet::new();
    for input in &proto.input {
        // An initialiser may be listed among the inputs: its default value, which is used here.
        if !weights.contains(input.name.as_str()) {
            define(&input.name, "an input".into())?;
        } else if !inputs.insert(&input.name) {
            define(&input.name, "two inputs".into())?;
        }
    }
    for sparse in proto.sparse_initializer.iter().filter_map(|s| s.values.as_ref()) {
        define(&sparse.name, "a sparse initialiser".into())?;
    }
    for (i, node) in proto.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            define(output, node_name(node, i))?;
        }
    }
    Ok(defined.into_keys().map(str::to_string).collect())
}

/// A graph that is being made: the model's, or the body of a loop.
struct Frame {
    graph: Graph,
    /// The values of the frame outside that this graph reads, in the order of its inputs for them.
    captured: Vec<Operand>,
    /// What those are called here.
    lifted: HashMap<Operand, Operand>,
}

impl Frame {
    fn new(name: &str) -> Frame {
        Frame { graph: Graph::new(name), captured: vec![], lifted: HashMap::new() }
    }

    /// The graph, and what it reads from outside.
    fn finish(mut self) -> (Graph, Vec<Operand>) {
        drop_unused(&mut self.graph);
        (self.graph, self.captured)
    }
}

/// The names of the model's graph, of a subgraph or of a local function.
struct Scope {
    /// The value of each name in the file, so far; none for an input of a function that the call leaves out.
    values: HashMap<String, Operand>,
    /// The frame of these values.
    frame: usize,
    opset: i64,
    /// Of a function: the attributes of the call. Outer names are not visible.
    function: Option<HashMap<String, AttributeProto>>,
    /// Of a branch: it may not fit the operands that it is not taken for.
    branch: bool,
}

impl Scope {
    fn new(opset: i64, frame: usize) -> Scope {
        Scope { values: HashMap::new(), frame, opset, function: None, branch: false }
    }
}

/// The state while nodes are added.
struct Importer {
    /// The model's graph, and within it the loops' bodies that are being read.
    frames: Vec<Frame>,
    /// The scopes that are being read, innermost last.
    scopes: Vec<Scope>,
    /// The local functions, by domain and name.
    functions: HashMap<(String, String), Rc<FunctionProto>>,
    /// The functions that are being read.
    calls: Vec<(String, String)>,
    external: External,
    /// Every name in the file and every generated one.
    reserved: HashSet<String>,
    /// The symbol of each named dimension.
    symbols: BTreeMap<String, Symbol>,
    unnamed: usize,
    /// The number of nodes read.
    nodes: usize,
}

impl Importer {
    /// The graph that nodes are added to.
    fn graph(&mut self) -> &mut Graph {
        let last = self.frames.len() - 1;
        &mut self.frames[last].graph
    }

    /// The innermost scope.
    fn scope(&mut self) -> &mut Scope {
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    /// The scopes whose names are visible, innermost first.
    fn visible(&self) -> impl Iterator<Item = &Scope> {
        let function = self.scopes.iter().rposition(|s| s.function.is_some()).unwrap_or(0);
        self.scopes[function..].iter().rev()
    }

    fn is_known(&self, name: &str) -> bool {
        self.visible().any(|s| s.values.contains_key(name))
    }

    /// Gives a name of the file its value.
    fn define(&mut self, name: &str, value: Operand) {
        self.scope().values.insert(name.to_string(), value);
    }

    fn initialisers(&mut self, proto: &mut GraphProto) -> Result<(), OnnxError> {
        for mut tensor in std::mem::take(&mut proto.initializer) {
            let name = std::mem::take(&mut tensor.name);
            let value = decode::tensor(tensor, &mut self.external)
                .and_then(|t| decode::check_finite(&t).map(|()| t))
                .map_err(|problem| OnnxError::tensor("initialiser", &name, problem))?;
            self.define_weight(&name, value);
        }
        for sparse in std::mem::take(&mut proto.sparse_initializer) {
            let name = sparse.values.as_ref().map_or(String::new(), |v| v.name.clone());
            let value = decode::sparse(sparse, &mut self.external)
                .map_err(|problem| OnnxError::tensor("sparse initialiser", &name, problem))?;
            self.define_weight(&name, value);
        }
        Ok(())
    }

    /// Adds nodes, each after those whose results it reads.
    fn nodes(&mut self, nodes: &mut [NodeProto]) -> Result<(), OnnxError> {
        for i in order::order(nodes, |name| self.is_known(name))? {
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(OnnxError::TooLarge {
                    what: "nodes, with those of functions and subgraphs",
                    limit: MAX_NODES,
                });
            }
            let node = &mut nodes[i];
            ops::add(self, node, i)
                .map_err(|problem| OnnxError::Node { node: node_name(node, i), problem })?;
        }
        Ok(())
    }

    fn inputs(&mut self, proto: &GraphProto) -> Result<(), OnnxError> {
        let inputs: Vec<&ValueInfoProto> = proto.input.iter().filter(|i| !self.is_known(&i.name)).collect();
        for input in &inputs {
            for name in dimensions(input).filter_map(dimension_name) {
                self.name_symbol(name)?;
            }
        }
        for input in inputs {
            let ty = self.input_type(input)?;
            let value = self.graph().add_source(Op::Input, &input.name, ty);
            self.define(&input.name, value.into());
        }
        Ok(())
    }

    fn input_type(&mut self, input: &ValueInfoProto) -> Result<Type, OnnxError> {
        let wrong = |expected, found: &str| interface("input", &input.name, expected, found);
        let Some(tensor) = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
            return Err(wrong("a tensor", "no tensor type (a sequence, map or optional)"));
        };
        let dtype = decode::stored_dtype(tensor.elem_type)
            .map_err(|_| wrong("a float, integer or bool tensor", &data_type_name(tensor.elem_type)))?;
        if tensor.shape.is_none() {
            return Ok(Type::unranked(dtype));
        }
        let rank = dimensions(input).count();
        if rank > MAX_RANK {
            return Err(wrong("at most 64 dimensions", &rank.to_string()));
        }
        let mut shape = vec![];
        for dim in dimensions(input) {
            shape.push(match dim {
                Some(dimension::Value::DimParam(name)) if !name.is_empty() => {
                    Dim::symbol(self.symbols[name].clone())
                }
                // Some exporters write -1 for a dynamic dimension.
                None | Some(dimension::Value::DimParam(_) | dimension::Value::DimValue(-1)) => {
                    Dim::symbol(self.unnamed_symbol())
                }
                Some(&dimension::Value::DimValue(n)) => match usize::try_from(n) {
                    Ok(n) if n < isize::MAX as usize => Dim::constant(n),
                    _ => return Err(wrong("dimensions of zero or more", &n.to_string())),
                },
            });
        }
        Ok(Type::new(dtype, shape))
    }

    /// Makes a symbol for a name; different names get different symbols, even if the text form spells them alike.
    fn name_symbol(&mut self, name: &str) -> Result<(), OnnxError> {
        if self.symbols.contains_key(name) {
            return Ok(());
        }
        if self.symbols.len() == MAX_SYMBOLS {
            return Err(OnnxError::TooLarge { what: "named dimensions", limit: MAX_SYMBOLS });
        }
        let taken = |s: &Symbol| self.symbols.values().any(|t| t == s);
        let symbol = (1usize..).map(|n| match n {
            1 => Symbol::new(name),
            _ => Symbol::new(&format!("{name}_{n}")),
        });
        if let Some(symbol) = symbol.into_iter().find(|s| !taken(s)) {
            self.symbols.insert(name.to_string(), symbol);
        }
        Ok(())
    }

    fn unnamed_symbol(&mut self) -> Symbol {
        loop {
            let symbol = Symbol::new(&format!("d{}", self.unnamed));
            self.unnamed += 1;
            if !self.symbols.values().any(|s| *s == symbol) {
                return symbol;
            }
        }
    }

    fn outputs(&mut self, proto: &GraphProto) -> Result<(), OnnxError> {
        let mut seen = HashSet::new();
        for output in &proto.output {
            let wrong = |expected, found: &str| interface("output", &output.name, expected, found);
            if !seen.insert(&output.name) {
                return Err(wrong("outputs of different names", "two of this name"));
            }
            let Some(value) = self.lookup(&output.name) else {
                return Err(wrong("a value that an input or a node defines", "none"));
            };
            let value = self.value(value, &output.name).map_err(|e| wrong("a value", &e))?;
            self.graph().add_output(OutputRole::Named(output.name.clone()), value);
        }
        if proto.output.is_empty() {
            return Err(OnnxError::Missing { what: "output" });
        }
        Ok(())
    }

    /// The value of an operand that an output is; one that is a constant becomes the result of a node.
    fn value(&mut self, operand: Operand, name: &str) -> Result<ValueId, String> {
        match operand {
            Operand::Value(v) => Ok(v),
            Operand::Weight(_) => self
                .graph()
                .add(Op::Identity, &[operand], &[name], "")
                .map(|v| v[0])
                .map_err(|e| e.to_string()),
            Operand::None => Err("none".into()),
        }
    }

    /// Adds a weight under a name of the file.
    fn define_weight(&mut self, name: &str, map: impl Into<Part>) {
        let own = self.own_name(name);
        let id = self.graph().add_weight(&own, map).unwrap_or_else(|existing| existing);
        self.define(name, id.into());
    }

    /// Adds a constant that is not in the file, such as axes that were an attribute; `name` is made unique.
    fn constant(&mut self, name: &str, tensor: Tensor) -> Operand {
        let name = self.fresh(name);
        self.graph().add_weight(&name, tensor).unwrap_or_else(|existing| existing).into()
    }

    /// What a name of the file is called in the graph: the same, except in functions and subgraphs, where it may be another value's too.
    fn own_name(&mut self, name: &str) -> String {
        if self.scopes.len() == 1 { name.to_string() } else { self.fresh(name) }
    }

    /// An unused name.
    fn fresh(&mut self, wish: &str) -> String {
        let mut name = wish.to_string();
        let mut n = 1;
        while !self.reserved.insert(name.clone()) {
            n += 1;
            name = format!("{wish}.{n}");
        }
        name
    }

    /// The value of a name, as the current graph sees it.
    fn lookup(&mut self, name: &str) -> Option<Operand> {
        let (mut value, frame) = self.visible().find_map(|s| Some((*s.values.get(name)?, s.frame)))?;
        for inner in frame + 1..self.frames.len() {
            value = self.lift(value, inner);
        }
        Some(value)
    }

    /// What the frame calls a value of the one outside.
    fn lift(&mut self, value: Operand, frame: usize) -> Operand {
        if let Some(&known) = self.frames[frame].lifted.get(&value) {
            return known;
        }
        let outer = &self.frames[frame - 1].graph;
        let lifted = match value {
            Operand::None => return value,
            Operand::Weight(w) => {
                let weight = outer.weight(w).clone();
                let inner = &mut self.frames[frame].graph;
                inner.add_weight(&weight.name, weight.map).unwrap_or_else(|existing| existing).into()
            }
            Operand::Value(v) => {
                let (name, ty) = (outer.name_of(v).to_string(), loops::inside(outer.type_of(v)));
                let frame = &mut self.frames[frame];
                frame.captured.push(value);
                frame.graph.add_source(Op::Input, &name, ty).into()
            }
        };
        self.frames[frame].lifted.insert(value, lifted);
        lifted
    }

    /// The value of a node's input.
    fn operand(&mut self, name: &str) -> Result<Operand, NodeProblem> {
        if name.is_empty() {
            return Ok(Operand::None);
        }
        self.lookup(name).ok_or_else(|| NodeProblem::Undefined { name: name.to_string() })
    }

    /// The results of a subgraph without inputs whose nodes become nodes of the current graph.
    fn branch(&mut self, mut proto: GraphProto) -> Result<Vec<Operand>, OnnxError> {
        let scope = Scope::new(self.scope().opset, self.frames.len() - 1);
        self.scopes.push(Scope { branch: true, ..scope });
        self.initialisers(&mut proto)?;
        self.nodes(&mut proto.node)?;
        let results = self.results(proto.output.iter().map(|o| o.name.as_str()));
        self.scopes.pop();
        results
    }

    /// The results of a call of a local function whose nodes become nodes of the current graph.
    fn call(
        &mut self,
        function: &FunctionProto,
        operands: &[Operand],
        mut attributes: HashMap<String, AttributeProto>,
    ) -> Result<Vec<Operand>, OnnxError> {
        for default in &function.attribute_proto {
            attributes.entry(default.name.clone()).or_insert_with(|| default.clone());
        }
        let opset = if function.opset_import.iter().any(|o| is_standard(&o.domain)) {
            opset(&function.opset_import)?
        } else {
            self.scope().opset
        };
        let mut scope = Scope::new(opset, self.frames.len() - 1);
        scope.branch = self.scope().branch;
        scope.function = Some(attributes);
        for (i, input) in function.input.iter().enumerate() {
            scope.values.insert(input.clone(), operands.get(i).copied().unwrap_or(Operand::None));
        }
        self.scopes.push(scope);
        self.calls.push((function.domain.clone(), function.name.clone()));
        self.nodes(&mut function.node.clone())?;
        let results = self.results(function.output.iter().map(String::as_str));
        self.scopes.pop();
        self.calls.pop();
        results
    }

    fn results<'n>(&mut self, names: impl Iterator<Item = &'n str>) -> Result<Vec<Operand>, OnnxError> {
        let found = |name| {
            let none = || interface("output", name, "a value that an input or a node defines", "none");
            self.lookup(name).ok_or_else(none)
        };
        names.map(found).collect()
    }
}

fn interface(what: &'static str, name: &str, expected: &'static str, found: &str) -> OnnxError {
    OnnxError::Interface { what, name: name.to_string(), expected, found: found.to_string() }
}

fn dimensions(value: &ValueInfoProto) -> impl Iterator<Item = Option<&dimension::Value>> {
    let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    tensor.and_then(|t| t.shape.as_ref()).into_iter().flat_map(|s| &s.dim).map(|d| d.value.as_ref())
}

fn dimension_name(dim: Option<&dimension::Value>) -> Option<&str> {
    match dim {
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => Some(name),
        _ => None,
    }
}
