//! Generated code and the interpreter on a real model, against each other and against what ONNX Runtime recorded.
//!
//! # How far f32 results may be apart
//!
//! Two programs that add the same products in another order differ by their rounding errors. Rounding errors behave like independent
//! random variables of mean zero (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"): `n` dependent
//! roundings of numbers of magnitude `m` give an error of at most `LAMBDA * sqrt(n) * u * m`, each element missing that with a probability
//! of `2 exp(-LAMBDA^2 / 2)`. The longest chain of dependent roundings from the first token to a logit has one sum over `[x; h]` for each
//! step and layer and the output layer's sum at the end ([`chain`]). That an error does not grow on its way is what trained gates see to:
//! `c` is multiplied by a forget gate below 1, and sigmoid and tanh flatten what goes through them (slopes of at most 1/4 and 1).
//! Both sides of a comparison may err, except the interpreter in f64, whose errors are nothing here.

use crate::program::root;
use lstmc::backend::{Jit, Level, Options};
use lstmc::frontend::interpret::LanguageModel;
use lstmc::frontend::ir::Graph;
use lstmc::runtime::{Description, Model, Session};
use lstmc::{Engine, Scorer, Source};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

/// Unit roundoff of f32.
const U: f64 = f32::EPSILON as f64 / 2.0;

/// The confidence of the bounds: four elements in 10^8 may miss them, of the 10^5 that are looked at.
const LAMBDA: f64 = 6.0;

/// Layers, and units of each, of the bundled model; its features are as many.
const LAYERS: usize = 2;
const UNITS: usize = 200;

/// Dependent roundings between the first of `steps` tokens and a logit.
fn chain(steps: usize) -> usize {
    steps * LAYERS * 2 * UNITS + UNITS
}

/// The largest error of a logit (or of an element of the state) in f32 after `steps` steps, if none is larger than `magnitude`.
pub(crate) fn max_error(steps: usize, magnitude: f64) -> f64 {
    LAMBDA * (chain(steps) as f64).sqrt() * U * magnitude
}

/// The largest error of a text's mean log-likelihood: a mean of `predictions` differences of a logit and the logarithm of a sum, whose
/// errors are independent in turn. A state remembers some tens of tokens; `MEMORY` is the number of steps it was trained over.
fn max_mean_error(predictions: usize, magnitude: f64) -> f64 {
    const MEMORY: usize = 35;
    2.0 * max_error(MEMORY, magnitude) / (predictions as f64).sqrt()
}

fn folder() -> PathBuf {
    root().join("testdata/ptb-small")
}

fn graph() -> Graph {
    Source::read(folder().join("model.onnx")).unwrap().canonical().unwrap().graph
}

fn recorded() -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join("recorded.json")).unwrap()).unwrap()
}

