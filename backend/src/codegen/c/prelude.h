/* Vectors of sixteen bytes: f4 of floats, u4 of integers, b16 of bytes. Where the compiler knows them and the processor has
 * them (SSE2, NEON, WebAssembly's) they are the processor's, otherwise arrays; LSTMC_NO_VECTORS forces the latter. Which of
 * them it is changes speed, and no result, if both fuse multiply-adds. */
#include <float.h>

#if defined(__FAST_MATH__)
#error "Compile this file without -ffast-math: it rounds by adding and subtracting."
#elif FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2
#error "Floats are computed with more digits than they have. On 32-bit x86 compile with -msse2 -mfpmath=sse."
#elif defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "The weights in this file are for little-endian processors."
#endif

/* A product that is added keeps its rounding unless mul_add says otherwise: results then do not depend on options. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#if defined(__GNUC__)
#define FN static inline __attribute__((always_inline, unused))
#define ALIGNED(n) __attribute__((aligned(n)))
/* An address, and what it is a multiple of. */
#define AT(p, n) __builtin_assume_aligned((const void *)(p), n)
/* Also with -ffreestanding a few instructions, not a call; and a compiler for WebAssembly may have no string.h. */
#define COPY __builtin_memcpy
#else
#include <string.h>
#define FN static inline
#define AT(p, n) ((const void *)(p))
#define COPY memcpy
#if defined(_MSC_VER)
#define ALIGNED(n) __declspec(align(n))
#elif __STDC_VERSION__ >= 201112L
#define ALIGNED(n) _Alignas(n)
#else
#define ALIGNED(n)
#endif
#endif

/* Data are strings without a NUL at the end. */
#if defined(__clang__)
#if __has_warning("-Wunterminated-string-initialization")
#pragma clang diagnostic ignored "-Wunterminated-string-initialization"
#endif
#elif defined(__GNUC__) && __GNUC__ >= 15
#pragma GCC diagnostic ignored "-Wunterminated-string-initialization"
#endif

#if defined(__GNUC__) && !defined(LSTMC_NO_VECTORS)
#if defined(__SSE2__)
#include <immintrin.h>
#define X86
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define NEON
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#define WASM
#endif
#endif
#if defined(X86) || defined(NEON) || defined(WASM)
#define VECTORS
#elif defined(__GNUC__) && !defined(LSTMC_NO_VECTORS)
/* Microcontrollers. */
#if defined(__ARM_FEATURE_MVE) && SIGNED_BYTES
#include <arm_mve.h>
#define MVE
#if __ARM_FEATURE_MVE & 2
#define VECTORS
#endif
#elif defined(__ARM_FEATURE_DSP) && defined(__thumb__)
#include <arm_acle.h>
#define DSP
#endif
#endif

/* Numbers. */

FN uint32_t u1_of_f1(float x) { uint32_t r; COPY(&r, &x, 4); return r; }
FN float f1_of_u1(uint32_t x) { float r; COPY(&r, &x, 4); return r; }
FN float f1_abs(float x) { return f1_of_u1(u1_of_f1(x) & 0x7fffffffu); }

FN float f1_mul_add(float x, float y, float z) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__)
    return __builtin_fmaf(x, y, z);
#else
    return x * y + z;
#endif
}

/* The correctly rounded root, without the library of mathematics. */
FN float f1_sqrt(float x) {
#if defined(X86)
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
#elif defined(NEON) && defined(__aarch64__)
    return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0);
#elif defined(WASM)
    return __builtin_sqrtf(x);
