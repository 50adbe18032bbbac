//! `lstmc frontier`: size against perplexity, over several pipelines.

pub(crate) mod points;

use super::texts::{TextArgs, Texts, scorer, text, with_words_of};
use super::{CpuArgs, ModelArgs, figure, read_utf8, write_whole};
use crate::backend::Options;
use crate::frontend::ir::Graph;
use crate::passes::Table;
use crate::passes::{
    Calibration, Context, Evaluate, Measure, Pipeline, Settings, Trail, Verdict, run as run_passes,
};
use crate::runtime::file::check_place;
use crate::terminal::{self, Usage};
use crate::{Engine, Scorer, Source};
use anyhow::bail;
use points::{Point, Survey};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Try several pipelines on a model: size against perplexity, as a table and a figure
///
/// Each pipeline is run on the model as it came. Measured are the bytes of all weights in a .lstmc
/// file, and perplexity of TEXT by generated code. The table has the largest model first and a *
/// at those on the frontier: no other is as small and as good. A pipeline that fails is in the
/// table with the reason, and the others are not lost; the exit code is 1 then. Let --validate be
/// another text than --text, which is to judge what passes made of it.
///
/// A file of pipelines has one on each line, and a name before it if it is to have one in the
/// figure; # begins a comment:
///
///   int4: quantize(bits=4, group=40)
///   rank 64, int4: low-rank(target=embedding, rank=64), quantize(bits=4, group=40)
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    group = clap::ArgGroup::new("tried").args(["passes", "pipelines", "beside"]).required(true).multiple(true),
    after_help = "Examples:\n  lstmc frontier model.onnx --vocab vocab.txt --text test.txt \\\n    \
                  --passes \"quantize(bits=8)\" --passes \"quantize(bits=4, method=nearest)\"\n  \
                  lstmc frontier model.onnx --vocab vocab.txt --text test.txt --calibrate train.txt \\\n    \
                  --pipelines pipelines.txt -o frontier.svg\n  \
                  lstmc frontier model.onnx --vocab vocab.txt --text test.txt --beside small.lstmc --beside tiny.lstmc"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cpu: CpuArgs,
    /// The text that perplexity is measured on
    #[arg(long, value_name = "TEXT")]
    text: PathBuf,
    /// A pipeline, as text; may be given several times
    #[arg(long, value_name = "PIPELINE")]
    passes: Vec<String>,
    /// A file of pipelines, one a line
    #[arg(long, value_name = "FILE")]
    pipelines: Option<PathBuf>,
    /// A finished model to measure beside them, called by the name of its file; may be given several times
    #[arg(long, value_name = "FILE.lstmc")]
    beside: Vec<PathBuf>,
    #[command(flatten)]
    texts: TextArgs,
    /// Where to draw the figure
    #[arg(short, long, value_name = "FIGURE.svg")]
    output: Option<PathBuf>,
    /// The figure's title; the model's name otherwise
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Count weights entropy-coded, as `lstmc compile --entropy` writes them
    #[arg(long)]
    entropy: bool,
    /// Print JSON: model, text, points[] {name, pipeline, bytes, ratio, perplexity, change, frontier}, failed[] {pipeline, reason}
    #[arg(long)]
    json: bool,
    /// Write the same JSON to a file
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// What measures: generated code, or the interpreter
    #[arg(long, value_enum, default_value_t = Engine::Jit)]
    engine: Engine,
    /// Threads of measuring; 0 means all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// A pipeline to try.
struct Candidate {
    /// What the figure calls it, where its line says.
    name: Option<String>,
    pipeline: Pipeline,
}

impl Candidate {
    /// What it is called on screen.
    fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.pipeline.to_string())
    }
}

/// All pipelines of the command line and of the file, checked before any work is done.
fn candidates(args: &Args, table: Table) -> anyhow::Result<Vec<Candidate>> {
    let mut all = vec![];
    for text in &args.passes {
        let pipeline = Pipeline::parse_with(text, table).map_err(|e| Usage(format!("--passes: {e}")))?;
        all.push(Candidate { name: None, pipeline });
    }
    if let Some(path) = &args.pipelines {
        let text = read_utf8(path)?;
        for (n, line) in text.lines().enumerate() {
            if let Some(candidate) = candidate(line, path, n + 1, table)? {
                all.push(candidate);
            }
        }
    }
    if all.is_empty() && args.pipelines.is_some() {
        let file = args.pipelines.as_deref().unwrap_or(Path::new("--pipelines")).display();
        let what = "expected at least one line with a pipeline, such as `quantize(bits=8)`";
        return Err(Usage(format!("{file}: no pipelines; {what}")).into());
    }
    Ok(all)
}

/// What a line of a file of pipelines holds: `NAME: PIPELINE`, `PIPELINE`, or nothing. A name ends before the first pass's options, where colons
/// mean something else.
fn candidate(line: &str, path: &Path, number: usize, table: Table) -> Result<Option<Candidate>, Usage> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if line.is_empty() {
        return Ok(None);
    }
    let (name, text) = match line.split_once(':') {
        Some((name, rest)) if !name.contains('(') => (Some(name.trim()), rest.trim()),
        _ => (None, line),
    };
    if name == Some("") {
        return Err(Usage(format!("{}:{number}: expected a name before `:`", path.display())));
    }
    let pipeline =
        Pipeline::parse_with(text, table).map_err(|e| Usage(format!("{}:{number}: {e}", path.display())))?;
    Ok(Some(Candidate { name: name.map(String::from), pipeline }))
}

