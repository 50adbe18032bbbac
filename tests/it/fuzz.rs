//! The fuzz targets over every file of `testdata/fuzz`: what was found once stays mended. `just fuzz` looks for more.

use crate::program::root;
use std::collections::BTreeSet;
use std::path::PathBuf;

#[allow(unreachable_pub, reason = "the sources are a library elsewhere")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// What `testdata/fuzz` may take in all.
const MOST_BYTES: u64 = 200_000;

/// The files of a folder of `testdata/fuzz`, in order.
fn files(target: &str) -> BTreeSet<PathBuf> {
    let folder = root().join("testdata/fuzz").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|e| e.unwrap().path()).collect()
}

#[test]
fn finds_stay_mended() {
    let mut bytes = 0;
    for (name, target) in targets::TARGETS {
        let files = files(name);
        assert!(!files.is_empty(), "{name} has no seed");
        for path in files {
            let input = std::fs::read(&path).unwrap();
            bytes += input.len() as u64;
            let outcome = std::panic::catch_unwind(|| target(&input));
            assert!(outcome.is_ok(), "`{name}` panics on {}", path.display());
        }
    }
    assert!(bytes <= MOST_BYTES, "testdata/fuzz has {bytes} bytes");
}

/// Writes anew the seeds that a change of a format has made useless. `cargo test --test it write_seeds -- --ignored`
#[test]
#[ignore = "writes to testdata/fuzz: `cargo test --test it write_seeds -- --ignored`"]
fn write_seeds() {
    for (target, name, bytes) in targets::seeds() {
        std::fs::write(root().join("testdata/fuzz").join(target).join(name), bytes).unwrap();
    }
}
