//! All of the Penn Treebank, which cannot be bundled: where it is at hand, in the folder `LSTMC_PTB` or in `../shared/ptb`.
//!
//! They take seconds with optimisation and minutes without:
//!
//! ```text
//! cargo test --release --test it ptb -- --ignored --nocapture
//! ```

use crate::program::root;
use lstmc::backend::{Level, Options};
use lstmc::{Engine, Scorer, Source};
use std::path::PathBuf;

/// A folder that a variable names, or that lies beside the repository; none (and a loud word) where `file` is not in it.
fn folder(variable: &str, default: &str, file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map_or_else(|| root().join(default), PathBuf::from);
    if folder.join(file).is_file() {
        return Some(folder);
    }
    eprintln!("SKIPPED: {} is not in {}; name its folder in {variable}", file, folder.display());
    None
}

/// Perplexity to four significant digits.
fn check(model: PathBuf, engine: Engine, text: &str, wanted: f64) {
    let Some(ptb) = folder("LSTMC_PTB", "../shared/ptb", text) else { return };
    let vocabulary = root().join("testdata/ptb-small/vocab.txt");
    let source =
        Source::read(model).unwrap().with_vocabulary(Some(&vocabulary)).unwrap().canonical().unwrap();
    let text = std::fs::read_to_string(ptb.join(text)).unwrap();
    let text = source.tokenizer.as_ref().unwrap().encode(&text).unwrap();
    assert_eq!(text.unknown, 0);
    let levels = match engine {
        Engine::Jit => Level::all(),
        _ => vec![Level::best()],
    };
    for level in levels {
        let options = Options { level, ..Options::default() };
        let found = Scorer::new(engine, options, &text.tokens, |_| ()).perplexity(&source.graph).unwrap();
        println!("{engine:?} at {level}: perplexity {found:.4}, recorded {wanted}");
        assert!((found / wanted - 1.0).abs() < 0.5e-4, "{engine:?} at {level}: {found}, recorded {wanted}");
    }
}

fn bundled() -> PathBuf {
    root().join("testdata/ptb-small/model.onnx")
}

// Recorded with ONNX Runtime 1.32 by the models' author.
const SMALL_TEST: f64 = 112.6292;
const SMALL_VALID: f64 = 116.7823;
const MEDIUM_TEST: f64 = 91.6401;

#[test]
#[ignore = "minutes without optimisation: cargo test --release --test it ptb -- --ignored"]
fn small_in_generated_code() {
    check(bundled(), Engine::Jit, "ptb.test.txt", SMALL_TEST);
    check(bundled(), Engine::Jit, "ptb.valid.txt", SMALL_VALID);
}

#[test]
#[ignore = "minutes without optimisation: cargo test --release --test it ptb -- --ignored"]
fn small_in_the_interpreter() {
    check(bundled(), Engine::Interpreter, "ptb.test.txt", SMALL_TEST);
}

#[test]
#[ignore = "minutes without optimisation: cargo test --release --test it ptb -- --ignored"]
fn small_of_the_older_exporter() {
    let name = "ptb-small-torchscript.onnx";
    let Some(models) = folder("LSTMC_MODELS", "../shared/models", name) else { return };
    check(models.join(name), Engine::Jit, "ptb.test.txt", SMALL_TEST);
}

#[test]
#[ignore = "minutes without optimisation: cargo test --release --test it ptb -- --ignored"]
fn medium_in_generated_code() {
    let name = "ptb-medium.onnx";
    let Some(models) = folder("LSTMC_MODELS", "../shared/models", name) else { return };
    check(models.join(name), Engine::Jit, "ptb.test.txt", MEDIUM_TEST);
}
