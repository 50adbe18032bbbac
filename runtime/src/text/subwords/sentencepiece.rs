//! SentencePiece models (`.model`), run as the program that trains them runs them: the same sums in `f32`, the same choice among equals.
//!
//! ```text
//!   text --Normalizer--> text with U+2581 for blanks --Unigram | BPE | words | characters--> pieces --unknown ones to bytes, or merged--> tokens
//! ```

use super::SubwordsError;
use super::index::Index;
use super::normalizer::{Normalizer, Rules, SPACE};
use crate::text::{Role, Special};
use prost::Message;
use std::fmt::Write;

mod segment;

/// `sentencepiece_model.proto`, as far as it is needed here.
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    /// `PieceProto` messages, which are decoded one by one: a hostile file may have millions of empty ones.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pieces: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerProto>,
    #[prost(message, optional, tag = "5")]
    denormalizer: Option<NormalizerProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, tag = "24")]
    treat_whitespace_as_suffix: bool,
    #[prost(bool, tag = "35")]
    byte_fallback: bool,
    #[prost(string, optional, tag = "44")]
    unk_surface: Option<String>,
    #[prost(string, optional, tag = "46")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47")]
    eos_piece: Option<String>,
    #[prost(string, optional, tag = "48")]
    pad_piece: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerProto {
    #[prost(bytes = "vec", tag = "2")]
    precompiled_charsmap: Vec<u8>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// What a piece is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Normal,
    Unknown,
    /// Never in a text, such as `</s>`.
    Control,
    /// A piece wherever it is in a text.
    Symbol,
    Byte(u8),
    Unused,
}

struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// How a normalised text is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Unigram,
    Bpe,
    Words,
    Characters,
}

/// A part of a normalised text, with its piece; `None` for what is unknown.
type Part<'t> = (&'t str, Option<u32>);

/// A model.
pub(super) struct SentencePiece {
    pieces: Vec<Piece>,
    /// Those that a text may be cut into, unused ones included.
    index: Index,
    symbols: Index,
    /// The tokens of bytes, where unknown characters become bytes.
    bytes: Option<Vec<u32>>,
    algorithm: Algorithm,
    normalizer: Normalizer,
    denormalizer: Option<Normalizer>,
    unknown_score: f32,
    unknown_text: String,
    special: Special,
}

/// The longest piece in bytes, as in SentencePiece.
const MAX_PIECE: usize = 8000;

/// What an unknown character costs beside the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

