//! The ONNX LSTM: one step by hand, and what its attributes mean in terms of each other.

use super::super::evaluate;
use super::assert_close;
use crate::ir::arbitrary::random_tensor;
use crate::ir::{Direction, Function, OnnxLstm, Op};
use crate::tensor::{DType, Tensor};
use half::f16;
use proptest::prelude::*;

const S: usize = 4;
const B: usize = 3;
const I: usize = 5;
const H: usize = 2;

fn forward() -> OnnxLstm {
    OnnxLstm {
        hidden_size: H,
        direction: Direction::Forward,
        batch_first: false,
        clip: None,
        input_forget: false,
        activations: vec![Function::Sigmoid, Function::Tanh, Function::Tanh],
        dynamic: false,
    }
}

fn run(lstm: &OnnxLstm, operands: &[Option<Tensor>]) -> Vec<Tensor> {
    evaluate(&Op::OnnxLstm(Box::new(lstm.clone())), operands).unwrap()
}

/// `X, W, R, B, sequence_lens, initial_h, initial_c, P` for one direction.
fn operands(dtype: DType, seed: u64) -> Vec<Option<Tensor>> {
    let random = |k: u64, shape: &[usize]| Some(random_tensor(dtype, shape, seed * 10 + k).unwrap());
    vec![
        random(0, &[S, B, I]),
        random(1, &[1, 4 * H, I]),
        random(2, &[1, 4 * H, H]),
        random(3, &[1, 8 * H]),
        None,
        random(4, &[1, B, H]),
        random(5, &[1, B, H]),
        random(6, &[1, 3 * H]),
    ]
}

fn transposed(t: &Tensor, perm: &[i64]) -> Tensor {
    evaluate(&Op::Transpose { perm: perm.to_vec() }, &[Some(t.clone())]).unwrap().swap_remove(0)
}

/// Steps in reverse order.
fn reversed(t: &Tensor) -> Tensor {
    let int = |n: i64| Some(Tensor::from_i64([1], vec![n]).unwrap());
    let operands = [Some(t.clone()), int(-1), int(i64::MIN), int(0), int(-1)];
    evaluate(&Op::Slice, &operands).unwrap().swap_remove(0)
}

/// One step of one unit, with every number written out.
#[test]
fn one_step_by_hand() {
    let t = |shape: &[usize], v: &[f64]| Some(Tensor::from_f64(shape, v.to_vec()).unwrap());
    let mut lstm = forward();
    lstm.hidden_size = 1;
    let operands = [
        t(&[1, 1, 1], &[0.5]),
        t(&[1, 4, 1], &[0.1, 0.2, 0.3, 0.4]), // i, o, f, c
        t(&[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]),
        t(&[1, 8], &[0.01, 0.02, 0.03, 0.04, 0.1, 0.2, 0.3, 0.4]),
        None,
        t(&[1, 1, 1], &[-0.25]),
        t(&[1, 1, 1], &[2.0]),
        t(&[1, 3], &[0.5, 0.6, 0.7]),
    ];
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let i = sigmoid(0.05 - 0.25 + 0.11 + 0.5 * 2.0);
    let f = sigmoid(0.15 - 0.75 + 0.33 + 0.7 * 2.0);
    let g = (0.2f64 - 1.0 + 0.44).tanh();
    let c = f * 2.0 + i * g;
    let o = sigmoid(0.1 - 0.5 + 0.22 + 0.6 * c);
    let results = run(&lstm, &operands);
    for (result, expected) in results.iter().zip([o * c.tanh(), o * c.tanh(), c]) {
        assert!((result.f64s().unwrap()[0] - expected).abs() < 1e-15);
    }
}

