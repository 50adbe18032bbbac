//! Integer kernels with AVX2 alone. Its product of bytes, `vpmaddubsw`, adds pairs in 16 bits, saturating; what is multiplied here cannot saturate:
//!
//! ```text
//!   8 bits:     `vpmaddwd` of widened codes:       2 * 128 * 127, in 32 bits
//!               or one token, `vpmaddubsw` of the magnitudes of positive and of negative x:       2 * 127 * 128 < 2^15, then widened
//!   4 bits:     `vpmaddubsw` of offset codes, at most 15:       8 additions of 2 * 15 * 127 < 2^15, then widened
//!   2 bits:     at most 3:       32 additions of 2 * 3 * 127 < 2^15, then widened
//! ```
//!
//! A quad of a panel is four *parts*, of eight outputs.

use super::{Kernel, LINE, Operands};
use crate::share::Tile;
use crate::{Integer, PANEL, QUAD};
use lstmc_frontend::ir::PackedWidth;
use std::arch::x86_64::*;

/// Tokens per tile. Registers hold two vectors of sums for each, of 32 or of 16 bits, and weights.
pub(super) const TOKENS: usize = 6;

/// Parts of a quad.
pub(super) const PARTS: usize = 4;

/// How far ahead weights that are read once are prefetched, in bytes.
const AHEAD: usize = 3072;

pub(super) fn kernel(format: Integer) -> Option<(usize, Kernel)> {
    match (format.width, format.signed) {
        (PackedWidth::Eight, true) => Some((TOKENS, eight)),
        (PackedWidth::Four, false) => Some((TOKENS, narrow::<4>)),
        (PackedWidth::Two, false) => Some((TOKENS, narrow::<2>)),
        _ => None,
    }
}

/// # Safety
/// The processor has AVX2 and FMA; operands and tile have `n <= TOKENS` tokens, and the weights 8-bit codes, signed.
#[target_feature(enable = "avx2,fma")]
unsafe fn eight(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: the same instructions are enabled here; operands and tile have `n` tokens, as the caller promises.
    unsafe {
        match n {
            1 => one_of_eight(of, tile),
            2 => several_of_eight::<2, 2>(of, tile),
            3 => several_of_eight::<3, 1>(of, tile),
            4 => several_of_eight::<4, 1>(of, tile),
            5 => several_of_eight::<5, 1>(of, tile),
            _ => several_of_eight::<TOKENS, 1>(of, tile),
        }
    }
}

/// # Safety
/// The processor has AVX2 and FMA; operands and tile have `n <= TOKENS` tokens, and the weights `BITS`-bit codes, offset.
#[target_feature(enable = "avx2,fma")]
unsafe fn narrow<const BITS: u32>(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: the same instructions are enabled here; operands and tile have `n` tokens, as the caller promises.
    unsafe {
        match n {
            1 => several_of::<1, PARTS, BITS>(of, tile),
            2 => several_of::<2, 2, BITS>(of, tile),
            3 => several_of::<3, 2, BITS>(of, tile),
            4 => several_of::<4, 2, BITS>(of, tile),
            5 => several_of::<5, 2, BITS>(of, tile),
            _ => several_of::<TOKENS, 2, BITS>(of, tile),
        }
    }
}

/// Codes of four outputs, widened.
///
/// # Safety
/// The processor has AVX2; 16 bytes are at the address.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn wide(codes: *const u8) -> __m256i {
    // SAFETY: the caller promises the bytes.
    unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.cast())) }
}

/// A quad of widened activations, for each of four outputs.
///
/// # Safety
/// The processor has AVX2; four codes are at the address.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn wide_quad(codes: *const i16) -> __m256i {
    // SAFETY: the caller promises the codes.
    unsafe { _mm256_set1_epi64x(codes.cast::<i64>().read_unaligned()) }
}

/// Two sums for each of eight outputs, four outputs in each vector, as one.
#[target_feature(enable = "avx2")]
#[inline]
fn joined(sums: [__m256i; 2]) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(sums[0], sums[1]))
}

