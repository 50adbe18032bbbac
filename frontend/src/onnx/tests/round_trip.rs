//! Export, then import: the same model, for every representation.

use super::build::string;
use super::independent::check_model;
use crate::ir::arbitrary::{
    ALL_FORMATS_FROM, Extras, Kind, Recurrence, SplitMix64, dense, language_model_of, quantized,
    random_columns, random_map, recurrent_model_of, sparse,
};
use crate::ir::store::{StoredWeights, store};
use crate::ir::{
    Activations, CodeFormat, Granularity, Graph, Head, LinearMap, LowRank, Part, Pattern, SetActivations,
    parse_with, print,
};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, StringStringEntryProto};
use crate::onnx::{ExportOptions, Imported, export, import_exported, read_exported};
use crate::tensor::DType;
use crate::testing::check_all;
use bytes::Bytes;
use prost::Message;
use std::path::Path;

fn exported(graph: &Graph, opset: i64) -> ModelProto {
    export(graph, &ExportOptions { dense: false, opset }).unwrap().model
}

fn imported(model: &ModelProto) -> Imported {
    import_exported(model.encode_to_vec().into(), None, "random").unwrap()
}

/// Checks that a graph comes back as it is.
fn check(graph: &Graph, opset: i64) {
    let model = exported(graph, opset);
    check_model(model.encode_to_vec(), None);
    let back = imported(&model);
    assert_eq!(back.notes, [""; 0]);
    assert_eq!(print(&back.graph), print(graph));
    assert!(graph.weights().zip(back.graph.weights()).all(|((_, a), (_, b))| a.map == b.map));
}

fn codes(format: CodeFormat, granularity: Granularity, scales: DType, asymmetric: bool) -> impl Map {
    move |shape, seed| quantized(shape, format, granularity, scales, asymmetric, seed).unwrap()
}

/// Codes with factors of columns.
fn columns(codes: impl Map) -> impl Map {
    move |shape, seed| {
        let LinearMap::Quantized(q) = codes(shape, seed) else { panic!() };
        let columns = random_columns(DType::F16, shape[1], seed).unwrap();
        LinearMap::Quantized(q.with_columns(Some(columns)).unwrap())
    }
}

fn pruned(pattern: Pattern, density: f64, values: impl Map) -> impl Map {
    move |shape, seed| sparse(pattern, density, values(shape, seed), seed).unwrap()
}

fn low_rank(left: impl Map, right: impl Map) -> impl Map {
    move |[rows, cols], seed| {
        let (left, right) = (left([rows, 3], seed), right([3, cols], seed + 1));
        LinearMap::LowRank(LowRank::new(left.into(), right.into()).unwrap())
    }
}

/// A matrix of this shape, from a seed.
trait Map: Fn([usize; 2], u64) -> LinearMap + 'static {}
impl<F: Fn([usize; 2], u64) -> LinearMap + 'static> Map for F {}

/// A model whose matrices are made by `map`.
fn model(map: &dyn Fn([usize; 2], u64) -> LinearMap) -> Graph {
    language_model_of(7, 2, 11, |name, shape| map(shape, name.bytes().map(u64::from).sum()))
}

const BLOCK: Pattern = Pattern::Block { rows: 4, cols: 3 };
const TWO_OF_FOUR: Pattern = Pattern::NOfM { n: 2, m: 4 };

