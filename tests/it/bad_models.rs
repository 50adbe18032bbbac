//! Models that are refused: of the wrong kind, damaged, hostile.

use crate::program::{Sandbox, TINY, TINY_WORDS, cases, root};
use insta::assert_snapshot;
use lstmc::frontend::ir::print;
use lstmc::frontend::onnx;
use lstmc::frontend::testing::check_all;

/// Every model of `testdata/refused`: `compile` says why, and `inspect` says the same, as an error or as a remark on a model that it
/// can show.
#[test]
fn refused_models() {
    let sandbox = Sandbox::new();
    let mut all = String::new();
    check_all(cases("refused"), |case| {
        let model = format!("testdata/refused/{case}/model.onnx");
        let compile = sandbox.refused(&["compile", &model, "--vocab", TINY_WORDS, "-o", "[dir]/out.lstmc"]);
        let message = compile.split_once("error: ").unwrap().1.trim_end();
        let message = message.strip_prefix("pass 1, canonicalize: ").unwrap_or(message);
        let code = &compile.split_once("exit ").unwrap().1[..1];
        assert_eq!(code, "1", "{compile}");
        let inspect = sandbox.run(&["inspect", &model]);
        let shown = match inspect.code {
            Some(0) => {
                let reason = inspect.stdout.split_once("not a language model that can be compiled: ");
                let reason = reason.unwrap_or_else(|| panic!("{case}: no reason in\n{}", inspect.stdout)).1;
                assert!(reason.starts_with(message), "{case}: {reason}");
                "can be inspected"
            }
            _ => {
                assert_eq!(inspect.stderr, format!("error: {message}\n"));
                "cannot be inspected"
            }
        };
        all += &format!("{case}, {shown}:\n{message}\n\n");
    });
    assert_snapshot!(all);
}

/// A model's file cut off after any number of bytes is refused, or is the same model where only metadata went.
#[test]
fn truncated_models() {
    let bytes = std::fs::read(root().join(TINY)).unwrap();
    let import = |bytes: &[u8]| onnx::import(bytes.to_vec().into(), None, "model");
    let whole = print(&import(&bytes).unwrap());
    let mut refused = 0;
    for length in 0..bytes.len() {
        match import(&bytes[..length]) {
            Ok(graph) => assert_eq!(print(&graph), whole, "cut off after {length} bytes"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > bytes.len() * 9 / 10);

    let sandbox = Sandbox::new();
    let mut all = String::new();
    for length in [1, 20, bytes.len() / 2, bytes.len() - 100] {
        sandbox.file("cut.onnx", &bytes[..length]);
        all +=
            &sandbox.refused(&["compile", "[dir]/cut.onnx", "--vocab", TINY_WORDS, "-o", "[dir]/out.lstmc"]);
    }
    assert_snapshot!(all);
}

/// A model's file with any byte changed gives an error or some model, never a panic.
#[test]
fn damaged_models() {
    let bytes = std::fs::read(root().join(TINY)).unwrap();
    for (n, mask) in (0..bytes.len()).zip([0x01, 0x80, 0xff, 0x10].into_iter().cycle()) {
        let mut damaged = bytes.clone();
        damaged[n] ^= mask;
        if let Ok(graph) = onnx::import(damaged.into(), None, "model") {
            let _ = lstmc::frontend::canonicalize::canonicalize(&graph);
        }
    }
}

#[test]
fn what_is_no_model() {
    let sandbox = Sandbox::new();
    sandbox.file("empty", "");
    sandbox.file("text.txt", "the cat sat on the mat\n");
    sandbox.file("zip.pt", b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl");
    sandbox.file("ones", [0xff; 100]);
    let mut all = String::new();
    for model in ["[dir]/empty", "[dir]/text.txt", "[dir]/zip.pt", "[dir]/ones", "[dir]/missing", "[dir]"] {
        for command in [&["inspect"][..], &["compile", "-o", "[dir]/out.lstmc"]] {
            all += &sandbox.refused(&[command, &[model]].concat());
        }
    }
    assert_snapshot!(all);
}
