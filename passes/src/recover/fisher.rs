//! Second moments of the gradients at the results of a model's products, for words that the model itself draws: diagonal blocks of its Fisher
//! information.
//!
//! ```text
//!   streams ─▶ forward ─▶ p ─▶ a word drawn from p ─▶ backward ─▶ g of each sum ─▶ E[g_i^2];  g of each looked-up row ─▶ E[g g^T]
//! ```
//!
//! Streams are read as in training: in windows, with the state carried on and gradients truncated, in shards whose number does not depend on threads.
//! The sums of the output layer need no drawing: `E[g_i^2] = E[p_i (1 - p_i)]`.

use super::loss::draw;
use super::network::{Network, State};
use super::number::{Number, View};
use super::shard::streams;
use super::text::Text;
use super::weights::{Form, Receive, Weights};
use crate::pass::PassError;
use lstmc_frontend::ir::Graph;
use lstmc_frontend::ir::arbitrary::SplitMix64;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// Streams of a text that is long enough.
const STREAMS: usize = 40;

/// Steps that gradients go back.
const STEPS: usize = 50;

/// Of the words that are drawn.
const SEED: u64 = 1;

/// A moment of the gradients at a map.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Moment {
    /// The weight's name.
    pub(crate) weight: String,
    /// The way from the weight's map to the factor that the gradients are at: `left` or `right` for each.
    pub(crate) path: Vec<&'static str>,
    /// The mean over the tokens.
    pub(crate) values: Vec<f64>,
}

/// The second moments of a model's gradients.
pub(crate) struct Moments {
    pub(crate) tokens: usize,
    /// `E[g_i^2]` at each row of a map's product, and of its factors' products.
    pub(crate) squares: Vec<Moment>,
    /// `E[g g^T]` of the rows of a table, `[width, width]`, and of its left factors.
    pub(crate) grams: Vec<Moment>,
}

/// Reads `tokens`, at least two and all of the vocabulary. `progress` gets the number of tokens read, and the total.
pub(crate) fn moments(
    graph: &Graph,
    tokens: &[u32],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Moments, PassError> {
    moments_in::<f32>(graph, tokens, progress)
}

pub(super) fn moments_in<T: Number>(
    graph: &Graph,
    tokens: &[u32],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Moments, PassError> {
    let network = Network::<T>::new(graph, None)?.with_all_gradients();
    let output = network.output_maps();
    let text = Text::of(tokens, (tokens.len() / STEPS).clamp(1, STREAMS), STEPS);
    let shard = |streams: Range<usize>| Shard {
        rng: generator(streams.start),
        streams,
        state: State::default(),
        sums: Sums { output: &output, ..Sums::default() },
    };
    let mut shards: Vec<Shard<'_, T>> = streams(text.batch).map(shard).collect();
    let windows = 0..text.windows();
    let (total, mut read) = (windows.clone().map(|k| text.tokens_in(k)).sum(), 0);
    for k in windows {
        shards.par_iter_mut().for_each(|shard| shard.read(&network, &text, k));
        read += text.tokens_in(k);
        progress(read, total);
    }
    let mut sums = Sums::default();
    for Shard { sums: of, .. } in &shards {
        of.squares.iter().for_each(|(form, more)| add(&mut sums.squares, form, more));
        of.grams.iter().for_each(|(form, more)| add(&mut sums.grams, form, more));
    }
    let mut found = Moments { tokens: total, squares: vec![], grams: vec![] };
    for (id, form) in network.weights.forms() {
        let name = &graph.weight(id).name;
        collect(&sums.squares, (name, form, vec![]), total, &mut found.squares);
        collect(&sums.grams, (name, form, vec![]), total, &mut found.grams);
    }
    Ok(found)
}

/// Draws the words of streams from the one with this number on.
pub(super) fn generator(stream: usize) -> SplitMix64 {
    SplitMix64::new(SplitMix64::new(SEED).next_u64().wrapping_add(stream as u64))
}

/// The moments of a map and its factors, from sums over all tokens.
fn collect(
    sums: &BTreeMap<Form, Vec<f64>>,
    (weight, form, path): (&str, &Form, Vec<&'static str>),
    tokens: usize,
    out: &mut Vec<Moment>,
) {
    if let Some(sum) = sums.get(form) {
        let values = sum.iter().map(|s| s / tokens as f64).collect();
        out.push(Moment { weight: weight.into(), path: path.clone(), values });
    }
    if let Form::Product(left, right) = form {
        for (factor, name) in [(left, "left"), (right, "right")] {
            collect(sums, (weight, factor, [&path[..], &[name]].concat()), tokens, out);
        }
    }
}

/// Some of the streams.
struct Shard<'n, T> {
    streams: Range<usize>,
    state: State<T>,
    rng: SplitMix64,
    sums: Sums<'n>,
}

impl<T: Number> Shard<'_, T> {
    fn read(&mut self, network: &Network<T>, text: &Text<'_>, window: usize) {
        let [inputs, _] = text.window(window, self.streams.clone());
        let mut tape = network.forward(&inputs, self.streams.len(), &mut self.state, None);
        let mut logits = tape.take_logits(network);
        self.sums.words = draw(&mut logits, inputs.len(), &mut self.rng);
        network.backward(&inputs, &tape, logits, &mut self.sums);
    }
}

/// Sums over tokens.
#[derive(Default)]
struct Sums<'n> {
    squares: BTreeMap<Form, Vec<f64>>,
    grams: BTreeMap<Form, Vec<f64>>,
    /// The maps whose gradients are `p - 1` for the word that was drawn, and `p` for others.
    output: &'n [&'n Form],
    /// The words that were drawn in the window.
    words: Vec<u32>,
}