#[test]
fn every_representation_comes_back() {
    use CodeFormat::{Int2, Int3, Int4, Int8};
    use DType::{F16, F32};
    use Granularity::{Group, Row};
    let int8 = || codes(Int8, Row, F32, false);
    let int4 = || codes(Int4, Group(3), F16, false);
    let cases: Vec<(&str, Box<dyn Map>)> = vec![
        ("f32", Box::new(dense)),
        ("int8", Box::new(int8())),
        ("int8, zero points", Box::new(codes(Int8, Row, F16, true))),
        ("int4", Box::new(int4())),
        ("int4, zero points", Box::new(codes(Int4, Group(4), F32, true))),
        ("int3", Box::new(codes(Int3, Row, F16, false))),
        ("int2", Box::new(codes(Int2, Group(2), F16, true))),
        ("int8, columns", Box::new(columns(int8()))),
        ("int4, zero points and columns", Box::new(columns(codes(Int4, Group(4), F32, true)))),
        ("pruned int4, columns", Box::new(pruned(BLOCK, 0.3, columns(int4())))),
        ("pruned", Box::new(pruned(Pattern::UNSTRUCTURED, 0.2, dense))),
        ("pruned, blocks", Box::new(pruned(BLOCK, 0.3, dense))),
        ("pruned, 2:4", Box::new(pruned(TWO_OF_FOUR, 0.5, dense))),
        ("pruned int8", Box::new(pruned(Pattern::UNSTRUCTURED, 0.2, int8()))),
        // A kept code is zero in one of four.
        ("pruned int2", Box::new(pruned(Pattern::UNSTRUCTURED, 0.5, codes(Int2, Row, F32, false)))),
        ("pruned int4, blocks", Box::new(pruned(BLOCK, 0.3, int4()))),
        ("pruned int4, zero points", Box::new(pruned(BLOCK, 0.3, codes(Int4, Group(2), F16, true)))),
        ("pruned int8, 2:4, zero points", Box::new(pruned(TWO_OF_FOUR, 0.5, codes(Int8, Row, F32, true)))),
        ("nothing kept", Box::new(pruned(Pattern::UNSTRUCTURED, 0.0, int8()))),
        ("low rank", Box::new(low_rank(dense, dense))),
        ("low rank, int4", Box::new(low_rank(int4(), codes(Int4, Group(2), F32, true)))),
        ("low rank, pruned int8", Box::new(low_rank(pruned(BLOCK, 0.5, int8()), int8()))),
        ("tensor train", Box::new(|shape, seed| random_map(Kind::TensorTrain, shape, seed))),
        ("low rank within low rank", Box::new(low_rank(low_rank(int4(), dense), low_rank(dense, int8())))),
    ];
    check_all(cases.iter().map(|(name, _)| *name), |name| {
        let map = &cases.iter().find(|(n, _)| n == name).unwrap().1;
        check(&model(map), 21);
    });
}

/// The matrices of a model, all kinds mixed.
fn mixed(seed: u64) -> impl FnMut(&str, [usize; 2]) -> LinearMap {
    let mut rng = SplitMix64::new(seed);
    move |_, shape| random_map(rng.pick(&Kind::ALL), shape, ALL_FORMATS_FROM + rng.next_u64() % 1000)
}

#[test]
fn every_cell_comes_back_with_mixed_representations() {
    let extras = [Extras::NONE, Extras { head: Head::Hidden, ..Extras::ALL }, Extras::ALL];
    let cases = Recurrence::all()
        .into_iter()
        .enumerate()
        .flat_map(|(k, kind)| (0..3).map(move |n| (kind.clone(), extras[(k + n) % 3], (3 * k + n) as u64)));
    check_all(cases, |(kind, extras, seed)| {
        check(&recurrent_model_of(kind, [6, 2, 9], *extras, mixed(*seed)), 21);
    });
}

#[test]
fn random_representations_come_back() {
    check_all(0..300u64, |seed| {
        let mut rng = SplitMix64::new(*seed);
        let [hidden, layers, vocabulary] = [1 + rng.below(40), 1 + rng.below(3), 1 + rng.below(60)];
        check(&language_model_of(hidden, layers, vocabulary, mixed(rng.next_u64())), 21);
    });
}

