//! What a search says and shows at its end: a table, a page.

use super::Args;
use crate::TextOptions;
use crate::commands::report;
use crate::search::Search;
use crate::search::output::Left;
use crate::search::plan::Stop;
use crate::search::run::distinct;
use crate::terminal::{self, columns, thousands};
use anyhow::bail;
use std::io::Write;

/// Models in the report, that as given included.
const REPORTED: usize = 6;

/// Writes everything; an error if the budget is not met.
pub(super) fn write(args: &Args, search: &mut Search, stop: Stop) -> anyhow::Result<()> {
    let Some(left) = terminal::uninterrupted(|| search.write(stop))? else {
        if stop == Stop::Waiting {
            terminal::note("no candidate has been evaluated yet; run the jobs, then call the search again");
            return Ok(());
        }
        match search.failed() {
            Some((pipeline, reason)) => {
                bail!("no candidate became a model; the first of them, {pipeline}: {reason}")
            }
            None => bail!("no candidate became a model: {stop}"),
        }
    };
    if let Some((pipeline, layer)) = search.unknown().first() {
        let file = search.folder().model(pipeline);
        terminal::note(&format!(
            "{} models have layers that the table of costs lacks, such as {layer} of {}; add them there with `lstmc bench FILE.lstmc --costs`",
            distinct(search.unknown().iter().map(|(p, _)| &p[..])).len(),
            file.display()
        ));
    }
    if args.json {
        terminal::json(&left.list)?;
    } else {
        table(args, search, stop, &left)?;
    }
    // The page takes longest: what else there is is written and said by then.
    if stop != Stop::Waiting {
        page(args, search, &left)?;
    }
    let (budget, best) = (search.budget(), &left.best);
    if budget.is_met(&best.found) || stop == Stop::Waiting {
        return Ok(());
    }
    let excess = 100.0 * budget.excess(&best.found);
    bail!(
        "no model met the budget: {stop}. The nearest, best.lstmc, is {excess:.2}% above it: {} bytes, perplexity {:.3}; allow more, or give the search more time{}",
        thousands(best.found.bytes),
        best.found.perplexity,
        if args.train.is_none() { " or a text to --train on" } else { "" },
    )
}

/// The page of `lstmc report`: the model as given, and of the frontier the ends and some between.
fn page(args: &Args, search: &Search, left: &Left) -> anyhow::Result<()> {
    let models = std::iter::once(args.model.model.clone()).chain(search.reported(left, REPORTED - 1));
    report::run(&report::Args {
        models: models.collect(),
        reading: TextOptions::clone(&args.model.text),
        cpu: args.cpu,
        text: args.validate.clone(),
        counts: Some(args.train.as_ref().unwrap_or(&args.calibrate).clone()),
        prompts: None,
        title: Some(format!("{}: what a search found", search.setup().source().graph.name)),
        output: search.folder().file("report.html"),
    })
}

/// The frontier for people.
fn table(args: &Args, search: &Search, stop: Stop, left: &Left) -> anyhow::Result<()> {
    let budget = search.budget();
    let header = ["model", "bytes", "perplexity", "increase", "us/step", "", "pipeline"].map(String::from);
    let mut rows = vec![header];
    for (point, name) in left.points.iter().zip(&left.names) {
        let found = &point.found;
        let mark = match (point.pipeline == left.best.pipeline, budget.is_met(found)) {
            (true, true) => "best",
            (true, false) => "nearest",
            (false, true) => "within",
            (false, false) => "",
        };
        rows.push([
            name.clone(),
            thousands(found.bytes),
            format!("{:.3}", found.perplexity),
            format!("{:+.2}%", 100.0 * (found.perplexity / found.before - 1.0)),
            found.microseconds.map_or(String::new(), |us| format!("{us:.1}")),
            mark.into(),
            point.pipeline.clone(),
        ]);
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{}", columns(&rows, &[0, 5, 6]))?;
    writeln!(
        out,
        "{} candidates; end: {stop}. Models, recipes and the report are in {}",
        search.known().len(),
        args.output.display()
    )?;
    Ok(())
}
