use super::super::dim::{Dim, Symbol};
use super::super::graph::{Graph, Operand, Type, ValueId};
use super::super::infer::Fact;
use super::super::onnx::Onnx;
use super::super::op::{Binary, Direction, Function, OnnxLstm, Op, Reduction, Scalar};
use super::algebra::{fact, integer};
use crate::tensor::{DType, Tensor};

fn dim(s: &str) -> Dim {
    if s == "?" {
        return Dim::Unknown;
    }
    s.split('*')
        .fold(Dim::from(1), |p, f| p.times(&f.parse().map_or_else(|_| Dim::symbol(Symbol::new(f)), integer)))
}

fn dims(s: &str) -> Vec<Dim> {
    s.split(", ").filter(|d| !d.is_empty()).map(dim).collect()
}

/// An f32 value of this shape.
fn f32s(shape: &str) -> Fact {
    Fact::of_type(DType::F32, dims(shape))
}

/// An i64 vector of these elements.
fn ints(elements: &str) -> Fact {
    let c = dims(elements);
    fact(DType::I64, vec![c.len().into()], Some(c))
}

/// The first result, as `dtype[shape] = [content]`, or the error.
fn infer(op: Op, operands: &[Fact]) -> String {
    let operands: Vec<Option<Fact>> = operands.iter().cloned().map(Some).collect();
    match super::infer(&op, &operands) {
        Ok(facts) => show(&facts[0]),
        Err(e) => e.to_string(),
    }
}

fn show(f: &Fact) -> String {
    match &f.content {
        Some(c) => format!("{} = {}", f.ty, super::algebra::display(c)),
        None => f.ty.to_string(),
    }
}

#[test]
fn broadcasting() {
    let add = |a: &str, b: &str| infer(Op::Binary(Binary::Add), &[f32s(a), f32s(b)]);
    assert_eq!(add("S, B, 8", "8"), "f32[S, B, 8]");
    assert_eq!(add("S, 1, 8", "B, 1"), "f32[S, B, 8]");
    assert_eq!(add("S, B", "S, B"), "f32[S, B]");
    assert_eq!(add("S", "B"), "f32[?]");
    assert_eq!(add("S", "?"), "f32[?]");
    assert_eq!(add("4*S", "?"), "f32[4*S]");
    assert_eq!(add("S", "5"), "f32[5]");
    assert_eq!(add("?", "5"), "f32[5]");
    assert_eq!(add("", "3"), "f32[3]");
    assert_eq!(
        add("S, 4", "3"),
        "expected shapes that broadcast (from the right, equal or 1), found [S, 4] and [3]"
    );
    assert_eq!(
        infer(Op::Binary(Binary::Mul), &[f32s("3"), ints("1, 2, 3")]),
        "expected operands of one dtype, found f32[3] and i64[3]"
    );
}

#[test]
fn arithmetic_on_elements() {
    let go = |op, a: &str, b: &str| infer(Op::Binary(op), &[ints(a), ints(b)]);
    assert_eq!(go(Binary::Mul, "S, B, 2", "3"), "i64[3] = [3*S, 3*B, 6]");
    assert_eq!(go(Binary::Add, "S, S, 0, 3", "S, B, S, -4"), "i64[4] = [2*S, ?, S, -1]");
    assert_eq!(go(Binary::Sub, "S, S, 3", "S, 0, 4"), "i64[3] = [0, S, -1]");
    assert_eq!(go(Binary::Div, "6*S, 7, -7, 1", "2*S, 2, 2, 0"), "i64[4] = [3, 3, -3, ?]");
    // A sum without a name is not known, the others still are.
    assert_eq!(go(Binary::Add, "S, 1", "1, 1"), "i64[2] = [?, 2]");
    let least = format!("{}", i64::MIN);
    assert_eq!(go(Binary::Div, &least, "-1"), "i64[1]");
    assert_eq!(go(Binary::Mul, &least, "2"), "i64[1]");
}

#[test]
fn casts_keep_elements_in_range() {
    assert_eq!(infer(Op::Cast { to: DType::I32 }, &[ints("S, 5000000000")]), "i32[2] = [S, ?]");
    assert_eq!(infer(Op::Cast { to: DType::F32 }, &[ints("S, 5")]), "f32[2]");
}

