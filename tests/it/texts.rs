//! Trained models of characters and of subwords, from the ONNX file to text.

use crate::program::{Sandbox, root};
use std::path::Path;

/// A folder of `testdata` with `model.onnx`, and how the model reads text.
const CHARACTERS: (&str, &[&str]) =
    ("characters", &["--tokenizer", "characters", "--vocab", "testdata/characters/vocab.txt"]);
const PIECES: (&str, &[&str]) = ("pieces", &["--tokenizer", "testdata/subwords/bpe.model", "--bos", "</s>"]);

/// Bits per character of the first 40 lines of the test text, as ONNX Runtime 1.32 has them, with the tokens of the Python package.
const F32_CHARACTERS: f64 = 1.747506;
const F32_PIECES: f64 = 1.753260;

/// Compiles `model.lstmc` in a new sandbox, which has excerpts of texts, without the blanks that their lines begin and end with.
fn compiled((folder, reading): (&str, &[&str]), passes: &[&str]) -> Sandbox {
    let sandbox = Sandbox::new();
    for (name, lines) in [("test.txt", 40), ("valid.txt", 100)] {
        let text = std::fs::read_to_string(root().join("testdata/ptb-small").join(name)).unwrap();
        let text: String = text.lines().take(lines).map(|line| format!("{}\n", line.trim())).collect();
        sandbox.file(name, text);
    }
    let model = format!("testdata/{folder}/model.onnx");
    sandbox.ok(&[&["compile", &model, "-o", "[dir]/model.lstmc"], reading, passes].concat());
    sandbox
}

/// Tokens, and bits per character and per byte, of which all of the text are ASCII.
fn bits(sandbox: &Sandbox) -> (u64, f64) {
    let found = sandbox.json(&["eval", "[dir]/model.lstmc", "--text", "[dir]/test.txt"]);
    assert_eq!((&found["bits_per_byte"], &found["unknown"]), (&found["bits_per_character"], &0.into()));
    (found["tokens"].as_u64().unwrap(), found["bits_per_character"].as_f64().unwrap())
}

#[test]
fn bits_per_character() {
    for (model, tokens, wanted) in [(CHARACTERS, 4317, F32_CHARACTERS), (PIECES, 1675, F32_PIECES)] {
        let (found_tokens, found) = bits(&compiled(model, &[]));
        assert_eq!(found_tokens, tokens, "{model:?}");
        assert!((found / wanted - 1.0).abs() < 1e-4, "{model:?}: {found}, ONNX Runtime {wanted}");
    }
}

/// Without training, on little text, where the weights of the small models are a fifth of their f32 file.
#[test]
fn four_bits() {
    for (model, wanted) in [(CHARACTERS, F32_CHARACTERS), (PIECES, F32_PIECES)] {
        let passes = ["--passes", "quantize(bits=4, group=16)", "--calibrate", "[dir]/valid.txt"];
        let sandbox = compiled(model, &passes);
        let (_, found) = bits(&sandbox);
        println!("{}: {found} bits per character, {wanted} in f32", model.0);
        assert!((1.0..1.05).contains(&(found / wanted)), "{model:?}: {found}, in f32 {wanted}");
        let length = |path: &Path| path.metadata().unwrap().len();
        let large = length(&root().join(format!("testdata/{}/model.onnx", model.0)));
        assert!(length(&sandbox.path("model.lstmc")) * 9 < large * 2, "{model:?}");
    }
}

#[test]
fn generated_text_is_readable() {
    for model in [CHARACTERS, PIECES] {
        let sandbox = compiled(model, &[]);
        for seed in ["1", "2"] {
            let prompt = "the company said";
            let args = ["generate", "[dir]/model.lstmc", "--prompt", prompt, "--seed", seed];
            let sampling = ["--tokens", "200", "--temperature", "0.5", "--sentence"];
            let text = sandbox.ok(&[&args[..], &sampling].concat());
            let readable = |c: char| c.is_ascii_graphic() || c == ' ';
            assert!(text.starts_with(prompt) && text.trim_end_matches('\n').chars().all(readable), "{text}");
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(words.len() > 5 && words.iter().all(|word| word.len() < 20), "{text}");
        }
    }
}

#[test]
fn suggestions_are_text() {
    let suggest = |model, args: &[&str]| {
        compiled(model, &[]).ok(&[&["suggest", "[dir]/model.lstmc", "-k", "4"], args].concat())
    };
    insta::assert_snapshot!(
        [
            suggest(CHARACTERS, &["--prompt", "the company"]),
            suggest(PIECES, &["--prompt", "the company said\n"]),
            suggest(PIECES, &["--prompt", "the company said"]),
            suggest(PIECES, &["--prompt", "the company", "--prefix", "w"]),
        ]
        .join("\n")
    );
    let json: serde_json::Value =
        serde_json::from_str(&suggest(PIECES, &["--prompt", "the company", "--prefix", "say", "--json"]))
            .unwrap();
    let names = json.as_array().unwrap().iter().map(|found| (&found["word"], &found["text"]));
    insta::assert_debug_snapshot!(names.collect::<Vec<_>>());
}
