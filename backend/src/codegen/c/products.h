/* Products of bytes with a quad, the same four activations in every lane: dot_quad of weights, dot_code of
 * codes: on x86 and in WebAssembly of any bytes without a sign. */

#if defined(DOT)

#if SIGNED_BYTES
/* The instruction takes unsigned bytes: a weight's sign moves to the activation, which is not -128. */
FN u4 u4_dot(b16 w, b16 a, u4 acc) {
    return DOT(acc, _mm_abs_epi8((__m128i)w), _mm_sign_epi8((__m128i)a, (__m128i)w));
}
#else
FN u4 u4_dot(b16 w, b16 a, u4 acc) { return DOT(acc, (__m128i)w, (__m128i)a); }
#endif

typedef b16 quad;
FN quad quad_of(b16 x) { return x; }
FN u4 dot_quad(b16 w, quad a, u4 acc) { return u4_dot(w, a, acc); }
FN u4 dot_code(b16 w, quad a, u4 acc) { return DOT(acc, (__m128i)w, (__m128i)a); }

#elif defined(X86) || defined(WASM)

/* Bytes as the 16 bits of every second one: a lane of the sums of pairs then has the products of its own four bytes. */
typedef struct { h8 even, odd; } quad;
FN quad quad_of(b16 x) {
    const quad r = {(h8)((uh8)x << 8) >> 8, (h8)x >> 8};
    return r;
}
FN u4 dot_halves(quad w, quad a, u4 acc) { return acc + (sums_of_pairs(w.even, a.even) + sums_of_pairs(w.odd, a.odd)); }
FN u4 dot_code(b16 w, quad a, u4 acc) {
    const quad halves = {(h8)((uh8)w & 0xff), (h8)((uh8)w >> 8)};
    return dot_halves(halves, a, acc);
}
#if SIGNED_BYTES
FN u4 dot_quad(b16 w, quad a, u4 acc) { return dot_halves(quad_of(w), a, acc); }
#else
FN u4 dot_quad(b16 w, quad a, u4 acc) { return dot_code(w, a, acc); }
#endif
FN u4 u4_dot(b16 w, b16 a, u4 acc) { return dot_quad(w, quad_of(a), acc); }

#elif defined(NEON)

typedef b16 quad;
FN quad quad_of(b16 x) { return x; }
FN u4 dot_quad(b16 w, quad a, u4 acc) { return u4_dot(w, a, acc); }
FN u4 dot_code(b16 w, quad a, u4 acc) { return dot_signed(w, a, acc); }

#elif defined(MVE)

FN int8x16_t code_of(int8x16_t w, int bits, int level) {
    const uint8x16_t code = level == 0 ? (uint8x16_t)w : vshlq_u8((uint8x16_t)w, vdupq_n_s8((int8_t)(-bits * level)));
    return (int8x16_t)(bits * (level + 1) == 8 ? code : vandq_u8(code, vdupq_n_u8((uint8_t)(0xff >> (8 - bits)))));
}

#elif defined(DSP)

/* Even and odd bytes as two numbers of 16 bits each. */
typedef struct { int16x2_t even, odd; } quad;
#define HALVES(r, extend, x) __asm__(extend " %0, %1" : "=r"(r.even) : "r"(x)); __asm__(extend " %0, %1, ror #8" : "=r"(r.odd) : "r"(x))
FN quad quad_load(uintptr_t p) {
    quad r;
    HALVES(r, "sxtb16", u1_load(p));
    return r;
}
FN uint32_t dot_quad(uintptr_t p, quad a, uint32_t acc) {
    quad w;
#if SIGNED_BYTES
    HALVES(w, "sxtb16", u1_load(p));
#else
    HALVES(w, "uxtb16", u1_load(p));
#endif
    return (uint32_t)__smlad(w.odd, a.odd, __smlad(w.even, a.even, (int32_t)acc));
}
FN uint32_t dot_code(uintptr_t p, int bits, int level, quad a, uint32_t acc) {
    const uint32_t mask = (0xffu >> (8 - bits)) * 0x10001u, x = u1_load(p) >> (bits * level);
    return (uint32_t)__smlad((int16x2_t)(x >> 8 & mask), a.odd, __smlad((int16x2_t)(x & mask), a.even, (int32_t)acc));
}

#else

