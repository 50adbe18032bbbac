//! What people see: messages, progress, exit codes.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A mistake in how the program was called: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Prints an error and its causes, and says what to exit with. A reader that went away is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let closed = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return ExitCode::SUCCESS;
    }
    // Libraries' messages often hold their causes' already.
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !message.contains(&cause) {
            let colon = if message.is_empty() { "" } else { ": " };
            message = format!("{message}{colon}{cause}");
        }
    }
    // Nothing is left to do where standard error is closed too.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}

/// Logs to standard error: warnings, with -v what passes do, with -vv everything. `LSTMC_LOG` has the last word.
pub(crate) fn start_log(verbose: u8) {
    let default = ["warn", "info,cranelift=warn", "debug,cranelift=warn"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_env("LSTMC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}

/// A bar on standard error over `total` steps; hidden where that is no terminal.
pub(crate) fn progress(total: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {per_sec} {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A bar that appears when there is something to show, and goes when all is done; it may come back.
pub(crate) struct Bar {
    what: &'static str,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// A bar with this message.
    pub(crate) fn new(what: &'static str) -> Bar {
        Bar { what, bar: None }
    }

    /// Shows that `done` of `total` are done.
    pub(crate) fn show(&mut self, done: usize, total: usize) {
        let bar = self.bar.get_or_insert_with(|| progress(total, self.what));
        bar.set_position(done as u64);
        if done >= total
            && let Some(bar) = self.bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

/// Whether a file is being written, and whether an interrupt waits for its end.
static WRITING: AtomicU8 = AtomicU8::new(IDLE);
const IDLE: u8 = 0;
const BUSY: u8 = 1;
const ASKED: u8 = 2;

/// What shells expect of a program that an interrupt ended: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

/// From here on an interrupt ends the program at once, but never inside of [`uninterrupted`], where a temporary file would stay behind.
pub(crate) fn finish_writing_on_interrupt() -> anyhow::Result<()> {
    let handler = || {
        if WRITING.compare_exchange(BUSY, ASKED, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            std::process::exit(INTERRUPTED);
        }
    };
    Ok(ctrlc::set_handler(handler)?)
}

/// Runs `write` to its end, and then heeds an interrupt that came meanwhile.
pub(crate) fn uninterrupted<T>(write: impl FnOnce() -> T) -> T {
    WRITING.store(BUSY, Ordering::SeqCst);
    let result = write();
    if WRITING.swap(IDLE, Ordering::SeqCst) == ASKED {
        std::process::exit(INTERRUPTED);
    }
    result
}

/// Bytes for people: powers of ten, as disks are sold.
pub(crate) fn bytes(n: usize) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.2} MB", n as f64 / 1e6),
    }
}

/// An integer with its thousands apart.
pub(crate) fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Prints a JSON value and a new line.
pub(crate) fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    Ok(writeln!(out)?)
}
