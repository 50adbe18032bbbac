//! All functions of one program, in any `cranelift_module::Module`.

use super::cell::{self, CellAt};
use super::emit::{Emit, F32X4, Features, buffer_flags, weight_flags};
use super::formula::{self, Ends};
use super::integer::CodesAt;
use super::output::{self, Best};
use super::product::{self, Map, Operand, Term};
use super::{gather, quantize};
use crate::error::CompileError;
use crate::isa;
use crate::plan::{
    Buffer, Cell, Codes, Input, PackedId, Packing, Part, Plan, Product, Rows, Segment, Source, Start, Step,
    Vector,
};
use cranelift_codegen::Context;
use cranelift_codegen::ir::{
    AbiParam, FuncRef, Function, InstBuilder, Signature, UserFuncName, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{FuncId, Linkage, Module};

/// The functions a program has. `Recurrent` counts LSTM steps in the plan's order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Entry {
    /// Consume a token.
    Advance,
    /// All logits.
    Logits,
    /// The log-probability of one word.
    Score,
    /// The best words.
    TopK,
    /// Insertion into the list of the best; local.
    Insert,
    /// The gates' sums of one LSTM step, from those of its input.
    Recurrent(usize),
    /// A token's row of the embedding.
    Gather,
    /// A phase of the plan, for several threads.
    Phase(usize),
}

impl Entry {
    /// The function's name within the program.
    pub fn name(self) -> String {
        match self {
            Entry::Advance => "advance".into(),
            Entry::Logits => "logits".into(),
            Entry::Score => "score".into(),
            Entry::TopK => "top_k".into(),
            Entry::Insert => "insert".into(),
            Entry::Recurrent(n) => format!("recurrent_{n}"),
            Entry::Gather => "gather".into(),
            Entry::Phase(n) => format!("phase_{n}"),
        }
    }

    /// The functions that it calls.
    fn callees(self) -> &'static [Entry] {
        match self {
            Entry::Score => &[Entry::Logits],
            Entry::TopK => &[Entry::Logits, Entry::Insert],
            _ => &[],
        }
    }

    /// Parameters (pointer-sized unless said) and whether it returns an f32.
    fn signature(self, module: &dyn Module) -> Signature {
        let pointer = module.target_config().pointer_type();
        let (pointers, result) = match self {
            Entry::Advance => (4, false),
            Entry::Logits => (3, false),
            Entry::Score => (3, true),
            Entry::TopK => (5, false),
            Entry::Insert => (6, true),
            Entry::Recurrent(_) => (4, false),
            Entry::Gather => (3, false),
            Entry::Phase(_) => (7, false),
        };
        let mut signature = module.make_signature();
        signature.params.extend((0..pointers).map(|_| AbiParam::new(pointer)));
        if result {
            signature.returns.push(AbiParam::new(types::F32));
        }
        signature
    }
}

/// The functions of a program, defined in a module.
#[derive(Debug)]
pub struct Program {
    /// Each function's id.
    pub functions: Vec<(Entry, FuncId)>,
    /// Each function's CLIF, where asked for.
    pub clif: Vec<(Entry, String)>,
    /// Each function's disassembly, where asked for.
    pub assembly: Vec<(Entry, String)>,
}

/// The functions that take a text word by word; each may call those before it.
const STEPWISE: [Entry; 5] = [Entry::Insert, Entry::Advance, Entry::Logits, Entry::Score, Entry::TopK];

/// The functions that read many words at once, beside the kernels of [`lstmc_kernels`].
fn batched(plan: &Plan) -> impl Iterator<Item = Entry> {
    let cells = plan.cells().count();
    std::iter::once(Entry::Gather).chain((0..cells).map(Entry::Recurrent))
}

/// Defines every function of `plan` in `module` but the phases, and keeps CLIF and disassembly.
pub(crate) fn build_listed(plan: &Plan, module: &mut dyn Module) -> Result<Program, CompileError> {
    build_entries(plan, module, true, STEPWISE.into_iter().chain(batched(plan)))
}

/// Defines the functions of `plan` that an engine in memory calls, with `phases` also those of several threads. What is wanted of the logits is
/// found by [`lstmc_kernels`].
pub(crate) fn build_engine(
    plan: &Plan,
    module: &mut dyn Module,
    phases: bool,
) -> Result<Program, CompileError> {
    let phases = (0..if phases { plan.phases().len() } else { 0 }).map(Entry::Phase);
    let entries = [Entry::Advance, Entry::Logits].into_iter().chain(batched(plan)).chain(phases);
    build_entries(plan, module, false, entries)
}

/// Defines the functions of `plan` that stand alone in an object.
pub(crate) fn build_stepwise(plan: &Plan, module: &mut dyn Module) -> Result<Program, CompileError> {
    build_entries(plan, module, false, STEPWISE)
}

