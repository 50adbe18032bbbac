//! The result as a table and as JSON.

use crate::Args;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Measure {
    /// One step, all logits.
    Decode,
    /// One step, the five best words.
    Suggest,
    /// A sequence of 200 tokens in one call.
    Sequence,
}

impl Measure {
    pub(crate) const ALL: [Measure; 3] = [Measure::Decode, Measure::Suggest, Measure::Sequence];

    fn name(self) -> &'static str {
        match self {
            Measure::Decode => "decode",
            Measure::Suggest => "suggest",
            Measure::Sequence => "sequence",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Measure::Decode => "decode: one step, all logits",
            Measure::Suggest => "suggest: one step, five best words",
            Measure::Sequence => "sequence: 200 tokens in one call",
        }
    }
}

/// Microseconds per token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// Of at least one round.
    pub(crate) fn of(mut all: Vec<Duration>) -> Spread {
        all.sort();
        let micros = |d: Duration| d.as_secs_f64() * 1e6;
        Spread { min: micros(all[0]), median: micros(all[all.len() / 2]), max: micros(all[all.len() - 1]) }
    }
}

/// An engine's results.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) engine: &'static str,
    pub(crate) precision: &'static str,
    /// The file's name.
    pub(crate) model: String,
    /// Of the logits to those of our f32 model.
    pub(crate) difference: Option<f32>,
    /// By measurement, or why there are none.
    pub(crate) result: Result<[Spread; Measure::ALL.len()], String>,
}

pub(crate) fn print(args: &Args, rows: &[Row]) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json(args, rows))?);
    } else {
        print!("{}", text(args, rows));
    }
    Ok(())
}

/// Our result at the same precision.
fn ours(rows: &[Row], precision: &str) -> Option<[Spread; Measure::ALL.len()]> {
    let row = rows.iter().find(|r| r.engine == "lstmc" && r.precision == precision)?;
    row.result.as_ref().ok().copied()
}

/// The processor's name, as far as the system tells.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split(": ").nth(1));
    name.unwrap_or(std::env::consts::ARCH).to_string()
}

fn text(args: &Args, rows: &[Row]) -> String {
    let mut out = format!(
        "{}, {}, {} thread{}, {} rounds\n",
        args.model.file_name().unwrap_or_default().display(),
        cpu(),
        args.threads,
        if args.threads == 1 { "" } else { "s" },
        args.rounds
    );
    for (m, measure) in Measure::ALL.into_iter().enumerate() {
        out += &format!(
            "\n{:36} {:>9} {:>9} {:>9}  {:>18}\n",
            measure.title(),
            "min",
            "median",
            "max",
            "ours/theirs (min)"
        );
        for row in rows {
            let name = format!("  {} {}", row.engine, row.precision);
            match &row.result {
                Ok(all) => {
                    let Spread { min, median, max } = all[m];
                    let ratio = ours(rows, row.precision)
                        .filter(|_| row.engine != "lstmc")
                        .map_or(String::new(), |ours| format!("{:.2}", ours[m].min / min));
                    out += format!("{name:36} {min:>9.1} {median:>9.1} {max:>9.1}  {ratio:>18}").trim_end();
                    out += "\n";
                }
                Err(_) => out += &format!("{name:36} {:>9}\n", "-"),
            }
        }
    }
    let header =
        "Microseconds per token. Largest difference of a logit to lstmc f32, and the model that was run:";
    out += &format!("\n{header}\n");
    for row in rows {
        let name = format!("  {} {}", row.engine, row.precision);
        match (&row.result, row.difference) {
            (Err(e), _) => out += &format!("{name:36} does not run: {e}\n"),
            (_, Some(d)) => out += &format!("{name:36} {d:>9.1e}  {}\n", row.model),
            _ => {}
        }
    }
    out
}

fn json(args: &Args, rows: &[Row]) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let mut value =
                serde_json::json!({ "engine": row.engine, "precision": row.precision, "model": row.model });
            match &row.result {
                Ok(all) => {
                    for (m, measure) in Measure::ALL.into_iter().enumerate() {
                        let Spread { min, median, max } = all[m];
                        value[measure.name()] =
                            serde_json::json!({ "min": min, "median": median, "max": max });
                        if let Some(ours) = ours(rows, row.precision) {
                            value[measure.name()]["ratio"] = (ours[m].min / min).into();
                        }
                    }
                    value["largest_difference"] = row.difference.into();
                }
                Err(e) => value["error"] = e.as_str().into(),
            }
            value
        })
        .collect();
    serde_json::json!({ "cpu": cpu(), "threads": args.threads, "rounds": args.rounds, "us_per_token": rows })
}
