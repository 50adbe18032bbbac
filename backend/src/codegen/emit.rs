//! What code generation needs from a target language: values, memory, arithmetic, loops. [`clif`](super::clif) implements it with Cranelift; each
//! operation is also a short expression or statement of C with vectors of sixteen bytes.
//!
//! A value has a [`Type`], which the implementation of [`Emit`] tracks: the operands' type selects the arithmetic. Nothing is emitted twice
//! or in another order than requested.

use super::Entry;
use crate::plan::LANES;
use lstmc_frontend::ir::PackedWidth;

/// Read-only data of a program that has public functions: see [`interface`](crate::object).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    /// The table of the weights' addresses.
    Weights,
    /// JSON.
    Info,
    /// The vocabulary's tables.
    Strings,
    Places,
    Sorted,
}

impl Data {
    /// A name, for symbols.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Data::Weights => "weights",
            Data::Info => "info",
            Data::Strings => "words",
            Data::Places => "words_places",
            Data::Sorted => "words_sorted",
        }
    }
}

/// A value of the function under construction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Value(pub(super) u32);

/// The type of a value, or of a load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Type {
    /// An f32.
    F32,
    /// Four of them.
    F32x4,
    /// A signed byte.
    I8,
    /// Sixteen of them.
    I8x16,
    /// Eight integers of 16 bits.
    I16x8,
    /// An integer of 32 bits.
    I32,
    /// Four of them.
    I32x4,
    /// An address, or an integer as wide as one.
    Address,
    /// In memory only: an unsigned byte, [`Type::Address`] when loaded.
    U8,
    /// In memory only: an unsigned integer of 16 bits, [`Type::Address`] when loaded.
    U16,
    /// In memory only: four signed integers of 16 bits, [`Type::I32x4`] when loaded.
    I16x4,
}

/// Four activations in every lane, as [`Emit::dot_quad`] takes them: as bytes, or the even and the odd ones of them as 16 bits.
pub(crate) type Quad = [Value; 2];

/// What is known about memory that is read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Memory {
    /// Packed weights: aligned, and never written while code runs. Loads stay next to their use: all together at the start of an unrolled
    /// body, they would spill the accumulators.
    Weights,
    /// Packed rows, read only, of any alignment.
    Rows,
    /// State and scratch: aligned.
    Buffer,
    /// Memory of any alignment: the caller's, or parts of vectors.
    Caller,
}

/// What codegen must know about the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Features {
    /// A product of bytes is one instruction, not a dozen.
    pub(crate) dot: bool,
    /// Bytes are multiplied signed by signed, not unsigned by signed.
    pub(crate) signed_bytes: bool,
    /// As in [`Target::pairs`](crate::plan::Target::pairs).
    pub(crate) pairs: bool,
    /// The sums of a group of an integer panel are one operation, [`Emit::sums`].
    pub(crate) sums: bool,
}

impl Features {
    /// Whether narrow codes are separated from their bytes before they are multiplied: the sums of a level are its own.
    pub(crate) fn apart(self) -> bool {
        self.pairs || self.sums
    }

    /// Whether products take weights of 8 bits signed, and activations as they are, without an offset.
    pub(crate) fn signed_eight(self) -> bool {
        self.signed_bytes || self.pairs
    }
}

/// Operations on one value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Unary {
    Neg,
    Abs,
    Sqrt,
    /// A signed integer, or four, as floats.
    ToFloat,
    /// An unsigned integer of 32 bits, extended to the width of an address.
    Extend,
    /// The low 32 bits.
    Truncate,
    /// A scalar in every lane.
    Splat,
    /// Whether any lane of a mask is set.
    Any,
    /// Of an address or an integer as wide as one.
    IsNotZero,
    /// The same, or the opposite of a condition.
    IsZero,
}

/// Operations on two values of one type, lane by lane. Integers wrap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    /// Of floats.
    Div,
    /// Of integers, or of conditions.
    And,
    /// Of integers, or of conditions.
    Or,
    /// A condition, of integers that are not vectors.
    Equal,
    /// A condition, or a mask: of floats (NaN is neither less nor greater) or of unsigned integers.
    Less,
    Greater,
}

/// Operations on an integer, or each lane of a vector, and a constant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Constant {
    Add,
    Mul,
    Xor,
    ShiftLeft,
    /// The sign bit is shifted in.
    ShiftRight,
}

/// The body of a loop: from the iteration's number and the carried values to the next ones.
pub(crate) type Turn<'t> = dyn FnMut(&mut dyn Emit, Value, &[Value]) -> Vec<Value> + 't;

