//! Formulas evaluated on numbers, in plain code: their definition.

use super::real::Real;
use crate::ir::{Algebra, Binary, Formula, FormulaBuilder, Function, Primitive};

impl Formula {
    /// The results for inputs of one length, some of which may have one element for all positions.
    ///
    /// # Panics
    /// If there are fewer inputs than the formula reads.
    pub fn values<T: Real>(&self, inputs: &[&[T]]) -> Vec<Vec<T>> {
        self.values_of(inputs.iter().map(|x| x.len()).max().unwrap_or(1), inputs)
    }

    /// The results of length `len`, for inputs of this length or of one element for all positions.
    pub(crate) fn values_of<T: Real>(&self, len: usize, inputs: &[&[T]]) -> Vec<Vec<T>> {
        let mut numbers = Numbers { inputs, len, results: vec![vec![]; self.results().len()] };
        self.evaluate(&mut numbers, &mut vec![]);
        numbers.results
    }
}

/// A function of numbers.
pub(super) fn function<T: Real>(f: Function, x: &[T]) -> Vec<T> {
    let mut b = FormulaBuilder::new();
    let input = b.input(0);
    let result = b.function(f, &input);
    b.result(0, &result);
    b.build(|_| None).values(&[x]).swap_remove(0)
}

/// Many elements at once: a value has one number per element.
struct Numbers<'a, T> {
    inputs: &'a [&'a [T]],
    len: usize,
    results: Vec<Vec<T>>,
}

impl<T: Real> Algebra for Numbers<'_, T> {
    type Value = Vec<T>;

    fn input(&mut self, n: usize) -> Vec<T> {
        match self.inputs[n] {
            [one] => vec![*one; self.len],
            all => all.to_vec(),
        }
    }

    fn constant(&mut self, x: f32) -> Vec<T> {
        vec![T::of(x.into()); self.len]
    }

    fn binary(&mut self, op: Binary, a: &Vec<T>, b: &Vec<T>) -> Vec<T> {
        a.iter().zip(b).map(|(&a, &b)| op.of(a, b)).collect()
    }

    fn mul_add(&mut self, a: &Vec<T>, b: &Vec<T>, c: &Vec<T>) -> Vec<T> {
        a.iter().zip(b).zip(c).map(|((&a, &b), &c)| a * b + c).collect()
    }

    fn select(&mut self, [a, b]: [&Vec<T>; 2], then: &Vec<T>, otherwise: &Vec<T>) -> Vec<T> {
        let pairs = a.iter().zip(b).zip(then.iter().zip(otherwise));
        pairs.map(|((a, b), (&then, &otherwise))| if a < b { then } else { otherwise }).collect()
    }

    fn primitive(&mut self, f: Primitive, x: &Vec<T>) -> Vec<T> {
        let f = match f {
            Primitive::Tanh => Real::tanh,
            Primitive::Sigmoid => T::sigmoid,
            Primitive::Exp => Real::exp,
            Primitive::Ln1p => |x: T| T::of(x.to_f64().ln_1p()),
            Primitive::Ln => |x: T| T::of(x.to_f64().ln()),
            Primitive::Sqrt => |x: T| T::of(x.to_f64().sqrt()),
        };
        x.iter().map(|&x| f(x)).collect()
    }

    fn result(&mut self, n: usize, value: &Vec<T>) {
        self.results[n].clone_from(value);
    }
}
