//! `lstmc cpu`: processor levels.

use crate::backend::{Level, LevelError};
use crate::terminal;
use std::io::Write;

/// List processor levels, and which of them this machine has
///
/// A level says which instructions generated code and the kernels beside it may use. The best one that the processor has is the default; a lower
/// one, for a test or a comparison, is chosen by `--cpu LEVEL` of the commands that run models, or by the variable LSTMC_CPU for all of
/// them. Results differ by rounding only: sums of integers are the same at every level.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  lstmc cpu\n  LSTMC_CPU=plain lstmc bench model.onnx")]
pub(crate) struct Args {
    /// Print JSON: processor, best, levels[] {name, about, available, lacks[]}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (processor, best) = (super::processor(), Level::best());
    let levels = Level::known().map(|(name, about, level)| {
        let lacks = match level {
            Err(LevelError::Missing { lacks, .. }) => lacks,
            _ => vec![],
        };
        (name, about, lacks)
    });
    if args.json {
        let levels: Vec<_> = levels
            .map(|(name, about, lacks)| {
                serde_json::json!({"name": name, "about": about, "available": lacks.is_empty(), "lacks": lacks})
            })
            .collect();
        return terminal::json(
            &serde_json::json!({"processor": processor, "best": best.name(), "levels": levels}),
        );
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{processor}")?;
    writeln!(out)?;
    for (name, about, lacks) in levels {
        let here = match &lacks[..] {
            [] if name == best.name() => "yes, the best one: the default".to_string(),
            [] => "yes".to_string(),
            lacks => format!("no, it lacks {}", lacks.join(", ")),
        };
        writeln!(out, "{name:12} {about:50} {here}")?;
    }
    Ok(())
}
