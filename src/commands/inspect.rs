//! `lstmc inspect`: what is in a model.

use super::ModelArgs;
use crate::Source;
use crate::frontend::ir::{Graph, Program, parameters, print};
use crate::terminal::{self, bytes, thousands};
use std::io::Write;

/// Show a model's layers, weights, sizes and costs
///
/// A model that has language-model form is shown in it; any other is shown as it was imported, with the reason.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  lstmc inspect model.onnx\n  lstmc inspect model.lstmc --json\n  \
                        lstmc inspect model.lstmc --ir")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print the graph in the IR's text form
    #[arg(long, conflicts_with = "json")]
    ir: bool,
    /// Print the graph as imported, before canonicalisation
    #[arg(long)]
    raw: bool,
    /// Print JSON: name, parameters, bytes, multiply_adds_per_token, weights[] {name, shape, representation, bytes}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = Source::read(&args.model.model)?.with_vocabulary(args.model.vocab.as_deref())?;
    let (source, refusal) = if args.raw {
        (source, None)
    } else {
        match source.clone().canonical() {
            Ok(canonical) => (canonical, None),
            Err(crate::Error::Canonicalize(e)) => (source, Some(e.to_string())),
            Err(e) => return Err(e.into()),
        }
    };
    let mut out = std::io::stdout().lock();
    if args.ir {
        write!(out, "{}", print(&source.graph))?;
        return Ok(());
    }
    let model = Program::of(&source.graph).ok();
    let multiply_adds = model.as_ref().map(Program::multiply_adds);
    let sizes = source.weight_bytes()?;
    let total: usize = sizes.iter().map(|(_, b)| b).sum();
    let rows: Vec<Row> = source
        .graph
        .weights()
        .zip(&sizes)
        .map(|((_, w), (_, bytes))| Row {
            name: w.name.clone(),
            shape: w.map.shape(),
            representation: w.map.describe(),
            bytes: *bytes,
        })
        .collect();
    if args.json {
        let weights: Vec<_> = rows
            .iter()
            .map(|r| serde_json::json!({"name": r.name, "shape": r.shape, "representation": r.representation, "bytes": r.bytes}))
            .collect();
        let report: serde_json::Value = serde_json::from_str(&source.report).unwrap_or_default();
        drop(out);
        return terminal::json(&serde_json::json!({
            "name": source.graph.name,
            "vocabulary": source.graph.vocabulary,
            "parameters": parameters(&source.graph),
            "bytes": total,
            "multiply_adds_per_token": multiply_adds,
            "language_model": model.is_some(),
            "refused": refusal,
            "notes": source.notes,
            "recipe": source.recipe,
            "report": report,
            "weights": weights,
        }));
    }
    let words = source.graph.vocabulary.map_or(String::new(), |n| format!(", {} words", thousands(n)));
    writeln!(out, "{} ({}{words})", source.graph.name, source.path.display())?;
    writeln!(out, "{} parameters, {} of weights", thousands(parameters(&source.graph)), bytes(total))?;
    if let Some(n) = multiply_adds {
        writeln!(out, "{} multiply-adds per token", thousands(n))?;
    }
    if !source.recipe.is_empty() {
        writeln!(out, "made by: {}", source.recipe)?;
    }
    for note in &source.notes {
        writeln!(out, "note: {note}")?;
    }
    if let Some(reason) = refusal {
        writeln!(out, "not a language model that can be compiled: {reason}")?;
    }
    writeln!(out)?;
    if model.is_some() {
        layers(&mut out, &source.graph)?;
        writeln!(out)?;
    }
    table(&mut out, &rows)
}

struct Row {
    name: String,
    shape: Vec<usize>,
    representation: String,
    bytes: usize,
}

/// The nodes of language-model form: what each layer reads and makes.
fn layers(out: &mut impl Write, graph: &Graph) -> anyhow::Result<()> {
    writeln!(out, "layers")?;
    for (_, node) in graph.nodes() {
        let results: Vec<String> =
            node.results().iter().map(|&v| format!("%{}: {}", graph.name_of(v), graph.type_of(v))).collect();
        writeln!(out, "  {:<10} {}", node.op.name(), results.join(", "))?;
    }
    Ok(())
}

fn table(out: &mut impl Write, rows: &[Row]) -> anyhow::Result<()> {
    let shape = |r: &Row| format!("{:?}", r.shape);
    let name = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(6);
    let dims = rows.iter().map(|r| shape(r).len()).max().unwrap_or(0).max(5);
    let kind = rows.iter().map(|r| r.representation.len()).max().unwrap_or(0).max(14);
    writeln!(out, "{:name$}  {:dims$}  {:kind$}  {:>12}", "weight", "shape", "representation", "bytes")?;
    for r in rows {
        writeln!(
            out,
            "{:name$}  {:dims$}  {:kind$}  {:>12}",
            r.name,
            shape(r),
            r.representation,
            thousands(r.bytes)
        )?;
    }
    Ok(())
}
