//! Operators by hand, where the recorded cases say nothing: dtypes, broadcasting, edges and errors.

use super::super::{Interpreter, evaluate};
use super::assert_close;
use crate::ir::arbitrary::random_tensor;
use crate::ir::{Binary, Dim, Function, Graph, Onnx, Op, Operand, OutputRole, Scalar, Symbol, Type};
use crate::tensor::{DType, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;

fn f32s(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_f32(shape, v.to_vec()).unwrap()
}

fn ints(v: &[i64]) -> Tensor {
    Tensor::from_i64([v.len()], v.to_vec()).unwrap()
}

/// The first result.
#[track_caller]
fn one(op: Op, operands: &[Tensor]) -> Tensor {
    let operands: Vec<Option<Tensor>> = operands.iter().cloned().map(Some).collect();
    evaluate(&op, &operands).unwrap().swap_remove(0)
}

fn error(op: Op, operands: &[Tensor]) -> String {
    let operands: Vec<Option<Tensor>> = operands.iter().cloned().map(Some).collect();
    evaluate(&op, &operands).unwrap_err().to_string()
}

#[test]
fn halves_are_computed_in_f32_and_rounded() {
    let half = |v: f32| Tensor::from_f16([1], vec![f16::from_f32(v)]).unwrap();
    let sum = one(Op::Binary(Binary::Add), &[half(2048.0), half(1.0)]);
    // 2049 lies between two halves; the tie goes to even.
    assert_eq!(sum.f16s().unwrap(), [f16::from_f32(2048.0)]);
    let brain = |v: f32| Tensor::from_bf16([1], vec![bf16::from_f32(v)]).unwrap();
    let product = one(Op::MatMul, &[brain(3.0), brain(1.25)]);
    assert_eq!(product.bf16s().unwrap(), [bf16::from_f32(3.75)]);
    // A constant in half precision reads as f32.
    let mixed = one(Op::Binary(Binary::Mul), &[f32s(&[1], &[3.0]), half(0.5)]);
    assert_eq!(mixed.f32s().unwrap(), [1.5]);
}

#[test]
fn integers_wrap_and_truncate() {
    let go = |op, a: &[i64], b: &[i64]| one(Op::Binary(op), &[ints(a), ints(b)]).i64s().unwrap().to_vec();
    assert_eq!(go(Binary::Add, &[i64::MAX], &[1]), [i64::MIN]);
    assert_eq!(go(Binary::Div, &[-7, i64::MIN], &[2, -1]), [-3, i64::MIN]);
    let bytes = |v: &[u8]| Tensor::from_u8([v.len()], v.to_vec()).unwrap();
    assert_eq!(one(Op::Binary(Binary::Sub), &[bytes(&[1]), bytes(&[2])]).u8s().unwrap(), [255]);
    assert_eq!(
        error(Op::Binary(Binary::Div), &[ints(&[1]), ints(&[0])]),
        "expected a divisor other than zero, found 0"
    );
}

#[test]
fn casts() {
    let cast = |to, t: &Tensor| one(Op::Cast { to }, std::slice::from_ref(t));
    let x = f32s(&[5], &[-1.9, 300.0, 0.0, f32::NAN, 0.5]);
    assert_eq!(cast(DType::I8, &x).i8s().unwrap(), [-1, 127, 0, 0, 0]);
    assert_eq!(cast(DType::Bool, &x).bools().unwrap(), [true, true, false, true, true]);
    assert_eq!(cast(DType::U8, &ints(&[257, -1])).u8s().unwrap(), [1, 255]);
    let yes = Tensor::from_bool([2], vec![true, false]).unwrap();
    assert_eq!(cast(DType::F64, &yes).f64s().unwrap(), [1.0, 0.0]);
    let big = Tensor::from_f64([1], vec![1e300]).unwrap();
    assert_eq!(cast(DType::F32, &big).f32s().unwrap(), [f32::INFINITY]);
}

#[test]
fn data_of_every_dtype_moves() {
    for dtype in DType::ALL {
        let x = random_tensor(dtype, &[2, 3, 4], 3).unwrap();
        let y = one(Op::Transpose { perm: vec![2, 0, 1] }, std::slice::from_ref(&x));
        assert_eq!(y.shape(), [4, 2, 3]);
        assert_eq!(one(Op::Transpose { perm: vec![1, 2, 0] }, &[y]), x);
        let parts = evaluate(&Op::Split { axis: 1, outputs: 2 }, &[Some(x.clone()), None]).unwrap();
        assert_eq!(parts[1].shape(), [2, 1, 4]);
        assert_eq!(one(Op::Concat { axis: -2 }, &parts), x);
        let all = one(Op::Gather { axis: 1 }, &[x.clone(), ints(&[0, -2, 2])]);
        assert_eq!(all, x);
        let twice = one(Op::Slice, &[x.clone(), ints(&[-1]), ints(&[-9]), ints(&[2]), ints(&[-1])]);
        assert_eq!(one(Op::Slice, &[twice, ints(&[-1]), ints(&[-9]), ints(&[2]), ints(&[-1])]), x);
        let wide = one(Op::Expand, &[x.clone(), ints(&[2, 1, 1, 1])]);
        let second = one(Op::Slice, &[wide, ints(&[1]), ints(&[2])]);
        assert_eq!(one(Op::Squeeze, &[second, ints(&[0])]), x);
    }
}

/// The movements of the table keep every element of every dtype.
#[test]
fn table_movements_of_every_dtype() {
    let none = || "none".to_string();
    for dtype in DType::ALL {
        let x = random_tensor(dtype, &[2, 3], 3).unwrap();
        let go = |op: Onnx, others: &[Tensor]| {
            assert!(op.is_movement() && op.moves(usize::from(op == Onnx::Where {})), "{op:?}");
            one(Op::Onnx(op), &[std::slice::from_ref(&x), others].concat())
        };
        let twice = go(Onnx::Tile {}, &[ints(&[1, 2])]);
        assert_eq!(one(Op::Slice, &[twice, ints(&[3]), ints(&[6]), ints(&[1])]), x);
        let at = Tensor::from_i64([2, 3], vec![0, 1, 2, 0, -2, -1]).unwrap();
        assert_eq!(go(Onnx::GatherElements { axis: 1 }, std::slice::from_ref(&at)), x);
        let op = Onnx::ScatterElements { axis: 1, reduction: none() };
        assert_eq!(go(op, &[at, x.clone()]), x);
        let rows = Tensor::from_i64([2, 1], vec![0, -1]).unwrap();
        assert_eq!(go(Onnx::GatherND { batch_dims: 0 }, std::slice::from_ref(&rows)), x);
        assert_eq!(go(Onnx::ScatterND { reduction: none() }, &[rows, x.clone()]), x);
        for mode in ["constant", "edge", "reflect", "wrap"] {
            let wide = go(Onnx::Pad { mode: mode.into() }, &[ints(&[1, 0, 0, 2])]);
            assert_eq!(one(Op::Slice, &[wide, ints(&[1, 0]), ints(&[3, 3])]), x);
        }
        let [low, high] = [false, true].map(|upper| go(Onnx::Trilu { upper }, &[]));
        let is_low = Tensor::from_bool([2, 3], vec![true, false, false, true, true, false]).unwrap();
        assert_eq!(one(Op::Onnx(Onnx::Where {}), &[is_low, low, high]), x);
        let turned = go(Onnx::ReverseSequence { batch_axis: 0, time_axis: 1 }, &[ints(&[3, 1])]);
        assert_eq!(
            one(Op::Onnx(Onnx::ReverseSequence { batch_axis: 0, time_axis: 1 }), &[turned, ints(&[3, 1])]),
            x
        );
    }
}

/// What a hostile or wrong operand gives is an error.
#[test]
fn wrong_operands_of_the_table() {
    let x = f32s(&[2, 3], &[1.0; 6]);
    let text =
        |op: Onnx, others: &[Tensor]| error(Op::Onnx(op), &[std::slice::from_ref(&x), others].concat());
    let at = Tensor::from_i64([1, 1], vec![2]).unwrap();
    let errors = [
        text(Onnx::Tile {}, &[ints(&[1 << 40, 1])]),
        text(Onnx::Tile {}, &[ints(&[1])]),
        text(Onnx::GatherElements { axis: 0 }, std::slice::from_ref(&at)),
        text(Onnx::GatherND { batch_dims: 0 }, std::slice::from_ref(&at)),
        text(Onnx::Pad { mode: "constant".into() }, &[ints(&[i64::MIN, 0, i64::MAX, 0])]),
        text(Onnx::TopK { axis: 0, largest: true, sorted: true }, &[ints(&[])]),
        text(Onnx::OneHot { axis: 0 }, &[ints(&[-3]), f32s(&[2], &[0.0, 1.0])]),
        text(Onnx::And {}, std::slice::from_ref(&x)),
        text(Onnx::Not {}, &[]),
        text(Onnx::Einsum { equation: "ab,cd->e".into() }, std::slice::from_ref(&x)),
        text(Onnx::DequantizeLinear { axis: 1, block_size: 0, output_dtype: None }, &[f32s(&[2], &[0.0; 2])]),
        error(Op::Onnx(Onnx::EyeLike { dtype: None, k: 0 }), &[ints(&[1])]),
        error(Op::Onnx(Onnx::Range {}), &[ints(&[0]), ints(&[1]), ints(&[0])]),
        error(Op::Unknown { domain: "d".into(), name: "Op".into(), outputs: 1 }, &[]),
        error(Op::If, &[]),
    ];
    insta::assert_snapshot!(errors.join("\n"));
}

/// What no output needs is not computed: the branch that is not taken, and unknown operators.
#[test]
fn only_what_is_needed_is_computed() {
    let mut g = Graph::new("by-need");
    let truth = g.add_source(Op::Input, "truth", Type::new(DType::Bool, vec![]));
    let x = g.add_source(Op::Input, "x", Type::unranked(DType::F32));
    let unknown = Op::Unknown { domain: "d".into(), name: "Op".into(), outputs: 1 };
    let bad = g.add(unknown, &[x.into()], &["bad"], "").unwrap()[0];
    let y = g.add(Op::If, &[truth.into(), x.into(), bad.into()], &["y"], "").unwrap()[0];
    g.add_output(OutputRole::Named("y".into()), y);
    let run = |truth| {
        let truth = Tensor::from_bool([], vec![truth]).unwrap();
        Interpreter::new(&g).unwrap().run(&[("truth", truth), ("x", f32s(&[1, 1], &[3.0]))])
    };
    assert_eq!(run(true).unwrap()[0].1.f32s().unwrap(), [3.0]);
    let error = run(false).unwrap_err().to_string();
    assert_eq!(error, "onnx.unknown %bad: expected an operator that lstmc knows, found Op of domain \"d\"");
}

#[test]
fn error_function() {
    // Abramowitz and Stegun, table 7.1.
    for (x, y) in
        [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0), (-1.5, -0.966_105_146_5)]
    {
        assert!((super::super::numbers::erf(x) - y).abs() < 1e-10, "{x}");
    }
    assert_eq!([7.0, -30.0].map(super::super::numbers::erf), [1.0, -1.0]);
}

