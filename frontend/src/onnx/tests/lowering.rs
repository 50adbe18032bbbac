//! Nodes of every opset become operators of the newest version; tensors of every spelling become the same tensors.

use super::build::*;
use crate::ir::{Function, LinearMap, Op};
use crate::onnx::proto::*;
use crate::onnx::{import, read};
use crate::tensor::Tensor;
use bytes::Bytes;
use prost::Message;

/// The graph of one node on an input `x: [2, 1, 3]`, with the constants that it reads.
fn lowered(opset: i64, node: NodeProto, constants: Vec<TensorProto>) -> String {
    let opset_and_op = format!("{} {opset}", node.op_type);
    let model = single(opset, node, &[("x", &[2, 1, 3])]).with(|g| g.initializer = constants);
    let graph = load(&model).unwrap_or_else(|e| panic!("{e}"));
    let lines = text(&graph).lines().skip(1).collect::<Vec<_>>().join("\n  ");
    format!("{opset_and_op}:\n  {lines}")
}

fn two_outputs(mut node: NodeProto) -> NodeProto {
    node.output.push("z".into());
    node
}

#[test]
fn old_forms_become_new_ones() {
    let on_x = |op, attributes| node(op, &["x"], attributes);
    let graphs = [
        lowered(7, on_x("Squeeze", vec![ints("axes", &[1])]), vec![]),
        lowered(7, on_x("Squeeze", vec![]), vec![]),
        lowered(13, node("Squeeze", &["x", "a"], vec![]), vec![i64s("a", &[1])]),
        lowered(11, on_x("Unsqueeze", vec![ints("axes", &[0, 2])]), vec![]),
        lowered(9, on_x("Slice", vec![ints("starts", &[1]), ints("ends", &[3]), ints("axes", &[2])]), vec![]),
        lowered(9, on_x("Slice", vec![ints("starts", &[1]), ints("ends", &[2])]), vec![]),
        lowered(
            13,
            node("Slice", &["x", "a", "b", "", "s"], vec![]),
            vec![i64s("a", &[0]), i64s("b", &[2]), i64s("s", &[2])],
        ),
        lowered(11, two_outputs(on_x("Split", vec![int("axis", 2), ints("split", &[1, 2])])), vec![]),
        lowered(13, two_outputs(node("Split", &["x", "s"], vec![int("axis", -1)])), vec![i64s("s", &[2, 1])]),
        lowered(18, two_outputs(on_x("Split", vec![int("num_outputs", 2)])), vec![]),
        lowered(13, on_x("ReduceMean", vec![ints("axes", &[-1]), int("keepdims", 0)]), vec![]),
        lowered(18, node("ReduceMean", &["x", "a"], vec![]), vec![i64s("a", &[1])]),
        lowered(7, on_x("Dropout", vec![float("ratio", 0.5)]), vec![]),
        lowered(
            22,
            two_outputs(node("Dropout", &["x", "r"], vec![int("seed", 3)])),
            vec![f32s("r", &[], &[0.5])],
        ),
        lowered(11, on_x("Softmax", vec![]), vec![]),
        lowered(11, on_x("LogSoftmax", vec![int("axis", 2)]), vec![]),
        lowered(13, on_x("Softmax", vec![]), vec![]),
        lowered(7, node("Reshape", &["x", "s"], vec![]), vec![i64s("s", &[0, -1])]),
        lowered(14, node("Reshape", &["x", "s"], vec![int("allowzero", 1)]), vec![i64s("s", &[6])]),
        lowered(13, on_x("Shape", vec![]), vec![]),
        lowered(15, on_x("Shape", vec![int("start", 1), int("end", -1)]), vec![]),
        lowered(19, on_x("Cast", vec![int("to", 10), int("saturate", 1)]), vec![]),
        lowered(17, on_x("Transpose", vec![ints("perm", &[2, 0, 1])]), vec![]),
        lowered(99, on_x("Identity", vec![]), vec![]),
    ];
    let found = graphs.join("\n");
    insta::assert_snapshot!(found);
}

