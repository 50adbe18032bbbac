use std::fs;
use std::path::Path;

use proptest::prelude::*;
use prost::Message;

use super::format::{Entry, Header, PREAMBLE_BYTES, Preamble, TokenizerRecord};
use super::*;
use crate::file::WriteError;
use crate::text::{Newline, Subwords, Units, Vocabulary};

const IR: &str = "model \"tiny\" (vocabulary 3) {}\n@decoder: f32[3, 2]\n";

fn words() -> Tokenizer {
    Tokenizer::words(Vocabulary::from_words(["<unk>", "<eos>", "Größe"]).unwrap())
}

fn tensors() -> Vec<BlobOut<'static>> {
    let decoder: Vec<u8> = [1.5f32, -2.0, 0.0, 3.0, 1e-9, 7.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    vec![
        BlobOut::new("decoder", "f32", &[3, 2], decoder),
        BlobOut::new("empty", "f32", &[0, 2], &[]),
        BlobOut::on_demand("codes", "bits4", &[130], 65, || vec![0x5a; 65]),
        BlobOut::new("scale", "f32", &[], &[0, 0, 128, 63]),
    ]
}

fn contents<'a>(tokenizer: &'a Tokenizer, tensors: &'a [BlobOut<'a>]) -> Contents<'a> {
    Contents {
        name: "tiny",
        ir: IR,
        tokenizer: Some(tokenizer),
        recipe: "quantize(bits=4)",
        report: "{\"passes\": []}",
        tensors,
        coded: false,
    }
}

fn valid() -> Vec<u8> {
    contents(&words(), &tensors()).to_bytes().unwrap()
}

/// A file with right lengths and checksums around any header and tensor region.
fn file(header: &[u8], region: &[u8]) -> Vec<u8> {
    let preamble = Preamble {
        version: FORMAT_VERSION,
        header_bytes: header.len() as u32,
        header_crc: crc32fast::hash(header),
        tensors_crc: crc32fast::hash(region),
        file_bytes: (PREAMBLE_BYTES + header.len() + region.len()) as u64,
    };
    [&preamble.encode(), header, region].concat()
}

fn file_of(entries: &[Entry], region: &[u8]) -> Vec<u8> {
    let tensors = entries.iter().map(Message::encode_to_vec).collect();
    file(&Header { tensors, ..Header::default() }.encode_to_vec(), region)
}

fn flaw(bytes: &[u8]) -> Flaw {
    Container::from_bytes(bytes).map(|_| ()).unwrap_err()
}

fn check(container: &Container) {
    assert_eq!(container.name(), "tiny");
    assert_eq!(container.ir(), IR);
    assert_eq!(container.tokenizer().map(|words| &**words), Some(&words()));
    assert_eq!(container.recipe(), "quantize(bits=4)");
    assert_eq!(container.report(), "{\"passes\": []}");
    assert!(container.producer().starts_with("lstmc "));
    let names: Vec<&str> = container.tensors().map(|blob| blob.name).collect();
    assert_eq!(names, ["decoder", "empty", "codes", "scale"]);
    for blob in container.tensors() {
        assert_eq!(container.tensor(blob.name), Some(blob));
        assert!(blob.bytes.is_empty() || blob.bytes.as_ptr().addr().is_multiple_of(crate::ALIGNMENT));
    }
    let codes = container.tensor("codes").unwrap();
    assert_eq!((codes.encoding, codes.shape, codes.bytes), ("bits4", &[130][..], &[0x5a; 65][..]));
    let scale = container.tensor("scale").unwrap();
    assert_eq!((scale.shape, scale.bytes), (&[][..], &1f32.to_le_bytes()[..]));
    assert_eq!(container.tensor("decoder").unwrap().bytes[..4], 1.5f32.to_le_bytes());
    assert_eq!(container.tensor("bias"), None);
}

