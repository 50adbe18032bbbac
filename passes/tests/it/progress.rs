//! What those who watch a pass are told.

use lstmc_frontend::ir::Graph;
use lstmc_frontend::ir::arbitrary::{SplitMix64, language_model};
use lstmc_passes::{Calibration, Context, Evaluate, Pipeline, Settings, Status, run};
use std::sync::Mutex;

const WORDS: usize = 17;

/// Each thing that was told of: how often, the first and the last number of steps, and of how many.
fn told(passes: &str) -> Vec<(&'static str, usize, usize, usize, usize)> {
    let told: Mutex<Vec<(&'static str, usize, usize)>> = Mutex::default();
    let watcher = |s: Status<'_>| told.lock().unwrap().push((s.pass, s.done, s.total));
    let mut rng = SplitMix64::new(9);
    let tokens = (0..120).map(|_| rng.below(WORDS) as u32).collect();
    let context = Context {
        calibration: Some(Calibration::of_text(tokens)),
        watcher: Some(&watcher),
        ..Context::default()
    };
    let settings = Settings { context, ..Settings::default() };
    run(&Pipeline::parse(passes).unwrap(), language_model(6, 2, WORDS, 5), settings).unwrap();
    let told = told.into_inner().unwrap();
    let runs = told.chunk_by(|a, b| a.0 == b.0 && a.2 == b.2 && a.1 < b.1);
    runs.map(|r| (r[0].0, r.len(), r[0].1, r[r.len() - 1].1, r[0].2)).collect()
}

/// Passes count all that they do, one by one, and nothing more.
#[test]
fn steps_are_counted() {
    // Rows: of the embedding, of the maps of each lstm side by side, of the output layer.
    let rows = WORDS + 2 * 24 + WORDS;
    assert_eq!(told("quantize(bits=4)"), [("quantize", rows, 1, rows, rows)]);
    assert_eq!(told("quantize(bits=8)"), [("quantize", rows, 1, rows, rows)]);
    // Of both factors; one of each for two maps that share one.
    let rows = 2 * (WORDS + 2) + 2 * (24 + 2);
    let found = told("low-rank(rank=2, shared=true), quantize(bits=4)");
    assert_eq!(found, [("low-rank", 4, 1, 6, 6), ("quantize", rows, 1, rows, rows)]);
    assert_eq!(told("prune(sparsity=0.5)")[0], ("prune: trials", 24, 1, 24, 24));
    assert_eq!(told("prune(sparsity=0.5, scope=layer)"), [("prune", 4, 1, 4, 4)]);
    assert_eq!(told("tensor-train(target=decoder, rank=1)"), [("tensor-train", 1, 1, 1, 1)]);
}

/// Whatever a pass leaves out is done when it ends, so that what is shown of it goes away.
#[test]
fn all_is_done_in_the_end() {
    for passes in [
        "low-rank(target=decoder, rank=6)",
        "prune(sparsity=0.5)",
        "prune(pattern=2:4)",
        "tensor-train(cores=2, rank=1), quantize(bits=8)",
    ] {
        for (pass, _, _, last, total) in told(passes) {
            assert_eq!(last, total, "{passes}: {pass}");
        }
    }
}

/// Stands for any perplexity.
struct Seven;

impl Evaluate for Seven {
    fn perplexity(&mut self, _: &Graph) -> Result<f64, String> {
        Ok(7.0)
    }
}

/// Training tells of itself after each window.
#[test]
fn training_says_how_it_goes() {
    let told: Mutex<Vec<(usize, usize, String)>> = Mutex::default();
    let watcher = |s: Status<'_>| told.lock().unwrap().push((s.done, s.total, s.note.to_string()));
    let text = vec![1; 4 * 41];
    let context = Context {
        training: Some(&text),
        evaluator: Some(&mut Seven),
        watcher: Some(&watcher),
        ..Context::default()
    };
    let settings = Settings { context, ..Settings::default() };
    let pipeline = Pipeline::parse("recover(batch=4, bptt=10, epochs=2)").unwrap();
    run(&pipeline, language_model(6, 1, WORDS, 5), settings).unwrap();
    let told = told.into_inner().unwrap();
    assert_eq!(told.len(), 8);
    for (k, (done, total, note)) in told.iter().enumerate() {
        assert_eq!((*done, *total), (k + 1, 8));
        let parts: Vec<&str> = note.split(", ").collect();
        assert!(parts[0].starts_with("loss ") && parts[2].ends_with(" tokens/s"), "{note}");
        assert_eq!(parts[1], "validation perplexity 7.00");
    }
}
