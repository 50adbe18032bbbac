//! `lstmc passes`: the passes that pipelines may name.

use crate::passes::PassInfo;
use crate::passes::Table;
use crate::passes::options::Presence;
use crate::terminal::{self, Usage};
use serde_json::json;
use std::io::Write;

/// List the passes, or show a pass's options
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  lstmc passes\n  lstmc passes quantize")]
pub(crate) struct Args {
    /// The pass
    #[arg(value_name = "PASS")]
    pass: Option<String>,
    /// Print JSON: a list of {name, summary, lossy, options[] {name, doc, values, required, default}}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, table: Table) -> anyhow::Result<()> {
    let shown: Vec<&PassInfo> = match &args.pass {
        None => table.iter().collect(),
        Some(name) => vec![find(name, table)?],
    };
    if args.json {
        return terminal::json(&json!(shown.iter().map(|pass| to_json(pass)).collect::<Vec<_>>()));
    }
    let mut out = std::io::stdout();
    if args.pass.is_none() {
        let width = shown.iter().map(|p| p.name.len()).max().unwrap_or(0);
        for pass in shown {
            writeln!(out, "{:width$}  {}", pass.name, pass.summary)?;
        }
        return Ok(());
    }
    for pass in shown {
        let loss = if pass.lossy { "lossy" } else { "lossless" };
        writeln!(out, "{}: {} ({loss})", pass.name, pass.summary)?;
        for option in pass.options {
            let presence = match option.presence {
                Presence::Required => "required".to_string(),
                Presence::Optional => "optional".to_string(),
                Presence::Default(value) => format!("default {value}"),
            };
            writeln!(out, "\n  {}: {}\n      {}; {presence}", option.name, option.doc, option.kind)?;
        }
    }
    Ok(())
}

fn find(name: &str, table: Table) -> Result<&'static PassInfo, Usage> {
    let names = || table.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
    let pass = table.iter().find(|p| p.name == name);
    pass.ok_or_else(|| Usage(format!("there is no pass {name}; the passes are {}", names())))
}

fn to_json(pass: &PassInfo) -> serde_json::Value {
    let options: Vec<serde_json::Value> = pass
        .options
        .iter()
        .map(|option| {
            let default = match option.presence {
                Presence::Default(value) => Some(value.to_string()),
                Presence::Required | Presence::Optional => None,
            };
            json!({
                "name": option.name,
                "doc": option.doc,
                "values": option.kind.to_string(),
                "required": option.presence == Presence::Required,
                "default": default,
            })
        })
        .collect();
    json!({ "name": pass.name, "summary": pass.summary, "lossy": pass.lossy, "options": options })
}
