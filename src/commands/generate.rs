//! `lstmc generate`: text.

use super::suggest::feed;
use super::{CpuArgs, ModelArgs, tokenizer};
use crate::runtime::{Rng, Sampling, Units};
use crate::terminal::{self, Usage};
use std::io::Write;

/// Generate text, word by word
///
/// Words are drawn from the model's distribution; the same seed gives the same text. Each <eos> ends a line.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  lstmc generate model.lstmc --prompt \"the company\" --tokens 40 --temperature 0.8 --seed 1"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The text so far
    #[arg(long, default_value = "")]
    prompt: String,
    /// How many words
    #[arg(long, default_value_t = 50)]
    tokens: usize,
    /// 1 is the model's own distribution, less is more likely words, 0 always the likeliest
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Draw from the K likeliest words only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON: {text, tokens}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(
            Usage(format!("--temperature {}: expected a number of at least 0", args.temperature)).into()
        );
    }
    if args.top_k == Some(0) {
        return Err(Usage("--top-k 0: expected at least 1".into()).into());
    }
    let source = args.model.read()?;
    let tokenizer = tokenizer(&source)?;
    let model = source.compile(args.cpu.options())?;
    let mut session = model.session();
    let mut last = feed(&mut session, tokenizer, &args.prompt)?;
    let mut sampling = Sampling::at(args.temperature);
    sampling.top_k = args.top_k;
    let mut rng = Rng::new(args.seed);
    // What is printed goes on from the prompt as it was given, whose unknown words have no token of their own.
    let mut text = match tokenizer.units() {
        Units::Words | Units::Ids => args.prompt.split_whitespace().collect::<Vec<_>>().join(" "),
        _ => args.prompt.clone(),
    };
    let mut tokens = vec![];
    // The tokens of the line so far, and the length of their text that was shown.
    let mut line = tokenizer.encode(&args.prompt)?.tokens;
    let mut shown = tokenizer.decode(&line).len();
    let mut out = std::io::stdout().lock();
    if !args.json {
        write!(out, "{text}")?;
    }
    for _ in 0..args.tokens {
        last = session.sample(last, &sampling, &mut rng)?;
        tokens.push(last);
        line.push(last);
        let decoded = tokenizer.decode(&line);
        // Bytes that are not yet a character wait for the rest of it.
        let new = decoded.get(shown..).unwrap_or("").trim_end_matches('\u{fffd}');
        shown += new.len();
        text.push_str(new);
        if text.ends_with('\n') {
            (line, shown) = (vec![], 0);
        }
        if !args.json {
            write!(out, "{new}")?;
            out.flush()?;
        }
    }
    if args.json {
        drop(out);
        return terminal::json(&serde_json::json!({"text": text, "tokens": tokens}));
    }
    if !text.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(())
}
