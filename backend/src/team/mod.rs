//! Several threads that do the phases of a step together.
//!
//! ```text
//!   leader   ──0──┐┌──1: parts──┐┌──2──┐┌──3: parts, and the helper's last──┐ ...
//!   helper        └───1: parts──┘      └──3: parts──╌╌╌ its core is taken away
//! ```
//!
//! Every phase has a number of parts. The first part begins the first member's share, and so on: on a machine with nothing else to do each member
//! does its own share, step after step, whose weights its core's caches hold. A member that has nothing left takes parts of the others'
//! shares, from the end. While members end together a share is one piece; where one has more to do than another, shares are cut into [`PIECES`].
//!
//! # Nobody waits for a thread that is not there
//!
//! Shares are words `[next part, end]`, and to take a part is to change its word. Only who has taken a part belongs to a phase: it then
//! reads what is to be done, and the leader waits until it has reported. A helper that comes late, because it slept or its core was taken by
//! another program, finds nothing to take and touches nothing that the leader's call lends. So the worst that a busy core does is to keep
//! one piece of work. The leader waits for that, spinning and then asleep, and does without helpers for a while ([`wait`]).
//!
//! # Who sleeps
//!
//! A helper without work spins, the longer if that was worth it the last time, then sleeps. Sleepers leave a mark in the word that they wait
//! for (`called`, `left`); who changes the word next sees the mark in the same atomic operation and wakes them. Nothing here relies on an order
//! between different words other than release and acquire. `backend/loom` checks the protocol in all interleavings of small cases.
#![allow(
    unsafe_code,
    reason = "threads that outlive a call borrow its closure, and are waited for before it ends"
)]

mod sync;
#[cfg(all(test, not(loom)))]
mod tests;
mod wait;

use std::ops::Range;
use std::sync::{OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use sync::{
    Apart, Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Builder, Condvar, JoinHandle, MODEL, Mutex,
    MutexGuard, Ordering, UnsafeCell,
};
use wait::{LONG, Recess, SHORT, Spun, spin};

/// Pieces that a share is cut into, at most: a helper whose core is taken away keeps no more than one.
const PIECES: usize = if MODEL { 1 } else { 8 };

/// What the members of a team do: a function of the member's number, the phase, and some of the phase's parts.
pub(crate) type Work<'a> = dyn Fn(usize, usize, Range<usize>) + Sync + 'a;

/// Threads that work together; the caller of [`Team::run`] is member 0, the leader.
pub(crate) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held while the team works: one step at a time.
    leading: Mutex<Leading>,
}

/// What the leader knows of its helpers.
#[derive(Default)]
struct Leading {
    recess: Recess,
    /// Whether in the last phase all members ended together.
    is_even: bool,
}

/// How a phase went.
struct Led {
    /// The time that was lost by waiting, where that was longer than it should be.
    lost: Option<Duration>,
    is_even: bool,
}

struct Shared {
    /// `[call, members, ASLEEP]`: how often helpers were called, how many members then take part, and whether a helper may sleep.
    called: Apart<AtomicUsize>,
    /// `[pieces of the phase not reported as done, ASLEEP]`; the mark is the leader's.
    left: Apart<AtomicUsize>,
    /// By member.
    shares: Vec<Apart<Share>>,
    /// What is to be done: written by the leader while all pieces are reported, read by those who have taken one.
    job: UnsafeCell<Option<Job>>,
    /// By member; the leader's is for `left`.
    beds: Vec<Bed>,
    stop: AtomicBool,
    /// Nanoseconds: the longest time that a helper's core was away while it waited, since the leader last asked.
    away: AtomicU64,
}

/// A phase of a call.
#[derive(Clone, Copy)]
struct Job {
    work: &'static Work<'static>,
    phase: usize,
    parts: usize,
    members: usize,
    /// Pieces of a share, at most.
    pieces: usize,
}

impl Job {
    /// The parts that are a member's.
    fn share(&self, member: usize) -> Range<usize> {
        share(self.parts, member, self.members)
    }

    /// Pieces of a member's share.
    fn pieces(&self, member: usize) -> usize {
        self.share(member).len().min(self.pieces)
    }

    /// The parts of a piece of a member's share.
    fn piece(&self, member: usize, piece: usize) -> Range<usize> {
        let all = self.share(member);
        let part = share(all.len(), piece, self.pieces(member));
        all.start + part.start..all.start + part.end
    }
}

/// Where a member sleeps.
#[derive(Default)]
struct Bed {
    asleep: Mutex<bool>,
    woken: Condvar,
}

/// The mark of sleepers in a word.
const ASLEEP: usize = 1;

/// Bits of `called` from which on the call's number is, and between it and the mark the number of members.
const CALL: u32 = 16;

/// The largest team: its members are all that the word has room for.
const MOST_MEMBERS: usize = (1 << (CALL - 1)) - 1;

