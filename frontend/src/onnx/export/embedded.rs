//! The model's text in the file, so that the model that is read is the one that was written.
//!
//! ONNX has no pruned, low-rank or tensor-train weights, no codes of 2 or 3 bits and no int8 activations, and the same nodes may come from several
//! models: a zero may be a weight that a mask keeps. So the file's metadata, which other tools ignore, describe the model:
//!
//! | key | value |
//! |---|---|
//! | `lstmc.graph` | the [text form](crate::ir::print()), weights as hashes |
//! | `lstmc.tensors` | a line for each tensor of a weight: where it is in the file |
//!
//! ```text
//! tensor 7:transposed decoder/codes      the elements of initialiser 7, transposed
//! mask 00f3 lstm1.input/mask             where the values are not zero, except for the blocks in the Rice-coded list
//! bytes 0000803f lstm0.h0/data           a vector that is not in the file: little-endian, in hexadecimal
//! ```
//!
//! **The nodes decide what the file means.** The text is only a proposal: the model that it describes is written again, and is taken if that gives
//! the nodes, constants, inputs and outputs of the file, all of them. So a file that another tool changed is never read as what it was,
//! whatever its metadata say; a file that a later version writes differently is read as any other ONNX file.

use super::weights::transposed;
use super::{ExportOptions, Leaves, written};
use crate::ir::store::{best_rice, read_rice, write_rice};
use crate::ir::{
    Graph, LinearMap, Part, PartId, Pattern, Wanted, WeightSource, name, parse, parse_with, print, verify,
};
use crate::onnx::decode;
use crate::onnx::external::External;
use crate::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};
use crate::tensor::{DType, Data, Tensor, element_count};
use half::{bf16, f16};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

const GRAPH: &str = "lstmc.graph";
const TENSORS: &str = "lstmc.tensors";

/// The maximum number of parts of all weights, shared ones as often as they are used: a text of a few lines could ask for millions of nodes.
const MAX_PARTS: usize = 20_000;

/// Where a tensor is in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    /// The number of the initialiser.
    pub(super) index: usize,
    /// The order of its elements.
    pub(super) layout: Layout,
}

/// The order of a tensor's elements in an initialiser.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// That of the tensor.
    Plain,
    /// That of the transposed matrix.
    Transposed,
    /// Codes of 4 bits plus 8, two in a byte: those of a row's first half in the low bits, of its second half in the high ones.
    Halves,
    /// Blocks of a vector: for each, which block of the initialiser it is.
    Blocks(Vec<usize>),
}

