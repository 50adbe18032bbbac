//! Factorisations on whole models: with calibration, without, and what becomes of sharing.

use lstmc_frontend::interpret;
use lstmc_frontend::ir::arbitrary::{dense, language_model, language_model_of};
use lstmc_frontend::ir::store::{StoredWeights, store, weight_bytes};
use lstmc_frontend::ir::{Graph, LinearMap, LowRank, Part, parse_with, print};
use lstmc_frontend::tensor::Tensor;
use lstmc_passes::calibrate::Calibration;
use lstmc_passes::{Evaluate, Measure, Pipeline, Run, RunError, Settings, StepError, run};

const VOCABULARY: usize = 60;

fn tokens(n: usize) -> Vec<u32> {
    // A walk over the words that repeats some more than others.
    (0..n).map(|k| ((k * k + 3 * k) % VOCABULARY) as u32).collect()
}

fn map<'g>(graph: &'g Graph, name: &str) -> &'g LinearMap {
    &graph.weight(graph.weight_named(name).unwrap()).map
}

fn factorised(graph: &Graph, pipeline: &str, calibrated: bool) -> Run {
    let mut settings = Settings::default();
    settings.context.calibration = calibrated.then(|| Calibration::of_text(tokens(400)));
    run(&Pipeline::parse(pipeline).unwrap(), graph.clone(), settings).unwrap()
}

/// Mean squared difference of the log-probabilities of two models on the calibration text.
fn divergence(a: &Graph, b: &Graph) -> f64 {
    let read = |g: &Graph| {
        let model = interpret::LanguageModel::<f64>::new(g).unwrap();
        -model.log_likelihood(&tokens(400), &mut |_| {}).unwrap()
    };
    (read(a) - read(b)).abs()
}

fn left(graph: &Graph, name: &str) -> Part {
    match map(graph, name) {
        LinearMap::LowRank(l) => l.left().clone(),
        other => panic!("{}", other.kind()),
    }
}

#[test]
fn a_shared_left_factor_stays_shared_in_text_and_storage() {
    let graph = language_model(12, 2, VOCABULARY, 3);
    let run = factorised(&graph, "low-rank(target=lstm*, rank=4, shared=true)", true);
    let (input, recurrent) = (left(&run.graph, "lstm1.input"), left(&run.graph, "lstm1.recurrent"));
    assert_eq!(input.id(), recurrent.id());
    assert_ne!(input.id(), left(&run.graph, "lstm0.input").id());

    let stored = store(&run.graph).unwrap();
    let find = |path: &str| stored.iter().find(|s| s.path == path).cloned();
    let restored = parse_with(&print(&run.graph), &mut StoredWeights::new(find)).unwrap();
    assert_eq!(print(&restored), print(&run.graph));
    assert_eq!(left(&restored, "lstm1.input").id(), left(&restored, "lstm1.recurrent").id());
    assert_eq!(weight_bytes(&restored).unwrap(), weight_bytes(&run.graph).unwrap());
    let of_layer: usize = weight_bytes(&restored)
        .unwrap()
        .iter()
        .filter(|(n, _)| n.starts_with("lstm1.") && !n.ends_with("bias"))
        .map(|(_, b)| b)
        .sum();
    assert_eq!(of_layer, 4 * 4 * (48 + 12 + 12));
}

