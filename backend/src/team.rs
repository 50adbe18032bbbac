//! Several threads that take a step together: they wait for work spinning, then parked, and meet between the plan's phases.
//!
//! ```text
//!   leader   ──phase 0──┐      ┌──panels──┐      ┌──phase 2──┐      ...   done
//!   helper              ├ meet ┤──panels──├ meet ┤           ├ meet ...
//! ```
//!
//! A step takes tens of microseconds, so a thread that waits must not sleep in the kernel between phases; between steps it may. To start or wake
//! a thread takes as long as a step.
#![allow(
    unsafe_code,
    reason = "threads that outlive a call borrow its closure, and are waited for before it ends"
)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};

/// Turns of spinning before a waiting thread gives way to others: about ten microseconds.
const SPINS: usize = 4_000;

/// Times that a helper without work gives way before it parks: more comes soon, or not. About two milliseconds.
const YIELDS: usize = 200;

/// What the members of a team do: a function of the member's number and a barrier.
pub(crate) type Work<'a> = dyn Fn(usize, &dyn Fn()) + Sync + 'a;

/// Bits of `started` that say how many take part.
const PART_BITS: u32 = 16;

/// Threads that work together; the caller of [`Team::run`] is member 0.
pub(crate) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held while the team works: one step at a time.
    leading: Mutex<()>,
}

struct Shared {
    members: usize,
    /// What is to be done: written by the leader before `started` grows, read by helpers after.
    work: UnsafeCell<Option<&'static Work<'static>>>,
    /// What the leader has started: a count, and below it how many members take part.
    started: AtomicUsize,
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
    /// Members that have come to the barrier, and how often it has opened.
    arrived: AtomicUsize,
    opened: AtomicUsize,
}

// SAFETY: `work` is written only by the leader, while no helper runs: it holds the team's lock, and the turn before has ended in a barrier; the
// counter `started` orders the write before the helpers' reads.
unsafe impl Sync for Shared {}
// SAFETY: the reference in `work` is to something that may be shared.
unsafe impl Send for Shared {}

impl Team {
    /// A team of `members`, at least 2.
    pub(crate) fn new(members: usize) -> std::io::Result<Team> {
        let shared = Arc::new(Shared {
            members,
            work: UnsafeCell::new(None),
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

    /// A team of all cores that the whole program shares; none where there is one core, or threads cannot be started.
    pub(crate) fn of_all_cores() -> Option<&'static Team> {
        static TEAM: OnceLock<Option<Team>> = OnceLock::new();
        let team = TEAM.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            if cores > 1 { Team::new(cores).ok() } else { None }
        });
        team.as_ref()
    }

    /// How many work together.
    pub(crate) fn members(&self) -> usize {
        self.shared.members
    }

    /// Has the first `members` (at least 1, the caller) do `work` and returns when they are done; false, and nothing done, where there are
    /// not so many, or the team is at work already.
    pub(crate) fn run(&self, members: usize, work: &Work<'_>) -> bool {
        let Ok(_leading) = self.leading.try_lock() else { return false };
        if !(1..=self.shared.members).contains(&members) {
            return false;
        }
        // SAFETY: only the lifetime changes. Helpers use the reference between the start below and the barrier at the end of
        // `take_part`, which the leader waits for too (a panic of its own part ends the program there, see `take_part`); it is forgotten after that.
        let work = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        // SAFETY: see `Sync` above.
        unsafe { *self.shared.work.get() = Some(work) };
        self.shared.start(members);
        for (member, helper) in (1..members).zip(&self.helpers) {
            self.shared.wake(member, helper.thread());
        }
        self.shared.take_part(0, members);
        // SAFETY: see `Sync` above; all helpers have passed the last barrier.
        unsafe { *self.shared.work.get() = None };
        true
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.start(0);
        for (member, helper) in (1..).zip(self.helpers.drain(..)) {
            self.shared.wake(member, helper.thread());
            // A helper does not panic; if it did, there is nothing to be done here.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Only the leader calls this.
    fn start(&self, members: usize) {
        let turn = (self.started.load(Ordering::SeqCst) >> PART_BITS).wrapping_add(1);
        self.started.store(turn << PART_BITS | members, Ordering::SeqCst);
    }

    fn help(&self, member: usize) {
        let mut seen = 0;
        loop {
            // One value says both what turn it is and who takes part: a member that is late sees the newest turn whole.
            seen = self.await_start(member, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let members = seen & ((1 << PART_BITS) - 1);
            if member < members {
                self.take_part(member, members);
            }
        }
    }

    fn take_part(&self, member: usize, members: usize) {
        /// A member that panics would leave the others waiting for ever, with a borrow that ends.
        struct Abort;
        impl Drop for Abort {
            fn drop(&mut self) {
                std::process::abort();
            }
        }
        // SAFETY: see `Sync` above.
        let work = unsafe { *self.work.get() };
        if let Some(work) = work {
            let abort = Abort;
            work(member, &|| self.meet(members));
            std::mem::forget(abort);
        }
        self.meet(members);
    }

    fn await_start(&self, member: usize, seen: usize) -> usize {
        let started = || Some(self.started.load(Ordering::SeqCst)).filter(|&now| now != seen);
        for _ in 0..YIELDS {
            for _ in 0..SPINS {
                if let Some(now) = started() {
                    return now;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        self.parked[member].store(true, Ordering::SeqCst);
        loop {
            if let Some(now) = started() {
                self.parked[member].store(false, Ordering::SeqCst);
                return now;
            }
            std::thread::park();
        }
    }

    fn wake(&self, member: usize, thread: &Thread) {
        // Either the helper sees the start before it parks, or it has said so and is woken.
        if self.parked[member].load(Ordering::SeqCst) {
            thread.unpark();
        }
    }

    /// Waits until all of `members` are here.
    fn meet(&self, members: usize) {
        let opened = self.opened.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == members {
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
            let sums: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
            let work = |member: usize, meet: &dyn Fn()| {
                for phase in 0..3 {
                    if phase > 0 {
                        // All of the phase before is there.
                        assert!(sums[phase - 1].load(Ordering::SeqCst).is_multiple_of(100));
                    }
                    sums[phase].fetch_add(share(100, member, members).len(), Ordering::SeqCst);
                    meet();
                }
            };
            let team = Team::new(members).unwrap();
            assert_eq!(team.members(), members);
            assert!(!team.run(members + 1, &work));
            for turn in 1..=50 {
                assert!(team.run(members, &work));
                assert!(sums.iter().all(|s| s.load(Ordering::SeqCst) == turn * 100));
                // A turn without the others, whom it must not confuse.
                assert!(team.run(1, &|member, _| assert_eq!(member, 0)));
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
