//! Long work on a thread of its own. Meanwhile the caller's thread shows progress, and hears Ctrl-C.

use crate::error;
use lstmc::passes::Status;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often progress is shown and Ctrl-C is heard.
const TICK: Duration = Duration::from_millis(50);

/// How long work that was asked to end is waited for. What takes longer ends by itself at its next step.
const PATIENCE: Duration = Duration::from_millis(500);

/// What unwinds the work's thread once it is asked to end.
struct Cancelled;

/// What work reports to, from any thread.
#[derive(Default)]
pub(crate) struct Monitor {
    is_cancelled: AtomicBool,
    latest: Mutex<Option<Latest>>,
}

/// The latest progress.
struct Latest {
    what: String,
    done: usize,
    total: usize,
}

impl Monitor {
    /// Progress: so many of the total, which is 0 where it is not known. Does not return if the work is to end.
    pub(crate) fn show(&self, what: &str, done: usize, total: usize) {
        // What runs while a thread unwinds must not unwind again.
        if self.is_cancelled.load(Ordering::Relaxed) && !std::thread::panicking() {
            resume_unwind(Box::new(Cancelled));
        }
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = Some(Latest { what: what.into(), done, total });
    }

    /// Progress of a pass.
    pub(crate) fn pass(&self, status: Status<'_>) {
        let Status { pass, done, total, note } = status;
        let comma = if note.is_empty() { "" } else { ", " };
        self.show(&format!("{pass}{comma}{note}"), done, total);
    }

    fn take(&self) -> Option<Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The threads of passes. A forked process has none of its parent's threads, so it gets its own.
fn pool() -> Option<Arc<ThreadPool>> {
    static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);
    let here = std::process::id();
    let mut known = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((process, pool)) = &*known
        && *process == here
    {
        return Some(pool.clone());
    }
    let pool = Arc::new(ThreadPoolBuilder::new().build().ok()?);
    // Dropped, the old one would wait for threads that are not there.
    std::mem::forget(known.replace((here, pool.clone())));
    Some(pool)
}

/// Runs work with the interpreter's lock released. `progress` is called with `(what, done, total)`.
///
/// # Errors
///
/// The work's own, or what `progress` or a signal's handler raises, after which the work is asked to end.
pub(crate) fn run<T: Send + 'static>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Monitor) -> Result<T, lstmc::Error> + Send + 'static,
) -> PyResult<T> {
    let monitor = Arc::new(Monitor::default());
    let (send, mut receive) = channel();
    let mine = monitor.clone();
    let threads = std::thread::Builder::new().name("lstmc".into());
    let started = threads.spawn(move || {
        let done = catch_unwind(AssertUnwindSafe(|| match pool() {
            Some(pool) => pool.install(|| work(&mine)),
            None => work(&mine),
        }));
        // Nobody waits for it after Ctrl-C.
        let _ = send.send(done);
    });
    started.map_err(error)?;
    let show = || -> PyResult<()> {
        if let (Some(progress), Some(Latest { what, done, total })) = (progress, monitor.take()) {
            progress.call1((what, done, total))?;
        }
        py.check_signals()
    };
    loop {
        let waiting = &mut receive;
        let received = py.detach(move || waiting.recv_timeout(TICK));
        match received {
            Ok(Ok(done)) => return done.map_err(error),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(error("the thread that worked ended early, which is an error in lstmc"));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(raised) = show() {
                    monitor.is_cancelled.store(true, Ordering::Relaxed);
                    py.detach(move || drop(receive.recv_timeout(PATIENCE)));
                    return Err(raised);
                }
            }
        }
    }
}