/// The body of [`Emit::repeat_while`]: from the carried values to whether there is another turn, and the next ones.
pub(crate) type WhileTurn<'t> = dyn FnMut(&mut dyn Emit, &[Value]) -> (Value, Vec<Value>) + 't;

/// The body of a branch.
pub(crate) type Branch<'t> = dyn FnMut(&mut dyn Emit) -> Vec<Value> + 't;

/// The test of [`Emit::descend`]: a condition, and values for the step after it.
pub(crate) type Test<'t> = dyn FnMut(&mut dyn Emit, Value) -> (Value, Vec<Value>) + 't;

/// The step of [`Emit::descend`]: from the test's values to the next number.
pub(crate) type Next<'t> = dyn FnMut(&mut dyn Emit, &[Value]) -> Value + 't;

/// Methods that are one operation each.
macro_rules! shorthands {
    (unary(x): $($name:ident = $op:ident),*) => {
        $(fn $name(&mut self, x: Value) -> Value {
            self.unary(Unary::$op, x)
        })*
    };
    (binary(x, y): $($name:ident = $op:ident),*) => {
        $(fn $name(&mut self, x: Value, y: Value) -> Value {
            self.binary(Binary::$op, x, y)
        })*
    };
}

/// A function under construction.
pub(crate) trait Emit {
    fn features(&self) -> Features;

    /// An integer constant as wide as an address.
    fn size(&mut self, n: usize) -> Value;
    /// An integer constant of 32 bits.
    fn i32(&mut self, n: i32) -> Value;
    fn f32(&mut self, x: f32) -> Value;
    /// The same number in every lane, as a vector in memory, which instructions take as an operand, instead of a scalar that is broadcast.
    fn constant(&mut self, x: f32) -> Value;
    fn bytes(&mut self, bytes: [u8; 16]) -> Value;
    /// The address of data.
    fn address(&mut self, data: Data) -> Value;

    fn load(&mut self, ty: Type, memory: Memory, address: Value, bytes: usize) -> Value;
    fn store(&mut self, memory: Memory, value: Value, address: Value, bytes: usize);
    /// The address number `n` of a table of addresses.
    fn load_address(&mut self, table: Value, n: usize) -> Value;
    /// The address number `n`, an integer as wide as one, of a table of the caller's.
    fn load_address_at(&mut self, table: Value, n: Value) -> Value;
    /// Four indices of 16 bits in weights.
    fn load_indices(&mut self, address: Value) -> [Value; 4];
    /// Four bytes of a buffer, in every lane, as [`Emit::dot_quad`] takes them.
    fn load_quad(&mut self, address: Value, bytes: usize) -> Quad;
    /// The address of a stack slot with this many bytes, aligned to a vector.
    fn stack(&mut self, bytes: usize) -> Value;

    fn unary(&mut self, op: Unary, x: Value) -> Value;
    fn binary(&mut self, op: Binary, x: Value, y: Value) -> Value;
    fn with_constant(&mut self, op: Constant, x: Value, n: i64) -> Value;
    /// Whether an unsigned integer is above a constant.
    fn is_above(&mut self, x: Value, n: u32) -> Value;
    /// `if condition { x } else { y }`, lane by lane with a mask.
    fn select(&mut self, condition: Value, x: Value, y: Value) -> Value;
    /// `x * y + z`, fused where the target can.
    fn mul_add(&mut self, x: Value, y: Value, z: Value) -> Value;
    /// An unsigned integer of 32 bits, shifted right by this many bits; zeros are shifted in.
    fn shift_right(&mut self, x: Value, bits: Value) -> Value;
    /// Quotient and remainder of an unsigned integer.
    fn divide(&mut self, x: Value, n: usize) -> [Value; 2];

    fn lane(&mut self, x: Value, lane: u8) -> Value;
    /// The same bits as another type of the same size.
    fn cast(&mut self, ty: Type, x: Value) -> Value;
    /// Sixteen signed bytes as four vectors of i32.
    fn widen(&mut self, bytes: Value) -> [Value; 4];
    /// Four vectors of i32 as sixteen signed bytes; saturating.
    fn narrow(&mut self, words: [Value; 4]) -> Value;

    /// Adds to each i32 lane the four products of its bytes: weights as the target takes them (see [`Integer::signed`](crate::plan::Integer::signed)),
    /// activations signed. The result is exact.
    fn dot(&mut self, weights: Value, activations: Value, acc: Value) -> Value;
    /// [`Emit::dot`] with activations that [`Emit::load_quad`] loaded.
    fn dot_quad(&mut self, weights: Value, quad: Quad, acc: Value) -> Value;
    /// With [`Features::sums`], the sums of the products of a group's codes, which [`Features::apart`] says of: by accumulator of a panel, from the addresses of weights and of
    /// activations, and the number of quads.
    fn sums(&mut self, width: PackedWidth, addresses: [Value; 2], quads: usize) -> Vec<Value>;

