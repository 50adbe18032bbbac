//! Our reader against an independent one, `onnx-protobuf`: every model and tensor of `testdata`, and all that the exporter writes.
//!
//! Messages are converted to ours and compared as a whole; elements are compared as numbers. `onnx-protobuf` is for tests only: it recurses without
//! limit on hostile files.

use super::files::cases;
use crate::onnx::external::External;
use crate::onnx::proto::*;
use crate::onnx::{decode, decoded};
use crate::tensor::DType;
use crate::testing::check_all;
use half::{bf16, f16};
use onnx_protobuf as other;
use prost::Message;
use protobuf::{Enum as _, Message as _};
use std::path::{Path, PathBuf};

fn each<T, U>(all: &[T], f: impl Fn(&T) -> U) -> Vec<U> {
    all.iter().map(f).collect()
}

fn opset(o: &other::OperatorSetIdProto) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: o.domain.clone(), version: o.version }
}

fn entry(e: &other::StringStringEntryProto) -> StringStringEntryProto {
    StringStringEntryProto { key: e.key.clone(), value: e.value.clone() }
}

fn model(m: &other::ModelProto) -> ModelProto {
    ModelProto {
        ir_version: m.ir_version,
        producer_name: m.producer_name.clone(),
        producer_version: m.producer_version.clone(),
        graph: m.graph.as_ref().map(graph),
        opset_import: each(&m.opset_import, opset),
        metadata_props: each(&m.metadata_props, entry),
        functions: each(&m.functions, |f| FunctionProto {
            name: f.name.clone(),
            input: f.input.clone(),
            output: f.output.clone(),
            attribute: f.attribute.clone(),
            node: each(&f.node, node),
            opset_import: each(&f.opset_import, opset),
            domain: f.domain.clone(),
            attribute_proto: each(&f.attribute_proto, attribute),
        }),
    }
}

fn graph(g: &other::GraphProto) -> GraphProto {
    GraphProto {
        node: each(&g.node, node),
        name: g.name.clone(),
        initializer: each(&g.initializer, tensor),
        input: each(&g.input, value_info),
        output: each(&g.output, value_info),
        sparse_initializer: each(&g.sparse_initializer, sparse),
    }
}

fn node(n: &other::NodeProto) -> NodeProto {
    NodeProto {
        input: n.input.clone(),
        output: n.output.clone(),
        name: n.name.clone(),
        op_type: n.op_type.clone(),
        attribute: each(&n.attribute, attribute),
        domain: n.domain.clone(),
    }
}

/// `onnx-protobuf` does not tell zero from absent: both are absent here and in [`plain`].
fn attribute(a: &other::AttributeProto) -> AttributeProto {
    AttributeProto {
        name: a.name.clone(),
        f: Some(a.f).filter(|f| *f != 0.0),
        i: Some(a.i).filter(|i| *i != 0),
        s: Some(a.s.clone().into()).filter(|s: &bytes::Bytes| !s.is_empty()),
        t: a.t.as_ref().map(|t| Box::new(tensor(t))),
        g: a.g.as_ref().map(|g| Box::new(graph(g))),
        floats: a.floats.clone(),
        ints: a.ints.clone(),
        strings: each(&a.strings, |s| s.clone().into()),
        r#type: a.type_.value(),
        ref_attr_name: a.ref_attr_name.clone(),
        sparse_tensor: a.sparse_tensor.as_ref().map(|s| Box::new(sparse(s))),
    }
}

fn tensor(t: &other::TensorProto) -> TensorProto {
    TensorProto {
        dims: t.dims.clone(),
        data_type: t.data_type,
        segment: t.segment.as_ref().map(|s| SegmentProto { begin: s.begin, end: s.end }),
        float_data: t.float_data.clone(),
        int32_data: t.int32_data.clone(),
        int64_data: t.int64_data.clone(),
        name: t.name.clone(),
        raw_data: Some(t.raw_data.clone().into()).filter(|raw: &bytes::Bytes| !raw.is_empty()),
        double_data: t.double_data.clone(),
        external_data: each(&t.external_data, entry),
        data_location: t.data_location.value(),
    }
}

fn sparse(s: &other::SparseTensorProto) -> SparseTensorProto {
    SparseTensorProto {
        values: s.values.as_ref().map(tensor),
        indices: s.indices.as_ref().map(tensor),
        dims: s.dims.clone(),
    }
}

