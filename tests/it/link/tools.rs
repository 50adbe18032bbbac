//! Compilers and emulators that a machine may have.

use crate::program::{Sandbox, root};
use lstmc::backend::Level;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Says what is left out, past the capture of tests' output.
pub(super) fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// Whether a program can be run; where not, says what is skipped.
pub(super) fn has(program: &str, what: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        skipped(&format!("{what}: there is no {program} here"));
    }
    found
}

/// A machine to compile and run C programs for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Machine {
    /// This one.
    Here,
    /// arm64, emulated.
    Arm64,
    /// RISC-V with vectors of 128 bits, emulated.
    RiscV,
}

impl Machine {
    pub(super) fn triple(self) -> &'static str {
        match self {
            Machine::Here => "x86_64-unknown-linux-gnu",
            Machine::Arm64 => "aarch64-unknown-linux-gnu",
            Machine::RiscV => "riscv64gc-unknown-linux-gnu",
        }
    }

    fn compiler(self) -> &'static str {
        match self {
            Machine::Here => "cc",
            Machine::Arm64 => "aarch64-linux-gnu-gcc",
            Machine::RiscV => "riscv64-linux-gnu-gcc",
        }
    }

    /// Whether programs for it can be made and run.
    pub(super) fn is_there(self) -> bool {
        let what = format!("programs for {}", self.triple());
        match self {
            Machine::Here if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) => {
                skipped(&format!("{what}: this is another machine"));
                false
            }
            Machine::Here => has(self.compiler(), &what),
            Machine::Arm64 => has(self.compiler(), &what) && has("qemu-aarch64", &what),
            Machine::RiscV => has(self.compiler(), &what) && has("qemu-riscv64", &what),
        }
    }

    /// Builds a model's library, prefix `lm`, in a folder of the sandbox.
    pub(super) fn library(self, sandbox: &Sandbox, model: &str, cpu: &str, folder: &str) {
        let model = format!("[dir]/{model}");
        let out = format!("[dir]/{folder}");
        sandbox.ok(&["build", &model, "--name", "lm", "--target", self.triple(), "--cpu", cpu, "-o", &out]);
    }

    /// Compiles `tests/c/NAME.c` with the library in a folder of the sandbox.
    pub(super) fn program(self, sandbox: &Sandbox, name: &str, folder: &str, options: &[&str]) -> PathBuf {
        let (folder, source) = (sandbox.path(folder), root().join(format!("tests/c/{name}.c")));
        let program = folder.join(name);
        let mut cc = Command::new(self.compiler());
        cc.args(["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]).args(options);
        if self != Machine::Here {
            cc.arg("-static");
        }
        cc.arg(source).arg("-I").arg(&folder).arg("-L").arg(&folder);
        cc.args(["-llm", "-lm", "-lpthread", "-o"]).arg(&program);
        done(&mut cc);
        program
    }

    /// A command that runs such a program.
    pub(super) fn command(self, program: &Path) -> Command {
        match self {
            Machine::Here => Command::new(program),
            Machine::Arm64 => {
                let mut command = Command::new("qemu-aarch64");
                command.arg(program);
                command
            }
            Machine::RiscV => {
                let mut command = Command::new("qemu-riscv64");
                command.args(["-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0"]).arg(program);
                command
            }
        }
    }
}

/// Whether a level fuses multiplications with additions.
pub(super) fn is_fusing(level: Level) -> bool {
    !["plain", "sse4.1"].contains(&level.name()) || cfg!(target_arch = "aarch64")
}

/// Runs a command, which must succeed.
pub(super) fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    output
}
