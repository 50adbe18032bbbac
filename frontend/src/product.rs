//! Matrix products in plain loops, which compilers vectorise, on x86-64 also for AVX2. Multiplications and additions are not fused, so results do
//! not depend on the processor, threads or the order of rows.
//!
//! ```text
//!   b: [k, n] ── packed ──▶ panels [n / COLUMNS][k][COLUMNS]      a: [m, k] ── packed ──▶ tiles [m / ROWS][k][ROWS]
//!                                            └──── one tile and one panel: ROWS x COLUMNS sums in registers ────┘
//! ```

use rayon::prelude::*;
use std::ops::{AddAssign, Mul};

/// Sums of one tile of rows and one panel of columns fit the registers of any processor: 8 vectors of 4 f32, or of 8 with AVX2.
const ROWS: usize = 4;
const COLUMNS: usize = 8;
#[cfg(target_arch = "x86_64")]
const COLUMNS_OF_AVX2: usize = 2 * COLUMNS;

/// Rows of one task: enough that a panel, once read, serves several tiles.
const TASK: usize = 8 * ROWS;

/// The numbers of products: f32, f64.
pub(crate) trait Element: Copy + Default + Mul<Output = Self> + AddAssign + Send + Sync {}

impl<T: Copy + Default + Mul<Output = T> + AddAssign + Send + Sync> Element for T {}

/// `out = a b` with row-major `a: [m, k]`, `b: [k, n]`, `out: [m, n]`, on all cores.
///
/// # Panics
/// If a slice's length does not match its shape.
pub(crate) fn multiply<T: Element>([m, k, n]: [usize; 3], a: &[T], b: &[T], out: &mut [T]) {
    assert_eq!(b.len(), k * n, "length of b");
    product([m, k, n], a, |i, j| b[i * n + j], out);
}

/// `out = a w^T` with row-major `a: [m, k]`, `w: [n, k]` (a linear map applied to `m` vectors), `out: [m, n]`, on all cores.
///
/// # Panics
/// If a slice's length does not match its shape.
pub(crate) fn apply<T: Element>([m, k, n]: [usize; 3], a: &[T], w: &[T], out: &mut [T]) {
    assert_eq!(w.len(), k * n, "length of w");
    product([m, k, n], a, |i, j| w[j * k + i], out);
}

/// `out = a b`, where `b` returns the element at a row and a column.
fn product<T: Element>(shape: [usize; 3], a: &[T], b: impl Fn(usize, usize) -> T + Sync, out: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "loops compiled for AVX2 are three times as fast as those for SSE2")]
        // SAFETY: the processor has AVX2.
        let task = |panels: &[_], n: usize, a: &[_], k: usize, out: &mut [_]| unsafe {
            task_avx2(panels, n, a, k, out);
        };
        return in_panels::<T, COLUMNS_OF_AVX2>(shape, a, b, out, task);
    }
    in_panels::<T, COLUMNS>(shape, a, b, out, task);
}

/// [`product`] with panels of so many columns, where `task(panels, n, a, k, out)` multiplies some rows by all panels.
fn in_panels<T: Element, const COLUMNS: usize>(
    [m, k, n]: [usize; 3],
    a: &[T],
    b: impl Fn(usize, usize) -> T + Sync,
    out: &mut [T],
    task: impl Fn(&[[T; COLUMNS]], usize, &[T], usize, &mut [T]) + Sync,
) {
    assert_eq!((a.len(), out.len()), (m * k, m * n), "lengths of a and out");
    if m * n * k == 0 {
        return out.fill(T::default());
    }
    let mut panels = vec![[T::default(); COLUMNS]; n.div_ceil(COLUMNS) * k]; // [panels][k]
    panels.par_chunks_mut(k).enumerate().for_each(|(p, panel)| {
        let first = p * COLUMNS;
        for c in 0..COLUMNS.min(n - first) {
            panel.iter_mut().enumerate().for_each(|(i, row)| row[c] = b(i, first + c));
        }
    });
    let rows = out.par_chunks_mut(TASK * n).zip(a.par_chunks(TASK * k));
    rows.for_each(|(out, a)| task(&panels, n, a, k, out));
}

