//! Products that take their vectors as int8.

use super::super::layers::update;
use super::super::{Interpreter, LanguageModel};
use super::numbers;
use crate::ir::arbitrary::{Kind, language_model_of, random_map};
use crate::ir::{
    Activations, GateOrder, Graph, LinearMap, LowRank, Lstm, SetActivations, parse, quantize_activations,
};
use crate::tensor::Tensor;
use proptest::prelude::*;

/// `y` of a graph of one input, in f32 and in f64.
fn both(graph: &Graph, x: &Tensor) -> [Vec<f64>; 2] {
    [Interpreter::new(graph).unwrap(), Interpreter::in_f64(graph).unwrap()]
        .map(|i| numbers(&i.run(&[("x", x.clone())]).unwrap()[0].1))
}

#[test]
fn codes_and_scales_of_vectors() {
    let quantized = |x: &[f32]| {
        let mut codes = vec![1; x.len()];
        (quantize_activations(x, &mut codes), codes)
    };
    // Ties go to the even code.
    assert_eq!(quantized(&[127.0, 0.5, 1.5, -2.5]), (1.0, vec![127, 0, 2, -2]));
    assert_eq!(quantized(&[1.0, -2.0, 0.5]), (2.0 / 127.0, vec![64, -127, 32]));
    assert_eq!(quantized(&[0.0, 0.0]), (1e-30 / 127.0, vec![0, 0]));
    assert_eq!(quantized(&[]), (1e-30 / 127.0, vec![]));
    assert_eq!(quantized(&[f32::MAX, f32::MIN]).1, [127, -127]);
    for lost in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(quantized(&[1.0, lost]).0.is_nan());
    }
}

proptest! {
    #[test]
    fn codes_are_within_half_a_step(x in prop::collection::vec(-1e3f32..1e3, 1..40)) {
        let mut codes = vec![0; x.len()];
        let scale = quantize_activations(&x, &mut codes);
        prop_assert!(codes.iter().all(|&q| q >= -127) && codes.iter().any(|&q| q.abs() == 127));
        for (&x, &q) in x.iter().zip(&codes) {
            // Half a step, and the roundings of 127 / m, of its product with x and of m / 127.
            let slack = 3.0 * 127.0 * f64::from(f32::EPSILON);
            prop_assert!((f64::from(x) / f64::from(scale) - f64::from(q)).abs() <= 0.5 + slack, "{x} {q}");
        }
    }
}

const LINEAR: &str = r#"
model "linear" {
  %x: f32[S, B, 4] = input
  %y = linear %x, @w
  return y %y
}
@w: int4 group 2 activations int8 [2, 4] { codes: [1, 2, 3, 4, -1, 0, 1, 7], scales: [0.5, 0.25, 1, 2], zero_points: [0, 1, 0, 0] }
"#;

/// `W = [[0.5, 1, 0.5, 0.75], [-1, 0, 2, 14]]`.
#[test]
fn a_product_by_hand() {
    let graph = parse(LINEAR).unwrap();
    // Two steps of two streams, each vector with its own scale: 1, 2, 1 and that of zeros.
    let rows = [[127.0, 0.5, 1.5, -2.5], [254.0, 3.0, -1.0, 100.0], [-127.0, 1.0, 2.0, 3.0], [0.0; 4]];
    let taken = [[127.0, 0.0, 2.0, -2.0], [254.0, 4.0, 0.0, 100.0], [-127.0, 1.0, 2.0, 3.0], [0.0; 4]];
    let expected: Vec<f64> = taken
        .iter()
        .flat_map(|[a, b, c, d]| [0.5 * a + b + 0.5 * c + 0.75 * d, -a + 2.0 * c + 14.0 * d])
        .collect();
    let x = Tensor::from_f32([2, 2, 4], rows.concat()).unwrap();
    assert_eq!(both(&graph, &x), [expected.clone(), expected]);
    let f32s = parse(&LINEAR.replace(" activations int8", "")).unwrap();
    assert_eq!(both(&f32s, &x)[0][..2], [0.5 * 127.0 + 0.5 + 0.75 - 1.875, -127.0 + 3.0 - 35.0]);
}

#[test]
fn each_factor_quantizes_what_it_multiplies() {
    let text = r#"
model "factors" {
  %x: f32[S, B, 3] = input
  %y = linear %x, @w
  return y %y
}
@w: low_rank [1, 3] { left: int8 row LEFT [1, 2] { codes: [1, 1], scales: [1] }, right: int8 row RIGHT [2, 3] { codes: [1, 1, 0, 0, 0, 1], scales: [1, 1] } }
"#;
    // R takes [127, 0.5, 1.5] or, rounded, [127, 0, 2]. So L gets [127.5, 1.5], of which the codes are [127, 1] at a scale of 127.5 / 127, or
    // [127, 2], which is what it is in codes too.
    let x = Tensor::from_f32([1, 1, 3], vec![127.0, 0.5, 1.5]).unwrap();
    let scale = f64::from(127.5f32 / 127.0);
    for (left, right, expected) in [
        ("", "", 129.0),
        ("", "activations int8", 129.0),
        ("activations int8", "activations int8", 129.0),
        ("activations int8", "", 128.0 * scale),
    ] {
        let graph = parse(&text.replace("LEFT", left).replace("RIGHT", right)).unwrap();
        let [single, double] = both(&graph, &x);
        assert!((double[0] - expected).abs() < 1e-12, "{left} {right}: {double:?}, expected {expected}");
        assert!((single[0] - expected).abs() < 1e-4);
    }
}

