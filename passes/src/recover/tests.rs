//! Gradients against finite differences, and what training comes to.

mod checkpoint;
mod fisher;

use super::loss::cross_entropy;
use super::network::{Network, State};
use super::optimizer::{Method, Optimizer, Schedule};
use crate::budget::Evaluate;
use crate::{Calibration, Context, Pipeline, RunError, Settings, Target, Verdict, run};
use lstmc_frontend::interpret;
use lstmc_frontend::ir::arbitrary::{
    ALL_FORMATS_FROM, Extras, Kind, Recurrence, SplitMix64, language_model, language_model_of,
    language_model_of_cells, lstm_variants, random_map, recurrent_model,
};
use lstmc_frontend::ir::{Activations, Part, WeightId};
use lstmc_frontend::ir::{Graph, Head, LinearMap, LowRank, SetActivations, parse, print};
use lstmc_frontend::tensor::Tensor;
use std::sync::Arc;

pub(crate) const WORDS: usize = 7;
const STREAMS: usize = 2;

/// A step of the finite differences, and how far those may be off: the step's square for its curvature, `f64::EPSILON / STEP` for rounding, times
/// some tens for third derivatives.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-8;

fn random_tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    (0..n).map(|_| rng.below(WORDS) as u32).collect()
}

/// The state after a few words: gradients do not go back to before it.
fn state_before(network: &Network<f64>) -> State<f64> {
    let mut state = State::default();
    network.forward(&random_tokens(2 * STREAMS, 5), STREAMS, &mut state, None);
    state
}

/// The loss of a window that starts in a state, and its gradients.
fn loss_and_gradients(
    network: &Network<f64>,
    before: &State<f64>,
    teacher: Option<f64>,
) -> (f64, Vec<Vec<f64>>) {
    let tokens = random_tokens(5 * STREAMS, 3);
    let mut state = before.clone();
    let mut tape = network.forward(&tokens, STREAMS, &mut state, None);
    let mut logits = tape.take_logits(network);
    let targets = random_tokens(tokens.len(), 4);
    let soft = teacher.map(|mix| {
        let mut rng = SplitMix64::new(6);
        (logits.iter().map(|_| f64::from(rng.centered())).collect::<Vec<f64>>(), mix)
    });
    let mut loss = 0.0;
    if let Some((soft, mix)) = &soft {
        // What the documentation says, plainly.
        for (row, soft) in logits.chunks(WORDS).zip(soft.chunks(WORDS)) {
            let sums = [row, soft].map(|r| r.iter().map(|x| x.exp()).sum::<f64>());
            for (x, q) in row.iter().zip(soft) {
                loss -= mix * (q.exp() / sums[1]) * (x - sums[0].ln());
            }
        }
    }
    let mix = teacher.unwrap_or(0.0);
    loss += (1.0 - mix) * cross_entropy(&mut logits, &targets, 1.0, soft);
    let mut gradients = network.weights.gradients();
    network.backward(&tokens, &tape, logits, &mut gradients);
    network.weights.pull(&mut gradients);
    (loss, gradients)
}

/// Compares all gradients of a graph with finite differences, in a window within a text. Returns how many were compared.
fn check_gradients(graph: &Graph, target: &str, teacher: Option<f64>) -> usize {
    let network: Network<f64> = Network::new(graph, Some(&Target::new(target))).unwrap();
    check_gradients_from(graph, state_before(&network), target, teacher)
}

