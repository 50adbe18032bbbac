//! The text form: `pass(option=value, ..), pass, ..`.

use super::error::{PipelineError, Place, Problem};
use super::{Invocation, Pipeline, Table, complete, find_option, find_pass, read_value};
use std::borrow::Cow;
use std::ops::Range;

/// Reads a pipeline.
pub(super) fn parse(text: &str, table: Table) -> Result<Pipeline, PipelineError> {
    let mut reader = Reader { text, at: 0 };
    let mut passes = vec![];
    loop {
        passes.push(reader.invocation(table)?);
        reader.space();
        if reader.at == text.len() {
            return Ok(Pipeline { description: None, passes });
        }
        reader.expect(',', "`,` or the end")?;
    }
}

/// The value, in quotes if it would not be read back otherwise; inside quotes, `\"` and `\\` stand for a quote and a backslash.
pub(super) fn quoted(value: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !",()\"".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        return value.to_string();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn error(&self, start: usize, end: usize, problem: Problem) -> PipelineError {
        PipelineError {
            problem: Box::new(problem),
            place: Place::Text { text: self.text.to_string(), start, end },
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn unexpected(&self, expected: &'static str) -> PipelineError {
        let next = self.rest().chars().next();
        let found = next.map_or("the end".into(), |c| format!("`{c}`"));
        let end = self.at + next.map_or(0, char::len_utf8);
        self.error(self.at, end, Problem::Syntax { expected, found })
    }

    fn eat(&mut self, c: char) -> bool {
        self.space();
        let hit = self.rest().starts_with(c);
        self.at += if hit { c.len_utf8() } else { 0 };
        hit
    }

    fn expect(&mut self, c: char, expected: &'static str) -> Result<(), PipelineError> {
        if self.eat(c) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    /// A name and where it starts.
    fn name(&mut self, expected: &'static str) -> Result<(&'t str, usize), PipelineError> {
        self.space();
        let is_name = |c: char| !c.is_whitespace() && !",()=\"".contains(c);
        let rest = self.rest();
        let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        if len == 0 {
            return Err(self.unexpected(expected));
        }
        let start = self.at;
        self.at += len;
        Ok((&rest[..len], start))
    }

    /// A value and its position: up to `,` or `)`, or in quotes.
    fn value(&mut self) -> Result<(Cow<'t, str>, Range<usize>), PipelineError> {
        self.space();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let rest = self.rest();
        let value = rest[..rest.find([',', ')']).unwrap_or(rest.len())].trim_end();
        if value.is_empty() {
            return Err(self.unexpected("a value"));
        }
        let start = self.at;
        self.at += value.len();
        Ok((value.into(), start..self.at))
    }

    /// A value in quotes. A backslash before any other character than a quote or a backslash is literal.
    fn quoted(&mut self) -> Result<(Cow<'t, str>, Range<usize>), PipelineError> {
        let start = self.at + 1;
        let inner = &self.text[start..];
        let (mut value, mut from) = (Cow::Borrowed(""), 0);
        while let Some(len) = inner[from..].find(['"', '\\']) {
            value += &inner[from..from + len];
            let mark = from + len;
            if inner[mark..].starts_with('"') {
                self.at = start + mark + 1;
                return Ok((value, start..start + mark));
            }
            let escaped = inner[mark + 1..].chars().next().filter(|c| "\"\\".contains(*c));
            value.to_mut().push(escaped.unwrap_or('\\'));
            from = mark + 1 + escaped.map_or(0, char::len_utf8);
        }
        let problem = Problem::Syntax { expected: "a closing `\"`", found: "the end".into() };
        Err(self.error(self.at, self.text.len(), problem))
    }

    fn invocation(&mut self, table: Table) -> Result<Invocation, PipelineError> {
        let (name, start) = self.name("a pass")?;
        let end = self.at;
        let info = find_pass(name, table).map_err(|p| self.error(start, end, p))?;
        let mut given = vec![];
        if self.eat('(') && !self.eat(')') {
            loop {
                let (name, from) = self.name("an option")?;
                let option = find_option(info, name, &given).map_err(|p| self.error(from, self.at, p))?;
                self.expect('=', "`=` and a value")?;
                let (text, place) = self.value()?;
                let value =
                    read_value(info, option, &text).map_err(|p| self.error(place.start, place.end, p))?;
                given.push((option.name, value));
                if self.eat(')') {
                    break;
                }
                self.expect(',', "`,` or `)`")?;
            }
        }
        complete(info, given).map_err(|p| self.error(start, end, p))
    }
}
