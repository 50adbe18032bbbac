//! Recipes: pipelines as TOML.

use super::error::{PipelineError, Place, Problem};
use super::{Pipeline, Table, complete, find_option, find_pass, read_value};
use crate::options::Value;
use serde::Deserialize;
use toml::Value as Toml;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    description: Option<String>,
    #[serde(default)]
    pass: Vec<toml::Table>,
}

/// Reads a recipe.
pub(super) fn parse(text: &str, table: Table) -> Result<Pipeline, PipelineError> {
    let error = |place, problem| PipelineError { problem: Box::new(problem), place };
    let recipe: Recipe = toml::from_str(text)
        .map_err(|e| error(Place::File, Problem::Toml(e.to_string().trim_end().into())))?;
    if recipe.pass.is_empty() {
        let problem = Problem::Syntax { expected: "at least one [[pass]]", found: "none".into() };
        return Err(error(Place::File, problem));
    }
    let mut passes = vec![];
    for (k, mut entry) in recipe.pass.into_iter().enumerate() {
        let here = |problem| error(Place::Recipe { pass: k + 1 }, problem);
        let name = match entry.remove("name") {
            Some(Toml::String(name)) => name,
            other => {
                let found = other.map_or("none".into(), |v| v.to_string());
                return Err(here(Problem::Syntax { expected: "a pass's `name`", found }));
            }
        };
        let info = find_pass(&name, table).map_err(here)?;
        let mut given = vec![];
        for (name, value) in entry {
            let option = find_option(info, &name, &given).map_err(here)?;
            let text = match value {
                Toml::String(s) => s,
                other => other.to_string(),
            };
            given.push((option.name, read_value(info, option, &text).map_err(here)?));
        }
        // A TOML table has no order; the pass table does.
        given.sort_by_key(|(name, _)| info.options.iter().position(|o| o.name == *name));
        passes.push(complete(info, given).map_err(here)?);
    }
    Ok(Pipeline { description: recipe.description, passes })
}

/// Prints a recipe.
pub(super) fn print(pipeline: &Pipeline) -> String {
    let mut out = String::new();
    if let Some(description) = &pipeline.description {
        out += &format!("description = {}\n\n", Toml::String(description.clone()));
    }
    let blocks: Vec<String> = pipeline
        .passes
        .iter()
        .map(|invocation| {
            let mut block = format!("[[pass]]\nname = \"{}\"\n", invocation.info().name);
            for (name, value) in invocation.given() {
                let value = match value {
                    Value::Integer(v) => Toml::Integer(*v),
                    Value::Number(v) => Toml::Float(*v),
                    Value::Flag(v) => Toml::Boolean(*v),
                    other => Toml::String(other.to_string()),
                };
                block += &format!("{name} = {value}\n");
            }
            block
        })
        .collect();
    out + &blocks.join("\n")
}