#[test]
fn gather() {
    let data = f32s("10000, 200");
    let tokens = Fact::of_type(DType::I64, dims("S, B"));
    assert_eq!(infer(Op::Gather { axis: 0 }, &[data.clone(), tokens]), "f32[S, B, 200]");
    assert_eq!(infer(Op::Gather { axis: 0 }, &[ints("S, B, 3"), ints("-1, 0")]), "i64[2] = [3, S]");
    let scalar = fact(DType::I64, vec![], Some(vec![integer(1)]));
    assert_eq!(infer(Op::Gather { axis: -1 }, &[ints("S, B, 3"), scalar]), "i64[] = [B]");
    assert_eq!(
        infer(Op::Gather { axis: 0 }, &[data.clone(), ints("10000")]),
        "expected indices in -10000..10000 of axis 0 of f32[10000, 200], found index 10000"
    );
    assert_eq!(infer(Op::Gather { axis: 2 }, &[data, ints("0")]), "expected an axis in -2..2, found axis 2");
}

#[test]
fn slices() {
    let huge = i64::MAX.to_string();
    let go = |shape: &str, start: &str, end: &str, step: &str| {
        infer(Op::Slice, &[f32s(shape), ints(start), ints(end), ints("0"), ints(step)])
    };
    assert_eq!(go("10, 3", "2", "-1", "1"), "f32[7, 3]");
    assert_eq!(go("10, 3", "-3", &huge, "1"), "f32[3, 3]");
    assert_eq!(go("10, 3", "9", &format!("-{huge}"), "-3"), "f32[4, 3]");
    assert_eq!(go("10, 3", "5", "2", "1"), "f32[0, 3]");
    assert_eq!(go("S, 3", "0", &huge, "1"), "f32[S, 3]");
    assert_eq!(go("S, 3", "0", "S", "1"), "f32[S, 3]");
    assert_eq!(go("S, 3", "-1", &format!("-{huge}"), "-1"), "f32[S, 3]");
    assert_eq!(go("S, 3", "0", "1", "1"), "f32[1, 3]");
    assert_eq!(go("S, 3", "-1", &huge, "1"), "f32[1, 3]");
    assert_eq!(go("4*S, 3", "1", "3", "1"), "f32[2, 3]");
    for (shape, start, end) in
        [("S, 3", "1", "2"), ("?, 3", "0", "1"), ("S, 3", "0", "B"), ("S, 3", "0", "-1")]
    {
        assert_eq!(go(shape, start, end, "1"), "f32[?, 3]");
    }
    assert_eq!(
        infer(
            Op::Slice,
            &[ints("S, B, 1, 200"), ints("-1"), ints(&format!("-{huge}")), ints("0"), ints("-2")]
        ),
        "i64[2] = [200, B]"
    );
    assert_eq!(
        infer(Op::Slice, &[f32s("S, 3"), ints("0"), ints("1"), Fact::of_type(DType::I64, dims("1"))]),
        "f32[?, ?]"
    );
    assert_eq!(go("4", "0", "1", "0"), "expected steps other than zero, found 0");
}

#[test]
fn concat() {
    let go = |parts: &[Fact]| infer(Op::Concat { axis: 0 }, parts);
    assert_eq!(go(&[f32s("2, B"), f32s("3, B")]), "f32[5, B]");
    assert_eq!(go(&[f32s("S, ?"), f32s("S, B")]), "f32[2*S, B]");
    assert_eq!(go(&[f32s("S, 4"), f32s("B, 4")]), "f32[?, 4]");
    assert_eq!(go(&[ints("S"), Fact::of_type(DType::I64, dims("1")), ints("-1")]), "i64[3] = [S, ?, -1]");
    assert_eq!(
        go(&[f32s("2, 4"), f32s("3, 5")]),
        "expected inputs like the first, f32[2, 4], on every axis but 0, found f32[3, 5]"
    );
    assert_eq!(go(&[]), "expected operands with inputs, found 0 given of 0");
}

