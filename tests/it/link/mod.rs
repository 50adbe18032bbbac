//! Models linked into programs: what `lstmc build` writes, compiled with a C compiler and with Cargo, and run.
//!
//! What a machine lacks (a C compiler, one for arm64, an emulator, valgrind) is said and left out.

mod c;
mod callers;
mod cortex;
mod dispatch;
mod examples;
mod linkers;
mod logits;
mod rust;
mod tools;
