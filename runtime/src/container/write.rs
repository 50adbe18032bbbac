//! Writes a container's parts to a file that exists either completely or not at all.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, BufWriter, Cursor, Seek, SeekFrom, Write};
use std::path::Path;

use prost::Message;

use super::format::{self, Entry, FORMAT_VERSION, Header, PREAMBLE_BYTES, Preamble, TokenizerRecord};
use super::{Blob, ContainerError, Flaw};
use crate::aligned::ALIGNMENT;
use crate::file::{WriteError, write_whole};
use crate::text::Tokenizer;

const PRODUCER: &str = concat!("lstmc ", env!("CARGO_PKG_VERSION"));

/// A tensor to write.
pub struct BlobOut<'a> {
    name: Cow<'a, str>,
    encoding: Cow<'a, str>,
    shape: Cow<'a, [u64]>,
    length: u64, // bytes
    bytes: Source<'a>,
}

enum Source<'a> {
    Ready(Cow<'a, [u8]>),
    OnDemand(Box<dyn Fn() -> Vec<u8> + 'a>),
}

impl<'a> BlobOut<'a> {
    /// A tensor whose bytes are in memory. For the arguments see [`Blob`].
    pub fn new(
        name: impl Into<Cow<'a, str>>,
        encoding: impl Into<Cow<'a, str>>,
        shape: impl Into<Cow<'a, [u64]>>,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        let bytes = bytes.into();
        BlobOut {
            name: name.into(),
            encoding: encoding.into(),
            shape: shape.into(),
            length: bytes.len() as u64,
            bytes: Source::Ready(bytes),
        }
    }

    /// A tensor whose `length` bytes are created when it is written, and dropped afterwards, so
    /// that weights that must be converted need not all be in memory twice at once.
    pub fn on_demand(
        name: impl Into<Cow<'a, str>>,
        encoding: impl Into<Cow<'a, str>>,
        shape: impl Into<Cow<'a, [u64]>>,
        length: u64,
        bytes: impl Fn() -> Vec<u8> + 'a,
    ) -> Self {
        BlobOut {
            name: name.into(),
            encoding: encoding.into(),
            shape: shape.into(),
            length,
            bytes: Source::OnDemand(Box::new(bytes)),
        }
    }
}

impl<'a> From<Blob<'a>> for BlobOut<'a> {
    /// A tensor of another container.
    fn from(blob: Blob<'a>) -> Self {
        BlobOut::new(blob.name, blob.encoding, blob.shape, blob.bytes)
    }
}

/// The parts of a container to write. Equal parts give equal bytes.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Contents<'a> {
    /// The model's name; may be empty.
    pub name: &'a str,
    /// The graph, as text.
    pub ir: &'a str,
    /// How a text becomes tokens, and their names, if they are known.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The passes that the model went through, in their text form; may be empty.
    pub recipe: &'a str,
    /// The report of the passes, as JSON; may be empty.
    pub report: &'a str,
    /// The tensors, with distinct names, in their order in the file.
    pub tensors: &'a [BlobOut<'a>],
    /// Whether texts and words are coded if that makes the file smaller. It takes longer to open, some ten milliseconds for 10,000 words.
    pub coded: bool,
}

/// Why [`emit`] stopped.
enum Stop {
    Io(io::Error),
    Flaw(Flaw),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

impl<'a> Contents<'a> {
    /// A graph and its tensors; everything else is empty.
    pub fn new(ir: &'a str, tensors: &'a [BlobOut<'a>]) -> Self {
        Contents { name: "", ir, tokenizer: None, recipe: "", report: "", tensors, coded: false }
    }
}

impl Contents<'_> {
    /// Writes a `.lstmc` file and returns its length in bytes. An existing file is replaced.
    ///
    /// The file appears only when all of it is on disk, by renaming a temporary one in the same folder;
    /// after an error there is no file, or the previous one. No copy of the tensors is made
    /// in memory. If `path` is a symbolic link, the file that it leads to is replaced.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or ([`ContainerError::Flawed`]) two tensors have the same name, a
    /// shape has more than [`MAX_RANK`](crate::MAX_RANK) dimensions or a product that overflows, bytes
    /// created on demand do not have the announced length, or there are more tensors or header bytes than a
    /// container can have.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<u64, ContainerError> {
        let path = path.as_ref();
        let flawed = |flaw| ContainerError::Flawed { path: path.to_owned(), flaw };
        let plan = self.plan().map_err(flawed)?;
        write_whole(path, |file| {
            emit(&plan, self.tensors, file).map_err(|stop| match stop {
                Stop::Io(reason) => WriteError::Failed { path: path.to_owned(), reason }.into(),
                Stop::Flaw(flaw) => flawed(flaw),
            })
        })?;
        Ok(plan.file_bytes)
    }