#[test]
fn squeeze_and_unsqueeze() {
    assert_eq!(infer(Op::Squeeze, &[f32s("S, 1, B, 200"), ints("1")]), "f32[S, B, 200]");
    assert_eq!(infer(Op::Squeeze, &[f32s("3, 1, 1")]), "f32[3]");
    assert_eq!(infer(Op::Squeeze, &[f32s("S, B"), ints("-1")]), "f32[S]");
    assert_eq!(infer(Op::Squeeze, &[f32s("S, 1")]), "f32[..]");
    assert_eq!(infer(Op::Squeeze, &[f32s("S, 4"), ints("1")]), "expected size 1 on axis 1, found f32[S, 4]");
    assert_eq!(infer(Op::Unsqueeze, &[f32s("S, B"), ints("0, -1")]), "f32[1, S, B, 1]");
    let scalar = fact(DType::I64, vec![], Some(vec![dim("S")]));
    assert_eq!(infer(Op::Unsqueeze, &[scalar, ints("0")]), "i64[1] = [S]");
    assert_eq!(
        infer(Op::Unsqueeze, &[f32s("S"), ints("0, 0")]),
        "expected axes that differ, found axis 0 twice"
    );
    assert_eq!(infer(Op::Unsqueeze, &[f32s("S"), Fact::of_type(DType::I64, dims("1"))]), "f32[..]");
}

#[test]
fn reshapes() {
    let go = |shape: &str, to: &str| infer(Op::Reshape { allow_zero: false }, &[f32s(shape), ints(to)]);
    assert_eq!(go("S, B, 1, 200", "S, B, 200"), "f32[S, B, 200]");
    assert_eq!(go("S, B, 1, 200", "0, 0, -1"), "f32[S, B, 200]");
    assert_eq!(go("S, B, 200", "-1, 200"), "f32[B*S, 200]");
    assert_eq!(go("B*S, 200", "S, B, -1"), "f32[S, B, 200]");
    assert_eq!(go("B*S, 200", "S, -1, 200"), "f32[S, B, 200]");
    assert_eq!(go("S, B", "-1, 3"), "f32[?, 3]");
    assert_eq!(go("?, 8", "0, 2, -1"), "f32[?, 2, 4]");
    assert_eq!(go("S, B, 8", "S, ?, 8"), "f32[S, B, 8]");
    assert_eq!(go("S, B, 8", "S, ?, -1"), "f32[S, ?, ?]");
    assert_eq!(go("", "1, 1"), "f32[1, 1]");
    assert_eq!(go("1, 1", ""), "f32[]");
    assert_eq!(infer(Op::Reshape { allow_zero: true }, &[f32s("0, 4"), ints("4, 0")]), "f32[4, 0]");
    let runtime = Fact::of_type(DType::I64, dims("3"));
    assert_eq!(infer(Op::Reshape { allow_zero: false }, &[f32s("S, 4"), runtime]), "f32[?, ?, ?]");
    assert_eq!(
        go("3, 4", "5, -1"),
        "expected a shape whose 5 elements besides the -1 divide 12, found [5, -1] for f32[3, 4]"
    );
    assert_eq!(
        go("3, 4", "0, 5"),
        "expected a shape of 4 elements besides those copied, found [0, 5] for f32[3, 4]"
    );
    assert_eq!(go("3, 4", "-1, -1"), "expected at most one -1, found [-1, -1] for f32[3, 4]");
    assert_eq!(go("3, 4", "-2, 6"), "expected dimensions of at least -1, found [-2, 6] for f32[3, 4]");
    assert_eq!(
        go("12", "3, 0"),
        "expected a zero only where the data has a dimension, not at 1, found [3, 0] for f32[12]"
    );
    let runtime = Fact::of_type(DType::I64, dims("N"));
    assert_eq!(infer(Op::Reshape { allow_zero: false }, &[f32s("4"), runtime]), "f32[..]");
}

