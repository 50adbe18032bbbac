//! The plan: how a language model's weights are packed and where its buffers lie, before any code is made.
//!
//! ```text
//!   graph in language-model form ──▶ Plan { weights, state, scratch, steps, output } ──▶ codegen
//! ```
//!
//! A plan is read by the code generator, by the packer and by the batched sequence path, and prints itself as text
//! (`lstmc compile --print plan`). Every length and offset that generated code relies on is decided here and only here.

use crate::error::CompileError;
use lstmc_frontend::ir::{
    Binary, Graph, LinearMap, Node, Op, Operand, OutputRole, Unary, ValueId, WeightId, verify_language_model,
};
use std::collections::HashMap;
use std::fmt;

/// Output units per panel of a linear map: eight accumulators of four lanes, which hide the latency of the multiply-add.
pub const PANEL: usize = 32;

/// LSTM units per panel: a quarter, so that the four gates of a unit share one panel.
pub const PANEL_UNITS: usize = PANEL / 4;

/// Lanes of a vector register in generated code.
pub const LANES: usize = 4;

/// Buffers and state slots start at, and are padded to, this many f32s, so that whole vectors can be written.
const SLOT: usize = 16;

/// A packed weight of the plan, by position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PackedId(pub usize);

/// How a weight is laid out for the generated code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packing {
    /// Row-major f32 `[rows][cols]`: read a row at a time.
    Rows {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
    /// f32 panels `[out / 32][in][32]`; the last panel may be narrower, in steps of four.
    Panels {
        /// Output units.
        out: usize,
        /// Inputs.
        input: usize,
    },
    /// f32 panels `[units / 8][input + hidden][4 gates][8]` over the stacked vector `[x; h]`; the last may be narrower.
    GatePanels {
        /// Units.
        hidden: usize,
        /// Inputs, without the recurrent ones.
        input: usize,
    },
    /// An f32 vector padded with `fill` to whole vectors.
    Vector {
        /// Elements.
        len: usize,
        /// What the padding holds.
        fill: Fill,
    },
    /// The bias of gate panels: `[units / 8][4 gates][8]`, padded with zero.
    GateBias {
        /// Units.
        hidden: usize,
    },
}

/// What pads a vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// Zero: padded lanes compute zero.
    Zero,
    /// A number so low that a padded logit never counts in a softmax.
    Low,
}

impl Fill {
    /// The value. `Low` is finite: the difference of two infinities would be NaN.
    pub fn value(self) -> f32 {
        match self {
            Fill::Zero => 0.0,
            Fill::Low => -1e30,
        }
    }
}

/// Widths, in vectors of four lanes, of the panels that cover `out` outputs: full ones and perhaps a narrower last one.
pub(crate) fn tail_vectors(rest: usize) -> usize {
    rest.div_ceil(LANES)
}

impl Packing {
    /// f32 elements.
    pub fn len(&self) -> usize {
        match *self {
            Packing::Rows { rows, cols } => rows * cols,
            Packing::Panels { out, input } => {
                (out / PANEL * PANEL + tail_vectors(out % PANEL) * LANES) * input
            }
            Packing::GatePanels { hidden, input } => padded_units(hidden) * 4 * (input + hidden),
            Packing::Vector { len, .. } => len.next_multiple_of(LANES),
            Packing::GateBias { hidden } => padded_units(hidden) * 4,
        }
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn padded_units(hidden: usize) -> usize {
    hidden / PANEL_UNITS * PANEL_UNITS + tail_vectors(hidden % PANEL_UNITS) * LANES
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Packing::Rows { rows, cols } => write!(f, "rows f32 [{rows}][{cols}]"),
            Packing::Panels { out, input } => {
                write!(f, "panels f32 [{}][{input}][{PANEL}]", out / PANEL)?;
                match tail_vectors(out % PANEL) * LANES {
                    0 => Ok(()),
                    tail => write!(f, " + [{input}][{tail}]"),
                }
            }
            Packing::GatePanels { hidden, input } => {
                let k = input + hidden;
                write!(f, "gate panels f32 [{}][{k}][4][{PANEL_UNITS}]", hidden / PANEL_UNITS)?;
                match tail_vectors(hidden % PANEL_UNITS) * LANES {
                    0 => Ok(()),
                    tail => write!(f, " + [{k}][4][{tail}]"),
                }
            }
            Packing::Vector { len, fill } => {
                write!(f, "vector f32 [{}] of {len}", self.len())?;
                if *fill == Fill::Low { f.write_str(", padded low") } else { Ok(()) }
            }
            Packing::GateBias { .. } => write!(f, "gate bias f32 [{}]", self.len()),
        }
    }
}

