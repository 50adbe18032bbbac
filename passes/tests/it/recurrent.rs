//! Every lossy pass on every recurrent layer.

use lstmc_frontend::interpret::LanguageModel;
use lstmc_frontend::ir::arbitrary::{
    Extras, Recurrence, SplitMix64, dense, recurrent_model, recurrent_model_of,
};
use lstmc_frontend::ir::{Graph, Head, LinearMap, Op, verify_language_model};
use lstmc_passes::{Calibration, Context, Pipeline, Settings, run};

const WORDS: usize = 12;

fn text(n: usize) -> Vec<u32> {
    let mut rng = SplitMix64::new(1);
    (0..n).map(|_| rng.below(WORDS) as u32).collect()
}

fn compressed(graph: &Graph, passes: &str) -> Graph {
    let context = Context { calibration: Some(Calibration::of_text(text(400))), ..Context::default() };
    let settings = Settings { context, ..Settings::default() };
    run(&Pipeline::parse(passes).unwrap(), graph.clone(), settings)
        .unwrap_or_else(|e| panic!("{passes}: {e}"))
        .graph
}

fn outputs(graph: &Graph) -> Vec<f64> {
    let model = LanguageModel::<f64>::new(graph).unwrap();
    model.outputs(&mut model.state(), &text(100)).unwrap()
}

fn error(a: &[f64], b: &[f64]) -> f64 {
    let square = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>();
    (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())).sqrt()
}

/// Every matrix is compressed, at a loss that fits the pass: 8 bits cost little, and more than 4 bits do.
#[test]
fn every_matrix_of_every_model_is_compressed() {
    for kind in Recurrence::general() {
        for head in [Head::Logits, Head::Hidden] {
            let graph = recurrent_model(&kind, [8, 1, WORDS], Extras { head, ..Extras::ALL }, 3);
            let exact = outputs(&graph);
            let matrices: Vec<_> =
                graph.weights().filter(|(_, w)| w.map.shape().len() == 2).map(|(id, _)| id).collect();
            let loss = |passes: &str| {
                let new = compressed(&graph, passes);
                verify_language_model(&new).unwrap();
                for &id in &matrices {
                    let weight = new.weight(id);
                    let is_dense = matches!(&*weight.map, LinearMap::Dense(_));
                    assert!(
                        !is_dense || weight.name == "gate.weight",
                        "{kind:?}: {passes}: @{}",
                        weight.name
                    );
                }
                error(&outputs(&new), &exact)
            };
            let eight = loss("quantize(bits=8)");
            let four = loss("quantize(bits=4)");
            assert!(eight < 0.02 && eight < four && four < 0.3, "{kind:?}, {head:?}: {eight}, {four}");
            let half = loss("prune(sparsity=0.5, scope=row)");
            let magnitude = loss(
                "prune(sparsity=0.5, scope=row, method=magnitude, resolve=false, bias-correction=false)",
            );
            assert!(half < 0.6 && magnitude < 1.0, "{kind:?}, {head:?}: {half}, {magnitude}");
            loss("low-rank(rank=1)");
        }
    }
}

/// Feedback and bias corrections on a cell whose maps have rows for different gates are not worse than rounding each weight.
#[test]
fn corrections_reach_the_right_gates() {
    let mut better = 0;
    for seed in 0..6 {
        let gru = Recurrence::general().swap_remove(1);
        let graph = recurrent_model(&gru, [8, 1, WORDS], Extras::NONE, seed);
        let exact = outputs(&graph);
        let loss = |options: &str| {
            error(&outputs(&compressed(&graph, &format!("quantize(target=gru*, bits=3, {options})"))), &exact)
        };
        better += usize::from(loss("method=gptq") < loss("method=nearest"));
    }
    assert!(better >= 5, "{better} of 6");
}

/// Equal weights become one; starts stay.
#[test]
fn ties_keep_the_starts() {
    let extras = Extras { starts: true, ..Extras::NONE };
    let seed = |_: &str, shape: [usize; 2]| dense(shape, 5);
    let graph = recurrent_model_of(&Recurrence::GruSteps, [8, 2, WORDS], extras, seed);
    let tied = compressed(&graph, "tie");
    verify_language_model(&tied).unwrap();
    assert!(tied.weights().count() < graph.weights().count());
    assert_eq!(outputs(&tied), outputs(&graph));
    let starts = |g: &Graph| g.sources(&Op::State).iter().filter(|s| g.initial_state(**s).is_some()).count();
    assert_eq!(starts(&tied), 2);
}