#[test]
fn shapes_of_shapes() {
    let shape = |start, end, of: &str| infer(Op::Shape { start, end }, &[f32s(of)]);
    assert_eq!(shape(0, None, "S, B, 200"), "i64[3] = [S, B, 200]");
    assert_eq!(shape(-2, Some(-1), "S, B, 200"), "i64[1] = [B]");
    assert_eq!(shape(5, None, "S, B, 200"), "i64[0] = []");
    assert_eq!(shape(0, Some(9), "S, ?"), "i64[2] = [S, ?]");
    assert_eq!(infer(Op::Expand, &[f32s("1, 4"), ints("S, B, 1")]), "f32[S, B, 4]");
    assert_eq!(infer(Op::Expand, &[ints("7"), ints("3")]), "i64[3] = [7, 7, 7]");
    assert_eq!(
        infer(Op::Expand, &[f32s("4"), ints("-1")]),
        "expected a shape without negative sizes, found [-1]"
    );
    let fill =
        |dtype, of: &str| infer(Op::ConstantOfShape { value: Scalar { dtype, value: 2.0 } }, &[ints(of)]);
    assert_eq!(fill(DType::F32, "2, B, 200"), "f32[2, B, 200]");
    assert_eq!(fill(DType::I64, "2"), "i64[2] = [2, 2]");
    assert_eq!(fill(DType::I64, ""), "i64[] = [2]");
    assert_eq!(infer(Op::Flatten { axis: 2 }, &[f32s("S, B, 2, 3")]), "f32[B*S, 6]");
    assert_eq!(infer(Op::Flatten { axis: -4 }, &[f32s("S, B, 2, 3")]), "f32[1, 6*B*S]");
    assert_eq!(infer(Op::Flatten { axis: 2 }, &[f32s("S, B")]), "f32[B*S, 1]");
}

#[test]
fn products() {
    let mat_mul = |a: &str, b: &str| infer(Op::MatMul, &[f32s(a), f32s(b)]);
    assert_eq!(mat_mul("S, B, 200", "200, 10000"), "f32[S, B, 10000]");
    assert_eq!(mat_mul("200", "200, 3"), "f32[3]");
    assert_eq!(mat_mul("4, 200", "200"), "f32[4]");
    assert_eq!(mat_mul("200", "200"), "f32[]");
    assert_eq!(mat_mul("2, 1, 3, 4", "5, 4, 6"), "f32[2, 5, 3, 6]");
    assert_eq!(
        mat_mul("S, B, 200", "650, 10"),
        "expected as many columns of A as rows of B, found f32[S, B, 200] and f32[650, 10]"
    );
    let gemm = |trans_a, trans_b, operands: &[Fact]| {
        infer(Op::Gemm { alpha: 1.0, beta: 1.0, trans_a, trans_b }, operands)
    };
    assert_eq!(gemm(false, true, &[f32s("B, 8"), f32s("5, 8"), f32s("5")]), "f32[B, 5]");
    assert_eq!(gemm(true, false, &[f32s("8, B"), f32s("8, 5")]), "f32[B, 5]");
    assert_eq!(
        gemm(false, false, &[f32s("B, 8"), f32s("8, 5"), f32s("4")]),
        "expected C that broadcasts to [B, 5], found f32[4]"
    );
}