/// The same in a window that begins in a state.
fn check_gradients_from(graph: &Graph, state: State<f64>, target: &str, teacher: Option<f64>) -> usize {
    let mut network: Network<f64> = Network::new(graph, Some(&Target::new(target))).unwrap();
    let (loss, gradients) = loss_and_gradients(&network, &state, teacher);
    assert!(loss.is_finite());
    let sizes: Vec<(usize, usize)> = network.weights.parameters().map(|(k, p)| (k, p.len())).collect();
    let mut count = 0;
    for (which, &(slot, n)) in sizes.iter().enumerate() {
        assert_eq!(gradients[slot].len(), n);
        for (k, &found) in gradients[slot].iter().enumerate() {
            if found == 0.0 && network.weights.is_masked(slot, k) {
                continue;
            }
            let mut at = |by: f64| {
                network.weights.parameters().nth(which).unwrap().1[k] += by;
                network.weights.refresh();
                let loss = loss_and_gradients(&network, &state, teacher).0;
                network.weights.parameters().nth(which).unwrap().1[k] -= by;
                loss
            };
            let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            assert!(
                (found - expected).abs() <= TOLERANCE * (1.0 + expected.abs()),
                "slot {slot}, {k}: {found}, expected {expected}\n{}",
                print(graph)
            );
            count += 1;
        }
    }
    count
}

/// A map without codes, whose loss is smooth: those are replaced by what they stand for.
fn smooth(map: &LinearMap) -> LinearMap {
    let part = |m: &Part| Part::new(smooth(m));
    match map {
        LinearMap::Quantized(_) => LinearMap::Dense(map.to_dense().unwrap()),
        LinearMap::Sparse(s) => {
            let values = part(s.values());
            let new = lstmc_frontend::ir::Sparse::new(s.pattern(), s.mask().clone(), values);
            LinearMap::Sparse(new.unwrap())
        }
        LinearMap::LowRank(l) => LinearMap::LowRank(LowRank::new(part(l.left()), part(l.right())).unwrap()),
        LinearMap::TensorTrain(t) => {
            let cores = t.cores().iter().map(part).collect();
            let (out_modes, in_modes) = (t.out_modes().to_vec(), t.in_modes().to_vec());
            let new = lstmc_frontend::ir::TensorTrain::new(t.shape(), out_modes, in_modes, cores);
            LinearMap::TensorTrain(new.unwrap())
        }
        LinearMap::Dense(_) => map.clone(),
    }
}

/// Every variant of a cell, peepholes included.
#[test]
fn gradients_of_every_variant_are_those_of_the_loss() {
    for (cell, peepholes) in lstm_variants() {
        let make = |_: &str, shape| random_map(Kind::Dense, shape, 3);
        let graph = language_model_of_cells(&cell, peepholes, [3, 2, WORDS], make);
        assert!(check_gradients(&graph, "*", None) > 100, "{cell:?}");
    }
}

/// Every recurrent layer, within a text and from learned starts.
#[test]
fn gradients_of_every_recurrence_are_those_of_the_loss() {
    for kind in Recurrence::all() {
        for extras in [Extras::NONE, Extras::ALL] {
            let graph = recurrent_model(&kind, [3, 2, WORDS], extras, 2);
            assert!(check_gradients(&graph, "*", None) > 50, "{kind:?}");
            check_gradients_from(&graph, State::default(), "*", None);
            if extras.starts {
                check_gradients_from(&graph, State::default(), "*.initial", None);
            }
        }
    }
}

/// Training makes every model better, learned starts included; a model without predictions is refused by name.
#[test]
fn every_recurrence_is_trained() {
    for kind in Recurrence::general() {
        let graph = recurrent_model(&kind, [8, 1, WORDS], Extras::ALL, 2);
        let run = recovered("recover(target=*, epochs=6, lr=0.3, dropout=0.1)", graph, true).unwrap();
        let record = &run.trail.records[0];
        assert!(record.after.perplexity < record.before.perplexity, "{kind:?}: {:?}", record.notes);
        assert!(record.weights_changed.iter().any(|w| w.ends_with(".initial")), "{kind:?}");
    }
    let hidden = Extras { head: Head::Hidden, ..Extras::NONE };
    let graph = recurrent_model(&Recurrence::MinGru, [8, 1, WORDS], hidden, 2);
    let error = recovered("recover(target=*, epochs=1)", graph, false).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "recover: the model returns a hidden vector, and training needs the probabilities of words"
        ),
        "{error}"
    );
}

