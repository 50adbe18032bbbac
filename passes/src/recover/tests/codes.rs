//! Codes and their factors.

use super::{MIXED, WORDS, loss_and_gradients, perplexity, recovered, smooth, state_before};
use crate::Target;
use crate::recover::network::Network;
use crate::recover::weights::{Coding, Units};
use lstmc_frontend::ir::arbitrary::{
    self, ALL_FORMATS_FROM, Kind, SplitMix64, language_model_of, random_columns, random_map,
};
use lstmc_frontend::ir::{Activations, CodeFormat, Granularity, Graph, LinearMap, SetActivations, parse};
use lstmc_frontend::tensor::DType::F16;

const IN_STEPS: Coding = Coding { units: Units::Steps, ..Coding::NEAREST };

/// A model whose decoder is `[7, 3]` as given, apart from the embedding.
fn with_decoder(map: &str) -> Graph {
    let text = MIXED.replace("linear %x9, @embedding", "linear %x9, @decoder");
    parse(&format!("{text}@decoder: {map}\n")).unwrap()
}

fn network(graph: &Graph, target: &str, coding: Coding) -> Network<f64> {
    Network::with_codes(graph, Some(&Target::new(target)), coding).unwrap()
}

/// The gradients of each trained set of parameters.
fn gradients(network: &mut Network<f64>) -> Vec<Vec<f64>> {
    let (_, all) = loss_and_gradients(network, &state_before(network), None);
    network.weights.parameters().map(|(slot, _)| all[slot].clone()).collect()
}

/// Straight through: codes get the gradient of the numbers that they stand for, in steps times a step.
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
        let all = |graph: &Graph, coding| {
            let network = network(graph, "*", coding);
            let (loss, gradients) = loss_and_gradients(&network, &state_before(&network), None);
            let of_numbers =
                gradients.into_iter().enumerate().filter(|(k, _)| !network.weights.is_factors(*k));
            of_numbers.flat_map(|(_, g)| g).chain([loss]).collect::<Vec<f64>>()
        };
        let (coded_absolute, plain_all) = (all(&coded, Coding::NEAREST), all(&plain, Coding::NEAREST));
        // What codes stand for is an f32 in the plain graph.
        const TOLERANCE: f64 = 16.0 * f32::EPSILON as f64;
        for (c, p) in coded_absolute.iter().zip(&plain_all) {
            assert!((c - p).abs() <= TOLERANCE, "{c}, {p}");
        }
        // The loss is last, and does not depend on the units.
        let in_steps = all(&coded, IN_STEPS);
        assert_eq!(in_steps.len(), plain_all.len());
        assert!((in_steps.last().unwrap() - plain_all.last().unwrap()).abs() <= TOLERANCE);
    }
}

/// The gradients of factors and numbers in units of the weights, as the documentation says them, where numbers are between codes and out of their
/// reach.
#[test]
fn factors_get_their_gradients() {
    for columns in ["", ", columns: random 3"] {
        let map = format!("int4 group 2 [7, 3] {{ codes: random 1, scales: random 2{columns} }}");
        let mut network = network(&with_decoder(&map), "decoder", Coding::NEAREST);
        let mut rng = SplitMix64::new(1);
        let mut values = network.weights.values();
        let numbers = values.last_mut().unwrap();
        numbers.iter_mut().for_each(|x| *x *= 1.0 + f64::from(rng.centered()));
        network.weights.set(values);
        let values = network.weights.values();
        let (scales, numbers) = (&values[0], values.last().unwrap());
        let factor = |j: usize| if columns.is_empty() { 1.0 } else { values[1][j] };
        let found = gradients(&mut network);
        let of_numbers = found.last().unwrap();
        let (mut of_scales, mut of_columns, mut out_of_reach) = ([0.0; 14], [0.0; 3], 0);
        for k in 0..21 {
            let (group, j) = (k / 3 * 2 + k % 3 / 2, k % 3);
            let t = numbers[k] / (scales[group] * factor(j));
            let code = t.round_ties_even().clamp(-8.0, 7.0);
            let is_out = !(-8.001..7.001).contains(&t);
            out_of_reach += usize::from(is_out);
            let slope = of_numbers[k] * if is_out { code } else { code - t };
            let n = [2.0f64, 2.0, 1.0][j];
            of_scales[group] += slope * factor(j) / (n * 7.0).sqrt();
            of_columns[j] += slope * scales[group] / (7.0 * 7.0f64).sqrt();
        }
        let expected = of_scales.iter().chain(if columns.is_empty() { &[][..] } else { &of_columns });
        for (found, expected) in found[..found.len() - 1].iter().flatten().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{columns}: {found}, {expected}");
        }
        assert!((1..10).contains(&out_of_reach), "{out_of_reach}");
    }
}

