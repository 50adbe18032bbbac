//! What each command prints when all is well, above all the JSON that scripts read.

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS, root};
use insta::assert_snapshot;
use serde_json::Value;

/// The keys of a JSON object.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

#[test]
fn inspect() {
    let sandbox = Sandbox::new();
    sandbox.tiny();
    assert_snapshot!(sandbox.ok(&["inspect", TINY]));
    let onnx = sandbox.json(&["inspect", TINY]);
    let lstmc = sandbox.json(&["inspect", "[dir]/tiny.lstmc"]);
    for found in [&onnx, &lstmc] {
        for key in ["name", "parameters", "bytes", "multiply_adds_per_token", "vocabulary", "weights"] {
            assert!(keys(found).contains(&key), "{key} of {found}");
        }
        let weights = found["weights"].as_array().unwrap();
        let sum: u64 = weights.iter().map(|w| w["bytes"].as_u64().unwrap()).sum();
        assert_eq!(found["bytes"].as_u64(), Some(sum));
        assert_eq!(found["parameters"].as_u64(), Some(sum / 4));
        for weight in weights {
            assert_eq!(keys(weight), ["bytes", "name", "representation", "shape"]);
        }
    }
    assert_eq!(onnx["weights"], lstmc["weights"]);
    assert_eq!(lstmc["recipe"], "canonicalize");
    assert!(lstmc["report"].is_object() || lstmc["report"].is_array());
}

/// `--raw` shows the exporter's graph, `--ir` without it the canonical one.
#[test]
fn inspect_as_text() {
    let sandbox = Sandbox::new();
    let raw = sandbox.ok(&["inspect", TINY, "--raw", "--ir"]);
    let canonical = sandbox.ok(&["inspect", TINY, "--ir"]);
    assert!(raw.contains("onnx.lstm") && !canonical.contains("onnx.lstm"), "{raw}");
    // Weights without data are passed through by what need not look at them.
    sandbox.file("canonical.ir", &canonical);
    assert_eq!(sandbox.ok(&["opt", "[dir]/canonical.ir"]), canonical);
}

#[test]
fn eval() {
    let sandbox = Sandbox::new();
    sandbox.tiny();
    let mut perplexities = vec![];
    for engine in ["jit", "interpreter"] {
        let text = ["--text", TINY_TEXT, "--engine", engine];
        let onnx = sandbox.json(&[&["eval", TINY, "--vocab", TINY_WORDS][..], &text].concat());
        let lstmc = sandbox.json(&[&["eval", "[dir]/tiny.lstmc"][..], &text].concat());
        let all = [
            "bits_per_byte",
            "bits_per_character",
            "lines",
            "perplexity",
            "seconds",
            "tokens",
            "tokens_per_second",
            "unknown",
            "unknown_loss_share",
            "unknown_rate",
            "word_perplexity",
        ];
        assert_eq!(keys(&onnx), all);
        assert_eq!(onnx["perplexity"], lstmc["perplexity"]);
        // 52 words and 5 newlines; `<unk>` written in the text is a known word.
        assert_eq!((&onnx["tokens"], &onnx["unknown"]), (&57.into(), &0.into()));
        assert!(number(&onnx, "tokens_per_second") > 0.0);
        perplexities.push(number(&onnx, "perplexity"));
    }
    assert!((perplexities[0] / perplexities[1] - 1.0).abs() < 1e-5, "{perplexities:?}");
    let people = sandbox.ok(&["eval", "[dir]/tiny.lstmc", "--text", TINY_TEXT]);
    assert!(
        people.starts_with(&format!("perplexity {:.4}\n57 tokens, 0 unknown, ", perplexities[0])),
        "{people}"
    );
}

