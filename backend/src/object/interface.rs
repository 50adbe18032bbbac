//! The public functions of a model: they check what a caller passes and call the program's entries.
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
use crate::codegen::Entry;
use crate::codegen::emit::{Constant, Data, Emit, Memory, Type, Value};
use crate::plan::{Head, Phase};

/// Version of the interface: it changes if a function's arguments or their meaning change.
pub const ABI_VERSION: u32 = 1;

/// Alignment of the caller's state.
pub const STATE_ALIGN: usize = 64;

/// What the public functions know of their model.
pub(super) struct Parts {
    pub(super) words: Option<Words>,
    /// Words in the vocabulary.
    pub(super) vocabulary: usize,
    /// f32s that a step writes.
    pub(super) outputs: usize,
    /// Whether some states do not start at zero: the program then has a function that writes them.
    pub(super) starts: bool,
    /// Bytes from the start of the caller's memory to scratch, and to its end.
    pub(super) scratch: usize,
    pub(super) size: usize,
    /// The mark of this model's states.
    pub(super) identity: u64,
    pub(super) phases: Vec<Shares>,
}

/// The shares of a phase.
pub(super) struct Shares {
    count: usize,
    /// How many all streams take before the next ones.
    together: usize,
}

/// Bytes of weights that all streams use before the next ones: half of a first-level cache.
const TOGETHER: usize = 16 << 10;

impl Shares {
    pub(super) fn of(phase: &Phase) -> Shares {
        let count = phase.panels.unwrap_or(1).max(1);
        let together = (TOGETHER * count / phase.bytes.max(1)).clamp(1, count);
        Shares { count, together }
    }
}

/// What is known of the vocabulary's tables; see [`super::vocabulary`].
#[derive(Clone, Copy)]
pub(super) struct Words {
    /// Whether ids in the sorted table are u16.
    pub(super) short: bool,
    /// The token for unknown words, or `u32::MAX`.
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
    StepStreams,
    Score,
    TopK,
    Word,
    Token,
}

/// A public function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    public: Public,
    /// What follows the model's name in its own.
    pub(super) suffix: &'static str,
    /// Its parameters in C.
    pub(super) parameters: &'static [&'static str],
    /// Its result in C.
    pub(super) result: &'static str,
    /// The program's functions that it calls, besides phases.
    calls: &'static [Entry],
}

impl Function {
    /// Whether it depends on the processor's level.
    pub(super) fn differs(&self) -> bool {
        !self.calls.is_empty() || matches!(self.public, Public::Info | Public::StepStreams)
    }

    /// The functions that it calls of a program with so many phases.
    pub(super) fn calls(&self, phases: usize) -> Vec<Entry> {
        let phases = if self.public == Public::StepStreams { phases } else { 0 };
        self.calls.iter().copied().chain((0..phases).map(Entry::Phase)).collect()
    }
}

const fn function(
    public: Public,
    suffix: &'static str,
    parameters: &'static [&'static str],
    result: &'static str,
    calls: &'static [Entry],
) -> Function {
    Function { public, suffix, parameters, result, calls }
}

/// The public functions, in the header's order.
const ALL: [Function; 13] = [
    function(Public::AbiVersion, "abi_version", &[], "uint32_t", &[]),
    function(Public::StateSize, "state_size", &[], "size_t", &[]),
    function(Public::StateAlign, "state_align", &[], "size_t", &[]),
    function(Public::VocabularySize, "vocabulary_size", &[], "uint32_t", &[]),
    function(Public::Info, "info", &[], "const char *", &[]),
    function(Public::Reset, "reset", &["void *", "size_t", "uint32_t"], "int", &[Entry::Reset]),
    function(Public::Advance, "advance", &["void *", "uint32_t"], "int", &[Entry::Advance]),
    function(
        Public::Step,
        "step",
        &["void *", "uint32_t", "float *", "size_t"],
        "int",
        &[Entry::Advance, Entry::Logits],
    ),
    function(
        Public::StepStreams,
        "step_streams",
        &["void *const *", "const uint32_t *", "size_t", "float *", "size_t"],
        "int",
        &[],
    ),
    function(
        Public::Score,
        "score",
        &["void *", "uint32_t", "uint32_t", "float *"],
        "int",
        &[Entry::Advance, Entry::Score],
    ),
    function(
        Public::TopK,
        "top_k",
        &["void *", "uint32_t", "size_t", "uint32_t *", "float *"],
        "int",
        &[Entry::Advance, Entry::TopK],
    ),
    function(Public::Word, "word", &["uint32_t"], "const char *", &[]),
    function(Public::Token, "token", &["const char *", "size_t", "uint32_t *"], "int", &[]),
];

