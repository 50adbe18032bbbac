//! Small building blocks over Cranelift's function builder: loops, loads and stores with the right flags.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    BlockArg, InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, Type, Value, types,
};
use cranelift_frontend::FunctionBuilder;

/// What the code may assume of the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Features {
    /// Fused multiply-add is an instruction (elsewhere it would be a library call).
    pub fma: bool,
    /// The type of an address.
    pub pointer: Type,
    /// A product of bytes is an instruction, not a dozen.
    pub dot: bool,
    /// Bytes are multiplied signed by signed, not unsigned by signed.
    pub signed_bytes: bool,
}

/// A function under construction.
pub(crate) struct Emit<'a, 'f> {
    pub(crate) b: &'a mut FunctionBuilder<'f>,
    pub(crate) features: Features,
}

/// Four f32 lanes.
pub(crate) const F32X4: Type = types::F32X4;

/// Flags of loads from packed weights: never written while code runs, aligned, and free to move, without which all
/// loads of an unrolled body are hoisted and the accumulators spill.
pub(crate) fn weight_flags() -> MemFlagsData {
    MemFlagsData::trusted().with_readonly().with_can_move()
}

/// Flags of state and scratch: aligned, writable.
pub(crate) fn buffer_flags() -> MemFlagsData {
    MemFlagsData::trusted()
}

/// Flags of memory that the caller owns, of unknown alignment.
pub(crate) fn caller_flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

