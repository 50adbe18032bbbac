//! Integer kernels for x86-64.

use super::{Operands, QUAD, QUAD_BYTES};
use crate::share::Tile;
use crate::vector::Vector;
use lstmc_frontend::ir::PackedWidth;
use std::arch::x86_64::*;

/// Tokens per tile: 24 sums, two vectors of weights, one of activations.
pub(super) const ONE_GROUP: usize = 12;
/// Tokens per tile if the groups' scaled sums stay in registers next to the integer sums.
pub(super) const GROUPS: usize = 6;

/// Alternating sums of one token.
const TURNS: usize = 4;

/// How far ahead weights that are read once are prefetched, in bytes.
const AHEAD: usize = 1024;

/// 16 outputs of a quad.
const HALF: usize = QUAD_BYTES / 2;

/// Calls `$f::<n>` for the given `n`.
macro_rules! dispatch {
    ($n:expr, $f:ident $args:tt: $($t:literal)*, $last:expr) => {
        match $n {
            $($t => $f::<$t> $args,)*
            _ => $f::<{ $last }> $args,
        }
    };
}

/// See [`unpack_levels`](super::unpack_levels); no offset is subtracted.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn unpack(packed: &[u8], width: PackedWidth, flip: u8, to: &mut [u8]) {
    // The 16 packed bytes of each of the four vectors written at once, and the shift of their codes. Bits shifted in from
    // the next byte are masked out.
    let (from, shift) = match width {
        PackedWidth::Eight => ([0, 1, 2, 3], [0; 4]),
        PackedWidth::Four => ([0, 0, 1, 1], [0, 4, 0, 4]),
        PackedWidth::Two => ([0; 4], [0, 2, 4, 6]),
    };
    let bits = width.bits();
    let pairs: [[i64; 2]; 4] = from.map(|v| [2 * v, 2 * v + 1]);
    let shift: [[i32; 4]; 4] = shift.map(|s| [s; 4]);
    let flip = _mm512_set1_epi8(flip as i8);
    let mask = _mm512_set1_epi8((u8::MAX >> (8 - bits)) as i8);
    let step = 8 * bits;
    for (packed, to) in packed.chunks_exact(step).zip(to.as_chunks_mut::<64>().0) {
        // SAFETY: as many bytes are loaded as `packed` has, into lanes of 8, and 64 are stored; `pairs` and `shift` are 64 bytes.
        unsafe {
            let v = _mm512_maskz_loadu_epi64(((1u32 << bits) - 1) as u8, packed.as_ptr().cast());
            let v = _mm512_permutexvar_epi64(_mm512_loadu_si512(pairs.as_ptr().cast()), v);
            let shift = _mm512_loadu_si512(shift.as_ptr().cast());
            let v = _mm512_srlv_epi32(_mm512_xor_si512(v, flip), shift);
            _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_and_si512(v, mask));
        }
    }
}

/// # Safety
/// The processor has AVX-512 F, BW and VNNI; the tile has `n <= ONE_GROUP` tokens, the weights one group.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn one_group(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: the same instructions are enabled here; operands and tile have `n` tokens, as the caller promises.
    unsafe { dispatch!(n, one_group_of(of, tile): 1 2 3 4 5 6 7 8 9 10 11, ONE_GROUP) }
}

/// # Safety
/// The processor has AVX-512 F, BW and VNNI; the tile has `n <= GROUPS` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn groups(n: usize, of: &Operands, tile: Tile) {
    // SAFETY: the same instructions are enabled here; operands and tile have `n` tokens, as the caller promises.
    unsafe { dispatch!(n, groups_of(of, tile): 1 2 3 4 5, GROUPS) }
}

/// # Safety
/// As [`one_group`], with `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
unsafe fn one_group_of<const T: usize>(of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; group 0 exists, with 32 scales, and operands and tile have `T` tokens, as the caller promises.
    unsafe {
        let sums = group_sums::<T>(of, 0);
        let scales = [_mm512_loadu_ps(of.scales), _mm512_loadu_ps(of.scales.add(16))];
        for (t, sums) in sums.iter().enumerate() {
            let sx = _mm512_set1_ps(*of.sx.add(t));
            for (n, sum) in sums.iter().enumerate() {
                let value = _mm512_mul_ps(_mm512_cvtepi32_ps(*sum), scales[n]);
                tile.store(t, n * __m512::LANES, _mm512_mul_ps(value, sx));
            }
        }
    }
}

