//! The page: what the template shows.

use super::{Findings, Words};
use crate::Source;
use crate::backend::Level;
use crate::commands::figure::{self, Dot, Figure, unit_of_bytes};
use crate::compare::{BEST, Compared};
use crate::frontend::ir::Part;
use crate::terminal::{bytes, shell_word, thousands};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

const TEMPLATE: &str = include_str!("page.html");

/// The name of the template, whose ending makes what is put into it escaped.
const NAME: &str = "page.html";

/// Bands of frequency: from how many occurrences on.
const BANDS: [usize; 5] = [1000, 100, 10, 1, 0];

/// The last places in a line of each class of places, from 1.
const PLACES: [usize; 6] = [1, 2, 4, 8, 16, usize::MAX];

#[derive(Serialize)]
struct Page<'a> {
    title: String,
    text: &'a str,
    predicted: String,
    lines: String,
    names: Vec<String>,
    models: Vec<Row>,
    by_size: String,
    by_time: String,
    weights: Vec<Weight>,
    losses: [Losses; 2],
    suggestions: Vec<Prompt<'a>>,
    rooflines: &'a [String],
    made: Vec<Made<'a>>,
    command: String,
    version: &'static str,
    processor: String,
    level: String,
    best: String,
}

/// A model's figures.
#[derive(Serialize)]
struct Row {
    name: String,
    bytes: String,
    ratio: String,
    perplexity: String,
    increase: String,
    interval: String,
    divergence: String,
    agreement: String,
    recall: String,
    calibration: String,
    keystrokes: String,
    time: String,
}

/// A weight of all models.
#[derive(Serialize)]
struct Weight {
    name: String,
    shape: String,
    /// Representation and bytes; empty where a model lacks the weight.
    of: Vec<(String, String)>,
}

/// Perplexity by kinds of tokens.
#[derive(Serialize)]
struct Losses {
    id: &'static str,
    title: &'static str,
    about: String,
    what: &'static str,
    classes: Vec<Class>,
}

/// Tokens of one kind.
#[derive(Serialize)]
struct Class {
    what: String,
    share: String,
    of: Vec<Bar>,
}

/// A model's perplexity on tokens of one kind.
#[derive(Serialize)]
struct Bar {
    perplexity: String,
    /// Beside the reference.
    change: String,
    /// Of the longest bar, in percent.
    width: String,
}

#[derive(Serialize)]
struct Prompt<'a> {
    prompt: &'a str,
    of: Vec<Vec<(&'a str, String)>>,
}

#[derive(Serialize)]
struct Made<'a> {
    name: String,
    file: String,
    recipe: &'a str,
}