/// Defines functions of `plan`, in order.
fn build_entries(
    plan: &Plan,
    module: &mut dyn Module,
    keep_text: bool,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<Program, CompileError> {
    let mut program = Program { functions: vec![], clif: vec![], assembly: vec![] };
    let mut context = Context::new();
    let mut builder_context = FunctionBuilderContext::new();
    for entry in entries {
        let failed = |reason: String| CompileError::Codegen { function: entry.name(), reason };
        let signature = entry.signature(module);
        let id = module
            .declare_function(&entry.name(), Linkage::Local, &signature)
            .map_err(|e| failed(e.to_string()))?;
        program.functions.push((entry, id));
        module.clear_context(&mut context);
        context.func = Function::with_name_signature(UserFuncName::user(0, id.as_u32()), signature);
        let callees: Vec<(Entry, FuncRef)> = program
            .functions
            .iter()
            .filter(|(e, _)| entry.callees().contains(e))
            .map(|&(e, id)| (e, module.declare_func_in_func(id, &mut context.func)))
            .collect();
        {
            let mut builder = FunctionBuilder::new(&mut context.func, &mut builder_context);
            let block = builder.create_block();
            builder.append_block_params_for_function_params(block);
            builder.switch_to_block(block);
            builder.seal_block(block);
            let params = builder.block_params(block).to_vec();
            let mut e = Emit { b: &mut builder, features: features(module.isa()) };
            let results = body(plan, entry, &mut e, &params, &callees);
            builder.ins().return_(&results);
            builder.finalize(module.isa().frontend_config());
        }
        if keep_text {
            program.clif.push((entry, context.func.display().to_string()));
            context.set_disasm(true);
        }
        module.define_function(id, &mut context).map_err(|e| failed(format!("{e:?}")))?;
        if keep_text {
            let text = context.compiled_code().and_then(|c| c.vcode.clone()).unwrap_or_default();
            program.assembly.push((entry, text));
        }
    }
    Ok(program)
}

/// What the code may assume of a target.
pub(crate) fn features(isa: &dyn TargetIsa) -> Features {
    let flag = |name: &str| isa.isa_flags().iter().any(|f| f.name == name && f.as_bool() == Some(true));
    let x86 = matches!(isa.triple().architecture, target_lexicon::Architecture::X86_64);
    Features {
        fma: !x86 || flag("has_fma"),
        dot: flag("has_dotprod") || flag("has_avx_vnni") || flag("has_avx512vl") && flag("has_avx512vnni"),
        pointer: isa.pointer_type(),
        signed_bytes: isa::plan_target(isa).signed_bytes,
    }
}

/// The addresses a function finds its data at.
struct Frame<'p> {
    plan: &'p Plan,
    weights: Value,
    state: Option<Value>,
    scratch: Value,
}

impl Frame<'_> {
    fn weight(&self, e: &mut Emit<'_, '_>, id: PackedId) -> Value {
        let pointer = e.features.pointer;
        e.load(pointer, weight_flags(), self.weights, id.0 * pointer.bytes() as usize)
    }

    fn buffer(&self, e: &mut Emit<'_, '_>, b: Buffer) -> Value {
        e.offset(self.scratch, b.offset * 4)
    }

    fn state(&self, e: &mut Emit<'_, '_>, offset: usize) -> Value {
        let state = self.state.expect("only steps that consume a token read the state");
        e.offset(state, offset * 4)
    }

    fn vector(&self, e: &mut Emit<'_, '_>, v: Vector) -> Value {
        match v {
            Vector::Scratch(b) => self.buffer(e, b),
            Vector::State(b) => self.state(e, b.offset),
        }
    }

    fn codes(&self, e: &mut Emit<'_, '_>, c: Codes) -> CodesAt {
        let at = |e: &mut Emit<'_, '_>, f32s: usize| e.offset(self.scratch, (c.offset + f32s) * 4);
        CodesAt { codes: at(e, 0), sums: at(e, c.sums()), scale: at(e, c.scale()) }
    }

    fn terms(&self, e: &mut Emit<'_, '_>, segments: &[Segment]) -> Vec<Term> {
        let term = |s: &Segment| Term {
            weights: self.weight(e, s.weights),
            panels: self.plan.panels(s.weights),
            x: match s.input {
                Input::Floats(v) => Operand::Floats(self.vector(e, v)),
                Input::Codes(c) => Operand::Codes(self.codes(e, c)),
                Input::Spread(b, c) => Operand::Spread(self.buffer(e, b), self.codes(e, c)),
            },
        };
        segments.iter().map(term).collect()
    }

    fn map(&self, e: &mut Emit<'_, '_>, p: &Product) -> Map {
        let start = match p.start {
            Start::Zero => None,
            Start::Bias(id) => Some(self.weight(e, id)),
            Start::Buffer(b) => Some(self.buffer(e, b)),
        };
        Map { terms: self.terms(e, &p.segments), start, out: p.out }
    }

    /// The output layer, after what must be done to its input.
    fn output(&self, e: &mut Emit<'_, '_>) -> Map {
        for step in &self.plan.output.prologue {
            emit_step(e, self, None, step);
        }
        self.map(e, &self.plan.output.product)
    }
}

