//! Writing ONNX: a model in language-model form becomes standard operators that any ONNX runtime runs.
//!
//! ```text
//!   tokens [S, B] ─▶ Gather(embedding) ─▶ LSTM ─▶ Squeeze ─▶ LSTM ─▶ .. ─▶ MatMul(decoder), Add ─▶ logits
//!   h0, c0 [layers, B, H] ─▶ Split ─▶ one state for each LSTM ─▶ Concat ─▶ hn, cn
//! ```
//!
//! Inputs and outputs are those of PyTorch's `nn.LSTM`: `h0`, `c0`, `hn`, `cn` hold the states of all layers, stacked; where layers
//! have different sizes each has an input and an output of its own (`h0_1`, `hn_1`).
//!
//! A weight keeps its representation as far as ONNX has one:
//!
//! | representation | in a product | as the embedding | in an LSTM |
//! |---|---|---|---|
//! | dense | `MatMul` | `Gather` | `W`, `R` |
//! | quantized | `DequantizeLinear` before `MatMul` | codes and scales are gathered, only those rows become f32 | `DequantizeLinear` before `W`, `R` |
//! | sparse | dense with zeros (zeros among the codes) | likewise | likewise |
//! | low rank | two `MatMul`s | `Gather` of the left factor, `MatMul` with the right one | `MatMul` of the factors; runtimes fold it at load |
//! | tensor train | the cores' product, folded at load | likewise | likewise |
//!
//! Codes of at most 4 bits are `INT4` tensors, wider ones `INT8` ([`CodeFormat::exported`](crate::ir::CodeFormat::exported)), and groups the
//! `block_size` of `DequantizeLinear`; `INT4` and groups need opset 21. With an older
//! opset those weights are written as f32 and a note says so. Of the rows of a 4-bit embedding two codes share a byte, since `Gather` takes no `INT4`.
//! [`ExportOptions::dense`] writes everything as f32. What is computed is the same in each case, but for the order of sums, and for products
//! that take their vectors as int8 ([`Activations`](crate::ir::Activations)): in ONNX they take f32, and a note says so.

mod build;
mod weights;

use super::proto::{DataType, ModelProto};
use crate::ir::{
    Binary, Gate, GateOrder, Graph, LanguageModel, Layer, LinearMap, LstmLayer, MapError, NotCanonical, Op,
    Operand, Unary, ValueId, WeightId,
};
use crate::tensor::Tensor;
use build::{Builder, Dimension, int, ints};
use std::collections::BTreeMap;
use weights::Form;

/// How a model is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExportOptions {
    /// Every weight as f32, whatever its representation.
    pub dense: bool,
    /// The version of the standard operators, from [`MIN_OPSET`] to [`MAX_OPSET`].
    pub opset: i64,
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        ExportOptions { dense: false, opset: BLOCKS_OPSET }
    }
}

/// The oldest opset that is written: the first in which `Squeeze`, `Unsqueeze` and `Split` take their axes and sizes as inputs, and in which
/// `DequantizeLinear` has a scale for each row.
pub const MIN_OPSET: i64 = 13;

/// The newest opset that is written.
pub const MAX_OPSET: i64 = 22;

/// The first opset with `INT4` tensors and scales for groups.
const BLOCKS_OPSET: i64 = 21;

/// protobuf's limit for a message.
const MAX_BYTES: usize = i32::MAX as usize;

/// A model as an ONNX message.
#[derive(Clone, PartialEq, Debug)]
pub struct Exported {
    /// The message.
    pub model: ModelProto,
    /// What a user should know.
    pub notes: Vec<String>,
}

impl Exported {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(&self.model)
    }
}

/// Why a model cannot be written as ONNX.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A graph that is not in language-model form.
    #[error(transparent)]
    NotCanonical(#[from] NotCanonical),
    /// A weight whose data cannot be read.
    #[error("@{weight}: {source}")]
    Map {
        /// The weight.
        weight: String,
        /// The reason.
        source: MapError,
    },
    /// An opset that is not written.
    #[error("opset {found}: expected a number from {MIN_OPSET} to {MAX_OPSET}")]
    Opset {
        /// The opset asked for.
        found: i64,
    },
    /// A message beyond what protobuf can hold.
    #[error(
        "the model takes {bytes} bytes as ONNX, more than the {MAX_BYTES} of one file; compress it further"
    )]
    TooLarge {
        /// The size.
        bytes: usize,
    },
}