impl SentencePiece {
    /// Reads a file's bytes.
    pub(super) fn new(file: &[u8]) -> Result<SentencePiece, SubwordsError> {
        let proto = ModelProto::decode(file).map_err(|_| SubwordsError::Neither)?;
        if proto.pieces.is_empty() {
            return Err(SubwordsError::Neither);
        }
        let flawed = |reason: String| SubwordsError::SentencePiece { reason };
        let trainer = proto.trainer.unwrap_or_default();
        let algorithm = match trainer.model_type {
            None | Some(1) => Algorithm::Unigram,
            Some(2) => Algorithm::Bpe,
            Some(3) => Algorithm::Words,
            Some(4) => Algorithm::Characters,
            Some(other) => return Err(flawed(format!("its kind of model, {other}, is unknown"))),
        };
        let mut pieces = Vec::with_capacity(proto.pieces.len());
        for (id, bytes) in proto.pieces.iter().enumerate() {
            let piece = piece(bytes, trainer.byte_fallback);
            pieces.push(piece.map_err(|reason| flawed(format!("its piece {id} {reason}")))?);
        }
        let all = || pieces.iter().zip(0..);
        let of_kind = |kind| all().filter(move |(p, _)| p.kind == kind).map(|(_, id)| id);
        let mut unknown = of_kind(Kind::Unknown);
        let unknown = match (unknown.next(), unknown.next()) {
            (Some(_), Some(_)) => return Err(flawed("it has two pieces for what is unknown".into())),
            (None, _) if !trainer.byte_fallback => {
                return Err(flawed("it has no piece for what is unknown".into()));
            }
            (unknown, _) => unknown,
        };
        let index = |kinds: &[Kind]| {
            let entries = all().filter(|(p, _)| kinds.contains(&p.kind) && p.text != "\0");
            Index::new(entries.map(|(p, id)| (p.text.as_str(), id)))
                .map_err(|piece| flawed(format!("it has the piece {piece:?} twice")))
        };
        let bytes = trainer.byte_fallback.then(|| (0..=255).map(|b| of_kind(Kind::Byte(b)).next()).collect());
        let bytes: Option<Option<Vec<u32>>> = bytes;
        if bytes == Some(None) {
            return Err(flawed("it falls back to bytes, but lacks a piece for some byte".into()));
        }
        let special = |name: Option<&str>, usual| {
            all().find(|(p, _)| p.kind == Kind::Control && p.text == name.unwrap_or(usual)).map(|(_, id)| id)
        };
        let normalizer = |proto: NormalizerProto, suffix| {
            let rules = match &proto.precompiled_charsmap[..] {
                [] => None,
                bytes => {
                    Some(Rules::new(bytes).ok_or_else(|| flawed("its map of characters is damaged".into()))?)
                }
            };
            Ok::<_, SubwordsError>(Normalizer {
                rules,
                dummy_prefix: proto.add_dummy_prefix.unwrap_or(true),
                remove_extra_spaces: proto.remove_extra_whitespaces.unwrap_or(true),
                escape_spaces: proto.escape_whitespaces.unwrap_or(true),
                suffix,
            })
        };
        let lowest = all().filter(|(p, _)| p.kind == Kind::Normal).map(|(p, _)| p.score);
        Ok(SentencePiece {
            index: index(&[Kind::Normal, Kind::Symbol, Kind::Unused])?,
            symbols: index(&[Kind::Symbol])?,
            bytes: bytes.flatten(),
            algorithm,
            normalizer: normalizer(proto.normalizer.unwrap_or_default(), trainer.treat_whitespace_as_suffix)?,
            denormalizer: proto
                .denormalizer
                .filter(|proto| !proto.precompiled_charsmap.is_empty())
                .map(|proto| normalizer(proto, false))
                .transpose()?,
            unknown_score: lowest.fold(f32::MAX, f32::min) - UNKNOWN_PENALTY,
            unknown_text: trainer.unk_surface.unwrap_or_else(|| " \u{2047} ".into()),
            special: Special::default()
                .with(Role::Begin, special(trainer.bos_piece.as_deref(), "<s>"))
                .with(Role::End, special(trainer.eos_piece.as_deref(), "</s>"))
                .with(Role::Unknown, unknown)
                .with(Role::Pad, special(trainer.pad_piece.as_deref(), "<pad>")),
            pieces,
        })
    }