typedef struct { int8_t v[4]; } quad;
FN quad quad_load(uintptr_t p) { quad r; COPY(&r, (const void *)p, 4); return r; }
FN uint32_t dot_quad(uintptr_t p, quad a, uint32_t acc) {
    return acc + (uint32_t)(WEIGHT(b1_load(p)) * a.v[0] + WEIGHT(b1_load(p + 1)) * a.v[1]
        + WEIGHT(b1_load(p + 2)) * a.v[2] + WEIGHT(b1_load(p + 3)) * a.v[3]);
}
#define CODE(k) (int32_t)(b1_load(p + k) >> (bits * level) & 0xff >> (8 - bits)) * a.v[k]
FN uint32_t dot_code(uintptr_t p, int bits, int level, quad a, uint32_t acc) {
    return acc + (uint32_t)(CODE(0) + CODE(1) + CODE(2) + CODE(3));
}

#endif

/* The sums of a group of a panel: of its 32 outputs in eight vectors, of codes with 8, 4 or 2 bits. Each quad of inputs has 16
 * bytes of weights for a vector of outputs, or for two or four (levels), whose codes lie above one another in a byte. */
typedef struct { u4 v[8]; } sums;

#define EACH8(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define LEVELS (8 / bits)
#define LEVEL(a) (a % LEVELS)
#define ROW(quads) ((uintptr_t)(quads) * 16u * (uintptr_t)bits)

#if defined(MVE)

/* Four quads of four outputs: those of an output are gathered as their activations lie. */
FN void sums_of_four(int32_t *r, int bits, uintptr_t w, uint32x4_t at, int8x16_t a, int all, mve_pred16_t some) {
#define GATHERED(n) (int8x16_t)(all ? vldrwq_gather_offset_u32(AT(w + 4 * n, 4), at) : vldrwq_gather_offset_z_u32(AT(w + 4 * n, 4), at, some))
    const int8x16_t w0 = GATHERED(0), w1 = bits > 2 ? GATHERED(1) : w0;
    const int8x16_t w2 = bits > 4 ? GATHERED(2) : w0, w3 = bits > 4 ? GATHERED(3) : w0;
#define MULTIPLY(k) r[k] = vmladavaq_s8(r[k], code_of(k / LEVELS == 0 ? w0 : k / LEVELS == 1 ? w1 : k / LEVELS == 2 ? w2 : w3, bits, LEVEL(k)), a);
    MULTIPLY(0) MULTIPLY(1) MULTIPLY(2) MULTIPLY(3)
}

FN sums sums_of(int bits, uintptr_t w, uintptr_t x, int quads) {
    uint32_t v[8][4];
    sums s;
    int t, k;
    for (t = 0; t < 8; t++, w += 2u * (uintptr_t)bits) {
        uint32x4_t at = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)ROW(1));
        uintptr_t p = x;
        int32_t r[4] = {0, 0, 0, 0};
        for (k = quads / 4; k; k--, p += 16, at = vaddq_n_u32(at, (uint32_t)ROW(4)))
            sums_of_four(r, bits, w, at, vldrbq_s8(AT(p, 1)), 1, 0);
        if (quads % 4) {
            const mve_pred16_t some = vctp32q((uint32_t)quads % 4);
            sums_of_four(r, bits, w, at, vldrbq_z_s8(AT(p, 1), some), 0, some);
        }
#define SUM(k) v[t * bits / 8 * LEVELS + LEVEL(k)][(t * bits / 2 + k / LEVELS) % 4] = (uint32_t)r[k];
        SUM(0) SUM(1) SUM(2) SUM(3)
    }
    COPY(&s, v, sizeof s);
    return s;
}

/* gcc for Windows does not align vectors of 32 bytes on the stack. */
#elif defined(X86) && defined(__AVX2__) && !(defined(__MINGW32__) && !defined(__clang__))

/* Vectors of 32 bytes: four parts of eight outputs, of which each has two vectors of the panel's, LEVELS apart. */
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define WIDE_DOT(acc, u, s) _mm256_dpbusd_epi32(acc, u, s)
#elif defined(__AVXVNNI__)
#define WIDE_DOT(acc, u, s) _mm256_dpbusd_avx_epi32(acc, u, s)
#else
#define WIDE_SUM(pairs) _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
#endif

