//! Generated kernels against the interpreter, and listings.

mod bound;
mod kernels;
mod limits;
mod listings;
mod models;
mod objects;
mod programs;
