//! Comparisons of small models, and of differences that are known.

use super::{BEST, Interval, compare, paired_interval};
use crate::Source;
use lstmc_backend::Options;
use lstmc_frontend::ir::arbitrary::language_model;
use lstmc_runtime::{Model, Rng, Tokenizer, Vocabulary};

const WORDS: [&str; 9] = ["<eos>", "<unk>", "a", "an", "and", "ant", "be", "bee", "been"];
const BOOTSTRAP: (usize, u64) = (200, 1);

fn model(seed: u64) -> Model {
    let mut source = Source::of_graph(language_model(7, 2, WORDS.len(), seed));
    source.tokenizer = Some(Tokenizer::words(Vocabulary::from_words(WORDS).unwrap()).into());
    source.compile(Options { threads: 1, ..Options::default() }).unwrap()
}

fn sentences() -> Vec<Vec<u32>> {
    vec![vec![2, 5, 6, 0], vec![7, 8, 0], vec![3, 4, 4, 1, 6, 0]]
}

#[test]
fn a_model_is_as_good_as_itself() {
    let found = compare(&[model(1), model(1)], &sentences(), BOOTSTRAP, &mut |_| ()).unwrap();
    assert_eq!((found.predicted, found.sentences), (12, 3));
    assert_eq!(found.models[0], found.models[1]);
    let one = &found.models[1];
    assert_eq!((one.divergence, one.agreement), (0.0, [1.0; BEST.len()]));
    assert_eq!(one.increase, Interval { estimate: 0.0, low: 0.0, high: 0.0 });
}

/// Against the sums of the definition, from the logits of each step.
#[test]
fn figures_by_their_definition() {
    let models = [model(1), model(2)];
    let tokens = sentences().concat();
    let logs = models.each_ref().map(|model| {
        let mut session = model.session();
        let step = |&token: &u32| {
            let logits: Vec<f64> = session.step(token).unwrap().iter().map(|&x| x.into()).collect();
            let total = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
            logits.into_iter().map(|x| x - total).collect::<Vec<f64>>()
        };
        tokens[..tokens.len() - 1].iter().map(step).collect::<Vec<_>>()
    });
    let best = |row: &[f64], k: usize| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        order.truncate(k);
        order
    };
    type OfToken<'f> = &'f dyn Fn(&[f64], &[f64], usize) -> f64;
    let mean = |f: OfToken<'_>| {
        let all = logs[0].iter().zip(&logs[1]).zip(&tokens[1..]).map(|((p, q), &t)| f(p, q, t as usize));
        all.sum::<f64>() / logs[0].len() as f64
    };
    let found = compare(&models, &sentences(), BOOTSTRAP, &mut |_| ()).unwrap().models.swap_remove(1);
    let close = |have: f64, want: f64| assert!((have - want).abs() < 1e-5, "{have}, expected {want}");
    close(found.loss, mean(&|_, q, t| -q[t]));
    close(found.divergence, mean(&|p, q, _| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()));
    for (n, &k) in BEST.iter().enumerate() {
        let common = |p: &[f64], q: &[f64]| best(q, k).iter().filter(|w| best(p, k).contains(w)).count();
        close(found.agreement[n], mean(&|p, q, _| common(p, q) as f64 / k as f64));
        close(found.recall[n], mean(&|_, q, t| f64::from(u8::from(best(q, k).contains(&t)))));
    }
    let letters = |t: usize| if t < 2 { 0 } else { WORDS[t].len() + 1 };
    let strokes = |q: &[f64], t: usize| {
        let suggests = |prefix: &str| {
            let rivals = (2..WORDS.len()).filter(|&w| WORDS[w].starts_with(prefix));
            rivals.filter(|&w| q[w] > q[t]).count() < 3
        };
        (0..WORDS[t].len()).find(|&n| suggests(&WORDS[t][..n])).map_or(letters(t), |n| n + 1).min(letters(t))
    };
    let saved = 1.0 - mean(&|_, q, t| strokes(q, t) as f64) / mean(&|_, _, t| letters(t) as f64);
    close(found.keystrokes_saved.unwrap(), saved);
}

#[test]
fn what_cannot_be_compared() {
    let other = Source::of_graph(language_model(7, 2, 8, 1)).compile(Options::default()).unwrap();
    let error = compare(&[model(1), other], &sentences(), BOOTSTRAP, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("9 words") && error.contains('8'), "{error}");
    for text in [&[][..], &[vec![3]]] {
        let error = compare(&[model(1)], text, BOOTSTRAP, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("at least two tokens"), "{error}");
    }
}

/// Of 200 pairs of models whose true difference is known, the interval holds it for about 95%.
#[test]
fn intervals_hold_what_is_true() {
    let mut rng = Rng::new(7);
    // Near enough to a normal distribution: a sum of twelve numbers, each of variance 1 / 12.
    let mut normal = move || (0..12).map(|_| rng.next_f64()).sum::<f64>() - 6.0;
    let (truth, spread) = (0.02, 0.3);
    let held = (0..200u64)
        .filter(|&pair| {
            let (mut reference, mut losses, mut counts) = (vec![], vec![], vec![]);
            for _ in 0..150 {
                // Sentences of some 20 words: their losses differ far more than the two models do.
                let count = (20.0 + 6.0 * normal()).round().max(1.0);
                let loss = count * 4.7 + 10.0 * normal();
                counts.push(count);
                reference.push(loss);
                losses.push(loss + count * truth + count.sqrt() * spread * normal());
            }
            let found = paired_interval(&reference, &losses, &counts, 400, pair);
            let truth = f64::exp(truth) - 1.0;
            found.low <= truth && truth <= found.high
        })
        .count();
    // 190 are expected; the binomial distribution leaves 178 to 199 in all but one case of a thousand.
    assert!((178..=199).contains(&held), "{held} of 200");
}
