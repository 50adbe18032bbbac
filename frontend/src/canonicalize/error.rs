//! Why a model cannot be turned into language-model form.

use super::value::{Reason, Why};
use crate::ir::{Graph, GraphError, Node, NotCanonical};
use crate::tensor::TensorError;

/// Why a model cannot be turned into language-model form. Nodes are named as the model's file names them.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalizeError {
    /// A layer that reads future words.
    #[error(
        "{node} is {direction}: a language model must be causal, and this layer reads the words to come; \
         train the model with a forward layer"
    )]
    NotCausal {
        /// The layer.
        node: String,
        /// Its direction.
        direction: &'static str,
    },
    /// No recurrent layer between tokens and output.
    #[error(
        "no recurrent layer between the tokens and the output: lstmc compiles recurrent language models; \
         the interpreter runs models of other kinds whose operators it knows"
    )]
    NoCell,
    /// No input that can be tokens.
    #[error(
        "no token input: expected numbers of words that are looked up in an embedding, or one-hot vectors, found {}; this model \
         reads features, not tokens: export it with its embedding",
        list(inputs)
    )]
    NoTokens {
        /// The existing inputs, with their types.
        inputs: Vec<String>,
    },
    /// The output depends on an input that a language model does not have.
    #[error(
        "the output depends on input {input}, which is neither the tokens nor a state that comes back: a compiled model has no such input; \
         export the model with a constant in its place"
    )]
    DependsOnInput {
        /// The input, with its type.
        input: String,
    },
    /// Tokens that are not looked up in one table.
    #[error(
        "the tokens are looked up in {found} tables: expected one embedding, not two or more models or tables; \
         join the tables before exporting"
    )]
    Embeddings {
        /// The number of tables.
        found: usize,
    },
    /// Operators that are not known.
    #[error(
        "unsupported operators: {}; the output needs them, and what they compute is not known",
        list(operators)
    )]
    Operators {
        /// Each operator's name, with its count and first node.
        operators: Vec<String>,
    },
    /// Something that language models of this kind do not have there.
    #[error("{node}: {why}; expected a model of embedding, recurrent and linear layers")]
    Unsupported {
        /// The node.
        node: String,
        /// The part of it that cannot be expressed.
        why: String,
    },
    /// Axes, time steps or streams that do not fit each other.
    #[error(
        "{node}: {why}; expected the time steps and streams of the tokens, one after the other, and that each step of an unrolled \
         loop computes the same (otherwise, export one step, or sequences of any length)"
    )]
    Order {
        /// The node.
        node: String,
        /// What does not fit.
        why: String,
    },
    /// An initial state that is neither zero, constant nor an input.
    #[error("{node}: its initial state `{part}` is {found}: expected zero, a constant or a state input")]
    InitialState {
        /// The layer.
        node: String,
        /// The state's letter.
        part: &'static str,
        /// The value found.
        found: String,
    },
    /// Two layers that start from the same state.
    #[error(
        "{first} and {second} both start from the same part of input %{input}: expected a state of its own for each"
    )]
    SharedState {
        /// A part of a layer.
        first: String,
        /// Another part.
        second: String,
        /// The state input.
        input: String,
    },
    /// States that are returned in another order than they are taken.
    #[error(
        "output `{output}` returns the states as {found}, but input %{input} takes them as {expected}: \
         fed back, they would reach other layers; return them in the order of the input"
    )]
    StateOrder {
        /// The output.
        output: String,
        /// The state input.
        input: String,
        /// The order in which they are taken.
        expected: String,
        /// The order in which they are returned.
        found: String,
    },
    /// A state that comes back changed.
    #[error(
        "input %{input} is the state of a layer, but what comes back as `{output}` is computed from that state after the last step: a \
         compiled model carries its states as they are; return the layer's states"
    )]
    StateChanged {
        /// The state input.
        input: String,
        /// The output.
        output: String,
    },
    /// No output over the vocabulary.
    #[error(
        "no logits: expected an output [.., {vocabulary}], one score for each row of the embedding, or a vector for each token, found {}",
        list(outputs)
    )]
    NoLogits {
        /// The rows of the embedding.
        vocabulary: usize,
        /// The existing outputs.
        outputs: Vec<String>,
    },
    /// A vector that its name says to be scores of words.
    #[error(
        "output `{output}` has {features} features, and the embedding {vocabulary} rows: its name says that it is scores of words, which would be \
         {vocabulary}; rename the output if it is a hidden vector"
    )]
    Named {
        /// The output.
        output: String,
        /// Its features.
        features: usize,
        /// The rows of the embedding.
        vocabulary: usize,
    },
    /// A constant that could not be read.
    #[error("{node}: {source}")]
    Tensor {
        /// The node.
        node: String,
        /// The reason.
        source: TensorError,
    },
    /// Some nodes are in language-model form, but not all of it fits.
    #[error(transparent)]
    NotCanonical(#[from] NotCanonical),
    /// The canonical node does not fit its operands.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl CanonicalizeError {
    pub(super) fn of(reason: &Reason) -> CanonicalizeError {
        let node = reason.node.clone();
        match &reason.why {
            Why::Operator(name) => {
                CanonicalizeError::Operators { operators: vec![format!("{name} ({node})")] }
            }
            Why::NotCausal(direction) => CanonicalizeError::NotCausal { node, direction },
            Why::Order(why) => CanonicalizeError::Order { node, why: why.clone() },
            Why::At(reason) => CanonicalizeError::of(reason),
            Why::Other(why) => CanonicalizeError::Unsupported { node, why: why.clone() },
        }
    }

    /// How far an attempt came: of several, the error of the one that came farthest is shown.
    pub(super) fn distance(&self) -> usize {
        match self {
            CanonicalizeError::NoTokens { .. } => 0,
            CanonicalizeError::Order { .. } => 1,
            CanonicalizeError::NoLogits { .. } | CanonicalizeError::NoCell => 2,
            CanonicalizeError::Unsupported { .. } => 3,
            CanonicalizeError::Operators { .. } => 4,
            _ => 5,
        }
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

/// A node's name in messages: the name in the model's file, otherwise its result's name.
pub(super) fn label(graph: &Graph, node: &Node) -> String {
    if !node.origin.is_empty() {
        return format!("{} node \"{}\"", node.op.name(), node.origin);
    }
    match node.results().first() {
        Some(&v) => format!("the {} that makes %{}", node.op.name(), graph.name_of(v)),
        None => node.op.name().to_string(),
    }
}
