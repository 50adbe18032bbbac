//! From a budget to a model: which passes make the best one that a budget allows.
//!
//! ```text
//!   space ──▶ plan ──▶ a round of pipelines ──▶ evaluated here, or as commands elsewhere
//!               ▲                                   │
//!               └── what became of them ◀── files ──┘        ... ──▶ stop reason, frontier, best model
//! ```
//!
//! | module | contents | effects |
//! |---|---|---|
//! | [`amount`] | sizes and times as people write them | none |
//! | [`space`] | groups of maps, what can be done to each, pipelines as text | none |
//! | [`predict`] | what changes come to together; where a curve meets a value | none |
//! | [`choice`] | budgets, the frontier, the best point | none |
//! | [`plan`] | the next round, from all results so far | none |
//! | [`folder`] | results as files | files |
//! | [`evaluate`] | a pipeline becomes a model with its perplexity | computes |
//! | [`run`] | plan, folder and results together: the next jobs, and what became of them | files, times steps |
//! | [`output`] | the frontier's models and recipes, and their list | files |
//!
//! The plan keeps no state: it is a sequence of questions ("how good are these?"), asked from the beginning each time. Those that results answer take no time; the first one that they
//! do not is the next round. So a search goes on after it was killed, and gives the same as one that was not; and it does not matter where results were computed.

pub mod amount;
pub mod choice;
pub mod evaluate;
pub mod folder;
pub mod output;
pub mod plan;
pub mod predict;
pub mod run;
pub mod space;

pub use run::{Choosing, Job, Round, Search, Trained};

/// What is known of a model.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Found {
    /// Bytes of its weights, entropy-coded.
    pub bytes: usize,
    /// Perplexity on the validation text.
    pub perplexity: f64,
    /// That of the model as given.
    pub before: f64,
    /// The time of a step, where it was measured or predicted.
    pub microseconds: Option<f64>,
}

/// What became of a candidate: its figures, or why there is no model.
pub type Outcome = Result<Found, String>;

/// A model that was made.
#[derive(Clone, PartialEq, Debug)]
pub struct Point {
    /// The pipeline, as text.
    pub pipeline: String,
    /// Its figures.
    pub found: Found,
}
