//! Ctrl-C while a file is written.
#![cfg(unix)]

use crate::program::{Sandbox, root};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whenever it comes, there is the whole file or none, and no temporary one.
#[test]
fn interrupted_compilation() {
    let sandbox = Sandbox::new();
    let model = root().join("testdata/ptb-small/model.onnx");
    let args = ["compile", model.to_str().unwrap(), "-o", "[dir]/out.lstmc"];
    let started = Instant::now();
    sandbox.ok(&args);
    let usual = started.elapsed();
    let whole = std::fs::read(sandbox.path("out.lstmc")).unwrap();
    for tenths in 2..=10 {
        std::fs::remove_file(sandbox.path("out.lstmc")).ok();
        let child = sandbox.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(usual * tenths / 10 + Duration::from_millis(1));
        Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
        let status = child.wait_with_output().unwrap().status;
        let left: Vec<_> =
            std::fs::read_dir(sandbox.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        match &left[..] {
            [] => assert!(!status.success()),
            [file] if file == "out.lstmc" => {
                assert!(std::fs::read(sandbox.path("out.lstmc")).unwrap() == whole)
            }
            _ => panic!("{left:?} after {status}"),
        }
    }
}
