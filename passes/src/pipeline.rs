//! Pipelines: the passes to run, with their options.
//!
//! ```text
//! canonicalize, low-rank(target=decoder, rank=96), prune(target=lstm*, sparsity=0.8, block=1x16), quantize(bits=8)
//! ```
//!
//! The same as a recipe, a TOML file that can be kept and shared:
//!
//! ```toml
//! description = "4 bits with nothing else"
//!
//! [[pass]]
//! name = "canonicalize"
//!
//! [[pass]]
//! name = "quantize"
//! bits = 4
//! ```
//!
//! Both are checked against the pass table while they are read, so a pipeline in memory names passes that exist, with options of
//! the right kinds. `Display` prints the text form, which parses to the same pipeline.

mod error;
mod recipe;
mod spelling;
mod text;

pub use error::{PipelineError, Place, Problem};

use crate::info::{PassInfo, Table};
use crate::options::{OptionInfo, Options, Presence, Value};
use crate::pass::{Pass, PassError};
use crate::registry::PASSES;
use spelling::closest;
use std::fmt;

/// Passes in order.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// Its purpose, in a recipe.
    pub description: Option<String>,
    /// The passes.
    pub passes: Vec<Invocation>,
}

/// A pass with its options.
#[derive(Clone, Debug)]
pub struct Invocation {
    info: &'static PassInfo,
    given: Vec<(&'static str, Value)>,
}

impl Pipeline {
    /// Reads the text form.
    ///
    /// ```
    /// # use lstmc_passes::Pipeline;
    /// let pipeline = Pipeline::parse("canonicalize, decode(target=lstm*)")?;
    /// assert_eq!(pipeline.to_string(), "canonicalize, decode(target=lstm*)");
    /// # Ok::<(), lstmc_passes::PipelineError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Pipeline, PipelineError> {
        Pipeline::parse_with(text, PASSES)
    }

    /// Reads the text form with a custom pass table.
    pub fn parse_with(text: &str, table: Table) -> Result<Pipeline, PipelineError> {
        text::parse(text, table)
    }

    /// Reads a recipe.
    pub fn from_recipe(toml: &str) -> Result<Pipeline, PipelineError> {
        Pipeline::from_recipe_with(toml, PASSES)
    }

    /// Reads a recipe with a custom pass table.
    pub fn from_recipe_with(toml: &str, table: Table) -> Result<Pipeline, PipelineError> {
        recipe::parse(toml, table)
    }

    /// The pipeline as a recipe.
    pub fn to_recipe(&self) -> String {
        recipe::print(self)
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, pass) in self.passes.iter().enumerate() {
            if k > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{pass}")?;
        }
        Ok(())
    }
}

impl Invocation {
    /// The pass's row in the table.
    pub fn info(&self) -> &'static PassInfo {
        self.info
    }

    /// The options given in the text, in order.
    pub fn given(&self) -> &[(&'static str, Value)] {
        &self.given
    }

    /// The options, with defaults filled in.
    pub fn options(&self) -> Options {
        Options::new(self.info.options, &self.given)
    }

    /// The pass, ready to run.
    pub fn pass(&self) -> Result<Box<dyn Pass>, PassError> {
        (self.info.make)(&self.options())
    }

    /// Whether the pass, with these options, reads statistics of calibration text.
    pub fn needs_calibration(&self) -> bool {
        (self.info.needs_calibration)(&self.options())
    }
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info.name)?;
        if self.given.is_empty() {
            return Ok(());
        }
        let options: Vec<String> = self
            .given
            .iter()
            .map(|(name, value)| format!("{name}={}", text::quoted(&value.to_string())))
            .collect();
        write!(f, "({})", options.join(", "))
    }
}

/// The pass with this name.
fn find_pass(name: &str, table: Table) -> Result<&'static PassInfo, Problem> {
    table.iter().find(|p| p.name == name).ok_or_else(|| Problem::UnknownPass {
        name: name.to_string(),
        closest: closest(name, table.iter().map(|p| p.name)),
        known: table.iter().map(|p| p.name).collect(),
    })
}

/// The option with this name, which must not be given already.
fn find_option(
    pass: &'static PassInfo,
    name: &str,
    given: &[(&'static str, Value)],
) -> Result<&'static OptionInfo, Problem> {
    let Some(option) = pass.option(name) else {
        return Err(Problem::UnknownOption {
            pass: pass.name,
            name: name.to_string(),
            closest: closest(name, pass.options.iter().map(|o| o.name)),
            known: pass.options.iter().map(|o| o.name).collect(),
        });
    };
    if given.iter().any(|(n, _)| *n == option.name) {
        return Err(Problem::Repeated { pass: pass.name, option: option.name });
    }
    Ok(option)
}

/// The value of an option.
fn read_value(pass: &'static PassInfo, option: &'static OptionInfo, text: &str) -> Result<Value, Problem> {
    option.kind.parse(text).map_err(|expected| Problem::Value {
        pass: pass.name,
        option: option.name,
        expected,
        found: text.to_string(),
    })
}

/// Checks that nothing is missing.
fn complete(info: &'static PassInfo, given: Vec<(&'static str, Value)>) -> Result<Invocation, Problem> {
    let is_given = |name: &str| given.iter().any(|(n, _)| *n == name);
    match info.options.iter().find(|o| o.presence == Presence::Required && !is_given(o.name)) {
        None => Ok(Invocation { info, given }),
        Some(option) => Err(Problem::Missing {
            pass: info.name,
            option: option.name,
            expected: option.kind.to_string(),
            doc: option.doc,
        }),
    }
}
