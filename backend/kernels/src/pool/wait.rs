//! How long a thread spins while it waits, and when a leader works without helpers.
//!
//! Putting a thread to sleep and waking it takes about as long as a phase, so a wait begins by spinning. It spins only while that pays off: a thread
//! that spins on a core that others need takes time from the thread that it waits for.
//!
//! Two signs show a crowded machine: a leader waits for a helper longer than its work can take, or a spinning helper finds a gap
//! in its time. After such a loss comes a recess of [`RECESS`] times its length, in which the leader does everything alone. Waiting can
//! then take no more than one part in `RECESS + 1` of a leader's time, however crowded the machine.

use super::sync::MODEL;
use std::time::{Duration, Instant};

/// Turns between two looks at the clock: one or two microseconds.
const TURNS: usize = 50;

/// A wait that should end soon: about what it takes to put a thread to sleep and wake it again.
pub(super) const SHORT: Duration = Duration::from_micros(50);

/// The longest wait that keeps the core. Waking costs a few percent of work that comes this rarely.
pub(super) const LONG: Duration = Duration::from_millis(2);

/// A thread that spins is away from its core for less than this unless another thread has it.
const GAP: Duration = Duration::from_micros(100);

/// The length of a recess, as a multiple of the loss that causes it.
const RECESS: u32 = 16;

/// The greatest loss that counts: a program that was stopped for an hour should not work without threads for a day.
const MOST: Duration = Duration::from_millis(50);

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spun {
    /// The awaited condition holds.
    Ready,
    /// The time limit has passed.
    Over,
    /// Another thread had the core for this long.
    Crowded(Duration),
}

/// Spins until `ready`, but not much longer than `limit`. A wait longer than [`SHORT`] yields to other threads, unless `greedy`.
pub(super) fn spin(limit: Duration, greedy: bool, ready: impl Fn() -> bool) -> Spun {
    if MODEL {
        return if ready() { Spun::Ready } else { Spun::Over };
    }
    let turns = || {
        (0..TURNS).any(|_| {
            let ready = ready();
            if !ready {
                std::hint::spin_loop();
            }
            ready
        })
    };
    if turns() {
        return Spun::Ready;
    }
    let begun = Instant::now();
    let mut waited = Duration::ZERO;
    loop {
        if waited > SHORT && !greedy {
            std::thread::yield_now();
        }
        let ready = turns();
        let now = begun.elapsed();
        let gap = now - waited;
        if gap > GAP && !greedy {
            return Spun::Crowded(gap);
        }
        if ready {
            return Spun::Ready;
        }
        if now > limit {
            return Spun::Over;
        }
        waited = now;
    }
}

/// The end of a leader's recess, in which it works without helpers.
#[derive(Default)]
pub(super) struct Recess {
    until: Option<Instant>,
}

impl Recess {
    /// After a loss.
    pub(super) fn begin(&mut self, lost: Duration, now: Instant) {
        if MODEL {
            return;
        }
        self.until = self.until.max(Some(now + lost.min(MOST) * RECESS));
    }

    /// Whether it is over, or there was none. The clock is read only if it matters.
    pub(super) fn is_over(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.until.is_some_and(|until| now() >= until) {
            self.until = None;
        }
        self.until.is_none()
    }
}