/// Finished models, with the names of their files.
fn finished(args: &Args, source: &Source) -> anyhow::Result<Vec<(String, Source)>> {
    let read = |path: &PathBuf| {
        let mut model = with_words_of(path, source)?;
        model.entropy |= args.entropy;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok((name, model))
    };
    args.beside.iter().map(read).collect()
}

/// What all candidates have in common.
struct Bench<'a> {
    args: &'a Args,
    source: &'a Source,
    text: &'a [u32],
    training: Option<&'a [u32]>,
    teacher: Option<&'a Graph>,
    validation: Option<&'a [u32]>,
    calibration: Option<Calibration<'static>>,
}

impl Bench<'_> {
    fn scorer<'t>(&self, tokens: &'t [u32], what: &str) -> Scorer<'t> {
        let options = Options { threads: self.args.threads, ..self.args.cpu.options() };
        scorer(self.args.engine, options, tokens, what)
    }

    /// Size and perplexity of a model.
    fn measure(&self, source: &Source, label: &str) -> Result<Point, String> {
        let measure = Measure::of(&source.graph);
        let sizes = source.weight_bytes().map_err(|e| e.to_string())?;
        let mut scorer = self.scorer(self.text, &format!("{label}: measuring perplexity"));
        let perplexity = Evaluate::perplexity(&mut scorer, &source.graph)?;
        if !perplexity.is_finite() {
            return Err(format!("perplexity {perplexity}"));
        }
        Ok(Point::new(sizes.iter().map(|(_, b)| b).sum(), perplexity, &measure))
    }

    /// The model that a pipeline makes, and how.
    fn compress(&mut self, candidate: &Candidate, label: &str) -> Result<(Source, Trail), String> {
        let graph = self.source.graph.clone();
        let calibration = match &mut self.calibration {
            Some(shared) => {
                let own = shared.share(&graph).map_err(|e| e.to_string())?;
                Some(own.with_progress(terminal::bar(&format!("{label}: collecting statistics"))))
            }
            None => None,
        };
        let mut scorer = self.validation.map(|v| self.scorer(v, &format!("{label}: validating")));
        let watcher = terminal::pass_bar(format!("{label}: "));
        let evaluator = scorer.as_mut().map(|s| s as _);
        let context = Context {
            evaluator,
            calibration,
            training: self.training,
            teacher: self.teacher,
            watcher: Some(&watcher),
            ..Context::default()
        };
        let settings = Settings { context, ..Settings::default() };
        let run = run_passes(&candidate.pipeline, graph, settings).map_err(|e| e.to_string())?;
        Ok((self.source.clone().with_graph(run.graph), run.trail))
    }
}

pub(crate) fn run(args: &Args, table: Table) -> anyhow::Result<()> {
    let candidates = candidates(args, table)?;
    [&args.output, &args.report].into_iter().flatten().try_for_each(|path| check_place(path))?;
    let mut source = args.model.read()?;
    source.entropy |= args.entropy;
    let finished = finished(args, &source)?;
    let text = text(&args.text, &source, "perplexity")?;
    let Texts { calibration, training, teacher, validation } = args.texts.read(&source)?;
    let (calibration, calibration_info) = calibration.unzip();
    let mut calibration = calibration.map(|c| c.with_progress(terminal::bar("collecting statistics")));
    if let Some(calibration) = &mut calibration {
        calibration.statistics(&source.graph)?;
    }
    let mut bench = Bench {
        args,
        source: &source,
        text: &text.tokens,
        training: training.as_ref().map(|t| &t.tokens[..]),
        teacher: teacher.as_ref().map(|t| &t.graph),
        validation: validation.as_ref().map(|v| &v.tokens[..]),
        calibration,
    };
    let given = bench.measure(&source, "as given").map_err(|why| anyhow::anyhow!("{why}"))?;
    let mut survey = Survey::new(source.graph.name.clone(), text.info.clone(), given);
    survey.calibration = calibration_info;
    survey.validation = validation.as_ref().map(|v| v.info.clone());
    for (k, candidate) in candidates.iter().enumerate() {
        let label = format!("{}/{} {}", k + 1, candidates.len(), candidate.label());
        let measured = bench.compress(candidate, &label).and_then(|(model, trail)| {
            let point = bench.measure(&model, &label)?;
            Ok(Point { notes: notes(&trail), ..point })
        });
        survey.add(candidate.name.clone(), candidate.pipeline.to_string(), measured);
    }
    for (name, model) in &finished {
        survey.add(Some(name.clone()), model.recipe.clone(), bench.measure(model, name));
    }
    let survey = survey.finish();
    if args.json {
        terminal::json(&serde_json::to_value(&survey)?)?;
    } else {
        write!(std::io::stdout(), "{}", survey.table())?;
    }
    if let Some(path) = &args.report {
        write_whole(path, (serde_json::to_string_pretty(&survey)? + "\n").as_bytes())?;
    }
    if let Some(path) = &args.output {
        let title = args.title.as_deref().unwrap_or(&survey.model);
        write_whole(path, figure::draw(&survey.figure(title)).as_bytes())?;
    }
    match survey.failed.len() {
        0 => Ok(()),
        n => bail!("{n} of {} models failed; the reasons are beside them", candidates.len() + finished.len()),
    }
}

/// What a reader of the table should know: passes that did nothing.
fn notes(trail: &Trail) -> Vec<String> {
    let idle = trail.records.iter().filter_map(|r| match &r.verdict {
        Verdict::NoEffect(why) if r.pass != "canonicalize" => {
            Some(format!("{}: no effect: {why}", r.invocation))
        }
        _ => None,
    });
    idle.collect()
}
