//! `lstmc compile`: from ONNX to a compressed `.lstmc`.

use super::texts::{TextArgs, Texts, scorer};
use super::{CpuArgs, ModelArgs, read_utf8, table};
use crate::backend::isa::{self, OptLevel};
use crate::backend::{Options, Stage, listing};
use crate::compress::canonical_first;
use crate::frontend::ir::{Graph, Head, print};
use crate::passes::Table;
use crate::passes::{Budget, Calibration, Checkpoint, Pipeline, Record};
use crate::terminal::{self, Usage, bytes, thousands};
use crate::{Compression, Engine};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Read a model, run passes on it and write a .lstmc file
///
/// Passes are given as text or as a recipe file; an ONNX model is canonicalised first in any case.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  lstmc compile model.onnx --vocab vocab.txt -o model.lstmc\n  \
                        lstmc compile model.onnx --vocab vocab.txt --calibrate train.txt --validate valid.txt --max-increase 2% \\\n    \
                        --passes \"quantize(bits=4, group=32)\" -o model.lstmc\n  \
                        lstmc compile model.onnx --vocab vocab.txt --calibrate train.txt --train train.txt --validate valid.txt \\\n    \
                        --passes \"prune(target=decoder, sparsity=0.9), recover(epochs=1)\" -o model.lstmc\n  \
                        lstmc compile model.onnx --print-ir after-all\n  lstmc compile model.onnx --print asm")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Where to write the compiled model
    #[arg(short, long, value_name = "FILE.lstmc", required_unless_present_any = ["print", "print_ir"])]
    output: Option<PathBuf>,
    /// The passes, as text: "low-rank(target=decoder, rank=96), quantize(bits=8)"
    #[arg(long, value_name = "TEXT", conflicts_with = "recipe")]
    passes: Option<String>,
    /// The passes, as a TOML recipe
    #[arg(long, value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    texts: TextArgs,
    /// Where training runs are kept, four times an epoch and at Ctrl-C, to be gone on with by --resume
    #[arg(long, value_name = "FILE", requires = "train", help_heading = "Training")]
    checkpoint: Option<PathBuf>,
    /// Go on with the training runs in the file of --checkpoint; all else must be as it was
    #[arg(long, requires = "checkpoint", help_heading = "Training")]
    resume: bool,
    /// Reject passes that raise perplexity by more than this over the model before the first: 2% or 0.02; a pass that `recover` follows is judged after that
    #[arg(long, value_name = "FRACTION", value_parser = crate::search::amount::fraction, requires = "validate", help_heading = "Measuring")]
    max_increase: Option<f64>,
    /// Reject passes that raise perplexity over this
    #[arg(long, value_name = "X", value_parser = perplexity, requires = "validate", help_heading = "Measuring")]
    max_perplexity: Option<f64>,
    /// Stop at the first pass that is rejected, and write nothing
    #[arg(long, requires = "validate", help_heading = "Measuring")]
    strict: bool,
    /// Write the report as JSON; it is in the compiled model as well
    #[arg(long, value_name = "FILE.json", help_heading = "Measuring")]
    report: Option<PathBuf>,
    /// What measures: generated code, or the interpreter
    #[arg(long, value_enum, default_value_t = Engine::Jit, help_heading = "Measuring")]
    engine: Engine,
    /// Threads of measuring; 0 means all cores
    #[arg(long, default_value_t = 0, help_heading = "Measuring")]
    threads: usize,
    /// Print the graph after passes: after-all, or after=PASS
    #[arg(long, value_name = "WHEN")]
    print_ir: Option<PrintIr>,
    /// Print a stage of code generation for this machine
    #[arg(long, value_enum, value_name = "STAGE")]
    print: Option<Print>,
    /// Run only the first N passes, to find the one that breaks a model
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
    /// Entropy-code weights, texts and words in the file: smaller, decoded when it is read. Weights quantized at a rate always are
    #[arg(long)]
    entropy: bool,
    /// The model's name; an ONNX model is called after its file otherwise
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
pub(crate) fn pipeline(text: Option<&str>, recipe: Option<&Path>, table: Table) -> anyhow::Result<Pipeline> {
    if let Some(path) = recipe {
        let text = read_utf8(path)?;
        let parsed = Pipeline::from_recipe_with(&text, table)
            .map_err(|e| Usage(format!("{}: {e}", path.display())))?;
        return Ok(parsed);
    }
    Ok(Pipeline::parse_with(text.unwrap_or("canonicalize"), table)
        .map_err(|e| Usage(format!("--passes: {e}")))?)
}

