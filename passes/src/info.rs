//! A pass before it is created: its name, its options, how to create it.

use crate::options::{OptionInfo, Options};
use crate::pass::{Pass, PassError};

/// The passes that may be named.
pub type Table = &'static [PassInfo];

/// A pass's row in the table.
#[derive(Clone, Copy, Debug)]
pub struct PassInfo {
    /// The name in pipelines, in words joined by `-`.
    pub name: &'static str,
    /// What it does, in one line without a full stop.
    pub summary: &'static str,
    /// Its options.
    pub options: &'static [OptionInfo],
    /// Whether it changes what the model computes: perplexity is measured after it.
    pub lossy: bool,
    /// Whether it recovers the loss of the pass directly before it: both are judged together.
    pub recovers: bool,
    /// Whether it reads statistics of calibration text, with these options.
    pub needs_calibration: fn(&Options) -> bool,
    /// Creates the pass. An error if options are valid one by one but not together.
    pub make: fn(&Options) -> Result<Box<dyn Pass>, PassError>,
}

impl PassInfo {
    /// The option with this name.
    pub fn option(&self, name: &str) -> Option<&'static OptionInfo> {
        self.options.iter().find(|o| o.name == name)
    }
}