#else
    uint32_t bits = u1_of_f1(x), root = 0, bit;
    uint64_t square;
    int exponent;
    if (!(x > 0.0f) || bits == 0x7f800000u)
        return x < 0.0f ? f1_of_u1(0x7fc00000u) : x;
    if (bits < 0x800000u) {
        bits = u1_of_f1(x * 16777216.0f);
        exponent = (int)(bits >> 23) - 24 - 127;
    } else {
        exponent = (int)(bits >> 23) - 127;
    }
    /* x = square * 2^(exponent - 48) with an even exponent; the root has 25 bits, one of them to round by. */
    square = (uint64_t)((bits & 0x7fffffu) | 0x800000u) << 25;
    if (exponent & 1) {
        square <<= 1;
        exponent--;
    }
    for (bit = 1u << 25; bit; bit >>= 1) {
        const uint64_t next = root | bit;
        if (next * next <= square)
            root |= bit;
    }
    /* No root lies in the middle between two floats. */
    root = (root >> 1) + (root & 1);
    return f1_of_u1(((uint32_t)(exponent / 2 + 127) << 23) + (root - 0x800000u));
#endif
}

/* Memory: load and store where it is aligned, read and write anywhere. */

#define MEMORY(type, name, bytes) \
    FN type name##_load(uintptr_t p) { type r; COPY(&r, AT(p, bytes), bytes); return r; } \
    FN type name##_read(uintptr_t p) { type r; COPY(&r, (const void *)p, bytes); return r; } \
    FN void name##_store(uintptr_t p, type x) { COPY((void *)AT(p, bytes), &x, bytes); } \
    FN void name##_write(uintptr_t p, type x) { COPY((void *)p, &x, bytes); }

MEMORY(uint8_t, b1, 1)
MEMORY(uint16_t, h1, 2)
MEMORY(uint32_t, u1, 4)
MEMORY(float, f1, 4)

#if defined(VECTORS)

typedef float f4 __attribute__((vector_size(16)));
typedef uint32_t u4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));
typedef int16_t h8 __attribute__((vector_size(16)));
typedef uint16_t uh8 __attribute__((vector_size(16)));
typedef uint8_t b16 __attribute__((vector_size(16)));

