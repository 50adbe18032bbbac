//! Every file of `testdata/passes`, see [`lstmc_passes::testing`].
//!
//! Singular vectors and what is trained are not the same to the last bit on all processors, so what factorisations and training make is shown
//! without hashes.

use lstmc_frontend::canonicalize::canonicalize;
use lstmc_frontend::interpret::Interpreter;
use lstmc_frontend::ir::{Graph, parse};
use lstmc_frontend::tensor::Tensor;
use lstmc_frontend::testing::check_all;
use lstmc_passes::registry::PASSES;
use lstmc_passes::testing::outcome_of;
use std::path::{Path, PathBuf};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/passes");

#[test]
fn every_file_gives_its_snapshot() {
    let mut paths: Vec<PathBuf> = Path::new(FOLDER).read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "ir"));
    paths.sort();
    assert!(!paths.is_empty());
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        check_all(paths, |path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            insta::assert_snapshot!(name, outcome_of(path, PASSES));
        });
    });
}

/// Logits for three steps of two streams, from zero state.
fn logits(graph: &Graph, input: &str) -> Tensor {
    let tokens = Tensor::from_i64([3, 2], vec![0, 4, 2, 1, 3, 3]).unwrap();
    let results = Interpreter::new(graph).unwrap().run(&[(input, tokens)]).unwrap();
    results.into_iter().find(|(name, _)| name == "logits").unwrap().1
}

#[test]
fn canonical_graphs_compute_what_generic_ones_do() {
    check_all(["last-hidden", "tied", "projections", "ones"], |name| {
        let text =
            std::fs::read_to_string(Path::new(FOLDER).join(format!("canonicalize-{name}.ir"))).unwrap();
        let generic = parse(&text).unwrap();
        let canonical = canonicalize(&generic).unwrap().unwrap().graph;
        let (expected, found) = (logits(&generic, "tokens"), logits(&canonical, "tokens"));
        // The generic graph may have the last step only.
        let (expected, found) = (expected.f32s().unwrap(), found.f32s().unwrap());
        let found = &found[found.len() - expected.len()..];
        for (f, e) in found.iter().zip(expected) {
            // A few dozen f32 operations on values of order one.
            assert!((f - e).abs() <= 64.0 * f32::EPSILON * (1.0 + e.abs()), "{name}: {f}, expected {e}");
        }
    });
}
