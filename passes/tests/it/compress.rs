//! What holds of every quantized and pruned model, whatever the options.

use lstmc_frontend::ir::arbitrary::{SplitMix64, language_model};
use lstmc_frontend::ir::{CodeFormat, Graph, LinearMap, LowRank, Part, Pattern, Quantized};
use lstmc_frontend::tensor::Tensor;
use lstmc_passes::{Calibration, Pipeline, Settings, run};
use proptest::prelude::*;

const WORDS: usize = 17;

fn compressed(graph: Graph, passes: &str) -> Graph {
    let mut rng = SplitMix64::new(9);
    let tokens = (0..120).map(|_| rng.below(WORDS) as u32).collect();
    let mut settings = Settings::default();
    settings.context.calibration = Some(Calibration::of_text(tokens));
    run(&Pipeline::parse(passes).unwrap(), graph, settings).unwrap().graph
}

fn map<'g>(graph: &'g Graph, name: &str) -> &'g LinearMap {
    &graph.weight(graph.weight_named(name).unwrap()).map
}

fn matrices(graph: &Graph) -> Vec<&LinearMap> {
    graph.weights().map(|(_, w)| &*w.map).filter(|m| m.shape().len() == 2).collect()
}

fn codes_are_in_range(q: &Quantized) -> bool {
    q.codes().i8s().unwrap().iter().all(|c| q.format().range().contains(c))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn quantized_models_are_close_and_in_range(
        hidden in 1usize..9,
        layers in 1usize..3,
        format in prop::sample::select(CodeFormat::ALL.to_vec()),
        group in prop::option::of(1usize..12),
        method in prop::sample::select(vec!["gptq", "nearest"]),
        asymmetric: bool,
    ) {
        let graph = language_model(hidden, layers, WORDS, 5);
        let group = group.map_or(String::new(), |g| format!(", group={g}"));
        let passes = format!("quantize(bits={}{group}, method={method}, asymmetric={asymmetric})", format.bits());
        let new = compressed(graph.clone(), &passes);
        for (map, old) in matrices(&new).into_iter().zip(matrices(&graph)) {
            let LinearMap::Quantized(q) = map else { panic!("{} is not quantized", map.kind()) };
            prop_assert_eq!(q.format(), format);
            prop_assert!(codes_are_in_range(q));
            if format == CodeFormat::Int8 && method == "nearest" {
                let (a, b) = (map.to_dense().unwrap(), old.to_dense().unwrap());
                for (x, y) in a.f32s().unwrap().iter().zip(b.f32s().unwrap()) {
                    // Weights are below 0.5, so steps are below 1 / 127 even with a shrunken scale's clipping.
                    prop_assert!((x - y).abs() < 0.06, "{x} {y}");
                }
            }
        }
    }

    #[test]
    fn masks_keep_what_was_asked_for(
        hidden in 2usize..9,
        sparsity in 0.1f64..0.9,
        block in prop::sample::select(vec![[1usize, 1], [1, 2], [2, 1], [4, 1], [2, 3]]),
        method in prop::sample::select(vec!["alternate", "wanda", "obs", "sparsegpt", "magnitude"]),
        scope in prop::sample::select(vec!["layer", "row"]),
    ) {
        let [r, c] = block;
        let graph = language_model(hidden, 1, WORDS, 6);
        let passes = format!("prune(sparsity={sparsity}, block={r}x{c}, method={method}, scope={scope}, target=decoder)");
        let new = compressed(graph, &passes);
        let LinearMap::Sparse(s) = map(&new, "decoder") else { panic!("not sparse") };
        prop_assert_eq!(s.pattern(), Pattern::Block { rows: r, cols: c });
        let dense = map(&new, "decoder").to_dense().unwrap();
        for (x, keep) in dense.f32s().unwrap().iter().zip(s.element_mask().unwrap()) {
            prop_assert!(keep || *x == 0.0);
        }
        let flags = s.mask().bools().unwrap();
        let (kept, all) = (flags.iter().filter(|&&k| k).count() as f64, flags.len() as f64);
        // Rounding to whole blocks, in each row of blocks or in each step of columns.
        let slack = if scope == "row" { s.mask().shape()[0] as f64 } else { 1.0 };
        prop_assert!((kept - (1.0 - sparsity) * all).abs() <= slack, "{kept} of {all} at {sparsity}");
    }

    #[test]
    fn patterns_keep_n_of_m(hidden in 2usize..9, n in 1usize..3, more in 0usize..3) {
        let m = n + more;
        let new = compressed(language_model(hidden, 2, WORDS, 7), &format!("prune(pattern={n}:{m})"));
        for map in matrices(&new) {
            let LinearMap::Sparse(s) = map else { panic!("not sparse") };
            let cols = map.shape()[1];
            for row in s.element_mask().unwrap().chunks(cols) {
                prop_assert!(row.chunks(m).all(|g| g.iter().filter(|&&k| k).count() <= n));
            }
        }
    }

    #[test]
    fn quantizing_keeps_masks(hidden in 2usize..9, format in prop::sample::select(CodeFormat::ALL.to_vec())) {
        let pruned = compressed(language_model(hidden, 1, WORDS, 8), "prune(sparsity=0.6)");
        let both = compressed(pruned.clone(), &format!("quantize(bits={}, method=gptq)", format.bits()));
        for (old, new) in matrices(&pruned).into_iter().zip(matrices(&both)) {
            // A layer that the trials leave whole has no mask.
            let LinearMap::Sparse(a) = old else { continue };
            let LinearMap::Sparse(b) = new else { panic!("not sparse") };
            prop_assert_eq!(a.mask().bools().unwrap(), b.mask().bools().unwrap());
            let LinearMap::Quantized(q) = &**b.values() else { panic!("values are not quantized") };
            prop_assert!(codes_are_in_range(q));
        }
    }
}

