//! The command line of lstmc, with the passes that are built in.
#![deny(unsafe_code)]

fn main() -> std::process::ExitCode {
    lstmc::cli::run(lstmc::passes::registry::PASSES)
}
