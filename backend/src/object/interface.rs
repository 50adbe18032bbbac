//! The public functions of an object file, in CLIF: they check what a caller passes and call the program's entries.
//!
//! ```text
//!   state, 64-byte aligned:   [identity u64, zeros to 64][recurrent state f32][scratch]
//! ```
//!
//! The recurrent state is the plan's, each vector padded to whole panels. This layout is not part of the interface.
//!
//! The identity is written by `reset` and compared by everything else, so that memory that was never reset, or was reset by another model, is
//! refused.

use super::Status;
use super::vocabulary::STRIDE_BITS;
use crate::codegen::{self, Entry, Program, clear};
use crate::error::CompileError;
use crate::plan::Head;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{FuncRef, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{DataId, FuncId, Linkage, Module};

/// Version of the interface: it changes if a function's arguments or their meaning change.
pub const ABI_VERSION: u32 = 1;

/// Alignment of the caller's state.
pub const STATE_ALIGN: usize = 64;

/// The data that the public functions refer to.
pub(super) struct Parts<'p> {
    pub(super) name: &'p str,
    pub(super) program: &'p Program,
    pub(super) weights: DataId,
    pub(super) info: DataId,
    pub(super) words: Option<Words>,
    /// Words in the vocabulary.
    pub(super) vocabulary: usize,
    /// What a step writes, and f32s of it.
    pub(super) head: Head,
    pub(super) outputs: usize,
    /// Bytes from the start of the caller's memory to scratch, and to its end.
    pub(super) scratch: usize,
    pub(super) size: usize,
    /// The mark of this model's states.
    pub(super) identity: u64,
}

/// The vocabulary's tables; see [`super::vocabulary`].
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) strings: DataId,
    pub(super) places: DataId,
    pub(super) sorted: DataId,
    pub(super) short: bool,
    pub(super) unknown: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Public {
    AbiVersion,
    StateSize,
    StateAlign,
    VocabularySize,
    Info,
    Reset,
    Advance,
    Step,
    Score,
    TopK,
    Word,
    Token,
}

/// The public functions, in the header's order: the suffix of their names; their parameters and result, `p` as wide as a pointer and
/// `i` with 32 bits; and the program's functions that they call.
const ALL: [(Public, &str, &str, char, &[Entry]); 12] = [
    (Public::AbiVersion, "abi_version", "", 'i', &[]),
    (Public::StateSize, "state_size", "", 'p', &[]),
    (Public::StateAlign, "state_align", "", 'p', &[]),
    (Public::VocabularySize, "vocabulary_size", "", 'i', &[]),
    (Public::Info, "info", "", 'p', &[]),
    (Public::Reset, "reset", "ppi", 'i', &[Entry::Reset]),
    (Public::Advance, "advance", "pi", 'i', &[Entry::Advance]),
    (Public::Step, "step", "pipp", 'i', &[Entry::Advance, Entry::Logits]),
    (Public::Score, "score", "piip", 'i', &[Entry::Advance, Entry::Score]),
    (Public::TopK, "top_k", "pippp", 'i', &[Entry::Advance, Entry::TopK]),
    (Public::Word, "word", "i", 'p', &[]),
    (Public::Token, "token", "ppp", 'i', &[]),
];

/// The suffixes of all public symbols of a model with this output, in the header's order.
pub fn suffixes(head: Head) -> impl Iterator<Item = &'static str> {
    ALL.into_iter().filter(move |(public, ..)| public.is_of(head)).map(|(_, suffix, ..)| suffix)
}

impl Public {
    /// Whether a model with this output has the function: a hidden vector gives no probabilities of words.
    fn is_of(self, head: Head) -> bool {
        head == Head::Logits || !matches!(self, Public::Score | Public::TopK)
    }
}

/// Defines every public function in `module`.
pub(super) fn define(module: &mut dyn Module, parts: &Parts<'_>) -> Result<(), CompileError> {
    let pointer = module.target_config().pointer_type();
    let text = parts.words.map(|words| define_text(module, words)).transpose()?;
    for (public, suffix, parameters, result, calls) in ALL.into_iter().filter(|f| f.0.is_of(parts.head)) {
        let name = format!("{}_{suffix}", parts.name);
        let ty = |c| if c == 'p' { pointer } else { types::I32 };
        let signature = (parameters.chars().map(ty).collect(), Some(ty(result)));
        codegen::define(module, &name, Linkage::Export, signature, None, |module, b, p| {
            // All are built but the one of states that start at zero.
            let entries =
                calls.iter().filter_map(|call| parts.program.functions.iter().find(|(e, _)| e == call));
            let calls = entries.map(|(_, id)| module.declare_func_in_func(*id, b.func)).collect();
            let text = text.filter(|_| matches!(public, Public::Word | Public::Token));
            let text = text.map(|id| module.declare_func_in_func(id, b.func));
            let mut body = Body { b, pointer, module, parts, calls, text };
            let result = body.emit(public, p);
            body.b.ins().return_(&[result]);
        })?;
    }
    Ok(())
}

