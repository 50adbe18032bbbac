//! Why a model could not be read.

use super::proto::{AttributeType, DataType};
use crate::ir::InferError;
use crate::tensor::TensorError;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a model or tensor could not be read. Every message ends with a workaround if there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// An error in a file.
    #[error("{}: {error}", file.display())]
    InFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: Box<OnnxError>,
    },
    /// The system could not read or write it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A tensor whose data is not available cannot be written.
    #[error("{0}")]
    Elided(#[from] TensorError),
    /// A folder, or something else that is not a file.
    #[error("this is {found}, not a file; give the path of the .onnx file")]
    NotAFile {
        /// The kind of the path.
        found: &'static str,
    },
    /// No bytes at all.
    #[error("the file is empty; export or download the model again")]
    Empty,
    /// A file of another kind.
    #[error("not an ONNX model: {found}; {advice}")]
    NotOnnx {
        /// What it seems to be.
        found: &'static str,
        /// A suggestion.
        advice: &'static str,
    },
    /// An ONNX file with a broken structure.
    #[error(
        "the file is truncated or damaged: at byte {offset}, {found}; export or download the model again"
    )]
    Damaged {
        /// The position.
        offset: usize,
        /// What was found.
        found: String,
    },
    /// A structure that is intact but whose contents do not follow ONNX.
    #[error("the file is damaged: {0}; export or download the model again")]
    Decode(#[from] prost::DecodeError),
    /// A required part that is missing.
    #[error("the model has no {what}; the file is truncated or no ONNX model")]
    Missing {
        /// The part.
        what: &'static str,
    },
    /// More parts than any language model has.
    #[error("more than {limit} {what}: this is no LSTM language model that lstmc can compile")]
    TooLarge {
        /// The parts.
        what: &'static str,
        /// The maximum number.
        limit: usize,
    },
    /// A version of the file format older than the first that is supported.
    #[error(
        "the file has ONNX IR version {found}, expected 3 or newer; export the model again with opset 17"
    )]
    IrVersion {
        /// The version.
        found: i64,
    },
    /// An operator set that is too old or does not exist.
    #[error("the model uses opset {found}, expected {oldest} or newer (known up to {newest}); {advice}")]
    Opset {
        /// The version.
        found: i64,
        /// The oldest supported version.
        oldest: i64,
        /// The newest whose operators are known.
        newest: i64,
        /// A suggestion.
        advice: &'static str,
    },
    /// Several versions of one operator set.
    #[error("the model names the opsets {found:?} for the standard operators, expected one; export it again")]
    Opsets {
        /// The versions.
        found: Vec<i64>,
    },
    /// A tensor that could not be read.
    #[error("{tensor}: {problem}")]
    Tensor {
        /// The tensor: `initialiser "x"`, for example.
        tensor: String,
        /// What is wrong with it.
        problem: TensorProblem,
    },
    /// An input or output of the graph whose type is not supported.
    #[error("{what} {}: expected {expected}, found {found}", Quoted(name))]
    Interface {
        /// `input` or `output`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The required type.
        expected: &'static str,
        /// The type found.
        found: String,
    },
    /// One name for two values.
    #[error("the value {} is defined twice: by {first} and by {second}; names must be unique", Quoted(name))]
    Duplicate {
        /// The name.
        name: String,
        /// The first definition.
        first: String,
        /// The second.
        second: String,
    },
    /// Nodes that depend on each other.
    #[error(
        "the graph has a cycle: {}; ONNX graphs have none, and recurrence belongs into LSTM nodes",
        nodes.join(" -> ")
    )]
    Cycle {
        /// Nodes, each of which reads the result of the one before; the last is the first.
        nodes: Vec<String>,
    },
    /// A node that could not be imported.
    #[error("{node}: {problem}")]
    Node {
        /// The node: `node "x"`, or `the node that makes "y"` if it has no name.
        node: String,
        /// What is wrong with it.
        problem: NodeProblem,
    },
}

/// The maximum number of dimensions of a tensor; NumPy's limit.
pub(super) const MAX_RANK: usize = 64;

