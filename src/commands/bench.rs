//! `lstmc bench`: how fast a model runs here.

mod layers;
pub(crate) mod plot;
pub(crate) mod roofline;

use super::{CpuArgs, ModelArgs};
use crate::backend::{Jit, Level, Options};
use crate::frontend::ir::arbitrary;
use crate::runtime::{Description, Model, Session, SessionError, Streams};
use crate::terminal::{self, thousands};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measure a model's speed on this machine, and what the memory allows
///
/// Three uses, each the best of several rounds: decoding (one step, all logits written), suggesting (one step, the five best words), and
/// scoring a sequence of 200 tokens (log-likelihood of each next word). Beside them the speed at which one product kernel of
/// the same layout, large enough to be nothing but memory traffic, reads its weights in the same run.
///
/// With `--streams`, also a step that many streams take together, per token: a weight is loaded once for all of them. With `--roofline`, also what bounds each layer: its bytes and multiply-adds against what one core was measured to do at most.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  lstmc bench model.onnx --json\n  lstmc bench model.lstmc --roofline --plot roofline.svg"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Threads that take a step together and that score a sequence. Suggesting runs on one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
    /// Measure also so many streams that take their steps together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    streams: Option<u16>,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure every layer, and how near it is to what one core can do
    #[arg(long, conflicts_with = "threads")]
    roofline: bool,
    /// Write the roofline as a figure (SVG)
    #[arg(long, value_name = "FILE", requires = "roofline")]
    plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Calls of one round.
const CALLS: usize = 100;

/// Tokens of the sequence measurement.
const SEQUENCE: usize = 200;

/// Words asked for by the suggestion measurement.
const SUGGESTIONS: usize = 5;

/// Shape of the yardstick: a linear map of 8 MB, as the decoder of a small model.
const YARDSTICK: (usize, usize) = (9984, 200);

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let started = Instant::now();
    let threads = usize::from(args.threads);
    let options = Options { threads, step_threads: threads, ..args.cpu.options() };
    let model = source.compile(options)?;
    let compile = started.elapsed();
    let layout = model.layout().clone();
    let mut session = model.session();
    let level = options.level;
    let yardstick = yardstick(level)?;
    let mut panel = yardstick.session();
    let rounds = args.rounds;

    // Interleaved, so that a busy moment of the machine hits all alike.
    let (mut decode, mut best, mut sequence, mut kernel) = (vec![], vec![], vec![], vec![]);
    let (mut streams, mut together) = (args.streams.map(|n| model.streams(n.into())), vec![]);
    let tokens = tokens(&model);
    let (mut ids, mut scores) = ([0u32; SUGGESTIONS], [0f32; SUGGESTIONS]);
    let bar = terminal::progress(rounds as usize, "measuring");
    for _ in 0..rounds {
        decode.push(round(&mut session, |s, i| s.step(tokens[i % SEQUENCE]).map(|_| ()))?);
        best.push(round(&mut session, |s, i| {
            s.top_k_into(tokens[i % SEQUENCE], &mut ids, &mut scores).map(|_| ())
        })?);
        session.reset();
        let started = Instant::now();
        session.score(&tokens)?;
        sequence.push(started.elapsed() / SEQUENCE as u32);
        if let Some(streams) = &mut streams {
            together.push(round_of_streams(streams, &tokens)?);
        }
        kernel.push(round(&mut panel, |s, i| s.step(i as u32 % 7).map(|_| ()))?);
        bar.inc(1);
    }
    bar.finish_and_clear();

    let bytes = layout.weight_bytes_per_token;
    let [decode, best, sequence, kernel] = [decode, best, sequence, kernel].map(Spread::of);
    let together = args.streams.map(|n| (n, Spread::of(together)));
    let kernel_rate = rate(yardstick.layout().weight_bytes_per_token, kernel.best);
    let cpu = super::processor();
    let roofline = args.roofline.then(|| roofline::measure(&source, level, rounds)).transpose()?;
    if let (Some(file), Some(roofline)) = (&args.plot, &roofline) {
        let name = source.path.file_stem().unwrap_or_default().to_string_lossy();
        super::write_whole(file, plot::svg(roofline, &name).as_bytes())?;
    }
    if args.json {
        let mut value = serde_json::json!({
            "decode_us_per_token": micros(decode.best),
            "decode_median_us_per_token": micros(decode.median),
            "top_k_us_per_token": micros(best.best),
            "top_k_median_us_per_token": micros(best.median),
            "sequence_us_per_token": micros(sequence.best),
            "sequence_median_us_per_token": micros(sequence.median),
            "threads": args.threads,
            "cpu": cpu,
            "level": level.name(),
            "compile_ms": compile.as_secs_f64() * 1e3,
            "weight_bytes_per_token": bytes,
            "decode_gb_per_second": rate(bytes, decode.best),
            "kernel_gb_per_second": kernel_rate,
        });
        if let Some((n, spread)) = together {
            value["streams"] = n.into();
            value["streams_us_per_token"] = micros(spread.best).into();
            value["streams_median_us_per_token"] = micros(spread.median).into();
        }
        if let Some(roofline) = roofline {
            value["roofline"] = roofline.json();
        }
        return terminal::json(&value);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{cpu}, level {level}; compiled in {:.1} ms", compile.as_secs_f64() * 1e3)?;
    writeln!(out, "{} bytes of weights read per token", thousands(bytes))?;
    writeln!(out)?;
    writeln!(out, "{:40} {:>10} {:>10}", "us per token", "best", "median")?;
    for (what, spread) in [
        ("decode (one step, all logits)", &decode),
        ("suggest (one step, five best words)", &best),
        ("score a sequence of 200", &sequence),
    ] {
        writeln!(out, "{what:40} {:>10.1} {:>10.1}", micros(spread.best), micros(spread.median))?;
    }
    if let Some((n, spread)) = together {
        let what = format!("{n} streams in step, all logits, a token");
        writeln!(out, "{what:40} {:>10.1} {:>10.1}", micros(spread.best), micros(spread.median))?;
    }
    writeln!(out)?;
    writeln!(out, "{:40} {:>10.1} GB/s", "decode reads weights at", rate(bytes, decode.best))?;
    writeln!(out, "{:40} {kernel_rate:>10.1} GB/s", "a bare product of 9984x200 reads at")?;
    if let Some(roofline) = roofline {
        writeln!(out)?;
        roofline.text(&mut out)?;
    }
    Ok(())
}

