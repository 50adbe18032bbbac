//! The README's way to a linked program, word for word.

use super::tools::Machine;
use crate::program::root;
use std::path::Path;
use std::process::Command;

#[test]
fn the_readme_leads_to_a_program() {
    if !Machine::Here.is_there() {
        return;
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("\n## ").find(|s| s.starts_with("Link it")).expect("a section Link it");
    let script = section.split("```sh\n").nth(1).and_then(|s| s.split("```").next()).expect("its commands");
    let programs = Path::new(env!("CARGO_BIN_EXE_lstmc")).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(programs.to_path_buf())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut sh = Command::new("sh");
    sh.args(["-e", "-c", script]).current_dir(root()).env("PATH", path.unwrap());
    let output = sh.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let last = printed.lines().last().unwrap();
    assert_eq!(last.split(" | ").count(), 3, "{last}");
    assert!(section.contains(&format!("\n{last}\n")), "the README does not say `{last}`");
}