/// Memory flags for the state and our own tables.
fn aligned() -> MemFlagsData {
    MemFlagsData::trusted()
}

/// Memory flags for the caller's memory and for words.
fn anywhere() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// Defines `text(id) -> address`, which finds an existing word: it goes to the stride's first word and skips those before the requested one.
fn define_text(module: &mut dyn Module, words: Words) -> Result<FuncId, CompileError> {
    let pointer = module.target_config().pointer_type();
    let signature = (vec![pointer], Some(pointer));
    codegen::define(module, "text", Linkage::Local, signature, None, |module, b, p| {
        let [head, skip, done] = std::array::from_fn(|_| b.create_block());
        b.append_block_param(head, pointer);
        b.append_block_param(head, pointer);
        b.append_block_param(skip, pointer);
        let word = p[0];
        let address = |data: DataId, b: &mut FunctionBuilder<'_>| {
            let global = module.declare_data_in_func(data, b.func);
            b.ins().symbol_value(pointer, global)
        };
        let (strings, places) = (address(words.strings, b), address(words.places, b));
        let stride = b.ins().ushr_imm_u(word, i64::from(STRIDE_BITS));
        let at = b.ins().ishl_imm_u(stride, 2);
        let at = b.ins().iadd(places, at);
        let place = b.ins().load(types::I32, aligned(), at, 0);
        let place = b.ins().uextend(pointer, place);
        let first = b.ins().iadd(strings, place);
        let before = b.ins().band_imm_s(word, (1 << STRIDE_BITS) - 1);
        b.ins().jump(head, &[first.into(), before.into()]);

        b.switch_to_block(head);
        let (text, left) = (b.block_params(head)[0], b.block_params(head)[1]);
        b.ins().brif(left, skip, &[text.into()], done, &[]);

        b.switch_to_block(skip);
        let at = b.block_params(skip)[0];
        let byte = b.ins().load(types::I8, anywhere(), at, 0);
        let after = b.ins().iadd_imm_s(at, 1);
        let fewer = b.ins().iadd_imm_s(left, -1);
        b.ins().brif(byte, skip, &[after.into()], head, &[after.into(), fewer.into()]);

        b.switch_to_block(done);
        b.ins().return_(&[text]);
        b.seal_all_blocks();
    })
}

/// A public function under construction.
struct Body<'a, 'b, 'f> {
    b: &'b mut FunctionBuilder<'f>,
    /// The type of an address.
    pointer: Type,
    module: &'a mut dyn Module,
    parts: &'a Parts<'a>,
    calls: Vec<FuncRef>,
    text: Option<FuncRef>,
}

