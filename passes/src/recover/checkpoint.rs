//! Training runs in a file, so that they are resumable.
//!
//! ```text
//!   "lstmcrec"  version: u32  crc32 of the rest: u32  the runs in postcard's format        (numbers little-endian)
//! ```
//!
//! A run holds its identity and all that a step depends on, so that a run that was stopped at any point gives the same bits as one that was not.
//! There is one for each `recover` of a pipeline up to the current one. The passes before it run again: they give the same weights; if they do not,
//! the run belongs to another model.

use super::run::Progress;
use super::weights::Values;
use serde::{Deserialize, Serialize};
use std::fmt;

const MAGIC: [u8; 8] = *b"lstmcrec";

/// The version that is written and read: of the format, and of the training step itself.
const VERSION: u32 = 2;

/// Bytes before the runs.
const HEADER: usize = 16;

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
pub(super) struct Identity {
    pub(super) model: String,
    pub(super) options: String,
    pub(super) training: String,
    pub(super) validation: String,
}

impl Identity {
    fn check(&self, now: &Identity) -> Result<(), CheckpointError> {
        let parts = |i: &Identity| [&i.model, &i.options, &i.training, &i.validation].map(String::clone);
        let names = ["model before", "options", "training text", "validation text"];
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

    /// The parameters and the progress of the next run of the pipeline, if the checkpoint has it.
    pub(super) fn begin(
        &mut self,
        now: &Identity,
    ) -> Result<Option<(Values<f32>, Progress)>, CheckpointError> {
        self.begun += 1;
        let Some(run) = self.runs.get(self.begun - 1) else { return Ok(None) };
        let (identity, rest) = postcard::take_from_bytes::<Identity>(run).map_err(damaged)?;
        identity.check(now)?;
        postcard::from_bytes(rest).map(Some).map_err(damaged)
    }

    /// Saves the current run. Runs after it are dropped, because they started from another state.
    pub(super) fn keep(
        &mut self,
        identity: &Identity,
        parameters: &Values<f32>,
        progress: &Progress,
    ) -> Result<(), CheckpointError> {
        let unwritten = |e: postcard::Error| CheckpointError::Write(e.to_string());
        self.runs.truncate(self.begun.saturating_sub(1));
        self.runs.push(postcard::to_stdvec(&(identity, parameters, progress)).map_err(unwritten)?);
        let runs = postcard::to_stdvec(&self.runs).map_err(unwritten)?;
        (self.write)(&seal(&runs)).map_err(CheckpointError::Write)
    }
}

/// The file of these runs.
fn seal(runs: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests::{Interpreter, WORDS, text};
    use crate::{Context, Interrupt, Pipeline, Run, RunError, Settings, run};
    use lstmc_frontend::ir::arbitrary::language_model;
    use lstmc_frontend::ir::print;
    use std::cell::RefCell;

    /// Two runs, which between them have all there is to keep: averages, states of a teacher, draws, codes.
    const PASSES: &str = "recover(optimizer=adamw, lr=0.01, batch=4, bptt=7, dropout=0.2, epochs=1.5), quantize(bits=4, method=nearest), \
                          recover(batch=3, bptt=5, distill=0.5, epochs=0.8)";

    /// What is run, and on what.
    struct Case<'t> {
        passes: &'t str,
        training: Vec<u32>,
        validation: Option<Vec<u32>>,
        seed: u64,
    }

