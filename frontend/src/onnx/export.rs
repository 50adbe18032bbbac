//! Writing ONNX: a model in language-model form becomes standard operators that any ONNX runtime runs.
//!
//! ```text
//!   tokens [S, B] ─▶ Gather(embedding) ─▶ LSTM ─▶ Squeeze ─▶ LSTM ─▶ .. ─▶ MatMul(decoder), Add ─▶ logits
//!   h0, c0 [layers, B, H] ─▶ Split ─▶ one state for each LSTM ─▶ Concat ─▶ hn, cn
//! ```
//!
//! Inputs and outputs are those of PyTorch's `nn.LSTM`: `h0`, `c0`, `hn`, `cn` hold the states of all layers, stacked; if layers
//! have different sizes, each has its own input and output (`h0_1`, `hn_1`).
//!
//! A weight keeps its representation as far as ONNX has one:
//!
//! | representation | in a product | as the embedding | in an LSTM |
//! |---|---|---|---|
//! | dense | `MatMul` | `Gather` | `W`, `R` |
//! | quantized | `DequantizeLinear` before `MatMul` | codes and scales are gathered, only those rows become f32 | `DequantizeLinear` before `W`, `R` |
//! | sparse | dense with zeros (zeros among the codes) | the same | the same |
//! | low rank | two `MatMul`s | `Gather` of the left factor, `MatMul` with the right one | `MatMul` of the factors; runtimes fold it at load |
//! | tensor train | the cores' product, folded at load | the same | the same |
//!
//! Codes of at most 4 bits are `INT4` tensors, wider ones `INT8` ([`CodeFormat::exported`](crate::ir::CodeFormat::exported)), and groups the
//! `block_size` of `DequantizeLinear`; `INT4` and groups need opset 21. With an older
//! opset those weights are written as f32 and a note says so. In the rows of a 4-bit embedding, two codes share a byte, since `Gather` takes no
//! `INT4`. [`ExportOptions::dense`] writes everything as f32. The result is the same in each case, except for the order of sums, and for products
//! that take their vectors as int8 ([`Activations`](crate::ir::Activations)): in ONNX they take f32, and a note says so.

mod build;
mod weights;

use super::proto::{AttributeProto, DataType, ModelProto};
use crate::ir::{
    Binary, Cell, Gate, GateOrder, Graph, Lstm, Map, MapError, NotCanonical, Op, PartId, Program, Source,
    Step, StepId, StepKind, WeightId,
};
use crate::tensor::Tensor;
use build::{Builder, Dimension, float, floats, int, ints, strings};
use std::collections::BTreeMap;
use weights::Form;

/// Options for writing a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExportOptions {
    /// Write every weight as f32, regardless of its representation.
    pub dense: bool,
    /// The version of the standard operators, from [`MIN_OPSET`] to [`MAX_OPSET`].
    pub opset: i64,
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        ExportOptions { dense: false, opset: BLOCKS_OPSET }
    }
}

/// The oldest opset that can be written: the first in which `Squeeze`, `Unsqueeze` and `Split` take their axes and sizes as inputs, and in which
/// `DequantizeLinear` has a scale for each row.
pub const MIN_OPSET: i64 = 13;

/// The newest opset that can be written.
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
    /// Notes for the user.
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
    /// An opset that cannot be written.
    #[error("opset {found}: expected a number from {MIN_OPSET} to {MAX_OPSET}")]
    Opset {
        /// The requested opset.
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

/// Builds the ONNX message of a model in language-model form.
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
    let program = Program::of(graph)?;
    let mut exporter = Exporter {
        graph,
        program: &program,
        options: *options,
        builder: Builder::new(options.opset),
        values: vec![],
        made: BTreeMap::new(),
        notes: vec![],
    };
    exporter.model()?;
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
    program: &'g Program<'g>,
    options: ExportOptions,
    builder: Builder,
    /// The name of each step's result.
    values: Vec<String>,
    /// The value for each map, by form, so that shared maps are written once.
    made: BTreeMap<(PartId, Form), String>,
    notes: Vec<String>,
}