fn value_info(v: &other::ValueInfoProto) -> ValueInfoProto {
    use other::{tensor_shape_proto::dimension::Value, type_proto};
    let dim = |d: &other::tensor_shape_proto::Dimension| DimensionProto {
        value: d.value.as_ref().map(|v| match v {
            Value::DimValue(n) => dimension::Value::DimValue(*n),
            Value::DimParam(name) => dimension::Value::DimParam(name.clone()),
            _ => panic!("a dimension of another kind"),
        }),
    };
    let ty = |t: &other::TypeProto| TypeProto {
        tensor_type: match &t.value {
            Some(type_proto::Value::TensorType(t)) => Some(TensorTypeProto {
                elem_type: t.elem_type,
                shape: t.shape.as_ref().map(|s| TensorShapeProto { dim: each(&s.dim, dim) }),
            }),
            _ => None,
        },
    };
    ValueInfoProto { name: v.name.clone(), r#type: v.type_.as_ref().map(ty) }
}

/// Zeros and empty bytes as absent values.
fn plain(graph: &mut GraphProto) {
    graph.initializer.iter_mut().for_each(plain_tensor);
    graph.sparse_initializer.iter_mut().for_each(plain_sparse);
    graph.node.iter_mut().flat_map(|n| &mut n.attribute).for_each(plain_attribute);
}

fn plain_attribute(a: &mut AttributeProto) {
    a.f = a.f.filter(|f| *f != 0.0);
    a.i = a.i.filter(|i| *i != 0);
    a.s = a.s.take().filter(|s| !s.is_empty());
    a.t.iter_mut().for_each(|t| plain_tensor(t));
    a.g.iter_mut().for_each(|g| plain(g));
    a.sparse_tensor.iter_mut().for_each(|s| plain_sparse(s));
}

fn plain_tensor(t: &mut TensorProto) {
    t.raw_data = t.raw_data.take().filter(|raw| !raw.is_empty());
}

fn plain_sparse(s: &mut SparseTensorProto) {
    [&mut s.values, &mut s.indices].into_iter().flatten().for_each(plain_tensor);
}

/// The elements of a tensor, floats as the bits of f64; none of a type that the IR does not have.
fn elements(t: &other::TensorProto, dir: Option<&Path>) -> Option<Vec<u64>> {
    use other::tensor_proto::DataType::{self, *};
    let of_float = |x: f64| x.to_bits();
    let of_int = |x: i64| x as u64;
    let external = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let raw = match (external("location"), dir) {
        (Some(location), Some(dir)) => {
            let number = |key| external(key).map(|n| n.parse::<usize>().unwrap());
            let all = std::fs::read(dir.join(location)).unwrap();
            let start = number("offset").unwrap_or(0);
            all[start..number("length").map_or(all.len(), |n| start + n)].to_vec()
        }
        _ => t.raw_data.clone(),
    };
    let bytes = |n: usize| raw.chunks(n).map(|c| c.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b)));
    let is_raw = !raw.is_empty();
    // Numbers of some bytes: from raw data, or from the list of 32 bits.
    let ints = |n: usize, sign: &dyn Fn(u64) -> i64| -> Vec<u64> {
        match is_raw {
            true => bytes(n).map(|b| of_int(sign(b))).collect(),
            false => each(&t.int32_data, |&x| of_int(sign(x as u64 & (u64::MAX >> (64 - 8 * n))))),
        }
    };
    let count = t.dims.iter().product::<i64>() as usize;
    // Numbers of some bits, the first in the lowest ones.
    let packed = |bits: usize, signed: bool| -> Vec<u64> {
        let bytes: Vec<u8> = if is_raw { raw.clone() } else { each(&t.int32_data, |&x| x as u8) };
        let number = |k: usize| {
            let value = bytes[k * bits / 8] >> (k * bits % 8) & ((1 << bits) - 1);
            let negative = signed && value >> (bits - 1) == 1;
            of_int(i64::from(value) - if negative { 1 << bits } else { 0 })
        };
        (0..count).map(number).collect()
    };
    Some(match DataType::from_i32(t.data_type)? {
        FLOAT if is_raw => bytes(4).map(|b| of_float(f32::from_bits(b as u32).into())).collect(),
        FLOAT => each(&t.float_data, |&x| of_float(x.into())),
        DOUBLE if is_raw => bytes(8).collect(),
        DOUBLE => each(&t.double_data, |&x| of_float(x)),
        INT64 if is_raw => bytes(8).collect(),
        INT64 => each(&t.int64_data, |&x| of_int(x)),
        UINT32 if is_raw => bytes(4).collect(),
        UINT64 if is_raw => bytes(8).collect(),
        INT32 => ints(4, &|b| i64::from(b as i32)),
        INT16 => ints(2, &|b| i64::from(b as i16)),
        UINT16 => ints(2, &|b| b as i64),
        INT8 => ints(1, &|b| i64::from(b as i8)),
        UINT8 => ints(1, &|b| b as i64),
        BOOL => ints(1, &|b| i64::from(b != 0)),
        FLOAT16 => each(&ints(2, &|b| b as i64), |&b| of_float(f16::from_bits(b as u16).into())),
        BFLOAT16 => each(&ints(2, &|b| b as i64), |&b| of_float(bf16::from_bits(b as u16).into())),
        INT4 => packed(4, true),
        UINT4 => packed(4, false),
        _ => return None,
    })
}