FN __m256i wide_flip(__m256i x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }

FN __m256i wide_code(uintptr_t w, int bits, int part) {
    const __m256i v = _mm256_load_si256((const __m256i *)(w + 32u * (uintptr_t)(part / LEVELS)));
    const int level = part % LEVELS;
    if (bits == 8)
        return v;
    return _mm256_and_si256(level ? _mm256_srli_epi16(v, bits * level) : v, _mm256_set1_epi8((char)(0xff >> (8 - bits))));
}

#define EACH4(F) F(0) F(1) F(2) F(3)

FN sums sums_of(int bits, uintptr_t w, uintptr_t x, int quads) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i r0 = zero, r1 = zero, r2 = zero, r3 = zero;
    sums s;
#if defined(WIDE_DOT)
    /* Codes of 8 bits are taken without their signs, which adds 128 times the sum of the activations. */
    __m256i raised = zero;
    for (; quads; quads--, w += ROW(1), x += 4) {
        const __m256i a = _mm256_set1_epi32((int)u1_load(x));
#define CODES(n) bits == 8 && SIGNED_BYTES ? wide_flip(wide_code(w, bits, n)) : wide_code(w, bits, n)
#define STEP(n) r##n = WIDE_DOT(r##n, CODES(n), a);
        EACH4(STEP)
        if (bits == 8 && SIGNED_BYTES)
            raised = WIDE_DOT(raised, _mm256_set1_epi8(-128), a);
    }
#define LOWER(n) r##n = _mm256_sub_epi32(r##n, raised);
    EACH4(LOWER)
#else
    if (bits == 8) {
        /* The magnitudes of positive and of negative activations by signed codes: pairs of at most 2 * 127 * 128. Codes without
         * signs lack 128 times the sum of the activations. */
        __m256i lacking = zero;
        for (; quads; quads--, w += ROW(1), x += 4) {
            const __m256i a = _mm256_set1_epi32((int)u1_load(x));
            const __m256i above = _mm256_max_epi8(a, zero), below = _mm256_sub_epi8(above, a);
#define CODES(n) SIGNED_BYTES ? wide_code(w, 8, n) : wide_flip(wide_code(w, 8, n))
#define STEP(n) { const __m256i c = CODES(n); \
        r##n = _mm256_add_epi32(r##n, WIDE_SUM(_mm256_sub_epi16(_mm256_maddubs_epi16(above, c), _mm256_maddubs_epi16(below, c)))); }
            EACH4(STEP)
            if (!SIGNED_BYTES)
                lacking = _mm256_add_epi32(lacking, WIDE_SUM(_mm256_maddubs_epi16(_mm256_set1_epi8(-128), a)));
        }
#define RAISE(n) r##n = _mm256_add_epi32(r##n, lacking);
        EACH4(RAISE)
    }
    /* Eight pairs of at most 2 * 15 * 127 fit 16 bits. */
    while (quads) {
        __m256i t0 = zero, t1 = zero, t2 = zero, t3 = zero;
        int n = quads < 8 ? quads : 8;
        for (quads -= n; n; n--, w += ROW(1), x += 4) {
            const __m256i a = _mm256_set1_epi32((int)u1_load(x));
#define NARROW(n) t##n = _mm256_add_epi16(t##n, _mm256_maddubs_epi16(wide_code(w, bits, n), a));
            EACH4(NARROW)
        }
#define WIDEN(n) r##n = _mm256_add_epi32(r##n, WIDE_SUM(t##n));
        EACH4(WIDEN)
    }