impl<'f> Emit<'_, 'f> {
    /// An integer constant of pointer type.
    pub(crate) fn size(&mut self, n: usize) -> Value {
        self.b.ins().iconst(self.features.pointer, n as i64)
    }

    pub(crate) fn f32(&mut self, x: f32) -> Value {
        self.b.ins().f32const(x)
    }

    pub(crate) fn splat(&mut self, x: Value) -> Value {
        self.b.ins().splat(F32X4, x)
    }

    /// The same number in every lane. As a vector in memory, which instructions take as an operand, not as a scalar to be spread.
    pub(crate) fn constant(&mut self, x: f32) -> Value {
        let bytes: Vec<u8> = [x; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let constant = self.b.func.dfg.constants.insert(bytes.into());
        self.b.ins().vconst(F32X4, constant)
    }

    /// `address + bytes`.
    pub(crate) fn offset(&mut self, address: Value, bytes: usize) -> Value {
        if bytes == 0 { address } else { self.b.ins().iadd_imm_s(address, bytes as i64) }
    }

    pub(crate) fn load(&mut self, ty: Type, flags: MemFlagsData, address: Value, bytes: usize) -> Value {
        self.b.ins().load(ty, flags, address, bytes as i32)
    }

    pub(crate) fn store(&mut self, flags: MemFlagsData, value: Value, address: Value, bytes: usize) {
        self.b.ins().store(flags, value, address, bytes as i32);
    }

    /// `x * y + z`, fused where the target can.
    pub(crate) fn mul_add(&mut self, x: Value, y: Value, z: Value) -> Value {
        if self.features.fma {
            self.b.ins().fma(x, y, z)
        } else {
            let p = self.b.ins().fmul(x, y);
            self.b.ins().fadd(p, z)
        }
    }

    /// The counted loop `for i in 0..n` with values carried from one turn to the next; `n` is known and small loops of none
    /// or one turn need no branch. Returns the carried values after the last turn.
    pub(crate) fn repeat(
        &mut self,
        n: usize,
        carried: &[Value],
        body: impl FnOnce(&mut Emit<'_, 'f>, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        if n == 0 {
            return carried.to_vec();
        }
        let zero = self.size(0);
        if n == 1 {
            return body(self, zero, carried);
        }
        let end = self.size(n);
        self.repeat_dynamic(zero, end, carried, body)
    }

    /// The loop `for i in start..end`, entered at least once.
    pub(crate) fn repeat_dynamic(
        &mut self,
        start: Value,
        end: Value,
        carried: &[Value],
        body: impl FnOnce(&mut Emit<'_, 'f>, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let (head, after) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(head, self.features.pointer);
        for &v in carried {
            let ty = self.b.func.dfg.value_type(v);
            self.b.append_block_param(head, ty);
            self.b.append_block_param(after, ty);
        }
        let entry: Vec<BlockArg> =
            std::iter::once(start).chain(carried.iter().copied()).map(Into::into).collect();
        self.b.ins().jump(head, &entry);
        self.b.switch_to_block(head);
        let params = self.b.block_params(head).to_vec();
        let next = body(self, params[0], &params[1..]);
        assert_eq!(next.len(), carried.len(), "a loop carries as many values out of a turn as into it");
        let i = self.b.ins().iadd_imm_s(params[0], 1);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, i, end);
        let exit: Vec<BlockArg> = next.iter().copied().map(Into::into).collect();
        let again: Vec<BlockArg> = std::iter::once(i).chain(next).map(Into::into).collect();
        self.b.ins().brif(more, head, &again, after, &exit);
        self.b.seal_block(head);
        self.b.switch_to_block(after);
        self.b.seal_block(after);
        self.b.block_params(after).to_vec()
    }

    /// `if condition { then } else { otherwise }`, where both give values of the same types as `otherwise`.
    pub(crate) fn choose(
        &mut self,
        condition: Value,
        otherwise: &[Value],
        then: impl FnOnce(&mut Emit<'_, 'f>) -> Vec<Value>,
    ) -> Vec<Value> {
        let (yes, after) = (self.b.create_block(), self.b.create_block());
        for &v in otherwise {
            let ty = self.b.func.dfg.value_type(v);
            self.b.append_block_param(after, ty);
        }
        let no: Vec<BlockArg> = otherwise.iter().copied().map(Into::into).collect();
        self.b.ins().brif(condition, yes, &[], after, &no);
        self.b.switch_to_block(yes);
        self.b.seal_block(yes);
        let values: Vec<BlockArg> = then(self).into_iter().map(Into::into).collect();
        self.b.ins().jump(after, &values);
        self.b.switch_to_block(after);
        self.b.seal_block(after);
        self.b.block_params(after).to_vec()
    }

    /// Copies `len` f32s, padded to whole vectors, between buffers.
    pub(crate) fn copy(&mut self, from: Value, to: Value, len: usize) {
        self.repeat(len.div_ceil(4), &[from, to], |e, _, p| {
            let v = e.load(F32X4, buffer_flags(), p[0], 0);
            e.store(buffer_flags(), v, p[1], 0);
            vec![e.offset(p[0], 16), e.offset(p[1], 16)]
        });
    }

    pub(crate) fn greater(&mut self, x: Value, y: Value) -> Value {
        self.b.ins().fcmp(FloatCC::GreaterThan, x, y)
    }

    /// Lanewise maximum; where either is NaN the result is `y`. Compare and select in just this form is one instruction on x86, `fmax` is
    /// seven.
    pub(crate) fn max(&mut self, x: Value, y: Value) -> Value {
        let mask = self.b.ins().fcmp(FloatCC::LessThan, y, x);
        self.select(mask, x, y)
    }

    /// Lanewise minimum; where either is NaN the result is `y`.
    pub(crate) fn min(&mut self, x: Value, y: Value) -> Value {
        let mask = self.b.ins().fcmp(FloatCC::LessThan, x, y);
        self.select(mask, x, y)
    }

    /// The larger of two scalars; where `x` is NaN the result is `y`.
    pub(crate) fn max_scalar(&mut self, x: Value, y: Value) -> Value {
        let greater = self.greater(x, y);
        self.b.ins().select(greater, x, y)
    }

    /// Lanewise `if mask { x } else { y }`.
    pub(crate) fn select(&mut self, mask: Value, x: Value, y: Value) -> Value {
        let mask = self.b.ins().bitcast(F32X4, MemFlagsData::new().with_endianness(LITTLE), mask);
        self.b.ins().bitselect(mask, x, y)
    }

    /// The address of `bytes` on the stack, aligned to a vector.
    pub(crate) fn stack(&mut self, bytes: usize) -> Value {
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes as u32, 4);
        let slot = self.b.create_sized_stack_slot(data);
        self.b.ins().stack_addr(self.features.pointer, slot, 0)
    }

    /// Sixteen bytes.
    pub(crate) fn vector_constant(&mut self, bytes: &[u8]) -> Value {
        let constant = self.b.func.dfg.constants.insert(bytes.into());
        self.b.ins().vconst(types::I8X16, constant)
    }

    /// The same bits as another vector type.
    pub(crate) fn cast(&mut self, ty: Type, x: Value) -> Value {
        self.b.ins().bitcast(ty, MemFlagsData::new().with_endianness(LITTLE), x)
    }
}

const LITTLE: cranelift_codegen::ir::Endianness = cranelift_codegen::ir::Endianness::Little;
