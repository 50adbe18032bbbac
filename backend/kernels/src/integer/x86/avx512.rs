//! Integer kernels with AVX-512 VNNI, which multiplies unsigned weights by signed activations: offset codes, and the offset is subtracted from the sums.

use super::{Kernel, LINE, Operands};
use crate::share::Tile;
use crate::vector::Vector;
use crate::{Integer, PANEL, QUAD, Scale};
use lstmc_frontend::ir::PackedWidth;
use std::arch::x86_64::*;

/// Tokens per tile: 24 sums, two vectors of weights, one of activations, a mask.
const ONE_GROUP: usize = 12;
/// Tokens per tile if the groups' scaled sums stay in registers next to the integer sums.
const GROUPS: usize = 6;

/// Alternating sums of one token.
const TURNS: usize = 4;

/// How far ahead weights that are read once are prefetched, in bytes.
const AHEAD: usize = 1024;

/// Calls `$f::<n, BITS>` for the given `n`.
macro_rules! dispatch {
    ($n:expr, $f:ident $args:tt: $($t:literal)*, $last:expr) => {
        match $n {
            $($t => $f::<$t, BITS> $args,)*
            _ => $f::<{ $last }, BITS> $args,
        }
    };
}

pub(super) fn kernel(format: Integer) -> Option<(usize, Kernel)> {
    if format.signed {
        return None;
    }
    Some(match (format.groups.count(), format.width) {
        (1, PackedWidth::Eight) => (ONE_GROUP, one_group::<8>),
        (1, PackedWidth::Four) => (ONE_GROUP, one_group::<4>),
        (1, PackedWidth::Two) => (ONE_GROUP, one_group::<2>),
        (_, PackedWidth::Eight) => (GROUPS, groups::<8>),
        (_, PackedWidth::Four) => (GROUPS, groups::<4>),
        (_, PackedWidth::Two) => (GROUPS, groups::<2>),
    })
}

/// # Safety
/// The processor has AVX-512 F, BW and VNNI; operands and tile have `n <= ONE_GROUP` tokens, and the weights one group of `BITS`-bit codes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn one_group<const BITS: u32>(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: the same instructions are enabled here; operands and tile have `n` tokens, as the caller promises.
    unsafe { dispatch!(n, one_group_of(of, tile): 1 2 3 4 5 6 7 8 9 10 11, ONE_GROUP) }
}

/// # Safety
/// As [`one_group`], with `n <= GROUPS` tokens and any number of groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn groups<const BITS: u32>(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: the same instructions are enabled here; operands and tile have `n` tokens, as the caller promises.
    unsafe { dispatch!(n, groups_of(of, tile): 1 2 3 4 5, GROUPS) }
}

/// # Safety
/// As [`one_group`], with `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
unsafe fn one_group_of<const T: usize, const BITS: u32>(of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; group 0 exists, and operands and tile have `T` tokens, as the caller promises.
    unsafe {
        let sums = group_sums::<T, BITS>(of, 0);
        let scales = scales::<BITS>(of, 0);
        for (t, sums) in sums.iter().enumerate() {
            let low = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[0]), scales[0]);
            let high = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[1]), scales[1]);
            store::<BITS>(of, tile, t, [low, high]);
        }
    }
}

/// # Safety
/// As [`groups`], with `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
unsafe fn groups_of<const T: usize, const BITS: u32>(of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; groups are below their number, and operands and tile have `T` tokens, as the caller promises.
    unsafe {
        let mut values = [[_mm512_setzero_ps(); 2]; T];
        for g in 0..of.groups {
            let sums = group_sums::<T, BITS>(of, g);
            let scales = scales::<BITS>(of, g);
            for t in 0..T {
                for n in 0..2 {
                    values[t][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t][n]), scales[n], values[t][n]);
                }
            }
        }
        for (t, values) in values.into_iter().enumerate() {
            store::<BITS>(of, tile, t, values);
        }
    }
}

/// The codes of a quad as unsigned bytes, offset: 16 outputs each, in the order of [`lanes`].
///
/// # Safety
/// The processor has AVX-512 F; a quad of `BITS`-bit codes is at the address.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn quad<const BITS: u32>(at: *const u8) -> [__m512i; 2] {
    let mask = _mm512_set1_epi8((u8::MAX >> (8 - BITS)) as i8);
    // SAFETY: a quad has 128 codes: 128, 64 or 32 bytes are loaded.
    unsafe {
        match BITS {
            8 => [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(64).cast())],
            4 => {
                let v = _mm512_loadu_si512(at.cast());
                [_mm512_and_si512(v, mask), _mm512_and_si512(_mm512_srli_epi32::<4>(v), mask)]
            }
            _ => {
                let v = _mm512_broadcast_i64x4(_mm256_loadu_si256(at.cast()));
                let low = _mm512_srlv_epi32(v, _mm512_set_epi64(TWO, TWO, TWO, TWO, 0, 0, 0, 0));
                let high = _mm512_srlv_epi32(v, _mm512_set_epi64(SIX, SIX, SIX, SIX, FOUR, FOUR, FOUR, FOUR));
                [_mm512_and_si512(low, mask), _mm512_and_si512(high, mask)]
            }
        }
    }
}

/// Shifts of two neighbouring i32s.
const TWO: i64 = 2 << 32 | 2;
const FOUR: i64 = 2 * TWO;
const SIX: i64 = 3 * TWO;

/// The order of [`quad`]'s vectors: which four outputs of the panel each lane of 16 bytes has.
const fn lanes(bits: u32) -> [usize; 8] {
    match bits {
        8 => [0, 1, 2, 3, 4, 5, 6, 7],
        4 => [0, 2, 4, 6, 1, 3, 5, 7],
        _ => [0, 4, 1, 5, 2, 6, 3, 7],
    }
}

