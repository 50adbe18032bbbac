//! `lstmc rescore`: n-best lists.

mod lists;

use super::{CpuArgs, ModelArgs, tokenizer};
use crate::backend::Options;
use crate::terminal::{self, thousands};
use lists::{Hypothesis, Lists};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Rescore n-best lists of a speech recogniser or translator
///
/// A hypothesis' total is its own score, plus --weight times its natural log-probability, plus --length-bonus times the number of its words. The best
/// one of each utterance is printed, or, with --all, all in order. What hypotheses have in common at their beginnings is computed once.
///
/// Lists are lines of utterance, score and text, separated by tabs; or Kaldi's text (utterance-N and the words of hypothesis N in each line) with --scores; or
/// a folder of ESPnet's (1best_recog, 2best_recog and so on, each with text and score).
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  lstmc rescore model.lstmc nbest.tsv --weight 0.5 --length-bonus 0.2 > best.tsv\n  \
                        lstmc rescore model.lstmc nbest.text --scores nbest.scores --all\n  lstmc rescore model.lstmc exp/decode/logdir/output.1"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The lists: a file, - for standard input, or a folder of ESPnet's
    #[arg(value_name = "LISTS")]
    lists: PathBuf,
    /// Scores of the hypotheses in a file of Kaldi's text: utterance-N and the score in each line. Kaldi's costs are negative scores: see --costs
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
    /// The lists' scores are costs: less is better
    #[arg(long)]
    costs: bool,
    /// Weight of the language model
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true)]
    weight: f64,
    /// Added for each word of a hypothesis
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    length_bonus: f64,
    /// Print all hypotheses, the best of each utterance first, with their parts: utterance, total, score, log-probability, words, text
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Threads; 0 means all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print JSON: utterances[] {utterance, hypotheses[] {total, score, log_probability, words, text}}, tokens, tokens_computed, seconds
    #[arg(long)]
    json: bool,
}

/// A hypothesis with its total.
struct Rescored<'l> {
    hypothesis: &'l Hypothesis,
    log_probability: f64,
    words: usize,
    total: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let tokenizer = tokenizer(&source)?;
    super::note_sentences(tokenizer)?;
    let lists = Lists::read(&args.lists, args.scores.as_deref(), args.costs)?;
    let model = source.compile(Options { threads: 1, ..args.cpu.options() })?;
    let started = Instant::now();
    let mut batch = model.batch(args.threads);
    let bar = terminal::progress(lists.hypotheses.len(), "rescoring");
    let (mut found, mut tokens, mut computed) = (vec![], 0, 0);
    for part in lists.hypotheses.chunks(PART) {
        let mut texts = vec![];
        for hypothesis in part {
            let sentence = tokenizer
                .sentence(&hypothesis.text, hypothesis.line)
                .map_err(|error| crate::text::in_file(&args.lists, error))?;
            tokens += sentence.tokens.len() - 1;
            texts.push(sentence.tokens);
        }
        let (scores, some) = batch.score_shared(&texts)?;
        computed += some;
        for (hypothesis, scores) in part.iter().zip(scores) {
            let log_probability = scores.iter().map(|&p| f64::from(p)).sum::<f64>();
            let words = hypothesis.text.split_whitespace().count();
            let total = hypothesis.score + args.weight * log_probability + args.length_bonus * words as f64;
            found.push(Rescored { hypothesis, log_probability, words, total });
        }
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    // The best first; of equals, the one that came first.
    let mut utterances: Vec<(&str, Vec<Rescored<'_>>)> =
        lists.utterances.iter().map(|name| (name.as_str(), vec![])).collect();
    for each in found {
        utterances[each.hypothesis.utterance].1.push(each);
    }
    for (_, hypotheses) in &mut utterances {
        hypotheses.sort_by(|a, b| b.total.total_cmp(&a.total));
    }
    if args.json {
        return terminal::json(&json(&utterances, tokens, computed, seconds));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (name, hypotheses) in &utterances {
        let shown = if args.all { hypotheses.len() } else { 1 };
        for r in &hypotheses[..shown] {
            match args.all {
                true => writeln!(
                    out,
                    "{name}\t{:.6}\t{}\t{:.6}\t{}\t{}",
                    r.total, r.hypothesis.score, r.log_probability, r.words, r.hypothesis.text
                )?,
                false => writeln!(out, "{name}\t{:.6}\t{}", r.total, r.hypothesis.text)?,
            }
        }
    }
    out.flush()?;
    terminal::note(&format!(
        "{} hypotheses of {} utterances, {} tokens, {} of them computed ({:.0}%), {seconds:.1} s",
        thousands(lists.hypotheses.len()),
        thousands(utterances.len()),
        thousands(tokens),
        thousands(computed),
        100.0 * computed as f64 / tokens.max(1) as f64
    ));
    Ok(())
}

/// Hypotheses that are read, and scored, together.
const PART: usize = 1 << 14;

fn json(
    utterances: &[(&str, Vec<Rescored<'_>>)],
    tokens: usize,
    computed: usize,
    seconds: f64,
) -> serde_json::Value {
    let hypothesis = |r: &Rescored<'_>| {
        serde_json::json!({
            "total": r.total,
            "score": r.hypothesis.score,
            "log_probability": r.log_probability,
            "words": r.words,
            "text": r.hypothesis.text,
        })
    };
    let utterance = |(name, hypotheses): &(&str, Vec<Rescored<'_>>)| {
        let hypotheses: Vec<_> = hypotheses.iter().map(hypothesis).collect();
        serde_json::json!({"utterance": name, "hypotheses": hypotheses})
    };
    let utterances: Vec<_> = utterances.iter().map(utterance).collect();
    serde_json::json!({"utterances": utterances, "tokens": tokens, "tokens_computed": computed, "seconds": seconds})
}
