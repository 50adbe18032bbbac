//! Activations as signed 8-bit codes, one scale per token.

use super::QUAD;
use super::check_rows;
use crate::level::Level;
#[cfg(target_arch = "x86_64")]
use crate::level::Set;

/// Smaller magnitudes than this one count as zero.
const SMALLEST: f32 = 1e-30;

/// The largest code.
const TOP: f32 = 127.0;

/// Adding this rounds to the nearest integer, ties to even, and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// Bytes of a token's codes: `len` inputs in groups of `group`, each padded to quads. A group of 0 means all inputs. `usize::MAX` where they are
/// more than that.
pub fn padded_len(len: usize, group: usize) -> usize {
    let group = group_size(len, group);
    let padded = |len: usize| len.checked_next_multiple_of(QUAD).unwrap_or(usize::MAX);
    (len / group).saturating_mul(padded(group)).saturating_add(padded(len % group))
}

/// At least 1 and at most the row.
pub(super) fn group_size(len: usize, group: usize) -> usize {
    if group == 0 { len.max(1) } else { group.min(len.max(1)) }
}

/// Tokens' activations as 8-bit codes, in groups of the size that the maps they are multiplied with have.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// Rows of [`padded_len`] codes. Padding may hold anything.
    pub codes: &'a [i8],
    /// Codes from row to row.
    pub stride: usize,
    /// One scale per token.
    pub scales: &'a [f32],
    /// `[tokens][groups]`: the sum of a group's codes, padding included.
    pub sums: &'a [i32],
}

/// Owned [`Activations`], whose room is used again.
#[derive(Default)]
pub struct CodeRows {
    codes: Vec<i8>,
    stride: usize,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl CodeRows {
    /// Room for `steps` rows of `len` inputs in groups of `group`, so that [`CodeRows::fill`] needs no more memory for as many.
    pub fn reserve(&mut self, steps: usize, len: usize, group: usize) {
        let groups = len.div_ceil(group_size(len, group));
        self.codes.reserve(steps * padded_len(len, group));
        self.scales.reserve(steps);
        self.sums.reserve(steps * groups);
    }

    /// Quantizes `steps` rows of `len` f32s, `x_stride` apart, in groups of `group` (0: all inputs): per token `m = max(max |x|, 1e-30)`, the codes are
    /// `x * (127 / m)` rounded to the nearest integer, ties to even, group by group with padding of zeros, and the scale is `m / 127`. A
    /// row that holds a NaN gets the scale NaN.
    ///
    /// # Panics
    /// Where the slice is too short for its shape, or the stride for its row.
    pub fn fill(&mut self, level: Level, steps: usize, x: &[f32], x_stride: usize, len: usize, group: usize) {
        check_rows("activations", steps, x_stride, len, x.len());
        self.stride = padded_len(len, group);
        let group = group_size(len, group);
        let groups = len.div_ceil(group);
        self.codes.resize(steps * self.stride, 0);
        self.scales.resize(steps, 0.0);
        self.sums.resize(steps * groups, 0);
        for (t, scale) in self.scales.iter_mut().enumerate() {
            let x = &x[t * x_stride..][..len];
            let codes = &mut self.codes[t * self.stride..][..self.stride];
            let sums = &mut self.sums[t * groups..][..groups];
            *scale = row_at(level, x, group, codes, sums);
        }
    }

    /// What [`CodeRows::fill`] made.
    pub fn activations(&self) -> Activations<'_> {
        let CodeRows { codes, stride, scales, sums } = self;
        Activations { codes, stride: *stride, scales, sums }
    }
}

/// [`row`] in the widest vectors of a level.
fn row_at(level: Level, x: &[f32], group: usize, codes: &mut [i8], sums: &mut [i32]) -> f32 {
    match level.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is proof that the processor has AVX-512 F and BW.
        Set::Avx512 | Set::Avx512Vnni => unsafe { avx512(x, group, codes, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is proof that the processor has AVX2.
        Set::Avx2 => unsafe { avx2(x, group, codes, sums) },
        _ => row(x, group, codes, sums),
    }
}

/// One row, in plain code that compiles to good vector code; returns its scale.
#[inline(always)]
pub(super) fn row(x: &[f32], group: usize, codes: &mut [i8], sums: &mut [i32]) -> f32 {
    // Magnitudes are in order of their bits, and those of NaN are above all others.
    let top = x.iter().fold(0u32, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
    let top = f32::from_bits(top.max(SMALLEST.to_bits()));
    let inverse = TOP / top;
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
    top / TOP
}

/// # Safety
/// The processor has AVX-512 F and BW.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(x: &[f32], group: usize, codes: &mut [i8], sums: &mut [i32]) -> f32 {
    row(x, group, codes, sums)
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(x: &[f32], group: usize, codes: &mut [i8], sums: &mut [i32]) -> f32 {
    row(x, group, codes, sums)
}
