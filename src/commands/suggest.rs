//! `lstmc suggest`: likely next words.

use super::{CpuArgs, ModelArgs, tokenizer};
use crate::runtime::{Session, Tokenizer};
use crate::terminal::{self, Usage};
use anyhow::Context;
use std::io::Write;

/// Suggest the next words of a text, with their probabilities
///
/// The text is read as the beginning of a sentence: the token for that (such as <s>, or <eos> where there is no other) goes before it, if there is one.
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
    /// Print JSON: a list of {word, token, probability, log_probability}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let tokenizer = tokenizer(&source)?;
    let words = tokenizer.vocabulary();
    let model = source.compile(args.cpu.options())?;
    let mut session = model.session();
    let last = feed(&mut session, tokenizer, &args.prompt)?;
    let k = (args.k as usize).min(words.len());
    let (mut ids, mut scores) = (vec![0u32; k], vec![0f32; k]);
    let n = match &args.prefix[..] {
        "" => session.top_k_into(last, &mut ids, &mut scores)?,
        prefix => session.top_k_among(last, words.with_prefix(prefix), &mut ids, &mut scores)?,
    };
    let best =
        ids[..n].iter().zip(&scores[..n]).map(|(&id, &score)| (words.word(id).unwrap_or("?"), id, score));
    if args.json {
        let list: Vec<_> = best
            .map(|(word, id, score)| {
                serde_json::json!({"word": word, "token": id, "probability": score.exp(), "log_probability": score})
            })
            .collect();
        return terminal::json(&list.into());
    }
    let mut out = std::io::stdout().lock();
    for (word, _, score) in best {
        writeln!(out, "{:5.1}%  {word}", score.exp() * 100.0)?;
    }
    Ok(())
}

/// Consumes all of a prompt but its last token, which it returns.
pub(crate) fn feed(session: &mut Session, tokenizer: &Tokenizer, prompt: &str) -> anyhow::Result<u32> {
    let encoded = tokenizer.encode(prompt).context("the prompt")?;
    let tokens: Vec<u32> = tokenizer.begin().ok().into_iter().chain(encoded.tokens).collect();
    let Some((&last, before)) = tokens.split_last() else {
        return Err(Usage("the prompt is empty; give at least one word".into()).into());
    };
    for &token in before {
        session.advance(token)?;
    }
    Ok(last)
}
