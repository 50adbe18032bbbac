//! Formulas, several vectors at a time: each operation is applied to all of them before the next, so that their latencies overlap.

use super::emit::{Emit, Memory, Type, Value};
use super::math;
use crate::plan::LANES;
use lstmc_frontend::ir::{Algebra, Binary, Formula, Primitive};

/// The sources and destinations of a formula's vectors.
pub(crate) trait Ends {
    /// Returns the vectors of an input.
    fn load(&self, e: &mut dyn Emit, input: usize) -> Vec<Value>;

    /// Takes the vectors of a result.
    fn store(&self, e: &mut dyn Emit, result: usize, vectors: &[Value]);
}

/// Emits a formula on this many vectors.
pub(crate) fn emit(e: &mut dyn Emit, formula: &Formula, vectors: usize, ends: &impl Ends) {
    formula.evaluate(&mut Instructions { e, vectors, ends }, &mut vec![]);
}

struct Instructions<'a, E> {
    e: &'a mut dyn Emit,
    vectors: usize,
    ends: &'a E,
}

impl<E: Ends> Algebra for Instructions<'_, E> {
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
            Binary::Add => e.add(a, b),
            Binary::Sub => e.sub(a, b),
            Binary::Mul => e.mul(a, b),
            Binary::Div => e.div(a, b),
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
                let mask = e.less(a, b);
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
            Primitive::Sqrt => x.iter().map(|&x| self.e.sqrt(x)).collect(),
        }
    }

    fn result(&mut self, n: usize, value: &Vec<Value>) {
        self.ends.store(self.e, n, value);
    }
}

/// Lanewise `ln(1 + x)` of non-negative numbers, one lane at a time: no common cell uses it.
fn ln_1p(e: &mut dyn Emit, x: Value) -> Value {
    let one = e.constant(1.0);
    let sum = e.add(x, one);
    let lanes = e.stack(LANES * 4);
    for (n, lane) in e.lanes(sum).into_iter().enumerate() {
        let y = math::ln(e, lane);
        e.store(Memory::Caller, y, lanes, n * 4);
    }
    e.load(Type::F32x4, Memory::Caller, lanes, 0)
}
