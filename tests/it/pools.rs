//! Streams of real models, forked, reordered and in pools of many sizes: a stream's results are, bit for bit, those of its tokens alone.

use crate::program::Sandbox;
use lstmc::Source;
use lstmc::backend::{Level, Options};
use lstmc::runtime::{Model, Rng, Streams};

/// This many streams take their steps together.
const FEWEST: usize = 2;

/// Models and passes: products of f32s, of codes with a byte each, of codes that share bytes, and a GRU.
const MODELS: [(&str, &str); 4] = [
    ("ptb-small", "canonicalize"),
    ("ptb-small", "quantize(bits=8)"),
    ("ptb-small", "quantize(bits=4, group=40, method=nearest)"),
    ("exports/gru-lm", "canonicalize"),
];

/// Runs a test on every model at every level at which streams take steps together.
fn each(test: impl Fn(&Model, &str)) {
    for (name, passes) in MODELS {
        let (sandbox, file) = (Sandbox::new(), format!("testdata/{name}/model.onnx"));
        sandbox.ok(&["compile", &file, "--passes", passes, "-o", "[dir]/model.lstmc"]);
        let source = Source::read(sandbox.path("model.lstmc")).unwrap();
        for level in Level::all().into_iter().filter(|level| level.has_batched_kernels()) {
            let model = source.compile(Options { level, threads: 2, ..Options::default() }).unwrap();
            test(&model, &format!("{name}, {passes} at {level}"));
        }
    }
}

/// The bits of a stream's state, of its logits, and of a word's log-probability.
fn bits(streams: &mut Streams, stream: usize) -> Vec<u32> {
    let score = streams.score(stream, 1).unwrap();
    let state = streams.save_state(stream);
    state.values().iter().chain(streams.logits(stream)).chain([&score]).map(|x| x.to_bits()).collect()
}

/// A stream of these tokens at a place in a pool whose other streams have other tokens.
fn in_pool(model: &Model, tokens: &[u32], place: usize, pool: usize) -> Vec<u32> {
    let mut streams = model.streams(pool);
    for &token in tokens {
        let other = |stream: usize| (token as usize + 1 + stream) % model.layout().vocabulary;
        let all: Vec<u32> = (0..pool).map(|s| if s == place { token } else { other(s) as u32 }).collect();
        streams.step(&all).unwrap();
    }
    bits(&mut streams, place)
}

#[test]
fn the_size_of_a_pool_and_the_place_in_it_do_not_matter() {
    each(|model, what| {
        let tokens = [3, 5, 2];
        let mut session = model.session();
        tokens.iter().for_each(|&token| session.advance(token).unwrap());
        let state: Vec<u32> = session.save_state().values().iter().map(|x| x.to_bits()).collect();
        assert!(in_pool(model, &tokens, 0, 1).starts_with(&state), "{what}: one stream is a session");
        let wanted = in_pool(model, &tokens, 0, FEWEST);
        // In tiles of up to 6 or 12 streams.
        for pool in [2, 3, 4, 5, 6, 7, 8, 12, 13] {
            assert!(in_pool(model, &tokens, pool / 2, pool) == wanted, "{what}: {pool} streams");
        }
        for place in [0, 24] {
            assert!(in_pool(model, &tokens, place, 25) == wanted, "{what}: stream {place} of 25");
        }
    });
}

#[test]
fn a_search_gives_what_its_hypotheses_give_alone() {
    const POOL: usize = 9;
    each(|model, what| {
        let (mut streams, mut texts, mut rng) = (model.streams(POOL), vec![vec![]; POOL], Rng::new(1));
        let mut random = |below: usize| rng.next_u64() as usize % below;
        for _ in 0..6 {
            // Some of the streams, in any order.
            let mut some: Vec<usize> = (0..POOL).collect();
            (0..POOL).for_each(|k| some.swap(k, random(POOL)));
            some.truncate(FEWEST + random(POOL - FEWEST + 1));
            let tokens: Vec<u32> = some.iter().map(|_| random(model.layout().vocabulary) as u32).collect();
            streams.step_some(&some, &tokens).unwrap();
            some.iter().zip(&tokens).for_each(|(&stream, &token)| texts[stream].push(token));
            let from: Vec<usize> = (0..POOL).map(|_| random(POOL)).collect();
            streams.reorder(&from);
            texts = from.iter().map(|&stream| texts[stream].clone()).collect();
            let from = random(POOL);
            streams.clear();
            let to = streams.fork(from).unwrap();
            texts[to] = texts[from].clone();
        }
        for (stream, text) in texts.iter().enumerate() {
            let wanted = in_pool(model, text, 0, FEWEST);
            assert!(bits(&mut streams, stream) == wanted, "{what}: stream {stream} of {text:?}");
        }
    });
}
