//! `lstmc eval`: perplexity.

use super::texts::text;
use super::{CpuArgs, ModelArgs};
use crate::backend::Options;
use crate::terminal::{self, thousands};
use crate::{Engine, Scorer};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Measure a model's perplexity on a text
///
/// The text is split on white space, every newline is the token <eos>, unknown words become <unk>. One stream, state carried from zero
/// through the whole text; perplexity is the exponential of the mean negative log-likelihood of every token but the first.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  lstmc eval model.onnx --vocab vocab.txt --text test.txt --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// What computes: generated code, or the interpreter that defines what a model means
    #[arg(long, value_enum, default_value_t = Engine::Jit)]
    engine: Engine,
    /// Threads of matrix products; 0 means all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print JSON: perplexity, tokens, unknown, seconds, tokens_per_second
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let text = text(&args.text, &source, "perplexity")?;
    let bar = terminal::progress(text.tokens.len() - 1, "scoring");
    let started = Instant::now();
    let options = Options { threads: args.threads, ..args.cpu.options() };
    let mut scorer = Scorer::new(args.engine, options, &text.tokens, |n| bar.set_position(n as u64));
    let perplexity = scorer.perplexity(&source.graph)?;
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let rate = (text.tokens.len() - 1) as f64 / seconds;
    if args.json {
        return terminal::json(&serde_json::json!({
            "perplexity": perplexity,
            "tokens": text.tokens.len(),
            "unknown": text.unknown,
            "seconds": seconds,
            "tokens_per_second": rate,
        }));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "perplexity {perplexity:.4}")?;
    writeln!(
        out,
        "{} tokens, {} unknown, {seconds:.1} s, {} tokens/s",
        thousands(text.tokens.len()),
        thousands(text.unknown),
        thousands(rate as usize)
    )?;
    Ok(())
}
