//! Candidates evaluated by threads of this program, or by commands elsewhere.

use super::Args;
use crate::Source;
use crate::passes::{Status, Watcher};
use crate::search::evaluate::{Setup, Start};
use crate::search::folder::Folder;
use crate::search::{Job, Trained};
use crate::terminal::{self, shell_word};
use anyhow::bail;
use std::collections::VecDeque;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a search looks whether it is to end.
const TICK: Duration = Duration::from_millis(100);

/// A pipeline, and the model that it made.
type Made = (String, Result<Source, String>);

/// What threads are making. If it is dropped, they leave what they are at when it next says how far it is.
pub(super) struct Results {
    made: Receiver<Made>,
    is_dropped: Arc<AtomicBool>,
}

impl Drop for Results {
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::Relaxed);
    }
}

/// What unwinds a thread that nobody waits for.
struct Abandoned;

impl Results {
    /// The next result, if there is one soon.
    pub(super) fn wait(&self) -> anyhow::Result<Option<Made>> {
        match self.made.recv_timeout(TICK) {
            Ok(made) => Ok(Some(made)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!(
                "a thread that evaluates candidates ended early, which is an error in lstmc; search again to go on after what is done"
            ),
        }
    }
}

/// Starts to evaluate pipelines, so many at a time.
pub(super) fn start(setup: &Arc<Setup>, all: Vec<Job>, threads: usize) -> Results {
    let (send, made) = channel();
    let threads = threads.min(all.len());
    let queue: Arc<Mutex<VecDeque<Job>>> = Arc::new(Mutex::new(all.into()));
    let is_dropped = Arc::new(AtomicBool::new(false));
    for _ in 0..threads {
        let (setup, queue, send, is_dropped) =
            (setup.clone(), queue.clone(), send.clone(), is_dropped.clone());
        std::thread::spawn(move || {
            let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some(job) = take() {
                let bar = terminal::pass_bar(format!("{}: ", job.pipeline));
                let watcher = |status: Status<'_>| {
                    // What runs while a thread unwinds must not unwind again.
                    if is_dropped.load(Ordering::Relaxed) && !std::thread::panicking() {
                        resume_unwind(Box::new(Abandoned));
                    }
                    bar(status);
                };
                let made = match catch_unwind(AssertUnwindSafe(|| make(&setup, &job, &watcher))) {
                    Ok(made) => made,
                    Err(why) if why.is::<Abandoned>() => return,
                    Err(panic) => resume_unwind(panic),
                };
                if send.send((job.pipeline, made)).is_err() {
                    return;
                }
            }
        });
    }
    Results { made, is_dropped }
}

fn make(setup: &Setup, job: &Job, watcher: &Watcher<'_>) -> Result<Source, String> {
    let Some(Trained { passes: [passes, rest], model }) = &job.trained else {
        return setup.compress(&job.pipeline, &Start::Given, Some(watcher));
    };
    let model = Source::read(model).map_err(|e| e.to_string())?;
    let start = Start::Trained { passes: passes.clone(), model: Box::new(model) };
    setup.compress(rest, &start, Some(watcher))
}

/// Writes commands that evaluate pipelines, a line each.
pub(super) fn emit(args: &Args, folder: &Folder, all: &[Job], to: &Path) -> anyhow::Result<()> {
    let mut lines = String::new();
    for job in all {
        let command = command(args, folder, job);
        let line = serde_json::json!({"key": folder.key(&job.pipeline), "command": command});
        writeln!(lines, "{line}")?;
    }
    Ok(crate::commands::write_whole(to, lines.as_bytes())?)
}

/// The shell command that evaluates a pipeline: `lstmc compile` with this search's texts. If it fails, its messages stay where a search finds them.
fn command(args: &Args, folder: &Folder, job: &Job) -> String {
    let pipeline = &job.pipeline;
    let (model, passes) = match &job.trained {
        None => (&args.model.model, pipeline),
        Some(Trained { passes: [_, rest], model }) => (model, rest),
    };
    let mut words: Vec<String> = vec![terminal::program(), "compile".into()];
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_string(), value]);
        }
    };
    let path = |path: &Path| Some(path.display().to_string());
    let text = &args.model.text;
    option("--vocab", text.vocabulary.as_deref().and_then(path));
    option("--tokenizer", text.tokenizer.clone());
    option("--bos", text.begin.clone());
    option("--eos", text.end.clone());
    option("--unk", text.unknown.clone());
    option("--pad", text.pad.clone());
    option("--calibrate", path(&args.calibrate));
    option("--validate", path(&args.validate));
    option("--train", args.train.as_deref().and_then(path));
    option("--passes", Some(passes.into()));
    option("-o", path(&folder.model(pipeline)));
    words.push("--entropy".into());
    words.extend(path(model));
    let words: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
    let [log, failed] = folder.messages(pipeline).map(|path| shell_word(&path.to_string_lossy()));
    format!("{} 2> {log} && rm -f {log} || mv {log} {failed}", words.join(" "))
}
