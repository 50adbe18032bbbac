//! What an LSTM step does after its products: gates, cell and hidden state.
//!
//! ```text
//!   gates   [units / 8][input, output, forget, cell][8]      the order of packed panels
//! ```

use super::PANEL;
use crate::exp::{exp2, exp2_of};
use crate::level::{Level, Set};
use crate::vector::Split;
use std::f32::consts::LOG2_E;

/// Units whose gates are in a panel.
const UNITS: usize = PANEL / 4;

// Where a panel's gates start.
const INPUT: usize = 0;
const OUTPUT: usize = UNITS;
const FORGET: usize = 2 * UNITS;
const CELL: usize = 3 * UNITS;

/// Units that are updated together, whose operations' latencies overlap.
const TOGETHER: usize = 4 * UNITS;

/// One step of an LSTM's units, in whole panels of them, from the gates' sums: `c = f c + i g` and `h = o tanh c`.
///
/// Errors of sigmoid and hyperbolic tangent are within [`MAX_SIGMOID_ERROR_ULPS`](crate::elementary::MAX_SIGMOID_ERROR_ULPS) and
/// [`MAX_TANH_ERROR_ULPS`](crate::elementary::MAX_TANH_ERROR_ULPS).
///
/// # Panics
/// Unless `c` and `h` have 8 elements for every 32 gates.
pub fn update(level: Level, gates: &[f32], c: &mut [f32], h: &mut [f32]) {
    let panels = gates.len() / PANEL;
    assert!(
        [gates.len(), c.len(), h.len()] == [panels * PANEL, panels * UNITS, panels * UNITS],
        "gates in panels of {PANEL} and {UNITS} units for each, not {} and {}, {}",
        gates.len(),
        c.len(),
        h.len()
    );
    match level.set() {
        Set::Portable => {
            let units = c.as_chunks_mut::<UNITS>().0.iter_mut().zip(h.as_chunks_mut::<UNITS>().0);
            for (gates, (c, h)) in gates.as_chunks::<PANEL>().0.iter().zip(units) {
                for u in 0..UNITS {
                    let [i, o, f] = [INPUT, OUTPUT, FORGET].map(|gate| sigmoid(gates[gate + u]));
                    c[u] = i * tanh(gates[CELL + u]) + f * c[u];
                    h[u] = o * tanh(c[u]);
                }
            }
        }
        // Vectors no longer than a panel's part, though longer ones be there.
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every level above `plain` and `sse4.1` has AVX2 and FMA; the lengths were checked above.
        Set::Avx2 | Set::Avx512 | Set::Avx512Vnni => unsafe { avx2(gates, c, h) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the level is proof that the processor has NEON; the lengths were checked above.
        Set::Neon => unsafe { neon(gates, c, h) },
    }
}

/// The reference implementation of [`sigmoid_of`].
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp2(-LOG2_E * x))
}

/// The reference implementation of [`tanh_of`].
fn tanh(x: f32) -> f32 {
    2.0 / (1.0 + exp2(-2.0 * LOG2_E * x)) - 1.0
}

/// Lanewise `1 / (1 + e^-(n x))`.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn sigmoid_of<V: Split, const N: usize>(mut x: [V; N], n: f32) -> [V; N] {
    // SAFETY: the caller has the instructions; nothing else is needed of a vector.
    unsafe {
        for x in &mut x {
            *x = x.mul(V::splat(-LOG2_E * n));
        }
        let mut y = exp2_of(x);
        for y in &mut y {
            *y = V::splat(1.0).div(y.add(V::splat(1.0)));
        }
        y
    }
}

/// Lanewise hyperbolic tangent, twice the sigmoid of `2 x` less 1.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn tanh_of<V: Split, const N: usize>(x: [V; N]) -> [V; N] {
    // SAFETY: the caller has the instructions; nothing else is needed of a vector.
    unsafe {
        let mut y = sigmoid_of(x, 2.0);
        for y in &mut y {
            *y = y.mul_add(V::splat(2.0), V::splat(-1.0));
        }
        y
    }
}

/// `N` vectors of units, whose first is the first of a panel.
///
/// # Safety
/// The processor has the instructions; vectors divide a panel's part; the units and their gates are there.
#[inline(always)]
unsafe fn update_some<V: Split, const N: usize>(gates: *const f32, c: *mut f32, h: *mut f32) {
    // SAFETY: the caller has the instructions; `N` vectors of units, and their gates, lie within the slices that the pointers are from.
    unsafe {
        let (i, f) =
            (sigmoid_of(gate::<V, N>(gates, INPUT), 1.0), sigmoid_of(gate::<V, N>(gates, FORGET), 1.0));
        let g = tanh_of(gate::<V, N>(gates, CELL));
        let mut new = f;
        for (n, new) in new.iter_mut().enumerate() {
            *new = i[n].mul_add(g[n], new.mul(V::load(c.add(n * V::LANES))));
            new.store(c.add(n * V::LANES));
        }
        let (t, o) = (tanh_of(new), sigmoid_of(gate::<V, N>(gates, OUTPUT), 1.0));
        for n in 0..N {
            o[n].mul(t[n]).store(h.add(n * V::LANES));
        }
    }
}

