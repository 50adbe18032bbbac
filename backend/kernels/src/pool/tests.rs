use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;

/// Parts that are done, by part.
fn counters(parts: usize) -> Vec<AtomicUsize> {
    (0..parts).map(|_| AtomicUsize::new(0)).collect()
}

/// Turns of the tests' loops; an interpreter takes a thousand times as long.
const TURNS: usize = if cfg!(miri) { 4 } else { 50 };

#[test]
fn every_part_is_done_once_and_after_the_phases_before() {
    for workers in [2, 3] {
        let pool = Pool::new(workers).unwrap();
        assert_eq!(pool.workers(), workers);
        let phases = [100, 1, 0, 3, 7];
        let counts = phases.map(counters);
        let turn = AtomicUsize::new(0);
        let work = |worker: usize, phase: usize, parts: Range<usize>| {
            assert!(worker < workers);
            let turn = turn.load(Ordering::Relaxed);
            if phases[phase] == 1 {
                assert_eq!(worker, 0);
            }
            for before in counts[..phase].iter().flatten() {
                assert_eq!(before.load(Ordering::Relaxed), turn);
            }
            for count in &counts[phase][parts] {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        assert!(!pool.run(workers + 1, &phases, &work));
        assert!(!pool.run(0, &phases, &work));
        for n in 1..=TURNS {
            turn.store(n, Ordering::Relaxed);
            assert!(pool.run(workers, &phases, &work));
            assert!(counts.iter().flatten().all(|c| c.load(Ordering::Relaxed) == n));
            // A turn without the others, whom it must not confuse.
            assert!(pool.run(1, &[5], &|worker, _, parts| assert_eq!((worker, parts), (0, 0..5))));
            assert!(pool.run(2, &[9], &|worker, _, _| assert!(worker < 2)));
            if n == TURNS / 2 {
                // Long enough to fall asleep.
                std::thread::sleep(3 * LONG);
            }
        }
    }
}

#[test]
fn a_helper_that_is_stuck_keeps_one_piece() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..TURNS {
        let (parts, done, stuck) = (40, AtomicUsize::new(0), AtomicBool::new(false));
        let work = |worker: usize, _: usize, range: Range<usize>| {
            if worker == 0 {
                // The leader goes on when the helper is there.
                while !stuck.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            } else {
                stuck.store(true, Ordering::Relaxed);
                while done.load(Ordering::Relaxed) < parts - range.len() {
                    std::thread::yield_now();
                }
                // So long that the leader falls asleep.
                std::thread::sleep(LONG);
            }
            done.fetch_add(range.len(), Ordering::Relaxed);
        };
        // A leader in recess would wait in vain.
        *pool.leading.lock().unwrap() = Leading::default();
        pool.shared.away();
        assert!(pool.run(2, &[parts], &work));
        assert_eq!(done.into_inner(), parts);
        // What comes next is right whether the helper is asked or not.
        let after = counters(20);
        let count = |_: usize, _: usize, range: Range<usize>| {
            after[range].iter().for_each(|c| _ = c.fetch_add(1, Ordering::Relaxed));
        };
        assert!(pool.run(2, &[20, 20], &count));
        assert!(after.iter().all(|c| c.load(Ordering::Relaxed) == 2));
    }
}

#[test]
fn a_pool_at_work_refuses_more() {
    let pool = Pool::new(2).unwrap();
    let refused = AtomicUsize::new(0);
    let work = |_: usize, _: usize, parts: Range<usize>| {
        assert!(!pool.run(2, &[4], &|_, _, _| unreachable!("the pool is at work")));
        refused.fetch_add(parts.len(), Ordering::Relaxed);
    };
    assert!(pool.run(2, &[10], &work));
    assert_eq!(refused.into_inner(), 10);
}

#[test]
fn callers_take_turns() {
    let pool = Pool::new(2).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut done = 0;
                while done < TURNS {
                    let counts = counters(20);
                    let count = |_: usize, _: usize, range: Range<usize>| {
                        counts[range].iter().for_each(|c| _ = c.fetch_add(1, Ordering::Relaxed));
                    };
                    if pool.run(2, &[20, 20], &count) {
                        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2));
                        done += 1;
                    } else {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
}

#[test]
fn a_pool_survives_a_panic_of_the_leader_alone() {
    let pool = Pool::new(2).unwrap();
    let alone = || pool.run(1, &[3], &|_, _, _| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(alone)).is_err());
    let counts = counters(10);
    assert!(pool.run(2, &[10], &|_, _, range| {
        counts[range].iter().for_each(|c| _ = c.fetch_add(1, Ordering::Relaxed));
    }));
    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
}

#[test]
fn a_recess_is_as_long_as_the_loss_was() {
    let (start, ms) = (Instant::now(), Duration::from_millis);
    let mut recess = Recess::default();
    assert!(recess.is_over(|| unreachable!("there was none")));
    recess.begin(ms(10), start);
    assert!(!recess.is_over(|| start + ms(159)));
    // A smaller loss does not shorten it.
    recess.begin(ms(1), start + ms(1));
    assert!(!recess.is_over(|| start + ms(159)));
    assert!(recess.is_over(|| start + ms(160)));
    assert!(recess.is_over(|| unreachable!("it is over")));
    recess.begin(ms(3_600_000), start);
    assert!(recess.is_over(|| start + ms(800)));
}

#[test]
fn pieces_are_taken_from_both_ends() {
    let share = Share::empty();
    assert_eq!(share.take(0, true), None);
    let job = Job { work: &|_, _, _| (), phase: 0, parts: 8, workers: 2, is_even: false };
    assert!(share.mark_asleep() && !share.is_ready());
    // SAFETY: nothing was there to be taken.
    assert!(unsafe { share.publish(job, 4) } && share.is_ready());
    assert_eq!(share.workers(), Some(2));
    assert_eq!(share.take(2, true), None);
    assert_eq!(
        [share.take(0, true), share.take(1, false), share.take(0, true), share.take(1, false)],
        [Some(0), Some(3), Some(1), Some(2)]
    );
    assert_eq!((share.take(0, true), share.take(1, false)), (None, None));
    assert!(!share.is_ready() && !share.stop());
    assert_eq!((share.is_ready(), share.workers()), (true, None));
}

#[test]
fn shares_cover_everything_once() {
    for all in [0, 1, 2, 7, 313] {
        let covered: Vec<usize> = (0..3).flat_map(|m| share(all, m, 3)).collect();
        assert_eq!(covered, (0..all).collect::<Vec<_>>());
    }
}
