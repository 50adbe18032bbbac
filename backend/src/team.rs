//! Several threads that take a step together: they wait for work spinning, then parked, and meet between the plan's phases.
//!
//! ```text
//!   leader   ──phase 0──┐      ┌──panels──┐      ┌──phase 2──┐      ...   done
//!   helper              ├ meet ┤──panels──├ meet ┤           ├ meet ...
//! ```
//!
//! A step takes tens of microseconds, so a thread that waits must not sleep in the kernel between phases; between steps it may.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};

/// Turns of spinning before a waiting thread gives way to others: about ten microseconds.
const SPINS: usize = 4_000;

/// Times that a helper without work gives way before it parks: a step more comes soon, or not.
const YIELDS: usize = 200;

/// What the members of a team do: a function of the member's number and a barrier.
pub(crate) type Work = dyn Fn(usize, &dyn Fn()) + Send + Sync;

/// Threads that work together; the caller of [`Team::run`] is member 0.
pub(crate) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held while the team works: one step at a time.
    leading: Mutex<()>,
}

struct Shared {
    members: usize,
    work: Box<Work>,
    /// Counts what the leader has started.
    started: AtomicUsize,
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
    /// Members that have come to the barrier, and how often it has opened.
    arrived: AtomicUsize,
    opened: AtomicUsize,
}

impl Team {
    /// A team of `members`, at least 2, that do `work` whenever [`Team::run`] is called.
    pub(crate) fn new(members: usize, work: Box<Work>) -> std::io::Result<Team> {
        let shared = Arc::new(Shared {
            members,
            work,
            started: AtomicUsize::new(0),
            parked: (0..members).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
        });
        let mut team = Team { shared, helpers: vec![], leading: Mutex::new(()) };
        for member in 1..members {
            let shared = team.shared.clone();
            let helper = std::thread::Builder::new().name(format!("lstmc-{member}"));
            // Where a thread cannot be started, dropping the team ends those that were.
            team.helpers.push(helper.spawn(move || shared.help(member))?);
        }
        Ok(team)
    }

    /// Does the work once, after `prepare`, and returns when all members are done; false, and nothing done, where the team is at work.
    pub(crate) fn run(&self, prepare: impl FnOnce()) -> bool {
        let Ok(_leading) = self.leading.try_lock() else { return false };
        prepare();
        self.shared.started.fetch_add(1, Ordering::SeqCst);
        for (member, helper) in (1..).zip(&self.helpers) {
            self.shared.wake(member, helper.thread());
        }
        self.shared.take_part(0);
        true
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.started.fetch_add(1, Ordering::SeqCst);
        for (member, helper) in (1..).zip(self.helpers.drain(..)) {
            self.shared.wake(member, helper.thread());
            // A helper does not panic; if it did, there is nothing to be done here.
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn help(&self, member: usize) {
        let mut seen = 0;
        loop {
            self.await_start(member, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            seen += 1;
            self.take_part(member);
        }
    }

    fn take_part(&self, member: usize) {
        (self.work)(member, &|| self.meet());
        self.meet();
    }

    fn await_start(&self, member: usize, seen: usize) {
        let waiting = || self.started.load(Ordering::SeqCst) == seen;
        for _ in 0..YIELDS {
            for _ in 0..SPINS {
                if !waiting() {
                    return;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        self.parked[member].store(true, Ordering::SeqCst);
        while waiting() {
            std::thread::park();
        }
        self.parked[member].store(false, Ordering::SeqCst);
    }

    fn wake(&self, member: usize, thread: &Thread) {
        // Either the helper sees the start before it parks, or it has said so and is woken.
        if self.parked[member].load(Ordering::SeqCst) {
            thread.unpark();
        }
    }

    /// Waits until all members are here.
    fn meet(&self) {
        let opened = self.opened.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.members {
            self.arrived.store(0, Ordering::SeqCst);
            self.opened.fetch_add(1, Ordering::SeqCst);
            return;
        }
        loop {
            for _ in 0..SPINS {
                if self.opened.load(Ordering::SeqCst) != opened {
                    return;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
    }
}

/// The part of `0..all` that is a member's.
pub(crate) fn share(all: usize, member: usize, members: usize) -> std::ops::Range<usize> {
    all * member / members..all * (member + 1) / members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_meet_between_phases_and_share_the_work() {
        for members in [2, 3] {
            let sums: Arc<Vec<AtomicUsize>> = Arc::new((0..3).map(|_| AtomicUsize::new(0)).collect());
            let inner = sums.clone();
            let work = move |member: usize, meet: &dyn Fn()| {
                for phase in 0..3 {
                    if phase > 0 {
                        // All of the phase before is there.
                        assert!(inner[phase - 1].load(Ordering::SeqCst).is_multiple_of(100));
                    }
                    inner[phase].fetch_add(share(100, member, members).len(), Ordering::SeqCst);
                    meet();
                }
            };
            let team = Team::new(members, Box::new(work)).unwrap();
            for turn in 1..=50 {
                assert!(team.run(|| ()));
                assert!(sums.iter().all(|s| s.load(Ordering::SeqCst) == turn * 100));
                if turn == 25 {
                    // Long enough to park.
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            }
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for all in [0, 1, 2, 7, 313] {
            let covered: Vec<usize> = (0..3).flat_map(|m| share(all, m, 3)).collect();
            assert_eq!(covered, (0..all).collect::<Vec<_>>());
        }
    }
}
