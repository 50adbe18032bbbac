//! From a graph to a plan.

use super::cell::{of_sums, with_rows};
use super::strips::strips;
use super::{
    Buffer, Cell, Codes, Elements, Format, Gates, Groups, Input, Integer, Loop, MapRef, Output, OutputLayer,
    Packed, PackedId, Packing, Panels, Plan, Product, QUAD, RowOrder, Rows, SLOT, Scale, Segment, Source,
    Start, StateSlot, Step, Target, UNITS, Vector,
};
use crate::error::CompileError;
use lstmc_frontend::ir::{
    self, Activations, Apply, GateRows, Graph, Group, LinearMap, MAX_MULTIPLIED_OUT, MapError, PackedWidth,
    Part, PartId, Program, Quantized, Sequence, StepId, StepKind, TensorTrain, WeightId,
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
    known: HashMap<(Packing, PartId), PackedId>,
    state: Vec<StateSlot>,
    state_len: usize,
    scratch_len: usize,
    /// Parts that products read in panels of plain order: a table that is one of them is read from its panels, and packed once.
    multiplied: BTreeSet<PartId>,
    /// The result of each step of the program, once it is planned.
    results: Vec<Option<Buffer>>,
    /// The values before a time step of stepwise states that were replaced already.
    old: Vec<Option<Buffer>>,
    steps: Vec<Step>,
    loops: Vec<Loop>,
    /// The first step whose codes and copies later steps may read: those of a loop are not kept for all time steps.
    shared_from: usize,
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
            results: program.steps().map(|_| None).collect(),
            old: program.states().iter().map(|_| None).collect(),
            steps: vec![],
            loops: vec![],
            shared_from: 0,
        }
    }

    pub(super) fn plan(mut self) -> Result<Plan, CompileError> {
        let program = self.program;
        let initial = self.states();
        let [advances, answers] = needed(program);
        for group in program.groups().iter().filter(|g| g.steps().any(|s| advances[s.index()])) {
            self.group(group)?;
        }
        let first = self.steps.len();
        let mut product = None;
        for (id, step) in program.steps().filter(|(s, _)| answers[s.index()] && !advances[s.index()]) {
            match &step.kind {
                StepKind::Apply(apply) if id == program.output() && !step.is_read => {
                    product = Some(self.apply(apply)?);
                }
                _ => self.step(id, step)?,
            }
        }
        let prologue = self.steps.split_off(first);
        let (logits, result) = match product {
            Some(product) => (self.buffer(product.out), Output::Product(product)),
            None => {
                let result = self.result(program.output());
                (result, Output::Buffer(result))
            }
        };
        self.check_sizes()?;
        let mut plan = Plan {
            name: self.graph.name.clone(),
            target: self.target,
            vocabulary: program.vocabulary(),
            head: program.head(),
            weights: self.weights,
            state: self.state,
            initial,
            state_len: self.state_len,
            scratch_len: self.scratch_len,
            logits,
            steps: self.steps,
            loops: self.loops,
            output: OutputLayer { prologue, result },
        };
        plan.connect();
        Ok(plan)
    }

    /// Places the states. Returns those that do not start at zero.
    fn states(&mut self) -> Vec<(Buffer, PackedId)> {
        let mut initial = vec![];
        for state in self.program.states() {
            let name = self.graph.name_of(state.value).to_string();
            let slot = Buffer { offset: self.state_len, len: state.width };
            if let Some(w) = state.initial {
                initial.push((slot, self.vector_of(w)));
            }
            self.state.push(StateSlot { name, offset: slot.offset, len: slot.len });
            self.state_len = self.state_len.saturating_add(whole_slots(state.width));
        }
        // Whole vectors are read beyond a state that is quantized; a cell's other states are not.
        let last = self.program.states().len().checked_sub(1);
        let is_inner = |cell: &ir::Cell| cell.states[1..].iter().any(|s| Some(s.index()) == last);
        if last.is_some() && !self.program.cells().any(|(_, cell)| is_inner(cell)) {
            self.state_len = self.state_len.saturating_add(SLOT);
        }
        initial
    }

    /// Plans steps that run together, and the replacement of the states that they compute.
    fn group(&mut self, group: &Group) -> Result<(), CompileError> {
        let (program, first) = (self.program, self.steps.len());
        if group.is_recurrent {
            self.shared_from = first;
        }
        for id in group.steps() {
            self.step(id, program.step(id))?;
        }
        for (k, state) in program.states().iter().enumerate() {
            if !state.is_stepwise || !group.contains(state.next) {
                continue;
            }
            let reads = |s: &ir::Step| {
                s.kind.reads().iter().any(|x| matches!(x.of, Sequence::State(s) if s.index() == k))
            };
            let is_read = program.steps().any(|(id, s)| !group.contains(id) && reads(s));
            self.old[k] = is_read.then(|| self.buffer(state.width));
            let (x, slot) = (self.result(state.next), self.slot(k));
            self.steps.push(Step::Delay { x, state: slot, out: self.old[k] });
        }
        if group.is_recurrent {
            self.loops.push(Loop::new(first..self.steps.len(), false));
            self.shared_from = self.steps.len();
        }
        Ok(())
    }

    fn step(&mut self, id: StepId, step: &ir::Step) -> Result<(), CompileError> {
        let width = step.width;
        let out = match &step.kind {
            StepKind::Embed(embed) => self.gather(&MapRef::of(embed.table))?,
            StepKind::Apply(apply) => {
                let product = self.apply(apply)?;
                let out = self.buffer(product.out);
                self.steps.push(Step::Product { product, out });
                out
            }
            StepKind::Cell(cell) => {
                let is_alone = self.program.groups().iter().any(|g| g.contains(id) && !g.is_recurrent);
                self.cell(cell, width, is_alone)?
            }
            StepKind::Map(map) => {
                let operands = map.operands.iter().map(|source| self.source(source, width)).collect();
                let out = self.buffer(width);
                self.steps.push(Step::Map { formula: map.formula.clone(), operands, out });
                out
            }
            StepKind::Norm(norm) => {
                let x = self.vector(norm.x);
                let [scale, shift] = [norm.scale, norm.shift].map(|w| w.map(|w| self.vector_of(w)));
                let out = self.buffer(width);
                self.steps.push(Step::Norm { x, scale, shift, epsilon: norm.epsilon, out });
                out
            }
            StepKind::LogSoftmax(x) => {
                let (x, out) = (self.vector(*x), self.buffer(width));
                self.steps.push(Step::LogSoftmax { x, out });
                out
            }
            StepKind::Concat(parts) => {
                let parts = parts.iter().map(|x| self.sequence(x.of).part(x.from, x.width)).collect();
                let out = self.buffer(width);
                self.steps.push(Step::Concat { parts, out });
                out
            }
        };
        self.results[id.index()] = Some(out);
        Ok(())
    }

    /// The result of an earlier step.
    fn result(&self, step: StepId) -> Buffer {
        self.results[step.index()].expect("a program's steps are in order of execution")
    }

    /// A state's place.
    fn slot(&self, state: usize) -> Buffer {
        let slot = &self.state[state];
        Buffer { offset: slot.offset, len: slot.len }
    }

    fn sequence(&self, x: Sequence) -> Vector {
        match x {
            Sequence::Step(s) => Vector::Scratch(self.result(s)),
            Sequence::State(s) => match self.old[s.index()] {
                Some(old) => Vector::Scratch(old),
                None => Vector::State(self.slot(s.index())),
            },
        }
    }

    /// A slice where whole vectors can read it: a copy unless it begins at a multiple of [`UNITS`].
    fn vector(&mut self, x: ir::Slice) -> Vector {
        let part = self.sequence(x.of).part(x.from, x.width);
        if x.from.is_multiple_of(UNITS) {
            return part;
        }
        let made = self.made(|step| match step {
            Step::Concat { parts, out } if parts[..] == [part] => Some(*out),
            _ => None,
        });
        Vector::Scratch(made.unwrap_or_else(|| {
            let out = self.buffer(x.width);
            self.steps.push(Step::Concat { parts: vec![part], out });
            out
        }))
    }

    /// A vector's weight.
    fn vector_of(&mut self, w: WeightId) -> PackedId {
        let len = self.graph.weight(w).map.shape().iter().product();
        self.pack(&MapRef::of(w), Packing::Vector { len })
    }

    /// An input of a formula with a result of this width.
    fn source(&mut self, source: &ir::Source, width: usize) -> Source {
        match *source {
            ir::Source::Constant(w) => {
                let elements = self.graph.weight(w).map.shape().iter().product::<usize>();
                Source { of: Elements::Weight(self.vector_of(w)), is_scalar: elements != width }
            }
            ir::Source::Slice(x) if x.width != width => {
                let one = self.sequence(x.of).part(x.from, x.width);
                Source { of: Elements::Vector(one), is_scalar: true }
            }
            ir::Source::Slice(x) => Source { of: Elements::Vector(self.vector(x)), is_scalar: false },
        }
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
        for Packed { source, .. } in &self.weights {
            let map = source.resolve(self.graph);
            let is_product = matches!(&**map, LinearMap::LowRank(_) | LinearMap::TensorTrain(_));
            let elements = map.shape().into_iter().fold(1, usize::saturating_mul);
            if is_product && elements > MAX_MULTIPLIED_OUT {
                return Err(self.error(source, MapError::TooLarge { elements }));
            }
        }
        Ok(())
    }

    fn pack(&mut self, source: &MapRef, packing: Packing) -> PackedId {
        let part = source.resolve(self.graph);
        let key = (packing.clone(), part.id());
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let (mut name, mut represented) = (source.name(self.graph), part.kind().to_string());
        if let Packing::Columns { .. } = packing {
            (name, represented) = (format!("{name}/columns"), String::new());
        }
        let id = PackedId(self.weights.len());
        self.weights.push(Packed { name, packing, source: source.clone(), represented });
        self.known.insert(key, id);
        id
    }

    fn error(&self, source: &MapRef, error: MapError) -> CompileError {
        CompileError::Map { name: source.name(self.graph), error }
    }

    fn matrix(&self, source: &MapRef) -> Result<[usize; 2], CompileError> {
        source.resolve(self.graph).matrix_shape().map_err(|e| self.error(source, e))
    }

    /// A sum of products, after the preparation of their inputs.
    fn apply(&mut self, apply: &Apply) -> Result<Product, CompileError> {
        let [out, _] = self.matrix(&MapRef::of(apply.terms[0].1))?;
        let mut segments = vec![];
        for &(x, weight) in &apply.terms {
            let x = self.vector(x);
            segments.push(self.segment(&MapRef::of(weight), x, RowOrder::Plain)?);
        }
        let start = apply.bias.map_or(Start::Zero, |b| Start::Bias(self.vector_of(b)));
        Ok(Product { out, segments, start })
    }

    /// The term `W x` of a product, after the preparation of `x`.
    fn segment(&mut self, source: &MapRef, x: Vector, order: RowOrder) -> Result<Segment, CompileError> {
        let [out, input] = self.matrix(source)?;
        let panels = |format| Packing::Panels(Panels { out, input, order, format });
        let x = self.times_columns(source, x);
        let graph = self.graph;
        match &**source.resolve(graph) {
            LinearMap::LowRank(_) => {
                let (left, right) = (source.child(0), source.child(1));
                let [rank, _] = self.matrix(&right)?;
                let inner = self.segment(&right, x, RowOrder::Plain)?;
                let out = self.buffer(rank);
                let product = Product { out: rank, segments: vec![inner], start: Start::Zero };
                self.steps.push(Step::Product { product, out });
                self.segment(&left, Vector::Scratch(out), order)
            }
            LinearMap::Sparse(s) => {
                let kept = s.element_mask().map_err(|e| self.error(source, e))?;
                let codes = match &**s.values() {
                    LinearMap::Quantized(q) if multiplies_integers(q, input) => Some(q),
                    _ => None,
                };
                let by_row = codes.is_some_and(|q| q.granularity().groups(input) == 1);
                let signed = by_row.then_some(self.target.signed_strips());
                let format = strips(s, &kept, [out, input], order, signed);
                match (format, codes) {
                    (Some(format), Some(_)) if by_row => {
                        let weights = self.pack(source, panels(format));
                        let codes = self.quantize(x, Groups { len: input, size: input });
                        Ok(Segment { weights, input: self.spread(codes) })
                    }
                    // Values in groups, or too dense for strips: as integer panels with zeros, which are equivalent.
                    (_, Some(q)) => {
                        let integer = self.integer(q, input);
                        let weights = self.pack(&source.child(0), panels(Format::Integer(integer)));
                        let codes = self.quantize(x, integer.groups);
                        Ok(Segment { weights, input: Input::Codes(codes) })
                    }
                    (format, None) => {
                        let weights = self.pack(source, panels(format.unwrap_or(Format::F32)));
                        let x = self.rounded(s.values(), x);
                        Ok(Segment { weights, input: Input::Floats(x) })
                    }
                }
            }
            map => {
                let format = self.format(map, input);
                let weights = self.pack(source, panels(format));
                let input = match format {
                    Format::Integer(i) => Input::Codes(self.quantize(x, i.groups)),
                    _ => Input::Floats(self.rounded(map, x)),
                };
                Ok(Segment { weights, input })
            }
        }
    }

    /// `x` times the columns of a map, if it has any, computed once for all products that read it.
    fn times_columns(&mut self, source: &MapRef, x: Vector) -> Vector {
        if source.resolve(self.graph).columns().is_none() {
            return x;
        }
        let by = self.pack(source, Packing::Columns { len: x.len() });
        let made = self.made(|step| step.scaled().filter(|s| (s.0, s.1) == (x, by)).map(|s| s.2));
        Vector::Scratch(made.unwrap_or_else(|| {
            let out = self.buffer(x.len());
            self.steps.push(Step::scale(x, by, out));
            out
        }))
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
    fn rounded(&mut self, map: &LinearMap, x: Vector) -> Vector {
        match map {
            LinearMap::Quantized(q) if q.activations() == Activations::Int8 => {
                let made = self.made(|step| match step {
                    Step::Round { x: of, out } if *of == x => Some(*out),
                    _ => None,
                });
                if let Some(out) = made {
                    return Vector::Scratch(out);
                }
                let out = self.buffer(x.len());
                self.steps.push(Step::Round { x, out });
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
        let signed = match width {
            PackedWidth::Eight => self.target.signed_eight(),
            _ => self.target.signed_bytes && !self.target.pairs,
        };
        Integer { width, groups, scale, signed }
    }

    /// What an earlier step has made, if `of` finds it in one.
    fn made<T>(&self, of: impl Fn(&Step) -> Option<T>) -> Option<T> {
        self.steps[self.shared_from..].iter().find_map(of)
    }

    /// The codes of `x`, computed once for all maps that read them in the same groups.
    fn quantize(&mut self, x: Vector, groups: Groups) -> Codes {
        let made = self.made(|step| match step {
            Step::Quantize { x: of, out } if *of == x && out.groups == groups => Some(*out),
            _ => None,
        });
        if let Some(codes) = made {
            return codes;
        }
        let mut codes = Codes { offset: 0, groups };
        codes.offset = self.buffer(codes.len()).offset;
        self.steps.push(Step::Quantize { x, out: codes });
        codes
    }

    /// The table that sparse maps look codes up in, computed once.
    fn spread(&mut self, codes: Codes) -> Input {
        let made = self.made(|step| match step {
            Step::Spread { codes: of, out } if *of == codes => Some(*out),
            _ => None,
        });
        if let Some(out) = made {
            return Input::Spread(out, codes);
        }
        let out = self.buffer(QUAD * codes.groups.len);
        self.steps.push(Step::Spread { codes, out });
        Input::Spread(out, codes)
    }

    /// Reads a row of a table in any representation.
    fn gather(&mut self, source: &MapRef) -> Result<Buffer, CompileError> {
        let row = self.gather_codes(source)?;
        Ok(self.times_columns(source, Vector::Scratch(row)).buffer())
    }

    /// Reads a row of a table, without the table's own columns.
    fn gather_codes(&mut self, source: &MapRef) -> Result<Buffer, CompileError> {
        let [rows, cols] = self.matrix(source)?;
        let part = source.resolve(self.graph);
        let format = match &**part {
            LinearMap::LowRank(_) => {
                // A row of left . right is right^T times the row of left.
                let row = self.gather(&source.child(0))?;
                let right = source.child(1);
                let panels =
                    Panels { out: cols, input: row.len, order: RowOrder::Plain, format: Format::F32 };
                let weights = self.pack(&right, Packing::Transposed(panels));
                let segment = Segment { weights, input: Input::Floats(Vector::Scratch(row)) };
                let product = Product { out: cols, segments: vec![segment], start: Start::Zero };
                let out = self.buffer(cols);
                self.steps.push(Step::Product { product, out });
                return Ok(self.times_columns(&right, Vector::Scratch(out)).buffer());
            }
            LinearMap::TensorTrain(t) => return self.gather_train(source, t),
            LinearMap::Dense(_) | LinearMap::Quantized(_) if self.multiplied.contains(&part.id()) => {
                let format = self.format(part, cols);
                let panels = Panels { out: rows, input: cols, order: RowOrder::Plain, format };
                let table = self.pack(source, Packing::Panels(panels));
                let out = self.buffer(cols);
                self.steps.push(Step::Gather { table, out });
                return Ok(out);
            }
            LinearMap::Quantized(q) if q.zero_points().is_none() && cols > 0 => {
                Rows::Codes { groups: Groups { len: cols, size: q.granularity().group_size(cols).min(cols) } }
            }
            _ => Rows::F32,
        };
        let table = self.pack(source, Packing::Rows { rows, cols, format });
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
            cores.push(self.pack(&source.child(k), packing));
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

    /// A cell, as a loop of its own if it `is_alone`.
    fn cell(&mut self, cell: &ir::Cell, units: usize, is_alone: bool) -> Result<Buffer, CompileError> {
        let spec = &cell.spec;
        let x = self.vector(cell.x);
        let states: Vec<Buffer> = cell.states.iter().map(|s| self.slot(s.index())).collect();
        let old = Vector::State(states[0]);
        // One pass over all terms, unless they have different gates.
        let rows =
            if spec.input == spec.recurrent { vec![spec.input] } else { vec![spec.input, spec.recurrent] };
        let orders = [spec.input, spec.recurrent].map(|rows| RowOrder::Gates(with_rows(rows)));
        let (input, recurrent) = (MapRef::of(cell.input), MapRef::of(cell.recurrent));
        let shared = self.shared_left(&input, &recurrent).filter(|_| rows.len() == 1);
        let first;
        let (inputs, recurrent) = if let Some((left, r, u)) = shared {
            // L (R x + U h): the sum has the small inner dimension, and the left factor is applied once.
            let [rank, _] = self.matrix(&r)?;
            let of_x = self.segment(&r, x, RowOrder::Plain)?;
            let rx = self.buffer(rank);
            let product = Product { out: rank, segments: vec![of_x], start: Start::Zero };
            self.steps.push(Step::Product { product, out: rx });
            first = self.steps.len();
            let of_h = self.segment(&u, old, RowOrder::Plain)?;
            let sum = self.buffer(rank);
            let product = Product { out: rank, segments: vec![of_h], start: Start::Buffer(rx) };
            self.steps.push(Step::Product { product, out: sum });
            (vec![], vec![self.segment(&left, Vector::Scratch(sum), orders[0])?])
        } else {
            let of_x = self.segment(&input, x, orders[0])?;
            first = self.steps.len();
            (vec![of_x], vec![self.segment(&recurrent, old, orders[1])?])
        };
        let bias = MapRef::of(cell.bias);
        let mut gates = vec![];
        for (n, of) in rows.iter().enumerate() {
            // A gate's bias is in the first sums that have the gate.
            let is_new = |g: &usize| rows[..n].iter().all(|before| before.block(*g).is_none());
            let with_gate = (0..spec.gates()).filter(|&g| of.block(g).is_some());
            let blocks = with_gate.map(|g| Some(g).filter(is_new).and_then(|g| spec.bias.block(g)));
            let packing = Packing::GateBias { units, gates: GateRows::new(blocks) };
            let (count, start) = (of.blocks(), self.pack(&bias, packing));
            gates.push(Gates { count, start, sums: self.buffer(gate_lanes(count, units)) });
        }
        let count = spec.parameters;
        let parameters =
            cell.parameters.map(|p| (self.pack(&MapRef::of(p), Packing::Parameters { count, units }), count));
        let out = self.buffer(units);
        let formula = of_sums(spec, &rows);
        let h = states[0];
        let cell = Cell { formula, units, inputs, recurrent, gates, parameters, states, out };
        self.steps.push(Step::Cell(Box::new(cell)));
        self.steps.push(Step::Delay { x: out, state: h, out: None });
        if is_alone {
            self.loops.push(Loop::new(first..self.steps.len(), true));
        }
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
}

/// By step: whether the next state needs it, or the embedding's row, which is read when a token is consumed; and whether the output needs it.
fn needed(program: &Program<'_>) -> [Vec<bool>; 2] {
    let mut all = [(); 2].map(|()| vec![false; program.steps().count()]);
    let follow = |found: &mut Vec<bool>, roots: Vec<StepId>| {
        let mut open = roots;
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut found[id.index()], true) {
                continue;
            }
            open.extend(program.step(id).kind.reads().iter().map(|x| match x.of {
                Sequence::Step(s) => s,
                Sequence::State(s) => program.states()[s.index()].next,
            }));
        }
    };
    let embeds = program.steps().filter(|(_, s)| matches!(s.kind, StepKind::Embed(_))).map(|(id, _)| id);
    follow(&mut all[0], program.states().iter().map(|s| s.next).chain(embeds).collect());
    follow(&mut all[1], vec![program.output()]);
    all
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
            apply.terms.iter().for_each(|(_, w)| add(&program.graph().weight(*w).map, &mut all));
        }
    }
    all
}

/// Whether a quantized map is multiplied in integers. With zero points it is decoded: they would need an additional product.
fn multiplies_integers(q: &Quantized, input: usize) -> bool {
    q.activations() == Activations::Int8 && q.zero_points().is_none() && (1..=MOST_INPUTS).contains(&input)
}
