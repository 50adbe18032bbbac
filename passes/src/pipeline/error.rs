//! What is wrong with a pipeline, and where.

use std::fmt;

/// A pipeline that could not be read.
#[derive(Clone, PartialEq, Debug)]
pub struct PipelineError {
    /// What is wrong.
    pub problem: Box<Problem>,
    /// The place.
    pub place: Place,
}

/// A place in a pipeline.
#[derive(Clone, PartialEq, Debug)]
pub enum Place {
    /// Bytes of the text form.
    Text {
        /// The whole text.
        text: String,
        /// The first byte.
        start: usize,
        /// One past the last byte.
        end: usize,
    },
    /// A pass of a recipe, from 1.
    Recipe {
        /// Its position.
        pass: usize,
    },
    /// The recipe as a whole.
    File,
}

/// What is wrong with a pipeline.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A pass that does not exist.
    #[error("unknown pass `{name}`{}; the passes are {}", suggest(closest), known.join(", "))]
    UnknownPass {
        /// The name found.
        name: String,
        /// The name that was probably meant.
        closest: Option<&'static str>,
        /// Every pass.
        known: Vec<&'static str>,
    },
    /// An option that the pass does not have.
    #[error("`{pass}` has no option `{name}`{}; {}", suggest(closest), options(known))]
    UnknownOption {
        /// The pass.
        pass: &'static str,
        /// The name found.
        name: String,
        /// The name that was probably meant.
        closest: Option<&'static str>,
        /// Every option of the pass.
        known: Vec<&'static str>,
    },
    /// A value that does not fit.
    #[error("`{option}` of `{pass}`: expected {expected}, found `{found}`")]
    Value {
        /// The pass.
        pass: &'static str,
        /// The option.
        option: &'static str,
        /// A description of valid values.
        expected: String,
        /// The value found.
        found: String,
    },
    /// An option that must be given.
    #[error("`{pass}` needs `{option}`: {doc} ({expected})")]
    Missing {
        /// The pass.
        pass: &'static str,
        /// The option.
        option: &'static str,
        /// The values that it takes.
        expected: String,
        /// Its description.
        doc: &'static str,
    },
    /// An option given twice.
    #[error("`{option}` of `{pass}` is given twice")]
    Repeated {
        /// The pass.
        pass: &'static str,
        /// The option.
        option: &'static str,
    },
    /// Text that is not a pipeline, or a file that is not a recipe.
    #[error("expected {expected}, found {found}")]
    Syntax {
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A file that is not TOML, or has unknown fields.
    #[error("not a recipe: {0}")]
    Toml(String),
}

fn suggest(closest: &Option<&'static str>) -> String {
    closest.map_or(String::new(), |name| format!(" (did you mean `{name}`?)"))
}

fn options(known: &[&str]) -> String {
    if known.is_empty() { "it has none".into() } else { format!("its options are {}", known.join(", ")) }
}

impl std::error::Error for PipelineError {}

/// The problem, followed by the line with a mark under the place.
impl fmt::Display for PipelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File => write!(f, "{}", self.problem),
            Place::Recipe { pass } => write!(f, "pass {pass} of the recipe: {}", self.problem),
            Place::Text { text, start, end } => {
                let line_start = text[..*start].rfind('\n').map_or(0, |n| n + 1);
                let line = text[line_start..].lines().next().unwrap_or("");
                let line_end = line_start + line.len();
                let before = text[line_start..*start].chars().count();
                let marked = text[*start..(*end).clamp(*start, line_end.max(*start))].chars().count();
                let (gap, mark) = (" ".repeat(before), "^".repeat(marked.max(1)));
                write!(f, "{}\n  {line}\n  {gap}{mark}", self.problem)
            }
        }
    }
}
