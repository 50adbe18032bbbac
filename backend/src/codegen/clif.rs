//! [`Emit`] with Cranelift.

use super::Entry;
use super::emit::{
    Binary, Branch, Constant, Data, Emit, Features, Memory, Next, Quad, Test, Turn, Type, Unary, Value,
    WhileTurn,
};
use crate::isa::{has_dot, has_fma, plan_target};
use crate::plan::Target;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, types};
use cranelift_codegen::ir::{
    BlockArg, Endianness, FuncRef, GlobalValue, InstBuilder, MemFlagsData, StackSlotData, StackSlotKind,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::FunctionBuilder;
use lstmc_frontend::ir::PackedWidth;
use target_lexicon::Architecture;

/// A function under construction.
pub(crate) struct Clif<'a, 'f> {
    b: &'a mut FunctionBuilder<'f>,
    /// The functions that it may call.
    callees: &'a [(Entry, FuncRef)],
    /// The data that it may refer to.
    data: &'a [(Data, GlobalValue)],
    features: Features,
    /// Fused multiply-add is an instruction.
    fma: bool,
    arm: bool,
    /// The type of an address.
    pointer: ir::Type,
}

fn value(v: ir::Value) -> Value {
    Value(v.as_u32())
}

/// As a Cranelift variable.
fn raw(v: Value) -> ir::Value {
    ir::Value::from_u32(v.0)
}

fn flags(memory: Memory) -> MemFlagsData {
    match memory {
        Memory::Weights => MemFlagsData::trusted().with_readonly().with_can_move(),
        Memory::Rows => MemFlagsData::new().with_notrap().with_readonly(),
        Memory::Buffer => MemFlagsData::trusted(),
        Memory::Caller => MemFlagsData::new().with_notrap(),
    }
}

fn block_args(values: impl IntoIterator<Item = Value>) -> Vec<BlockArg> {
    values.into_iter().map(|v| raw(v).into()).collect()
}

impl<'a, 'f> Clif<'a, 'f> {
    pub(crate) fn new(
        b: &'a mut FunctionBuilder<'f>,
        isa: &dyn TargetIsa,
        callees: &'a [(Entry, FuncRef)],
        data: &'a [(Data, GlobalValue)],
    ) -> Clif<'a, 'f> {
        let Target { signed_bytes, pairs, .. } = plan_target(isa);
        let features = Features { dot: has_dot(isa), signed_bytes, pairs, sums: false };
        let arm = matches!(isa.triple().architecture, Architecture::Aarch64(_));
        Clif { b, callees, data, features, fma: has_fma(isa), arm, pointer: isa.pointer_type() }
    }

    /// Emits the rest of a function, from its parameters.
    pub(crate) fn function(
        mut self,
        p: &[ir::Value],
        body: impl FnOnce(&mut dyn Emit, &[Value]) -> Option<Value>,
    ) {
        let p: Vec<Value> = p.iter().copied().map(value).collect();
        let result = body(&mut self, &p).map(raw);
        self.b.ins().return_(result.as_slice());
    }

    fn ty(&self, ty: Type) -> ir::Type {
        match ty {
            Type::F32 => types::F32,
            Type::F32x4 => types::F32X4,
            Type::I8 => types::I8,
            Type::I8x16 => types::I8X16,
            Type::I16x8 => types::I16X8,
            Type::I32 => types::I32,
            Type::I32x4 => types::I32X4,
            Type::Address => self.pointer,
            Type::U8 | Type::U16 | Type::I16x4 => unreachable!("no value has this type"),
        }
    }

    fn type_of(&self, v: Value) -> ir::Type {
        self.b.func.dfg.value_type(raw(v))
    }

    fn vconst(&mut self, ty: ir::Type, bytes: &[u8]) -> Value {
        let constant = self.b.func.dfg.constants.insert(bytes.into());
        value(self.b.ins().vconst(ty, constant))
    }

    /// Gives each of the blocks parameters with the types of some values.
    fn append_params(&mut self, blocks: &[ir::Block], like: &[Value]) {
        for &v in like {
            let ty = self.type_of(v);
            blocks.iter().for_each(|&block| _ = self.b.append_block_param(block, ty));
        }
    }

    fn params(&self, block: ir::Block) -> Vec<Value> {
        self.b.block_params(block).iter().copied().map(value).collect()
    }

    /// Continues in a block that has no other predecessor.
    fn begin(&mut self, block: ir::Block) {
        self.b.switch_to_block(block);
        self.b.seal_block(block);
    }

    /// Whether [`Emit::load_quad`] widens activations: the even and the odd bytes are multiplied apart, so that both products give each lane those of its own four bytes. arm64 has
    /// an instruction for neighbours.
    fn widens_quads(&self) -> bool {
        !self.features.dot && !self.features.pairs && !self.arm
    }

    /// The low and the high half of each lane, extended.
    fn apart(&mut self, x: ir::Value) -> [ir::Value; 2] {
        let half = i64::from(self.b.func.dfg.value_type(x).lane_bits() / 2);
        let low = self.b.ins().ishl_imm_s(x, half);
        [low, x].map(|x| self.b.ins().sshr_imm_s(x, half))
    }

    /// One `pmaddwd`.
    fn multiply_pairs(&mut self, x: ir::Value, y: ir::Value) -> ir::Value {
        let (a, b) = (self.b.ins().swiden_low(x), self.b.ins().swiden_low(y));
        let low = self.b.ins().imul(a, b);
        let (a, b) = (self.b.ins().swiden_high(x), self.b.ins().swiden_high(y));
        let high = self.b.ins().imul(a, b);
        self.b.ins().iadd_pairwise(low, high)
    }

    /// Adds the sums of neighbours of both vectors to `acc`.
    fn add_neighbours(&mut self, low: ir::Value, high: ir::Value, acc: Value) -> Value {
        let sum = self.b.ins().iadd_pairwise(low, high);
        value(self.b.ins().iadd(sum, raw(acc)))
    }
}

impl Emit for Clif<'_, '_> {
    fn features(&self) -> Features {
        self.features
    }

    fn size(&mut self, n: usize) -> Value {
        value(self.b.ins().iconst(self.pointer, n as i64))
    }

    fn i32(&mut self, n: i32) -> Value {
        value(self.b.ins().iconst(types::I32, i64::from(n)))
    }

    fn f32(&mut self, x: f32) -> Value {
        value(self.b.ins().f32const(x))
    }

    fn constant(&mut self, x: f32) -> Value {
        let bytes: Vec<u8> = [x; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        self.vconst(types::F32X4, &bytes)
    }

    fn bytes(&mut self, bytes: [u8; 16]) -> Value {
        self.vconst(types::I8X16, &bytes)
    }

    fn address(&mut self, data: Data) -> Value {
        let global = self.data.iter().find(|(d, _)| *d == data).expect("the data is declared").1;
        value(self.b.ins().symbol_value(self.pointer, global))
    }

    fn load(&mut self, ty: Type, memory: Memory, address: Value, bytes: usize) -> Value {
        let (flags, address, bytes) = (flags(memory), raw(address), bytes as i32);
        value(match ty {
            Type::U8 => self.b.ins().uload8(self.pointer, flags, address, bytes),
            Type::U16 => self.b.ins().uload16(self.pointer, flags, address, bytes),
            Type::I16x4 => self.b.ins().sload16x4(flags, address, bytes),
            ty => {
                let ty = self.ty(ty);
                self.b.ins().load(ty, flags, address, bytes)
            }
        })
    }

    fn store(&mut self, memory: Memory, value: Value, address: Value, bytes: usize) {
        self.b.ins().store(flags(memory), raw(value), raw(address), bytes as i32);
    }

    fn load_address(&mut self, table: Value, n: usize) -> Value {
        self.load(Type::Address, Memory::Weights, table, n * self.pointer.bytes() as usize)
    }

    fn load_address_at(&mut self, table: Value, n: Value) -> Value {
        let at = self.advance(table, n, self.pointer.bytes() as usize);
        self.load(Type::Address, Memory::Caller, at, 0)
    }

    fn load_indices(&mut self, address: Value) -> [Value; 4] {
        let all = self.b.ins().load(types::I64, flags(Memory::Weights), raw(address), 0);
        [0, 16, 32, 48].map(|shift| {
            let x = if shift == 0 { all } else { self.b.ins().ushr_imm_u(all, shift) };
            value(if shift == 48 { x } else { self.b.ins().band_imm_s(x, 0xffff) })
        })
    }

    fn load_quad(&mut self, address: Value, bytes: usize) -> Quad {
        // As an f32, whose load and broadcast are one instruction; no arithmetic is done on it.
        let quad = self.load(Type::F32, Memory::Buffer, address, bytes);
        let all = self.splat(quad);
        if !self.widens_quads() {
            return [self.cast(Type::I8x16, all); 2];
        }
        let words = raw(self.cast(Type::I16x8, all));
        self.apart(words).map(value)
    }

    fn stack(&mut self, bytes: usize) -> Value {
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, 4);
        let slot = self.b.create_sized_stack_slot(data);
        value(self.b.ins().stack_addr(self.pointer, slot, 0))
    }

    fn unary(&mut self, op: Unary, x: Value) -> Value {
        let ty = self.type_of(x);
        let float = if ty.is_vector() { types::F32X4 } else { types::F32 };
        let (x, pointer, ins) = (raw(x), self.pointer, self.b.ins());
        value(match op {
            Unary::Neg => ins.fneg(x),
            Unary::Abs => ins.fabs(x),
            Unary::Sqrt => ins.sqrt(x),
            Unary::ToFloat => ins.fcvt_from_sint(float, x),
            Unary::Extend => ins.uextend(pointer, x),
            Unary::Truncate => ins.ireduce(types::I32, x),
            Unary::Splat => ins.splat(ty.by(128 / ty.bits()).expect("a vector of sixteen bytes"), x),
            Unary::Any => ins.vany_true(x),
            Unary::IsNotZero => ins.icmp_imm_s(IntCC::NotEqual, x, 0),
            Unary::IsZero => ins.icmp_imm_s(IntCC::Equal, x, 0),
        })
    }

    fn binary(&mut self, op: Binary, x: Value, y: Value) -> Value {
        let float = self.type_of(x).lane_type().is_float();
        let (x, y, ins) = (raw(x), raw(y), self.b.ins());
        value(match (op, float) {
            (Binary::Add, true) => ins.fadd(x, y),
            (Binary::Add, false) => ins.iadd(x, y),
            (Binary::Sub, true) => ins.fsub(x, y),
            (Binary::Sub, false) => ins.isub(x, y),
            (Binary::Mul, true) => ins.fmul(x, y),
            (Binary::Mul, false) => ins.imul(x, y),
            (Binary::Div, _) => ins.fdiv(x, y),
            (Binary::And, _) => ins.band(x, y),
            (Binary::Or, _) => ins.bor(x, y),
            (Binary::Equal, _) => ins.icmp(IntCC::Equal, x, y),
            (Binary::Less, true) => ins.fcmp(FloatCC::LessThan, x, y),
            (Binary::Less, false) => ins.icmp(IntCC::UnsignedLessThan, x, y),
            (Binary::Greater, true) => ins.fcmp(FloatCC::GreaterThan, x, y),
            (Binary::Greater, false) => ins.icmp(IntCC::UnsignedGreaterThan, x, y),
        })
    }

    fn with_constant(&mut self, op: Constant, x: Value, n: i64) -> Value {
        let (x, ins) = (raw(x), self.b.ins());
        value(match op {
            Constant::Add => ins.iadd_imm_s(x, n),
            Constant::Mul => ins.imul_imm_s(x, n),
            Constant::Xor => ins.bxor_imm_s(x, n),
            Constant::ShiftLeft => ins.ishl_imm_s(x, n),
            Constant::ShiftRight => ins.sshr_imm_s(x, n),
        })
    }

    fn is_above(&mut self, x: Value, n: u32) -> Value {
        value(self.b.ins().icmp_imm_s(IntCC::UnsignedGreaterThan, raw(x), i64::from(n)))
    }

    fn select(&mut self, condition: Value, x: Value, y: Value) -> Value {
        if !self.type_of(x).is_vector() {
            return value(self.b.ins().select(raw(condition), raw(x), raw(y)));
        }
        let mask = self.cast(Type::F32x4, condition);
        value(self.b.ins().bitselect(raw(mask), raw(x), raw(y)))
    }

    fn mul_add(&mut self, x: Value, y: Value, z: Value) -> Value {
        if self.fma {
            value(self.b.ins().fma(raw(x), raw(y), raw(z)))
        } else {
            let p = self.mul(x, y);
            self.add(p, z)
        }
    }

    fn shift_right(&mut self, x: Value, bits: Value) -> Value {
        value(self.b.ins().ushr(raw(x), raw(bits)))
    }

    fn divide(&mut self, x: Value, n: usize) -> [Value; 2] {
        let n = self.size(n);
        let rest = self.b.ins().urem(raw(x), raw(n));
        let quotient = self.b.ins().udiv(raw(x), raw(n));
        [quotient, rest].map(value)
    }

    fn lane(&mut self, x: Value, lane: u8) -> Value {
        value(self.b.ins().extractlane(raw(x), lane))
    }

    fn cast(&mut self, ty: Type, x: Value) -> Value {
        let ty = self.ty(ty);
        let flags = MemFlagsData::new();
        let flags = if ty.is_vector() { flags.with_endianness(Endianness::Little) } else { flags };
        value(self.b.ins().bitcast(ty, flags, raw(x)))
    }

    fn widen(&mut self, bytes: Value) -> [Value; 4] {
        let halves = [self.b.ins().swiden_low(raw(bytes)), self.b.ins().swiden_high(raw(bytes))];
        let [[a, b], [c, d]] = halves.map(|x| [self.b.ins().swiden_low(x), self.b.ins().swiden_high(x)]);
        [a, b, c, d].map(value)
    }

    fn narrow(&mut self, words: [Value; 4]) -> Value {
        let [a, b, c, d] = words.map(raw);
        let (low, high) = (self.b.ins().snarrow(a, b), self.b.ins().snarrow(c, d));
        value(self.b.ins().snarrow(low, high))
    }

    /// This tree of exact operations is matched by the code generator as one instruction: `vpdpbusd`, `sdot`.
    fn dot(&mut self, weights: Value, activations: Value, acc: Value) -> Value {
        let (weights, activations) = (raw(weights), raw(activations));
        let signed = self.features.signed_bytes;
        let [low, high] = [false, true].map(|high| {
            let ins = self.b.ins();
            let a = if high { ins.swiden_high(activations) } else { ins.swiden_low(activations) };
            let ins = self.b.ins();
            let w = match (signed, high) {
                (true, false) => ins.swiden_low(weights),
                (true, true) => ins.swiden_high(weights),
                (false, false) => ins.uwiden_low(weights),
                (false, true) => ins.uwiden_high(weights),
            };
            let p = self.b.ins().imul(a, w);
            let (low, high) = (self.b.ins().swiden_low(p), self.b.ins().swiden_high(p));
            self.b.ins().iadd_pairwise(low, high)
        });
        self.add_neighbours(low, high, acc)
    }

    fn dot_quad(&mut self, weights: Value, quad: Quad, acc: Value) -> Value {
        if !self.widens_quads() {
            return self.dot(weights, quad[0], acc);
        }
        let words = raw(self.cast(Type::I16x8, weights));
        if self.features.signed_bytes {
            let [even, odd] = self.apart(words);
            let (even, odd) = (self.b.ins().imul(even, raw(quad[0])), self.b.ins().imul(odd, raw(quad[1])));
            // At most 2 * 128 * 127.
            let pairs = value(self.b.ins().iadd(even, odd));
            let pairs = raw(self.cast(Type::I32x4, pairs));
            let [even, odd] = self.apart(pairs);
            let sum = self.b.ins().iadd(even, odd);
            return value(self.b.ins().iadd(sum, raw(acc)));
        }
        let low = raw(self.vconst(types::I16X8, &[0xff, 0].repeat(8)));
        let even = self.b.ins().band(words, low);
        let odd = self.b.ins().ushr_imm_u(words, 8);
        let (even, odd) = (self.multiply_pairs(even, raw(quad[0])), self.multiply_pairs(odd, raw(quad[1])));
        let sum = self.b.ins().iadd(even, odd);
        value(self.b.ins().iadd(sum, raw(acc)))
    }

    fn sums(&mut self, _: PackedWidth, _: [Value; 2], _: usize) -> Vec<Value> {
        unreachable!("Cranelift has no such operation")
    }

    fn signs(&mut self, bytes: Value) -> [Value; 2] {
        let zero = raw(self.bytes([0; 16]));
        let above = self.b.ins().smax(raw(bytes), zero);
        let below = self.b.ins().isub(above, raw(bytes));
        [above, below].map(value)
    }

    fn pairs(&mut self, unsigned: Value, signed: Value) -> Value {
        value(self.b.ins().x86_pmaddubsw(raw(signed), raw(unsigned)))
    }

    /// One `pmaddwd` with ones, and the sum.
    fn add_pairs(&mut self, pairs: Value, acc: Value) -> Value {
        let (low, high) = (self.b.ins().swiden_low(raw(pairs)), self.b.ins().swiden_high(raw(pairs)));
        self.add_neighbours(low, high, acc)
    }

    fn call(&mut self, entry: Entry, arguments: &[Value]) -> Option<Value> {
        // `Entry::shape` names what a body calls.
        let callee = self.callees.iter().find(|(e, _)| *e == entry).expect("the callee is declared").1;
        let arguments: Vec<ir::Value> = arguments.iter().copied().map(raw).collect();
        let call = self.b.ins().call(callee, &arguments);
        self.b.inst_results(call).first().copied().map(value)
    }

    fn repeat_from(
        &mut self,
        start: Value,
        end: Value,
        carried: &[Value],
        turn: &mut Turn<'_>,
    ) -> Vec<Value> {
        let (head, after) = (self.b.create_block(), self.b.create_block());
        self.append_params(&[head], &[start]);
        self.append_params(&[head, after], carried);
        let entry = block_args([start].into_iter().chain(carried.iter().copied()));
        self.b.ins().jump(head, &entry);
        self.b.switch_to_block(head);
        let params = self.params(head);
        let next = turn(self, params[0], &params[1..]);
        let i = self.with_constant(Constant::Add, params[0], 1);
        let more = self.less(i, end);
        let again = block_args([i].into_iter().chain(next.iter().copied()));
        self.b.ins().brif(raw(more), head, &again, after, &block_args(next));
        self.b.seal_block(head);
        self.begin(after);
        self.params(after)
    }

    fn choose_from(&mut self, condition: Value, otherwise: &[Value], then: &mut Branch<'_>) -> Vec<Value> {
        let (yes, after) = (self.b.create_block(), self.b.create_block());
        self.append_params(&[after], otherwise);
        self.b.ins().brif(raw(condition), yes, &[], after, &block_args(otherwise.iter().copied()));
        self.begin(yes);
        let values = then(self);
        self.b.ins().jump(after, &block_args(values));
        self.begin(after);
        self.params(after)
    }

    fn repeat_while(&mut self, carried: &[Value], turn: &mut WhileTurn<'_>) -> Vec<Value> {
        let (head, after) = (self.b.create_block(), self.b.create_block());
        self.append_params(&[head, after], carried);
        self.b.ins().jump(head, &block_args(carried.iter().copied()));
        self.b.switch_to_block(head);
        let params = self.params(head);
        let (more, next) = turn(self, &params);
        let next = block_args(next);
        self.b.ins().brif(raw(more), head, &next, after, &next);
        self.b.seal_block(head);
        self.begin(after);
        self.params(after)
    }

    fn return_if(&mut self, condition: Value, result: Value) {
        let (leave, stay) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(raw(condition), leave, &[], stay, &[]);
        self.begin(leave);
        self.b.ins().return_(&[raw(result)]);
        self.begin(stay);
    }

    fn descend(&mut self, x: Value, test: &mut Test<'_>, next: &mut Next<'_>) -> Value {
        let [head, look, go_on, done] = std::array::from_fn(|_| self.b.create_block());
        self.append_params(&[head], &[x]);
        self.b.ins().jump(head, &block_args([x]));
        self.b.switch_to_block(head);
        let at = self.params(head)[0];
        self.b.ins().brif(raw(at), look, &[], done, &[]);
        self.begin(look);
        let (condition, found) = test(self, at);
        self.b.ins().brif(raw(condition), go_on, &[], done, &[]);
        self.begin(go_on);
        let x = next(self, &found);
        self.b.ins().jump(head, &block_args([x]));
        self.b.seal_block(head);
        self.begin(done);
        at
    }
}
