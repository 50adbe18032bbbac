use super::*;
use lstmc_frontend::interpret::{self, Observation, Observer};
use lstmc_frontend::ir::NodeId;
use lstmc_frontend::ir::arbitrary::{SplitMix64, language_model};

fn tokens(n: usize, vocabulary: usize) -> Vec<u32> {
    let mut rng = SplitMix64::new(3);
    (0..n).map(|_| rng.below(vocabulary) as u32).collect()
}

fn collected(graph: &Graph, n: usize) -> Statistics {
    Statistics::collect(graph, &tokens(n, 20), &mut |_, _| {}).unwrap()
}

/// The sums by the book, in f64, one step after another.
#[derive(Default)]
struct Plain {
    curvature: Vec<f64>,
    chunk: Vec<(Vec<f64>, usize)>,
}

impl Observer<f64> for Plain {
    fn observe(&mut self, _: NodeId, observation: Observation<'_, f64>) {
        match observation {
            Observation::Product { width, rows, .. } => {
                self.chunk.push((rows.to_vec(), width));
            }
            Observation::Predictions { vocabulary, log_probabilities, .. } => {
                self.curvature.resize(vocabulary, 0.0);
                for (k, l) in log_probabilities.iter().enumerate() {
                    let p = l.exp();
                    self.curvature[k % vocabulary] += p * (1.0 - p);
                }
            }
            _ => {}
        }
    }

    fn wants_predictions(&self) -> bool {
        true
    }
}

#[test]
fn sums_are_those_of_the_book() {
    let graph = language_model(5, 2, 20, 1);
    let n = 300;
    let found = collected(&graph, n);
    let model = interpret::LanguageModel::<f64>::new(&graph).unwrap().with_chunk(n);
    let mut plain = Plain::default();
    model.run_with(&tokens(n, 20), &mut plain).unwrap();
    assert_eq!(found.inputs().len(), plain.chunk.len());
    assert_eq!(found.tokens(), n - 1);
    for (inputs, (rows, width)) in found.inputs().iter().zip(&plain.chunk) {
        assert_eq!((inputs.width(), inputs.count()), (*width, (n - 1) as f64));
        for i in 0..*width {
            for j in 0..*width {
                let expected: f64 = rows.chunks(*width).map(|r| r[i] * r[j]).sum();
                let close = (inputs.gram()[i * width + j] - expected).abs() < 1e-4 * (1.0 + expected.abs());
                assert!(close, "{i} {j}: {} {expected}", inputs.gram()[i * width + j]);
            }
            let mean = rows.chunks(*width).map(|r| r[i]).sum::<f64>() / (n - 1) as f64;
            assert!((inputs.mean()[i] - mean).abs() < 1e-5);
        }
    }
    let predictions = found.predictions().unwrap();
    for (found, sum) in predictions.curvature.iter().zip(&plain.curvature) {
        assert!((found - sum / (n - 1) as f64).abs() < 1e-5);
    }
    let total: f64 = predictions.probabilities.iter().sum();
    assert!((total - 1.0).abs() < 1e-5, "{total}");
    assert_eq!(predictions.targets.iter().sum::<f64>(), (n - 1) as f64);
    let lookups = found.lookups_of("embedding").unwrap();
    assert_eq!(lookups.counts().iter().sum::<f64>(), (n - 1) as f64);
}

#[test]
fn an_lstm_has_one_stacked_input() {
    let found = collected(&language_model(5, 2, 20, 1), 50);
    let (inputs, columns) = found.inputs_of("lstm1.recurrent").unwrap();
    assert_eq!((inputs.width(), columns.clone()), (10, 5..10));
    let names: Vec<&str> = inputs.readers().iter().map(|r| r.weight.as_str()).collect();
    assert_eq!(names, ["lstm1.input", "lstm1.recurrent"]);
    assert_eq!(inputs.gram_of(columns)[1], inputs.gram()[5 * 10 + 6]);
    assert!(found.inputs_of("embedding").is_none());
}

#[test]
fn files_give_back_what_was_written() {
    let found = collected(&language_model(5, 2, 20, 1), 50);
    let bytes = found.to_bytes();
    assert!(Statistics::is_file(&bytes) && !Statistics::is_file(b"the company said that"));
    assert_eq!(Statistics::from_bytes(&bytes).unwrap(), found);
}

