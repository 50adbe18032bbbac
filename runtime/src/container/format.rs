//! The parts of a `.lstmc` file on disk, and their limits.

use super::{Flaw, coded};
use crate::aligned::ALIGNMENT;
use crate::text::{Newline, Role, Special, Subwords, Tokenizer, Units, Vocabulary};
use std::sync::Arc;

/// What every `.lstmc` file starts with. The line ending and the end-of-text character are
/// changed by a transfer that treats the file as text.
pub const MAGIC: [u8; 8] = *b"LSTMC\r\n\x1a";

/// The newest format version that this crate reads. It writes the oldest that suffices: version 2 has a record of the tokenizer, without which a
/// text is words between white space; version 3 has coded texts.
pub const FORMAT_VERSION: u32 = 3;

/// The longest header that is written or read, in bytes. It bounds the memory that a hostile file can make a
/// reader allocate before it is detected: about 12 times as much, for a header full of empty strings.
pub const MAX_HEADER_BYTES: u32 = 64 << 20;

/// The maximum number of tensors that are written or read.
pub const MAX_TENSORS: usize = 1 << 16;

/// The maximum number of dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// Bytes before the header.
pub(super) const PREAMBLE_BYTES: usize = 32;

/// The fields before the header, at fixed positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    pub(super) version: u32,
    pub(super) header_bytes: u32,
    pub(super) header_crc: u32,
    pub(super) tensors_crc: u32,
    pub(super) file_bytes: u64,
}

impl Preamble {
    pub(super) fn encode(&self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.header_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.header_crc.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.tensors_crc.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.file_bytes.to_le_bytes());
        bytes
    }

    /// Reads the fields after the magic, which the caller has checked.
    pub(super) fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Preamble {
            version: u32_at(8),
            header_bytes: u32_at(12),
            header_crc: u32_at(16),
            tensors_crc: u32_at(20),
            file_bytes: u64::from_le_bytes(std::array::from_fn(|i| bytes[24 + i])),
        }
    }
}

/// Everything except the bytes of the tensors.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// The graph, in its text form.
    #[prost(string, tag = "2")]
    pub(super) ir: String,
    /// The words in the order of their ids; empty if the file has no vocabulary.
    #[prost(string, repeated, tag = "3")]
    pub(super) vocabulary: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) recipe: String,
    /// JSON.
    #[prost(string, tag = "5")]
    pub(super) report: String,
    #[prost(string, tag = "6")]
    pub(super) producer: String,
    /// `Entry` messages. A message and its bytes look the same on the wire; kept as bytes, they can be
    /// counted before they are decoded.
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub(super) tensors: Vec<Vec<u8>>,
    /// From version 2 on. Without it, a text is words, and special tokens have usual names.
    #[prost(message, optional, tag = "8")]
    pub(super) tokenizer: Option<TokenizerRecord>,
    /// From version 3 on: `ir`, `recipe`, `report` and each word of the vocabulary, with a NUL between two, as [`coded`] writes them. The fields
    /// themselves are empty then.
    #[prost(bytes = "vec", tag = "9")]
    pub(super) coded: Vec<u8>,
}

impl Header {
    /// Codes the texts if that makes the header smaller.
    pub(super) fn code_texts(&mut self) {
        let texts = [&self.ir, &self.recipe, &self.report];
        let all: Vec<&str> = texts.into_iter().chain(&self.vocabulary).map(String::as_str).collect();
        if all.iter().any(|text| text.contains('\0')) {
            return;
        }
        if let Some(coded) = coded::encode(all.join("\0").as_bytes()) {
            (self.ir, self.recipe, self.report) = Default::default();
            (self.vocabulary, self.coded) = (vec![], coded);
        }
    }

    /// Undoes [`Header::code_texts`].
    pub(super) fn restore_texts(&mut self) -> Result<(), Flaw> {
        if self.coded.is_empty() {
            return Ok(());
        }
        let invalid = || Flaw::Texts;
        let all =
            coded::decode(&self.coded).and_then(|all| String::from_utf8(all).ok()).ok_or_else(invalid)?;
        let mut texts = all.split('\0').map(str::to_owned);
        for text in [&mut self.ir, &mut self.recipe, &mut self.report] {
            *text = texts.next().ok_or_else(invalid)?;
        }
        self.vocabulary = texts.collect();
        Ok(())
    }
}

