//! `exp`, `ln`, `tanh` and `sigmoid` in generated code; [`elementary`](lstmc_kernels::elementary) documents their formulas and accuracy.
//!
//! A function takes several vectors at once and applies each operation to all of them before the next: a constant is loaded once for all, and
//! their chains of dependent operations overlap. Four vectors fit the registers.

use super::emit::{Constant, Emit, Type, Value};
use lstmc_kernels::elementary::{
    EXP, EXP_LOW, EXP2_OF_NEAREST as EXP2, LN, LN2_HIGH, LN2_LOW, LOWEST, ROUND,
};

/// `f` of each vector.
fn each(e: &mut dyn Emit, x: &[Value], mut f: impl FnMut(&mut dyn Emit, Value) -> Value) -> Vec<Value> {
    x.iter().map(|&x| f(e, x)).collect()
}

/// `f` of each pair of vectors.
fn both(
    e: &mut dyn Emit,
    x: &[Value],
    y: &[Value],
    mut f: impl FnMut(&mut dyn Emit, Value, Value) -> Value,
) -> Vec<Value> {
    x.iter().zip(y).map(|(&x, &y)| f(e, x, y)).collect()
}

fn horner(e: &mut dyn Emit, coefficients: &[f32], x: &[Value]) -> Vec<Value> {
    let first = e.constant(coefficients[0]);
    let mut p = vec![first; x.len()];
    for &c in &coefficients[1..] {
        let c = e.constant(c);
        p = both(e, &p, x, |e, p, x| e.mul_add(p, x, c));
    }
    p
}

/// `y * 2^n` where `shifted` is `n` plus [`ROUND`].
fn scale(e: &mut dyn Emit, y: &[Value], shifted: &[Value]) -> Vec<Value> {
    both(e, y, shifted, |e, y, shifted| {
        let (bits, y) = (e.cast(Type::I32x4, shifted), e.cast(Type::I32x4, y));
        let exponent = e.shift_left(bits, 23);
        let y = e.add(y, exponent);
        e.cast(Type::F32x4, y)
    })
}

/// Lanewise `e^x` of arguments up to `-EXP_LOW`, clamped to [`EXP_LOW`] from below; NaN stays NaN.
pub(crate) fn exp(e: &mut dyn Emit, x: &[Value]) -> Vec<Value> {
    let low = e.constant(EXP_LOW);
    let x = each(e, x, |e, x| e.max(low, x));
    let (log2e, round) = (e.constant(std::f32::consts::LOG2_E), e.constant(ROUND));
    let shifted = each(e, &x, |e, x| e.mul_add(x, log2e, round));
    let n = each(e, &shifted, |e, s| e.sub(s, round));
    let high = e.constant(-LN2_HIGH);
    let r = both(e, &n, &x, |e, n, x| e.mul_add(n, high, x));
    let low = e.constant(-LN2_LOW);
    let r = both(e, &n, &r, |e, n, r| e.mul_add(n, low, r));
    let p = horner(e, &EXP, &r);
    let one = e.constant(1.0);
    let y = both(e, &p, &r, |e, p, r| {
        let r2 = e.mul(r, r);
        let r1 = e.add(r, one);
        e.mul_add(p, r2, r1)
    });
    scale(e, &y, &shifted)
}

/// Lanewise `2^(x * y + z)` of a sum that is at most 127, to 1.5e-7 and the rounding of the sum; below -126 the smallest normal number.
///
/// For sums of many terms: with base 2 the exponent is split off without a second step.
pub(crate) fn exp2_of_sum(e: &mut dyn Emit, x: &[Value], y: Value, z: Value) -> Vec<Value> {
    let t = each(e, x, |e, x| e.mul_add(x, y, z));
    exp2_not_above(e, &t)
}