/// Where each four outputs are in [`lanes`].
const fn places(bits: u32) -> [usize; 8] {
    let (lanes, mut places, mut n) = (lanes(bits), [0; 8], 0);
    while n < 8 {
        places[lanes[n]] = n;
        n += 1;
    }
    places
}

/// Indices of halves of lanes, for lane `n` to become what was lane `from[n]`.
const fn halves(from: [usize; 8]) -> [[i64; 8]; 2] {
    let (mut halves, mut n) = ([[0; 8]; 2], 0);
    while n < 16 {
        halves[n / 8][n % 8] = (2 * from[n / 2] + n % 2) as i64;
        n += 1;
    }
    halves
}

/// Two vectors with their lanes in another order.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn permute([a, b]: [__m512; 2], halves: &[[i64; 8]; 2]) -> [__m512; 2] {
    // SAFETY: 64 bytes each are loaded.
    unsafe {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let low = _mm512_permutex2var_pd(a, _mm512_loadu_si512(halves[0].as_ptr().cast()), b);
        let high = _mm512_permutex2var_pd(a, _mm512_loadu_si512(halves[1].as_ptr().cast()), b);
        [_mm512_castpd_ps(low), _mm512_castpd_ps(high)]
    }
}

/// A group's scales in the order of the sums.
///
/// # Safety
/// As [`groups`]; the group exists.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn scales<const BITS: u32>(of: &Operands, g: usize) -> [__m512; 2] {
    // SAFETY: the group exists, as the caller promises; there are 32 scales.
    unsafe {
        let at = of.scales(g);
        let v = match of.format.scale {
            Scale::F32 => [_mm512_loadu_ps(at.cast()), _mm512_loadu_ps(at.add(64).cast())],
            Scale::F16 => {
                let (low, high) = (_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast()));
                [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
            }
        };
        if BITS == 8 { v } else { permute(v, const { &halves(lanes(BITS)) }) }
    }
}

/// Stores a token's values, which are in the order of the sums, times its scale.
///
/// # Safety
/// As [`groups`]; the token exists.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn store<const BITS: u32>(of: &Operands, tile: Tile, t: usize, values: [__m512; 2]) {
    // SAFETY: operands and tile have the token, as the caller promises.
    unsafe {
        let values = if BITS == 8 { values } else { permute(values, const { &halves(places(BITS)) }) };
        let sx = _mm512_set1_ps(*of.sx.add(t));
        for (n, value) in values.into_iter().enumerate() {
            tile.store_scaled(t, n * __m512::LANES, value, sx);
        }
    }
}

/// The exact sums of group `g`, in the order of [`lanes`].
///
/// # Safety
/// As [`groups`], with `T` tokens; the group exists.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn group_sums<const T: usize, const BITS: u32>(of: &Operands, g: usize) -> [[__m512i; 2]; T] {
    let quad_bytes = PANEL * QUAD / 8 * BITS as usize;
    // SAFETY: the instructions are enabled here; the group exists and the operands have `T` tokens, as the caller promises; the group's
    // quads are within the panel and within each token's codes.
    unsafe {
        let quads = of.quads(g);
        let (weights, x) = (of.weights(g), of.codes(g));
        let next = of.next.wrapping_add(g * of.quads[0] * LINE);
        let mut sums = [[_mm512_setzero_si512(); 2]; T];
        for (t, sums) in sums.iter_mut().enumerate() {
            *sums = [_mm512_set1_epi32(-of.raised(t, g)); 2];
        }
        // One token has only two sums, and each addition would wait for the previous one: quads alternate over more sums.
        let mut first = 0;
        if T == 1 {
            let mut others = [[_mm512_setzero_si512(); 2]; TURNS - 1];
            for q in (0..quads / TURNS * TURNS).step_by(TURNS) {
                add_quad::<BITS>(weights, x, q, &mut sums[0]);
                for (u, others) in others.iter_mut().enumerate() {
                    add_quad::<BITS>(weights, x, q + 1 + u, others);
                }
            }
            for other in others {
                for n in 0..2 {
                    sums[0][n] = _mm512_add_epi32(sums[0][n], other[n]);
                }
            }
            first = quads / TURNS * TURNS;
        }
        for q in first..quads {
            if T > 1 {
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(q * LINE).cast());
            }
            let w = quad::<BITS>(weights.add(q * quad_bytes));
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = x.add(t * of.x_stride + q * QUAD).cast::<i32>().read_unaligned();
                let x = _mm512_set1_epi32(x);
                for n in 0..2 {
                    sums[n] = _mm512_dpbusd_epi32(sums[n], w[n], x);
                }
            }
        }
        sums
    }
}

/// Adds one token's products of a quad.
///
/// # Safety
/// As [`group_sums`]; the quad exists.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn add_quad<const BITS: u32>(weights: *const u8, x: *const i8, q: usize, sums: &mut [__m512i; 2]) {
    let quad_bytes = PANEL * QUAD / 8 * BITS as usize;
    // SAFETY: the instructions are enabled here; the quad exists in the weights and in the codes, as the caller promises. Prefetches may use any
    // address.
    unsafe {
        let at = weights.add(q * quad_bytes);
        for line in (0..quad_bytes).step_by(LINE) {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + line).cast());
        }
        let w = quad::<BITS>(at);
        let x = _mm512_set1_epi32(x.add(q * QUAD).cast::<i32>().read_unaligned());
        for (n, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_dpbusd_epi32(*sum, w[n], x);
        }
    }
}
