//! `lstmc demo`