#[test]
fn values_under_a_mask_take_int8_too() {
    let text = r#"
model "sparse" {
  %x: f32[S, B, 3] = input
  %y = linear %x, @w
  return y %y
}
@w: sparse unstructured [1, 3] { mask: [0, 1, 1], values: int8 row activations int8 [1, 3] { codes: [0, 1, 1], scales: [1] } }
"#;
    // The scale is that of the whole vector, whatever the mask keeps.
    let x = Tensor::from_f32([1, 1, 3], vec![127.0, 0.5, 1.5]).unwrap();
    assert_eq!(both(&parse(text).unwrap(), &x), [[2.0], [2.0]]);
}

#[test]
fn a_vector_that_is_not_finite_gives_nan() {
    let x = Tensor::from_f32([1, 1, 4], vec![f32::INFINITY, 0.0, 0.0, 0.0]).unwrap();
    assert!(both(&parse(LINEAR).unwrap(), &x).iter().flatten().all(|y| y.is_nan()));
}

/// One layer whose LSTM maps share a left factor, with all products on int8, and a table that says so too.
fn shared() -> Graph {
    let part = |shape: [usize; 2], seed: u64| {
        SetActivations::new(Activations::Int8).set(&random_map(Kind::Quantized, shape, seed).into())
    };
    let left = part([12, 2], 1);
    language_model_of(3, 1, 7, |name, shape| match name {
        "lstm0.input" => LinearMap::LowRank(LowRank::new(left.clone(), part([2, 3], 2)).unwrap()),
        "lstm0.recurrent" => LinearMap::LowRank(LowRank::new(left.clone(), part([2, 3], 3)).unwrap()),
        _ => LinearMap::clone(&part(shape, 4)),
    })
}

/// `W x` with `W` and `x` as they stand for, and `x` rounded.
fn product(w: &LinearMap, x: &[f64]) -> Vec<f64> {
    let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let mut codes = vec![0; x.len()];
    let scale = f64::from(quantize_activations(&x, &mut codes));
    let dense = numbers(&w.to_dense().unwrap());
    let row = |w: &[f64]| scale * w.iter().zip(&codes).map(|(w, &q)| w * f64::from(q)).sum::<f64>();
    dense.chunks(x.len()).map(row).collect()
}

/// A table's rows are read as they are; `L (R1 x) + L (R2 h)` rounds four vectors, not `R1 x + R2 h`.
#[test]
fn a_model_by_plain_loops() {
    let graph = shared();
    let map = |name: &str| &graph.weight(graph.weight_named(name).unwrap()).map;
    let factors = |name: &str| match &**map(name) {
        LinearMap::LowRank(l) => (l.left().clone(), l.right().clone()),
        other => panic!("{} is not low-rank", other.kind()),
    };
    let dense = |name: &str| numbers(&map(name).to_dense().unwrap());
    let (table, bias, last_bias) = (dense("embedding"), dense("lstm0.bias"), dense("decoder.bias"));
    let ((left, right), (again, recurrent)) = (factors("lstm0.input"), factors("lstm0.recurrent"));
    assert_eq!(left.id(), again.id());
    let (mut h, mut c) = (vec![0.0; 3], vec![0.0; 3]);
    let tokens = [3u32, 0, 6, 6, 1];
    let mut expected = vec![];
    for &token in &tokens {
        let x = &table[3 * token as usize..][..3];
        let (a, b) = (product(&left, &product(&right, x)), product(&left, &product(&recurrent, &h)));
        let gates: Vec<f64> = (0..12).map(|k| a[k] + b[k] + bias[k]).collect();
        update(&Lstm::new(GateOrder::Iofc).spec(false), &gates, &[], &mut [&mut h, &mut c]);
        expected.extend(product(map("decoder"), &h).iter().zip(&last_bias).map(|(y, b)| y + b));
    }
    let model = LanguageModel::<f64>::new(&graph).unwrap();
    let batched = model.outputs(&mut model.state(), &tokens).unwrap();
    let column = Tensor::from_i64([5, 1], tokens.iter().map(|&t| t.into()).collect()).unwrap();
    let plain = numbers(&Interpreter::in_f64(&graph).unwrap().run(&[("tokens", column)]).unwrap()[0].1);
    for (k, want) in expected.iter().enumerate() {
        assert!((batched[k] - want).abs() < 1e-12 && (plain[k] - want).abs() < 1e-12, "logit {k}");
    }
}
