//! `lstmc compare`.

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS};

/// Figures of a model and of what `quantize` made of it: those of `eval` and `inspect` are the same, those beside the reference as they must be.
#[test]
fn a_model_and_its_quantized_form() {
    let sandbox = Sandbox::new();
    let small = "[dir]/small.lstmc";
    sandbox.ok(&[
        "compile",
        TINY,
        "--vocab",
        TINY_WORDS,
        "--passes",
        "quantize(bits=4, method=nearest)",
        "-o",
        small,
    ]);
    let args = ["compare", TINY, small, TINY, "--vocab", TINY_WORDS, "--text", TINY_TEXT];
    let found = sandbox.json(&args);
    let models = found["models"].as_array().unwrap();
    assert_eq!(models.len(), 3);
    let of = |model: usize, field: &str| models[model][field].clone();
    for (model, path) in [(0, TINY), (1, small)] {
        let eval = sandbox.json(&["eval", path, "--vocab", TINY_WORDS, "--text", TINY_TEXT]);
        let inspect = sandbox.json(&["inspect", path]);
        let [want, have] = [&eval["perplexity"], &of(model, "perplexity")].map(|p| p.as_f64().unwrap());
        assert!((want - have).abs() < 1e-4 * want, "{want} {have}");
        assert_eq!(of(model, "bytes"), inspect["bytes"]);
        assert_eq!(found["predicted"].as_u64().unwrap() + 1, eval["tokens"].as_u64().unwrap());
    }
    assert_eq!(of(2, "divergence"), 0.0);
    assert_eq!(of(2, "agreement")["top5"], 1.0);
    assert!(of(1, "divergence").as_f64().unwrap() > 0.0);
    let increase = of(1, "increase");
    let [low, estimate, high] = ["low", "estimate", "high"].map(|end| increase[end].as_f64().unwrap());
    let ratio = of(1, "perplexity").as_f64().unwrap() / of(0, "perplexity").as_f64().unwrap() - 1.0;
    assert!(low <= estimate && estimate <= high && (estimate - ratio).abs() < 1e-9, "{increase}");
    let table = sandbox.ok(&[&args[..], &["--html", "[dir]/page.html"]].concat());
    let page = std::fs::read_to_string(sandbox.path("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("small"), "{page}");
    assert!(table.lines().count() == 5 && table.contains("95% interval"), "{table}");
}

#[test]
fn models_of_other_words_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["compile", TINY, "--vocab", TINY_WORDS, "-o", "[dir]/own.lstmc"]);
    let words = std::fs::read_to_string(crate::program::root().join(TINY_WORDS)).unwrap();
    let mut words: Vec<&str> = words.lines().collect();
    let last = words.len() - 1;
    words.swap(last, last - 1);
    sandbox.file("other.txt", words.join("\n"));
    sandbox.ok(&["compile", TINY, "--vocab", "[dir]/other.txt", "-o", "[dir]/other.lstmc"]);
    let run = sandbox.run(&["compare", "[dir]/own.lstmc", "[dir]/other.lstmc", "--text", TINY_TEXT]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("models are compared on the same words"), "{}", run.stderr);
    let run = sandbox.run(&["compare", TINY, "--text", TINY_TEXT]);
    assert_eq!(run.code, Some(2));
}
