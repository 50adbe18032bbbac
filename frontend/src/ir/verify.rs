//! stub
use super::graph::Graph;
/// stub
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct VerifyError;
/// stub
pub fn verify(_t: &Graph) -> Result<(), VerifyError> {
    Ok(())
}