FN f4 f4_all(float x) { return (f4){x, x, x, x}; }
FN u4 u4_all(uint32_t x) { return (u4){x, x, x, x}; }
FN b16 b16_all(uint8_t x) { return (b16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
FN b16 b16_of_words(uint32_t a, uint32_t b, uint32_t c, uint32_t d) { return (b16)(u4){a, b, c, d}; }

FN f4 f4_add(f4 x, f4 y) { return x + y; }
FN f4 f4_sub(f4 x, f4 y) { return x - y; }
FN f4 f4_mul(f4 x, f4 y) { return x * y; }
FN f4 f4_div(f4 x, f4 y) { return x / y; }
FN f4 f4_neg(f4 x) { return -x; }
FN f4 f4_abs(f4 x) { return (f4)((u4)x & 0x7fffffffu); }
#if defined(MVE)
/* Otherwise lane by lane. */
FN u4 f4_less(f4 x, f4 y) {
    return (u4)vpselq_u32(vdupq_n_u32(~0u), vdupq_n_u32(0), vcmpltq_f32((float32x4_t)x, (float32x4_t)y));
}
#else
FN u4 f4_less(f4 x, f4 y) { return (u4)(x < y); }
#endif
FN u4 f4_greater(f4 x, f4 y) { return f4_less(y, x); }
FN u4 u4_add(u4 x, u4 y) { return x + y; }
FN u4 u4_sub(u4 x, u4 y) { return x - y; }
FN u4 u4_mul(u4 x, u4 y) { return x * y; }
FN u4 u4_and(u4 x, u4 y) { return x & y; }
FN u4 u4_or(u4 x, u4 y) { return x | y; }
FN u4 u4_shift_left(u4 x, int n) { return x << (uint32_t)n; }
FN b16 b16_and(b16 x, b16 y) { return x & y; }
FN b16 b16_or(b16 x, b16 y) { return x | y; }
FN u4 u4_select(u4 mask, u4 x, u4 y) { return (x & mask) | (y & ~mask); }
FN f4 f4_select(u4 mask, f4 x, f4 y) { return (f4)u4_select(mask, (u4)x, (u4)y); }

FN u4 u4_of_f4(f4 x) { return (u4)x; }
FN f4 f4_of_u4(u4 x) { return (f4)x; }
FN b16 b16_of_f4(f4 x) { return (b16)x; }
FN f4 f4_of_b16(b16 x) { return (f4)x; }
FN b16 b16_of_u4(u4 x) { return (b16)x; }
FN u4 u4_of_b16(b16 x) { return (u4)x; }

FN float f4_lane(f4 x, int lane) { return x[lane]; }
FN uint32_t u4_lane(u4 x, int lane) { return x[lane]; }

#else

/* The same lane by lane: e is an expression of the lane's number i. */
typedef struct { float v[4]; } f4;
typedef struct { uint32_t v[4]; } u4;
typedef struct { uint8_t v[16]; } b16;

#define LANE(n, e) { enum { i = n }; r.v[i] = e; }
#define LANES4(e) LANE(0, e) LANE(1, e) LANE(2, e) LANE(3, e)
#define EACH(type, name, parameters, e) FN type name parameters { type r; LANES4(e) return r; }
#define BYTES(name, parameters, e) FN b16 name parameters { b16 r; int i; for (i = 0; i < 16; i++) r.v[i] = (uint8_t)(e); return r; }

EACH(f4, f4_all, (float x), x)
EACH(u4, u4_all, (uint32_t x), x)
BYTES(b16_all, (uint8_t x), x)
FN b16 b16_of_words(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    const uint32_t words[4] = {a, b, c, d};
    b16 r;
    COPY(&r, words, 16);
    return r;
}

EACH(f4, f4_add, (f4 x, f4 y), x.v[i] + y.v[i])
EACH(f4, f4_sub, (f4 x, f4 y), x.v[i] - y.v[i])
EACH(f4, f4_mul, (f4 x, f4 y), x.v[i] * y.v[i])
EACH(f4, f4_div, (f4 x, f4 y), x.v[i] / y.v[i])
EACH(f4, f4_neg, (f4 x), -x.v[i])
EACH(f4, f4_abs, (f4 x), f1_abs(x.v[i]))
EACH(u4, f4_less, (f4 x, f4 y), x.v[i] < y.v[i] ? ~0u : 0u)
EACH(u4, f4_greater, (f4 x, f4 y), x.v[i] > y.v[i] ? ~0u : 0u)
EACH(u4, u4_add, (u4 x, u4 y), x.v[i] + y.v[i])
EACH(u4, u4_sub, (u4 x, u4 y), x.v[i] - y.v[i])
EACH(u4, u4_mul, (u4 x, u4 y), x.v[i] * y.v[i])
EACH(u4, u4_and, (u4 x, u4 y), x.v[i] & y.v[i])
EACH(u4, u4_or, (u4 x, u4 y), x.v[i] | y.v[i])
EACH(u4, u4_shift_left, (u4 x, int n), x.v[i] << n)
BYTES(b16_and, (b16 x, b16 y), x.v[i] & y.v[i])
BYTES(b16_or, (b16 x, b16 y), x.v[i] | y.v[i])
EACH(u4, u4_select, (u4 mask, u4 x, u4 y), mask.v[i] ? x.v[i] : y.v[i])
EACH(f4, f4_select, (u4 mask, f4 x, f4 y), mask.v[i] ? x.v[i] : y.v[i])
EACH(f4, f4_max, (f4 x, f4 y), y.v[i] < x.v[i] ? x.v[i] : y.v[i])
EACH(f4, f4_min, (f4 x, f4 y), x.v[i] < y.v[i] ? x.v[i] : y.v[i])
EACH(f4, f4_mul_add, (f4 x, f4 y, f4 z), f1_mul_add(x.v[i], y.v[i], z.v[i]))
EACH(f4, f4_sqrt, (f4 x), f1_sqrt(x.v[i]))
EACH(f4, f4_to_float, (u4 x), (float)(int32_t)x.v[i])

#define CAST(to, from) FN to to##_of_##from(from x) { to r; COPY(&r, &x, 16); return r; }
CAST(u4, f4)
CAST(f4, u4)
CAST(b16, f4)
CAST(f4, b16)
CAST(b16, u4)
CAST(u4, b16)

FN float f4_lane(f4 x, int lane) { return x.v[lane]; }
FN uint32_t u4_lane(u4 x, int lane) { return x.v[lane]; }
FN int u4_any(u4 x) { return (x.v[0] | x.v[1] | x.v[2] | x.v[3]) != 0; }

/* Signed bytes, four of sixteen. */
EACH(u4, u4_widen, (b16 x, int part), (uint32_t)(int8_t)x.v[4 * part + i])

/* Sixteen integers as signed bytes, saturating. */
FN uint8_t b1_narrow(uint32_t x) {
    const int32_t s = (int32_t)x;
    return (uint8_t)(s < -128 ? -128 : s > 127 ? 127 : s);
}
FN b16 b16_narrow(u4 a, u4 b, u4 c, u4 d) {
    b16 r;
    int i;
    for (i = 0; i < 4; i++) {
        r.v[i] = b1_narrow(a.v[i]);
        r.v[4 + i] = b1_narrow(b.v[i]);
        r.v[8 + i] = b1_narrow(c.v[i]);
        r.v[12 + i] = b1_narrow(d.v[i]);
    }
    return r;
}

/* A weight's byte. */
#if SIGNED_BYTES
#define WEIGHT(x) (int32_t)(int8_t)(x)
#else
#define WEIGHT(x) (int32_t)(x)
#endif
#define TERM(k) WEIGHT(w.v[4 * i + k]) * (int32_t)(int8_t)a.v[4 * i + k]
EACH(u4, u4_dot, (b16 w, b16 a, u4 acc), acc.v[i] + (uint32_t)(TERM(0) + TERM(1) + TERM(2) + TERM(3)))

#endif

MEMORY(f4, f4, 16)
MEMORY(u4, u4, 16)
MEMORY(b16, b16, 16)

#if defined(X86)

FN f4 f4_max(f4 x, f4 y) { return (f4)_mm_max_ps((__m128)x, (__m128)y); }
FN f4 f4_min(f4 x, f4 y) { return (f4)_mm_min_ps((__m128)x, (__m128)y); }
FN f4 f4_sqrt(f4 x) { return (f4)_mm_sqrt_ps((__m128)x); }
FN f4 f4_to_float(u4 x) { return (f4)_mm_cvtepi32_ps((__m128i)x); }
FN int u4_any(u4 x) { return _mm_movemask_ps((__m128)x) != 0; }

FN f4 f4_mul_add(f4 x, f4 y, f4 z) {
#if defined(__FMA__)
    return (f4)_mm_fmadd_ps((__m128)x, (__m128)y, (__m128)z);
#else
    return x * y + z;
#endif
}

FN u4 u4_widen(b16 x, int part) {
    const __m128i b = (__m128i)x, h = part < 2 ? _mm_unpacklo_epi8(b, b) : _mm_unpackhi_epi8(b, b);
    return (u4)_mm_srai_epi32(part & 1 ? _mm_unpackhi_epi16(h, h) : _mm_unpacklo_epi16(h, h), 24);
}

FN b16 b16_narrow(u4 a, u4 b, u4 c, u4 d) {
    const __m128i low = _mm_packs_epi32((__m128i)a, (__m128i)b), high = _mm_packs_epi32((__m128i)c, (__m128i)d);
    return (b16)_mm_packs_epi16(low, high);
}

/* Four numbers of each u4: f16s are widened. */
FN u4 h4_load(uintptr_t p) {
    const __m128i h = _mm_loadl_epi64((const __m128i *)p);
    return (u4)_mm_srai_epi32(_mm_unpacklo_epi16(h, h), 16);
}

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define DOT(acc, u, s) (u4)_mm_dpbusd_epi32((__m128i)(acc), u, s)
#elif defined(__AVXVNNI__)
#define DOT(acc, u, s) (u4)_mm_dpbusd_avx_epi32((__m128i)(acc), u, s)
#else
FN u4 sums_of_pairs(h8 x, h8 y) { return (u4)_mm_madd_epi16((__m128i)x, (__m128i)y); }
#endif

#elif defined(NEON)

FN f4 f4_max(f4 x, f4 y) { return f4_select(f4_less(y, x), x, y); }
FN f4 f4_min(f4 x, f4 y) { return f4_select(f4_less(x, y), x, y); }
FN f4 f4_to_float(u4 x) { return (f4)vcvtq_f32_s32((int32x4_t)x); }

FN f4 f4_sqrt(f4 x) {
#if defined(__aarch64__)
    return (f4)vsqrtq_f32((float32x4_t)x);
#else
    return (f4){f1_sqrt(x[0]), f1_sqrt(x[1]), f1_sqrt(x[2]), f1_sqrt(x[3])};
#endif
}

FN int u4_any(u4 x) {
#if defined(__aarch64__)
    return vmaxvq_u32((uint32x4_t)x) != 0;
#else
    return (x[0] | x[1] | x[2] | x[3]) != 0;
#endif
}

FN f4 f4_mul_add(f4 x, f4 y, f4 z) {
#if defined(__ARM_FEATURE_FMA)
    return (f4)vfmaq_f32((float32x4_t)z, (float32x4_t)x, (float32x4_t)y);
#else
    return x * y + z;
#endif
}

FN u4 u4_widen(b16 x, int part) {
    const int8x16_t b = (int8x16_t)x;
    const int16x8_t h = vmovl_s8(part < 2 ? vget_low_s8(b) : vget_high_s8(b));
    return (u4)vmovl_s16(part & 1 ? vget_high_s16(h) : vget_low_s16(h));
}

FN b16 b16_narrow(u4 a, u4 b, u4 c, u4 d) {
    const int16x8_t low = vcombine_s16(vqmovn_s32((int32x4_t)a), vqmovn_s32((int32x4_t)b));
    const int16x8_t high = vcombine_s16(vqmovn_s32((int32x4_t)c), vqmovn_s32((int32x4_t)d));
    return (b16)vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
}

FN u4 h4_load(uintptr_t p) { return (u4)vmovl_s16(vld1_s16((const int16_t *)p)); }

/* The sums of neighbours of both. */
FN u4 sums_of_halves(int32x4_t low, int32x4_t high) {
#if defined(__aarch64__)
    return (u4)vpaddq_s32(low, high);
#else
    return (u4)vcombine_s32(vpadd_s32(vget_low_s32(low), vget_high_s32(low)), vpadd_s32(vget_low_s32(high), vget_high_s32(high)));
#endif
}

/* Signed bytes times signed ones. */
FN u4 dot_signed(b16 w, b16 a, u4 acc) {
    const int8x16_t x = (int8x16_t)w, y = (int8x16_t)a;
#if defined(__ARM_FEATURE_DOTPROD)
    return (u4)vdotq_s32((int32x4_t)acc, x, y);
#else
    /* A product is at most 2^14, but for -128 squared, which no activation is. */
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)));
    return acc + sums_of_halves(low, vpaddlq_s16(vmull_s8(vget_high_s8(x), vget_high_s8(y))));
