//! Formulas, several vectors at a time: each operation is done on all of them before the next, so that their latencies overlap.

use super::emit::Emit;
use super::math;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use lstmc_frontend::ir::{Algebra, Binary, Formula, Primitive};

/// Where a formula's vectors come from and go.
pub(crate) trait Ends {
    /// The vectors of an input.
    fn load(&self, e: &mut Emit<'_, '_>, input: usize) -> Vec<Value>;

    /// Takes the vectors of a result.
    fn store(&self, e: &mut Emit<'_, '_>, result: usize, vectors: &[Value]);
}

/// Emits a formula on so many vectors.
pub(crate) fn emit(e: &mut Emit<'_, '_>, formula: &Formula, vectors: usize, ends: &impl Ends) {
    formula.evaluate(&mut Instructions { e, vectors, ends }, &mut vec![]);
}

struct Instructions<'e, 'b, 'f, E> {
    e: &'e mut Emit<'b, 'f>,
    vectors: usize,
    ends: &'e E,
}

impl<E: Ends> Algebra for Instructions<'_, '_, '_, E> {
    type Value = Vec<Value>;

    fn input(&mut self, n: usize) -> Vec<Value> {
        self.ends.load(self.e, n)
    }

    fn constant(&mut self, x: f32) -> Vec<Value> {
        vec![self.e.constant(x); self.vectors]
    }

    fn binary(&mut self, op: Binary, a: &Vec<Value>, b: &Vec<Value>) -> Vec<Value> {
        let e = &mut *self.e;
        let one = |(&a, &b): (&Value, &Value)| match op {
            Binary::Add => e.b.ins().fadd(a, b),
            Binary::Sub => e.b.ins().fsub(a, b),
            Binary::Mul => e.b.ins().fmul(a, b),
            Binary::Div => e.b.ins().fdiv(a, b),
            Binary::Max => e.max(a, b),
            Binary::Min => e.min(a, b),
        };
        a.iter().zip(b).map(one).collect()
    }

    fn mul_add(&mut self, a: &Vec<Value>, b: &Vec<Value>, c: &Vec<Value>) -> Vec<Value> {
        a.iter().zip(b).zip(c).map(|((&a, &b), &c)| self.e.mul_add(a, b, c)).collect()
    }

    fn select(&mut self, [a, b]: [&Vec<Value>; 2], then: &Vec<Value>, otherwise: &Vec<Value>) -> Vec<Value> {
        let e = &mut *self.e;
        let pairs = a.iter().zip(b).zip(then.iter().zip(otherwise));
        pairs
            .map(|((&a, &b), (&then, &otherwise))| {
                let mask = e.b.ins().fcmp(FloatCC::LessThan, a, b);
                e.select(mask, then, otherwise)
            })
            .collect()
    }

    fn primitive(&mut self, f: Primitive, x: &Vec<Value>) -> Vec<Value> {
        match f {
            Primitive::Tanh => math::tanh(self.e, x),
            Primitive::Sigmoid => math::sigmoid(self.e, x),
            Primitive::Exp => math::exp(self.e, x),
            Primitive::Ln1p => x.iter().map(|&x| ln_1p(self.e, x)).collect(),
        }
    }

    fn result(&mut self, n: usize, value: &Vec<Value>) {
        self.ends.store(self.e, n, value);
    }
}

/// Lanewise `ln(1 + x)` of what is not negative, a lane at a time: no cell that anyone uses a lot has it.
fn ln_1p(e: &mut Emit<'_, '_>, x: Value) -> Value {
    let one = e.constant(1.0);
    let sum = e.b.ins().fadd(x, one);
    let mut y = sum;
    for lane in 0..4 {
        let s = e.b.ins().extractlane(sum, lane);
        let ln = math::ln(e, s);
        y = e.b.ins().insertlane(y, ln, lane);
    }
    debug_assert_eq!(e.b.func.dfg.value_type(y), types::F32X4);
    y
}