/// Every representation in every place, with a few nestings of each.
#[test]
fn gradients_are_those_of_the_loss() {
    let mut compared = 0;
    for kind in Kind::ALL {
        for seed in 0..6 {
            for place in ["embedding", "lstm0.input", "lstm0.recurrent", "decoder"] {
                let graph = language_model_of(3, 1, WORDS, |name, shape| {
                    let kind = if name == place { kind } else { Kind::Dense };
                    smooth(&random_map(kind, shape, seed))
                });
                compared += check_gradients(&graph, place, None);
            }
        }
    }
    assert!(compared > 1000);
    // Everything at once, over two layers, and with a teacher.
    let graph = language_model_of(3, 2, WORDS, |name, shape| {
        smooth(&random_map(Kind::ALL[name.len() % 5], shape, name.len() as u64))
    });
    check_gradients(&graph, "*", None);
    check_gradients(&graph, "*", Some(0.3));
}

/// Skip connections, every elementwise operator, a constant that is trained, a tied embedding and a shared factor.
const MIXED: &str = r#"
model "mixed" (vocabulary 7) {
  %tokens: i64[S, B] = input
  %h0: f32[B, 3] = state
  %c0: f32[B, 3] = state
  %x0 = embedding %tokens, @embedding
  %x1, %h0.next, %c0.next = lstm %x0, %h0, %c0, @input, @recurrent, @bias {gates = ifgo}
  %x2 = add %x1, %x0
  %x3 = mul %x2, @scale
  %x4 = tanh %x3
  %x5 = sigmoid %x1
  %x6 = div %x4, %x5
  %x7 = relu %x6
  %x8 = sub %x7, %x0
  %x9 = linear %x8, @between, @between.bias
  %logits = linear %x9, @embedding
  return logits %logits, state %h0 = %h0.next, state %c0 = %c0.next
}
@embedding: f32[7, 3] random 1
@input: low_rank [12, 3] { left: f32[12, 2] random 2, right: f32[2, 3] random 3 }
@recurrent: low_rank [12, 3] { left: @input/left, right: f32[2, 3] random 4 }
@bias: f32[12] random 5
@scale: f32[3] random 6
@between: f32[3, 3] random 7
@between.bias: f32[3] random 8
"#;

#[test]
fn gradients_through_every_operator() {
    let graph = parse(MIXED).unwrap();
    let all = 21 + 24 + 6 + 6 + 12 + 3 + 9 + 3;
    assert_eq!(check_gradients(&graph, "*", None), all);
    // A factor that is shared is one parameter, whoever names it.
    assert_eq!(check_gradients(&graph, "recurrent", None), 24 + 6);
}

/// Straight through: codes get the gradient of the numbers that they stand for.
#[test]
fn codes_get_the_gradients_of_what_they_stand_for() {
    for seed in (0..8).chain(ALL_FORMATS_FROM..ALL_FORMATS_FROM + 8) {
        let coded = language_model_of(4, 1, WORDS, |_, shape| {
            SetActivations::new(Activations::F32)
                .set(&random_map(Kind::Quantized, shape, seed).into())
                .into_map()
        });
        let mut plain = coded.clone();
        for (id, weight) in coded.weights() {
            plain.set_weight(id, smooth(&weight.map).into()).unwrap();
        }
        let [coded, plain] = [&coded, &plain].map(|graph| {
            let network = Network::new(graph, Some(&Target::new("*"))).unwrap();
            let (loss, gradients) = loss_and_gradients(&network, &state_before(&network), None);
            let of_numbers =
                gradients.into_iter().enumerate().filter(|(k, _)| !network.weights.is_scales(*k));
            of_numbers.flat_map(|(_, g)| g).chain([loss]).collect::<Vec<f64>>()
        });
        // What codes stand for is an f32 in the plain graph.
        const TOLERANCE: f64 = 16.0 * f32::EPSILON as f64;
        for (c, p) in coded.iter().zip(&plain) {
            assert!((c - p).abs() <= TOLERANCE, "{c}, {p}");
        }
    }
}

