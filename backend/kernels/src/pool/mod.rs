//! Several threads that run the phases of a step together.
//!
//! ```text
//!   leader   ──0──┐┌──1: parts──┐┌──2──┐┌──3: parts, and the helper's last──┐ ...
//!   helper        └───1: parts──┘      └──3: parts──╌╌╌ its core is taken away
//! ```
//!
//! Every phase has a number of parts. The parts are divided into one share per worker, in order: on an idle machine each worker
//! runs its own share, step after step, and its core's caches hold that share's weights. A worker that has nothing left takes parts of the others'
//! shares, from the end. While workers finish together, a share is one piece; if one has more work than another, shares are cut into [`PIECES`].
//!
//! A share is a word, `[next piece, end]`, and a copy of the job, in one cache line: to begin, a helper fetches one line of the
//! leader's cache and no other.
//!
//! # No thread waits for one that is not running
//!
//! A worker takes a piece by changing its share's word. Only a worker that has taken a piece belongs to a phase: it then reads the job, and the
//! leader waits until it has reported. A helper that is late, because it slept or its core was taken by
//! another program, finds nothing to take and touches nothing that the leader's call lends. So the worst effect of a busy core is to hold
//! one piece of work. The leader waits for it, first spinning and then asleep, and works without helpers for a while ([`wait`]).
//!
//! # Sleeping
//!
//! A helper without work spins (longer if that paid off the last time), then sleeps. Sleepers leave a mark in the word that they wait
//! for (their share, `left`); the thread that changes the word next sees the mark in the same atomic operation and wakes them. Nothing here
//! relies on an order between different words other than release and acquire. `backend/loom` checks the protocol in all interleavings of small cases.
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
    Apart, Arc, AtomicU32, AtomicU64, AtomicUsize, Builder, Condvar, JoinHandle, MODEL, Mutex, MutexGuard,
    Ordering, UnsafeCell,
};
use wait::{LONG, Recess, SHORT, Spun, spin};

/// The maximum number of pieces of a share: a helper whose core is taken away holds no more than one.
const PIECES: usize = if MODEL { 1 } else { 8 };

/// The work of a pool: a function of the worker's number, the phase, and some of the phase's parts.
type Work<'a> = dyn Fn(usize, usize, Range<usize>) + Sync + 'a;

/// Threads that work together; the caller of [`Pool::run`] is worker 0, the leader.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held while the pool works: one step at a time.
    leading: Mutex<Leading>,
}

/// What the leader knows about its helpers.
#[derive(Default)]
struct Leading {
    recess: Recess,
    /// Whether all workers finished together in the last phase.
    is_even: bool,
}

/// The outcome of a phase.
struct Led {
    /// The time lost by waiting, if it was longer than it should be.
    lost: Option<Duration>,
    is_even: bool,
}

struct Shared {
    /// `[pieces of the phase not reported as done, LEADER_ASLEEP]`.
    left: Apart<AtomicUsize>,
    /// By worker.
    shares: Vec<Apart<Share>>,
    /// By worker; the leader's is for `left`.
    parking: Vec<Parking>,
    /// Nanoseconds: the longest time that a helper's core was away while it waited, since the leader last read it.
    away: AtomicU64,
}

/// A phase of a call.
#[derive(Clone, Copy)]
struct Job {
    work: &'static Work<'static>,
    phase: usize,
    parts: usize,
    workers: usize,
    /// Whether workers finish together, as far as is known: then shares are one piece, and helpers do not take pieces of others.
    is_even: bool,
}

impl Job {
    /// The parts of a worker's share.
    fn share(&self, worker: usize) -> Range<usize> {
        share(self.parts, worker, self.workers)
    }

    /// The number of pieces of a worker's share.
    fn pieces(&self, worker: usize) -> usize {
        self.share(worker).len().min(if self.is_even { 1 } else { PIECES })
    }

    /// The parts of a piece of a worker's share.
    fn piece(&self, worker: usize, piece: usize) -> Range<usize> {
        let all = self.share(worker);
        let part = share(all.len(), piece, self.pieces(worker));
        all.start + part.start..all.start + part.end
    }
}