#[test]
fn clip_bounds_the_gates_and_not_the_cell() {
    let t = |shape: &[usize], v: &[f64]| Some(Tensor::from_f64(shape, v.to_vec()).unwrap());
    let mut lstm = forward();
    lstm.hidden_size = 1;
    lstm.clip = Some(1.0);
    let operands = [
        t(&[1, 1, 1], &[1.0]),
        t(&[1, 4, 1], &[100.0; 4]),
        t(&[1, 4, 1], &[0.0; 4]),
        None,
        None,
        None,
        t(&[1, 1, 1], &[5.0]),
    ];
    let sigmoid = 1.0 / (1.0 + (-1.0f64).exp());
    let c = sigmoid * 5.0 + sigmoid * 1.0f64.tanh();
    let results = run(&lstm, &operands);
    assert!((results[2].f64s().unwrap()[0] - c).abs() < 1e-15);
    assert!((results[0].f64s().unwrap()[0] - sigmoid * c.tanh()).abs() < 1e-15);
}

#[test]
fn a_gate_of_one_minus_the_other() {
    let mut coupled = forward();
    coupled.input_forget = true;
    // Saturated: i = 1, so f = 0 and the old cell is gone; uncoupled, f = 1 keeps it.
    let big = |shape: &[usize]| Some(Tensor::from_f64(shape, vec![1000.0; shape.iter().product()]).unwrap());
    let zero = |shape: &[usize]| Some(Tensor::from_f64(shape, vec![0.0; shape.iter().product()]).unwrap());
    let operands =
        [big(&[1, 1, I]), big(&[1, 4 * H, I]), zero(&[1, 4 * H, H]), None, None, None, big(&[1, 1, H])];
    assert_eq!(run(&coupled, &operands)[2].f64s().unwrap(), [1.0; H]);
    assert_eq!(run(&forward(), &operands)[2].f64s().unwrap(), [1001.0; H]);
}

/// ONNX allows a stream to be empty: it keeps its state and says nothing.
#[test]
fn an_empty_stream_keeps_its_state() {
    let mut all = operands(DType::F32, 1);
    all[4] = Some(Tensor::from_i32([B], vec![0, 2, S as i32]).unwrap());
    let results = run(&forward(), &all);
    let (y, h, c) = (results[0].f32s().unwrap(), &results[1], &results[2]);
    for t in 0..S {
        assert_eq!(y[t * B * H..][..H], [0.0; H], "stream 0 is empty");
    }
    assert_eq!(y[2 * B * H + H..][..H], [0.0; H], "stream 1 ends after two steps");
    assert_eq!(h.f32s().unwrap()[..H], all[5].as_ref().unwrap().f32s().unwrap()[..H]);
    assert_eq!(c.f32s().unwrap()[..H], all[6].as_ref().unwrap().f32s().unwrap()[..H]);
    assert_eq!(h.f32s().unwrap()[H..2 * H], y[B * H + H..][..H], "the state of its last step");
    all[4] = Some(Tensor::from_i32([B], vec![0, 2, 9]).unwrap());
    let error = evaluate(&Op::OnnxLstm(Box::new(forward())), &all).unwrap_err();
    assert_eq!(error.to_string(), "expected sequence lengths of 0 to 4, found 9");
}

