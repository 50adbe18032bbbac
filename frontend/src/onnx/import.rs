//! From a decoded model to a graph: versions, names, order, inputs and outputs.

mod attributes;
mod lstm;
mod ops;
mod order;

use super::decode;
use super::error::{MAX_RANK, NodeProblem, OnnxError, Quoted, data_type_name};
use super::external::External;
use super::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto, dimension};
use crate::ir::{Dim, Graph, Op, Operand, OutputRole, Symbol, Type, WeightId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

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
    if let Some(sparse) = proto.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |v| &v.name);
        return Err(OnnxError::tensor("initialiser", name, super::TensorProblem::Sparse));
    }
    let functions = model.functions.into_iter().map(|f| (f.domain, f.name)).collect();
    let mut importer = Importer {
        graph: Graph::new(name),
        opset,
        functions,
        external,
        values: HashMap::new(),
        reserved: reserved(&proto)?,
        symbols: BTreeMap::new(),
        unnamed: 0,
    };
    importer.initialisers(&mut proto)?;
    for (name, tensor) in fixed {
        if importer.values.contains_key(name) || !proto.input.iter().any(|i| i.name == *name) {
            return Err(interface("input", name, "the name of an input", "none of this name"));
        }
        importer.define_weight(name, tensor.clone());
    }
    importer.inputs(&proto)?;
    for i in order::order(&proto.node, &importer.values)? {
        let node = &mut proto.node[i];
        ops::add(&mut importer, node, i)
            .map_err(|problem| OnnxError::Node { node: node_name(node, i), problem })?;
    }
    importer.outputs(&proto)?;
    drop_unused(&mut importer.graph);
    Ok(importer.graph)
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
    let weights: HashSet<&str> = proto.initializer.iter().map(|t| t.name.as_str()).collect();
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
    for (i, node) in proto.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            define(output, node_name(node, i))?;
        }
    }
    Ok(defined.into_keys().map(str::to_string).collect())
}

/// The state while nodes are added.
struct Importer {
    graph: Graph,
    opset: i64,
    /// Domain and name of each local function.
    functions: BTreeSet<(String, String)>,
    external: External,
    /// The value of each name in the file, so far.
    values: HashMap<String, Operand>,
    /// Every name in the file and every generated one.
    reserved: HashSet<String>,
    /// The symbol of each named dimension.
    symbols: BTreeMap<String, Symbol>,
    unnamed: usize,
}

impl Importer {
    fn initialisers(&mut self, proto: &mut GraphProto) -> Result<(), OnnxError> {
        for mut tensor in std::mem::take(&mut proto.initializer) {
            let name = std::mem::take(&mut tensor.name);
            let value = decode::tensor(tensor, &mut self.external)
                .and_then(|t| decode::check_finite(&t).map(|()| t))
                .map_err(|problem| OnnxError::tensor("initialiser", &name, problem))?;
            self.define_weight(&name, value);
        }
        Ok(())
    }

    fn inputs(&mut self, proto: &GraphProto) -> Result<(), OnnxError> {
        let inputs: Vec<&ValueInfoProto> =
            proto.input.iter().filter(|i| !self.values.contains_key(&i.name)).collect();
        for input in &inputs {
            for name in dimensions(input).filter_map(dimension_name) {
                self.name_symbol(name)?;
            }
        }
        for input in inputs {
            let ty = self.input_type(input)?;
            let value = self.graph.add_source(Op::Input, &input.name, ty);
            self.values.insert(input.name.clone(), value.into());
        }
        Ok(())
    }

    fn input_type(&mut self, input: &ValueInfoProto) -> Result<Type, OnnxError> {
        let wrong = |expected, found: &str| interface("input", &input.name, expected, found);
        let Some(tensor) = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
            return Err(wrong("a tensor", "no tensor type (a sequence, map or optional)"));
        };
        let dtype = decode::dtype(tensor.elem_type)
            .map_err(|_| wrong("a float, integer or bool tensor", &data_type_name(tensor.elem_type)))?;
        if tensor.shape.is_none() {
            return Err(wrong("a tensor of known rank; export with input shapes", "no shape"));
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
            let value = match self.values.get(&output.name) {
                Some(&Operand::Value(v)) => v,
                // A constant; outputs are results of nodes.
                Some(&weight @ Operand::Weight(_)) => {
                    let copied = self.graph.add(Op::Identity, &[weight], &[&output.name], "");
                    copied.map_err(|e| wrong("a constant", &e.to_string()))?[0]
                }
                _ => return Err(wrong("a value that an input or a node defines", "none")),
            };
            self.graph.add_output(OutputRole::Named(output.name.clone()), value);
        }
        if proto.output.is_empty() {
            return Err(OnnxError::Missing { what: "output" });
        }
        Ok(())
    }

    /// Adds a weight under a name of the file.
    fn define_weight(&mut self, name: &str, tensor: Tensor) -> Operand {
        let id = self.graph.add_weight(name, tensor).unwrap_or_else(|existing| existing);
        self.values.insert(name.to_string(), id.into());
        id.into()
    }

    /// Adds a constant that is not in the file, such as axes that were an attribute; `name` is made unique.
    fn constant(&mut self, name: &str, values: Vec<i64>) -> Operand {
        let name = self.fresh(name);
        let tensor = Tensor::from_i64([values.len()], values).expect("one element each");
        self.graph.add_weight(&name, tensor).unwrap_or_else(|existing| existing).into()
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

    /// The value of a node's input.
    fn operand(&self, name: &str) -> Result<Operand, NodeProblem> {
        match self.values.get(name) {
            _ if name.is_empty() => Ok(Operand::None),
            Some(&operand) => Ok(operand),
            None => Err(NodeProblem::Undefined { name: name.to_string() }),
        }
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
