//! Texts that are read piece by piece.

use super::tokenizer::{Encoded, TextError, Tokenizer, Units};
use std::io::BufRead;

/// The longest word, what is read of a line at a time, and the longest line that is cut into subwords, which needs it as a whole.
const PIECE: usize = 1 << 20;

/// Reads a text as tokens, in memory that does not grow with it. A byte order mark before it is skipped.
pub struct TextReader<'t, R> {
    tokenizer: &'t Tokenizer,
    input: R,
    /// The line that is read, from 1.
    line: usize,
    piece: Vec<u8>,
    at_start: bool,
}

impl<'t, R: BufRead> TextReader<'t, R> {
    /// A text from its beginning.
    pub fn new(tokenizer: &'t Tokenizer, input: R) -> Self {
        TextReader { tokenizer, input, line: 1, piece: vec![], at_start: true }
    }

    /// The number of the next line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Appends the tokens of the next line, or of a part of a long one, as of one stream ([`Tokenizer::encode`]); false at the end of the text.
    ///
    /// # Errors
    ///
    /// [`TextError`], naming the line.
    pub fn stream(&mut self, to: &mut Encoded) -> Result<bool, TextError> {
        if !self.fill(PIECE)? {
            return Ok(false);
        }
        let ends = self.piece.ends_with(b"\n");
        // A long line is cut after white space, or, if a unit is no word, after a character.
        let whole = ends || self.piece.len() < PIECE;
        let space = self.piece.iter().rposition(u8::is_ascii_whitespace).map_or(0, |at| at + 1);
        let cut = match (self.tokenizer.units(), space) {
            _ if whole => self.piece.len(),
            (Units::Subwords(_), _) => return Err(self.too_long("a line", PIECE)),
            (Units::Characters | Units::Bytes, 0) => {
                let start = self.piece.iter().rposition(|byte| byte & 0xC0 != 0x80).unwrap_or(0);
                let is_whole = start == 0 || str::from_utf8(&self.piece[start..]).is_ok();
                if is_whole { self.piece.len() } else { start }
            }
            (_, 0) => return Err(self.too_long("a word", PIECE)),
            _ => space,
        };
        self.tokenizer.push(&self.piece[..cut], self.line, to)?;
        self.piece.drain(..cut);
        self.line += usize::from(ends);
        Ok(true)
    }

    /// The next line as a sentence ([`Tokenizer::sentence`]), with its text; `None` at the end of the text.
    ///
    /// # Errors
    ///
    /// [`TextError`], naming the line.
    pub fn sentence(&mut self) -> Result<Option<(Encoded, String)>, TextError> {
        let limit = match self.tokenizer.units() {
            Units::Subwords(_) => PIECE,
            _ => MAX_LINE,
        };
        if !self.fill(limit)? {
            return Ok(None);
        }
        let line = self.line;
        if self.piece.len() >= limit {
            return Err(self.too_long("a sentence", limit));
        }
        let text =
            String::from_utf8(std::mem::take(&mut self.piece)).map_err(|_| TextError::NotUtf8 { line })?;
        self.line += 1;
        Ok(Some((self.tokenizer.sentence(&text, line)?, text.trim_end_matches(['\r', '\n']).to_owned())))
    }

    fn too_long(&self, what: &'static str, limit: usize) -> TextError {
        TextError::TooLong { line: self.line, what, limit }
    }

    /// Reads to the end of the line, or to this many bytes; false if there are none.
    fn fill(&mut self, limit: usize) -> Result<bool, TextError> {
        let missing = limit.saturating_sub(self.piece.len());
        std::io::Read::take(&mut self.input, missing as u64).read_until(b'\n', &mut self.piece)?;
        if std::mem::take(&mut self.at_start) && self.piece.starts_with(b"\xef\xbb\xbf") {
            self.piece.drain(..3);
            if !self.piece.ends_with(b"\n") {
                return self.fill(limit);
            }
        }
        Ok(!self.piece.is_empty())
    }
}

/// The longest sentence in bytes.
const MAX_LINE: usize = 16 << 20;
