//! Texts: graphs, pipelines, recipes, vocabularies, and what cuts texts into subwords.

use super::models::{check, same_text, stored_and_restored};
use super::refused;
use lstmc::frontend::canonicalize::canonicalize;
use lstmc::frontend::ir::{PrintOptions, parse, print, print_with, verify};
use lstmc::passes::Pipeline;
use lstmc::runtime::{Encoded, Subwords, TextReader, Tokenizer, Units, Vocabulary};
use std::sync::Arc;

/// Small enough for the text to stay short where data is printed inline.
const INLINE: PrintOptions = PrintOptions { inline_up_to: 64 };

/// The IR's text: what parses is printed, and the print parses to the same print; what verifies is brought into language-model form and stored.
pub fn ir(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let graph = match parse(text) {
        Ok(graph) => graph,
        Err(error) => return refused(error),
    };
    same_text(&graph);
    let inline = print_with(&graph, &INLINE);
    let again =
        parse(&inline).unwrap_or_else(|e| panic!("what was printed inline does not parse: {e}\n{inline}"));
    assert_eq!(print(&graph), print(&again), "data printed inline reads as other data:\n{inline}");
    if let Err(errors) = verify(&graph) {
        return refused(errors);
    }
    stored_and_restored(&graph);
    match canonicalize(&graph) {
        Ok(Some(canonical)) => check(&canonical.graph),
        Ok(None) => {}
        Err(error) => refused(error),
    }
}

/// The pipelines' text.
pub fn pipeline(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Pipeline::parse(text) {
        Ok(pipeline) => both_forms(&pipeline),
        Err(error) => refused(error),
    }
}

/// Recipes.
pub fn recipe(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Pipeline::from_recipe(text) {
        Ok(pipeline) => both_forms(&pipeline),
        Err(error) => refused(error),
    }
}

/// A pipeline reads as it prints, in both forms, and its passes can be made or say why not.
fn both_forms(pipeline: &Pipeline) {
    let text = pipeline.to_string();
    let again = Pipeline::parse(&text).unwrap_or_else(|e| panic!("what was printed does not parse: {e}"));
    assert_eq!(again.to_string(), text);
    same_passes(pipeline, &again);
    let recipe = pipeline.to_recipe();
    let again = Pipeline::from_recipe(&recipe)
        .unwrap_or_else(|e| panic!("what was printed is no recipe: {e}\n{recipe}"));
    assert_eq!(again.to_recipe(), Pipeline::from_recipe(&again.to_recipe()).unwrap().to_recipe());
    assert_eq!(again.description, pipeline.description);
    same_passes(pipeline, &again);
    for invocation in &pipeline.passes {
        let _ = invocation.needs_calibration();
        if let Err(error) = invocation.pass() {
            refused(error);
        }
    }
}

fn same_passes(one: &Pipeline, other: &Pipeline) {
    let passes = |p: &Pipeline| p.passes.iter().map(|i| (i.info().name, i.options())).collect::<Vec<_>>();
    assert_eq!(passes(one), passes(other));
}

/// A vocabulary's file up to the first NUL, and a text in its words after it.
pub fn vocabulary(bytes: &[u8]) {
    let (file, text) =
        bytes.iter().position(|&b| b == 0).map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 1..]));
    let vocabulary = match Vocabulary::from_bytes(file) {
        Ok(vocabulary) => vocabulary,
        Err(error) => return refused(error),
    };
    let words: Vec<&str> = vocabulary.words().collect();
    assert!(vocabulary.len() == words.len() && !words.is_empty());
    for (id, word) in (0..).zip(&words) {
        assert_eq!((vocabulary.id(word), vocabulary.word(id)), (Some(id), Some(*word)));
    }
    assert_eq!(vocabulary.word(words.len() as u32), None);
    let again =
        Vocabulary::from_bytes(vocabulary.to_text().as_bytes()).expect("words are read as they are written");
    assert!(again == vocabulary, "other words are read than were written");
    for units in [Units::Words, Units::Characters, Units::Ids] {
        encode(&Tokenizer::new(units, vocabulary.clone()), text);
    }
    if let Ok(bytes) = Vocabulary::of_bytes(256) {
        encode(&Tokenizer::new(Units::Bytes, bytes), text);
    }
}

/// A byte with the length of a text, that text, and the file of a tokenizer for subwords.
pub fn tokenizer(bytes: &[u8]) {
    let Some((&length, rest)) = bytes.split_first() else { return };
    let (text, file) = rest.split_at(rest.len().min(length.into()));
    let subwords = match Subwords::from_bytes(file) {
        Ok(subwords) => subwords,
        Err(error) => return refused(error),
    };
    assert_eq!(subwords.file(), file);
    let vocabulary = subwords.vocabulary(0).expect("names were checked when it was read");
    subwords.check(&vocabulary).expect("the names are its own");
    encode(&Tokenizer::new(Units::Subwords(Arc::new(subwords)), vocabulary), text);
}

/// A text, read as one stream and line by line.
fn encode(tokenizer: &Tokenizer, text: &[u8]) {
    let (mut reader, mut encoded) = (TextReader::new(tokenizer, text), Encoded::default());
    let read = loop {
        match reader.stream(&mut encoded) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let whole = str::from_utf8(text).map(|text| tokenizer.encode(text));
    match (read, whole) {
        (Ok(()), Ok(whole)) => assert_eq!(whole.expect("it was read in pieces"), encoded),
        (Ok(()), Err(_)) => assert_eq!(*tokenizer.units(), Units::Bytes),
        (Err(error), _) => refused(error),
    }
    assert!(encoded.unknown <= encoded.tokens.len());
    assert!(encoded.tokens.iter().all(|&token| tokenizer.vocabulary().word(token).is_some()));
    let _ = tokenizer.decode(&encoded.tokens);
    let mut reader = TextReader::new(tokenizer, text);
    while let Ok(Some(_)) = reader.sentence() {}
}
