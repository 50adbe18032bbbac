//! The parser of the text form.
//!
//! ```text
//! text      = "model" STRING [ "(" "vocabulary" N ")" ] "{" node* return "}" weight*
//! node      = [ result { "," result } "=" ] op [ operand { "," operand } ] [ "{" NAME "=" attr, ... "}" ] [ "from" STRING ]
//! result    = %NAME [ ":" type ]                 the type is checked against inference; input and state need it
//! operand   = %NAME | @NAME | "none"
//! type      = DTYPE "[" dim, ... "]"             dim = N | SYMBOL | products of them: 4*B*S | "?"
//! return    = "return" [ output { "," output } ]
//! output    = NAME %NAME | "state" %NAME "=" %NAME
//! weight    = @NAME ":" map
//! map       = DTYPE shape data
//!           | CODES grain [ "activations" "int8" ] shape "{" "codes:" data, "scales:" ["f16"] data
//!             [, "zero_points:" data] [, "columns:" ["f16"] data] "}"
//!           | "sparse" pattern [ "density" X ] shape "{" "mask:" data, "values:" child "}"
//!           | "low_rank" shape [ "rank" N ] "{" "left:" child, "right:" child "}"
//!           | "tensor_train" shape "modes" NxN.. "by" NxN.. [ "ranks" NxN.. ] "{" "core0:" child, "core1:" child, .. "}"
//! CODES     = "int4" or another format of codes
//! grain     = "row" | "group" N
//! pattern   = "unstructured" | "block" NxN | N ":" N
//! child     = map | @NAME/PART/..                the same child as that earlier part: shared, stored once
//! data      = "#" HEX8 | "[" number, ... "]" | "random" SEED
//! ```
//!
//! Each node and each weight is on its own line; a list may continue after a comma. `//` begins a comment. Names that are not plain
//! (`[A-Za-z0-9_.-]+`) are quoted: `%"/lstm/LSTM_output_0"`. [`random`](super::arbitrary::random_tensor) data makes file tests short:
//! codes are drawn from their width, scales are positive, a mask keeps `density` (or half) of its blocks, or `n` of every `m`.
//!
//! The parser accepts untrusted text: allocations are bounded by the text's own length, nesting is bounded, and every
//! error points to its position.

pub(super) mod attributes;
mod error;
mod lexer;
mod maps;
mod parser;
mod source;

use super::graph::Graph;

pub(super) use error::Located;
pub use error::ParseError;
pub(super) use lexer::is_plain;
pub use source::{Kept, NoWeights, Wanted, WeightSource};

/// Reads a graph. Tensors given only by hash are elided.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    parse_with(text, &mut NoWeights)
}

/// Reads a graph; `source` supplies the data of tensors given by hash.
pub fn parse_with(text: &str, source: &mut dyn WeightSource) -> Result<Graph, ParseError> {
    parser::Parser::new(text, source)?.graph()
}

#[cfg(test)]
mod tests;
