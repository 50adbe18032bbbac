//! One model, one text: whatever exporter wrote it, and however often it is printed and parsed.

use crate::program::{cases, root};
use lstmc::Source;
use lstmc::frontend::canonicalize::canonicalize;
use lstmc::frontend::ir::{Graph, Op, parse, print, verify};
use lstmc::frontend::onnx;
use lstmc::frontend::testing::check_all;
use std::path::Path;

/// A model's canonical text, under one name for all.
fn canonical(path: &Path) -> String {
    let mut source =
        Source::read(path).unwrap_or_else(|e| panic!("{e}")).canonical().unwrap_or_else(|e| panic!("{e}"));
    source.graph.name = "model".into();
    print(&source.graph)
}

/// The two PyTorch exporters write different graphs for the same model, which are the same to us.
#[test]
fn exporters_agree() {
    let model = |case: &str| root().join("testdata/tiny").join(case).join("model.onnx");
    let names = cases("tiny");
    let mut pairs = vec![
        ("dynamo".to_string(), "torchscript".to_string()),
        ("dynamo".into(), "dynamo-unoptimized".into()),
    ];
    for name in &names {
        if let Some(other) = name.strip_suffix("-torchscript").filter(|n| names.iter().any(|m| m == n)) {
            pairs.push((other.into(), name.clone()));
        }
    }
    assert!(pairs.len() >= 10, "{pairs:?}");
    check_all(pairs, |(one, other)| assert_eq!(canonical(&model(one)), canonical(&model(other))));
}

/// The same for a real model, where both exports are at hand: in the folder `LSTMC_MODELS`, or `../shared/models`.
#[test]
fn exporters_agree_on_a_real_model() {
    let folder = std::env::var_os("LSTMC_MODELS").map_or_else(|| root().join("../shared/models"), Into::into);
    let other = folder.join("ptb-small-torchscript.onnx");
    if !other.is_file() {
        eprintln!("skipped: {} is not there; name its folder in LSTMC_MODELS", other.display());
        return;
    }
    assert_eq!(canonical(&root().join("testdata/ptb-small/model.onnx")), canonical(&other));
}

/// Loops over the time steps become states, and what their bodies compute becomes cells, whether the loop is a node or was unrolled.
#[test]
fn loops_become_cells() {
    let cases = [
        ("loop-concat", "embedding rnn linear"),
        ("loop-layer", "embedding lstm linear"),
        ("loop-scatter", "embedding rnn linear"),
        ("loop-while", "embedding lstm linear"),
        ("scan-batch-major", "embedding sigmoid mul lstm linear"),
        ("scan-tokens", "embedding mul add rnn linear"),
        ("unrolled-layers", "embedding rnn rnn linear"),
    ];
    check_all(cases, |(case, layers)| {
        let path = root().join("testdata/exports").join(case).join("model.onnx");
        let graph = parse(&canonical(&path)).unwrap_or_else(|e| panic!("{e}"));
        let found = graph.nodes().map(|(_, n)| n.op.name()).filter(|name| !["input", "state"].contains(name));
        assert_eq!(found.collect::<Vec<_>>().join(" "), *layers);
    });
}

fn round_trip(graph: &Graph) {
    let text = print(graph);
    let parsed = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(print(&parsed), text);
}

/// Print, parse, print is the identity, for graphs as imported, which are valid, and in language-model form.
#[test]
fn text_is_read_back() {
    let mut models: Vec<_> = ["tiny", "onnx", "refused"]
        .into_iter()
        .flat_map(|folder| {
            cases(folder).into_iter().map(move |case| format!("testdata/{folder}/{case}/model.onnx"))
        })
        .collect();
    models.push("testdata/ptb-small/model.onnx".into());
    let (mut raw, mut language_models) = (0, 0);
    check_all(models, |model| {
        // Cases whose axes are inputs, and damaged files, cannot be imported.
        let Ok(graph) = onnx::read(&root().join(model)) else { return };
        verify(&graph).unwrap_or_else(|e| panic!("{e}"));
        // The text of a loop does not hold its body.
        if !graph.nodes().any(|(_, n)| matches!(n.op, Op::Loop(_) | Op::Scan(_))) {
            round_trip(&graph);
        }
        raw += 1;
        if let Ok(Some(canonical)) = canonicalize(&graph) {
            round_trip(&canonical.graph);
            language_models += 1;
        }
    });
    assert!(raw > 150 && language_models > 25, "{raw} graphs, {language_models} language models");
}
