//! `lstmc search`: from a budget to a model.

mod jobs;
mod output;

use super::bench::costs::Costs;
use super::compile::perplexity;
use super::{CpuArgs, ModelArgs, texts};
use crate::backend::Options;
use crate::frontend::ir::Graph;
use crate::passes::Table;
use crate::passes::registry::PASSES;
use crate::search::amount::{bytes, duration, fraction, microseconds};
use crate::search::choice::Budget;
use crate::search::evaluate::Setup;
use crate::search::plan::Stop;
use crate::search::run::Predict;
use crate::search::{Choosing, Job, Round, Search};
use crate::terminal::{self, Usage, thousands};
use crate::{Source, TextOptions};
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Search the best model that a budget allows: passes and their options by themselves
///
/// Tries pipelines on the model as it came, and keeps what it finds in the folder DIR: `best.lstmc`; the frontier, numbered from the largest model, each with its
/// recipe, which `lstmc compile --recipe` takes; `frontier.json`; `report.html`, the page of `lstmc report`; `log.txt`. Within a limit of size or time perplexity is to be as low as
/// possible, within one of perplexity the weights as small as possible; bytes are those of entropy-coded weights. Let the budget be checked on another text than --validate.
///
/// Ctrl-C ends it with what was found so far. Called again with the same arguments it goes on, and repeats nothing, even after it was killed. With --emit-jobs other
/// programs or machines do the work. The exit code is 1 if no model met the budget; the nearest is kept.
#[derive(clap::Args, Debug)]
#[command(
    group = clap::ArgGroup::new("budget").args(["max_bytes", "max_latency", "max_increase", "max_perplexity"]).required(true),
    after_help = "Examples:\n  lstmc search model.onnx --vocab vocab.txt --calibrate train.txt --validate valid.txt --max-bytes 2MB -o found\n  \
                  lstmc search model.onnx --vocab vocab.txt --calibrate train.txt --validate valid.txt --max-increase 2% --time 30m -o found\n  \
                  lstmc search model.onnx --vocab vocab.txt --calibrate train.txt --validate valid.txt --max-latency 50us -o found"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// Text that passes collect statistics on
    #[arg(long, value_name = "TEXT")]
    calibrate: PathBuf,
    /// Text on which perplexity is measured
    #[arg(long, value_name = "TEXT")]
    validate: PathBuf,
    /// Text to train on: pipelines with `recover` are tried as well, many for a short time, then the best for longer
    #[arg(long, value_name = "TEXT")]
    train: Option<PathBuf>,
    /// The budget: weights in at most so many bytes, such as 2MB or 600kB
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Budget")]
    max_bytes: Option<usize>,
    /// The budget: a step in at most so much time on this machine, such as 50us
    #[arg(long, value_name = "TIME", value_parser = microseconds, help_heading = "Budget")]
    max_latency: Option<f64>,
    /// The budget: perplexity at most so much above the model's as given, such as 2% or 0.02
    #[arg(long, value_name = "FRACTION", value_parser = fraction, help_heading = "Budget")]
    max_increase: Option<f64>,
    /// The budget: perplexity at most this
    #[arg(long, value_name = "X", value_parser = perplexity, help_heading = "Budget")]
    max_perplexity: Option<f64>,
    /// End after this time, such as 10m; there is no limit otherwise
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Search")]
    time: Option<Duration>,
    /// Evaluate at most so many candidates, those of earlier calls included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Search")]
    candidates: Option<u32>,
    /// Candidates that are evaluated side by side; passes use all cores, so more than one needs memory more than it saves time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Search")]
    jobs: u16,
    /// Of the random choices of training
    #[arg(long, default_value_t = 1, help_heading = "Search")]
    seed: u64,
    /// What layers cost on another machine, as `lstmc bench --costs` found there: steps are predicted for that machine instead of timed on this one
    #[arg(long, value_name = "FILE.json", help_heading = "Elsewhere")]
    costs: Option<PathBuf>,
    /// Evaluate nothing here: write the next round's candidates as commands, a line of JSON {key, command} each; none when the search has ended
    #[arg(long, value_name = "JOBS.jsonl", help_heading = "Elsewhere")]
    emit_jobs: Option<PathBuf>,
    /// Evaluate nothing here: take in the results of jobs; with --emit-jobs, write the next ones
    #[arg(long, help_heading = "Elsewhere")]
    collect: bool,
    /// The folder for everything that is found
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Print JSON: what is in frontier.json
    #[arg(long)]
    json: bool,
}

impl Args {
    fn budget(&self) -> Budget {
        let all = [
            self.max_bytes.map(Budget::Bytes),
            self.max_latency.map(Budget::Microseconds),
            self.max_increase.map(Budget::Increase),
            self.max_perplexity.map(Budget::Perplexity),
        ];
        all.into_iter().flatten().next().expect("one of the group is required")
    }

