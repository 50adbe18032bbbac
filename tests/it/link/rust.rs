//! The generated crate, an application with it, and the helper for build scripts.

use super::tools::{done, has, skipped};
use crate::program::{Sandbox, root};
use lstmc::backend::object::Target;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

/// What a program prints after words on standard input.
fn answer(command: &mut Command, words: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Words that the tiny model's vocabulary has, and what `lstmc suggest` finds after them, as the examples print it.
fn prompt(sandbox: &Sandbox) -> (String, String) {
    let text = fs::read_to_string(root().join(crate::program::TINY_TEXT)).unwrap();
    let words = text.lines().next().unwrap().to_string();
    let found = sandbox.json(&["suggest", "[dir]/tiny.lstmc", "--prompt", &words, "-k", "3"]);
    let found: Vec<_> = found.as_array().unwrap().iter().map(|s| s["word"].as_str().unwrap()).collect();
    (words.clone(), format!("{}\n", found.join(" | ")))
}

#[test]
fn the_generated_crate_builds_as_it_is_and_serves_an_application() {
    let Some(host) = Target::host() else {
        skipped("no objects are made for this machine");
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.tiny();
    let target = ["--name", "keyboard", "--target", host, "--emit", "rust", "-o", "[dir]/target/crates"];
    sandbox.ok(&[&["build", "[dir]/tiny.lstmc"], &target[..]].concat());
    let cargo = |folder: &str, verb: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(verb).args(["--offline", "--quiet"]).current_dir(sandbox.path(folder));
        command.env("CARGO_TARGET_DIR", sandbox.path("build")).env_remove("RUSTFLAGS");
        command
    };
    done(&mut cargo("target/crates/keyboard", &["build"]));
    let library = fs::read_to_string(sandbox.path("target/crates/keyboard/src/lib.rs")).unwrap();
    assert!(library.contains("#![no_std]"));
    if has("cargo-clippy", "lints of the generated crate") {
        done(cargo("target/crates/keyboard", &["clippy"]).args(["--", "-D", "warnings"]));
    }

    fs::create_dir_all(sandbox.path("examples/rust-linked/src")).unwrap();
    for file in ["Cargo.toml", "src/main.rs"] {
        let file = format!("examples/rust-linked/{file}");
        fs::copy(root().join(&file), sandbox.path(&file)).unwrap();
    }
    let (words, wanted) = prompt(&sandbox);
    assert_eq!(answer(&mut cargo("examples/rust-linked", &["run"]), &words), wanted);
}

const APP: &str = r#"
mod model { include!(concat!(env!("OUT_DIR"), "/tiny.rs")); }
use model::{Error, Model, State};

fn main() {
    let text = std::io::read_to_string(std::io::stdin()).unwrap();
    let mut last = Model::token("<eos>").unwrap();
    let mut state = State::new();
    for word in text.split_whitespace() {
        state.advance(last).unwrap();
        last = Model::token(word).unwrap();
    }
    let words = Model::VOCABULARY as u32;
    assert_eq!((state.advance(words), Model::word(words), Model::token("no such word")), (Err(Error::Token), None, None));
    assert_eq!(state.step(0, &mut [0.0; 2]), Err(Error::Size));
    assert!(Model::info().starts_with('{') && Model::info().ends_with('}'));
    let mut logits = [0.0; Model::VOCABULARY];
    state.clone().step(last, &mut logits).unwrap();
    let (mut ids, mut best) = ([0; 3], [0.0; 3]);
    state.clone().top_k(last, &mut ids, &mut best).unwrap();
    assert_eq!(state.score(last, ids[0]), Ok(best[0]));
    assert!(logits.iter().all(|&x| x <= logits[ids[0] as usize]));
    println!("{}", ids.map(|id| Model::word(id).unwrap()).join(" | "));
}
"#;

/// Not a test of its own: what a build script does, run by the test below as Cargo runs build scripts.
#[test]
#[ignore = "the body of a build script: the_helper_for_build_scripts_links_a_model runs it, with `-- --ignored --exact`"]
fn as_a_build_script() {
    if let Some(model) = std::env::var_os("LSTMC_TEST_MODEL") {
        lstmc::build::Config::new(model).compile().unwrap();
    }
}

#[test]
fn the_helper_for_build_scripts_links_a_model() {
    let Some(host) = Target::host() else {
        skipped("no objects are made for this machine");
        return;
    };
    let sandbox = Sandbox::new();
    let model = sandbox.tiny();
    let out = sandbox.path("out");
    fs::create_dir(&out).unwrap();
    let mut script = Command::new(std::env::current_exe().unwrap());
    script.args(["--exact", "link::rust::as_a_build_script", "--ignored", "--nocapture"]);
    script.env("OUT_DIR", &out).env("TARGET", host).env("LSTMC_TEST_MODEL", &model);
    let printed = String::from_utf8(done(&mut script).stdout).unwrap();
    let line = |start: &str| printed.lines().find_map(|l| l.strip_prefix(start)).map(str::to_string);
    assert_eq!(line("cargo:rerun-if-changed="), Some(model.display().to_string()));
    let (search, library) =
        (line("cargo:rustc-link-search=").unwrap(), line("cargo:rustc-link-lib=").unwrap());

    let (source, program) = (sandbox.file("app.rs", APP), sandbox.path("app"));
    let mut rustc = Command::new("rustc");
    rustc.args([
        "--edition",
        "2024",
        "-D",
        "warnings",
        "-A",
        "dead_code",
        "-L",
        &search,
        "-l",
        &library,
        "-o",
    ]);
    done(rustc.arg(&program).arg(&source).env("OUT_DIR", &out));
    let (words, wanted) = prompt(&sandbox);
    assert_eq!(answer(&mut Command::new(&program), &words), wanted);

    let error = lstmc::build::Config::new(&model).name("1st").build(&[]).unwrap_err().to_string();
    assert!(error.contains("`1st` cannot be the prefix"), "{error}");
}
