//! Elementwise expressions: what a cell does after its products, and what a `map` step does.
//!
//! A [`Formula`] is a list of terms, each computed from earlier ones. It is written once and read in many ways: an [`Algebra`] says what its values
//! are and what the operations do with them. Numbers, vectors of a processor, instructions of generated code and errors with their bounds are algebras.
//!
//! ```
//! use lstmc_frontend::ir::{Algebra, Binary, FormulaBuilder, Function};
//!
//! // h = o tanh(c)
//! fn output<A: Algebra>(a: &mut A) {
//!     let (o, c) = (a.input(0), a.input(1));
//!     let t = a.function(Function::Tanh, &c);
//!     let h = a.binary(Binary::Mul, &o, &t);
//!     a.result(0, &h);
//! }
//! let mut builder = FormulaBuilder::new();
//! output(&mut builder);
//! let formula = builder.build(|_| None);
//! assert_eq!(formula.values(&[&[2.0f64][..], &[0.0][..]]), [[0.0]]);
//! ```

use super::op::{Binary, Function};
use std::f32::consts::FRAC_2_SQRT_PI;

/// A term of one formula, by position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TermId(u32);

impl TermId {
    /// The position.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value of a formula, element by element.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Term {
    /// An input, by position.
    Input(usize),
    /// The same number for every element.
    Constant(f32),
    /// An operation on two terms.
    Binary(Binary, TermId, TermId),
    /// `a b + c`, rounded once or twice.
    MulAdd(TermId, TermId, TermId),
    /// `then` where `a < b`, else `otherwise`.
    Select {
        /// `a` and `b`.
        less: [TermId; 2],
        /// The result if it holds.
        then: TermId,
        /// The result if it does not hold, or if either is NaN.
        otherwise: TermId,
    },
    /// A primitive function.
    Primitive(Primitive, TermId),
}

/// The functions that every algebra has; [`Function`]s are built from them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the functions of these names")]
pub enum Primitive {
    Tanh,
    Sigmoid,
    /// The exponential of an `x` between -87 and 87; beyond, it need not leave the normal numbers.
    Exp,
    /// `ln(1 + x)` of an `x` that is not negative.
    Ln1p,
    /// The natural logarithm: of zero minus infinity, of negative numbers NaN.
    Ln,
    Sqrt,
}

/// The largest error of [`Function::Erf`] in f32: 1.5e-7 of its formula far from zero (Abramowitz and Stegun, Handbook of Mathematical Functions,
/// 7.1.26), and the roundings of numbers below 1.
pub const ERF_ERROR: f64 = 4.0 * f32::EPSILON as f64;

/// The coefficients of that formula, of `t` to the fifth power first and without a constant, and the scale of its argument.
const ERF: ([f32; 5], f32) =
    ([1.061_405_4, -1.453_152_1, 1.421_413_8, -0.284_496_74, 0.254_829_6], 0.327_591_1);

/// Near zero: the first coefficients of the Taylor series of `erf(x) / x` in `x^2`, and the bound below which the rest is less than 2e-8.
const ERF_NEAR: ([f32; 6], f32) =
    ([-8.548_327e-4, 5.223_978e-3, -2.686_617_2e-2, 0.112_837_92, -0.376_126_4, FRAC_2_SQRT_PI], 0.5);

/// An elementwise expression with some inputs and some results.
#[derive(Clone, PartialEq, Debug)]
pub struct Formula {
    terms: Vec<Term>,
    results: Vec<Result>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Result {
    term: TermId,
    /// The term after which the result may be stored: the input that it replaces has been read by then.
    ready: usize,
}

/// The meaning of a formula's operations.
///
/// Provided methods are always inlined and have no closures, so that an algebra of vector instructions becomes straight-line code.
pub trait Algebra {
    /// The value of a term.
    type Value: Clone;

    /// An input. Each is requested at most once.
    fn input(&mut self, n: usize) -> Self::Value;

    /// The same number for every element.
    fn constant(&mut self, x: f32) -> Self::Value;

    /// An operation on two values. [`Binary::Max`] and [`Binary::Min`] return the second value if either is NaN.
    fn binary(&mut self, op: Binary, a: &Self::Value, b: &Self::Value) -> Self::Value;

    /// `a b + c`, rounded once or twice.
    fn mul_add(&mut self, a: &Self::Value, b: &Self::Value, c: &Self::Value) -> Self::Value;

    /// `then` if `a < b`, else `otherwise`.
    fn select(&mut self, less: [&Self::Value; 2], then: &Self::Value, otherwise: &Self::Value)
    -> Self::Value;