/// A packed weight: its layout and the weights of the graph it is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packed {
    /// The name shown to people and used for symbols.
    pub name: String,
    /// The layout.
    pub packing: Packing,
    /// What it is made of: one weight, or the input and recurrent maps of a cell.
    pub sources: Vec<WeightId>,
    /// How the sources are represented in the graph, for display.
    pub represented: String,
}

/// A vector of f32s in scratch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// First f32 of scratch.
    pub offset: usize,
    /// Elements.
    pub len: usize,
}

/// A vector of f32s in the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateSlot {
    /// The state's name in the graph.
    pub name: String,
    /// First f32 of the state.
    pub offset: usize,
    /// Elements.
    pub len: usize,
}

/// The other side of an elementwise step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Other {
    /// Another buffer.
    Buffer(Buffer),
    /// A weight of as many elements.
    Weight(PackedId),
    /// A weight of one element.
    Scalar(PackedId),
}

/// One step of the program that consumes a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// `out = table[token]`.
    Gather {
        /// The table, in rows.
        table: PackedId,
        /// Where the row goes.
        out: Buffer,
    },
    /// One step of an LSTM cell; `out` is the new `h`.
    Lstm {
        /// The input.
        x: Buffer,
        /// Gate panels.
        weights: PackedId,
        /// Gate bias.
        bias: PackedId,
        /// Hidden state, replaced.
        h: StateSlot,
        /// Cell state, replaced.
        c: StateSlot,
        /// The new hidden state.
        out: Buffer,
        /// The graph's input map, for the batched path.
        input_map: WeightId,
    },
    /// `out = W x + b`.
    Linear {
        /// The input.
        x: Buffer,
        /// Panels.
        weights: PackedId,
        /// Bias (zeros where the graph has none).
        bias: PackedId,
        /// The output.
        out: Buffer,
    },
    /// Elementwise operation of two operands.
    Binary {
        /// The operator.
        op: Binary,
        /// One operand.
        a: Buffer,
        /// The other.
        b: Other,
        /// Operands exchanged: `b op a`.
        swapped: bool,
        /// The result.
        out: Buffer,
    },
    /// Elementwise function.
    Unary {
        /// The function.
        op: Unary,
        /// The operand.
        x: Buffer,
        /// The result.
        out: Buffer,
    },
}

/// The layer that makes logits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutputLayer {
    /// Its input.
    pub x: Buffer,
    /// Panels.
    pub weights: PackedId,
    /// Bias, padded low.
    pub bias: PackedId,
    /// The graph's map, for the batched path.
    pub map: WeightId,
}

/// A compiled layout of one language model.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The model's name.
    pub name: String,
    /// Words.
    pub vocabulary: usize,
    /// Packed weights.
    pub weights: Vec<Packed>,
    /// State slots: `h` and `c` of each layer.
    pub state: Vec<StateSlot>,
    /// f32s of state.
    pub state_len: usize,
    /// f32s of scratch.
    pub scratch_len: usize,
    /// A tile of one panel in scratch, for epilogues that pick single logits.
    pub tile: Buffer,
    /// What consumes a token.
    pub steps: Vec<Step>,
    /// What makes logits.
    pub output: OutputLayer,
}

impl Plan {
    /// Plans a graph in language-model form. Errors name what cannot be compiled.
    pub fn new(graph: &Graph) -> Result<Plan, CompileError> {
        verify_language_model(graph).map_err(|e| CompileError::NotCanonical(e.to_string()))?;
        Planner::new(graph).plan()
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.weights.iter().map(|w| w.packing.len() * 4).sum()
    }