/// Lanewise `2^t` of a `t` that is at most 127, to 1.5e-7; below -126 the smallest normal numbers. NaN stays NaN.
fn exp2_not_above(e: &mut dyn Emit, t: &[Value]) -> Vec<Value> {
    let low = e.constant(LOWEST);
    let t = each(e, t, |e, t| e.max(low, t));
    let round = e.constant(ROUND);
    let shifted = each(e, &t, |e, t| e.add(t, round));
    let n = each(e, &shifted, |e, s| e.sub(s, round));
    let f = both(e, &t, &n, |e, t, n| e.sub(t, n));
    let p = horner(e, &EXP2, &f);
    scale(e, &p, &shifted)
}

/// Lanewise `2^(x * y)`, the product clamped to `[-126, 126]`, where adding 1 to the result does not overflow.
fn exp2_of_product(e: &mut dyn Emit, x: &[Value], y: f32) -> Vec<Value> {
    let (y, high) = (e.constant(y), e.constant(126.0));
    let t = each(e, x, |e, x| {
        let t = e.mul(x, y);
        e.min(high, t)
    });
    exp2_not_above(e, &t)
}

/// Lanewise `1 / (1 + e^-x)`.
pub(crate) fn sigmoid(e: &mut dyn Emit, x: &[Value]) -> Vec<Value> {
    let t = exp2_of_product(e, x, -std::f32::consts::LOG2_E);
    let one = e.constant(1.0);
    each(e, &t, |e, t| {
        let d = e.add(t, one);
        e.div(one, d)
    })
}

/// Lanewise hyperbolic tangent, `2 / (1 + e^-2x) - 1`.
pub(crate) fn tanh(e: &mut dyn Emit, x: &[Value]) -> Vec<Value> {
    let t = exp2_of_product(e, x, -2.0 * std::f32::consts::LOG2_E);
    let (one, two) = (e.constant(1.0), e.constant(2.0));
    each(e, &t, |e, t| {
        let d = e.add(t, one);
        let q = e.div(two, d);
        e.sub(q, one)
    })
}