/// Where a worker sleeps.
#[derive(Default)]
struct Parking {
    asleep: Mutex<bool>,
    woken: Condvar,
}

/// The mark in `left` of a leader that sleeps.
const LEADER_ASLEEP: usize = 1;

// SAFETY: the jobs of shares are written only by the leader, which holds the pool's lock, while every piece is reported as done. They are read only by
// workers that have taken a piece of the share and not reported it. The release that publishes a share comes after the write, the acquire that
// takes a piece before the read; reports release, and the leader's look at `left` acquires.
unsafe impl Sync for Shared {}
// SAFETY: the references in jobs are to something that may be shared.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `workers`, at least 2.
    pub fn new(workers: usize) -> std::io::Result<Pool> {
        if workers > MOST_WORKERS {
            let why = format!("at most {MOST_WORKERS} can work together");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
        }
        let shared = Arc::new(Shared {
            left: Apart(AtomicUsize::new(0)),
            shares: (0..workers).map(|_| Apart(Share::empty())).collect(),
            parking: (0..workers).map(|_| Parking::default()).collect(),
            away: AtomicU64::new(0),
        });
        let mut pool = Pool { shared, helpers: vec![], leading: Mutex::default() };
        for worker in 1..workers {
            let shared = pool.shared.clone();
            let helper = Builder::new().name(format!("lstmc-{worker}"));
            // If a thread cannot be started, dropping the pool ends those that were started.
            pool.helpers.push(helper.spawn(move || shared.help(worker))?);
        }
        Ok(pool)
    }

    /// A pool of all cores that the whole program shares; `None` if there is one core, or threads cannot be started.
    pub fn of_all_cores() -> Option<&'static Pool> {
        static POOL: OnceLock<Option<Pool>> = OnceLock::new();
        let pool = POOL.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
            if cores > 1 { Pool::new(cores).ok() } else { None }
        });
        pool.as_ref()
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.shared.shares.len()
    }

    /// Runs `work(worker, phase, parts)` for phases `0..phases.len()`, one after another, and all parts `0..phases[phase]` of each, in ranges
    /// of any size; workers are below `workers`, and the caller is worker 0. Later phases see what earlier phases wrote. A phase of one
    /// part is run by the caller.
    ///
    /// Returns false and does nothing if there are fewer workers than that, or the pool is already busy.
    pub fn run(&self, workers: usize, phases: &[usize], work: &Work<'_>) -> bool {
        let mut leading = match self.leading.try_lock() {
            Ok(leading) => leading,
            // Work that panicked on the leader has left nothing behind.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if !(1..=self.workers()).contains(&workers) {
            return false;
        }
        for (phase, &parts) in phases.iter().enumerate() {
            if workers > 1 && parts > 1 {
                if let Some(away) = self.shared.away() {
                    leading.recess.begin(away, Instant::now());
                }
                if leading.recess.is_over(Instant::now) {
                    // SAFETY: only the lifetime changes; `lead` does not return before all who use it have reported.
                    let work = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
                    let led = self.shared.lead(Job { work, phase, parts, workers, is_even: leading.is_even });
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

impl Drop for Pool {
    fn drop(&mut self) {
        for worker in 1..self.workers() {
            if self.shared.shares[worker].0.stop() {
                self.shared.parking[worker].wake();
            }
        }
        for helper in self.helpers.drain(..) {
            // A helper does not panic; if it did, there is nothing to be done here.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Runs a phase on the workers and returns when it is done. Only the leader calls this.
    fn lead(&self, job: Job) -> Led {
        let begun = Instant::now();
        let all: usize = (0..job.workers).map(|worker| job.pieces(worker)).sum();
        self.left.0.store(all << 1, Ordering::Relaxed);
        // The leader's own share last: no helper should find it before its own.
        for worker in (0..job.workers).rev() {
            // SAFETY: see `Sync` above; all pieces of the phase before are reported.
            let was_asleep = unsafe { self.shares[worker].0.publish(job, job.pieces(worker)) };
            if was_asleep {
                self.parking[worker].wake();
            }
        }
        let done = self.take_pieces(0, job.workers);
        // Workers that finish together differ by one piece if shares have many, and by none if they have one.
        let own = job.pieces(0);
        let is_even = done.abs_diff(own) <= own / PIECES;
        if self.report(done) == 0 {
            return Led { lost: None, is_even };
        }
        let own = begun.elapsed();
        let lost = self.await_reports(SHORT + (own / done.max(1) as u32 * 2).min(LONG));
        let waited = begun.elapsed() - own;
        // Nothing in a model may depend on a clock.
        let is_short = MODEL || waited < own / 4;
        Led { lost: lost.then_some(waited), is_even: is_even && is_short }
    }

    /// The main loop of a helper.
    fn help(&self, worker: usize) {
        let mut patience = SHORT;
        while let Some(found) = self.await_share(worker, patience) {
            let done = self.take_pieces(worker, found.workers);
            if done > 0 {
                self.report(done);
            }
            // As long as it would have paid off the last time.
            patience = if found.soon { LONG } else { SHORT };
        }
    }

    /// Waits until this worker has a share with something to take; `None` if the pool ends.
    fn await_share(&self, worker: usize, patience: Duration) -> Option<Found> {
        let share = &self.shares[worker].0;
        let spun = spin(patience, false, || share.is_ready());
        if let Spun::Crowded(away) = spun {
            self.away.fetch_max(away.as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        let mut soon = true;
        if spun != Spun::Ready {
            let begun = Instant::now();
            let place = &self.parking[worker];
            let mut asleep = place.asleep();
            // Either the mark sees what is published, or the publisher sees the mark, and then waits for the lock.
            *asleep = share.mark_asleep();
            while *asleep {
                asleep = place.wait(asleep);
            }
            soon = begun.elapsed() + patience < LONG;
        }
        share.workers().map(|workers| Found { workers, soon })
    }

    /// The longest time that a helper was kept from its core, if any was.
    fn away(&self) -> Option<Duration> {
        if self.away.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(Duration::from_nanos(self.away.swap(0, Ordering::Relaxed)))
    }

    /// Runs pieces until none is left to take, this worker's own share first, and returns how many; the caller must report them.
    fn take_pieces(&self, worker: usize, workers: usize) -> usize {
        /// A worker that panics would leave the others waiting forever, or with a borrow that has ended.
        struct Abort;
        impl Drop for Abort {
            fn drop(&mut self) {
                std::process::abort();
            }
        }
        let mut done = 0;
        for of in (worker..workers).chain(0..worker) {
            let share = &self.shares[of].0;
            while let Some(piece) = share.take(worker, of == worker) {
                // SAFETY: see `Sync` above; a piece is taken and not reported.
                let job = unsafe { share.job() };
                let abort = Abort;
                (job.work)(worker, job.phase, job.piece(of, piece));
                std::mem::forget(abort);
                done += 1;
                // Looking at the shares of others would fetch lines that their cores are about to need.
                if job.is_even && worker > 0 {
                    return done;
                }
            }
        }
        done
    }

    /// Reports pieces as done, after which this worker reads nothing of the job; returns how many are left.
    fn report(&self, done: usize) -> usize {
        let before = self.left.0.fetch_sub(done << 1, Ordering::AcqRel);
        let left = before - (done << 1);
        if left == LEADER_ASLEEP {
            // The leader sleeps, or is about to and has the lock.
            self.parking[0].wake();
        }
        left >> 1
    }

    /// Waits until all pieces are reported, and returns whether that took longer than `limit`. Only the leader calls this.
    fn await_reports(&self, limit: Duration) -> bool {
        if spin(limit, true, || self.left.0.load(Ordering::Acquire) == 0) == Spun::Ready {
            return false;
        }
        let place = &self.parking[0];
        let mut asleep = place.asleep();
        *asleep = self.left.0.fetch_or(LEADER_ASLEEP, Ordering::AcqRel) != 0;
        while *asleep {
            asleep = place.wait(asleep);
        }
        true
    }
}

/// The result of a helper's wait.
struct Found {
    /// The number of workers in the phase.
    workers: usize,
    /// Whether the wait was so short that spinning for the next one pays off.
    soon: bool,
}

/// A worker's share of a phase.
struct Share {
    /// `[workers, next piece, end, ASLEEP, STOP]`, of 14, 8, 8, 1 and 1 bits: what is left to take and by whom, and marks for the worker that
    /// sleeps and for the pool's end.
    word: AtomicU32,
    /// The job: see `Sync` of [`Shared`].
    job: UnsafeCell<Option<Job>>,
}

/// Marks of a share's word.
const STOP: u32 = 1;
const ASLEEP: u32 = 1 << 1;

/// The bit positions of the end, the next piece and the number of workers in a share's word.
const END: u32 = 2;
const NEXT: u32 = END + 8;
const WORKERS: u32 = NEXT + 8;

/// The largest pool: the number of workers that fits in the word.
pub(crate) const MOST_WORKERS: usize = (1 << (32 - WORKERS)) - 1;

impl Share {
    fn empty() -> Share {
        Share { word: AtomicU32::new(0), job: UnsafeCell::new(None) }
    }

    /// Publishes `pieces` of a job for its workers; there were none before. Returns whether the share's worker may sleep.
    ///
    /// # Safety
    /// Nobody has taken a piece that is not reported.
    unsafe fn publish(&self, job: Job, pieces: usize) -> bool {
        // SAFETY: no thread reads the job before it takes a piece that is published below.
        self.job.with_mut(|to| unsafe { *to = Some(job) });
        let word = (job.workers << WORKERS | pieces << END) as u32;
        self.word.swap(word, Ordering::AcqRel) & ASLEEP != 0
    }

    /// Permanently ends the waiting of the share's worker. Returns whether it may sleep.
    fn stop(&self) -> bool {
        self.word.fetch_or(STOP, Ordering::AcqRel) & ASLEEP != 0
    }

    /// Whether there is something to take, or the pool ends.
    fn is_ready(&self) -> bool {
        is_ready(self.word.load(Ordering::Acquire))
    }

    /// Leaves the mark of a sleeper, unless there is something to take; returns whether the worker should sleep.
    fn mark_asleep(&self) -> bool {
        !is_ready(self.word.fetch_or(ASLEEP, Ordering::AcqRel))
    }

    /// The number of workers in the last published phase; `None` if the pool ends.
    fn workers(&self) -> Option<usize> {
        let word = self.word.load(Ordering::Acquire);
        (word & STOP == 0).then_some((word >> WORKERS) as usize)
    }

    /// The job.
    ///
    /// # Safety
    /// The caller has taken a piece of this share and not reported it.
    unsafe fn job(&self) -> Job {
        // SAFETY: the leader writes no job while a piece is not reported.
        self.job.with(|job| unsafe { *job }).expect("pieces are of a job")
    }

    /// Takes the first piece or the last one, if there is any for this worker.
    ///
    /// A worker that was late may compare a word of the phase before with one of this phase: if they are equal it takes a piece of this phase,
    /// which is correct.
    fn take(&self, worker: usize, first: bool) -> Option<usize> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (next, end) = pieces(word);
            if next == end || worker >= (word >> WORKERS) as usize {
                return None;
            }
            let (piece, rest) = if first { (next, word + (1 << NEXT)) } else { (end - 1, word - (1 << END)) };
            match self.word.compare_exchange_weak(word, rest, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(piece as usize),
                Err(now) => word = now,
            }
        }
    }
}

/// The next piece and the end, from a share's word.
fn pieces(word: u32) -> (u32, u32) {
    (word >> NEXT & 0xff, word >> END & 0xff)
}

fn is_ready(word: u32) -> bool {
    let (next, end) = pieces(word);
    next != end || word & STOP != 0
}

impl Parking {
    fn asleep(&self) -> MutexGuard<'_, bool> {
        self.asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, asleep: MutexGuard<'a, bool>) -> MutexGuard<'a, bool> {
        self.woken.wait(asleep).unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread that sleeps here, if any.
    fn wake(&self) {
        if std::mem::take(&mut *self.asleep()) {
            self.woken.notify_one();
        }
    }
}

/// The part of `0..all` that belongs to a worker.
pub(crate) fn share(all: usize, worker: usize, workers: usize) -> Range<usize> {
    all * worker / workers..all * (worker + 1) / workers
}
