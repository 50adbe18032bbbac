//! Kernels: a model of some shape and representation, at some processor level, against the f64 reference.

use super::cursor::Cursor;
use lstmc::backend::isa::OptLevel;
use lstmc::backend::{Jit, Level, Options};
use lstmc::frontend::ir::arbitrary::{Kind, language_model_of, random_map};
use lstmc::runtime::{Description, Model};
use std::sync::Arc;

#[allow(dead_code, reason = "shared with the back end's tests")]
#[path = "../../backend/tests/it/bound.rs"]
mod bound;
#[allow(dead_code, reason = "shared with the back end's tests")]
#[path = "../../backend/tests/it/models.rs"]
mod models;

/// Tokens that each stream reads.
const STEPS: usize = 3;

/// Shape, representation, level, streams and tokens out of the bytes: streams in step and a session word by word must agree with the reference, and
/// a text scored at once must have a finite likelihood.
pub fn kernels(bytes: &[u8]) {
    let mut bytes = Cursor::new(bytes);
    let mut below = |n: usize| bytes.short() % n;
    let (hidden, layers, vocabulary) = (1 + below(40), 1 + below(2), 1 + below(140));
    let forms = models::forms();
    let (kind, seed) = (below(Kind::ALL.len() + forms.len()), below(1 << 16) as u64);
    let graph = match Kind::ALL.get(kind) {
        Some(&kind) => {
            language_model_of(hidden, layers, vocabulary, |_, shape| random_map(kind, shape, seed))
        }
        None => models::model(forms[kind - Kind::ALL.len()], hidden, layers, vocabulary, seed),
    };
    let levels = Level::all();
    let level = levels[below(levels.len())];
    let step_threads = 1 + below(3);
    let options = Options { level, opt_level: OptLevel::None, threads: 1 + below(3), step_threads };
    let jit = Jit::new(&graph, options).unwrap_or_else(|e| panic!("a model that cannot be compiled: {e}"));
    let model = Model::new(Arc::new(jit), None, Description::default()).expect("a model with words");
    let count = below(10);
    let (mut streams, mut session) = (model.streams(count), model.session());
    let mut references: Vec<_> = (0..=count).map(|_| bound::Reference::new(&graph)).collect();
    let mut text = vec![];
    for _ in 0..STEPS {
        let tokens: Vec<u32> = (0..=count).map(|_| below(vocabulary) as u32).collect();
        let want: Vec<_> = references.iter_mut().zip(&tokens).map(|(r, &token)| r.step(token)).collect();
        // The last one is the session's.
        streams.step(&tokens[..count]).expect("tokens of the vocabulary");
        for (stream, want) in want[..count].iter().enumerate() {
            bound::assert_close(level, streams.logits(stream), want);
        }
        bound::assert_close(
            level,
            session.step(tokens[count]).expect("a token of the vocabulary"),
            &want[count],
        );
        text.extend(tokens);
    }
    let likelihood = model.session().score(&text).expect("tokens of the vocabulary");
    // Of a single word the logarithm is zero but for rounding.
    let most = 1e-5 * text.len() as f64;
    assert!(likelihood.is_finite() && likelihood <= most, "a log-likelihood of {likelihood}");
}
