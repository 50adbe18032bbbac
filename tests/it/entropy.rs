//! `lstmc compile --entropy`: another file, the same model.

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS, root};
use lstmc::frontend::ir::CodeFormat;
use lstmc::runtime::{Container, Model};

/// A pipeline for each representation, without calibration; what is stored differs most between them.
const PIPELINES: &[&str] = &[
    "canonicalize",
    "quantize(bits=8)",
    "prune(sparsity=0.7, method=magnitude, resolve=false)",
    "prune(target=decoder, block=4x1, sparsity=0.5, method=magnitude, resolve=false), quantize(bits=8)",
    "low-rank(rank=2), quantize(bits=4, method=nearest)",
    "tensor-train(target=embedding|decoder, rank=2)",
    "tensor-train(target=decoder, rank=2), quantize(bits=8)",
];

/// Every logit of the first tokens, bit for bit.
fn logits(model: &Model, tokens: &[u32]) -> Vec<u32> {
    let mut session = model.session();
    let mut bits = vec![];
    for &token in tokens {
        bits.extend(session.step(token).unwrap().iter().map(|x| x.to_bits()));
    }
    bits
}

/// Compiles with and without `--entropy` and compares all that can be seen of the two. Returns the bytes of the weights, plain and coded.
fn compare(model: &str, words: &str, text: &str, passes: &str) -> (u64, u64) {
    let sandbox = Sandbox::new();
    let compile = ["compile", model, "--vocab", words, "--passes", passes];
    sandbox.ok(&[&compile[..], &["-o", "[dir]/plain.lstmc"]].concat());
    sandbox.ok(&[&compile[..], &["--entropy", "-o", "[dir]/coded.lstmc"]].concat());
    let of_both = |args: &[&str]| {
        ["[dir]/plain.lstmc", "[dir]/coded.lstmc"]
            .map(|file| sandbox.json(&[&args[..1], &[file], &args[1..]].concat()))
    };
    let [plain, coded] = of_both(&["eval", "--text", text]);
    assert_eq!(plain["perplexity"], coded["perplexity"], "{passes}");
    let load = |name: &str| lstmc::load(sandbox.path(name)).unwrap();
    let (plain, coded) = (load("plain.lstmc"), load("coded.lstmc"));
    let text = std::fs::read_to_string(root().join(text)).unwrap();
    let tokens = plain.tokenizer().unwrap().encode(&text).unwrap().tokens;
    let tokens = &tokens[..tokens.len().min(20)];
    assert!(logits(&plain, tokens) == logits(&coded, tokens), "{passes}: other logits");
    // Coding a file afterwards, and what reads a coded file and writes it, come to the same file.
    let whole = std::fs::read(sandbox.path("coded.lstmc")).unwrap();
    let ir = |name: &str| sandbox.ok(&["inspect", name, "--ir"]);
    assert_eq!(ir("[dir]/plain.lstmc"), ir("[dir]/coded.lstmc"), "{passes}");
    lstmc::Source::read(sandbox.path("coded.lstmc")).unwrap().write(sandbox.path("again.lstmc")).unwrap();
    assert!(std::fs::read(sandbox.path("again.lstmc")).unwrap() == whole, "{passes}: written anew");
    let [plain, coded] = of_both(&["inspect"]).map(|found| found["bytes"].as_u64().unwrap());
    let stored = Container::open(sandbox.path("coded.lstmc")).unwrap();
    assert_eq!(stored.tensors().map(|blob| blob.bytes.len() as u64).sum::<u64>(), coded, "{passes}");
    println!("{model}, {passes}: {plain} bytes, entropy-coded {coded}");
    (plain, coded)
}

/// Tensors of a few numbers are not worth a table of frequencies; none grows.
#[test]
fn a_small_model() {
    let codes = CodeFormat::ALL.into_iter().flat_map(|f| {
        ["group=4", "asymmetric=true"].map(|o| format!("quantize(bits={}, method=nearest, {o})", f.bits()))
    });
    for passes in PIPELINES.iter().map(|p| p.to_string()).chain(codes) {
        let (plain, coded) = compare(TINY, TINY_WORDS, TINY_TEXT, &passes);
        assert!(coded <= plain, "{passes}: {coded} of {plain} bytes");
    }
}

#[test]
fn a_real_model() {
    let (model, words) = ("testdata/ptb-small/model.onnx", "testdata/ptb-small/vocab.txt");
    for (passes, at_most) in [
        ("quantize(bits=8)", 0.95),
        ("quantize(bits=3, group=40, method=nearest)", 0.95),
        ("prune(sparsity=0.7, method=magnitude, resolve=false)", 1.0),
        ("low-rank(target=embedding|decoder, rank=16), quantize(bits=4, method=nearest)", 0.95),
        ("tensor-train(target=embedding|decoder, rank=8)", 1.0),
    ] {
        let (plain, coded) = compare(model, words, TINY_TEXT, passes);
        assert!((coded as f64) < at_most * plain as f64, "{passes}: {coded} of {plain} bytes");
    }
}
