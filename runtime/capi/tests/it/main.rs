//! Tests of the C interface: its header, and a C program that uses it rightly and wrongly.
#![expect(clippy::print_stderr, reason = "skipped tests are worth a line")]

mod header;
mod program;
