//! `lstmc bench --streams` on vocabularies whose last panel has any number of columns.
//!
//! What is read or written beside a buffer shows only by luck here, and for sure where the program is built with AddressSanitizer, or where
//! `LSTMC_RUNNER` names a program to run it under, such as valgrind: `just sanitize` does both.

use crate::program::Sandbox;
use lstmc::Source;
use lstmc::backend::Level;
use lstmc::frontend::ir::arbitrary::{Kind, language_model_of, random_map};
use std::process::Command;

/// Numbers of streams that leave tiles of few tokens, one of which each vocabulary takes.
const STREAMS: [usize; 6] = [2, 3, 5, 6, 8, 9];

fn bench(vocabularies: impl Iterator<Item = usize>) {
    let sandbox = Sandbox::new();
    let tiny = sandbox.tiny();
    for words in vocabularies {
        let mut source = Source::read(&tiny).unwrap();
        let kind = Kind::ALL[words % Kind::ALL.len()];
        source.graph = language_model_of(5, 1, words, |_, shape| random_map(kind, shape, words as u64));
        source.tokenizer = None;
        let model = sandbox.path("words.lstmc");
        source.write(&model).unwrap();
        for level in Level::all() {
            let streams = STREAMS[words % STREAMS.len()].to_string();
            let args = ["bench", "[dir]/words.lstmc", "--streams", &streams, "--rounds", "1"];
            let mut command = under_runner(sandbox.command(&[&args[..], &["--cpu", level.name()]].concat()));
            let run = sandbox.outcome(command.output().unwrap());
            assert_eq!(run.code, Some(0), "{words} words, {streams} streams, {level}: {}", run.stderr);
        }
    }
}

/// The same command under the program that `LSTMC_RUNNER` names.
fn under_runner(command: Command) -> Command {
    let Ok(runner) = std::env::var("LSTMC_RUNNER") else { return command };
    let mut words = runner.split_whitespace();
    let mut under = Command::new(words.next().expect("LSTMC_RUNNER names a program"));
    under.args(words).arg(command.get_program()).args(command.get_args());
    under.current_dir(command.get_current_dir().unwrap());
    under
}

#[test]
fn a_few_vocabularies() {
    bench([1, 4, 31, 33, 40, 64].into_iter());
}

#[test]
#[ignore = "some minutes: run by `just sanitize`"]
fn every_vocabulary_up_to_64() {
    bench(1..=64);
}