#[test]
fn what_is_written_is_read() {
    let bytes = valid();
    check(&Container::from_bytes(&bytes).unwrap());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.lstmc");
    let length = contents(&words(), &tensors()).write(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(length, bytes.len() as u64);

    let container = Container::open(&path).unwrap();
    check(&container);
    assert_eq!(container.file_bytes(), length);

    // Replacing the file leaves the open container alone, and copying a container gives the same bytes.
    let (tokenizer, copies) = (words(), container.tensors().map(BlobOut::from).collect::<Vec<_>>());
    contents(&tokenizer, &copies).write(&path).unwrap();
    check(&container);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_container_may_be_almost_empty() {
    let contents =
        Contents { name: "", ir: "", tokenizer: None, recipe: "", report: "", tensors: &[], coded: false };
    let container = Container::from_bytes(&contents.to_bytes().unwrap()).unwrap();
    assert!(container.tokenizer().is_none());
    assert_eq!(container.tensors().len(), 0);
}

#[test]
#[cfg(unix)]
fn files_have_ordinary_permissions_and_links_are_followed() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    fs::write(folder.path().join("ordinary"), "").unwrap();
    let (tokenizer, tensors) = (words(), tensors());
    let contents = contents(&tokenizer, &tensors);
    contents.write(folder.path().join("tiny.lstmc")).unwrap();
    assert_eq!(mode("tiny.lstmc"), mode("ordinary"));

    symlink("ordinary", folder.path().join("link.lstmc")).unwrap();
    contents.write(folder.path().join("link.lstmc")).unwrap();
    assert!(folder.path().join("link.lstmc").is_symlink());
    check(&Container::open(folder.path().join("ordinary")).unwrap());
}

#[test]
fn the_layout_on_disk_is_fixed() {
    let bytes = valid();
    assert_eq!(&bytes[..8], b"LSTMC\r\n\x1a");
    assert_eq!(bytes[8..12], 1u32.to_le_bytes());
    assert_eq!(bytes[24..32], (bytes.len() as u64).to_le_bytes());
    let header_end = 32 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    assert_eq!(bytes[16..20], crc32fast::hash(&bytes[32..header_end]).to_le_bytes());
    assert_eq!(bytes[20..24], crc32fast::hash(&bytes[header_end..]).to_le_bytes());
    let decoder = header_end.next_multiple_of(64);
    assert_eq!(bytes[decoder..decoder + 4], 1.5f32.to_le_bytes());
}

#[test]
fn every_change_of_a_byte_is_an_error() {
    let bytes = valid();
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            assert!(Container::from_bytes(&changed).is_err(), "byte {at} changed by {mask:#x}");
        }
    }
}