fn recorded_f32(name: &str) -> Vec<f32> {
    let file = recorded()["files"][name]["file"].as_str().unwrap().to_string();
    let bytes = std::fs::read(folder().join(file)).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn recorded_tokens() -> Vec<u32> {
    recorded()["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
}

/// The largest difference of two lists, and the largest magnitude in the second.
fn distance(found: &[f64], wanted: &[f64]) -> (f64, f64) {
    assert_eq!(found.len(), wanted.len());
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let difference = largest(&mut found.iter().zip(wanted).map(|(a, b)| (a - b).abs()));
    (difference, largest(&mut wanted.iter().map(|x| x.abs())))
}

fn assert_close(what: &str, steps: usize, sides: usize, found: &[f64], wanted: &[f64]) {
    let (difference, magnitude) = distance(found, wanted);
    let bound = sides as f64 * max_error(steps, magnitude);
    println!("{what}: largest difference {difference:.1e}, bound {bound:.1e}");
    assert!(difference <= bound, "{what}: {difference:e} is more than {bound:e}");
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// Logits of generated code step by step, and the state after them as `(h, c)` of `[layers, units]`.
fn run_jit(graph: &Graph, level: Level, tokens: &[u32]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let jit = Jit::new(graph, Options { level, ..Options::default() }).unwrap();
    let model = Model::new(Arc::new(jit), None, Description::default()).unwrap();
    let mut session = model.session();
    let mut logits = vec![];
    for &token in tokens {
        logits.extend(wide(session.step(token).unwrap()));
    }
    let of = |letter: char| -> Vec<f64> {
        session.state().filter(|(name, _)| name.starts_with(letter)).flat_map(|(_, v)| wide(v)).collect()
    };
    (logits, of('h'), of('c'))
}

/// Logits and states against ONNX Runtime; generated code against the interpreter in f32 and f64.
#[test]
fn logits() {
    let (graph, tokens) = (graph(), recorded_tokens());
    let steps = tokens.len();
    let single = LanguageModel::<f32>::new(&graph).unwrap();
    let single = wide(&single.outputs(&mut single.state(), &tokens).unwrap());
    let double = LanguageModel::<f64>::new(&graph).unwrap();
    let double = double.outputs(&mut double.state(), &tokens).unwrap();
    let onnx = wide(&recorded_f32("logits"));

    assert_close("ONNX Runtime, interpreter in f64", steps, 1, &onnx, &double);
    assert_close("interpreter in f32, in f64", steps, 1, &single, &double);
    assert_close("interpreter in f32, ONNX Runtime", steps, 2, &single, &onnx);
    for level in Level::all() {
        let (jit, h, c) = run_jit(&graph, level, &tokens);
        let what = |other: &str| format!("generated code at {level}, {other}");
        assert_close(&what("interpreter in f64"), steps, 1, &jit, &double);
        assert_close(&what("interpreter in f32"), steps, 2, &jit, &single);
        assert_close(&what("ONNX Runtime"), steps, 2, &jit, &onnx);
        assert_close(&what("ONNX Runtime's hidden state"), steps, 2, &h, &wide(&recorded_f32("hn")));
        assert_close(&what("ONNX Runtime's cell state"), steps, 2, &c, &wide(&recorded_f32("cn")));
    }
}

/// Tokens that every level scores.
const SOME_TOKENS: usize = 300;

/// Perplexity of two excerpts, of a few thousand words each, by both engines, and of their beginnings at every level.
#[test]
fn perplexity() {
    let source = Source::read(folder().join("model.onnx")).unwrap();
    let source = source.with_vocabulary(Some(&folder().join("vocab.txt"))).unwrap().canonical().unwrap();
    let logits = wide(&recorded_f32("logits"));
    let magnitude = distance(&logits, &logits).1;
    for (name, recorded) in recorded()["texts"].as_object().unwrap() {
        let text = std::fs::read_to_string(folder().join(name)).unwrap();
        let text = source.tokenizer.as_ref().unwrap().encode(&text).unwrap();
        let predictions = text.tokens.len() - 1;
        assert_eq!(recorded["predictions"].as_u64(), Some(predictions as u64), "{name}");
        let wanted = recorded["log_likelihood"].as_f64().unwrap() / predictions as f64;
        let perplexity = |engine: Engine, level: Level, tokens: &[u32]| {
            let options = Options { level, ..Options::default() };
            Scorer::new(engine, options, tokens, |_| ()).perplexity(&source.graph).unwrap()
        };
        let check = |engine: Engine, level: Level, tokens: &[u32], wanted: f64| {
            let found = perplexity(engine, level, tokens);
            let bound = 2.0 * max_mean_error(tokens.len() - 1, magnitude);
            let error = (-found.ln() - wanted).abs();
            let what = format!("{name}, {} tokens, {engine:?} at {level}: perplexity {found}", tokens.len());
            println!("{what}, mean log-likelihood is {error:.1e} off, bound {bound:.1e}");
            assert!(error <= bound, "{what}; {error:e} is more than {bound:e}");
        };
        for engine in [Engine::Jit, Engine::Interpreter] {
            check(engine, Level::best(), &text.tokens, wanted);
        }
        // The lower levels on what they do in seconds without optimisation.
        let few = &text.tokens[..SOME_TOKENS];
        let wanted = -perplexity(Engine::Interpreter, Level::best(), few).ln();
        for level in Level::all() {
            check(Engine::Jit, level, few, wanted);
        }
    }
}

/// What one session computes for a text: a checksum of everything.
fn transcript(mut session: Session, tokens: &[u32]) -> Vec<u32> {
    let mut bits = vec![];
    let (mut ids, mut scores) = ([0; 5], [0.0; 5]);
    for &token in tokens {
        bits.extend(session.step(token).unwrap().iter().map(|x| x.to_bits()));
        session.top_k_into(token, &mut ids, &mut scores).unwrap();
        bits.extend(ids);
        bits.extend(scores.map(f32::to_bits));
    }
    bits.push(session.score(tokens).unwrap().to_bits() as u32);
    bits.extend(session.save_state().values().iter().map(|x| x.to_bits()));
    bits
}

/// Threads share a model, each with a session of its own, and get bit for bit what they would get alone.
#[test]
fn sessions_on_threads() {
    let source = Source::of_graph(graph());
    let texts: Vec<Vec<u32>> =
        (0..4).map(|n| (0..40).map(|k| (k * 7919 + n * 104_729) % 10_000).collect()).collect();
    for level in Level::all() {
        let model = source.compile(Options { level, threads: 1, ..Options::default() }).unwrap();
        let alone: Vec<_> = texts.iter().map(|text| transcript(model.session(), text)).collect();
        let together: Vec<_> = std::thread::scope(|scope| {
            let handles: Vec<_> =
                texts.iter().map(|text| scope.spawn(|| transcript(model.session(), text))).collect();
            handles.into_iter().map(|h| h.join().unwrap()).collect()
        });
        assert!(alone == together, "{level}");
    }
}

/// The model lives as long as its last session.
#[test]
fn a_session_outlives_its_model() {
    let source = Source::read(root().join(crate::program::TINY)).unwrap().canonical().unwrap();
    let model = source.compile(Options::default()).unwrap();
    let mut session = model.session();
    let wanted = model.session().step(3).unwrap().to_vec();
    drop((model, source));
    assert_eq!(session.step(3).unwrap(), wanted);
}