/// Compares the elements of a tensor, if our reader takes it.
fn check_tensor(ours: &TensorProto, theirs: &other::TensorProto, dir: Option<&Path>) {
    let Ok(found) = decode::tensor(ours.clone(), &mut External::new(dir)) else { return };
    let Some(expected) = elements(theirs, dir) else { return };
    assert_eq!(each(found.shape(), |&d| d as i64), theirs.dims, "{}", theirs.name);
    let numbers: Vec<u64> = match found.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::Bf16 => each(&found.to_f64().unwrap(), |x| x.to_bits()),
        DType::I64 => each(found.i64s().unwrap(), |&x| x as u64),
        DType::I32 => each(found.i32s().unwrap(), |&x| i64::from(x) as u64),
        DType::I8 => each(found.i8s().unwrap(), |&x| i64::from(x) as u64),
        DType::U8 => each(found.u8s().unwrap(), |&x| x.into()),
        DType::Bool => each(found.bools().unwrap(), |&x| x.into()),
    };
    assert!(numbers == expected, "{}: other elements", theirs.name);
}

fn check_graph(ours: &GraphProto, theirs: &other::GraphProto, dir: Option<&Path>) {
    for (a, b) in ours.initializer.iter().zip(&theirs.initializer) {
        check_tensor(a, b, dir);
    }
    let attributes = ours.node.iter().flat_map(|n| &n.attribute);
    for (a, b) in attributes.zip(theirs.node.iter().flat_map(|n| &n.attribute)) {
        if let (Some(a), Some(b)) = (&a.t, b.t.as_ref()) {
            check_tensor(a, b, dir);
        }
        if let (Some(a), Some(b)) = (&a.g, b.g.as_ref()) {
            check_graph(a, b, dir);
        }
    }
}

/// Checks that both readers find the same in the bytes of a model.
pub(super) fn check_model(bytes: Vec<u8>, dir: Option<&Path>) {
    let theirs = other::ModelProto::parse_from_bytes(&bytes).unwrap();
    let mut ours = decoded(bytes.into()).unwrap();
    check_graph(ours.graph.as_ref().unwrap(), theirs.graph.as_ref().unwrap(), dir);
    ours.graph.iter_mut().for_each(plain);
    let functions = ours.functions.iter_mut();
    let attributes = functions
        .flat_map(|f| f.node.iter_mut().flat_map(|n| &mut n.attribute).chain(&mut f.attribute_proto));
    attributes.for_each(plain_attribute);
    assert!(ours == model(&theirs), "other messages");
}

/// Files that are no messages.
const NO_MODELS: [&str; 3] = ["empty-file", "not-onnx", "truncated"];

#[test]
fn every_model_is_what_another_reader_finds() {
    let folders = ["tiny", "exports", "onnx", "refused"];
    let mut all: Vec<PathBuf> = folders.into_iter().flat_map(cases).collect();
    all.extend(Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/ptb-small").canonicalize());
    all.retain(|case| !NO_MODELS.iter().any(|name| case.ends_with(name)));
    check_all(all, |case| {
        // The elements of what is refused are nowhere, or not where the model says.
        let dir = if case.parent().unwrap().ends_with("refused") { None } else { Some(case.as_path()) };
        check_model(std::fs::read(case.join("model.onnx")).unwrap(), dir);
    });
}

#[test]
fn every_tensor_is_what_another_reader_finds() {
    check_all(["tiny", "exports", "onnx"].into_iter().flat_map(cases), |case| {
        let sets = std::fs::read_dir(case).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
        for file in sets.flat_map(|set| std::fs::read_dir(set).unwrap()).map(|e| e.unwrap().path()) {
            let bytes = std::fs::read(&file).unwrap();
            let theirs = other::TensorProto::parse_from_bytes(&bytes).unwrap();
            let mut ours = TensorProto::decode(&bytes[..]).unwrap();
            check_tensor(&ours, &theirs, None);
            plain_tensor(&mut ours);
            assert_eq!(ours, tensor(&theirs), "{}", file.display());
        }
    });
}
