//! The intermediate representation: a typed graph over linear maps.
//!
//! See `docs/ir.md` for every operator, type and representation. The text form is printed by [`print()`] and read by [`parse()`].

mod dim;
mod graph;
mod infer;
mod infer_onnx;
mod map;
mod op;
mod parse;
mod print;
pub mod store;
mod verify;

pub use dim::{Dim, Symbol};
pub use graph::{
    Gate, GateOrder, Graph, GraphError, Node, NodeId, Operand, Output, OutputRole, Type, Value, ValueId,
    Weight, WeightId,
};
pub(crate) use infer::infer;
pub use infer::{Fact, InferError};
pub use map::{Granularity, LinearMap, LowRank, MapError, Pattern, Quantized, Sparse, TensorTrain};
pub use op::{Activation, Binary, Content, Direction, OnnxLstm, Op, Scalar, Unary};
pub use parse::{ParseError, parse};
pub use print::print;
pub use verify::{VerifyError, verify};