/// What is wrong with a tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProblem {
    /// An element type that the IR does not have.
    #[error(
        "elements of type {found} are not supported; expected one of float, float16, bfloat16, double, int64, int32, int8, uint8, bool"
    )]
    DataType {
        /// The name of the type in ONNX.
        found: String,
    },
    /// More dimensions than any tensor has.
    #[error("expected at most {MAX_RANK} dimensions, found {found}; the file is damaged")]
    Rank {
        /// Their number.
        found: usize,
    },
    /// A negative dimension.
    #[error("expected dimensions of zero or more, found {found:?}")]
    NegativeDimension {
        /// The dimensions.
        found: Vec<i64>,
    },
    /// Dimensions whose product overflows.
    #[error("a tensor of shape {shape:?} has more elements than memory can hold; the file is damaged")]
    Overflow {
        /// The dimensions.
        shape: Vec<i64>,
    },
    /// Dimensions and data that do not fit.
    #[error("expected {expected} {unit} for shape {shape:?}, found {found}; the file is damaged")]
    Length {
        /// What is counted.
        unit: &'static str,
        /// The dimensions.
        shape: Vec<i64>,
        /// The required number.
        expected: usize,
        /// The number found.
        found: usize,
    },
    /// Data in two places.
    #[error("the data is given twice, as {first} and as {second}; expected one")]
    Twice {
        /// One place.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// An element that its type cannot hold.
    #[error("element {index} is {found}, which {dtype} cannot hold")]
    Range {
        /// The index in row-major order.
        index: usize,
        /// The number.
        found: i32,
        /// The type.
        dtype: &'static str,
    },
    /// A weight that is not a number.
    #[error(
        "element {index} is {found}; expected finite weights: the training has diverged or the file is damaged"
    )]
    NotFinite {
        /// The index in row-major order.
        index: usize,
        /// The element.
        found: f64,
    },
    /// A sparse tensor whose parts do not fit.
    #[error("sparse tensor: expected {expected}, found {found}")]
    Sparse {
        /// What ONNX requires.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A segment of a tensor.
    #[error("tensors in segments are not supported; save the model again with the onnx package")]
    Segment,
    /// A wrong or unknown entry in the description of external data.
    #[error("external data: expected {expected}, found {found}")]
    ExternalEntry {
        /// What ONNX requires.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// External data without a folder to look in.
    #[error(
        "the data is in {}, but the model was read from memory without a folder; read it from its file",
        Quoted(location)
    )]
    ExternalWithoutFolder {
        /// The place.
        location: String,
    },
    /// External data outside the model's folder.
    #[error(
        "external data at {} is outside the model's folder ({reason}); copy the data file next to the model",
        Quoted(location)
    )]
    ExternalOutside {
        /// The place.
        location: String,
        /// How it leads outside.
        reason: &'static str,
    },
    /// External data that cannot be read.
    #[error(
        "external data at {}: {error}; expected a file beside the model, as it was exported",
        Quoted(location)
    )]
    ExternalFile {
        /// The place.
        location: String,
        /// The system's error.
        error: io::Error,
    },
    /// External data beyond the end of its file.
    #[error(
        "external data at {}: expected {length} bytes from byte {offset} on, found a file of {size} bytes; it is truncated or of another model",
        Quoted(location)
    )]
    ExternalEnd {
        /// The place.
        location: String,
        /// The first byte.
        offset: u64,
        /// The number of bytes.
        length: u64,
        /// The file's size.
        size: u64,
    },
    /// More external data than the file holds.
    #[error(
        "external data at {}: the tensors in it overlap; expected each in its own part of the file",
        Quoted(location)
    )]
    ExternalOverlap {
        /// The place.
        location: String,
    },
}

