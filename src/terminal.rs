//! The user interface: messages, progress, exit codes.

use crate::passes::{Interrupt, Status};
pub(crate) use crate::search::amount::thousands;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Held while files are written.
static WRITING: Mutex<()> = Mutex::new(());

/// All bars, so that one below another does not write over it.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The receiver of the first Ctrl-C.
pub(crate) static TRAINING: Interrupt = Interrupt::new();

/// The receiver of the first Ctrl-C of a search.
pub(crate) static SEARCH: Interrupt = Interrupt::new();

/// How the program was called.
static PROGRAM: OnceLock<String> = OnceLock::new();

/// The exit code that a shell reports for a program ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// A usage error: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Says how the program was called.
pub(crate) fn set_program(name: Option<&OsString>) {
    if let Some(name) = name {
        PROGRAM.get_or_init(|| name.to_string_lossy().into_owned());
    }
}

/// How to call this program again.
pub(crate) fn program() -> String {
    PROGRAM.get().cloned().unwrap_or_else(|| "lstmc".into())
}

/// Prints an error and its causes, and returns the exit code. A closed pipe is not an error.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    let closed = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return 0;
    }
    let message = message(error);
    // Nothing is left to do if standard error is closed too.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    if error.is::<Usage>() { 2 } else { 1 }
}

/// An error and its causes, as one line.
pub(crate) fn message(error: &anyhow::Error) -> String {
    // Libraries' messages often include those of their causes.
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !message.contains(&cause) {
            let colon = if message.is_empty() { "" } else { ": " };
            message = format!("{message}{colon}{cause}");
        }
    }
    message
}

/// Prints a note on standard error.
pub(crate) fn note(text: &str) {
    // If standard error is closed, nobody reads it.
    let _ = BARS.suspend(|| writeln!(std::io::stderr(), "note: {text}"));
}

/// Makes Ctrl-C end a search or a training run early, and otherwise wait for [`uninterrupted`] work before it ends the program.
pub(crate) fn handle_interrupts() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        let kept = if SEARCH.ask() {
            Some("the search; what was found is written")
        } else {
            TRAINING.ask().then_some("the training; the best so far is kept, and what follows goes on")
        };
        if let Some(kept) = kept {
            let message = format!("stopping {kept}. Ctrl-C again ends the program");
            // If standard error is closed, nobody reads it.
            let _ = BARS.suspend(|| writeln!(std::io::stderr(), "{message}"));
            return;
        }
        let _written = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        std::process::exit(INTERRUPTED)
    })
}

/// Runs work that must not be interrupted: writing a file, which would leave a temporary one behind.
pub(crate) fn uninterrupted<T>(work: impl FnOnce() -> T) -> T {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

/// Logs to standard error: warnings, with -v what passes do, with -vv everything. `LSTMC_LOG` overrides this.
pub(crate) fn start_log(verbose: u8) {
    let default = ["warn", "info,cranelift=warn", "debug,cranelift=warn"][usize::from(verbose.min(2))];
    let given = std::env::var("LSTMC_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = given.or_else(|| default.parse().ok()).unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time();
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// A bar on standard error over `total` steps; hidden if that is not a terminal.
pub(crate) fn progress(total: usize, what: &str) -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(total as u64));
    if let Ok(style) = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {per_sec} {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A counter on standard error, of what has no known end; hidden if that is not a terminal.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let bar = BARS.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} {msg}, {per_sec}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A bar that appears when there is something to show, and disappears when all is done; it may reappear.
struct Bar {
    what: String,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// A bar with this message.
    fn new(what: &str) -> Bar {
        Bar { what: what.to_string(), bar: None }
    }

    /// Shows progress of something else from now on.
    fn of(&mut self, what: String) -> &mut Bar {
        self.what = what;
        if let Some(bar) = &self.bar {
            bar.set_message(self.what.clone());
        }
        self
    }

    /// Shows that `done` of `total` are done.
    fn show(&mut self, done: usize, total: usize) {
        let bar = self.bar.get_or_insert_with(|| progress(total, &self.what));
        bar.set_position(done as u64);
        if done >= total
            && let Some(bar) = self.bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

/// A callback that updates a bar like [`Bar::show`].
pub(crate) fn bar(what: &str) -> impl FnMut(usize, usize) + use<> {
    let mut bar = Bar::new(what);
    move |done, total| bar.show(done, total)
}

/// A bar for the passes of a run, after a label; it may be updated from any thread.
pub(crate) fn pass_bar(label: String) -> impl Fn(Status<'_>) + Sync {
    let bar = Mutex::new(Bar::new(""));
    move |Status { pass, done, total, note }| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        let comma = if note.is_empty() { "" } else { ", " };
        bar.of(format!("{label}{pass}{comma}{note}")).show(done, total);
    }
}

/// Bytes for people: powers of ten, as for disks.
pub(crate) fn bytes(n: usize) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.2} MB", n as f64 / 1e6),
    }
}

/// A text, escaped for SVG.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A word as a shell takes it literally.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Rows of cells as lines of text, each column as wide as its widest cell; those of `left` start at the left, others end at the right.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]], left: &[usize]) -> String {
    let width = |k: usize| rows.iter().map(|r| r[k].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (k, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = match left.contains(&k) {
                true => write!(line, "{cell:<width$}  "),
                false => write!(line, "{cell:>width$}  "),
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Prints a JSON value and a new line.
pub(crate) fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    // As an I/O error, which identifies a closed pipe.
    serde_json::to_writer_pretty(&mut out, value).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn words_of_a_shell() {
        let words = ["model.onnx", "quantize(rate=2)", "it's", "", "a b"].map(shell_word);
        assert_eq!(words, ["model.onnx", "'quantize(rate=2)'", r"'it'\''s'", "''", "'a b'"]);
    }
}
