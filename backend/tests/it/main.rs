//! Generated kernels against the interpreter, and listings.

mod bound;
mod kernels;
mod listings;
mod models;
mod objects;
