//! `lstmc opt`: IR text to IR text.

use super::compile::{PrintIr, pipeline};
use super::{read_text, read_utf8, tokenizer};
use crate::Source;
use crate::frontend::ir::{Graph, PrintOptions, parse, print_with};
use crate::passes::Table;
use crate::passes::{Context as PassContext, Settings, run as run_passes};
use crate::terminal::Usage;
use anyhow::Context;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Run passes on a graph in text form, for people who write passes
///
/// Reads the IR's text form and prints what the passes make of it. Weights whose data the text does not give can be passed through
/// but not changed; `@w: f32[4, 4] random 7` makes some up.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  lstmc opt model.ir --passes \"canonicalize\"")]
pub(crate) struct Args {
    /// The graph; - for standard input
    #[arg(value_name = "FILE.ir")]
    file: PathBuf,
    /// The passes
    #[arg(long, value_name = "TEXT", default_value = "canonicalize")]
    passes: String,
    /// Text that the pass `recover` trains on
    #[arg(long, value_name = "TEXT", requires = "vocab")]
    train: Option<PathBuf>,
    /// Vocabulary of that text, one word a line; line number from 0 = token id
    #[arg(long, value_name = "FILE", requires = "train")]
    vocab: Option<PathBuf>,
    /// Print the graph after passes too: after-all, or after=PASS
    #[arg(long, value_name = "WHEN")]
    print_ir: Option<PrintIr>,
    /// Run only the first N passes
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
    /// Write tensors of at most this many elements inline
    #[arg(long, value_name = "N", default_value_t = 0)]
    inline: usize,
    /// Print what each pass did to standard error
    #[arg(long)]
    trail: bool,
}

/// A text as words of the graph's vocabulary.
fn tokens(graph: &Graph, text: &Path, vocabulary: &Path) -> anyhow::Result<Vec<u32>> {
    let source = Source::of_graph(graph.clone()).with_vocabulary(Some(vocabulary))?;
    Ok(read_text(text, tokenizer(&source)?)?.tokens)
}

pub(crate) fn run(args: &Args, table: Table) -> anyhow::Result<()> {
    let text = if args.file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        text
    } else {
        read_utf8(&args.file)?
    };
    let graph = parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", args.file.display()))?;
    let pipeline = pipeline(Some(&args.passes), None, table)?;
    if let Some(when) = &args.print_ir {
        when.check(&pipeline).map_err(Usage)?;
    }
    let mut observer = PrintIr::observer(args.print_ir.as_ref());
    let training = args.train.as_deref().zip(args.vocab.as_deref());
    let training = training.map(|(text, vocabulary)| tokens(&graph, text, vocabulary)).transpose()?;
    let settings = Settings {
        context: PassContext { training: training.as_deref(), ..PassContext::default() },
        stop_after: args.stop_after,
        observer: Some(&mut observer),
        ..Settings::default()
    };
    let run = run_passes(&pipeline, graph, settings)?;
    if args.trail {
        write!(std::io::stderr(), "{}", run.trail)?;
    }
    let options = PrintOptions { inline_up_to: args.inline };
    write!(std::io::stdout(), "{}", print_with(&run.graph, &options))?;
    Ok(())
}
