//! `lstmc calibrate`: statistics of a text, to compile with more than once.

use super::ModelArgs;
use super::texts::text;
use crate::passes::Statistics;
use crate::terminal::{self, bytes, thousands};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Collect statistics of a text, for `lstmc compile --calibrate STATS`
///
/// The model reads the text, and what its layers are given is summed up: second moments, means, word counts. Passes that compress it
/// use these instead of the text. The statistics belong to this model: another model's are refused.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  lstmc calibrate model.onnx --vocab vocab.txt --text train.txt -o model.stats\n  \
                        lstmc compile model.onnx --vocab vocab.txt --calibrate model.stats --passes \"quantize(bits=4)\" -o model.lstmc"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text: some ten thousand words of the kind that the model will read
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Where to write the statistics, a safetensors file
    #[arg(short, long, value_name = "STATS")]
    output: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let source = args.model.read()?;
    let text = text(&args.text, &source, "calibration")?;
    let started = Instant::now();
    let statistics =
        Statistics::collect(&source.graph, &text.tokens, &mut terminal::bar("collecting statistics"))?;
    let data = statistics.to_bytes();
    super::write_whole(&args.output, &data)?;
    writeln!(
        std::io::stderr(),
        "{}: statistics of {} tokens ({} unknown), {}, in {:.1} s",
        args.output.display(),
        thousands(statistics.tokens()),
        thousands(text.info.unknown.unwrap_or_default()),
        bytes(data.len()),
        started.elapsed().as_secs_f64()
    )?;
    Ok(())
}