/// In units of steps the loss is smooth in the factors: their gradients are those of finite differences, with codes trained or kept, by row and by
/// group, under a mask, and in the factors of a low-rank map.
#[test]
fn factors_in_steps_get_the_gradients_of_the_loss() {
    const STEP: f64 = 1e-5;
    const TOLERANCE: f64 = 1e-8;
    let group =
        "int4 group 2 [7, 3] { codes: random 1, scales: random 2, zero_points: random 5, columns: random 3 }";
    let row = "int4 row [7, 3] { codes: random 1, scales: f16 random 2, columns: f16 random 3 }";
    let plain = "int3 group 2 [7, 3] { codes: random 1, scales: random 2 }";
    let masked = format!("sparse block 1x1 density 0.5 [7, 3] {{ mask: random 4, values: {group} }}");
    let low_rank = "low_rank [7, 3] { left: int4 row [7, 2] { codes: random 1, scales: random 2, columns: random 3 }, \
                    right: int5 group 2 [2, 3] { codes: random 5, scales: random 6, columns: random 7 } }";
    // The numbers of each factor in turn.
    let by_group: Vec<f64> = [[2.0, 1.0].repeat(7), vec![7.0; 3]].concat();
    let by_row = [vec![3.0; 7], vec![7.0; 3]].concat();
    let of_both = [vec![2.0; 7], vec![7.0; 2], [2.0, 1.0].repeat(2), vec![2.0; 3]].concat();
    let cases = [
        (group, by_group.clone(), vec![7.0f64; 17]),
        (row, by_row, vec![7.0; 10]),
        (plain, by_group[..14].to_vec(), vec![3.0; 14]),
        (&masked, by_group, vec![7.0; 17]),
        (low_rank, of_both, [vec![7.0; 9], vec![15.0; 7]].concat()),
    ];
    for (map, numbers, max) in cases {
        let graph = with_decoder(map);
        for codes in [true, false] {
            let mut network = network(&graph, "decoder", Coding { codes, ..IN_STEPS });
            let state = state_before(&network);
            let (_, all) = loss_and_gradients(&network, &state, None);
            let sets: Vec<(usize, usize)> = network.weights.parameters().map(|(k, p)| (k, p.len())).collect();
            let factors = sets.iter().enumerate().filter(|(_, (slot, _))| network.weights.is_factors(*slot));
            let each: Vec<_> =
                factors.flat_map(|(which, &(slot, n))| (0..n).map(move |k| (which, slot, k))).collect();
            let are_numbers_trained = sets.iter().any(|(slot, _)| !network.weights.is_factors(*slot));
            assert_eq!((each.len(), are_numbers_trained), (numbers.len(), codes), "{map}");
            for ((which, slot, k), (n, max)) in each.into_iter().zip(numbers.iter().zip(&max)) {
                let mut at = |by: f64| {
                    network.weights.parameters().nth(which).unwrap().1[k] += by;
                    network.weights.refresh();
                    let loss = loss_and_gradients(&network, &state, None).0;
                    network.weights.parameters().nth(which).unwrap().1[k] -= by;
                    loss
                };
                let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP) / (n * max).sqrt();
                let found = all[slot][k];
                assert!(
                    (found - expected).abs() <= TOLERANCE * (1.0 + expected.abs()),
                    "slot {slot}, {k}: {found}, expected {expected}\n{map}"
                );
            }
        }
    }
}

/// A number in steps gets a step times the gradient of the weight, and what the rate penalty says.
#[test]
fn numbers_in_steps_get_their_gradients() {
    let graph = with_decoder("int4 group 2 [7, 3] { codes: random 1, scales: random 2, columns: random 3 }");
    let [absolute, in_steps] =
        [Coding::NEAREST, IN_STEPS].map(|c| gradients(&mut network(&graph, "decoder", c)));
    let penalty = Coding { rate_penalty: 0.25, ..IN_STEPS };
    let mut network = network(&graph, "decoder", penalty);
    let penalized = gradients(&mut network);
    let values = network.weights.values();
    for k in 0..21 {
        let step = values[0][k / 3 * 2 + k % 3 / 2] * values[1][k % 3];
        assert!((in_steps[2][k] - absolute[2][k] * step).abs() < 1e-12);
        let t = values[2][k];
        let logarithm = |t: f64| 0.25 * (0.3 + t.abs()).ln();
        let slope = if t == 0.0 { 0.0 } else { (logarithm(t + 1e-6) - logarithm(t - 1e-6)) / 2e-6 };
        assert!((penalized[2][k] - in_steps[2][k] - slope).abs() < 1e-8, "{t}");
    }
}