/// The gradient of a scale, as the documentation says it, where numbers are between codes and out of their reach.
#[test]
fn scales_get_their_gradients() {
    let text = MIXED.replace("linear %x9, @embedding", "linear %x9, @decoder");
    let graph =
        parse(&(text + "@decoder: int4 group 2 [7, 3] { codes: random 1, scales: random 2 }\n")).unwrap();
    let mut network: Network<f64> = Network::new(&graph, Some(&Target::new("decoder"))).unwrap();
    let slots: Vec<usize> = network.weights.parameters().map(|(slot, _)| slot).collect();
    assert!(network.weights.is_scales(slots[0]));
    let mut rng = SplitMix64::new(1);
    let mut values = network.weights.values();
    values[1].iter_mut().for_each(|x| *x *= 1.0 + f64::from(rng.centered()));
    network.weights.set(values);
    let [scales, numbers] = <[Vec<f64>; 2]>::try_from(network.weights.values()).unwrap();
    let (_, gradients) = loss_and_gradients(&network, &state_before(&network), None);
    let of_numbers = &gradients[slots[1]];
    let mut out_of_reach = 0;
    for (k, (&scale, &found)) in scales.iter().zip(&gradients[slots[0]]).enumerate() {
        let of_group = if k % 2 == 0 { 0..2 } else { 2..3 };
        let (n, mut expected) = (of_group.len() as f64, 0.0);
        for j in of_group.map(|j| k / 2 * 3 + j) {
            let u = numbers[j] / scale;
            let code = u.round_ties_even().clamp(-8.0, 7.0);
            let is_out = !(-8.001..7.001).contains(&u);
            out_of_reach += usize::from(is_out);
            expected += of_numbers[j] * if is_out { code } else { code - u };
        }
        expected /= (n * 7.0).sqrt();
        assert!((found - expected).abs() < 1e-12, "{k}: {found}, {expected}");
    }
    assert!((1..10).contains(&out_of_reach), "{out_of_reach}");
}

/// The way forward is what the interpreter computes.
#[test]
fn forward_is_the_interpreter() {
    let tokens = random_tokens(12, 1);
    for kind in Kind::ALL {
        for seed in 0..5 {
            let graph = language_model_of(4, 2, WORDS, |_, shape| {
                SetActivations::new(Activations::F32).set(&random_map(kind, shape, seed).into()).into_map()
            });
            let expected = -interpret::LanguageModel::<f64>::new(&graph)
                .unwrap()
                .log_likelihood(&tokens, &mut |_| {})
                .unwrap();
            let network: Network<f64> = Network::new(&graph, None).unwrap();
            let mut tape = network.forward(&tokens[..11], 1, &mut State::default(), None);
            let found = cross_entropy(&mut tape.take_logits(&network), &tokens[1..], 1.0, None);
            assert!((found - expected).abs() < 1e-9 * expected, "{found}, {expected}\n{}", print(&graph));
        }
    }
}

