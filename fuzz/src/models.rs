//! What must hold of any graph that the library gives out.

use super::refused;
use lstmc::backend::{Jit, Options};
use lstmc::frontend::ir::store::{StoredWeights, store, store_compressed};
use lstmc::frontend::ir::{Graph, Program, parse, parse_with, print, verify, verify_language_model};
use lstmc::runtime::{Description, Model};
use std::sync::Arc;

/// Checks a graph that is said to be in language-model form.
pub(super) fn check(graph: &Graph) {
    verify_language_model(graph).unwrap_or_else(|e| panic!("an invalid graph: {e}"));
    same_text(graph);
}

/// Checks a graph of any operators.
pub(super) fn check_generic(graph: &Graph) {
    verify(graph).unwrap_or_else(|e| panic!("an invalid graph: {e}"));
    same_text(graph);
}

/// A graph prints as it parses.
pub(super) fn same_text(graph: &Graph) {
    let text = print(graph);
    let again = parse(&text).unwrap_or_else(|e| panic!("what was printed does not parse: {e}\n{text}"));
    assert_eq!(print(&again), text);
}

/// A graph's weights are stored and restored to the same, plain and entropy-coded.
pub(super) fn stored_and_restored(graph: &Graph) {
    let text = print(graph);
    // Weights that are given by hash alone cannot be stored.
    let Ok(blobs) = store(graph) else { return };
    let coded = store_compressed(graph).expect("what is stored is compressed");
    for blobs in [&blobs, &coded] {
        let mut source = StoredWeights::new(|path: &str| blobs.iter().find(|b| b.path == path).cloned());
        let again = parse_with(&text, &mut source)
            .unwrap_or_else(|e| panic!("what was stored is not restored: {e}\n{text}"));
        assert_eq!(print(&again), text);
    }
}

/// Numbers in the matrices of a model that is compiled, and products for one token: compiling more would take long.
const MOST_ELEMENTS: usize = 20_000;

/// A small model is compiled and reads some tokens. Its weights may be of any size, so that its logits need not be finite.
pub(super) fn compiled(graph: &Graph) {
    let Ok(model) = Program::of(graph) else { return };
    let elements =
        |n: usize, shape: &[usize]| n.saturating_add(shape.iter().fold(1, |n, &d| n.saturating_mul(d)));
    let total = graph.weights().fold(0, |n, (_, w)| elements(n, &w.map.shape()));
    if total > MOST_ELEMENTS || model.multiply_adds() > MOST_ELEMENTS {
        return;
    }
    let jit = match Jit::new(graph, Options { threads: 1, ..Options::default() }) {
        Ok(jit) => jit,
        Err(error) => return refused(error),
    };
    let model = match Model::new(Arc::new(jit), None, Description::default()) {
        Ok(model) => model,
        Err(error) => return refused(error),
    };
    let words = model.layout().vocabulary as u32;
    let mut session = model.session();
    assert_eq!(session.step(0).expect("a token").len(), words as usize);
    assert!(session.step(words).is_err());
    let (mut ids, mut scores) = ([0; 3], [0.0; 3]);
    if let Err(error) = session.top_k_into(words - 1, &mut ids, &mut scores) {
        refused(error);
    }
    session.reset();
    if let Err(error) = session.score(&[0, words - 1, 0, words / 2, 0, 0, words - 1]) {
        refused(error);
    }
}
