//! How long a thread waits with its core kept, and when a leader does without helpers.
//!
//! To put a thread to sleep and to wake it takes about as long as a phase, so a wait begins spinning. It goes on only while that pays: a thread
//! that spins on a core which others want takes the time from the very thread that it waits for.
//!
//! Two signs tell of a crowded machine: a leader waits for a helper longer than its work can take, or a helper that spins finds that some time
//! has passed it by. Time lost so buys a recess of [`RECESS`] times its length, in which the leader does everything alone. Waiting can
//! then take no more than one part in `RECESS + 1` of a leader's time, however crowded the machine.

use super::sync::MODEL;
use std::time::{Duration, Instant};

/// Turns between two looks at the clock: one or two microseconds.
const TURNS: usize = 50;

/// A wait whose end should be near: about what it takes to put a thread to sleep and wake it again.
pub(super) const SHORT: Duration = Duration::from_micros(50);

/// The longest wait that keeps the core. To be woken costs some percent of work that comes so seldom.
pub(super) const LONG: Duration = Duration::from_millis(2);

/// A thread that spins is away from its core for less than this unless another thread has it.
const GAP: Duration = Duration::from_micros(100);

/// How much longer than a loss the recess is that it leads to.
const RECESS: u32 = 16;

/// The greatest loss that counts: a program that was stopped for an hour should not do without threads for a day.
const MOST: Duration = Duration::from_millis(50);

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spun {
    /// What was waited for is there.
    Ready,
    /// The time is over.
    Over,
    /// Another thread had the core for so long.
    Crowded(Duration),
}

/// Spins until `ready`, but not much longer than `limit`. A wait longer than [`SHORT`] gives way to other threads, unless `greedy`.
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

/// Until when a leader does without helpers.
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

    /// Whether it is over, or there was none. The clock is asked only where it matters.
    pub(super) fn is_over(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.until.is_some_and(|until| now() >= until) {
            self.until = None;
        }
        self.until.is_none()
    }
}
