//! What a search leaves: the frontier's models and recipes, their list, a page, a table.

use super::{Search, distinct};
use crate::TextOptions;
use crate::commands::report;
use crate::passes::Pipeline;
use crate::search::Point;
use crate::search::choice::{Budget, best, frontier};
use crate::search::plan::Stop;
use crate::terminal::{self, columns, thousands};
use anyhow::bail;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// Models in the report, that as given included.
const REPORTED: usize = 6;

/// Writes everything; an error if the budget is not met.
pub(super) fn write(search: &mut Search<'_>, stop: Stop) -> anyhow::Result<()> {
    let points = search.points();
    let budget = search.budget;
    let Some(best) = best(&budget, &points).cloned() else {
        if stop == Stop::Waiting {
            terminal::note("no candidate has been evaluated yet; run the jobs, then call the search again");
            return Ok(());
        }
        match search.known.iter().find_map(|(p, outcome)| Some((p, outcome.as_ref().err()?))) {
            Some((pipeline, reason)) => {
                bail!("no candidate became a model; the first of them, {pipeline}: {reason}")
            }
            None => bail!("no candidate became a model: {stop}"),
        }
    };
    let of_frontier = frontier(&budget, &points);
    let pipelines = of_frontier.iter().map(|p| &p.pipeline[..]).chain([&best.pipeline[..]]);
    search.time(&distinct(pipelines))?;
    if let Some((pipeline, layer)) = search.unknown.first() {
        let file = search.folder.model(pipeline);
        terminal::note(&format!(
            "{} models have layers that the table of costs lacks, such as {layer} of {}; add them there with `lstmc bench FILE.lstmc --costs`",
            distinct(search.unknown.iter().map(|(p, _)| &p[..])).len(),
            file.display()
        ));
    }
    let points = search.points();
    let find = |point: &Point| points.iter().find(|p| p.pipeline == point.pipeline).cloned();
    let of_frontier: Vec<Point> = of_frontier.iter().filter_map(find).collect();
    let best = find(&best).unwrap_or(best);
    let names: Vec<String> = of_frontier.iter().enumerate().map(|(k, p)| name(&budget, k, p)).collect();
    files(search, &of_frontier, &names, &best)?;
    let list = list(search, stop, &of_frontier, &names, &best)?;
    search.folder.write("frontier.json", format!("{list:#}\n").as_bytes())?;
    if search.args.json {
        terminal::json(&list)?;
    } else {
        table(search, stop, &of_frontier, &names, &best)?;
    }
    // The page takes longest: what else there is is written and said by then.
    if stop != Stop::Waiting {
        page(search, &of_frontier, &names)?;
    }
    if budget.is_met(&best.found) || stop == Stop::Waiting {
        return Ok(());
    }
    let excess = 100.0 * budget.excess(&best.found);
    bail!(
        "no model met the budget: {stop}. The nearest, best.lstmc, is {excess:.2}% above it: {} bytes, perplexity {:.3}; allow more, or give the search more time{}",
        thousands(best.found.bytes),
        best.found.perplexity,
        if search.args.train.is_none() { " or a text to --train on" } else { "" },
    )
}

/// A point's name in the folder.
fn name(budget: &Budget, place: usize, point: &Point) -> String {
    let size = match (budget, point.found.microseconds) {
        (Budget::Microseconds(_), Some(us)) => format!("{us:.0}us"),
        _ => format!("{}kB", point.found.bytes.div_ceil(1000)),
    };
    format!("{:02}-{size}", place + 1)
}

/// Models and recipes, in place of those of an earlier end.
fn files(search: &Search<'_>, points: &[Point], names: &[String], best: &Point) -> anyhow::Result<()> {
    let folder = &search.folder;
    let earlier = std::fs::read(folder.file("frontier.json")).unwrap_or_default();
    let earlier: Value = serde_json::from_slice(&earlier).unwrap_or_default();
    for point in earlier["points"].as_array().into_iter().flatten() {
        for file in ["file", "recipe"].iter().filter_map(|which| point[which].as_str()) {
            // Names of this folder only, whatever a file says. What is not there need not be removed.
            if !file.contains(['/', '\\']) {
                let _ = std::fs::remove_file(folder.file(file));
            }
        }
    }
    let model = |point: &Point, name: &str| -> anyhow::Result<()> {
        let path = folder.model(&point.pipeline);
        let bytes = std::fs::read(&path).map_err(|reason| crate::Error::Read { path, reason })?;
        Ok(terminal::uninterrupted(|| folder.write(name, &bytes))?)
    };
    for (point, name) in points.iter().zip(names) {
        model(point, &format!("{name}.lstmc"))?;
        folder.write(&format!("{name}.toml"), recipe(search, point).as_bytes())?;
    }
    model(best, "best.lstmc")
}