/// An LSTM whose maps share their left factor.
fn shared(rank: usize) -> Graph {
    let mut graph = language_model(6, 1, WORDS, 3);
    let mut rng = SplitMix64::new(4);
    let mut matrix = |rows: usize, cols: usize| {
        let data = (0..rows * cols).map(|_| rng.centered()).collect();
        Part::from(Tensor::from_f32([rows, cols], data).unwrap())
    };
    let left = matrix(24, rank);
    for name in ["lstm0.input", "lstm0.recurrent"] {
        let map = LowRank::new(left.clone(), matrix(rank, 6)).unwrap();
        graph.set_weight(graph.weight_named(name).unwrap(), LinearMap::LowRank(map).into()).unwrap();
    }
    graph
}

#[test]
fn shared_factors_stay_shared() {
    for method in ["gptq", "nearest"] {
        let new = compressed(shared(3), &format!("quantize(bits=4, method={method})"));
        let factors = ["lstm0.input", "lstm0.recurrent"].map(|name| match map(&new, name) {
            LinearMap::LowRank(l) => (l.left().clone(), l.right().clone()),
            other => panic!("{} is not low-rank", other.kind()),
        });
        assert_eq!(factors[0].0.id(), factors[1].0.id());
        for (left, right) in &factors {
            assert!(matches!(**left, LinearMap::Quantized(_)) && matches!(**right, LinearMap::Quantized(_)));
        }
    }
}

#[test]
fn error_feedback_beats_rounding_on_the_text_it_saw() {
    let graph = language_model(8, 1, WORDS, 11);
    let mut rng = SplitMix64::new(9);
    let tokens: Vec<u32> = (0..400).map(|_| rng.below(WORDS) as u32).collect();
    let statistics = lstmc_passes::Statistics::collect(&graph, &tokens, &mut |_, _| {}).unwrap();
    let error = |passes: &str| {
        let mut settings = Settings::default();
        settings.context.calibration = Some(Calibration::of_statistics(statistics.clone()));
        let new = run(&Pipeline::parse(passes).unwrap(), graph.clone(), settings).unwrap().graph;
        let (inputs, columns) = statistics.inputs_of("decoder").unwrap();
        let (a, b) = (map(&graph, "decoder").to_dense().unwrap(), map(&new, "decoder").to_dense().unwrap());
        let h = inputs.gram_of(columns);
        let rows = a.f32s().unwrap().chunks(8).zip(b.f32s().unwrap().chunks(8));
        let row_error = |(x, y): (&[f32], &[f32])| -> f64 {
            let d: Vec<f64> = x.iter().zip(y).map(|(a, b)| f64::from(a - b)).collect();
            (0..64).map(|k| d[k / 8] * h[k] * d[k % 8]).sum()
        };
        rows.map(row_error).sum::<f64>()
    };
    let nearest = error("quantize(bits=3, target=decoder, method=nearest)");
    let feedback = error("quantize(bits=3, target=decoder, bias-correction=false)");
    assert!(feedback < nearest, "{feedback} {nearest}");
}
