//! Sentences: `eval --sentences`, `score` and `rescore`.

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS, root};
use insta::assert_snapshot;
use std::io::Write;
use std::process::Stdio;

/// Runs a command with a text on standard input.
fn piped(sandbox: &Sandbox, args: &[&str], input: &[u8]) -> crate::program::Run {
    let mut command = sandbox.command(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refuses its options may not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    sandbox.outcome(child.wait_with_output().unwrap())
}

#[test]
fn score_is_eval_by_sentences() {
    let sandbox = Sandbox::new();
    let text = std::fs::read(root().join(TINY_TEXT)).unwrap();
    let model = ["--vocab", TINY_WORDS];
    let run = piped(&sandbox, &[&["score", TINY], &model[..]].concat(), &text);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let scored: Vec<(f64, usize)> = run
        .stdout
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(score, tokens)| (score.parse().unwrap(), tokens.parse().unwrap()))
        .collect();
    let sentences = ["--text", TINY_TEXT, "--sentences", "--per-line", "[dir]/lines.tsv"];
    for engine in ["jit", "interpreter"] {
        let eval = [&["eval", TINY], &model[..], &sentences, &["--engine", engine]].concat();
        let found = sandbox.json(&eval);
        let (sum, tokens) = scored.iter().fold((0.0, 0), |(s, t), (score, n)| (s + score, t + n));
        let perplexity = found["perplexity"].as_f64().unwrap();
        assert!(((-sum / tokens as f64).exp() - perplexity).abs() < 1e-4 * perplexity);
        assert_eq!(found["lines"], scored.len());
        let table = std::fs::read_to_string(sandbox.path("lines.tsv")).unwrap();
        for (line, (score, tokens)) in table.lines().skip(1).zip(&scored) {
            let fields: Vec<f64> = line.split('\t').map(|field| field.parse().unwrap()).collect();
            assert!((fields[2] - score).abs() < 1e-3 && fields[1] == *tokens as f64, "{line}, {score}");
        }
    }
    // What cannot be read ends a stream, after what came before it.
    let cut = piped(&sandbox, &[&["score", TINY], &model[..]].concat(), b"the cat\n\xff\nthe dog\n");
    assert_eq!((cut.code, cut.stdout.lines().count()), (Some(1), 1), "{}", cut.stderr);
    assert!(cut.stderr.contains("line 2 is not UTF-8"), "{}", cut.stderr);
}

#[test]
fn lists_in_every_form_are_rescored_alike() {
    let sandbox = Sandbox::new();
    sandbox
        .file("tabs.tsv", "a\t-1.5\tthe cat sat\na\t-1\tthe cat swam\nb\t-2\tthe dog\na\t-3\tthe cat sat\n");
    sandbox.file("kaldi.text", "a-1 the cat sat\na-2 the cat swam\nb-1 the dog\na-3 the cat sat\n");
    sandbox.file("kaldi.costs", "a-1 1.5\na-2 1\na-3 3\nb-1 2\n");
    for (rank, texts, scores) in [
        (1, "a the cat sat\nb the dog\n", "a tensor(-1.5)\nb tensor(-2.)\n"),
        (2, "a the cat swam\n", "a tensor(-1., dtype=torch.float64)\n"),
        (3, "a the cat sat\n", "a -3\n"),
    ] {
        std::fs::create_dir_all(sandbox.path(&format!("espnet/{rank}best_recog"))).unwrap();
        sandbox.file(&format!("espnet/{rank}best_recog/text"), texts);
        sandbox.file(&format!("espnet/{rank}best_recog/score"), scores);
    }
    let run = |lists: &[&str]| {
        let model = ["--vocab", TINY_WORDS, "--weight", "0.25", "--length-bonus", "0.5", "--all"];
        sandbox.ok(&[&["rescore", TINY], lists, &model[..]].concat())
    };
    let tabs = run(&["[dir]/tabs.tsv"]);
    assert_eq!(run(&["[dir]/kaldi.text", "--scores", "[dir]/kaldi.costs", "--costs"]), tabs);
    assert_eq!(run(&["[dir]/espnet"]), tabs);
    // Rounded, for processors differ in the last digits.
    let rounded = |field: &str| match field.parse::<f64>() {
        Ok(number) => format!("{number:.2}"),
        Err(_) => field.to_owned(),
    };
    let line = |line: &str| line.split('\t').map(rounded).collect::<Vec<_>>().join(" | ");
    assert_snapshot!(tabs.lines().map(line).collect::<Vec<_>>().join("\n"));
    let json = sandbox.json(&["rescore", TINY, "[dir]/tabs.tsv", "--vocab", TINY_WORDS]);
    // `<eos> the cat sat <eos>`, `.. swam <eos>`, `.. dog <eos>`: what is common is computed once.
    assert_eq!((&json["tokens"], &json["tokens_computed"]), (&15.into(), &8.into()));
    sandbox.file("spaces.tsv", "a -1 the cat\n");
    sandbox.file("nan.tsv", "a\tnan\tthe cat\n");
    sandbox.file("empty.tsv", "\n");
    let refused =
        |lists: &[&str]| sandbox.refused(&[&["rescore", TINY, "--vocab", TINY_WORDS], lists].concat());
    let all = [
        refused(&["[dir]/spaces.tsv"]),
        refused(&["[dir]/nan.tsv"]),
        refused(&["[dir]/empty.tsv"]),
        refused(&["[dir]"]),
        refused(&["[dir]/kaldi.text", "--scores", "[dir]/tabs.tsv"]),
    ];
    assert_snapshot!(all.concat());
}

/// The likeliest words that begin with some letters are those of the whole list, filtered: for all prefixes of up to three letters.
#[test]
fn suggestions_that_begin_so_are_the_filtered_list() {
    let data = root().join("testdata/ptb-small");
    let source = lstmc::Source::read(data.join("model.onnx")).unwrap();
    let source = source.with_vocabulary(Some(&data.join("vocab.txt"))).unwrap().canonical().unwrap();
    let model = source.compile(lstmc::backend::Options::default()).unwrap();
    let (mut session, words) = (model.session(), model.vocabulary().unwrap());
    let token = words.id("company").unwrap();
    let (mut all, mut scores) = (vec![0; words.len()], vec![0.0; words.len()]);
    session.top_k_into(token, &mut all, &mut scores).unwrap();
    let letters = |n| move |word: &str| Some(word.chars().take(n).collect::<String>());
    let mut prefixes: Vec<String> = (1..=3).flat_map(|n| words.words().filter_map(letters(n))).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    assert!(prefixes.len() > 1000);
    let place: std::collections::HashMap<u32, usize> =
        all.iter().enumerate().map(|(n, &id)| (id, n)).collect();
    for prefix in prefixes {
        let among = words.with_prefix(&prefix);
        let count = words.words().filter(|word| word.starts_with(&prefix)).count();
        assert_eq!(among.len(), count, "{prefix}");
        let mut want: Vec<usize> = among.iter().map(|id| place[id]).collect();
        want.sort_unstable();
        let (mut ids, mut found) = ([0; 5], [0.0; 5]);
        session.reset();
        let n = session.top_k_among(token, among, &mut ids, &mut found).unwrap();
        assert_eq!(n, count.min(5));
        for (k, &at) in want.iter().take(n).enumerate() {
            assert_eq!(ids[k], all[at], "{prefix}");
            assert!((found[k] - scores[at]).abs() < 1e-5, "{prefix}: {} {}", found[k], scores[at]);
        }
    }
}
