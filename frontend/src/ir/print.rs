//! The printer of the text form. [`parse`](super::parse()) reads it back; printing the parsed graph gives the same text.
//!
//! ```text
//! model "ptb-small" (vocabulary 10000) {
//!   %tokens: i64[S, B] = input
//!   %h0: f32[B, 200] = state
//!   %c0: f32[B, 200] = state
//!   %x0: f32[S, B, 200] = embedding %tokens, @embedding
//!   %x1: f32[S, B, 200], %h0.next: f32[B, 200], %c0.next: f32[B, 200] = lstm %x0, %h0, %c0, @lstm0.input, ...
//!   %logits: f32[S, B, 10000] = linear %x1, @decoder, @decoder.bias from "/decoder/Gemm"
//!   return logits %logits, state %h0 = %h0.next, state %c0 = %c0.next
//! }
//! @embedding: low_rank [10000, 200] rank 64 { left: int4 group 32 [10000, 64] { codes: #9f2c41d0, scales: #77aa01c3 }, right: ... }
//! @decoder.bias: f32[10000] #c0ffee12
//! ```
//!
//! A tensor prints as its content hash; integer constants that shape arithmetic tracks print their elements. A
//! part that occurs again prints as a reference to where it was printed: `left: @lstm0.input/left`.

use super::graph::{Graph, Node, NodeId, Operand, OutputRole, ValueId, WeightId};
use super::infer::MAX_CONTENT;
use super::map::{Activations, LinearMap, PartId};
use super::parse::{attributes, is_plain};
use crate::tensor::{DType, Data, Tensor};
use half::{bf16, f16};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrintOptions {
    /// Tensors of at most this many elements print their elements instead of a hash, so that the text is self-contained.
    pub inline_up_to: usize,
}

/// The text form of a graph, weights as hashes.
pub fn print(graph: &Graph) -> String {
    print_with(graph, &PrintOptions::default())
}

