//! `lstmc compile`: from ONNX to a compressed `.lstmc`.

use super::{ModelArgs, read_utf8};
use crate::terminal::{Usage, bytes, thousands, uninterrupted};
use lstmc::backend::isa::{self, OptLevel};
use lstmc::backend::{Stage, listing};
use lstmc::frontend::ir::{Graph, print};
use lstmc::passes::{Pipeline, Record, Settings, run as run_passes};
use lstmc::{Format, Source};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Read a model, run passes on it and write a .lstmc file
///
/// Passes are given as text or as a recipe file; an ONNX model is canonicalised first in any case.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  lstmc compile model.onnx --vocab vocab.txt -o model.lstmc\n  \
                        lstmc compile model.onnx --print-ir after-all\n  lstmc compile model.onnx --print asm")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where to write the compiled model
    #[arg(short, long, value_name = "FILE.lstmc", required_unless_present_any = ["print", "print_ir"])]
    output: Option<PathBuf>,
    /// The passes, as text: "low-rank(target=decoder, rank=96), quantize(bits=8)"
    #[arg(long, value_name = "TEXT", conflicts_with = "recipe")]
    passes: Option<String>,
    /// The passes, as a TOML recipe
    #[arg(long, value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Print the graph after passes: after-all, or after=PASS
    #[arg(long, value_name = "WHEN")]
    print_ir: Option<PrintIr>,
    /// Print a stage of code generation for this machine
    #[arg(long, value_enum, value_name = "STAGE")]
    print: Option<Print>,
    /// Run only the first N passes, to find the one that breaks a model
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
    /// The model's name, also the file's default
    #[arg(long)]
    name: Option<String>,
}

/// Stages of code generation.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Print {
    /// Packing, buffers, steps
    Plan,
    /// Cranelift's IR
    Clif,
    /// Machine code
    Asm,
}

/// When to print the graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PrintIr {
    /// After every pass.
    AfterAll,
    /// After each run of this pass.
    After(String),
}

impl FromStr for PrintIr {
    type Err = String;

    fn from_str(s: &str) -> Result<PrintIr, String> {
        match s.split_once('=') {
            None if s == "after-all" => Ok(PrintIr::AfterAll),
            Some(("after", pass)) if !pass.is_empty() => Ok(PrintIr::After(pass.into())),
            _ => Err("expected after-all or after=PASS".into()),
        }
    }
}

impl PrintIr {
    /// Whether the pipeline has the pass that is waited for.
    pub(crate) fn check(&self, pipeline: &Pipeline) -> Result<(), String> {
        let names: Vec<&str> = pipeline.passes.iter().map(|p| p.info().name).collect();
        match self {
            PrintIr::After(pass) if !names.contains(&pass.as_str()) => {
                Err(format!("--print-ir after={pass}: the passes are {}", names.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// Prints graphs to standard output as passes go by.
    pub(crate) fn observer(when: Option<&PrintIr>) -> impl FnMut(&Record, &Graph) {
        move |record, graph| {
            let wanted = match when {
                None => false,
                Some(PrintIr::AfterAll) => true,
                Some(PrintIr::After(pass)) => record.pass == pass,
            };
            if wanted {
                // A closed pipe shows up at the next write that can report it.
                let _ = write!(std::io::stdout(), "// after {}\n{}", record.invocation, print(graph));
            }
        }
    }
}

/// The pipeline of a text or a recipe file; `canonicalize` alone where neither is given.
pub(crate) fn pipeline(text: Option<&str>, recipe: Option<&Path>) -> anyhow::Result<Pipeline> {
    if let Some(path) = recipe {
        let text = read_utf8(path)?;
        let parsed = Pipeline::from_recipe(&text).map_err(|e| Usage(format!("{}: {e}", path.display())))?;
        return Ok(parsed);
    }
    Ok(Pipeline::parse(text.unwrap_or("canonicalize")).map_err(|e| Usage(format!("--passes: {e}")))?)
}

/// Puts `canonicalize` first where an ONNX model needs it.
fn canonical_first(mut pipeline: Pipeline, source: &Source) -> anyhow::Result<Pipeline> {
    let starts = pipeline.passes.first().is_some_and(|p| p.info().name == "canonicalize");
    if source.format == Format::Onnx && !starts {
        let mut passes = Pipeline::parse("canonicalize")?.passes;
        passes.append(&mut pipeline.passes);
        pipeline.passes = passes;
    }
    Ok(pipeline)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let pipeline = pipeline(args.passes.as_deref(), args.recipe.as_deref())?;
    let mut source = Source::read(&args.model.model)?.with_vocabulary(args.model.vocab.as_deref())?;
    let pipeline = canonical_first(pipeline, &source)?;
    if let Some(when) = &args.print_ir {
        when.check(&pipeline).map_err(Usage)?;
    }
    if let Some(name) = &args.name {
        source.graph.name.clone_from(name);
    }
    let mut observer = PrintIr::observer(args.print_ir.as_ref());
    let settings =
        Settings { stop_after: args.stop_after, observer: Some(&mut observer), ..Settings::default() };
    let run = run_passes(&pipeline, std::mem::take(&mut source.graph), settings)?;
    let report = serde_json::to_string(&run.trail)?;
    let recipe = if source.recipe.is_empty() {
        pipeline.to_string()
    } else {
        format!("{}, {pipeline}", source.recipe)
    };
    let source = Source { graph: run.graph, recipe, report, ..source };
    if let Some(stage) = args.print {
        let stage = match stage {
            Print::Plan => Stage::Plan,
            Print::Clif => Stage::Clif,
            Print::Asm => Stage::Assembly,
        };
        let text = listing(&source.graph, isa::native(OptLevel::None)?, stage)?;
        write!(std::io::stdout(), "{text}")?;
    }
    let Some(output) = &args.output else { return Ok(()) };
    if args.stop_after.is_none() {
        source.clone().canonical()?;
    }
    let size = uninterrupted(|| source.write(output))?;
    let mut err = std::io::stderr();
    write!(err, "{}", run.trail)?;
    writeln!(err, "{}: {} bytes ({})", output.display(), thousands(size as usize), bytes(size as usize))?;
    if source.vocabulary.is_none() {
        writeln!(err, "note: no vocabulary inside; give one with --vocab FILE to make the file stand alone")?;
    }
    Ok(())
}
