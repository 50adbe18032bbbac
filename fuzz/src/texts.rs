//! Texts: graphs, pipelines, recipes, vocabularies.

use super::models::{check, same_text, stored_and_restored};
use super::refused;
use lstmc::frontend::canonicalize::canonicalize;
use lstmc::frontend::ir::{PrintOptions, parse, print, print_with, verify};
use lstmc::passes::Pipeline;
use lstmc::runtime::Vocabulary;

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
    // A byte order mark, so that none is taken from the first word.
    let written = format!("\u{feff}{}", words.join("\n"));
    let again = Vocabulary::from_bytes(written.as_bytes()).expect("words are read as they are written");
    assert!(again == vocabulary, "other words are read than were written");
    let text = String::from_utf8_lossy(text);
    let encoded = match vocabulary.encode(&text) {
        Ok(encoded) => encoded,
        Err(error) => return refused(error),
    };
    let lines = text.matches('\n').count();
    assert_eq!(encoded.tokens.len(), text.split_whitespace().count() + lines);
    assert!(encoded.unknown <= encoded.tokens.len());
    let spelled: Vec<&str> =
        encoded.tokens.iter().map(|&t| vocabulary.word(t).expect("a token is a word")).collect();
    let again = vocabulary.encode(&spelled.join(" ")).expect("a text of the vocabulary's words");
    assert_eq!((again.tokens, again.unknown), (encoded.tokens, 0), "tokens read back are others");
}