/// A perplexity.
pub(crate) fn perplexity(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|v: &f64| v.is_finite() && *v >= 1.0)
        .ok_or("expected a number of at least 1".into())
}

/// A checkpoint at this place; what is there is gone on with, or else replaced.
fn checkpoint(path: &Path, resume: bool) -> anyhow::Result<Checkpoint<'_>> {
    crate::runtime::file::check_place(path)?;
    let checkpoint = Checkpoint::new(|bytes| super::write_whole(path, bytes).map_err(|e| e.to_string()));
    if !resume {
        return Ok(checkpoint);
    }
    let bytes = std::fs::read(path).map_err(|reason| crate::Error::Read { path: path.into(), reason })?;
    checkpoint.resumed(&bytes).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

pub(crate) fn run(args: &Args, table: Table) -> anyhow::Result<()> {
    let pipeline = pipeline(args.passes.as_deref(), args.recipe.as_deref(), table)?;
    let mut source = args.model.source()?;
    if let Some(when) = &args.print_ir {
        when.check(&canonical_first(pipeline.clone(), &source)).map_err(Usage)?;
    }
    if let Some(name) = &args.name {
        source.graph.name.clone_from(name);
    }
    source.entropy |= args.entropy;
    let mut observer = PrintIr::observer(args.print_ir.as_ref());
    let Texts { calibration, training, teacher, validation } = args.texts.read(&source)?;
    let options = Options { threads: args.threads, ..args.cpu.options() };
    let mut scorer =
        validation.as_ref().map(|v| scorer(args.engine, options, &v.tokens, "measuring perplexity"));
    let collected = |(c, info): (Calibration<'static>, _)| {
        (c.with_progress(terminal::bar("collecting statistics")), info)
    };
    let watcher = terminal::pass_bar(String::new());
    let compression = Compression {
        pipeline,
        budget: Budget {
            max_perplexity: args.max_perplexity,
            max_increase: args.max_increase,
            strict: args.strict,
        },
        stop_after: args.stop_after,
        calibration: calibration.map(collected),
        training: training.as_ref(),
        teacher: teacher.as_ref(),
        validation: validation.as_ref().zip(scorer.as_mut()).map(|(v, s)| (s as _, v.info.clone())),
        watcher: Some(&watcher),
        checkpoint: args.checkpoint.as_deref().map(|path| checkpoint(path, args.resume)).transpose()?,
        interrupt: Some(&terminal::TRAINING),
        observer: Some(&mut observer),
    };
    let before = source.report.clone();
    let (source, report) = compression.run(source)?;
    let table = table::table(&report);
    if let Some(path) = &args.report {
        super::write_whole(path, report.json(&before, true)?.as_bytes())?;
    }
    if let Some(stage) = args.print {
        let stage = match stage {
            Print::Plan => Stage::Plan,
            Print::Clif => Stage::Clif,
            Print::Asm => Stage::Assembly,
        };
        let text = listing(&source.graph, isa::host(args.cpu.options().level, OptLevel::None)?, stage)?;
        write!(std::io::stdout(), "{text}")?;
    }
    let Some(output) = &args.output else { return Ok(()) };
    if args.stop_after.is_none() {
        source.clone().canonical()?;
    }
    let size = terminal::uninterrupted(|| source.write(output))?;
    let mut err = std::io::stderr();
    write!(err, "{table}")?;
    if validation.is_some() && source.graph.output_named(Head::Hidden.name()).is_some() {
        let text = "the model returns a vector, not probabilities: for perplexity stands 1 + the relative error of its outputs, |y - y'| / |y|";
        writeln!(err, "note: {text}")?;
    }
    source.notes.iter().try_for_each(|note| writeln!(err, "note: {note}"))?;
    writeln!(err, "{}: {} bytes ({})", output.display(), thousands(size as usize), bytes(size as usize))?;
    if source.tokenizer.is_none() {
        writeln!(err, "note: no vocabulary inside; give one with --vocab FILE to make the file stand alone")?;
    }
    Ok(())
}
