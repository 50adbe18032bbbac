//! Why a model cannot be compiled.

use lstmc_frontend::ir::MapError;

/// Why a model cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The graph is not in language-model form.
    #[error("only a graph in language-model form can be compiled: {0}")]
    NotCanonical(String),
    /// A weight that cannot be read.
    #[error("@{name}: {error}")]
    Map {
        /// The weight.
        name: String,
        /// What is wrong with it.
        error: MapError,
    },
    /// State or scratch of a stream that exceeds the limit.
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
    /// A target without support for object files.
    #[error(transparent)]
    ObjectTarget(#[from] TargetError),
    /// A name, words or sizes that an object file cannot hold.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The code generator failed: a defect of this program.
    #[error("code generation failed ({function}): {reason}; this is a defect of lstmc, please report it")]
    Codegen {
        /// The function being compiled.
        function: String,
        /// The code generator's message.
        reason: String,
    },
}

/// Why code cannot be compiled for a target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A triple without support for object files.
    #[error("no object files can be made for the target `{triple}`; the targets are {}", .known.join(", "))]
    Triple {
        /// The requested triple.
        triple: String,
        /// The supported triples.
        known: Vec<&'static str>,
    },
    /// A target that this build does not include.
    #[error(
        "{triple}: this program was built with code generation for its own architecture alone; build it with the feature `all-targets`"
    )]
    Disabled {
        /// The requested name.
        triple: &'static str,
    },
    /// A feature that the architecture does not have.
    #[error(
        "{triple} has no CPU feature `{feature}`; it has {}, besides `generic` and `native`",
        .known.join(", ")
    )]
    Feature {
        /// The target.
        triple: String,
        /// The requested feature.
        feature: String,
        /// The available features.
        known: Vec<String>,
    },
    /// The native CPU of another architecture.
    #[error(
        "the features of this machine's CPU ({host}) are not those of {triple}; name them, or use `generic`"
    )]
    Native {
        /// The target.
        triple: String,
        /// This machine's architecture.
        host: String,
    },
}

/// Why a model cannot become an object file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// A name that C does not allow.
    #[error(
        "`{name}` cannot be the prefix of C functions: use letters, digits and `_`, first a letter, not a word of C's or \
         Rust's own or one of their libraries, at most {most} characters"
    )]
    Name {
        /// The name.
        name: String,
        /// The maximum number of characters.
        most: usize,
    },
    /// A word that contains a NUL.
    #[error("word {id} of the vocabulary has a NUL character in it, which C's strings cannot have")]
    Nul {
        /// Its id.
        id: usize,
    },
    /// Too many words.
    #[error("the vocabulary takes more than 4 GiB, which is more than an object file's tables can index")]
    Words,
    /// A vocabulary of another model.
    #[error("the vocabulary has {found} words, and the model {expected}")]
    Vocabulary {
        /// Words in the vocabulary.
        found: usize,
        /// Words that the model predicts.
        expected: usize,
    },
}
