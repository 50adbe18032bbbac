//! Why a model cannot be compiled.

use lstmc_frontend::ir::{MapError, Node};

/// Why a model cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The graph is not in language-model form.
    #[error("only a graph in language-model form can be compiled: {0}")]
    NotCanonical(String),
    /// An operator, or a use of one, that has no kernel.
    #[error("{op}{}: {reason}", if origin.is_empty() { String::new() } else { format!(" (node \"{origin}\")") })]
    Unsupported {
        /// The operator.
        op: &'static str,
        /// The node's name in the model's file.
        origin: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A weight that cannot be read.
    #[error("@{name}: {error}")]
    Map {
        /// The weight.
        name: String,
        /// What is wrong with it.
        error: MapError,
    },
    /// State and scratch of a stream that no machine should be asked for.
    #[error(
        "the model's layers take {found} numbers of working memory for each stream, of at most {most}; use narrower layers or fewer words"
    )]
    TooWide {
        /// f32s of state, or of scratch.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// No code can be generated for this target.
    #[error("target: {0}")]
    Target(String),
    /// A target that object files cannot be made for.
    #[error(transparent)]
    ObjectTarget(#[from] crate::object::TargetError),
    /// A name, words or sizes that an object file cannot hold.
    #[error(transparent)]
    Object(#[from] crate::object::ObjectError),
    /// The code generator failed: a defect of this program.
    #[error("code generation failed ({function}): {reason}; this is a defect of lstmc, please report it")]
    Codegen {
        /// The function being compiled.
        function: String,
        /// What the code generator says.
        reason: String,
    },
}

impl CompileError {
    pub(crate) fn unsupported(node: &Node, reason: &str) -> CompileError {
        CompileError::Unsupported { op: node.op.name(), origin: node.origin.clone(), reason: reason.into() }
    }
}
