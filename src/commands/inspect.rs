//! `lstmc inspect`: what is in a model.

use super::ModelArgs;
use crate::frontend::ir::{Graph, Program, Weight, parameters, print};
use crate::frontend::onnx;
use crate::terminal::{self, bytes, columns, thousands};
use crate::{Format, Source};
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
    let source = args.model.source()?;
    let (source, refusal) = if args.raw {
        match source.format {
            Format::Onnx => (Source { graph: onnx::read(&args.model.model)?, ..source }, None),
            Format::Lstmc => (source, None),
        }
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
    let weights: Vec<(&Weight, usize)> =
        source.graph.weights().zip(&sizes).map(|((_, w), (_, bytes))| (w, *bytes)).collect();
    if args.json {
        let weights: Vec<_> = weights
            .iter()
            .map(|(w, bytes)| serde_json::json!({"name": w.name, "shape": w.map.shape(), "representation": w.map.describe(), "bytes": bytes}))
            .collect();
        let report: serde_json::Value = serde_json::from_str(&source.report).unwrap_or_default();
        drop(out);
        return terminal::json(&serde_json::json!({
            "name": source.graph.name,
            "vocabulary": source.graph.vocabulary,
            "tokenizer": source.tokenizer.as_ref().map(|t| t.summary()),
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
    if let Some(tokenizer) = &source.tokenizer {
        writeln!(out, "texts are read as {}", tokenizer.summary())?;
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
    let header = ["weight", "shape", "representation", "bytes"].map(str::to_string);
    let row = |(w, bytes): &(&Weight, usize)| {
        [w.name.clone(), format!("{:?}", w.map.shape()), w.map.describe(), thousands(*bytes)]
    };
    let rows: Vec<[String; 4]> = std::iter::once(header).chain(weights.iter().map(row)).collect();
    Ok(write!(out, "{}", columns(&rows, &[0, 1, 2]))?)
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
