//! Outputs that cannot be written.

use crate::program::{Sandbox, TINY, TINY_WORDS};
use insta::assert_snapshot;
use std::process::Stdio;

fn compile(output: &str) -> [&str; 6] {
    ["compile", TINY, "--vocab", TINY_WORDS, "-o", output]
}

#[test]
fn outputs() {
    let sandbox = Sandbox::new();
    sandbox.file("file", "contents");
    let mut all = String::new();
    for output in ["[dir]/missing/out.lstmc", "[dir]", "[dir]/file/out.lstmc", ""] {
        all += &sandbox.refused(&compile(output));
    }
    assert_snapshot!(all);
}

/// Whoever runs the tests: nobody can create a file in `/proc`, nor replace a device.
#[cfg(target_os = "linux")]
#[test]
fn outputs_that_the_system_refuses() {
    let sandbox = Sandbox::new();
    let mut all = String::new();
    for output in ["/proc/out.lstmc", "/dev/null"] {
        all += &sandbox.refused(&compile(output));
    }
    assert_snapshot!(all);
}

/// A file that is there is replaced by success only.
#[test]
fn an_old_file_survives_a_failure() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("out.lstmc", "old");
    sandbox.refused(&["compile", "testdata/refused/reverse/model.onnx", "-o", "[dir]/out.lstmc"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    sandbox.ok(&compile("[dir]/out.lstmc"));
    assert!(lstmc::load(path).is_ok());
}

/// `lstmc inspect MODEL | head -1`: a reader that goes away ends the program quietly.
#[cfg(unix)]
#[test]
fn closed_pipes() {
    let sandbox = Sandbox::new();
    sandbox.tiny();
    let ptb = "testdata/ptb-small/model.onnx";
    for args in [
        &["inspect", TINY][..],
        &["inspect", TINY, "--json"],
        &["inspect", TINY, "--ir"],
        &["inspect", "testdata/refused/reverse/../bidirectional/model.onnx"],
        &["compile", TINY, "--print-ir", "after-all"],
        &["compile", TINY, "--print", "asm"],
        &["eval", "[dir]/tiny.lstmc", "--text", "testdata/tiny/text.txt"],
        &["suggest", "[dir]/tiny.lstmc", "--prompt", "the", "-k", "32"],
        &["generate", "[dir]/tiny.lstmc", "--tokens", "100000"],
        &["verify", "testdata/tiny/dynamo"],
        &["inspect", ptb],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = sandbox.command(args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let run = sandbox.outcome(child.wait_with_output().unwrap());
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "lstmc {}", args.join(" "));
    }
}

/// A full disk is an error, not a success.
#[cfg(target_os = "linux")]
#[test]
fn full_devices() {
    let sandbox = Sandbox::new();
    for args in [&["inspect", TINY][..], &["inspect", TINY, "--json"], &["compile", TINY, "--print", "plan"]]
    {
        let full = std::fs::File::create("/dev/full").unwrap();
        let child = sandbox.command(args).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let run = sandbox.outcome(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(1), "lstmc {}: {}", args.join(" "), run.stderr);
        assert!(run.stderr.contains("No space left"), "{}", run.stderr);
    }
}
