//! A C program that links the shared library.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the shared library, which `cargo test` does not, and returns its folder; or that of `LSTMC_CAPI`, where it is built already.
fn library() -> PathBuf {
    if let Some(folder) = std::env::var_os("LSTMC_CAPI") {
        return folder.into();
    }
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
    let include = [Path::new(env!("CARGO_MANIFEST_DIR")).join("include")];
    compile_all(&[source], &include, folder, "lstmc", program, &[])
}

fn compile_all(
    sources: &[&Path],
    include: &[PathBuf],
    folder: &Path,
    library: &str,
    program: &Path,
    options: &[&str],
) -> PathBuf {
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]).args(options).args(sources);
    include.iter().for_each(|folder| _ = cc.arg("-I").arg(folder));
    cc.arg("-L").arg(folder).arg(format!("-l{library}"));
    cc.args(["-lm", "-o"]).arg(program).arg(format!("-Wl,-rpath,{}", folder.display()));
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program.to_path_buf()
}

/// Whether the C compiler has these options, and what it makes runs.
fn works(options: &[&str], dir: &Path) -> bool {
    let (source, program) = (dir.join("empty.c"), dir.join("empty"));
    std::fs::write(&source, "int main(void) { return 0; }").unwrap();
    let made = Command::new("cc").args(options).arg(&source).arg("-o").arg(&program).output();
    made.is_ok_and(|o| o.status.success()) && Command::new(&program).status().is_ok_and(|s| s.success())
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

    beams(&dir.path().join("tiny.lstmc"), &folder, dir.path());

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

/// Frames of an acoustic model that hears `cat` as often as `mat`, and `sat` twice.
const FRAMES: &str = "the:-0.2 a:-2.4 -:-3\nthe:-1 -:-0.5\n\ncat:-0.9 mat:-0.8 -:-2.5\n-:-0.1 cat:-3\n\
                      sat:-0.3 sang:-1.5 -:-3\n-:-0.2\nsat:-0.6 ran:-1.2 -:-1\n";

/// The beam search, over the library and over a linked model: the same hypotheses, and what they are.
fn beams(model: &Path, library: &Path, dir: &Path) {
    use facade::build::{Config, Emit};
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/beam");
    let source = |name: &str| examples.join(name);
    let built = Config::new(model).name("lm_model").build(&[Emit::StaticLib, Emit::Header]).unwrap();
    for file in &built.files {
        std::fs::write(dir.join(&file.path), &file.bytes).unwrap();
    }
    let include = [Path::new(env!("CARGO_MANIFEST_DIR")).join("include"), dir.to_path_buf()];
    let compiled = |options: &[&str]| {
        [("lm_liblstmc.c", library, "lstmc"), ("lm_linked.c", dir, "lm_model")].map(|(lm, folder, name)| {
            let program = dir.join(format!("beam-{name}{}", options.concat()));
            compile_all(&[&source("beam.c"), &source(lm)], &include, folder, name, &program, options)
        })
    };
    let both = compiled(&[]);
    let run = |program: &Path, options: &[&str], frames: &str| {
        let file = dir.join("frames.txt");
        std::fs::write(&file, frames).unwrap();
        let frames = std::fs::File::open(&file).unwrap();
        let output = Command::new(program).arg(model).args(options).stdin(frames).output().unwrap();
        assert!(output.stderr.len() < 200, "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    for options in [&["8", "0.5", "1"][..], &["8", "0"], &["1", "2"], &["256", "0.1"]] {
        let [loaded, linked] = [&both[0], &both[1]].map(|program| run(program, options, FRAMES));
        assert_eq!(loaded.0, Some(0));
        assert_eq!(loaded, linked, "{options:?}");
        // Without a language model, what was heard best; a word is said twice only after a blank.
        if options == ["8", "0"] {
            let best = loaded.1.lines().next().unwrap();
            assert!(best.ends_with(" the cat sat sat") || best.ends_with(" the mat sat sat"), "{best}");
        }
    }
    for program in &both {
        assert_eq!(run(program, &["0"], FRAMES).0, Some(2));
        assert_eq!(run(program, &["4"], "the:-1 cat\n").0, Some(1));
        assert_eq!(run(program, &["4"], "zebra:-1\n").0, Some(1));
        assert_eq!(run(program, &["4"], "").0, Some(0));
    }
    if works(&["-fsanitize=thread"], dir) {
        for (plain, watched) in both.iter().zip(compiled(&["-fsanitize=thread"])) {
            assert_eq!(run(&watched, &["8", "0.5"], FRAMES), run(plain, &["8", "0.5"], FRAMES));
        }
    } else {
        crate::skipped("the beam search under ThreadSanitizer: it does not work here");
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        crate::skipped("the beam search under valgrind: it is not installed");
        return;
    }
    let file = std::fs::File::open(dir.join("frames.txt")).unwrap();
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=9"]).arg(&both[1]).arg(model).args(["8", "0.5"]).stdin(file);
    let output = valgrind.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
