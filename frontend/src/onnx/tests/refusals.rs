//! What is refused, and the texts that say so.

use super::build::*;
use crate::onnx::proto::*;
use crate::onnx::{import, read, read_with_inputs};
use crate::tensor::Tensor;
use prost::Message;

/// The message of each model's error, with a heading.
fn messages(models: Vec<(&str, ModelProto)>) -> String {
    let lines = models.into_iter().map(|(what, model)| match load(&model) {
        Ok(graph) => format!("{what}:\n  is read: {}", text(&graph)),
        Err(error) => format!("{what}:\n  {error}"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A model of one node on a `[2, 3]` input.
fn on_x(opset: i64, op: &str, attributes: Vec<AttributeProto>) -> ModelProto {
    single(opset, node(op, &["x"], attributes), &[("x", &[2, 3])])
}

/// A model that is good but for what `change` does to it.
fn changed(change: impl FnOnce(&mut ModelProto)) -> ModelProto {
    let mut model = single(17, node("Add", &["x", "w"], vec![]), &[("x", &[2, 3])]);
    graph(&mut model).initializer.push(f32s("w", &[3], &[1.0, 2.0, 3.0]));
    change(&mut model);
    model
}

/// [`changed`] in its weight.
fn weight(change: impl FnOnce(&mut TensorProto)) -> ModelProto {
    changed(|m| change(&mut graph(m).initializer[0]))
}

#[test]
fn files() {
    let good = changed(|_| {}).encode_to_vec();
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("hello", b"hello".to_vec()),
        ("an .lstmc", b"\x89LSTMC\r\n".to_vec()),
        ("a PyTorch zip", b"PK\x03\x04rest of it".to_vec()),
        ("a pickle", b"\x80\x02}q".to_vec()),
        ("HDF5", b"\x89HDF\r\n".to_vec()),
        ("Git LFS", b"version https://git-lfs.github.com/spec/v1".to_vec()),
        ("TFLite", b"\x1c\0\0\0TFL3".to_vec()),
        ("safetensors", b"\x68\x01\0\0\0\0\0\0{\"a\":".to_vec()),
        ("noise", vec![0xff; 20]),
        ("cut in the middle", good[..good.len() / 2].to_vec()),
        ("cut before the graph", good[..2].to_vec()),
    ];
    let mut bad_name = good;
    let at = bad_name.windows(3).position(|w| w == b"Add").unwrap();
    bad_name[at] = 0xff;
    files.push(("a name that is no UTF-8", bad_name));
    let lines = files.into_iter().map(|(what, bytes)| {
        let error = import(bytes.into(), None, "test").unwrap_err();
        format!("{what}:\n  {error}")
    });
    let found = lines.collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(found);
}

#[test]
fn models() {
    let found = messages(vec![
        ("old format", changed(|m| m.ir_version = 2)),
        ("no graph", changed(|m| m.graph = None)),
        ("no opset", changed(|m| m.opset_import.clear())),
        ("old opset", changed(|m| m.opset_import[0].version = 6)),
        ("absurd opset", changed(|m| m.opset_import[0].version = 9999)),
        (
            "two opsets",
            changed(|m| {
                m.opset_import.push(OperatorSetIdProto { domain: "ai.onnx".into(), version: 18 });
            }),
        ),
        (
            "sparse",
            changed(|m| {
                let values = Some(f32s("s", &[1], &[1.0]));
                graph(m).sparse_initializer.push(SparseTensorProto { values, indices: None, dims: vec![9] });
            }),
        ),
        ("input without type", changed(|m| graph(m).input[0].r#type = None)),
        ("input of strings", changed(|m| graph(m).input[0] = input("x", DataType::String, &[2]))),
        (
            "input without shape",
            changed(|m| {
                let ty = graph(m).input[0].r#type.as_mut().unwrap();
                ty.tensor_type.as_mut().unwrap().shape = None;
            }),
        ),
        ("input of negative size", changed(|m| graph(m).input[0] = input("x", DataType::Float, &[-2, 3]))),
        (
            "input twice",
            changed(|m| {
                let again = graph(m).input[0].clone();
                graph(m).input.push(again);
            }),
        ),
        ("input and node of one name", changed(|m| graph(m).node[0].output[0] = "x".into())),
        ("no output", changed(|m| graph(m).output.clear())),
        ("output twice", changed(|m| graph(m).output.push(value_info("y")))),
        ("output of nothing", changed(|m| graph(m).output[0].name = "z".into())),
        ("terminal escapes in a name", changed(|m| graph(m).node[0].input[0] = "\x1b[31m".into())),
        ("a name without end", changed(|m| graph(m).node[0].input[0] = "x".repeat(100_000))),
        (
            "cycle of many",
            changed(|m| {
                let g = graph(m);
                g.node = (0..20)
                    .map(|i| NodeProto {
                        output: vec![format!("v{i}")],
                        name: String::new(),
                        ..node("Add", &["x", &format!("v{}", (i + 1) % 20)], vec![])
                    })
                    .collect();
            }),
        ),
    ]);
    insta::assert_snapshot!(found);
}

#[test]
fn tensors() {
    let typed = |ty: DataType, ints: &[i32]| {
        weight(|t| {
            t.data_type = ty as i32;
            t.raw_data = None;
            t.int32_data = ints.to_vec();
        })
    };
    let external = |entries: &[(&str, &str)]| {
        weight(|t| {
            t.raw_data = None;
            t.data_location = DataLocation::External as i32;
            let pair = |&(k, v): &(&str, &str)| StringStringEntryProto { key: k.into(), value: v.into() };
            t.external_data = entries.iter().map(pair).collect();
        })
    };
    let found = messages(vec![
        ("strings", typed(DataType::String, &[])),
        ("four bits", typed(DataType::Int4, &[])),
        ("unknown type", weight(|t| t.data_type = 99)),
        ("segment", weight(|t| t.segment = Some(SegmentProto { begin: 0, end: 3 }))),
        ("a thousand dimensions", weight(|t| t.dims = vec![1; 1000])),
        ("negative", weight(|t| t.dims = vec![-3, -1])),
        ("overflow", weight(|t| t.dims = vec![1 << 62, 8])),
        ("huge", weight(|t| t.dims = vec![1 << 40, 8])),
        ("short", weight(|t| t.raw_data = Some(vec![0; 11].into()))),
        ("no data", weight(|t| t.raw_data = None)),
        ("twice", weight(|t| t.float_data = vec![1.0])),
        ("data in another type's field", typed(DataType::Double, &[1, 2, 3])),
        ("too large for a byte", typed(DataType::Uint8, &[1, 255, 256])),
        ("too small for a byte", typed(DataType::Int8, &[1, -128, -129])),
        ("no bits of an f16", typed(DataType::Float16, &[1, -1, 2])),
        ("NaN", weight(|t| t.raw_data = Some([1.0, f32::NAN, 2.0].map(f32::to_le_bytes).concat().into()))),
        ("infinite f16", typed(DataType::Float16, &[0, 1, 0xfc00])),
        ("infinite bf16", typed(DataType::Bfloat16, &[0x7f80, 1, 0])),
        ("external in memory", external(&[("location", "data.bin")])),
        ("external nowhere", external(&[("offset", "0")])),
        ("external with a stranger", external(&[("location", "data.bin"), ("basepath", "/")])),
        ("external twice", external(&[("location", "a"), ("location", "b")])),
        ("external of no length", external(&[("location", "a"), ("length", "many")])),
        (
            "NaN in a constant",
            on_x(17, "Tanh", vec![]).with(|g| {
                let value = tensor("value", f32s("", &[1], &[f32::NAN]));
                g.node.push(NodeProto {
                    output: vec!["c".into()],
                    name: "c".into(),
                    ..node("Constant", &[], vec![value])
                });
            }),
        ),
    ]);
    insta::assert_snapshot!(found);
}

#[test]
fn nodes() {
    let lstm = |attributes| {
        single(
            17,
            node("LSTM", &["x", "w", "r"], attributes),
            &[("x", &[5, 1, 3]), ("w", &[1, 8, 3]), ("r", &[1, 8, 2])],
        )
    };
    let found = messages(vec![
        ("GRU", on_x(17, "GRU", vec![])),
        ("If, without a name", on_x(17, "If", vec![]).with(|g| g.node[0].name.clear())),
        ("escapes", on_x(17, "Bell\x07", vec![])),
        ("other domain", on_x(17, "Gelu", vec![]).with(|g| g.node[0].domain = "com.example".into())),
        ("branches of other sizes", {
            let then = subgraph("then_branch", vec![], &[], &[]);
            on_x(17, "If", vec![then])
        }),
        ("a branch that reads what is not there", {
            let then =
                subgraph("then_branch", vec![making(&["t"], node("Tanh", &["q"], vec![]))], &[], &["t"]);
            on_x(17, "If", vec![then.clone(), AttributeProto { name: "else_branch".into(), ..then }])
        }),
        ("a loop without a condition", on_x(17, "Loop", vec![subgraph("body", vec![], &["i"], &[])])),
        ("local function", {
            let mut m = on_x(17, "Mine", vec![]).with(|g| g.node[0].domain = "pkg".into());
            m.functions.push(FunctionProto {
                name: "Mine".into(),
                domain: "pkg".into(),
                input: vec!["a".into()],
                output: vec!["b".into()],
                node: vec![NodeProto {
                    domain: "pkg".into(),
                    output: vec!["b".into()],
                    ..node("Mine", &["a"], vec![])
                }],
                ..Default::default()
            });
            m
        }),
        (
            "reference",
            on_x(17, "Flatten", vec![AttributeProto { ref_attr_name: "a".into(), ..int("axis", 1) }]),
        ),
        ("attribute of another time", on_x(13, "Squeeze", vec![ints("axes", &[0])])),
        ("attribute of another operator", on_x(17, "Tanh", vec![float("alpha", 1.0)])),
        ("attribute of another type", on_x(17, "Flatten", vec![float("axis", 1.0)])),
        ("attribute twice", on_x(17, "Flatten", vec![int("axis", 1), int("axis", 0)])),
        ("attribute missing", on_x(17, "Concat", vec![])),
        ("no truth value", on_x(17, "ReduceMean", vec![int("keepdims", 2)])),
        ("too few inputs", on_x(17, "Add", vec![])),
        ("an input left out", single(17, node("Add", &["", "x"], vec![]), &[("x", &[2])])),
        ("too many inputs", single(17, node("Tanh", &["x", "x"], vec![]), &[("x", &[2])])),
        ("too many outputs", on_x(17, "Tanh", vec![]).with(|g| g.node[0].output.push("z".into()))),
        ("no output", on_x(17, "Tanh", vec![]).with(|g| g.node[0].output.clear())),
        ("Unsqueeze without axes", on_x(17, "Unsqueeze", vec![])),
        ("Cast to strings", on_x(17, "Cast", vec![int("to", DataType::String as i64)])),
        ("Cast to what", on_x(17, "Cast", vec![int("to", 1 << 40)])),
        ("Softmax beyond", on_x(11, "Softmax", vec![int("axis", 2)])),
        ("Split into another number", on_x(18, "Split", vec![int("num_outputs", 2)])),
        (
            "Dropout in training",
            single(13, node("Dropout", &["x", "", "t"], vec![]), &[("x", &[2]), ("t", &[])]),
        ),
        ("empty Constant", on_x(17, "Tanh", vec![]).with(|g| g.node[0] = node("Constant", &[], vec![]))),
        (
            "string Constant",
            on_x(17, "Tanh", vec![]).with(|g| {
                g.node[0] = node("Constant", &[], vec![string("value_string", "a")]);
            }),
        ),
        ("two numbers of a shape", on_x(17, "ConstantOfShape", vec![tensor("value", i64s("", &[1, 2]))])),
        ("types", single(17, node("MatMul", &["x", "z"], vec![]), &[("x", &[2, 3]), ("z", &[2, 3])])),
        ("LSTM to nowhere", lstm(vec![string("direction", "sideways")])),
        ("LSTM of another size", lstm(vec![int("hidden_size", 4)])),
        ("LSTM with negative clip", lstm(vec![float("clip", -1.0)])),
        ("LSTM with infinite clip", lstm(vec![float("clip", f32::INFINITY)])),
        ("LSTM with two functions", lstm(vec![strings("activations", &["Sigmoid", "Tanh"])])),
        ("LSTM with another function", lstm(vec![strings("activations", &["Sigmoid", "Tanh", "Gelu"])])),
        (
            "LSTM with too many values",
            lstm(vec![
                strings("activations", &["HardSigmoid", "Tanh", "Tanh"]),
                floats("activation_alpha", &[0.2, 0.0, 0.0]),
            ]),
        ),
        ("LSTM of opset 1", lstm(vec![int("output_sequence", 1)])),
    ]);
    insta::assert_snapshot!(found);
}

#[test]
fn more_nodes_than_any_model_has() {
    let model = changed(|m| {
        let one = graph(m).node[0].clone();
        graph(m).node = vec![one; 20_001];
    });
    let error = load(&model).unwrap_err().to_string();
    assert!(error.contains("more than 20000"), "{error}");
}

/// Whatever happens to a file, reading it ends with a graph or an error.
#[test]
fn changed_bytes_never_panic() {
    use proptest::prelude::*;
    let inputs: [(&str, &[i64]); 3] = [("x", &[5, 1, 3]), ("w", &[1, 8, 3]), ("r", &[1, 8, 2])];
    let lstm = node("LSTM", &["x", "w", "r"], vec![int("hidden_size", 2), string("direction", "forward")]);
    let model = single(17, lstm, &inputs).with(|g| {
        g.initializer.push(i64s("axes", &[1]));
        let make = |node: NodeProto, outputs: &[&str]| NodeProto {
            output: outputs.iter().map(|s| s.to_string()).collect(),
            ..node
        };
        g.node.extend([
            make(node("Squeeze", &["y", "axes"], vec![]), &["z"]),
            make(node("Shape", &["z"], vec![int("start", 1)]), &["s"]),
            make(node("Split", &["z"], vec![int("axis", 2)]), &["p", "q"]),
        ]);
    });
    let model = model.with(|g| {
        let then = subgraph("then_branch", vec![making(&["t"], node("Tanh", &["z"], vec![]))], &[], &["t"]);
        let otherwise = AttributeProto { name: "else_branch".into(), ..then.clone() };
        let body =
            vec![making(&["o"], node("Einsum", &["h", "z"], vec![string("equation", "...i,...j->...ij")]))];
        g.node.extend([
            making(&["b"], node("If", &["x"], vec![then, otherwise])),
            making(
                &["l"],
                node("Loop", &["", "x", "z"], vec![subgraph("body", body, &["i", "c", "h"], &["c", "o"])]),
            ),
            making(&["g"], node("GatherND", &["z", "s"], vec![int("batch_dims", 1)])),
            making(
                &["m"],
                NodeProto {
                    domain: "com.microsoft".into(),
                    ..node("FusedMatMul", &["z", "z"], vec![int("transA", 1)])
                },
            ),
            making(&["u"], node("TopK", &["z", "s"], vec![int("axis", 1)])),
        ]);
    });
    assert!(load(&model).is_ok());
    let bytes = model.encode_to_vec();
    let changes = prop::collection::vec((0..bytes.len(), any::<u8>()), 1..4);
    proptest!(ProptestConfig::with_cases(2000), |(changes in changes, cut in 0..2 * bytes.len())| {
        let mut bytes = bytes.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut);
        let _ = import(bytes.into(), None, "test");
    });
}

#[test]
fn paths() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &std::path::Path| {
        read(path).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR")
    };
    let file = dir.path().join("m.onnx");
    std::fs::write(&file, changed(|_| {}).encode_to_vec()).unwrap();
    assert!(message(&dir.path().join("none.onnx")).starts_with("DIR/none.onnx: "));
    assert_eq!(message(dir.path()), "DIR: this is a folder, not a file; give the path of the .onnx file");
    let fixed = [("z".to_string(), Tensor::from_i64([1], vec![0]).unwrap())];
    let error = read_with_inputs(&file, &fixed).unwrap_err().to_string();
    assert!(
        error.ends_with("input \"z\": expected the name of an input, found none of this name"),
        "{error}"
    );
}