#[test]
fn bench() {
    let sandbox = Sandbox::new();
    let found = sandbox.json(&["bench", TINY, "--rounds", "2"]);
    for key in [
        "decode_us_per_token",
        "top_k_us_per_token",
        "sequence_us_per_token",
        "weight_bytes_per_token",
        "decode_gb_per_second",
        "kernel_gb_per_second",
        "compile_ms",
    ] {
        assert!(number(&found, key) > 0.0, "{key}");
    }
    assert_eq!(found["threads"], 1);
    assert!(!found["cpu"].as_str().unwrap().is_empty());
    assert!(found.get("roofline").is_none());
    assert!(sandbox.ok(&["bench", TINY, "--rounds", "1"]).contains("GB/s"));
}

#[test]
fn roofline() {
    let sandbox = Sandbox::new();
    let found = sandbox.json(&["bench", TINY, "--rounds", "2", "--roofline", "--plot", "[dir]/a.svg"]);
    let found = &found["roofline"];
    assert!(number(found, "read_gb_per_second") > 0.0);
    let kernels = found["kernels"].as_array().unwrap();
    let names: Vec<&str> = kernels.iter().map(|k| k["name"].as_str().unwrap()).collect();
    assert_eq!(names.first(), Some(&"embedding"));
    assert_eq!(names[names.len() - 2..], ["one step", "a word of a sequence"]);
    for kernel in kernels {
        for key in ["us", "median_us", "limit_us", "fraction"] {
            assert!(number(kernel, key) > 0.0, "{kernel}: {key}");
        }
    }
    let layers = kernels.iter().filter(|k| k["stored"] != "").take(names.len() - 4);
    let bytes: f64 = layers.map(|k| number(k, "bytes")).sum();
    assert_eq!(bytes, number(&kernels[names.len() - 2], "bytes"));
    let figure = std::fs::read_to_string(sandbox.path("a.svg")).unwrap();
    assert!(figure.starts_with("<svg ") && figure.ends_with("</svg>\n"));
    let text = sandbox.ok(&["bench", TINY, "--rounds", "1", "--roofline"]);
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
}

#[test]
fn suggest() {
    let sandbox = Sandbox::new();
    sandbox.tiny();
    let suggest = |k: &str| sandbox.json(&["suggest", "[dir]/tiny.lstmc", "--prompt", "the cat", "-k", k]);
    let all = suggest("4000000000");
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 32, "every word, once");
    let mut tokens: Vec<u64> = all.iter().map(|w| w["token"].as_u64().unwrap()).collect();
    let probabilities: Vec<f64> = all.iter().map(|w| number(w, "probability")).collect();
    assert!(probabilities.is_sorted_by(|a, b| a >= b));
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    for word in all {
        assert_eq!(keys(word), ["log_probability", "probability", "text", "token", "word"]);
        assert!((number(word, "log_probability").exp() - number(word, "probability")).abs() < 1e-6);
    }
    tokens.sort_unstable();
    assert_eq!(tokens, (0..32).collect::<Vec<u64>>());
    assert_eq!(suggest("3").as_array().unwrap()[..], all[..3]);
    assert_snapshot!(sandbox.ok(&["suggest", "[dir]/tiny.lstmc", "--prompt", "the octopus", "-k", "3"]));
}

#[test]
fn generate() {
    let sandbox = Sandbox::new();
    sandbox.tiny();
    let generate = |more: &[&str]| {
        sandbox
            .ok(&[&["generate", "[dir]/tiny.lstmc", "--prompt", "the cat", "--tokens", "30"][..], more]
                .concat())
    };
    let seed = |seed| generate(&["--seed", seed]);
    assert_eq!(seed("1"), seed("1"));
    assert_ne!(seed("1"), seed("2"));
    assert_eq!(
        generate(&["--temperature", "0", "--seed", "1"]),
        generate(&["--temperature", "0", "--seed", "2"])
    );
    assert_eq!(generate(&["--top-k", "1"]), generate(&["--temperature", "0"]));
    let json: Value = serde_json::from_str(&generate(&["--seed", "1", "--json"])).unwrap();
    assert_eq!(keys(&json), ["text", "tokens"]);
    assert_eq!(json["tokens"].as_array().unwrap().len(), 30);
    assert_eq!(json["text"].as_str().unwrap().trim_end(), seed("1").trim_end());
    assert!(seed("1").starts_with("the cat "));
    // Nothing to write.
    assert_eq!(sandbox.ok(&["generate", "[dir]/tiny.lstmc", "--prompt", "the", "--tokens", "0"]), "the\n");
}