/// Makes the ONNX message of a model in language-model form.
///
/// ```
/// use lstmc_frontend::ir::arbitrary::language_model;
/// use lstmc_frontend::onnx::{ExportOptions, export};
/// let exported = export(&language_model(8, 2, 50, 1), &ExportOptions::default())?;
/// let ops: Vec<&str> = exported.model.graph.iter().flat_map(|g| &g.node).map(|n| n.op_type.as_str()).collect();
/// assert!(ops.contains(&"LSTM"));
/// # Ok::<(), lstmc_frontend::onnx::ExportError>(())
/// ```
pub fn export(graph: &Graph, options: &ExportOptions) -> Result<Exported, ExportError> {
    if !(MIN_OPSET..=MAX_OPSET).contains(&options.opset) {
        return Err(ExportError::Opset { found: options.opset });
    }
    let model = LanguageModel::of(graph)?;
    let mut exporter = Exporter {
        graph,
        options: *options,
        builder: Builder::new(options.opset),
        values: BTreeMap::new(),
        made: BTreeMap::new(),
        notes: vec![],
    };
    exporter.model(&model)?;
    exporter.note_activations();
    let model = exporter.builder.finish(&graph.name);
    let bytes = prost::Message::encoded_len(&model);
    if bytes > MAX_BYTES {
        return Err(ExportError::TooLarge { bytes });
    }
    Ok(Exported { model, notes: exporter.notes })
}

type Result<T, E = ExportError> = std::result::Result<T, E>;

struct Exporter<'g> {
    graph: &'g Graph,
    options: ExportOptions,
    builder: Builder,
    /// The name of each value that has been made.
    values: BTreeMap<ValueId, String>,
    /// The value that each map has become, by form, so that what is shared is written once.
    made: BTreeMap<(*const LinearMap, Form), String>,
    notes: Vec<String>,
}