fn body(
    plan: &Plan,
    entry: Entry,
    e: &mut Emit<'_, '_>,
    p: &[Value],
    callees: &[(Entry, FuncRef)],
) -> Vec<Value> {
    let call = |entry: Entry| {
        // `Entry::callees` names what a body calls.
        callees.iter().find(|(e, _)| *e == entry).expect("the callee is declared").1
    };
    match entry {
        Entry::Advance => {
            let frame = Frame { plan, weights: p[0], state: Some(p[1]), scratch: p[2] };
            for step in &plan.steps {
                emit_step(e, &frame, Some(p[3]), step);
            }
            vec![]
        }
        Entry::Logits => {
            let frame = Frame { plan, weights: p[0], state: None, scratch: p[1] };
            let map = frame.output(e);
            output::store_exact(e, &map, p[2]);
            vec![]
        }
        Entry::Score => {
            let logits = e.offset(p[1], plan.logits.offset * 4);
            e.b.ins().call(call(Entry::Logits), &[p[0], p[1], logits]);
            vec![output::score(e, logits, plan.vocabulary, p[2])]
        }
        Entry::TopK => {
            let logits = e.offset(p[1], plan.logits.offset * 4);
            e.b.ins().call(call(Entry::Logits), &[p[0], p[1], logits]);
            let best = Best { ids: p[2], values: p[3], k: p[4] };
            output::top_k(e, logits, plan.vocabulary, &best, call(Entry::Insert));
            vec![]
        }
        Entry::Insert => vec![output::insert(e, p)],
        Entry::Phase(n) => {
            let frame = Frame { plan, weights: p[0], state: Some(p[1]), scratch: p[2] };
            let phase = &plan.phases()[n];
            let range = phase.panels.map(|_| [p[5], p[6]]);
            for &part in &phase.parts {
                emit_part(e, &frame, p[3], p[4], range, part);
            }
            vec![]
        }
        Entry::Recurrent(n) => {
            let frame = Frame { plan, weights: p[0], state: Some(p[2]), scratch: p[3] };
            if let Some(cell) = plan.cells().nth(n) {
                for step in &cell.prologue {
                    emit_step(e, &frame, None, step);
                }
                let map = Map { terms: frame.terms(e, &cell.recurrent), start: None, out: cell.gates.len };
                let gates = frame.buffer(e, cell.gates);
                cell::sums(e, &map, Some(p[1]), gates);
            }
            vec![]
        }
        Entry::Gather => {
            let frame = Frame { plan, weights: p[0], state: None, scratch: p[1] };
            let gather = |s: &&Step| matches!(s, Step::Gather { .. } | Step::GatherTrain { .. });
            if let Some(step) = plan.steps.iter().find(gather) {
                emit_step(e, &frame, Some(p[2]), step);
            }
            vec![]
        }
    }
}

/// A cell's operands.
fn cell_at<'p>(e: &mut Emit<'_, '_>, frame: &Frame<'_>, cell: &'p Cell) -> CellAt<'p> {
    let mut terms = frame.terms(e, &cell.inputs);
    terms.extend(frame.terms(e, &cell.recurrent));
    let start = Some(frame.weight(e, cell.bias));
    CellAt {
        cell,
        map: Map { terms, start, out: cell.gates.len },
        gates: frame.buffer(e, cell.gates),
        states: cell.states.iter().map(|s| frame.state(e, s.offset)).collect(),
        parameters: cell.parameters.map(|id| frame.weight(e, id)),
        out: frame.buffer(e, cell.out),
    }
}

/// A cell's step.
fn emit_cell(e: &mut Emit<'_, '_>, frame: &Frame<'_>, cell: &Cell) {
    for step in &cell.prologue {
        emit_step(e, frame, None, step);
    }
    let at = cell_at(e, frame, cell);
    cell::step(e, &at);
    keep(e, frame, cell);
}

/// The new first state replaces the old one.
fn keep(e: &mut Emit<'_, '_>, frame: &Frame<'_>, cell: &Cell) {
    let (from, to) = (frame.buffer(e, cell.out), frame.state(e, cell.h().offset));
    e.copy(from, to, cell.units);
}

