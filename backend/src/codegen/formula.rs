//! Formulas, several vectors at a time: each operation is applied to all of them before the next, so that their latencies overlap.

use super::emit::{Emit, Memory, Type, Value};
use super::math;
use crate::plan::LANES;
use lstmc_frontend::ir::{Algebra, Binary, Formula, Primitive};
use lstmc_kernels::elementary::EXP_LOW;

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
            Primitive::Exp => exp(self.e, x),
            Primitive::Ln1p => x.iter().map(|&x| ln_1p(self.e, x)).collect(),
            Primitive::Ln => ln(self.e, x),
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
    ln_of_normal(e, sum)
}

/// Lanewise `e^x`, `x` clamped to `[EXP_LOW, -EXP_LOW]`; NaN stays NaN.
pub(crate) fn exp(e: &mut dyn Emit, x: &[Value]) -> Vec<Value> {
    let high = e.constant(-EXP_LOW);
    let x: Vec<Value> = x.iter().map(|&x| e.min(high, x)).collect();
    math::exp(e, &x)
}

/// Lanewise `ln x` of any number.
pub(crate) fn ln(e: &mut dyn Emit, x: &[Value]) -> Vec<Value> {
    x.iter().map(|&x| ln_of_any(e, x)).collect()
}

fn ln_of_any(e: &mut dyn Emit, x: Value) -> Value {
    // Numbers that are not normal are made so: 2^25 times as large.
    let (normal, scale) = (e.constant(f32::MIN_POSITIVE), e.constant(33_554_432.0));
    let (is_small, scaled) = (e.less(x, normal), e.mul(x, scale));
    let y = e.select(is_small, scaled, x);
    let y = ln_of_normal(e, y);
    let less = e.constant(25.0 * std::f32::consts::LN_2);
    let less = e.sub(y, less);
    let y = e.select(is_small, less, y);
    let (zero, infinity) = (e.constant(0.0), e.constant(f32::INFINITY));
    let is_finite = e.less(x, infinity);
    let y = e.select(is_finite, y, x);
    // Minus infinity of zero, NaN of negative numbers and NaN.
    let (one, x) = (e.constant(-1.0), e.add(x, zero));
    let root = e.sqrt(x);
    let of_others = e.div(one, root);
    let is_positive = e.less(zero, x);
    e.select(is_positive, y, of_others)
}

/// Lanewise `ln x` of positive normal numbers.
fn ln_of_normal(e: &mut dyn Emit, x: Value) -> Value {
    let lanes = e.stack(LANES * 4);
    for (n, lane) in e.lanes(x).into_iter().enumerate() {
        let y = math::ln(e, lane);
        e.store(Memory::Caller, y, lanes, n * 4);
    }
    e.load(Type::F32x4, Memory::Caller, lanes, 0)
}