/// What is wrong with a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeProblem {
    /// A local function that calls itself.
    #[error("{op} is a local function of the model that calls itself; ONNX has no recursion")]
    Recursion {
        /// The function.
        op: String,
    },
    /// A problem in a subgraph or in a local function.
    #[error("{0}")]
    Inside(Box<OnnxError>),
    /// Something that ONNX allows and lstmc does not support.
    #[error("{op} with {what} is not supported; {advice}")]
    Unsupported {
        /// The operator.
        op: String,
        /// The part that is not supported.
        what: String,
        /// A suggestion.
        advice: &'static str,
    },
    /// An attribute that the operator does not have at this opset, or that lstmc does not know.
    #[error("{op} at opset {opset} has no attribute {} that lstmc knows", Quoted(attribute))]
    UnknownAttribute {
        /// The operator.
        op: String,
        /// The operator set.
        opset: i64,
        /// The attribute.
        attribute: String,
    },
    /// An attribute that is missing, given twice, of the wrong type or with a value that is not allowed.
    #[error("{op}: attribute {}: expected {expected}, found {found}", Quoted(attribute))]
    Attribute {
        /// The operator.
        op: String,
        /// The attribute.
        attribute: String,
        /// What ONNX requires.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Too many or too few inputs or outputs.
    #[error("{op}: number of {what}: expected {expected}, found {found}")]
    Count {
        /// The operator.
        op: String,
        /// `inputs` or `outputs`.
        what: &'static str,
        /// The allowed number.
        expected: String,
        /// The number found.
        found: usize,
    },
    /// An input that nothing defines.
    #[error(
        "reads {}, expected a value that an input, an initialiser or another node defines, found none",
        Quoted(name)
    )]
    Undefined {
        /// The name.
        name: String,
    },
    /// Inputs whose types do not fit.
    #[error("{op}: {error}")]
    Types {
        /// The operator.
        op: String,
        /// Expected and found.
        error: InferError,
    },
    /// A tensor attribute that could not be read.
    #[error("attribute {}: {problem}", Quoted(attribute))]
    Tensor {
        /// The attribute.
        attribute: &'static str,
        /// What is wrong with it.
        problem: TensorProblem,
    },
}

impl OnnxError {
    pub(super) fn tensor(kind: &str, name: &str, problem: TensorProblem) -> OnnxError {
        OnnxError::Tensor { tensor: format!("{kind} {}", Quoted(name)), problem }
    }

    /// The error for bytes that do not begin like ONNX.
    pub(super) fn not_onnx(bytes: &[u8]) -> OnnxError {
        let (found, advice) = recognise(bytes);
        OnnxError::NotOnnx { found, advice }
    }
}

/// The kind of a file that is not ONNX, by its first bytes, and a suggestion.
fn recognise(bytes: &[u8]) -> (&'static str, &'static str) {
    const OTHER: &str = "export the model to ONNX and give that file";
    let head = &bytes[..bytes.len().min(8)];
    if head.to_ascii_lowercase().windows(5).any(|w| w == b"lstmc") {
        return ("it is an .lstmc model, compiled already", "use it where a command takes an .lstmc file");
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return (
            "it is a zip archive, as PyTorch and Keras save their models",
            "load it there and export it: torch.onnx.export or tf2onnx",
        );
    }
    if bytes.starts_with(b"\x80\x02") {
        return ("it is a Python pickle, as PyTorch saves models", "load it there and use torch.onnx.export");
    }
    if bytes.starts_with(b"\x89HDF") {
        return ("it is an HDF5 file, as Keras saves models", "load it there and export it with tf2onnx");
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return ("it is a Git LFS pointer, not the model itself", "fetch the model with git lfs pull");
    }
    if bytes.get(4..8) == Some(b"TFL3") {
        return ("it is a TensorFlow Lite model", OTHER);
    }
    if bytes.get(8) == Some(&b'{') && bytes.get(6..8) == Some(&[0, 0]) {
        return ("it seems to be a safetensors file, which holds weights without a graph", OTHER);
    }
    let printable = |b: &u8| (b' '..=b'~').contains(b) || b.is_ascii_whitespace();
    if bytes.iter().take(64).all(printable) {
        return ("it is a text", OTHER);
    }
    ("its first bytes are not those of an ONNX model", OTHER)
}

/// The name of an element type in ONNX, or its number.
pub(super) fn data_type_name(code: i32) -> String {
    match DataType::try_from(code) {
        Ok(t) => format!("{t:?}").to_lowercase(),
        Err(_) => format!("number {code}"),
    }
}

/// The name of an attribute's type in ONNX, or its number.
pub(super) fn attribute_type_name(code: i32) -> String {
    match AttributeType::try_from(code) {
        Ok(t) => format!("{t:?}").to_uppercase(),
        Err(_) => format!("type number {code}"),
    }
}

/// A name from a file, for a message: quoted, escaped and of limited length.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 120;
        match self.0.char_indices().nth(LONGEST) {
            Some((end, _)) => write!(f, "{:?}...", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}