/// A part of a phase; `range` is the panels that this thread has, where they are shared.
fn emit_part(
    e: &mut Emit<'_, '_>,
    frame: &Frame<'_>,
    token: Value,
    logits: Value,
    range: Option<[Value; 2]>,
    part: Part,
) {
    let cell = |n: usize| match &frame.plan.steps[n] {
        Step::Cell(cell) => cell,
        other => unreachable!("{other:?} is no cell"),
    };
    match (part, range) {
        (Part::Step(n), _) => emit_step(e, frame, Some(token), &frame.plan.steps[n]),
        (Part::Prologue(n), _) => {
            for step in &cell(n).prologue {
                emit_step(e, frame, None, step);
            }
        }
        (Part::Panels(n), _) => match &frame.plan.steps[n] {
            Step::Product { product, out } => {
                let (map, to) = (frame.map(e, product), frame.buffer(e, *out));
                match range {
                    Some(range) => product::store_range(e, &map, range, to, true),
                    None => output::store_padded(e, &map, to),
                }
            }
            _ => {
                let at = cell_at(e, frame, cell(n));
                match range {
                    Some(range) => cell::range(e, &at, range),
                    None => cell::step(e, &at),
                }
            }
        },
        (Part::Keep(n), _) => keep(e, frame, cell(n)),
        (Part::OutputPrologue, _) => {
            for step in &frame.plan.output.prologue {
                emit_step(e, frame, None, step);
            }
        }
        (Part::Output, range) => {
            let map = frame.map(e, &frame.plan.output.product);
            match range {
                Some(range) => product::store_range(e, &map, range, logits, false),
                None => output::store_exact(e, &map, logits),
            }
        }
    }
}

fn emit_step(e: &mut Emit<'_, '_>, frame: &Frame<'_>, token: Option<Value>, step: &Step) {
    let token = || token.expect("tables are read by the step that consumes the token");
    match step {
        Step::Gather { table, out } => {
            let (from, to) = (frame.weight(e, *table), frame.buffer(e, *out));
            match frame.plan.packed(*table).packing {
                Packing::Rows { rows, format: Rows::Codes { groups }, .. } => {
                    gather::codes(e, from, rows, token(), to, groups);
                }
                _ => gather::floats(e, from, token(), to, out.len),
            }
        }
        Step::GatherTrain { cores, out, work } => {
            let cores: Vec<_> =
                cores.iter().map(|&c| (frame.weight(e, c), &frame.plan.packed(c).packing)).collect();
            let (to, work) = (frame.buffer(e, *out), work.map(|b| frame.buffer(e, b)));
            gather::train(e, &cores, token(), to, work);
        }
        Step::Quantize { x, out } => {
            let (x, to) = (frame.vector(e, *x), frame.codes(e, *out));
            quantize::quantize(e, x, out.groups, to);
        }
        Step::Spread { codes, out } => {
            let (from, to) = (frame.codes(e, *codes), frame.buffer(e, *out));
            quantize::spread(e, from.codes, codes.groups.len, to);
        }
        Step::Round { x, out } => {
            let (from, to) = (frame.vector(e, *x), frame.buffer(e, *out));
            quantize::round(e, from, x.len(), to);
        }
        Step::Product { product, out } => {
            let (map, to) = (frame.map(e, product), frame.buffer(e, *out));
            output::store_padded(e, &map, to);
        }
        Step::Cell(cell) => emit_cell(e, frame, cell),
        Step::Map { formula, operands, out } => {
            let mut p = vec![frame.buffer(e, *out)];
            p.extend(operands.iter().map(|source| match source {
                Source::Buffer(b) => frame.buffer(e, *b),
                Source::Weight(id) | Source::Scalar(id) => frame.weight(e, *id),
            }));
            let strides: Vec<usize> = std::iter::once(VECTOR)
                .chain(operands.iter().map(|s| if matches!(s, Source::Scalar(_)) { 0 } else { VECTOR }))
                .collect();
            e.repeat(out.len.div_ceil(4), &p, |e, _, p| {
                formula::emit(e, formula, 1, &OneVector(p));
                p.iter().zip(&strides).map(|(&p, &stride)| e.offset(p, stride)).collect()
            });
        }
    }
}

/// Bytes of a vector.
const VECTOR: usize = 16;

/// One vector: the pointer of the result, then those of the operands.
struct OneVector<'a>(&'a [Value]);

impl Ends for OneVector<'_> {
    fn load(&self, e: &mut Emit<'_, '_>, input: usize) -> Vec<Value> {
        vec![e.load(F32X4, buffer_flags(), self.0[1 + input], 0)]
    }

    fn store(&self, e: &mut Emit<'_, '_>, _: usize, vectors: &[Value]) {
        e.store(buffer_flags(), vectors[0], self.0[0], 0);
    }
}
