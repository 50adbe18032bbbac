//! Tests of the importer: small models built here, and every model of `testdata`.

mod build;
mod files;
mod lowering;
mod proto;
mod refusals;
