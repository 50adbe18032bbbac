//! `lstmc eval`: perplexity.

use super::{CpuArgs, ModelArgs, open, tokenizer};
use crate::backend::Options;
use crate::evaluate::table;
use crate::terminal::{self, Usage, thousands};
use crate::{Engine, Error, Reading, evaluate};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Measure a model's perplexity on a text
///
/// The text is cut into the model's tokens (--tokenizer): for words, at white space; every newline is the token for a line's end, such as <eos>; what the
/// vocabulary lacks becomes the token for that, such as <unk>. One stream, state carried from zero through the whole text; perplexity is the
/// exponential of the mean negative log-likelihood of every token but the first. With --sentences, every line by itself: from the initial
/// state, after the token for a sentence's beginning, with that for its end, all but the first predicted.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  lstmc eval model.onnx --vocab vocab.txt --text test.txt --json\n  \
                        lstmc eval model.onnx --vocab tokens.txt --text test.txt --sentences --per-line scores.tsv")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The text; - for standard input
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Read every line by itself, from the initial state
    #[arg(long)]
    sentences: bool,
    /// Write a line for each line of the text: number, tokens, natural log-probability, unknown words
    #[arg(long, value_name = "FILE.tsv")]
    per_line: Option<PathBuf>,
    /// What computes: generated code, or the interpreter that defines what a model means
    #[arg(long, value_enum, default_value_t = Engine::Jit)]
    engine: Engine,
    /// Threads of matrix products; 0 means all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print JSON: perplexity, tokens, unknown, seconds, tokens_per_second, word_perplexity, bits_per_character, bits_per_byte, unknown_rate,
    /// unknown_loss_share, lines
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let tokenizer = tokenizer(&source)?;
    let reading = if args.sentences { Reading::Sentences } else { Reading::Stream };
    if args.sentences {
        super::note_sentences(tokenizer)?;
    }
    let options = Options { threads: args.threads, ..args.cpu.options() };
    let input = open(&args.text)?;
    let bar = terminal::spinner("tokens scored");
    let started = Instant::now();
    let mut lines = vec![];
    let mut write = table(&mut lines);
    let mut each = |line| match args.per_line.is_some() {
        true => write(line).map_err(|reason| Error::Write { path: "memory".into(), reason }),
        false => Ok(()),
    };
    let found = evaluate(
        (args.engine, options),
        &source.graph,
        tokenizer,
        reading,
        (&args.text, input),
        &mut each,
        &mut |n| bar.set_position(n as u64),
    )?;
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    drop(write);
    if let Some(note) = crate::text::unknown_note(found.unknown, found.tokens, tokenizer) {
        terminal::note(&format!("{}: {note}", args.text.display()));
    }
    if let Some(path) = &args.per_line {
        super::write_whole(path, &lines)?;
    }
    if found.predicted == 0 {
        return Err(Usage(format!("{}: perplexity needs at least two tokens", args.text.display())).into());
    }
    let rate = found.predicted as f64 / seconds;
    let unknown_rate = found.unknown as f64 / found.tokens as f64;
    let unknown_loss_share = found.unknown_loss / found.loss;
    if args.json {
        return terminal::json(&serde_json::json!({
            "perplexity": found.perplexity(),
            "tokens": found.tokens,
            "unknown": found.unknown,
            "seconds": seconds,
            "tokens_per_second": rate,
            "word_perplexity": found.word_perplexity(),
            "bits_per_character": found.bits_per_character(),
            "bits_per_byte": found.bits_per_byte(),
            "unknown_rate": unknown_rate,
            "unknown_loss_share": unknown_loss_share,
            "lines": found.lines,
        }));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "perplexity {:.4}", found.perplexity())?;
    writeln!(
        out,
        "{} tokens, {} unknown, {seconds:.1} s, {} tokens/s",
        thousands(found.tokens),
        thousands(found.unknown),
        thousands(rate as usize)
    )?;
    writeln!(
        out,
        "per word {:.4}, {:.4} bits per character, {:.4} bits per byte; {:.2}% of the loss is the unknown token's",
        found.word_perplexity(),
        found.bits_per_character(),
        found.bits_per_byte(),
        100.0 * unknown_loss_share
    )?;
    Ok(())
}
