//! `lstmc demo`: a tour of everything on the bundled model.

use super::table::table;
use super::texts::scorer;
use super::{CpuArgs, search};
use crate::backend::Options;
use crate::frontend::ir::print;
use crate::passes::{Budget, Calibration, Context, Pipeline, Report, Settings, run as run_passes};
use crate::runtime::{Rng, Sampling, Session, Tokenizer};
use crate::search::amount::duration;
use crate::terminal::{bytes, pass_bar, thousands, uninterrupted};
use crate::{Engine, Scorer, Source};
use anyhow::bail;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Show what lstmc does on the bundled model: no arguments needed
///
/// Imports a word-level LSTM of the Penn Treebank from ONNX, shows its IR, compiles it for this machine, measures perplexity and speed,
/// compresses it twelvefold, saves and reloads it, suggests words, writes a few lines, and searches for the smallest model that is at most 2% worse.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  lstmc demo")]
pub(crate) struct Args {
    /// The folder with the bundled model, where it is not found by itself
    #[arg(long, value_name = "DIR", env = "LSTMC_DEMO")]
    data: Option<PathBuf>,
    /// For so long the search goes on
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    search: Duration,
    #[command(flatten)]
    cpu: CpuArgs,
}

/// The recipe that the demonstration runs, as shipped.
const RECIPE: &str = include_str!("../../docs/recipes/ptb-12x.toml");

/// What to try afterwards. The numbers are those of docs/paper.md, on all of the test text.
const NEXT: &str = "\
lstmc compile model.onnx --vocab vocab.txt -o model.lstmc    (see lstmc --help)

With more text like the model's own, compression need not cost anything:
  docs/recipes/ptb-20x-untrained.toml   0.95 MB of weights, perplexity 112.66, where the model as it came has 112.63
  docs/recipes/ptb-32x-trained.toml     0.58 MB, 100.54: trained for a quarter of an hour
  lstmc compile model.onnx --vocab vocab.txt --recipe docs/recipes/ptb-32x-trained.toml \\
    --calibrate calibration.txt --train train.txt --validate valid.txt -o model.lstmc";

const PROMPT: &str = "the company said it expects to";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let data = find(args.data.as_deref())?;
    let options = args.cpu.options();
    let mut out = std::io::stdout().lock();

    heading(&mut out, "Import: ONNX to IR")?;
    let started = Instant::now();
    let mut source = Source::read(data.join("model.onnx"))?;
    source.graph.name = "ptb-small".into();
    let imported = source.graph.nodes().count();
    let source = source.with_vocabulary(Some(&data.join("vocab.txt")))?.canonical()?;
    writeln!(
        out,
        "model.onnx: {imported} nodes as exported, {} in language-model form, in {:.0} ms\n",
        source.graph.nodes().count(),
        started.elapsed().as_secs_f64() * 1e3
    )?;
    writeln!(out, "{}", print(&source.graph))?;

    heading(&mut out, "Compile: IR to machine code")?;
    let started = Instant::now();
    let model = source.compile(options)?;
    writeln!(
        out,
        "compiled for this machine, processor level {}, in {:.0} ms; {} of weights read per token",
        options.level,
        started.elapsed().as_secs_f64() * 1e3,
        bytes(model.layout().weight_bytes_per_token)
    )?;

    heading(&mut out, "Perplexity: an excerpt of the Penn Treebank's test text")?;
    let words = super::tokenizer(&source)?;
    let text = super::read_text(&data.join("test.txt"), words)?;
    for (engine, name) in [(Engine::Jit, "generated code"), (Engine::Interpreter, "interpreter")] {
        let started = Instant::now();
        let perplexity = Scorer::new(engine, options, &text.tokens, |_| ()).perplexity(&source.graph)?;
        let seconds = started.elapsed().as_secs_f64();
        writeln!(
            out,
            "{name:15} {perplexity:9.4}   {} tokens at {} tokens/s",
            thousands(text.tokens.len()),
            thousands((text.tokens.len() as f64 / seconds) as usize)
        )?;
    }

    heading(&mut out, "Speed: one word after the other, one thread")?;
    let mut session = model.session();
    let step = best(&mut session, &text.tokens)?;
    let read = model.layout().weight_bytes_per_token as f64;
    writeln!(
        out,
        "{:.1} us per token, all {} logits: {:.0} GB/s",
        step * 1e6,
        words.vocabulary().len(),
        read / step / 1e9
    )?;

    heading(&mut out, "Compress: a recipe watched by perplexity, no training")?;
    let before = Scorer::new(Engine::Jit, options, &text.tokens, |_| ()).perplexity(&source.graph)?;
    let source = compress(&mut out, &data, source, options)?;
    let words = super::tokenizer(&source)?;
    let after = Scorer::new(Engine::Jit, options, &text.tokens, |_| ()).perplexity(&source.graph)?;
    writeln!(
        out,
        "on the test excerpt, which the recipe has not seen: {before:.2} before, {after:.2} after"
    )?;

    heading(&mut out, "Save and load: one file with weights, words and recipe")?;
    let (size, started, model) = uninterrupted(|| -> anyhow::Result<_> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("ptb-small.lstmc");
        let size = source.write(&file)?;
        let started = Instant::now();
        Ok((size, started, Source::read(&file)?.canonical()?.compile(options)?))
    })?;
    let mut session = model.session();
    session.step(0)?;
    let first = started.elapsed().as_secs_f64() * 1e3;
    writeln!(
        out,
        "ptb-small.lstmc: {}; from opening it to the first token {first:.0} ms",
        bytes(size as usize)
    )?;

    heading(&mut out, "Suggest and generate")?;
    session.reset();
    suggest(&mut out, &mut session, words)?;
    writeln!(out)?;
    generate(&mut out, &mut session, words)?;

    heading(&mut out, "Search: from a budget, at most 2% worse, to the smallest model")?;
    out.flush()?;
    drop(out);
    // A slow machine may find none in the time.
    let found = search::demonstrate(&data, args.search, args.cpu);
    let mut out = std::io::stdout().lock();
    if let Err(error) = found {
        writeln!(out, "{error:#}")?;
    }

    heading(&mut out, "Next")?;
    writeln!(out, "{NEXT}")?;
    Ok(())
}