    /// A primitive function.
    fn primitive(&mut self, f: Primitive, x: &Self::Value) -> Self::Value;

    /// Takes a result. The input that it replaces has been requested by then; other inputs may be requested later.
    fn result(&mut self, n: usize, value: &Self::Value);

    /// `x` within `[-limit, limit]`; NaN stays NaN.
    #[inline(always)]
    fn clip(&mut self, x: &Self::Value, limit: f32) -> Self::Value {
        let (low, high) = (self.constant(-limit), self.constant(limit));
        let x = self.binary(Binary::Max, &low, x);
        self.binary(Binary::Min, &high, &x)
    }

    /// A function of the ONNX specification, built from primitives. NaN stays NaN.
    #[inline(always)]
    fn function(&mut self, f: Function, x: &Self::Value) -> Self::Value {
        match f {
            Function::Sigmoid => self.primitive(Primitive::Sigmoid, x),
            Function::Tanh => self.primitive(Primitive::Tanh, x),
            Function::Relu => self.above_zero(x),
            Function::Affine { alpha, beta } => self.affine(alpha, x, beta),
            Function::LeakyRelu { alpha } => {
                let (above, below, alpha) = (self.above_zero(x), self.below_zero(x), self.constant(alpha));
                self.mul_add(&alpha, &below, &above)
            }
            Function::ThresholdedRelu { alpha } => {
                let (zero, alpha) = (self.constant(0.0), self.constant(alpha));
                self.select([x, &alpha], &zero, x)
            }
            Function::ScaledTanh { alpha, beta } => {
                let (alpha, beta) = (self.constant(alpha), self.constant(beta));
                let x = self.binary(Binary::Mul, &beta, x);
                let t = self.primitive(Primitive::Tanh, &x);
                self.binary(Binary::Mul, &alpha, &t)
            }
            Function::HardSigmoid { alpha, beta } => {
                let x = self.affine(alpha, x, beta);
                let (x, one) = (self.above_zero(&x), self.constant(1.0));
                self.binary(Binary::Min, &one, &x)
            }
            Function::Elu { alpha } => {
                let (above, below) = (self.above_zero(x), self.below_zero(x));
                let (alpha, one) = (self.constant(alpha), self.constant(1.0));
                let e = self.primitive(Primitive::Exp, &below);
                let below = self.binary(Binary::Sub, &e, &one);
                self.mul_add(&alpha, &below, &above)
            }
            Function::Softsign => {
                let (absolute, one) = (self.absolute(x), self.constant(1.0));
                let below = self.binary(Binary::Add, &one, &absolute);
                self.binary(Binary::Div, x, &below)
            }
            // max(0, x) + ln(1 + e^-|x|) does not overflow.
            Function::Softplus => {
                let (zero, above, absolute) = (self.constant(0.0), self.above_zero(x), self.absolute(x));
                let negative = self.binary(Binary::Sub, &zero, &absolute);
                let e = self.primitive(Primitive::Exp, &negative);
                let ln = self.primitive(Primitive::Ln1p, &e);
                self.binary(Binary::Add, &ln, &above)
            }
            // 1 - (a t + b t^2 + ..) e^-x^2 of |x|, where t = 1 / (1 + p |x|), with the sign of x.
            Function::Erf => {
                let ((far, scale), (near, bound)) = (ERF, ERF_NEAR);
                let (zero, one, absolute) = (self.constant(0.0), self.constant(1.0), self.absolute(x));
                let t = self.affine(scale, &absolute, 1.0);
                let t = self.binary(Binary::Div, &one, &t);
                let p = self.polynomial(&far, &t);
                let p = self.binary(Binary::Mul, &p, &t);
                let square = self.binary(Binary::Mul, x, x);
                let exponent = self.binary(Binary::Sub, &zero, &square);
                let e = self.primitive(Primitive::Exp, &exponent);
                let rest = self.binary(Binary::Mul, &p, &e);
                let above = self.binary(Binary::Sub, &one, &rest);
                let below = self.binary(Binary::Sub, &rest, &one);
                let far = self.select([x, &zero], &below, &above);
                let p = self.polynomial(&near, &square);
                let near = self.binary(Binary::Mul, &p, x);
                let bound = self.constant(bound);
                self.select([&absolute, &bound], &near, &far)
            }
            Function::Sqrt => self.primitive(Primitive::Sqrt, x),
            // The square of e^(x / 2) overflows and underflows where e^x does.
            Function::Exp => {
                let half = self.constant(0.5);
                let half = self.binary(Binary::Mul, &half, x);
                let root = self.primitive(Primitive::Exp, &half);
                self.binary(Binary::Mul, &root, &root)
            }
            Function::Log => self.primitive(Primitive::Ln, x),
        }
    }