/// The text form of a graph.
pub fn print_with(graph: &Graph, options: &PrintOptions) -> String {
    let mut out = String::new();
    for (_, line) in lines(graph, options, |_| true) {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// The subject of a line of the text form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Line {
    /// `model ... {`
    Model,
    /// A node.
    Node(NodeId),
    /// `return ...`
    Return,
    /// `}`
    End,
    /// A weight.
    Weight(WeightId),
}

/// The lines of the text form for which `wanted` is true.
pub(super) fn lines(
    graph: &Graph,
    options: &PrintOptions,
    wanted: impl Fn(Line) -> bool,
) -> Vec<(Line, String)> {
    let mut printer = Printer {
        graph,
        options,
        values: graph.values().map(|(id, v)| (id, v.name.as_str())).collect(),
        weights: graph.weights().map(|(id, w)| (id, w.name.as_str())).collect(),
        printed: HashMap::new(),
    };
    let mut all = vec![(Line::Model, printer.model())];
    all.extend(graph.nodes().map(|(id, node)| (Line::Node(id), printer.node(node))));
    all.extend([(Line::Return, printer.outputs()), (Line::End, "}".to_string())]);
    all.retain(|(line, _)| wanted(*line));
    for (id, weight) in graph.weights() {
        if wanted(Line::Weight(id)) {
            let mut text = format!("@{}: ", name(&weight.name));
            printer.map(&mut text, &name(&weight.name), &weight.map);
            all.push((Line::Weight(id), text));
        }
    }
    all
}

/// A name as the text form spells it: quoted if it is not plain.
pub(crate) fn name(name: &str) -> String {
    if !name.is_empty() && name.chars().all(is_plain) { name.to_string() } else { quoted(name) }
}

/// A string in quotes, with the escapes that the parser reads.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Control characters, and those that reorder or hide text in a terminal or a review.
            c if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') =>
            {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The shortest text that reads back as `x`; every NaN prints as `nan`.
pub(super) fn float32(x: f32) -> String {
    trim_float(format!("{x:?}"))
}

/// The shortest text that reads back as `x`; every NaN prints as `nan`.
pub(super) fn float64(x: f64) -> String {
    trim_float(format!("{x:?}"))
}

fn trim_float(text: String) -> String {
    match text.as_str() {
        "NaN" => "nan".into(),
        t => t.strip_suffix(".0").unwrap_or(t).into(),
    }
}

/// `[800, 200]`.
fn shape(dims: &[usize]) -> String {
    format!("{dims:?}")
}

fn product(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// The share `kept / total` with the fewest decimals that reproduce `kept`.
pub(super) fn density(kept: usize, total: usize) -> String {
    let share = kept as f64 / total.max(1) as f64;
    let texts = (0..17).map(|digits| format!("{share:.digits$}"));
    texts
        .into_iter()
        .find(|t| kept_of(t.parse().unwrap_or(0.0), total) == kept)
        .unwrap_or_else(|| float64(share))
}

/// The number of elements that a density means.
pub(super) fn kept_of(density: f64, total: usize) -> usize {
    (density * total as f64).round() as usize
}

struct Printer<'g> {
    graph: &'g Graph,
    options: &'g PrintOptions,
    values: BTreeMap<ValueId, &'g str>,
    weights: BTreeMap<WeightId, &'g str>,
    /// Where each shared child was printed first.
    printed: HashMap<PartId, String>,
}

impl Printer<'_> {
    fn model(&self) -> String {
        let vocabulary = self.graph.vocabulary.map(|n| format!(" (vocabulary {n})")).unwrap_or_default();
        format!("model {}{vocabulary} {{", quoted(&self.graph.name))
    }

    // Dangling ids are reported by the verifier; they print as names that do not parse.
    fn value(&self, id: ValueId) -> String {
        self.values.get(&id).map_or_else(|| format!("%?{}", id.0), |n| format!("%{}", name(n)))
    }

    fn operand(&self, operand: Operand) -> String {
        match operand {
            Operand::Value(id) => self.value(id),
            Operand::Weight(id) => {
                self.weights.get(&id).map_or_else(|| format!("@?{}", id.0), |n| format!("@{}", name(n)))
            }
            Operand::None => "none".into(),
        }
    }

    fn node(&self, node: &Node) -> String {
        let result = |&id: &ValueId| match self.values.contains_key(&id) {
            true => format!("{}: {}", self.value(id), self.graph.type_of(id)),
            false => self.value(id),
        };
        let results: Vec<String> = node.results().iter().map(result).collect();
        let operands: Vec<String> = node.operands().iter().map(|&o| self.operand(o)).collect();
        let mut line = format!("  {} = {}", results.join(", "), node.op.name());
        if !operands.is_empty() {
            let _ = write!(line, " {}", operands.join(", "));
        }
        line.push_str(&attributes::write(&node.op));
        if !node.origin.is_empty() {
            let _ = write!(line, " from {}", quoted(&node.origin));
        }
        line
    }

    fn outputs(&self) -> String {
        let mut line = String::from("  return");
        for (i, output) in self.graph.outputs().iter().enumerate() {
            line.push_str(if i == 0 { " " } else { ", " });
            let value = self.value(output.value);
            let _ = match &output.role {
                OutputRole::State(state) => write!(line, "state {} = {value}", self.value(*state)),
                // An unquoted `state` would begin a state's next value.
                OutputRole::Named(n) if n == "state" => write!(line, "\"state\" {value}"),
                OutputRole::Named(n) => write!(line, "{} {value}", name(n)),
            };
        }
        line
    }

    fn map(&mut self, out: &mut String, path: &str, map: &LinearMap) {
        let shape_text = shape(&map.shape());
        let _ = match map {
            LinearMap::Dense(t) => write!(out, "{}{shape_text} {}", t.dtype(), self.data(t)),
            LinearMap::Quantized(q) => {
                let floats = |t: &Tensor| match t.dtype() {
                    DType::F32 => self.data(t),
                    other => format!("{other} {}", self.data(t)),
                };
                let scales = floats(q.scales());
                let codes = self.data(q.codes());
                let _ = write!(out, "{} {} ", q.format(), q.granularity());
                if q.activations() != Activations::F32 {
                    let _ = write!(out, "activations {} ", q.activations());
                }
                let _ = write!(out, "{shape_text} {{ codes: {codes}, scales: {scales}");
                if let Some(z) = q.zero_points() {
                    let _ = write!(out, ", zero_points: {}", self.data(z));
                }
                if let Some(c) = q.columns() {
                    let _ = write!(out, ", columns: {}", floats(c));
                }
                write!(out, " }}")
            }
            LinearMap::Sparse(s) => {
                let _ = write!(out, "sparse {}", s.pattern());
                if let (Some(kept), Ok([rows, cols])) = (s.kept(), map.matrix_shape()) {
                    let _ = write!(out, " density {}", density(kept, rows.saturating_mul(cols)));
                }
                let _ = write!(out, " {shape_text} {{ mask: {}", self.data(s.mask()));
                self.children(out, path, map, ", ");
                write!(out, " }}")
            }
            LinearMap::LowRank(l) => {
                let _ = write!(out, "low_rank {shape_text} rank {} {{", l.rank());
                self.children(out, path, map, " ");
                write!(out, " }}")
            }
            LinearMap::TensorTrain(t) => {
                let (o, i, r) = (product(t.out_modes()), product(t.in_modes()), product(&t.ranks()));
                let _ = write!(out, "tensor_train {shape_text} modes {o} by {i} ranks {r} {{");
                self.children(out, path, map, " ");
                write!(out, " }}")
            }
        };
    }

    fn children(&mut self, out: &mut String, path: &str, map: &LinearMap, first: &str) {
        for (i, (child_name, child)) in map.children().into_iter().enumerate() {
            let _ = write!(out, "{}{child_name}: ", if i == 0 { first } else { ", " });
            if let Some(shared) = self.printed.get(&child.id()) {
                let _ = write!(out, "@{shared}");
                continue;
            }
            let child_path = format!("{path}/{child_name}");
            self.map(out, &child_path, child);
            self.printed.insert(child.id(), child_path);
        }
    }

    fn data(&self, t: &Tensor) -> String {
        let shape_arithmetic =
            matches!(t.dtype(), DType::I64 | DType::I32) && t.shape().len() <= 1 && t.len() <= MAX_CONTENT;
        if (t.len() <= self.options.inline_up_to || shape_arithmetic)
            && let Some(elements) = elements(t)
        {
            return format!("[{}]", elements.join(", "));
        }
        t.hash().to_string()
    }
}

/// The elements as text; `None` if the data is not available or holds a NaN with an unusual bit pattern, which text would lose.
fn elements(t: &Tensor) -> Option<Vec<String>> {
    /// Texts of the elements, unless some NaN differs from the one that `nan` parses to.
    fn floats<T: Copy>(
        all: &[T],
        lost: impl Fn(T) -> bool,
        text: impl Fn(T) -> String,
    ) -> Option<Vec<String>> {
        if all.iter().any(|&x| lost(x)) { None } else { Some(all.iter().map(|&x| text(x)).collect()) }
    }
    match t.data() {
        Data::F32(v) => floats(v, |x| x.is_nan() && x.to_bits() != f32::NAN.to_bits(), float32),
        Data::F64(v) => floats(v, |x| x.is_nan() && x.to_bits() != f64::NAN.to_bits(), float64),
        Data::F16(v) => {
            floats(v, |x| x.is_nan() && x.to_bits() != f16::NAN.to_bits(), |x| float32(x.to_f32()))
        }
        Data::Bf16(v) => {
            floats(v, |x| x.is_nan() && x.to_bits() != bf16::NAN.to_bits(), |x| float32(x.to_f32()))
        }
        Data::I64(v) => Some(v.iter().map(i64::to_string).collect()),
        Data::I32(v) => Some(v.iter().map(i32::to_string).collect()),
        Data::I8(v) => Some(v.iter().map(i8::to_string).collect()),
        Data::U8(v) => Some(v.iter().map(u8::to_string).collect()),
        Data::Bool(v) => Some(v.iter().map(|&x| u8::from(x).to_string()).collect()),
        Data::Elided(..) => None,
    }
}