#[test]
fn any_damage_is_an_error() {
    let found = collected(&language_model(3, 1, 20, 1), 20);
    let bytes = found.to_bytes();
    for cut in 0..bytes.len() {
        assert!(Statistics::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut nan = bytes.clone();
    let end = nan.len();
    nan[end - 8..].copy_from_slice(&f64::NAN.to_le_bytes());
    assert!(Statistics::from_bytes(&nan).is_err());
    // Damage anywhere in the header is an error or harmless, but never a panic.
    for k in 0..600.min(bytes.len()) {
        for bit in [1, 4, 64] {
            let mut damaged = bytes.clone();
            damaged[k] ^= bit;
            let _ = Statistics::from_bytes(&damaged);
        }
    }
}

#[test]
fn squares_counts_and_probabilities_are_not_negative() {
    let found = collected(&language_model(3, 1, 20, 1), 20);
    let refused = |change: &dyn Fn(&mut Statistics), what: &str| {
        let mut changed = found.clone();
        change(&mut changed);
        let error = Statistics::from_bytes(&changed.to_bytes()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("numbers of zero or more"), "{error}");
    };
    refused(&|s| s.inputs[0].gram[7] = -1.0, "the diagonal of inputs.0.gram");
    refused(&|s| s.lookups[0].counts[3] = -1.0, "lookups.0");
    refused(&|s| s.predictions.as_mut().unwrap().targets[0] = -1.0, "predictions.targets");
    refused(&|s| s.predictions.as_mut().unwrap().probabilities[0] = -0.5, "predictions.probabilities");
}

#[test]
fn statistics_belong_to_a_model() {
    let found = collected(&language_model(5, 2, 20, 1), 50);
    found.check(&language_model(5, 2, 20, 7)).unwrap();
    let errors: Vec<String> =
        [language_model(5, 1, 20, 1), language_model(6, 2, 20, 1), language_model(5, 2, 21, 1)]
            .iter()
            .map(|g| found.check(g).unwrap_err().to_string())
            .collect();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn statistics_are_of_the_model_that_was_referred_to() {
    let (first, second) = (language_model(5, 1, 20, 1), language_model(5, 1, 20, 2));
    let mut calibration = Calibration::of_text(tokens(50, 20));
    calibration.refer_to(&first);
    calibration.refer_to(&second);
    assert_eq!(*calibration.statistics(&second).unwrap(), collected(&first, 50));
    let again = calibration.inputs(&second).unwrap();
    assert_eq!(again.inputs(), collected(&second, 50).inputs());
    let mut from_file = Calibration::of_statistics(collected(&first, 50));
    assert_eq!(from_file.inputs(&first), Err(CalibrationError::NoText));
    assert_eq!(
        Statistics::collect(&first, &[1], &mut |_, _| {}),
        Err(CalibrationError::TooFewTokens { found: 1 })
    );
}

/// A calibration on a text, and the sensitivity of a model there.
fn sensitivity(graph: &Graph, n: usize) -> Arc<Sensitivity> {
    Calibration::of_text(tokens(n, 20)).sensitivity(graph).unwrap()
}

#[test]
fn sensitivity_is_that_of_each_sum() {
    let graph = language_model(5, 2, 20, 1);
    // Short enough for one stream in one window.
    let found = sensitivity(&graph, 50);
    assert_eq!(found.tokens(), 49);
    let output = found.of_sum("decoder").unwrap();
    let curvature = collected(&graph, 50).predictions().unwrap().curvature.clone();
    assert!(output.iter().zip(&curvature).all(|(a, b)| (a - b).abs() < 1e-6), "{output:?} {curvature:?}");
    let gates = found.of_sum("lstm1.recurrent").unwrap();
    assert!(gates.len() == 20 && gates.iter().all(|&x| x > 0.0));
    assert_eq!(found.of_sum("lstm1.input"), Some(gates));
    let gram = found.of_rows("embedding").unwrap();
    assert!(gram.len() == 25 && gram.iter().step_by(6).all(|&x| x > 0.0));
    assert!(found.of_sum("embedding").is_none() && found.of_rows("decoder").is_none());
}

#[test]
fn results_do_not_depend_on_threads() {
    let graph = language_model(5, 2, 20, 1);
    let other = language_model(6, 2, 20, 2);
    let results = [1, 2, 7].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let of = collected(&graph, 50).inputs()[1].readers().to_vec();
            let mut calibration = Calibration::of_text(tokens(3000, 20));
            (calibration.sensitivity(&graph).unwrap(), calibration.drift(&graph, &other, &of).unwrap())
        })
    });
    assert!(results.iter().all(|r| *r == results[0]));
}

