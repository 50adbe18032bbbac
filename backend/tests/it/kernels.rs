//! Every entry point over odd shapes, against an f64 evaluation with a derived bound.

use crate::bound::{Approx, Reference, assert_close, score_bound};
use crate::models::{Form, OTHER_FORMS, code_forms, forms, model};
use crate::programs::{filled, recurrent, texts};
use lstmc_backend::isa::OptLevel;
use lstmc_backend::plan::{Packing, Plan, Rows, Target};
use lstmc_backend::{Jit, Level, Options};
use lstmc_frontend::interpret::LanguageModel;
use lstmc_frontend::ir::arbitrary::{
    ALL_FORMATS_FROM, Extras, Kind, Recurrence, language_model, language_model_of, language_model_of_cells,
    lstm_variants, random_map, recurrent_model_of,
};
use lstmc_frontend::ir::{Graph, Head, LinearMap, PrintOptions, Program, parse, print_with};
use lstmc_runtime::{ALIGNMENT, Aligned, Description, Model, Session, SessionError};
use proptest::prelude::*;
use std::sync::Arc;

fn compile(graph: &Graph, level: Level, opt_level: OptLevel, step_threads: usize) -> Model {
    let options = Options { level, opt_level, threads: 1, step_threads };
    let jit = Jit::new(graph, options).unwrap();
    Model::new(Arc::new(jit), None, Description::default()).unwrap()
}

