//! Converts a generic graph, as an exporter wrote it, to language-model form.
//!
//! Lossless up to the rounding of sums of biases and of constant factors that go into weights (and of weights stored in f64).
//!
//! This is not a set of local rewrites but an *abstract evaluation*: the generic graph is run once, node by node, for a few tokens of a few
//! streams, on elements that are constants or references, and the canonical graph is the record of that run.
//!
//! ```text
//!   sizes       3 steps, 2 streams           every shape is known, so everything that is computed from shapes is a constant
//!   reference   (step 4, position 1, feature 7)
//!               the 8th feature of what step 4 of the draft computes for the 2nd token
//!
//!   Reshape, Slice, Gather, Where, ..        operators that move elements are run on references by the interpreter
//!   MatMul, LSTM, Add, ..                    operators that compute make a step of the draft: the elements that they read must be the same
//!                                            function of every position
//! ```
//!
//! So any way of writing the same model ends in the same draft: no rule knows how an exporter transposes, squeezes, stacks or splits. Which axis
//! of the tokens counts time shows when the first recurrent layer is evaluated; [`Sizes`] are tried until all fits. What has no abstract form is
//! an error only if the output needs it.
//!
//! The result has:
//!
//! - `%tokens`, then a pair of states `%h0, %c0` per LSTM, one `%h0` per GRU or RNN, no matter whether the model took them stacked, one by one or
//!   not at all; and a stepwise state for each input that is read by other steps;
//! - weights in order of use: `@embedding`, `@lstm0.input`, `@lstm0.recurrent`, `@lstm0.bias`, optionally `@lstm0.peepholes`, ..., `@decoder`,
//!   `@decoder.bias`; linear layers before the last are `@linear0`, ...; all f32, `[out, in]`, gates in the order iofc;
//! - a decoder that is the embedding's table, by identity or by content, is stored once (`linear %x, @embedding`);
//! - all logits of all steps, even if the model returns probabilities or only the last step;
//! - no node that the output does not need.
//!
//! Constants that are added to products or multiplied with them go into their weights. A scale after the embedding stays a `mul`.

mod arithmetic;
mod cells;
mod constant;
mod draft;
mod emit;
mod error;
mod evaluate;
mod loops;
mod outputs;
mod recurrent;
mod simplify;
mod sizes;
mod spelling;
mod states;
#[cfg(test)]
mod tests;
mod trace;
mod unrolled;
mod value;

pub use error::CanonicalizeError;
pub use sizes::{Role, Sizes};
pub use trace::{StateElement, Trace, trace};

use crate::ir::{Graph, Op, Program};

/// The result of [`canonicalize`].
#[derive(Clone, Debug)]
pub struct Canonical {
    /// In language-model form.
    pub graph: Graph,
    /// Notes for the user: outputs that were dropped, states that were made explicit.
    pub notes: Vec<String>,
    /// The sizes it was evaluated with: which input is the tokens, and what their axes count.
    pub sizes: Sizes,
}

/// Converts a generic graph to language-model form; `None` if it is already in that form. See the module's documentation.
pub fn canonicalize(graph: &Graph) -> Result<Option<Canonical>, CanonicalizeError> {
    let is_layer = |op: &Op| {
        let is_shared = matches!(op, Op::Input | Op::State | Op::Binary(_) | Op::Unary(_));
        op.is_language_model_form() && !is_shared
    };
    if graph.nodes().any(|(_, n)| is_layer(&n.op)) {
        Program::of(graph)?;
        return Ok(None);
    }
    let mut error = None;
    let (mut has_tokens, mut reads_features) = (false, false);
    let candidates = sizes::candidates(graph);
    let likeliest = candidates.first().map(|sizes| sizes.tokens);
    for sizes in candidates {
        has_tokens |= !sizes.one_hot;
        match canonicalize_at(graph, &sizes) {
            Ok(canonical) => return Ok(Some(canonical)),
            Err(e) => {
                reads_features |= matches!(e, CanonicalizeError::NoTokens { .. });
                // What is no input if another one is the tokens may be the tokens.
                let is_guess = sizes.one_hot && Some(sizes.tokens) != likeliest;
                if is_guess && matches!(e, CanonicalizeError::DependsOnInput { .. }) {
                    continue;
                }
                if error.as_ref().is_none_or(|best: &CanonicalizeError| e.distance() > best.distance()) {
                    error = Some(e);
                }
            }
        }
    }
    let inputs = graph.sources(&Op::Input);
    let inputs = inputs.iter().map(|&v| format!("%{}: {}", graph.name_of(v), graph.type_of(v))).collect();
    // Features that were tried as one-hot vectors and do not fit.
    let error =
        error.filter(|e| has_tokens || !(reads_features || matches!(e, CanonicalizeError::Order { .. })));
    Err(error.unwrap_or(CanonicalizeError::NoTokens { inputs }))
}

fn canonicalize_at(graph: &Graph, sizes: &Sizes) -> Result<Canonical, CanonicalizeError> {
    let mut evaluator = evaluate::Evaluator::evaluated(graph, sizes);
    let cut = evaluator.cut.take();
    let found = match (outputs::find(evaluator), cut) {
        (Err(error), Some((value, shape))) => {
            // What is looked up is what the language model reads.
            let Some(sizes) = sizes.with_tokens(value, &shape) else { return Err(error) };
            let mut canonical = canonicalize_at(graph, &sizes)?;
            canonical.notes.push(format!(
                "the tokens are what the model makes of its input before it looks them up (%{})",
                graph.name_of(value)
            ));
            return Ok(canonical);
        }
        (found, _) => found?,
    };
    let notes = found.notes.clone();
    Ok(Canonical { graph: emit::emit(&graph.name, found)?, notes, sizes: sizes.clone() })
}
