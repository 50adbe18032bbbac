//! Reading and writing ONNX. Reading: files become messages, messages become a [`Graph`] of generic operators.
//!
//! ```text
//!   bytes ──▶ scan ──▶ proto (prost) ──▶ import ─────────────▶ ir::Graph
//!          structure,  weights stay      order, names, attributes   │
//!          limits      where they are      │                        ▼
//!                                          └▶ decode, external   passes: canonicalize
//!                                             one copy of a weight
//! ```
//!
//! Opsets from 7 on are read, and every operator is converted to the form of its newest version, so passes know only one form. Local functions
//! and the branches of an If become part of the graph. An operator that is not known becomes [`Op::Unknown`](crate::ir::Op::Unknown), which
//! is refused by name where something needs its result; attributes that are not known and string tensors are refused here. A hostile file gives an [`OnnxError`]: sizes are checked before memory is allocated, external data
//! stays inside the model's folder, weights are finite.
//!
//! This module reads a graph without interpreting it: canonicalisation determines whether it is a language model.

mod decode;
mod error;
mod export;
mod external;
mod import;
pub mod proto;
mod scan;
#[cfg(test)]
mod tests;

pub use error::{NodeProblem, OnnxError, TensorProblem};
pub use export::{ExportError, ExportOptions, Exported, MAX_OPSET, MIN_OPSET, export};

use crate::ir::Graph;
use crate::tensor::Tensor;
use bytes::Bytes;
use external::External;
use prost::Message;
use proto::{ModelProto, TensorProto};
use scan::{Kind, scan};
use std::path::Path;

/// Reads the model in a file; external data is read from the file's folder. The graph is named after the file.
pub fn read(path: &Path) -> Result<Graph, OnnxError> {
    read_with_inputs(path, &[])
}

/// A model from an ONNX file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What [`export`] wrote, in language-model form with each weight's representation; of any other file, generic operators.
    pub graph: Graph,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Reads a file as [`read`] does, except for one that [`export`] wrote: the model that was exported is returned, exactly, unless
/// someone changed the file since.
pub fn read_exported(path: &Path) -> Result<Imported, OnnxError> {
    in_file(path, || import_exported(read_bytes(path)?, folder(path), &stem(path)))
}

/// As [`read_exported`], for the `bytes` of a file; see [`import`].
pub fn import_exported(bytes: Bytes, dir: Option<&Path>, name: &str) -> Result<Imported, OnnxError> {
    let model = decoded(bytes)?;
    let why = match export::restore(&model) {
        Some(Ok(mut graph)) => {
            graph.name = name.into();
            return Ok(Imported { graph, notes: vec![] });
        }
        Some(Err(why)) => Some(why),
        None => None,
    };
    let note = |why| {
        format!(
            "lstmc export wrote this file, but it is not what this version would write for the model ({why}): its nodes are read as those of any \
             other file, so compressed weights may become f32"
        )
    };
    let graph = import::import(model, External::new(dir), name, &[])?;
    Ok(Imported { graph, notes: why.map(note).into_iter().collect() })
}

/// Reads the model in a file with some of its inputs fixed: they become weights with these values.
///
/// For test cases of single operators, whose axes and shapes are inputs: they decide the types of the results, so the graph
/// needs them as constants.
pub fn read_with_inputs(path: &Path, fixed: &[(String, Tensor)]) -> Result<Graph, OnnxError> {
    in_file(path, || import_with_inputs(read_bytes(path)?, folder(path), &stem(path), fixed))
}

/// Reads the model in `bytes`, with external data in `dir`, and names it `name`.
///
/// The bytes are not copied, except for the weights, each of which is copied once.
pub fn import(bytes: Bytes, dir: Option<&Path>, name: &str) -> Result<Graph, OnnxError> {
    import_with_inputs(bytes, dir, name, &[])
}

fn import_with_inputs(
    bytes: Bytes,
    dir: Option<&Path>,
    name: &str,
    fixed: &[(String, Tensor)],
) -> Result<Graph, OnnxError> {
    import::import(decoded(bytes)?, External::new(dir), name, fixed)
}

fn decoded(bytes: Bytes) -> Result<ModelProto, OnnxError> {
    if bytes.is_empty() {
        return Err(OnnxError::Empty);
    }
    scan(&bytes, Kind::Model)?;
    Ok(ModelProto::decode(bytes)?)
}

/// Reads a tensor's file as in the data sets of ONNX's test cases (`input_0.pb`): its name, which may be empty, and the tensor.
///
/// NaN and infinite elements are allowed here.
pub fn read_tensor(path: &Path) -> Result<(String, Tensor), OnnxError> {
    in_file(path, || {
        let bytes = read_bytes(path)?;
        scan(&bytes, Kind::Tensor)?;
        let mut proto = TensorProto::decode(bytes)?;
        let name = std::mem::take(&mut proto.name);
        let tensor = decode::tensor(proto, &mut External::new(folder(path)))
            .map_err(|problem| OnnxError::tensor("tensor", &name, problem))?;
        Ok((name, tensor))
    })
}

/// Writes a tensor's file, as [`read_tensor`] reads it.
pub fn write_tensor(path: &Path, name: &str, tensor: &Tensor) -> Result<(), OnnxError> {
    in_file(path, || Ok(std::fs::write(path, decode::to_proto(name, tensor)?.encode_to_vec())?))
}

/// The name of a file without its ending, for the graph.
fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned())
}

/// The folder of a file, for its external data.
fn folder(path: &Path) -> Option<&Path> {
    path.parent().map(|d| if d.as_os_str().is_empty() { Path::new(".") } else { d })
}

fn in_file<T>(path: &Path, read: impl FnOnce() -> Result<T, OnnxError>) -> Result<T, OnnxError> {
    read().map_err(|error| OnnxError::InFile { file: path.to_path_buf(), error: Box::new(error) })
}

fn read_bytes(path: &Path) -> Result<Bytes, OnnxError> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(OnnxError::NotAFile { found: "a folder" });
    }
    if !metadata.is_file() {
        return Err(OnnxError::NotAFile { found: "a pipe or device" });
    }
    Ok(std::fs::read(path)?.into())
}
