//! The plan: how a language model's weights are packed and where its buffers are, before any code is generated.
//!
//! ```text
//!   graph in language-model form ──▶ Plan { weights, state, scratch, steps, loops, output } ──▶ codegen
//! ```
//!
//! A plan is read by the code generator, by the packer and by the execution of sequences and streams, and prints itself as text
//! (`lstmc compile --print plan`). Every length and offset that generated code relies on is decided here and only here.

mod cell;
mod display;
mod loops;
mod packing;
mod phases;
mod planner;
mod strips;

pub use cell::{Cell, CellInput, Gates};
pub use loops::Loop;
pub use lstmc_kernels::{Format, Groups, Integer, LANES, PANEL, QUAD, Scale, StripValues, Strips, UNITS};
pub use lstmc_runtime::StateSlot;
pub(crate) use packing::gate_row;
pub use packing::{Packing, Panels, RowOrder, Rows};
pub use phases::{Phase, Piece};
pub(crate) use strips::strip_inputs;

use crate::error::CompileError;
pub use lstmc_frontend::ir::Head;
use lstmc_frontend::ir::{
    Algebra, Binary, Formula, FormulaBuilder, Graph, LinearMap, Part, Program, WeightId,
    verify_language_model,
};
use std::sync::Arc;

/// Buffers and state slots are aligned and padded to this many f32s, so that whole panels can be written.
const SLOT: usize = PANEL;

/// What the plan must know about the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Integer products multiply signed by signed bytes (arm64, riscv64); elsewhere unsigned weights by signed activations.
    pub signed_bytes: bool,
    /// Products of bytes are added in pairs, in 16 bits (`pmaddubsw`), and there is nothing better: 8-bit weights are signed, narrower ones unsigned. C with signed bytes has its weights
    /// packed so too.
    pub pairs: bool,
    /// Products of integer panels with one vector are functions with vectors of 256 bits; see [`codegen::wide`](crate::codegen).
    pub wide: Option<Wide>,
    /// Weights are packed for code of several levels, which differ in `pairs`: those of 8 bits signed, sparse ones with what offset activations add.
    pub shared: bool,
}

/// How products in vectors of 256 bits multiply bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wide {
    /// By AVX2 alone, weights of 8 bits signed.
    Avx2,
    /// By AVX-VNNI.
    AvxVnni,
    /// By AVX-512 VNNI.
    Avx512Vnni,
}

impl Wide {
    fn name(self) -> &'static str {
        match self {
            Wide::Avx2 => "AVX2",
            Wide::AvxVnni => "AVX-VNNI",
            Wide::Avx512Vnni => "AVX-512 VNNI",
        }
    }
}

impl Target {
    /// Whether weights of 8 bits are packed as signed bytes.
    pub fn signed_eight(self) -> bool {
        self.signed_bytes || self.pairs || self.shared
    }

    /// Whether products of sparse weights of 8 bits never offset activations.
    pub fn signed_strips(self) -> bool {
        self.signed_bytes || self.pairs && !self.shared
    }
}

/// A packed weight of the plan, by position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PackedId(pub usize);

/// A map within a weight of the graph: the weight, and which child of which child.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MapRef {
    /// The weight.
    pub weight: WeightId,
    /// Positions among [`LinearMap::children`], from the outermost in.
    pub path: Vec<usize>,
}

impl MapRef {
    /// The map of a whole weight.
    pub fn of(weight: WeightId) -> MapRef {
        MapRef { weight, path: vec![] }
    }

    /// The `n`th child.
    pub fn child(&self, n: usize) -> MapRef {
        let mut path = self.path.clone();
        path.push(n);
        MapRef { weight: self.weight, path }
    }

    /// The map itself.
    ///
    /// # Panics
    /// If the graph is not the one that the plan was made from.
    pub fn resolve<'g>(&self, graph: &'g Graph) -> &'g Part {
        let mut map = &graph.weight(self.weight).map;
        for &n in &self.path {
            map = map.children()[n].1;
        }
        map
    }

    /// `weight/child/child`.
    pub fn name(&self, graph: &Graph) -> String {
        let weight = graph.weight(self.weight);
        let (mut name, mut map) = (weight.name.clone(), &weight.map);
        for &n in &self.path {
            let (child, inner) = map.children().swap_remove(n);
            name = format!("{name}/{child}");
            map = inner;
        }
        name
    }
}

/// A packed weight: its layout and its source map in the graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packed {
    /// The name shown to people and used for symbols.
    pub name: String,
    /// The layout.
    pub packing: Packing,
    /// Its source.
    pub source: MapRef,
    /// The source's representation in the graph, for display.
    pub represented: String,
}

