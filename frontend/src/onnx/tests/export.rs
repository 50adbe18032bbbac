//! What is written for each representation.

use crate::ir::arbitrary::{
    self, Extras, Kind, Recurrence, language_model, language_model_of, random_map, recurrent_model, sparse,
};
use crate::ir::{
    Activations, CodeFormat, ExportedType, Granularity, Graph, Gru, Head, LinearMap, LowRank, Part, Pattern,
    Reset, SetActivations, parse,
};
use crate::onnx::proto::{DataType, ModelProto, TensorProto};
use crate::onnx::{ExportOptions, export};
use crate::tensor::DType;

fn quantized(shape: [usize; 2], format: CodeFormat, granularity: Granularity, seed: u64) -> LinearMap {
    arbitrary::quantized(shape, format, granularity, DType::F32, false, seed).unwrap()
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
    let left = Part::new(quantized([24, 2], CodeFormat::Int8, Granularity::Row, 9));
    language_model_of(6, 2, 12, |name, shape| match name {
        "embedding" => quantized(shape, CodeFormat::Int4, Granularity::Group(4), 1),
        "lstm0.input" | "lstm0.recurrent" => {
            let right =
                Part::new(quantized([2, 6], CodeFormat::Int4, Granularity::Group(3), name.len() as u64));
            LinearMap::LowRank(LowRank::new(left.clone(), right).unwrap())
        }
        "lstm1.input" => {
            let values = quantized(shape, CodeFormat::Int3, Granularity::Row, 4);
            sparse(Pattern::UNSTRUCTURED, 0.5, values, 5).unwrap()
        }
        "lstm1.recurrent" => random_map(Kind::TensorTrain, shape, 6),
        _ => {
            let left = Part::new(quantized([12, 2], CodeFormat::Int8, Granularity::Row, 7));
            let right = Part::new(quantized([2, 6], CodeFormat::Int4, Granularity::Group(4), 8));
            LinearMap::LowRank(LowRank::new(left, right).unwrap())
        }
    })
}

#[test]
fn dense() {
    insta::assert_snapshot!(listed(&language_model(6, 2, 12, 1), 21));
}

/// A cell without `c0`, and every operator between layers.
#[test]
fn recurrent_cells() {
    let gru = Recurrence::Gru(Gru { clip: Some(3.0), ..Gru::new(Reset::After) });
    let extras = Extras { head: Head::Hidden, ..Extras::ALL };
    insta::assert_snapshot!(listed(&recurrent_model(&gru, [4, 1, 9], extras, 1), 13));
}

/// What has stepwise states is one time step.
#[test]
fn general_steps() {
    insta::assert_snapshot!(listed(&recurrent_model(&Recurrence::RnnSteps, [4, 1, 9], Extras::ALL, 1), 21));
}

#[test]
fn mixed_representations() {
    insta::assert_snapshot!(listed(&mixed(), 21));
}

/// The codes of an initializer, whatever holds them.
fn codes_of(t: &TensorProto) -> Vec<i8> {
    let count = t.dims.iter().product::<i64>() as usize;
    let bytes = t.raw_data.as_ref().unwrap();
    let halves = || bytes.iter().flat_map(|b| [b & 0xf, b >> 4]);
    match DataType::try_from(t.data_type).unwrap() {
        DataType::Int8 => bytes.iter().map(|&b| b as i8).collect(),
        DataType::Int4 => halves().take(count).map(|n| (n << 4) as i8 >> 4).collect(),
        other => panic!("codes in {other:?}"),
    }
}

/// Codes go into the type that the table says, and lose nothing there.
#[test]
fn every_format_keeps_its_codes() {
    for (format, asymmetric) in CodeFormat::ALL.into_iter().flat_map(|f| [false, true].map(|a| (f, a))) {
        let map = |shape, seed| {
            arbitrary::quantized(shape, format, Granularity::Group(3), DType::F16, asymmetric, seed).unwrap()
        };
        let graph = language_model_of(5, 1, 9, |name, shape| map(shape, name.len() as u64));
        let exported = export(&graph, &ExportOptions::default()).unwrap().model.graph.unwrap();
        let ty = match format.exported() {
            ExportedType::Int4 => DataType::Int4,
            ExportedType::Int8 => DataType::Int8,
        };
        // A product's matrix is transposed, an LSTM's stacked.
        for (name, transposed) in [("decoder", true), ("lstm0.input", false)] {
            let LinearMap::Quantized(q) = &*graph.weight(graph.weight_named(name).unwrap()).map else {
                panic!()
            };
            let mut tensors = vec![("codes", q.codes())];
            tensors.extend(q.zero_points().map(|z| ("zero_points", z)));
            for (part, want) in tensors {
                let found = exported.initializer.iter().find(|t| t.name == format!("{name}.{part}")).unwrap();
                assert_eq!(found.data_type, ty as i32, "{format}");
                let [rows, cols] = [want.shape()[0], want.shape()[1]];
                let at = |k: usize| if transposed { k % rows * cols + k / rows } else { k };
                let want = want.i8s().unwrap();
                let want: Vec<i8> = (0..want.len()).map(|k| want[at(k)]).collect();
                assert_eq!(codes_of(found), want, "{format} {name}.{part}");
            }
        }
    }
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

/// Outputs have fixed names, which values and weights of the same name must leave to them.
#[test]
fn names_of_outputs_are_free() {
    let graph = parse(
        r#"
model "m" (vocabulary 6) {
  %tokens: i64[S, B] = input
  %h0: f32[B, 2] = state
  %c0: f32[B, 2] = state
  %h1: f32[B, 3] = state
  %c1: f32[B, 3] = state
  %cn_1 = embedding %tokens, @hn_0
  %x1, %h0.next, %c0.next = lstm %cn_1, %h0, %c0, @logits, @hn_1, @tokens {gates = iofc}
  %hn, %h1.next, %c1.next = lstm %x1, %h1, %c1, @cn_0, @h0_1, @b1 {gates = iofc}
  %logits = linear %hn, @decoder, @decoder.bias
  return logits %logits, state %h0 = %h0.next, state %c0 = %c0.next, state %h1 = %h1.next, state %c1 = %c1.next
}
@hn_0: f32[6, 4] random 1
@logits: f32[8, 4] random 2
@hn_1: f32[8, 2] random 3
@tokens: f32[8] random 4
@cn_0: f32[12, 2] random 5
@h0_1: f32[12, 3] random 6
@b1: f32[12] random 7
@decoder: f32[6, 3] random 8
@decoder.bias: f32[6] random 9
"#,
    )
    .unwrap();
    let model = export(&graph, &ExportOptions { dense: false, opset: 21 }).unwrap().model;
    let graph = model.graph.unwrap();
    let mut defined: Vec<&String> = graph.input.iter().map(|i| &i.name).collect();
    defined.extend(graph.initializer.iter().map(|t| &t.name));
    defined.extend(graph.node.iter().flat_map(|n| &n.output));
    defined.retain(|name| !name.is_empty());
    let all = defined.len();
    defined.sort();
    defined.dedup();
    assert_eq!(defined.len(), all, "each name is defined once");
}