/// Several tokens and weights of 8 bits: `P` parts at a time, which are widened once for all tokens.
///
/// # Safety
/// The processor has AVX2 and FMA; operands and tile have `T` tokens, and the weights 8-bit codes, signed.
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
unsafe fn several_of_eight<const T: usize, const P: usize>(of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; groups are below their number, and quads within the panel and within each token's codes. Prefetches may use any address.
    unsafe {
        let mut values = [[_mm256_setzero_ps(); PARTS]; T];
        for g in 0..of.groups {
            let (weights, x, quads) = (of.weights(g), of.wide_codes(g), of.quads(g));
            let rows: [*const i16; T] = opaque(std::array::from_fn(|t| x.add(t * of.x_stride)));
            let scales = scales::<8>(of, g);
            for first in (0..PARTS).step_by(P) {
                let next = of.next.wrapping_add((g * PARTS + first) * of.quads[0] * LINE / 2);
                let mut sums = [[[_mm256_setzero_si256(); 2]; P]; T];
                for q in 0..quads {
                    for part in 0..P {
                        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add((q * P + part) * LINE / 2).cast());
                    }
                    let at = weights.add(q * PANEL * QUAD + first * PANEL);
                    let mut w = [[_mm256_setzero_si256(); 2]; P];
                    for (n, w) in w.as_flattened_mut().iter_mut().enumerate() {
                        *w = wide(at.add(n * PANEL / 2));
                    }
                    for (row, sums) in rows.iter().zip(&mut sums) {
                        let x = wide_quad(row.add(q * QUAD));
                        for (sum, &w) in sums.as_flattened_mut().iter_mut().zip(w.as_flattened()) {
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(w, x));
                        }
                    }
                }
                for (values, sums) in values.iter_mut().zip(&sums) {
                    for (p, &sums) in sums.iter().enumerate() {
                        values[first + p] = scaled(joined(sums), scales[first + p], values[first + p]);
                    }
                }
            }
        }
        store::<T, 8>(of, tile, &values);
    }
}

/// One token and weights of 8 bits, which are read once, in order.
///
/// # Safety
/// As [`several_of_eight`], with one token.
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
unsafe fn one_of_eight(of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; groups are below their number, and quads within the panel and within the token's codes.
    unsafe {
        let mut values = [_mm256_setzero_ps(); PARTS];
        for g in 0..of.groups {
            let (weights, x) = (of.weights(g), of.codes(g));
            let mut sums = [_mm256_setzero_si256(); PARTS];
            for q in 0..of.quads(g) {
                let quad = weights.add(q * PANEL * QUAD);
                prefetch(quad, PANEL * QUAD);
                let x = _mm256_set1_epi32(x.add(q * QUAD).cast::<i32>().read_unaligned());
                let above = _mm256_max_epi8(x, _mm256_setzero_si256());
                let below = _mm256_sub_epi8(above, x);
                for (n, sum) in sums.iter_mut().enumerate() {
                    let w = _mm256_loadu_si256(quad.add(n * PANEL).cast());
                    // One of each input's two products is zero.
                    let pairs =
                        _mm256_sub_epi16(_mm256_maddubs_epi16(above, w), _mm256_maddubs_epi16(below, w));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                }
            }
            let scales = scales::<8>(of, g);
            for part in 0..PARTS {
                values[part] = scaled(sums[part], scales[part], values[part]);
            }
        }
        store::<1, 8>(of, tile, &[values]);
    }
}

/// The same pointers. The compiler must keep them in registers, instead of computing one from the other in the innermost loop.
#[inline(always)]
pub(super) fn opaque<const T: usize, X>(rows: [*const X; T]) -> [*const X; T] {
    if T == 1 { rows } else { std::hint::black_box(rows) }
}

/// Prefetches what comes some time after a quad.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn prefetch(quad: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        _mm_prefetch::<_MM_HINT_T0>(quad.wrapping_add(AHEAD + line).cast());
    }
}