/// A model's name in the page: that of its file, without the ending.
pub(super) fn name(source: &Source) -> String {
    source.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Names of models; those that several have are told apart by their numbers.
fn names(sources: &[Source]) -> Vec<String> {
    let all: Vec<String> = sources.iter().map(name).collect();
    let is_shared = |name: &String| all.iter().filter(|n| *n == name).count() > 1;
    let named = all
        .iter()
        .enumerate()
        .map(|(k, n)| if is_shared(n) { format!("{n} ({})", k + 1) } else { n.clone() });
    named.collect()
}

/// The page as HTML.
pub(super) fn write(found: &Findings<'_>, title: Option<&str>, level: Level) -> anyhow::Result<String> {
    let names = names(found.sources);
    let sizes = found.sources.iter().map(Source::weight_bytes).collect::<Result<Vec<_>, _>>()?;
    let totals: Vec<usize> = sizes.iter().map(|s| s.iter().map(|(_, bytes)| bytes).sum()).collect();
    let micros: Vec<f64> = found.times.iter().map(|t| t.as_secs_f64() * 1e6).collect();
    let models = &found.comparison.models;
    let rows = names.iter().zip(models).zip(totals.iter().zip(&micros));
    let rows = rows.map(|((name, model), (&size, &time))| row(name, model, [totals[0], size], time));
    let (unit, by) = unit_of_bytes(totals.iter().copied().max().unwrap_or(0));
    let costs: Vec<f64> = totals.iter().map(|&n| n.max(1) as f64 / by).collect();
    let plot = |title: &str, unit: &str, costs: &[f64]| {
        figure::draw(&Figure {
            title: title.into(),
            cost: unit.into(),
            text: found.text.clone(),
            dots: dots(&names, found, costs, unit.rsplit(' ').next().unwrap_or_default()),
        })
    };
    let reference = &found.sources[0];
    let page = Page {
        title: title.map_or_else(|| names.join(", "), String::from),
        text: &found.text,
        predicted: thousands(found.comparison.predicted),
        lines: thousands(found.comparison.sentences),
        models: rows.collect(),
        by_size: plot("Size and perplexity", &format!("weights in {unit}"), &costs),
        by_time: plot("Time and perplexity", "one step in us", &micros),
        weights: weights(reference, found.sources, &sizes),
        losses: losses(found),
        suggestions: found.suggestions.iter().map(prompt).collect(),
        rooflines: &found.rooflines,
        made: names
            .iter()
            .zip(found.sources)
            .map(|(name, s)| Made {
                name: name.clone(),
                file: s.path.display().to_string(),
                recipe: &s.recipe,
            })
            .collect(),
        command: std::env::args().map(|a| shell_word(&a)).collect::<Vec<_>>().join(" "),
        version: env!("CARGO_PKG_VERSION"),
        processor: crate::commands::processor(),
        level: level.to_string(),
        best: BEST.map(|k| k.to_string()).join(", "),
        names,
    };
    let mut environment = Environment::new();
    environment.add_template(NAME, TEMPLATE)?;
    Ok(environment.get_template(NAME)?.render(Serde(page))?)
}

/// A change in percent, with its sign.
fn percent(x: f64) -> String {
    let text = format!("{:+.1}%", 100.0 * x);
    if text == "-0.0%" { "+0.0%".into() } else { text }
}

fn row(name: &str, model: &Compared, [first, size]: [usize; 2], time: f64) -> Row {
    let shares = |all: [f64; BEST.len()]| all.map(|x| format!("{:.0}", 100.0 * x)).join(" / ") + "%";
    Row {
        name: name.into(),
        bytes: bytes(size),
        ratio: format!("{:.1}x", first as f64 / size.max(1) as f64),
        perplexity: format!("{:.2}", model.perplexity()),
        increase: percent(model.increase.estimate),
        interval: format!("{} to {}", percent(model.increase.low), percent(model.increase.high)),
        divergence: format!("{:.4}", model.divergence),
        agreement: shares(model.agreement),
        recall: shares(model.recall),
        calibration: format!("{:.3}", model.calibration_error),
        keystrokes: model.keystrokes_saved.map_or("–".into(), |x| format!("{:.1}%", 100.0 * x)),
        time: format!("{time:.1}"),
    }
}

/// The models in a figure, those of the frontier by rising cost.
fn dots(names: &[String], found: &Findings<'_>, costs: &[f64], unit: &str) -> Vec<Dot> {
    let all = || costs.iter().zip(&found.comparison.models).map(|(&cost, m)| (cost, m.perplexity()));
    let dot = |((name, source), (cost, perplexity)): ((&String, &Source), (f64, f64))| {
        let is_better = |(c, p): (f64, f64)| c <= cost && p <= perplexity && (c < cost || p < perplexity);
        let recipe = if source.recipe.is_empty() { "as given" } else { &source.recipe };
        let about = format!(
            "{name}: {} {unit}, perplexity {perplexity:.2}: {recipe}",
            figure::number((cost * 1e3).round() / 1e3)
        );
        Dot { cost, perplexity, label: name.clone(), about, frontier: !all().any(is_better) }
    };
    let mut dots: Vec<Dot> = names.iter().zip(found.sources).zip(all()).map(dot).collect();
    dots.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    dots
}

fn weights(reference: &Source, sources: &[Source], sizes: &[Vec<(String, usize)>]) -> Vec<Weight> {
    let mut names: Vec<&str> = reference.graph.weights().map(|(_, w)| w.name.as_str()).collect();
    for (_, weight) in sources.iter().flat_map(|s| s.graph.weights()) {
        if !names.contains(&weight.name.as_str()) {
            names.push(&weight.name);
        }
    }
    let of = |name: &str| {
        let maps: Vec<Option<&Part>> =
            sources.iter().map(|s| s.graph.weight_named(name).map(|id| &s.graph.weight(id).map)).collect();
        let cell = |(map, sizes): (&Option<&Part>, &Vec<(String, usize)>)| {
            let size = sizes.iter().find(|(n, _)| n == name).map_or(0, |(_, size)| *size);
            map.map_or_else(Default::default, |map| (map.describe(), thousands(size)))
        };
        let shape = maps.iter().flatten().next().map_or(String::new(), |map| format!("{:?}", map.shape()));
        Weight { name: name.into(), shape, of: maps.iter().zip(sizes).map(cell).collect() }
    };
    names.into_iter().map(of).collect()
}

fn losses(found: &Findings<'_>) -> [Losses; 2] {
    let bars = "Bars: mean loss, relative to the largest.";
    [
        Losses {
            id: "rare",
            title: "Loss by how frequent the next word is",
            about: format!(
                "Perplexity of the words that occur so often in {}. Rare words suffer first. {bars}",
                found.counts.1
            ),
            what: "occurrences",
            classes: classes(found, &bands(found)),
        },
        Losses {
            id: "place",
            title: "Loss by place in the line",
            about: format!("Perplexity of the first words of lines, and of later ones. {bars}"),
            what: "place",
            classes: classes(found, &places(found)),
        },
    ]
}

/// Of each predicted token, its class: how often its word was counted.
fn bands(found: &Findings<'_>) -> Vec<(String, Vec<usize>)> {
    let name = |k: usize| match (BANDS[k], k) {
        (0, _) => "never".into(),
        (from, 0) => format!("{} times and more", thousands(from)),
        (from, _) => format!("{from} to {} times", BANDS[k - 1] - 1),
    };
    let tokens = found.sentences.iter().flatten().skip(1);
    let classes: Vec<usize> = tokens
        .map(|&t| {
            BANDS.iter().position(|&from| found.counts.0[t as usize] >= from).unwrap_or(BANDS.len() - 1)
        })
        .collect();
    by_class((0..BANDS.len()).map(name), &classes)
}

/// Of each predicted token, its class: its place in its line.
fn places(found: &Findings<'_>) -> Vec<(String, Vec<usize>)> {
    let name = |k: usize| {
        let first = if k == 0 { 1 } else { PLACES[k - 1] + 1 };
        match PLACES[k] {
            usize::MAX => format!("{first} and later"),
            last if last == first => first.to_string(),
            last => format!("{first} to {last}"),
        }
    };
    let all = found.sentences.iter().flat_map(|s| 1..=s.len()).skip(1);
    let classes: Vec<usize> =
        all.map(|place| PLACES.iter().position(|&last| place <= last).unwrap_or(PLACES.len() - 1)).collect();
    by_class((0..PLACES.len()).map(name), &classes)
}

/// Names of classes that have tokens, with these.
fn by_class(names: impl Iterator<Item = String>, classes: &[usize]) -> Vec<(String, Vec<usize>)> {
    let members = |k: usize| (0..classes.len()).filter(|&n| classes[n] == k).collect::<Vec<usize>>();
    names.enumerate().map(|(k, name)| (name, members(k))).filter(|(_, members)| !members.is_empty()).collect()
}

fn classes(found: &Findings<'_>, all: &[(String, Vec<usize>)]) -> Vec<Class> {
    let models = &found.comparison.models;
    let loss = |m: &Compared, members: &[usize]| {
        members.iter().map(|&n| f64::from(m.losses[n])).sum::<f64>() / members.len() as f64
    };
    let most =
        all.iter().flat_map(|(_, members)| models.iter().map(move |m| loss(m, members))).fold(0.0, f64::max);
    let class = |(what, members): &(String, Vec<usize>)| {
        let first = loss(&models[0], members);
        let bar = |m: &Compared| {
            let loss = loss(m, members);
            Bar {
                perplexity: format!("{:.1}", loss.exp()),
                change: percent((loss - first).exp() - 1.0),
                width: format!("{:.1}", 100.0 * loss / most.max(f64::MIN_POSITIVE)),
            }
        };
        Class {
            what: what.clone(),
            share: format!("{:.1}%", 100.0 * members.len() as f64 / found.comparison.predicted as f64),
            of: models.iter().map(bar).collect(),
        }
    };
    all.iter().map(class).collect()
}

fn prompt((prompt, of): &(String, Vec<Words>)) -> Prompt<'_> {
    fn words(all: &Words) -> Vec<(&str, String)> {
        all.iter().map(|(word, p)| (word.as_str(), format!("{:.1}%", 100.0 * p))).collect()
    }
    Prompt { prompt, of: of.iter().map(words).collect() }
}
