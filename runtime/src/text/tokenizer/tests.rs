use super::super::TextReader;
use super::*;
use proptest::prelude::*;

fn tokenizer(units: Units, words: &[&str]) -> Tokenizer {
    Tokenizer::new(units, Vocabulary::from_words(words).unwrap())
}

#[test]
fn words() {
    let words = tokenizer(Units::Words, &["<unk>", "<eos>", "the", "Größe"]);
    let encode = |text| {
        let encoded = words.encode(text).unwrap();
        (encoded.tokens, encoded.unknown)
    };
    assert_eq!(encode(""), (vec![], 0));
    assert_eq!(encode("  the\tGröße"), (vec![2, 3], 0));
    assert_eq!(encode("the the\r\n\nthe \n"), (vec![2, 2, 1, 1, 2, 1], 0));
    assert_eq!(encode("The <unk> the"), (vec![0, 0, 2], 1));
    assert_eq!(encode("the\u{a0}the\u{2028}the"), (vec![2, 2, 2], 0));
    assert_eq!(encode("\u{feff}the \u{feff}the"), (vec![2, 0], 1));
    assert_eq!(encode("\0 the"), (vec![0, 2], 1));
    let counts = words.encode("the Größe\nthe\n").unwrap();
    assert_eq!((counts.words, counts.characters, counts.bytes), (5, 14, 16));
    assert_eq!(words.decode(&[2, 3, 1, 2, 9]), "the Größe\nthe \u{fffd}");
    assert_eq!([0, 2, 1].map(|token| words.decode_after(&[1, 2], token)), [" <unk>", " the", "\n"]);
    assert_eq!(words.decode_after(&[2, 1], 3), "Größe");
    assert_eq!(words.sentence("the\r\n", 1).unwrap().tokens, [1, 2, 1]);
}

#[test]
fn characters_bytes_and_ids() {
    let characters = tokenizer(Units::Characters, &["<blk>", "<space>", "a", "é", "<sos/eos>"]);
    assert_eq!(characters.encode("a é\r\n").unwrap().tokens, [2, 1, 3, 4]);
    assert_eq!(characters.decode(&[2, 1, 3, 4, 2]), "a é\na");
    assert_eq!(characters.sentence("aé", 1).unwrap().tokens, [4, 2, 3, 4]);
    let newline = tokenizer(Units::Characters, &["a", "\n", "</s>"]);
    assert_eq!(newline.encode("a\na").unwrap().tokens, [0, 1, 0]);
    assert_eq!(newline.sentence("a", 1).unwrap().tokens, [2, 0, 2]);
    let bytes = Tokenizer::new(Units::Bytes, Vocabulary::of_bytes(257).unwrap());
    assert_eq!(bytes.encode("é\r\n").unwrap().tokens, [0xC3, 0xA9, 13, 10]);
    assert_eq!(bytes.decode(&[0xC3, 0xA9, 10, 0xC3]), "é\n\u{fffd}");
    assert_eq!(bytes.decode_after(&[97], 0xC3), "\u{fffd}");
    assert_eq!(bytes.decode_after(&[97, 0xC3], 0xA9), "é");
    let ids = Tokenizer::new(Units::Ids, Vocabulary::of_ids(12).unwrap());
    assert_eq!(ids.encode("11 0\n7\n").unwrap().tokens, [11, 0, 7]);
    assert_eq!(ids.decode(&[11, 0]), "11 0");
}

#[test]
fn special_tokens_are_guessed_and_given() {
    let kaldi = tokenizer(Units::Words, &["<eps>", "<s>", "</s>", "<UNK>", "the"]);
    assert_eq!(kaldi.summary(), "words, beginning <s> (1), end </s> (2), unknown <UNK> (3)");
    assert_eq!(kaldi.sentence("the cat", 1).unwrap().tokens, [1, 4, 3, 2]);
    let none = tokenizer(Units::Words, &["the", "cat"]);
    assert_eq!(none.summary(), "words, no token for a line's end");
    let given = Tokenizer::with_special(
        Units::Words,
        none.vocabulary().clone(),
        none.special().with(Role::End, Some(1)).with(Role::Unknown, Some(0)),
    );
    assert_eq!(given.encode("a\n").unwrap().tokens, [0, 1]);
    assert_eq!(none.clone().with_newline(Newline::Space).encode("the\ncat\n").unwrap().tokens, [0, 1]);
    assert_eq!((none.begin().is_err(), given.begin().unwrap()), (true, 1));
}

#[test]
fn errors() {
    let words = tokenizer(Units::Words, &["the", "cat"]);
    let ids = Tokenizer::new(Units::Ids, Vocabulary::of_ids(12).unwrap());
    let characters = tokenizer(Units::Characters, &["a", "\n"]);
    let all = [
        words.encode("the cat the\tcat sat on").unwrap_err(),
        words.encode("the\n").unwrap_err(),
        words.sentence("the", 1).unwrap_err(),
        ids.encode("3\n12").unwrap_err(),
        ids.encode("-1").unwrap_err(),
        ids.sentence("1", 1).unwrap_err(),
        characters.encode("a\n\nab").unwrap_err(),
        read(&words.clone().with_newline(Newline::Space), b"the\n\xff").unwrap_err(),
        read(&words, &[b'a'; (1 << 20) + 1]).unwrap_err(),
    ];
    insta::assert_snapshot!(all.map(|e| e.to_string()).join("\n"));
}

fn read(tokenizer: &Tokenizer, text: &[u8]) -> Result<Encoded, TextError> {
    let (mut reader, mut encoded) = (TextReader::new(tokenizer, text), Encoded::default());
    while reader.stream(&mut encoded)? {}
    Ok(encoded)
}

#[test]
fn long_lines_are_read_in_pieces() {
    let text = format!("\u{feff}{}\n", "é a\u{301} ".repeat(400_000));
    let words = tokenizer(Units::Words, &["é", "a\u{301}", "<eos>"]);
    let characters = tokenizer(Units::Characters, &["é", "a", "\u{301}", " ", "\n"]);
    let bytes = Tokenizer::new(Units::Bytes, Vocabulary::of_bytes(256).unwrap());
    for tokenizer in [words, characters, bytes] {
        assert!(
            read(&tokenizer, text.as_bytes()).unwrap() == tokenizer.encode(&text).unwrap(),
            "{tokenizer:?}"
        );
    }
}

proptest! {
    #[test]
    fn encoding_keeps_known_words(lines in prop::collection::vec("[a-d]{1,2}( [a-d]{1,2}){0,4}", 1..6)) {
        let text = lines.join("\n");
        let mut words: Vec<&str> = text.split_whitespace().chain(["<eos>"]).collect();
        words.sort_unstable();
        words.dedup();
        let words = tokenizer(Units::Words, &words);
        let encoded = words.encode(&text).unwrap();
        prop_assert_eq!(encoded.unknown, 0);
        prop_assert_eq!(words.decode(&encoded.tokens), text.clone());
        prop_assert_eq!(read(&words, text.as_bytes()).unwrap(), encoded);
    }
}
