//! The messages against bytes that the `onnx` package wrote.

use super::build::*;
use crate::onnx::proto::*;
use prost::Message;

/// A model with every field that is read, as `onnx` 1.23.2 serialises it.
const WRITTEN: &str = "\
    080e1201701a01763a91020a8f010a01780a01771201791a016e22024f702a0b0a0166150000c03fa001012a110a016918ff\
    ffffffffffffffff01a001022a090a0173220174a001032a0b0a01742a03420163a001042a110a0266733d0000803f3d0000\
    0040a001062a140a026973400140feffffffffffffffff01a001072a0d0a0273734a01614a0162a001082a0a0a0172a00102\
    aa0101713a01641201672a130802080110014201774a0801020304050607082a3f080110091a040801100222040000803f2a\
    0affffffffffffffffff013a01024203616c6c5208000000000000f03f6a0d0a086c6f636174696f6e12016670015a160a01\
    7812110a0f0801120b0a031201530a0208030a0062030a01797a070a03420173180342050a0164101c72060a016b120176ca\
    01080a01465203706b67";

#[test]
fn every_field_has_the_number_and_type_of_the_onnx_package() {
    let bytes: Vec<u8> =
        (0..WRITTEN.len()).step_by(2).map(|i| u8::from_str_radix(&WRITTEN[i..i + 2], 16).unwrap()).collect();
    let attribute = vec![
        float("f", 1.5),
        int("i", -1),
        string("s", "t"),
        tensor("t", TensorProto { name: "c".into(), ..Default::default() }),
        floats("fs", &[1.0, 2.0]),
        ints("is", &[1, -2]),
        strings("ss", &["a", "b"]),
        AttributeProto { i: None, ref_attr_name: "q".into(), ..int("r", 0) },
    ];
    let raw = Some((1..=8).collect::<Vec<u8>>().into());
    let model = ModelProto {
        ir_version: 14,
        producer_name: "p".into(),
        producer_version: "v".into(),
        opset_import: vec![OperatorSetIdProto { domain: "d".into(), version: 28 }],
        metadata_props: vec![StringStringEntryProto { key: "k".into(), value: "v".into() }],
        functions: vec![FunctionProto { name: "F".into(), domain: "pkg".into(), ..Default::default() }],
        graph: Some(GraphProto {
            name: "g".into(),
            node: vec![NodeProto { domain: "d".into(), ..node("Op", &["x", "w"], attribute) }],
            initializer: vec![
                TensorProto { raw_data: raw, ..f32s("w", &[2, 1], &[]) },
                TensorProto {
                    name: "all".into(),
                    dims: vec![1],
                    data_type: DataType::Bool as i32,
                    segment: Some(SegmentProto { begin: 1, end: 2 }),
                    float_data: vec![1.0],
                    int32_data: vec![-1],
                    int64_data: vec![2],
                    double_data: vec![1.0],
                    raw_data: None,
                    external_data: vec![StringStringEntryProto { key: "location".into(), value: "f".into() }],
                    data_location: DataLocation::External as i32,
                },
            ],
            sparse_initializer: vec![SparseTensorProto {
                values: Some(TensorProto { name: "s".into(), ..Default::default() }),
                indices: None,
                dims: vec![3],
            }],
            input: vec![typed(
                "x",
                DataType::Float,
                vec![Some(dimension::Value::DimParam("S".into())), Some(dimension::Value::DimValue(3)), None],
            )],
            output: vec![value_info("y")],
        }),
    };
    assert_eq!(ModelProto::decode(&bytes[..]).unwrap(), model);
    assert_eq!(model.encode_to_vec(), bytes);
}
