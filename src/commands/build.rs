//! `lstmc build`: object files and libraries.

use super::ModelArgs;
use crate::backend::CompileError;
use crate::backend::object::{Cpu, TRIPLES};
use crate::build::{Config, Emit};
use crate::terminal::{self, Usage, bytes, thousands};
use std::io::Write;
use std::path::PathBuf;

/// Make a library of a model, for a program in C, C++ or Rust; or a file of C
///
/// The library holds code, weights and words. It needs no other library, allocates nothing, and any number of threads may
/// use it. Every function is named NAME_...; the header says what they do. Link it with `cc app.c -L DIR -lNAME`.
///
/// `--emit c` writes the same functions as C99, for targets and toolchains that are not in the list below: compile it with
/// `cc -O3 -march=native -c NAME.c`, or whatever your processor is called.
#[derive(clap::Args, Debug)]
#[command(after_help = format!("\
Targets:
  {}

CPUs:
  dispatch  any CPU, at its best: code for each level up to avx512-vnni or dotprod, some 20 kB
            each; the first call chooses, and NAME_info says which one runs
  generic   any CPU, with what all of the architecture have: SSE2, NEON, on riscv64 V. Smallest
  native    all features of this machine's CPU
  LEVEL     a processor level that `lstmc cpu` lists: avx2, avx2-vnni, avx512-vnni; on arm64 neon, dotprod, i8mm
  FEATURES  names separated by commas, each with the features it implies: x86-64-v3, avx-vnni, fma.
            On a CPU without them the program stops with an illegal instruction

Examples:
  lstmc build model.lstmc --name keyboard -o target
  lstmc build model.lstmc --name keyboard --target aarch64-linux-android --cpu dotprod -o target
  lstmc build model.lstmc --name keyboard --emit rust -o crates
  lstmc build model.lstmc --name keyboard --emit c,header -o src", TRIPLES.join("\n  ")))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Prefix of all functions and name of the files: a C identifier
    #[arg(long)]
    name: String,
    /// The target's triple; this machine's by default. C runs elsewhere too, but less fast
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// CPU features: generic, dispatch, native, a level, or a list
    #[arg(long, value_name = "CPU", default_value = "dispatch")]
    cpu: String,
    /// What to write, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "staticlib,header")]
    emit: Vec<Emit>,
    /// The folder to write to; it is created if it does not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Print JSON: target, levels, features, files[] {path, bytes}, code_bytes, weight_bytes, word_bytes, state_bytes
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let Ok(cpu) = args.cpu.parse::<Cpu>();
    let text = args.model.text.clone();
    let mut config = Config::new(&args.model.model).text(text).name(&args.name).cpu(cpu);
    if let Some(triple) = &args.target {
        config = config.target(triple);
    }
    let mut emit: Vec<Emit> = vec![];
    for kind in &args.emit {
        if !emit.contains(kind) {
            emit.push(*kind);
        }
    }
    let built = config.build(&emit).map_err(|e| match e {
        crate::Error::Compile(e) => usage(e),
        e => e.into(),
    })?;
    let mut paths = vec![];
    for file in &built.files {
        let path = args.output.join(&file.path);
        let folder = path.parent().unwrap_or(&args.output);
        std::fs::create_dir_all(folder)
            .map_err(|e| anyhow::anyhow!("{}: the folder cannot be made: {e}", folder.display()))?;
        super::write_whole(&path, &file.bytes)?;
        paths.push((path, file.bytes.len()));
    }
    let sizes = built.sizes;
    let is_c = emit.iter().all(|kind| matches!(kind, Emit::C | Emit::Header)) && emit.contains(&Emit::C);
    if args.json {
        let files: Vec<_> =
            paths.iter().map(|(path, bytes)| serde_json::json!({"path": path, "bytes": bytes})).collect();
        return terminal::json(&serde_json::json!({
            "name": args.name,
            "target": built.target,
            "levels": built.levels,
            "features": built.features,
            "files": files,
            "code_bytes": sizes.code,
            "weight_bytes": sizes.weights,
            "word_bytes": sizes.words,
            "state_bytes": sizes.state,
        }));
    }
    let mut out = std::io::stdout().lock();
    for (path, size) in &paths {
        writeln!(out, "{}: {} bytes", path.display(), thousands(*size))?;
    }
    writeln!(
        out,
        "for {}{}{}{}: {} of {}, {} of weights, {} of words; a state takes {}",
        built.target,
        if built.features.is_empty() { "" } else { " with " },
        built.features.join(", "),
        match &*built.levels {
            [] | [_] => String::new(),
            levels => format!(", with a version for each of {}", levels.join(", ")),
        },
        bytes(sizes.code),
        if is_c { "C" } else { "code" },
        bytes(sizes.weights),
        bytes(sizes.words),
        bytes(sizes.state)
    )?;
    Ok(())
}

/// What is wrong with the arguments, not with the model, is a mistake in usage.
fn usage(error: CompileError) -> anyhow::Error {
    use crate::backend::object::{ObjectError, TargetError};
    match error {
        CompileError::ObjectTarget(e @ TargetError::Triple { .. }) => Usage(format!("--target: {e}")).into(),
        CompileError::ObjectTarget(e) => Usage(format!("--cpu: {e}")).into(),
        CompileError::Object(e @ ObjectError::Name { .. }) => Usage(format!("--name: {e}")).into(),
        e => e.into(),
    }
}
