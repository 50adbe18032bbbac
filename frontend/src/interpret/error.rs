//! Why a graph could not be interpreted.

use crate::ir::{Graph, InferError, MapError, Node, NotCanonical};
use crate::tensor::TensorError;

/// Why a graph could not be interpreted.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterpretError {
    /// A node's operands do not fit it.
    #[error("{op} %{result}{}: {error}", if origin.is_empty() { String::new() } else { format!(" (node \"{origin}\")") })]
    Node {
        /// The operator.
        op: &'static str,
        /// The name of its first result.
        result: String,
        /// The node's name in the model's file.
        origin: String,
        /// What is wrong.
        error: InferError,
    },
    /// A weight cannot be decoded.
    #[error("weight @{name}: {error}")]
    Weight {
        /// The weight's name.
        name: String,
        /// What is wrong.
        error: MapError,
    },
    /// An input is missing, unknown or of another type.
    #[error("input \"{name}\": expected {expected}, found {found}")]
    Input {
        /// The input's name.
        name: String,
        /// The type that the graph takes.
        expected: String,
        /// The type that was given.
        found: String,
    },
    /// The graph must be in language-model form.
    #[error(transparent)]
    Form(#[from] NotCanonical),
    /// A token outside the vocabulary.
    #[error(
        "token {token} at position {position}: expected less than {vocabulary}, the size of the vocabulary"
    )]
    Token {
        /// The position in the given tokens.
        position: usize,
        /// The token.
        token: u32,
        /// The number of words.
        vocabulary: usize,
    },
    /// A model that returns hidden vectors.
    #[error(
        "the model returns a hidden vector, not the probabilities of the next word: it has no score and no perplexity"
    )]
    NoPredictions,
    /// The model's arithmetic gave NaN or infinity.
    #[error(
        "the prediction at position {position} is not a number: some weight or intermediate result is NaN or infinite"
    )]
    NotANumber {
        /// The position in the given tokens.
        position: usize,
    },
}

impl InterpretError {
    /// The error for a node.
    pub(super) fn node(graph: &Graph, node: &Node, error: InferError) -> InterpretError {
        let result = node.results().first().map_or(String::new(), |&v| graph.name_of(v).to_string());
        InterpretError::Node { op: node.op.name(), result, origin: node.origin.clone(), error }
    }
}

impl From<TensorError> for InferError {
    fn from(e: TensorError) -> InferError {
        InferError::new("a tensor that can be read", e.to_string())
    }
}
