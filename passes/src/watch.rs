//! Progress inside a pass, for passes that take minutes, and a way to stop them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Called, from any thread, with the progress of a pass.
pub type Watcher<'w> = dyn Fn(Status<'_>) + Sync + 'w;

/// The progress of a pass. A step is the unit that the pass counts: a row, a matrix. All are done at the end of the pass, however it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status<'s> {
    /// The current pass.
    pub pass: &'static str,
    /// Steps done.
    pub done: usize,
    /// Steps in total.
    pub total: usize,
    /// Its own message; may be empty.
    pub note: &'s str,
}

/// The steps of a pass.
pub(crate) struct Steps<'w> {
    watcher: Option<&'w Watcher<'w>>,
    pass: &'static str,
    total: usize,
    /// The number done. Locked during the report, so that numbers only rise.
    done: Mutex<usize>,
}

impl fmt::Debug for Steps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("pass", &self.pass).field("total", &self.total).finish_non_exhaustive()
    }
}

impl<'w> Steps<'w> {
    /// Steps that are reported to `watcher`, if there is one.
    pub(crate) fn new(watcher: Option<&'w Watcher<'w>>, pass: &'static str, total: usize) -> Steps<'w> {
        Steps { watcher, pass, total, done: Mutex::new(0) }
    }

    /// Steps without a watcher.
    pub(crate) fn unwatched() -> Steps<'w> {
        Steps::new(None, "", 0)
    }

    /// Reports `n` more steps.
    pub(crate) fn add(&self, n: usize) {
        self.add_and_say(n, String::new);
    }

    /// Reports `n` more steps, with a message.
    pub(crate) fn add_and_say(&self, n: usize, note: impl FnOnce() -> String) {
        let Some(watcher) = self.watcher else { return };
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if *done < self.total {
            *done = (*done + n).min(self.total);
            watcher(Status { pass: self.pass, done: *done, total: self.total, note: &note() });
        }
    }
}

impl Drop for Steps<'_> {
    fn drop(&mut self) {
        self.add(self.total);
    }
}

/// Asks a pass that supports it to stop early, with its result so far. Other passes ignore it.
#[derive(Debug, Default)]
pub struct Interrupt {
    is_heard: AtomicBool,
    is_asked: AtomicBool,
}

impl Interrupt {
    /// One without a listening pass yet.
    pub const fn new() -> Interrupt {
        Interrupt { is_heard: AtomicBool::new(false), is_asked: AtomicBool::new(false) }
    }

    /// Asks the current pass to stop. False if it cannot stop early, or was asked before.
    pub fn ask(&self) -> bool {
        self.is_heard.load(Ordering::SeqCst) && !self.is_asked.swap(true, Ordering::SeqCst)
    }

    /// Listens for requests from now on.
    pub fn listen(&self) -> Listening<'_> {
        self.is_asked.store(false, Ordering::SeqCst);
        self.is_heard.store(true, Ordering::SeqCst);
        Listening(self)
    }
}

/// While it exists, a pass or another long work can be asked to stop.
#[derive(Debug)]
pub struct Listening<'i>(&'i Interrupt);

impl Listening<'_> {
    /// Whether the work should stop.
    pub fn is_asked(&self) -> bool {
        self.0.is_asked.load(Ordering::SeqCst)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.is_heard.store(false, Ordering::SeqCst);
    }
}