/// A vector of f32s in scratch or in the state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Buffer {
    /// The first f32.
    pub offset: usize,
    /// Elements.
    pub len: usize,
}

impl Buffer {
    /// Elements `from..from + len`.
    pub fn part(self, from: usize, len: usize) -> Buffer {
        Buffer { offset: self.offset + from, len }
    }

    /// f32s that belong to it: whole panels.
    pub fn padded(self) -> usize {
        self.len.next_multiple_of(PANEL)
    }

    /// Whether another one is a part of it.
    pub fn has(self, part: Buffer) -> bool {
        (self.offset..self.offset + self.padded().max(1)).contains(&part.offset)
    }
}

/// A vector of integer activations in scratch: codes, then the sum of each group's, then one scale.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Codes {
    /// First f32 of scratch; the codes' bytes start there.
    pub offset: usize,
    /// Layout of the codes.
    pub groups: Groups,
}

impl Codes {
    /// Bytes that whole vectors write beyond the padded codes.
    const SLACK: usize = 64;

    /// f32s from the start to the sums, which are i32.
    pub fn sums(&self) -> usize {
        (self.groups.padded() + Codes::SLACK).div_ceil(64) * 16
    }

    /// f32s from the start to the scale.
    pub fn scale(&self) -> usize {
        self.sums() + self.groups.count()
    }

    /// f32s in total.
    pub fn len(&self) -> usize {
        self.scale() + 1
    }

    /// Whether there are no codes; there is a scale even then.
    pub fn is_empty(&self) -> bool {
        self.groups.len == 0
    }
}

/// A vector that a step reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Vector {
    /// In scratch.
    Scratch(Buffer),
    /// In the state.
    State(Buffer),
}

impl Vector {
    /// Its position in scratch or in the state.
    pub fn buffer(self) -> Buffer {
        match self {
            Vector::Scratch(b) | Vector::State(b) => b,
        }
    }

    /// Elements `from..from + len`.
    pub fn part(self, from: usize, len: usize) -> Vector {
        match self {
            Vector::Scratch(b) => Vector::Scratch(b.part(from, len)),
            Vector::State(b) => Vector::State(b.part(from, len)),
        }
    }

    /// Elements.
    pub fn len(self) -> usize {
        self.buffer().len
    }

    /// Whether it has no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The input of panels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// f32s.
    Floats(Vector),
    /// Integers from a [`Step::Quantize`].
    Codes(Codes),
    /// Such integers and the table that a [`Step::Spread`] made from them.
    Spread(Buffer, Codes),
}

/// One term of a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Panels.
    pub weights: PackedId,
    /// Their input.
    pub input: Input,
}

/// The value that a product starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Zero.
    Zero,
    /// A packed bias.
    Bias(PackedId),
    /// A buffer.
    Buffer(Buffer),
}

/// `start + sum of W x` over the panels of all segments, which have the same number of rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Product {
    /// Rows.
    pub out: usize,
    /// The terms.
    pub segments: Vec<Segment>,
    /// The value that they are added to.
    pub start: Start,
}

/// An input of a formula.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its elements.
    pub of: Elements,
    /// Whether its only element counts for every element of the result.
    pub is_scalar: bool,
}

/// Elements that a formula reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elements {
    /// Of a vector.
    Vector(Vector),
    /// Of a weight.
    Weight(PackedId),
}

/// One step of the program that consumes a token.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// `out = table[token]`.
    Gather {
        /// The table, in rows.
        table: PackedId,
        /// The destination of the row.
        out: Buffer,
    },
    /// `out = table[token]` of a table in tensor-train form: the token's slices of the cores are multiplied.
    GatherTrain {
        /// The cores.
        cores: Vec<PackedId>,
        /// The destination of the row.
        out: Buffer,
        /// Partial products, two alternating buffers.
        work: [Buffer; 2],
    },
    /// `out = x` as integers.
    Quantize {
        /// The vector.
        x: Vector,
        /// The destination of the codes.
        out: Codes,
    },
    /// `out[k][j]` = code `j`, offset by 128 unless the target takes weights of 8 bits signed, as byte `k` of a word: four codes from anywhere
    /// are combined by three ORs.
    Spread {
        /// The codes.
        codes: Codes,
        /// `[4][len]` words.
        out: Buffer,
    },
    /// `out = x`, rounded as `Quantize` would but kept in f32.
    Round {
        /// The vector.
        x: Vector,
        /// The result.
        out: Buffer,
    },
    /// `out = W x + ..`.
    Product {
        /// The product.
        product: Product,
        /// The output.
        out: Buffer,
    },
    /// One step of a cell.
    Cell(Box<Cell>),
    /// An elementwise formula.
    Map {
        /// The formula, with one result.
        formula: Formula,
        /// Its inputs.
        operands: Vec<Source>,
        /// The result.
        out: Buffer,
    },
    /// `out = scale (x - mean) / sqrt(variance + epsilon) + shift`.
    Norm {
        /// The vector.
        x: Vector,
        /// `scale`; without it 1.
        scale: Option<PackedId>,
        /// `shift`; without it 0.
        shift: Option<PackedId>,
        /// Added to the variance.
        epsilon: f32,
        /// The result.
        out: Buffer,
    },
    /// `out = x - log-sum-exp of x`.
    LogSoftmax {
        /// The vector.
        x: Vector,
        /// The result.
        out: Buffer,
    },
    /// `out` = all parts, side by side.
    Concat {
        /// The parts, which may begin anywhere.
        parts: Vec<Vector>,
        /// The result.
        out: Buffer,
    },
    /// `out = state`, if that is read later, and `state = x`.
    Delay {
        /// The next value.
        x: Buffer,
        /// The state, in whole.
        state: Buffer,
        /// The destination of the value so far.
        out: Option<Buffer>,
    },
}

