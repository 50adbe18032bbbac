//! Candidates evaluated by threads of this program, or by commands elsewhere.

use super::Args;
use crate::Source;
use crate::search::evaluate::Setup;
use crate::search::folder::Folder;
use crate::terminal::shell_word;
use anyhow::bail;
use std::collections::VecDeque;
use std::fmt::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a search looks whether it is to end.
const TICK: Duration = Duration::from_millis(100);

/// A pipeline, and the model that it made.
type Made = (String, Result<Source, String>);

/// What threads are making. If it is dropped, they stop after the candidates that they are at, which the end of the program cuts short.
pub(super) struct Results(Receiver<Made>);

impl Results {
    /// The next result, if there is one soon.
    pub(super) fn wait(&self) -> anyhow::Result<Option<Made>> {
        match self.0.recv_timeout(TICK) {
            Ok(made) => Ok(Some(made)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!(
                "a thread that evaluates candidates ended early, which is an error in lstmc; search again to go on after what is done"
            ),
        }
    }
}

/// Starts to evaluate pipelines, so many at a time.
pub(super) fn start(setup: &Arc<Setup>, pipelines: Vec<String>, jobs: usize) -> Results {
    let (send, results) = channel();
    let jobs = jobs.min(pipelines.len());
    let queue: Arc<Mutex<VecDeque<String>>> = Arc::new(Mutex::new(pipelines.into()));
    for _ in 0..jobs {
        let (setup, queue, send) = (setup.clone(), queue.clone(), send.clone());
        std::thread::spawn(move || {
            let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some(pipeline) = take() {
                let watcher = crate::terminal::pass_bar(format!("{pipeline}: "));
                let made = setup.compress(&pipeline, Some(&watcher));
                if send.send((pipeline, made)).is_err() {
                    return;
                }
            }
        });
    }
    Results(results)
}

/// Writes commands that evaluate pipelines, a line each.
pub(super) fn emit(args: &Args, folder: &Folder, pipelines: &[String], jobs: &Path) -> anyhow::Result<()> {
    let mut lines = String::new();
    for pipeline in pipelines {
        let line =
            serde_json::json!({"key": folder.key(pipeline), "command": command(args, folder, pipeline)});
        writeln!(lines, "{line}")?;
    }
    Ok(crate::commands::write_whole(jobs, lines.as_bytes())?)
}

/// The shell command that evaluates a pipeline: `lstmc compile` with this search's texts. If it fails, its messages stay where a search finds them.
fn command(args: &Args, folder: &Folder, pipeline: &str) -> String {
    let program = std::env::args_os().next().unwrap_or("lstmc".into());
    let mut words: Vec<String> = vec![program.to_string_lossy().into_owned(), "compile".into()];
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
    option("--passes", Some(pipeline.into()));
    option("-o", path(&folder.model(pipeline)));
    words.push("--entropy".into());
    words.extend(path(&args.model.model));
    let words: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
    let [log, failed] = folder.messages(pipeline).map(|path| shell_word(&path.to_string_lossy()));
    format!("{} 2> {log} && rm -f {log} || mv {log} {failed}", words.join(" "))
}
