//! stub
use super::graph::Graph;
/// stub
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct ParseError;
/// stub
pub fn parse(_t: &str) -> Result<Graph, ParseError> {
    Err(ParseError)
}
