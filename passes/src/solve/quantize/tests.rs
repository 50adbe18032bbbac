use super::*;
use crate::solve::row_errors;
use crate::solve::samples::{correlated, numbers};
use proptest::prelude::*;

fn matrix(rows: usize, cols: usize) -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(-1.0f32..1.0, rows * cols)
}

/// A matrix and the second moment of some inputs of its width.
fn case() -> impl Strategy<Value = ([usize; 2], Vec<f32>, Hessian)> {
    (1usize..5, 1usize..14).prop_flat_map(|(rows, cols)| {
        (matrix(rows, cols), matrix(2 * cols, cols)).prop_map(move |(w, x)| {
            let h = Hessian::of_reader(&x, cols, 0.01).unwrap();
            ([rows, cols], w, h)
        })
    })
}

fn options() -> impl Strategy<Value = QuantizeOptions> {
    (
        prop::sample::select(CodeFormat::ALL.to_vec()),
        prop::option::of(1usize..7),
        any::<[bool; 3]>(),
        0usize..4,
        prop::sample::select(vec![Rounding::Nearest, Rounding::Feedback, Rounding::FeedbackByActivation]),
    )
        .prop_map(|(format, group, [f16_scales, signed_scales, asymmetric], sweeps, rounding)| {
            QuantizeOptions {
                format,
                group,
                rounding,
                f16_scales,
                signed_scales,
                asymmetric,
                sweeps,
                ..Default::default()
            }
        })
}

fn total(errors: &[f64]) -> f64 {
    errors.iter().sum()
}

proptest! {
    #[test]
    fn codes_are_in_range_and_errors_are_true((shape, w, h) in case(), options in options()) {
        let q = quantize(&w, shape, Some(&h), None, &options).unwrap();
        let [low, high] = options.range();
        prop_assert!(q.codes.iter().all(|&c| (low..=high).contains(&i32::from(c))));
        let zeros = q.zero_points.iter().flatten();
        prop_assert!(zeros.clone().all(|&c| (low..=high).contains(&i32::from(c))));
        prop_assert_eq!(q.zero_points.is_some(), options.asymmetric);
        prop_assert_eq!(q.scales.len(), shape[0] * q.groups());
        if options.f16_scales {
            prop_assert!(q.scales.iter().all(|&s| round_to_f16(s) == s));
        }
        let errors = row_errors(&w, &q.to_dense(), shape, Some(&h)).unwrap();
        for (a, b) in errors.iter().zip(&q.row_errors) {
            // Both sum the same products; to_dense rounds each weight to f32.
            prop_assert!((a - b).abs() <= 1e-5 * (1.0 + a));
        }
    }

    #[test]
    fn feedback_with_the_identity_is_round_to_nearest((shape, w, _) in case(), options in options()) {
        let options = QuantizeOptions { sweeps: 0, ..options };
        let h = Hessian::identity(shape[1]);
        let near = QuantizeOptions { rounding: Rounding::Nearest, ..options.clone() };
        let fed = QuantizeOptions { rounding: Rounding::Feedback, ..options };
        let a = quantize(&w, shape, Some(&h), None, &fed).unwrap();
        prop_assert_eq!(&a, &quantize(&w, shape, Some(&h), None, &near).unwrap());
        prop_assert_eq!(&a, &quantize(&w, shape, None, None, &near).unwrap());
    }

    #[test]
    fn descent_never_raises_the_error_of_a_row((shape, w, h) in case(), options in options()) {
        let before = quantize(&w, shape, Some(&h), None, &QuantizeOptions { sweeps: 0, ..options.clone() }).unwrap();
        let after = quantize(&w, shape, Some(&h), None, &QuantizeOptions { sweeps: 5, ..options }).unwrap();
        for (a, b) in after.row_errors.iter().zip(&before.row_errors) {
            prop_assert!(*a <= b * (1.0 + 1e-9) + 1e-12);
        }
    }

    #[test]
    fn what_a_mask_drops_is_zero((shape, w, h) in case(), seed in any::<u64>(), options in options()) {
        let mask: Vec<bool> = (0..w.len()).map(|k| seed >> (k % 61) & 1 == 1).collect();
        let w: Vec<f32> = w.iter().zip(&mask).map(|(&x, &k)| if k { x } else { 0.0 }).collect();
        let q = quantize(&w, shape, Some(&h), Some(&mask), &options).unwrap();
        let dense = q.to_dense();
        prop_assert!(dense.iter().zip(&mask).all(|(&x, &k)| k || x == 0.0));
        let errors = row_errors(&w, &dense, shape, Some(&h)).unwrap();
        prop_assert!((total(&errors) - total(&q.row_errors)).abs() <= 1e-5 * (1.0 + total(&errors)));
    }

    #[test]
    fn a_full_mask_changes_nothing((shape, w, h) in case(), options in options()) {
        let mask = vec![true; w.len()];
        let masked = quantize(&w, shape, Some(&h), Some(&mask), &options).unwrap();
        prop_assert_eq!(masked, quantize(&w, shape, Some(&h), None, &options).unwrap());
    }

    #[test]
    fn f16_rounding_is_that_of_half(x in any::<f32>().prop_filter("finite", |x| x.is_finite())) {
        let scaled = [x, x % 70000.0, x % 1.0, x % 1e-4, x % 1e-7];
        for x in scaled {
            let through_tensor = lstmc_frontend::tensor::Tensor::from_f32(vec![1], vec![round_to_f16(x)]).unwrap();
            prop_assert!(through_tensor.to_f32().unwrap()[0].abs() <= 65504.0);
            let r = round_to_f16(x);
            // At most half a step of 2^-11 relative, or of 2^-24 absolute.
            if x.abs() < 65504.0 {
                prop_assert!((r - x).abs() <= f32::max(x.abs() / 2048.0, 2f32.powi(-25)));
            }
            prop_assert_eq!(round_to_f16(r), r);
        }
    }
}

