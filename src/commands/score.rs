//! `lstmc score`: log-probabilities of sentences, as a stream.

use super::{CpuArgs, ModelArgs, open, tokenizer};
use crate::backend::Options;
use crate::evaluate::SENTENCES;
use crate::runtime::{Batch, Encoded, TextError, TextReader};
use crate::terminal;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};

/// Score sentences: a line each, log-probability and number of tokens
///
/// Reads lines as long as there are any, and prints a line for each, in order: the natural log-probability of the line's tokens and of the end of the
/// sentence, given its beginning; a tab; and how many tokens that are. Lines that are there are scored together, on all cores.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  lstmc score model.lstmc < sentences.txt > scores.tsv\n  \
                        lstmc score model.onnx --vocab tokens.txt --bos \"<s>\" --text sentences.txt --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The sentences; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    text: PathBuf,
    /// Threads; 0 means all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print a line of JSON for each sentence: {log_probability, tokens, unknown}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    super::note_sentences(tokenizer(&source)?)?;
    let model = source.compile(Options { threads: 1, ..args.cpu.options() })?;
    let mut batch = model.batch(args.threads);
    let lines = read(args, &source);
    let bar = terminal::spinner("sentences scored");
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // A line that cannot be read ends the run when those before it are scored.
    let mut failed = None;
    while let (false, Ok(first)) = (failed.is_some(), lines.recv()) {
        let mut sentences = vec![];
        let (mut next, mut tokens) = (Some(first), 0);
        while let Some(line) = next.take() {
            match line {
                Ok(sentence) => {
                    tokens += sentence.tokens.len();
                    sentences.push(sentence);
                }
                Err(error) => failed = Some(error),
            }
            if failed.is_none() && tokens < SENTENCES {
                next = lines.try_recv().ok();
            }
        }
        write(&mut out, &mut batch, sentences, args.json)?;
        bar.inc(tokens as u64);
    }
    bar.finish_and_clear();
    match failed {
        Some(error) => Err(crate::text::in_file(&args.text, error).into()),
        None => Ok(()),
    }
}

/// Reads sentences on a thread of its own, so that what is there can be taken together without waiting for more.
fn read(args: &Args, source: &crate::Source) -> Receiver<Result<Encoded, TextError>> {
    let (send, lines) = sync_channel(1 << 14);
    let (path, tokenizer) = (args.text.clone(), source.tokenizer.clone());
    std::thread::spawn(move || {
        let Some(tokenizer) = tokenizer else { return };
        let mut reader = match open(&path) {
            Ok(input) => TextReader::new(&tokenizer, input),
            Err(error) => {
                // Nobody waits for it if the other end is gone.
                let _ = send.send(Err(TextError::Read(std::io::Error::other(format!("{error:#}")))));
                return;
            }
        };
        loop {
            let line = match reader.sentence() {
                Ok(Some((sentence, _))) => Ok(sentence),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn write(
    out: &mut impl Write,
    batch: &mut Batch,
    mut sentences: Vec<Encoded>,
    json: bool,
) -> anyhow::Result<()> {
    let texts: Vec<Vec<u32>> = sentences.iter_mut().map(|s| std::mem::take(&mut s.tokens)).collect();
    let found = batch.score(&texts)?;
    for (sentence, found) in sentences.iter().zip(&found) {
        let sum: f64 = found.iter().map(|&p| f64::from(p)).sum();
        match json {
            true => writeln!(
                out,
                "{}",
                serde_json::json!({"log_probability": sum, "tokens": found.len(), "unknown": sentence.unknown})
            )?,
            false => writeln!(out, "{sum:.6}\t{}", found.len())?,
        }
    }
    Ok(out.flush()?)
}