    /// Sixteen signed bytes as two of unsigned ones: those above zero, and the magnitudes of those below; other lanes are zero.
    fn signs(&mut self, bytes: Value) -> [Value; 2];
    /// Sums of the products of neighbours, unsigned by signed bytes, in eight lanes of 16 bits. The caller sees to it that they fit.
    fn pairs(&mut self, unsigned: Value, signed: Value) -> Value;
    /// Adds to each i32 lane the two lanes of 16 bits in its place.
    fn add_pairs(&mut self, pairs: Value, acc: Value) -> Value;

    /// Calls an earlier function of the program.
    fn call(&mut self, entry: Entry, arguments: &[Value]) -> Option<Value>;
    /// The loop `for i in start..end`, entered at least once. Returns the carried values after the last iteration.
    fn repeat_from(&mut self, start: Value, end: Value, carried: &[Value], turn: &mut Turn<'_>)
    -> Vec<Value>;
    /// `if condition { then } else { otherwise }`, where both return values of the same types as `otherwise`.
    fn choose_from(&mut self, condition: Value, otherwise: &[Value], then: &mut Branch<'_>) -> Vec<Value>;
    /// The loop `do { (more, values) = turn(values) } while more`. Returns the values after the last turn.
    fn repeat_while(&mut self, carried: &[Value], turn: &mut WhileTurn<'_>) -> Vec<Value>;
    /// `if condition { return result }`, outside of loops and branches.
    fn return_if(&mut self, condition: Value, result: Value);
    /// `while x != 0 && test(x) { x = next(..) }`, for an integer as wide as an address; returns the last `x`.
    fn descend(&mut self, x: Value, test: &mut Test<'_>, next: &mut Next<'_>) -> Value;

    shorthands! {
        unary(x):
        neg = Neg, abs = Abs, sqrt = Sqrt, to_float = ToFloat, extend = Extend, truncate = Truncate, splat = Splat, any = Any, is_not_zero = IsNotZero,
        is_zero = IsZero
    }
    shorthands! {
        binary(x, y):
        add = Add, sub = Sub, mul = Mul, div = Div, and = And, or = Or, equal = Equal, less = Less, greater = Greater
    }

    fn shift_left(&mut self, x: Value, bits: u32) -> Value {
        self.with_constant(Constant::ShiftLeft, x, bits.into())
    }

    /// Lanewise maximum; if either is NaN the result is `y`. Compare and select in exactly this form is one instruction on x86.
    fn max(&mut self, x: Value, y: Value) -> Value {
        let mask = self.less(y, x);
        self.select(mask, x, y)
    }
    /// Lanewise minimum; if either is NaN the result is `y`.
    fn min(&mut self, x: Value, y: Value) -> Value {
        let mask = self.less(x, y);
        self.select(mask, x, y)
    }
    /// The larger of two scalars; if either is NaN the result is `y`.
    fn max_scalar(&mut self, x: Value, y: Value) -> Value {
        let greater = self.greater(x, y);
        self.select(greater, x, y)
    }
    /// The four lanes of a vector.
    fn lanes(&mut self, x: Value) -> [Value; 4] {
        [0, 1, 2, 3].map(|lane| self.lane(x, lane))
    }

    /// Four f16s of weights times a power of two, exactly: their bits, shifted into an f32's position and rescaled for the difference of the exponents' biases.
    fn load_halves(&mut self, address: Value, bytes: usize, factor: f32) -> Value {
        /// The bias of an f32's exponent is 127, that of an f16's is 15.
        const REBIAS: f32 = (1u128 << 112) as f32;
        let address = self.offset(address, bytes);
        let h = self.load(Type::I16x4, Memory::Weights, address, 0);
        let h = self.shift_left(h, 13);
        // The sign, five bits of exponent in the low part of the field, ten bits of mantissa.
        let keep = self.i32(0x8fff_e000u32 as i32);
        let keep = self.splat(keep);
        let h = self.and(h, keep);
        let h = self.cast(Type::F32x4, h);
        let rebias = self.constant(REBIAS * factor);
        self.mul(h, rebias)
    }

    /// `address + bytes`.
    fn offset(&mut self, address: Value, bytes: usize) -> Value {
        if bytes == 0 { address } else { self.with_constant(Constant::Add, address, bytes as i64) }
    }
    /// `address + n * bytes`.
    fn advance(&mut self, address: Value, n: Value, bytes: usize) -> Value {
        let offset = self.with_constant(Constant::Mul, n, bytes as i64);
        self.add(address, offset)
    }
    /// The address of element `n` of an array of four-byte elements.
    fn element(&mut self, address: Value, n: Value) -> Value {
        let offset = self.shift_left(n, 2);
        self.add(address, offset)
    }
}

impl dyn Emit + '_ {
    /// The counted loop `for i in 0..n` with values carried from one iteration to the next; `n` is a constant and loops of zero
    /// or one iteration need no branch. Returns the carried values after the last iteration.
    pub(crate) fn repeat(
        &mut self,
        n: usize,
        carried: &[Value],
        turn: impl FnOnce(&mut dyn Emit, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        if n == 0 {
            return carried.to_vec();
        }
        let zero = self.size(0);
        if n == 1 {
            return turn(self, zero, carried);
        }
        let end = self.size(n);
        self.repeat_range([zero, end], carried, turn)
    }

    /// [`Emit::repeat_from`].
    pub(crate) fn repeat_range(
        &mut self,
        [start, end]: [Value; 2],
        carried: &[Value],
        turn: impl FnOnce(&mut dyn Emit, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let mut turn = Some(turn);
        self.repeat_from(start, end, carried, &mut |e, i, p| {
            let next = turn.take().expect("a turn is emitted once")(e, i, p);
            assert_eq!(next.len(), p.len(), "a loop carries as many values out of a turn as into it");
            next
        })
    }

    /// [`Emit::choose_from`].
    pub(crate) fn choose(
        &mut self,
        condition: Value,
        otherwise: &[Value],
        then: impl FnOnce(&mut dyn Emit) -> Vec<Value>,
    ) -> Vec<Value> {
        let mut then = Some(then);
        self.choose_from(condition, otherwise, &mut |e| then.take().expect("a branch is emitted once")(e))
    }

    /// Stores zeros at an aligned address, a number of whole vectors.
    pub(crate) fn clear(&mut self, address: Value, bytes: usize) {
        let zero = self.constant(0.0);
        self.repeat(bytes / 16, &[address], |e, _, p| {
            e.store(Memory::Buffer, zero, p[0], 0);
            vec![e.offset(p[0], 16)]
        });
    }

    /// [`Emit::dot`] with [`Features::pairs`]: signed weights, and activations as [`Emit::signs`] splits them. One of each input's two products is zero: a pair is at
    /// most `2 * 127 * 128` in magnitude.
    pub(crate) fn dot_signs(&mut self, weights: Value, [above, below]: [Value; 2], acc: Value) -> Value {
        let (above, below) = (self.pairs(above, weights), self.pairs(below, weights));
        let pairs = self.sub(above, below);
        self.add_pairs(pairs, acc)
    }

    /// Copies `len` f32s, padded to whole vectors, between buffers.
    pub(crate) fn copy(&mut self, from: Value, to: Value, len: usize) {
        self.copy_vectors([from, to], [Memory::Buffer; 2], len.div_ceil(LANES));
    }

    /// Copies exactly `len` f32s.
    pub(crate) fn copy_exact(&mut self, ends: [Value; 2], memory: [Memory; 2], len: usize) {
        let [from, to] = self.copy_vectors(ends, memory, len / LANES);
        for i in 0..len % LANES {
            let v = self.load(Type::F32, memory[0], from, 4 * i);
            self.store(memory[1], v, to, 4 * i);
        }
    }

    /// Returns the pointers after the last vector.
    fn copy_vectors(&mut self, ends: [Value; 2], [from, to]: [Memory; 2], count: usize) -> [Value; 2] {
        let p = self.repeat(count, &ends, |e, _, p| {
            let v = e.load(Type::F32x4, from, p[0], 0);
            e.store(to, v, p[1], 0);
            vec![e.offset(p[0], LANES * 4), e.offset(p[1], LANES * 4)]
        });
        [p[0], p[1]]
    }

    /// All values reduced as a tree: neighbours first, then the results.
    pub(crate) fn tree(
        &mut self,
        mut values: Vec<Value>,
        join: impl Fn(&mut dyn Emit, Value, Value) -> Value,
    ) -> Value {
        while values.len() > 1 {
            values =
                values.chunks(2).map(|p| if let &[x, y] = p { join(self, x, y) } else { p[0] }).collect();
        }
        values[0]
    }
}

#[cfg(test)]
pub(crate) mod tests;
