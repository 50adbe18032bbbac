//! `lstmc-peers`: lstmc beside other engines that run the same ONNX model, in one process and one table.
//!
//! ```text
//!   for each round:  for each measurement:  lstmc, ONNX Runtime, rten, tract, first of all another one each round
//! ```
//!
//! Rounds go through all engines in turn, so that a busy moment of the machine hits all alike. Before anything is timed, every engine's logits are
//! compared with ours: an engine that computes something else is shown, not timed in silence.

mod engine;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
#[cfg(feature = "rten")]
mod rten;
mod table;
#[cfg(feature = "tract")]
mod tract;

use anyhow::ensure;
use clap::Parser;
use engine::{Engine, Lstmc, Shape};
use std::io::IsTerminal;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use table::{Measure, Row, Spread};

/// Tokens of the sequence measurement.
const SEQUENCE: usize = 200;

/// How long a round of steps lasts. The same for all engines: on a machine that is not quiet, the shorter rounds would be the
/// luckier ones.
const ROUND: Duration = Duration::from_millis(20);

/// Steps between two looks at the clock.
const STEPS: usize = 5;

/// Steps before a round, so that the weights are where this engine's own steps leave them.
const WARM_UP: usize = 3;

/// Tokens on which logits are compared before anything is timed.
const COMPARED: usize = 20;

/// Between an engine's round and the next: threads of ours and theirs that spin before they sleep are given time to fall asleep.
const PAUSE: Duration = Duration::from_millis(10);

/// Time lstmc beside ONNX Runtime, rten and tract on the same model and tokens
#[derive(Parser, Debug)]
#[command(
    after_help = "Example:\n  lstmc-peers model.onnx --int8 model.int8.onnx --lstmc-int8 model.int8.lstmc --ort libonnxruntime.so"
)]
pub(crate) struct Args {
    /// ONNX model with inputs tokens, h0, c0 and outputs logits, hn, cn
    model: PathBuf,
    /// The same model with int8 weights, for the peers. Given several times, each peer takes the first that it runs
    #[arg(long, value_name = "ONNX")]
    int8: Vec<PathBuf>,
    /// The same model with int8 weights, for lstmc
    #[arg(long, value_name = "LSTMC")]
    lstmc_int8: Option<PathBuf>,
    /// ONNX Runtime's library; without it that peer is left out
    #[arg(long, value_name = "LIBRARY")]
    ort: Option<PathBuf>,
    /// Threads of every engine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Rounds
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An engine with a model of one precision, or why there is none.
struct Contestant {
    engine: &'static str,
    precision: &'static str,
    model: PathBuf,
    runs: anyhow::Result<Box<dyn Engine>>,
}

/// An engine with the first of `models` that it runs. None where there are no models.
fn contestant<E: Engine + 'static>(
    engine: &'static str,
    precision: &'static str,
    models: &[PathBuf],
    load: impl Fn(&Path) -> anyhow::Result<E>,
) -> Option<Contestant> {
    let mut refused = None;
    for model in models {
        // A peer that panics over a model refuses it.
        let runs = std::panic::catch_unwind(AssertUnwindSafe(|| -> anyhow::Result<Box<dyn Engine>> {
            let mut engine = load(model)?;
            engine.step(0)?;
            Ok(Box::new(engine))
        }));
        let runs = runs.unwrap_or_else(|_| Err(anyhow::anyhow!("panicked over the model")));
        let found = Contestant { engine, precision, model: model.clone(), runs };
        if found.runs.is_ok() {
            return Some(found);
        }
        refused = refused.or(Some(found));
    }
    refused
}

