//! Scoring: against the interpreter, across representations, chunks and precisions.

use super::super::matrix::{Decoder, Matrix};
use super::super::{Interpreter, LanguageModel, Observation, Observer, State};
use super::numbers;
use crate::ir::arbitrary::{
    ALL_FORMATS_FROM, Kind, SplitMix64, language_model, language_model_of, random_map, random_tensor,
};
use crate::ir::{
    Activations, Binary, Function, Graph, LinearMap, LowRank, Lstm, NodeId, Op, Operand, OutputRole, Part,
    SetActivations, Type, Weight, WeightId,
};
use crate::tensor::{DType, Tensor};
use proptest::prelude::*;
use std::sync::Arc;

const VOCABULARY: usize = 37;

fn text(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    (0..n).map(|_| rng.below(VOCABULARY) as u32).collect()
}

/// The interpreter's logits for one stream, `[n, vocabulary]`, in f64.
fn interpreted(graph: &Graph, tokens: &[u32]) -> Vec<f64> {
    let tokens = Tensor::from_i64([tokens.len(), 1], tokens.iter().map(|&t| t.into()).collect()).unwrap();
    let out = Interpreter::in_f64(graph).unwrap().run(&[("tokens", tokens)]).unwrap();
    numbers(&out.iter().find(|(n, _)| n == "logits").unwrap().1)
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn logits_f32(graph: &Graph, tokens: &[u32]) -> Vec<f64> {
    let model = LanguageModel::<f32>::new(graph).unwrap();
    model.outputs(&mut model.state(), tokens).unwrap().into_iter().map(f64::from).collect()
}

fn logits_f64(graph: &Graph, tokens: &[u32]) -> Vec<f64> {
    let model = LanguageModel::<f64>::new(graph).unwrap();
    model.outputs(&mut model.state(), tokens).unwrap()
}

/// f64 differs by the order of sums alone; f32 by a few of its units for each of the terms of a logit.
fn assert_scores_like_the_interpreter(graph: &Graph, terms: usize) {
    let tokens = text(23, 1);
    let expected = interpreted(graph, &tokens);
    assert!(largest_difference(&logits_f64(graph, &tokens), &expected) < 1e-12);
    let tolerance = f64::from(f32::EPSILON) * 4.0 * terms as f64;
    assert!(largest_difference(&logits_f32(graph, &tokens), &expected) < tolerance);
}

#[test]
fn logits_are_the_interpreters() {
    for (hidden, layers) in [(1, 1), (3, 2), (8, 3)] {
        assert_scores_like_the_interpreter(&language_model(hidden, layers, VOCABULARY, 5), 64);
    }
}

#[test]
fn every_representation_is_its_dense_decode() {
    for kind in Kind::ALL {
        for seed in [0, 1, 2, 3, ALL_FORMATS_FROM, ALL_FORMATS_FROM + 1, ALL_FORMATS_FROM + 2] {
            let drawn = language_model_of(7, 2, VOCABULARY, |name, shape| {
                random_map(kind, shape, seed + 100 * name.len() as u64)
            });
            let tokens = text(23, 2);
            // An int8 code on the other side of a tie would be far beyond f32's error, not beyond f64's.
            let difference = largest_difference(&logits_f64(&drawn, &tokens), &interpreted(&drawn, &tokens));
            assert!(difference < 1e-12, "{kind:?} {seed}: {difference}");
            let (mut graph, mut dense) = (drawn.clone(), drawn.clone());
            for (id, weight) in drawn.weights() {
                graph.set_weight(id, SetActivations::new(Activations::F32).set(&weight.map)).unwrap();
                dense.set_weight(id, weight.map.to_dense().unwrap().into()).unwrap();
            }
            assert_scores_like_the_interpreter(&graph, 256);
            let difference = largest_difference(&logits_f64(&graph, &tokens), &interpreted(&dense, &tokens));
            // The dense form of a product of factors is rounded to f32.
            assert!(difference < 1e-4, "{kind:?} {seed}: {difference}");
        }
    }
}

#[test]
fn factors_that_are_shared_are_decoded_once() {
    let left = Part::new(random_map(Kind::Quantized, [12, 2], 1));
    let mut decoder = Decoder::<f32>::new();
    let mut side = |seed| {
        let right = Part::new(random_map(Kind::Dense, [2, 5], seed));
        let map = LinearMap::LowRank(LowRank::new(left.clone(), right).unwrap());
        match decoder.decode(&map).unwrap() {
            Matrix::Product { left, .. } => left,
            Matrix::Dense { .. } => panic!("a low-rank map stays a product"),
        }
    };
    assert!(Arc::ptr_eq(&side(2), &side(3)));
}

proptest! {
    /// A matrix applied plainly, batched, row by row and transposed, in whatever form it takes its vectors.
    #[test]
    fn products_agree(kind in prop::sample::select(&Kind::ALL[..]), rows in 1usize..20, cols in 1usize..20, seed in 0u64..1000, all: bool) {
        let seed = if all { ALL_FORMATS_FROM + seed } else { seed };
        let map = random_map(kind, [rows, cols], seed);
        let matrix = Decoder::<f64>::new().decode(&map).unwrap();
        let n = 3;
        let x: Vec<f64> = numbers(&random_tensor(DType::F32, &[n, cols], seed).unwrap());
        let plain = matrix.apply_plain(n, &x);
        let mut batched = vec![1.0];
        matrix.apply(n, &x, &mut batched);
        prop_assert!(largest_difference(&plain, &batched) < 1e-12);
        let mut combined = vec![0.0; n * rows];
        let transposed = matrix.transposed();
        for (x, out) in x.chunks(cols).zip(combined.chunks_mut(rows)) {
            transposed.add_product(x, out);
        }
        prop_assert!(largest_difference(&plain, &combined) < 1e-12);
        let mut table = vec![];
        (0..rows).for_each(|i| matrix.push_row(i, &mut table));
        let dense = numbers(&map.to_dense().unwrap());
        prop_assert!(largest_difference(&table, &dense) < 1e-5);
    }

    #[test]
    fn chunks_do_not_matter(n in 0usize..40, chunk in 1usize..20, seed in 0u64..1000) {
        let graph = language_model(5, 2, VOCABULARY, seed);
        let tokens = text(n, seed);
        let whole = LanguageModel::<f64>::new(&graph).unwrap();
        let parts = LanguageModel::<f64>::new(&graph).unwrap().with_chunk(chunk);
        let (mut a, mut b) = (whole.state(), parts.state());
        let difference =
            largest_difference(&whole.outputs(&mut a, &tokens).unwrap(), &parts.outputs(&mut b, &tokens).unwrap());
        prop_assert!(difference < 1e-12);
        let score = |m: &LanguageModel<f64>| m.log_likelihood(&tokens, &mut |_| {}).unwrap();
        prop_assert!((score(&whole) - score(&parts)).abs() < 1e-9);
    }

    #[test]
    fn states_carry_over(n in 0usize..30, at in 0usize..30, seed in 0u64..1000) {
        let model = LanguageModel::<f64>::new(&language_model(5, 2, VOCABULARY, seed)).unwrap();
        let tokens = text(n, seed);
        let at = at.min(n);
        let (mut whole, mut parts) = (model.state(), model.state());
        let all = model.outputs(&mut whole, &tokens).unwrap();
        let mut joined = model.outputs(&mut parts, &tokens[..at]).unwrap();
        joined.extend(model.outputs(&mut parts, &tokens[at..]).unwrap());
        prop_assert!(largest_difference(&all, &joined) < 1e-12);
    }
}

#[test]
fn log_likelihood_is_that_of_the_logits() {
    let graph = language_model(6, 2, VOCABULARY, 3);
    let tokens = text(50, 4);
    let logits = interpreted(&graph, &tokens[..49]);
    let expected: f64 = logits
        .chunks(VOCABULARY)
        .zip(&tokens[1..])
        .map(|(row, &t)| row[t as usize] - row.iter().map(|x| x.exp()).sum::<f64>().ln())
        .sum();
    let mut seen = vec![];
    let model = LanguageModel::<f64>::new(&graph).unwrap().with_chunk(20);
    let found = model.log_likelihood(&tokens, &mut |n| seen.push(n)).unwrap();
    assert!((found - expected).abs() < 1e-10);
    assert_eq!(seen, [20, 40, 49]);
    let single = LanguageModel::<f32>::new(&graph).unwrap().log_likelihood(&tokens, &mut |_| {}).unwrap();
    assert!((single - expected).abs() < 1e-4);
    assert_eq!(model.log_likelihood(&tokens[..1], &mut |_| {}), Ok(0.0));
    assert_eq!(model.log_likelihood(&[], &mut |_| {}), Ok(0.0));
}

/// Tied decoder, a skip connection, a projection, scaling by scalar and by feature.
fn decorated() -> Graph {
    let mut g = Graph::new("decorated");
    g.vocabulary = Some(VOCABULARY);
    let tokens = g.add_source(Op::Input, "tokens", Type::tokens());
    let h = g.add_source(Op::State, "h0", Type::state(4));
    let c = g.add_source(Op::State, "c0", Type::state(4));
    let table = random_map(Kind::LowRank, [VOCABULARY, 6], 1);
    let table: Operand = g.add_weight("embedding", table).unwrap().into();
    let weight = |g: &mut Graph, name: &str, shape: &[usize]| -> Operand {
        g.add_weight(name, random_tensor(DType::F32, shape, name.len() as u64).unwrap()).unwrap().into()
    };
    let cell = [("lstm.input", vec![16, 6]), ("lstm.recurrent", vec![16, 4]), ("lstm.bias", vec![16])]
        .map(|(name, shape)| weight(&mut g, name, &shape));
    let up = weight(&mut g, "projection", &[6, 4]);
    let (scale, shift) = (weight(&mut g, "scale", &[]), weight(&mut g, "shift", &[1, 6]));
    let add = |g: &mut Graph, op: Op, operands: &[Operand]| -> Vec<Operand> {
        g.add(op, operands, &[], "").unwrap().into_iter().map(Operand::from).collect()
    };
    let x = add(&mut g, Op::Embedding, &[tokens.into(), table])[0];
    let lstm = Op::Lstm(Lstm::new(crate::ir::GateOrder::Ifgo));
    let y = g.add(lstm, &[x, h.into(), c.into(), cell[0], cell[1], cell[2]], &[], "").unwrap();
    let z = add(&mut g, Op::Linear, &[y[0].into(), up])[0];
    let z = add(&mut g, Op::Binary(Binary::Add), &[z, x])[0];
    let z = add(&mut g, Op::Unary(Function::Relu), &[z])[0];
    let z = add(&mut g, Op::Binary(Binary::Mul), &[scale, z])[0];
    let z = add(&mut g, Op::Binary(Binary::Sub), &[z, shift])[0];
    let logits = g.add(Op::Linear, &[z, table], &["logits"], "").unwrap()[0];
    g.add_output(OutputRole::Named("logits".into()), logits);
    g.add_output(OutputRole::State(h), y[1]);
    g.add_output(OutputRole::State(c), y[2]);
    g
}

#[test]
fn skip_connections_tied_weights_and_elementwise() {
    assert_scores_like_the_interpreter(&decorated(), 64);
}

#[test]
fn f64_tells_f32_apart() {
    let graph = language_model(8, 2, VOCABULARY, 9);
    let difference = largest_difference(&logits_f32(&graph, &text(9, 1)), &logits_f64(&graph, &text(9, 1)));
    assert!(difference > 0.0 && difference < 1e-5, "{difference}");
}

/// Keeps everything it is shown.
#[derive(Default)]
struct Recorder {
    seen: Vec<(NodeId, Kept)>,
    predictions: bool,
}

#[derive(Clone, PartialEq, Debug)]
enum Kept {
    Tokens(WeightId, Vec<u32>),
    Rows(Vec<WeightId>, usize, Vec<f64>),
    Predictions(Vec<f64>, Vec<u32>),
}

impl Observer<f64> for Recorder {
    fn observe(&mut self, node: NodeId, observation: Observation<'_, f64>) {
        let kept = match observation {
            Observation::Embedding { table, tokens } => Kept::Tokens(table, tokens.to_vec()),
            Observation::Product { weights, width, rows } => {
                Kept::Rows(weights.to_vec(), width, rows.to_vec())
            }
            Observation::Predictions { log_probabilities, targets, .. } => {
                Kept::Predictions(log_probabilities.to_vec(), targets.to_vec())
            }
        };
        // Chunks of one node are joined.
        let kind = std::mem::discriminant(&kept);
        let old = self.seen.iter_mut().find(|(n, k)| *n == node && std::mem::discriminant(k) == kind);
        match (old, kept) {
            (Some((_, Kept::Tokens(_, all))), Kept::Tokens(_, more)) => all.extend(more),
            (Some((_, Kept::Rows(_, _, all))), Kept::Rows(_, _, more)) => all.extend(more),
            (Some((_, Kept::Predictions(all, targets))), Kept::Predictions(more, t)) => {
                all.extend(more);
                targets.extend(t);
            }
            (_, kept) => self.seen.push((node, kept)),
        }
    }

    fn wants_predictions(&self) -> bool {
        self.predictions
    }
}

#[test]
fn observers_see_the_inputs_of_every_layer() {
    let graph = language_model(3, 1, VOCABULARY, 7);
    let tokens = text(11, 3);
    let model = LanguageModel::<f64>::new(&graph).unwrap().with_chunk(4);
    let mut recorder = Recorder { predictions: true, ..Recorder::default() };
    model.run_with(&tokens, &mut recorder).unwrap();
    let find = |name: &str| graph.weight_named(name).unwrap();
    let [(_, embedding), (_, lstm), (decoder_node, linear), (last, predictions)] = &recorder.seen[..] else {
        panic!("four kinds of observations, found {}", recorder.seen.len());
    };
    assert_eq!(*embedding, Kept::Tokens(find("embedding"), tokens[..10].to_vec()));

    let Kept::Rows(maps, 6, cells) = lstm else { panic!("{lstm:?}") };
    assert_eq!(*maps, [find("lstm0.input"), find("lstm0.recurrent")]);
    let Kept::Rows(maps, 3, outputs) = linear else { panic!("{linear:?}") };
    assert_eq!(*maps, [find("decoder")]);
    assert_eq!((cells.len(), outputs.len()), (60, 30));
    let Weight { map, .. } = graph.weight(find("embedding"));
    let table = numbers(&map.to_dense().unwrap());
    for (t, row) in cells.chunks(6).enumerate() {
        let token = tokens[t] as usize;
        assert_eq!(row[..3], table[token * 3..][..3], "x of step {t}");
        let before = if t == 0 { &[0.0; 3][..] } else { &outputs[3 * (t - 1)..3 * t] };
        assert_eq!(&row[3..], before, "h before step {t}");
    }

    assert_eq!(decoder_node, last);
    let Kept::Predictions(rows, targets) = predictions else { panic!("{predictions:?}") };
    assert_eq!(*targets, tokens[1..]);
    let sum: f64 = rows.chunks(VOCABULARY).zip(targets).map(|(row, &t)| row[t as usize]).sum();
    let score = model.log_likelihood(&tokens, &mut |_| {}).unwrap();
    assert!((sum - score).abs() < 1e-9);
    assert!(
        rows.chunks(VOCABULARY).all(|row| (row.iter().map(|x| x.exp()).sum::<f64>() - 1.0).abs() < 1e-12)
    );

    let mut quiet = Recorder::default();
    model.run_with(&tokens, &mut quiet).unwrap();
    assert_eq!(quiet.seen[..], recorder.seen[..3]);
}

#[test]
fn errors() {
    let graph = language_model(3, 1, VOCABULARY, 7);
    let model = LanguageModel::<f32>::new(&graph).unwrap();
    let mut lines = vec![];
    lines.push(model.outputs(&mut model.state(), &[1, 37]).unwrap_err().to_string());

    let mut broken = graph.clone();
    let decoder = broken.weight_named("decoder.bias").unwrap();
    let mut bias = vec![0.0; VOCABULARY];
    bias[1] = f32::INFINITY;
    broken.set_weight(decoder, Tensor::from_f32([VOCABULARY], bias).unwrap().into()).unwrap();
    let broken = LanguageModel::<f32>::new(&broken).unwrap();
    lines.push(broken.log_likelihood(&[1, 2, 3], &mut |_| {}).unwrap_err().to_string());

    let mut elided = graph.clone();
    let table = elided.weight_named("embedding").unwrap();
    let tensor = Tensor::from_f32([VOCABULARY, 3], vec![0.0; 3 * VOCABULARY]).unwrap().elide();
    elided.set_weight(table, tensor.into()).unwrap();
    lines.push(LanguageModel::<f32>::new(&elided).err().unwrap().to_string());

    lines.push(LanguageModel::<f32>::new(&Graph::new("empty")).err().unwrap().to_string());

    // A state that an elementwise operator reads would make the score depend on the chunks.
    let mut stateful = language_model(3, 1, VOCABULARY, 7);
    let (x, h) = (stateful.value_named("x1").unwrap(), stateful.value_named("h0").unwrap());
    stateful.add(Op::Binary(Binary::Add), &[x.into(), h.into()], &["odd"], "/Add").unwrap();
    lines.push(LanguageModel::<f32>::new(&stateful).err().unwrap().to_string());
    insta::assert_snapshot!(lines.join("\n"), @r#"
    token 37 at position 1: expected less than 37, the size of the vocabulary
    the prediction at position 1 is not a number: some weight or intermediate result is NaN or infinite
    weight @embedding: the data of this f32[37, 3] tensor (#e475440d) is not at hand: the text it came from gives only its hash; write the data inline or read the model from .onnx or .lstmc
    not in language-model form: inputs: expected one, the tokens, found 0; the pass `canonicalize` makes it so
    not in language-model form: %odd = add: expected a sequence as operand 1, found %h0: f32[B, 3]; the pass `canonicalize` makes it so
    "#);
}

/// A state is plain data: a copy goes its own way.
#[test]
fn states_are_values() {
    let model = LanguageModel::<f32>::new(&language_model(4, 2, VOCABULARY, 2)).unwrap();
    let mut state: State<f32> = model.state();
    model.outputs(&mut state, &[1, 2]).unwrap();
    let mut copy = state.clone();
    let a = model.outputs(&mut state, &[3]).unwrap();
    assert_ne!(state, copy);
    assert_eq!(a, model.outputs(&mut copy, &[3]).unwrap());
    assert_eq!(state, copy);
    assert_eq!(model.vocabulary(), VOCABULARY);
}
