//! `lstmc export`: back to ONNX.

use super::ModelArgs;
use crate::frontend::onnx::{self, ExportError, ExportOptions};
use crate::terminal::{Usage, bytes, thousands};
use std::io::Write;
use std::path::PathBuf;

/// Write a model as ONNX, for ONNX Runtime and other tools
///
/// Inputs are tokens [seq, batch], h0 and c0 [layers, batch, hidden]; outputs logits, hn, cn. Weights stay as small as ONNX can say:
/// quantized ones are codes and scales before DequantizeLinear, low-rank ones two factors. Pruned weights are written dense, with zeros.
/// Vectors that products take as int8 stay f32.
///
/// `lstmc compile` of the file gives the same model again, every weight in its representation, unless another tool changes the file.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  lstmc export model.lstmc -o model.onnx")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where to write the ONNX model
    #[arg(short, long, value_name = "FILE.onnx")]
    output: PathBuf,
    /// Undo every compression: all weights as f32
    #[arg(long)]
    dense: bool,
    /// Version of the standard operators; older ones than 21 have no int4 and no scales for groups, which then become f32
    #[arg(long, value_name = "N", default_value_t = ExportOptions::default().opset)]
    opset: i64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let options = ExportOptions { dense: args.dense, opset: args.opset };
    let exported = onnx::export(&source.graph, &options).map_err(|e| match e {
        ExportError::Opset { .. } => anyhow::Error::from(Usage(format!("--opset: {e}"))),
        e => anyhow::anyhow!("{}: {e}", source.path.display()),
    })?;
    let file = exported.to_bytes();
    super::write_whole(&args.output, &file)?;
    let size = file.len();
    let mut err = std::io::stderr();
    for note in &exported.notes {
        writeln!(err, "note: {note}")?;
    }
    writeln!(err, "{}: {} bytes ({})", args.output.display(), thousands(size), bytes(size))?;
    Ok(())
}
