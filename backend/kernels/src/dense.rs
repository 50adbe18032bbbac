//! f32 panels.
//!
//! A tile of `T` tokens and a *part* of a panel stays in registers during the loop over inputs: two 512-bit vectors for 12 tokens with AVX-512, two
//! 256-bit ones for 6 with AVX2, four 128-bit ones for 6 with NEON. With few tokens there are too few sums to hide a multiply-add's latency: two or three
//! tokens take two parts at once, and one token takes a whole panel, so that its weights are read in order, and distributes its inputs over sets of sums.
//!
//! So the sums of a token are the same, bit for bit, whichever tokens are beside it and however many, if there are any.

use crate::level::{Level, Set};
use crate::share::{Destination, PanelRange, Tile};
use crate::vector::Vector;
use crate::{PANEL, check_rows, f32_panels_len};

/// Bytes of activations that a block of tokens may take: half of a small second-level cache.
const BLOCK_BYTES: usize = 256 << 10;

/// Up to this many steps take about as long as one: loading the weights dominates.
const FEW_STEPS: usize = 16;

/// A map `[out][input]` in f32 panels (see the [module](super)) and the vectors that it is multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct Floats<'a> {
    /// Rows of `input` f32s.
    pub x: &'a [f32],
    /// f32s from one row to the next.
    pub stride: usize,
    /// Inputs.
    pub input: usize,
    /// The panels.
    pub weights: &'a [f32],
}

impl Floats<'_> {
    /// Multiply-adds of this many steps, or the number that takes as long.
    pub(crate) fn work(&self, steps: usize, out: usize) -> usize {
        steps.max(FEW_STEPS).saturating_mul(out).saturating_mul(self.input)
    }
}

/// A product whose shapes have been checked.
pub(crate) struct Job<'a> {
    steps: usize,
    x: &'a [f32],
    x_stride: usize,
    input: usize,
    weights: &'a [f32],
}

