//! `.lstmc` files that are damaged, and such as are whole but hold something wrong.

use crate::program::Sandbox;
use insta::assert_snapshot;
use lstmc::Source;
use lstmc::runtime::{BlobOut, Container, Contents, Tokenizer, Vocabulary};
use std::path::Path;

/// Bytes before the header; see `lstmc_runtime`'s description of the file.
const PREAMBLE: usize = 32;

/// Where the header ends.
fn header_end(bytes: &[u8]) -> usize {
    PREAMBLE + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize
}

/// Every bit of preamble and header is covered by a check or a checksum.
#[test]
fn a_change_of_any_byte_of_the_header_is_found() {
    let sandbox = Sandbox::new();
    let bytes = std::fs::read(sandbox.tiny()).unwrap();
    let end = header_end(&bytes);
    assert!(end > 500 && end < bytes.len());
    for at in 0..end {
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= mask;
            assert!(Container::from_bytes(&damaged).is_err(), "byte {at} changed by {mask:#x}");
        }
    }
}

/// So is every byte of the tensors and of the zeros between them.
#[test]
fn a_change_of_any_byte_of_the_tensors_is_found() {
    let sandbox = Sandbox::new();
    let bytes = std::fs::read(sandbox.tiny()).unwrap();
    for at in (header_end(&bytes)..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        assert!(Container::from_bytes(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn a_cut_anywhere_is_found() {
    let sandbox = Sandbox::new();
    let bytes = std::fs::read(sandbox.tiny()).unwrap();
    for length in 0..bytes.len() {
        assert!(Container::from_bytes(&bytes[..length]).is_err(), "cut off after {length} bytes");
    }
}

#[test]
fn damage_has_a_message() {
    let sandbox = Sandbox::new();
    let bytes = std::fs::read(sandbox.tiny()).unwrap();
    let end = header_end(&bytes);
    let changed = |at: usize| {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        damaged
    };
    let text_mode: Vec<u8> = [&bytes[..5], &bytes[6..]].concat();
    let files = [
        ("text-mode", text_mode),
        ("version", changed(8)),
        ("header-length", changed(14)),
        ("file-length", changed(24)),
        ("header", changed(end - 1)),
        ("tensors", changed(bytes.len() - 1)),
        ("magic-only", bytes[..8].to_vec()),
        ("no-preamble", bytes[..20].to_vec()),
        ("no-tensors", bytes[..end].to_vec()),
        ("half", bytes[..bytes.len() / 2].to_vec()),
        ("longer", [&bytes[..], b"\n"].concat()),
    ];
    let mut all = String::new();
    for (name, contents) in files {
        sandbox.file("damaged.lstmc", contents);
        let message = sandbox.refused(&["suggest", "[dir]/damaged.lstmc", "--prompt", "the cat"]);
        let message = message.split_once("exit").unwrap().1;
        // Checksums are those of the program's version, which is in the header.
        let message = hide_checksums(message);
        all += &format!("{name}:{message}");
    }
    assert_snapshot!(all);
}

/// Eight hexadecimal digits in a row become `########`, and lengths in bytes of the whole file `N`.
fn hide_checksums(message: &str) -> String {
    let is_hex = |w: &str| w.len() == 8 && w.chars().all(|c| c.is_ascii_hexdigit());
    let hide = |w: &str| {
        let word = w.trim_matches([',', ';']);
        if is_hex(word) {
            w.replace(word, "########")
        } else if word.len() > 2 && word.chars().all(|c| c.is_ascii_digit()) {
            w.replace(word, "N")
        } else {
            w.to_string()
        }
    };
    message.split(' ').map(hide).collect::<Vec<_>>().join(" ")
}

/// The parts of a container, to change and to put together again.
struct Parts {
    ir: String,
    tokenizer: Option<Tokenizer>,
    /// Name, encoding, shape, bytes.
    tensors: Vec<(String, String, Vec<u64>, Vec<u8>)>,
}

impl Parts {
    fn of(path: &Path) -> Parts {
        let container = Container::open(path).unwrap();
        Parts {
            ir: container.ir().into(),
            tokenizer: container.tokenizer().map(|t| Tokenizer::clone(t)),
            tensors: container
                .tensors()
                .map(|b| (b.name.into(), b.encoding.into(), b.shape.to_vec(), b.bytes.to_vec()))
                .collect(),
        }
    }

    fn tensor(&mut self, name: &str) -> &mut (String, String, Vec<u64>, Vec<u8>) {
        let found = self.tensors.iter_mut().find(|t| t.0 == name);
        found.unwrap_or_else(|| panic!("the model has no tensor {name}"))
    }

    /// A file with right checksums around whatever this is.
    fn write(&self, path: &Path) {
        let tensors: Vec<BlobOut<'_>> = self
            .tensors
            .iter()
            .map(|(name, encoding, shape, bytes)| BlobOut::new(name, encoding, shape, bytes))
            .collect();
        let mut contents = Contents::new(&self.ir, &tensors);
        contents.name = "tiny";
        contents.tokenizer = self.tokenizer.as_ref();
        contents.write(path).unwrap();
    }
}

/// A change to a whole container, and what it is called.
type Change = (&'static str, fn(&mut Parts));

const CHANGES: &[Change] = &[
    ("a missing tensor", |p| p.tensors.retain(|t| t.0 != "decoder/data")),
    ("a tensor under another name", |p| p.tensor("decoder/data").0 = "decoder/codes".into()),
    ("an unknown encoding", |p| p.tensor("decoder/data").1 = "f33".into()),
    ("another encoding", |p| p.tensor("decoder/data").1 = "f16".into()),
    ("codes for floats", |p| p.tensor("decoder/data").1 = "int8".into()),
    ("a tensor too short", |p| p.tensor("decoder/data").3.truncate(100)),
    ("a tensor without bytes", |p| p.tensor("decoder/data").3.clear()),
    ("another shape", |p| p.tensor("decoder/data").2 = vec![8, 32]),
    ("a huge shape", |p| p.tensor("decoder/data").2 = vec![1 << 40, 1 << 20]),
    ("weights that are not finite", |p| p.tensor("decoder.bias/data").3[..4].fill(0xff)),
    ("no graph", |p| p.ir.clear()),
    ("a graph that is cut off", |p| p.ir.truncate(p.ir.len() / 2)),
    ("a graph that is no text form", |p| p.ir = "\u{1}\u{0}model".into()),
    ("huge dimensions", |p| {
        p.ir = p.ir.replace("@decoder: f32[32, 8]", "@decoder: f32[4294967296, 4294967296]")
    }),
    ("large dimensions", |p| p.ir = p.ir.replace("@decoder: f32[32, 8]", "@decoder: f32[1000000, 100000]")),
    ("a number that overflows", |p| p.ir = p.ir.replace("f32[32, 8]", "f32[99999999999999999999, 8]")),
    ("a vocabulary size that overflows", |p| {
        p.ir = p.ir.replace("(vocabulary 32)", "(vocabulary 99999999999999999999)")
    }),
    ("another vocabulary size", |p| p.ir = p.ir.replace("(vocabulary 32)", "(vocabulary 33)")),
    ("random weights of a huge shape", |p| {
        let line = p.ir.lines().find(|l| l.starts_with("@decoder:")).unwrap().to_string();
        p.ir = p.ir.replace(&line, "@decoder: f32[1000000, 1000000] random 1");
    }),
    ("deep nesting", |p| {
        let line = p.ir.lines().find(|l| l.starts_with("@decoder:")).unwrap().to_string();
        let deep = "low_rank[32, 8] rank 1 { left: ".repeat(100_000);
        p.ir = p.ir.replace(&line, &format!("@decoder: {deep}"));
    }),
    ("a graph that is no language model", |p| {
        p.ir = "model \"m\" {\n  %x: f32[S, B, 8] = input\n  %y: f32[S, B, 8] = tanh %x\n  return y %y\n}\n"
            .into()
    }),
    ("words of another model", |p| {
        p.tokenizer = Some(Tokenizer::words(Vocabulary::from_words(["a", "b"]).unwrap()))
    }),
];

/// Right checksums say nothing about the contents: each of these is found by the text's reader, the verifier or the planner.
#[test]
fn what_is_inside_is_checked() {
    let sandbox = Sandbox::new();
    let path = sandbox.tiny();
    let whole = std::fs::read(&path).unwrap();
    let mut all = String::new();
    for (name, change) in CHANGES {
        std::fs::write(&path, &whole).unwrap();
        let mut parts = Parts::of(&path);
        let before = (parts.ir.clone(), parts.tensors.clone(), parts.tokenizer.clone());
        change(&mut parts);
        assert!(
            (parts.ir.clone(), parts.tensors.clone(), parts.tokenizer.clone()) != before,
            "{name}: no change"
        );
        parts.write(&path);
        let text = ["--text", "testdata/tiny/text.txt"];
        let message = sandbox.refused(&[&["eval", "[dir]/tiny.lstmc"][..], &text].concat());
        let (_, message) = message.split_once("exit").unwrap();
        assert!(message.len() < 2000, "{name}: {message}");
        all += &format!("{name}:{message}");
    }
    assert_snapshot!(all);
}

/// A tensor that no weight asks for does no harm.
#[test]
fn a_tensor_too_many_is_ignored() {
    let sandbox = Sandbox::new();
    let path = sandbox.tiny();
    let mut parts = Parts::of(&path);
    parts.tensors.push(("extra/data".into(), "f32".into(), vec![1], vec![0; 4]));
    parts.write(&path);
    assert!(lstmc::load(&path).is_ok());
}

/// What is read is written again, byte for byte.
#[test]
fn saving_what_was_loaded_gives_the_same_file() {
    let sandbox = Sandbox::new();
    let first = sandbox.tiny();
    let second = sandbox.path("second.lstmc");
    Source::read(&first).unwrap().canonical().unwrap().write(&second).unwrap();
    assert_eq!(std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
}
