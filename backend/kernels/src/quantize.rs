//! Activations as signed 8-bit codes, one scale per token.

use crate::elementary::ROUND;
use crate::integer::needs_wide;
use crate::level::{Level, Set};
use crate::vector::{Vector, with_vectors};
use crate::{Groups, QUAD, check_rows};

/// The lower bound of a vector's largest magnitude, so that a vector of zeros has a finite reciprocal.
pub const LEAST_MAGNITUDE: f32 = 1e-30;

/// The largest code of an activation.
pub const LARGEST_CODE: f32 = 127.0;

/// Tokens' activations as 8-bit codes, in groups of the same size as in the maps that they are multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// Rows of [`Groups::padded`] codes from -127 to 127. Padding may hold any of them.
    pub codes: &'a [i8],
    /// The same codes, widened, if the level's kernels read them so; otherwise none.
    pub wide: &'a [i16],
    /// Codes from one row to the next.
    pub stride: usize,
    /// One scale per token.
    pub scales: &'a [f32],
    /// `[tokens][groups]`: the sum of a group's codes, padding included.
    pub sums: &'a [i32],
}

/// Owned [`Activations`], whose memory is reused.
#[derive(Default)]
pub struct CodeRows {
    codes: Vec<i8>,
    wide: Vec<i16>,
    stride: usize,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl CodeRows {
    /// Reserves memory for `steps` rows, so that [`CodeRows::fill`] allocates nothing for that many.
    pub fn reserve(&mut self, steps: usize, groups: Groups) {
        self.codes.reserve(steps * groups.padded());
        self.wide.reserve(steps * groups.padded());
        self.scales.reserve(steps);
        self.sums.reserve(steps * groups.count());
    }

    /// Quantizes `steps` rows of f32s, `x_stride` apart, in groups: per token `m = max(max |x|, 1e-30)`, the codes are
    /// `x * (127 / m)` rounded to the nearest integer, ties to even, group by group with zero padding, and the scale is `m / 127`. A
    /// row that holds a NaN gets the scale NaN.
    ///
    /// # Panics
    /// If the slice is too short for its shape, or the stride for its row.
    pub fn fill(&mut self, level: Level, steps: usize, x: &[f32], x_stride: usize, groups: Groups) {
        check_rows("activations", steps, x_stride, groups.len, x.len());
        self.stride = groups.padded();
        let count = groups.count();
        self.codes.resize(steps * self.stride, 0);
        self.scales.resize(steps, 0.0);
        self.sums.resize(steps * count, 0);
        for (t, scale) in self.scales.iter_mut().enumerate() {
            let x = &x[t * x_stride..][..groups.len];
            let codes = &mut self.codes[t * self.stride..][..self.stride];
            let sums = &mut self.sums[t * count..][..count];
            *scale = row_at(level, x, groups.size, codes, sums);
        }
        self.wide.clear();
        if needs_wide(level) {
            self.wide.extend(self.codes.iter().map(|&code| i16::from(code)));
        }
    }

    /// The result of [`CodeRows::fill`].
    pub fn activations(&self) -> Activations<'_> {
        let CodeRows { codes, wide, stride, scales, sums } = self;
        Activations { codes, wide, stride: *stride, scales, sums }
    }
}

/// [`row`] in the widest vectors of a level.
fn row_at(level: Level, x: &[f32], group: usize, codes: &mut [i8], sums: &mut [i32]) -> f32 {
    // SAFETY: nothing but instructions is required.
    unsafe {
        with_vectors!(
            level,
            "avx512f,avx512bw",
            row(x, group, codes, sums),
            row_of(x: &[f32] = x, group: usize = group, codes: &mut [i8] = codes, sums: &mut [i32] = sums) -> f32
        )
    }
}

/// [`row`], compiled for the instructions of the function that it is inlined in.
///
/// # Safety
/// As for functions that use vectors, although this one uses none directly.
#[inline(always)]
unsafe fn row_of<V: Vector>(x: &[f32], group: usize, codes: &mut [i8], sums: &mut [i32]) -> f32 {
    row(x, group, codes, sums)
}

/// One row, in scalar code that compiles to good vector code; returns its scale.
#[inline(always)]
pub(crate) fn row(x: &[f32], group: usize, codes: &mut [i8], sums: &mut [i32]) -> f32 {
    // Magnitudes are ordered like their bits, and those of NaN are above all others.
    let top = x.iter().fold(0u32, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
    let top = f32::from_bits(top.max(LEAST_MAGNITUDE.to_bits()));
    let inverse = LARGEST_CODE / top;
    let mut at = 0;
    for (x, sum) in x.chunks(group).zip(sums) {
        let padded = x.len().next_multiple_of(QUAD);
        let (real, padding) = codes[at..at + padded].split_at_mut(x.len());
        for (code, x) in real.iter_mut().zip(x) {
            *code = (x * inverse + ROUND).to_bits() as i8;
        }
        *sum = real.iter().map(|&c| i32::from(c)).sum();
        padding.fill(0);
        at += padded;
    }
    top / LARGEST_CODE
}