#[test]
fn the_others() {
    assert_eq!(infer(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[f32s("S, 1, B, 200")]), "f32[S, B, 1, 200]");
    assert_eq!(infer(Op::Transpose { perm: vec![] }, &[f32s("S, B, 3")]), "f32[3, B, S]");
    assert_eq!(
        infer(Op::Transpose { perm: vec![0, 0] }, &[f32s("S, B")]),
        "expected a permutation of the axes of f32[S, B], found [0, 0]"
    );
    assert_eq!(infer(Op::Softmax { axis: -1, flatten: false }, &[f32s("S, B")]), "f32[S, B]");
    assert_eq!(
        infer(Op::LogSoftmax { axis: 0, flatten: false }, &[ints("1")]),
        "expected input of a float dtype, found i64[1]"
    );
    let mean = |keep_dims, noop_with_empty_axes, operands: &[Fact]| {
        infer(Op::Reduce { kind: Reduction::Mean, keep_dims, noop_with_empty_axes }, operands)
    };
    assert_eq!(mean(true, false, &[f32s("S, B, 3"), ints("0, -1")]), "f32[1, B, 1]");
    assert_eq!(mean(false, false, &[f32s("S, B, 3"), ints("0")]), "f32[B, 3]");
    assert_eq!(mean(false, false, &[f32s("S, B, 3")]), "f32[]");
    assert_eq!(mean(false, true, &[f32s("S, B, 3")]), "f32[S, B, 3]");

    let split = |outputs, operands: &[Fact]| {
        let operands: Vec<Option<Fact>> = operands.iter().cloned().map(Some).collect();
        match super::infer(&Op::Split { axis: 0, outputs }, &operands) {
            Ok(facts) => facts.iter().map(show).collect::<Vec<_>>().join("; "),
            Err(e) => e.to_string(),
        }
    };
    assert_eq!(split(3, &[f32s("8, B")]), "f32[3, B]; f32[3, B]; f32[2, B]");
    assert_eq!(split(2, &[f32s("4*S")]), "f32[2*S]; f32[2*S]");
    assert_eq!(split(2, &[f32s("S")]), "f32[?]; f32[?]");
    assert_eq!(split(2, &[ints("S, B, 7"), ints("1, 2")]), "i64[1] = [S]; i64[2] = [B, 7]");
    assert_eq!(split(2, &[ints("S, B, 7"), ints("?, 2")]), "i64[?]; i64[2]");
    assert_eq!(split(4, &[f32s("5")]), "expected an axis that splits into 4, found size 5");
    assert_eq!(
        split(2, &[f32s("5"), ints("1, 2")]),
        "expected 2 sizes of sum 5, the size of axis 0 of f32[5], found [1, 2]"
    );
}

fn lstm(batch_first: bool, direction: Direction) -> Op {
    let directions = if direction == Direction::Bidirectional { 2 } else { 1 };
    Op::OnnxLstm(Box::new(OnnxLstm {
        hidden_size: 5,
        direction,
        batch_first,
        clip: None,
        input_forget: false,
        activations: [Function::Sigmoid, Function::Tanh, Function::Tanh].repeat(directions),
        dynamic: false,
    }))
}

fn lstm_facts(op: &Op, operands: &[(usize, &str)]) -> String {
    let mut all = vec![None; 8];
    for &(i, shape) in operands {
        all[i] = Some(Fact::of_type(if i == 4 { DType::I32 } else { DType::F32 }, dims(shape)));
    }
    match super::infer(op, &all) {
        Ok(facts) => facts.iter().map(show).collect::<Vec<_>>().join("; "),
        Err(e) => e.to_string(),
    }
}

#[test]
fn lstm_layouts() {
    let op = lstm(false, Direction::Forward);
    assert_eq!(
        lstm_facts(&op, &[(0, "S, B, 3"), (1, "1, 20, 3"), (2, "1, 20, 5")]),
        "f32[S, 1, B, 5]; f32[1, B, 5]; f32[1, B, 5]"
    );
    let op = lstm(true, Direction::Bidirectional);
    let all = [
        (0, "?, S, 3"),
        (1, "2, 20, 3"),
        (2, "2, 20, 5"),
        (3, "2, 40"),
        (4, "?"),
        (5, "B, 2, 5"),
        (6, "B, 2, 5"),
        (7, "2, 15"),
    ];
    assert_eq!(lstm_facts(&op, &all), "f32[B, S, 2, 5]; f32[B, 2, 5]; f32[B, 2, 5]");
}