proptest! {
    #[test]
    fn reverse_is_forward_on_reversed_steps(seed in 0u64..1000) {
        let operands = operands(DType::F32, seed);
        let mut turned = operands.clone();
        turned[0] = operands[0].as_ref().map(reversed);
        let mut reverse = forward();
        reverse.direction = Direction::Reverse;
        let (a, b) = (run(&forward(), &turned), run(&reverse, &operands));
        prop_assert_eq!(reversed(&a[0]), b[0].clone());
        prop_assert_eq!(&a[1..], &b[1..]);
    }

    #[test]
    fn bidirectional_is_both(seed in 0u64..1000) {
        let (one, two) = (operands(DType::F32, seed), operands(DType::F32, seed + 1000));
        let join = |axis: i64, a: &Tensor, b: &Tensor| {
            evaluate(&Op::Concat { axis }, &[Some(a.clone()), Some(b.clone())]).unwrap().swap_remove(0)
        };
        let mut both: Vec<Option<Tensor>> =
            one.iter().zip(&two).map(|(a, b)| Some(join(0, a.as_ref()?, b.as_ref()?))).collect();
        both[0].clone_from(&one[0]);
        let mut backward = two;
        backward[0].clone_from(&one[0]);
        let mut reverse = forward();
        reverse.direction = Direction::Reverse;
        let mut bidirectional = forward();
        bidirectional.direction = Direction::Bidirectional;
        bidirectional.activations.extend_from_within(..);
        let (a, b, c) = (run(&forward(), &one), run(&reverse, &backward), run(&bidirectional, &both));
        for (k, axis) in [(0, 1), (1, 0), (2, 0)] {
            prop_assert_eq!(join(axis, &a[k], &b[k]), c[k].clone());
        }
    }

    #[test]
    fn batch_first_is_transposed(seed in 0u64..1000, lengths in prop::collection::vec(0i32..=S as i32, B)) {
        let mut operands = operands(DType::F32, seed);
        operands[4] = Some(Tensor::from_i32([B], lengths).unwrap());
        let mut turned = operands.clone();
        for k in [0, 5, 6] {
            turned[k] = operands[k].as_ref().map(|t| transposed(t, &[1, 0, 2]));
        }
        let mut batch_first = forward();
        batch_first.batch_first = true;
        let (a, b) = (run(&forward(), &operands), run(&batch_first, &turned));
        prop_assert_eq!(transposed(&a[0], &[2, 0, 1, 3]), b[0].clone());
        prop_assert_eq!(transposed(&a[1], &[1, 0, 2]), b[1].clone());
        prop_assert_eq!(transposed(&a[2], &[1, 0, 2]), b[2].clone());
    }

    /// Rounding is all that tells the dtypes apart: a few units in the last place of numbers of at most about one, for each of the
    /// `I + H` terms of a gate and step.
    #[test]
    fn dtypes_agree(seed in 0u64..1000) {
        let operands = operands(DType::F16, seed);
        let wide = |to: DType| -> Vec<Option<Tensor>> {
            let cast = |t: &Tensor| evaluate(&Op::Cast { to }, &[Some(t.clone())]).unwrap().swap_remove(0);
            operands.iter().map(|t| t.as_ref().map(cast)).collect()
        };
        let half = run(&forward(), &operands);
        let (single, double) = (run(&forward(), &wide(DType::F32)), run(&forward(), &wide(DType::F64)));
        for k in 0..3 {
            let single64 = Tensor::from_f64(
                single[k].shape(),
                single[k].f32s().unwrap().iter().map(|&x| x.into()).collect(),
            ).unwrap();
            let tolerance = f64::from(f32::EPSILON) * (S * (I + H)) as f64;
            assert_close(&single64, &double[k], tolerance, 0.0, "f32");
            // Half precision rounds once, at the end.
            let rounded: Vec<f16> = single[k].f32s().unwrap().iter().map(|&x| f16::from_f32(x)).collect();
            prop_assert_eq!(half[k].f16s().unwrap(), rounded);
        }
    }

    /// Two runs that hand over their states are one run.
    #[test]
    fn states_carry_over(seed in 0u64..1000, at in 0usize..=S) {
        let operands = operands(DType::F32, seed);
        let part = |from: usize, to: usize| {
            let int = |n: usize| Some(Tensor::from_i64([1], vec![n as i64]).unwrap());
            let slice = [operands[0].clone(), int(from), int(to)];
            Some(evaluate(&Op::Slice, &slice).unwrap().swap_remove(0))
        };
        let all = run(&forward(), &operands);
        let mut first = operands.clone();
        first[0] = part(0, at);
        let first = run(&forward(), &first);
        let mut second = operands.clone();
        second[0] = part(at, S);
        second[5] = Some(first[1].clone());
        second[6] = Some(first[2].clone());
        let second = run(&forward(), &second);
        prop_assert_eq!(&second[1..], &all[1..]);
        let y = evaluate(&Op::Concat { axis: 0 }, &[Some(first[0].clone()), Some(second[0].clone())]).unwrap();
        prop_assert_eq!(&y[0], &all[0]);
    }
}
