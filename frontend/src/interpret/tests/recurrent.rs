//! Models of every recurrent layer: chunks against single steps, fused cells against the same cells in steps.

use super::super::{InterpretError, Interpreter, LanguageModel, Observation, Observer};
use super::numbers;
use crate::ir::arbitrary::{
    Extras, Kind, Recurrence, SplitMix64, random_map, recurrent_model, recurrent_model_of,
};
use crate::ir::{Function, Graph, Gru, Head, NodeId, Program, Reset, Rnn, WeightId, verify_language_model};
use crate::tensor::Tensor;
use std::collections::BTreeMap;

const WORDS: usize = 11;

fn text(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    (0..n).map(|_| rng.below(WORDS) as u32).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The outputs of one stream, read in chunks.
fn outputs(graph: &Graph, tokens: &[u32], chunk: usize) -> Vec<f64> {
    let model = LanguageModel::<f64>::new(graph).unwrap().with_chunk(chunk);
    model.outputs(&mut model.state(), tokens).unwrap()
}

/// The outputs of the graph's own interpreter for several streams of equal length, stream by stream.
fn interpreted(graph: &Graph, streams: &[Vec<u32>]) -> Vec<Vec<f64>> {
    let (n, b) = (streams[0].len(), streams.len());
    let tokens = (0..n).flat_map(|t| streams.iter().map(move |s| i64::from(s[t]))).collect();
    let tokens = Tensor::from_i64([n, b], tokens).unwrap();
    let results = Interpreter::in_f64(graph).unwrap().run(&[("tokens", tokens)]).unwrap();
    let rows = numbers(&results[0].1);
    let width = rows.len() / n / b;
    (0..b).map(|k| rows.chunks(width).skip(k).step_by(b).flatten().copied().collect()).collect()
}

fn models() -> Vec<(String, Graph)> {
    let mut all = vec![];
    for kind in Recurrence::all() {
        for (k, extras) in
            [Extras::NONE, Extras::ALL, Extras { head: Head::Hidden, ..Extras::ALL }].into_iter().enumerate()
        {
            all.push((
                format!("{kind:?}, {extras:?}"),
                recurrent_model(&kind, [3, 2, WORDS], extras, k as u64),
            ));
        }
    }
    all
}

#[test]
fn chunks_are_single_steps() {
    let streams = [text(13, 1), text(13, 2)];
    for (name, graph) in models() {
        verify_language_model(&graph).unwrap();
        let stepwise = interpreted(&graph, &streams);
        for (tokens, expected) in streams.iter().zip(&stepwise) {
            for chunk in [1, 5, 64] {
                let difference = largest_difference(&outputs(&graph, tokens, chunk), expected);
                assert!(difference < 1e-12, "{name}, chunk {chunk}: {difference}");
            }
        }
        let single = LanguageModel::<f32>::new(&graph).unwrap();
        let single = single.outputs(&mut single.state(), &streams[0]).unwrap();
        let single: Vec<f64> = single.into_iter().map(f64::from).collect();
        // The f32 error of a step is at most a few units for each of tens of terms, and layer normalisation may magnify it.
        let difference = largest_difference(&single, &stepwise[0]);
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

#[test]
fn every_representation_in_every_place() {
    let streams = [text(9, 1)];
    for recurrence in Recurrence::general() {
        for kind in Kind::ALL {
            let graph = recurrent_model_of(&recurrence, [5, 1, WORDS], Extras::ALL, |name, shape| {
                random_map(kind, shape, name.len() as u64)
            });
            let difference =
                largest_difference(&outputs(&graph, &streams[0], 4), &interpreted(&graph, &streams)[0]);
            assert!(difference < 1e-12, "{recurrence:?}, {kind:?}: {difference}");
        }
    }
}

/// Steps may read any state: states that swap, one of a state, and one that is an output.
#[test]
fn states_of_states() {
    let graph = crate::ir::parse(
        r#"
model "m" (vocabulary 11) {
  %tokens: i64[S, B] = input
  %a: f32[S, B, 2] = state @start
  %b: f32[S, B, 2] = state
  %c: f32[S, B, 3] = state
  %d: f32[S, B, 2] = state
  %x = embedding %tokens, @embedding
  %low = features %x {from = 0, to = 2}
  %part = features %c {from = 1, to = 3}
  %sum = add %a, %part
  %y = concat %sum, %d, %low
  %hidden = features %y {from = 1, to = 6}
  return hidden %hidden, state %a = %b, state %b = %a, state %c = %x, state %d = %part
}
@start: f32[2] [1, 2]
@embedding: f32[11, 3] random 1
"#,
    )
    .unwrap();
    verify_language_model(&graph).unwrap();
    let streams = [text(9, 1), text(9, 2)];
    for (tokens, expected) in streams.iter().zip(interpreted(&graph, &streams)) {
        for chunk in [1, 2, 9] {
            assert_eq!(outputs(&graph, tokens, chunk), expected);
        }
        // The first unit of the sum: 1 and 0 in turn, plus the second feature of the word before.
        let table = graph.weight(graph.weight_named("embedding").unwrap()).map.to_dense().unwrap();
        let before = f64::from(table.f32s().unwrap()[tokens[3] as usize * 3 + 2]);
        assert_eq!(expected[4 * 5], 2.0 + before);
    }
}

#[test]
fn fused_cells_are_their_steps() {
    let tokens = text(20, 3);
    let extras = Extras { starts: true, ..Extras::NONE };
    let vector = |graph: &Graph, name: &str| -> Vec<f32> {
        graph.weight(graph.weight_named(name).unwrap()).map.to_dense().unwrap().f32s().unwrap().to_vec()
    };
    let gru = Recurrence::Gru(Gru::new(Reset::After));
    let rnn = Recurrence::Rnn(Rnn { activation: Function::Tanh, clip: None });
    for (fused, steps) in [(gru, Recurrence::GruSteps), (rnn, Recurrence::RnnSteps)] {
        let steps = recurrent_model(&steps, [4, 1, WORDS], extras, 5);
        let mut graph = recurrent_model(&fused, [4, 1, WORDS], extras, 6);
        let ids: Vec<(WeightId, String)> = graph.weights().map(|(id, w)| (id, w.name.clone())).collect();
        for (id, name) in ids {
            let mut data = vector(&steps, &name);
            if name == "gru0.bias" {
                let more = vector(&steps, "gru0.state_bias");
                data.iter_mut().zip(&more[..8]).for_each(|(b, m)| *b += m);
                data.extend_from_slice(&more[8..]);
            }
            let shape = graph.weight(id).map.shape();
            graph.set_weight(id, Tensor::from_f32(shape, data).unwrap().into()).unwrap();
        }
        let difference = largest_difference(&outputs(&graph, &tokens, 7), &outputs(&steps, &tokens, 7));
        // The sums of two biases are rounded to f32.
        assert!(difference < 1e-6, "{fused:?}: {difference}");
    }
}

/// Two steps of one unit, with every number written out.
#[test]
fn a_gru_by_hand() {
    let model = |reset: &str, bias: &str| {
        let text = format!(
            r#"
model "one" (vocabulary 2) {{
  %tokens: i64[S, B] = input
  %h0: f32[B, 1] = state @start
  %x = embedding %tokens, @embedding
  %y, %h0.next = gru %x, %h0, @input, @recurrent, @bias {{reset = {reset}, clip = 1}}
  return hidden %y, state %h0 = %h0.next
}}
@start: f32[1] [0.5]
@embedding: f32[2, 1] [2, -1]
@input: f32[3, 1] [0.25, -0.5, 1]
@recurrent: f32[3, 1] [0.125, 0.75, -2]
@bias: {bias}
"#
        );
        outputs(&crate::ir::parse(&text).unwrap(), &[0, 1], 2)
    };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let clip = |x: f64| x.clamp(-1.0, 1.0);
    let step = |h: f64, x: f64, after: bool| {
        let z = sigmoid(clip(0.25 * x + 0.125 * h + 0.0625));
        let r = sigmoid(clip(-0.5 * x + 0.75 * h + 0.25));
        let of_h = if after { r * (-2.0 * h - 0.5) } else { -2.0 * (r * h) };
        (1.0 - z) * clip(x + of_h + 0.375).tanh() + z * h
    };
    for (reset, bias) in
        [("after", "f32[4] [0.0625, 0.25, 0.375, -0.5]"), ("before", "f32[3] [0.0625, 0.25, 0.375]")]
    {
        let first = step(0.5, 2.0, reset == "after");
        let expected = [first, step(first, -1.0, reset == "after")];
        assert!(largest_difference(&model(reset, bias), &expected) < 1e-15, "{reset}");
    }
}

/// All rows that each set of maps has read.
#[derive(Default)]
struct Rows(BTreeMap<Vec<WeightId>, Vec<f64>>);

impl Observer<f64> for Rows {
    fn observe(&mut self, _: NodeId, observation: Observation<'_, f64>) {
        if let Observation::Product { weights, rows, width } = observation {
            assert_eq!(rows.len() % width, 0);
            self.0.entry(weights.to_vec()).or_default().extend(rows);
        }
    }
}

/// Steps of recurrent groups show what they read, step by step, whatever the chunks.
#[test]
fn every_product_shows_its_inputs() {
    let tokens = text(12, 4);
    for (name, graph) in models() {
        let seen = |chunk: usize| {
            let mut rows = Rows::default();
            LanguageModel::new(&graph).unwrap().with_chunk(chunk).run_with(&tokens, &mut rows).unwrap();
            rows.0
        };
        let (whole, parts) = (seen(64), seen(3));
        let maps: usize = graph.weights().filter(|(_, w)| w.map.shape().len() == 2).count() - 1;
        assert_eq!(whole.keys().flatten().count(), maps, "{name}");
        assert_eq!(whole.len(), parts.len());
        // A map that two steps read shows both in each chunk, in another order.
        let twice = name.contains("Before");
        for (rows, others) in whole.values().zip(parts.values()).filter(|_| !twice) {
            assert!(largest_difference(rows, others) < 1e-12, "{name}");
        }
    }
}

#[test]
fn hidden_vectors_have_no_score() {
    let graph =
        recurrent_model(&Recurrence::MinGru, [4, 1, WORDS], Extras { head: Head::Hidden, ..Extras::NONE }, 1);
    assert_eq!(Program::of(&graph).unwrap().head(), Head::Hidden);
    let model = LanguageModel::<f32>::new(&graph).unwrap();
    assert_eq!((model.vocabulary(), model.width()), (WORDS, 4));
    assert_eq!(model.log_likelihood(&[1, 2, 3], &mut |_| {}), Err(InterpretError::NoPredictions));
    // Twice the outputs are as far away as the outputs are long.
    let twice = crate::ir::print_with(&graph, &crate::ir::PrintOptions { inline_up_to: usize::MAX });
    let output = graph.name_of(graph.output_named("hidden").unwrap());
    let double = format!("%twice = add %{output}, %{output}\n  return hidden %twice");
    let twice = twice.replace(&format!("return hidden %{output}"), &double);
    let twice = LanguageModel::<f32>::new(&crate::ir::parse(&twice).unwrap()).unwrap();
    let tokens = text(300, 1);
    assert_eq!(twice.relative_error(&model, &tokens, &mut |_| {}), Ok(1.0));
    assert_eq!(model.relative_error(&model, &tokens, &mut |_| {}), Ok(0.0));
}