impl Exporter<'_> {
    fn model(&mut self, model: &LanguageModel<'_>) -> Result<()> {
        let tokens = self.builder.input("tokens", DataType::Int64, &[Dimension::Steps, Dimension::Streams]);
        self.values.insert(model.tokens(), tokens);
        let layers: Vec<&LstmLayer> = model.lstms().collect();
        let is_stacked = layers.iter().all(|l| l.hidden == layers[0].hidden);
        let h = self.initial_states("h0", &layers, is_stacked);
        let c = self.initial_states("c0", &layers, is_stacked);
        let (mut last_h, mut last_c) = (vec![], vec![]);
        for layer in model.layers() {
            let (result, name) = match layer {
                Layer::Embedding(e) => (e.result, self.embedding(e.table, model.tokens())?),
                Layer::Linear(l) => {
                    let y = self.product(l.weight, l.x)?;
                    (l.result, self.add_bias(y, l.bias)?)
                }
                Layer::Lstm(l) => {
                    let k = last_h.len();
                    let [y, h, c] = self.lstm(l, &h[k], &c[k])?;
                    last_h.push(h);
                    last_c.push(c);
                    (l.result, y)
                }
                Layer::Elementwise { node, result } => {
                    let node = self.graph.node(*node);
                    (*result, self.elementwise(&node.op, node.operands())?)
                }
            };
            self.values.insert(result, name);
        }
        let vocabulary = Dimension::Constant(model.vocabulary());
        let logits = self.values[&model.logits()].clone();
        self.builder.output(
            "logits",
            &logits,
            DataType::Float,
            &[Dimension::Steps, Dimension::Streams, vocabulary],
        );
        self.final_states("hn", &last_h, &layers, is_stacked);
        self.final_states("cn", &last_c, &layers, is_stacked);
        Ok(())
    }

    /// ONNX's own `DynamicQuantizeLinear` rounds to u8 with a zero point, which is another rounding than ours, so vectors stay f32.
    fn note_activations(&mut self) {
        let count = self.graph.weights().filter(|(_, w)| w.map.has_int8_activations()).count();
        if count > 0 {
            self.notes.push(format!(
                "products take f32 vectors here, where lstmc rounds those of {count} weights to int8 (`activations int8`): results differ by that rounding"
            ));
        }
    }

    /// A value `[1, B, H]` for each layer.
    fn initial_states(&mut self, name: &str, layers: &[&LstmLayer], is_stacked: bool) -> Vec<String> {
        let shape = |n: usize, hidden: usize| {
            [Dimension::Constant(n), Dimension::Streams, Dimension::Constant(hidden)]
        };
        if !is_stacked {
            let each = layers.iter().enumerate();
            return each
                .map(|(k, l)| {
                    self.builder.input(&format!("{name}_{k}"), DataType::Float, &shape(1, l.hidden))
                })
                .collect();
        }
        let all = self.builder.input(name, DataType::Float, &shape(layers.len(), layers[0].hidden));
        if layers.len() == 1 {
            return vec![all];
        }
        let sizes = self.builder.int_constant("one_each", &vec![1; layers.len()]);
        let wishes: Vec<String> = (0..layers.len()).map(|k| format!("{name}_{k}")).collect();
        let wishes: Vec<&str> = wishes.iter().map(String::as_str).collect();
        self.builder.node("Split", &[&all, &sizes], &wishes, vec![int("axis", 0)])
    }

    fn final_states(&mut self, name: &str, parts: &[String], layers: &[&LstmLayer], is_stacked: bool) {
        let shape = |n: usize, hidden: usize| {
            [Dimension::Constant(n), Dimension::Streams, Dimension::Constant(hidden)]
        };
        if is_stacked {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let all = match parts[..] {
                [one] => one.to_string(),
                _ => self.builder.node1("Concat", &parts, "states", vec![int("axis", 0)]),
            };
            self.builder.output(name, &all, DataType::Float, &shape(parts.len(), layers[0].hidden));
        } else {
            for (k, (part, layer)) in parts.iter().zip(layers).enumerate() {
                self.builder.output(&format!("{name}_{k}"), part, DataType::Float, &shape(1, layer.hidden));
            }
        }
    }

    /// `Y, Y_h, Y_c`; `Y` without its axis of directions.
    fn lstm(&mut self, layer: &LstmLayer, h: &str, c: &str) -> Result<[String; 3]> {
        let x = self.values[&layer.x].clone();
        let w = self.gates(layer.input, layer.gates)?;
        let r = self.gates(layer.recurrent, layer.gates)?;
        let bias = self.dense(layer.bias)?;
        let bias = in_onnx_order(&bias, layer.gates);
        // ONNX adds two biases; the second is zero.
        let both: Vec<f32> = bias.iter().copied().chain(vec![0.0; bias.len()]).collect();
        let name = self.graph.weight(layer.bias).name.clone();
        let b = self.builder.f32_constant(&name, &[1, both.len()], &both);
        let attributes = vec![int("hidden_size", layer.hidden as i64)];
        let results = self.graph.node(layer.node).results();
        let names: Vec<&str> = results.iter().map(|&v| self.graph.name_of(v)).collect();
        let raw = format!("{}.directions", names[0]);
        let made =
            self.builder.node("LSTM", &[&x, &w, &r, &b, "", h, c], &[&raw, names[1], names[2]], attributes);
        let axis = self.builder.int_constant("axis_1", &[1]);
        let y = self.builder.node1("Squeeze", &[&made[0], &axis], names[0], vec![]);
        let [_, h, c] = <[String; 3]>::try_from(made).expect("three results were asked for");
        Ok([y, h, c])
    }

    /// The weight `[4 hidden, n]` of an LSTM as `[1, 4 hidden, n]`, gates in ONNX's order.
    fn gates(&mut self, id: WeightId, order: GateOrder) -> Result<String> {
        let stacked = self.weight(id, Form::Stacked)?;
        if order == GateOrder::Iofc {
            return Ok(stacked);
        }
        let hidden = self.graph.weight(id).map.shape()[0] / 4;
        let rows: Vec<i64> = onnx_rows(order, hidden).map(|r| r as i64).collect();
        let index = self.builder.int_constant(&format!("gates_{hidden}"), &rows);
        Ok(self.builder.node1("Gather", &[&stacked, &index], "gates", vec![int("axis", 1)]))
    }

    fn embedding(&mut self, table: WeightId, tokens: ValueId) -> Result<String> {
        let tokens = self.values[&tokens].clone();
        let weight = self.graph.weight(table);
        if self.is_shared(table) {
            // A product reads it too, as f32: one copy for both.
            let matrix = self.weight(table, Form::Matrix)?;
            return Ok(self.builder.node1("Gather", &[&matrix, &tokens], "embedded", vec![int("axis", 0)]));
        }
        self.rows(&weight.map, &weight.name, &tokens).map_err(|e| self.at(table, e))
    }

    fn product(&mut self, id: WeightId, x: ValueId) -> Result<String> {
        let x = self.values[&x].clone();
        let weight = self.graph.weight(id);
        if self.is_shared(id) {
            let matrix = self.weight(id, Form::Matrix)?;
            let t = self.builder.node1("Transpose", &[&matrix], "transposed", vec![ints("perm", &[1, 0])]);
            return Ok(self.builder.node1("MatMul", &[&x, &t], "product", vec![]));
        }
        self.apply(&weight.map, &weight.name, &x).map_err(|e| self.at(id, e))
    }

    fn add_bias(&mut self, y: String, bias: Option<WeightId>) -> Result<String> {
        let Some(bias) = bias else { return Ok(y) };
        let bias = self.weight(bias, Form::Matrix)?;
        Ok(self.builder.node1("Add", &[&y, &bias], "biased", vec![]))
    }

    fn elementwise(&mut self, op: &Op, operands: &[Operand]) -> Result<String> {
        let mut inputs = vec![];
        for operand in operands {
            inputs.push(match operand {
                Operand::Value(v) => self.values[v].clone(),
                Operand::Weight(w) => self.weight(*w, Form::Matrix)?,
                Operand::None => String::new(),
            });
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let name = match op {
            Op::Binary(Binary::Add) => "Add",
            Op::Binary(Binary::Sub) => "Sub",
            Op::Binary(Binary::Mul) => "Mul",
            Op::Binary(Binary::Div) => "Div",
            Op::Unary(Unary::Tanh) => "Tanh",
            Op::Unary(Unary::Sigmoid) => "Sigmoid",
            Op::Unary(Unary::Relu) => "Relu",
            other => {
                return Err(NotCanonical {
                    at: "nodes".into(),
                    expected: "operators of language-model form".into(),
                    found: other.name().into(),
                }
                .into());
            }
        };
        Ok(self.builder.node1(name, &inputs, op.name(), vec![]))
    }

    /// Whether more than one node reads a weight.
    fn is_shared(&self, id: WeightId) -> bool {
        let operands = self.graph.nodes().flat_map(|(_, n)| n.operands());
        operands.filter(|&&o| o == Operand::Weight(id)).count() > 1
    }

    /// A weight as f32, of whatever rank.
    fn weight(&mut self, id: WeightId, form: Form) -> Result<String> {
        let weight = self.graph.weight(id);
        self.matrix(&weight.map, &weight.name, form).map_err(|e| self.at(id, e))
    }

    fn dense(&self, id: WeightId) -> Result<Vec<f32>> {
        let read = || Ok(self.graph.weight(id).map.to_dense()?.to_f32()?.to_vec());
        read().map_err(|e| self.at(id, e))
    }

    fn at(&self, id: WeightId, source: MapError) -> ExportError {
        ExportError::Map { weight: self.graph.weight(id).name.clone(), source }
    }

    /// A constant of f32, for what has no representation of its own in ONNX.
    fn constant(&mut self, name: &str, t: &Tensor) -> Result<String, MapError> {
        Ok(self.builder.f32_constant(name, t.shape(), &t.to_f32()?))
    }
}

/// The row of `order` that belongs into each row of ONNX's order.
fn onnx_rows(order: GateOrder, hidden: usize) -> impl Iterator<Item = usize> {
    let gates: [Gate; 4] = GateOrder::Iofc.gates();
    gates.into_iter().flat_map(move |g| {
        let start = order.position(g) * hidden;
        start..start + hidden
    })
}

fn in_onnx_order(bias: &[f32], order: GateOrder) -> Vec<f32> {
    onnx_rows(order, bias.len() / 4).map(|r| bias[r]).collect()
}
