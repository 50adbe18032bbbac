//! The forms of a vocabulary file.

use super::{Vocabulary, VocabularyError};
use std::fmt::Write;

/// Reads a file's text, without its byte order mark.
pub(super) fn parse(text: &str) -> Result<Vocabulary, VocabularyError> {
    if is_json(text) {
        return json(text);
    }
    let lines: Vec<&str> = text.trim_end_matches(['\r', '\n']).split('\n').collect();
    let lines = || lines.iter().map(|line| line.strip_suffix('\r').unwrap_or(line));
    if lines().all(|line| line.is_empty()) {
        return Err(VocabularyError::Empty);
    }
    if let Some(words) = lines().map(numbered).collect::<Option<Vec<_>>>() {
        return by_id(words);
    }
    if let Some(words) = lines().map(scored).collect::<Option<Vec<_>>>() {
        return Vocabulary::from_words(words.into_iter().map(unescaped));
    }
    let words = lines().enumerate().map(|(n, line)| word(n + 1, line)).collect::<Result<Vec<_>, _>>()?;
    Vocabulary::from_words(words)
}

/// See [`Vocabulary::to_text`].
pub(super) fn text(words: &Vocabulary) -> String {
    let mut out = String::new();
    for word in words.words() {
        for (at, c) in word.char_indices() {
            // What another form of file could begin with, and what begins an escape.
            let special =
                matches!(c, '{' | '[' | '\u{feff}') && out.is_empty() || word[at..].starts_with("\\u{");
            match c.is_whitespace() || c.is_control() || special {
                // Writing to a string cannot fail.
                true => _ = write!(out, "\\u{{{:x}}}", u32::from(c)),
                false => out.push(c),
            }
        }
        out.push('\n');
    }
    out
}

/// A line of a file with one word a line.
fn word(number: usize, line: &str) -> Result<String, VocabularyError> {
    let is_one = line.chars().count() == 1;
    if line.contains(char::is_whitespace) && !is_one {
        return Err(VocabularyError::WhiteSpace { line: number, word: line.to_owned() });
    }
    Ok(unescaped(line))
}

/// A word with its escapes replaced; what is no escape stays.
fn unescaped(word: &str) -> String {
    let (mut out, mut rest) = (String::new(), word);
    while let Some((before, after)) = rest.split_once("\\u{") {
        let escape = after.split_once('}').and_then(|(digits, after)| {
            let code = (digits.len() <= 6).then(|| u32::from_str_radix(digits, 16).ok()).flatten()?;
            Some((char::from_u32(code)?, after))
        });
        out.push_str(before);
        rest = match escape {
            Some((c, after)) => {
                out.push(c);
                after
            }
            None => {
                out.push_str("\\u{");
                after
            }
        };
    }
    out + rest
}

/// The word and the number of a line that ends with a number. The word may be white space itself.
fn numbered(line: &str) -> Option<(String, u64)> {
    let (word, id) = line.trim_end().rsplit_once([' ', '\t'])?;
    let id = id.bytes().all(|b| b.is_ascii_digit()).then(|| id.parse().ok()).flatten()?;
    Some((unescaped(trimmed(word)?), id))
}

/// The word of a line with a score, which is the logarithm of a probability or zero.
fn scored(line: &str) -> Option<&str> {
    let (word, score) = line.rsplit_once('\t')?;
    score.parse().ok().filter(|s: &f64| *s <= 0.0)?;
    (!word.is_empty() && !word.contains('\t')).then_some(word)
}

/// Without the white space after it; of white space alone, the first.
fn trimmed(word: &str) -> Option<&str> {
    match word.trim_end() {
        "" => word.chars().next().map(|c| &word[..c.len_utf8()]),
        trimmed => Some(trimmed),
    }
}

/// Words by id; all ids from 0 on must be there.
fn by_id(words: Vec<(String, u64)>) -> Result<Vocabulary, VocabularyError> {
    let mut by_id = vec![None; words.len()];
    let last = words.len() - 1;
    for (word, id) in words {
        let place = usize::try_from(id).ok().and_then(|id| by_id.get_mut(id)).filter(|place| place.is_none());
        match place {
            Some(place) => *place = Some(word),
            None => return Err(VocabularyError::Ids { last, word, id }),
        }
    }
    Vocabulary::from_words(by_id.into_iter().flatten())
}

/// Whether a text begins as a map or list of strings in JSON does.
fn is_json(text: &str) -> bool {
    let rest = text.trim_start().strip_prefix(['{', '[']);
    rest.is_some_and(|rest| rest.trim_start().starts_with('"'))
}

fn json(text: &str) -> Result<Vocabulary, VocabularyError> {
    use serde_json::Value;
    let flawed = |reason: String| VocabularyError::Json { reason };
    match serde_json::from_str(text).map_err(|e| flawed(e.to_string()))? {
        Value::Array(words) => {
            let text = |word: Value| match word {
                Value::String(word) => Ok(word),
                other => Err(flawed(format!("the list holds {other}"))),
            };
            Vocabulary::from_words(words.into_iter().map(text).collect::<Result<Vec<_>, _>>()?)
        }
        Value::Object(words) => {
            let id = |(word, id): (String, Value)| match id.as_u64() {
                Some(id) => Ok((word, id)),
                None => Err(flawed(format!("the id of {word:?} is {id}"))),
            };
            by_id(words.into_iter().map(id).collect::<Result<Vec<_>, _>>()?)
        }
        other => Err(flawed(format!("it is {other}"))),
    }
}