fn tokens(n: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    (0..n as u64)
        .map(|i| ((i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % vocabulary as u32)
        .collect()
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(top) + logits.iter().map(|&x| f64::from(x - top).exp()).sum::<f64>().ln()
}

/// Step, streams, score, top-k, advance and the batched path on the same tokens, at every level that this processor has.
fn check(graph: &Graph, seed: u64, opt_level: OptLevel) {
    let vocabulary = graph.vocabulary.unwrap();
    let mut tokens = tokens(6, vocabulary, seed);
    let (mut reference, mut other) = (Reference::new(graph), Reference::new(graph));
    let want: Vec<_> = tokens.windows(2).map(|pair| (reference.step(pair[0]), other.step(pair[1]))).collect();
    // Cells that are not bounded overflow after some steps, and have no bounds of errors before that.
    let has_bounds = |logits: &[Approx]| logits.iter().all(|logit| logit.error <= f64::from(f32::MAX).sqrt());
    let steps = want.iter().take_while(|(one, other)| has_bounds(one) && has_bounds(other)).count();
    assert!(steps > 0, "a step has bounds");
    tokens.truncate(steps + 1);
    let head = Program::of(graph).unwrap().head();
    for level in Level::all() {
        let model = compile(graph, level, opt_level, 1);
        let mut streams = model.streams(4);
        let [mut step, mut score, mut best, mut advance] = [(); 4].map(|()| model.session());
        let mut total = 0.0;
        let mut slack = 0.0;
        for (pair, (want, other)) in tokens.windows(2).zip(&want) {
            let logits = step.step(pair[0]).unwrap().to_vec();
            assert_close(level, &logits, want);
            // Beside streams that read another text.
            streams.step(&[pair[0], pair[1], pair[1], pair[0]]).unwrap();
            assert_close(level, streams.logits(0), want);
            assert_close(level, streams.logits(2), other);
            assert_eq!(streams.logits(0), streams.logits(3), "{level}");
            advance.advance(pair[0]).unwrap();
            assert_eq!(advance.save_state().values(), step.save_state().values(), "{level}");
            if head == Head::Hidden {
                continue;
            }
            let (lse, bound) = (log_sum_exp(&logits), score_bound(&logits));
            let want = f64::from(logits[pair[1] as usize]) - lse;
            let have = score_one(&mut score, pair);
            assert!((have - want).abs() <= bound, "{level}: score {have}, expected {want} within {bound:e}");
            check_top_k(&mut best, pair[0], &logits, lse, bound);
            total += want;
            slack += bound;
        }
        if head == Head::Hidden {
            let error = step.score(&tokens).unwrap_err();
            assert!(matches!(error, SessionError::Hidden { .. }), "{error}");
            continue;
        }
        // The batched path adds up in another order, and carries its state's difference on.
        let mut batched = model.session();
        let have = batched.score(&tokens).unwrap();
        let bound = 100.0 * slack + 1e-4;
        assert!((have - total).abs() <= bound, "{level}: sequence {have}, expected {total} within {bound:e}");
        check_batch(&model, &tokens, bound);
    }
}

/// Texts of several lengths that are scored together, with and without sharing beginnings, beside each by itself.
fn check_batch(model: &Model, tokens: &[u32], bound: f64) {
    let n = tokens.len();
    let texts = [
        &tokens[1..n.min(4)],
        tokens,
        &tokens[..2],
        &tokens[..1],
        &tokens[n / 3..],
        &tokens[..n - 1],
        tokens,
    ];
    let mut batch = model.batch(1);
    let found = batch.score(&texts).unwrap();
    let (shared, _) = batch.score_shared(&texts).unwrap();
    for (text, found) in texts.iter().chain(&texts).zip(found.iter().chain(&shared)) {
        let have: f64 = found.iter().map(|&p| f64::from(p)).sum();
        let want = model.session().score(text).unwrap();
        assert_eq!(found.len(), text.len() - 1);
        assert!((have - want).abs() <= bound, "batch {have}, expected {want} within {bound:e}");
    }
}

fn score_one(session: &mut Session, pair: &[u32]) -> f64 {
    let layout = session.model().layout().clone();
    let kernels = session.model().kernels().clone();
    let mut state = Aligned::copy_of(session.save_state().values());
    let mut scratch = Aligned::zeroed(layout.scratch);
    let score = kernels.score(&mut state, &mut scratch, pair[0], pair[1]);
    session.advance(pair[0]).unwrap();
    score.into()
}

fn check_top_k(session: &mut Session, token: u32, logits: &[f32], lse: f64, bound: f64) {
    let k = logits.len().min(5);
    let (mut ids, mut scores) = (vec![0; k], vec![0.0; k]);
    let n = session.top_k_into(token, &mut ids, &mut scores).unwrap();
    assert_eq!(n, k);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    assert_eq!(ids, order[..k], "the best words, ties by lower id");
    for (&id, &score) in ids.iter().zip(&scores) {
        let want = f64::from(logits[id as usize]) - lse;
        assert!((f64::from(score) - want).abs() <= bound, "log-probability {score}, expected {want}");
    }
}

/// Every kind of recurrent layer and of step, in odd sizes and every representation.
#[test]
fn every_kind_of_program() {
    let dense = |_: &str, shape| random_map(Kind::Dense, shape, 1);
    let variants = recurrent(&Recurrence::all(), [9, 35], dense);
    let sizes = [1, 33].into_iter().flat_map(|n| recurrent(&Recurrence::general(), [n, 35], dense));
    let kinds = Kind::ALL.into_iter().flat_map(|kind| {
        let mut seed = 0;
        let map = |_: &str, shape| {
            seed += 1;
            random_map(kind, shape, seed)
        };
        recurrent(&Recurrence::general(), [9, 35], map)
    });
    variants.into_iter().chain(sizes).chain(kinds).for_each(|(_, graph)| check(&graph, 1, OptLevel::None));
    for text in texts() {
        for sizes in [[1, 1, 4], [3, 2, 9], [8, 9, 33], [31, 8, 40], [33, 16, 70]] {
            check(&filled(&text, sizes, None, 1), 1, OptLevel::None);
        }
        for (kind, seed) in Kind::ALL.into_iter().flat_map(|kind| [0, 1].map(|seed| (kind, seed))) {
            check(&filled(&text, [9, 5, 35], Some(kind), seed), seed, OptLevel::None);
        }
    }
}

/// What the bounds are put around is what the interpreter computes; and what is computed is near it, where bounds of many steps are wide.
#[test]
fn the_reference_is_the_interpreter() {
    let of_texts = texts().into_iter().map(|text| (text.clone(), filled(&text, [9, 5, 35], None, 1)));
    let dense = |_: &str, shape| random_map(Kind::Dense, shape, 1);
    for (name, graph) in recurrent(&Recurrence::all(), [9, 35], dense).into_iter().chain(of_texts) {
        let tokens = tokens(6, 35, 2);
        let model = LanguageModel::<f64>::new(&graph).unwrap();
        let outputs = model.outputs(&mut model.state(), &tokens).unwrap();
        let mut reference = Reference::new(&graph);
        let models = Level::all().into_iter().map(|level| compile(&graph, level, OptLevel::None, 1));
        let mut sessions: Vec<Session> = models.map(|model| model.session()).collect();
        for (&token, want) in tokens.iter().zip(outputs.chunks_exact(model.width())) {
            for (have, want) in reference.step(token).iter().zip(want) {
                assert!((have.value - want).abs() <= 1e-9, "{name}: {}, not {want}", have.value);
            }
            for session in &mut sessions {
                for (&have, &want) in session.step(token).unwrap().iter().zip(want) {
                    let near = (f64::from(have) - want).abs() <= 1e-4 * want.abs().max(1.0);
                    assert!(near, "{name}: {have}, not {want}");
                }
            }
        }
    }
}

/// A long text in chunks, a word at a time, and by several threads.
#[test]
fn every_kind_of_program_reads_long_texts() {
    for kind in [Kind::Dense, Kind::Quantized, Kind::LowRank] {
        let all = recurrent(&Recurrence::general(), [10, 36], |_, shape| random_map(kind, shape, 7));
        let of_texts =
            texts().into_iter().map(|text| (text.clone(), filled(&text, [10, 8, 36], Some(kind), 7)));
        for (name, graph) in all.into_iter().chain(of_texts) {
            let tokens = tokens(100, 36, 3);
            for level in Level::all() {
                let [one, team] = [1, 3].map(|threads| compile(&graph, level, OptLevel::None, threads));
                let [mut step, mut joint, mut batched] = [&one, &team, &one].map(Model::session);
                let mut total = 0.0;
                for pair in tokens.windows(2) {
                    let logits = step.step(pair[0]).unwrap();
                    assert_eq!(joint.step(pair[0]).unwrap(), logits, "{name}, {level}");
                    total += f64::from(logits[pair[1] as usize % logits.len()]) - log_sum_exp(logits);
                }
                let Ok(have) = batched.score(&tokens) else { continue };
                let near = (have - total).abs() <= 1e-3 * total.abs();
                assert!(near, "{name}, {level}, {kind:?}: {have}, not {total}");
                for (state, vector) in step.state() {
                    for (x, y) in vector.iter().zip(batched.state_vector(state).unwrap()) {
                        assert!((x - y).abs() <= 0.05, "{name}, {level}, {kind:?}: {state} {x}, not {y}");
                    }
                }
            }
        }
    }
}

/// A text begins with the learned states, also after a reset.
#[test]
fn texts_begin_with_the_learned_states() {
    let graph = filled(&texts()[0], [9, 5, 35], None, 1);
    let initial = graph.weight(graph.weight_named("initial").unwrap()).map.to_dense().unwrap();
    let model = compile(&graph, Level::best(), OptLevel::None, 1);
    let (mut session, mut streams) = (model.session(), model.streams(3));
    for _ in 0..2 {
        assert_eq!(session.state_vector("r").unwrap(), &initial.to_f32().unwrap()[..]);
        assert_eq!(session.save_state(), streams.save_state(2));
        assert!(session.state_vector("c").unwrap().iter().all(|&x| x == 0.0));
        session.advance(3).unwrap();
        streams.step(&[1, 2, 3]).unwrap();
        assert_ne!(session.state_vector("r").unwrap(), &initial.to_f32().unwrap()[..]);
        session.reset();
        streams.reset(2);
    }
}

const ODD: [usize; 5] = [1, 3, 31, 33, 257];

#[test]
fn every_odd_hidden_size_and_vocabulary() {
    for hidden in [1, 3, 8, 31, 33, 64] {
        for vocabulary in ODD {
            check(&language_model(hidden, 2, vocabulary, 7), 1, OptLevel::None);
        }
    }
    check(&language_model(257, 1, 33, 7), 1, OptLevel::None);
}

/// Coupled gates, peepholes, clipping and other functions, in sizes around a part of eight units and around what threads share.
#[test]
fn every_variant_of_a_cell() {
    for (cell, peepholes) in lstm_variants() {
        for hidden in [1, 7, 8, 9, 31, 33] {
            for kind in [Kind::Dense, Kind::Quantized, Kind::LowRank] {
                let make = |_: &str, shape| random_map(kind, shape, ALL_FORMATS_FROM + 5);
                check(&language_model_of_cells(&cell, peepholes, [hidden, 2, 33], make), 3, OptLevel::None);
            }
        }
        let make = |_: &str, shape| random_map(Kind::Dense, shape, 5);
        for hidden in [40, 75] {
            let graph = language_model_of_cells(&cell, peepholes, [hidden, 2, 2100], make);
            for level in Level::all() {
                let [alone, pool] = [1, 3].map(|threads| compile(&graph, level, OptLevel::None, threads));
                let (mut a, mut b) = (alone.session(), pool.session());
                // Of two steps: what is not bounded overflows soon.
                for token in tokens(2, 2100, 3) {
                    let (a, b) = (a.step(token).unwrap(), b.step(token).unwrap());
                    assert!(a == b && a.iter().all(|x| x.is_finite()), "{cell:?}, {level}");
                }
                assert_eq!(a.save_state().values(), b.save_state().values());
            }
        }
    }
}

/// Several threads write the very logits and states that one does, in every representation.
#[test]
fn a_team_takes_the_same_steps() {
    let of = |kind: Kind, seed| language_model_of(40, 2, 2100, move |_, shape| random_map(kind, shape, seed));
    for (kind, seed) in
        Kind::ALL.into_iter().flat_map(|kind| [5, ALL_FORMATS_FROM + 5].map(|seed| (kind, seed)))
    {
        let graph = of(kind, seed);
        for level in Level::all() {
            let alone = compile(&graph, level, OptLevel::None, 1);
            let team = compile(&graph, level, OptLevel::None, 3);
            let (mut a, mut b) = (alone.session(), team.session());
            for token in tokens(20, 2100, 3) {
                assert_eq!(a.step(token).unwrap(), b.step(token).unwrap(), "{kind:?}, {level}");
            }
            assert_eq!(a.save_state().values(), b.save_state().values());
            // Two sessions at once: the team takes the steps of one, the other goes alone.
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let (mut a, mut b) = (alone.session(), team.session());
                        for token in tokens(20, 2100, 4) {
                            assert_eq!(a.step(token).unwrap(), b.step(token).unwrap());
                        }
                    });
                }
            });
        }
    }
}