/// Balanced factors have columns and rows of equal length, jointly where they are shared, and the model computes what it did. Whatever is not free stays.
#[test]
fn factors_are_balanced() {
    let text = MIXED.replace(
        "@between: f32[3, 3] random 7",
        "@between: low_rank [3, 3] { left: f32[3, 2] random 7, right: int8 row [2, 3] { codes: random 9, scales: random 10 } }",
    );
    let graph = parse(&text).unwrap();
    let network = |target| Network::<f64>::new(&graph, Some(&Target::new(target))).unwrap();
    let parameters = |network: &mut Network<f64>| -> Vec<Vec<f64>> {
        network.weights.parameters().map(|(_, p)| p.clone()).collect()
    };
    let logits = |network: &Network<f64>| {
        let mut tape = network.forward(&random_tokens(10, 1), STREAMS, &mut state_before(network), None);
        tape.take_logits(network)
    };
    let (mut plain, mut balanced) = (network("*"), network("*"));
    balanced.weights.balance();
    for (a, b) in logits(&plain).iter().zip(logits(&balanced)) {
        assert!((a - b).abs() < 1e-12 * (1.0 + a.abs()), "{a}, {b}");
    }
    // In the order of the layers: embedding, then left, right and right of the lstm.
    let [before, after] = [&mut plain, &mut balanced].map(parameters);
    let changed: Vec<usize> = (0..before.len()).filter(|&k| before[k] != after[k]).collect();
    assert_eq!(changed, [1, 2, 3]);
    for j in 0..2 {
        let square = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        let left: Vec<f64> = after[1].chunks(2).map(|row| row[j]).collect();
        let rights = square(&after[2][j * 3..][..3]) + square(&after[3][j * 3..][..3]);
        assert!((square(&left) - rights).abs() < 1e-12, "{left:?}, {rights}");
    }
    // The left factor is shared with a map that is not trained.
    let mut partly = network("recurrent");
    let before = parameters(&mut partly);
    partly.weights.balance();
    assert_eq!(before, parameters(&mut partly));
}

/// One text over and over, to be learnt by heart.
pub(super) fn text() -> Vec<u32> {
    [0, 3, 1, 4, 2, 6, 5, 1, 1, 2].repeat(40)
}

pub(super) struct Interpreter(pub(super) Vec<u32>);

impl Evaluate for Interpreter {
    fn perplexity(&mut self, graph: &Graph) -> Result<f64, String> {
        let model = interpret::LanguageModel::<f32>::new(graph).map_err(|e| e.to_string())?;
        let sum = model.log_likelihood(&self.0, &mut |_| {}).map_err(|e| e.to_string())?;
        Ok((-sum / (self.0.len() - 1) as f64).exp())
    }
}

pub(crate) fn recovered(passes: &str, graph: Graph, validate: bool) -> Result<crate::Run, RunError> {
    let (tokens, mut evaluator) = (text(), Interpreter(text()));
    let mut context = Context { training: Some(&tokens), ..Context::default() };
    if validate {
        context.evaluator = Some(&mut evaluator);
    }
    let settings = Settings { context, ..Settings::default() };
    run(&Pipeline::parse(passes).unwrap(), graph, settings)
}

fn perplexity(graph: &Graph) -> f64 {
    Interpreter(text()).perplexity(graph).unwrap()
}

/// A tiny model learns a tiny text, in each representation, with either optimizer.
#[test]
fn a_text_is_learnt_by_heart() {
    let graph = || language_model(12, 1, WORDS, 1);
    for (before, options) in [
        ("", "lr=1"),
        ("", "optimizer=adamw, lr=0.02, schedule=cosine, decay=0.001"),
        ("prune(sparsity=0.5, method=magnitude, resolve=false, bias-correction=false), ", "lr=1"),
        ("low-rank(rank=4, method=svd, shared=true), ", "lr=0.3"),
        ("tensor-train(cores=2, rank=6, method=svd), ", "lr=1"),
        ("quantize(bits=4, method=nearest), ", "lr=0.3"),
    ] {
        let passes = format!("{before}recover({options}, epochs=40, batch=4, bptt=10)");
        let run = recovered(&passes, graph(), true).unwrap();
        let found = perplexity(&run.graph);
        assert!(found < 1.3, "{passes}: {found}\n{}", run.trail);
    }
}