// SAFETY: `job` is written only by the leader, which holds the team's lock, while every piece is reported as done. It is read only by members that
// have taken a piece and not reported it. The release that publishes a share comes after the write, the acquire that takes a piece before the
// read; reports release, and the leader's look at `left` acquires.
unsafe impl Sync for Shared {}
// SAFETY: the reference in `job` is to something that may be shared.
unsafe impl Send for Shared {}

impl Team {
    /// A team of `members`, at least 2.
    pub(crate) fn new(members: usize) -> std::io::Result<Team> {
        assert!(members <= MOST_MEMBERS, "{members} threads in a team");
        let shared = Arc::new(Shared {
            called: Apart(AtomicUsize::new(0)),
            left: Apart(AtomicUsize::new(0)),
            shares: (0..members).map(|_| Apart(Share::empty())).collect(),
            job: UnsafeCell::new(None),
            beds: (0..members).map(|_| Bed::default()).collect(),
            stop: AtomicBool::new(false),
            away: AtomicU64::new(0),
        });
        let mut team = Team { shared, helpers: vec![], leading: Mutex::default() };
        for member in 1..members {
            let shared = team.shared.clone();
            let helper = Builder::new().name(format!("lstmc-{member}"));
            // Where a thread cannot be started, dropping the team ends those that were.
            team.helpers.push(helper.spawn(move || shared.help(member))?);
        }
        Ok(team)
    }

