//! The command line of lstmc with the pass `row-prune`.

fn main() -> std::process::ExitCode {
    lstmc::cli::run(row_prune::passes())
}