/// What the passes before made stays so: masks, factors that are shared, codes.
#[test]
fn representations_stay() {
    let kept = |passes: &str| {
        let before = recovered(passes, language_model(12, 2, WORDS, 1), false).unwrap().graph;
        let passes = format!("{passes}, recover(batch=4)");
        let after = recovered(&passes, language_model(12, 2, WORDS, 1), false).unwrap().graph;
        for ((_, a), (_, b)) in before.weights().zip(after.weights()) {
            assert_ne!(a.map, b.map, "@{} is trained", a.name);
            if let (LinearMap::Sparse(a), LinearMap::Sparse(b)) = (&*a.map, &*b.map) {
                assert_eq!(a.mask(), b.mask());
            }
        }
        let without_hashes = |g: &Graph| {
            let text = print(g);
            let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default().to_string());
            lines.collect::<Vec<_>>()
        };
        assert_eq!(without_hashes(&before), without_hashes(&after));
        assert_eq!(before.weights().count(), after.weights().count());
        let stored = |g: &Graph| crate::Measure::of(g);
        assert_eq!(stored(&before), stored(&after));
    };
    kept("prune(sparsity=0.5, method=magnitude, resolve=false, bias-correction=false)");
    kept("low-rank(rank=4, method=svd, shared=true)");
}

#[test]
fn only_the_target_is_trained() {
    let before = language_model(12, 1, WORDS, 1);
    let run = recovered("recover(target=decoder*, batch=4)", before.clone(), false).unwrap();
    assert_eq!(run.trail.records[0].weights_changed, ["decoder", "decoder.bias"]);
    for (id, weight) in before.weights() {
        let same = weight.map == run.graph.weight(id).map;
        assert_eq!(same, !weight.name.starts_with("decoder"), "@{}", weight.name);
    }
}

/// `refit` takes the output layer back to the model before, and leaves the rest alone.
#[test]
fn the_output_layer_is_refitted() {
    let learn = "recover(lr=1, epochs=40, batch=4, bptt=10)";
    let model = recovered(learn, language_model(12, 1, WORDS, 1), false).unwrap().graph;
    let prune = "prune(target=decoder, sparsity=0.6, method=magnitude, resolve=false, bias-correction=false, refit-rounds=0)";
    let pruned = recovered(prune, model.clone(), false).unwrap().graph;
    let run = recovered(&format!("{prune}, refit(epochs=40)"), model.clone(), false).unwrap();
    let [known, lost, fitted] = [&model, &pruned, &run.graph].map(perplexity);
    assert!(fitted - known < (lost - known) / 2.0, "{known}, pruned {lost}, refitted {fitted}");
    assert_eq!(run.trail.records[1].weights_changed, ["decoder", "decoder.bias"]);
}

/// What comes after training gets statistics of the trained model, as if it were a run of its own.
#[test]
fn statistics_are_of_the_trained_model() {
    let tokens = text();
    let calibrated = |passes: &str, graph: Graph| {
        let calibration = Some(Calibration::of_text(tokens.clone()));
        let context = Context { training: Some(&tokens), calibration, ..Context::default() };
        let settings = Settings { context, ..Settings::default() };
        run(&Pipeline::parse(passes).unwrap(), graph, settings).unwrap().graph
    };
    let (prune, train, quantize) = (
        "prune(target=decoder, sparsity=0.3)",
        "recover(lr=1, epochs=20, batch=4, bptt=10)",
        "quantize(bits=3, group=4)",
    );
    let graph = || language_model(12, 1, WORDS, 1);
    let trained = calibrated(&format!("{prune}, {train}"), graph());
    let at_once = calibrated(&format!("{prune}, {train}, {quantize}"), graph());
    assert_eq!(print(&at_once), print(&calibrated(quantize, trained)));
}

/// The same seed gives the same bits, another one other bits.
#[test]
fn a_seed_decides() {
    let run = |seed: u64| {
        let passes = format!("recover(batch=4, dropout=0.3, distill=0.5, seed={seed})");
        print(&recovered(&passes, language_model(12, 1, WORDS, 1), false).unwrap().graph)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Any number of threads gives the same bits. Products are spread over threads from four on, at the test's threshold.
#[test]
fn threads_decide_nothing() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let passes = "low-rank(target=decoder, rank=4, method=svd), recover(batch=5, dropout=0.3, epochs=2)";
        pool.install(|| print(&recovered(passes, language_model(12, 1, WORDS, 1), false).unwrap().graph))
    };
    let one = on(1);
    for threads in [2, 3, 4, 8] {
        assert_eq!(one, on(threads), "{threads} threads");
    }
}

