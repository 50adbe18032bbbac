//! Tests of the whole program: the command line as people call it, and the facade on real models.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "measured errors and skipped tests are worth a line"
)]

// What the sources of the C interface, a fuzz target among these tests, call the library.
extern crate lstmc as facade;

mod bad_files;
mod bad_models;
mod canonical;
mod commands;
mod compare;
mod containers;
mod demo;
mod engines;
mod entropy;
mod exports;
mod frontier;
mod fuzz;
mod interrupt;
mod link;
mod pools;
mod program;
mod ptb;
mod refused_output;
mod report;
mod sentences;
mod streams;
mod subwords;
mod texts;
mod training;
mod usage;