#[test]
fn feedback_beats_nearest_on_correlated_inputs() {
    let (rows, cols) = (16, 24);
    let (w, h) = correlated([rows, cols], &mut numbers(1));
    let error = |rounding, sweeps| {
        let options = QuantizeOptions {
            format: CodeFormat::Int3,
            group: Some(8),
            rounding,
            sweeps,
            ..Default::default()
        };
        total(&quantize(&w, [rows, cols], Some(&h), None, &options).unwrap().row_errors)
    };
    let (nearest, fed) = (error(Rounding::Nearest, 0), error(Rounding::Feedback, 0));
    assert!(fed < 0.7 * nearest, "{fed} {nearest}");
    assert!(error(Rounding::Feedback, 8) < fed);
}

#[test]
fn refusals_say_what_is_wanted() {
    let options = QuantizeOptions { group: Some(0), ..Default::default() };
    let error = quantize(&[0.0], [1, 1], None, None, &options).unwrap_err();
    insta::assert_snapshot!(error, @"group: expected at least 1, found 0");
    let error = quantize(&[f32::NAN], [1, 1], None, None, &QuantizeOptions::default()).unwrap_err();
    insta::assert_snapshot!(error, @"w: expected finite numbers, found NaN or infinity");
    let error = quantize(&[0.0], [2, 1], None, None, &QuantizeOptions::default()).unwrap_err();
    insta::assert_snapshot!(error, @"w: expected 2 numbers, found 1");
}

#[test]
fn zeros_stay_zero() {
    for asymmetric in [false, true] {
        let options = QuantizeOptions { asymmetric, group: Some(2), ..Default::default() };
        let q = quantize(&[0.0; 6], [2, 3], None, None, &options).unwrap();
        assert_eq!(q.to_dense(), [0.0; 6]);
    }
}
