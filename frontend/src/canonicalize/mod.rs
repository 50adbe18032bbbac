//! Converts a generic graph, as an exporter wrote it, to language-model form.
//!
//! Lossless up to the rounding of a sum of two biases (and of weights stored in f64).
//!
//! This is not a set of local rewrites but an *abstract evaluation*: the generic graph is run once, node by node, on abstract values, and
//! the canonical graph is the record of that run.
//!
//! ```text
//!   generic value                    is known to be
//!   @val_30, Slice(@weight), ...     Constant    a tensor: constants are folded as they appear
//!   Shape(%x), Mul(..), ...          Integers    the generic graph's types already give the elements
//!   %tokens, Unsqueeze(%tokens)      Tokens      with a layout
//!   Gather(@table, %tokens)          Sequence    step 0 of the draft: embedding, layout [t0, t1, features]
//!   Slice(%h0, 1..2)                 State       a part of a state input: axis 0, element 1
//!   Expand(0, ..)                    Zeros       an initial state of zero
//!   LSTM(..)                         Sequence, Finals, Finals    step 1: lstm
//! ```
//!
//! A layout says how each axis of the generic value is composed of the tokens' axes and the features. Transposes permute
//! it, reshapes and squeezes regroup it, and a layer fits if its features are last; so every way of writing the same model ends
//! in the same draft. The first LSTM determines which axis of the tokens counts time steps.
//!
//! The result has:
//!
//! - `%tokens`, then one pair of states `%h0, %c0, ...` per layer, no matter whether the model took them stacked, one by one or not at all;
//! - weights in order of use: `@embedding`, `@lstm0.input`, `@lstm0.recurrent`, `@lstm0.bias`, optionally `@lstm0.peepholes`, ..., `@decoder`,
//!   `@decoder.bias`; linear layers before the last are `@linear0`, ...; all f32, `[out, in]`, gates in the order iofc;
//! - a decoder that is the embedding's table, by identity or by content, is stored once (`linear %x, @embedding`);
//! - all logits of all steps, even if the model returns probabilities or only the last step;
//! - no node that the logits do not need.
//!
//! It does not optimise what the layers compute. A scale after the embedding stays a `mul`.

mod arithmetic;
mod draft;
mod error;
mod evaluate;
mod fold;
mod layout;
mod movement;
mod outputs;
mod recurrent;
mod value;

pub use error::CanonicalizeError;

use crate::ir::{Graph, Op, Program};

/// The result of [`canonicalize`].
#[derive(Clone, Debug)]
pub struct Canonical {
    /// In language-model form.
    pub graph: Graph,
    /// Notes for the user: outputs that were dropped, states that were made explicit.
    pub notes: Vec<String>,
}

/// Converts a generic graph to language-model form; `None` if it is already in that form. See the module's documentation.
pub fn canonicalize(graph: &Graph) -> Result<Option<Canonical>, CanonicalizeError> {
    let is_canonical = |op: &Op| matches!(op, Op::Embedding | Op::Lstm(_) | Op::Linear);
    if graph.nodes().any(|(_, n)| is_canonical(&n.op)) {
        Program::of(graph)?;
        return Ok(None);
    }
    let mut evaluator = evaluate::Evaluator::new(graph);
    evaluator.run()?;
    let (graph, notes) = evaluator.finish()?;
    Ok(Some(Canonical { graph, notes }))
}