    fn setup(&self, source: Source, table: Table) -> anyhow::Result<Setup> {
        let read = |path: &Path, what: &str| texts::text(path, &source, what);
        if texts::is_statistics(&self.calibrate)? {
            let path = self.calibrate.display();
            return Err(
                Usage(format!("--calibrate: {path} has statistics; a search needs the text itself")).into()
            );
        }
        let calibration = read(&self.calibrate, "calibration")?;
        let validation = read(&self.validate, "perplexity")?;
        let training = self.train.as_deref().map(|path| read(path, "training")).transpose()?;
        let options = Options { threads: 0, ..self.cpu.options() };
        Ok(Setup::new(source, calibration, training, validation, options, table))
    }
}

/// A search under way, and how the command shows it.
struct Run<'a> {
    args: &'a Args,
    search: Search,
    started: Instant,
    bar: ProgressBar,
}

impl Run<'_> {
    /// Shows the best so far.
    fn show(&self) {
        let budget = self.search.budget();
        let best = self.search.best().map_or(String::new(), |p| {
            let met = if budget.is_met(&p.found) { "best" } else { "nearest" };
            format!("; {met}: {} bytes, perplexity {:.2}", thousands(p.found.bytes), p.found.perplexity)
        });
        self.bar.set_position(self.search.known().len() as u64);
        self.bar.set_message(format!("candidates{best}"));
    }

    /// What is left of the time.
    fn left(&self) -> Option<Duration> {
        self.args.time.map(|time| time.saturating_sub(self.started.elapsed()))
    }

    /// Runs to the end.
    fn run(&mut self, interrupt: &dyn Fn() -> bool) -> anyhow::Result<Stop> {
        loop {
            let next = self.search.next_round()?;
            self.show();
            let missing = match next {
                Round::Jobs(missing) => missing,
                Round::End(stop) => {
                    if let Some(jobs) = &self.args.emit_jobs {
                        super::write_whole(jobs, b"")?;
                    }
                    return Ok(stop);
                }
            };
            if self.args.collect || self.args.emit_jobs.is_some() {
                if let Some(jobs) = &self.args.emit_jobs {
                    jobs::emit(self.args, self.search.folder(), &missing, jobs)?;
                }
                return Ok(Stop::Waiting);
            }
            if let Some(stop) = self.evaluate(missing, interrupt)? {
                return Ok(stop);
            }
        }
    }

    /// Evaluates candidates here. Says why, if it ends before all are done.
    fn evaluate(&mut self, missing: Vec<Job>, interrupt: &dyn Fn() -> bool) -> anyhow::Result<Option<Stop>> {
        let mut left = missing.len();
        let results = jobs::start(self.search.setup(), missing, self.args.jobs.into());
        while left > 0 {
            if interrupt() {
                return Ok(Some(Stop::Interrupted));
            }
            if self.left().is_some_and(|left| left.is_zero()) {
                return Ok(Some(Stop::Time));
            }
            let Some((pipeline, made)) = results.wait()? else { continue };
            left -= 1;
            let line = terminal::uninterrupted(|| self.search.take(&pipeline, made))?;
            tracing::info!("{line}");
            self.show();
        }
        Ok(None)
    }
}

/// Searches with the texts of the bundled model, in a folder that is removed, and prints the table.
pub(crate) fn demonstrate(data: &Path, time: Duration, cpu: CpuArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let text = TextOptions { vocabulary: Some(data.join("vocab.txt")), ..TextOptions::default() };
    let args = Args {
        model: ModelArgs { model: data.join("model.onnx"), text },
        cpu,
        calibrate: data.join("calibration.txt"),
        validate: data.join("valid.txt"),
        train: None,
        max_bytes: None,
        max_latency: None,
        max_increase: Some(0.02),
        max_perplexity: None,
        time: Some(time),
        candidates: None,
        jobs: 1,
        seed: 1,
        costs: None,
        emit_jobs: None,
        collect: false,
        output: folder.path().into(),
        json: false,
    };
    run(&args, PASSES)
}

pub(crate) fn run(args: &Args, table: Table) -> anyhow::Result<()> {
    if let Some(jobs) = &args.emit_jobs {
        crate::runtime::file::check_place(jobs)?;
    }
    let costs = args.costs.as_deref().map(Costs::read).transpose()?;
    let setup = Arc::new(args.setup(args.model.read()?, table)?);
    let level = args.cpu.level;
    let predict =
        |costs: Costs| -> Predict { Box::new(move |graph: &Graph| costs.step(&costs.level(level), graph)) };
    let choosing = Choosing {
        budget: args.budget(),
        seed: args.train.is_some().then_some(args.seed),
        most: args.candidates.map_or(usize::MAX, |n| n as usize),
        options: args.cpu.options(),
        predict: costs.map(predict),
    };
    let search = Search::new(setup, &args.output, choosing)?;
    let listening = terminal::SEARCH.listen();
    let mut run = Run { args, search, started: Instant::now(), bar: terminal::spinner("candidates") };
    let stop = run.run(&|| listening.is_asked())?;
    run.bar.finish_and_clear();
    run.search.log(&format!("stop: {stop}"))?;
    // Ctrl-C is heard until all is written.
    let written = output::write(args, &mut run.search, stop);
    drop(listening);
    written
}