/// Factors that maps share, a table that is the decoder too, and int8 activations.
#[test]
fn shared_parts_stay_shared() {
    let int4 = codes(CodeFormat::Int4, Granularity::Group(4), DType::F32, false);
    let left = Part::new(int4([28, 2], 1));
    let mut graph = language_model_of(7, 2, 11, |name, shape| match name {
        "lstm0.input" | "lstm0.recurrent" | "lstm1.recurrent" => {
            let right = Part::new(dense([2, 7], name.len() as u64));
            LinearMap::LowRank(LowRank::new(left.clone(), right).unwrap())
        }
        _ => int4(shape, 3),
    });
    let int8 = SetActivations::new(Activations::Int8)
        .set(&graph.weight(graph.weight_named("lstm1.input").unwrap()).map);
    graph.set_weight(graph.weight_named("lstm1.input").unwrap(), int8).unwrap();
    check(&graph, 21);
    assert_eq!(print(&graph).matches("@lstm0.input/left").count(), 2);

    let blobs = store(&graph).unwrap();
    let text = print(&graph).replace("@decoder, @decoder.bias", "@embedding, @decoder.bias");
    let text: String =
        text.lines().filter(|l| !l.starts_with("@decoder:")).map(|l| format!("{l}\n")).collect();
    let find = |path: &str| blobs.iter().find(|b| b.path == path).cloned();
    let graph = parse_with(&text, &mut StoredWeights::new(find)).unwrap();
    assert!(graph.weight_named("decoder").is_none());
    check(&graph, 21);
}

/// With an older opset some codes become f32 for good; what is written as it is comes back.
#[test]
fn older_opsets_keep_what_they_have() {
    for (map, whole) in [(CodeFormat::Int8, true), (CodeFormat::Int4, false)] {
        let graph = model(&codes(map, Granularity::Row, DType::F32, false));
        let back = imported(&exported(&graph, 13));
        assert_eq!(back.notes, [""; 0]);
        assert_eq!(back.graph.is_language_model(), whole);
    }
}

#[test]
fn what_is_undone_stays_undone() {
    let graph = model(&codes(CodeFormat::Int8, Granularity::Row, DType::F32, false));
    let model = export(&graph, &ExportOptions { dense: true, opset: 21 }).unwrap().model;
    assert!(model.metadata_props.is_empty());
}

/// A change to any part of the file is seen: the file is read as what its nodes say.
#[test]
fn a_changed_file_is_not_the_old_model() {
    let graph = model(&pruned(
        Pattern::UNSTRUCTURED,
        0.5,
        codes(CodeFormat::Int8, Granularity::Row, DType::F32, false),
    ));
    let other = model(&|shape, seed| dense(shape, seed + 1));
    let other = exported(&other, 21).metadata_props;
    type Change = Box<dyn Fn(&mut ModelProto)>;
    let cases: Vec<(&str, Change)> = vec![
        ("a weight", Box::new(|m| edit(m, "decoder.codes", |raw| raw[3] ^= 1))),
        ("a scale", Box::new(|m| edit(m, "decoder.scales", |raw| raw[3] ^= 1))),
        (
            "a dropped element",
            Box::new(|m| {
                edit(m, "lstm1.input.codes", |raw| {
                    raw.iter_mut().filter(|b| **b == 0).for_each(|b| *b = 1);
                })
            }),
        ),
        ("a bias", Box::new(|m| edit(m, "lstm0.bias", |raw| raw[200] ^= 1))),
        (
            "an attribute",
            Box::new(|m| {
                let node = graph_of(m).node.iter_mut().find(|n| n.op_type == "LSTM").unwrap();
                let direction = string("direction", "reverse");
                node.attribute.push(direction);
            }),
        ),
        (
            "a node",
            Box::new(|m| {
                let relu = |n: &mut NodeProto| n.op_type = "Sub".into();
                graph_of(m).node.iter_mut().filter(|n| n.op_type == "Add").for_each(relu);
            }),
        ),
        ("an output", Box::new(|m| graph_of(m).output.retain(|o| o.name != "cn"))),
        ("metadata of another model", Box::new(move |m| m.metadata_props = other.clone())),
        ("metadata cut off", Box::new(|m| m.metadata_props.truncate(1))),
        ("another text", Box::new(|m| value(m, 0).push_str("@more: f32[1] [0]\n"))),
        ("no text", Box::new(|m| *value(m, 0) = "model".into())),
        ("another place", Box::new(|m| *value(m, 1) = value(m, 1).replace("tensor ", "tensor 1"))),
        ("no place", Box::new(|m| *value(m, 1) = value(m, 1).replace("tensor ", "tensor 99999"))),
        (
            "another layout",
            Box::new(|m| *value(m, 1) = value(m, 1).replace(":transposed", ":0,1,2,18446744073709551615")),
        ),
        ("other lists", Box::new(|m| *value(m, 1) = value(m, 1).replace("mask ", "mask 00ff"))),
    ];
    check_all(cases.iter().map(|(name, _)| *name), |name| {
        let mut model = exported(&graph, 21);
        cases.iter().find(|(n, _)| n == name).unwrap().1(&mut model);
        match import_exported(model.encode_to_vec().into(), None, "random") {
            Ok(back) => {
                assert!(!back.graph.is_language_model());
                assert!(back.notes[0].contains("read as those of any other file"), "{:?}", back.notes);
            }
            Err(e) => assert_eq!(*name, "an attribute", "{e}"),
        }
    });
}

