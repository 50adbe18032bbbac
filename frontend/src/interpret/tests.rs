mod activations;
mod cases;
mod language_model;
mod lstm;
mod operators;
mod recurrent;

use crate::tensor::{DType, Tensor};

/// The elements of any numeric tensor.
fn numbers(t: &Tensor) -> Vec<f64> {
    super::elements::integers(t)
        .map(|v| v.into_iter().map(|x| x as f64).collect())
        .or_else(|_| super::arithmetic::cast(DType::F64, t).map(|t| t.f64s().unwrap().to_vec()))
        .unwrap()
}

/// Checks dtype, shape and elements: `|a - b| <= absolute + relative |b|`.
#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, absolute: f64, relative: f64, what: &str) {
    assert_eq!(found.dtype(), expected.dtype(), "{what}");
    assert_eq!(found.shape(), expected.shape(), "{what}");
    for (i, (a, b)) in numbers(found).into_iter().zip(numbers(expected)).enumerate() {
        let near = (a - b).abs() <= absolute + relative * b.abs() || a == b || (a.is_nan() && b.is_nan());
        assert!(near, "{what}: element {i} is {a}, expected {b}");
    }
}
