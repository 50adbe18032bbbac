//! Models as exporters and tools write them: `testdata/exports`, where `expected.json` says what is right for each.

use crate::program::{Sandbox, cases, root};
use lstmc::frontend::testing::check_all;
use serde_json::Value;

fn perplexity(sandbox: &Sandbox, model: &str, text: &str, engine: &str) -> f64 {
    let report = sandbox.ok(&["eval", model, "--text", text, "--engine", engine, "--json"]);
    serde_json::from_str::<Value>(&report).unwrap()["perplexity"].as_f64().unwrap()
}

/// Whether a case gives what is expected: panics if not.
fn check(case: &str, expected: &str) {
    let sandbox = Sandbox::new();
    let folder = format!("testdata/exports/{case}");
    let (model, text) = (format!("{folder}/model.onnx"), format!("{folder}/text.txt"));
    if let ["eval", number, ref options @ ..] = expected.split(' ').collect::<Vec<_>>()[..] {
        let words = format!("{folder}/vocab.txt");
        let eval = [&["eval", &model, "--vocab", &words, "--text", &text][..], options].concat();
        let found = sandbox.json(&eval)["perplexity"].as_f64().unwrap();
        let number: f64 = number.parse().unwrap();
        assert!((found - number).abs() <= 2e-5 * number + 5e-5, "{found}, not {number}");
        return;
    }
    let (vocabulary, out) = (format!("{folder}/vocab.txt"), "[dir]/out.lstmc");
    let mut compile = vec!["compile", &model, "-o", out];
    if root().join(&vocabulary).exists() {
        compile.extend(["--vocab", &vocabulary]);
    }
    let run = sandbox.run(&compile);
    if let Some((_, reason)) = expected.split_once("refuse: ")
        && (expected.starts_with("refuse") || run.code == Some(1))
    {
        assert_eq!(run.code, Some(1), "{}", run.stdout);
        let message = run.stderr.to_lowercase();
        assert!(reason.split('|').any(|word| message.contains(word)), "{}", run.stderr);
        return;
    }
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let words: Vec<&str> = expected.split(' ').collect();
    match words[..] {
        ["verify", ..] => {
            for engine in ["jit", "interpreter"] {
                sandbox.ok(&["verify", "--engine", engine, &folder]);
            }
        }
        ["perplexity", number, ref rest @ ..] => {
            let number: f64 = number.parse().unwrap();
            let within: f64 = rest.get(1).map_or(2e-5, |n| n.parse().unwrap());
            for engine in ["jit", "interpreter"] {
                let found = perplexity(&sandbox, out, &text, engine);
                assert!((found - number).abs() <= within * number + 5e-5, "{engine}: {found}, not {number}");
            }
        }
        ["compile", ..] => {
            if root().join(&text).exists() {
                assert!(perplexity(&sandbox, out, &text, "jit").is_finite());
            }
        }
        _ => panic!("`{expected}` is not known"),
    }
}

#[test]
fn every_export_gives_what_is_right() {
    let expected = std::fs::read_to_string(root().join("testdata/exports/expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    check_all(cases("exports"), |case| check(case, expected[case]["expect"].as_str().unwrap()));
}