/// A file that was exported before. If this fails, users' files are no longer read back exactly after a change of the exporter: say so in the changelog, and export
/// this one anew.
#[test]
fn a_file_of_testdata_comes_back() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/exports/own-export-mixed/model.onnx");
    if file.exists() {
        let back = read_exported(&file).unwrap();
        assert_eq!(back.notes, [""; 0]);
        assert!(back.graph.is_language_model());
    }
}

/// What only describes a file may change.
#[test]
fn a_described_file_is_the_old_model() {
    let graph = model(&codes(CodeFormat::Int4, Granularity::Group(4), DType::F32, false));
    let mut model = exported(&graph, 21);
    model.producer_name = "a tool".into();
    model.metadata_props.insert(0, StringStringEntryProto { key: "author".into(), value: "a person".into() });
    assert_eq!(print(&imported(&model).graph), print(&graph));
}

/// Parts within parts, all shared: 3^15 products, from a text of a few lines.
#[test]
fn a_short_text_cannot_ask_for_millions_of_nodes() {
    let mut part = Part::new(dense([2, 2], 1));
    for _ in 0..14 {
        part = Part::new(LinearMap::LowRank(LowRank::new(part.clone(), part).unwrap()));
    }
    let graph = language_model_of(2, 1, 2, |_, shape| match shape {
        [2, 2] => part.clone().into_map(),
        _ => dense(shape, 1),
    });
    let mut model = exported(&model(&dense), 21);
    model.metadata_props = vec![StringStringEntryProto { key: "lstmc.graph".into(), value: print(&graph) }];
    assert!(imported(&model).notes[0].contains("parts"), "{:?}", imported(&model).notes);
}

fn graph_of(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn value(model: &mut ModelProto, k: usize) -> &mut String {
    &mut model.metadata_props[k].value
}

fn edit(model: &mut ModelProto, name: &str, change: impl Fn(&mut [u8])) {
    let tensor = graph_of(model).initializer.iter_mut().find(|t| t.name.starts_with(name)).unwrap();
    let mut raw = tensor.raw_data.take().unwrap().to_vec();
    change(&mut raw);
    tensor.raw_data = Some(Bytes::from(raw));
}

/// The text that describes a small model.
#[test]
fn metadata() {
    let graph = language_model_of(4, 1, 5, |name, shape| {
        let int8 = quantized(shape, CodeFormat::Int8, Granularity::Row, DType::F32, false, 1).unwrap();
        match name {
            "decoder" => sparse(Pattern::UNSTRUCTURED, 0.5, int8, 2).unwrap(),
            "embedding" => {
                quantized(shape, CodeFormat::Int4, Granularity::Row, DType::F32, false, 1).unwrap()
            }
            _ => int8,
        }
    });
    let text: Vec<String> =
        exported(&graph, 21).metadata_props.iter().map(|p| format!("{}\n{}", p.key, p.value)).collect();
    insta::assert_snapshot!(text.join("\n"));
}