/// How a text becomes tokens.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TokenizerRecord {
    #[prost(string, tag = "1")]
    pub(super) units: String,
    /// Ids of special tokens.
    #[prost(uint32, optional, tag = "2")]
    pub(super) begin: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    pub(super) end: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) unknown: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub(super) pad: Option<u32>,
    /// The token that a line's end is.
    #[prost(uint32, optional, tag = "6")]
    pub(super) newline: Option<u32>,
    /// Whether a line's end that is no token is white space.
    #[prost(bool, tag = "7")]
    pub(super) space: bool,
    /// The tokenizer's file, if texts are cut into subwords.
    #[prost(bytes = "vec", tag = "8")]
    pub(super) file: Vec<u8>,
}

impl TokenizerRecord {
    /// The record of a tokenizer; `None` for one that needs none.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<TokenizerRecord> {
        if *tokenizer == Tokenizer::words(tokenizer.vocabulary().clone()) {
            return None;
        }
        let [begin, end, unknown, pad] = tokenizer.special().ids;
        let newline = match tokenizer.newline() {
            Newline::Token(id) => Some(id),
            _ => None,
        };
        let (units, space) = (tokenizer.units().name().into(), tokenizer.newline() == Newline::Space);
        let file = match tokenizer.units() {
            Units::Subwords(subwords) => subwords.file().to_vec(),
            _ => vec![],
        };
        Some(TokenizerRecord { units, begin, end, unknown, pad, newline, space, file })
    }

    /// The tokenizer of a record.
    pub(super) fn restore(self, vocabulary: Vocabulary) -> Result<Tokenizer, Flaw> {
        let ids = [self.begin, self.end, self.unknown, self.pad];
        let fits = |id: &u32| (*id as usize) < vocabulary.len();
        if let Some(id) = ids.into_iter().chain([self.newline]).flatten().find(|id| !fits(id)) {
            return Err(Flaw::Tokenizer { reason: format!("its token {id} is not in the vocabulary") });
        }
        let units = match (Units::from_name(&self.units), self.units.as_str()) {
            (Some(units), _) => units,
            (None, "subwords") => {
                let subwords = Subwords::from_bytes(self.file).and_then(|subwords| {
                    subwords.check(&vocabulary)?;
                    Ok(subwords)
                });
                Units::Subwords(Arc::new(subwords.map_err(|e| Flaw::Tokenizer { reason: e.to_string() })?))
            }
            (None, kind) => {
                return Err(Flaw::Tokenizer {
                    reason: format!("its kind `{kind}` is unknown; update lstmc"),
                });
            }
        };
        if units == Units::Bytes && vocabulary.len() < 256 {
            return Err(Flaw::Tokenizer { reason: "a vocabulary of bytes has at least 256 words".into() });
        }
        let special =
            Role::ALL.into_iter().zip(ids).fold(Special::default(), |s, (role, id)| s.with(role, id));
        let newline = match (self.newline, self.space) {
            (Some(id), _) => Newline::Token(id),
            (None, true) => Newline::Space,
            (None, false) => Newline::Missing,
        };
        Ok(Tokenizer::with_special(units, vocabulary, special).with_newline(newline))
    }
}

/// A tensor's position and type.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) encoding: String,
    #[prost(uint64, repeated, tag = "3")]
    pub(super) shape: Vec<u64>,
    /// From the start of the file. Never 0, and of fixed width, so that the length of the header does
    /// not depend on the offsets, which depend on the length of the header.
    #[prost(fixed64, tag = "4")]
    pub(super) offset: u64,
    #[prost(fixed64, tag = "5")]
    pub(super) length: u64,
}

/// The first multiple of [`ALIGNMENT`] from `offset` on; `None` if it overflows.
pub(super) fn align(offset: u64) -> Option<u64> {
    offset.checked_next_multiple_of(ALIGNMENT as u64)
}

/// Checks the requirements on every tensor's shape, written or read.
pub(super) fn check_shape(name: &str, shape: &[u64]) -> Result<(), Flaw> {
    if shape.len() > MAX_RANK {
        return Err(Flaw::Rank { tensor: name.to_owned(), rank: shape.len() });
    }
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    match elements {
        Some(_) => Ok(()),
        None => Err(Flaw::Shape { tensor: name.to_owned(), shape: shape.to_vec() }),
    }
}

/// Checks the number of tensors, written or read.
pub(super) fn check_count(count: usize) -> Result<(), Flaw> {
    if count > MAX_TENSORS { Err(Flaw::TooManyTensors { found: count }) } else { Ok(()) }
}

/// Checks the length of the header, written or read.
pub(super) fn check_header_bytes(bytes: u64) -> Result<(), Flaw> {
    if bytes > u64::from(MAX_HEADER_BYTES) { Err(Flaw::HeaderTooLong { bytes }) } else { Ok(()) }
}
