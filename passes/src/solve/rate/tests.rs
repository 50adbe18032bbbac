use super::*;
use crate::solve::row_errors;
use crate::solve::samples::{correlated, numbers};
use proptest::prelude::*;

/// A matrix, the second moment of some inputs of its width, and row weights.
fn case() -> impl Strategy<Value = ([usize; 2], Vec<f32>, Hessian, Vec<f64>)> {
    (1usize..40, 1usize..14).prop_flat_map(|(rows, cols)| {
        let matrix = |n: usize| proptest::collection::vec(-1.0f32..1.0, n * cols);
        let weights = proptest::collection::vec(1e-4f64..1.0, rows);
        (matrix(rows), matrix(2 * cols), weights)
            .prop_map(move |(w, x, f)| ([rows, cols], w, Hessian::of_reader(&x, cols, 0.01).unwrap(), f))
    })
}

fn error(w: &[f32], v: &[f32], shape: [usize; 2], h: &Hessian, f: &[f64]) -> f64 {
    row_errors(w, v, shape, Some(h)).unwrap().iter().zip(f).map(|(e, f)| e * f).sum()
}

/// Rounds each weight by itself to the same steps.
fn nearest(problem: &RateProblem, alpha: f64) -> Vec<f32> {
    let cols = problem.shape[1];
    let of = |(k, &w): (usize, &f32)| {
        let step = alpha / problem.lower[k % cols * (cols + 1)] / problem.weights[k / cols].sqrt();
        (round(f64::from(w) / step) * step) as f32
    };
    problem.w.iter().enumerate().map(of).collect()
}

proptest! {
    #[test]
    fn errors_are_true_and_codes_in_range((shape, w, h, f) in case(), log in -12.0f64..1.0) {
        let problem = RateProblem::new(w.clone(), shape, h.clone(), &f, None).unwrap();
        let solved = problem.solve(log.exp2()).unwrap();
        prop_assert!(solved.codes.iter().all(|&code| code != i8::MIN));
        let found = error(&w, &solved.to_dense(), shape, &h, &f);
        // to_dense rounds each weight to f32.
        let scale = error(&w, &vec![0.0; w.len()], shape, &h, &f);
        prop_assert!((found - solved.error).abs() <= 1e-5 * (scale + found), "{found} {}", solved.error);
    }

    #[test]
    fn columns_never_raise_the_error((shape, w, h, f) in case(), log in -8.0f64..1.0) {
        let problem = RateProblem::new(w, shape, h, &f, None).unwrap();
        let alpha = log.exp2();
        let steps: Vec<f64> = (0..shape[1]).map(|j| alpha / problem.lower[j * (shape[1] + 1)]).collect();
        let scales: Vec<f16> = f.iter().map(|f| f16::from_f64(f.powf(-0.5))).collect();
        let (codes, before) = problem.codes(&scales, &steps);
        let (_, after) = problem.columns(&codes, &scales, &steps, before).unwrap();
        // Columns are rounded to f16: a relative error of 2^-11 of what they represent.
        let slack = problem.solve(1e-3).unwrap().error + before * 1e-3 + 1e-6;
        prop_assert!(after <= before + slack, "{after} {before}");
    }

    #[test]
    fn a_mask_stays((shape, w, h, f) in case(), seed: u64, log in -8.0f64..1.0) {
        let keep: Vec<bool> = (0..w.len()).map(|k| seed >> (k % 61) & 1 == 1).collect();
        let w: Vec<f32> = w.iter().zip(&keep).map(|(&w, &k)| if k { w } else { 0.0 }).collect();
        let problem = RateProblem::new(w.clone(), shape, h, &f, Some(keep.clone())).unwrap();
        let solved = problem.solve(log.exp2()).unwrap();
        prop_assert!(solved.codes.iter().zip(&keep).all(|(&code, &keep)| keep || code == 0));
    }

    #[test]
    fn threads_change_nothing((shape, w, h, f) in case(), log in -8.0f64..1.0) {
        let problem = RateProblem::new(w, shape, h, &f, None).unwrap();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let alpha = log.exp2();
        prop_assert_eq!(one.install(|| problem.codes(&[f16::ONE; 40][..shape[0]], &vec![alpha; shape[1]])),
            three.install(|| problem.codes(&[f16::ONE; 40][..shape[0]], &vec![alpha; shape[1]])));
    }

    #[test]
    fn the_bound_is_below_the_entropy_and_falls((shape, w, h, f) in case(), log in -10.0f64..0.0) {
        let problem = RateProblem::new(w, shape, h, &f, None).unwrap();
        let alpha = log.exp2();
        let (fine, coarse) = (problem.solve(alpha).unwrap(), problem.solve(4.0 * alpha).unwrap());
        let [a, b] = [fine.error, coarse.error].map(|e| rate_bound(&problem, e).unwrap());
        prop_assert!(a.is_finite() && b >= 0.0);
        prop_assert!(fine.error > coarse.error || a >= b);
    }
}

#[test]
fn feedback_beats_rounding() {
    let (rows, cols) = (64, 24);
    let mut next = numbers(1);
    let (w, h) = correlated([rows, cols], &mut next);
    let f: Vec<f64> = (0..rows).map(|_| f64::from(next()).powi(2) + 0.1).collect();
    let problem = RateProblem::new(w.clone(), [rows, cols], h.clone(), &f, None).unwrap();
    for alpha in [0.1, 0.5, 2.0] {
        let plain = error(&w, &nearest(&problem, alpha), [rows, cols], &h, &f);
        let fed = problem.solve(alpha).unwrap().error;
        assert!(fed < 0.5 * plain, "{fed} {plain}");
    }
}

/// One weight with one input: reverse water-filling's textbook case, `log2(sigma^2 / D) / 2`.
#[test]
fn the_bound_of_alike_rows_is_the_gaussian_one() {
    let w = vec![2.0f32; 16];
    let problem = RateProblem::new(w, [16, 1], Hessian::identity(1), &[1.0; 16], None).unwrap();
    let bound = rate_bound(&problem, 16.0 * 4.0 / 64.0).unwrap();
    assert!((bound - 3.0).abs() < 1e-9, "{bound}");
    assert_eq!(rate_bound(&problem, 64.0).unwrap(), 0.0);
}

#[test]
fn wrong_inputs_are_refused() {
    let h = Hessian::identity(2);
    let make = |w: Vec<f32>, f: &[f64]| RateProblem::new(w, [1, 2], h.clone(), f, None);
    assert!(make(vec![1.0], &[1.0]).is_err());
    assert!(make(vec![1.0, f32::NAN], &[1.0]).is_err());
    assert!(make(vec![1.0, 2.0], &[]).is_err());
    assert!(make(vec![1.0, 2.0], &[1.0]).unwrap().solve(0.0).is_err());
}
