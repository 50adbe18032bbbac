//! `lstmc frontier`: several pipelines, measured side by side.

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS};
use insta::assert_snapshot;
use serde_json::Value;

const FRONTIER: [&str; 6] = ["frontier", TINY, "--vocab", TINY_WORDS, "--text", TINY_TEXT];

const PIPELINES: &str = "\
# data-free passes
int8: quantize(bits=8)
int4: quantize(bits=4, method=nearest)   # four bits

prune(pattern=2:4, method=magnitude, resolve=false)
rank 4, int8: low-rank(target=embedding|decoder, rank=4), quantize(bits=8)
";

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&FRONTIER[..], more].concat()
}

#[test]
fn a_table_and_a_figure() {
    let sandbox = Sandbox::new();
    sandbox.file("pipelines.txt", PIPELINES);
    let files = ["--pipelines", "[dir]/pipelines.txt", "-o", "[dir]/figure.svg", "--title", "a & b"];
    let run = sandbox.run(&with(&files));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_snapshot!(run.stdout);
    let figure = std::fs::read_to_string(sandbox.path("figure.svg")).unwrap();
    for part in ["<title>a &amp; b</title>", ">int8</text>", ">rank 4, int8</text>", ">prune(pattern=2:4, "] {
        assert!(figure.contains(part), "{part}\n{figure}");
    }
    assert_eq!(figure.matches("<circle").count(), 5);
    // The same command draws the same figure.
    sandbox.ok(&with(&files));
    assert_eq!(std::fs::read_to_string(sandbox.path("figure.svg")).unwrap(), figure);
}

#[test]
fn json() {
    let sandbox = Sandbox::new();
    let passes = ["--passes", "quantize(bits=8)", "--passes", "prune(target=decoder, sparsity=0.5)"];
    let run = sandbox.run(&with(&[&passes[..], &["--json", "--report", "[dir]/report.json"]].concat()));
    // The second needs calibration text; the first is there nevertheless.
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.stderr, "error: 1 of 2 models failed; the reasons are beside them\n");
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    let report = std::fs::read_to_string(sandbox.path("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap(), found);
    let keys: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["calibration", "failed", "model", "points", "text", "validation"]);
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    assert_eq!((&points[0]["pipeline"], &points[0]["ratio"]), (&Value::Null, &1.0.into()));
    let keys: Vec<&String> = points[1].as_object().unwrap().keys().collect();
    let wanted = [
        "bytes",
        "change",
        "frontier",
        "multiply_adds",
        "name",
        "notes",
        "parameters",
        "perplexity",
        "pipeline",
        "ratio",
    ];
    assert_eq!(keys, wanted);
    let failed = &found["failed"][0];
    assert_eq!(failed["pipeline"], "prune(target=decoder, sparsity=0.5)");
    assert!(failed["reason"].as_str().unwrap().contains("this needs calibration text"), "{failed}");
}

/// One collection of statistics serves all: each point is what `lstmc compile` makes of the same text.
#[test]
fn points_are_what_compile_makes() {
    let sandbox = Sandbox::new();
    let pipelines = [
        "quantize(bits=3, group=4)",
        "low-rank(rank=3), quantize(bits=4, sequential=true)",
        "prune(target=decoder|lstm*, sparsity=0.5)",
    ];
    let mut args = with(&["--calibrate", TINY_TEXT]);
    pipelines.iter().for_each(|p| args.extend(["--passes", *p]));
    let found = sandbox.json(&args);
    let stats = ["calibrate", TINY, "--vocab", TINY_WORDS, "--text", TINY_TEXT, "-o", "[dir]/stats"];
    sandbox.ok(&stats);
    for passes in pipelines {
        let compile = ["compile", TINY, "--vocab", TINY_WORDS, "--calibrate", TINY_TEXT, "--passes", passes];
        sandbox.ok(&[&compile[..], &["-o", "[dir]/one.lstmc"]].concat());
        let eval = sandbox.json(&["eval", "[dir]/one.lstmc", "--text", TINY_TEXT]);
        let inspect = sandbox.json(&["inspect", "[dir]/one.lstmc"]);
        let point = found["points"].as_array().unwrap().iter().find(|p| p["pipeline"] == passes).unwrap();
        assert_eq!(point["perplexity"], eval["perplexity"], "{passes}");
        assert_eq!(point["bytes"], inspect["bytes"], "{passes}");
    }
    // Statistics from a file do as well, but for what collects them anew.
    let args: Vec<&str> = args.iter().map(|&a| if a == TINY_TEXT { "[dir]/stats" } else { a }).collect();
    let args = [&FRONTIER[..], &args[FRONTIER.len()..]].concat();
    let run = sandbox.run(&args);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("the statistics were read from a file"), "{}", run.stdout);
}