/// The type of a value that has this type in C.
pub(super) fn type_of(c: &str) -> Type {
    if matches!(c, "int" | "uint32_t") { Type::I32 } else { Type::Address }
}

/// The suffixes of all public symbols of a model with this output, in the header's order.
pub fn suffixes(head: Head) -> impl Iterator<Item = &'static str> {
    functions(head).map(|f| f.suffix)
}

/// The public functions of a model with this output: a hidden vector gives no probabilities of words.
pub(super) fn functions(head: Head) -> impl Iterator<Item = Function> {
    let is_of = move |f: &Function| head == Head::Logits || !matches!(f.public, Public::Score | Public::TopK);
    ALL.into_iter().filter(is_of)
}

/// Emits the body of a function with parameters `p`; returns its result.
pub(super) fn body(parts: &Parts, function: Function, e: &mut dyn Emit, p: &[Value]) -> Value {
    Body { e, parts }.emit(function.public, p)
}

/// A public function under construction.
struct Body<'a> {
    e: &'a mut dyn Emit,
    parts: &'a Parts,
}

impl Body<'_> {
    fn emit(&mut self, public: Public, p: &[Value]) -> Value {
        let parts = self.parts;
        match public {
            Public::AbiVersion => self.int(ABI_VERSION),
            Public::StateSize => self.e.size(parts.size),
            Public::StateAlign => self.e.size(STATE_ALIGN),
            Public::VocabularySize => self.int(parts.vocabulary as u32),
            Public::Info => self.e.address(Data::Info),
            Public::Reset => self.reset(p),
            Public::Advance => {
                self.check_state(p[0]);
                let token = self.check_token(p[1]);
                self.advance(p[0], token);
                self.status(Status::Ok)
            }
            Public::Step => {
                self.check_state(p[0]);
                let token = self.check_token(p[1]);
                self.refuse_null(p[2]);
                self.refuse_fewer(p[3], parts.outputs);
                let [weights, scratch] = self.advance(p[0], token);
                self.e.call(Entry::Logits, &[weights, scratch, p[2]]);
                self.status(Status::Ok)
            }
            Public::StepStreams => self.step_streams(p),
            Public::Score => {
                self.check_state(p[0]);
                let (token, target) = (self.check_token(p[1]), self.check_token(p[2]));
                self.refuse_null(p[3]);
                let [weights, scratch] = self.advance(p[0], token);
                let score = self.e.call(Entry::Score, &[weights, scratch, target]);
                self.e.store(Memory::Caller, score.expect("`score` has a result"), p[3], 0);
                self.status(Status::Ok)
            }
            Public::TopK => {
                self.check_state(p[0]);
                let token = self.check_token(p[1]);
                self.refuse_fewer(p[2], 1);
                let words = self.e.size(parts.vocabulary);
                let more = self.e.greater(p[2], words);
                self.refuse_if(more, Status::Size);
                self.refuse_null(p[3]);
                self.refuse_null(p[4]);
                let [weights, scratch] = self.advance(p[0], token);
                self.e.call(Entry::TopK, &[weights, scratch, p[3], p[4], p[2]]);
                self.status(Status::Ok)
            }
            Public::Word => self.word(p[0]),
            Public::Token => self.token(p),
        }
    }

    /// `reset(state, size, abi_version)`.
    fn reset(&mut self, p: &[Value]) -> Value {
        let version = self.int(ABI_VERSION);
        self.refuse_unless_equal(p[2], version, Status::Version);
        self.check_memory(p[0]);
        self.refuse_fewer(p[1], self.parts.size);
        self.e.clear(p[0], self.parts.size);
        if self.parts.starts {
            let (weights, recurrent) = (self.e.address(Data::Weights), self.e.offset(p[0], STATE_ALIGN));
            self.e.call(Entry::Reset, &[weights, recurrent]);
        }
        for (n, half) in self.identity().into_iter().enumerate() {
            self.e.store(Memory::Buffer, half, p[0], 4 * n);
        }
        self.status(Status::Ok)
    }

    /// `step_streams(states, tokens, streams, output, count)`: phase by phase, all streams one after another on a few shares at a time, whose weights stay in
    /// the first-level cache.
    fn step_streams(&mut self, p: &[Value]) -> Value {
        let (pointers, streams, out, parts) = ([p[0], p[1]], p[2], p[3], self.parts);
        let ok = self.status(Status::Ok);
        let none = self.e.is_zero(streams);
        self.e.return_if(none, ok);
        for pointer in [p[0], p[1], out] {
            self.refuse_null(pointer);
        }
        let [room, _] = self.e.divide(p[4], parts.outputs.max(1));
        let fewer = self.e.less(room, streams);
        self.refuse_if(fewer, Status::Size);
        // All are checked before any is changed.
        let zero = self.e.size(0);
        let checked = self.e.repeat_while(&[zero, zero], &mut |e, p| {
            let stream = stream(e, pointers, p[0]);
            let status = Body { e, parts }.check_stream(stream);
            let (next, good) = (e.offset(p[0], 1), e.is_zero(status));
            let more = e.less(next, streams);
            (e.and(more, good), vec![next, status])
        });
        let (bad, status) = (self.e.is_not_zero(checked[1]), self.e.truncate(checked[1]));
        self.e.return_if(bad, status);
        let weights = self.e.address(Data::Weights);
        for (n, shares) in parts.phases.iter().enumerate() {
            self.e.repeat(shares.count.div_ceil(shares.together), &[], |e, turn, _| {
                let from = e.with_constant(Constant::Mul, turn, shares.together as i64);
                let (to, all) = (e.offset(from, shares.together), e.size(shares.count));
                let beyond = e.greater(to, all);
                let to = e.select(beyond, all, to);
                let first = e.size(0);
                e.repeat_range([first, streams], &[], |e, s, _| {
                    let [state, token] = stream(e, pointers, s);
                    let (recurrent, scratch) = (e.offset(state, STATE_ALIGN), e.offset(state, parts.scratch));
                    let out = e.advance(out, s, parts.outputs * 4);
                    e.call(Entry::Phase(n), &[weights, recurrent, scratch, token, out, from, to]);
                    vec![]
                });
                vec![]
            });
        }
        ok
    }

    /// The status, as wide as an address, of a stream's state and token.
    fn check_stream(&mut self, [state, token]: [Value; 2]) -> Value {
        let [null, misaligned, other, bad, ok] =
            [Status::Null, Status::Misaligned, Status::State, Status::Token, Status::Ok]
                .map(|status| self.e.size(status as usize));
        let (identity, words) = (self.identity(), self.e.size(self.parts.vocabulary));
        let low = self.e.size(STATE_ALIGN - 1);
        let low = self.e.and(state, low);
        let (is_there, is_aligned) = (self.e.is_not_zero(state), self.e.is_zero(low));
        let (memory, can_be_read) =
            (self.e.select(is_there, misaligned, null), self.e.and(is_there, is_aligned));
        let status = self.e.choose(can_be_read, &[memory], |e| {
            let [low, high] = [0, 1].map(|n| {
                let have = e.load(Type::I32, Memory::Buffer, state, 4 * n);
                e.equal(have, identity[n])
            });
            let is_ours = e.and(low, high);
            let is_word = e.less(token, words);
            let status = e.select(is_word, ok, bad);
            vec![e.select(is_ours, status, other)]
        });
        status[0]
    }

    /// Consumes a token; returns the addresses of the weights' table and of scratch.
    fn advance(&mut self, state: Value, token: Value) -> [Value; 2] {
        let weights = self.e.address(Data::Weights);
        let (recurrent, scratch) =
            (self.e.offset(state, STATE_ALIGN), self.e.offset(state, self.parts.scratch));
        self.e.call(Entry::Advance, &[weights, recurrent, scratch, token]);
        [weights, scratch]
    }

    /// `word(id)`: an address, or null.
    fn word(&mut self, id: Value) -> Value {
        let null = self.e.size(0);
        if self.parts.words.is_none() {
            return null;
        }
        let id = self.e.extend(id);
        let bad = self.is_no_token(id);
        self.e.return_if(bad, null);
        self.text_of(id)
    }

    /// The address of an existing word: from its stride's first word, those before it are skipped.
    fn text_of(&mut self, id: Value) -> Value {
        let (strings, places) = (self.e.address(Data::Strings), self.e.address(Data::Places));
        let stride = self.e.with_constant(Constant::ShiftRight, id, STRIDE_BITS.into());
        let at = self.e.element(places, stride);
        let place = self.e.load(Type::I32, Memory::Weights, at, 0);
        let place = self.e.extend(place);
        let first = self.e.add(strings, place);
        let mask = self.e.size((1 << STRIDE_BITS) - 1);
        let before = self.e.and(id, mask);
        let any = self.e.is_not_zero(before);
        let found = self.e.choose(any, &[first], |e| {
            let p = e.repeat_while(&[first, before], &mut |e, p| {
                let byte = e.load(Type::U8, Memory::Rows, p[0], 0);
                let fewer = e.with_constant(Constant::Add, p[1], -1);
                let is_end = e.is_zero(byte);
                let left = e.select(is_end, fewer, p[1]);
                (e.is_not_zero(left), vec![e.offset(p[0], 1), left])
            });
            vec![p[0]]
        });
        found[0]
    }

    /// `token(word, length, id)`: a binary search in the sorted words.
    fn token(&mut self, p: &[Value]) -> Value {
        let [word, length, out] = [p[0], p[1], p[2]];
        self.refuse_null(word);
        self.refuse_null(out);
        let Some(words) = self.parts.words else { return self.status(Status::Vocabulary) };
        let sorted = self.e.address(Data::Sorted);
        let (low, high) = (self.e.size(0), self.e.size(self.parts.vocabulary));
        let (missing, unknown) = (self.status(Status::Word), self.int(words.unknown));
        let parts = self.parts;
        let found = self.e.repeat_while(&[low, high, missing, unknown], &mut |e, p| {
            let [low, high] = [p[0], p[1]];
            let sum = e.add(low, high);
            let middle = e.with_constant(Constant::ShiftRight, sum, 1);
            let id = match words.short {
                true => {
                    let at = e.advance(sorted, middle, 2);
                    e.load(Type::U16, Memory::Weights, at, 0)
                }
                false => {
                    let at = e.element(sorted, middle);
                    let id = e.load(Type::I32, Memory::Weights, at, 0);
                    e.extend(id)
                }
            };
            let text = Body { e, parts }.text_of(id);
            let [stored, wanted] = compare(e, text, word, length);
            let is_found = e.equal(stored, wanted);
            let ok = e.i32(Status::Ok as i32);
            let (status, short) = (e.select(is_found, ok, p[2]), e.truncate(id));
            let id = e.select(is_found, short, p[3]);
            let is_before = e.less(stored, wanted);
            let above = e.offset(middle, 1);
            let (low, high) = (e.select(is_before, above, low), e.select(is_before, high, middle));
            let (rest, other) = (e.less(low, high), e.is_zero(is_found));
            (e.and(rest, other), vec![low, high, status, id])
        });
        self.e.store(Memory::Caller, found[3], out, 0);
        found[2]
    }

    /// Checks the address of a state.
    fn check_memory(&mut self, state: Value) {
        self.refuse_null(state);
        let low = self.e.size(STATE_ALIGN - 1);
        let low = self.e.and(state, low);
        let is_between = self.e.is_not_zero(low);
        self.refuse_if(is_between, Status::Misaligned);
    }

    fn check_state(&mut self, state: Value) {
        self.check_memory(state);
        for (n, want) in self.identity().into_iter().enumerate() {
            let have = self.e.load(Type::I32, Memory::Buffer, state, 4 * n);
            self.refuse_unless_equal(have, want, Status::State);
        }
    }

    /// The token, as wide as an address.
    fn check_token(&mut self, token: Value) -> Value {
        let token = self.e.extend(token);
        let bad = self.is_no_token(token);
        self.refuse_if(bad, Status::Token);
        token
    }

    fn is_no_token(&mut self, token: Value) -> Value {
        let words = self.e.size(self.parts.vocabulary);
        let is_one = self.e.less(token, words);
        self.e.is_zero(is_one)
    }

    fn refuse_null(&mut self, pointer: Value) {
        let is_null = self.e.is_zero(pointer);
        self.refuse_if(is_null, Status::Null);
    }

    /// Refuses a count of less than `least`.
    fn refuse_fewer(&mut self, count: Value, least: usize) {
        let least = self.e.size(least);
        let fewer = self.e.less(count, least);
        self.refuse_if(fewer, Status::Size);
    }

    fn refuse_unless_equal(&mut self, have: Value, want: Value, status: Status) {
        let same = self.e.equal(have, want);
        let differs = self.e.is_zero(same);
        self.refuse_if(differs, status);
    }

    fn refuse_if(&mut self, bad: Value, status: Status) {
        let status = self.status(status);
        self.e.return_if(bad, status);
    }

    fn status(&mut self, status: Status) -> Value {
        self.int(status as u32)
    }

    fn int(&mut self, n: u32) -> Value {
        self.e.i32(n as i32)
    }

    /// The low and the high half.
    fn identity(&mut self) -> [Value; 2] {
        [0, 32].map(|shift| self.int((self.parts.identity >> shift) as u32))
    }
}