#[test]
fn normalisations_become_reductions() {
    let of = |op: &str, inputs: &[&str], attributes| node(op, inputs, attributes);
    let vectors = |names: &[&str]| names.iter().map(|name| f32s(name, &[1], &[0.5])).collect::<Vec<_>>();
    let mut skip = of("SkipLayerNormalization", &["x", "x", "s", "", "b"], vec![float("epsilon", 1e-5)]);
    skip.domain = "com.microsoft".into();
    skip.output.extend(["", "", "sum"].map(String::from));
    let mut simplified = of("SkipSimplifiedLayerNormalization", &["x", "x", "s"], vec![]);
    simplified.domain = "com.microsoft".into();
    let graphs = [
        lowered(
            15,
            of("BatchNormalization", &["x", "s", "b", "m", "v"], vec![]),
            vectors(&["s", "b", "m", "v"]),
        ),
        lowered(
            18,
            of("GroupNormalization", &["x", "s", "b"], vec![int("num_groups", 1)]),
            vectors(&["s", "b"]),
        ),
        lowered(
            21,
            of("GroupNormalization", &["x", "s", "b"], vec![int("num_groups", 1)]),
            vectors(&["s", "b"]),
        ),
        lowered(7, of("InstanceNormalization", &["x", "s", "b"], vec![]), vectors(&["s", "b"])),
        lowered(23, of("RMSNormalization", &["x", "s"], vec![int("axis", 1)]), vectors(&["s"])),
        lowered(
            17,
            of("SimplifiedLayerNormalization", &["x", "s"], vec![float("epsilon", 0.5)]),
            vectors(&["s"]),
        ),
        lowered(17, skip, vectors(&["s", "b"])),
        lowered(17, simplified, vectors(&["s"])),
    ];
    insta::assert_snapshot!(graphs.join("\n"));
}

#[test]
fn invented_names_give_way_to_those_of_the_file() {
    let model = single(11, node("Squeeze", &["x"], vec![ints("axes", &[1])]), &[("x", &[2, 1, 3])]);
    let model = model.with(|g| {
        g.initializer.push(f32s("y.axes", &[1], &[1.0]));
        let tail = NodeProto { output: vec!["y.flat".into()], ..node("Tanh", &["y"], vec![]) };
        let rows =
            NodeProto { output: vec!["2".into()], ..node("Softmax", &["y.flat"], vec![int("axis", 0)]) };
        g.node.extend([rows, tail]);
    });
    let found = text(&load(&model).unwrap());
    insta::assert_snapshot!(found);
}

/// Branches and functions become nodes, whose names give way; loops keep their bodies and what these read.
#[test]
fn subgraphs_become_nodes() {
    let constant =
        |name: &str, v: &[i64]| making(&[name], node("Constant", &[], vec![ints("value_ints", v)]));
    let then = vec![constant("k", &[0]), making(&["t"], node("Squeeze", &["x", "k"], vec![]))];
    let otherwise = vec![making(&["t"], node("Tanh", &["x"], vec![]))];
    let branches =
        vec![subgraph("then_branch", then, &[], &["t"]), subgraph("else_branch", otherwise, &[], &["t"])];
    let body = vec![
        making(&["h2"], node("Add", &["h", "t"], vec![])),
        making(&["c2"], node("Identity", &["c"], vec![])),
    ];
    let body = subgraph("body", body, &["i", "c", "h"], &["c2", "h2"]);
    let call = NodeProto { domain: "pkg".into(), ..node("Twice", &["x", "k"], vec![]) };
    let mut model = single(17, making(&["c"], node("IsNaN", &["x"], vec![])), &[("x", &[2, 3])]).with(|g| {
        g.output = vec![value_info("y"), value_info("z")];
        g.node.extend([
            constant("k", &[5]),
            making(&["y"], node("If", &["c"], branches)),
            making(&["t"], call),
            making(&["z"], node("Loop", &["k", "", "x"], vec![body])),
        ]);
    });
    let slope = AttributeProto { ref_attr_name: "slope".into(), ..float("alpha", 0.0) };
    model.functions.push(FunctionProto {
        name: "Twice".into(),
        domain: "pkg".into(),
        input: vec!["x".into(), "unused".into(), "none".into()],
        output: vec!["y".into()],
        attribute_proto: vec![float("slope", 0.5)],
        node: vec![
            making(&["y"], node("Add", &["c", "c"], vec![])),
            making(&["c"], node("LeakyRelu", &["x"], vec![slope])),
        ],
        ..Default::default()
    });
    let graph = load(&model).unwrap();
    let found = text(&graph);
    let (Some(body), _) = graph.nodes().fold((None, ()), |found, (_, n)| match &n.op {
        Op::Loop(l) => (Some(text(&l.body.0)), ()),
        _ => found,
    }) else {
        panic!("{found}")
    };
    let found = found.lines().map(|l| l.split(", body: ").next().unwrap()).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(format!("{found}\nbody:\n{body}"));
}