#[test]
fn every_other_length_is_an_error() {
    let mut bytes = valid();
    for length in 0..bytes.len() {
        assert!(Container::from_bytes(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
    bytes.push(0);
    assert!(matches!(flaw(&bytes), Flaw::TrailingBytes { .. }));
}

fn entry(name: &str, offset: u64, length: u64) -> Entry {
    Entry { name: name.into(), encoding: "u8".into(), shape: vec![length], offset, length }
}

#[test]
fn tensors_may_lie_anywhere_without_overlap() {
    let bytes = file_of(&[entry("b", 256, 64), entry("empty", 256, 0), entry("a", 192, 64)], &[7; 512]);
    let container = Container::from_bytes(&bytes).unwrap();
    assert_eq!(container.tensor("a").unwrap().bytes, [7; 64]);
}

#[test]
fn tokenizers_are_kept() {
    let vocabulary =
        std::sync::Arc::new(Vocabulary::from_words(["<blk>", "<s>", "</s>", "a", "\n"]).unwrap());
    let units = [Units::Words, Units::Characters, Units::Ids];
    let tokenizers = units.map(|units| Tokenizer::new(units, vocabulary.clone()));
    let other = tokenizers[0].clone().with_newline(Newline::Space);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/subwords/unigram.model");
    let subwords = Subwords::read(file).unwrap();
    let padded = subwords.vocabulary(510).unwrap();
    let subwords = Tokenizer::new(Units::Subwords(std::sync::Arc::new(subwords)), padded);
    let ir = IR.repeat(2);
    for tokenizer in tokenizers.iter().chain([&other, &subwords]) {
        // Words with tokens of the usual names are what every version reads.
        let version = if *tokenizer == tokenizers[0] { 1 } else { 2 };
        for (coded, version) in [(false, version), (true, 3)] {
            let contents = Contents { tokenizer: Some(tokenizer), coded, ..Contents::new(&ir, &[]) };
            let bytes = contents.to_bytes().unwrap();
            let container = Container::from_bytes(&bytes).unwrap();
            assert_eq!(container.tokenizer().map(|t| &**t), Some(tokenizer));
            assert_eq!((container.is_coded(), bytes[8]), (coded, version));
        }
    }
}

#[test]
fn ten_thousand_words_take_little() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/ptb-small/vocab.txt");
    let tokenizer = Tokenizer::words(Vocabulary::read(file).unwrap());
    let contents = |coded| Contents { coded, ..contents(&tokenizer, &[]) };
    let [plain, coded] = [false, true].map(|coded| contents(coded).to_bytes().unwrap());
    assert!(coded.len() < 36_000 && plain.len() > 90_000, "{} bytes, coded {}", plain.len(), coded.len());
    let [plain, coded] = [plain, coded].map(|bytes| Container::from_bytes(&bytes).unwrap());
    assert_eq!(plain.tokenizer(), coded.tokenizer());
    let texts = |c: &Container| [c.name(), c.ir(), c.recipe(), c.report()].map(str::to_owned);
    assert_eq!(texts(&plain), texts(&coded));
}

/// What is not smaller when it is coded stays as it is, for every version to read.
#[test]
fn texts_that_cannot_be_coded_are_left_alone() {
    let nul = Tokenizer::words(Vocabulary::from_words(["the", "c\0t"]).unwrap());
    for (ir, tokenizer) in [("", None), (&IR.repeat(4), Some(&nul)), (&"a".repeat(10_000), None)] {
        let plain = Contents { tokenizer, ..Contents::new(ir, &[]) };
        let coded = Contents { coded: true, ..plain };
        assert!(plain.to_bytes().unwrap() == coded.to_bytes().unwrap());
    }
}

#[test]
fn flaws() {
    // Not `valid()`, whose header holds this crate's version.
    let bytes = file_of(&[entry("a", 256, 1)], &[0; 512]);
    let with = |at: usize, value: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + value.len()].copy_from_slice(value);
        changed
    };
    let region = [0; 512];
    let deep = Entry { shape: vec![1; 9], ..entry("deep", 256, 1) };
    let vast = Entry { shape: vec![1 << 40, 1 << 40], ..entry("vast", 256, 1) };
    let vocabulary = ["the", "cat", "the"].map(str::to_owned).to_vec();
    let recorded = |record| {
        let vocabulary = ["the", "cat"].map(str::to_owned).to_vec();
        file(&Header { vocabulary, tokenizer: Some(record), ..Header::default() }.encode_to_vec(), &[])
    };
    let piece = b"\n\t\n\x05<unk>\x18\x02".to_vec();
    let files = [
        vec![],
        b"\x08\x08\x12\x07pytorch".to_vec(),
        b"LSTMC\n\x1a\x01\0\0\0".to_vec(),
        b"PK\x03\x04".to_vec(),
        b"LST".to_vec(),
        bytes[..31].to_vec(),
        with(8, &(FORMAT_VERSION + 1).to_le_bytes()),
        with(8, &0u32.to_le_bytes()),
        bytes[..bytes.len() - 10].to_vec(),
        [&bytes[..], b"\n"].concat(),
        with(12, &u32::MAX.to_le_bytes()),
        with(12, &60_000u32.to_le_bytes()),
        with(40, b"\0"),
        with(bytes.len() - 1, b"\x01"),
        file(&[0x0a, 0x05, b'a'], &[]),
        file(&Header { tensors: vec![vec![0xff]], ..Header::default() }.encode_to_vec(), &[]),
        file(&Header { coded: vec![0xff; 40], ..Header::default() }.encode_to_vec(), &[]),
        file(&Header { vocabulary, ..Header::default() }.encode_to_vec(), &[]),
        recorded(TokenizerRecord { units: "runes".into(), ..TokenizerRecord::default() }),
        recorded(TokenizerRecord { units: "words".into(), end: Some(2), ..TokenizerRecord::default() }),
        recorded(TokenizerRecord { units: "words".into(), newline: Some(9), ..TokenizerRecord::default() }),
        recorded(TokenizerRecord { units: "bytes".into(), ..TokenizerRecord::default() }),
        recorded(TokenizerRecord { units: "subwords".into(), ..TokenizerRecord::default() }),
        recorded(TokenizerRecord { units: "subwords".into(), file: piece, ..TokenizerRecord::default() }),
        file(&[0x3a, 0].repeat(MAX_TENSORS + 1), &[]),
        file_of(&[entry("a", 256, 1), entry("a", 320, 1)], &region),
        file_of(&[deep], &region),
        file_of(&[vast], &region),
        file_of(&[entry("a", 257, 1)], &region),
        file_of(&[entry("a", 0, 1)], &region),
        file_of(&[entry("a", 256, 1 << 40)], &region),
        file_of(&[entry("a", u64::MAX - 63, 64)], &region),
        file_of(&[entry("b", 256, 1), entry("a", 192, 65)], &region),
    ];
    let messages: Vec<String> = files.iter().map(|bytes| flaw(bytes).to_string()).collect();
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn flaws_in_what_is_to_be_written() {
    let tokenizer = words();
    let huge = " ".repeat(MAX_HEADER_BYTES as usize);
    let message = |ir: &str, tensors: &[BlobOut<'_>]| {
        let contents = Contents { ir, ..contents(&tokenizer, tensors) };
        contents.to_bytes().unwrap_err().to_string()
    };
    let blob = |name: &'static str, shape: &'static [u64]| BlobOut::new(name, "u8", shape, &[1]);
    let promised = |length| BlobOut::on_demand("a", "u8", &[3], length, || vec![1, 2, 3]);
    let messages = [
        message(&huge, &[]),
        message("", &[blob("a", &[1]), blob("a", &[1])]),
        message("", &[blob("a", &[1; 9])]),
        message("", &[blob("a", &[1 << 32, 1 << 32])]),
        message("", &[promised(4)]),
        message("", &[promised(u64::MAX)]),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn files_that_cannot_be_opened_or_written() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| folder.path().join(name);
    fs::create_dir(in_folder("folder.lstmc")).unwrap();
    fs::write(in_folder("file"), "text").unwrap();
    fs::write(in_folder("empty.lstmc"), "").unwrap();
    let tokenizer = words();
    let wrong = [BlobOut::on_demand("a", "u8", &[3], 4, || vec![1, 2, 3])];
    let open = |path: &Path| Container::open(path).unwrap_err().to_string();
    let write = |path: &Path| contents(&tokenizer, &wrong).write(path).unwrap_err().to_string();
    let mut messages = vec![
        open(&in_folder("none.lstmc")),
        open(&in_folder("folder.lstmc")),
        open(&in_folder("file")),
        open(&in_folder("empty.lstmc")),
        write(&in_folder("folder.lstmc")),
        write(&in_folder("none/tiny.lstmc")),
        write(&in_folder("file/tiny.lstmc")),
        write(&in_folder("file")),
    ];
    if cfg!(unix) {
        messages.push(open(Path::new("/dev/null")));
        messages.push(write(Path::new("/dev/null")));
    }
    // Not provoked: whoever runs the tests may be allowed to write everywhere.
    let reason = || std::io::Error::new(std::io::ErrorKind::PermissionDenied, "Permission denied");
    let (path, parent) = (in_folder("tiny.lstmc"), folder.path().to_owned());
    messages.push(WriteError::Folder { path: path.clone(), folder: parent, reason: reason() }.to_string());
    messages.push(WriteError::Failed { path, reason: reason() }.to_string());
    let shown = folder.path().display().to_string();
    insta::assert_snapshot!(messages.join("\n").replace(&shown, "FOLDER"));

    assert_eq!(fs::read(in_folder("file")).unwrap(), b"text", "a failed write leaves the old file");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "and no temporary file");
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let number = || prop_oneof![0..10u64, (0..16u64).prop_map(|x| x * 64), any::<u64>()];
    let shape = prop::collection::vec(number(), 0..4);
    ("[ab]{0,2}", "[a-z]{0,2}", shape, number(), number())
        .prop_map(|(name, encoding, shape, offset, length)| Entry { name, encoding, shape, offset, length })
}

proptest! {
    #[test]
    fn any_bytes_give_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Container::from_bytes(&bytes).is_err());
    }

    #[test]
    fn any_preamble_gives_no_panic(
        fields in prop::array::uniform24(prop_oneof![Just(0u8), Just(1), any::<u8>()]),
        rest in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let _ = Container::from_bytes(&[&MAGIC[..], &fields, &rest].concat());
    }

    #[test]
    fn any_header_gives_no_panic(header in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Container::from_bytes(&file(&header, &[0; 256]));
    }

    #[test]
    fn any_entries_are_refused_or_safe(entries in prop::collection::vec(any_entry(), 0..4)) {
        let bytes = file_of(&entries, &[0; 700]);
        if let Ok(container) = Container::from_bytes(&bytes) {
            prop_assert_eq!(container.tensors().len(), entries.len());
            let total: usize = container.tensors().map(|blob| blob.bytes.len()).sum();
            prop_assert!(total <= 700);
        }
    }

    #[test]
    fn any_contents_survive(
        name in ".{0,9}",
        ir in ".{0,90}|[a-c\0]{0,90}",
        coded: bool,
        blobs in prop::collection::btree_map(".{0,9}", prop::collection::vec(any::<u8>(), 0..200), 0..6),
    ) {
        let tensors: Vec<_> =
            blobs.iter().map(|(name, bytes)| BlobOut::new(name, "u8", vec![bytes.len() as u64], bytes)).collect();
        let contents =
            Contents { name: &name, ir: &ir, tokenizer: None, recipe: "", report: "", tensors: &tensors, coded };
        let container = Container::from_bytes(&contents.to_bytes().unwrap()).unwrap();
        prop_assert_eq!((container.name(), container.ir()), (&*name, &*ir));
        prop_assert_eq!(container.tensors().len(), blobs.len());
        for blob in container.tensors() {
            prop_assert_eq!(blob.bytes, &blobs[blob.name]);
        }
    }
}
