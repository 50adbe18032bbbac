//! The command line, as a function: a custom program gets all its commands with its own passes.
//!
//! ```no_run
//! use lstmc::passes::PassInfo;
//! use lstmc::passes::registry::extended;
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     let mine: &[PassInfo] = &[];
//!     lstmc::cli::run(extended(mine))
//! }
//! ```

use crate::commands;
use crate::passes::Table;
use crate::terminal;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Compress LSTM language models and compile them into fast CPU kernels.
///
/// A first tour needs no arguments: `lstmc demo`. After that, with a model and a vocabulary (one word a line):
///
///   lstmc compile model.onnx --vocab vocab.txt -o model.lstmc
///   lstmc eval model.lstmc --text test.txt
///   lstmc suggest model.lstmc --prompt "the company said"
#[derive(Parser, Debug)]
#[command(name = "lstmc", version, verbatim_doc_comment, max_term_width = 110)]
struct Cli {
    /// Log more on standard error: -v logs each step, -vv its details.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Demo(commands::demo::Args),
    Inspect(commands::inspect::Args),
    Compile(Box<commands::compile::Args>),
    Calibrate(commands::calibrate::Args),
    Search(Box<commands::search::Args>),
    Frontier(Box<commands::frontier::Args>),
    Eval(commands::eval::Args),
    Compare(commands::compare::Args),
    Report(commands::report::Args),
    Score(commands::score::Args),
    Rescore(commands::rescore::Args),
    Suggest(commands::suggest::Args),
    Generate(commands::generate::Args),
    Bench(commands::bench::Args),
    Cpu(commands::cpu::Args),
    Build(commands::build::Args),
    Export(commands::export::Args),
    Opt(commands::opt::Args),
    Passes(commands::passes::Args),
    Verify(commands::verify::Args),
}

/// Runs the command in the program's arguments, with the passes of `table`, and returns the exit code: 0, 1 for failure or 2 for wrong usage.
///
/// Takes over Ctrl-C and the log, so call it once, from `main`.
pub fn run(table: Table) -> ExitCode {
    run_with(std::env::args_os(), table).into()
}

/// [`run`] with these arguments, the program's name first; returns the exit code as a number.
pub fn run_with(args: impl IntoIterator<Item = OsString>, table: Table) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    terminal::set_program(args.first());
    let cli = Cli::parse_from(args);
    terminal::start_log(cli.verbose);
    if let Err(error) = terminal::handle_interrupts() {
        tracing::warn!("Ctrl-C may leave a temporary file behind: {error}");
    }
    match command(cli.command, table) {
        Ok(()) => 0,
        Err(error) => terminal::report(&error),
    }
}

/// Runs a command inside of another program, and leaves log and Ctrl-C to that. Arguments are without the program's name.
///
/// # Errors
///
/// What the command would print.
pub fn call(args: impl IntoIterator<Item = OsString>, table: Table) -> Result<(), String> {
    let args = std::iter::once("lstmc".into()).chain(args);
    let cli = Cli::try_parse_from(args).map_err(|e| e.to_string())?;
    command(cli.command, table).map_err(|error| terminal::message(&error))
}

fn command(command: Command, table: Table) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => commands::demo::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Compile(args) => commands::compile::run(&args, table),
        Command::Calibrate(args) => commands::calibrate::run(&args),
        Command::Search(args) => commands::search::run(&args, table),
        Command::Frontier(args) => commands::frontier::run(&args, table),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Rescore(args) => commands::rescore::run(&args),
        Command::Suggest(args) => commands::suggest::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Cpu(args) => commands::cpu::run(&args),
        Command::Build(args) => commands::build::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Opt(args) => commands::opt::run(&args, table),
        Command::Passes(args) => commands::passes::run(&args, table),
        Command::Verify(args) => commands::verify::run(&args),
    }
}
