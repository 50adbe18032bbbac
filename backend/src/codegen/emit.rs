//! What code generation needs of a target language: values, memory, arithmetic, loops. [`clif`](super::clif) implements it with Cranelift; each
//! operation is also a short expression or statement of C with vectors of sixteen bytes.
//!
//! A value has a [`Type`], which whoever implements [`Emit`] keeps: arithmetic is that of its operands' type. Nothing is emitted twice or in another
//! order than asked for.

use super::Entry;
use crate::plan::LANES;

/// A value of the function under construction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Value(pub(super) u32);

/// The type of a value, or of what is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Type {
    /// A number.
    F32,
    /// Four of them.
    F32x4,
    /// A byte.
    I8,
    /// Sixteen of them.
    I8x16,
    /// An integer of 32 bits.
    I32,
    /// Four of them.
    I32x4,
    /// An address, or an integer as wide.
    Address,
    /// Only in memory: an unsigned integer of 16 bits, [`Type::Address`] when loaded.
    U16,
    /// Only in memory: four signed integers of 16 bits, [`Type::I32x4`] when loaded.
    I16x4,
}

/// What is known of memory that is read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Memory {
    /// Packed weights: aligned, and never written while code runs. Loads stay beside their use: done all together at the start of an unrolled
    /// body, they would push the accumulators out of the registers.
    Weights,
    /// Packed rows, read only, of any alignment.
    Rows,
    /// State and scratch: aligned.
    Buffer,
    /// Of any alignment: the caller's, or parts of vectors.
    Caller,
}

/// What codegen asks of the target besides correct code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Features {
    /// A product of bytes is an instruction, not a dozen.
    pub(crate) dot: bool,
    /// Bytes are multiplied signed by signed, not unsigned by signed.
    pub(crate) signed_bytes: bool,
}

/// Operations on two values of one type, lane by lane. Integers wrap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    /// Of floats.
    Div,
    /// Of integers.
    And,
    /// Of integers.
    Or,
}

/// Operations on an integer, or each lane of a vector, and a constant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Constant {
    Add,
    Mul,
    Xor,
    ShiftLeft,
    /// Copies of the sign come in.
    ShiftRight,
}

/// Comparisons: of floats, where NaN is neither, or of unsigned integers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Compare {
    Less,
    Greater,
}

/// What a loop's turn does: from its number and the carried values to the next ones.
pub(crate) type Turn<'t> = dyn FnMut(&mut dyn Emit, Value, &[Value]) -> Vec<Value> + 't;

/// What a branch does.
pub(crate) type Branch<'t> = dyn FnMut(&mut dyn Emit) -> Vec<Value> + 't;

/// The test of [`Emit::descend`]: a condition, and values for what comes next.
pub(crate) type Test<'t> = dyn FnMut(&mut dyn Emit, Value) -> (Value, Vec<Value>) + 't;

/// What comes next in [`Emit::descend`]: from the test's values to the next number.
pub(crate) type Next<'t> = dyn FnMut(&mut dyn Emit, &[Value]) -> Value + 't;

/// A function under construction.
pub(crate) trait Emit {
    fn features(&self) -> Features;

    /// An integer constant as wide as an address.
    fn size(&mut self, n: usize) -> Value;
    /// An integer constant of 32 bits.
    fn i32(&mut self, n: i32) -> Value;
    fn f32(&mut self, x: f32) -> Value;
    /// The same number in every lane, as a vector in memory, which instructions take as an operand, not as a scalar to be broadcast.
    fn constant(&mut self, x: f32) -> Value;
    fn bytes(&mut self, bytes: [u8; 16]) -> Value;

    fn load(&mut self, ty: Type, memory: Memory, address: Value, bytes: usize) -> Value;
    fn store(&mut self, memory: Memory, value: Value, address: Value, bytes: usize);
    /// The address number `n` of a table of addresses.
    fn load_address(&mut self, table: Value, n: usize) -> Value;
    /// Four indices of 16 bits in weights.
    fn load_indices(&mut self, address: Value) -> [Value; 4];
    /// Four bytes of a buffer, in every lane, as [`Emit::dot_quad`] takes them.
    fn load_quad(&mut self, address: Value, bytes: usize) -> Value;
    /// The address of so many bytes on the stack, aligned to a vector.
    fn stack(&mut self, bytes: usize) -> Value;

    fn arithmetic(&mut self, op: Arithmetic, x: Value, y: Value) -> Value;
    fn with_constant(&mut self, op: Constant, x: Value, n: i64) -> Value;
    /// A condition; of vectors, a mask.
    fn compare(&mut self, compare: Compare, x: Value, y: Value) -> Value;
    /// Whether an unsigned integer is above a constant.
    fn is_above(&mut self, x: Value, n: u32) -> Value;
    fn is_not_zero(&mut self, x: Value) -> Value;
    /// Whether some lane of a mask is set.
    fn any(&mut self, mask: Value) -> Value;
    /// `if condition { x } else { y }`, lane by lane with a mask.
    fn select(&mut self, condition: Value, x: Value, y: Value) -> Value;
    fn neg(&mut self, x: Value) -> Value;
    fn abs(&mut self, x: Value) -> Value;
    /// `x * y + z`, fused where the target can.
    fn mul_add(&mut self, x: Value, y: Value, z: Value) -> Value;
    /// Quotient and remainder of an unsigned integer.
    fn divide(&mut self, x: Value, n: usize) -> [Value; 2];