/// # Safety
/// As [`groups`], with `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
unsafe fn groups_of<const T: usize>(of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; groups are below their number, each with 32 scales, and operands and tile have `T` tokens, as the
    // caller promises.
    unsafe {
        let mut values = [[_mm512_setzero_ps(); 2]; T];
        for g in 0..of.groups {
            let sums = group_sums::<T>(of, g);
            let scales = of.scales.add(g * 32);
            let scales = [_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(16))];
            for t in 0..T {
                for n in 0..2 {
                    values[t][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t][n]), scales[n], values[t][n]);
                }
            }
        }
        for (t, values) in values.iter().enumerate() {
            let sx = _mm512_set1_ps(*of.sx.add(t));
            for (n, value) in values.iter().enumerate() {
                tile.store(t, n * __m512::LANES, _mm512_mul_ps(*value, sx));
            }
        }
    }
}

/// The exact sums of group `g`.
///
/// # Safety
/// As [`groups`], with `T` tokens; the group exists.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn group_sums<const T: usize>(of: &Operands, g: usize) -> [[__m512i; 2]; T] {
    // SAFETY: the instructions are enabled here; the group exists and the operands have `T` tokens, as the caller promises; the group's
    // quads are within the weights and within each token's codes.
    unsafe {
        let quads = of.quads[usize::from(g + 1 == of.groups)];
        let weights = of.weights.add(g * of.group_stride);
        let x = of.x.add(g * of.quads[0] * QUAD);
        let mut sums = [[_mm512_setzero_si512(); 2]; T];
        for (t, sums) in sums.iter_mut().enumerate() {
            // The excess that unsigned weights add.
            let raised = *of.sums.add(t * of.groups + g) * of.raised;
            *sums = [_mm512_set1_epi32(-raised); 2];
        }
        // One token has only two sums, and each addition would wait for the previous one: quads alternate over more sums.
        let mut first = 0;
        if T == 1 {
            let mut others = [[_mm512_setzero_si512(); 2]; TURNS - 1];
            for q in (0..quads / TURNS * TURNS).step_by(TURNS) {
                add_quad(weights, x, q, &mut sums[0]);
                for (u, others) in others.iter_mut().enumerate() {
                    add_quad(weights, x, q + 1 + u, others);
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
            let w = weights.add(q * QUAD_BYTES);
            if T > 1 {
                _mm_prefetch::<_MM_HINT_T1>(of.next.wrapping_add(q * HALF).cast());
            }
            let w = [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(HALF).cast())];
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
unsafe fn add_quad(weights: *const u8, x: *const i8, q: usize, sums: &mut [__m512i; 2]) {
    // SAFETY: the instructions are enabled here; the quad exists in the weights and in the codes, as the caller promises. Prefetches may use any
    // address.
    unsafe {
        let w = weights.add(q * QUAD_BYTES);
        for n in 0..2 {
            _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD + n * HALF).cast());
        }
        let x = _mm512_set1_epi32(x.add(q * QUAD).cast::<i32>().read_unaligned());
        for (n, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_loadu_si512(w.add(n * HALF).cast()), x);
        }
    }
}

/// One token. Weights are i16: products of bytes would saturate when added in pairs.
///
/// # Safety
/// The processor has AVX2 and FMA; the tile has a token.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(of: &Operands, tile: Tile) {
    // SAFETY: the instructions are enabled here; operands and tile have a token, as the caller promises; the group's quads are within the
    // weights and within the token's codes.
    unsafe {
        let mut values = [_mm256_setzero_ps(); 4];
        for g in 0..of.groups {
            let quads = of.quads[usize::from(g + 1 == of.groups)];
            let weights = of.weights.add(g * of.group_stride);
            let x = of.x.add(g * of.quads[0] * QUAD);
            // Four outputs each, two sums per output.
            let mut sums = [_mm256_setzero_si256(); 8];
            for q in 0..quads {
                let x = _mm_set1_epi32(x.add(q * QUAD).cast::<i32>().read_unaligned());
                let x = _mm256_cvtepi8_epi16(x);
                let w = weights.add(q * 2 * QUAD_BYTES).cast::<__m256i>();
                for (n, sum) in sums.iter_mut().enumerate() {
                    let products = _mm256_madd_epi16(_mm256_loadu_si256(w.add(n)), x);
                    *sum = _mm256_add_epi32(*sum, products);
                }
            }
            let scales = of.scales.add(g * 32);
            for (n, value) in values.iter_mut().enumerate() {
                let sum = _mm256_hadd_epi32(sums[2 * n], sums[2 * n + 1]);
                let sum = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64::<0b11_01_10_00>(sum));
                *value = _mm256_fmadd_ps(sum, _mm256_loadu_ps(scales.add(8 * n)), *value);
            }
        }
        let sx = _mm256_set1_ps(*of.sx);
        for (n, value) in values.iter().enumerate() {
            tile.store(0, n * __m256::LANES, _mm256_mul_ps(*value, sx));
        }
    }
}
