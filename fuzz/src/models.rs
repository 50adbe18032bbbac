//! What must hold of any graph that the library gives out.

use lstmc::frontend::ir::store::{Stored, StoredWeights, compress, store};
use lstmc::frontend::ir::{Graph, parse, parse_with, print, verify, verify_language_model};

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
    let coded: Vec<Stored<'_>> = blobs.iter().cloned().map(compress).collect();
    for blobs in [&blobs, &coded] {
        let mut source = StoredWeights::new(|path: &str| blobs.iter().find(|b| b.path == path).cloned());
        let again = parse_with(&text, &mut source)
            .unwrap_or_else(|e| panic!("what was stored is not restored: {e}\n{text}"));
        assert_eq!(print(&again), text);
    }
}