/// A state's vectors have the graph's names and widths, and what is written to one is what the next step reads.
#[test]
fn states_by_name() {
    let model = compile(&language_model(33, 2, 40, 1), Level::best(), OptLevel::None, 1);
    let (mut one, mut other) = (model.session(), model.session());
    one.advance(3).unwrap();
    let names: Vec<_> = one.state().map(|(name, vector)| (name, vector.len())).collect();
    assert_eq!(names, [("h0", 33), ("c0", 33), ("h1", 33), ("c1", 33)]);
    for (name, vector) in one.state() {
        assert!(vector.iter().all(|&x| x != 0.0), "{name}: {vector:?}");
        other.state_vector_mut(name).unwrap().copy_from_slice(vector);
    }
    assert_eq!(one.step(5).unwrap(), other.step(5).unwrap());
    assert!(one.state().eq(other.state()));
}

/// Generated code takes every weight for aligned but tables of f32 rows, which it shares with the graph.
#[test]
fn weights_are_aligned() {
    for kind in Kind::ALL {
        let graph = language_model_of(33, 1, 37, |_, shape| random_map(kind, shape, 5));
        let jit = Jit::new(&graph, Options::default()).unwrap();
        for (packed, data) in jit.plan().weights.iter().zip(jit.weights()) {
            let rows = matches!(packed.packing, Packing::Rows { format: Rows::F32, .. });
            let aligned = data.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT);
            assert!(rows || aligned, "{}, {}", packed.name, packed.packing);
        }
    }
}