#[test]
fn lstm_errors() {
    let op = lstm(false, Direction::Forward);
    let with = |i, shape| {
        let mut all = vec![(0, "S, B, 3"), (1, "1, 20, 3"), (2, "1, 20, 5")];
        all.retain(|&(j, _)| j != i);
        all.push((i, shape));
        lstm_facts(&op, &all)
    };
    assert_eq!(with(1, "1, 20, 4"), "expected W of type f32[1, 20, 3], found f32[1, 20, 4]");
    assert_eq!(with(2, "2, 20, 5"), "expected R of type f32[1, 20, 5], found f32[2, 20, 5]");
    assert_eq!(with(3, "1, 20"), "expected B of type f32[1, 40], found f32[1, 20]");
    assert_eq!(with(5, "1, 7, 4"), "expected initial_h of type f32[1, B, 5], found f32[1, 7, 4]");
    assert_eq!(with(0, "S, 3"), "expected X of type f32[_, _, _], found f32[S, 3]");
    assert_eq!(
        lstm_facts(&op, &[(0, "S, B, 3"), (1, "1, 20, 3")]),
        "expected operands with R, found 2 given of 8"
    );
    let mut wrong = lstm(false, Direction::Forward);
    if let Op::OnnxLstm(l) = &mut wrong {
        l.direction = Direction::Bidirectional;
    }
    assert_eq!(lstm_facts(&wrong, &[]), "expected 6 activations, three for each direction, found 3");
}

/// The second layer of a PyTorch model as `torch.onnx.export(dynamo=True)` writes it.
#[test]
fn the_chain_of_the_dynamo_exporter() {
    let mut g = Graph::new("dynamo");
    let one =
        |g: &mut Graph, op: Op, operands: &[Operand]| -> ValueId { g.add(op, operands, &[], "").unwrap()[0] };
    let int = |g: &mut Graph, n: i64| -> Operand {
        let name = format!("i{n}");
        let t = Tensor::from_i64([1], vec![n]).unwrap();
        g.add_weight(&name, t).unwrap_or_else(|id| id).into()
    };
    let [zero, h, two_h, three_h, four_h] = [0, 200, 400, 600, 800].map(|n| int(&mut g, n));
    let [i1, i2, i3, i4, minus_one] = [1, 2, 3, 4, -1].map(|n| int(&mut g, n));
    let zeros = |shape: &[usize]| Tensor::from_f32(shape, vec![0.0; shape.iter().product()]).unwrap();

    let weight: Operand = g.add_weight("lstm.weight_ih_l0", zeros(&[800, 200])).unwrap().into();
    let quarters: Vec<Operand> = [(zero, h), (three_h, four_h), (h, two_h), (two_h, three_h)]
        .map(|(s, e)| one(&mut g, Op::Slice, &[weight, s, e, zero]).into())
        .to_vec();
    let joined = one(&mut g, Op::Concat { axis: 0 }, &quarters);
    assert_eq!(g.type_of(joined).to_string(), "f32[800, 200]");
    let w: Operand = one(&mut g, Op::Unsqueeze, &[joined.into(), zero]).into();

    let x = g.add_source(Op::Input, "x", Type::new(DType::F32, dims("seq, batch, 200")));
    let h0 = g.add_source(Op::Input, "h0", Type::new(DType::F32, dims("2, batch, 200")));
    let h1: Operand = one(&mut g, Op::Slice, &[h0.into(), zero, i1, zero]).into();
    let bias: Operand = g.add_weight("val_53", zeros(&[1, 1600])).unwrap().into();
    let op = Op::OnnxLstm(Box::new(OnnxLstm {
        hidden_size: 200,
        direction: Direction::Forward,
        batch_first: false,
        clip: None,
        input_forget: false,
        activations: vec![Function::Sigmoid, Function::Tanh, Function::Tanh],
        dynamic: false,
    }));
    let y = g.add(op, &[x.into(), w, w, bias, Operand::None, h1, h1], &[], "").unwrap()[0];
    let y = one(&mut g, Op::Transpose { perm: vec![0, 2, 1, 3] }, &[y.into()]);
    assert_eq!(g.type_of(y).to_string(), "f32[seq, batch, 1, 200]");
    let shape: Operand = one(&mut g, Op::Shape { start: 0, end: None }, &[y.into()]).into();
    let part = |g: &mut Graph, s, e| -> Operand { one(g, Op::Slice, &[shape, s, e]).into() };
    let seq = part(&mut g, zero, i1);
    let batch = part(&mut g, i1, i2);
    let (a, b) = (part(&mut g, i2, i3), part(&mut g, i3, i4));
    let product: Operand = one(&mut g, Op::Binary(Binary::Mul), &[a, b]).into();
    let flat: Operand = one(&mut g, Op::Reshape { allow_zero: false }, &[product, minus_one]).into();
    let target = one(&mut g, Op::Concat { axis: 0 }, &[seq, batch, flat]);
    assert_eq!(g.content_of(target), Some(dims("seq, batch, 200").as_slice()));
    let result = one(&mut g, Op::Reshape { allow_zero: false }, &[y.into(), target.into()]);
    assert_eq!(g.type_of(result).to_string(), "f32[seq, batch, 200]");
}

