//! Libraries for systems that are not here, linked as shared libraries by LLVM's linkers, which come with Rust.

use super::tools::{done, skipped};
use crate::program::Sandbox;
use lstmc::backend::object::TRIPLES;
use std::path::PathBuf;
use std::process::Command;

fn linker() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "target-libdir"]).output().ok()?;
    // lib/rustlib/TRIPLE/lib and lib/rustlib/TRIPLE/bin are neighbours.
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()).parent()?.join("bin/rust-lld");
    path.is_file().then_some(path)
}

#[test]
fn every_target_links_without_another_library() {
    let Some(linker) = linker() else {
        skipped("rust-lld is not beside rustc");
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.tiny();
    for triple in TRIPLES {
        let folder = format!("[dir]/{triple}");
        // What has most to relocate.
        let options = ["--target", triple, "--cpu", "dispatch", "-o", &folder];
        sandbox.ok(&[&["build", "[dir]/tiny.lstmc", "--name", "lm"], &options[..]].concat());
        let arm = triple.starts_with("aarch64");
        let flags: &[&str] = match triple {
            t if t.ends_with("darwin") || t.ends_with("ios") => {
                let system = if t.ends_with("ios") { "ios" } else { "macos" };
                let arch = if arm { "arm64" } else { "x86_64" };
                &[
                    "-flavor",
                    "darwin",
                    "-arch",
                    arch,
                    "-platform_version",
                    system,
                    "13.0",
                    "13.0",
                    "-dylib",
                    "-force_load",
                ]
            }
            t if t.ends_with("msvc") => {
                &["-flavor", "link", "/dll", "/noentry", "/machine:x64", "/export:lm_step", "/out:linked"]
            }
            _ => {
                let emulation = match triple {
                    t if t.starts_with("riscv64") => "elf64lriscv",
                    _ if arm => "aarch64linux",
                    _ => "elf_x86_64",
                };
                &[
                    "-flavor",
                    "gnu",
                    "-shared",
                    "-m",
                    emulation,
                    "-z",
                    "text",
                    "--no-undefined",
                    "--whole-archive",
                ]
            }
        };
        let library = if triple.ends_with("msvc") { "lm.lib" } else { "liblm.a" };
        let folder = sandbox.path(triple);
        let mut link = Command::new(&linker);
        link.args(flags).arg(library).current_dir(&folder);
        if !triple.ends_with("msvc") {
            link.args(["-o", "linked"]);
        }
        done(&mut link);
        let linked = std::fs::read(folder.join("linked")).unwrap();
        assert!(linked.windows(7).any(|w| w == b"lm_step"), "{triple}");
    }
}