    /// The pieces, in the order of their tokens.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(|piece| piece.text.as_str())
    }

    /// The special tokens that the file names.
    pub(super) fn special(&self) -> Special {
        self.special
    }

    /// In a few words.
    pub(super) fn summary(&self) -> String {
        let algorithm = match self.algorithm {
            Algorithm::Unigram => "unigram",
            Algorithm::Bpe => "BPE",
            Algorithm::Words => "words",
            Algorithm::Characters => "characters",
        };
        format!("SentencePiece {algorithm}")
    }

    /// The tokens of a line; `None` for what is unknown, one for all that follows each other.
    pub(super) fn encode(&self, line: &str) -> Vec<Option<u32>> {
        let text = self.normalizer.normalize(line, &self.symbols);
        let parts = match self.algorithm {
            Algorithm::Unigram => self.unigram(&text),
            Algorithm::Bpe => self.bpe(&text),
            Algorithm::Words => self.words(&text),
            Algorithm::Characters => self.characters(&text),
        };
        let mut tokens = Vec::with_capacity(parts.len());
        let mut after_unknown = false;
        for (part, id) in parts {
            match (id, &self.bytes) {
                (None, Some(bytes)) => tokens.extend(part.bytes().map(|b| Some(bytes[usize::from(b)]))),
                (None, None) if after_unknown => {}
                _ => tokens.push(id),
            }
            after_unknown = id.is_none();
        }
        tokens
    }

    /// The text of some tokens. Those that there are not are U+FFFD.
    pub(super) fn decode(&self, tokens: &[u32]) -> String {
        let mut text = String::new();
        let mut bytes = vec![];
        // Until there is text, the white space is that of the dummy prefix.
        let mut at_start = true;
        let strips = self.normalizer.dummy_prefix || self.normalizer.remove_extra_spaces;
        for &token in tokens {
            let piece = self.pieces.get(token as usize);
            if let Some(Piece { kind: Kind::Byte(byte), .. }) = piece {
                bytes.push(*byte);
                continue;
            }
            push_utf8(&mut bytes, &mut text);
            at_start &= text.is_empty();
            let Some(piece) = piece else {
                text.push('\u{fffd}');
                continue;
            };
            match piece.kind {
                Kind::Control => continue,
                Kind::Unknown => text.push_str(&self.unknown_text),
                _ => {
                    let stripped = piece.text.strip_prefix(SPACE).filter(|_| at_start && strips);
                    // All of the leading white space, or only that of the dummy prefix.
                    at_start &= stripped.is_none() || self.normalizer.remove_extra_spaces;
                    // Writing to a string cannot fail.
                    _ = write!(text, "{}", stripped.unwrap_or(&piece.text).replace(SPACE, " "));
                }
            }
            at_start &= text.is_empty();
        }
        push_utf8(&mut bytes, &mut text);
        match &self.denormalizer {
            Some(denormalizer) => denormalizer.normalize(&text, &Index::default()),
            None => text,
        }
    }
}

/// A piece of a file, or what is wrong with it.
fn piece(bytes: &[u8], byte_fallback: bool) -> Result<Piece, String> {
    let PieceProto { piece: text, score, kind } =
        PieceProto::decode(bytes).map_err(|error| format!("cannot be decoded: {error}"))?;
    let byte = || {
        let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
        u8::from_str_radix(hex, 16).ok().filter(|byte| format!("{byte:02X}") == hex)
    };
    let kind = match kind {
        // Some programs that convert models add it, though `<0x00>` is there.
        _ if text == "\0" && byte_fallback => Kind::Unused,
        Some(2) => Kind::Unknown,
        Some(3) => Kind::Control,
        Some(4) => Kind::Symbol,
        Some(5) => Kind::Unused,
        Some(6) if !byte_fallback => return Err("is a byte, but it does not fall back to bytes".into()),
        Some(6) => match byte() {
            Some(byte) => Kind::Byte(byte),
            None => return Err(format!("{text:?} is no byte")),
        },
        _ => Kind::Normal,
    };
    match text.len() {
        0 => Err("is empty".into()),
        length if length >= MAX_PIECE => Err("is too long".into()),
        _ if text.contains('\0') && kind != Kind::Unused => Err("has a zero byte".into()),
        _ if !score.is_finite() => Err(format!("has the score {score}")),
        _ => Ok(Piece { text, score, kind }),
    }
}

/// Moves bytes to a text; each that belongs to no character becomes U+FFFD.
fn push_utf8(bytes: &mut Vec<u8>, text: &mut String) {
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let valid = match str::from_utf8(rest) {
            Ok(valid) => valid,
            Err(error) => str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default(),
        };
        text.push_str(valid);
        rest = &rest[valid.len()..];
        if let [_, after @ ..] = rest {
            text.push('\u{fffd}');
            rest = after;
        }
    }
    bytes.clear();
}