#endif
}

FN u4 u4_dot(b16 w, b16 a, u4 acc) {
#if SIGNED_BYTES
    return dot_signed(w, a, acc);
#else
    /* w = (w - 128) + 64 + 64. */
    const b16 half = b16_all(64);
    return dot_signed(w ^ 0x80, a, dot_signed(half, a, dot_signed(half, a, acc)));
#endif
}

#elif defined(WASM)

FN f4 f4_max(f4 x, f4 y) { return (f4)wasm_f32x4_pmax((v128_t)y, (v128_t)x); }
FN f4 f4_min(f4 x, f4 y) { return (f4)wasm_f32x4_pmin((v128_t)y, (v128_t)x); }
FN f4 f4_sqrt(f4 x) { return (f4)wasm_f32x4_sqrt((v128_t)x); }
FN f4 f4_to_float(u4 x) { return (f4)wasm_f32x4_convert_i32x4((v128_t)x); }
FN int u4_any(u4 x) { return wasm_v128_any_true((v128_t)x); }
FN f4 f4_mul_add(f4 x, f4 y, f4 z) { return x * y + z; }

FN u4 u4_widen(b16 x, int part) {
    const v128_t b = (v128_t)x, h = part < 2 ? wasm_i16x8_extend_low_i8x16(b) : wasm_i16x8_extend_high_i8x16(b);
    return (u4)(part & 1 ? wasm_i32x4_extend_high_i16x8(h) : wasm_i32x4_extend_low_i16x8(h));
}

