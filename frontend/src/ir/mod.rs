//! The intermediate representation: a typed graph over linear maps.
//!
//! See `docs/ir.md` for every operator, type and representation. The text form is printed by [`print()`] and read by [`parse()`].

pub mod arbitrary;
mod describe;
mod dim;
mod graph;
mod infer;
mod infer_onnx;
mod language_model;
mod map;
mod op;
mod parse;
mod print;
pub mod store;
pub mod verify;

pub use dim::{Dim, Symbol};
pub use graph::{
    Gate, GateOrder, Graph, GraphError, Node, NodeId, Operand, Output, OutputRole, Type, Value, ValueId,
    Weight, WeightId,
};
pub(crate) use infer::infer;
pub use infer::{Fact, InferError};
pub use language_model::{
    EmbeddingLayer, LanguageModel, Layer, LinearLayer, LstmLayer, NotCanonical, parameters,
};
pub use map::{
    Activations, CodeFormat, ExportedType, Granularity, LinearMap, LowRank, MAX_MULTIPLIED_OUT, MapError,
    PackedWidth, Pattern, Quantized, SetActivations, Sparse, TensorTrain, quantize_activations,
};
pub use op::{Activation, Binary, Content, Direction, OnnxLstm, Op, Scalar, Unary};
pub use parse::{Kept, NoWeights, ParseError, Wanted, WeightSource, parse, parse_with};
pub use print::{PrintOptions, print, print_with};
pub use verify::{VerifyError, VerifyErrors, verify, verify_language_model};
