//! Ctrl-C while a model is compiled, and while its file is written.
#![cfg(unix)]

use crate::program::{Sandbox, interrupt, root};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

/// What the program exits with after Ctrl-C.
const INTERRUPTED: Option<i32> = Some(130);

/// Runs in which the temporary file may go unseen; one is the rule.
const TRIES: usize = 100;

fn model() -> String {
    root().join("testdata/ptb-small/model.onnx").to_str().unwrap().into()
}

fn started(sandbox: &Sandbox, args: &[&str]) -> Child {
    sandbox.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The names of the sandbox's files.
fn files(sandbox: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.path("")).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Ctrl-C ends the program at once, and nothing is left. What is computed is measured by the interpreter, which takes seconds after each
/// pass but the first; the program prints a line when a pass is done, and is interrupted then.
#[test]
fn interrupted_passes() {
    let (model, data) = (model(), root().join("testdata/ptb-small"));
    let [words, text] = ["vocab.txt", "test.txt"].map(|f| data.join(f).to_str().unwrap().to_string());
    let passes = "quantize(target=embedding, bits=8, method=nearest), quantize(target=decoder, bits=8, method=nearest)";
    let args = [
        &["compile", &model, "--vocab", &words, "--validate", &text, "--engine", "interpreter"][..],
        &["--passes", passes, "--print-ir", "after-all", "-o", "[dir]/out.lstmc"],
    ];
    for done in ["// after canonicalize", "// after quantize(target=embedding"] {
        let sandbox = Sandbox::new();
        let mut child = started(&sandbox, &args.concat());
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with(done) {
            line.clear();
            let read = lines.read_line(&mut line).unwrap();
            assert!(read > 0, "the program ends without a line that starts with `{done}`");
        }
        interrupt(&child);
        // Whatever it still prints must not keep it waiting.
        lines.read_to_end(&mut vec![]).unwrap();
        let run = sandbox.outcome(child.wait_with_output().unwrap());
        assert_eq!(run.code, INTERRUPTED, "after `{done}`: {}", run.stderr);
        assert_eq!(files(&sandbox), [""; 0], "after `{done}`");
    }
}

/// Ctrl-C while there is a temporary file waits until it is whole and has its name. Whether the program then ends by it or has nothing left to
/// do but to print is a race.
#[test]
fn interrupted_writing() {
    let model = model();
    let args = ["compile", &model, "-o", "[dir]/out.lstmc"];
    let sandbox = Sandbox::new();
    sandbox.ok(&args);
    let whole = std::fs::read(sandbox.path("out.lstmc")).unwrap();
    let caught = (0..TRIES).any(|_| {
        let sandbox = Sandbox::new();
        let mut child = started(&sandbox, &args);
        // A shell that waits for a line: to start a program would take as long as the writing.
        let kill = format!("read line && kill -INT {}", child.id());
        let mut shell = Command::new("sh").args(["-c", &kill]).stdin(Stdio::piped()).spawn().unwrap();
        let mut caught = false;
        while !caught && child.try_wait().unwrap().is_none() {
            caught = files(&sandbox).iter().any(|f| f.starts_with(".lstmc-"));
        }
        // The end of its input, where there was no file.
        let mut line = shell.stdin.take().unwrap();
        if caught {
            line.write_all(b"\n").unwrap();
        }
        drop(line);
        assert_eq!(shell.wait().unwrap().success(), caught);
        let run = sandbox.outcome(child.wait_with_output().unwrap());
        assert!([Some(0), INTERRUPTED].contains(&run.code), "{run:?}");
        assert_eq!(files(&sandbox), ["out.lstmc"], "{run:?}");
        assert!(std::fs::read(sandbox.path("out.lstmc")).unwrap() == whole);
        caught
    });
    assert!(caught, "no temporary file was seen in {TRIES} runs");
}
