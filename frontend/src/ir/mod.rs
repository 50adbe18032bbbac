//! The intermediate representation: a typed graph over linear maps.
//!
//! See `docs/ir.md` for every operator, type and representation. The text form is printed by [`print()`] and read by [`parse()`].

pub mod arbitrary;
mod cell;
mod describe;
mod dim;
mod formula;
mod graph;
mod infer;
mod infer_onnx;
mod map;
mod onnx;
mod op;
mod parse;
mod print;
mod program;
pub mod store;
pub mod verify;

pub use cell::{CellSpec, Gate, GateOrder, GateRows, Gru, Lstm, Reset, Rnn, plain_lstm};
pub use dim::{Dim, Symbol};
pub use formula::{Algebra, ERF_ERROR, Formula, FormulaBuilder, Primitive, Term, TermId};
pub use graph::{
    Graph, GraphError, Node, NodeId, Operand, Output, OutputRole, Type, Value, ValueId, Weight, WeightId,
};
pub(crate) use infer::infer;
pub use infer::{Fact, InferError};
pub(crate) use infer_onnx::Equation;
pub use map::{
    Activations, CodeFormat, ExportedType, Granularity, LinearMap, LowRank, MAX_MULTIPLIED_OUT, MapError,
    PackedWidth, Part, PartId, Pattern, Quantized, Rewrite, SetActivations, Sparse, TensorTrain,
    quantize_activations,
};
pub(crate) use onnx::Field;
pub use onnx::{Body, Loop, Onnx, OnnxKind, Scan};
pub use op::{Binary, Content, Direction, Function, OnnxLstm, OnnxRnn, Op, Reduction, Scalar};
pub use parse::{Kept, NoWeights, ParseError, Wanted, WeightSource, parse, parse_with};
pub(crate) use print::name;
pub use print::{PrintOptions, print, print_with};
pub use program::{
    Apply, Cell, Embed, Group, Head, Layout, Map, Norm, NotCanonical, Program, Sequence, Slice, Source,
    State, StateId, Step, StepId, StepKind, Window, parameters,
};
pub use verify::{VerifyError, VerifyErrors, verify, verify_language_model};