#[test]
fn compile() {
    let sandbox = Sandbox::new();
    let vocab = ["compile", TINY, "--vocab", TINY_WORDS, "--name", "pocket"];
    let run = sandbox.run(&[&vocab[..], &["-o", "[dir]/a.lstmc"]].concat());
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""));
    assert!(run.stderr.contains("[dir]/a.lstmc: "), "{}", run.stderr);
    assert_eq!(sandbox.json(&["inspect", "[dir]/a.lstmc"])["name"], "pocket");
    // The same command gives the same file.
    sandbox.ok(&[&vocab[..], &["-o", "[dir]/b.lstmc"]].concat());
    let read = |name| std::fs::read(sandbox.path(name)).unwrap();
    assert_eq!(read("a.lstmc"), read("b.lstmc"));
    // A recipe file is the pipeline that it spells.
    sandbox.file(
        "recipe.toml",
        "[[pass]]\nname = \"canonicalize\"\n\n[[pass]]\nname = \"decode\"\ntarget = \"decoder*\"\n",
    );
    let text = ["--passes", "canonicalize, decode(target=decoder*)", "-o", "[dir]/text.lstmc"];
    sandbox.ok(&[&vocab[..], &text].concat());
    sandbox.ok(&[&vocab[..], &["--recipe", "[dir]/recipe.toml", "-o", "[dir]/recipe.lstmc"]].concat());
    let recipe = |name: &str| sandbox.json(&["inspect", name])["recipe"].clone();
    assert_eq!(recipe("[dir]/text.lstmc"), recipe("[dir]/recipe.lstmc"));
    // Without words, and saying so.
    let run = sandbox.run(&["compile", TINY, "-o", "[dir]/wordless.lstmc"]);
    assert!(run.stderr.contains("note: no vocabulary inside"), "{}", run.stderr);
    let text = ["--text", TINY_TEXT];
    let refused = sandbox.refused(&[&["eval", "[dir]/wordless.lstmc"][..], &text].concat());
    assert!(
        refused.contains("exit 2, error: [dir]/wordless.lstmc: this model brings no vocabulary"),
        "{refused}"
    );
    sandbox.ok(&[&["eval", "[dir]/wordless.lstmc", "--vocab", TINY_WORDS][..], &text].concat());
    // A container goes through more passes, and remembers all of them.
    sandbox.ok(&["compile", "[dir]/a.lstmc", "--passes", "decode", "-o", "[dir]/again.lstmc"]);
    assert_eq!(recipe("[dir]/again.lstmc"), "canonicalize, decode");
}

#[test]
fn listings() {
    let sandbox = Sandbox::new();
    sandbox.tiny();
    for (stage, has) in [("plan", "embedding"), ("clif", "function"), ("asm", "ret")] {
        let onnx = sandbox.ok(&["compile", TINY, "--print", stage]);
        assert!(onnx.contains(has) && onnx.lines().count() > 10, "{stage}:\n{onnx}");
        let lstmc = sandbox.ok(&["compile", "[dir]/tiny.lstmc", "--print", stage]);
        assert_eq!(lstmc.lines().count(), onnx.lines().count(), "{stage}");
    }
    let ir = sandbox.ok(&["compile", TINY, "--print-ir", "after-all", "--passes", "decode(target=decoder)"]);
    assert!(ir.starts_with("// after canonicalize\nmodel \"model\""), "{ir}");
    assert!(ir.contains("\n// after decode(target=decoder)\nmodel"), "{ir}");
    let after =
        sandbox.ok(&["compile", TINY, "--print-ir", "after=decode", "--passes", "decode(target=decoder)"]);
    assert!(ir.ends_with(&after) && after.starts_with("// after decode"), "{after}");
}