#[test]
fn sensitivity_is_of_the_model_that_was_referred_to() {
    let (first, second) = (language_model(5, 1, 20, 1), language_model(5, 1, 20, 2));
    let mut calibration = Calibration::of_text(tokens(50, 20));
    calibration.refer_to(&first);
    calibration.statistics(&second).unwrap();
    let mut shared: Calibration<'_> = calibration.share(&second).unwrap();
    let found = shared.sensitivity(&second).unwrap();
    assert_eq!(found, sensitivity(&first, 50));
    assert!(Arc::ptr_eq(&found, &calibration.sensitivity(&second).unwrap()));
    calibration.refer_to_trained(&second);
    assert_eq!(calibration.sensitivity(&first).unwrap(), sensitivity(&second, 50));
    assert_eq!(shared.sensitivity(&second).unwrap(), found);
    let mut from_file = Calibration::of_statistics(collected(&first, 50));
    assert_eq!(from_file.sensitivity(&first), Err(CalibrationError::NoText));
    let error = calibration.sensitivity(&language_model(6, 1, 20, 1)).unwrap_err().to_string();
    assert!(error.contains("of @lstm0.input: expected 24 numbers, found 20 numbers"), "{error}");
    let error = Calibration::of_text(vec![1, 20]).sensitivity(&first).unwrap_err();
    assert_eq!(error, InterpretError::Token { position: 1, token: 20, vocabulary: 20 }.into());
    let error = Calibration::of_text(vec![1]).sensitivity(&first).unwrap_err();
    assert_eq!(error, CalibrationError::TooFewTokens { found: 1 });
}

/// The inputs of each group of maps, by the book.
fn rows_of(graph: &Graph, tokens: &[u32]) -> Vec<(Vec<f64>, usize)> {
    let model = interpret::LanguageModel::<f64>::new(graph).unwrap().with_chunk(tokens.len());
    let mut plain = Plain::default();
    model.run_with(tokens, &mut plain).unwrap();
    plain.chunk
}

#[test]
fn drift_pairs_the_inputs_of_two_models() {
    let graphs = [language_model(5, 2, 20, 1), language_model(6, 2, 20, 2)];
    // In streams, which differ from the text by what is far away.
    let tokens = tokens(3300, 20);
    let n = (tokens.len() - 1) as f64;
    let groups = collected(&graphs[0], 50).inputs().to_vec();
    let mut calibration = Calibration::of_text(tokens.clone());
    let [original, now] = graphs.each_ref().map(|graph| rows_of(graph, &tokens));
    for (k, group) in groups.iter().enumerate() {
        let found = calibration.drift(&graphs[0], &graphs[1], group.readers()).unwrap();
        let [(a, w0), (b, w)] = [&original[k], &now[k]];
        assert_eq!(found.widths(), [*w0, *w]);
        let close = |found: &[f64], (x, n_x): (&[f64], usize), (y, n_y): (&[f64], usize)| {
            for i in 0..n_x {
                for j in 0..n_y {
                    let pairs = x.chunks(n_x).zip(y.chunks(n_y));
                    let expected = pairs.map(|(x, y)| x[i] * y[j]).sum::<f64>() / n;
                    assert!((found[i * n_y + j] - expected).abs() < 1e-5);
                }
            }
        };
        close(&found.cross(), (a, *w0), (b, *w));
        close(&found.gram(), (b, *w), (b, *w));
        let [means, _] = found.means();
        close(&means, (a, *w0), (&vec![1.0; tokens.len() - 1], 1));
        let same = calibration.drift(&graphs[0], &graphs[0], group.readers()).unwrap();
        assert_eq!(same.cross(), same.gram());
    }
    let none = Reader { weight: "no".into(), columns: 0..5 };
    let error = calibration.drift(&graphs[0], &graphs[1], &[none]).unwrap_err().to_string();
    assert!(error.contains("a layer of @no"), "{error}");
}