    /// `alpha x + beta`.
    #[inline(always)]
    fn affine(&mut self, alpha: f32, x: &Self::Value, beta: f32) -> Self::Value {
        let (alpha, beta) = (self.constant(alpha), self.constant(beta));
        self.mul_add(&alpha, x, &beta)
    }

    /// A polynomial, the highest power's coefficient first.
    #[inline(always)]
    fn polynomial(&mut self, coefficients: &[f32], x: &Self::Value) -> Self::Value {
        let mut p = self.constant(coefficients[0]);
        for &c in &coefficients[1..] {
            let c = self.constant(c);
            p = self.mul_add(&p, x, &c);
        }
        p
    }

    /// `max(0, x)`.
    #[inline(always)]
    fn above_zero(&mut self, x: &Self::Value) -> Self::Value {
        let zero = self.constant(0.0);
        self.binary(Binary::Max, &zero, x)
    }

    /// `min(0, x)`.
    #[inline(always)]
    fn below_zero(&mut self, x: &Self::Value) -> Self::Value {
        let zero = self.constant(0.0);
        self.binary(Binary::Min, &zero, x)
    }

    /// `|x|`.
    #[inline(always)]
    fn absolute(&mut self, x: &Self::Value) -> Self::Value {
        let zero = self.constant(0.0);
        let negated = self.binary(Binary::Sub, &zero, x);
        self.binary(Binary::Max, &negated, x)
    }
}

impl Formula {
    /// The terms, each after its operands.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The terms that are the results.
    pub fn results(&self) -> impl ExactSizeIterator<Item = TermId> + '_ {
        self.results.iter().map(|r| r.term)
    }

    /// `s1 = sigmoid(g2) * s1 + ..; s0 = ..`, with the names of inputs and results, ordered so that a later result may use an earlier one.
    pub fn text(&self, input: &dyn Fn(usize) -> String, result: &dyn Fn(usize) -> String) -> String {
        let mut order: Vec<(usize, TermId)> = self.results().enumerate().collect();
        order.sort_by_key(|(_, term)| *term);
        let mut done: Vec<(TermId, String)> = vec![];
        let mut lines = vec![];
        for (n, term) in order {
            lines.push(format!("{} = {}", result(n), self.term_text(term, input, &done)));
            done.push((term, format!("{}'", result(n))));
        }
        lines.join("; ")
    }

    /// The formula of other inputs, from which `input` makes each of the present ones. In memory each result may replace one of them, the one at
    /// position `replaces(result)`.
    pub fn with_inputs(
        &self,
        mut input: impl FnMut(&mut FormulaBuilder, usize) -> TermId,
        replaces: impl Fn(usize) -> Option<usize>,
    ) -> Formula {
        let (mut b, mut terms) = (FormulaBuilder::new(), Vec::<TermId>::new());
        for term in &self.terms {
            let at = |t: TermId| terms[t.index()];
            let term = match *term {
                Term::Input(n) => input(&mut b, n),
                Term::Constant(x) => b.constant(x),
                Term::Binary(op, x, y) => b.push(Term::Binary(op, at(x), at(y))),
                Term::MulAdd(x, y, z) => b.push(Term::MulAdd(at(x), at(y), at(z))),
                Term::Select { less, then, otherwise } => {
                    b.push(Term::Select { less: less.map(at), then: at(then), otherwise: at(otherwise) })
                }
                Term::Primitive(f, x) => b.push(Term::Primitive(f, at(x))),
            };
            terms.push(term);
        }
        b.results = self.results().map(|r| terms[r.index()]).enumerate().collect();
        b.build(replaces)
    }