/// `ln x` of one positive normal f32; the result for other arguments is meaningless; callers do not pass them.
pub(crate) fn ln(e: &mut dyn Emit, x: Value) -> Value {
    let bits = e.cast(Type::I32, x);
    // Split at sqrt(1/2): subtracting its bits makes the exponent field count from there.
    let base = e.with_constant(Constant::Add, bits, -i64::from(std::f32::consts::FRAC_1_SQRT_2.to_bits()));
    let n = e.with_constant(Constant::ShiftRight, base, 23);
    let shift = e.shift_left(n, 23);
    let m = e.sub(bits, shift);
    let m = e.cast(Type::F32, m);
    let n = e.to_float(n);
    let one = e.f32(1.0);
    let f = e.sub(m, one);
    let z = e.mul(f, f);
    let mut p = e.f32(LN[0]);
    for &c in &LN[1..] {
        let c = e.f32(c);
        p = e.mul_add(p, f, c);
    }
    let p = e.mul(p, f);
    let p = e.mul(p, z);
    let (low, high, half) = (e.f32(LN2_LOW), e.f32(LN2_HIGH), e.f32(-0.5));
    let p = e.mul_add(n, low, p);
    let p = e.mul_add(half, z, p);
    let p = e.add(f, p);
    let y = e.mul_add(n, high, p);
    // NaN compares equal to nothing, and must be returned unchanged.
    let is_nan = e.is_above(bits, f32::INFINITY.to_bits());
    e.select(is_nan, x, y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codegen::testing::{Function, map};
    use lstmc_kernels::Level;
    use lstmc_kernels::elementary::{
        MAX_EXP_ERROR_ULPS, MAX_LN_ERROR_ULPS, MAX_SIGMOID_ERROR_ULPS, MAX_TANH_ERROR_ULPS,
    };

    /// The largest error in ULP of the rounded result (at least of `floor`, to which results near zero are held) and where.
    fn worst(
        level: Level,
        f: Function,
        exact: fn(f64) -> f64,
        floor: f32,
        bits: impl Iterator<Item = u32>,
    ) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        let bits: Vec<u32> = bits.collect();
        for chunk in bits.chunks(1 << 20) {
            let x: Vec<f32> = chunk.iter().map(|&b| f32::from_bits(b)).collect();
            for (&x, y) in x.iter().zip(map(level, f, &x)) {
                let want = exact(f64::from(x));
                let rounded = (want.abs() as f32).max(floor);
                let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
                let error = (f64::from(y) - want).abs() / ulp;
                // A NaN must not go unnoticed.
                if error > worst.0 || error.is_nan() {
                    worst = (error, x);
                }
            }
        }
        worst
    }

    fn sigmoid64(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    type Case = (Function, fn(f64) -> f64, f32, f64, std::ops::RangeInclusive<f32>, bool);

    /// Function, exact form, floor, bound, range of magnitudes, and whether negative arguments count.
    fn cases() -> [Case; 4] {
        let tiny = f32::MIN_POSITIVE;
        [
            (Function::Exp, f64::exp, tiny, MAX_EXP_ERROR_ULPS, 0.0..=-EXP_LOW, true),
            (Function::Sigmoid, sigmoid64, 1.0, MAX_SIGMOID_ERROR_ULPS, 0.0..=f32::MAX, true),
            (Function::Tanh, f64::tanh, 1.0, MAX_TANH_ERROR_ULPS, 0.0..=f32::MAX, true),
            (Function::Ln, f64::ln, 1.0, MAX_LN_ERROR_ULPS, f32::MIN_POSITIVE..=f32::MAX, false),
        ]
    }

    fn check(level: Level, stride: usize) {
        for (f, exact, floor, bound, range, negative) in cases() {
            let bits = (range.start().to_bits()..=range.end().to_bits()).step_by(stride);
            let signs: &[u32] = if negative { &[0, 1 << 31] } else { &[0] };
            let all = signs.iter().flat_map(|&s| bits.clone().map(move |b| b | s));
            let (error, at) = worst(level, f, exact, floor, all);
            assert!(error <= bound, "{level:?}, {f:?}({at:e}): {error:.3} ULP, more than {bound}");
        }
    }

    #[test]
    fn errors_of_a_dense_sample_are_within_their_bounds() {
        for level in Level::all() {
            check(level, 4099);
        }
    }

    #[test]
    #[ignore = "every f32 of the ranges: minutes; run by `just exhaustive`"]
    fn errors_of_every_argument_are_within_their_bounds() {
        for level in Level::all() {
            check(level, 1);
        }
    }

    #[test]
    fn arguments_beyond_the_range_are_clamped_and_nan_stays_nan() {
        let x = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30];
        for level in Level::all() {
            let e = map(level, Function::Exp, &[f32::NEG_INFINITY, f32::NAN, -1e30]);
            assert!(e[0] > 0.0 && e[0] < 2e-38 && e[1].is_nan() && e[2] == e[0], "{level:?}");
            let e = map(level, Function::AnyExp, &x);
            assert!(e[0] > 8e37 && e[0] < 9e37 && e[1] < 2e-38 && e[2].is_nan() && e[3] == e[0], "{level:?}");
            let l = map(level, Function::AnyLn, &[0.0, -0.0, -1.0, f32::INFINITY, f32::NAN, 1e-40, 1e-30]);
            assert!(l[0] == f32::NEG_INFINITY && l[1] == l[0] && l[3] == f32::INFINITY, "{level:?}: {l:?}");
            assert!(l[2].is_nan() && l[4].is_nan(), "{level:?}: {l:?}");
            assert!((l[5] + 92.103_4).abs() < 1e-4 && (l[6] + 69.077_55).abs() < 1e-5, "{level:?}: {l:?}");
            let s = map(level, Function::Sigmoid, &x);
            assert!(s[0] == 1.0 && s[1] < 2e-38 && s[2].is_nan() && s[3] == 1.0, "{level:?}");
            let t = map(level, Function::Tanh, &x);
            assert!(t[0] == 1.0 && t[1] == -1.0 && t[2].is_nan(), "{level:?}");
        }
    }
}
