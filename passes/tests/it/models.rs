//! Real exports: what canonicalisation makes of them computes what PyTorch computed, and two exporters' files of one
//! model become the same text.

use lstmc_frontend::canonicalize::{Canonical, canonicalize};
use lstmc_frontend::interpret::Interpreter;
use lstmc_frontend::ir::{Graph, Op, Program, print, verify_language_model};
use lstmc_frontend::onnx;
use lstmc_frontend::tensor::Tensor;
use lstmc_frontend::testing::check_all;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn testdata(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata")).join(name)
}

/// The folders of `testdata/name` that hold a model, sorted.
fn cases(name: &str) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = testdata(name).read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    cases.retain(|p| p.join("model.onnx").exists());
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn case_name(case: &Path) -> &str {
    case.file_name().unwrap().to_str().unwrap()
}

fn canonical(case: &Path) -> Canonical {
    let graph = onnx::read(&case.join("model.onnx")).unwrap();
    let canonical = canonicalize(&graph).unwrap_or_else(|e| panic!("{}: {e}", case.display())).unwrap();
    verify_language_model(&canonical.graph).unwrap();
    Program::of(&canonical.graph).unwrap();
    canonical
}

/// The text under another name: models are named after their files.
fn text(mut graph: Graph) -> String {
    graph.name = "model".into();
    print(&graph)
}

#[test]
fn two_exports_of_one_model_become_the_same_text() {
    let pairs: Vec<PathBuf> =
        cases("tiny").into_iter().filter(|c| case_name(c).ends_with("-torchscript")).collect();
    assert!(pairs.len() > 8);
    check_all(pairs, |case| {
        let other = case_name(case).strip_suffix("-torchscript").unwrap();
        let other = case.with_file_name(other);
        assert_eq!(text(canonical(case).graph), text(canonical(&other).graph));
    });
    let three = ["dynamo", "dynamo-unoptimized", "torchscript"]
        .map(|n| text(canonical(&testdata("tiny").join(n)).graph));
    assert_eq!(three[0], three[1]);
    assert_eq!(three[0], three[2]);
}

#[test]
fn a_canonical_graph_is_left_alone() {
    let graph = canonical(&testdata("tiny").join("dynamo")).graph;
    assert!(canonicalize(&graph).unwrap().is_none());
}

#[test]
fn text_of_a_real_model() {
    insta::assert_snapshot!(text(canonical(&testdata("ptb-small")).graph));
}

