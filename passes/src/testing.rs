//! Tests of passes by files: a file has a pipeline and a graph, and a snapshot has the result.
//!
//! ```text
//! // passes: prune(target=decoder, sparsity=0.5)
//! // calibrate: 0 4 2 1 3 3
//!
//! model "m" (vocabulary 5) { ... }
//! @decoder: f32[5, 4] random 7
//! ```
//!
//! | header line | what |
//! |---|---|
//! | `// passes: PIPELINE` | required |
//! | `// calibrate: TOKENS` | token ids of the calibration text |
//! | `// train: TOKENS` | token ids of the training text |
//! | `// hashes: no` | weights are shown without hashes: for passes whose last bits differ between processors |
//!
//! Any other line that starts with `//` is a comment. With the crate `insta` and its feature `glob` a test of a folder of such files is:
//!
//! ```ignore
//! #[test]
//! fn every_file_gives_its_snapshot() {
//!     insta::glob!("files/*.ir", |path| insta::assert_snapshot!(outcome_of(path, PASSES)));
//! }
//! ```

use crate::calibrate::Calibration;
use crate::info::Table;
use crate::manager::{Settings, run};
use crate::pipeline::Pipeline;
use lstmc_frontend::ir::{parse, print};
use std::path::Path;

/// The result of the file's pipeline on its graph: the trail and the graph, or the error.
///
/// # Panics
/// If the file cannot be read.
pub fn outcome_of(path: &Path, table: Table) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    outcome(&text, table).unwrap_or_else(|error| error)
}

/// The same for a file's text.
pub fn outcome(text: &str, table: Table) -> Result<String, String> {
    let header = |key: &str| {
        let lines = text.lines().take_while(|l| l.starts_with("//"));
        lines.filter_map(|l| l[2..].trim_start().strip_prefix(key)?.strip_prefix(':')).next().map(str::trim)
    };
    let tokens = |key: &str| -> Result<Option<Vec<u32>>, String> {
        let read =
            |word: &str| word.parse().map_err(|_| format!("// {key}: expected token ids, found {word}"));
        header(key).map(|line| line.split_whitespace().map(read).collect()).transpose()
    };
    let pipeline = header("passes").ok_or("expected a line `// passes: PIPELINE` before the graph")?;
    let pipeline = Pipeline::parse_with(pipeline, table).map_err(|e| e.to_string())?;
    let training = tokens("train")?;
    let mut settings = Settings::default();
    settings.context.calibration = tokens("calibrate")?.map(Calibration::of_text);
    settings.context.training = training.as_deref();
    let graph = parse(text).map_err(|e| e.to_string())?;
    let result = run(&pipeline, graph, settings).map_err(|e| e.to_string())?;
    let printed = print(&result.graph);
    let printed = if header("hashes") == Some("no") { without_hashes(&printed) } else { printed };
    Ok(format!("{}\n{printed}", result.trail))
}

/// Replaces `#1f2e3d4c` by `#`.
fn without_hashes(text: &str) -> String {
    let mut parts = text.split('#');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |out, part| out + "#" + part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}