    fn term_text(&self, id: TermId, input: &dyn Fn(usize) -> String, done: &[(TermId, String)]) -> String {
        if let Some((_, name)) = done.iter().find(|(term, _)| *term == id) {
            return name.clone();
        }
        let text = |t: TermId| self.term_text(t, input, done);
        let factor = |t: TermId| match self.terms[t.index()] {
            Term::Binary(Binary::Add | Binary::Sub, ..) | Term::MulAdd(..)
                if !done.iter().any(|(term, _)| *term == t) =>
            {
                format!("({})", text(t))
            }
            _ => text(t),
        };
        match self.terms[id.index()] {
            Term::Input(n) => input(n),
            Term::Constant(x) => x.to_string(),
            Term::Binary(Binary::Add, a, b) => format!("{} + {}", text(a), text(b)),
            Term::Binary(Binary::Sub, a, b) => format!("{} - {}", text(a), factor(b)),
            Term::Binary(Binary::Mul, a, b) => format!("{} * {}", factor(a), factor(b)),
            Term::Binary(Binary::Div, a, b) => format!("{} / ({})", factor(a), text(b)),
            Term::Binary(op, a, b) => format!("{}({}, {})", op.name(), text(a), text(b)),
            Term::MulAdd(a, b, c) => format!("{} * {} + {}", factor(a), factor(b), text(c)),
            Term::Select { less: [a, b], then, otherwise } => {
                format!("select({} < {}, {}, {})", text(a), text(b), text(then), text(otherwise))
            }
            Term::Primitive(f, x) => format!("{}({})", format!("{f:?}").to_lowercase(), text(x)),
        }
    }

    /// Evaluates the formula in an algebra. `values` is cleared and then holds one value per term; reuse it to avoid allocation.
    #[inline(always)]
    pub fn evaluate<A: Algebra>(&self, algebra: &mut A, values: &mut Vec<A::Value>) {
        values.clear();
        for (k, term) in self.terms.iter().enumerate() {
            let at = |t: TermId| &values[t.index()];
            let value = match *term {
                Term::Input(n) => algebra.input(n),
                Term::Constant(x) => algebra.constant(x),
                Term::Binary(op, a, b) => algebra.binary(op, at(a), at(b)),
                Term::MulAdd(a, b, c) => algebra.mul_add(at(a), at(b), at(c)),
                Term::Select { less: [a, b], then, otherwise } => {
                    algebra.select([at(a), at(b)], at(then), at(otherwise))
                }
                Term::Primitive(f, x) => algebra.primitive(f, at(x)),
            };
            values.push(value);
            for (n, result) in self.results.iter().enumerate().filter(|(_, r)| r.ready == k) {
                algebra.result(n, &values[result.term.index()]);
            }
        }
    }
}

/// Records a formula: the algebra whose values are its terms.
#[derive(Debug, Default)]
pub struct FormulaBuilder {
    terms: Vec<Term>,
    results: Vec<(usize, TermId)>,
}

impl FormulaBuilder {
    /// An empty formula.
    pub fn new() -> FormulaBuilder {
        FormulaBuilder::default()
    }

    /// A term that already exists is reused.
    fn push(&mut self, term: Term) -> TermId {
        let at = self.terms.iter().position(|t| *t == term).unwrap_or_else(|| {
            self.terms.push(term);
            self.terms.len() - 1
        });
        TermId(at as u32)
    }

    /// The formula of the results so far. In memory each may replace an input, the one at position `replaces(result)`.
    pub fn build(mut self, replaces: impl Fn(usize) -> Option<usize>) -> Formula {
        self.results.sort_by_key(|(n, _)| *n);
        let ready = |&(n, term): &(usize, TermId)| {
            let read = replaces(n).and_then(|n| self.terms.iter().position(|t| *t == Term::Input(n)));
            Result { term, ready: term.index().max(read.unwrap_or(0)) }
        };
        let results = self.results.iter().map(ready).collect();
        Formula { terms: self.terms, results }
    }
}

impl Algebra for FormulaBuilder {
    type Value = TermId;

    fn input(&mut self, n: usize) -> TermId {
        self.push(Term::Input(n))
    }

    fn constant(&mut self, x: f32) -> TermId {
        self.push(Term::Constant(x))
    }

    fn binary(&mut self, op: Binary, &a: &TermId, &b: &TermId) -> TermId {
        self.push(Term::Binary(op, a, b))
    }

    fn mul_add(&mut self, &a: &TermId, &b: &TermId, &c: &TermId) -> TermId {
        self.push(Term::MulAdd(a, b, c))
    }

    fn select(&mut self, [&a, &b]: [&TermId; 2], &then: &TermId, &otherwise: &TermId) -> TermId {
        self.push(Term::Select { less: [a, b], then, otherwise })
    }

    fn primitive(&mut self, f: Primitive, &x: &TermId) -> TermId {
        self.push(Term::Primitive(f, x))
    }

    fn result(&mut self, n: usize, &value: &TermId) {
        self.results.push((n, value));
    }
}
