//! What is written for each representation.

use crate::ir::arbitrary::{self, Kind, language_model, language_model_of, random_map, sparse};
use crate::ir::{Activations, Granularity, Graph, LinearMap, LowRank, Pattern, SetActivations};
use crate::onnx::proto::{DataType, ModelProto};
use crate::onnx::{ExportOptions, export};
use crate::tensor::DType;
use std::sync::Arc;

fn quantized(shape: [usize; 2], bits: u8, granularity: Granularity, seed: u64) -> LinearMap {
    arbitrary::quantized(shape, bits, granularity, DType::F32, false, seed).unwrap()
}

/// Inputs, constants, nodes and outputs, a line each.
fn listing(model: &ModelProto) -> String {
    let graph = model.graph.as_ref().unwrap();
    let mut lines = vec![format!("ir {}, opset {}", model.ir_version, model.opset_import[0].version)];
    let ty = |code: i32| DataType::try_from(code).map_or("?".into(), |t| format!("{t:?}"));
    let names = |infos: &[crate::onnx::proto::ValueInfoProto]| {
        infos.iter().map(|i| i.name.clone()).collect::<Vec<_>>().join(", ")
    };
    lines.push(format!("in {}", names(&graph.input)));
    for t in &graph.initializer {
        lines.push(format!("{}: {}{:?}", t.name, ty(t.data_type), t.dims));
    }
    for n in &graph.node {
        let attributes = n.attribute.iter().map(|a| match a.i {
            Some(i) => format!(" {}={i}", a.name),
            None => format!(" {}={:?}", a.name, a.ints),
        });
        lines.push(format!(
            "{} = {}({}){}",
            n.output.join(", "),
            n.op_type,
            n.input.join(", "),
            attributes.collect::<String>()
        ));
    }
    lines.push(format!("out {}", names(&graph.output)));
    lines.join("\n")
}

fn listed(graph: &Graph, opset: i64) -> String {
    let exported = export(graph, &ExportOptions { dense: false, opset }).unwrap();
    exported.notes.iter().fold(listing(&exported.model), |all, note| format!("{all}\nnote: {note}"))
}

/// Representations by weight: int8 rows, int4 groups, low rank with a shared left factor, sparse, a tensor train.
fn mixed() -> Graph {
    let left = Arc::new(quantized([24, 2], 8, Granularity::Row, 9));
    language_model_of(6, 2, 12, |name, shape| match name {
        "embedding" => quantized(shape, 4, Granularity::Group(4), 1),
        "lstm0.input" | "lstm0.recurrent" => {
            let right = Arc::new(quantized([2, 6], 4, Granularity::Group(3), name.len() as u64));
            LinearMap::LowRank(LowRank::new(left.clone(), right).unwrap())
        }
        "lstm1.input" => {
            let values = quantized(shape, 3, Granularity::Row, 4);
            sparse(Pattern::UNSTRUCTURED, 0.5, values, 5).unwrap()
        }
        "lstm1.recurrent" => random_map(Kind::TensorTrain, shape, 6),
        _ => {
            let left = Arc::new(quantized([12, 2], 8, Granularity::Row, 7));
            let right = Arc::new(quantized([2, 6], 4, Granularity::Group(4), 8));
            LinearMap::LowRank(LowRank::new(left, right).unwrap())
        }
    })
}

#[test]
fn dense() {
    insta::assert_snapshot!(listed(&language_model(6, 2, 12, 1), 21));
}

#[test]
fn mixed_representations() {
    insta::assert_snapshot!(listed(&mixed(), 21));
}

#[test]
fn int8_activations_have_a_note() {
    let mut graph = mixed();
    for name in ["lstm0.input", "lstm1.input"] {
        let id = graph.weight_named(name).unwrap();
        let map = SetActivations::new(Activations::Int8).set(&graph.weight(id).map);
        graph.set_weight(id, map).unwrap();
    }
    let notes = export(&graph, &ExportOptions::default()).unwrap().notes;
    insta::assert_snapshot!(notes.join("\n"));
}

#[test]
fn older_opsets_have_notes() {
    insta::assert_snapshot!(listed(&mixed(), 13));
}

#[test]
fn refusals() {
    let graph = language_model(6, 1, 12, 1);
    let error = |opset| export(&graph, &ExportOptions { dense: false, opset }).unwrap_err().to_string();
    insta::assert_snapshot!(error(12), @"opset 12: expected a number from 13 to 22");
    insta::assert_snapshot!(error(99), @"opset 99: expected a number from 13 to 22");
    let error = export(&Graph::new("empty"), &ExportOptions::default()).unwrap_err();
    insta::assert_snapshot!(error);
}