impl Step {
    /// `out = x * by`, elementwise.
    pub(crate) fn scale(x: Vector, by: PackedId, out: Buffer) -> Step {
        let source = |of| Source { of, is_scalar: false };
        let operands = vec![source(Elements::Vector(x)), source(Elements::Weight(by))];
        Step::Map { formula: product_of_two(), operands, out }
    }

    /// What a step made by [`Step::scale`] was made of.
    pub(crate) fn scaled(&self) -> Option<(Vector, PackedId, Buffer)> {
        let Step::Map { formula, operands, out } = self else { return None };
        match operands[..] {
            [
                Source { of: Elements::Vector(x), is_scalar: false },
                Source { of: Elements::Weight(by), is_scalar: false },
            ] if *formula == product_of_two() => Some((x, by, *out)),
            _ => None,
        }
    }

    /// The vectors that it reads.
    pub fn reads(&self) -> Vec<Vector> {
        let of = |segments: &[Segment]| -> Vec<Vector> {
            let vector = |s: &Segment| match s.input {
                Input::Floats(v) => Some(v),
                Input::Codes(_) | Input::Spread(..) => None,
            };
            segments.iter().filter_map(vector).collect()
        };
        match self {
            Step::Gather { .. } | Step::GatherTrain { .. } | Step::Spread { .. } => vec![],
            Step::Quantize { x, .. }
            | Step::Round { x, .. }
            | Step::Norm { x, .. }
            | Step::LogSoftmax { x, .. } => vec![*x],
            Step::Product { product, .. } => {
                let mut all = of(&product.segments);
                if let Start::Buffer(b) = product.start {
                    all.push(Vector::Scratch(b));
                }
                all
            }
            Step::Cell(cell) => [of(&cell.inputs), of(&cell.recurrent)].concat(),
            Step::Map { operands, .. } => {
                let vector = |o: &Source| match o.of {
                    Elements::Vector(v) => Some(v),
                    Elements::Weight(_) => None,
                };
                operands.iter().filter_map(vector).collect()
            }
            Step::Concat { parts, .. } => parts.clone(),
            Step::Delay { x, .. } => vec![Vector::Scratch(*x)],
        }
    }

    /// The buffer of f32s that it fills.
    pub fn out(&self) -> Option<Buffer> {
        match self {
            Step::Quantize { .. } | Step::Spread { .. } => None,
            Step::Gather { out, .. }
            | Step::GatherTrain { out, .. }
            | Step::Round { out, .. }
            | Step::Product { out, .. }
            | Step::Map { out, .. }
            | Step::Norm { out, .. }
            | Step::LogSoftmax { out, .. }
            | Step::Concat { out, .. } => Some(*out),
            Step::Cell(cell) => Some(cell.out),
            Step::Delay { out, .. } => *out,
        }
    }
}

/// The first input times the second one.
fn product_of_two() -> Formula {
    let mut b = FormulaBuilder::new();
    let (x, by) = (b.input(0), b.input(1));
    let product = b.binary(Binary::Mul, &x, &by);
    b.result(0, &product);
    b.build(|_| None)
}

/// What computes the output after [`Plan::steps`]; it reads no state.
#[derive(Clone, PartialEq, Debug)]
pub struct OutputLayer {
    /// Steps that the state does not depend on, and the preparation of the product's input: quantization, right factors.
    pub prologue: Vec<Step>,
    /// The output.
    pub result: Output,
}

