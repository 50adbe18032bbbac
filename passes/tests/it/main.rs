//! Tests of the passes: by files of text, and on real models.

mod files;
mod gate;
mod models;
mod pipelines;