    /// A scalar in every lane.
    fn splat(&mut self, x: Value) -> Value;
    fn lane(&mut self, x: Value, lane: u8) -> Value;
    /// The same bits as another type of the same size.
    fn cast(&mut self, ty: Type, x: Value) -> Value;
    /// Integers, signed, as floats.
    fn to_float(&mut self, x: Value) -> Value;
    /// An unsigned integer, made as wide as an address.
    fn extend(&mut self, x: Value) -> Value;
    /// The low 32 bits.
    fn truncate(&mut self, x: Value) -> Value;
    /// Sixteen signed bytes as four vectors of i32.
    fn widen(&mut self, bytes: Value) -> [Value; 4];
    /// Four vectors of i32 as sixteen signed bytes; what does not fit becomes the nearest that does.
    fn narrow(&mut self, words: [Value; 4]) -> Value;

    /// Adds to each i32 lane the four products of its bytes: weights as the target takes them (see [`Integer::signed`](crate::plan::Integer::signed)),
    /// activations signed. The result is exact.
    fn dot(&mut self, weights: Value, activations: Value, acc: Value) -> Value;
    /// [`Emit::dot`] with activations that [`Emit::load_quad`] loaded.
    fn dot_quad(&mut self, weights: Value, quad: Value, acc: Value) -> Value;

    /// Calls a function of the program that comes before this one.
    fn call(&mut self, entry: Entry, arguments: &[Value]) -> Option<Value>;
    /// The loop `for i in start..end`, entered at least once. Returns the carried values after the last turn.
    fn repeat_from(&mut self, start: Value, end: Value, carried: &[Value], turn: &mut Turn<'_>)
    -> Vec<Value>;
    /// `if condition { then } else { otherwise }`, where both give values of the same types as `otherwise`.
    fn choose_from(&mut self, condition: Value, otherwise: &[Value], then: &mut Branch<'_>) -> Vec<Value>;
    /// `while x != 0 && test(x) { x = next(..) }`, of an integer as wide as an address; returns the last one.
    fn descend(&mut self, x: Value, test: &mut Test<'_>, next: &mut Next<'_>) -> Value;

    fn add(&mut self, x: Value, y: Value) -> Value {
        self.arithmetic(Arithmetic::Add, x, y)
    }
    fn sub(&mut self, x: Value, y: Value) -> Value {
        self.arithmetic(Arithmetic::Sub, x, y)
    }
    fn mul(&mut self, x: Value, y: Value) -> Value {
        self.arithmetic(Arithmetic::Mul, x, y)
    }
    fn div(&mut self, x: Value, y: Value) -> Value {
        self.arithmetic(Arithmetic::Div, x, y)
    }
    fn and(&mut self, x: Value, y: Value) -> Value {
        self.arithmetic(Arithmetic::And, x, y)
    }
    fn less(&mut self, x: Value, y: Value) -> Value {
        self.compare(Compare::Less, x, y)
    }
    fn greater(&mut self, x: Value, y: Value) -> Value {
        self.compare(Compare::Greater, x, y)
    }
    fn shift_left(&mut self, x: Value, bits: u32) -> Value {
        self.with_constant(Constant::ShiftLeft, x, bits.into())
    }

    /// Lanewise maximum; where either is NaN the result is `y`. Compare and select in just this form is one instruction on x86.
    fn max(&mut self, x: Value, y: Value) -> Value {
        let mask = self.less(y, x);
        self.select(mask, x, y)
    }
    /// Lanewise minimum; where either is NaN the result is `y`.
    fn min(&mut self, x: Value, y: Value) -> Value {
        let mask = self.less(x, y);
        self.select(mask, x, y)
    }
    /// The larger of two scalars; where either is NaN the result is `y`.
    fn max_scalar(&mut self, x: Value, y: Value) -> Value {
        let greater = self.greater(x, y);
        self.select(greater, x, y)
    }
    /// The four lanes of a vector.
    fn lanes(&mut self, x: Value) -> [Value; 4] {
        [0, 1, 2, 3].map(|lane| self.lane(x, lane))
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
    /// The address of number `n` of an array of four bytes each.
    fn element(&mut self, address: Value, n: Value) -> Value {
        let offset = self.shift_left(n, 2);
        self.add(address, offset)
    }
}

impl dyn Emit + '_ {
    /// The counted loop `for i in 0..n` with values carried from one turn to the next; `n` is known and small loops of none
    /// or one turn need no branch. Returns the carried values after the last turn.
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

    /// Copies `len` f32s, padded to whole vectors, between buffers.
    pub(crate) fn copy(&mut self, from: Value, to: Value, len: usize) {
        self.repeat(len.div_ceil(LANES), &[from, to], |e, _, p| {
            let v = e.load(Type::F32x4, Memory::Buffer, p[0], 0);
            e.store(Memory::Buffer, v, p[1], 0);
            vec![e.offset(p[0], 16), e.offset(p[1], 16)]
        });
    }

    /// The sum of vectors, by a tree: neighbours are added first.
    pub(crate) fn sum(&mut self, mut terms: Vec<Value>) -> Value {
        while terms.len() > 1 {
            terms = terms.chunks(2).map(|p| if p.len() == 2 { self.add(p[0], p[1]) } else { p[0] }).collect();
        }
        terms[0]
    }
}

#[cfg(test)]
mod tests;
