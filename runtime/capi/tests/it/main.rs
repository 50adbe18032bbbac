//! Tests of the C interface: its header, and a C program that uses it rightly and wrongly.

mod header;
mod program;

/// Says what is left out, past the capture of tests' output.
fn skipped(what: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIPPED: {what}\n"));
}