impl Sums<'_> {
    /// The sum of the squares of each column, or of their expectations.
    fn of_columns<T: Number>(&self, form: &Form, n: usize, dy: &[T]) -> Vec<f64> {
        let width = dy.len() / n.max(1);
        let mut sums = vec![0.0; width];
        let is_output = self.output.contains(&form);
        for (k, row) in dy.chunks_exact(width.max(1)).enumerate() {
            let squares = sums.iter_mut().zip(row);
            match self.words.get(k).filter(|_| is_output) {
                None => squares.for_each(|(s, d)| *s += d.to_f64() * d.to_f64()),
                Some(&word) => {
                    squares.for_each(|(s, d)| *s += d.to_f64() * (1.0 - d.to_f64()));
                    // With `d = p - 1`, what was added is `d (1 - d)`, and `p (1 - p) = -d (1 + d)`.
                    sums[word as usize] -= 2.0 * row[word as usize].to_f64();
                }
            }
        }
        sums
    }
}

impl<T: Number> Receive<T> for Sums<'_> {
    fn product(&mut self, w: &Weights<T>, form: &Form, n: usize, _: &[T], dy: &[T]) {
        let squares = self.of_columns(form, n, dy);
        let mut form = form;
        add(&mut self.squares, form, &squares);
        // A left factor has the same results.
        while let Form::Product(left, right) = form {
            add(&mut self.squares, left, &squares);
            self.product(w, right, n, &[], &w.apply_transposed(left, n, dy));
            form = left;
        }
    }

    fn rows(&mut self, w: &Weights<T>, form: &Form, tokens: &[u32], dy: &[T]) {
        let n = tokens.len();
        let width = dy.len() / n.max(1);
        let mut gram = vec![T::of(0.0); width * width];
        let dy_view = View::new(dy, n, width);
        dy_view.transposed().times(dy_view, &mut gram);
        add(&mut self.grams, form, &gram.iter().map(|g| g.to_f64()).collect::<Vec<_>>());
        if let Form::Product(left, right) = form {
            self.rows(w, left, tokens, &w.apply(right, n, dy));
        }
    }

    fn vector(&mut self, _: &Weights<T>, _: &Form, _: &[T]) {}
}

/// Adds to the sum of a map.
fn add(sums: &mut BTreeMap<Form, Vec<f64>>, form: &Form, more: &[f64]) {
    match sums.get_mut(form) {
        Some(sum) => sum.iter_mut().zip(more).for_each(|(s, m)| *s += m),
        None => _ = sums.insert(form.clone(), more.to_vec()),
    }
}
