//! Why a container cannot be read or written.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::format::{FORMAT_VERSION, MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS, PREAMBLE_BYTES};
use crate::aligned::ALIGNMENT;
use crate::file::WriteError;
use crate::text::VocabularyError;

/// Why a `.lstmc` file cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The file cannot be opened or mapped.
    #[error("cannot open `{path}`: {reason}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: io::Error,
    },
    /// The path is a directory, not a file.
    #[error("`{path}` is a directory; name a .lstmc file")]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The path is something that cannot be mapped, such as a pipe or a device.
    #[error("`{path}` is not a regular file; a .lstmc file cannot be a pipe or a device")]
    NotAFile {
        /// The pipe or device.
        path: PathBuf,
    },
    /// The contents of the file, or in memory to be written to it, are invalid.
    #[error("`{path}`: {flaw}")]
    Flawed {
        /// The file.
        path: PathBuf,
        /// What is invalid.
        flaw: Flaw,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What is invalid in the contents of a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// It is empty.
    #[error("the file is empty")]
    Empty,
    /// It is something else.
    #[error("not a .lstmc file: {0}")]
    NotAContainer(Guess),
    /// It ends before its preamble does.
    #[error(
        "the file is cut off: it has {found} bytes, fewer than the {PREAMBLE_BYTES} that each \
         .lstmc file starts with; copy or write it again"
    )]
    NoPreamble {
        /// Length of the file in bytes.
        found: u64,
    },
    /// Its coded texts are invalid.
    #[error("its coded texts cannot be decoded; copy or write it again")]
    Texts,
    /// The record of the tokenizer is invalid.
    #[error("its tokenizer cannot be used: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },
    /// It was written by a newer version of this crate, or, if the version is 0, by no version.
    #[error(
        "its format version is {found}, this program reads versions 1 to {FORMAT_VERSION}; {}",
        if *found == 0 { "copy or write it again" } else { "update lstmc" }
    )]
    Version {
        /// Version in the file.
        found: u32,
    },
    /// It is truncated.
    #[error(
        "the file is cut off: it says that it has {expected} bytes, it has {found}; \
         copy or write it again"
    )]
    Truncated {
        /// Length in bytes stated in the file.
        expected: u64,
        /// Its actual length.
        found: u64,
    },
    /// It has bytes after its end.
    #[error(
        "the file is too long: it says that it has {expected} bytes, it has {found}; \
         copy or write it again"
    )]
    TrailingBytes {
        /// Length in bytes stated in the file.
        expected: u64,
        /// Its actual length.
        found: u64,
    },
    /// The header is longer than [`MAX_HEADER_BYTES`].
    #[error(
        "its header (graph text, vocabulary, report) has {bytes} bytes, at most \
         {MAX_HEADER_BYTES} are supported"
    )]
    HeaderTooLong {
        /// Length of the header.
        bytes: u64,
    },
    /// The header extends beyond the end of the file.
    #[error(
        "the file is damaged: its header has {header} bytes, the file {file}; \
         copy or write it again"
    )]
    HeaderOutside {
        /// Length of the header.
        header: u64,
        /// Length of the file.
        file: u64,
    },
    /// A checksum does not match.
    #[error(
        "the file is damaged: the checksum of its {part} is {found:08x}, it should be \
         {expected:08x}; copy or write it again"
    )]
    Checksum {
        /// `header` or `tensors`.
        part: &'static str,
        /// The checksum stated in the file.
        expected: u32,
        /// The checksum of its bytes.
        found: u32,
    },
    /// The header, or a tensor's entry in it, is not a message of the expected kind.
    #[error("its header cannot be decoded: {reason}")]
    Header {
        /// The decoder's message.
        reason: String,
    },
    /// The vocabulary has repeated words, or words that no text could produce.
    #[error("its vocabulary is wrong: {0}")]
    Vocabulary(VocabularyError),
    /// There are more tensors than [`MAX_TENSORS`].
    #[error("it has {found} tensors, at most {MAX_TENSORS} are supported")]
    TooManyTensors {
        /// The number of tensors.
        found: usize,
    },
    /// Two tensors have the same name.
    #[error("two of its tensors have the name `{tensor}`")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// A tensor has more dimensions than [`MAX_RANK`].
    #[error("tensor `{tensor}` has {rank} dimensions, at most {MAX_RANK} are supported")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Its number of dimensions.
        rank: usize,
    },
    /// A tensor has more elements than 64 bits can count.
    #[error("tensor `{tensor}` has the shape {shape:?}, whose number of elements overflows")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        shape: Vec<u64>,
    },
    /// A tensor does not start at a multiple of [`ALIGNMENT`].
    #[error("tensor `{tensor}` starts at byte {offset}, which is not a multiple of {ALIGNMENT}")]
    Unaligned {
        /// The tensor.
        tensor: String,
        /// Its start in the file.
        offset: u64,
    },
    /// A tensor is not between the header and the end of the file.
    #[error(
        "tensor `{tensor}` has {length} bytes from byte {offset} on, outside of the tensors' \
         region, which is bytes {start} to {end}"
    )]
    Outside {
        /// The tensor.
        tensor: String,
        /// Its start in the file.
        offset: u64,
        /// Its length in bytes.
        length: u64,
        /// The end of the header.
        start: u64,
        /// The end of the file.
        end: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap in the file")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts before the other ends.
        second: String,
    },
    /// A tensor to write does not have the length that it was announced with.
    #[error("tensor `{tensor}` was announced with {expected} bytes, but has {found}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Announced length in bytes.
        expected: u64,
        /// Actual length.
        found: u64,
    },
    /// The file to write would be longer than 64 bits can count.
    #[error("the file would be longer than 2^64 bytes")]
    FileTooLong,
}

/// The probable kind of a file that is not a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guess {
    /// An ONNX model.
    Onnx,
    /// A container whose line endings were changed.
    TextMode,
    /// Unknown.
    Unknown,
}

impl fmt::Display for Guess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guess::Onnx => "this looks like an ONNX model; compress it to a .lstmc file first",
            Guess::TextMode => {
                "it was one, but a transfer in text mode changed its line endings; \
                 copy it again in binary mode"
            }
            Guess::Unknown => "it does not start as one does",
        })
    }
}

impl Guess {
    /// Guesses from the first bytes of a file that does not start like a container.
    pub(super) fn of(bytes: &[u8]) -> Self {
        // An ONNX model is a protocol buffer message that starts with its IR version (field 1, a small
        // number) and continues with the producer, the domain, the graph, ... (fields 2 to 8).
        const ONNX_FIELDS: [u8; 7] = [0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42];
        match bytes {
            [0x08, 1..=63, field, ..] if ONNX_FIELDS.contains(field) => Guess::Onnx,
            [b'L', b'S', b'T', b'M', b'C', b'\n' | b'\r', ..] => Guess::TextMode,
            _ => Guess::Unknown,
        }
    }
}