/// A rate that throws weights about is noticed, and what was better is kept.
#[test]
fn divergence_stops() {
    let verdict = |passes: &str, validate| {
        let run = recovered(passes, language_model(12, 1, WORDS, 1), validate).unwrap();
        (run.trail.records[0].verdict.clone(), run.trail.records[0].notes.join("; "))
    };
    let (verdict_of, _) = verdict("recover(batch=4, lr=1000, clip=1000, schedule=constant, epochs=9)", true);
    let Verdict::NoEffect(why) = verdict_of else { panic!("{verdict_of:?}") };
    assert!(why.contains("training diverged at window"), "{why}");
    assert!(why.contains("use a lower lr or clip"), "{why}");
}

#[test]
fn what_cannot_be_trained_is_said() {
    let error = |passes: &str, training: Option<&[u32]>| {
        let settings =
            Settings { context: Context { training, ..Context::default() }, ..Settings::default() };
        let run = Pipeline::parse(passes)
            .map_err(|e| e.to_string())
            .and_then(|p| run(&p, language_model(4, 1, WORDS, 1), settings).map_err(|e| e.to_string()));
        run.unwrap_err()
    };
    let errors = [
        error("recover", None),
        error("recover", Some(&[1; 39])),
        error("recover", Some(&[WORDS as u32; 40])),
        error("recover(target=encoder)", Some(&[1; 40])),
        error("recover(epochs=0)", Some(&[1; 40])),
        error("recover(batch=0)", Some(&[1; 40])),
        error("recover(optimizer=lion)", Some(&[1; 40])),
    ];
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn schedules_fall() {
    assert_eq!([0, 5, 10].map(|k| Schedule::Linear.at(k, 10)), [1.0, 0.5, 0.0]);
    assert_eq!([0, 10].map(|k| Schedule::Cosine.at(k, 10)), [1.0, 0.0]);
    assert_eq!([0, 3, 4, 5, 6, 7].map(|k| Schedule::Step.at(k, 8)), [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625]);
    assert_eq!(Schedule::Constant.at(9, 10), 1.0);
}

/// AdamW's first step is the rate, whatever the gradient's size.
#[test]
fn the_first_step_of_adamw() {
    let graph = language_model(3, 1, WORDS, 1);
    let mut network: Network<f64> = Network::new(&graph, Some(&Target::new("decoder"))).unwrap();
    let before: Vec<f64> = network.weights.parameters().next().unwrap().1.clone();
    let (_, mut gradients) = loss_and_gradients(&network, &state_before(&network), None);
    let mut optimizer = Optimizer::new(Method::AdamW, 0.1, &network.weights);
    optimizer.step(&mut network.weights, &mut gradients, 0.01, 1.0);
    let after = network.weights.parameters().next().unwrap().1;
    for (a, b) in after.iter().zip(&before) {
        let step = (a - b * (1.0 - 0.01 * 0.1)).abs();
        assert!((step - 0.01).abs() < 1e-6, "{step}");
    }
    assert!(gradients.iter().flatten().all(|&g| g == 0.0));
}

/// Halves stay halves.
#[test]
fn biases_of_halves_stay_halves() {
    let mut graph = language_model(12, 1, WORDS, 1);
    let id: WeightId = graph.weight_named("decoder.bias").unwrap();
    let half =
        Tensor::new(vec![WORDS], lstmc_frontend::tensor::Data::F16(Arc::new(vec![half::f16::ONE; WORDS])));
    graph.set_weight(id, half.unwrap().into()).unwrap();
    let run = recovered("recover(batch=4)", graph.clone(), false).unwrap();
    assert_eq!(run.graph.weight(id).map.dtype(), lstmc_frontend::tensor::DType::F16);
    assert_ne!(run.graph.weight(id).map, graph.weight(id).map);
}
