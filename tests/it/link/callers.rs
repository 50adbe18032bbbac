//! Callers that do everything wrong, and several threads.

use super::tools::{Machine, done, has, skipped};
use crate::program::{Sandbox, TINY};
use lstmc::backend::Level;
use std::process::Command;

fn check(machine: Machine, cpus: &[&str]) {
    if !machine.is_there() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.tiny();
    for cpu in cpus {
        machine.library(&sandbox, "tiny.lstmc", cpu, cpu);
        let check = machine.program(&sandbox, "check", cpu, &[]);
        done(&mut machine.command(&check));
        let threads = machine.program(&sandbox, "threads", cpu, &[]);
        done(&mut machine.command(&threads));
        // Valgrind knows no instructions beyond AVX2; `native` may be one of those that it knows.
        let known = !cpu.starts_with("avx512") && !cpu.ends_with("vnni");
        if machine == Machine::Here && known && has("valgrind", "reads and writes beyond the end") {
            let mut valgrind = Command::new("valgrind");
            done(valgrind.args(["--quiet", "--error-exitcode=9"]).arg(&check));
        }
    }
}

/// Every mistake has its status, and nothing is read or written outside what the caller gave (valgrind). Threads with a state each see what
/// they see alone: a stress test, as the generated code has nothing that a tool could watch but loads and stores.
#[test]
fn mistakes_have_a_status_and_threads_do_not_meet() {
    let levels = Level::all().into_iter().map(Level::name);
    check(Machine::Here, &levels.chain(["generic", "dispatch", "native"]).collect::<Vec<_>>());
}

#[test]
fn mistakes_have_a_status_on_arm64_too() {
    check(Machine::Arm64, &["generic", "dispatch", "neon", "dotprod", "i8mm"]);
}

#[test]
fn mistakes_have_a_status_on_riscv64_too() {
    check(Machine::RiscV, &["generic"]);
}

/// The C side of the threads' test under ThreadSanitizer, which watches the harness and the library's callers.
#[test]
fn threads_under_thread_sanitizer() {
    if !Machine::Here.is_there() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.file("empty.c", "int main(void) { return 0; }");
    let mut cc = Command::new("cc");
    cc.args(["-fsanitize=thread", "-o"]).arg(sandbox.path("empty")).arg(sandbox.path("empty.c"));
    let runs = || Command::new(sandbox.path("empty")).status().is_ok_and(|s| s.success());
    if !cc.output().is_ok_and(|o| o.status.success()) || !runs() {
        skipped("ThreadSanitizer does not work here");
        return;
    }
    sandbox.tiny();
    Machine::Here.library(&sandbox, "tiny.lstmc", "dispatch", "tsan");
    done(&mut Command::new(Machine::Here.program(&sandbox, "threads", "tsan", &["-fsanitize=thread"])));
}

/// A header for every compiler, and a library without words.
#[test]
fn headers_are_c99_and_cpp() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["build", TINY, "--name", "lm", "--emit", "header", "-o", "[dir]/h"]);
    let header = sandbox.path("h/lm.h");
    for (compiler, language, standard) in [("cc", "c", "c99"), ("c++", "c++", "c++11")] {
        if has(compiler, standard) {
            let mut command = Command::new(compiler);
            command.args(["-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-x", language]);
            done(command.arg(format!("-std={standard}")).arg(&header));
        }
    }
}