    /// Bytes of weights that one step reads: one row of each table and all of the rest.
    pub fn weight_bytes_per_token(&self) -> usize {
        let read = |p: &Packing| match *p {
            Packing::Rows { cols, .. } => cols,
            _ => p.len(),
        };
        self.weights.iter().map(|w| read(&w.packing) * 4).sum()
    }

    /// A packed weight.
    pub fn packed(&self, id: PackedId) -> &Packed {
        &self.weights[id.0]
    }
}

struct Planner<'g> {
    graph: &'g Graph,
    weights: Vec<Packed>,
    known: HashMap<(String, Vec<WeightId>), PackedId>,
    state: Vec<StateSlot>,
    state_len: usize,
    scratch_len: usize,
    buffers: HashMap<ValueId, Buffer>,
    slots: HashMap<ValueId, StateSlot>,
    steps: Vec<Step>,
}

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph) -> Planner<'g> {
        Planner {
            graph,
            weights: vec![],
            known: HashMap::new(),
            state: vec![],
            state_len: 0,
            scratch_len: 0,
            buffers: HashMap::new(),
            slots: HashMap::new(),
            steps: vec![],
        }
    }

    fn plan(mut self) -> Result<Plan, CompileError> {
        let tile = self.buffer(PANEL);
        let logits = self
            .graph
            .outputs()
            .iter()
            .find(|o| o.role == OutputRole::Named("logits".into()))
            .map(|o| o.value)
            .ok_or_else(|| CompileError::NotCanonical("no output named logits".into()))?;
        let mut output = None;
        for (_, node) in self.graph.nodes() {
            match &node.op {
                Op::Input => {}
                Op::State => {
                    let value = node.results()[0];
                    let slot = StateSlot {
                        name: self.graph.name_of(value).to_string(),
                        offset: self.state_len,
                        len: self.width(value)?,
                    };
                    self.state_len += slot.len.next_multiple_of(SLOT);
                    self.state.push(slot.clone());
                    self.slots.insert(value, slot);
                }
                Op::Linear if node.results()[0] == logits => output = Some(self.output(node)?),
                _ => self.step(node)?,
            }
        }
        let output = output.ok_or_else(|| {
            let node = self.graph.node(self.graph.producer(logits));
            CompileError::unsupported(node, "logits must come straight from a linear layer")
        })?;
        Ok(Plan {
            name: self.graph.name.clone(),
            vocabulary: self.width(logits)?,
            weights: self.weights,
            state: self.state,
            state_len: self.state_len,
            scratch_len: self.scratch_len,
            tile,
            steps: self.steps,
            output,
        })
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        let buffer = Buffer { offset: self.scratch_len, len };
        self.scratch_len += len.next_multiple_of(SLOT);
        buffer
    }

    /// Elements of the last dimension, which language-model form makes a constant.
    fn width(&self, value: ValueId) -> Result<usize, CompileError> {
        let ty = self.graph.type_of(value);
        ty.shape.last().and_then(|d| d.as_constant()).ok_or_else(|| {
            CompileError::NotCanonical(format!(
                "%{} has type {ty}, of unknown width",
                self.graph.name_of(value)
            ))
        })
    }

    fn pack(&mut self, name: &str, packing: Packing, sources: &[WeightId]) -> PackedId {
        let key = (packing.to_string(), sources.to_vec());
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let mut kinds: Vec<&str> = sources.iter().map(|&w| self.graph.weight(w).map.kind()).collect();
        kinds.dedup();
        let id = PackedId(self.weights.len());
        self.weights.push(Packed {
            name: name.to_string(),
            packing,
            sources: sources.to_vec(),
            represented: kinds.join(", "),
        });
        self.known.insert(key, id);
        id
    }

    fn weight(&self, node: &Node, index: usize) -> Result<WeightId, CompileError> {
        match node.operands().get(index) {
            Some(Operand::Weight(w)) => Ok(*w),
            _ => Err(CompileError::unsupported(node, "its weights must be constants of the model")),
        }
    }

    fn input(&self, node: &Node, index: usize) -> Result<Buffer, CompileError> {
        let value = match node.operands().get(index) {
            Some(Operand::Value(v)) => *v,
            _ => return Err(CompileError::unsupported(node, "its input must be a sequence, not a constant")),
        };
        self.buffers.get(&value).copied().ok_or_else(|| {
            CompileError::unsupported(node, "it reads a value that is not a sequence of features")
        })
    }

    fn linear_parts(
        &mut self,
        node: &Node,
        fill: Fill,
    ) -> Result<(PackedId, PackedId, WeightId, usize), CompileError> {
        let map = self.weight(node, 1)?;
        let [out, input] = self.matrix(map)?;
        let name = self.graph.weight(map).name.clone();
        let weights = self.pack(&name, Packing::Panels { out, input }, &[map]);
        let sources: Vec<WeightId> =
            if node.operands().len() > 2 { vec![self.weight(node, 2)?] } else { vec![] };
        let bias_name =
            sources.first().map_or(format!("{name}.bias"), |&b| self.graph.weight(b).name.clone());
        let bias = self.pack(&bias_name, Packing::Vector { len: out, fill }, &sources);
        Ok((weights, bias, map, out))
    }

    fn matrix(&self, map: WeightId) -> Result<[usize; 2], CompileError> {
        let weight = self.graph.weight(map);
        weight.map.matrix_shape().map_err(|error| CompileError::Map { name: weight.name.clone(), error })
    }

    fn output(&mut self, node: &Node) -> Result<OutputLayer, CompileError> {
        let x = self.input(node, 0)?;
        let (weights, bias, map, _) = self.linear_parts(node, Fill::Low)?;
        Ok(OutputLayer { x, weights, bias, map })
    }

    fn step(&mut self, node: &Node) -> Result<(), CompileError> {
        let result = node.results()[0];
        let step = match &node.op {
            Op::Embedding => {
                let table = self.weight(node, 1)?;
                let [rows, cols] = self.matrix(table)?;
                let name = self.graph.weight(table).name.clone();
                let table = self.pack(&name, Packing::Rows { rows, cols }, &[table]);
                Step::Gather { table, out: self.buffer(cols) }
            }
            Op::Lstm { .. } => {
                let x = self.input(node, 0)?;
                let state = |planner: &Self, index: usize| match node.operands()[index] {
                    Operand::Value(v) => planner.slots.get(&v).cloned(),
                    _ => None,
                };
                let (Some(h), Some(c)) = (state(self, 1), state(self, 2)) else {
                    return Err(CompileError::unsupported(
                        node,
                        "its initial states must be states of the model",
                    ));
                };
                let (input_map, recurrent, bias) =
                    (self.weight(node, 3)?, self.weight(node, 4)?, self.weight(node, 5)?);
                let (hidden, input) = (h.len, x.len);
                let input_name = self.graph.weight(input_map).name.clone();
                let name = input_name.strip_suffix(".input").unwrap_or(&input_name).to_string();
                let weights =
                    self.pack(&name, Packing::GatePanels { hidden, input }, &[input_map, recurrent]);
                let bias_name = self.graph.weight(bias).name.clone();
                let bias = self.pack(&bias_name, Packing::GateBias { hidden }, &[bias]);
                Step::Lstm { x, weights, bias, h, c, out: self.buffer(hidden), input_map }
            }
            Op::Linear => {
                let x = self.input(node, 0)?;
                let (weights, bias, _, out) = self.linear_parts(node, Fill::Zero)?;
                Step::Linear { x, weights, bias, out: self.buffer(out) }
            }
            Op::Binary(op) => self.binary(node, *op)?,
            Op::Unary(op) => {
                let x = self.input(node, 0)?;
                Step::Unary { op: *op, x, out: self.buffer(x.len) }
            }
            other => {
                return Err(CompileError::unsupported(
                    node,
                    &format!("operator {} cannot be compiled; the interpreter runs it", other.name()),
                ));
            }
        };
        let out = match &step {
            Step::Gather { out, .. }
            | Step::Lstm { out, .. }
            | Step::Linear { out, .. }
            | Step::Binary { out, .. }
            | Step::Unary { out, .. } => *out,
        };
        self.buffers.insert(result, out);
        self.steps.push(step);
        Ok(())
    }

    fn binary(&mut self, node: &Node, op: Binary) -> Result<Step, CompileError> {
        let swapped = matches!(node.operands()[0], Operand::Weight(_));
        let (a_at, b_at) = if swapped { (1, 0) } else { (0, 1) };
        let a = self.input(node, a_at)?;
        let b = match node.operands()[b_at] {
            Operand::Value(_) => Other::Buffer(self.input(node, b_at)?),
            Operand::Weight(w) => {
                let weight = self.graph.weight(w);
                let (len, name) = (weight.map.shape().iter().product::<usize>(), weight.name.clone());
                let id = self.pack(&name, Packing::Vector { len, fill: Fill::Zero }, &[w]);
                if len == 1 { Other::Scalar(id) } else { Other::Weight(id) }
            }
            Operand::None => return Err(CompileError::unsupported(node, "an operand is missing")),
        };
        let fits = match b {
            Other::Buffer(b) => b.len == a.len,
            Other::Weight(id) => {
                matches!(self.weights[id.0].packing, Packing::Vector { len, .. } if len == a.len)
            }
            Other::Scalar(_) => true,
        };
        if !fits {
            return Err(CompileError::unsupported(node, "its operands must have the same features"));
        }
        Ok(Step::Binary { op, a, b, swapped, out: self.buffer(a.len) })
    }
}

