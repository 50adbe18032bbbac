//! Moments of gradients against the gradients of weights.

use super::super::fisher::{Moments, moments_in};
use super::super::loss::draw;
use super::*;

fn moments(graph: &Graph, tokens: &[u32]) -> Moments {
    moments_in::<f64>(graph, tokens, &mut |_, _| {}).unwrap()
}

/// The moment at a factor.
fn values<'m>(moments: &'m [super::super::fisher::Moment], weight: &str, path: &[&str]) -> &'m [f64] {
    &moments.iter().find(|m| m.weight == weight && m.path == path).unwrap().values
}

/// The gradients of the weights of `target` in one window of one stream, for the words that [`moments`] draws.
fn gradients(graph: &Graph, tokens: &[u32], target: &str) -> Vec<Vec<f64>> {
    let network: Network<f64> = Network::new(graph, Some(&Target::new(target))).unwrap();
    let inputs = &tokens[..tokens.len() - 1];
    let mut tape = network.forward(inputs, 1, &mut State::default(), None);
    let mut logits = tape.take_logits(&network);
    draw(&mut logits, inputs.len(), &mut super::super::fisher::generator(0));
    let mut gradients = network.weights.gradients();
    network.backward(inputs, &tape, logits, &mut gradients);
    network.weights.pull(&mut gradients);
    gradients.into_iter().filter(|g| !g.is_empty()).collect()
}

fn close(found: &[f64], expected: impl Iterator<Item = f64>) {
    let expected: Vec<f64> = expected.collect();
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()), "{found:?} {expected:?}");
    }
}

/// Each word occurs once, so a row of the table's gradient is that of one step.
#[test]
fn grams_are_of_the_rows_gradients() {
    const UNITS: usize = 4;
    let graph = language_model(UNITS, 2, WORDS, 3);
    let tokens = [3, 1, 5, 0, 4, 2, 6];
    let [table] = &gradients(&graph, &tokens, "embedding")[..] else { panic!("one table") };
    let n = (tokens.len() - 1) as f64;
    let gram = |k: usize| table.chunks(UNITS).map(|g| g[k / UNITS] * g[k % UNITS]).sum::<f64>() / n;
    close(values(&moments(&graph, &tokens).grams, "embedding", &[]), (0..UNITS * UNITS).map(gram));
}

/// With one step the gradient of a bias is that of the sum.
#[test]
fn squares_are_of_the_sums_gradients() {
    const UNITS: usize = 4;
    let mut graph = language_model(UNITS, 2, WORDS, 3);
    let id = graph.weight_named("lstm0.input").unwrap();
    graph.set_weight(id, random_map(Kind::LowRank, [4 * UNITS, UNITS], 5)).unwrap();
    let LinearMap::LowRank(map) = &*graph.weight(id).map else { panic!("two factors") };
    let left = map.left().to_dense().unwrap().to_f32().unwrap().to_vec();
    let found = moments(&graph, &[3, 1]);
    for layer in ["lstm0", "lstm1"] {
        let [bias] = &gradients(&graph, &[3, 1], &format!("{layer}.bias"))[..] else { panic!("one bias") };
        for map in ["input", "recurrent"] {
            close(values(&found.squares, &format!("{layer}.{map}"), &[]), bias.iter().map(|g| g * g));
        }
        if layer == "lstm0" {
            let rank = left.len() / bias.len();
            let inner = |k| -> f64 { left.chunks(rank).zip(bias).map(|(l, g)| f64::from(l[k]) * g).sum() };
            close(values(&found.squares, "lstm0.input", &["right"]), (0..rank).map(|k| inner(k).powi(2)));
            close(values(&found.squares, "lstm0.input", &["left"]), bias.iter().map(|g| g * g));
        }
    }
}

#[test]
fn words_are_drawn_by_their_probabilities() {
    const ROWS: usize = 20_000;
    let logits = [0.0f64, 1.0, -1.0, 2.0];
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    let mut rows = logits.repeat(ROWS);
    let words = draw(&mut rows, ROWS, &mut SplitMix64::new(1));
    for (word, logit) in logits.iter().enumerate() {
        let p = logit.exp() / sum;
        let share = words.iter().filter(|&&w| w as usize == word).count() as f64 / ROWS as f64;
        // Four standard deviations.
        assert!((share - p).abs() < 4.0 * (p * (1.0 - p) / ROWS as f64).sqrt(), "{share} {p}");
        let of_row = p - f64::from(u8::from(words[0] as usize == word));
        assert!((rows[word] - of_row).abs() < 1e-12);
    }
}
