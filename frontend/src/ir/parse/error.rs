//! Errors that point into the text.

use std::fmt;

/// A stretch of the text, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ir) struct Located {
    pub(super) start: usize,
    pub(super) len: usize,
}

/// Why a text is not a graph: the message, and where it applies.
///
/// Displays as
/// ```text
/// line 3, column 27: unknown operator `lstn`; did you mean `lstm`? Known are: input, state, ...
///   |   %y: f32[S, B, 8] = lstn %x
///   |                      ^^^^
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The line's text, or the part around the column if the line is long.
    pub text: String,
    /// The number of characters of `text` before the error.
    indent: usize,
    width: usize,
}

impl std::error::Error for ParseError {}

/// Lines are shown up to this many characters.
const MAX_SHOWN: usize = 120;

impl ParseError {
    pub(super) fn new(text: &str, at: Located, message: impl Into<String>) -> ParseError {
        let start = at.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_text = text[line_start..].split('\n').next().unwrap_or("");
        let before = text[line_start..start].chars().count();
        let skip = before.saturating_sub(MAX_SHOWN - 40);
        let shown: String = line_text
            .chars()
            .skip(skip)
            .take(MAX_SHOWN)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect::<String>()
            .trim_end()
            .to_string();
        let length = text[start..].get(..at.len).map_or(1, |s| s.chars().count());
        let room = shown.chars().count().saturating_sub(before - skip);
        ParseError {
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            message: message.into(),
            text: shown,
            indent: before - skip,
            width: length.min(room).max(1),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "line {}, column {}: {}", self.line, self.column, self.message)?;
        writeln!(f, "  | {}", self.text)?;
        write!(f, "  | {}{}", " ".repeat(self.indent), "^".repeat(self.width))
    }
}

/// "unknown `what` `found`; did you mean `this`? Known are: ...".
pub(super) fn unknown(what: &str, found: &str, known: &[&str]) -> String {
    let found: String = found.chars().take(60).collect();
    match known.iter().map(|k| (distance(&found, k), k)).min() {
        None => format!("unknown {what} `{found}`; there is none here"),
        Some((d, k)) if d <= 1 + k.len() / 4 => {
            format!("unknown {what} `{found}`; did you mean `{k}`? Known are: {}", known.join(", "))
        }
        Some(_) => format!("unknown {what} `{found}`; known are: {}", known.join(", ")),
    }
}

/// Levenshtein distance; of the first characters only if a name is long.
pub(super) fn distance(a: &str, b: &str) -> usize {
    const MAX: usize = 60;
    let b: Vec<char> = b.chars().take(MAX).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(MAX).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
