//! The passes of lstmc: pipelines, the driver, the perplexity budget, and one module per pass.
//!
//! This crate is a part of `lstmc`. Depend on `lstmc` instead: this crate's interface may change in any version.
//!
//! ```text
//!   "canonicalize, decode(target=decoder)"
//!        │ Pipeline::parse (against the pass table)
//!        ▼
//!   manager::run ──▶ pass ──▶ patch ──▶ apply ──▶ verify ──▶ budget ──▶ record ──▶ next pass
//!        │                                                    │
//!        ▼                                                    ▼
//!   graph and trail                          rejected: the graph before is kept
//! ```
//!
//! A pass is a pure function of a graph and a context: it proposes a [`Patch`] or gives the reason why it has none, and [`manager::run`]
//! does the rest. To add one, write a module with an `INFO` and add a line to [`registry::PASSES`].
#![deny(unsafe_code)]

pub mod budget;
pub mod calibrate;
mod canonicalize;
mod checkpoint;
mod decode;
mod info;
mod low_rank;
pub mod manager;
pub mod options;
mod pass;
pub mod pipeline;
mod prune;
mod quantize;
mod recover;
pub mod registry;
pub mod report;
mod sites;
pub mod solve;
mod target;
mod tensor_train;
pub mod testing;
mod tie;
pub mod trail;
mod watch;

pub use budget::{Budget, Evaluate};
pub use calibrate::{Calibration, CalibrationError, Drift, Reader, Sensitivity, Statistics};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use info::{PassInfo, Table};
pub use manager::{Run, RunError, Settings, StepError, run};
pub use pass::{Change, Context, Outcome, Pass, PassError, Patch};
pub use pipeline::{Invocation, Pipeline, PipelineError};
pub use report::{Report, TextInfo};
pub use target::{Target, TargetError};
pub use trail::{Measure, Record, Trail, Verdict};
pub use watch::{Interrupt, Listening, Status, Watcher};