#endif
#define HALVES(n) \
    s.v[n / LEVELS * 2 * LEVELS + LEVEL(n)] = (u4)_mm256_castsi256_si128(r##n); \
    s.v[n / LEVELS * 2 * LEVELS + LEVELS + LEVEL(n)] = (u4)_mm256_extracti128_si256(r##n, 1);
    EACH4(HALVES)
    return s;
}

#elif defined(VECTORS)

#define QUAD_AT(p) (b16)u4_all(u1_load(p))
#define WEIGHTS(a) b16_load(w + 16u * (a / LEVELS))

/* Products of narrow codes, as many as fit 16 bits before they are widened. */
#if defined(X86) && defined(__SSSE3__) && !defined(DOT)
#define RUN 8
typedef h8 shorts;
#define NO_SHORTS {0}
FN shorts shorts_add(shorts s, b16 w, b16 a) { return s + (h8)_mm_maddubs_epi16((__m128i)w, (__m128i)a); }
FN u4 shorts_sum(shorts s, u4 acc) { return acc + (u4)_mm_madd_epi16((__m128i)s, _mm_set1_epi16(1)); }
#elif defined(NEON) && !defined(__ARM_FEATURE_DOTPROD)
#define RUN 16
typedef struct { int16x8_t low, high; } shorts;
#define NO_SHORTS {{0}, {0}}
FN shorts shorts_add(shorts s, b16 w, b16 a) {
    const int8x16_t x = (int8x16_t)w, y = (int8x16_t)a;
    s.low = vmlal_s8(s.low, vget_low_s8(x), vget_low_s8(y));
    s.high = vmlal_s8(s.high, vget_high_s8(x), vget_high_s8(y));
    return s;
}
FN u4 shorts_sum(shorts s, u4 acc) { return acc + sums_of_halves(vpaddlq_s16(s.low), vpaddlq_s16(s.high)); }
#elif !defined(NEON)
#define MASKED
#endif

#if defined(MASKED)
/* Masked from its level upwards, a code comes with those above it, whose sums are subtracted at the end. */
FN b16 code_of(b16 w, int bits, int level) { return w & b16_all((uint8_t)(0xff << (bits * level))); }
#else
FN b16 code_of(b16 w, int bits, int level) {
    const b16 code = w >> (uint8_t)(bits * level);
    return level == LEVELS - 1 ? code : code & b16_all((uint8_t)(0xff >> (8 - bits)));
}
#endif

#if defined(RUN)
FN sums sums_of_run(sums s, int bits, uintptr_t w, uintptr_t x, int quads) {
#define BEGIN(a) shorts t##a = NO_SHORTS;
#define ADD(a) t##a = shorts_add(t##a, code_of(WEIGHTS(a), bits, LEVEL(a)), q);
#define WIDEN(a) s.v[a] = shorts_sum(t##a, s.v[a]);
    EACH8(BEGIN)
    /* Eight times these lines would need more registers than there are. */
#pragma GCC unroll 1
    for (; quads; quads--, w += ROW(1), x += 4) {
        const b16 q = QUAD_AT(x);
        EACH8(ADD)
    }
    EACH8(WIDEN)
    return s;
}
#endif

FN sums sums_of(int bits, uintptr_t w, uintptr_t x, int quads) {
    sums s;
#define ZERO(a) s.v[a] = u4_all(0);
    EACH8(ZERO)
#if defined(RUN)
    if (bits < 8) {
        for (; quads >= RUN; quads -= RUN, w += ROW(RUN), x += 4 * RUN)
            s = sums_of_run(s, bits, w, x, RUN);
        return quads ? sums_of_run(s, bits, w, x, quads) : s;
    }
#endif
#define STEP(a) s.v[a] = bits == 8 ? dot_quad(WEIGHTS(a), q, s.v[a]) : dot_code(code_of(WEIGHTS(a), bits, LEVEL(a)), q, s.v[a]);
    for (; quads; quads--, w += ROW(1), x += 4) {
        const quad q = quad_of(QUAD_AT(x));
        EACH8(STEP)
    }
#if defined(MASKED)
#define APART(a) s.v[a] = (u4)((i4)(LEVEL(a) < LEVELS - 1 ? s.v[a] - s.v[(a + 1) % 8] : s.v[a]) >> (bits * LEVEL(a)));
    EACH8(APART)
#endif
    return s;
}

#else

FN sums sums_of(int bits, uintptr_t w, uintptr_t x, int quads) {
    sums s;
    int a, n;
    for (a = 0; a < 8; a++) {
        uintptr_t p = w + 16u * (uintptr_t)(a / LEVELS);
        u4 r = u4_all(0);
#define STEP(i) bits == 8 ? dot_quad(p + 4 * i, q, r.v[i]) : dot_code(p + 4 * i, bits, LEVEL(a), q, r.v[i])
        for (n = 0; n < quads; n++, p += ROW(1)) {
            const quad q = quad_load(x + 4 * (uintptr_t)n);
            LANES4(STEP(i))
        }
        s.v[a] = r;
    }
    return s;
}

#endif
