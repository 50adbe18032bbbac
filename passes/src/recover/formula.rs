//! Forward and backward evaluation of formulas, by reverse-mode differentiation.
//!
//! The values of all terms are kept, `[terms][elements]`; in the backward pass, the slope of a term is the sum of its readers' contributions.

use super::number::Number;
use lstmc_frontend::ir::{Binary, Formula, Primitive, Term, TermId};
use pulp::NullaryFnOnce;

/// Fills in the values of a formula's terms.
pub(super) struct Forward<'a, T> {
    pub(super) formula: &'a Formula,
    /// The number of elements of a term.
    pub(super) len: usize,
    /// With `len` elements each, or one for all.
    pub(super) inputs: &'a [&'a [T]],
    /// `[terms][len]`
    pub(super) values: &'a mut [T],
}

impl<T: Number> NullaryFnOnce for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Forward { formula, len, inputs, values } = self;
        for (k, term) in formula.terms().iter().enumerate() {
            let (before, rest) = values.split_at_mut(k * len);
            let out = &mut rest[..len];
            let at = |t: TermId| &before[t.index() * len..][..len];
            match *term {
                Term::Input(n) => match inputs[n] {
                    [one] => out.fill(*one),
                    all => out.copy_from_slice(all),
                },
                Term::Constant(x) => out.fill(T::of(x.into())),
                Term::Binary(op, a, b) => {
                    let pairs = out.iter_mut().zip(at(a)).zip(at(b));
                    match op {
                        Binary::Add => pairs.for_each(|((o, &a), &b)| *o = a + b),
                        Binary::Sub => pairs.for_each(|((o, &a), &b)| *o = a - b),
                        Binary::Mul => pairs.for_each(|((o, &a), &b)| *o = a * b),
                        Binary::Div => pairs.for_each(|((o, &a), &b)| *o = a / b),
                        Binary::Max | Binary::Min => pairs.for_each(|((o, &a), &b)| *o = op.of(a, b)),
                    }
                }
                Term::MulAdd(a, b, c) => {
                    let all = out.iter_mut().zip(at(a)).zip(at(b)).zip(at(c));
                    all.for_each(|(((o, &a), &b), &c)| *o = a * b + c);
                }
                Term::Select { less: [a, b], then, otherwise } => {
                    let pairs = at(a).iter().zip(at(b)).zip(at(then).iter().zip(at(otherwise)));
                    for (o, ((a, b), (&then, &otherwise))) in out.iter_mut().zip(pairs) {
                        *o = if a < b { then } else { otherwise };
                    }
                }
                Term::Primitive(f, x) => {
                    let pairs = out.iter_mut().zip(at(x));
                    match f {
                        Primitive::Tanh => pairs.for_each(|(o, &x)| *o = x.quick_tanh()),
                        Primitive::Sigmoid => pairs.for_each(|(o, &x)| *o = x.quick_sigmoid()),
                        Primitive::Exp => pairs.for_each(|(o, &x)| *o = x.quick_exp()),
                        Primitive::Ln1p => pairs.for_each(|(o, &x)| *o = T::of(x.to_f64().ln_1p())),
                        Primitive::Ln => pairs.for_each(|(o, &x)| *o = T::of(x.to_f64().ln())),
                        Primitive::Sqrt => pairs.for_each(|(o, &x)| *o = T::of(x.to_f64().sqrt())),
                    }
                }
            }
        }
    }
}

/// Takes the slopes of a formula's results back to its inputs.
pub(super) struct Backward<'a, T> {
    pub(super) formula: &'a Formula,
    pub(super) len: usize,
    /// As computed by [`Forward`].
    pub(super) values: &'a [T],
    /// `[terms][len]`: on entry those of the results, and zero for the others; on return those of all terms.
    pub(super) slopes: &'a mut [T],
}

impl<T: Number> NullaryFnOnce for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Backward { formula, len, values, slopes } = self;
        let (zero, one) = (T::of(0.0), T::of(1.0));
        let at = |t: TermId| &values[t.index() * len..][..len];
        for (k, term) in formula.terms().iter().enumerate().rev() {
            let (before, rest) = slopes.split_at_mut(k * len);
            let dy = &rest[..len];
            let y = &values[k * len..][..len];
            // A macro, since a closure cannot lend out what it has borrowed.
            macro_rules! to {
                ($t:expr) => {
                    before[$t.index() * len..][..len].iter_mut().zip(dy)
                };
            }
            match *term {
                Term::Input(_) | Term::Constant(_) => {}
                Term::Binary(op, a, b) => {
                    let (va, vb) = (at(a), at(b));
                    match op {
                        Binary::Add => {
                            to!(a).for_each(|(s, &d)| *s += d);
                            to!(b).for_each(|(s, &d)| *s += d);
                        }
                        Binary::Sub => {
                            to!(a).for_each(|(s, &d)| *s += d);
                            to!(b).for_each(|(s, &d)| *s -= d);
                        }
                        Binary::Mul => {
                            to!(a).zip(vb).for_each(|((s, &d), &b)| *s += d * b);
                            to!(b).zip(va).for_each(|((s, &d), &a)| *s += d * a);
                        }
                        Binary::Div => {
                            to!(a).zip(vb).for_each(|((s, &d), &b)| *s += d * (one / b));
                            let pairs = to!(b).zip(va.iter().zip(vb));
                            pairs.for_each(|((s, &d), (&a, &b))| *s += d * -(a / (b * b)));
                        }
                        // The operand that equals the result gets the whole slope.
                        Binary::Max | Binary::Min => {
                            let is_first = |(&a, &b): (&T, &T)| if op == Binary::Max { b < a } else { a < b };
                            let pairs = va.iter().zip(vb);
                            to!(a)
                                .zip(pairs.clone())
                                .for_each(|((s, &d), p)| *s += if is_first(p) { d } else { zero });
                            to!(b)
                                .zip(pairs)
                                .for_each(|((s, &d), p)| *s += if is_first(p) { zero } else { d });
                        }
                    }
                }
                Term::MulAdd(a, b, c) => {
                    to!(a).zip(at(b)).for_each(|((s, &d), &b)| *s += d * b);
                    to!(b).zip(at(a)).for_each(|((s, &d), &a)| *s += d * a);
                    to!(c).for_each(|(s, &d)| *s += d);
                }
                Term::Select { less: [a, b], then, otherwise } => {
                    let pairs = at(a).iter().zip(at(b));
                    to!(then)
                        .zip(pairs.clone())
                        .for_each(|((s, &d), (a, b))| *s += if a < b { d } else { zero });
                    to!(otherwise)
                        .zip(pairs)
                        .for_each(|((s, &d), (a, b))| *s += if a < b { zero } else { d });
                }
                Term::Primitive(f, x) => match f {
                    Primitive::Tanh => to!(x).zip(y).for_each(|((s, &d), &y)| *s += d * (one - y * y)),
                    Primitive::Sigmoid => to!(x).zip(y).for_each(|((s, &d), &y)| *s += d * y * (one - y)),
                    Primitive::Exp => to!(x).zip(y).for_each(|((s, &d), &y)| *s += d * y),
                    Primitive::Ln1p => to!(x).zip(at(x)).for_each(|((s, &d), &x)| *s += d / (one + x)),
                    Primitive::Ln => to!(x).zip(at(x)).for_each(|((s, &d), &x)| *s += d / x),
                    Primitive::Sqrt => to!(x).zip(y).for_each(|((s, &d), &y)| *s += d / (y + y)),
                },
            }
        }
    }
}