/// `plain`, `transposed`, `halves`, or the blocks: `0,2,3,1`.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layout::Plain => f.write_str("plain"),
            Layout::Transposed => f.write_str("transposed"),
            Layout::Halves => f.write_str("halves"),
            Layout::Blocks(all) => {
                f.write_str(&all.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Layout {
    fn parse(text: &str) -> Option<Layout> {
        Some(match text {
            "plain" => Layout::Plain,
            "transposed" => Layout::Transposed,
            "halves" => Layout::Halves,
            _ => Layout::Blocks(text.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?),
        })
    }

    /// The elements of a tensor of this shape, from those of the initialiser.
    fn restore<T: Copy>(&self, all: &[T], shape: &[usize]) -> Option<Vec<T>> {
        let count: usize = shape.iter().product();
        match (self, shape) {
            (Layout::Blocks(places), [_]) => {
                let size = count.checked_div(places.len()).filter(|n| n * places.len() == count)?;
                let block = |&p: &usize| all.get(p.checked_mul(size)?..p.checked_add(1)?.checked_mul(size)?);
                Some(places.iter().map(block).collect::<Option<Vec<_>>>()?.concat())
            }
            (Layout::Plain, _) if all.len() == count => Some(all.to_vec()),
            (Layout::Transposed, &[rows, cols]) if all.len() == count => Some(transposed(all, [cols, rows])),
            _ => None,
        }
    }
}

/// Every part of a graph's weights, with the path that the text form has for it; a shared one where it occurs first.
fn parts(graph: &Graph) -> Vec<(String, &Part)> {
    fn walk<'g>(path: String, part: &'g Part, seen: &mut HashSet<PartId>, all: &mut Vec<(String, &'g Part)>) {
        let children = part.children();
        all.push((path.clone(), part));
        for (child, part) in children {
            if seen.insert(part.id()) {
                walk(format!("{path}/{child}"), part, seen, all);
            }
        }
    }
    let (mut seen, mut all) = (HashSet::new(), vec![]);
    graph.weights().for_each(|(_, w)| walk(name(&w.name), &w.map, &mut seen, &mut all));
    all
}

/// Describes the graph in the metadata of the message that was written for it, if what is read then is this graph.
pub(super) fn embed(graph: &Graph, leaves: &Leaves, model: &mut ModelProto) {
    let initializers = model.graph.as_ref().map_or(&[][..], |g| &g.initializer);
    let Some(lines) = describe(graph, leaves, initializers) else { return };
    let entry = |key: &str, value| StringStringEntryProto { key: key.into(), value };
    model.metadata_props = vec![entry(GRAPH, print(graph)), entry(TENSORS, lines.join("\n"))];
    if !matches!(restore(model), Some(Ok(_))) {
        model.metadata_props.clear();
    }
}

/// The lines for all tensors; none if one of them is not in the file.
fn describe(graph: &Graph, leaves: &Leaves, initializers: &[TensorProto]) -> Option<Vec<String>> {
    let mut lines = vec![];
    for (path, part) in parts(graph) {
        if let LinearMap::Sparse(s) = &**part {
            let values = s.values();
            let (tensor, shape, dtype) = elements(values)?;
            let written = fetch(initializers, leaves.get(&(values.id(), tensor))?, dtype, shape)?;
            let (found, mask) = (nonzero(&written, s.pattern())?, s.mask().bools().ok()?);
            let wrong: Vec<bool> = found.iter().zip(mask).map(|(a, b)| a != b).collect();
            let list = match wrong.contains(&true) {
                true => hex(&write_rice(&wrong, best_rice(&wrong).0)),
                false => "none".into(),
            };
            lines.push(format!("mask {list} {path}/mask"));
            continue;
        }
        for (tensor, data) in part.tensors() {
            lines.push(match leaves.get(&(part.id(), tensor)) {
                Some(leaf) => format!("tensor {}:{} {path}/{tensor}", leaf.index, leaf.layout),
                None if data.shape().len() <= 1 => {
                    format!("bytes {} {path}/{tensor}", hex(&data.to_le_bytes().ok()?))
                }
                None => return None,
            });
        }
    }
    Some(lines)
}

/// The model that the metadata describe; an error if the file is no longer what [`super::export`] writes for it.
pub(in crate::onnx) fn restore(model: &ModelProto) -> Option<Result<Graph, String>> {
    let value = |key| model.metadata_props.iter().find(|p| p.key == key).map(|p| p.value.as_str());
    Some(described(model, value(GRAPH)?, value(TENSORS).unwrap_or_default()))
}

fn described(model: &ModelProto, text: &str, tensors: &str) -> Result<Graph, String> {
    let outline = parse(text).map_err(|e| e.to_string())?;
    let mut left = MAX_PARTS;
    if !outline.weights().all(|(_, w)| takes(&w.map, &mut left)) {
        return Err(format!("the weights have more than {MAX_PARTS} parts"));
    }
    let all = parts(&outline);
    let mut source = Described {
        lines: tensors.lines().filter_map(line).collect(),
        paths: all.iter().map(|(path, part)| (part.id(), path.as_str())).collect(),
        parts: all.iter().map(|(path, part)| (path.as_str(), *part)).collect(),
        initializers: model.graph.as_ref().map_or(&[], |g| &g.initializer),
    };
    let graph = parse_with(text, &mut source).map_err(|e| e.to_string())?;
    verify(&graph).map_err(|e| e.to_string())?;
    let opset = model.opset_import.first().map_or(0, |o| o.version);
    let options = ExportOptions { dense: false, opset };
    let again = written(&graph, &options).map_err(|e| e.to_string())?.0.model;
    let same = |a: &ModelProto, b: &ModelProto| {
        a.graph == b.graph && a.opset_import == b.opset_import && a.functions == b.functions
    };
    if same(&again, model) { Ok(graph) } else { Err("its nodes or weights are others".into()) }
}

/// Whether a map has at most this many parts; subtracts them.
fn takes(map: &LinearMap, left: &mut usize) -> bool {
    *left = left.saturating_sub(1);
    *left > 0 && map.children().iter().all(|(_, part)| takes(part, left))
}

/// The data that the lines of [`TENSORS`] find.
struct Described<'m> {
    /// By path.
    lines: BTreeMap<&'m str, (&'m str, &'m str)>,
    parts: BTreeMap<&'m str, &'m Part>,
    paths: BTreeMap<PartId, &'m str>,
    initializers: &'m [TensorProto],
}

impl Described<'_> {
    fn find(&self, path: &str, dtype: DType, shape: &[usize]) -> Option<Tensor> {
        match *self.lines.get(path)? {
            ("tensor", place) => {
                let (index, layout) = place.split_once(':')?;
                let leaf = Leaf { index: index.parse().ok()?, layout: Layout::parse(layout)? };
                fetch(self.initializers, &leaf, dtype, shape)
            }
            ("bytes", digits) => Tensor::from_le_bytes(dtype, shape, &unhex(digits)?).ok(),
            ("mask", list) => {
                let LinearMap::Sparse(s) = &***self.parts.get(path.rsplit_once('/')?.0)? else { return None };
                let (tensor, shape, dtype) = elements(s.values())?;
                let path = format!("{}/{tensor}", self.paths.get(&s.values().id())?);
                let mut mask = nonzero(&self.find(&path, dtype, shape)?, s.pattern())?;
                if list != "none" {
                    let wrong = read_rice(&unhex(list)?, mask.len())?;
                    mask.iter_mut().zip(wrong).for_each(|(kept, wrong)| *kept ^= wrong);
                }
                Tensor::from_bool(s.mask().shape(), mask).ok()
            }
            _ => None,
        }
    }
}

