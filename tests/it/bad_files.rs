//! Vocabularies and texts that do not fit, and folders where files should be.

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS, root};
use insta::assert_snapshot;

#[test]
fn vocabularies() {
    let sandbox = Sandbox::new();
    let words = std::fs::read_to_string(root().join(TINY_WORDS)).unwrap();
    let lines: Vec<&str> = words.lines().collect();
    sandbox.file("short.txt", lines[..30].join("\n"));
    sandbox.file("long.txt", format!("{words}one\ntwo\n"));
    sandbox.file("twice.txt", words.replace("bird", "cat"));
    sandbox.file("empty.txt", "");
    sandbox.file("blank.txt", words.replace("bird", ""));
    sandbox.file("counts.txt", lines.iter().map(|w| format!("{w} 17\n")).collect::<String>());
    sandbox.file("latin1.txt", b"the\ncaf\xe9\n");
    let mut all = String::new();
    for name in ["short", "long", "twice", "empty", "blank", "counts", "latin1", "missing"] {
        let vocab = format!("[dir]/{name}.txt");
        all += &sandbox.refused(&["compile", TINY, "--vocab", &vocab, "-o", "[dir]/out.lstmc"]);
    }
    assert_snapshot!(all);
    // Every command that takes a vocabulary says the same.
    let message = sandbox.refused(&["inspect", TINY, "--vocab", "[dir]/short.txt"]);
    for command in [
        &["eval", TINY, "--vocab", "[dir]/short.txt", "--text", TINY_TEXT][..],
        &["suggest", TINY, "--vocab", "[dir]/short.txt", "--prompt", "the"],
        &["generate", TINY, "--vocab", "[dir]/short.txt"],
        &["bench", TINY, "--vocab", "[dir]/short.txt", "--rounds", "1"],
    ] {
        let same = sandbox.refused(command);
        assert_eq!(same.split_once("exit").unwrap().1, message.split_once("exit").unwrap().1);
    }
}

#[test]
fn texts() {
    let sandbox = Sandbox::new();
    let words = std::fs::read_to_string(root().join(TINY_WORDS)).unwrap();
    sandbox.file("no-unknown.txt", words.replace("<unk>", "zebra"));
    sandbox.file("no-end.txt", words.replace("<eos>", "zebra").replace("<unk>", "yak"));
    sandbox.file("unknown.txt", "the cat\nthe octopus sat\n");
    sandbox.file("latin1.txt", b"the caf\xe9\n");
    sandbox.file("binary.txt", [0u8, 159, 146, 150]);
    sandbox.file("empty.txt", "");
    sandbox.file("one.txt", "cat");
    sandbox.file("newline.txt", "\n");
    let eval = |vocab: &str, text: &str| {
        sandbox.refused(&["eval", TINY, "--vocab", vocab, "--text", &format!("[dir]/{text}.txt")])
    };
    let mut all = eval("[dir]/no-unknown.txt", "unknown");
    all += &eval("[dir]/no-end.txt", "newline");
    for text in ["latin1", "binary", "empty", "one", "newline", "missing"] {
        all += &eval(TINY_WORDS, text);
    }
    all += &sandbox.refused(&["eval", TINY, "--text", TINY_TEXT]);
    let prompt = ["--vocab", "[dir]/no-unknown.txt", "--prompt", "the octopus"];
    all += &sandbox.refused(&[&["suggest", TINY][..], &prompt].concat());
    all += &sandbox.refused(&[&["generate", TINY][..], &prompt].concat());
    assert_snapshot!(all);
}

/// Two tokens are the fewest that have a perplexity, and unknown words are counted.
#[test]
fn the_shortest_text() {
    let sandbox = Sandbox::new();
    sandbox.file("two.txt", "the octopus");
    for engine in ["jit", "interpreter"] {
        let args = ["eval", TINY, "--vocab", TINY_WORDS, "--text", "[dir]/two.txt", "--engine", engine];
        let found = sandbox.json(&args);
        assert_eq!((&found["tokens"], &found["unknown"]), (&2.into(), &1.into()));
        assert!(found["perplexity"].as_f64().unwrap() > 1.0);
    }
}

#[test]
fn folders_for_files() {
    let sandbox = Sandbox::new();
    let mut all = String::new();
    for args in [
        &["inspect", "[dir]"][..],
        &["compile", "[dir]", "-o", "[dir]/out.lstmc"],
        &["compile", TINY, "--vocab", "[dir]", "-o", "[dir]/out.lstmc"],
        &["compile", TINY, "--recipe", "[dir]", "-o", "[dir]/out.lstmc"],
        &["compile", TINY, "--vocab", TINY_WORDS, "-o", "[dir]"],
        &["eval", "[dir]", "--text", TINY_TEXT],
        &["eval", TINY, "--vocab", TINY_WORDS, "--text", "[dir]"],
        &["opt", "[dir]"],
    ] {
        all += &sandbox.refused(args);
    }
    assert_snapshot!(all);
}

#[test]
fn verify_without_cases() {
    let sandbox = Sandbox::new();
    sandbox.file("file", "");
    std::fs::create_dir(sandbox.path("no-data")).unwrap();
    std::fs::copy(root().join(TINY), sandbox.path("no-data/model.onnx")).unwrap();
    let mut all = String::new();
    for dir in ["[dir]", "[dir]/missing", "[dir]/file"] {
        all += &sandbox.refused(&["verify", dir]);
    }
    let run = sandbox.run(&["verify", "[dir]/no-data"]);
    assert_eq!(run.code, Some(1));
    all += &run.stdout;
    all += &run.stderr;
    assert_snapshot!(all);
}

/// A case whose output is not the model's is a failure, with the first element that differs.
#[test]
fn verify_with_another_output() {
    let sandbox = Sandbox::new();
    let case = root().join("testdata/tiny/dynamo");
    std::fs::create_dir_all(sandbox.path("case/test_data_set_0")).unwrap();
    for file in ["model.onnx", "test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb"] {
        std::fs::copy(case.join(file), sandbox.path("case").join(file)).unwrap();
    }
    for k in [1, 2] {
        let file = format!("test_data_set_0/input_{k}.pb");
        std::fs::copy(case.join(&file), sandbox.path("case").join(&file)).unwrap();
    }
    let output = sandbox.path("case/test_data_set_0/output_0.pb");
    let (name, tensor) = lstmc::frontend::onnx::read_tensor(&output).unwrap();
    let mut values = tensor.to_f32().unwrap().to_vec();
    values[17] += 1.0;
    let tensor = lstmc::frontend::tensor::Tensor::from_f32(tensor.shape(), values).unwrap();
    lstmc::frontend::onnx::write_tensor(&output, &name, &tensor).unwrap();
    for engine in ["interpreter", "jit"] {
        let run = sandbox.run(&["verify", "[dir]/case", "--engine", engine]);
        assert_eq!(run.code, Some(1));
        assert!(run.stdout.contains("FAIL  [dir]/case: test_data_set_0: output logits, element"), "{run:?}");
        assert!(run.stdout.ends_with("0 passed, 1 failed\n"), "{run:?}");
    }
}