#[test]
fn every_kernel_over_odd_shapes() {
    for form in forms() {
        for hidden in [1, 3, 31, 33] {
            for vocabulary in ODD {
                check(&model(form, hidden, 2, vocabulary, 7), 1, OptLevel::None);
            }
        }
        check(&model(form, 257, 1, 33, 7), 1, OptLevel::None);
    }
}

#[test]
fn both_optimisation_levels_give_models_within_the_bound() {
    check(&language_model(33, 2, 257, 3), 2, OptLevel::Speed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_shapes(hidden in 1usize..70, layers in 1usize..4, vocabulary in 1usize..140, seed in 0u64..1000) {
        check(&language_model(hidden, layers, vocabulary, seed), seed, OptLevel::None);
    }

    #[test]
    fn any_program(n in 1usize..40, m in 1usize..20, v in 4usize..70, text in 0..texts().len(), kind in 0..Kind::ALL.len(), seed in 0u64..2 * ALL_FORMATS_FROM) {
        check(&filled(&texts()[text], [n, m, v], Some(Kind::ALL[kind]), seed), seed, OptLevel::None);
    }

    #[test]
    fn any_recurrent_layer(n in 1usize..40, v in 1usize..70, which in 0usize..60, kind in 0..Kind::ALL.len(), seed in 0u64..2 * ALL_FORMATS_FROM) {
        let (all, extras) = (Recurrence::all(), [Extras::NONE, Extras::ALL]);
        let recurrence = &all[which % all.len()];
        let map = |_: &str, shape| random_map(Kind::ALL[kind], shape, seed);
        check(&recurrent_model_of(recurrence, [n, 2, v], extras[which % 2], map), seed, OptLevel::None);
    }

    #[test]
    fn every_representation(hidden in 1usize..40, vocabulary in 1usize..70, kind in 0..Kind::ALL.len(), seed in 0u64..2 * ALL_FORMATS_FROM) {
        let graph = language_model_of(hidden, 1, vocabulary, |_, shape| random_map(Kind::ALL[kind], shape, seed));
        check(&graph, seed, OptLevel::None);
    }
}

/// Widths that differ between layers, a linear layer in between, elementwise operators with a buffer, a vector and a scalar.
const MIXED: &str = r#"
model "mixed" (vocabulary 37) {
  %tokens: i64[S, B] = input
  %h0: f32[B, 9] = state
  %c0: f32[B, 9] = state
  %e: f32[S, B, 6] = embedding %tokens, @embedding
  %x: f32[S, B, 6] = mul %e, @scale
  %x0: f32[S, B, 6] = add @shift, %x
  %x1: f32[S, B, 9], %hn: f32[B, 9], %cn: f32[B, 9] = lstm %x0, %h0, %c0, @lstm0.input, @lstm0.recurrent, @lstm0.bias {gates = ifgo}
  %p: f32[S, B, 6] = linear %x1, @linear0
  %q: f32[S, B, 6] = tanh %p
  %r: f32[S, B, 6] = add %q, %x
  %logits: f32[S, B, 37] = linear %r, @embedding
  return logits %logits, state %h0 = %hn, state %c0 = %cn
}
@embedding: f32[37, 6] random 1
@scale: f32[1] random 2
@shift: f32[6] random 3
@lstm0.input: f32[36, 6] random 4
@lstm0.recurrent: f32[36, 9] random 5
@lstm0.bias: f32[36] random 6
@linear0: f32[6, 9] random 7
"#;

#[test]
fn mixed_layers_gate_orders_and_tied_weights() {
    check(&parse(MIXED).unwrap(), 5, OptLevel::None);
}

#[test]
fn equal_logits_are_ranked_by_id() {
    let text = r#"
model "flat" (vocabulary 70) {
  %tokens: i64[S, B] = input
  %h0: f32[B, 2] = state
  %c0: f32[B, 2] = state
  %x0: f32[S, B, 2] = embedding %tokens, @embedding
  %x1: f32[S, B, 2], %hn: f32[B, 2], %cn: f32[B, 2] = lstm %x0, %h0, %c0, @w, @u, @b {gates = iofc}
  %logits: f32[S, B, 70] = linear %x1, @decoder
  return logits %logits, state %h0 = %hn, state %c0 = %cn
}
@embedding: f32[70, 2] random 1
@w: f32[8, 2] random 2
@u: f32[8, 2] random 3
@b: f32[8] random 4
@decoder: f32[70, 2] ZEROS
"#;
    let text = text.replace("ZEROS", &format!("[{}]", vec!["0"; 140].join(", ")));
    for level in Level::all() {
        let model = compile(&parse(&text).unwrap(), level, OptLevel::None, 1);
        let (mut ids, mut scores) = ([9u32; 40], [0f32; 40]);
        model.session().top_k_into(3, &mut ids, &mut scores).unwrap();
        assert_eq!(ids.to_vec(), (0..40).collect::<Vec<u32>>(), "{level}");
        let want = -(70f32).ln();
        assert!(scores.iter().all(|s| (s - want).abs() < 1e-6), "{level}: {scores:?}");
    }
}

/// An embedding row that goes straight into the output layer.
#[test]
fn streams_without_a_state() {
    for level in Level::all() {
        let model = compile(&language_model(33, 0, 40, 1), level, OptLevel::None, 1);
        let (mut one, mut session) = (model.streams(1), model.session());
        let mut five = model.streams(5);
        for token in 0..7 {
            let want = session.step(token).unwrap().to_vec();
            assert_eq!(one.step(&[token]).unwrap(), want, "{level}");
            five.step(&[token, 1, 2, 3, token]).unwrap();
            for (have, want) in five.logits(4).iter().zip(&want) {
                assert!(
                    (have - want).abs() <= 1e-5 * want.abs().max(1.0),
                    "{level}: {have}, expected {want}"
                );
            }
        }
    }
}

/// A table that is the output layer's map too is packed once, and its rows are read out of the panels: the very numbers of a table by itself.
#[test]
fn tied_tables_are_packed_once() {
    for form in forms() {
        for [hidden, vocabulary] in [[1, 1], [5, 33], [33, 70]] {
            let mut apart = model(form, hidden, 1, vocabulary, 7);
            let [table, decoder] = ["embedding", "decoder"].map(|name| apart.weight_named(name).unwrap());
            apart.set_weight(decoder, LinearMap::clone(&apart.weight(table).map).into()).unwrap();
            let tied = tied(&apart);
            for level in Level::all() {
                let [a, b] = [&apart, &tied].map(|graph| compile(graph, level, OptLevel::None, 1));
                let (mut a, mut b) = (a.session(), b.session());
                for token in 0..vocabulary.min(40) as u32 {
                    assert_eq!(a.step(token).unwrap(), b.step(token).unwrap(), "{form:?}, {level}, {token}");
                }
            }
            let target = Target { signed_bytes: false, pairs: false, wide: None, shared: false };
            let [a, b] = [&apart, &tied].map(|graph| Plan::new(graph, target).unwrap());
            let count = |plan: &Plan| plan.weights.len();
            let dense = matches!(form, Form::Codes(..));
            assert!(!dense || count(&b) + 1 == count(&a), "{form:?}\n{b}");
        }
    }
}

/// The graph with the table in place of the output layer's map.
fn tied(graph: &Graph) -> Graph {
    let text = print_with(graph, &PrintOptions { inline_up_to: usize::MAX });
    let lines = text.lines().filter(|line| !line.starts_with("@decoder:"));
    parse(&lines.collect::<Vec<_>>().join("\n").replace("@decoder, ", "@embedding, ")).unwrap()
}

#[test]
fn no_streams_take_no_steps() {
    for level in Level::all() {
        let model = compile(&language_model(3, 1, 5, 1), level, OptLevel::None, 1);
        assert_eq!(model.streams(0).step(&[]).unwrap(), [0.0; 0]);
    }
}

/// Streams of every number that leaves tiles of few tokens, of vocabularies whose last panel has any number of columns.
fn check_streams(model_of: impl Fn(usize) -> Graph) {
    const STREAMS: usize = 9;
    for vocabulary in 1..=100 {
        let graph = model_of(vocabulary);
        let token = |stream: usize, step: usize| ((stream * 7 + step * 3) % vocabulary) as u32;
        // [streams][steps]
        let want: Vec<Vec<_>> = (0..STREAMS)
            .map(|stream| {
                let mut reference = Reference::new(&graph);
                (0..2).map(|step| reference.step(token(stream, step))).collect()
            })
            .collect();
        for level in Level::all() {
            let model = compile(&graph, level, OptLevel::None, 1);
            for n in 1..=STREAMS {
                let mut streams = model.streams(n);
                for step in 0..2 {
                    let tokens: Vec<u32> = (0..n).map(|stream| token(stream, step)).collect();
                    streams.step(&tokens).unwrap();
                    for (stream, want) in want[..n].iter().enumerate() {
                        assert_close(level, streams.logits(stream), &want[step]);
                    }
                }
            }
        }
    }
}

#[test]
fn streams_of_every_vocabulary_in_integers() {
    for form in code_forms() {
        check_streams(|vocabulary| model(form, 5, 1, vocabulary, 7));
    }
}

#[test]
fn streams_of_every_vocabulary_in_strips_factors_and_f32() {
    for form in OTHER_FORMS {
        check_streams(|vocabulary| model(form, 5, 1, vocabulary, 7));
    }
    check_streams(|vocabulary| language_model(5, 1, vocabulary, 7));
}
