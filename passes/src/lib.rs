//! Passes of lstmc.
#![deny(unsafe_code)]

pub mod solve;
