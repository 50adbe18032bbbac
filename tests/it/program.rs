//! Running the program, and places for its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The model that most tests use: one real export of a tiny language model.
pub(crate) const TINY: &str = "testdata/tiny/dynamo/model.onnx";
/// Its words.
pub(crate) const TINY_WORDS: &str = "testdata/tiny/vocab.txt";
/// A text in those words.
pub(crate) const TINY_TEXT: &str = "testdata/tiny/text.txt";

/// The folder that paths such as [`TINY`] start from, and that the program runs in.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of the folders in a folder of `testdata`, in order.
pub(crate) fn cases(folder: &str) -> Vec<String> {
    let dir = root().join("testdata").join(folder);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let folders = entries.map(|e| e.unwrap()).filter(|e| e.file_type().unwrap().is_dir());
    let names: BTreeSet<String> = folders.map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(!names.is_empty(), "{} has no cases", dir.display());
    names.into_iter().collect()
}

/// A folder for one test, removed after it.
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
}

/// What a run of the program printed and exited with; the sandbox's path reads `[dir]`.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Sandbox {
        Sandbox { dir: tempfile::tempdir().unwrap() }
    }

    /// A path in the sandbox.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file in the sandbox.
    pub(crate) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// Every file and folder in the sandbox, with its length.
    fn listing(&self) -> BTreeSet<(PathBuf, u64)> {
        let mut all = BTreeSet::new();
        let mut open = vec![self.dir.path().to_path_buf()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
                all.insert((entry.path(), entry.metadata().unwrap().len()));
            }
        }
        all
    }

    /// A command of the program; `[dir]` in an argument stands for the sandbox.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let dir = self.dir.path().to_str().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lstmc"));
        command
            .args(args.iter().map(|a| a.replace("[dir]", dir)))
            .current_dir(root())
            .env_remove("LSTMC_LOG")
            .env_remove("LSTMC_DEMO")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs the program. However it ends, it must not panic.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        self.outcome(self.command(args).output().unwrap())
    }

    /// Runs the program and returns what it printed; it must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "lstmc {}\n{}", args.join(" "), run.stderr);
        run.stdout
    }

    /// Runs the program with `--json` and returns what it printed.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    /// Runs the program, which must fail, write nothing, and print nothing but a message. Returns the command, the exit code and the
    /// message, for a snapshot.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let before = self.listing();
        let run = self.run(args);
        assert_eq!(self.listing(), before, "lstmc {} left something behind", args.join(" "));
        assert!(matches!(run.code, Some(1 | 2)), "lstmc {}\n{run:?}", args.join(" "));
        assert_eq!(run.stdout, "", "lstmc {}", args.join(" "));
        // Notes of how a text is read may come before.
        let message = run.stderr.lines().find(|line| !line.starts_with("note: ")).unwrap_or("");
        assert!(message.starts_with("error: "), "lstmc {}\n{}", args.join(" "), run.stderr);
        format!("$ lstmc {}\nexit {}, {}\n", quoted(args), run.code.unwrap(), run.stderr)
    }

    pub(crate) fn outcome(&self, output: Output) -> Run {
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(self.dir.path().to_str().unwrap(), "[dir]")
        };
        let run =
            Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        run
    }

    /// Compiles [`TINY`] with its words to a file in the sandbox.
    pub(crate) fn tiny(&self) -> PathBuf {
        self.ok(&["compile", TINY, "--vocab", TINY_WORDS, "-o", "[dir]/tiny.lstmc"]);
        self.path("tiny.lstmc")
    }
}

/// Ctrl-C for a program that runs; nothing for one that has ended but was not waited for.
#[cfg(unix)]
pub(crate) fn interrupt(child: &std::process::Child) {
    let quiet = std::process::Stdio::null();
    Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(quiet).status().unwrap();
}

/// Arguments as a shell would want them.
fn quoted(args: &[&str]) -> String {
    let plain = |a: &str| !a.is_empty() && a.chars().all(|c| c.is_alphanumeric() || "-_./[]".contains(c));
    let quote = |a: &&str| if plain(a) { a.to_string() } else { format!("{a:?}") };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}
