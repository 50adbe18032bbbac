//! The plan: how a language model's weights are packed and where its buffers are, before any code is generated.
//!
//! ```text
//!   graph in language-model form ──▶ Plan { weights, state, scratch, steps, output } ──▶ codegen
//! ```
//!
//! A plan is read by the code generator, by the packer and by the execution of sequences and streams, and prints itself as text
//! (`lstmc compile --print plan`). Every length and offset that generated code relies on is decided here and only here.

mod display;
mod packing;
mod phases;
mod planner;
mod strips;

pub use lstmc_kernels::{Format, Groups, Integer, LANES, PANEL, QUAD, Scale, StripValues, Strips, UNITS};
pub use lstmc_runtime::StateSlot;
pub use packing::{Fill, Packing, Panels, RowOrder, Rows};
pub use phases::{Phase, Piece};
pub(crate) use strips::strip_inputs;

use crate::error::CompileError;
use lstmc_frontend::ir::{
    CellSpec, Formula, Graph, LinearMap, Part, Program, WeightId, verify_language_model,
};
use std::sync::Arc;

/// Buffers and state slots are aligned and padded to this many f32s, so that whole panels can be written.
const SLOT: usize = PANEL;

/// What the plan must know about the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Integer products multiply signed by signed bytes (arm64); elsewhere unsigned weights by signed activations.
    pub signed_bytes: bool,
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
    /// Its source; `None` for zeros.
    pub source: Option<MapRef>,
    /// The source's representation in the graph, for display.
    pub represented: String,
}

/// A vector of f32s in scratch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Buffer {
    /// First f32 of scratch.
    pub offset: usize,
    /// Elements.
    pub len: usize,
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
pub enum Source {
    /// A buffer as long as the result.
    Buffer(Buffer),
    /// A weight with as many elements as the result.
    Weight(PackedId),
    /// A weight with one element.
    Scalar(PackedId),
}

/// One step of a cell.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// What is computed from the gates' sums.
    pub spec: CellSpec,
    /// Units.
    pub units: usize,
    /// The gates' terms that do not depend on the first state: those of the input.
    pub inputs: Vec<Segment>,
    /// The preparation of the first state before its terms: quantization, right factors.
    pub prologue: Vec<Step>,
    /// The gates' terms that depend on the first state.
    pub recurrent: Vec<Segment>,
    /// Gate bias.
    pub bias: PackedId,
    /// The cell's own vectors.
    pub parameters: Option<PackedId>,
    /// The sums of all gates, in the order of their panels' lanes.
    pub gates: Buffer,
    /// Its states, each updated in place; the first is the output of the previous time step.
    pub states: Vec<Buffer>,
    /// Where each state begins.
    pub offsets: Vec<usize>,
    /// The new first state.
    pub out: Buffer,
}

impl Cell {
    /// The first state.
    pub fn h(&self) -> Buffer {
        self.states[0]
    }

    /// Lanes of the gates' panels.
    pub fn lanes(&self) -> usize {
        self.gates.len.next_multiple_of(PANEL)
    }

    /// Panels, and parts of eight units, that have the same gates: what threads can share.
    pub fn share(&self) -> [usize; 2] {
        // This many gates of eight units fill whole panels: gates * 8 * parts = 32 * panels.
        let gates = self.spec.gates.count();
        let common = [4, 2, 1].into_iter().find(|n| gates.is_multiple_of(*n)).unwrap_or(1);
        [gates / common, 4 / common]
    }
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
    /// `out[k][j]` = code `j`, offset by 128 unless the target multiplies signed by signed bytes, as byte `k` of a word: four codes from anywhere
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
}

/// The layer that computes logits.
#[derive(Clone, PartialEq, Debug)]
pub struct OutputLayer {
    /// The preparation of its input: quantization, right factors.
    pub prologue: Vec<Step>,
    /// The product, whose bias is padded with [`Fill::Low`].
    pub product: Product,
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
    /// State slots, as the model declares them, each padded to whole panels.
    pub state: Vec<StateSlot>,
    /// f32s of state.
    pub state_len: usize,
    /// f32s of scratch.
    pub scratch_len: usize,
    /// The buffer for all logits in scratch, from which single ones are selected.
    pub logits: Buffer,
    /// The steps that consume a token.
    pub steps: Vec<Step>,
    /// The layer that computes logits.
    pub output: OutputLayer,
}

impl Plan {
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

    /// The cells, in order.
    pub fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.steps.iter().filter_map(|s| match s {
            Step::Cell(cell) => Some(&**cell),
            _ => None,
        })
    }
}

/// The dense f32 matrix or vector of a map, as a shared row-major slice.
pub(crate) fn dense(graph: &Graph, source: &MapRef) -> Result<Arc<Vec<f32>>, CompileError> {
    let named = |error| CompileError::Map { name: source.name(graph), error };
    let tensor = match &**source.resolve(graph) {
        LinearMap::Dense(t) => t.clone(),
        other => other.to_dense().map_err(named)?,
    };
    tensor.to_f32().map_err(|e| named(e.into()))
}