/// The sequence that is measured, and one more to predict.
fn tokens(model: &Model) -> Vec<u32> {
    let words = model.layout().vocabulary;
    (0..=SEQUENCE).map(|i| (i * 7919 % words) as u32).collect()
}

/// Gigabytes per second.
fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e9
}

/// Best and median of several rounds.
#[derive(Clone, Copy)]
struct Spread {
    best: Duration,
    median: Duration,
}

impl Spread {
    fn of(mut all: Vec<Duration>) -> Spread {
        all.sort();
        Spread { best: all[0], median: all[all.len() / 2] }
    }
}

fn micros(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

/// The time of one call, from enough calls to take some milliseconds.
fn round<E>(
    session: &mut Session,
    mut call: impl FnMut(&mut Session, usize) -> Result<(), E>,
) -> Result<Duration, E> {
    session.reset();
    let started = Instant::now();
    for i in 0..CALLS {
        call(session, i)?;
    }
    Ok(started.elapsed() / CALLS as u32)
}

/// The time per token of steps that streams take together, as many as come near the calls of a round.
fn round_of_streams(streams: &mut Streams, tokens: &[u32]) -> Result<Duration, SessionError> {
    let n = streams.len();
    (0..n).for_each(|stream| streams.reset(stream));
    let steps = CALLS.div_ceil(n);
    let mut next = vec![0; n];
    let started = Instant::now();
    for i in 0..steps {
        for (stream, next) in next.iter_mut().enumerate() {
            *next = tokens[(i + 3 * stream) % SEQUENCE];
        }
        streams.step(&next)?;
    }
    Ok(started.elapsed() / (steps * n) as u32)
}

/// A model that is nothing but one large product: an embedding row goes straight into the output layer.
fn yardstick(level: Level) -> anyhow::Result<Model> {
    let (words, features) = YARDSTICK;
    let graph = arbitrary::language_model(features, 0, words, 1);
    let jit = Jit::new(&graph, Options { level, ..Options::default() })?;
    Ok(Model::new(Arc::new(jit), None, Description::default())?)
}
