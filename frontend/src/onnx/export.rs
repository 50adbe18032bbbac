//! Writing ONNX: a model in language-model form becomes standard operators that any ONNX runtime runs.
//!
//! ```text
//!   tokens [S, B] ─▶ Gather(embedding) ─▶ LSTM ─▶ Squeeze ─▶ LSTM ─▶ .. ─▶ MatMul(decoder), Add ─▶ logits
//!   h0, c0 [layers, B, H] ─▶ Split ─▶ one state for each LSTM ─▶ Concat ─▶ hn, cn
//! ```
//!
//! Inputs and outputs are those of PyTorch's `nn.LSTM`: `h0`, `c0`, `hn`, `cn` hold the states of all cells, stacked; if cells
//! have different sizes, each has its own input and output (`h0_1`, `hn_1`). GRUs and RNNs have no `c0` and `cn`.
//!
//! ONNX has no loop that runtimes run well over general steps, so a model with stepwise states is written as a model of one time step: the tokens
//! are `[1, B]`, and each such state is an input `[1, B, features]` of its name, with the output `NAME.next`. A note says so. Another note names
//! states with learned starts, which the first run's inputs must be.
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
//!
//! Metadata describe the model, so that a file that nobody changed is read back as it was: see `embedded`.

mod build;
mod embedded;
mod weights;

pub(super) use embedded::restore;

use super::proto::{AttributeProto, DataType, ModelProto};
use crate::ir::{
    Binary, Function, Gate, GateOrder, Graph, Lstm, MapError, Node, NotCanonical, Op, Operand, Part, PartId,
    Program, Reset, ValueId, WeightId,
};
use crate::tensor::Tensor;
use build::{Builder, Dimension, float, floats, int, ints, strings};
use embedded::{Layout, Leaf};
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

/// The first opset with `LayerNormalization`.
const LAYER_NORM_OPSET: i64 = 17;

/// The first opset in which `ReduceMean` takes its axes as an input.
const AXES_OPSET: i64 = 18;

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
    let (mut exported, leaves) = written(graph, options)?;
    if !options.dense {
        embedded::embed(graph, &leaves, &mut exported.model);
    }
    let bytes = prost::Message::encoded_len(&exported.model);
    if bytes > MAX_BYTES {
        return Err(ExportError::TooLarge { bytes });
    }
    Ok(exported)
}

/// The tensors of weights that are in the file as they are, up to the order of their elements.
type Leaves = BTreeMap<(PartId, &'static str), Leaf>;

/// The message without metadata.
fn written(graph: &Graph, options: &ExportOptions) -> Result<(Exported, Leaves)> {
    if !(MIN_OPSET..=MAX_OPSET).contains(&options.opset) {
        return Err(ExportError::Opset { found: options.opset });
    }
    let program = Program::of(graph)?;
    let mut exporter = Exporter {
        graph,
        program: &program,
        options: *options,
        builder: Builder::new(options.opset),
        values: BTreeMap::new(),
        made: BTreeMap::new(),
        filled: BTreeMap::new(),
        stands_for: BTreeMap::new(),
        leaves: BTreeMap::new(),
        notes: vec![],
    };
    exporter.model()?;
    exporter.note_activations();
    let model = exporter.builder.finish(&graph.name);
    Ok((Exported { model, notes: exporter.notes }, exporter.leaves))
}

type Result<T, E = ExportError> = std::result::Result<T, E>;

struct Exporter<'g> {
    graph: &'g Graph,
    program: &'g Program<'g>,
    options: ExportOptions,
    builder: Builder,
    /// The name of each value.
    values: BTreeMap<ValueId, String>,
    /// The value for each map, by form, so that shared maps are written once.
    made: BTreeMap<(PartId, Form), String>,
    /// The values that are written for a map with a mask, where those have other codes for zero.
    filled: BTreeMap<PartId, Part>,
    /// The part whose tensors are written in another order or with other zeros.
    stands_for: BTreeMap<PartId, PartId>,
    leaves: Leaves,
    notes: Vec<String>,
}