/// `N` vectors of one gate.
///
/// # Safety
/// As [`update_some`].
#[inline(always)]
unsafe fn gate<V: Split, const N: usize>(gates: *const f32, gate: usize) -> [V; N] {
    // SAFETY: the caller has the instructions; a vector lies within its panel's part, since the part is a multiple of its lanes.
    unsafe {
        let mut x = [V::splat(0.0); N];
        for (n, x) in x.iter_mut().enumerate() {
            let unit = n * V::LANES;
            *x = V::load(gates.add(unit / UNITS * PANEL + gate + unit % UNITS));
        }
        x
    }
}

/// All units: `MANY` vectors at a time, which are [`TOGETHER`], then as many as a panel has, `ONE`.
///
/// # Safety
/// The processor has the instructions; vectors divide a panel's part; `gates` has a panel for every part of `c` and `h`.
#[inline(always)]
unsafe fn update_all<V: Split, const MANY: usize, const ONE: usize>(
    gates: &[f32],
    c: &mut [f32],
    h: &mut [f32],
) {
    let (gates, units, c, h) = (gates.as_ptr(), c.len(), c.as_mut_ptr(), h.as_mut_ptr());
    let many = units / TOGETHER * TOGETHER;
    for u in (0..many).step_by(TOGETHER) {
        // SAFETY: the caller has the instructions; `u + TOGETHER` units exist, and four times as many gates.
        unsafe { update_some::<V, MANY>(gates.add(u * 4), c.add(u), h.add(u)) };
    }
    for u in (many..units).step_by(UNITS) {
        // SAFETY: the caller has the instructions; `u + UNITS` units exist, and four times as many gates.
        unsafe { update_some::<V, ONE>(gates.add(u * 4), c.add(u), h.add(u)) };
    }
}

/// # Safety
/// As [`update_all`]; the instructions are those of AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(gates: &[f32], c: &mut [f32], h: &mut [f32]) {
    // SAFETY: AVX2 and FMA are enabled here; the caller has checked the lengths.
    unsafe { update_all::<std::arch::x86_64::__m256, 4, 1>(gates, c, h) }
}

/// # Safety
/// As [`update_all`]; the instructions are those of NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(gates: &[f32], c: &mut [f32], h: &mut [f32]) {
    // SAFETY: NEON is enabled here; the caller has checked the lengths.
    unsafe { update_all::<std::arch::aarch64::float32x4_t, 8, 2>(gates, c, h) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementary::{MAX_SIGMOID_ERROR_ULPS, MAX_TANH_ERROR_ULPS};

    /// Each gate of all units, in panels.
    fn panels(gates: [&[f32]; 4]) -> Vec<f32> {
        let units = gates[0].len();
        (0..units).step_by(UNITS).flat_map(|u| gates.map(|g| &g[u..u + UNITS]).concat()).collect()
    }

    /// With a cell state of zero or one and gates that let all through, or nothing, a unit shows each function by itself.
    #[test]
    fn every_level_is_within_the_bounds_of_its_functions() {
        let step = if cfg!(miri) { 200 } else { 1 };
        let mut x: Vec<f32> = (0..40_000).step_by(step).map(|i| (i as f32 - 20_000.0) / 1000.0).collect();
        x.extend([f32::MIN_POSITIVE, 1e-9, -1e-9, 1e4, -1e4, f32::MAX, f32::MIN, f32::INFINITY]);
        let (open, shut) = (vec![f32::INFINITY; x.len()], vec![f32::NEG_INFINITY; x.len()]);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let check = |level: Level, what: &str, have: &[f32], f: &dyn Fn(f64) -> f64, bound: f64| {
            for (&x, &y) in x.iter().zip(have) {
                let error = (f64::from(y) - f(f64::from(x))).abs() / f64::from(f32::EPSILON);
                assert!(error <= bound, "{level:?}: {what} of {x:e}: {y}, {error:.2} ULP");
            }
        };
        for level in Level::all() {
            let run = |i: &[f32], o: &[f32], f: &[f32], g: &[f32], c: f32| {
                let (mut c, mut h) = (vec![c; x.len()], vec![0.0; x.len()]);
                update(level, &panels([i, o, f, g]), &mut c, &mut h);
                (c, h)
            };
            let (input, _) = run(&x, &open, &shut, &open, 3.0);
            check(level, "input", &input, &sigmoid, MAX_SIGMOID_ERROR_ULPS);
            let (forget, _) = run(&shut, &open, &x, &open, 1.0);
            check(level, "forget", &forget, &sigmoid, MAX_SIGMOID_ERROR_ULPS);
            let (cell, h) = run(&open, &open, &shut, &x, 0.0);
            check(level, "cell", &cell, &f64::tanh, MAX_TANH_ERROR_ULPS);
            // The error of the cell is passed on at most as it is.
            check(level, "tanh", &h, &|x| x.tanh().tanh(), 2.0 * MAX_TANH_ERROR_ULPS);
            let (_, output) = run(&shut, &x, &open, &open, 100.0);
            check(level, "output", &output, &sigmoid, MAX_SIGMOID_ERROR_ULPS);
        }
    }

    #[test]
    fn what_is_not_a_number_stays() {
        for level in Level::all() {
            let (mut gates, mut c, mut h) =
                (vec![0.0; 5 * PANEL], vec![0.5; 5 * UNITS], vec![0.0; 5 * UNITS]);
            gates[PANEL + FORGET + 3] = f32::NAN;
            update(level, &gates, &mut c, &mut h);
            for u in 0..5 * UNITS {
                assert_eq!(c[u].is_nan(), u == UNITS + 3, "{level:?}: c of unit {u}");
                assert_eq!(h[u].is_nan(), u == UNITS + 3, "{level:?}: h of unit {u}");
            }
        }
    }
}
