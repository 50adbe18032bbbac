//! From a graph to a plan.

use super::strips::strips;
use super::{
    Buffer, Cell, Codes, Fill, Format, Groups, Input, Integer, MapRef, OutputLayer, Packed, PackedId,
    Packing, Panels, Plan, Product, QUAD, RowOrder, Rows, SLOT, Scale, Segment, Source, Start, StateSlot,
    Step, Target, Vector,
};
use crate::error::CompileError;
use lstmc_frontend::ir::{
    self, Activations, Apply, Graph, LinearMap, MAX_MULTIPLIED_OUT, MapError, Part, PartId, Program,
    Quantized, StateId, StepKind, TensorTrain,
};
use lstmc_frontend::tensor::DType;
use lstmc_kernels::gate_lanes;
use std::collections::{BTreeSet, HashMap};

/// Inputs beyond which sums of products of codes might not fit in 32 bits: |offset code| < 256, |activation| < 128, and half of
/// the range is left for the correction.
const MOST_INPUTS: usize = 1 << 15;

/// The maximum number of f32s in a stream's state or scratch: 64 MiB. A few kilobytes of cores can declare very long rows.
const MOST_NUMBERS: usize = 1 << 24;

pub(super) struct Planner<'p> {
    program: &'p Program<'p>,
    graph: &'p Graph,
    target: Target,
    weights: Vec<Packed>,
    known: HashMap<(Packing, Option<PartId>), PackedId>,
    state: Vec<StateSlot>,
    state_len: usize,
    scratch_len: usize,
    /// Parts that products read in panels of plain order: a table that is one of them is read from its panels, and packed once.
    multiplied: BTreeSet<PartId>,
    /// The result of each step of the program.
    results: Vec<Buffer>,
    steps: Vec<Step>,
}

/// `len` f32s in whole slots.
fn whole_slots(len: usize) -> usize {
    len.checked_next_multiple_of(SLOT).unwrap_or(usize::MAX)
}

