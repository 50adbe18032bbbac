use super::*;
use crate::text::{Encoded, Newline, Role, TextError, TextReader, Tokenizer, Units};
use proptest::prelude::*;
use std::sync::Arc;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/subwords")
}

/// Whether this build reads a file.
fn is_read(name: &str) -> bool {
    cfg!(feature = "tokenizers") || name.ends_with(".model")
}

/// Compares with what `testdata/scripts/subwords.py` recorded.
fn check(folder: &Path) {
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let lines: Vec<&str> =
        expected["lines"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    let mut wrong = vec![];
    for (name, recorded) in expected["tokenizers"].as_object().unwrap() {
        if !is_read(name) {
            continue;
        }
        let subwords = Subwords::read(folder.join(name)).unwrap();
        let unknown = subwords.special().get(Role::Unknown);
        let mut differ = [0; 2];
        for (index, line) in lines.iter().enumerate() {
            let ids: Vec<u32> = serde_json::from_value(recorded["ids"][index].clone()).unwrap();
            let found = subwords.encode(line).unwrap();
            let found: Vec<u32> = found.into_iter().map(|id| id.or(unknown).unwrap()).collect();
            let text = recorded["decoded"][index].as_str().unwrap_or(line);
            let decoded = subwords.decode(&ids);
            for (count, differs) in differ.iter_mut().zip([found != ids, decoded != text]) {
                *count += usize::from(differs);
                if differs && *count <= 3 {
                    wrong
                        .push(format!("{name}: {line:?}: {found:?}, not {ids:?}; {decoded:?}, not {text:?}"));
                }
            }
        }
        wrong.extend(
            (differ != [0; 2]).then(|| format!("{name}: {differ:?} of {} lines differ", lines.len())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ids_and_texts_are_those_of_the_python_packages() {
    check(&folder());
}

#[test]
#[ignore = "many tokenizers, which testdata/scripts/subwords.py makes: LSTMC_SUBWORDS=FOLDER cargo test -p lstmc-runtime --features tokenizers subwords -- --ignored"]
fn ids_and_texts_of_more_tokenizers() {
    check(Path::new(&std::env::var_os("LSTMC_SUBWORDS").unwrap()));
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn tokenizer(name: &str, rows: usize) -> Tokenizer {
    let subwords = Subwords::read(folder().join(name)).unwrap();
    let vocabulary = subwords.vocabulary(rows).unwrap();
    Tokenizer::new(Units::Subwords(Arc::new(subwords)), vocabulary)
}

fn stream(tokenizer: &Tokenizer, text: &[u8]) -> Result<Encoded, TextError> {
    let (mut reader, mut encoded) = (TextReader::new(tokenizer, text), Encoded::default());
    while reader.stream(&mut encoded)? {}
    Ok(encoded)
}

#[test]
fn lines_are_cut_one_by_one() {
    let text = "\u{feff}the company\r\n\nsaid  \u{6f22}\u{5b57}.\n";
    for name in ["unigram.model", "bpe.model", "metaspace.json"] {
        if !is_read(name) {
            continue;
        }
        let tokenizer = tokenizer(name, 0);
        let encoded = tokenizer.encode(text).unwrap();
        assert_eq!(stream(&tokenizer, text.as_bytes()).unwrap(), encoded, "{name}");
        let end = tokenizer.end().unwrap();
        let line = |text: &str| tokenizer.encode(text).unwrap().tokens;
        let lines = [line("the company"), vec![end], vec![end], line("said  \u{6f22}\u{5b57}."), vec![end]];
        assert_eq!(encoded.tokens, lines.concat(), "{name}");
        assert_eq!((encoded.words, encoded.characters, encoded.bytes), (4 + 3, 20 + 3, 24 + 3));
        let falls_back = name == "bpe.model";
        assert_eq!(encoded.unknown, if falls_back { 0 } else { 1 }, "{name}");
        let decoded = match name {
            "bpe.model" => "the company\n\nsaid  \u{6f22}\u{5b57}.\n",
            "unigram.model" => "the company\n\nsaid  \u{2047} .\n",
            _ => "the company\n\nsaid  <unk>.\n",
        };
        let mut tokens = vec![tokenizer.begin().unwrap()];
        tokens.extend(&encoded.tokens);
        assert_eq!(tokenizer.decode(&tokens), decoded, "{name}");
        // Token by token, unless the bytes of a character are several.
        let after = |at: usize| tokenizer.decode_after(&tokens[..at], tokens[at]);
        let added: String = (0..tokens.len()).map(after).filter(|text| !text.contains('\u{fffd}')).collect();
        assert_eq!(added, decoded, "{name}");
        let sentence = tokenizer.sentence("the company\n", 1).unwrap().tokens;
        assert_eq!(sentence, [&tokens[..1], &line("the company"), &[end]].concat());
    }
}

#[test]
fn special_tokens_come_from_the_file() {
    let summaries = ["unigram.model", "bpe.model", "metaspace.json", "byte-level.json"];
    let summaries =
        summaries.into_iter().filter(|name| is_read(name)).map(|name| tokenizer(name, 0).summary());
    let expected = [
        "subwords (SentencePiece unigram, 500 tokens), beginning <s> (1), end </s> (2), unknown <unk> (0), padding <pad> (3)",
        "subwords (SentencePiece BPE, 800 tokens), beginning <s> (1), end </s> (2), unknown <unk> (0)",
        "subwords (Hugging Face BPE, 500 tokens), beginning <s> (1), end </s> (2), unknown <unk> (0)",
        "subwords (Hugging Face BPE, 600 tokens), beginning <|endoftext|> (0), end <|endoftext|> (0)",
    ];
    let count = if cfg!(feature = "tokenizers") { 4 } else { 2 };
    assert_eq!(summaries.collect::<Vec<_>>(), expected[..count]);
    // Another token, or none, may stand for what is unknown.
    let own = tokenizer("unigram.model", 0);
    let with = |id| {
        let special = own.special().with(Role::Unknown, id);
        Tokenizer::with_special(own.units().clone(), own.vocabulary().clone(), special)
    };
    assert_eq!(with(Some(3)).encode("\u{6f22}").unwrap().tokens.last(), Some(&3));
    assert!(matches!(with(None).encode("\u{6f22}"), Err(TextError::Unknown { line: 1, .. })));
    let spaces = own.with_newline(Newline::Space);
    let line = spaces.encode("the").unwrap().tokens;
    assert_eq!(spaces.encode("the\nthe\n").unwrap().tokens, [&line[..], &line].concat());
}

#[test]
fn rows_without_a_token_have_names() {
    let subwords = Subwords::read(folder().join("unigram.model")).unwrap();
    let padded = subwords.vocabulary(512).unwrap();
    assert_eq!(
        (padded.len(), padded.word(500), padded.word(511)),
        (512, Some("<unused-500>"), Some("<unused-511>"))
    );
    assert_eq!(subwords.vocabulary(10).unwrap().len(), 500);
    subwords.check(&padded).unwrap();
    let other =
        Vocabulary::from_words(padded.words().map(|word| if word == "</s>" { "<eos>" } else { word }))
            .unwrap();
    let short = Vocabulary::from_words(padded.words().take(7)).unwrap();
    let errors = [&other, &short].map(|vocabulary| subwords.check(vocabulary).unwrap_err().to_string());
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn lines_have_a_limit() {
    let tokenizer = tokenizer("unigram.model", 0);
    let long = [b'a'; (1 << 20) + 1];
    assert!(matches!(stream(&tokenizer, &long), Err(TextError::TooLong { line: 1, what: "a line", .. })));
    let sentence = TextReader::new(&tokenizer, &long[..]).sentence();
    assert!(matches!(sentence, Err(TextError::TooLong { line: 1, what: "a sentence", .. })));
    let fits = stream(&tokenizer, &long[..long.len() - 2]).unwrap();
    assert_eq!(
        fits.tokens,
        tokenizer.encode(str::from_utf8(&long[..long.len() - 2]).unwrap()).unwrap().tokens
    );
}

/// A model of these pieces (text, score, kind), and this trainer's record.
fn model(pieces: &[(&[u8], f32, u8)], trainer: &[u8]) -> Vec<u8> {
    let mut file = vec![];
    for (text, score, kind) in pieces {
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend(*text);
        piece.push(0x15);
        piece.extend(score.to_le_bytes());
        piece.extend([0x18, *kind]);
        file.extend([0x0a, piece.len() as u8]);
        file.extend(piece);
    }
    file.extend([0x12, trainer.len() as u8]);
    file.extend(trainer);
    file
}

#[test]
fn errors() {
    const UNKNOWN: (&[u8], f32, u8) = (b"<unk>", 0.0, 2);
    let mut map = model(&[UNKNOWN], &[]);
    map.extend([0x1a, 4, 0x12, 2, 1, 2]);
    let files = [
        vec![],
        b"the\ncat\n".to_vec(),
        vec![b'x'; MAX_TOKENIZER_BYTES + 1],
        file("unigram.model")[..5000].to_vec(),
        model(&[UNKNOWN], &[0x18, 9]),
        model(&[(b"a", 0.0, 1)], &[]),
        model(&[UNKNOWN, (b"<UNK>", 0.0, 2)], &[]),
        model(&[UNKNOWN, (b"a", 0.0, 1), (b"a", 0.0, 4)], &[]),
        model(&[UNKNOWN, (b"<s>", 0.0, 3), (b"<s>", 0.0, 4)], &[]),
        model(&[UNKNOWN, (b"", 0.0, 1)], &[]),
        model(&[UNKNOWN, (b"a\0", 0.0, 1)], &[]),
        model(&[UNKNOWN, (b"a", f32::NAN, 1)], &[]),
        model(&[UNKNOWN, (b"a\xff", 0.0, 1)], &[]),
        model(&[UNKNOWN, (b"<0x41>", 0.0, 6)], &[]),
        model(&[UNKNOWN, (b"<0x+1>", 0.0, 6)], &[0x98, 2, 1]),
        model(&[UNKNOWN, (b"<0x41>", 0.0, 6)], &[0x98, 2, 1]),
        map,
    ];
    let message = |file: Vec<u8>| Subwords::from_bytes(file).unwrap_err().to_string();
    insta::assert_snapshot!(files.map(message).join("\n"));
    let missing = Subwords::read(folder().join("none.model")).unwrap_err();
    assert!(matches!(missing, SubwordsError::Read { .. }));
}

#[test]
#[cfg(feature = "tokenizers")]
fn errors_of_json() {
    let vocabulary = |vocabulary: &str| {
        format!(
            r#"{{"added_tokens": [], "model": {{"type": "WordLevel", "unk_token": "a", "vocab": {vocabulary}}}}}"#
        )
    };
    // A map of characters with an empty trie.
    let map = r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAA="}, "added_tokens": [],
        "model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0}}}"#;
    let files = [
        r#"{"a": 0, "b": 1}"#.to_string(),
        r#"{"model"#.into(),
        vocabulary("{}"),
        vocabulary(r#"{"a": 0, "b": 4000000000}"#),
        "[".repeat(100_000).replacen('[', "{\"model\": [", 1),
    ];
    let message = |file: String| Subwords::from_bytes(file.into_bytes()).unwrap_err().to_string();
    insta::assert_snapshot!(files.map(message).join("\n"));
    let damaged = Subwords::from_bytes(map.as_bytes()).unwrap();
    assert!(damaged.encode("a b").is_err());
    let empty = Subwords::from_bytes(vocabulary(r#"{"a": 0, "": 1, "<unused-1>": 3}"#).into_bytes()).unwrap();
    let names = empty.vocabulary(5).unwrap();
    assert_eq!(
        names.words().collect::<Vec<_>>(),
        ["a", "<unused-1>'", "<unused-2>", "<unused-1>", "<unused-4>"]
    );
    let drops = r#"{"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    assert!(Subwords::from_bytes(drops.as_bytes()).unwrap().drops_unknown());
    assert!(!Subwords::from_bytes(file("byte-level.json")).unwrap().drops_unknown());
}

#[test]
#[cfg(not(feature = "tokenizers"))]
fn a_build_without_hugging_face_says_so() {
    assert!(matches!(Subwords::from_bytes(file("metaspace.json")), Err(SubwordsError::Feature)));
}

/// A file with some of its bytes changed, and maybe cut off.
fn damaged(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let file = file(name);
    let changes = prop::collection::vec((0..file.len(), any::<u8>()), 0..6);
    (changes, prop::option::weighted(0.2, 0..file.len())).prop_map(move |(changes, end)| {
        let mut file = file.clone();
        changes.into_iter().for_each(|(at, byte)| file[at] = byte);
        file.truncate(end.unwrap_or(file.len()));
        file
    })
}

proptest! {
    #[test]
    fn damaged_files_do_no_harm(
        file in prop_oneof![damaged("unigram.model"), damaged("bpe.model")],
        text in ".{0,40}",
    ) {
        if let Ok(subwords) = Subwords::from_bytes(file) {
            let tokens = subwords.encode(&text).unwrap();
            prop_assert!(tokens.iter().flatten().all(|&id| (id as usize) < subwords.len()));
            subwords.decode(&tokens.into_iter().flatten().collect::<Vec<_>>());
        }
    }

    #[test]
    fn any_bytes_are_refused_or_safe(file in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Subwords::from_bytes(file);
    }
}

#[cfg(feature = "tokenizers")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn damaged_json_does_no_harm(
        file in prop_oneof![damaged("byte-level.json"), damaged("metaspace.json")],
        text in ".{0,40}",
    ) {
        if let Ok(subwords) = Subwords::from_bytes(file) {
            let tokens = subwords.encode(&text).unwrap_or_default();
            prop_assert!(tokens.iter().flatten().all(|&id| (id as usize) < subwords.len()));
            subwords.decode(&tokens.into_iter().flatten().collect::<Vec<_>>());
        }
    }
}
