//! Runs that are stopped and resumed.

use super::{Interpreter, WORDS, text};
use crate::checkpoint::{Checkpoint, CheckpointError, HEADER, Identity, seal};
use crate::recover::run::Progress;
use crate::recover::weights::Values;
use crate::{Context, Interrupt, Pipeline, Run, RunError, Settings, run};
use lstmc_frontend::ir::arbitrary::language_model;
use lstmc_frontend::ir::print;
use std::cell::RefCell;

/// Three runs, which between them have all there is to keep: averages of gradients and of weights, states of a teacher, draws, codes in both units.
const PASSES: &str = "recover(optimizer=adamw, lr=0.01, batch=4, bptt=7, dropout=0.2, epochs=1.5), quantize(bits=4, method=nearest), \
                      recover(batch=3, bptt=5, distill=0.5, teacher=given, epochs=0.8), \
                      recover(optimizer=adamw, batch=3, bptt=5, epochs=0.5, average=0.6, dropout=0.2, variational=true, recurrent-dropout=0.1, \
                              word-dropout=0.1, rate-penalty=0.0001)";

/// What is run, and on what.
struct Case<'t> {
    passes: &'t str,
    training: Vec<u32>,
    validation: Option<Vec<u32>>,
    seed: u64,
    teacher: u64,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Case { passes: PASSES, training: text(), validation: Some(text()), seed: 1, teacher: 3 }
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
        let teacher = language_model(5, 1, WORDS, self.teacher);
        let context = Context {
            teacher: Some(&teacher),
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
    let passes = "recover(batch=4, distill=0.5, teacher=given)";
    let checkpoint = Case { passes, ..Case::default() }.whole().1.remove(0);
    let other = Case { passes, teacher: 4, ..Case::default() };
    let errors = [&errors[..], &[other.resumed(&checkpoint).unwrap_err().to_string()]].concat();
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
