//! The documentation, checked against the program.
//!
//! - A block after the line `<!-- checked -->` holds what commands print: it begins with `$ lstmc ...`, run in the repository's
//!   root. `UPDATE_DOCS=1 cargo test --test docs` writes such blocks anew.
//! - The table after `<!-- passes -->` lists the pass table, that after `<!-- codes -->` the formats of codes; the block after
//!   `<!-- grammar -->` is the parser's own grammar. They are written anew likewise.
//! - `ir` blocks are graphs: they parse, verify, and print to text that reads back as itself.
//! - `rust` blocks are parts of `examples/`, which are compiled.
//! - Every operator is in the IR reference, links to files lead somewhere, and every page is in the summary.

use lstmc::frontend::ir::{CodeFormat, PrintOptions, parse, print_with, verify};
use lstmc::frontend::testing::check_all;
use lstmc::passes::Pipeline;
use lstmc::passes::options::Presence;
use lstmc::passes::registry::PASSES;
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md, CONTRIBUTING.md and all pages of the book, in order of their names.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            match entry.extension() {
                _ if entry.is_dir() && !entry.ends_with("docs/book") => folders.push(entry),
                Some(e) if e == "md" => pages.push(entry),
                _ => {}
            }
        }
    }
    pages.sort();
    pages
}

/// A fenced block of a page, known by the place of its first line.
struct Block {
    place: String,
    text: String,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// The fenced blocks in `language`.
fn blocks(page: &Path, language: &str) -> Vec<Block> {
    let text = fs::read_to_string(page).unwrap();
    let mut found: Vec<Block> = vec![];
    let mut inside: Option<(bool, &str)> = None;
    for (n, line) in text.lines().enumerate() {
        match inside {
            None if line.starts_with("```") => {
                let wanted = line.trim_start_matches('`').trim() == language;
                inside = Some((wanted, &line[..line.len() - line.trim_start_matches('`').len()]));
                if wanted {
                    let place = format!("{}:{}", page.display(), n + 2);
                    found.push(Block { place, text: String::new() });
                }
            }
            Some((_, fence)) if line.trim() == fence => inside = None,
            Some((true, _)) => {
                if let Some(block) = found.last_mut() {
                    let _ = writeln!(block.text, "{line}");
                }
            }
            _ => {}
        }
    }
    found
}

/// What `$ lstmc ...` prints, both streams, in the repository's root.
fn output(command: &str) -> String {
    let words =
        command.strip_prefix("$ lstmc").unwrap_or_else(|| panic!("expected `$ lstmc ...`: {command}"));
    // Words in double quotes may hold spaces; nothing else of a shell is known.
    let words: Vec<String> = words
        .split('"')
        .enumerate()
        .flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().map(String::from).collect(),
            _ => vec![part.to_string()],
        })
        .collect();
    let out = Command::new(env!("CARGO_BIN_EXE_lstmc"))
        .args(words)
        .current_dir(root())
        .env("COLUMNS", "100")
        .env_remove("LSTMC_DEMO")
        .env_remove("LSTMC_LOG")
        .output()
        .unwrap();
    let mut text = String::from_utf8(out.stdout).unwrap();
    text.push_str(&String::from_utf8(out.stderr).unwrap());
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    while lines.last().is_some_and(|l| l.is_empty()) {
        lines.pop();
    }
    lines.join("\n")
}

/// The passes and their options as a table.
fn pass_table() -> String {
    let mut out = String::from("| pass | what it does | options |\n|---|---|---|\n");
    for pass in PASSES {
        let options: Vec<String> = pass
            .options
            .iter()
            .map(|o| {
                let presence = match o.presence {
                    Presence::Required => "required".to_string(),
                    Presence::Optional => "optional".to_string(),
                    Presence::Default(text) => format!("default `{text}`"),
                };
                // A vertical bar would end the cell.
                let kind = o.kind.to_string().replace('|', "\\|");
                format!("`{}`: {}; {kind}; {presence}", o.name, o.doc)
            })
            .collect();
        let loss = if pass.lossy { "lossy" } else { "lossless" };
        let _ = writeln!(out, "| `{}` | {} ({loss}) | {} |", pass.name, pass.summary, options.join("<br>"));
    }
    out
}

/// The formats of codes as a table.
fn code_table() -> String {
    let mut out = String::from(
        "| codes | from | to | bits in a file | bits in kernels | type in ONNX |\n|---|---|---|---|---|---|\n",
    );
    for f in CodeFormat::ALL.into_iter().rev() {
        let (low, high) = f.range().into_inner();
        let (packed, exported) = (f.packed().bits(), f.exported().name());
        let _ = writeln!(out, "| `{f}` | {low} | {high} | {} | {packed} | `{exported}` |", f.bits());
    }
    out
}

/// The grammar of the IR's text form, from the parser's documentation.
fn grammar() -> String {
    let parser = fs::read_to_string(root().join("frontend/src/ir/parse/mod.rs")).unwrap();
    let comment = parser.lines().skip_while(|l| *l != "//! ```text").skip(1).take_while(|l| *l != "//! ```");
    comment.map(|l| format!("{}\n", l.strip_prefix("//! ").unwrap_or_default())).collect()
}

