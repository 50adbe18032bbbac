//! Training that is stopped: by a crash, and by Ctrl-C.
#![cfg(unix)]

use crate::program::{Sandbox, TINY, TINY_TEXT, TINY_WORDS, interrupt};
use lstmc::backend::Level;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Longer than any of these runs takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Far longer than a test.
const ENDLESS: &str = "recover(epochs=1000, batch=4, bptt=1)";

/// Trains the tiny model, with more arguments.
fn train<'a>(passes: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let texts = ["--vocab", TINY_WORDS, "--train", TINY_TEXT, "--validate", TINY_TEXT];
    [&["compile", TINY, "--passes", passes, "-o", "[dir]/out.lstmc"], &texts[..], more].concat()
}

/// Starts a run, and waits until it has written its checkpoint.
fn started(sandbox: &Sandbox, args: &[&str]) -> Child {
    let child = sandbox.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !sandbox.path("run").exists() {
        assert!(begun.elapsed() < PATIENCE, "no checkpoint is written");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn a_run_that_is_killed_and_resumed_ends_like_one_that_is_not() {
    let sandbox = Sandbox::new();
    let passes = "recover(epochs=30, batch=4, bptt=4, optimizer=adamw, lr=0.01), quantize(bits=8, method=nearest), \
                  recover(epochs=15, batch=4, bptt=4, dropout=0.1)";
    // What is printed has a hash of each weight.
    let arguments = |more: &[&'static str]| train(passes, &[&["--print-ir", "after-all"], more].concat());
    let begun = Instant::now();
    let whole = sandbox.ok(&arguments(&[]));
    let usual = begun.elapsed();
    for quarters in 0..4 {
        std::fs::remove_file(sandbox.path("run")).ok();
        let mut child = started(&sandbox, &arguments(&["--checkpoint", "[dir]/run"]));
        std::thread::sleep(usual * quarters / 4);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(sandbox.ok(&arguments(&["--checkpoint", "[dir]/run", "--resume"])), whole);
    }
}

/// The first Ctrl-C keeps the best so far, and what follows in the pipeline goes on.
#[test]
fn ctrl_c_keeps_the_best_so_far() {
    let sandbox = Sandbox::new();
    let passes = format!("{ENDLESS}, quantize(bits=8, method=nearest)");
    let child = started(&sandbox, &train(&passes, &["--checkpoint", "[dir]/run"]));
    interrupt(&child);
    let run = sandbox.outcome(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("stopping the training"), "{}", run.stderr);
    assert!(run.stderr.contains("interrupted after window"), "{}", run.stderr);
    assert!(sandbox.ok(&["inspect", "[dir]/out.lstmc", "--ir"]).contains("int8"));
}

/// A second one ends the program.
#[test]
fn ctrl_c_twice_ends_the_program() {
    let sandbox = Sandbox::new();
    let mut child = started(&sandbox, &train(ENDLESS, &["--checkpoint", "[dir]/run"]));
    while child.try_wait().unwrap().is_none() {
        interrupt(&child);
    }
    assert_eq!(sandbox.outcome(child.wait_with_output().unwrap()).code, Some(130));
    assert!(!sandbox.path("out.lstmc").exists());
}

/// Training does not depend on the processor level, and the perplexities that watch it differ by rounding only.
#[test]
fn training_at_every_level() {
    let passes =
        "recover(epochs=3, batch=4, bptt=4, optimizer=adamw, lr=0.01), quantize(bits=8, method=nearest)";
    let run = |level: Level| {
        let sandbox = Sandbox::new();
        sandbox.ok(&train(passes, &["--cpu", level.name()]));
        let eval = ["eval", "[dir]/out.lstmc", "--text", TINY_TEXT, "--cpu", level.name()];
        let perplexity = sandbox.json(&eval)["perplexity"].as_f64().unwrap();
        (sandbox.ok(&["inspect", "[dir]/out.lstmc", "--ir"]), perplexity)
    };
    let (graph, perplexity) = run(Level::best());
    for level in Level::all() {
        let (found, other) = run(level);
        assert_eq!(found, graph, "{level}");
        assert!((other / perplexity - 1.0).abs() < 1e-3, "{level}: {other}, not {perplexity}");
    }
}

#[test]
fn checkpoints_that_do_not_fit() {
    let sandbox = Sandbox::new();
    let resume = ["--checkpoint", "[dir]/run", "--resume"];
    let mut errors = vec![
        sandbox.refused(&["compile", TINY, "--resume", "-o", "[dir]/out.lstmc"]),
        sandbox.refused(&train("recover(batch=4)", &["--checkpoint", "[dir]"])),
        sandbox.refused(&train("recover(batch=4)", &resume)),
    ];
    sandbox.file("run", "not a checkpoint");
    errors.push(sandbox.refused(&train("recover(batch=4)", &resume)));
    sandbox.ok(&train("recover(batch=4)", &["--checkpoint", "[dir]/run"]));
    errors.push(sandbox.refused(&train("recover(batch=5)", &resume)));
    insta::assert_snapshot!(errors.concat());
}