FN b16 b16_narrow(u4 a, u4 b, u4 c, u4 d) {
    const v128_t low = wasm_i16x8_narrow_i32x4((v128_t)a, (v128_t)b);
    return (b16)wasm_i8x16_narrow_i16x8(low, wasm_i16x8_narrow_i32x4((v128_t)c, (v128_t)d));
}

FN u4 h4_load(uintptr_t p) { return (u4)wasm_i32x4_load16x4((const void *)p); }
FN u4 sums_of_pairs(h8 x, h8 y) { return (u4)wasm_i32x4_dot_i16x8((v128_t)x, (v128_t)y); }

#elif defined(MVE) && defined(VECTORS)

FN f4 f4_lesser(f4 a, f4 b, f4 x, f4 y) {
    return (f4)vpselq_f32((float32x4_t)x, (float32x4_t)y, vcmpltq_f32((float32x4_t)a, (float32x4_t)b));
}
FN f4 f4_max(f4 x, f4 y) { return f4_lesser(y, x, x, y); }
FN f4 f4_min(f4 x, f4 y) { return f4_lesser(x, y, x, y); }
FN f4 f4_sqrt(f4 x) { return (f4){f1_sqrt(x[0]), f1_sqrt(x[1]), f1_sqrt(x[2]), f1_sqrt(x[3])}; }
FN f4 f4_to_float(u4 x) { return (f4)vcvtq_f32_s32((int32x4_t)x); }
FN int u4_any(u4 x) { return vmaxvq_u32(0, (uint32x4_t)x) != 0; }
FN f4 f4_mul_add(f4 x, f4 y, f4 z) { return (f4)vfmaq_f32((float32x4_t)z, (float32x4_t)x, (float32x4_t)y); }

