//! `lstmc suggest`: likely next words.

use super::{CpuArgs, ModelArgs, tokenizer};
use crate::Error;
use crate::complete::{Suggestion, suggest};
use crate::runtime::Units;
use crate::terminal::{self, Usage};
use std::io::Write;

/// Suggest the next words of a text, with their probabilities
///
/// The text is read as the beginning of a sentence: the token for that (such as <s>, or <eos> where there is no other) goes before it, if there is one.
/// Subwords are shown as the text that they add: a blank before one begins a new word.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  lstmc suggest model.lstmc --prompt \"the company said\" -k 5\n  \
                        lstmc suggest model.lstmc --prompt \"the company\" --prefix sa")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The text so far
    #[arg(long)]
    prompt: String,
    /// Only words that begin with this, as of a word that is being typed after the text
    #[arg(long, value_name = "LETTERS", default_value = "")]
    prefix: String,
    /// How many words
    #[arg(short, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Print JSON: a list of {word, text, token, probability, log_probability}; `word` is the token's name, `text` what it adds to the text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let tokenizer = tokenizer(&source)?;
    let model = source.compile(args.cpu.options())?;
    let best = suggest(&model, &args.prompt, &args.prefix, args.k as usize).map_err(usage)?;
    if args.json {
        let list: Vec<_> = best
            .iter()
            .map(|Suggestion { word, text, token, log_probability: score }| {
                serde_json::json!({"word": word, "text": text, "token": token, "probability": score.exp(), "log_probability": score})
            })
            .collect();
        return terminal::json(&list.into());
    }
    let mut out = std::io::stdout().lock();
    for Suggestion { word, text, token: id, log_probability: score } in best {
        // A blank is nothing where a line begins, but is something after itself.
        let text = if text.is_empty() { tokenizer.decode_after(&[id], id) } else { text };
        let is_text = |c: char| !c.is_control() && c != '\u{fffd}';
        let shown = match tokenizer.units() {
            Units::Words | Units::Ids => word,
            // The end of a line, a part of a character, or what is in no text.
            _ if text.is_empty() || !text.chars().all(is_text) => word,
            _ if text.trim().is_empty() => format!("{text:?}"),
            _ => text,
        };
        writeln!(out, "{:5.1}%  {shown}", score.exp() * 100.0)?;
    }
    Ok(())
}

/// A prompt without a token is a mistake in usage.
pub(super) fn usage(error: Error) -> anyhow::Error {
    match error {
        Error::EmptyPrompt => Usage(error.to_string()).into(),
        other => other.into(),
    }
}