#[test]
fn a_matrix_of_low_rank_comes_back_to_f32_accuracy() {
    for pass in [
        "low-rank(target=decoder|embedding|lstm*, rank=3, rows=alike, bias=false)",
        "tensor-train(target=decoder|embedding|lstm*, in-modes=1x12, out-modes=6x10, rank=40, rows=alike, bias=false)",
    ] {
        let graph = language_model_of(12, 1, VOCABULARY, |name, shape| {
            let seed = name.len() as u64;
            let factors = [dense([shape[0], 3], seed), dense([3, shape[1]], seed + 1)].map(Part::new);
            let [left, right] = factors;
            let map = LinearMap::LowRank(LowRank::new(left, right).unwrap());
            LinearMap::Dense(map.to_dense().unwrap())
        });
        for calibrated in [false, true] {
            // Modes of 6 x 10 hold the 48 rows of the lstm too, but rank 40 has more numbers than its maps.
            let run = factorised(&graph, pass, calibrated);
            for name in ["decoder", "embedding"] {
                let (a, b) =
                    (map(&graph, name).to_dense().unwrap(), map(&run.graph, name).to_dense().unwrap());
                let worst = a
                    .f32s()
                    .unwrap()
                    .iter()
                    .zip(b.f32s().unwrap())
                    .map(|(x, y)| (x - y).abs())
                    .fold(0.0, f32::max);
                // Elements are sums of 3 products below 1/4, divided by nothing small: some eps of 1.
                assert!(worst < 1e-5, "{pass} {calibrated} {name}: {worst}");
            }
        }
    }
}

#[test]
fn calibration_helps() {
    let graph = language_model(12, 1, VOCABULARY, 5);
    for target in ["decoder", "lstm*"] {
        let plain = factorised(&graph, &format!("low-rank(target={target}, rank=3)"), false);
        let whitened = factorised(&graph, &format!("low-rank(target={target}, rank=3)"), true);
        let (plain, whitened) = (divergence(&graph, &plain.graph), divergence(&graph, &whitened.graph));
        assert!(whitened < plain, "{target}: {whitened} {plain}");
    }
}

#[test]
fn biases_make_up_for_means() {
    let graph = language_model(12, 1, VOCABULARY, 5);
    let run = factorised(&graph, "low-rank(target=embedding|lstm*, rank=3)", true);
    assert_ne!(map(&run.graph, "lstm0.bias"), map(&graph, "lstm0.bias"));
    assert_eq!(map(&run.graph, "decoder.bias"), map(&graph, "decoder.bias"));
    let without = factorised(&graph, "low-rank(target=embedding|lstm*, rank=3, bias=false)", true);
    assert_eq!(map(&without.graph, "lstm0.bias"), map(&graph, "lstm0.bias"));
}

/// Perplexity on a text, by the interpreter.
struct Interpreter;

impl Evaluate for Interpreter {
    fn perplexity(&mut self, graph: &Graph) -> Result<f64, String> {
        let model = interpret::LanguageModel::<f32>::new(graph).map_err(|e| e.to_string())?;
        let sum = model.log_likelihood(&tokens(400), &mut |_| {}).map_err(|e| e.to_string())?;
        Ok((-sum / 399.0).exp())
    }
}

#[test]
fn a_budget_is_kept_and_shared_out() {
    let graph = language_model(16, 1, VOCABULARY, 8);
    for measured in [false, true] {
        let mut evaluator = Interpreter;
        let mut settings = Settings::default();
        settings.context.calibration = Some(Calibration::of_text(tokens(400)));
        settings.context.evaluator = if measured { Some(&mut evaluator) } else { None };
        let pipeline = Pipeline::parse("low-rank(parameters=1800)").unwrap();
        let run = run(&pipeline, graph.clone(), settings).unwrap();
        let biases = 4 * 16 + VOCABULARY;
        let found = Measure::of(&run.graph).parameters;
        assert!(found <= 1800 + biases && found > 1500, "{found}");
    }
}

#[test]
fn weights_too_large_to_compute_with_are_named() {
    let largest = |shape: [usize; 2]| {
        LinearMap::Dense(Tensor::from_f32(shape.to_vec(), vec![f32::MAX; shape[0] * shape[1]]).unwrap())
    };
    let graph = language_model_of(8, 1, 20, |_, shape| largest(shape));
    // Two factors of a matrix at the edge of f32 fit; their product, rounded, may not.
    let pipeline = Pipeline::parse("low-rank(rank=1), decode").unwrap();
    let error = run(&pipeline, graph, Settings::default()).unwrap_err();
    let RunError::Step { step: 2, problem, .. } = error else { panic!("{error}") };
    assert!(matches!(*problem, StepError::NotFinite(_)), "{problem}");
}
