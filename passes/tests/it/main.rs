//! Tests of the passes: by files of text, and on real models.

mod activations;
mod compress;
mod export;
mod factorise;
mod files;
mod gate;
mod models;
mod pipelines;
mod progress;