impl Exporter<'_> {
    fn model(&mut self) -> Result<()> {
        let program = self.program;
        let tokens = self.builder.input("tokens", DataType::Int64, &[Dimension::Steps, Dimension::Streams]);
        let widths: Vec<usize> = program.cells().map(|(step, _)| step.width).collect();
        if !widths.is_empty() && !are_equal(&widths) {
            let names = |k| ["hn", "cn"].map(|name| format!("{name}_{k}"));
            (0..widths.len()).flat_map(names).for_each(|name| self.builder.reserve(name));
        }
        let h = self.initial_states("h0", &widths);
        let c = self.initial_states("c0", &widths);
        let (mut last_h, mut last_c) = (vec![], vec![]);
        for (_, step) in program.steps() {
            let name = match &step.kind {
                StepKind::Embed(e) => self.embedding(e.table, &tokens)?,
                StepKind::Apply(apply) => {
                    let y = self.product(apply.weight, apply.x)?;
                    self.add_bias(y, apply.bias)?
                }
                StepKind::Cell(cell) => {
                    let k = last_h.len();
                    let [y, h, c] = self.cell(step, cell, &h[k], &c[k])?;
                    last_h.push(h);
                    last_c.push(c);
                    y
                }
                StepKind::Map(map) => self.elementwise(&self.graph.node(step.node).op, map)?,
            };
            self.values.push(name);
        }
        let vocabulary = Dimension::Constant(program.vocabulary());
        let logits = self.values[program.logits().index()].clone();
        self.builder.output(
            "logits",
            &logits,
            DataType::Float,
            &[Dimension::Steps, Dimension::Streams, vocabulary],
        );
        self.final_states("hn", &last_h, &widths);
        self.final_states("cn", &last_c, &widths);
        Ok(())
    }

    /// ONNX's own `DynamicQuantizeLinear` rounds to u8 with a zero point, which differs from our rounding, so vectors stay f32.
    fn note_activations(&mut self) {
        let count = self.graph.weights().filter(|(_, w)| w.map.has_int8_activations()).count();
        if count > 0 {
            self.notes.push(format!(
                "products take f32 vectors here, where lstmc rounds those of {count} weights to int8 (`activations int8`): results differ by that rounding"
            ));
        }
    }

    /// A value `[1, B, H]` for each cell.
    fn initial_states(&mut self, name: &str, widths: &[usize]) -> Vec<String> {
        let Some(&first) = widths.first() else { return vec![] };
        if !are_equal(widths) {
            let each = widths.iter().enumerate();
            let input = |(k, &n)| self.builder.input(&format!("{name}_{k}"), DataType::Float, &state(1, n));
            return each.map(input).collect();
        }
        let all = self.builder.input(name, DataType::Float, &state(widths.len(), first));
        if widths.len() == 1 {
            return vec![all];
        }
        let sizes = self.builder.int_constant("one_each", &vec![1; widths.len()]);
        let wishes: Vec<String> = (0..widths.len()).map(|k| format!("{name}_{k}")).collect();
        let wishes: Vec<&str> = wishes.iter().map(String::as_str).collect();
        self.builder.node("Split", &[&all, &sizes], &wishes, vec![int("axis", 0)])
    }

    fn final_states(&mut self, name: &str, parts: &[String], widths: &[usize]) {
        if parts.is_empty() {
            return;
        }
        if are_equal(widths) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let all = match parts[..] {
                [one] => one.to_string(),
                _ => self.builder.node1("Concat", &parts, "states", vec![int("axis", 0)]),
            };
            self.builder.output(name, &all, DataType::Float, &state(parts.len(), widths[0]));
        } else {
            for (k, (part, &n)) in parts.iter().zip(widths).enumerate() {
                self.builder.output(&format!("{name}_{k}"), part, DataType::Float, &state(1, n));
            }
        }
    }

    /// `Y, Y_h, Y_c`; `Y` without its axis of directions.
    fn cell(&mut self, step: &Step, cell: &Cell, h: &str, c: &str) -> Result<[String; 3]> {
        let node = self.graph.node(step.node);
        let Op::Lstm(lstm) = &node.op else { return Err(no_operator(&node.op)) };
        let x = self.values[cell.x.index()].clone();
        let rows = onnx_rows(lstm, step.width);
        let w = self.gates(cell.input, &rows)?;
        let r = self.gates(cell.recurrent, &rows)?;
        let bias = self.dense(cell.bias)?;
        // ONNX adds two biases; the second is zero.
        let both: Vec<f32> = rows.iter().map(|&r| bias[r]).chain(vec![0.0; rows.len()]).collect();
        let name = self.graph.weight(cell.bias).name.clone();
        let b = self.builder.f32_constant(&name, &[1, both.len()], &both);
        let mut inputs = vec![x, w, r, b, String::new(), h.to_string(), c.to_string()];
        if let Some(peepholes) = cell.parameters {
            let mut values = self.dense(peepholes)?;
            values.resize(3 * step.width, 0.0);
            let name = self.graph.weight(peepholes).name.clone();
            inputs.push(self.builder.f32_constant(&name, &[1, values.len()], &values));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let names: Vec<&str> = node.results().iter().map(|&v| self.graph.name_of(v)).collect();
        let raw = format!("{}.directions", names[0]);
        let attributes = lstm_attributes(lstm, step.width);
        let made = self.builder.node("LSTM", &inputs, &[&raw, names[1], names[2]], attributes);
        let axis = self.builder.int_constant("axis_1", &[1]);
        let y = self.builder.node1("Squeeze", &[&made[0], &axis], names[0], vec![]);
        let [_, h, c] = <[String; 3]>::try_from(made).expect("three results were asked for");
        Ok([y, h, c])
    }

    /// The weight of an LSTM as `[1, 4 hidden, n]`, with the rows that ONNX requires.
    fn gates(&mut self, id: WeightId, rows: &[usize]) -> Result<String> {
        let stacked = self.weight(id, Form::Stacked)?;
        if rows.iter().copied().eq(0..rows.len()) {
            return Ok(stacked);
        }
        let index: Vec<i64> = rows.iter().map(|&r| r as i64).collect();
        let index = self.builder.int_constant(&format!("gates_{}", rows.len() / 4), &index);
        Ok(self.builder.node1("Gather", &[&stacked, &index], "gates", vec![int("axis", 1)]))
    }

    fn embedding(&mut self, table: WeightId, tokens: &str) -> Result<String> {
        let weight = self.graph.weight(table);
        if self.program.uses(table) > 1 {
            // A product reads it too, as f32: one copy for both.
            let matrix = self.weight(table, Form::Matrix)?;
            return Ok(self.builder.node1("Gather", &[&matrix, tokens], "embedded", vec![int("axis", 0)]));
        }
        self.rows(&weight.map, &weight.name, tokens).map_err(|e| self.at(table, e))
    }

    fn product(&mut self, id: WeightId, x: StepId) -> Result<String> {
        let x = self.values[x.index()].clone();
        let weight = self.graph.weight(id);
        if self.program.uses(id) > 1 {
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

    fn elementwise(&mut self, op: &Op, map: &Map) -> Result<String> {
        let mut inputs = vec![];
        for operand in &map.operands {
            inputs.push(match operand {
                Source::Step(s) => self.values[s.index()].clone(),
                Source::Constant(w) => self.weight(*w, Form::Matrix)?,
            });
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let (name, attributes) = match *op {
            Op::Binary(Binary::Add) => ("Add", vec![]),
            Op::Binary(Binary::Sub) => ("Sub", vec![]),
            Op::Binary(Binary::Mul) => ("Mul", vec![]),
            Op::Binary(Binary::Div) => ("Div", vec![]),
            Op::Binary(Binary::Max) => ("Max", vec![]),
            Op::Binary(Binary::Min) => ("Min", vec![]),
            Op::Unary(mut f) if f.is_operator() => {
                let attributes = f.parameters().into_iter().map(|(name, x)| float(name, *x)).collect();
                (f.onnx_name(), attributes)
            }
            _ => return Err(no_operator(op)),
        };
        Ok(self.builder.node1(name, &inputs, op.name(), attributes))
    }

    /// A weight as f32, of any rank.
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

    /// An f32 constant, for weights without their own representation in ONNX.
    fn constant(&mut self, name: &str, t: &Tensor) -> Result<String, MapError> {
        Ok(self.builder.f32_constant(name, t.shape(), &t.to_f32()?))
    }
}

fn no_operator(op: &Op) -> ExportError {
    NotCanonical {
        at: "nodes".into(),
        expected: "operators of language-model form that ONNX has".into(),
        found: op.name().into(),
    }
    .into()
}

fn are_equal(widths: &[usize]) -> bool {
    widths.iter().all(|n| *n == widths[0])
}

/// The type of the states of `n` cells, stacked.
fn state(n: usize, hidden: usize) -> [Dimension; 3] {
    [Dimension::Constant(n), Dimension::Streams, Dimension::Constant(hidden)]
}

/// For each row of ONNX's `[i, o, f, c]`, the row of a map. The forget gate of coupled gates, which is unused, has the input gate's.
fn onnx_rows(lstm: &Lstm, hidden: usize) -> Vec<usize> {
    let block = |gate: Gate| lstm.rows().position(|g| g == gate).unwrap_or(0);
    let start =
        |gate: Gate| if lstm.rows().any(|g| g == gate) { block(gate) } else { block(Gate::Input) } * hidden;
    GateOrder::Iofc.gates().into_iter().flat_map(|g| start(g)..start(g) + hidden).collect()
}

fn lstm_attributes(lstm: &Lstm, hidden: usize) -> Vec<AttributeProto> {
    let mut all = vec![int("hidden_size", hidden as i64)];
    if lstm.coupled {
        all.push(int("input_forget", 1));
    }
    all.extend(lstm.clip.map(|clip| float("clip", clip)));
    if lstm.activations != Lstm::ACTIVATIONS {
        all.push(strings("activations", &lstm.activations.map(|f| f.onnx_name())));
        let mut functions = lstm.activations;
        let parameters: Vec<_> = functions.iter_mut().flat_map(|f| f.parameters()).collect();
        for (attribute, name) in [("activation_alpha", "alpha"), ("activation_beta", "beta")] {
            let values: Vec<f32> = parameters.iter().filter(|(n, _)| *n == name).map(|(_, x)| **x).collect();
            if !values.is_empty() {
                all.push(floats(attribute, &values));
            }
        }
    }
    all
}