/// `--entropy` counts what `compile --entropy` writes.
#[test]
fn entropy_coded_bytes() {
    let sandbox = Sandbox::new();
    let model = "testdata/ptb-small/model.onnx";
    let vocab = ["--vocab", "testdata/ptb-small/vocab.txt"];
    let passes = ["--passes", "quantize(bits=8)"];
    let frontier = [&["frontier", model, "--text", TINY_TEXT, "--entropy"], &vocab[..], &passes].concat();
    let found = sandbox.json(&frontier);
    sandbox.ok(&[&["compile", model, "--entropy", "-o", "[dir]/coded.lstmc"], &vocab[..], &passes].concat());
    let coded = sandbox.json(&["inspect", "[dir]/coded.lstmc"]);
    assert_eq!(found["points"][1]["bytes"], coded["bytes"]);
}

/// A finished model is the point that its pipeline would be.
#[test]
fn finished_models_beside_pipelines() {
    let sandbox = Sandbox::new();
    let passes = ["--passes", "quantize(bits=4, method=nearest)"];
    sandbox.ok(&[&["compile", TINY, "--vocab", TINY_WORDS, "-o", "[dir]/four.lstmc"], &passes[..]].concat());
    let both = sandbox.json(&with(&[&passes[..], &["--beside", "[dir]/four.lstmc"]].concat()));
    let [_, made, read] = &both["points"].as_array().unwrap()[..] else { panic!("{both}") };
    assert_eq!(read["name"], "four");
    assert_eq!(read["pipeline"], "canonicalize, quantize(bits=4, method=nearest)");
    for field in ["bytes", "perplexity", "ratio", "frontier"] {
        assert_eq!(made[field], read[field], "{field}");
    }
    let alone = sandbox.json(&with(&["--beside", "[dir]/four.lstmc"]));
    assert_eq!(alone["points"][1], both["points"][2]);
}

#[test]
fn refused() {
    let sandbox = Sandbox::new();
    sandbox.file("empty.txt", "# nothing\n\n");
    sandbox.file("wrong.txt", "int8: quantize(bits=8)\nint5: quantise(bits=5)\n");
    sandbox.file("nameless.txt", ": quantize(bits=8)\n");
    let int8 = ["--passes", "quantize(bits=8)"];
    let mut words: Vec<String> = (0..32).map(|n| format!("word{n}")).collect();
    words[0] = "<eos>".into();
    words[1] = "<unk>".into();
    sandbox.file("words.txt", words.join("\n") + "\n");
    sandbox.ok(&["compile", TINY, "--vocab", "[dir]/words.txt", "-o", "[dir]/other.lstmc"]);
    let mut all = String::new();
    for more in [
        &[][..],
        &["--passes", "quantize(bits=8), prume"],
        &["--passes", ""],
        &["--pipelines", "[dir]/missing.txt"],
        &["--pipelines", "[dir]/empty.txt"],
        &["--pipelines", "[dir]/wrong.txt"],
        &["--pipelines", "[dir]/nameless.txt"],
        &[&int8[..], &["-o", "[dir]/missing/figure.svg"]].concat(),
        &[&int8[..], &["-o", "[dir]"]].concat(),
        &[&int8[..], &["--calibrate", "[dir]/missing.txt"]].concat(),
        &["--beside", "[dir]/missing.lstmc"],
        &["--beside", "[dir]/other.lstmc"],
    ] {
        all += &sandbox.refused(&with(more));
    }
    all += &sandbox.refused(&[&["frontier", TINY], &int8[..]].concat());
    all += &sandbox.refused(&[&["frontier", TINY, "--text", TINY_TEXT], &int8[..]].concat());
    assert_snapshot!(all);
}