/// Quads whose products are added in 16 bits.
const fn run(bits: u32) -> usize {
    let most = 2 * ((1 << bits) - 1) * 127;
    let fit = i16::MAX as usize / most;
    // Powers of two: loops over them are unrolled evenly.
    if fit >= 32 { 32 } else { 8 }
}

/// The codes of a part of a quad as bytes; narrow ones are offset, others as they are stored.
///
/// # Safety
/// The processor has AVX2; a quad of `BITS`-bit codes is at the address.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn part<const BITS: u32>(quad: *const u8, part: usize) -> __m256i {
    let mask = _mm256_set1_epi8((u8::MAX >> (8 - BITS)) as i8);
    let load = |n: usize| {
        // SAFETY: a quad has 128, 64 or 32 bytes, which are loaded.
        unsafe { _mm256_loadu_si256(quad.add(32 * n).cast()) }
    };
    match (BITS, part) {
        (8, _) => load(part),
        (4, 0 | 2) => _mm256_and_si256(load(part / 2), mask),
        (4, _) => _mm256_and_si256(_mm256_srli_epi16::<4>(load(part / 2)), mask),
        (_, 0) => _mm256_and_si256(load(0), mask),
        (_, 1) => _mm256_and_si256(_mm256_srli_epi16::<2>(load(0)), mask),
        (_, 2) => _mm256_and_si256(_mm256_srli_epi16::<4>(load(0)), mask),
        (_, _) => _mm256_and_si256(_mm256_srli_epi16::<6>(load(0)), mask),
    }
}

/// Vectors in the order of outputs in the order of parts.
#[target_feature(enable = "avx2")]
#[inline]
fn in_parts<const BITS: u32>(v: [__m256; PARTS]) -> [__m256; PARTS] {
    let [a, b, c, d] = v;
    match BITS {
        8 => v,
        // The halves of a part are apart by two vectors of four.
        4 => [low(a, b), high(a, b), low(c, d), high(c, d)],
        // By four.
        _ => [low(a, c), high(a, c), low(b, d), high(b, d)],
    }
}

/// The inverse of [`in_parts`].
#[target_feature(enable = "avx2")]
#[inline]
fn in_order<const BITS: u32>(v: [__m256; PARTS]) -> [__m256; PARTS] {
    let [a, b, c, d] = v;
    match BITS {
        8 => v,
        4 => [low(a, b), high(a, b), low(c, d), high(c, d)],
        _ => [low(a, b), low(c, d), high(a, b), high(c, d)],
    }
}

/// The low halves of two vectors.
#[target_feature(enable = "avx2")]
#[inline]
fn low(a: __m256, b: __m256) -> __m256 {
    _mm256_permute2f128_ps::<0x20>(a, b)
}

/// The high halves of two vectors.
#[target_feature(enable = "avx2")]
#[inline]
fn high(a: __m256, b: __m256) -> __m256 {
    _mm256_permute2f128_ps::<0x31>(a, b)
}

/// A group's scales, by part.
///
/// # Safety
/// The processor has AVX2 and FMA; the group exists.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) unsafe fn scales<const BITS: u32>(of: &Operands, g: usize) -> [__m256; PARTS] {
    let mut room = [0.0; PANEL];
    // SAFETY: the group exists, as the caller promises; there are 32 scales.
    unsafe {
        let scales = of.scales_at(g, &mut room);
        let (a, b) = (_mm256_loadu_ps(scales), _mm256_loadu_ps(scales.add(8)));
        in_parts::<BITS>([a, b, _mm256_loadu_ps(scales.add(16)), _mm256_loadu_ps(scales.add(24))])
    }
}

/// `sum * scale + value`.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) fn scaled(sum: __m256i, scale: __m256, value: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, value)
}

