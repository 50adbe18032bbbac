//! Seeds that only the library can write: files with checksums, statistics, training runs.

use super::files::{TRAINED, TRAINING, encodings};
use super::passes::{WORDS, tiny};
use lstmc::Source;
use lstmc::frontend::ir::arbitrary::{Kind, language_model_of, random_map, random_tensor};
use lstmc::frontend::ir::store::{store, store_compressed};
use lstmc::frontend::ir::{CodeFormat, Granularity, Graph, LinearMap, Quantized, print};
use lstmc::frontend::tensor::{DType, Tensor};
use lstmc::passes::{Checkpoint, Context, Pipeline, Settings, Statistics, run};
use lstmc::runtime::{Tokenizer, Vocabulary};
use std::cell::RefCell;
use std::sync::Arc;

/// A target, a file's name and its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All of them, for `testdata/fuzz`.
pub fn seeds() -> Vec<Seed> {
    let mut all = vec![];
    for (k, kind) in Kind::ALL.into_iter().enumerate() {
        let graph = language_model_of(3, 1, WORDS, |name, shape| {
            let seed = u64::from(crc32fast::hash(name.as_bytes())) + k as u64;
            random_map(kind, shape, seed)
        });
        let name = format!("seed-{kind:?}").to_lowercase();
        all.push(("container", name.clone() + "-blobs", blobs(&graph, 2)));
        all.push(("container", name, file(graph, k % 2 == 1)));
    }
    let graph = language_model_of(3, 1, WORDS, |_, shape| nearly_zero(shape));
    all.push(("container", "seed-context-blobs".into(), blobs(&graph, 1)));
    let collected = Statistics::collect(&tiny(), &TRAINING, &mut |_, _| {}).expect("statistics of a text");
    all.push(("statistics", "seed-all".into(), collected.to_bytes()));
    let collected =
        Statistics::collect_inputs(&tiny(), &TRAINING, &mut |_, _| {}).expect("statistics of a text");
    all.push(("statistics", "seed-inputs".into(), collected.to_bytes()));
    let written = checkpoints();
    for (name, bytes) in [("seed-first", written.first()), ("seed-last", written.last())] {
        all.push(("checkpoint", name.into(), bytes.expect("a checkpoint").clone()));
    }
    all
}

/// Codes of so few bits that even small maps are coded in context.
fn nearly_zero([rows, columns]: [usize; 2]) -> LinearMap {
    let codes = (0..rows * columns).map(|i| i8::from(i % 5 == 0)).collect();
    let codes = Tensor::from_i8([rows, columns], codes).expect("codes of this shape");
    let scales = random_tensor(DType::F16, &[rows, 1], 1).expect("a scale for each row");
    let map = Quantized::new(CodeFormat::Int8, Granularity::Row, codes, scales, None);
    LinearMap::Quantized(map.expect("codes with their scales"))
}

/// A graph's text and its blobs, as the target `container` reads them, some of them coded: one of so many.
fn blobs(graph: &Graph, of: usize) -> Vec<u8> {
    let mut bytes = print(graph).into_bytes();
    bytes.push(0);
    let [plain, coded] =
        [store(graph), store_compressed(graph)].map(|blobs| blobs.expect("weights with data"));
    for (k, (plain, coded)) in plain.into_iter().zip(coded).enumerate() {
        let stored = if k % of == of - 1 { coded } else { plain };
        let encoding = encodings().iter().position(|&e| e == stored.encoding).expect("one of all encodings");
        let length = u16::try_from(stored.bytes.len()).expect("a short blob");
        bytes.extend([encoding as u8, u8::from(stored.shape.len() == 1)]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(&*stored.bytes);
    }
    bytes
}

/// A `.lstmc` file.
fn file(graph: Graph, entropy: bool) -> Vec<u8> {
    let words = Vocabulary::from_words(["<unk>", "<eos>", "the", "cat", "sat"]).expect("distinct words");
    let mut source = Source::of_graph(graph);
    source.tokenizer = Some(Arc::new(Tokenizer::words(words)));
    source.recipe = "quantize(bits=4)".into();
    source.report = "{}".into();
    source.entropy = entropy;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("seed.lstmc");
    source.write(&path).expect("a file that is written");
    std::fs::read(path).expect("the file that was written")
}

/// The checkpoints of the target `checkpoint`'s runs.
fn checkpoints() -> Vec<Vec<u8>> {
    let written = RefCell::new(vec![]);
    let checkpoint = Checkpoint::new(|bytes| {
        written.borrow_mut().push(bytes.to_vec());
        Ok(())
    });
    let context = Context { training: Some(&TRAINING), checkpoint: Some(checkpoint), ..Context::default() };
    let pipeline = Pipeline::parse(TRAINED).expect("a pipeline");
    run(&pipeline, tiny(), Settings { context, ..Settings::default() }).expect("a run");
    written.into_inner()
}