#[test]
fn indices_out_of_range_are_named() {
    let table = f32s(&[3, 2], &[0.0; 6]);
    let many: Vec<i64> = (0..100).map(|i| i % 4).collect();
    assert_eq!(
        error(Op::Gather { axis: 0 }, &[table.clone(), ints(&many)]),
        "expected indices in -3..3 of axis 0 of [3, 2], found index 3"
    );
    let elided = table.elide();
    assert!(error(Op::Identity, &[elided]).contains("gives only its hash"));
}

#[test]
fn softmax_does_not_overflow() {
    let x = f32s(&[2, 2], &[1000.0, 1000.0, -1e30, 0.0]);
    assert_eq!(
        one(Op::Softmax { axis: 1, flatten: false }, std::slice::from_ref(&x)).f32s().unwrap(),
        [0.5, 0.5, 0.0, 1.0]
    );
    let log = one(Op::LogSoftmax { axis: -1, flatten: false }, &[x]);
    assert_close(
        &log,
        &f32s(&[2, 2], &[-0.5f32.ln().abs(), 0.5f32.ln(), -1e30, 0.0]),
        1e-6,
        1e-6,
        "log softmax",
    );
}

#[test]
fn empty_tensors() {
    let none = f32s(&[0, 3], &[]);
    assert_eq!(one(Op::MatMul, &[f32s(&[2, 0], &[]), none.clone()]).f32s().unwrap(), [0.0; 6]);
    assert_eq!(one(Op::Softmax { axis: 0, flatten: false }, std::slice::from_ref(&none)).shape(), [0, 3]);
    assert_eq!(one(Op::Concat { axis: 0 }, &[none.clone(), f32s(&[1, 3], &[1.0; 3])]).shape(), [1, 3]);
    assert_eq!(one(Op::Unary(Function::Tanh), &[none]).shape(), [0, 3]);
}

