//! The compiler's pool of threads ([`pool`]), built alone.
//!
//! `just loom` checks its protocol: [loom](https://docs.rs/loom) runs each case in every order in which the threads could come and every value
//! that a load could return. Without `--cfg loom` the module's own tests run, which Miri and the thread sanitizer do quickly here.
#![allow(dead_code, reason = "nothing but tests uses the module here, and they use a part of it")]

#[path = "../../kernels/src/pool/mod.rs"]
mod pool;

#[cfg(all(test, loom))]
mod cases;