    /// A team of all cores that the whole program shares; none where there is one core, or threads cannot be started.
    pub(crate) fn of_all_cores() -> Option<&'static Team> {
        static TEAM: OnceLock<Option<Team>> = OnceLock::new();
        let team = TEAM.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_MEMBERS);
            if cores > 1 { Team::new(cores).ok() } else { None }
        });
        team.as_ref()
    }

    /// How many work together.
    pub(crate) fn members(&self) -> usize {
        self.shared.shares.len()
    }

    /// Does `work(member, phase, parts)` for phases `0..phases.len()`, one after another, and all parts `0..phases[phase]` of each, in ranges
    /// of any size; members are below `members`, and the caller is member 0. What a part wrote, the parts of later phases see. A phase of one
    /// part is the caller's.
    ///
    /// False, and nothing done, where there are not so many members, or the team is at work already.
    pub(crate) fn run(&self, members: usize, phases: &[usize], work: &Work<'_>) -> bool {
        let mut leading = match self.leading.try_lock() {
            Ok(leading) => leading,
            // Work that panicked on the leader alone has left nothing behind.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if !(1..=self.members()).contains(&members) {
            return false;
        }
        for (phase, &parts) in phases.iter().enumerate() {
            if members > 1 && parts > 1 {
                if let Some(away) = self.shared.away() {
                    leading.recess.begin(away, Instant::now());
                }
                if leading.recess.is_over(Instant::now) {
                    // SAFETY: only the lifetime changes; `lead` does not return before all who use it have reported.
                    let work = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
                    let pieces = if leading.is_even { 1 } else { PIECES };
                    let led = self.shared.lead(Job { work, phase, parts, members, pieces });
                    leading.is_even = led.is_even;
                    if let Some(lost) = led.lost {
                        leading.recess.begin(lost, Instant::now());
                    }
                    continue;
                }
            }
            if parts > 0 {
                work(0, phase, 0..parts);
            }
        }
        true
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.call(self.members());
        for helper in self.helpers.drain(..) {
            // A helper does not panic; if it did, there is nothing to be done here.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Has the members do a phase and returns when it is done. Only the leader calls this.
    fn lead(&self, job: Job) -> Led {
        let begun = Instant::now();
        // SAFETY: see `Sync` above; all pieces of the phase before are reported.
        self.job.with_mut(|to| unsafe { *to = Some(job) });
        let all: usize = (0..job.members).map(|member| job.pieces(member)).sum();
        self.left.0.store(all << 1, Ordering::Relaxed);
        for member in 0..job.members {
            self.shares[member].0.publish(job.pieces(member), job.members);
        }
        self.call(job.members);
        let done = self.take_pieces(0, job.members);
        // Members that end together differ by a piece of many, and by no piece of one.
        let own = job.pieces(0);
        let is_even = done.abs_diff(own) <= own / PIECES;
        if self.report(done) == 0 {
            return Led { lost: None, is_even };
        }
        let own = begun.elapsed();
        let lost = self.await_reports(SHORT + (own / done.max(1) as u32 * 2).min(LONG));
        let waited = begun.elapsed() - own;
        Led { lost: lost.then_some(waited), is_even: is_even && waited < own / 4 }
    }

    /// Tells helpers that there is something to do for the first `members`.
    fn call(&self, members: usize) {
        // Nobody else changes it but for the mark.
        let call = (self.called.0.load(Ordering::Relaxed) >> CALL).wrapping_add(1);
        let before = self.called.0.swap(call << CALL | members << 1, Ordering::AcqRel);
        if before & ASLEEP == 0 {
            return;
        }
        for bed in &self.beds[1..members] {
            if std::mem::take(&mut *bed.asleep()) {
                bed.woken.notify_one();
            }
        }
        if self.beds[members..].iter().any(|bed| *bed.asleep()) {
            self.called.0.fetch_or(ASLEEP, Ordering::Relaxed);
        }
    }

    /// What a helper does all its life.
    fn help(&self, member: usize) {
        let (mut seen, mut patience) = (0, SHORT);
        loop {
            let begun = Instant::now();
            seen = self.await_call(member, seen, patience);
            // As long as it would have paid the last time.
            patience = if begun.elapsed() < LONG { LONG } else { SHORT };
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let done = self.take_pieces(member, seen >> 1 & MOST_MEMBERS);
            if done > 0 {
                self.report(done);
            }
        }
    }

    /// Waits until this member is called; `seen` is the last call that it followed, and the next one is returned.
    fn await_call(&self, member: usize, seen: usize, patience: Duration) -> usize {
        let new = |called: usize| called & !ASLEEP != seen && member < called >> 1 & MOST_MEMBERS;
        let called = || self.called.0.load(Ordering::Acquire);
        let spun = spin(patience, false, || new(called()));
        if let Spun::Crowded(away) = spun {
            self.away.fetch_max(away.as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if spun != Spun::Ready {
            let bed = &self.beds[member];
            let mut asleep = bed.asleep();
            *asleep = true;
            // Either this sees the call, or the call sees the mark, and then waits for the bed's lock.
            if new(self.called.0.fetch_or(ASLEEP, Ordering::AcqRel)) {
                *asleep = false;
            }
            while *asleep {
                asleep = bed.wait(asleep);
            }
        }
        called() & !ASLEEP
    }

    /// The longest time that a helper was kept from its core, where one was.
    fn away(&self) -> Option<Duration> {
        if self.away.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(Duration::from_nanos(self.away.swap(0, Ordering::Relaxed)))
    }

    /// Does pieces until none is left to take, this member's own share first, and returns how many; they are to be reported.
    fn take_pieces(&self, member: usize, members: usize) -> usize {
        /// A member that panics would leave the others waiting for ever, or with a borrow that ends.
        struct Abort;
        impl Drop for Abort {
            fn drop(&mut self) {
                std::process::abort();
            }
        }
        let mut done = 0;
        for of in (member..members).chain(0..member) {
            while let Some(piece) = self.shares[of].0.take(member, of == member) {
                // SAFETY: see `Sync` above; a piece is taken and not reported.
                let job = self.job.with(|job| unsafe { *job });
                let job = job.expect("pieces are of a job");
                let abort = Abort;
                (job.work)(member, job.phase, job.piece(of, piece));
                std::mem::forget(abort);
                done += 1;
            }
        }
        done
    }

    /// Reports pieces as done, after which this member reads nothing of the job; how many are left.
    fn report(&self, done: usize) -> usize {
        let before = self.left.0.fetch_sub(done << 1, Ordering::AcqRel);
        let left = before - (done << 1);
        if left == ASLEEP {
            // The leader sleeps, or is about to and has the lock.
            *self.beds[0].asleep() = false;
            self.beds[0].woken.notify_one();
        }
        left >> 1
    }

    /// Waits until all pieces are reported, and returns whether that took longer than `limit`. Only the leader calls this.
    fn await_reports(&self, limit: Duration) -> bool {
        if spin(limit, true, || self.left.0.load(Ordering::Acquire) == 0) == Spun::Ready {
            return false;
        }
        let bed = &self.beds[0];
        let mut asleep = bed.asleep();
        *asleep = self.left.0.fetch_or(ASLEEP, Ordering::AcqRel) != 0;
        while *asleep {
            asleep = bed.wait(asleep);
        }
        true
    }
}

/// What is left of a member's share of a phase: `[members, next piece, end]`, of 16, 8 and 8 bits.
struct Share(AtomicU32);

impl Share {
    fn empty() -> Share {
        Share(AtomicU32::new(0))
    }

    /// Puts `pieces` up to be taken by the first `members`; there were none.
    fn publish(&self, pieces: usize, members: usize) {
        self.0.store((members << 16 | pieces) as u32, Ordering::Release);
    }

    /// Takes the first piece or the last one, if there is any for this member.
    ///
    /// A member that was late may compare a word of the phase before with one of this phase: where they are equal it takes a piece of this phase, as
    /// well it may.
    fn take(&self, member: usize, first: bool) -> Option<usize> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (members, next, end) = (word >> 16, word >> 8 & 0xff, word & 0xff);
            if next == end || member >= members as usize {
                return None;
            }
            let (piece, rest) = if first { (next, word + (1 << 8)) } else { (end - 1, word - 1) };
            match self.0.compare_exchange_weak(word, rest, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(piece as usize),
                Err(now) => word = now,
            }
        }
    }
}

impl Bed {
    fn asleep(&self) -> MutexGuard<'_, bool> {
        self.asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, asleep: MutexGuard<'a, bool>) -> MutexGuard<'a, bool> {
        self.woken.wait(asleep).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of `0..all` that is a member's.
pub(crate) fn share(all: usize, member: usize, members: usize) -> Range<usize> {
    all * member / members..all * (member + 1) / members
}
