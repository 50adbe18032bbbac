//! Training runs in a file, so that they are resumable.
//!
//! ```text
//!   "lstmcrec"  version: u32  crc32 of the rest: u32  the runs in postcard's format        (numbers little-endian)
//! ```
//!
//! A run holds its identity and all that a step depends on, so that a run that was stopped at any point gives the same bits as one that was not.
//! There is one for each `recover` of a pipeline up to the current one. The passes before it run again: they give the same weights; if they do not,
//! the run belongs to another model.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;

const MAGIC: [u8; 8] = *b"lstmcrec";

/// The version that is written and read: of the format, and of the training step itself.
const VERSION: u32 = 3;

/// Bytes before the runs.
pub(crate) const HEADER: usize = 16;

/// Called with the bytes of a checkpoint, to write them.
type Write<'a> = dyn FnMut(&[u8]) -> Result<(), String> + 'a;

/// The storage of a pipeline's training runs.
pub struct Checkpoint<'a> {
    /// Each in postcard's format.
    runs: Vec<Vec<u8>>,
    /// The number of runs that have begun.
    begun: usize,
    write: Box<Write<'a>>,
}

/// Why training could not be resumed or saved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Not a file of this kind.
    #[error("not a checkpoint of training; `lstmc compile --checkpoint` makes them")]
    Format,
    /// Another version.
    #[error("a checkpoint of version {found}, expected {VERSION}; train anew, without --resume")]
    Version {
        /// The file's.
        found: u32,
    },
    /// Corrupted bytes.
    #[error("the checkpoint is damaged: {0}; train anew, without --resume")]
    Damaged(String),
    /// A run with different inputs.
    #[error(
        "the checkpoint is of another run; its {what}: {saved}; here: {now}; give the former, or train anew, without --resume"
    )]
    OtherRun {
        /// The input that differs.
        what: &'static str,
        /// Its saved value.
        saved: String,
        /// Its current value.
        now: String,
    },
    /// A file that could not be written.
    #[error("the checkpoint could not be kept: {0}")]
    Write(String),
}

/// The inputs that determine a run's result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) model: String,
    pub(crate) teacher: String,
    pub(crate) options: String,
    pub(crate) training: String,
    pub(crate) validation: String,
}

impl Identity {
    fn check(&self, now: &Identity) -> Result<(), CheckpointError> {
        let parts =
            |i: &Identity| [&i.model, &i.teacher, &i.options, &i.training, &i.validation].map(String::clone);
        let names = ["model before", "teacher", "options", "training text", "validation text"];
        for ((what, saved), now) in names.into_iter().zip(parts(self)).zip(parts(now)) {
            if saved != now {
                return Err(CheckpointError::OtherRun { what, saved, now });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Checkpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl<'a> Checkpoint<'a> {
    /// A checkpoint for new runs; `write` gets all of its bytes each time.
    pub fn new(write: impl FnMut(&[u8]) -> Result<(), String> + 'a) -> Checkpoint<'a> {
        Checkpoint { runs: vec![], begun: 0, write: Box::new(write) }
    }

    /// The checkpoint with the runs in `bytes`, which are resumed.
    pub fn resumed(self, bytes: &[u8]) -> Result<Checkpoint<'a>, CheckpointError> {
        let (header, runs) = bytes.split_at_checked(HEADER).ok_or(CheckpointError::Format)?;
        if header[..8] != MAGIC {
            return Err(CheckpointError::Format);
        }
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|k| header[at + k]));
        if number(8) != VERSION {
            return Err(CheckpointError::Version { found: number(8) });
        }
        if number(12) != crc32fast::hash(runs) {
            return Err(CheckpointError::Damaged("its checksum is another".into()));
        }
        let runs = postcard::from_bytes(runs).map_err(damaged)?;
        Ok(Checkpoint { runs, ..self })
    }

    /// The state of the next run of the pipeline, if the checkpoint has it.
    pub(crate) fn begin<S: DeserializeOwned>(
        &mut self,
        now: &Identity,
    ) -> Result<Option<S>, CheckpointError> {
        self.begun += 1;
        let Some(run) = self.runs.get(self.begun - 1) else { return Ok(None) };
        let (identity, rest) = postcard::take_from_bytes::<Identity>(run).map_err(damaged)?;
        identity.check(now)?;
        postcard::from_bytes(rest).map(Some).map_err(damaged)
    }

    /// Saves the state of the current run. Runs after it are dropped, because they started from another state.
    pub(crate) fn keep(
        &mut self,
        identity: &Identity,
        state: &impl Serialize,
    ) -> Result<(), CheckpointError> {
        let unwritten = |e: postcard::Error| CheckpointError::Write(e.to_string());
        self.runs.truncate(self.begun.saturating_sub(1));
        self.runs.push(postcard::to_stdvec(&(identity, state)).map_err(unwritten)?);
        let runs = postcard::to_stdvec(&self.runs).map_err(unwritten)?;
        (self.write)(&seal(&runs)).map_err(CheckpointError::Write)
    }
}

/// The file of these runs.
pub(crate) fn seal(runs: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for number in [VERSION, crc32fast::hash(runs)] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(runs);
    bytes
}

fn damaged(error: postcard::Error) -> CheckpointError {
    CheckpointError::Damaged(error.to_string())
}
