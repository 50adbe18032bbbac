use super::*;
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<Vocabulary, VocabularyError> {
    Vocabulary::from_bytes(bytes)
}

fn words(text: &str) -> Vec<String> {
    read(text.as_bytes()).unwrap().words().map(str::to_owned).collect()
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
    }
}

#[test]
fn all_forms_of_a_file() {
    let expected = ["<unk>", "a", "the"];
    for text in [
        "a 1\n<unk> 0\nthe 2\n",
        "\u{feff}<unk>\t0\r\na\t1\r\nthe\t2\r\n",
        "<unk>   0\na       1\nthe  2",
        "<unk>\t0\na\t-2.5\nthe\t-3.25e1\n",
        r#"{"a": 1, "the": 2, "<unk>": 0}"#,
        " [\"<unk>\",\n \"a\", \"the\"]\n",
    ] {
        assert_eq!(words(text), expected, "{text:?}");
    }
    // White space as a word, alone, beside its id, and as an escape; and what only looks like an escape.
    assert_eq!(words(" \na\n"), [" ", "a"]);
    assert_eq!(words("  1\na 0\n\t 2\n"), ["a", " ", "\t"]);
    assert_eq!(
        words("\\u{20}\n\\u{a}b\n\\u\n\\u{}\n\\u{5c}u{20}\n\\u{110000}\n"),
        [" ", "\nb", "\\u", "\\u{}", "\\u{20}", "\\u{110000}"]
    );
    // Numbers are words, and so are brackets.
    assert_eq!(words("1\n2\n0\n"), ["1", "2", "0"]);
    assert_eq!(words("{\n}\n[\n"), ["{", "}", "["]);
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
        b"the 0\ncat 0\n",
        b"a\nthe\tcat\n",
        b"the\ncat\nthe\n",
        b"the\n\xff\n",
        b"{\"the\": 1}",
        b"{\"the\": \"a\"}",
        b"[\"the\", 3]",
        b"{\"the\": 0",
    ] {
        fs::write(&file, bytes).unwrap();
        messages.push(Vocabulary::read(&file).unwrap_err().to_string());
    }
    fs::File::create(&file).unwrap().set_len(MAX_VOCABULARY_BYTES + 1).unwrap();
    messages.push(Vocabulary::read(&file).unwrap_err().to_string());
    messages.push(Vocabulary::read(folder.path()).unwrap_err().to_string());
    messages.push(Vocabulary::read(folder.path().join("none.txt")).unwrap_err().to_string());

    messages.push(Vocabulary::from_words(["a", "a"]).unwrap_err().to_string());
    messages.push(Vocabulary::of_bytes(255).unwrap_err().to_string());
    let vocabulary = Vocabulary::from_words(["the", "cat"]).unwrap();
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
    fn what_is_written_is_read_again(words in prop::collection::btree_set("[ \\t\\n\\r\\\\u{}\\[\"0-9a-c\u{feff}\u{85}\u{2028}]{1,4}", 1..8)) {
        let vocabulary = Vocabulary::from_words(&words).unwrap();
        let again = read(vocabulary.to_text().as_bytes());
        prop_assert!(again.as_ref().ok() == Some(&vocabulary), "{:?} {:?}", words, again);
    }
}
