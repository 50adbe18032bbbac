//! Small cases of a pool's life, in every interleaving.
//!
//! A phase's parts write cells that the model checker watches: it fails where two threads touch one without an order between them, where a part
//! is done twice or is missing after its phase, and where all threads sleep.

use crate::pool::Pool;
use loom::cell::UnsafeCell;
use std::ops::Range;

/// Counts, one per part, that only whoever does the part may touch.
struct Counts(Vec<UnsafeCell<usize>>);

// SAFETY: the model checker watches the cells.
unsafe impl Sync for Counts {}

impl Counts {
    fn new(parts: usize) -> Counts {
        Counts((0..parts).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, parts: Range<usize>) {
        for cell in &self.0[parts] {
            // SAFETY: the model checker watches the cell.
            cell.with_mut(|count| unsafe { *count += 1 });
        }
    }

    fn all_are(&self, expected: usize) -> bool {
        // SAFETY: the model checker watches the cell.
        self.0.iter().all(|cell| cell.with(|count| unsafe { *count }) == expected)
    }
}

/// Runs a case in every interleaving with at most so many preemptions.
fn check(preemptions: usize, case: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(case);
}

/// Runs phases of two parts each, in which every part also sees all of the phase before.
fn run(pool: &Pool, workers: usize, phases: usize) -> bool {
    let counts: Vec<Counts> = (0..phases).map(|_| Counts::new(workers)).collect();
    let done = pool.run(workers, &vec![workers; phases], &|worker, phase, parts| {
        assert!(worker < workers);
        if phase > 0 {
            assert!(counts[phase - 1].all_are(1));
        }
        counts[phase].add(parts);
    });
    // The cells end here: nobody may touch them any more.
    assert!(counts.iter().all(|c| c.all_are(usize::from(done))));
    done
}

/// Also the late helper: in some interleavings it first comes when all is done.
#[test]
fn two_workers_meet_over_phases() {
    check(3, || {
        let pool = Pool::new(2).unwrap();
        assert!(run(&pool, 2, 3));
    });
}

/// In some interleavings the helper still wakes for the first call when the second one comes.
#[test]
fn a_call_follows_a_call() {
    check(3, || {
        let pool = Pool::new(2).unwrap();
        assert!(run(&pool, 2, 1));
        assert!(run(&pool, 2, 1));
    });
}

#[test]
fn three_workers_do_a_phase() {
    check(1, || {
        let pool = Pool::new(3).unwrap();
        assert!(run(&pool, 3, 1));
    });
}

/// The third worker sleeps, or is late, while two work, and is called after that.
#[test]
fn a_worker_is_left_out_and_called_again() {
    check(1, || {
        let pool = Pool::new(3).unwrap();
        assert!(run(&pool, 2, 1));
        assert!(run(&pool, 3, 1));
    });
}

/// The third worker is late for its call, and has no place in the next one.
#[test]
fn a_worker_is_called_and_left_out() {
    check(1, || {
        let pool = Pool::new(3).unwrap();
        assert!(run(&pool, 3, 1));
        assert!(run(&pool, 2, 1));
    });
}

/// The helper is asleep, about to be, or has not begun.
#[test]
fn a_pool_ends_without_work() {
    check(3, || {
        drop(Pool::new(2).unwrap());
    });
}

/// One of the callers is refused if the other one leads.
#[test]
fn two_callers() {
    check(2, || {
        let pool = loom::sync::Arc::new(Pool::new(2).unwrap());
        let other = {
            let pool = pool.clone();
            loom::thread::spawn(move || run(&pool, 2, 1))
        };
        let here = run(&pool, 2, 1);
        assert!(other.join().unwrap() | here);
    });
}