/// A point's pipeline as a recipe.
fn recipe(search: &Search<'_>, point: &Point) -> String {
    let found = &point.found;
    let description = format!(
        "{}: {} bytes, perplexity {:.2} where the model as given has {:.2}",
        search.setup.source().graph.name,
        thousands(found.bytes),
        found.perplexity,
        found.before
    );
    // It was read before.
    let pipeline = Pipeline::parse_with(&point.pipeline, search.table).unwrap_or_default();
    Pipeline { description: Some(description), ..pipeline }.to_recipe()
}

/// What frontier.json holds.
fn list(
    search: &Search<'_>,
    stop: Stop,
    points: &[Point],
    names: &[String],
    best: &Point,
) -> anyhow::Result<Value> {
    let source = search.setup.source();
    let given: usize = source.weight_bytes()?.iter().map(|(_, bytes)| bytes).sum();
    let figures = |p: &Point| {
        json!({
            "pipeline": p.pipeline,
            "bytes": p.found.bytes,
            "perplexity": p.found.perplexity,
            "increase": p.found.perplexity / p.found.before - 1.0,
            "microseconds_per_step": p.found.microseconds,
        })
    };
    let listed: Vec<Value> = points
        .iter()
        .zip(names)
        .map(|(p, name)| {
            let mut value = figures(p);
            value["file"] = format!("{name}.lstmc").into();
            value["recipe"] = format!("{name}.toml").into();
            value
        })
        .collect();
    let failed: Vec<Value> = search
        .known
        .iter()
        .filter_map(|(pipeline, outcome)| {
            Some(json!({"pipeline": pipeline, "reason": outcome.as_ref().err()?}))
        })
        .collect();
    let (option, value) = search.budget.named();
    Ok(json!({
        "model": source.graph.name,
        "version": env!("CARGO_PKG_VERSION"),
        "level": search.args.cpu.level.name(),
        "budget": {option: value},
        "met": search.budget.is_met(&best.found),
        "stop": stop.name(),
        "candidates": search.known.len(),
        "given": {"bytes": given, "perplexity": best.found.before},
        "best": figures(best),
        "points": listed,
        "failed": failed,
    }))
}

/// The page of `lstmc report`: the model as given, and of the frontier the ends and some between.
fn page(search: &Search<'_>, points: &[Point], names: &[String]) -> anyhow::Result<()> {
    let args = search.args;
    let most = REPORTED - 1;
    let chosen: Vec<usize> = match points.len() {
        n if n <= most => (0..n).collect(),
        n => (0..most).map(|k| k * (n - 1) / (most - 1)).collect(),
    };
    let files = chosen.iter().map(|&k| search.folder.file(&format!("{}.lstmc", names[k])));
    let models: Vec<PathBuf> = std::iter::once(args.model.model.clone()).chain(files).collect();
    report::run(&report::Args {
        models,
        reading: TextOptions::clone(&args.model.text),
        cpu: args.cpu,
        text: args.validate.clone(),
        counts: Some(args.train.as_ref().unwrap_or(&args.calibrate).clone()),
        prompts: None,
        title: Some(format!("{}: what a search found", search.setup.source().graph.name)),
        output: search.folder.file("report.html"),
    })
}

/// The frontier for people.
fn table(
    search: &Search<'_>,
    stop: Stop,
    points: &[Point],
    names: &[String],
    best: &Point,
) -> anyhow::Result<()> {
    let header = ["model", "bytes", "perplexity", "increase", "us/step", "", "pipeline"].map(String::from);
    let mut rows = vec![header];
    for (point, name) in points.iter().zip(names) {
        let found = &point.found;
        let mark = match (point.pipeline == best.pipeline, search.budget.is_met(found)) {
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
        search.known.len(),
        search.args.output.display()
    )?;
    Ok(())
}
