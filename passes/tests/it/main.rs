//! Tests of the passes: by files of text, and on real models.

mod compress;
mod files;
mod gate;
mod models;
mod pipelines;