    impl Default for Case<'_> {
        fn default() -> Self {
            Case { passes: PASSES, training: text(), validation: Some(text()), seed: 1 }
        }
    }

    impl Case<'_> {
        /// Runs, from a checkpoint where there is one, and calls `write` with each that is written.
        fn run(
            &self,
            from: Option<&[u8]>,
            interrupt: &Interrupt,
            write: impl FnMut(&[u8]) -> Result<(), String>,
        ) -> Result<Run, RunError> {
            let mut evaluator = self.validation.clone().map(Interpreter);
            let checkpoint = Checkpoint::new(write);
            let checkpoint = match from {
                Some(bytes) => checkpoint.resumed(bytes).unwrap(),
                None => checkpoint,
            };
            let context = Context {
                training: Some(&self.training),
                evaluator: evaluator.as_mut().map(|e| e as _),
                checkpoint: Some(checkpoint),
                interrupt: Some(interrupt),
                ..Context::default()
            };
            let settings = Settings { context, ..Settings::default() };
            run(&Pipeline::parse(self.passes).unwrap(), language_model(12, 1, WORDS, self.seed), settings)
        }

        fn resumed(&self, from: &[u8]) -> Result<Run, RunError> {
            self.run(Some(from), &Interrupt::new(), |_| Ok(()))
        }

        /// A run with all its checkpoints.
        fn whole(&self) -> (Run, Vec<Vec<u8>>) {
            let written = RefCell::new(vec![]);
            let run = self.run(None, &Interrupt::new(), |bytes| {
                written.borrow_mut().push(bytes.to_vec());
                Ok(())
            });
            (run.unwrap(), written.into_inner())
        }
    }

    /// The weights, and what the report says of how they came about.
    fn outcome(run: &Run) -> (String, Vec<Vec<String>>) {
        (print(&run.graph), run.trail.records.iter().map(|r| r.notes.clone()).collect())
    }

    #[test]
    fn a_run_that_goes_on_ends_like_one_that_was_not_stopped() {
        for validation in [Some(text()), None] {
            let case = Case { validation, ..Case::default() };
            let (whole, checkpoints) = case.whole();
            assert!(checkpoints.len() >= 9, "{}", checkpoints.len());
            for from in &checkpoints {
                assert_eq!(outcome(&case.resumed(from).unwrap()), outcome(&whole));
            }
        }
    }

    /// Interrupted after its first checkpoint, a run keeps what it has and the pipeline goes on; gone on with, it is as if nothing had been.
    #[test]
    fn an_interrupted_run_keeps_what_it_has() {
        let case = Case::default();
        let (whole, _) = case.whole();
        let (interrupt, written) = (Interrupt::new(), RefCell::new(vec![]));
        assert!(!interrupt.ask(), "nobody listens yet");
        let stopped = case.run(None, &interrupt, |bytes| {
            if written.borrow().is_empty() {
                assert!(interrupt.ask() && !interrupt.ask());
            }
            written.borrow_mut().push(bytes.to_vec());
            Ok(())
        });
        let stopped = stopped.unwrap();
        let notes = [0, 2].map(|k| stopped.trail.records[k].notes.join("; "));
        assert!(notes[0].contains("interrupted after window"), "{notes:?}");
        assert!(!notes[1].contains("interrupted"), "{notes:?}");
        assert_ne!(print(&stopped.graph), print(&whole.graph));
        // The second run started from what the first one had, and starts again once that has more.
        for from in written.into_inner() {
            assert_eq!(outcome(&case.resumed(&from).unwrap()), outcome(&whole));
        }
    }

    #[test]
    fn what_differs_is_said() {
        let checkpoint = Case::default().whole().1.remove(0);
        let (mut training, mut validation) = (text(), text());
        training[7] = 0;
        validation[7] = 0;
        let errors = [
            Case { seed: 2, ..Case::default() },
            Case { passes: "recover(batch=4, epochs=2)", ..Case::default() },
            Case { training, ..Case::default() },
            Case { validation: Some(validation), ..Case::default() },
            Case { validation: None, ..Case::default() },
        ]
        .map(|case| case.resumed(&checkpoint).unwrap_err().to_string());
        insta::assert_snapshot!(errors.join("\n"));
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let checkpoint = Case { passes: "recover(batch=4)", ..Case::default() }.whole().1.remove(0);
        let open = |bytes: &[u8]| Checkpoint::new(|_| Ok(())).resumed(bytes).unwrap_err();
        assert_eq!(open(b""), CheckpointError::Format);
        assert_eq!(open(&text().iter().map(|&t| t as u8).collect::<Vec<_>>()), CheckpointError::Format);
        for k in 0..checkpoint.len() {
            let mut bytes = checkpoint.clone();
            bytes[k] ^= 1;
            open(&bytes);
            open(&checkpoint[..k]);
        }
        // With a checksum that fits: not what any run wrote, and sizes of another one.
        let sealed = |runs: Vec<Vec<u8>>| seal(&postcard::to_stdvec(&runs).unwrap());
        let fails = |bytes: &[u8]| {
            let error = Case { passes: "recover(batch=4)", ..Case::default() }.resumed(bytes).unwrap_err();
            assert!(error.to_string().contains("the checkpoint is damaged"), "{error}");
        };
        fails(&sealed(vec![vec![0xff; 40]]));
        let runs: Vec<Vec<u8>> = postcard::from_bytes(&checkpoint[HEADER..]).unwrap();
        fails(&sealed(vec![runs[0][..runs[0].len() - 1].to_vec()]));
        let changed = |change: fn(&mut Values<f32>, &mut Progress)| {
            let (identity, mut parameters, mut progress): (Identity, Values<f32>, Progress) =
                postcard::from_bytes(&runs[0]).unwrap();
            change(&mut parameters, &mut progress);
            sealed(vec![postcard::to_stdvec(&(identity, parameters, progress)).unwrap()])
        };
        fails(&changed(|parameters, _| parameters[0].truncate(1)));
        fails(&changed(|parameters, _| parameters[0][0] = f32::NAN));
        fails(&changed(|_, progress| progress.step += 1));
        fails(&changed(|_, progress| progress.step = usize::MAX));
        let unchanged = changed(|_, _| {});
        assert!(Case { passes: "recover(batch=4)", ..Case::default() }.resumed(&unchanged).is_ok());
    }
}