#[test]
fn lstm_attributes() {
    let lstm = |attributes: Vec<AttributeProto>, directions: i64| {
        let inputs: [(&str, &[i64]); 3] =
            [("x", &[5, 1, 3]), ("w", &[directions, 8, 3]), ("r", &[directions, 8, 2])];
        let graph = load(&single(17, node("LSTM", &["x", "w", "r"], attributes), &inputs)).unwrap();
        let (_, node) = graph.nodes().last().unwrap();
        assert_eq!((node.operands().len(), node.results().len()), (8, 3));
        match &node.op {
            Op::OnnxLstm(lstm) => (**lstm).clone(),
            other => panic!("{other:?}"),
        }
    };
    let plain = lstm(vec![], 1);
    assert_eq!(
        (plain.hidden_size, plain.batch_first, plain.clip, plain.input_forget),
        (2, false, None, false)
    );
    assert_eq!(plain.activations, [Function::Sigmoid, Function::Tanh, Function::Tanh]);
    let functions = ["HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "Affine", "ScaledTanh"];
    let rich = lstm(
        vec![
            string("direction", "bidirectional"),
            strings("activations", &functions),
            // HardSigmoid, LeakyRelu, Affine; HardSigmoid.
            floats("activation_alpha", &[0.3, 0.1, 2.0]),
            floats("activation_beta", &[0.6]),
            float("clip", 3.0),
            int("input_forget", 1),
            int("hidden_size", 2),
        ],
        2,
    );
    assert_eq!(
        rich.activations,
        [
            Function::HardSigmoid { alpha: 0.3, beta: 0.6 },
            Function::Tanh,
            Function::LeakyRelu { alpha: 0.1 },
            Function::Sigmoid,
            Function::Affine { alpha: 2.0, beta: 0.0 },
            Function::ScaledTanh { alpha: 1.0, beta: 1.0 },
        ]
    );
    assert_eq!((rich.clip, rich.input_forget), (Some(3.0), true));
}

#[test]
fn dimensions_become_symbols() {
    use dimension::Value::{DimParam, DimValue};
    let model = single(17, node("Tanh", &["a"], vec![]), &[]).with(|g| {
        let name = |s: &str| Some(DimParam(s.into()));
        g.input = vec![
            typed("a", DataType::Float, vec![name("seq len"), None, Some(DimValue(4))]),
            typed("b", DataType::Int64, vec![name("seq_len"), name(""), Some(DimValue(-1))]),
            typed("c", DataType::Bool, vec![name("seq len"), name("d0"), name("2*B")]),
            typed("d", DataType::Float16, vec![]),
        ];
    });
    let found = text(&load(&model).unwrap());
    insta::assert_snapshot!(found);
}

#[test]
fn constants_and_outputs() {
    let constant = |name: &str, a| NodeProto { output: vec![name.into()], ..node("Constant", &[], vec![a]) };
    let model = single(17, node("Tanh", &["x"], vec![]), &[("x", &[2])]).with(|g| {
        let (f, i) = (AttributeType::Float as i32, AttributeType::Int as i32);
        g.node.extend([
            constant("float", AttributeProto { r#type: f, ..float("value_float", 1.5) }),
            constant("floats", floats("value_floats", &[1.0, 2.0])),
            constant("int", AttributeProto { r#type: i, ..int("value_int", 7) }),
            constant("ints", ints("value_ints", &[])),
            constant("tensor", tensor("value", i64s("other name", &[1, 2]))),
        ]);
        // An initialiser that is an input too has its value; an output may be a constant or an input.
        g.initializer.push(f32s("w", &[1], &[3.0]));
        g.input.push(input("w", DataType::Float, &[1]));
        g.output.extend(["ints", "x", "w", "float", "floats", "int", "tensor"].map(value_info));
    });
    let graph = load(&model).unwrap();
    let found = text(&graph);
    insta::assert_snapshot!(found);
    let weights: Vec<String> = graph
        .weights()
        .map(|(_, w)| match &*w.map {
            LinearMap::Dense(t) => format!("{} {}{:?}", w.name, t.dtype(), t.shape()),
            other => other.kind().to_string(),
        })
        .collect();
    assert_eq!(
        weights,
        ["w f32[1]", "float f32[]", "floats f32[2]", "int i64[]", "ints i64[0]", "tensor i64[2]"]
    );
    // What nothing reads is dropped.
    let graph = load(&model.with(|g| g.output.retain(|o| o.name != "ints" && o.name != "int"))).unwrap();
    assert!(graph.weights().all(|(_, w)| w.name != "ints" && w.name != "int"));
}

#[test]
fn order_is_kept_where_it_can_be() {
    let step =
        |op: &str, from: &str, to: &str| NodeProto { output: vec![to.into()], ..node(op, &[from], vec![]) };
    let model = single(17, step("Relu", "b", "y"), &[("x", &[2])]).with(|g| {
        g.node.extend([step("Tanh", "x", "a"), step("Sigmoid", "x", "c"), step("Sigmoid", "a", "b")]);
    });
    let graph = load(&model).unwrap();
    let names: Vec<&str> = graph.nodes().map(|(_, n)| graph.name_of(n.results()[0])).collect();
    assert_eq!(names, ["x", "a", "c", "b", "y"]);
}

/// One tensor in each of its spellings.
#[test]
fn raw_and_typed_data_are_the_same() {
    let typed: Vec<(Tensor, TensorProto)> = vec![
        (
            Tensor::from_f32([2], vec![1.5, -2.0]).unwrap(),
            TensorProto { float_data: vec![1.5, -2.0], ..Default::default() },
        ),
        (
            Tensor::from_f64([2], vec![1.5, -2.0]).unwrap(),
            TensorProto { double_data: vec![1.5, -2.0], ..Default::default() },
        ),
        (
            Tensor::from_i64([2], vec![i64::MIN, 7]).unwrap(),
            TensorProto { int64_data: vec![i64::MIN, 7], ..Default::default() },
        ),
        (
            Tensor::from_i32([2], vec![-5, 7]).unwrap(),
            TensorProto { int32_data: vec![-5, 7], ..Default::default() },
        ),
        (
            Tensor::from_i8([2], vec![-128, 7]).unwrap(),
            TensorProto { int32_data: vec![-128, 7], ..Default::default() },
        ),
        (
            Tensor::from_u8([2], vec![255, 7]).unwrap(),
            TensorProto { int32_data: vec![255, 7], ..Default::default() },
        ),
        (
            Tensor::from_bool([2], vec![true, false]).unwrap(),
            TensorProto { int32_data: vec![1, 0], ..Default::default() },
        ),
        (
            Tensor::from_f16([2], [1.5, -2.0].map(half::f16::from_f32).to_vec()).unwrap(),
            TensorProto { int32_data: vec![0x3e00, 0xc000], ..Default::default() },
        ),
        (
            Tensor::from_bf16([2], [1.5, -2.0].map(half::bf16::from_f32).to_vec()).unwrap(),
            TensorProto { int32_data: vec![0x3fc0, 0xc000], ..Default::default() },
        ),
    ];
    for (tensor, proto) in typed {
        let raw = crate::onnx::decode::to_proto("w", &tensor).unwrap();
        let typed = TensorProto { raw_data: None, ..raw.clone() };
        let typed = TensorProto {
            float_data: proto.float_data,
            double_data: proto.double_data,
            int64_data: proto.int64_data,
            int32_data: proto.int32_data,
            ..typed
        };
        for proto in [raw, typed] {
            let model = single(17, node("Tanh", &["x"], vec![]), &[("x", &[2])]);
            let model = model.with(|g| {
                g.initializer.push(proto);
                g.output.push(value_info("w"));
            });
            let graph = load(&model).unwrap();
            let (_, weight) = graph.weights().next().unwrap();
            assert_eq!(*weight.map, LinearMap::Dense(tensor.clone()));
        }
    }
}

/// Decoding leaves the bytes of a weight where they are.
#[test]
fn decoding_copies_no_weights() {
    let model = single(17, node("Tanh", &["x"], vec![]), &[("x", &[2])]);
    let bytes: Bytes = model.with(|g| g.initializer.push(f32s("w", &[4], &[1.0; 4]))).encode_to_vec().into();
    let decoded = ModelProto::decode(bytes.clone()).unwrap();
    let raw = decoded.graph.unwrap().initializer[0].raw_data.clone().unwrap();
    assert!(bytes.as_ptr_range().contains(&raw.as_ptr()));
}

/// A file with external data: sharing, overlap, links.
#[test]
fn external_data_stays_in_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("model");
    std::fs::create_dir_all(inner.join("weights")).unwrap();
    let values: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(inner.join("weights/data.bin"), &values).unwrap();
    std::fs::write(dir.path().join("secret.bin"), &values).unwrap();
    let weight = |name: &str, location: &str, offset: usize, dims: &[i64]| TensorProto {
        raw_data: None,
        data_location: DataLocation::External as i32,
        external_data: [("location", location.to_string()), ("offset", offset.to_string())]
            .map(|(k, value)| StringStringEntryProto { key: k.into(), value })
            .to_vec(),
        ..f32s(name, dims, &[])
    };
    let load = |weights: Vec<TensorProto>| {
        let model = single(17, node("Tanh", &["x"], vec![]), &[("x", &[2])]);
        let file = inner.join("m.onnx");
        let model = model.with(|g| {
            g.output.extend(weights.iter().map(|w| value_info(&w.name)));
            g.initializer = weights;
        });
        std::fs::write(&file, model.encode_to_vec()).unwrap();
        read(&file).map_err(|e| e.to_string().replace(&inner.display().to_string(), "DIR"))
    };
    let at = "./weights/data.bin";
    let graph =
        load(vec![weight("a", at, 0, &[2]), weight("b", at, 8, &[2, 1]), weight("tied", at, 8, &[2])])
            .unwrap();
    let last = |n: usize| match &*graph.weights().nth(n).unwrap().1.map {
        LinearMap::Dense(t) => t.to_f32().unwrap(),
        other => panic!("{}", other.kind()),
    };
    assert_eq!(*last(1), [3.0, 4.0]);
    assert!(std::sync::Arc::ptr_eq(&last(1), &last(2)));
    let error = load(vec![weight("a", at, 0, &[3]), weight("b", at, 4, &[3])]).unwrap_err();
    assert!(error.contains("the tensors in it overlap"), "{error}");
    let error = load(vec![weight("a", at, 4, &[4])]).unwrap_err();
    assert!(error.contains("expected 16 bytes from byte 4 on, found a file of 16 bytes"), "{error}");
    let error = load(vec![weight("a", "weights", 0, &[1])]).unwrap_err();
    assert!(error.contains("not a file"), "{error}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../secret.bin", inner.join("link.bin")).unwrap();
        let error = load(vec![weight("a", "link.bin", 0, &[2])]).unwrap_err();
        assert!(error.contains("a symbolic link leads out"), "{error}");
        std::os::unix::fs::symlink("weights/data.bin", inner.join("inside.bin")).unwrap();
        load(vec![weight("a", "inside.bin", 0, &[2])]).unwrap();
    }
    let in_memory = single(17, node("Tanh", &["x"], vec![]), &[("x", &[2])]);
    let in_memory = in_memory.with(|g| g.initializer.push(weight("a", at, 0, &[2])));
    assert!(import(in_memory.encode_to_vec().into(), Some(&inner), "m").is_ok());
}
