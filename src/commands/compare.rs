//! `lstmc compare`: models side by side on a text.

use super::{CpuArgs, ModelArgs, open, report, tokenizer};
use crate::compare::{BEST, Compared, Comparison, compare, sentences, step_times};
use crate::runtime::{Model, Tokenizer};
use crate::terminal::{self, Usage, columns, thousands};
use crate::{Source, TextOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Draws of the bootstrap, and the seed of its choices.
pub(crate) const BOOTSTRAP: (usize, u64) = (2000, 1);

/// Compare models on a text: size, perplexity, best words, speed
///
/// The first model is the reference, which the others are compared with; all have the same words. The text is read as one stream, as by `lstmc eval`.
/// `increase` is the perplexity above the reference's, with a 95% interval by paired bootstrap over the text's lines: if it does not hold 0, the
/// difference is not chance. `divergence` is the mean Kullback-Leibler divergence of next-word distributions from the reference's, in nats. `agreement` is the share
/// of the reference's 1, 3 and 5 best words that are the model's too, `recall` how often the next word is among them. `calibration` is the
/// expected calibration error of the best word; `keystrokes` the share that a keyboard with three suggestions saves, for models of words.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  lstmc compare model.onnx small.lstmc --vocab vocab.txt --text test.txt\n  \
                        lstmc compare a.lstmc b.lstmc c.lstmc --text test.txt --json"
)]
pub(crate) struct Args {
    /// The models: .onnx or .lstmc, the reference first
    #[arg(value_name = "MODEL", required = true, num_args = 2..)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    reading: TextOptions,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The text; - for standard input
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Draws of the bootstrap
    #[arg(long, value_name = "N", default_value_t = BOOTSTRAP.0 as u32, value_parser = clap::value_parser!(u32).range(100..))]
    resamples: u32,
    /// Of the bootstrap's random choices
    #[arg(long, default_value_t = BOOTSTRAP.1)]
    seed: u64,
    /// Write the page of `lstmc report` as well
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Print JSON: text, predicted, sentences, models[] {model, bytes, perplexity, increase {estimate, low, high}, divergence, agreement {top1, top3, top5}, recall
    /// {top1, top3, top5}, calibration_error, keystrokes_saved, microseconds_per_step}
    #[arg(long)]
    json: bool,
}

/// Models, how they compare, and the times of their steps.
pub(crate) struct Measured {
    pub(crate) models: Vec<Model>,
    pub(crate) comparison: Comparison,
    pub(crate) times: Vec<Duration>,
}

impl Measured {
    /// Compiles and measures models. `bootstrap` has the number of draws and their seed.
    pub(crate) fn of(
        sources: &[Source],
        sentences: &[Vec<u32>],
        text: &Path,
        cpu: CpuArgs,
        bootstrap: (usize, u64),
    ) -> anyhow::Result<Measured> {
        let models = sources.iter().map(|s| s.compile(cpu.options())).collect::<Result<Vec<Model>, _>>()?;
        let tokens: usize = sentences.iter().map(Vec::len).sum();
        if tokens < 2 {
            return Err(Usage(format!("{}: a comparison needs at least two tokens", text.display())).into());
        }
        let bar = terminal::progress(tokens - 1, "tokens compared");
        let comparison = compare(&models, sentences, bootstrap, &mut |n| bar.set_position(n as u64))?;
        bar.finish_and_clear();
        let times = step_times(&models, sentences)?;
        Ok(Measured { models, comparison, times })
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(page) = &args.html {
        crate::runtime::file::check_place(page)?;
    }
    let sources = sources(&args.models, &args.reading)?;
    let sentences = read_sentences(&args.text, tokenizer(&sources[0])?)?;
    let bootstrap = (args.resamples as usize, args.seed);
    let measured = Measured::of(&sources, &sentences, &args.text, args.cpu, bootstrap)?;
    print(args, &sources, &measured)?;
    let Some(page) = &args.html else { return Ok(()) };
    let page = report::Args {
        models: args.models.clone(),
        reading: args.reading.clone(),
        cpu: args.cpu,
        text: args.text.clone(),
        counts: None,
        prompts: None,
        title: None,
        output: page.clone(),
    };
    report::write(&page, &sources, &sentences, measured)
}

/// Prints the table, or JSON.
fn print(args: &Args, sources: &[Source], measured: &Measured) -> anyhow::Result<()> {
    let Measured { comparison: found, times, .. } = measured;
    let sizes = sources.iter().map(|s| Ok(s.weight_bytes()?.iter().map(|(_, bytes)| bytes).sum()));
    let sizes = sizes.collect::<anyhow::Result<Vec<usize>>>()?;
    let names: Vec<String> = args.models.iter().map(|m| m.display().to_string()).collect();
    let rows = names.iter().zip(&sizes).zip(&found.models).zip(times);
    if args.json {
        let models: Vec<_> =
            rows.map(|(((name, bytes), model), time)| to_json(name, *bytes, model, *time)).collect();
        return terminal::json(&serde_json::json!({
            "text": args.text.display().to_string(),
            "predicted": found.predicted,
            "sentences": found.sentences,
            "models": models,
        }));
    }
    let header = [
        "model",
        "bytes",
        "perplexity",
        "increase",
        "95% interval",
        "divergence",
        "agreement",
        "recall",
        "calibration",
        "keystrokes",
        "us/step",
    ];
    let rows = rows.map(|(((name, bytes), model), time)| row(name, *bytes, model, *time));
    let rows: Vec<[String; 11]> = std::iter::once(header.map(str::to_string)).chain(rows).collect();
    let mut out = std::io::stdout().lock();
    write!(out, "{}", columns(&rows, &[0]))?;
    writeln!(
        out,
        "{} tokens in {} lines of {}; agreement and recall of the best {} words",
        thousands(found.predicted),
        thousands(found.sentences),
        args.text.display(),
        BEST.map(|k| k.to_string()).join(", ")
    )?;
    Ok(())
}

/// Reads models; one that brings no words gets those of another.
pub(crate) fn sources(models: &[PathBuf], reading: &TextOptions) -> anyhow::Result<Vec<Source>> {
    let read = |model: &PathBuf| ModelArgs { model: model.clone(), text: reading.clone() }.read();
    let mut sources = models.iter().map(read).collect::<anyhow::Result<Vec<Source>>>()?;
    let own = sources.iter().find_map(|s| s.tokenizer.clone());
    for source in sources.iter_mut().filter(|s| s.tokenizer.is_none()) {
        source.tokenizer = own.clone();
    }
    Ok(sources)
}

/// Reads a text's lines as tokens; together they are the tokens of its stream.
pub(crate) fn read_sentences(path: &Path, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<u32>>> {
    let (sentences, unknown) = sentences(tokenizer, path, open(path)?)?;
    let tokens = sentences.iter().map(Vec::len).sum();
    if let Some(note) = crate::text::unknown_note(unknown, tokens, tokenizer) {
        terminal::note(&format!("{}: {note}", path.display()));
    }
    Ok(sentences)
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn to_json(name: &str, bytes: usize, model: &Compared, time: Duration) -> serde_json::Value {
    let best = |shares: [f64; BEST.len()]| -> serde_json::Map<String, serde_json::Value> {
        BEST.iter().zip(shares).map(|(k, share)| (format!("top{k}"), share.into())).collect()
    };
    serde_json::json!({
        "model": name,
        "bytes": bytes,
        "perplexity": model.perplexity(),
        "increase": {"estimate": model.increase.estimate, "low": model.increase.low, "high": model.increase.high},
        "divergence": model.divergence,
        "agreement": best(model.agreement),
        "recall": best(model.recall),
        "calibration_error": model.calibration_error,
        "keystrokes_saved": model.keystrokes_saved,
        "microseconds_per_step": microseconds(time),
    })
}

fn row(name: &str, bytes: usize, model: &Compared, time: Duration) -> [String; 11] {
    let percent = |x: f64| format!("{:.1}%", 100.0 * x);
    let signed = |x: f64| format!("{:+.2}%", 100.0 * x);
    let shares = |all: [f64; BEST.len()]| all.map(|x| format!("{:.1}", 100.0 * x)).join("/") + "%";
    let i = model.increase;
    [
        name.to_string(),
        thousands(bytes),
        format!("{:.2}", model.perplexity()),
        signed(i.estimate),
        format!("{} to {}", signed(i.low), signed(i.high)),
        format!("{:.4}", model.divergence),
        shares(model.agreement),
        shares(model.recall),
        format!("{:.4}", model.calibration_error),
        model.keystrokes_saved.map_or("-".into(), percent),
        format!("{:.1}", microseconds(time)),
    ]
}