#[test]
fn huge_results_are_refused() {
    let value = Scalar { dtype: DType::F32, value: 1.0 };
    let found = error(Op::ConstantOfShape { value }, &[ints(&[1 << 20, 1 << 20])]);
    assert_eq!(found, "expected a result of at most 268435456 elements, found f32[1048576, 1048576]");
    let found = error(Op::Expand, &[f32s(&[1], &[0.0]), ints(&[i64::MAX, i64::MAX])]);
    assert!(found.starts_with("expected a result of at most"), "{found}");
}

proptest! {
    /// Slices of every start, end and step are what Python's are.
    #[test]
    fn slices_are_pythons(size in 0i64..6, start in -8i64..8, end in -8i64..8, step in -3i64..4) {
        prop_assume!(step != 0);
        let data: Vec<i64> = (0..size).collect();
        let found = one(Op::Slice, &[ints(&data), ints(&[start]), ints(&[end]), ints(&[0]), ints(&[step])]);
        // By definition, walking every index that could be reached.
        let clamp = |i: i64| {
            let i = if i < 0 { i + size } else { i };
            if step > 0 { i.clamp(0, size) } else { i.clamp(-1, size - 1) }
        };
        let (mut at, end) = (clamp(start), clamp(end));
        let mut expected = vec![];
        while (step > 0 && at < end) || (step < 0 && at > end) {
            expected.push(data[at as usize]);
            at += step;
        }
        prop_assert_eq!(found.i64s().unwrap(), expected);
    }

    /// Broadcasting is expanding both first.
    #[test]
    fn broadcasting_is_expanding(mask_a in 0usize..8, mask_b in 0usize..8, seed in 0u64..100) {
        let full = [2usize, 3, 4];
        let shape = |mask: usize| -> Vec<usize> { (0..3).map(|i| if mask >> i & 1 == 1 { 1 } else { full[i] }).collect() };
        let a = random_tensor(DType::F32, &shape(mask_a), seed).unwrap();
        let b = random_tensor(DType::F32, &shape(mask_b), seed + 1).unwrap();
        let wide = |t: &Tensor| one(Op::Expand, &[t.clone(), ints(&[2, 3, 4])]);
        let found = one(Op::Binary(Binary::Div), &[a.clone(), b.clone()]);
        let found = one(Op::Expand, &[found, ints(&[2, 3, 4])]);
        prop_assert_eq!(found, one(Op::Binary(Binary::Div), &[wide(&a), wide(&b)]));
    }

    /// A transposed product is the product of transposes.
    #[test]
    fn gemm_and_mat_mul_agree(m in 0usize..4, k in 0usize..4, n in 0usize..4, seed in 0u64..100) {
        let a = random_tensor(DType::F64, &[k, m], seed).unwrap();
        let b = random_tensor(DType::F64, &[n, k], seed + 1).unwrap();
        let t = |x: &Tensor| one(Op::Transpose { perm: vec![] }, std::slice::from_ref(x));
        let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: true, trans_b: true };
        prop_assert_eq!(one(gemm, &[a.clone(), b.clone()]), one(Op::MatMul, &[t(&a), t(&b)]));
    }
}