/// Stores the tokens' values, which are by part, times the tokens' scales.
///
/// # Safety
/// The processor has AVX2 and FMA; operands and tile have `T` tokens.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) unsafe fn store<const T: usize, const BITS: u32>(
    of: &Operands,
    tile: Tile,
    values: &[[__m256; PARTS]; T],
) {
    for (t, &values) in values.iter().enumerate() {
        // SAFETY: the tokens exist, as the caller promises.
        unsafe {
            let sx = _mm256_set1_ps(*of.sx.add(t));
            for (n, value) in in_order::<BITS>(values).into_iter().enumerate() {
                tile.store_scaled(t, 8 * n, value, sx);
            }
        }
    }
}

/// `T` tokens: `P` parts at a time, whose codes are separated once for all tokens.
///
/// # Safety
/// The processor has AVX2 and FMA; operands and tile have `T` tokens, and the weights `BITS`-bit codes, offset.
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
unsafe fn several_of<const T: usize, const P: usize, const BITS: u32>(of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; groups are below their number and tokens below `T`.
    unsafe {
        let mut values = [[_mm256_setzero_ps(); PARTS]; T];
        for g in 0..of.groups {
            // All parts at once need all registers.
            let early = if P == PARTS { None } else { Some(scales::<BITS>(of, g)) };
            let starts: [i32; T] = std::array::from_fn(|t| -of.raised(t, g));
            for first in (0..PARTS).step_by(P) {
                // Two at a time, or all.
                let sums = if first == 0 {
                    part_sums::<T, P, BITS, 0>(of, g, &starts)
                } else {
                    part_sums::<T, P, BITS, 2>(of, g, &starts)
                };
                let scales = if let Some(scales) = early { scales } else { scales::<BITS>(of, g) };
                for (values, sums) in values.iter_mut().zip(&sums) {
                    for (p, &sum) in sums.iter().enumerate() {
                        values[first + p] = scaled(sum, scales[first + p], values[first + p]);
                    }
                }
            }
        }
        store::<T, BITS>(of, tile, &values);
    }
}

/// The exact sums of parts of group `g`, `P` of them from `FIRST` on, from where they start.
///
/// # Safety
/// As [`several_of`]; the group exists.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn part_sums<const T: usize, const P: usize, const BITS: u32, const FIRST: usize>(
    of: &Operands,
    g: usize,
    starts: &[i32; T],
) -> [[__m256i; P]; T] {
    let quad_bytes = PANEL * QUAD / 8 * BITS as usize;
    // SAFETY: the instructions are enabled here; the group's quads are within the panel and within each token's codes. Prefetches may use any address.
    unsafe {
        let (quads, weights, x) = (of.quads(g), of.weights(g), of.codes(g));
        let next = of.next.wrapping_add((g * PARTS + FIRST) * of.quads[0] * LINE / 4);
        let rows: [*const i8; T] = opaque(std::array::from_fn(|t| x.add(t * of.x_stride)));
        let mut sums = [[_mm256_setzero_si256(); P]; T];
        for (sums, &start) in sums.iter_mut().zip(starts) {
            *sums = [_mm256_set1_epi32(start); P];
        }
        let run = const { run(BITS) };
        for first in (0..quads).step_by(run) {
            let end = quads.min(first + run);
            if T > 1 {
                for line in (first..end).step_by(4 / P) {
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * LINE / 4 * P).cast());
                }
            }
            let mut short = [[_mm256_setzero_si256(); P]; T];
            for q in first..end {
                let quad = weights.add(q * quad_bytes);
                if T == 1 {
                    prefetch(quad, quad_bytes);
                }
                let mut w = [_mm256_setzero_si256(); P];
                for (n, w) in w.iter_mut().enumerate() {
                    *w = part::<BITS>(quad, FIRST + n);
                }
                for (row, short) in rows.iter().zip(&mut short) {
                    let x = _mm256_set1_epi32(row.add(q * QUAD).cast::<i32>().read_unaligned());
                    for (short, w) in short.iter_mut().zip(w) {
                        *short = _mm256_add_epi16(*short, _mm256_maddubs_epi16(w, x));
                    }
                }
            }
            for (sum, short) in sums.as_flattened_mut().iter_mut().zip(short.as_flattened()) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*short, _mm256_set1_epi16(1)));
            }
        }
        sums
    }
}