impl Body<'_, '_, '_> {
    fn emit(&mut self, public: Public, p: &[Value]) -> Value {
        let parts = self.parts;
        match public {
            Public::AbiVersion => self.int(ABI_VERSION),
            Public::StateSize => self.size(parts.size),
            Public::StateAlign => self.size(STATE_ALIGN),
            Public::VocabularySize => self.int(parts.vocabulary as u32),
            Public::Info => self.address(parts.info),
            Public::Reset => self.reset(p),
            Public::Advance => {
                self.check_state(p[0]);
                let token = self.check_token(p[1]);
                self.advance(p[0], token);
                self.ok()
            }
            Public::Step => {
                self.check_state(p[0]);
                let token = self.check_token(p[1]);
                self.refuse_null(p[2]);
                let outputs = self.size(parts.outputs);
                self.refuse_if(IntCC::UnsignedLessThan, p[3], outputs, Status::Size);
                let (weights, scratch) = self.advance(p[0], token);
                self.b.ins().call(self.calls[1], &[weights, scratch, p[2]]);
                self.ok()
            }
            Public::Score => {
                self.check_state(p[0]);
                let (token, target) = (self.check_token(p[1]), self.check_token(p[2]));
                self.refuse_null(p[3]);
                let (weights, scratch) = self.advance(p[0], token);
                let call = self.b.ins().call(self.calls[1], &[weights, scratch, target]);
                let score = self.b.inst_results(call)[0];
                self.b.ins().store(anywhere(), score, p[3], 0);
                self.ok()
            }
            Public::TopK => {
                self.check_state(p[0]);
                let token = self.check_token(p[1]);
                let (k, words) = (p[2], self.size(parts.vocabulary));
                let zero = self.size(0);
                self.refuse_if(IntCC::Equal, k, zero, Status::Size);
                self.refuse_if(IntCC::UnsignedGreaterThan, k, words, Status::Size);
                self.refuse_null(p[3]);
                self.refuse_null(p[4]);
                let (weights, scratch) = self.advance(p[0], token);
                self.b.ins().call(self.calls[1], &[weights, scratch, p[3], p[4], k]);
                self.ok()
            }
            Public::Word => self.word(p[0]),
            Public::Token => self.token(p),
        }
    }

    /// `reset(state, size, abi_version)`.
    fn reset(&mut self, p: &[Value]) -> Value {
        let version = self.int(ABI_VERSION);
        self.refuse_if(IntCC::NotEqual, p[2], version, Status::Version);
        self.check_memory(p[0]);
        let size = self.size(self.parts.size);
        self.refuse_if(IntCC::UnsignedLessThan, p[1], size, Status::Size);
        clear(self.b, self.module.isa(), p[0], self.parts.size);
        if let Some(&reset) = self.calls.first() {
            let (weights, recurrent) = (self.address(self.parts.weights), self.offset(p[0], STATE_ALIGN));
            self.b.ins().call(reset, &[weights, recurrent]);
        }
        let identity = self.identity();
        self.b.ins().store(aligned(), identity, p[0], 0);
        self.ok()
    }

    /// Consumes a token; returns the addresses of the weights' table and of scratch.
    fn advance(&mut self, state: Value, token: Value) -> (Value, Value) {
        let weights = self.address(self.parts.weights);
        let (recurrent, scratch) = (self.offset(state, STATE_ALIGN), self.offset(state, self.parts.scratch));
        self.b.ins().call(self.calls[0], &[weights, recurrent, scratch, token]);
        (weights, scratch)
    }

    /// `word(id)`: an address, or null.
    fn word(&mut self, id: Value) -> Value {
        let null = self.size(0);
        if self.parts.words.is_none() {
            return null;
        }
        let count = self.int(self.parts.vocabulary as u32);
        let bad = self.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, id, count);
        self.return_if(bad, null);
        let id = self.widen(id);
        self.text_of(id)
    }

    /// The address of an existing word.
    fn text_of(&mut self, id: Value) -> Value {
        let text = self.text.expect("what has words has the function that finds them");
        let call = self.b.ins().call(text, &[id]);
        self.b.inst_results(call)[0]
    }

    /// `token(word, length, id)`: a binary search in the sorted words.
    fn token(&mut self, p: &[Value]) -> Value {
        let (word, length, out) = (p[0], p[1], p[2]);
        self.refuse_null(word);
        self.refuse_null(out);
        let Some(words) = self.parts.words else { return self.int(Status::Vocabulary as u32) };
        let sorted = self.address(words.sorted);
        let [head, look, next, ended, compare, same, step, found, missing] =
            std::array::from_fn(|_| self.b.create_block());
        for (block, ty) in
            [(head, self.pointer), (head, self.pointer), (next, self.pointer), (step, types::I8)]
        {
            self.b.append_block_param(block, ty);
        }
        let (zero, count) = (self.size(0), self.size(self.parts.vocabulary));
        self.b.ins().jump(head, &[zero.into(), count.into()]);

        self.b.switch_to_block(head);
        let (low, high) = (self.b.block_params(head)[0], self.b.block_params(head)[1]);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, low, high);
        self.b.ins().brif(more, look, &[], missing, &[]);

        self.b.switch_to_block(look);
        let sum = self.b.ins().iadd(low, high);
        let middle = self.b.ins().ushr_imm_u(sum, 1);
        let (ty, shift) = if words.short { (types::I16, 1) } else { (types::I32, 2) };
        let at = self.b.ins().ishl_imm_u(middle, shift);
        let at = self.b.ins().iadd(sorted, at);
        let id = self.b.ins().load(ty, anywhere(), at, 0);
        let id = self.widen(id);
        let text = self.text_of(id);
        self.b.ins().jump(next, &[zero.into()]);

        // One byte: the requested word may end here, or the stored one.
        self.b.switch_to_block(next);
        let i = self.b.block_params(next)[0];
        let there = self.b.ins().iadd(text, i);
        let there = self.b.ins().load(types::I8, anywhere(), there, 0);
        let all = self.b.ins().icmp(IntCC::Equal, i, length);
        self.b.ins().brif(all, ended, &[], compare, &[]);

        self.b.switch_to_block(ended);
        let longer = self.b.ins().iconst(types::I8, 0);
        self.b.ins().brif(there, step, &[longer.into()], found, &[]);

        self.b.switch_to_block(compare);
        let wanted = self.b.ins().iadd(word, i);
        let wanted = self.b.ins().load(types::I8, anywhere(), wanted, 0);
        let equal = self.b.ins().icmp(IntCC::Equal, there, wanted);
        let below = self.b.ins().icmp(IntCC::UnsignedLessThan, there, wanted);
        self.b.ins().brif(equal, same, &[], step, &[below.into()]);

        // A NUL in the requested word must not lead past the end of the stored one.
        self.b.switch_to_block(same);
        let after = self.b.ins().iadd_imm_s(i, 1);
        let shorter = self.b.ins().iconst(types::I8, 1);
        self.b.ins().brif(there, next, &[after.into()], step, &[shorter.into()]);

        self.b.switch_to_block(step);
        let less = self.b.block_params(step)[0];
        let above = self.b.ins().iadd_imm_s(middle, 1);
        let (low, high) = (self.b.ins().select(less, above, low), self.b.ins().select(less, high, middle));
        self.b.ins().jump(head, &[low.into(), high.into()]);

        self.b.switch_to_block(found);
        let id = self.b.ins().ireduce(types::I32, id);
        self.b.ins().store(anywhere(), id, out, 0);
        let ok = self.ok();
        self.b.ins().return_(&[ok]);

        self.b.switch_to_block(missing);
        self.b.seal_all_blocks();
        let unknown = self.int(words.unknown);
        self.b.ins().store(anywhere(), unknown, out, 0);
        self.int(Status::Word as u32)
    }

    fn check_memory(&mut self, state: Value) {
        self.refuse_null(state);
        let low = self.b.ins().band_imm_s(state, STATE_ALIGN as i64 - 1);
        let zero = self.size(0);
        self.refuse_if(IntCC::NotEqual, low, zero, Status::Misaligned);
    }

    fn check_state(&mut self, state: Value) {
        self.check_memory(state);
        let have = self.b.ins().load(types::I64, aligned(), state, 0);
        let want = self.identity();
        self.refuse_if(IntCC::NotEqual, have, want, Status::State);
    }

    /// The token, pointer-sized.
    fn check_token(&mut self, token: Value) -> Value {
        let words = self.int(self.parts.vocabulary as u32);
        self.refuse_if(IntCC::UnsignedGreaterThanOrEqual, token, words, Status::Token);
        self.widen(token)
    }

    fn refuse_null(&mut self, pointer: Value) {
        let zero = self.size(0);
        self.refuse_if(IntCC::Equal, pointer, zero, Status::Null);
    }

    fn refuse_if(&mut self, bad: IntCC, a: Value, b: Value, status: Status) {
        let bad = self.b.ins().icmp(bad, a, b);
        let status = self.int(status as u32);
        self.return_if(bad, status);
    }

    fn return_if(&mut self, condition: Value, result: Value) {
        let (leave, stay) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, leave, &[], stay, &[]);
        self.b.switch_to_block(leave);
        self.b.seal_block(leave);
        self.b.ins().return_(&[result]);
        self.b.switch_to_block(stay);
        self.b.seal_block(stay);
    }

    fn size(&mut self, n: usize) -> Value {
        self.b.ins().iconst(self.pointer, n as i64)
    }

    fn offset(&mut self, address: Value, bytes: usize) -> Value {
        self.b.ins().iadd_imm_s(address, bytes as i64)
    }

    fn ok(&mut self) -> Value {
        self.int(Status::Ok as u32)
    }

    fn int(&mut self, n: u32) -> Value {
        self.b.ins().iconst(types::I32, i64::from(n))
    }

    fn identity(&mut self) -> Value {
        self.b.ins().iconst(types::I64, self.parts.identity as i64)
    }

    fn widen(&mut self, id: Value) -> Value {
        self.b.ins().uextend(self.pointer, id)
    }

    fn address(&mut self, data: DataId) -> Value {
        let global = self.module.declare_data_in_func(data, self.b.func);
        self.b.ins().symbol_value(self.pointer, global)
    }
}