/// `y = x reshaped to [S*B, 4]`, with a state that counts runs.
fn counting() -> Graph {
    let dim = |s: &str| Dim::symbol(Symbol::new(s));
    let mut g = Graph::new("counting");
    let x = g.add_source(Op::Input, "x", Type::new(DType::F32, vec![dim("S"), dim("B"), 4.into()]));
    let count = g.add_source(Op::State, "count", Type::new(DType::F32, vec![dim("B")]));
    let target = g.add_weight("target", ints(&[-1, 4])).unwrap();
    let half = Tensor::from_f16([], vec![f16::from_f32(0.5)]).unwrap();
    let half = g.add_weight("half", half).unwrap();
    let y = g.add(Op::Reshape { allow_zero: false }, &[x.into(), target.into()], &["y"], "/flat").unwrap()[0];
    let next = g.add(Op::Binary(Binary::Add), &[count.into(), half.into()], &["next"], "").unwrap()[0];
    g.add_output(OutputRole::State(count), next);
    g.add_output(OutputRole::Named("y".into()), y);
    g
}

#[test]
fn states_start_at_zero_and_go_by_their_name() {
    let g = counting();
    let interpreter = Interpreter::new(&g).unwrap();
    let x = random_tensor(DType::F32, &[3, 2, 4], 1).unwrap();
    let out = interpreter.run(&[("x", x.clone())]).unwrap();
    let names: Vec<&str> = out.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["count", "y"]);
    assert_eq!(out[0].1.f32s().unwrap(), [0.5, 0.5]);
    assert_eq!(out[1].1.shape(), [6, 4]);
    let out = interpreter.run(&[("x", x), ("count", out[0].1.clone())]).unwrap();
    assert_eq!(out[0].1.f32s().unwrap(), [1.0, 1.0]);
}

