//! Helpers for tests of every crate.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a check on every case, even after one that failed, so that a test run reports all failures.
///
/// ```
/// lstmc_frontend::testing::check_all([2, 3, 5], |n| assert!(n * n < 26));
/// ```
///
/// # Panics
///
/// If a check panics: after all are done, naming the cases. Each check's own message is printed when it fails.
///
/// ```should_panic
/// // Prints two messages, and panics with "2 of 3 cases failed: [3, 5]".
/// lstmc_frontend::testing::check_all([2, 3, 5], |n| assert_eq!(n * n, 4));
/// ```
#[track_caller]
pub fn check_all<C: Debug>(cases: impl IntoIterator<Item = C>, mut check: impl FnMut(&C)) {
    let (mut count, mut failed) = (0, vec![]);
    for case in cases {
        count += 1;
        // The next check reads nothing that a failed one left half done.
        if catch_unwind(AssertUnwindSafe(|| check(&case))).is_err() {
            failed.push(case);
        }
    }
    assert!(failed.is_empty(), "{} of {count} cases failed: {failed:?}", failed.len());
}