impl<'p> Planner<'p> {
    pub(super) fn new(program: &'p Program<'p>, target: Target) -> Planner<'p> {
        Planner {
            program,
            graph: program.graph(),
            target,
            weights: vec![],
            known: HashMap::new(),
            state: vec![],
            state_len: 0,
            scratch_len: 0,
            multiplied: multiplied(program),
            results: vec![],
            steps: vec![],
        }
    }

    pub(super) fn plan(mut self) -> Result<Plan, CompileError> {
        let program = self.program;
        for state in program.states() {
            let name = self.graph.name_of(state.value).to_string();
            self.state.push(StateSlot { name, offset: self.state_len, len: state.width });
            self.state_len = self.state_len.saturating_add(whole_slots(state.width));
        }
        let mut output = None;
        for (id, step) in program.steps() {
            let out = match &step.kind {
                StepKind::Apply(apply) if id == program.logits() => {
                    let mut prologue = vec![];
                    let product = self.apply(apply, Fill::Low, &mut prologue)?;
                    output = Some(OutputLayer { prologue, product });
                    break;
                }
                _ if id == program.logits() => {
                    let node = self.graph.node(step.node);
                    return Err(CompileError::unsupported(
                        node,
                        "logits must come straight from a linear layer",
                    ));
                }
                StepKind::Embed(embed) => self.gather(&MapRef::of(embed.table))?,
                StepKind::Apply(apply) => {
                    let mut prologue = vec![];
                    let product = self.apply(apply, Fill::Zero, &mut prologue)?;
                    self.steps.append(&mut prologue);
                    let out = self.buffer(product.out);
                    self.steps.push(Step::Product { product, out });
                    out
                }
                StepKind::Cell(cell) => self.cell(cell, step.width)?,
                StepKind::Map(map) => self.map(map, step.width),
            };
            self.results.push(out);
        }
        let vocabulary = program.vocabulary();
        let output = output.ok_or_else(|| CompileError::NotCanonical("no step makes the logits".into()))?;
        let logits = self.buffer(vocabulary);
        self.check_sizes()?;
        Ok(Plan {
            name: self.graph.name.clone(),
            vocabulary,
            weights: self.weights,
            state: self.state,
            state_len: self.state_len,
            scratch_len: self.scratch_len,
            logits,
            steps: self.steps,
            output,
        })
    }

    /// A buffer of `len` f32s followed by room for what whole vectors write beyond it.
    fn buffer(&mut self, len: usize) -> Buffer {
        let buffer = Buffer { offset: self.scratch_len, len };
        self.scratch_len = self.scratch_len.saturating_add(whole_slots(len).saturating_add(SLOT));
        buffer
    }

    /// Refuses sizes that a small file can request and no machine has: of working memory, or of a product of factors or cores.
    fn check_sizes(&self) -> Result<(), CompileError> {
        let found = self.state_len.max(self.scratch_len);
        if found > MOST_NUMBERS {
            return Err(CompileError::TooWide { found, most: MOST_NUMBERS });
        }
        for source in self.weights.iter().filter_map(|w| w.source.as_ref()) {
            let map = source.resolve(self.graph);
            let is_product = matches!(&**map, LinearMap::LowRank(_) | LinearMap::TensorTrain(_));
            let elements = map.shape().into_iter().fold(1, usize::saturating_mul);
            if is_product && elements > MAX_MULTIPLIED_OUT {
                return Err(self.error(source, MapError::TooLarge { elements }));
            }
        }
        Ok(())
    }

    fn pack(&mut self, name: String, packing: Packing, source: Option<MapRef>) -> PackedId {
        let key = (packing.clone(), source.as_ref().map(|s| s.resolve(self.graph).id()));
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let represented = source.as_ref().map_or("", |s| s.resolve(self.graph).kind()).to_string();
        let id = PackedId(self.weights.len());
        self.weights.push(Packed { name, packing, source, represented });
        self.known.insert(key, id);
        id
    }

    fn pack_map(&mut self, source: &MapRef, packing: Packing) -> PackedId {
        self.pack(source.name(self.graph), packing, Some(source.clone()))
    }

    fn error(&self, source: &MapRef, error: MapError) -> CompileError {
        CompileError::Map { name: source.name(self.graph), error }
    }

    fn matrix(&self, source: &MapRef) -> Result<[usize; 2], CompileError> {
        source.resolve(self.graph).matrix_shape().map_err(|e| self.error(source, e))
    }

    /// A whole product.
    fn apply(
        &mut self,
        apply: &Apply,
        fill: Fill,
        prologue: &mut Vec<Step>,
    ) -> Result<Product, CompileError> {
        let x = Vector::Scratch(self.results[apply.x.index()]);
        let map = MapRef::of(apply.weight);
        let [out, _] = self.matrix(&map)?;
        let source = apply.bias.map(MapRef::of);
        let segment = self.segment(&map, x, RowOrder::Plain, prologue)?;
        let name =
            source.as_ref().map_or_else(|| format!("{}.bias", map.name(self.graph)), |b| b.name(self.graph));
        let bias = self.pack(name, Packing::Vector { len: out, fill }, source);
        Ok(Product { out, segments: vec![segment], start: Start::Bias(bias) })
    }

    /// The term `W x` of a product, after the preparation of `x`.
    fn segment(
        &mut self,
        source: &MapRef,
        x: Vector,
        order: RowOrder,
        prologue: &mut Vec<Step>,
    ) -> Result<Segment, CompileError> {
        let [out, input] = self.matrix(source)?;
        let panels = |format| Packing::Panels(Panels { out, input, order, format });
        let graph = self.graph;
        match &**source.resolve(graph) {
            LinearMap::LowRank(_) => {
                let (left, right) = (source.child(0), source.child(1));
                let [rank, _] = self.matrix(&right)?;
                let inner = self.segment(&right, x, RowOrder::Plain, prologue)?;
                let out = self.buffer(rank);
                let product = Product { out: rank, segments: vec![inner], start: Start::Zero };
                prologue.push(Step::Product { product, out });
                self.segment(&left, Vector::Scratch(out), order, prologue)
            }
            LinearMap::Sparse(s) => {
                let kept = s.element_mask().map_err(|e| self.error(source, e))?;
                let codes = match &**s.values() {
                    LinearMap::Quantized(q) if multiplies_integers(q, input) => Some(q),
                    _ => None,
                };
                let by_row = codes.is_some_and(|q| q.granularity().groups(input) == 1);
                let signed = by_row.then_some(self.target.signed_bytes);
                let format = strips(s, &kept, [out, input], order, signed);
                match (format, codes) {
                    (Some(format), Some(_)) if by_row => {
                        let weights = self.pack_map(source, panels(format));
                        let codes = self.quantize(x, Groups { len: input, size: input }, prologue);
                        Ok(Segment { weights, input: self.spread(codes, prologue) })
                    }
                    // Values in groups, or too dense for strips: as integer panels with zeros, which are equivalent.
                    (_, Some(q)) => {
                        let integer = self.integer(q, input);
                        let weights = self.pack_map(&source.child(0), panels(Format::Integer(integer)));
                        let codes = self.quantize(x, integer.groups, prologue);
                        Ok(Segment { weights, input: Input::Codes(codes) })
                    }
                    (format, None) => {
                        let weights = self.pack_map(source, panels(format.unwrap_or(Format::F32)));
                        let x = self.rounded(s.values(), x, prologue);
                        Ok(Segment { weights, input: Input::Floats(x) })
                    }
                }
            }
            map => {
                let format = self.format(map, input);
                let weights = self.pack_map(source, panels(format));
                let input = match format {
                    Format::Integer(i) => Input::Codes(self.quantize(x, i.groups, prologue)),
                    _ => Input::Floats(self.rounded(map, x, prologue)),
                };
                Ok(Segment { weights, input })
            }
        }
    }

    /// How the panels of a map that is neither sparse nor low-rank are stored.
    fn format(&self, map: &LinearMap, input: usize) -> Format {
        match map {
            LinearMap::Quantized(q) if multiplies_integers(q, input) => {
                Format::Integer(self.integer(q, input))
            }
            _ => Format::F32,
        }
    }

    /// `x` as a map with an f32 product takes it: rounded to integers, if the map requires that and has no integer kernel.
    fn rounded(&mut self, map: &LinearMap, x: Vector, prologue: &mut Vec<Step>) -> Vector {
        match map {
            LinearMap::Quantized(q) if q.activations() == Activations::Int8 => {
                let made = self.made(prologue, |step| match step {
                    Step::Round { x: of, out } if *of == x => Some(*out),
                    _ => None,
                });
                if let Some(out) = made {
                    return Vector::Scratch(out);
                }
                let out = self.buffer(x.len());
                prologue.push(Step::Round { x, out });
                Vector::Scratch(out)
            }
            _ => x,
        }
    }

    fn integer(&self, q: &Quantized, input: usize) -> Integer {
        let groups = Groups { len: input, size: q.granularity().group_size(input).min(input.max(1)) };
        let scale = match q.scales().dtype() {
            DType::F16 if groups.count() > 1 => Scale::F16,
            _ => Scale::F32,
        };
        let width = q.format().packed();
        Integer { width, groups, scale, signed: self.target.signed_bytes }
    }

    /// What an earlier step has made, if `of` finds it in one.
    fn made<T>(&self, prologue: &[Step], of: impl Fn(&Step) -> Option<T>) -> Option<T> {
        self.steps.iter().chain(prologue).find_map(of)
    }

    /// The codes of `x`, computed once for all maps that read them in the same groups.
    fn quantize(&mut self, x: Vector, groups: Groups, prologue: &mut Vec<Step>) -> Codes {
        let made = self.made(prologue, |step| match step {
            Step::Quantize { x: of, out } if *of == x && out.groups == groups => Some(*out),
            _ => None,
        });
        if let Some(codes) = made {
            return codes;
        }
        let mut codes = Codes { offset: 0, groups };
        codes.offset = self.buffer(codes.len()).offset;
        prologue.push(Step::Quantize { x, out: codes });
        codes
    }

    /// The table that sparse maps look codes up in, computed once.
    fn spread(&mut self, codes: Codes, prologue: &mut Vec<Step>) -> Input {
        let made = self.made(prologue, |step| match step {
            Step::Spread { codes: of, out } if *of == codes => Some(*out),
            _ => None,
        });
        if let Some(out) = made {
            return Input::Spread(out, codes);
        }
        let out = self.buffer(QUAD * codes.groups.len);
        prologue.push(Step::Spread { codes, out });
        Input::Spread(out, codes)
    }

    /// Reads a row of a table in any representation.
    fn gather(&mut self, source: &MapRef) -> Result<Buffer, CompileError> {
        let [rows, cols] = self.matrix(source)?;
        let part = source.resolve(self.graph);
        let format = match &**part {
            LinearMap::LowRank(_) => {
                // A row of left . right is right^T times the row of left.
                let row = self.gather(&source.child(0))?;
                let right = source.child(1);
                let panels =
                    Panels { out: cols, input: row.len, order: RowOrder::Plain, format: Format::F32 };
                let weights = self.pack_map(&right, Packing::Transposed(panels));
                let segment = Segment { weights, input: Input::Floats(Vector::Scratch(row)) };
                let product = Product { out: cols, segments: vec![segment], start: Start::Zero };
                let out = self.buffer(cols);
                self.steps.push(Step::Product { product, out });
                return Ok(out);
            }
            LinearMap::TensorTrain(t) => return self.gather_train(source, t),
            LinearMap::Dense(_) | LinearMap::Quantized(_) if self.multiplied.contains(&part.id()) => {
                let format = self.format(part, cols);
                let panels = Panels { out: rows, input: cols, order: RowOrder::Plain, format };
                let table = self.pack_map(source, Packing::Panels(panels));
                let out = self.buffer(cols);
                self.steps.push(Step::Gather { table, out });
                return Ok(out);
            }
            LinearMap::Quantized(q) if q.zero_points().is_none() && cols > 0 => {
                Rows::Codes { groups: Groups { len: cols, size: q.granularity().group_size(cols).min(cols) } }
            }
            _ => Rows::F32,
        };
        let table = self.pack_map(source, Packing::Rows { rows, cols, format });
        let out = self.buffer(cols);
        self.steps.push(Step::Gather { table, out });
        Ok(out)
    }

    fn gather_train(&mut self, source: &MapRef, t: &TensorTrain) -> Result<Buffer, CompileError> {
        let ranks = t.ranks();
        let mut cores = vec![];
        let (mut widest, mut cols) = (1usize, 1usize);
        for (k, (&m, &n)) in t.out_modes().iter().zip(t.in_modes()).enumerate() {
            let packing = Packing::Core { modes: m, rank: ranks[k], width: n * ranks[k + 1] };
            cores.push(self.pack_map(&source.child(k), packing));
            cols = cols.saturating_mul(n);
            widest = widest.max(cols.saturating_mul(ranks[k + 1]));
        }
        let widest = widest.saturating_add(SLOT);
        let work = [self.buffer(widest), self.buffer(widest)];
        // Partial products have the modes' full width, and the row may be shorter.
        let mut out = self.buffer(cols.saturating_add(SLOT));
        out.len = t.shape()[1];
        self.steps.push(Step::GatherTrain { cores, out, work });
        Ok(out)
    }

    fn cell(&mut self, cell: &ir::Cell, units: usize) -> Result<Buffer, CompileError> {
        let x = Vector::Scratch(self.results[cell.x.index()]);
        let slot = |id: &StateId| {
            let slot = &self.state[id.index()];
            Buffer { offset: slot.offset, len: slot.len }
        };
        let states: Vec<Buffer> = cell.states.iter().map(slot).collect();
        let (input, recurrent) = (MapRef::of(cell.input), MapRef::of(cell.recurrent));
        let order = RowOrder::Gates(cell.spec.gates);
        let old = Vector::State(states[0]);
        let (mut before, mut prologue) = (vec![], vec![]);
        let (inputs, recurrent) = if let Some((left, r, u)) = self.shared_left(&input, &recurrent) {
            // L (R x + U h): the sum has the small inner dimension, and the left factor is applied once.
            let [rank, _] = self.matrix(&r)?;
            let of_x = self.segment(&r, x, RowOrder::Plain, &mut before)?;
            let rx = self.buffer(rank);
            let product = Product { out: rank, segments: vec![of_x], start: Start::Zero };
            before.push(Step::Product { product, out: rx });
            let of_h = self.segment(&u, old, RowOrder::Plain, &mut prologue)?;
            let sum = self.buffer(rank);
            let product = Product { out: rank, segments: vec![of_h], start: Start::Buffer(rx) };
            prologue.push(Step::Product { product, out: sum });
            let all = self.segment(&left, Vector::Scratch(sum), order, &mut prologue)?;
            (vec![], vec![all])
        } else {
            let of_x = self.segment(&input, x, order, &mut before)?;
            let of_h = self.segment(&recurrent, old, order, &mut prologue)?;
            (vec![of_x], vec![of_h])
        };
        self.steps.append(&mut before);
        let gates = cell.spec.gates;
        let bias = self.pack_map(&MapRef::of(cell.bias), Packing::GateBias { units, gates });
        let count = cell.spec.parameters;
        let parameters =
            cell.parameters.map(|p| self.pack_map(&MapRef::of(p), Packing::Parameters { count, units }));
        let (gates, out) = (self.buffer(gate_lanes(gates.count(), units)), self.buffer(units));
        let spec = cell.spec.clone();
        let offsets = states.iter().map(|s| s.offset).collect();
        let cell =
            Cell { spec, units, inputs, prologue, recurrent, bias, parameters, gates, states, offsets, out };
        self.steps.push(Step::Cell(Box::new(cell)));
        Ok(out)
    }

    /// The left factor that two low-rank maps share, and their right ones. A left factor that multiplies integers does not count:
    /// each map then quantizes its own vector.
    fn shared_left(&self, a: &MapRef, b: &MapRef) -> Option<(MapRef, MapRef, MapRef)> {
        let (LinearMap::LowRank(x), LinearMap::LowRank(y)) =
            (&**a.resolve(self.graph), &**b.resolve(self.graph))
        else {
            return None;
        };
        let linear = !x.left().has_int8_activations();
        (x.left().id() == y.left().id() && linear).then(|| (a.child(0), a.child(1), b.child(1)))
    }

    fn map(&mut self, map: &ir::Map, width: usize) -> Buffer {
        let mut operand = |source: &ir::Source| match *source {
            ir::Source::Step(s) => Source::Buffer(self.results[s.index()]),
            ir::Source::Constant(w) => {
                let map = MapRef::of(w);
                match self.graph.weight(w).map.shape().iter().product() {
                    len if len == width => {
                        Source::Weight(self.pack_map(&map, Packing::Vector { len, fill: Fill::Zero }))
                    }
                    _ => Source::Scalar(self.pack_map(&map, Packing::Scalar)),
                }
            }
        };
        let operands = map.operands.iter().map(&mut operand).collect();
        let out = self.buffer(width);
        self.steps.push(Step::Map { formula: map.formula.clone(), operands, out });
        out
    }
}

/// The parts that the program's linear layers multiply with: whole maps, or the factors of low-rank ones.
fn multiplied(program: &Program<'_>) -> BTreeSet<PartId> {
    fn add(part: &Part, all: &mut BTreeSet<PartId>) {
        match &**part {
            LinearMap::LowRank(l) => [l.left(), l.right()].into_iter().for_each(|factor| add(factor, all)),
            _ => {
                all.insert(part.id());
            }
        }
    }
    let mut all = BTreeSet::new();
    for (_, step) in program.steps() {
        if let StepKind::Apply(apply) = &step.kind {
            add(&program.graph().weight(apply.weight).map, &mut all);
        }
    }
    all
}

/// Whether a quantized map is multiplied in integers. With zero points it is decoded: they would need an additional product.
fn multiplies_integers(q: &Quantized, input: usize) -> bool {
    q.activations() == Activations::Int8 && q.zero_points().is_none() && (1..=MOST_INPUTS).contains(&input)
}
