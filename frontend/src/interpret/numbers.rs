//! Numbers of any dtype: integers exactly, floats in f64.

use super::elements::{broadcast_strides, integers, of_integers, of_reals, walk};
use super::real::Real;
use crate::ir::InferError;
use crate::tensor::{DType, Data, Tensor};

/// The elements of a tensor.
pub(super) enum Numbers {
    /// Of an integer dtype or booleans.
    Integers(Vec<i64>),
    /// Of a float dtype.
    Floats(Vec<f64>),
}

impl Numbers {
    pub(super) fn of(t: &Tensor) -> Result<Numbers, InferError> {
        Ok(match t.data() {
            Data::Bool(v) => Numbers::Integers(v.iter().map(|&b| b.into()).collect()),
            _ if t.dtype().is_float() => Numbers::Floats(f64::elements(t)?),
            _ => Numbers::Integers(integers(t)?),
        })
    }

    /// As floats, whatever they are.
    pub(super) fn floats(t: &Tensor) -> Result<Vec<f64>, InferError> {
        Ok(match Numbers::of(t)? {
            Numbers::Floats(v) => v,
            Numbers::Integers(v) => v.into_iter().map(|x| x as f64).collect(),
        })
    }

    pub(super) fn tensor(self, dtype: DType, shape: &[usize]) -> Result<Tensor, InferError> {
        match self {
            Numbers::Integers(v) => of_integers(dtype, shape, v),
            Numbers::Floats(v) => of_reals(dtype, shape, v),
        }
    }
}

/// A function of two broadcast operands; of floats, unless both are integers.
pub(super) fn pairwise<I, F>(
    [a, b]: [&Tensor; 2],
    dtype: DType,
    shape: &[usize],
    of_ints: impl Fn(i64, i64) -> I,
    of_floats: impl Fn(f64, f64) -> F,
) -> Result<Tensor, InferError>
where
    I: Into<Number>,
    F: Into<Number>,
{
    let (sa, sb) = (broadcast_strides(a.shape(), shape), broadcast_strides(b.shape(), shape));
    let pairs = walk(shape, &sa, 0).zip(walk(shape, &sb, 0));
    let all: Vec<Number> = match (Numbers::of(a)?, Numbers::of(b)?) {
        (Numbers::Integers(x), Numbers::Integers(y)) => {
            pairs.map(|(i, j)| of_ints(x[i], y[j]).into()).collect()
        }
        _ => {
            let (x, y) = (Numbers::floats(a)?, Numbers::floats(b)?);
            pairs.map(|(i, j)| of_floats(x[i], y[j]).into()).collect()
        }
    };
    let ints = all.iter().map(|n| match n {
        Number::Integer(x) => Some(*x),
        Number::Float(_) => None,
    });
    match ints.collect::<Option<Vec<i64>>>() {
        Some(ints) => of_integers(dtype, shape, ints),
        None => {
            let float = |n| match n {
                Number::Integer(x) => x as f64,
                Number::Float(x) => x,
            };
            of_reals(dtype, shape, all.into_iter().map(float).collect())
        }
    }
}

/// One number.
pub(super) enum Number {
    Integer(i64),
    Float(f64),
}

impl From<i64> for Number {
    fn from(x: i64) -> Number {
        Number::Integer(x)
    }
}

impl From<bool> for Number {
    fn from(x: bool) -> Number {
        Number::Integer(x.into())
    }
}

impl From<f64> for Number {
    fn from(x: f64) -> Number {
        Number::Float(x)
    }
}

/// The Gauss error function, within a few units of the last place of f64: `2 / sqrt(pi) e^-x^2 sum of 2^n x^(2n+1) / (2n+1)!!`.
pub(super) fn erf(x: f64) -> f64 {
    // Beyond, the result rounds to one.
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
        if term.abs() < sum.abs() * f64::EPSILON / 4.0 {
            break;
        }
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}