/// [`task`] with the instructions of AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn task_avx2<T: Element>(panels: &[[T; COLUMNS_OF_AVX2]], n: usize, a: &[T], k: usize, out: &mut [T]) {
    task(panels, n, a, k, out);
}

/// Multiplies rows `a: [.., k]` by all panels.
#[inline(always)]
fn task<T: Element, const COLUMNS: usize>(
    panels: &[[T; COLUMNS]],
    n: usize,
    a: &[T],
    k: usize,
    out: &mut [T],
) {
    let tiles: Vec<Vec<[T; ROWS]>> = a.chunks(ROWS * k).map(|rows| packed(rows, k)).collect();
    for (p, panel) in panels.chunks(k).enumerate() {
        let columns = p * COLUMNS..n.min((p + 1) * COLUMNS);
        for (tile, out) in tiles.iter().zip(out.chunks_mut(ROWS * n)) {
            for (sums, out) in sums(tile, panel).iter().zip(out.chunks_mut(n)) {
                out[columns.clone()].copy_from_slice(&sums[..columns.len()]);
            }
        }
    }
}

/// Up to `ROWS` rows, side by side.
fn packed<T: Element>(rows: &[T], k: usize) -> Vec<[T; ROWS]> {
    let mut tile = vec![[T::default(); ROWS]; k];
    for (r, row) in rows.chunks(k).enumerate() {
        tile.iter_mut().zip(row).for_each(|(to, &x)| to[r] = x);
    }
    tile
}

/// The products of the rows of a tile and the columns of a panel.
#[inline(always)]
fn sums<T: Element, const COLUMNS: usize>(
    tile: &[[T; ROWS]],
    panel: &[[T; COLUMNS]],
) -> [[T; COLUMNS]; ROWS] {
    let mut sums = [[T::default(); COLUMNS]; ROWS];
    for (x, w) in tile.iter().zip(panel) {
        for r in 0..ROWS {
            for c in 0..COLUMNS {
                sums[r][c] += x[r] * w[c];
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_small_matrices() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let mut out = [0.0f32; 4];
        multiply([2, 3, 2], &a, &b, &mut out);
        assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
        apply([2, 3, 2], &a, &[1.0, 0.0, 1.0, 0.0, 1.0, 1.0], &mut out);
        assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
    }

    /// Around tiles, panels and tasks; sums of integers are exact.
    #[test]
    fn every_shape_is_the_sum_of_its_products() {
        for m in [0, 1, ROWS - 1, ROWS, ROWS + 1, TASK - 1, TASK + 1] {
            for n in [0, 1, COLUMNS - 1, COLUMNS, COLUMNS + 1, 3 * COLUMNS, 5 * COLUMNS + 3] {
                for k in [0, 1, 5, 33] {
                    let number = |i: usize| (i * 37 % 19) as f64 - 9.0;
                    let a: Vec<f64> = (0..m * k).map(number).collect();
                    let b: Vec<f64> = (0..k * n).map(|i| number(i + 5)).collect();
                    let turned: Vec<f64> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
                    let expected: Vec<f64> = (0..m * n)
                        .map(|i| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum())
                        .collect();
                    let mut out = vec![7.0; m * n];
                    multiply([m, k, n], &a, &b, &mut out);
                    assert_eq!(out, expected, "{m} {k} {n}");
                    out.fill(7.0);
                    apply([m, k, n], &a, &turned, &mut out);
                    assert_eq!(out, expected, "{m} {k} {n}");
                    out.fill(7.0);
                    in_panels::<f64, COLUMNS>([m, k, n], &a, |i, j| b[i * n + j], &mut out, task);
                    assert_eq!(out, expected, "{m} {k} {n} without AVX2");
                }
            }
        }
    }
}
