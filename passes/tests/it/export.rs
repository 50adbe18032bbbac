//! Models out to ONNX and in again.

use lstmc_frontend::canonicalize::canonicalize;
use lstmc_frontend::interpret;
use lstmc_frontend::ir::arbitrary::{Kind, language_model, language_model_of, random_map};
use lstmc_frontend::ir::{Activations, Graph, SetActivations, parse, print};
use lstmc_frontend::onnx::{ExportOptions, export, import};

fn again(graph: &Graph, options: &ExportOptions) -> Graph {
    let exported = export(graph, options).unwrap();
    let imported = import(exported.to_bytes().into(), None, &graph.name).unwrap();
    canonicalize(&imported).unwrap().expect("generic operators").graph
}

fn likelihood(graph: &Graph) -> f64 {
    let words: Vec<u32> = (0..60).map(|k| (k * k % 17) as u32).collect();
    interpret::LanguageModel::<f64>::new(graph).unwrap().log_likelihood(&words, &mut |_| {}).unwrap()
}

#[test]
fn dense_models_come_back_as_they_were() {
    for layers in 1..=3 {
        let graph = language_model(6, layers, 17, layers as u64);
        for opset in [13, 17, 21, 22] {
            let options = ExportOptions { dense: true, opset };
            assert_eq!(print(&again(&graph, &options)), print(&graph), "{layers} layers, opset {opset}");
        }
    }
}

#[test]
fn compressed_models_come_back_dense() {
    for kind in [Kind::Dense, Kind::Quantized, Kind::Sparse, Kind::LowRank, Kind::TensorTrain] {
        let mut seed = 40;
        let graph = language_model_of(6, 2, 17, |_, shape| {
            seed += 1;
            // ONNX has no products like those with int8 vectors.
            SetActivations::new(Activations::F32).set(&random_map(kind, shape, seed).into()).into_map()
        });
        let back = again(&graph, &ExportOptions { dense: true, ..ExportOptions::default() });
        let (a, b) = (likelihood(&graph), likelihood(&back));
        assert!((a - b).abs() < 1e-6 * a.abs(), "{kind:?}: {a} {b}");
    }
}

const MODEL: &str = r#"
model "m" (vocabulary 17) {
  %tokens: i64[S, B] = input
  %h0: f32[B, 4] = state
  %c0: f32[B, 4] = state
  %h1: f32[B, 6] = state
  %c1: f32[B, 6] = state
  %x0 = embedding %tokens, @embedding
  %scaled = mul %x0, @scale
  %x1, %h0.next, %c0.next = lstm %scaled, %h0, %c0, @lstm0.input, @lstm0.recurrent, @lstm0.bias {gates = ifgo}
  %x2, %h1.next, %c1.next = lstm %x1, %h1, %c1, @lstm1.input, @lstm1.recurrent, @lstm1.bias {gates = ifgo}
  %x3 = linear %x2, @projection
  %logits = linear %x3, @embedding, @decoder.bias
  return logits %logits, state %h0 = %h0.next, state %c0 = %c0.next, state %h1 = %h1.next, state %c1 = %c1.next
}
@embedding: f32[17, 4] random 1
@scale: f32[] [1.5]
@lstm0.input: f32[16, 4] random 2
@lstm0.recurrent: f32[16, 4] random 3
@lstm0.bias: f32[16] random 4
@lstm1.input: f32[24, 4] random 5
@lstm1.recurrent: f32[24, 6] random 6
@lstm1.bias: f32[24] random 7
@projection: f32[4, 6] random 8
@decoder.bias: f32[17] random 9
"#;

#[test]
fn other_gate_orders_sizes_and_ties_are_kept_in_meaning() {
    let graph = parse(MODEL).unwrap();
    let back = again(&graph, &ExportOptions { dense: true, ..ExportOptions::default() });
    let (a, b) = (likelihood(&graph), likelihood(&back));
    assert!((a - b).abs() < 1e-6 * a.abs(), "{a} {b}");
    assert_eq!(back.sources(&lstmc_frontend::ir::Op::State).len(), 4);
}