/// Runs the bundled recipe, calibrated and validated on excerpts.
fn compress(out: &mut impl Write, data: &Path, source: Source, options: Options) -> anyhow::Result<Source> {
    let pipeline = Pipeline::from_recipe(RECIPE)?;
    writeln!(out, "{pipeline}\n")?;
    let words = super::tokenizer(&source)?;
    let calibration = super::read_text(&data.join("calibration.txt"), words)?;
    let validation = super::read_text(&data.join("valid.txt"), words)?;
    let mut scorer = scorer(Engine::Jit, options, &validation.tokens, "measuring perplexity");
    let watcher = pass_bar(String::new());
    let context = Context {
        evaluator: Some(&mut scorer),
        calibration: Some(Calibration::of_text(calibration.tokens)),
        watcher: Some(&watcher),
        ..Context::default()
    };
    let budget = Budget::default();
    let run =
        run_passes(&pipeline, source.graph.clone(), Settings { context, budget, ..Settings::default() })?;
    let report = Report::new(run.graph.name.clone(), &run.trail, budget);
    write!(out, "{}", table(&report))?;
    let report = serde_json::to_string(&report)?;
    Ok(Source { recipe: pipeline.to_string(), report, ..source }.with_graph(run.graph))
}

fn heading(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    Ok(writeln!(out, "\n== {text}")?)
}

/// The bundled model's folder: where told, below the current folder, beside the program, or where it was built.
fn find(told: Option<&Path>) -> anyhow::Result<PathBuf> {
    const BUNDLED: &str = "testdata/ptb-small";
    const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
    let mut places = vec![];
    if let Some(dir) = told {
        places.push(dir.to_path_buf());
    } else {
        places.push(PathBuf::from(BUNDLED));
        if let Ok(program) = std::env::current_exe() {
            places.extend(program.ancestors().skip(1).take(4).map(|p| p.join(BUNDLED)));
        }
        places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(BUNDLED));
    }
    if let Some(found) = places.iter().find(|p| p.join("model.onnx").is_file()) {
        return Ok(found.clone());
    }
    let looked: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    bail!(
        "the bundled model was not found in {}; it is in the repository, not in the package: \
         git clone {REPOSITORY}, then lstmc demo --data lstmc/{BUNDLED}",
        looked.join(", ")
    )
}

/// Seconds per step, the best of several rounds.
fn best(session: &mut Session, tokens: &[u32]) -> anyhow::Result<f64> {
    const ROUNDS: usize = 15;
    const CALLS: usize = 100;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for &token in tokens.iter().cycle().take(CALLS) {
            session.step(token)?;
        }
        best = best.min(started.elapsed().as_secs_f64() / CALLS as f64);
    }
    Ok(best)
}

fn suggest(out: &mut impl Write, session: &mut Session, words: &Tokenizer) -> anyhow::Result<()> {
    let last = crate::complete::feed(session, words, PROMPT)?;
    let (mut ids, mut scores) = ([0u32; 5], [0f32; 5]);
    let n = session.top_k_into(last, &mut ids, &mut scores)?;
    write!(out, "\"{PROMPT}\" ->")?;
    for (&id, score) in ids[..n].iter().zip(scores) {
        write!(out, "  {} {:.0}%", words.vocabulary().word(id).unwrap_or("?"), score.exp() * 100.0)?;
    }
    Ok(writeln!(out)?)
}

fn generate(out: &mut impl Write, session: &mut Session, words: &Tokenizer) -> anyhow::Result<()> {
    session.reset();
    let mut last = crate::complete::feed(session, words, "")?;
    let sampling = Sampling::at(0.7);
    let mut rng = Rng::new(4);
    let mut line = vec![];
    for _ in 0..60 {
        last = session.sample(last, &sampling, &mut rng)?;
        match words.vocabulary().word(last).filter(|_| words.end().ok() != Some(last)) {
            None => writeln!(out, "  {}", std::mem::take(&mut line).join(" "))?,
            Some(word) => line.push(word),
        }
    }
    if !line.is_empty() {
        writeln!(out, "  {} ...", line.join(" "))?;
    }
    Ok(())
}