impl<'a> Job<'a> {
    pub(crate) fn new(steps: usize, term: &Floats<'a>, out: usize) -> Job<'a> {
        let Floats { x, stride: x_stride, input, weights } = *term;
        check_rows("activations", steps, x_stride, input, x.len());
        // Saturated: no slice is that long.
        let need = f32_panels_len(out, input);
        assert!(
            weights.len() >= need,
            "f32 panels of [{out}, {input}] have {need} f32s, not {}",
            weights.len()
        );
        Job { steps, x, x_stride, input, weights }
    }

    /// `to = start + x w^T` in `panels`. Panics if the destination lacks one of them or has other tokens.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call.
    pub(crate) unsafe fn run(&self, level: Level, panels: PanelRange, to: &Destination<'_>) {
        match level.set() {
            // SAFETY: the columns are this thread's, as the caller promises.
            Set::Portable => unsafe { self.portable(panels, to) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level is proof that the processor has AVX2 and FMA; the columns are this thread's, as the caller promises.
            Set::Avx2 | Set::AvxVnni => unsafe { avx2(self, panels, to) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level is proof that the processor has AVX-512 F; the columns are this thread's, as the caller promises.
            Set::Avx512 | Set::Avx512Vnni => unsafe { avx512(self, panels, to) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the level is proof that the processor has NEON; the columns are this thread's, as the caller promises.
            Set::Neon | Set::NeonDot => unsafe { neon(self, panels, to) },
        }
    }

    /// The panel's weights, `[input][PANEL]`.
    fn panel(&self, panel: usize) -> &[f32] {
        &self.weights[panel * PANEL * self.input..][..PANEL * self.input]
    }

    /// The reference implementation of the kernels below.
    ///
    /// # Safety
    /// Only this thread writes these panels' columns of the destination during the call.
    unsafe fn portable(&self, panels: PanelRange, to: &Destination<'_>) {
        for panel in panels.each() {
            let weights = self.panel(panel).as_chunks::<PANEL>().0;
            for t in 0..self.steps {
                let mut sums = [0.0f32; PANEL];
                let x = &self.x[t * self.x_stride..][..self.input];
                for (half, sums) in sums.as_chunks_mut::<{ PANEL / 2 }>().0.iter_mut().enumerate() {
                    let mut local = *sums;
                    for (x, w) in x.iter().zip(weights) {
                        let w = &w.as_chunks::<{ PANEL / 2 }>().0[half];
                        local = std::array::from_fn(|i| local[i] + x * w[i]);
                    }
                    *sums = local;
                }
                // SAFETY: the columns are this thread's, as the caller promises, and there is one tile at a time.
                unsafe { to.tile(t, 1, panel, 0) }.store_plain(&sums);
            }
        }
    }

    /// Processes all tokens of `panels`, in tiles of at most `T` tokens and parts of `N` vectors: `tile(n, parts, ...)` handles `n` tokens and one part,
    /// or two that follow each other if tiles have from 2 to `few` tokens.
    ///
    /// # Safety
    /// The processor has the instructions of `V`; only this thread writes these panels' columns of the destination during the call.
    #[inline(always)]
    unsafe fn tiled<V: Vector, const T: usize, const N: usize>(
        &self,
        panels: PanelRange,
        to: &Destination<'_>,
        few: usize,
        tile: impl Fn(usize, usize, &Operands, Tile),
    ) {
        let most = (BLOCK_BYTES / 4 / self.input.max(1)).next_multiple_of(T).max(T);
        // Of nearly equal size: one token in a block by itself would have other sums.
        let block = self.steps.div_ceil(self.steps.div_ceil(most).max(1)).max(1);
        let part = N * V::LANES;
        for first in (0..self.steps).step_by(block) {
            let tokens = block.min(self.steps - first);
            let tiles = tokens.div_ceil(T);
            let doubles = (2..=few).contains(&(tokens / tiles));
            let tiles = if doubles { tokens.div_ceil(few) } else { tiles };
            // Tiles of nearly equal size: a small one would be bound by the latency of its sums.
            let (least, larger) = (tokens / tiles, tokens % tiles);
            let mut each = panels.each().peekable();
            while let Some(panel) = each.next() {
                let weights = self.panel(panel);
                // The other part is in the same panel, or is the next one.
                let (parts, apart) = match PANEL / part {
                    1 if doubles && each.next_if_eq(&(panel + 1)).is_some() => (2, weights.len()),
                    1 => (1, 0),
                    _ => (1 + usize::from(doubles || tokens == 1), part),
                };
                // All tiles together prefetch the next panel, or a little more.
                let next_step = (parts * part).min(PANEL).div_ceil(tiles);
                let mut next = weights.as_ptr().wrapping_add(parts.div_ceil(PANEL / part) * weights.len());
                // Outputs of a panel that are not kept are not computed.
                for skip in (0..to.columns(panel)).step_by(parts * part) {
                    let mut of = Operands {
                        x: self.x[first * self.x_stride..].as_ptr(),
                        x_stride: self.x_stride,
                        input: self.input,
                        weights: weights.as_ptr().wrapping_add(skip),
                        apart,
                        next,
                        next_step,
                    };
                    let mut t = first;
                    for i in 0..tiles {
                        let n = least + usize::from(i < larger);
                        // SAFETY: the columns are this thread's, as the caller promises, and there is one tile at a time.
                        tile(n, parts, &of, unsafe { to.tile(t, n, panel, skip) });
                        t += n;
                        of.x = of.x.wrapping_add(n * self.x_stride);
                        of.next = of.next.wrapping_add(self.input * next_step);
                    }
                    next = of.next;
                }
            }
        }
    }
}

/// The operands of a tile.
struct Operands {
    /// The first token's activations.
    x: *const f32,
    x_stride: usize,
    input: usize,
    /// The part's first weight; those of the next input are a panel's width further.
    weights: *const f32,
    /// f32s from a part to the next one, if there are two.
    apart: usize,
    /// Weights to prefetch: this tile's share of the next panel, `next_step` f32s per input.
    next: *const f32,
    next_step: usize,
}

/// `T` tokens times a part of `N` vectors; input `k` is added to set `k % U` of the sums.
///
/// # Safety
/// The processor has the instructions of `V`; the operands have `T` tokens and the tile too.
#[inline(always)]
unsafe fn product<V: Vector, const T: usize, const N: usize, const U: usize>(of: &Operands, tile: Tile) {
    // SAFETY: inputs are below `of.input` and tokens below `T`, which the operands and the tile have; the caller has the instructions.
    unsafe {
        let mut sums = [[[V::splat(0.0); N]; T]; U];
        let whole = of.input / U * U;
        for k in (0..whole).step_by(U) {
            for (u, sums) in sums.iter_mut().enumerate() {
                add_input::<V, T, N>(of, k + u, sums);
            }
        }
        for k in whole..of.input {
            add_input::<V, T, N>(of, k, &mut sums[0]);
        }
        for t in 0..T {
            for n in 0..N {
                let mut sum = sums[0][t][n];
                for other in &sums[1..] {
                    sum = sum.add(other[t][n]);
                }
                tile.store(t, n * V::LANES, sum);
            }
        }
    }
}

/// `T` tokens times two parts of `N` vectors.
///
/// # Safety
/// As [`product`], and the operands have two parts.
#[inline(always)]
unsafe fn product_of_two<V: Vector, const T: usize, const N: usize>(of: &Operands, tile: Tile) {
    // SAFETY: as in `product`; the second part is `of.apart` further.
    unsafe {
        let mut sums = [[[V::splat(0.0); N]; T]; 2];
        for k in 0..of.input {
            // In this order, all but a vector of weights stays in registers.
            let mut x = [V::splat(0.0); T];
            for (t, x) in x.iter_mut().enumerate() {
                *x = V::splat(*of.x.add(t * of.x_stride + k));
            }
            for (part, sums) in sums.iter_mut().enumerate() {
                let at = part * of.apart;
                V::prefetch(of.next.wrapping_add(at + k * of.next_step));
                for n in 0..N {
                    let w = V::load(of.weights.wrapping_add(at + k * PANEL + n * V::LANES));
                    for (sums, x) in sums.iter_mut().zip(x) {
                        sums[n] = x.mul_add(w, sums[n]);
                    }
                }
            }
        }
        for (part, sums) in sums.iter().enumerate() {
            for (t, sums) in sums.iter().enumerate() {
                for (n, sum) in sums.iter().enumerate() {
                    tile.store(t, (part * N + n) * V::LANES, *sum);
                }
            }
        }
    }
}

/// Adds the products of input `k`.
///
/// # Safety
/// As [`product`]; the input exists.
#[inline(always)]
unsafe fn add_input<V: Vector, const T: usize, const N: usize>(
    of: &Operands,
    k: usize,
    sums: &mut [[V; N]; T],
) {
    // SAFETY: loads stay within the operands' tokens and weights: vectors divide a panel. The caller has the instructions.
    unsafe {
        let mut w = [V::splat(0.0); N];
        if T > 1 {
            V::prefetch(of.next.wrapping_add(k * of.next_step));
        }
        for (n, w) in w.iter_mut().enumerate() {
            *w = V::load(of.weights.wrapping_add(k * PANEL + n * V::LANES));
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            let x = V::splat(*of.x.add(t * of.x_stride + k));
            for n in 0..N {
                sums[n] = x.mul_add(w[n], sums[n]);
            }
        }
    }
}

/// A function per instruction set that processes all tokens for a range of panels, and one per number of tokens in a tile.
macro_rules! kernels {
    ($name:ident, $tile:ident, $v:ty, $features:literal, $n:literal, $last:literal: [$($t:literal)*], [$($double:literal)*] $few:literal) => {
        /// # Safety
        /// The processor has the features; only this thread writes these panels' columns of the destination during the call.
        #[target_feature(enable = $features)]
        unsafe fn $name(job: &Job<'_>, panels: PanelRange, to: &Destination<'_>) {
            // SAFETY: the vector's instructions are enabled here; the columns are this thread's, as the caller promises; operands and tile have
            // as many tokens, and parts, as the numbers say.
            unsafe {
                job.tiled::<$v, $last, $n>(panels, to, $few, |tokens, parts, of, tile| match (tokens, parts) {
                    $(($double, 2) => $tile::<$double, 2>(of, tile),)*
                    $(($t, _) => $tile::<$t, 1>(of, tile),)*
                    _ => $tile::<$last, 1>(of, tile),
                });
            }
        }

        /// `P` parts.
        ///
        /// # Safety
        /// As [`product`].
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn $tile<const T: usize, const P: usize>(of: &Operands, tile: Tile) {
            // SAFETY: the vector's instructions are enabled here; operands and tile have `T` tokens and `P` parts, as the caller promises.
            unsafe {
                match (T, P) {
                    (1, 2) => product::<$v, T, { 2 * $n }, 2>(of, tile),
                    (_, 2) => product_of_two::<$v, T, $n>(of, tile),
                    (1, _) => product::<$v, T, $n, 4>(of, tile),
                    _ => product::<$v, T, $n, 1>(of, tile),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(avx512, avx512_tile, std::arch::x86_64::__m512, "avx512f", 2, 12: [1 2 3 4 5 6 7 8 9 10 11], [2 3] 3);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, avx2_tile, std::arch::x86_64::__m256, "avx2,fma", 2, 6: [1 2 3 4 5], [1 2 3] 3);
#[cfg(target_arch = "aarch64")]
kernels!(neon, neon_tile, std::arch::aarch64::float32x4_t, "neon", 4, 6: [1 2 3 4 5], [1 2] 2);