/// The state and the token, as wide as an address, of stream `n` of a caller's arrays.
fn stream(e: &mut dyn Emit, [states, tokens]: [Value; 2], n: Value) -> [Value; 2] {
    let (state, at) = (e.load_address_at(states, n), e.element(tokens, n));
    let token = e.load(Type::I32, Memory::Caller, at, 0);
    [state, e.extend(token)]
}

/// Numbers in the order of a stored word, which a NUL ends, and of a wanted one: of their first bytes that differ, or of their ends.
fn compare(e: &mut dyn Emit, text: Value, word: Value, length: Value) -> [Value; 2] {
    let zero = e.size(0);
    let p = e.repeat_while(&[zero, zero, zero], &mut |e, p| {
        let at = e.add(text, p[0]);
        let byte = e.load(Type::U8, Memory::Rows, at, 0);
        // An end comes before every byte, and before a NUL in the wanted word, which no stored word has.
        let (is_end, above) = (e.is_zero(byte), e.offset(byte, 1));
        let stored = e.select(is_end, byte, above);
        let more = e.less(p[0], length);
        let wanted = e.choose(more, &[zero], |e| {
            let at = e.add(word, p[0]);
            let byte = e.load(Type::U8, Memory::Caller, at, 0);
            vec![e.offset(byte, 1)]
        });
        let same = e.equal(stored, wanted[0]);
        let go_on = e.and(same, more);
        (go_on, vec![e.offset(p[0], 1), stored, wanted[0]])
    });
    [p[1], p[2]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codegen::emit::{Features, tests::result_type};

    #[test]
    fn every_function_is_typed_and_scoped() {
        for words in [None, Some(false), Some(true)] {
            let parts = Parts {
                words: words.map(|short| Words { short, unknown: 1 }),
                vocabulary: 70,
                outputs: 70,
                starts: true,
                scratch: 128,
                size: 256,
                identity: 1,
                phases: vec![Shares { count: 1, together: 1 }, Shares { count: 9, together: 2 }],
            };
            for function in functions(Head::Logits) {
                let parameters: Vec<Type> = function.parameters.iter().map(|c| type_of(c)).collect();
                let features = Features { dot: true, signed_bytes: true, pairs: false, sums: false };
                let result = result_type(features, &parameters, |e, p| Some(body(&parts, function, e, p)));
                assert_eq!(result, Some(type_of(function.result)), "{}", function.suffix);
            }
        }
    }
}
