use super::*;
use crate::solve::row_errors;
use proptest::prelude::*;

type Case = ([usize; 2], Vec<usize>, Vec<usize>, Vec<f32>, Hessian);

/// A matrix whose sides may fall short of the products of the modes.
fn case() -> impl Strategy<Value = Case> {
    (1usize..4, proptest::collection::vec((1usize..4, 1usize..4), 4), 0usize..2, 0usize..2).prop_flat_map(
        |(d, modes, short_out, short_in)| {
            let (out_modes, in_modes): (Vec<_>, Vec<_>) = modes.into_iter().take(d).unzip();
            let side = |m: &[usize], s: usize| (m.iter().product::<usize>() - s).max(1);
            let shape = [side(&out_modes, short_out), side(&in_modes, short_in)];
            let matrix = |n| proptest::collection::vec(-1.0f32..1.0, n);
            (matrix(shape[0] * shape[1]), matrix(2 * shape[1] * shape[1])).prop_map(move |(w, x)| {
                let h = Hessian::of_reader(&x, shape[1], 0.05).unwrap();
                (shape, out_modes.clone(), in_modes.clone(), w, h)
            })
        },
    )
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
}

proptest! {
    #[test]
    fn full_rank_reproduces_the_matrix(
        (shape, out_modes, in_modes, w, h) in case(), whiten in any::<bool>(), weigh in any::<bool>(),
    ) {
        let r: Vec<f64> = (0..shape[0]).map(|i| 1.0 / (1.0 + i as f64)).collect();
        let options = TensorTrainOptions {
            out_modes, in_modes, truncation: Truncation::RelativeError(0.0),
            h: whiten.then_some(&h), row_weights: weigh.then_some(&r[..]),
        };
        let train = tensor_train(&w, shape, &options).unwrap();
        // A product of up to three f32 cores; whitening magnifies by the root of the condition of H, at most 20 cols.
        let tolerance = 64.0 * f64::from(f32::EPSILON) * (1.0 + w.len() as f64);
        prop_assert!(distance(&train.to_dense(), &w) <= tolerance);
    }

    #[test]
    fn the_bound_holds(
        (shape, out_modes, in_modes, w, _) in case(), ranks in proptest::collection::vec(1usize..4, 3), relative in 0.0f64..1.0, by_error in any::<bool>(),
    ) {
        let truncation = if by_error {
            Truncation::RelativeError(relative)
        } else {
            Truncation::Ranks(ranks[..out_modes.len() - 1].to_vec())
        };
        let options = TensorTrainOptions { out_modes, in_modes, truncation, h: None, row_weights: None };
        let train = tensor_train(&w, shape, &options).unwrap();
        let error = distance(&train.to_dense(), &w);
        prop_assert!(error <= train.bound + 1e-5 * (1.0 + train.norm), "{error} > {}", train.bound);
        if by_error {
            prop_assert!(train.bound <= relative * train.norm * (1.0 + 1e-9) + 1e-12);
        }
    }

    #[test]
    fn whitening_is_exact_where_one_core_holds_the_input(
        (shape, out_modes, in_modes, w, h) in case(), at in 0usize..4, rank in 1usize..3,
    ) {
        let d = out_modes.len();
        let mut single = vec![1; d];
        single[at % d] = shape[1];
        drop(in_modes);
        let options = TensorTrainOptions {
            out_modes, in_modes: single, truncation: Truncation::Ranks(vec![rank; d - 1]), h: Some(&h), row_weights: None,
        };
        let train = tensor_train(&w, shape, &options).unwrap();
        let error: f64 = row_errors(&w, &train.to_dense(), shape, Some(&h)).unwrap().iter().sum();
        prop_assert!(error.sqrt() <= train.bound + 1e-4 * (1.0 + train.norm), "{} > {}", error.sqrt(), train.bound);
    }

    #[test]
    fn a_budget_is_kept((shape, out_modes, in_modes, w, _) in case(), more in 0usize..60) {
        let least: usize = out_modes.iter().zip(&in_modes).map(|(m, n)| m * n).sum();
        let options = TensorTrainOptions {
            out_modes, in_modes, truncation: Truncation::Parameters(least + more), h: None, row_weights: None,
        };
        let train = tensor_train(&w, shape, &options).unwrap();
        prop_assert!(train.parameters() <= least + more);
        if least > 1 {
            let options = TensorTrainOptions { truncation: Truncation::Parameters(least - 1), ..options };
            prop_assert!(tensor_train(&w, shape, &options).is_err());
        }
    }

    #[test]
    fn the_layout_is_that_of_the_ir((shape, out_modes, in_modes, w, _) in case()) {
        use lstmc_frontend::{ir::{LinearMap, TensorTrain}, tensor::Tensor};
        let options = TensorTrainOptions {
            out_modes, in_modes, truncation: Truncation::RelativeError(0.3), h: None, row_weights: None,
        };
        let t = tensor_train(&w, shape, &options).unwrap();
        let cores = t.cores.iter().enumerate().map(|(k, c)| {
            let shape = vec![t.ranks[k] * t.out_modes[k], t.in_modes[k] * t.ranks[k + 1]];
            LinearMap::from(Tensor::from_f32(shape, c.clone()).unwrap()).into()
        });
        let map = TensorTrain::new(shape, t.out_modes.clone(), t.in_modes.clone(), cores.collect()).unwrap();
        let dense = LinearMap::TensorTrain(map).to_dense().unwrap();
        prop_assert!(distance(dense.f32s().unwrap(), &t.to_dense()) < 1e-4);
    }
}

#[test]
fn refusals_say_what_is_wanted() {
    let options = TensorTrainOptions {
        out_modes: vec![2, 2],
        in_modes: vec![1, 1],
        truncation: Truncation::Ranks(vec![1]),
        h: None,
        row_weights: None,
    };
    let error = tensor_train(&[0.0; 5], [5, 1], &options).unwrap_err();
    insta::assert_snapshot!(error, @"out_modes: expected a product of at least 5 and not over four times as much, found [2, 2]");
}