#[test]
fn wrong_counts() {
    assert_eq!(infer(Op::MatMul, &[f32s("3")]), "expected operands A, B, found 1 given of 1");
    assert_eq!(
        super::infer(&Op::Identity, &[None]).unwrap_err().to_string(),
        "expected operands data, found 0 given of 1"
    );
}

/// What is computed from a value of unknown rank has unknown rank, unless the operator says otherwise.
#[test]
fn unknown_ranks() {
    let rest = super::unranked(DType::F32);
    let go = |op: Op, others: &[Fact]| infer(op, &[std::slice::from_ref(&rest), others].concat());
    assert_eq!(go(Op::Binary(Binary::Add), &[ints("1")]), "f32[..]");
    assert_eq!(go(Op::Shape { start: 0, end: None }, &[]), "i64[?]");
    assert_eq!(go(Op::Cast { to: DType::I64 }, &[]), "i64[..]");
    assert_eq!(go(Op::Reshape { allow_zero: false }, &[ints("0, S, -1, 8")]), "f32[?, S, ?, 8]");
    assert_eq!(go(Op::Onnx(Onnx::Equal {}), &[f32s("S")]), "bool[..]");
    let unknown = Op::Unknown { domain: "d".into(), name: "Op".into(), outputs: 2 };
    assert_eq!(go(unknown, &[]), "f32[..]");
}

#[test]
fn operators_of_the_table() {
    let go = |op: Onnx, operands: &[Fact]| infer(Op::Onnx(op), operands);
    let truth = Fact::of_type(DType::Bool, dims("S, 1"));
    assert_eq!(go(Onnx::Where {}, &[truth, f32s("B"), f32s("")]), "f32[S, B]");
    assert_eq!(go(Onnx::Pad { mode: "constant".into() }, &[f32s("S, 4"), ints("0, 1, 0, 2")]), "f32[S, 7]");
    assert_eq!(go(Onnx::Tile {}, &[f32s("S, 4"), ints("1, B")]), "f32[S, 4*B]");
    assert_eq!(go(Onnx::GatherND { batch_dims: 1 }, &[f32s("B, S, 8"), f32s("B, 1")]), "f32[B, 8]");
    let scalar = |s: &str| fact(DType::I64, vec![], Some(vec![dim(s)]));
    assert_eq!(go(Onnx::Range {}, &[scalar("0"), scalar("S"), scalar("1")]), "i64[S]");
    assert_eq!(go(Onnx::Range {}, &[scalar("5"), scalar("0"), scalar("-2")]), "i64[3] = [5, 3, 1]");
    let einsum = |equation: &str, operands: &[Fact]| go(Onnx::Einsum { equation: equation.into() }, operands);
    assert_eq!(einsum("sbi, oi -> sbo", &[f32s("S, B, 8"), f32s("32, 8")]), "f32[S, B, 32]");
    assert_eq!(einsum("...i,i", &[f32s("S, B, 8"), f32s("8")]), "f32[S, B]");
    assert_eq!(
        einsum("ij,jk->iz", &[f32s("2, 3"), f32s("3, 4")]),
        "expected an equation for operands of ranks [2, 2], found ij,jk->iz"
    );
    assert_eq!(go(Onnx::Exp {}, &[]), "expected operands from 1 to 1, found 0 given of 0");
    assert_eq!(infer(Op::If, &[scalar("?"), f32s("S, 4"), f32s("B, 4")]), "f32[?, 4]");
    assert_eq!(infer(Op::If, &[scalar("?"), f32s("S, 4"), f32s("4")]), "f32[..]");
}