FN u4 u4_widen(b16 x, int part) {
    const uint32x4_t bytes = vidupq_n_u32((uint32_t)part * 4, 1);
    return (u4)vldrbq_gather_offset_s32((const int8_t *)&x, bytes);
}

FN b16 b16_narrow(u4 a, u4 b, u4 c, u4 d) {
    const u4 words[4] = {a, b, c, d};
    b16 r;
    int8_t bytes[16];
    int i;
    for (i = 0; i < 4; i++)
        vstrbq_s32(bytes + 4 * i, vmaxq_s32(vdupq_n_s32(-128), vminq_s32(vdupq_n_s32(127), (int32x4_t)words[i])));
    COPY(&r, bytes, 16);
    return r;
}

FN u4 h4_load(uintptr_t p) { return (u4)vldrhq_s32((const int16_t *)p); }

/* A pair of products is at most 2^15 - 2^8. */
FN u4 u4_dot(b16 w, b16 a, u4 acc) {
    const int8x16_t x = (int8x16_t)w, y = (int8x16_t)a;
    const int16x8_t pairs = vaddq_s16(vmullbq_int_s8(x, y), vmulltq_int_s8(x, y));
    return acc + (u4)vaddq_s32(vmovlbq_s16(pairs), vmovltq_s16(pairs));
}

#else

FN u4 h4_load(uintptr_t p) {
    u4 r;
    int i;
    for (i = 0; i < 4; i++)
        r.v[i] = (uint32_t)(int16_t)h1_load(p + 2 * (uintptr_t)i);
    return r;
}

#endif

/* Four f16s times a power of two: their bits, shifted to where an f32 has them, and rescaled as its exponent has another bias. */
FN f4 f4_of_halves(uintptr_t p, float factor) {
#if defined(X86) && defined(__F16C__)
    return f4_mul((f4)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)p)), f4_all(factor));
#else
    const u4 bits = u4_and(u4_shift_left(h4_load(p), 13), u4_all(0x8fffe000u));
    return f4_mul(f4_of_u4(bits), f4_all(0x1p112f * factor));
#endif
}