#[test]
fn every_form_has_its_notes() {
    let mut lines = vec![];
    for case in cases("tiny") {
        let canonical = canonical(&case);
        let model = Program::of(&canonical.graph).unwrap();
        let (parameters, work) = (model.parameters(), model.multiply_adds());
        lines.push(format!("{}: {parameters} parameters, {work} multiply-adds per token", case_name(&case)));
        lines.extend(canonical.notes.iter().map(|n| format!("  {n}")));
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn models_of_other_kinds_are_refused_by_name() {
    let mut lines = vec![];
    for case in cases("refused") {
        // What does not get as far as a graph is the importer's to test.
        let Ok(graph) = onnx::read(&case.join("model.onnx")) else { continue };
        let found = canonicalize(&graph).map_or_else(|e| e.to_string(), |_| "is not refused".into());
        lines.push(format!("{}: {found}", case_name(&case)));
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn single_operators_are_refused_without_a_panic() {
    check_all(cases("onnx"), |case| {
        if let Ok(graph) = onnx::read(&case.join("model.onnx")) {
            assert!(canonicalize(&graph).is_err());
        }
    });
}

/// The tensors of a data set: inputs or outputs, by name.
fn data_set(folder: &Path, kind: &str) -> BTreeMap<String, Tensor> {
    (0..)
        .map(|k| folder.join(format!("{kind}_{k}.pb")))
        .take_while(|p| p.exists())
        .map(|p| onnx::read_tensor(&p).unwrap())
        .collect()
}

/// `[a, b, ..]` to `[b, a, ..]`.
fn swap_axes(t: &Tensor) -> Tensor {
    let mut perm: Vec<i64> = (0..t.shape().len() as i64).collect();
    perm.swap(0, 1);
    lstmc_frontend::interpret::evaluate(&Op::Transpose { perm }, &[Some(t.clone())]).unwrap().remove(0)
}

/// Layer `k` of a state in whichever of the forms that the test cases have.
fn layer(values: &BTreeMap<String, Tensor>, letter: char, k: usize, next: bool) -> Option<Tensor> {
    let alone = format!("{}state_{k}_{letter}", if next { "new_" } else { "" });
    if let Some(t) = values.get(&alone) {
        return Some(t.clone());
    }
    let stacked = values.get(&format!("{letter}{}", if next { 'n' } else { '0' }))?;
    let [_, streams, hidden] = stacked.shape()[..] else { panic!("a stack of states") };
    let n = streams * hidden;
    let part = stacked.f32s().unwrap()[k * n..(k + 1) * n].to_vec();
    Some(Tensor::from_f32([streams, hidden], part).unwrap())
}

/// What the recorded output says the logits are: they, or what a softmax makes of them.
fn like_recorded(case: &str, logits: &Tensor) -> Tensor {
    let op = if case.starts_with("log-softmax") {
        Op::LogSoftmax { axis: -1, flatten: false }
    } else if case.starts_with("softmax") || case == "keras-like-states" {
        Op::Softmax { axis: -1, flatten: false }
    } else {
        return logits.clone();
    };
    lstmc_frontend::interpret::evaluate(&op, &[Some(logits.clone())]).unwrap().remove(0)
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    // Rounding over some hundred f32 operations on values of order one, in two orders of summation.
    const ABSOLUTE: f32 = 2e-5;
    const RELATIVE: f32 = 1e-4;
    assert_eq!(found.shape(), expected.shape(), "{what}");
    for (f, e) in found.f32s().unwrap().iter().zip(expected.f32s().unwrap()) {
        assert!((f - e).abs() <= ABSOLUTE + RELATIVE * e.abs(), "{what}: {f}, expected {e}");
    }
}

#[test]
fn canonical_graphs_compute_what_pytorch_computed() {
    check_all(cases("tiny"), |case| {
        let name = case_name(case);
        let graph = canonical(case).graph;
        let layers = Program::of(&graph).unwrap().cells().count();
        let batch_first = name.starts_with("batch-first") || name.starts_with("keras");
        let sets = (0..).map(|n| case.join(format!("test_data_set_{n}"))).take_while(|p| p.exists());
        let mut count = 0;
        for set in sets {
            count += 1;
            let (inputs, outputs) = (data_set(&set, "input"), data_set(&set, "output"));
            let tokens = &inputs["tokens"];
            let tokens = if batch_first { swap_axes(tokens) } else { tokens.clone() };
            let mut feeds = vec![("tokens".to_string(), tokens)];
            for (k, letter) in (0..layers).flat_map(|k| [(k, 'h'), (k, 'c')]) {
                feeds.extend(layer(&inputs, letter, k, false).map(|t| (format!("{letter}{k}"), t)));
            }
            let feeds: Vec<(&str, Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
            let results: BTreeMap<String, Tensor> =
                Interpreter::new(&graph).unwrap().run(&feeds).unwrap().into_iter().collect();
            let logits = like_recorded(name, &results["logits"]);
            let logits = if batch_first { swap_axes(&logits) } else { logits };
            let recorded = outputs.get("logits").or(outputs.get("probabilities")).unwrap();
            assert_close(&format!("{name}: logits"), &logits, recorded);
            for (k, letter) in (0..layers).flat_map(|k| [(k, 'h'), (k, 'c')]) {
                if let Some(expected) = layer(&outputs, letter, k, true) {
                    let state = format!("{letter}{k}");
                    assert_close(&format!("{name}: {state}"), &results[&state], &expected);
                }
            }
        }
        assert!(count > 0, "{name} has data");
    });
}
