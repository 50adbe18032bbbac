//! Activations as signed 8-bit codes, one scale per token.

use super::QUAD;
use super::check_rows;
use super::level::{Level, Set};

/// Smaller magnitudes than this one count as zero.
const SMALLEST: f32 = 1e-30;

/// The largest code.
const TOP: f32 = 127.0;

/// Adding this rounds to the nearest integer, ties to even, and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// Bytes of a token's codes: `len` inputs in groups of `group`, each padded to quads. A group of 0 means all inputs.
pub fn padded_len(len: usize, group: usize) -> usize {
    let group = group_size(len, group);
    len / group * group.next_multiple_of(QUAD) + (len % group).next_multiple_of(QUAD)
}

/// At least 1 and at most the row.
pub(super) fn group_size(len: usize, group: usize) -> usize {
    if group == 0 { len.max(1) } else { group.min(len.max(1)) }
}

/// Quantizes `steps` rows of `len` f32s, `x_stride` apart: per token `m = max(max |x|, 1e-30)`, the codes are `x * (127 / m)` rounded to the
/// nearest integer, ties to even, group by group with padding of zeros ([`padded_len`] bytes, `codes_stride` apart), and the scale is
/// `m / 127`. A row that holds a NaN gets the scale NaN.
///
/// # Panics
/// Where a slice is too short for its shape, or a stride for its row.
#[expect(clippy::too_many_arguments, reason = "two matrices' shapes")]
pub fn quantize_rows(
    steps: usize,
    x: &[f32],
    x_stride: usize,
    len: usize,
    group: usize,
    codes: &mut [i8],
    codes_stride: usize,
    scales: &mut [f32],
) {
    check_rows("activations", steps, x_stride, len, x.len());
    check_rows("codes", steps, codes_stride, padded_len(len, group), codes.len());
    let group = group_size(len, group);
    for (t, scale) in scales[..steps].iter_mut().enumerate() {
        let x = &x[t * x_stride..][..len];
        let codes = &mut codes[t * codes_stride..];
        *scale = match Level::best().set() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level is proof that the processor has its instructions.
            Set::Avx512 | Set::Avx512Vnni => unsafe { avx512(x, group, codes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Set::Avx2 => unsafe { avx2(x, group, codes) },
            _ => row(x, group, codes),
        };
    }
}

/// One row, in plain code that compiles to good vector code; returns its scale.
#[inline(always)]
pub(super) fn row(x: &[f32], group: usize, codes: &mut [i8]) -> f32 {
    // Magnitudes are in order of their bits, and those of NaN are above all others.
    let top = x.iter().fold(0u32, |m, x| m.max(x.to_bits() & 0x7fff_ffff));
    let top = f32::from_bits(top.max(SMALLEST.to_bits()));
    let inverse = TOP / top;
    let mut at = 0;
    for x in x.chunks(group) {
        let padded = x.len().next_multiple_of(QUAD);
        let (real, padding) = codes[at..at + padded].split_at_mut(x.len());
        for (code, x) in real.iter_mut().zip(x) {
            *code = (x * inverse + ROUND).to_bits() as i8;
        }
        padding.fill(0);
        at += padded;
    }
    top / TOP
}

/// # Safety
/// The processor has AVX-512 F and BW.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(x: &[f32], group: usize, codes: &mut [i8]) -> f32 {
    row(x, group, codes)
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(x: &[f32], group: usize, codes: &mut [i8]) -> f32 {
    row(x, group, codes)
}
