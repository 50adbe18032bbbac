//! f32, which training uses, and f64, which its tests use to check gradients.

use super::shard::SHARDS;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use lstmc_frontend::interpret::Real;
use pulp::NullaryFnOnce;

/// Multiply-adds below which a product stays on one thread: less work than waking the others.
const PARALLEL_FROM: usize = if cfg!(test) { 1 << 4 } else { 1 << 22 };

/// Elements that one thread works on at a time.
pub(super) const CHUNK: usize = 1 << 16;

/// Runs a loop compiled for this machine's vector instructions; its `call` must always be inlined. Multiplications and additions are not fused, so
/// the results of elementwise loops do not depend on the instruction set.
#[inline(always)]
pub(super) fn vectorized<L: NullaryFnOnce>(work: L) -> L::Output {
    pulp::Arch::new().dispatch(work)
}

/// A number to train with.
pub(super) trait Number: Real + faer::traits::ComplexField + std::ops::MulAssign {
    /// `e^x` without branches, so that loops over it become vector code.
    fn quick_exp(self) -> Self;

    /// The square root.
    fn root(self) -> Self;

    /// The nearest integer, ties to even.
    fn nearest(self) -> Self;

    /// The absolute value.
    #[inline(always)]
    fn magnitude(self) -> Self {
        if self < Self::of(0.0) { -self } else { self }
    }

    /// `1 / (1 + e^-x)`.
    #[inline(always)]
    fn quick_sigmoid(self) -> Self {
        let one = Self::of(1.0);
        one / (one + (-self).quick_exp())
    }

    /// The hyperbolic tangent.
    #[inline(always)]
    fn quick_tanh(self) -> Self {
        let two = Self::of(2.0);
        two * (two * self).quick_sigmoid() - Self::of(1.0)
    }
}

impl Number for f64 {
    fn quick_exp(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn root(self) -> f64 {
        self.sqrt()
    }

    #[inline(always)]
    fn nearest(self) -> f64 {
        self.round_ties_even()
    }
}

impl Number for f32 {
    /// `2^n e^r` with `n` the integer nearest to `x / ln 2` and `|r| <= ln 2 / 2`; the Taylor polynomial of degree 6 leaves a relative error of
    /// `0.347^7 / 7! = 1.2e-7`, an ulp.
    #[inline(always)]
    fn quick_exp(self) -> f32 {
        /// Adding and subtracting it rounds to the nearest integer: 1.5 * 2^23.
        const ROUND: f32 = 12_582_912.0;
        /// The range in which the result is a normal number.
        const LIMIT: f32 = 87.0;
        // `ln 2` in two parts, the first with few bits, so that its product with `n` is exact (Cody and Waite 1980).
        const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
        let x = if self < LIMIT { self } else { LIMIT };
        let x = if x > -LIMIT { x } else { -LIMIT };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * LN_2[0] - n * LN_2[1];
        let mut p = 1.0 / 720.0;
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = p * r + c;
        }
        let exponent = (shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits());
        p * f32::from_bits(exponent)
    }

    #[inline(always)]
    fn root(self) -> f32 {
        self.sqrt()
    }

    #[inline(always)]
    fn nearest(self) -> f32 {
        self.round_ties_even()
    }
}

/// A row-major matrix.
#[derive(Clone, Copy)]
pub(super) struct View<'a, T> {
    data: MatRef<'a, T>,
}

impl<'a, T: Number> View<'a, T> {
    pub(super) fn new(data: &'a [T], rows: usize, cols: usize) -> View<'a, T> {
        View { data: MatRef::from_row_major_slice(data, rows, cols) }
    }

    pub(super) fn transposed(self) -> View<'a, T> {
        View { data: self.data.transpose() }
    }

    /// `out = self b`, row-major.
    pub(super) fn times(self, b: View<'_, T>, out: &mut [T]) {
        self.product(b, out, Accum::Replace);
    }

    /// `out += self b`, row-major.
    pub(super) fn add_times(self, b: View<'_, T>, out: &mut [T]) {
        self.product(b, out, Accum::Add);
    }

    fn product(self, b: View<'_, T>, out: &mut [T], accumulate: Accum) {
        let (m, k, n) = (self.data.nrows(), self.data.ncols(), b.data.ncols());
        // Shards take one thread each; the remaining threads are for their products.
        let threads = rayon::current_num_threads() / SHARDS;
        let parallel = if threads <= 1 || m * k * n < PARALLEL_FROM { Par::Seq } else { Par::rayon(threads) };
        let out = MatMut::from_row_major_slice_mut(out, m, n);
        matmul(out, accumulate, self.data, b.data, T::of(1.0), parallel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_exponential_is_near() {
        /// An ulp of the polynomial, and those of its seven steps and the reduction.
        const MAX_RELATIVE_ERROR: f64 = 4e-7;
        for k in -86_000..=86_000 {
            let x = k as f32 * 1e-3;
            let (found, expected) = (f64::from(x.quick_exp()), f64::from(x).exp());
            assert!((found - expected).abs() <= MAX_RELATIVE_ERROR * expected, "{x}: {found}, {expected}");
        }
        assert!((0.3f32.quick_tanh() - 0.3f32.tanh()).abs() < 1e-6);
        assert!(((-0.3f32).quick_sigmoid() - 0.425_557_5).abs() < 1e-6);
    }

    /// Loops give the same bits for any vector instructions.
    #[test]
    fn loops_are_the_same_at_every_level() {
        struct Gates<'a>(&'a mut [f32]);
        impl NullaryFnOnce for Gates<'_> {
            type Output = f32;

            #[inline(always)]
            fn call(self) -> f32 {
                for x in self.0.iter_mut() {
                    *x = x.quick_sigmoid() * x.quick_tanh() + (*x).nearest();
                }
                self.0.iter().fold(0.0, |sum, x| sum + x)
            }
        }
        let run = |level: Option<pulp::Arch>| {
            let mut x: Vec<f32> = (0..1001).map(|i| (i as f32 - 500.0) / 37.0).collect();
            let sum = match level {
                Some(level) => level.dispatch(Gates(&mut x)),
                None => vectorized(Gates(&mut x)),
            };
            (x.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), sum.to_bits())
        };
        let mut levels = vec![None, Some(pulp::Arch::Scalar)];
        #[cfg(target_arch = "x86_64")]
        levels.extend([pulp::x86::V3::try_new().map(pulp::Arch::V3)]);
        let want = run(None);
        for level in levels {
            assert!(run(level) == want);
        }
    }
}
