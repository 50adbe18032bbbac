//! Progress inside of a pass, for those that take minutes, and how to stop them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Told, from any thread, how far a pass is.
pub type Watcher<'w> = dyn Fn(Status<'_>) + Sync + 'w;

/// How far a pass is. A step is whatever the pass counts: a row, a matrix. All are done at the end of the pass, however it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status<'s> {
    /// The pass at work.
    pub pass: &'static str,
    /// Steps that are done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// What it says of itself; empty where that is nothing.
    pub note: &'s str,
}

/// The steps of a pass.
pub(crate) struct Steps<'w> {
    watcher: Option<&'w Watcher<'w>>,
    pass: &'static str,
    total: usize,
    /// How many are done. Locked while it is told, so that numbers only rise.
    done: Mutex<usize>,
}

impl fmt::Debug for Steps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("pass", &self.pass).field("total", &self.total).finish_non_exhaustive()
    }
}

impl<'w> Steps<'w> {
    /// Steps that `watcher`, if there is one, is told of.
    pub(crate) fn new(watcher: Option<&'w Watcher<'w>>, pass: &'static str, total: usize) -> Steps<'w> {
        Steps { watcher, pass, total, done: Mutex::new(0) }
    }

    /// Steps that nobody watches.
    pub(crate) fn unwatched() -> Steps<'w> {
        Steps::new(None, "", 0)
    }

    /// `n` more are done.
    pub(crate) fn add(&self, n: usize) {
        self.add_and_say(n, String::new);
    }

    /// `n` more are done, and there is something to say.
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

/// Asks a pass that can to stop early, with what it has so far. Passes that cannot never hear of it.
#[derive(Debug, Default)]
pub struct Interrupt {
    is_heard: AtomicBool,
    is_asked: AtomicBool,
}

impl Interrupt {
    /// One that nobody listens to yet.
    pub const fn new() -> Interrupt {
        Interrupt { is_heard: AtomicBool::new(false), is_asked: AtomicBool::new(false) }
    }

    /// Asks the pass at work to stop. False where it cannot, or was asked before.
    pub fn ask(&self) -> bool {
        self.is_heard.load(Ordering::SeqCst) && !self.is_asked.swap(true, Ordering::SeqCst)
    }

    /// Hears what is asked from now on.
    pub(crate) fn listen(&self) -> Listening<'_> {
        self.is_asked.store(false, Ordering::SeqCst);
        self.is_heard.store(true, Ordering::SeqCst);
        Listening(self)
    }
}

/// While it is there, a pass can be asked to stop.
pub(crate) struct Listening<'i>(&'i Interrupt);

impl Listening<'_> {
    /// Whether the pass is to stop.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.is_asked.load(Ordering::SeqCst)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.is_heard.store(false, Ordering::SeqCst);
    }
}
