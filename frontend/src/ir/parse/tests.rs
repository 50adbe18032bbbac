use super::*;
use crate::ir::arbitrary::{self, Kind, SplitMix64, language_model, language_model_of, random_map};
use crate::ir::cell::{GateOrder, Lstm};
use crate::ir::graph::{Operand, Type};
use crate::ir::map::{LinearMap, LowRank, Part};
use crate::ir::op::{Direction, Function, OnnxLstm, Op, Reduction, Scalar};
use crate::ir::{PrintOptions, print, print_with};
use crate::tensor::{DType, Data, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;
use std::sync::Arc;

const ALL_INLINE: PrintOptions = PrintOptions { inline_up_to: usize::MAX };

/// A model whose matrices go through all representations.
fn mixed(seed: u64) -> Graph {
    let mut n = seed as usize;
    language_model_of(4, 2, 12, |_, shape| {
        n += 1;
        random_map(Kind::ALL[n % 5], shape, n as u64)
    })
}

fn round_trips(graph: &Graph, options: &PrintOptions) {
    let text = print_with(graph, options);
    let back = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(print_with(&back, options), text);
    for ((_, a), (_, b)) in graph.weights().zip(back.weights()) {
        assert_eq!(a, b, "{text}");
    }
    // Hashes survive whatever was inline.
    assert_eq!(print(&back), print(graph));
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_text_of_a_language_model() {
    insta::assert_snapshot!(print(&language_model(8, 2, 20, 1)));
}

#[test]
fn the_text_of_every_representation() {
    insta::assert_snapshot!(print(&mixed(1)));
}

#[test]
fn printing_what_was_parsed_gives_the_same_text() {
    for seed in 0..40 {
        for options in [PrintOptions::default(), PrintOptions { inline_up_to: 20 }, ALL_INLINE] {
            round_trips(&mixed(seed), &options);
        }
    }
}

#[test]
fn a_shared_part_is_printed_once_and_stays_shared() {
    let (left, right) = (Part::new(arbitrary::dense([16, 2], 1)), Part::new(arbitrary::dense([2, 4], 2)));
    let graph = language_model_of(4, 1, 6, |name, shape| match name {
        "lstm0.input" | "lstm0.recurrent" => {
            LowRank::new(left.clone(), right.clone()).map(LinearMap::LowRank).unwrap()
        }
        _ => arbitrary::dense(shape, 3),
    });
    let text = print(&graph);
    assert!(text.contains("{ left: @lstm0.input/left, right: @lstm0.input/right }"), "{text}");
    round_trips(&graph, &ALL_INLINE);
    let back = parse(&text).unwrap();
    let child = |name| back.weight(back.weight_named(name).unwrap()).map.children()[0].1;
    assert_eq!(child("lstm0.input").id(), child("lstm0.recurrent").id());
}

#[test]
fn names_that_are_not_plain_are_quoted() {
    let mut graph = Graph::new("a \"b\" \\ \n\u{202e}\u{7} é");
    let x = graph.add_source(Op::Input, "/lstm/LSTM_output_0", Type::sequence(3));
    let w = graph.add_weight("onnx::LSTM_182", arbitrary::random_map(Kind::LowRank, [5, 3], 1)).unwrap();
    let v = graph.add_weight("a/left", arbitrary::dense([5, 3], 1)).unwrap();
    let y = graph.add(Op::Linear, &[x.into(), w.into()], &["a b"], "node \"x\"").unwrap();
    let z = graph.add(Op::Linear, &[x.into(), v.into(), Operand::None], &["none"], "").unwrap();
    for (name, value) in [("state", y[0]), ("two words", z[0]), ("none", z[0])] {
        graph.add_output(crate::ir::OutputRole::Named(name.into()), value);
    }
    insta::assert_snapshot!(print(&graph));
    round_trips(&graph, &ALL_INLINE);
}

#[test]
fn tensors_of_every_dtype_round_trip_inline() {
    let mut graph = Graph::new("");
    let floats = [
        0.0f32,
        -0.0,
        1.0,
        -1.5,
        0.1,
        1e-45,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
        1e-7,
        1e16,
    ];
    let n = floats.len();
    let tensors = [
        Data::F32(Arc::new(floats.to_vec())),
        Data::F64(Arc::new(floats.iter().map(|&x| f64::from(x) * 1.1).collect())),
        Data::F16(Arc::new(floats.iter().map(|&x| f16::from_f32(x)).collect())),
        Data::Bf16(Arc::new(floats.iter().map(|&x| bf16::from_f32(x)).collect())),
        Data::I64(Arc::new(vec![i64::MIN; n])),
        Data::I32(Arc::new(vec![i32::MAX; n])),
        Data::I8(Arc::new(vec![-128; n])),
        Data::U8(Arc::new(vec![255; n])),
        Data::Bool(Arc::new((0..n).map(|i| i % 3 == 0).collect())),
        // A NaN whose bits text cannot carry prints as a hash, even here.
        Data::F32(Arc::new(vec![f32::from_bits(0x7fc0_0001); n])),
    ];
    for (i, data) in tensors.into_iter().enumerate() {
        graph.add_weight(&format!("w{i}"), Tensor::new(vec![1, n], data).unwrap()).unwrap();
    }
    for (name, shape) in [("scalar", vec![]), ("empty", vec![0]), ("flat", vec![2, 0, 3])] {
        let n = shape.iter().product();
        graph.add_weight(name, Tensor::from_i64(shape, vec![7; n]).unwrap()).unwrap();
    }
    insta::assert_snapshot!(print_with(&graph, &ALL_INLINE));
    round_trips(&graph, &ALL_INLINE);
    round_trips(&graph, &PrintOptions::default());
}

/// Every operator with attributes that no default has.
fn operators() -> Vec<Op> {
    let mut all = attributes::prototypes();
    // The text does not hold their bodies.
    all.retain(|op| !matches!(op, Op::Loop(_) | Op::Scan(_)));
    for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
        let activations = vec![
            Function::Sigmoid,
            Function::Tanh,
            Function::Relu,
            Function::Affine { alpha: 0.1, beta: -1e-30 },
            Function::LeakyRelu { alpha: 0.01 },
            Function::ThresholdedRelu { alpha: 1.0 },
            Function::ScaledTanh { alpha: 1.7159, beta: 2.0 / 3.0 },
            Function::HardSigmoid { alpha: 0.2, beta: 0.5 },
            Function::Elu { alpha: f32::INFINITY },
            Function::Softsign,
            Function::Softplus,
            Function::Erf,
            Function::Sqrt,
            Function::Exp,
            Function::Log,
        ];
        let lstm = OnnxLstm {
            hidden_size: 200,
            direction,
            batch_first: true,
            clip: Some(0.3),
            input_forget: true,
            activations,
            dynamic: false,
        };
        all.push(Op::OnnxLstm(Box::new(lstm)));
    }
    all.extend(DType::ALL.map(|to| Op::Cast { to }));
    all.extend(DType::ALL.map(|dtype| Op::ConstantOfShape { value: Scalar { dtype, value: -1.0 / 3.0 } }));
    all.extend([
        Op::Lstm(Lstm::new(GateOrder::Ifgo)),
        Op::Gather { axis: -1 },
        Op::Gemm { alpha: 0.1, beta: -0.0, trans_a: true, trans_b: true },
        Op::Reshape { allow_zero: true },
        Op::Transpose { perm: vec![1, 0, 2] },
        Op::Shape { start: -2, end: Some(i64::MAX) },
        Op::Split { axis: 2, outputs: 4 },
        Op::Reduce { kind: Reduction::Mean, keep_dims: true, noop_with_empty_axes: true },
    ]);
    all
}

fn reread(op: &Op, text: &str) -> Result<Op, ParseError> {
    let mut back = attributes::prototypes().into_iter().find(|p| p.name() == op.name()).unwrap();
    let mut source = NoWeights;
    let mut parser = parser::Parser::new(text, &mut source)?;
    let at = parser.here();
    attributes::read(&mut parser, &mut back, at)?;
    assert_eq!(parser.remaining(), 0);
    Ok(back)
}

#[test]
fn every_operator_round_trips() {
    let lines: Vec<String> =
        operators().iter().map(|op| format!("{}{}", op.name(), attributes::write(op))).collect();
    insta::assert_snapshot!(lines.join("\n"));
    for op in operators() {
        assert_eq!(reread(&op, &attributes::write(&op)).unwrap(), op);
    }
}

#[test]
fn random_data_is_the_same_everywhere() {
    let text = "model \"m\" {\n  return\n}\n\
        @dense: f32[2, 3] random 7\n\
        @quantized: int4 group 2 [2, 4] { codes: random 1, scales: f16 random 2, zero_points: random 3 }\n\
        @sparse: sparse block 2x1 density 0.25 [4, 4] { mask: random 5, values: f32[4, 4] random 6 }\n\
        @half: sparse 2:4 [2, 4] { mask: random 5, values: f32[2, 4] random 6 }\n\
        @integers: i64[9] random 9\n";
    let graph = parse(text).unwrap();
    insta::assert_snapshot!(print_with(&graph, &ALL_INLINE));
    let mut rng = SplitMix64::new(1234567);
    assert_eq!(rng.next_u64(), 6457827717110365317, "the published first output for this seed");
}

#[test]
fn types_may_be_left_out_where_inference_knows_them() {
    let text = "model \"m\" {\n  %x: f32[S, B, 4] = input // comment\n  %y = linear %x,\n    @w\n  return y %y\n}\n\
        // comment\n@w: f32[3, 4] random 1";
    insta::assert_snapshot!(print(&parse(text).unwrap()));
}

#[test]
fn errors_point_at_their_place() {
    let body = |line: &str| {
        format!(
            "model \"m\" {{\n  %x: f32[S, B, 4] = input\n  {line}\n  return y %y\n}}\n@w: f32[3, 4] #00000000\n"
        )
    };
    let weight = |line: &str| {
        format!(
            "model \"m\" {{\n  return\n}}\n@a: low_rank [2, 2] {{ left: f32[2, 1] #00000000, right: f32[1, 2] #00000000 }}\n{line}\n"
        )
    };
    let texts = [
        String::new(),
        "graph \"m\" {".into(),
        "model m {".into(),
        "model \"m".into(),
        "model \"\\q\" {".into(),
        "model \"\\u{110000}\" {".into(),
        "model \"m\" (vocabulary many) {".into(),
        "model \"m\" {\n  $".into(),
        "model \"m\" {\n  linear".into(),
        body("%y = lineal %x, @w"),
        body("%y = conv %x, @w"),
        body("%y = linear %x, @v"),
        body("%y = linear %z, @w"),
        body("%y = linear %y, @w"),
        body("%x = linear %x, @w"),
        body("%y, %y = linear %x, @w"),
        body("%y = linear %x @w"),
        body("%y = linear %x, @w %z = tanh %x"),
        body("%y = linear %x, 3"),
        body("%y: f32[S, B, 4] = linear %x, @w"),
        body("%y: f32[S, B, 3], %z = linear %x, @w"),
        body("%y: f31[S] = linear %x, @w"),
        body("%y: f32[S-1] = linear %x, @w"),
        body("%y: f32[-1] = linear %x, @w"),
        body("%y: f32[9223372036854775807*2] = linear %x, @w"),
        body("%y = linear %x, @w {axis = 3}"),
        body("%y = input"),
        body("%y: f32[] = state %x"),
        body("%y = linear %w, none"),
        body("%y = lstm %x {gate = iofc}"),
        body("%y = lstm %x {gates = ifoc}"),
        body("%y = lstm %x {gates = iofc, gates = iofc}"),
        body("%y = lstm %x"),
        body("%y = onnx.split %x {axis = 0, outputs = 1000000000000}"),
        body("%y = onnx.gather %x {axis = 1.5}"),
        body("return y %y"),
        "model \"m\" {\n %x: f32[] = input\n return y %x, y %x\n}".into(),
        "model \"m\" {\n %x: f32[] = input\n return y %x, state %x = %x, state %x = %x\n}".into(),
        "model \"m\" {\n return state\n}".into(),
        "model \"m\" {\n return\n} x".into(),
        weight("@a: f32[1] [1]"),
        weight("@b: dense [1]"),
        weight("@b: int7 row [1, 1]"),
        weight("@b: f32[1] 1"),
        weight("@b: f32[1] #123"),
        weight("@b: f32[2] [1]"),
        weight("@b: f32[1] [1, 2]"),
        weight("@b: i8[1] [128]"),
        weight("@b: bool[1] [true]"),
        weight("@b: f32[4294967296] #00000000"),
        weight("@b: f32[4000000000, 4000000000] #00000000"),
        weight("@b: f32[100000, 100000] random 1"),
        weight(
            "@b: low_rank [4000000000, 4000000000] { left: f32[4000000000, 1] #00000000, right: f32[1, 4000000000] #00000000 }",
        ),
        weight("@b: low_rank [2, 2] { left: @a/lef, right: @a/right }"),
        weight("@b: low_rank [2, 2] rank 2 { left: @a/left, right: @a/right }"),
        weight("@b: low_rank [2, 3] { left: @a/left, right: @a/right }"),
        weight("@b: low_rank [1, 1] { left: @a/left, right: @a/left }"),
        weight("@b: low_rank [1, 1] { right: @a/left }"),
        weight("@b: int4 rows [1, 1]"),
        weight("@b: int4 group 0 [1, 1]"),
        weight("@b: int4 row [1] {"),
        weight("@b: int4 row [1, 1] { codes: [8], scales: [1] }"),
        weight("@b: int4 row [1, 1] { codes: [7], scales: [inf] }"),
        weight("@b: int4 row activations int4 [1, 1]"),
        weight("@b: int4 row activations [1, 1]"),
        weight("@b: sparse blok 1x1 [1, 1]"),
        weight("@b: sparse block 0x1 [1, 1]"),
        weight("@b: sparse block 3 [1, 1]"),
        weight("@b: sparse 3:2 [1, 1]"),
        weight("@b: sparse unstructured density 2 [1, 1]"),
        weight("@b: sparse unstructured density 0.5 [1, 2] { mask: [1, 1], values: f32[1, 2] [1, 2] }"),
        weight(
            "@b: sparse unstructured [2, 2] { mask: [1, 1, 1, 1], values: low_rank [2, 2] { left: @a/left, right: @a/right } }",
        ),
        weight("@b: sparse unstructured [1, 2] { mask: [1, 1], values: f32[2, 1] [1, 2] }"),
        weight("@b: tensor_train [2, 2] modes 2x0 by 2"),
        weight("@b: tensor_train [2, 2] modes 2 by 2 ranks 1x2 { core0: f32[2, 2] #00000000 }"),
        weight(
            "@b: tensor_train [2, 2] modes 2x1 by 2 { core0: f32[2, 2] #00000000, core1: f32[1, 1] #00000000 }",
        ),
        weight(
            "@b: tensor_train [1, 1] modes 1 by 1 { core0: int8 row activations int8 [1, 1] { codes: [1], scales: [1] } }",
        ),
        weight(&format!("@b: {}", "low_rank [1, 1] { left: ".repeat(1000))),
        format!("model \"{}\" 7", "x".repeat(300)),
    ];
    let errors: Vec<String> = texts.iter().map(|t| error(t)).collect();
    insta::assert_snapshot!(errors.join("\n"));
}

struct Supplied(Result<Option<Tensor>, String>, bool, Vec<String>);

impl WeightSource for Supplied {
    fn tensor(&mut self, wanted: &Wanted<'_>) -> Result<Option<Tensor>, String> {
        self.2.push(wanted.path.to_string());
        self.0.clone()
    }

    fn is_trusted(&self) -> bool {
        self.1
    }
}

#[test]
fn data_from_a_source_must_have_the_type_and_hash_of_the_text() {
    let tensor = |x: f32| Tensor::from_f32([1, 2], vec![x; 2]).unwrap();
    let text = format!("model \"m\" {{\n  return\n}}\n@\"a b\": f32[1, 2] {}\n", tensor(1.0).hash());
    let read = |data, trusted| {
        let mut source = Supplied(data, trusted, vec![]);
        let graph = parse_with(&text, &mut source).map_err(|e| e.message)?;
        assert_eq!(source.2, ["\"a b\"/data"]);
        let (_, weight) = graph.weights().next().unwrap();
        Ok::<_, String>(weight.map.to_dense().map(|t| t.f32s().unwrap()[0]).map_err(|e| e.to_string()))
    };
    assert_eq!(read(Ok(Some(tensor(1.0))), false), Ok(Ok(1.0)));
    assert_eq!(read(Ok(Some(tensor(2.0))), true), Ok(Ok(2.0)));
    assert!(read(Ok(None), false).unwrap().unwrap_err().contains("is not at hand"));
    assert_eq!(read(Err("gone".into()), false).unwrap_err(), "gone");
    assert!(
        read(Ok(Some(tensor(2.0))), false).unwrap_err().starts_with("the data of \"a b\"/data has hash #")
    );
    let other = Tensor::from_f32([2, 1], vec![1.0; 2]).unwrap();
    assert_eq!(
        read(Ok(Some(other)), false).unwrap_err(),
        "\"a b\"/data should be f32[1, 2], its data is f32[2, 1]"
    );
}

#[test]
fn long_texts_take_time_in_proportion() {
    let mut text = String::from("model \"m\" {\n  %v0: f32[S, B, 4] = input\n");
    for i in 1..20_000 {
        text.push_str(&format!("  %v{i} = linear %v{}, @w\n", i - 1));
    }
    text.push_str("  return y %v19999\n}\n@w: f32[4, 4] #00000000\n");
    assert_eq!(parse(&text).unwrap().nodes().count(), 20_000);
}

proptest! {
    #[test]
    fn mutated_text_gives_a_graph_or_an_error(
        seed in 0u64..20,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, "[ -~\n]{0,3}", any::<prop::sample::Index>()), 1..6),
        inline in any::<bool>(),
    ) {
        let options = if inline { ALL_INLINE } else { PrintOptions::default() };
        let mut text: Vec<char> = print_with(&mixed(seed), &options).chars().collect();
        for (at, action, with, other) in edits {
            let at = at.index(text.len());
            match action {
                0 => drop(text.splice(at..at, with.chars())),
                1 => { let end = (at + with.len()).min(text.len()); drop(text.splice(at..end, [])); }
                2 => { let end = (at + 1).min(text.len()); drop(text.splice(at..end, with.chars())); }
                // A piece from elsewhere in the text: mostly well-formed tokens in wrong places.
                _ => {
                    let from = other.index(text.len());
                    let piece: Vec<char> = text[from..(from + 30).min(text.len())].to_vec();
                    drop(text.splice(at..at, piece));
                }
            }
        }
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(graph) => {
                let printed = print(&graph);
                let again = parse(&printed).map(|g| print(&g));
                prop_assert_eq!(again.as_deref(), Ok(printed.as_str()));
            }
            Err(e) => prop_assert!(!e.to_string().is_empty()),
        }
    }

    #[test]
    fn any_text_gives_an_error(text in "\\PC*") {
        prop_assert!(parse(&text).is_err());
    }

    #[test]
    fn float_attributes_keep_their_value(alpha in any::<f32>(), value in any::<f64>()) {
        let gemm = Op::Gemm { alpha, beta: 1.0, trans_a: false, trans_b: false };
        let fill = Op::ConstantOfShape { value: Scalar { dtype: DType::F64, value } };
        for op in [gemm, fill] {
            prop_assert_eq!(reread(&op, &attributes::write(&op)).unwrap(), op);
        }
    }
}
