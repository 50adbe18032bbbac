use super::*;
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<Vocabulary, VocabularyError> {
    Vocabulary::from_bytes(bytes)
}

#[test]
fn a_line_is_a_word_and_its_number_the_id() {
    for text in ["<unk>\n<eos>\nthe", "<unk>\n<eos>\nthe\n", "\u{feff}<unk>\r\n<eos>\r\nthe\r\n\r\n"] {
        let vocabulary = read(text.as_bytes()).unwrap();
        assert_eq!(vocabulary.words().collect::<Vec<_>>(), ["<unk>", "<eos>", "the"]);
        assert_eq!(vocabulary.len(), 3);
        assert_eq!(vocabulary.id("the"), Some(2));
        assert_eq!(vocabulary.word(2), Some("the"));
        assert_eq!((vocabulary.id("cat"), vocabulary.word(3)), (None, None));
        assert_eq!(vocabulary.unknown(), Some(0));
    }
}

#[test]
fn text_becomes_tokens() {
    let vocabulary = Vocabulary::from_words(["<unk>", "<eos>", "the", "Größe"]).unwrap();
    let encode = |text| {
        let encoded = vocabulary.encode(text).unwrap();
        (encoded.tokens, encoded.unknown)
    };
    assert_eq!(encode(""), (vec![], 0));
    assert_eq!(encode("  the\tGröße"), (vec![2, 3], 0));
    assert_eq!(encode("the the\r\n\nthe \n"), (vec![2, 2, 1, 1, 2, 1], 0));
    assert_eq!(encode("The <unk> the"), (vec![0, 0, 2], 1));
    assert_eq!(encode("the\u{a0}the\u{2028}the"), (vec![2, 2, 2], 0));
}

#[test]
fn the_end_of_a_line_may_be_unknown() {
    let vocabulary = Vocabulary::from_words(["the", "<unk>"]).unwrap();
    let encoded = vocabulary.encode("the\nthe\n").unwrap();
    assert_eq!(encoded, Encoded { tokens: vec![0, 1, 0, 1], unknown: 2 });
}

#[test]
fn errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vocabulary.txt");
    let mut messages = Vec::new();
    for bytes in [
        &b""[..],
        b"\n\n",
        b"the\n\ncat\n",
        b"the 52\n",
        b"a\nthe\tcat\n",
        b"the\ncat\nthe\n",
        b"the\n\xff\n",
    ] {
        fs::write(&file, bytes).unwrap();
        messages.push(Vocabulary::read(&file).unwrap_err().to_string());
    }
    fs::File::create(&file).unwrap().set_len(MAX_VOCABULARY_BYTES + 1).unwrap();
    messages.push(Vocabulary::read(&file).unwrap_err().to_string());
    messages.push(Vocabulary::read(folder.path()).unwrap_err().to_string());
    messages.push(Vocabulary::read(folder.path().join("none.txt")).unwrap_err().to_string());

    messages.push(Vocabulary::from_words(["a", "a"]).unwrap_err().to_string());
    let vocabulary = Vocabulary::from_words(["the", "cat"]).unwrap();
    messages.push(vocabulary.encode("the cat the\tcat sat on").unwrap_err().to_string());
    messages.push(vocabulary.encode("the\n").unwrap_err().to_string());
    messages.push(vocabulary.check_len(10_000).unwrap_err().to_string());

    let folder = folder.path().display().to_string();
    insta::assert_snapshot!(messages.join("\n").replace(&folder, "FOLDER"));
    assert!(vocabulary.check_len(2).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_a_vocabulary_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(vocabulary) = read(&bytes) {
            for (id, word) in vocabulary.words().enumerate() {
                prop_assert_eq!(vocabulary.id(word), Some(id as u32));
            }
        }
    }

    #[test]
    fn encoding_keeps_known_words(lines in prop::collection::vec("[a-d]{1,2}( [a-d]{1,2}){0,4}", 1..6)) {
        let text = lines.join("\n");
        let mut words: Vec<&str> = text.split_whitespace().chain([END_OF_LINE]).collect();
        words.sort_unstable();
        words.dedup();
        let vocabulary = Vocabulary::from_words(words).unwrap();
        let encoded = vocabulary.encode(&text).unwrap();
        prop_assert_eq!(encoded.unknown, 0);
        let decoded: Vec<&str> = encoded.tokens.iter().map(|&id| vocabulary.word(id).unwrap()).collect();
        prop_assert_eq!(decoded.join(" "), text.replace('\n', " <eos> "));
    }
}
