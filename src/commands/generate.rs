//! `lstmc generate`: text.

use super::suggest::usage;
use super::{CpuArgs, ModelArgs, tokenizer};
use crate::Error;
use crate::complete::Generator;
use crate::runtime::Sampling;
use crate::terminal::{self, Usage};
use std::io::{BufRead, Write};

/// Generate text, token by token
///
/// Tokens are drawn from the model's distribution; the same seed gives the same text. The token for a line's end, such as <eos>, ends a line.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  lstmc generate model.lstmc --prompt \"the company\" --tokens 40 --temperature 0.8 --seed 1\n  \
                        lstmc generate model.lstmc --stdin --top-p 0.9 --repetition-penalty 1.2 < prompts.txt"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The text so far
    #[arg(long, default_value = "")]
    prompt: String,
    /// Take each line of standard input as a prompt; print a line for each
    #[arg(long, conflicts_with = "prompt")]
    stdin: bool,
    /// How many tokens, at most
    #[arg(long, default_value_t = 50)]
    tokens: usize,
    /// Stop at the end of the sentence; --stdin implies it
    #[arg(long)]
    sentence: bool,
    /// 1 is the model's own distribution, less is more likely tokens, 0 always the likeliest
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Make tokens of the text so far less likely: 1 changes nothing, 1.2 is usual
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON: {text, tokens}, in a line for each prompt with --stdin
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
    if let Some(p) = args.top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
        return Err(Usage(format!("--top-p {p}: expected a number above 0 and at most 1")).into());
    }
    if !(args.repetition_penalty > 0.0 && args.repetition_penalty.is_finite()) {
        let penalty = args.repetition_penalty;
        return Err(Usage(format!("--repetition-penalty {penalty}: expected a number above 0")).into());
    }
    let source = args.model.read()?;
    tokenizer(&source)?;
    let model = source.compile(args.cpu.options())?;
    let mut sampling = Sampling::at(args.temperature);
    (sampling.top_k, sampling.top_p) = (args.top_k, args.top_p);
    sampling.repetition_penalty = args.repetition_penalty;
    let mut generator = Generator::new(&model, sampling, args.seed)?;
    if !args.stdin {
        let (text, tokens) = draw(args, &mut generator, &args.prompt, args.sentence)?;
        if args.json {
            return terminal::json(&serde_json::json!({"text": text, "tokens": tokens}));
        }
        if !text.ends_with('\n') {
            writeln!(std::io::stdout())?;
        }
        return Ok(());
    }
    for line in std::io::stdin().lock().lines() {
        let (text, tokens) = draw(args, &mut generator, line?.trim_end_matches('\r'), true)?;
        match args.json {
            true => writeln!(std::io::stdout(), "{}", serde_json::json!({"text": text, "tokens": tokens}))?,
            false if !text.ends_with('\n') => writeln!(std::io::stdout())?,
            false => {}
        }
    }
    Ok(())
}

/// A text, which is printed as it is drawn unless JSON is asked for; and its tokens after the prompt.
fn draw(
    args: &Args,
    generator: &mut Generator,
    prompt: &str,
    sentence: bool,
) -> anyhow::Result<(String, Vec<u32>)> {
    let mut out = std::io::stdout().lock();
    let mut show = |new: &str| -> anyhow::Result<()> {
        if !args.json {
            write!(out, "{new}")?;
            out.flush()?;
        }
        Ok(())
    };
    let drawn = generator.text(prompt, args.tokens, sentence, &mut show);
    drawn.map_err(|error| match error.downcast::<Error>() {
        Ok(error) => usage(error),
        Err(other) => other,
    })
}
