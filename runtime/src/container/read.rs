//! From bytes to a checked container.

use std::collections::{HashMap, hash_map};
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::format::{self, Entry, FORMAT_VERSION, Header, MAGIC, PREAMBLE_BYTES, Preamble};
use super::{ContainerError, Flaw, Guess, Tensor};
use crate::aligned::ALIGNMENT;
use crate::text::{Tokenizer, Vocabulary};

/// The result of [`parse`], apart from the tensors' bytes.
pub(super) struct Parsed {
    pub(super) header: Header, // its `vocabulary`, `tokenizer` and `tensors` are moved out
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) by_name: HashMap<String, usize>,
}

/// Maps a whole file, read-only.
pub(super) fn map(path: &Path) -> Result<memmap2::Mmap, ContainerError> {
    let failed = |reason| ContainerError::Open { path: path.to_owned(), reason };
    // Before it is opened, because opening a pipe waits for its other end.
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(ContainerError::Directory { path: path.to_owned() });
    }
    if !metadata.is_file() {
        return Err(ContainerError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(failed)?;
    #[expect(unsafe_code, reason = "a memory map is the one thing here that safe code cannot make")]
    // SAFETY: the map is private to a `Container`, which only ever reads it, as bytes, for which every
    // value is valid. `Contents::write` replaces files and never writes into one. Users must ensure that no other program
    // changes the file while it is mapped, as documented at `Container` and as for
    // every memory map.
    let map = unsafe { memmap2::Mmap::map(&file) };
    map.map_err(failed)
}

/// Checks the bytes of a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Flaw> {
    let (preamble, region) = check_preamble(bytes)?;
    let header_bytes = &bytes[PREAMBLE_BYTES..region.start];
    check_crc("header", preamble.header_crc, header_bytes)?;
    check_crc("tensors", preamble.tensors_crc, &bytes[region.clone()])?;

    let mut header = Header::decode(header_bytes).map_err(undecodable)?;
    header.restore_texts()?;
    let words = std::mem::take(&mut header.vocabulary);
    let tokenizer = match words.is_empty() {
        true => None,
        false => {
            let vocabulary = Vocabulary::from_words(words).map_err(Flaw::Vocabulary)?;
            Some(Arc::new(match header.tokenizer.take() {
                Some(record) => record.restore(vocabulary)?,
                None => Tokenizer::words(vocabulary),
            }))
        }
    };
    let entries = std::mem::take(&mut header.tensors);
    format::check_count(entries.len())?;

    let mut tensors = Vec::with_capacity(entries.len());
    let mut by_name = HashMap::with_capacity(entries.len());
    for entry in entries {
        let tensor = check_entry(Entry::decode(&*entry).map_err(undecodable)?, &region)?;
        match by_name.entry(tensor.name.clone()) {
            hash_map::Entry::Occupied(_) => return Err(Flaw::DuplicateTensor { tensor: tensor.name }),
            hash_map::Entry::Vacant(vacant) => vacant.insert(tensors.len()),
        };
        tensors.push(tensor);
    }
    check_overlap(&tensors)?;
    Ok(Parsed { header, tokenizer, tensors, by_name })
}

fn undecodable(error: prost::DecodeError) -> Flaw {
    Flaw::Header { reason: error.to_string() }
}

/// Checks everything that can be checked without reading further, and returns the region of its tensors.
fn check_preamble(bytes: &[u8]) -> Result<(Preamble, Range<usize>), Flaw> {
    let known = bytes.len().min(MAGIC.len());
    if bytes.is_empty() {
        return Err(Flaw::Empty);
    }
    if bytes[..known] != MAGIC[..known] {
        return Err(Flaw::NotAContainer(Guess::of(bytes)));
    }
    let file = bytes.len() as u64;
    let preamble = match bytes.first_chunk() {
        Some(chunk) => Preamble::decode(chunk),
        None => return Err(Flaw::NoPreamble { found: file }),
    };
    if !(1..=FORMAT_VERSION).contains(&preamble.version) {
        return Err(Flaw::Version { found: preamble.version });
    }
    if preamble.file_bytes > file {
        return Err(Flaw::Truncated { expected: preamble.file_bytes, found: file });
    }
    if preamble.file_bytes < file {
        return Err(Flaw::TrailingBytes { expected: preamble.file_bytes, found: file });
    }
    let header = u64::from(preamble.header_bytes);
    format::check_header_bytes(header)?;
    let start = PREAMBLE_BYTES + preamble.header_bytes as usize; // both are small
    if start > bytes.len() {
        return Err(Flaw::HeaderOutside { header, file });
    }
    Ok((preamble, start..bytes.len()))
}

fn check_crc(part: &'static str, expected: u32, bytes: &[u8]) -> Result<(), Flaw> {
    let found = crc32fast::hash(bytes);
    if found == expected { Ok(()) } else { Err(Flaw::Checksum { part, expected, found }) }
}

fn check_entry(entry: Entry, region: &Range<usize>) -> Result<Tensor, Flaw> {
    let Entry { name, encoding, shape, offset, length } = entry;
    format::check_shape(&name, &shape)?;
    let (start, end) = (region.start as u64, region.end as u64);
    let tensor_end = offset.checked_add(length).filter(|&tensor_end| offset >= start && tensor_end <= end);
    let Some(tensor_end) = tensor_end else {
        return Err(Flaw::Outside { tensor: name, offset, length, start, end });
    };
    if !offset.is_multiple_of(ALIGNMENT as u64) {
        return Err(Flaw::Unaligned { tensor: name, offset });
    }
    // Both are at most `region.end`, which is a `usize`.
    let range = offset as usize..tensor_end as usize;
    Ok(Tensor { name, encoding, shape, range })
}

fn check_overlap(tensors: &[Tensor]) -> Result<(), Flaw> {
    let mut order: Vec<&Tensor> = tensors.iter().filter(|tensor| !tensor.range.is_empty()).collect();
    order.sort_by_key(|tensor| tensor.range.start);
    match order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some(pair) => Err(Flaw::Overlap { first: pair[0].name.clone(), second: pair[1].name.clone() }),
        None => Ok(()),
    }
}