#[test]
fn in_f64_everything_is_f64() {
    let g = counting();
    let x = random_tensor(DType::F32, &[3, 2, 4], 1).unwrap();
    let out = Interpreter::in_f64(&g).unwrap().run(&[("x", x)]).unwrap();
    assert!(out.iter().all(|(_, t)| t.dtype() == DType::F64));
}

#[test]
fn wrong_inputs() {
    let g = counting();
    let run = |inputs: &[(&str, Tensor)]| Interpreter::new(&g).unwrap().run(inputs).unwrap_err().to_string();
    let x = f32s(&[1, 2, 4], &[0.0; 8]);
    let errors = [
        run(&[]),
        run(&[("y", x.clone())]),
        run(&[("x", x.clone()), ("x", x.clone())]),
        run(&[("x", f32s(&[1, 2, 3], &[0.0; 6]))]),
        run(&[("x", ints(&[1]))]),
        run(&[("x", x), ("count", f32s(&[3], &[0.0; 3]))]),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    input "x": expected f32[S, B, 4], found nothing
    input "y": expected one of x, count, found no input of that name
    input "x": expected each input once, found it twice
    input "x": expected f32[S, B, 4], found f32[1, 2, 3]
    input "x": expected f32[S, B, 4], found i64[1]
    input "count": expected f32[2], found f32[3]
    "#);
}

/// A value of a symbol's size that is not what inference took it to be is found when it is made.
#[test]
fn a_node_that_fails_is_named() {
    let mut g = Graph::new("mismatch");
    let symbol = |s: &str| vec![Dim::symbol(Symbol::new(s))];
    let a = g.add_source(Op::Input, "a", Type::new(DType::F32, symbol("N")));
    let b = g.add_source(Op::Input, "b", Type::new(DType::F32, symbol("M")));
    let sum = g.add(Op::Binary(Binary::Add), &[a.into(), b.into()], &["sum"], "/Add_3").unwrap()[0];
    g.add_output(OutputRole::Named("sum".into()), sum);
    let run = |a: Tensor, b: Tensor| Interpreter::new(&g).unwrap().run(&[("a", a), ("b", b)]);
    let out = run(f32s(&[2], &[1.0, 2.0]), f32s(&[1], &[3.0])).unwrap();
    assert_eq!(out[0].1.f32s().unwrap(), [4.0, 5.0]);
    let error = run(f32s(&[2], &[1.0; 2]), f32s(&[3], &[3.0; 3])).unwrap_err();
    insta::assert_snapshot!(
        error.to_string(),
        @r#"add %sum (node "/Add_3"): expected shapes that broadcast (from the right, equal or 1), found [2] and [3]"#
    );

    let mut g = Graph::new("elided");
    let x = g.add_source(Op::Input, "x", Type::new(DType::F32, symbol("N")));
    let w = g.add_weight("w", f32s(&[1], &[1.0]).elide()).unwrap();
    g.add(Op::Binary(Binary::Add), &[x.into(), Operand::Weight(w)], &[], "").unwrap();
    let error = Interpreter::new(&g).err().unwrap();
    assert!(error.to_string().starts_with("weight @w: the data of this f32[1] tensor"), "{error}");
}