fn contestants(args: &Args, shape: Shape) -> anyhow::Result<Vec<Contestant>> {
    let threads = args.threads as usize;
    let mut all = vec![];
    #[cfg(feature = "onnxruntime")]
    let environment = args.ort.as_ref().map(|library| onnxruntime::open(library)).transpose()?;
    let model = std::slice::from_ref(&args.model);
    for (precision, ours, theirs) in [("f32", model, model), ("int8", args.lstmc_int8.as_slice(), &args.int8)]
    {
        all.extend(contestant("lstmc", precision, ours, |model| Lstmc::load(model, threads)));
        #[cfg(feature = "onnxruntime")]
        if let Some(environment) = &environment {
            let load = |model: &Path| onnxruntime::OnnxRuntime::load(environment, model, shape, threads);
            all.extend(contestant("ONNX Runtime", precision, theirs, load));
        }
        #[cfg(feature = "rten")]
        all.extend(contestant("rten", precision, theirs, |model| rten::Rten::load(model, shape, threads)));
        #[cfg(feature = "tract")]
        all.extend(contestant("tract", precision, theirs, |model| {
            tract::Tract::load(model, shape, threads, SEQUENCE)
        }));
    }
    Ok(all)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let shape = Shape::of(&args.model)?;
    let tokens: Vec<u32> = (0..=SEQUENCE).map(|i| (i * 7919 % shape.vocabulary) as u32).collect();
    let mut all = contestants(&args, shape)?;
    let differences = compare(&mut all, &tokens)?;

    let mut times: Vec<[Vec<Duration>; Measure::ALL.len()]> =
        all.iter().map(|_| Default::default()).collect();
    for round in 0..args.rounds as usize {
        for (m, measure) in Measure::ALL.into_iter().enumerate() {
            for i in 0..all.len() {
                let i = (i + round) % all.len();
                let Ok(engine) = &mut all[i].runs else { continue };
                match time(engine.as_mut(), measure, &tokens) {
                    Ok(t) => times[i][m].push(t),
                    Err(e) => all[i].runs = Err(e),
                }
                std::thread::sleep(PAUSE);
            }
        }
        if std::io::stderr().is_terminal() {
            eprint!("\rround {} of {} ", round + 1, args.rounds);
        }
    }

    let mut rows = vec![];
    for ((of, times), difference) in all.iter().zip(times).zip(differences) {
        let result = match &of.runs {
            Ok(_) => Ok(times.map(Spread::of)),
            Err(e) => Err(format!("{e:#}").lines().next().unwrap_or_default().to_string()),
        };
        let model = of.model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        rows.push(Row { engine: of.engine, precision: of.precision, model, difference, result });
    }
    table::print(&args, &rows)
}

/// The largest difference of each engine's logits to those of our f32 model, over the first tokens.
fn compare(all: &mut [Contestant], tokens: &[u32]) -> anyhow::Result<Vec<Option<f32>>> {
    let mut expected: Vec<Vec<f32>> = vec![];
    let mut differences = vec![];
    for of in all {
        let Ok(engine) = &mut of.runs else {
            differences.push(None);
            continue;
        };
        let mut run = || -> anyhow::Result<Vec<Vec<f32>>> {
            engine.reset()?;
            tokens[..COMPARED].iter().map(|&t| Ok(engine.step(t)?.to_vec())).collect()
        };
        match run() {
            Ok(found) => {
                if expected.is_empty() {
                    ensure!(of.engine == "lstmc", "lstmc comes first");
                    expected.clone_from(&found);
                }
                let pairs = found.iter().flatten().zip(expected.iter().flatten());
                differences.push(Some(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)));
            }
            Err(e) => {
                of.runs = Err(e);
                differences.push(None);
            }
        }
    }
    Ok(differences)
}

/// One round: the time per token.
fn time(engine: &mut dyn Engine, measure: Measure, tokens: &[u32]) -> anyhow::Result<Duration> {
    engine.reset()?;
    match measure {
        Measure::Decode => time_steps(tokens, |token| engine.step(token).map(|logits| logits[0])),
        Measure::Suggest => time_steps(tokens, |token| engine.suggest(token)),
        Measure::Sequence => {
            let started = Instant::now();
            engine.sequence(tokens)?;
            Ok(started.elapsed() / SEQUENCE as u32)
        }
    }
}

/// Steps for as long as a round lasts.
fn time_steps<T>(tokens: &[u32], mut step: impl FnMut(u32) -> anyhow::Result<T>) -> anyhow::Result<Duration> {
    let mut tokens = tokens.iter().cycle();
    let mut run = |steps: usize| -> anyhow::Result<()> {
        for &token in tokens.by_ref().take(steps) {
            std::hint::black_box(step(token)?);
        }
        Ok(())
    };
    run(WARM_UP)?;
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < ROUND {
        run(STEPS)?;
        done += STEPS as u32;
    }
    Ok(started.elapsed() / done)
}