/// The output.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// A product.
    Product(Product),
    /// A buffer that a step has filled.
    Buffer(Buffer),
}

/// A compiled layout of one language model.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The model's name.
    pub name: String,
    /// The target that it was made for.
    pub target: Target,
    /// Words.
    pub vocabulary: usize,
    /// What the output is.
    pub head: Head,
    /// Packed weights.
    pub weights: Vec<Packed>,
    /// State slots, as the model declares them, each padded to whole panels.
    pub state: Vec<StateSlot>,
    /// The states that do not start at zero, and the vectors that they start from.
    pub initial: Vec<(Buffer, PackedId)>,
    /// f32s of state.
    pub state_len: usize,
    /// f32s of scratch.
    pub scratch_len: usize,
    /// The buffer for the whole output in scratch, from which single logits are selected.
    pub logits: Buffer,
    /// The steps that consume a token.
    pub steps: Vec<Step>,
    /// Those of them that cannot run for many time steps at once, in order.
    pub loops: Vec<Loop>,
    /// What computes the output.
    pub output: OutputLayer,
}

impl Plan {
    /// The forms of integer panels that functions in vectors of 256 bits multiply.
    pub(crate) fn wide(&self) -> Vec<(Wide, Integer)> {
        let Some(wide) = self.target.wide else { return vec![] };
        let mut all = vec![];
        for packed in &self.weights {
            if let Packing::Panels(Panels { format: Format::Integer(i), .. }) = packed.packing
                && i.groups.count() > 0
                && i32::try_from(i.panel_bytes()).is_ok()
                && !all.contains(&(wide, i))
            {
                all.push((wide, i));
            }
        }
        all
    }

    /// Which of [`Plan::wide`] multiplies each of these terms, if all are such products.
    pub(crate) fn wide_terms(&self, terms: &[Segment]) -> Option<Vec<usize>> {
        let all = self.wide();
        let one = |s: &Segment| match (self.panels(s.weights).format, s.input) {
            (Format::Integer(i), Input::Codes(_)) => all.iter().position(|(_, of)| *of == i),
            _ => None,
        };
        terms.iter().map(one).collect::<Option<Vec<_>>>().filter(|terms| !terms.is_empty())
    }

    /// Whether it differs in nothing but the target: code of both works with the same weights, state and scratch.
    pub(crate) fn shares_memory(&self, other: &Plan) -> bool {
        Plan { target: other.target, ..self.clone() } == *other
    }

    /// Plans a graph in language-model form. Errors name what cannot be compiled.
    pub fn new(graph: &Graph, target: Target) -> Result<Plan, CompileError> {
        verify_language_model(graph).map_err(|e| CompileError::NotCanonical(e.to_string()))?;
        let program = Program::of(graph).map_err(|e| CompileError::NotCanonical(e.to_string()))?;
        planner::Planner::new(&program, target).plan()
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.weights.iter().map(|w| w.packing.bytes()).sum()
    }

    /// Bytes of weights that one step reads: one row of each table and all other weights.
    pub fn weight_bytes_per_token(&self) -> usize {
        self.weights.iter().map(|w| w.packing.bytes_per_token()).sum()
    }

    /// A packed weight.
    pub fn packed(&self, id: PackedId) -> &Packed {
        &self.weights[id.0]
    }

    /// The panels of a packed map of products.
    ///
    /// # Panics
    /// If it is not one.
    pub fn panels(&self, id: PackedId) -> Panels {
        match self.packed(id).packing {
            Packing::Panels(p) | Packing::Transposed(p) => p,
            ref other => panic!("{} is {other}, not panels", self.packed(id).name),
        }
    }

    /// All steps, in order.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.output.prologue)
    }
}

/// The dense f32 matrix or vector of a map, as a shared row-major slice; without columns, which the plan applies in a step of their own.
pub(crate) fn dense(graph: &Graph, source: &MapRef) -> Result<Arc<Vec<f32>>, CompileError> {
    dense_map(graph, source, &source.resolve(graph).without_columns())
}

/// As [`dense`], with columns.
pub(crate) fn dense_with_columns(graph: &Graph, source: &MapRef) -> Result<Arc<Vec<f32>>, CompileError> {
    dense_map(graph, source, source.resolve(graph))
}

fn dense_map(graph: &Graph, source: &MapRef, map: &LinearMap) -> Result<Arc<Vec<f32>>, CompileError> {
    let named = |error| CompileError::Map { name: source.name(graph), error };
    let tensor = match map {
        LinearMap::Dense(t) => t.clone(),
        other => other.to_dense().map_err(named)?,
    };
    tensor.to_f32().map_err(|e| named(e.into()))
}
