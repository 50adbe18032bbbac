//! The arithmetic of the interpreter: f32 or f64.

use crate::tensor::{DType, Data, Tensor, TensorError};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

mod sealed {
    use crate::product;

    /// Products of numbers: for these two types, and compiled here instead of in the caller.
    pub trait Sealed: Sized {
        /// `out = a w^T` with row-major `a: [m, k]`, `w: [n, k]`, `out: [m, n]`.
        fn apply(shape: [usize; 3], a: &[Self], w: &[Self], out: &mut [Self]);
    }

    impl Sealed for f32 {
        fn apply(shape: [usize; 3], a: &[f32], w: &[f32], out: &mut [f32]) {
            product::apply(shape, a, w, out);
        }
    }

    impl Sealed for f64 {
        fn apply(shape: [usize; 3], a: &[f64], w: &[f64], out: &mut [f64]) {
            product::apply(shape, a, w, out);
        }
    }
}

/// f32 or f64.
pub trait Real:
    sealed::Sealed
    + Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// The dtype of the same name.
    const DTYPE: DType;

    /// The nearest number of this type.
    fn of(x: f64) -> Self;

    /// The same number.
    fn to_f64(self) -> f64;

    /// `e^x`.
    fn exp(self) -> Self;

    /// The hyperbolic tangent.
    fn tanh(self) -> Self;

    /// The elements of a tensor of any float dtype.
    fn elements(t: &Tensor) -> Result<Vec<Self>, TensorError>;

    /// `1 / (1 + e^-x)`.
    fn sigmoid(self) -> Self {
        let one = Self::of(1.0);
        one / (one + (-self).exp())
    }
}

macro_rules! real {
    ($ty:ident, $dtype:ident) => {
        impl Real for $ty {
            const DTYPE: DType = DType::$dtype;

            fn of(x: f64) -> $ty {
                x as $ty
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn exp(self) -> $ty {
                self.exp()
            }

            fn tanh(self) -> $ty {
                self.tanh()
            }

            fn elements(t: &Tensor) -> Result<Vec<$ty>, TensorError> {
                Ok(match t.data() {
                    Data::F64(v) => v.iter().map(|&x| x as $ty).collect(),
                    Data::F32(v) => v.iter().map(|&x| x as $ty).collect(),
                    Data::F16(v) => v.iter().map(|x| x.to_f32() as $ty).collect(),
                    Data::Bf16(v) => v.iter().map(|x| x.to_f32() as $ty).collect(),
                    Data::Elided(..) => return t.f32s().map(|_| vec![]),
                    _ => return Err(TensorError::DType { expected: "float", found: t.dtype() }),
                })
            }
        }
    };
}

real!(f32, F32);
real!(f64, F64);
