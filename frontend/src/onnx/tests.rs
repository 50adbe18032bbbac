//! Tests of the importer and the exporter: small models built here, and every model of `testdata`.

mod build;
mod export;
mod files;
mod independent;
mod lowering;
mod proto;
mod refusals;
mod round_trip;
