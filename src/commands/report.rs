//! `lstmc report`: models side by side, as one page.

mod page;

use super::compare::{Measured, read_sentences, sources};
use super::{CpuArgs, bench, read_utf8, write_whole};
use crate::compare::Comparison;
use crate::complete::feed;
use crate::compress::file_name;
use crate::runtime::{Model, Tokenizer};
use crate::terminal;
use crate::{Source, TextOptions};
use std::path::PathBuf;
use std::time::Duration;

/// Rounds in which the layers are timed.
const ROUNDS: u32 = 5;

/// Suggestions for each prompt.
const SUGGESTIONS: usize = 5;

/// Prompts that are taken from the text, and the words of each.
const PROMPTS: usize = 6;
/// See [`PROMPTS`].
const PROMPT_WORDS: usize = 4;

/// Write a page that compares models: plots, layers, where the loss is, suggestions, what bounds speed
///
/// The page is one HTML file that needs no other file and no network; it follows the reader's preference for light or dark, and prints. The first model is the
/// reference. It shows size and time against perplexity, the figures of `lstmc compare`, every weight's representation and bytes, loss by how
/// frequent the next word is and by its place in its line, the best words after some beginnings, what bounds each layer's speed, and how each model was made.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  lstmc report model.onnx small.lstmc --vocab vocab.txt --text test.txt -o report.html\n  \
                        lstmc report a.lstmc b.lstmc --text test.txt --counts train.txt --prompts prompts.txt -o report.html"
)]
pub(crate) struct Args {
    /// The models: .onnx or .lstmc, the reference first
    #[arg(value_name = "MODEL", required = true)]
    pub(crate) models: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: TextOptions,
    #[command(flatten)]
    pub(crate) cpu: CpuArgs,
    /// The text that is measured on
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// A text whose words are counted, to tell frequent from rare ones: the training text. The measured text otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) counts: Option<PathBuf>,
    /// Beginnings of sentences, one a line, to show the best next words of; some of the measured text otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// The page's title
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// Where to write the page
    #[arg(short, long, value_name = "FILE.html")]
    pub(crate) output: PathBuf,
}

/// Best next words, with their probabilities.
type Words = Vec<(String, f32)>;

/// What a page is made of.
struct Findings<'a> {
    sources: &'a [Source],
    text: String,
    sentences: &'a [Vec<u32>],
    comparison: Comparison,
    times: Vec<Duration>,
    /// How often each word occurs, and where.
    counts: (Vec<usize>, String),
    /// Prompts, and the best next words of each model.
    suggestions: Vec<(String, Vec<Words>)>,
    /// What bounds the layers, as a figure of each model.
    rooflines: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    crate::runtime::file::check_place(&args.output)?;
    let sources = sources(&args.models, &args.reading)?;
    let sentences = read_sentences(&args.text, super::tokenizer(&sources[0])?)?;
    let measured = Measured::of(&sources, &sentences, &args.text, args.cpu, super::compare::BOOTSTRAP)?;
    write(args, &sources, &sentences, measured)
}

/// Writes the page of models that were compared.
pub(crate) fn write(
    args: &Args,
    sources: &[Source],
    sentences: &[Vec<u32>],
    measured: Measured,
) -> anyhow::Result<()> {
    let (tokenizer, options) = (super::tokenizer(&sources[0])?, args.cpu.options());
    let bar = terminal::progress(sources.len(), "models' layers timed");
    let roofline = |source: &Source| {
        let found = bench::roofline::measure(source, options.level, ROUNDS)?;
        bar.inc(1);
        Ok(bench::plot::svg(&found, &page::name(source)))
    };
    let rooflines = sources.iter().map(roofline).collect::<anyhow::Result<_>>()?;
    bar.finish_and_clear();
    let findings = Findings {
        text: file_name(&args.text),
        sentences,
        counts: counts(args, tokenizer, sentences)?,
        suggestions: suggestions(args, tokenizer, &measured.models, sentences)?,
        comparison: measured.comparison,
        times: measured.times,
        rooflines,
        sources,
    };
    let page = page::write(&findings, args.title.as_deref(), options.level)?;
    Ok(write_whole(&args.output, page.as_bytes())?)
}

/// How often each word occurs, and the text's name.
fn counts(
    args: &Args,
    tokenizer: &Tokenizer,
    sentences: &[Vec<u32>],
) -> anyhow::Result<(Vec<usize>, String)> {
    let mut counts = vec![0; tokenizer.vocabulary().len()];
    let mut add = |tokens: &[u32]| tokens.iter().for_each(|&t| counts[t as usize] += 1);
    let path = args.counts.as_ref().unwrap_or(&args.text);
    match &args.counts {
        Some(path) => add(&super::read_text(path, tokenizer)?.tokens),
        None => sentences.iter().for_each(|s| add(s)),
    }
    Ok((counts, file_name(path)))
}

/// Prompts, and the best words of every model after them.
fn suggestions(
    args: &Args,
    tokenizer: &Tokenizer,
    models: &[Model],
    sentences: &[Vec<u32>],
) -> anyhow::Result<Vec<(String, Vec<Words>)>> {
    let prompts: Vec<String> = match &args.prompts {
        Some(path) => read_utf8(path)?.lines().filter(|l| !l.trim().is_empty()).map(String::from).collect(),
        None => {
            let long: Vec<&Vec<u32>> = sentences.iter().filter(|s| s.len() > PROMPT_WORDS).collect();
            let every = long.len().div_ceil(PROMPTS).max(1);
            let start = |s: &&Vec<u32>| tokenizer.decode(&s[..PROMPT_WORDS]).trim().to_string();
            long.iter().step_by(every).map(start).collect()
        }
    };
    let k = SUGGESTIONS.min(tokenizer.vocabulary().len());
    let best = |model: &Model, prompt: &str| {
        let mut session = model.session();
        let last = feed(&mut session, tokenizer, prompt)?;
        let (mut ids, mut scores) = (vec![0u32; k], vec![0f32; k]);
        let n = session.top_k_into(last, &mut ids, &mut scores)?;
        let word = |id: u32| tokenizer.vocabulary().word(id).unwrap_or("?").to_string();
        Ok(ids[..n].iter().zip(&scores).map(|(&id, score)| (word(id), score.exp())).collect())
    };
    let of = |prompt: String| {
        let all = models.iter().map(|m| best(m, &prompt)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok((prompt, all))
    };
    prompts.into_iter().map(of).collect()
}