impl WeightSource for Described<'_> {
    fn tensor(&mut self, wanted: &Wanted<'_>) -> Result<Option<Tensor>, String> {
        let missing = || format!("{} is not where the metadata say", wanted.path);
        let tensor = self.find(wanted.path, wanted.dtype, wanted.shape).ok_or_else(missing)?;
        let (Some(kept), Ok(shape)) = (wanted.kept, <[usize; 2]>::try_from(wanted.shape)) else {
            return Ok(Some(tensor));
        };
        // What the mask drops has the code of its zero point in the file.
        let Data::I8(codes) = tensor.data() else { return Ok(Some(tensor)) };
        let kept = kept.pattern.expand(shape, kept.mask);
        let codes = codes.iter().zip(kept).map(|(&code, kept)| if kept { code } else { 0 }).collect();
        Tensor::from_i8(shape, codes).map(Some).map_err(|e| e.to_string())
    }
}

/// The tensor with an element for each of a map under a mask: name, shape and dtype.
fn elements(values: &LinearMap) -> Option<(&'static str, &[usize], DType)> {
    values.tensors().first().map(|(tensor, data)| (*tensor, data.shape(), data.dtype()))
}

/// The blocks of a matrix with elements whose bytes are not all zero: what a mask keeps has them, unless it is zero.
fn nonzero(t: &Tensor, pattern: Pattern) -> Option<Vec<bool>> {
    let &[rows, cols] = t.shape() else { return None };
    let ([r, c], [grid_rows, grid_cols]) = (pattern.block(), pattern.grid([rows, cols]));
    let mut found = vec![false; grid_rows * grid_cols];
    let size = t.dtype().size();
    for (k, element) in t.to_le_bytes().ok()?.chunks(size).enumerate() {
        found[k / cols / r * grid_cols + k % cols / c] |= element.iter().any(|&b| b != 0);
    }
    Some(found)
}

/// A tensor of this type, from an initialiser.
fn fetch(initializers: &[TensorProto], leaf: &Leaf, dtype: DType, shape: &[usize]) -> Option<Tensor> {
    let count = element_count(shape).ok()?;
    let found = decode::tensor(initializers.get(leaf.index)?.clone(), &mut External::new(None)).ok()?;
    let data = match (found.data(), dtype) {
        (Data::I8(all), DType::I8) => Data::I8(Arc::new(leaf.layout.restore(all, shape)?)),
        (Data::U8(all), DType::I8) if leaf.layout == Layout::Halves => {
            let &[rows, cols] = shape else { return None };
            let width = cols.div_ceil(2);
            if Some(all.len()) != rows.checked_mul(width) {
                return None;
            }
            let code = |k: usize| {
                let byte = all[k / cols * width + k % cols % width];
                (if k % cols < width { byte & 0xf } else { byte >> 4 }) as i8 - 8
            };
            Data::I8(Arc::new((0..count).map(code).collect()))
        }
        (Data::F32(all), _) => {
            let all = leaf.layout.restore(all, shape)?;
            match dtype {
                DType::F32 => Data::F32(Arc::new(all)),
                DType::F16 => Data::F16(Arc::new(all.into_iter().map(f16::from_f32).collect())),
                DType::Bf16 => Data::Bf16(Arc::new(all.into_iter().map(bf16::from_f32).collect())),
                _ => return None,
            }
        }
        _ => return None,
    };
    Tensor::new(shape.to_vec(), data).ok()
}

/// The path in a line, with its kind and its data.
fn line(line: &str) -> Option<(&str, (&str, &str))> {
    let mut words = line.splitn(3, ' ');
    let (kind, data) = (words.next()?, words.next()?);
    Some((words.next()?, (kind, data)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|&[a, b]| Some(digit(a)? << 4 | digit(b)?)).collect();
    if rest.is_empty() { bytes } else { None }
}