/// A page with its checked blocks as they should be.
fn renewed(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let _ = writeln!(out, "{line}");
        match line {
            "<!-- checked -->" => {
                let fence = lines.next().expect("a block after <!-- checked -->");
                assert!(fence.starts_with("```"), "expected a block after <!-- checked -->, found {fence}");
                let command = lines.next().expect("a command in a checked block");
                let _ = writeln!(out, "{fence}\n{command}\n{}\n```", output(command));
                assert!(lines.any(|l| l == "```"), "{command}: the block has no end");
            }
            "<!-- grammar -->" => {
                let _ = write!(out, "```text\n{}```\n", grammar());
                assert!(lines.any(|l| l == "```"), "the grammar's block has no end");
            }
            "<!-- passes -->" | "<!-- codes -->" => {
                out.push_str(&if line.contains("codes") { code_table() } else { pass_table() });
                while lines.peek().is_some_and(|l| l.starts_with('|')) {
                    lines.next();
                }
            }
            _ => {}
        }
    }
    out
}

#[test]
fn checked_blocks_are_what_the_program_prints() {
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let mut stale = vec![];
    // Where commands of the pages write.
    fs::create_dir_all(root().join("target")).unwrap();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let new = renewed(&text);
        if new == text {
            continue;
        }
        if update {
            fs::write(&page, new).unwrap();
        } else {
            let differs = text.lines().zip(new.lines()).enumerate().find(|(_, (a, b))| a != b);
            let (n, (old, new)) = differs.unwrap_or((text.lines().count(), ("the end", "more, or less")));
            stale.push(format!("{}:{}:\n  - {old}\n  + {new}", page.display(), n + 1));
        }
    }
    assert!(stale.is_empty(), "run `UPDATE_DOCS=1 cargo test --test docs`:\n{}", stale.join("\n"));
}

#[test]
fn ir_blocks_are_graphs() {
    let blocks: Vec<_> = pages().iter().flat_map(|page| blocks(page, "ir")).collect();
    assert!(!blocks.is_empty());
    check_all(blocks, |block| {
        let graph = parse(&block.text).unwrap_or_else(|e| panic!("{e}"));
        verify(&graph).unwrap_or_else(|e| panic!("{e}"));
        for inline_up_to in [0, usize::MAX] {
            let text = print_with(&graph, &PrintOptions { inline_up_to });
            let again = parse(&text).unwrap_or_else(|e| panic!("printed text: {e}\n{text}"));
            assert_eq!(print_with(&again, &PrintOptions { inline_up_to }), text);
        }
    });
}

/// The snapshot of the parser's tests that holds every operator is the list to keep to.
#[test]
fn the_ir_reference_has_every_operator() {
    let folder = root().join("frontend/src/ir/parse/snapshots");
    let list = folder.join("lstmc_frontend__ir__parse__tests__every_operator_round_trips.snap");
    let list = fs::read_to_string(list).unwrap();
    let names = list.splitn(3, "---\n").last().unwrap().lines().filter_map(|l| l.split(' ').next());
    let reference = fs::read_to_string(root().join("docs/ir.md")).unwrap();
    check_all(names, |name| {
        let is_there = [format!("`{name}`"), format!("`{name} {{")].iter().any(|n| reference.contains(n));
        assert!(is_there, "docs/ir.md does not tell of {name}");
    });
}

#[test]
fn rust_blocks_are_parts_of_examples() {
    let folders = ["examples", "examples/pass/src", "examples/pass/tests"].map(|f| root().join(f));
    let files = folders.iter().flat_map(|f| fs::read_dir(f).unwrap().map(|e| e.unwrap().path()));
    let examples: Vec<String> =
        files.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut pages = pages();
    pages.retain(|p| p.file_name().is_some_and(|n| n != "CONTRIBUTING.md"));
    check_all(pages.iter().flat_map(|page| blocks(page, "rust")), |block| {
        assert!(examples.iter().any(|e| e.contains(&block.text)), "{}", block.text);
    });
}

#[test]
fn recipes_are_read() {
    let recipes = pages().into_iter().flat_map(|page| blocks(&page, "toml"));
    check_all(recipes.filter(|block| block.text.contains("[[pass]]")), |block| {
        Pipeline::from_recipe(&block.text).unwrap_or_else(|e| panic!("{e}"));
    });
}

/// Each figure of a frontier has its pipelines beside it, and they are read. Rooflines have none.
#[test]
fn figures_have_pipelines() {
    let entries = |folder: &str| fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap().path());
    let mut files = vec![root().join("docs/examples/pipelines.txt")];
    let roofline =
        |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("roofline"));
    files.extend(
        entries("docs/figures").filter(|path| !roofline(path)).map(|path| path.with_extension("txt")),
    );
    check_all(files, |file| {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{e}"));
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let pipeline = match line.split_once(": ") {
                Some((name, rest)) if !name.contains('(') => rest,
                _ => line,
            };
            Pipeline::parse(pipeline).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    });
}

#[test]
fn links_lead_to_files() {
    let mut broken = vec![];
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or_default();
            let is_elsewhere = link.contains("://") || link.starts_with('#') || file.is_empty();
            if !is_elsewhere && !page.parent().unwrap().join(file).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_summary() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    for page in pages().iter().filter_map(|p| p.strip_prefix(&docs).ok()) {
        let name = page.to_str().unwrap().replace('\\', "/");
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "{name} is not in SUMMARY.md"
        );
    }
}

/// The README's second command is what CI runs.
#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let commands = blocks(&root().join("README.md"), "sh");
    let test = commands[1].text.trim();
    assert!(test.starts_with("cargo test"), "the second block of README.md: {test}");
    let script = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(script.lines().any(|l| l == test), ".ci/run does not run `{test}`");
}
