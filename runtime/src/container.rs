//! The `.lstmc` file: a compressed model as one file, read through a memory map.
//!
//! ```text
//!   0  magic                 8 bytes   "LSTMC\r\n\x1a": a text-mode transfer changes it
//!   8  format version        u32       1 to FORMAT_VERSION
//!  12  header length         u32       bytes, at most MAX_HEADER_BYTES
//!  16  CRC-32 of the header  u32
//!  20  CRC-32 of the rest    u32       everything after the header, padding included
//!  24  file length           u64       bytes
//!  32  header                          protocol buffer message, see `format::Header`
//!      zeros, tensor, zeros, tensor, ...   each tensor at a multiple of ALIGNMENT
//! ```
//!
//! Numbers are little-endian. With [`Contents::coded`] the header's texts and words are coded, see `coded`. The graph is text and the tensors are named bytes in an encoding that the
//! text's reader knows: this module interprets neither. The same file serves every CPU.
//!
//! Guarantees to a reader after [`Container::open`]: both checksums are right; tensors have distinct
//! names and are inside the file, aligned, without overlap; the product of a shape does not overflow;
//! the words of the vocabulary are distinct. It must still check that the text is a graph, and that
//! encoding, shape and length of each tensor agree.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::aligned::Aligned;
use crate::text::Tokenizer;

mod coded;
mod error;
mod format;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use error::{ContainerError, Flaw, Guess};
pub use format::{FORMAT_VERSION, MAGIC, MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS};
pub use write::{BlobOut, Contents};

/// A `.lstmc` file, opened and checked.
///
/// Its tensors stay where they are: in the mapped file, read from disk when they are first used. Close a
/// container by dropping it.
///
/// # Files that change while they are mapped
///
/// Nothing may write to the file in place or truncate it while a container is open: tensors would change
/// under their reader, or the process would be killed by a bus error. Replacing the file is fine, and is
/// what [`Contents::write`] does: an open container keeps the old one.
pub struct Container {
    bytes: Bytes,
    header: format::Header, // without the vocabulary and the tensors, which are below
    tokenizer: Option<Arc<Tokenizer>>,
    tensors: Vec<Tensor>,            // in file order
    by_name: HashMap<String, usize>, // index into `tensors`
}

/// A tensor in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blob<'a> {
    /// Its name in the graph's text; unique in the container.
    pub name: &'a str,
    /// The encoding of `bytes`, for example `f32`. Opaque to this crate.
    pub encoding: &'a str,
    /// Dimensions, at most [`MAX_RANK`]; their product fits `u64`. Empty for a scalar.
    pub shape: &'a [u64],
    /// The encoded values. They start at a multiple of [`ALIGNMENT`](crate::ALIGNMENT) bytes in memory.
    pub bytes: &'a [u8],
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Aligned<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

struct Tensor {
    name: String,
    encoding: String,
    shape: Vec<u64>,
    range: Range<usize>, // of the file's bytes
}

impl Container {
    /// Maps a file into memory and checks all of it, which reads it once from start to end.
    ///
    /// See [`Container`] about files that change while they are mapped.
    ///
    /// # Errors
    ///
    /// [`ContainerError::Open`], [`ContainerError::Directory`] or [`ContainerError::NotAFile`] if it
    /// cannot be read, and [`ContainerError::Flawed`] if it is not a `.lstmc` file, is damaged, or was
    /// written by a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ContainerError> {
        let path = path.as_ref();
        let bytes = Bytes::Mapped(read::map(path)?);
        Self::new(bytes).map_err(|flaw| ContainerError::Flawed { path: path.to_owned(), flaw })
    }

    /// Checks the bytes of a file, and copies them to aligned memory.
    ///
    /// # Errors
    ///
    /// [`Flaw`], as [`ContainerError::Flawed`] of [`Container::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Flaw> {
        Self::new(Bytes::Owned(Aligned::copy_of(bytes)))
    }

    fn new(bytes: Bytes) -> Result<Self, Flaw> {
        let read::Parsed { header, tokenizer, tensors, by_name } = read::parse(bytes.as_slice())?;
        Ok(Container { bytes, header, tokenizer, tensors, by_name })
    }

    /// The model's name; may be empty.
    pub fn name(&self) -> &str {
        &self.header.name
    }

    /// The graph, as text. Its weights are this container's tensors.
    pub fn ir(&self) -> &str {
        &self.header.ir
    }

    /// How a text becomes tokens, and their names, if the container has them.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// The passes that the model went through, in their text form; may be empty.
    pub fn recipe(&self) -> &str {
        &self.header.recipe
    }

    /// The report of the passes, as JSON; may be empty. Not checked to be JSON.
    pub fn report(&self) -> &str {
        &self.header.report
    }

    /// The program that wrote the container, with its version.
    pub fn producer(&self) -> &str {
        &self.header.producer
    }

    /// Whether its texts and words are coded: [`Contents::coded`].
    pub fn is_coded(&self) -> bool {
        !self.header.coded.is_empty()
    }

    /// Size of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// All tensors, in the order in which they were written.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Blob<'_>> {
        self.tensors.iter().map(|tensor| self.blob(tensor))
    }

    /// The tensor with this name; `None` if there is none.
    pub fn tensor(&self, name: &str) -> Option<Blob<'_>> {
        self.by_name.get(name).map(|&index| self.blob(&self.tensors[index]))
    }

    fn blob<'a>(&'a self, tensor: &'a Tensor) -> Blob<'a> {
        Blob {
            name: &tensor.name,
            encoding: &tensor.encoding,
            shape: &tensor.shape,
            bytes: &self.bytes.as_slice()[tensor.range.clone()],
        }
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container")
            .field("name", &self.name())
            .field("tokenizer", &self.tokenizer)
            .field("tensors", &self.tensors.len())
            .field("file_bytes", &self.file_bytes())
            .finish_non_exhaustive()
    }
}