/// Every file test of the passes is a graph that `opt` reads, and what `opt` prints it reads again.
#[test]
fn opt() {
    let sandbox = Sandbox::new();
    let text = std::fs::read_to_string(root().join("testdata/passes/decode.ir")).unwrap();
    let file = "testdata/passes/decode.ir";
    let once = sandbox.ok(&["opt", file, "--passes", "decode(target=decoder)", "--inline", "100"]);
    assert_ne!(once, text);
    sandbox.file("once.ir", &once);
    let passes = ["--passes", "decode(target=decoder)", "--inline", "100"];
    assert_eq!(sandbox.ok(&[&["opt", "[dir]/once.ir"][..], &passes].concat()), once);
    let run = sandbox.run(&["opt", file, "--passes", "decode(target=decoder)", "--trail"]);
    assert!(run.stderr.contains("decode"), "{}", run.stderr);
    assert_snapshot!(sandbox.ok(&[
        "opt",
        file,
        "--passes",
        "decode(target=decoder)",
        "--print-ir",
        "after=decode"
    ]));
    // Standard input.
    let mut child = sandbox
        .command(&["opt", "-", "--passes", "canonicalize", "--inline", "100"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), once.as_bytes()).unwrap();
    let run = sandbox.outcome(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), once.as_str()), "{}", run.stderr);
}

#[test]
fn verify() {
    let sandbox = Sandbox::new();
    let all = sandbox.ok(&["verify", "testdata/onnx", "testdata/tiny", "--quiet"]);
    assert!(all.ends_with(" passed, 0 failed\n") && all.lines().count() == 1, "{all}");
    let tiny = sandbox.ok(&["verify", "testdata/tiny", "--engine", "jit"]);
    assert!(tiny.contains("ok    testdata/tiny/dynamo (2 data sets, largest difference "), "{tiny}");
    assert!(tiny.ends_with(" passed, 0 failed\n"), "{tiny}");
    // Valid models that no language model is: those whose operators are known run.
    let one = sandbox.ok(&["verify", "testdata/refused/bidirectional"]);
    assert!(one.ends_with("1 passed, 0 failed\n"), "{one}");
}

/// Each command's help has an example.
#[test]
fn help() {
    let sandbox = Sandbox::new();
    let top = sandbox.ok(&["--help"]);
    for command in [
        "demo",
        "inspect",
        "compile",
        "calibrate",
        "frontier",
        "eval",
        "suggest",
        "generate",
        "bench",
        "export",
        "build",
        "opt",
        "verify",
    ] {
        assert!(top.contains(&format!("\n  {command} ")), "{top}");
        let help = sandbox.ok(&[command, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("\n  lstmc {command}")), "{help}");
    }
    assert!(sandbox.ok(&["--version"]).starts_with("lstmc "));
}

/// `opt` trains on a text as well, in the words of a vocabulary that fits the graph.
#[test]
fn a_graph_in_text_form_is_trained() {
    let sandbox = Sandbox::new();
    sandbox.file("words", "<eos>\na\nb\nc\nd\ne\n");
    sandbox.file("text", "a b c d e\n".repeat(20));
    let file = "testdata/passes/recover-target.ir";
    let train = ["opt", file, "--passes", "recover(batch=4, target=decoder.bias)", "--train", "[dir]/text"];
    let trained = sandbox.ok(&[&train[..], &["--vocab", "[dir]/words"]].concat());
    let before = sandbox.ok(&["opt", file]);
    let changed: Vec<&str> = trained.lines().filter(|line| !before.contains(line)).collect();
    assert!(matches!(changed[..], [line] if line.starts_with("@decoder.bias: ")), "{changed:?}");
    sandbox.file("few", "<eos>\na\n");
    let refused =
        [sandbox.refused(&train), sandbox.refused(&[&train[..], &["--vocab", "[dir]/few"]].concat())];
    assert_snapshot!(refused.concat());
}
