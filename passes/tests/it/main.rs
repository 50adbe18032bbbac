//! Tests of the passes: by files of text, and on real models.

mod activations;
mod budget;
mod compress;
mod export;
mod factorise;
mod files;
mod models;
mod pipelines;
mod progress;
mod recurrent;