    /// The bytes of the file that [`Contents::write`] would write.
    ///
    /// # Errors
    ///
    /// As [`Contents::write`], if the contents are flawed.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Flaw> {
        let mut bytes = Vec::new();
        match emit(&self.plan()?, self.tensors, &mut Cursor::new(&mut bytes)) {
            Ok(()) => Ok(bytes),
            Err(Stop::Flaw(flaw)) => Err(flaw),
            Err(Stop::Io(_)) => unreachable!("memory takes all that is written to it"),
        }
    }

    /// Computes the file's layout and encodes its header.
    fn plan(&self) -> Result<Plan, Flaw> {
        format::check_count(self.tensors.len())?;
        let mut names = HashSet::with_capacity(self.tensors.len());
        let mut entries = Vec::with_capacity(self.tensors.len());
        for tensor in self.tensors {
            format::check_shape(&tensor.name, &tensor.shape)?;
            if !names.insert(&*tensor.name) {
                return Err(Flaw::DuplicateTensor { tensor: tensor.name.to_string() });
            }
            entries.push(Entry {
                name: tensor.name.to_string(),
                encoding: tensor.encoding.to_string(),
                shape: tensor.shape.to_vec(),
                offset: u64::MAX, // as long as the offset that replaces it
                length: tensor.length,
            });
        }
        let encode = |entries: &[Entry]| entries.iter().map(Message::encode_to_vec).collect();
        let mut header = Header {
            name: self.name.to_owned(),
            ir: self.ir.to_owned(),
            vocabulary: self
                .tokenizer
                .iter()
                .flat_map(|t| t.vocabulary().words())
                .map(str::to_owned)
                .collect(),
            recipe: self.recipe.to_owned(),
            report: self.report.to_owned(),
            producer: PRODUCER.to_owned(),
            tensors: encode(&entries),
            tokenizer: self.tokenizer.and_then(TokenizerRecord::of),
            coded: vec![],
        };
        if self.coded {
            header.code_texts();
        }
        let header_bytes = header.encoded_len() as u64;
        format::check_header_bytes(header_bytes)?;

        let mut end = PREAMBLE_BYTES as u64 + header_bytes;
        for entry in &mut entries {
            entry.offset = format::align(end).ok_or(Flaw::FileTooLong)?;
            end = entry.offset.checked_add(entry.length).ok_or(Flaw::FileTooLong)?;
        }
        header.tensors = encode(&entries);
        let version = match &header {
            header if !header.coded.is_empty() => FORMAT_VERSION,
            header if header.tokenizer.is_some() => 2,
            _ => 1,
        };
        let header = header.encode_to_vec();
        debug_assert_eq!(header.len() as u64, header_bytes);
        let offsets = entries.iter().map(|entry| entry.offset).collect();
        Ok(Plan { version, header, offsets, file_bytes: end })
    }
}

/// The layout of the file.
struct Plan {
    version: u32,
    header: Vec<u8>,
    offsets: Vec<u64>, // of each tensor
    file_bytes: u64,
}

/// Writes the file sequentially, then its preamble, which has the checksum of all that follows.
fn emit(plan: &Plan, tensors: &[BlobOut<'_>], out: &mut (impl Write + Seek)) -> Result<(), Stop> {
    const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];

    let mut out = BufWriter::new(out);
    out.write_all(&[0; PREAMBLE_BYTES])?;
    out.write_all(&plan.header)?;
    let mut position = (PREAMBLE_BYTES + plan.header.len()) as u64;
    let mut crc = crc32fast::Hasher::new();
    for (tensor, &offset) in tensors.iter().zip(&plan.offsets) {
        let bytes = match &tensor.bytes {
            Source::Ready(bytes) => Cow::Borrowed(&**bytes),
            Source::OnDemand(make) => Cow::Owned(make()),
        };
        if bytes.len() as u64 != tensor.length {
            return Err(Stop::Flaw(Flaw::Length {
                tensor: tensor.name.to_string(),
                expected: tensor.length,
                found: bytes.len() as u64,
            }));
        }
        // Less than `ALIGNMENT`, as in `Contents::plan`.
        let padding = &ZEROS[..(offset - position) as usize];
        for part in [padding, &bytes] {
            crc.update(part);
            out.write_all(part)?;
        }
        position = offset + tensor.length;
    }
    let preamble = Preamble {
        version: plan.version,
        header_bytes: plan.header.len() as u32, // at most MAX_HEADER_BYTES
        header_crc: crc32fast::hash(&plan.header),
        tensors_crc: crc.finalize(),
        file_bytes: plan.file_bytes,
    };
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&preamble.encode())?;
    out.flush()?;
    Ok(())
}