impl Exporter<'_> {
    fn model(&mut self) -> Result<()> {
        let (program, graph) = (self.program, self.graph);
        let stepwise: Vec<_> = graph
            .sources(&Op::State)
            .into_iter()
            .filter(|&v| graph.type_of(v).shape.len() == 3)
            .map(|v| (v, program.states().iter().find(|s| s.value == v).map_or(0, |s| s.width)))
            .collect();
        let steps = if stepwise.is_empty() { Dimension::Steps } else { Dimension::Constant(1) };
        let tokens = self.builder.input("tokens", DataType::Int64, &[steps, Dimension::Streams]);
        self.values.insert(program.tokens(), tokens);
        self.builder.reserve(program.head().name().into());
        let cells: Vec<&Node> = graph.nodes().map(|(_, n)| n).filter(|n| cell_states(&n.op) > 0).collect();
        let widths = |state: usize| -> Vec<usize> {
            let with = cells.iter().filter(|n| cell_states(&n.op) > state);
            with.map(|n| self.width(n.results()[0])).collect()
        };
        let [of_h, of_c] = [widths(0), widths(1)];
        if !are_equal(&of_h) || !are_equal(&of_c) {
            let names = |k| ["hn", "cn"].map(|name| format!("{name}_{k}"));
            (0..of_h.len()).flat_map(names).for_each(|name| self.builder.reserve(name));
        }
        let first = [self.initial_states("h0", &of_h), self.initial_states("c0", &of_c)];
        for &(value, width) in &stepwise {
            let name = graph.name_of(value);
            self.builder.reserve(format!("{name}.next"));
            let name = self.builder.input(name, DataType::Float, &state(1, width));
            self.values.insert(value, name);
        }
        let mut last = [vec![], vec![]];
        for (_, node) in graph.nodes() {
            let count = cell_states(&node.op);
            let states: Vec<String> = (0..count).map(|k| first[k][last[k].len()].clone()).collect();
            let value = match &node.op {
                Op::Input | Op::State => continue,
                _ if count > 0 => {
                    let (y, next) = self.cell(node, &states)?;
                    next.into_iter().zip(&mut last).for_each(|(name, all)| all.push(name));
                    y
                }
                _ => self.node(node)?,
            };
            self.values.insert(node.results()[0], value);
        }
        let head = program.head().name();
        let output = graph.output_named(head).map_or(String::new(), |v| self.values[&v].clone());
        let width = Dimension::Constant(program.step(program.output()).width);
        self.builder.output(head, &output, DataType::Float, &[steps, Dimension::Streams, width]);
        let [h, c] = last;
        self.final_states("hn", &h, &of_h);
        self.final_states("cn", &c, &of_c);
        for &(value, width) in &stepwise {
            let next = graph.next_state(value).map_or(String::new(), |v| self.values[&v].clone());
            let name = format!("{}.next", graph.name_of(value));
            self.builder.output(&name, &next, DataType::Float, &state(1, width));
        }
        if !stepwise.is_empty() {
            self.notes
                .push("the model is one time step, because ONNX has no operator for its recurrence".into());
        }
        let starts = graph.sources(&Op::State).into_iter().filter_map(|v| Some((v, graph.initial_state(v)?)));
        let starts: Vec<String> =
            starts.map(|(v, w)| format!("%{} at @{}", graph.name_of(v), graph.weight(w).name)).collect();
        if !starts.is_empty() {
            let starts = starts.join(", ");
            self.notes
                .push(format!("the states are inputs, so the learned starts are not in the file: {starts}"));
        }
        Ok(())
    }

    /// The width of a sequence.
    fn width(&self, value: ValueId) -> usize {
        self.graph.type_of(value).shape.last().and_then(|d| d.as_constant()).unwrap_or(0)
    }

    /// A value that a node reads.
    fn read(&self, node: &Node, k: usize) -> String {
        match node.operands().get(k) {
            Some(Operand::Value(v)) => self.values.get(v).cloned().unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// The result of a node that is not a cell.
    fn node(&mut self, node: &Node) -> Result<String> {
        let weight = |k: usize| match node.operands().get(k) {
            Some(Operand::Weight(w)) => Some(*w),
            _ => None,
        };
        let x = self.read(node, 0);
        match &node.op {
            Op::Embedding => match weight(1) {
                Some(table) => self.embedding(table, &x),
                None => Err(no_operator(&node.op)),
            },
            Op::Linear => {
                let mut sum: Option<String> = None;
                let pairs = node.operands().len() / 2;
                for (k, w) in (0..pairs).filter_map(|k| Some((2 * k, weight(2 * k + 1)?))) {
                    let product = self.product(w, &self.read(node, k))?;
                    sum = Some(match sum {
                        Some(sum) => self.builder.node1("Add", &[&sum, &product], "sum", vec![]),
                        None => product,
                    });
                }
                self.add_bias(sum.unwrap_or_default(), weight(2 * pairs))
            }
            Op::Features { from, to } => {
                let [from, to, axis] = [("from", *from), ("to", *to), ("axis", 2)]
                    .map(|(name, n)| self.builder.int_constant(&format!("{name}_{n}"), &[n as i64]));
                Ok(self.builder.node1("Slice", &[&x, &from, &to, &axis], "features", vec![]))
            }
            Op::LayerNorm { epsilon } => self.layer_norm(&x, [weight(1), weight(2)], *epsilon),
            Op::LogSoftmaxFeatures => {
                Ok(self.builder.node1("LogSoftmax", &[&x], "log_softmax", vec![int("axis", -1)]))
            }
            Op::ConcatFeatures => {
                let parts: Vec<String> = (0..node.operands().len()).map(|k| self.read(node, k)).collect();
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                Ok(self.builder.node1("Concat", &parts, "concat", vec![int("axis", 2)]))
            }
            _ => self.elementwise(node),
        }
    }

    fn layer_norm(&mut self, x: &str, vectors: [Option<WeightId>; 2], epsilon: f32) -> Result<String> {
        let mut inputs = vec![x.to_string()];
        for (vector, neutral) in vectors.into_iter().zip([1.0, 0.0]) {
            inputs.push(match vector {
                Some(w) => self.weight(w, Form::Matrix)?,
                None => self.builder.f32_constant("neutral", &[1], &[neutral]),
            });
        }
        let [x, scale, shift] = [&inputs[0], &inputs[1], &inputs[2]];
        if self.options.opset >= LAYER_NORM_OPSET && vectors[0].is_some() {
            let mut inputs = vec![x.as_str(), scale];
            inputs.extend(vectors[1].map(|_| shift.as_str()));
            let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
            return Ok(self.builder.node1("LayerNormalization", &inputs, "normalised", attributes));
        }
        let epsilon = self.builder.f32_constant("epsilon", &[1], &[epsilon]);
        let mean = self.mean(x);
        let centered = self.builder.node1("Sub", &[x, &mean], "centered", vec![]);
        let squares = self.builder.node1("Mul", &[&centered, &centered], "squares", vec![]);
        let variance = self.mean(&squares);
        let variance = self.builder.node1("Add", &[&variance, &epsilon], "variance", vec![]);
        let deviation = self.builder.node1("Sqrt", &[&variance], "deviation", vec![]);
        let normal = self.builder.node1("Div", &[&centered, &deviation], "normalised", vec![]);
        let scaled = self.builder.node1("Mul", &[&normal, scale], "scaled", vec![]);
        Ok(self.builder.node1("Add", &[&scaled, shift], "shifted", vec![]))
    }

    /// The mean over the features.
    fn mean(&mut self, x: &str) -> String {
        if self.options.opset >= AXES_OPSET {
            let axis = self.builder.int_constant("last_axis", &[-1]);
            return self.builder.node1("ReduceMean", &[x, &axis], "mean", vec![int("keepdims", 1)]);
        }
        self.builder.node1("ReduceMean", &[x], "mean", vec![ints("axes", &[-1]), int("keepdims", 1)])
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

    /// `Y` without its axis of directions, and the next states.
    fn cell(&mut self, node: &Node, states: &[String]) -> Result<(String, Vec<String>)> {
        let (n, first) = (self.width(node.results()[0]), 1 + states.len());
        let mut weights = vec![];
        for operand in &node.operands()[first..] {
            weights.extend(if let Operand::Weight(w) = operand { Some(*w) } else { None });
        }
        let (op, rows, attributes) = match &node.op {
            Op::Lstm(lstm) => ("LSTM", onnx_rows(lstm, n), lstm_attributes(lstm)),
            Op::Gru(gru) => {
                let mut all = activations(&gru.activations, &crate::ir::Gru::ACTIVATIONS);
                if gru.reset == Reset::After {
                    all.insert(0, int("linear_before_reset", 1));
                }
                all.extend(gru.clip.map(|clip| float("clip", clip)));
                ("GRU", (0..3 * n).collect(), all)
            }
            Op::Rnn(rnn) => {
                let mut all = activations(&[rnn.activation], &[Function::Tanh]);
                all.extend(rnn.clip.map(|clip| float("clip", clip)));
                ("RNN", (0..n).collect(), all)
            }
            other => return Err(no_operator(other)),
        };
        let [input, recurrent, bias] = [0, 1, 2].map(|k| weights.get(k).copied());
        let (Some(input), Some(recurrent), Some(bias)) = (input, recurrent, bias) else {
            return Err(no_operator(&node.op));
        };
        let x = self.read(node, 0);
        let w = self.gates(input, &rows)?;
        let r = self.gates(recurrent, &rows)?;
        let data = self.dense(bias)?;
        // ONNX adds two biases; the second is zero, except for that of a GRU whose reset gate is applied to it.
        let mut both: Vec<f32> = rows.iter().map(|&r| data[r]).collect();
        both.resize(2 * rows.len(), 0.0);
        if let Some(own) =
            data.get(rows.len()..).filter(|own| own.len() == n && matches!(node.op, Op::Gru(_)))
        {
            both[5 * n..].copy_from_slice(own);
        }
        let name = self.graph.weight(bias).name.clone();
        let b = self.builder.f32_constant(&name, &[1, both.len()], &both);
        // The second bias is at the end of those of ONNX.
        let place = |block: usize| rows.chunks(n.max(1)).position(|r| r[0] == block * n).unwrap_or(5);
        self.blocks(bias, (0..data.len() / n.max(1)).map(place).collect());
        let mut inputs = vec![x, w, r, b, String::new()];
        inputs.extend_from_slice(states);
        if let Some(&peepholes) = weights.get(3) {
            let mut values = self.dense(peepholes)?;
            let count = values.len() / n.max(1);
            values.resize(3 * n, 0.0);
            let name = self.graph.weight(peepholes).name.clone();
            inputs.push(self.builder.f32_constant(&name, &[1, values.len()], &values));
            self.blocks(peepholes, (0..count).collect());
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let names: Vec<&str> = node.results().iter().map(|&v| self.graph.name_of(v)).collect();
        let raw = format!("{}.directions", names[0]);
        let mut wishes = vec![raw.as_str()];
        wishes.extend(&names[1..]);
        let mut all = vec![int("hidden_size", n as i64)];
        all.extend(attributes);
        let mut made = self.builder.node(op, &inputs, &wishes, all);
        let axis = self.builder.int_constant("axis_1", &[1]);
        let y = self.builder.node1("Squeeze", &[&made[0], &axis], names[0], vec![]);
        Ok((y, made.split_off(1)))
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

    fn product(&mut self, id: WeightId, x: &str) -> Result<String> {
        let weight = self.graph.weight(id);
        if self.program.uses(id) > 1 {
            let matrix = self.weight(id, Form::Matrix)?;
            let t = self.builder.node1("Transpose", &[&matrix], "transposed", vec![ints("perm", &[1, 0])]);
            return Ok(self.builder.node1("MatMul", &[x, &t], "product", vec![]));
        }
        self.apply(&weight.map, &weight.name, x).map_err(|e| self.at(id, e))
    }

    fn add_bias(&mut self, y: String, bias: Option<WeightId>) -> Result<String> {
        let Some(bias) = bias else { return Ok(y) };
        let bias = self.weight(bias, Form::Matrix)?;
        Ok(self.builder.node1("Add", &[&y, &bias], "biased", vec![]))
    }

    fn elementwise(&mut self, node: &Node) -> Result<String> {
        let (op, mut inputs) = (&node.op, vec![]);
        for (k, operand) in node.operands().iter().enumerate() {
            inputs.push(match operand {
                Operand::Weight(w) => self.weight(*w, Form::Matrix)?,
                _ => self.read(node, k),
            });
        }
        let mut inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let less = match op {
            Op::Select => self.builder.node1("Less", &inputs[..2], "less", vec![]),
            _ => String::new(),
        };
        let (name, attributes) = match *op {
            Op::Select => {
                inputs.splice(..2, [less.as_str()]);
                ("Where", vec![])
            }
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

    /// Records that the constant made last holds a tensor of a part.
    fn leaf(&mut self, part: PartId, tensor: &'static str, layout: Layout) {
        let part = self.stands_for.get(&part).copied().unwrap_or(part);
        self.leaves.insert((part, tensor), Leaf { index: self.builder.last_constant(), layout });
    }

    /// The same of a vector, by its blocks' places in the constant.
    fn blocks(&mut self, weight: WeightId, places: Vec<usize>) {
        self.leaf(self.graph.weight(weight).map.id(), "data", Layout::Blocks(places));
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
    widths.iter().all(|n| Some(n) == widths.first())
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

/// The number of states of a cell; zero for other operators.
fn cell_states(op: &Op) -> usize {
    match op {
        Op::Lstm(_) => 2,
        Op::Gru(_) | Op::Rnn(_) => 1,
        _ => 0,
    }
}

fn lstm_attributes(lstm: &Lstm) -> Vec<AttributeProto> {
    let mut all = vec![];
    if lstm.coupled {
        all.push(int("input_forget", 1));
    }
    all.extend(lstm.clip.map(|clip| float("clip", clip)));
    all.extend(activations(&lstm.activations, &Lstm::ACTIVATIONS));
    all
}

/// The functions of a cell, unless they are the usual ones.
fn activations(functions: &[Function], usual: &[Function]) -> Vec<AttributeProto> {
    let mut functions = functions.to_vec();
    if functions == usual {
        return vec![];
    }
    let names: Vec<&str> = functions.iter().map(|f| f.onnx_name()).collect();
    let mut all = vec![strings("activations", &names)];
    let parameters: Vec<_> = functions.iter_mut().flat_map(|f| f.parameters()).collect();
    for (attribute, name) in [("activation_alpha", "alpha"), ("activation_beta", "beta")] {
        let values: Vec<f32> = parameters.iter().filter(|(n, _)| *n == name).map(|(_, x)| **x).collect();
        if !values.is_empty() {
            all.push(floats(attribute, &values));
        }
    }
    all
}
