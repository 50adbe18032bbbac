//! Tokenizers for subwords, from a file into a model and out again.

use crate::program::{Sandbox, TINY, TINY_TEXT};
use insta::assert_snapshot;

/// Not all of those in the text.
const LETTERS: &str = "abdefghilmnorstuwy";

/// A BPE of Hugging Face: letters, a few merges, and special tokens.
fn tokenizer(letters: &str) -> String {
    let letters: Vec<String> = letters.chars().map(String::from).collect();
    let names =
        ["<unk>", "<s>", "</s>", "\u{2581}", "th", "the", "\u{2581}the", "\u{2581}a"].map(String::from);
    let vocabulary: serde_json::Map<_, _> = names
        .iter()
        .chain(&letters)
        .zip(0..)
        .map(|(name, id): (&String, i32)| (name.clone(), id.into()))
        .collect();
    let added = |(id, content): (i32, &str)| {
        serde_json::json!({"id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false})
    };
    let special = [(0, "<unk>"), (1, "<s>"), (2, "</s>")].map(added);
    let metaspace = serde_json::json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    serde_json::json!({
        "added_tokens": special,
        "normalizer": null, "pre_tokenizer": metaspace, "post_processor": null, "decoder": metaspace,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "vocab": vocabulary,
            "merges": [["t", "h"], ["th", "e"], ["\u{2581}", "the"], ["\u{2581}", "a"]]},
    })
    .to_string()
}

#[test]
fn a_model_keeps_its_tokenizer() {
    let sandbox = Sandbox::new();
    sandbox.file("tokenizer.json", tokenizer(LETTERS));
    let compiled =
        sandbox.run(&["compile", TINY, "--tokenizer", "[dir]/tokenizer.json", "-o", "[dir]/tiny.lstmc"]);
    assert!(
        compiled.stderr.contains("the model has 32 tokens, its tokenizer 26: the last 6 are in no text"),
        "{}",
        compiled.stderr
    );
    let inspected = sandbox.json(&["inspect", "[dir]/tiny.lstmc"]);
    assert_eq!(
        inspected["tokenizer"],
        "subwords (Hugging Face BPE, 26 tokens), beginning <s> (1), end </s> (2), unknown <unk> (0)"
    );
    let onnx = ["eval", TINY, "--tokenizer", "[dir]/tokenizer.json", "--text", TINY_TEXT];
    let lstmc = ["eval", "[dir]/tiny.lstmc", "--text", TINY_TEXT];
    for reading in [&[][..], &["--sentences"]] {
        let [onnx, lstmc] = [&onnx[..], &lstmc].map(|args| sandbox.json(&[args, reading].concat()));
        assert_eq!((&onnx["perplexity"], &onnx["unknown"]), (&lstmc["perplexity"], &lstmc["unknown"]));
        assert!(lstmc["unknown"].as_u64() > Some(0) && lstmc["tokens"].as_u64() > Some(100), "{lstmc}");
    }
    let generated = sandbox.ok(&["generate", "[dir]/tiny.lstmc", "--prompt", "the rat", "--tokens", "5"]);
    assert!(generated.starts_with("the rat"), "{generated}");
}

#[test]
fn refused() {
    let sandbox = Sandbox::new();
    sandbox.file("tokenizer.json", tokenizer(LETTERS));
    sandbox.file("large.json", tokenizer("abcdefghijklmnopqrstuvwxyz"));
    sandbox.file("words.txt", "<unk>\n<eos>\n");
    let refused = |args: &[&str]| sandbox.refused(&[&["inspect", TINY][..], args].concat());
    assert_snapshot!(
        [
            refused(&["--tokenizer", "subwords"]),
            refused(&["--tokenizer", "[dir]/words.txt"]),
            refused(&["--tokenizer", "[dir]/tokenizer.json", "--vocab", "testdata/tiny/vocab.txt"]),
            refused(&["--tokenizer", "[dir]/large.json"]),
        ]
        .join("\n")
    );
}
