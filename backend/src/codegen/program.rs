//! All functions of one program, in any `cranelift_module::Module`.

use super::emit::{Emit, F32X4, Features, buffer_flags, weight_flags};
use super::lstm::{self, Cell, Input};
use super::math;
use super::output::{self, Best, Panels};
use super::panel::Segment;
use crate::error::CompileError;
use crate::plan::{Buffer, Other, OutputLayer, PackedId, Plan, Step};
use cranelift_codegen::ir::{
    AbiParam, Function, InstBuilder, MemFlagsData, Signature, UserFuncName, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{Context, ir};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{FuncId, Linkage, Module};
use lstmc_frontend::ir::{Binary, Unary};

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
    /// One LSTM step whose input product is given.
    Recurrent(usize),
    /// The log-sum-exp of one row of logits.
    LogSumExp,
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
            Entry::LogSumExp => "log_sum_exp".into(),
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
            Entry::LogSumExp => (2, true),
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

/// Defines every function of `plan` in `module`. With `keep_text`, CLIF and disassembly are kept.
pub fn build(plan: &Plan, module: &mut dyn Module, keep_text: bool) -> Result<Program, CompileError> {
    let cells = plan.steps.iter().filter(|s| matches!(s, Step::Lstm { .. })).count();
    let entries = [Entry::Insert, Entry::Advance, Entry::Logits, Entry::Score, Entry::TopK, Entry::LogSumExp]
        .into_iter()
        .chain((0..cells).map(Entry::Recurrent));
    let mut program = Program { functions: vec![], clif: vec![], assembly: vec![] };
    let mut context = Context::new();
    let mut builder_context = FunctionBuilderContext::new();
    for entry in entries {
        let failed = |reason: String| CompileError::Codegen { function: entry.name(), reason };
        let signature = entry.signature(module);
        let id = module
            .declare_function(&entry.name(), Linkage::Export, &signature)
            .map_err(|e| failed(e.to_string()))?;
        program.functions.push((entry, id));
        module.clear_context(&mut context);
        context.func = Function::with_name_signature(UserFuncName::user(0, id.as_u32()), signature);
        let insert = program.functions[0].1;
        let insert = (entry == Entry::TopK).then(|| module.declare_func_in_func(insert, &mut context.func));
        {
            let mut builder = FunctionBuilder::new(&mut context.func, &mut builder_context);
            let block = builder.create_block();
            builder.append_block_params_for_function_params(block);
            builder.switch_to_block(block);
            builder.seal_block(block);
            let params = builder.block_params(block).to_vec();
            let mut e = Emit { b: &mut builder, features: features(module.isa()) };
            let results = body(plan, entry, &mut e, &params, insert);
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
    Features { fma: !x86 || flag("has_fma"), pointer: isa.pointer_type() }
}

/// The addresses a function finds its data at.
struct Frame<'p> {
    plan: &'p Plan,
    weights: Value,
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

    fn segment(&self, e: &mut Emit<'_, '_>, b: Buffer) -> Segment {
        Segment { address: self.buffer(e, b), count: b.len }
    }

    fn panels(
        &self,
        e: &mut Emit<'_, '_>,
        weights: PackedId,
        bias: PackedId,
        x: Buffer,
        out: usize,
    ) -> Panels {
        Panels { weights: self.weight(e, weights), bias: self.weight(e, bias), x: self.segment(e, x), out }
    }

    fn output(&self, e: &mut Emit<'_, '_>, layer: &OutputLayer) -> Panels {
        self.panels(e, layer.weights, layer.bias, layer.x, self.plan.vocabulary)
    }
}

fn body(
    plan: &Plan,
    entry: Entry,
    e: &mut Emit<'_, '_>,
    p: &[Value],
    insert: Option<ir::FuncRef>,
) -> Vec<Value> {
    match entry {
        Entry::Advance => {
            let frame = Frame { plan, weights: p[0], scratch: p[2] };
            for step in &plan.steps {
                emit_step(e, &frame, p[1], p[3], step);
            }
            vec![]
        }
        Entry::Logits => {
            let frame = Frame { plan, weights: p[0], scratch: p[1] };
            let map = frame.output(e, &plan.output);
            output::store_exact(e, &map, p[2]);
            vec![]
        }
        Entry::Score => {
            let frame = Frame { plan, weights: p[0], scratch: p[1] };
            let map = frame.output(e, &plan.output);
            let tile = frame.buffer(e, plan.tile);
            vec![output::score(e, &map, p[2], tile)]
        }
        Entry::TopK => {
            let frame = Frame { plan, weights: p[0], scratch: p[1] };
            let map = frame.output(e, &plan.output);
            let tile = frame.buffer(e, plan.tile);
            let best = Best { ids: p[2], values: p[3], k: p[4] };
            // `insert` is declared for this function by `build`.
            output::top_k(e, &map, &best, tile, insert.expect("declared for top_k"));
            vec![]
        }
        Entry::Insert => vec![output::insert(e, p)],
        Entry::Recurrent(n) => {
            let frame = Frame { plan, weights: p[0], scratch: p[3] };
            let cell = plan.steps.iter().filter(|s| matches!(s, Step::Lstm { .. })).nth(n);
            if let Some(Step::Lstm { weights, bias, h, c, out, x, .. }) = cell {
                let cell = Cell {
                    weights: frame.weight(e, *weights),
                    bias: frame.weight(e, *bias),
                    h: e.offset(p[2], h.offset * 4),
                    c: e.offset(p[2], c.offset * 4),
                    out: frame.buffer(e, *out),
                    hidden: h.len,
                    input: Input::Product { gates: p[1], rows: x.len },
                };
                lstm::step(e, &cell);
                e.copy(cell.out, cell.h, h.len);
            }
            vec![]
        }
        Entry::LogSumExp => vec![output::log_sum_exp(e, p[0], plan.vocabulary, p[1])],
    }
}

fn emit_step(e: &mut Emit<'_, '_>, frame: &Frame<'_>, state: Value, token: Value, step: &Step) {
    match step {
        Step::Gather { table, out } => {
            let (from, to) = (frame.weight(e, *table), frame.buffer(e, *out));
            let row = e.b.ins().imul_imm_s(token, (out.len * 4) as i64);
            let from = e.b.ins().iadd(from, row);
            gather(e, from, to, out.len);
        }
        Step::Lstm { x, weights, bias, h, c, out, .. } => {
            let cell = Cell {
                weights: frame.weight(e, *weights),
                bias: frame.weight(e, *bias),
                h: e.offset(state, h.offset * 4),
                c: e.offset(state, c.offset * 4),
                out: frame.buffer(e, *out),
                hidden: h.len,
                input: Input::Vector(frame.segment(e, *x)),
            };
            lstm::step(e, &cell);
            e.copy(cell.out, cell.h, h.len);
        }
        Step::Linear { x, weights, bias, out } => {
            let map = frame.panels(e, *weights, *bias, *x, out.len);
            let to = frame.buffer(e, *out);
            output::store_padded(e, &map, to);
        }
        Step::Unary { op, x, out } => {
            let (from, to) = (frame.buffer(e, *x), frame.buffer(e, *out));
            e.repeat(out.len.div_ceil(4), &[from, to], |e, _, p| {
                let v = e.load(F32X4, buffer_flags(), p[0], 0);
                let y = unary(e, *op, v);
                e.store(buffer_flags(), y, p[1], 0);
                vec![e.offset(p[0], 16), e.offset(p[1], 16)]
            });
        }
        Step::Binary { op, a, b, swapped, out } => {
            let (x, to) = (frame.buffer(e, *a), frame.buffer(e, *out));
            let (y, stride) = match b {
                Other::Buffer(b) => (frame.buffer(e, *b), 16),
                Other::Weight(id) => (frame.weight(e, *id), 16),
                Other::Scalar(id) => (frame.weight(e, *id), 0),
            };
            e.repeat(out.len.div_ceil(4), &[x, y, to], |e, _, p| {
                let a = e.load(F32X4, buffer_flags(), p[0], 0);
                let b = if stride == 0 {
                    let s = e.load(types::F32, buffer_flags(), p[1], 0);
                    e.splat(s)
                } else {
                    e.load(F32X4, buffer_flags(), p[1], 0)
                };
                let (a, b) = if *swapped { (b, a) } else { (a, b) };
                let y = binary(e, *op, a, b);
                e.store(buffer_flags(), y, p[2], 0);
                vec![e.offset(p[0], 16), e.offset(p[1], stride), e.offset(p[2], 16)]
            });
        }
    }
}

/// Copies a table row, which starts at any multiple of four bytes and must not be read past its end.
fn gather(e: &mut Emit<'_, '_>, from: Value, to: Value, len: usize) {
    let flags = MemFlagsData::new().with_notrap().with_readonly();
    let p = e.repeat(len / 4, &[from, to], |e, _, p| {
        let v = e.load(F32X4, flags, p[0], 0);
        e.store(buffer_flags(), v, p[1], 0);
        vec![e.offset(p[0], 16), e.offset(p[1], 16)]
    });
    for i in 0..len % 4 {
        let v = e.load(types::F32, flags, p[0], 4 * i);
        e.store(buffer_flags(), v, p[1], 4 * i);
    }
}

fn unary(e: &mut Emit<'_, '_>, op: Unary, x: Value) -> Value {
    match op {
        Unary::Tanh => math::tanh(e, x),
        Unary::Sigmoid => math::sigmoid(e, x),
        Unary::Relu => {
            let zero = e.constant(0.0);
            e.max(x, zero)
        }
    }
}

fn binary(e: &mut Emit<'_, '_>, op: Binary, a: Value, b: Value) -> Value {
    match op {
        Binary::Add => e.b.ins().fadd(a, b),
        Binary::Sub => e.b.ins().fsub(a, b),
        Binary::Mul => e.b.ins().fmul(a, b),
        Binary::Div => e.b.ins().fdiv(a, b),
    }
}
