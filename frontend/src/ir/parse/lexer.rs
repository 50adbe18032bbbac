//! The tokens of the text form, read one at a time.
//!
//! ```text
//!   word      [A-Za-z0-9_.+-]+        keywords, numbers, plain names
//!   string    "..."                   escapes: \" \\ \n \r \t \u{hex}
//!   value     % then word or string, without space
//!   weight    @ then word or string, without space
//!   others    one of = : , / # * ? ( ) [ ] { }
//!   comment   // to the end of the line
//! ```

use super::{Located, ParseError};
use std::borrow::Cow;
use std::fmt;

/// The kind of a token.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind<'a> {
    /// A keyword, number or plain name.
    Word(&'a str),
    /// A quoted string, without its escapes.
    String(Cow<'a, str>),
    /// The name of a value.
    Value(Cow<'a, str>),
    /// The name of a weight.
    Weight(Cow<'a, str>),
    /// Punctuation.
    Punct(char),
    /// The end of the text.
    End,
}

/// How a message names a token.
impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Word(w) => write!(f, "`{}`", shortened(w)),
            Kind::String(s) => write!(f, "string \"{}\"", shortened(s).escape_debug()),
            Kind::Value(s) => write!(f, "value %{}", shortened(s).escape_debug()),
            Kind::Weight(s) => write!(f, "weight @{}", shortened(s).escape_debug()),
            Kind::Punct(c) => write!(f, "`{c}`"),
            Kind::End => f.write_str("the end of the text"),
        }
    }
}

fn shortened(s: &str) -> Cow<'_, str> {
    match s.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &s[..at]).into(),
        None => s.into(),
    }
}

/// A token and its position.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) at: Located,
    /// Whether it is the first on its line.
    pub(super) starts_line: bool,
}

/// Reads tokens from text.
pub(super) struct Lexer<'a> {
    pub(super) text: &'a str,
    position: usize,
}

/// Whether `c` may appear in a name without quotes.
pub(in crate::ir) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, position: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let mut starts_line = self.position == 0;
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            starts_line |= rest[..rest.len() - trimmed.len()].contains('\n');
            self.position = self.text.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                break;
            }
            self.position += trimmed.find('\n').unwrap_or(trimmed.len());
        }
        let start = self.position;
        let kind = match self.rest().chars().next() {
            None => Kind::End,
            Some('"') => Kind::String(self.string()?),
            Some(sigil @ ('%' | '@')) => {
                self.position += 1;
                let name = if self.rest().starts_with('"') { self.string()? } else { self.word().into() };
                if name.is_empty() {
                    let what = if sigil == '%' { "value" } else { "weight" };
                    return Err(self.error(start, format!("expected the name of a {what} after `{sigil}`")));
                }
                if sigil == '%' { Kind::Value(name) } else { Kind::Weight(name) }
            }
            Some(c) if is_plain(c) || c == '+' => Kind::Word(self.word()),
            Some(c) if "=:,/#*?()[]{}".contains(c) => {
                self.position += 1;
                Kind::Punct(c)
            }
            Some(c) => {
                return Err(self.error(start, format!("unexpected character `{}`", c.escape_debug())));
            }
        };
        let at = Located { start, len: self.position - start };
        Ok(Token { kind, at, starts_line })
    }

    fn error(&self, start: usize, message: String) -> ParseError {
        ParseError::new(self.text, Located { start, len: self.position - start }, message)
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let len = rest.find(|c| !(is_plain(c) || c == '+')).unwrap_or(rest.len());
        self.position += len;
        &rest[..len]
    }

    fn string(&mut self) -> Result<Cow<'a, str>, ParseError> {
        let start = self.position;
        let body = &self.rest()[1..];
        let plain = body.find(['"', '\\', '\n']).unwrap_or(body.len());
        if body[plain..].starts_with('"') {
            self.position += plain + 2;
            return Ok(Cow::Borrowed(&body[..plain]));
        }
        let mut out = String::from(&body[..plain]);
        let mut chars = body[plain..].char_indices();
        while let Some((at, c)) = chars.next() {
            let end = start + 1 + plain + at;
            match c {
                '"' => {
                    self.position = end + 1;
                    return Ok(Cow::Owned(out));
                }
                '\n' => break,
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('r') => out.push('\r'),
                    Some('t') => out.push('\t'),
                    Some(c @ ('"' | '\\')) => out.push(c),
                    Some('u') => {
                        let tail = chars.as_str();
                        let escaped =
                            tail.strip_prefix('{').and_then(|t| t.split_once('}')).map(|(hex, _)| hex);
                        let c = escaped.filter(|hex| hex.len() <= 6).and_then(|hex| {
                            Some((hex.len(), char::from_u32(u32::from_str_radix(hex, 16).ok()?)?))
                        });
                        let Some((len, c)) = c else {
                            self.position = end + 2;
                            return Err(
                                self.error(end, "expected \\u{hex digits}, a character's number".into())
                            );
                        };
                        out.push(c);
                        chars.nth(len + 1);
                    }
                    _ => {
                        self.position = end + 1;
                        let message = "unknown escape; known are \\\" \\\\ \\n \\r \\t \\u{hex}";
                        return Err(self.error(end, message.into()));
                    }
                },
                c => out.push(c),
            }
        }
        self.position = start + 1;
        Err(self.error(start, "a string that does not end on its line".into()))
    }
}
