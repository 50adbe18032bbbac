//! A C program that links the shared library.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the shared library, which `cargo test` does not, and returns its folder.
fn library() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "-p", "lstmc-capi", "--quiet"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    // target/debug/deps/it-...
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_path_buf()
}

fn compile(source: &Path, folder: &Path, program: &Path) -> PathBuf {
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]).arg(source).arg("-I");
    cc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include")).arg("-L").arg(folder);
    cc.args(["-llstmc", "-lm", "-o"]).arg(program).arg(format!("-Wl,-rpath,{}", folder.display()));
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program.to_path_buf()
}

#[test]
fn a_c_program_is_served_and_refused() {
    if !cfg!(target_os = "linux") || Command::new("cc").arg("--version").output().is_err() {
        crate::skipped("a C program: no C compiler, or not Linux");
        return;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = here.join("../../testdata/tiny");
    let dir = tempfile::tempdir().unwrap();
    let (model, broken) = (dir.path().join("tiny.lstmc"), dir.path().join("broken.lstmc"));
    let source = facade::Source::read(data.join("dynamo/model.onnx")).unwrap();
    let source = source.with_vocabulary(Some(&data.join("vocab.txt"))).unwrap().canonical().unwrap();
    source.write(&model).unwrap();
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();

    let folder = library();
    let compiled = |source: &Path, name: &str| compile(source, &folder, &dir.path().join(name));
    let program = compiled(&here.join("tests/c/check.c"), "check");
    let output = Command::new(&program).args([&model, &broken]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sum: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();

    let model = facade::load(&model).unwrap();
    let tokens: Vec<u32> = (0..model.layout().vocabulary as u32).collect();
    let want = model.session().score(&tokens).unwrap();
    assert!((sum / want - 1.0).abs() < 1e-5, "{sum}, expected {want}");

    // The example, on the words of a text: it ends with as many suggestions as it promises.
    let example = compiled(&here.join("../../examples/c/load.c"), "load");
    let text = std::fs::File::open(data.join("text.txt")).unwrap();
    let output = Command::new(&example).arg(dir.path().join("tiny.lstmc")).stdin(text).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.trim().split(" | ").count(), 3, "{printed}");
    let output = Command::new(&example).arg(&broken).output().unwrap();
    assert!(!output.status.success() && output.stderr.len() > 20);
}
