//! Why a model cannot be turned into language-model form.

use crate::ir::{Graph, GraphError, Node, NotCanonical};
use crate::tensor::TensorError;

/// Why a model cannot be turned into language-model form. Nodes are named as the model's file names them.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalizeError {
    /// A layer that reads future words.
    #[error(
        "{node} is {direction}: a language model must be causal, and this layer reads the words to come; \
         train the model with a forward LSTM"
    )]
    NotCausal {
        /// The LSTM.
        node: String,
        /// Its direction.
        direction: &'static str,
    },
    /// An LSTM with an option that has no compiled form.
    #[error("{node} has {feature}, which cannot be compiled yet; the interpreter runs it{hint}")]
    LstmFeature {
        /// The LSTM.
        node: String,
        /// The option.
        feature: String,
        /// A workaround, or nothing.
        hint: &'static str,
    },
    /// No recurrent layer between tokens and logits.
    #[error(
        "no LSTM between the tokens and the logits: lstmc compiles LSTM language models; \
         the interpreter runs models of other kinds whose operators it knows"
    )]
    NoLstm,
    /// No integer input.
    #[error(
        "no token input: expected one integer input [S, B], found {}; export the model with its embedding",
        list(inputs)
    )]
    NoTokens {
        /// The existing inputs, with their types.
        inputs: Vec<String>,
    },
    /// More than one integer input.
    #[error(
        "several integer inputs ({}): expected one, the tokens; export the model without the others",
        list(inputs)
    )]
    SeveralTokens {
        /// The inputs, with their types.
        inputs: Vec<String>,
    },
    /// Tokens that are not looked up in one table.
    #[error(
        "the tokens are looked up in {found} tables: expected one embedding; join the tables before exporting"
    )]
    Embeddings {
        /// The number of tables.
        found: usize,
    },
    /// An operator that language models of this kind do not have there.
    #[error("{node}: {why}; expected a model of embedding, LSTM and linear layers")]
    Unsupported {
        /// The node.
        node: String,
        /// The part of it that cannot be expressed.
        why: String,
    },
    /// Axes in an order that does not fit.
    #[error(
        "{node}: expected {expected}, found axes {found} (t0, t1 are the axes of the tokens); check the model's transposes and reshapes"
    )]
    Layout {
        /// The node.
        node: String,
        /// The required axes.
        expected: String,
        /// The axes found.
        found: String,
    },
    /// An initial state that is neither zero nor an input.
    #[error(
        "{node}: its initial {part} state is {found}: expected zero or a state input; export the model with its states as inputs"
    )]
    InitialState {
        /// The LSTM.
        node: String,
        /// hidden or cell.
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
    /// No output over the vocabulary.
    #[error(
        "no logits: expected an output [.., {vocabulary}], one score for each row of the embedding, found {}",
        list(outputs)
    )]
    NoLogits {
        /// The rows of the embedding.
        vocabulary: usize,
        /// The existing outputs.
        outputs: Vec<String>,
    },
    /// A weight that depends on the input.
    #[error(
        "{node}: its {operand} must be a constant: the values of weights are needed to compile the model"
    )]
    NotConstant {
        /// The node.
        node: String,
        /// Which operand.
        operand: &'static str,
    },
    /// A weight whose shape does not fit.
    #[error("{node}: {operand}: expected {expected}, found shape {found:?}")]
    WeightShape {
        /// The node.
        node: String,
        /// Which operand.
        operand: &'static str,
        /// The required shape.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A constant subgraph that could not be computed.
    #[error("{node}: folding constants: {why}")]
    Fold {
        /// The node.
        node: String,
        /// The reason.
        why: String,
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