/// The dense f32 matrix or vector of a weight, as a shared row-major slice.
pub(crate) fn dense(graph: &Graph, id: WeightId) -> Result<std::sync::Arc<Vec<f32>>, CompileError> {
    let weight = graph.weight(id);
    let named = |error| CompileError::Map { name: weight.name.clone(), error };
    let tensor = match &weight.map {
        LinearMap::Dense(t) => t.clone(),
        other => other.to_dense().map_err(named)?,
    };
    tensor.to_f32().map_err(|e| named(e.into()))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let w = |id: &PackedId| self.packed(*id).name.clone();
        let b = |b: &Buffer| format!("scratch[{}..{}]", b.offset, b.offset + b.len);
        let s = |s: &StateSlot| format!("state[{}..{}]", s.offset, s.offset + s.len);
        writeln!(f, "plan \"{}\" (vocabulary {})", self.name, self.vocabulary)?;
        writeln!(
            f,
            "weights: {} bytes, {} read per token",
            self.weight_bytes(),
            self.weight_bytes_per_token()
        )?;
        let width = self.weights.iter().map(|w| w.name.len()).max().unwrap_or(0);
        for p in &self.weights {
            let from = if p.represented.is_empty() || p.represented == "dense" {
                String::new()
            } else {
                format!(" (decoded from {})", p.represented)
            };
            writeln!(f, "  {:width$}  {}{from}", p.name, p.packing)?;
        }
        writeln!(f, "state: {} f32", self.state_len)?;
        for slot in &self.state {
            writeln!(f, "  {}  {}", slot.name, s(slot))?;
        }
        writeln!(f, "scratch: {} f32, tile {}", self.scratch_len, b(&self.tile))?;
        writeln!(f, "steps:")?;
        for step in &self.steps {
            match step {
                Step::Gather { table, out } => writeln!(f, "  {} = gather {}", b(out), w(table))?,
                Step::Lstm { x, weights, h, c, out, .. } => {
                    writeln!(f, "  {} = lstm {}, {}, {}, {}", b(out), b(x), s(h), s(c), w(weights))?;
                }
                Step::Linear { x, weights, out, .. } => {
                    writeln!(f, "  {} = linear {}, {}", b(out), b(x), w(weights))?;
                }
                Step::Binary { op, a, b: other, swapped, out } => {
                    let other = match other {
                        Other::Buffer(x) => b(x),
                        Other::Weight(id) => w(id),
                        Other::Scalar(id) => format!("{} (scalar)", w(id)),
                    };
                    let (x, y) = if *swapped { (other, b(a)) } else { (b(a), other) };
                    writeln!(f, "  {} = {} {x}, {y}", b(out), Op::Binary(*op).name())?;
                }
                Step::Unary { op, x, out } => {
                    writeln!(f, "  {} = {} {}", b(out), Op::Unary(*op).name(), b(x))?;
                }
            }
        }
        writeln!(f, "output: linear {}, {}", b(&self.output.x), w(&self.output.weights))
    }
}
