//! The header says what the sources define.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The words of `text` that follow `before` and are followed by `(`.
fn names(text: &str, before: &str) -> BTreeSet<String> {
    let found = text.split(before).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        (&rest[..end], &rest[end..])
    });
    found.filter(|(_, rest)| rest.starts_with('(')).map(|(name, _)| format!("lstmc_{name}")).collect()
}

#[test]
fn the_header_has_every_function_and_status() {
    let header = read("include/lstmc.h");
    let code: String =
        header.split_once("*/").unwrap().1.lines().filter(|l| !l.trim().starts_with("//")).collect();
    let sources =
        ["src/lib.rs", "src/ffi.rs", "src/model.rs", "src/session.rs", "src/streams.rs"].map(read).concat();
    assert_eq!(names(&code, "lstmc_"), names(&sources, "extern \"C\" fn lstmc_"));
    let screaming = |name: &str| {
        let parts = name.chars().flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain([c]));
        parts.collect::<String>().trim_start_matches('_').to_uppercase()
    };
    let variants = sources.lines().filter_map(|l| l.trim().strip_suffix(',')?.split_once(" = "));
    let variants: Vec<_> = variants.filter(|(name, _)| name.starts_with("Lstmc")).collect();
    assert!(variants.len() > 5);
    for (name, value) in variants {
        assert!(code.contains(&format!("{} = {value},", screaming(name))), "{name}");
    }
}

/// Where cbindgen is installed, its output is the header.
#[test]
fn the_header_is_what_cbindgen_makes() {
    let root = env!("CARGO_MANIFEST_DIR");
    match Command::new("cbindgen").args(["--config", "cbindgen.toml", "--quiet"]).current_dir(root).output() {
        Ok(made) => {
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            assert_eq!(
                String::from_utf8(made.stdout).unwrap(),
                read("include/lstmc.h"),
                "run `just c-header`"
            );
        }
        Err(e) => crate::skipped(&format!("cbindgen cannot be run ({e}); `cargo install cbindgen` gets it")),
    }
}
