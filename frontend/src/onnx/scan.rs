//! A walk over a protobuf file before it is decoded.
//!
//! `prost` reports "buffer underflow" for a truncated file, and turns two bytes of a hostile file into a message of some hundred bytes. The
//! walk reads only tags and lengths (weights are skipped, so it takes no time), distinguishes a damaged file from a file of another kind,
//! reports the byte of the damage, and limits the number of messages.

use super::error::OnnxError;

/// More messages and names than any language model has; the structures decoded from them stay below about 100 MB.
const MAX_MESSAGES: usize = 250_000;

/// Deeper messages than any model has: twenty graphs in each other. `prost` allows 100 levels.
const MAX_DEPTH: usize = 64;

/// The messages that are decoded, with the fields that hold further messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    /// A message without messages inside.
    Leaf,
}

impl Kind {
    fn child(self, field: u64) -> Option<Kind> {
        Some(match (self, field) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 8 | 14) => Kind::Leaf,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Function, 7) => Kind::Node,
            (Kind::Function, 9) => Kind::Leaf,
            (Kind::Function, 11) => Kind::Attribute,
            (Kind::Graph, 1) => Kind::Node,
            (Kind::Graph, 5) => Kind::Tensor,
            (Kind::Graph, 11 | 12) => Kind::ValueInfo,
            (Kind::Graph, 15) => Kind::SparseTensor,
            (Kind::Node, 5) => Kind::Attribute,
            (Kind::Attribute, 5) => Kind::Tensor,
            (Kind::Attribute, 6) => Kind::Graph,
            (Kind::Attribute, 22) => Kind::SparseTensor,
            (Kind::SparseTensor, 1 | 2) => Kind::Tensor,
            (Kind::Tensor, 3 | 13) => Kind::Leaf,
            (Kind::ValueInfo, 2) => Kind::Type,
            (Kind::Type, 1) => Kind::TensorType,
            (Kind::TensorType, 2) => Kind::Shape,
            (Kind::Shape, 1) => Kind::Leaf,
            _ => return None,
        })
    }

    /// Names in lists, each of which becomes a separate string.
    fn is_repeated_string(self, field: u64) -> bool {
        matches!((self, field), (Kind::Node, 1 | 2) | (Kind::Attribute, 9) | (Kind::Function, 4..=6))
    }

    /// Whether a file of this kind may begin with this field: the current fields, with their wire types.
    fn may_begin_with(self, field: u64, wire: u64) -> bool {
        match self {
            Kind::Model => {
                matches!((field, wire), (1 | 5, 0) | (2 | 3 | 4 | 6 | 7 | 8 | 14 | 20 | 25 | 26, 2))
            }
            _ => matches!((field, wire), (1 | 2 | 14, 0) | (1 | 3..=13 | 16, 2)),
        }
    }
}

/// Checks the structure of a whole file of this kind.
pub(super) fn scan(bytes: &[u8], kind: Kind) -> Result<(), OnnxError> {
    let mut scanner = Scanner { bytes, at: 0, messages: 0 };
    scanner.message(kind, bytes.len(), 0)
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    messages: usize,
}

impl Scanner<'_> {
    /// One message that ends at `end`.
    fn message(&mut self, kind: Kind, end: usize, depth: usize) -> Result<(), OnnxError> {
        self.count()?;
        if depth > MAX_DEPTH {
            return Err(OnnxError::TooLarge { what: "levels of subgraphs", limit: MAX_DEPTH / 3 });
        }
        let mut first = depth == 0;
        while self.at < end {
            let start = self.at;
            let tag = self.varint(end);
            let (field, wire) = tag.as_ref().map_or((0, 7), |t| (t >> 3, t & 7));
            if std::mem::take(&mut first) && !kind.may_begin_with(field, wire) {
                return Err(OnnxError::not_onnx(self.bytes));
            }
            tag?;
            if field == 0 {
                return Err(damage(start, "a field number of zero"));
            }
            match wire {
                0 => drop(self.varint(end)?),
                1 => self.skip(8, end, start)?,
                5 => self.skip(4, end, start)?,
                2 => {
                    let length = self.varint(end)?;
                    let left = end - self.at;
                    let length = usize::try_from(length).ok().filter(|&n| n <= left).ok_or_else(|| {
                        damage(start, format!("a field of {length} bytes where {left} are left"))
                    })?;
                    if kind.is_repeated_string(field) {
                        self.count()?;
                    }
                    match kind.child(field) {
                        Some(child) => self.message(child, self.at + length, depth + 1)?,
                        None => self.at += length,
                    }
                }
                other => return Err(damage(start, format!("an unknown wire type {other}"))),
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), OnnxError> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(OnnxError::TooLarge { what: "nodes, attributes and tensors", limit: MAX_MESSAGES });
        }
        Ok(())
    }

    fn skip(&mut self, count: usize, end: usize, start: usize) -> Result<(), OnnxError> {
        let left = end - self.at;
        if count > left {
            return Err(damage(start, format!("a field of {count} bytes where {left} are left")));
        }
        self.at += count;
        Ok(())
    }

    fn varint(&mut self, end: usize) -> Result<u64, OnnxError> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes[..end].get(self.at) else {
                return Err(damage(start, "a number that is cut off"));
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damage(start, "a number of more than 64 bits"))
    }
}

fn damage(offset: usize, found: impl Into<String>) -> OnnxError {
    OnnxError::Damaged { offset, found: found.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
    use prost::Message;

    fn model(nodes: usize) -> Vec<u8> {
        ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
            graph: Some(GraphProto { node: vec![NodeProto::default(); nodes], ..Default::default() }),
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn every_prefix_of_a_file_is_either_whole_or_named_as_damaged() {
        let bytes = model(40);
        assert!(scan(&bytes, Kind::Model).is_ok());
        for n in 3..bytes.len() {
            match scan(&bytes[..n], Kind::Model) {
                // A cut between two fields of the root is detected later: a part is missing.
                Ok(()) => assert!(ModelProto::decode(&bytes[..n]).is_ok(), "{n}"),
                Err(OnnxError::Damaged { offset, .. }) => assert!(offset <= n),
                Err(other) => panic!("{n}: {other}"),
            }
        }
    }

    #[test]
    fn two_bytes_per_message_do_not_fill_the_memory() {
        let error = scan(&model(MAX_MESSAGES), Kind::Model).unwrap_err();
        assert!(matches!(error, OnnxError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn lengths_and_numbers_beyond_the_end_are_damage() {
        for bytes in [&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..], &[0x08, 0xff]]
        {
            assert!(matches!(scan(bytes, Kind::Model), Err(OnnxError::Damaged { .. })));
        }
    }
}