/// Magnitudes are rounded up from the dead zone on, and the values are those of the codes.
#[test]
fn dead_zones_widen() {
    let graph = with_decoder("int4 row [7, 3] { codes: random 1, scales: random 2, columns: random 3 }");
    let mut network = network(&graph, "decoder", Coding { dead_zone: 0.58, ..IN_STEPS });
    let given = [0.0, 0.57, 0.59, -0.57, -0.59, 1.57, -1.59, 6.59, 9.0, -7.57, -9.0];
    let expected = [0, 0, 1, 0, -1, 1, -2, 7, 7, -7, -8];
    let mut values = network.weights.values();
    values[2][..given.len()].copy_from_slice(&given);
    network.weights.set(values);
    // What is far beyond the codes is taken back to half a step from them.
    assert_eq!(network.weights.values()[2][8..11], [7.5, -7.57, -8.5]);
    let (_, map) = &network.weights.maps(&graph).unwrap()[0];
    let LinearMap::Quantized(q) = &**map else { panic!("it has codes") };
    assert_eq!(q.codes().i8s().unwrap()[..expected.len()], expected);
}

/// Codes whose columns have factors, in halves.
fn coded(shape: [usize; 2], seed: u64) -> LinearMap {
    let map = arbitrary::quantized(shape, CodeFormat::Int4, Granularity::Group(4), F16, false, seed);
    let LinearMap::Quantized(q) = map.unwrap() else { panic!("it has codes") };
    LinearMap::Quantized(q.with_columns(Some(random_columns(F16, shape[1], seed).unwrap())).unwrap())
}

/// What is not trained is kept to the bit, halves stay halves, and kept codes are those of before while all else is trained.
#[test]
fn codes_can_be_kept() {
    let graph = || {
        language_model_of(8, 1, WORDS, |name, shape| match name {
            "decoder" => random_map(Kind::Dense, shape, 1),
            _ => coded(shape, 1),
        })
    };
    let quantized = |graph: &Graph, name: &str| {
        let map = graph.weight(graph.weight_named(name).unwrap()).map.clone();
        let LinearMap::Quantized(q) = &*map else { panic!("it has codes") };
        q.clone()
    };
    for (method, rate, high) in [("sgd", 0.3, 0.3), ("adamw", 0.01, 0.3)] {
        let trained = |options: &str, rate: f64| {
            let passes = format!("recover(batch=4, optimizer={method}, lr={rate}{options})");
            recovered(&passes, graph(), false).unwrap().graph
        };
        let input = |graph: &Graph| quantized(graph, "lstm0.input");
        let (before, kept) = (input(&graph()), trained(", codes=keep", rate));
        let after = input(&kept);
        assert_eq!(before.codes(), after.codes());
        assert_ne!(before.scales(), after.scales());
        assert_ne!(before.columns(), after.columns());
        assert_eq!(after.columns().unwrap().dtype(), F16);
        assert!(perplexity(&kept) < perplexity(&graph()));
        let after = input(&trained(", factors=keep", high));
        assert_ne!(before.codes(), after.codes());
        assert_eq!((before.scales(), before.columns()), (after.scales(), after.columns()));
        assert_ne!(before.codes(), input(&trained("", high)).codes());
    }
    let run = recovered("recover(batch=4, target=decoder)", graph(), false).unwrap();
    assert_eq!(quantized(&graph(), "lstm0.input"), quantized(&run.graph, "lstm0.input"));
}

/// Codes of any scale are learnt at one rate in steps, and a dead zone and a rate penalty make them smaller.
#[test]
fn codes_are_learnt_in_steps() {
    let passes =
        |options: &str| format!("recover(optimizer=adamw, lr=0.1, epochs=40, batch=4, bptt=10{options})");
    let graph = || language_model_of(12, 1, WORDS, |name, shape| coded(shape, name.len() as u64));
    let run = recovered(&passes(""), graph(), true).unwrap();
    let found = perplexity(&run.graph);
    assert!(found < 1.5, "{found}\n{}", run.trail);
    let zeros = |options: &str| {
        let run = recovered(&passes(options), graph(), false).unwrap();
        let maps = run.graph.weights().filter_map(|(_, w)| match &*w.map {
            LinearMap::Quantized(q) => Some(q.codes().i8s().unwrap().iter().filter(|c| **c == 0).count()),
            _ => None,
        });
        maps.sum::<usize>()
    };
    let [plain, dead, penalized] = ["", ", dead-zone=0.8", ", rate-penalty=0.01"].map(zeros);
    assert!(plain < dead && plain < penalized, "{plain}, {dead}, {penalized}");
}
