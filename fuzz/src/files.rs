//! Binary files: models, statistics, checkpoints.

use super::cursor::Cursor;
use super::models::{check, check_generic, compiled, stored_and_restored};
use super::passes::{WORDS, refused_or_valid, tiny};
use super::refused;
use lstmc::Source;
use lstmc::frontend::canonicalize::canonicalize;
use lstmc::frontend::ir::store::{Encoding, Stored, restore};
use lstmc::frontend::ir::{Graph, Wanted, WeightSource, parse_with, verify};
use lstmc::frontend::onnx;
use lstmc::frontend::tensor::Tensor;
use lstmc::passes::{Calibration, Checkpoint, Context, Statistics};
use lstmc::runtime::MAGIC;

/// ONNX models; what is imported is brought into language-model form, unless the exporter wrote it and it is in this form at once.
pub fn onnx(bytes: &[u8]) {
    let graph = match onnx::import_exported(bytes.to_vec().into(), None, "fuzz") {
        Ok(imported) => imported.graph,
        Err(error) => return refused(error),
    };
    check_generic(&graph);
    if graph.is_language_model() {
        return check(&graph);
    }
    match canonicalize(&graph) {
        Ok(Some(canonical)) => check(&canonical.graph),
        Ok(None) => {}
        Err(error) => refused(error),
    }
}

/// `.lstmc` files as they are and with checksums that fit. What starts otherwise is a graph's text, a NUL, and the blobs of its weights as [`Blobs`]
/// reads them.
pub fn container(bytes: &[u8]) {
    for graph in graphs(bytes) {
        stored_and_restored(&graph);
    }
}

/// The same bytes; small models are compiled and read some tokens.
pub fn engine(bytes: &[u8]) {
    for graph in graphs(bytes) {
        compiled(&graph);
    }
}

/// The graphs of a container's bytes.
fn graphs(bytes: &[u8]) -> Vec<Graph> {
    if !bytes.starts_with(&MAGIC[..2]) {
        return of_blobs(bytes).into_iter().collect();
    }
    let mended = with_checksums(bytes).filter(|mended| mended != bytes);
    opened(bytes).into_iter().chain(mended.and_then(|bytes| opened(&bytes))).collect()
}

fn opened(bytes: &[u8]) -> Option<Graph> {
    let source = Source::from_bytes(bytes, "fuzz.lstmc").map_err(refused).ok()?;
    verify(&source.graph).expect("what is opened is verified");
    let _ = source.weight_bytes().map_err(refused);
    source.canonical().map_err(refused).ok().map(|source| source.graph)
}

/// A container with the length and the checksums of what it holds; none where there is no room for them.
fn with_checksums(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let header = u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?) as usize;
    let end = 32usize.checked_add(header)?;
    let sums = [bytes.get(32..end)?, bytes.get(end..)?].map(crc32fast::hash);
    bytes[16..20].copy_from_slice(&sums[0].to_le_bytes());
    bytes[20..24].copy_from_slice(&sums[1].to_le_bytes());
    let length = bytes.len() as u64;
    bytes[24..32].copy_from_slice(&length.to_le_bytes());
    Some(bytes)
}

fn of_blobs(bytes: &[u8]) -> Option<Graph> {
    let at = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let (text, rest) = (str::from_utf8(&bytes[..at]).ok()?, bytes.get(at + 1..).unwrap_or(&[]));
    let graph = parse_with(text, &mut Blobs(Cursor::new(rest))).map_err(refused).ok()?;
    verify(&graph).map_err(refused).ok().map(|()| graph)
}

/// What the first byte of a blob counts.
pub(super) fn encodings() -> Vec<Encoding> {
    Encoding::all().collect()
}

/// Blobs in the order in which they are asked for: a byte for the encoding, one of which the lowest bit says that only what a mask keeps is there,
/// two for the length, and the bytes.
struct Blobs<'b>(Cursor<'b>);

impl WeightSource for Blobs<'_> {
    fn tensor(&mut self, wanted: &Wanted<'_>) -> Result<Option<Tensor>, String> {
        let cursor = &mut self.0;
        let encodings = encodings();
        let encoding = encodings[usize::from(cursor.byte()) % encodings.len()];
        let is_masked = cursor.byte() & 1 == 1;
        let length = cursor.short();
        let shape = match wanted.kept.zip(<[usize; 2]>::try_from(wanted.shape).ok()) {
            Some((kept, shape)) if is_masked => vec![kept.pattern.count(shape, kept.mask)],
            _ => wanted.shape.to_vec(),
        };
        let stored = Stored { path: wanted.path.into(), encoding, shape, bytes: cursor.take(length).into() };
        restore(wanted, &stored).map(Some).map_err(|e| e.to_string())
    }

    fn is_trusted(&self) -> bool {
        true
    }
}

/// Calibration statistics; what is read is written and read again, and compresses a model.
pub fn statistics(bytes: &[u8]) {
    let statistics = match Statistics::from_bytes(bytes) {
        Ok(statistics) => statistics,
        Err(error) => return refused(error),
    };
    assert!(Statistics::is_file(bytes), "statistics that the command line takes for text");
    let again = Statistics::from_bytes(&statistics.to_bytes()).expect("what was written is read");
    assert!(again == statistics, "other statistics are read than were written");
    if let Err(error) = statistics.check(&tiny()) {
        return refused(error);
    }
    for passes in CALIBRATED {
        let calibration = Some(Calibration::of_statistics(statistics.clone()));
        refused_or_valid(passes, tiny(), Context { calibration, ..Context::default() });
    }
}

/// Every way in which passes use statistics of a file.
const CALIBRATED: [&str; 4] =
    ["quantize(bits=4)", "quantize(bits=2, method=nearest)", "prune(sparsity=0.5)", "low-rank(rank=1)"];

/// Checkpoints of training as they are and with a checksum that fits; training goes on from them.
pub fn checkpoint(bytes: &[u8]) {
    resumed(bytes);
    if let Some(rest) = bytes.get(16..) {
        let sum = crc32fast::hash(rest).to_le_bytes();
        if bytes[12..16] != sum {
            resumed(&[&bytes[..12], &sum, rest].concat());
        }
    }
}

/// Two runs, which between them have all there is to keep.
pub(super) const TRAINED: &str =
    "recover(optimizer=adamw, batch=2, bptt=2, epochs=2, dropout=0.1), recover(batch=2, bptt=2, distill=0.5)";

/// Five windows for each of two streams.
pub(super) const TRAINING: [u32; 22] =
    [0, 1, 2, 3, 4, 0, 2, 4, 1, 3, 0, 1, 2, 3, 4, 0, 2, 4, 1, 3, 0, WORDS as u32 - 1];

fn resumed(bytes: &[u8]) {
    let checkpoint = match Checkpoint::new(|_| Ok(())).resumed(bytes) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return refused(error),
    };
    let context = Context { training: Some(&TRAINING), checkpoint: Some(checkpoint), ..Context::default() };
    refused_or_valid(TRAINED, tiny(), context);
}
