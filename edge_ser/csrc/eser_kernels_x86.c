/* The inner loops for x86-64: AVX2, the same with the dot products of VNNI, and the choice among all of them.
 *
 * Every function names the instructions it needs, so that one build without -m options serves all processors.
 */
#include "eser_parts.h"

#ifdef ESER_X86
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define AVX2 __attribute__((target("avx2")))

AVX2 INLINE __m256i load(const void *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}

AVX2 INLINE void store(void *to, __m256i x) {
    _mm256_storeu_si256((__m256i *)to, x);
}

INLINE int32_t four_bytes(const uint8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, sizeof bytes);
    return bytes;
}

/* Two products of 255 * 63 add up within 16 bits, so nothing saturates. */
AVX2 INLINE __m256i accumulate_narrow(__m256i sum, __m256i x, __m256i w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}

/* Two of 255 * 127 do not: the upper seven bits of x are multiplied apart from the lowest. */
AVX2 INLINE __m256i accumulate_wide(__m256i sum, __m256i x, __m256i w) {
    const __m256i ones = _mm256_set1_epi16(1), lowest = _mm256_set1_epi8(1);
    const __m256i upper = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 1), _mm256_set1_epi8(127)), w);
    const __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(x, lowest), w);
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(upper, _mm256_set1_epi16(2)), _mm256_madd_epi16(low, ones)));
}

#define DOT dot_avx2
#define TARGET AVX2
#define ACCUMULATE accumulate_narrow
#include "eser_kernels_x86.h"

#define DOT dot_wide_avx2
#define TARGET AVX2
#define ACCUMULATE accumulate_wide
#include "eser_kernels_x86.h"

#if ESER_HAS_AVXVNNI
#define DOT dot_vnni
#define TARGET __attribute__((target("avx2,avxvnni")))
#define ACCUMULATE _mm256_dpbusd_avx_epi32
#include "eser_kernels_x86.h"
#endif

/* Sixteen numbers at a time: four inputs against those of four channels, whose sums of two are added up at the end. */
AVX2 static void dot_16_avx2(int32_t *acc, const int16_t *x, int32_t n, const int8_t *w) {
    __m256i sum[4];
    for (int i = 0; i < 4; i++)
        sum[i] = _mm256_setzero_si256();
    for (int32_t k = 0; k < n; k += 4, w += 4 * ESER_PANEL) {
        int64_t bytes;
        memcpy(&bytes, x + k, sizeof bytes);
        const __m256i four = _mm256_set1_epi64x(bytes);
        for (int i = 0; i < 4; i++) {
            const __m256i of_four = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 16 * i)));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(of_four, four));
        }
    }
    for (int i = 0; i < 4; i += 2) {
        const __m256i halves = _mm256_hadd_epi32(sum[i], sum[i + 1]); /* channels 0 1 4 5, 2 3 6 7 */
        store(acc + 4 * i, _mm256_permute4x64_epi64(halves, _MM_SHUFFLE(3, 1, 2, 0)));
    }
}

AVX2 INLINE __m256i scaled(__m256i a, __m256i multiplier) {
    const __m256i half = _mm256_set1_epi64x(1 << 30);
    a = _mm256_max_epi32(a, _mm256_setzero_si256());
    const __m256i even = _mm256_add_epi64(_mm256_mul_epu32(a, multiplier), half);
    const __m256i odd =
        _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(multiplier, 32)), half);
    const __m256i both = _mm256_blend_epi32(_mm256_srli_epi64(even, 31), _mm256_slli_epi64(odd, 1), 0xaa);
    return _mm256_min_epu32(both, _mm256_set1_epi32(255));
}

AVX2 void eser_activate_avx2(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                             const int32_t *multiplier, int32_t keep) {
    const __m256i bias0 = load(bias), bias1 = load(bias + 8), multiplier0 = load(multiplier), multiplier1 = load(multiplier + 8);
    for (int32_t p = 0; p < n; p++, acc += pool * ESER_PANEL, out += out_step) {
        __m256i a0 = load(acc), a1 = load(acc + 8);
        if (pool == 2) {
            a0 = _mm256_max_epi32(a0, load(acc + ESER_PANEL));
            a1 = _mm256_max_epi32(a1, load(acc + ESER_PANEL + 8));
        }
        const __m256i words = _mm256_packus_epi32(scaled(_mm256_add_epi32(a0, bias0), multiplier0),
                                                  scaled(_mm256_add_epi32(a1, bias1), multiplier1));
        const __m256i bytes = _mm256_packus_epi16(words, words); /* by fours: 0 2 0 2, 1 3 1 3 */
        __m128i levels = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        if (keep)
            levels = _mm_max_epu8(levels, _mm_loadu_si128((const __m128i *)out));
        _mm_storeu_si128((__m128i *)out, levels);
    }
}

/* Four products of 64 bits, rescaled. */
AVX2 INLINE __m256i rescaled(__m256i product, __m256i half, __m128i shift, __m256i sign) {
    const __m256i limit = _mm256_set1_epi64x(ESER_Q16_LIMIT), least = _mm256_set1_epi64x(-ESER_Q16_LIMIT);
    __m256i x = _mm256_srl_epi64(_mm256_add_epi64(product, half), shift);
    x = _mm256_sub_epi64(_mm256_xor_si256(x, sign), sign); /* the shift took zeros for signs */
    x = _mm256_blendv_epi8(x, limit, _mm256_cmpgt_epi64(x, limit));
    return _mm256_blendv_epi8(x, least, _mm256_cmpgt_epi64(least, x));
}

AVX2 static void rescale_avx2(int32_t *out, const int32_t *acc, const int32_t *bias, const int32_t *multiplier, int32_t shift) {
    const __m256i half = _mm256_set1_epi64x(1LL << (shift - 1)), sign = _mm256_set1_epi64x(1LL << (63 - shift));
    const __m128i by = _mm_cvtsi32_si128(shift);
    for (int o = 0; o < ESER_PANEL; o += 8) {
        const __m256i sum = _mm256_add_epi32(load(acc + o), load(bias + o)), m = load(multiplier + o);
        const __m256i even = rescaled(_mm256_mul_epi32(sum, m), half, by, sign);
        const __m256i odd = rescaled(_mm256_mul_epi32(_mm256_srli_epi64(sum, 32), _mm256_srli_epi64(m, 32)), half, by, sign);
        store(out + o, _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa));
    }
}

AVX2 INLINE __m256i tanh_q15(__m256i x) {
    const __m256i sign = _mm256_srai_epi32(x, 31);
    const __m256i within = _mm256_min_epu32(_mm256_abs_epi32(x), _mm256_set1_epi32((8 << 16) - 1));
    /* A number of the table, and in the upper half the next one; for the assembler: GCC would wait for what the register held. */
    __m256i at = _mm256_setzero_si256(), all = _mm256_set1_epi32(-1);
    __asm__("vpgatherdd %1, (%2, %3, 2), %0" : "+&x"(at), "+&x"(all) : "r"(eser_tanh_q15), "x"(_mm256_srli_epi32(within, 10)));
    const __m256i first = _mm256_srai_epi32(_mm256_slli_epi32(at, 16), 16), rise = _mm256_sub_epi32(_mm256_srai_epi32(at, 16), first);
    const __m256i part = _mm256_mullo_epi32(rise, _mm256_and_si256(within, _mm256_set1_epi32(1023)));
    const __m256i y = _mm256_add_epi32(first, _mm256_srai_epi32(_mm256_add_epi32(part, _mm256_set1_epi32(512)), 10));
    return _mm256_sub_epi32(_mm256_xor_si256(y, sign), sign);
}

AVX2 INLINE __m256i sigmoid_q15(__m256i x) {
    return _mm256_srai_epi32(_mm256_add_epi32(tanh_q15(_mm256_srai_epi32(x, 1)), _mm256_set1_epi32(32768 + 1)), 1);
}

AVX2 static void gru_step_avx2(const int32_t *input, const int32_t *recurrent, int16_t *h) {
    const __m256i half = _mm256_set1_epi64x(1 << 14);
    for (int i = 0; i < ESER_GRU; i += 8) {
        const int32_t *x = input + i, *y = recurrent + i;
        const __m256i reset = sigmoid_q15(_mm256_add_epi32(load(x), load(y)));
        const __m256i update = sigmoid_q15(_mm256_add_epi32(load(x + ESER_GRU), load(y + ESER_GRU)));
        const __m256i of_h = load(y + 2 * ESER_GRU);
        const __m256i even = _mm256_srli_epi64(_mm256_add_epi64(_mm256_mul_epi32(reset, of_h), half), 15);
        const __m256i odd = _mm256_srli_epi64(
            _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(reset, 32), _mm256_srli_epi64(of_h, 32)), half), 15);
        const __m256i gated = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
        const __m256i new_h = tanh_q15(_mm256_add_epi32(load(x + 2 * ESER_GRU), gated));
        const __m256i old_h = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(h + i)));
        const __m256i kept = _mm256_mullo_epi32(update, _mm256_sub_epi32(old_h, new_h));
        const __m256i next = _mm256_add_epi32(new_h, _mm256_srai_epi32(_mm256_add_epi32(kept, _mm256_set1_epi32(1 << 14)), 15));
        /* Of its 32 bits the upper 16 are signs. */
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(next, next), _MM_SHUFFLE(3, 1, 2, 0));
        _mm_storeu_si128((__m128i *)(h + i), _mm256_castsi256_si128(words));
    }
}

AVX2 static void quantise_avx2(const eser_model *model, const float *db, uint8_t *levels) {
    for (int i = 0; i < ESER_N_BINS; i += 16) {
        __m256i level[2];
        for (int half = 0; half < 2; half++) {
            const int at = i + 8 * half;
            const __m256 x = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(db + at), _mm256_loadu_ps(model->feature_gain + at)),
                                           _mm256_loadu_ps(model->feature_offset + at));
            const __m256 within = _mm256_min_ps(_mm256_max_ps(x, _mm256_setzero_ps()), _mm256_set1_ps(255.0f)); /* NaN is 0 */
            level[half] = _mm256_cvttps_epi32(_mm256_add_ps(within, _mm256_set1_ps(0.5f)));
        }
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(level[0], level[1]), _MM_SHUFFLE(3, 1, 2, 0));
        _mm_storeu_si128((__m128i *)(levels + i),
                         _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
}

static const eser_kernels AVX2_SET = {
    .name = "avx2",
    .dot = dot_avx2,
    .dot_wide = dot_wide_avx2,
    .dot_16 = dot_16_avx2,
    .activate = eser_activate_avx2,
    .rescale = rescale_avx2,
    .gru_step = gru_step_avx2,
    .features = eser_features_avx2,
    .quantise = quantise_avx2,
    .features_side_by_side = eser_features_side_by_side_avx2,
    .winograd = eser_winograd_avx2,
};
#if ESER_HAS_AVXVNNI
static const eser_kernels VNNI_SET = {
    .name = "avxvnni",
    .dot = dot_vnni,
    .dot_wide = dot_vnni,
    .dot_16 = dot_16_avx2,
    .activate = eser_activate_avx2,
    .rescale = rescale_avx2,
    .gru_step = gru_step_avx2,
    .features = eser_features_avx2,
    .quantise = quantise_avx2,
    .features_side_by_side = eser_features_side_by_side_avx2,
    .winograd = eser_winograd_vnni,
};
#endif
static const eser_kernels VNNI512_SET = {
    .name = "avx512vnni",
    .dot = eser_dot_vnni512,
    .dot_wide = eser_dot_vnni512,
    .dot_16 = eser_dot_16_vnni512,
    .activate = eser_activate_vnni512,
    .rescale = eser_rescale_vnni512,
    .gru_step = gru_step_avx2,
    .features = eser_features_avx2,
    .quantise = quantise_avx2,
    .features_side_by_side = eser_features_side_by_side_avx2,
    .convolve = eser_convolve_vnni512,
    .winograd = eser_winograd_vnni512,
};
#if ESER_HAS_AMX
static const eser_kernels AMX_SET = {
    .name = "amx",
    .dot = eser_dot_vnni512,
    .dot_wide = eser_dot_vnni512,
    .dot_16 = eser_dot_16_vnni512,
    .activate = eser_activate_vnni512,
    .rescale = eser_rescale_vnni512,
    .gru_step = gru_step_avx2,
    .features = eser_features_avx2,
    .quantise = quantise_avx2,
    .features_side_by_side = eser_features_side_by_side_avx2,
    .convolve = eser_convolve_amx,
};
#endif

#define OSXSAVE (1u << 27)
#define YMM_STATE 0x06u /* that the system saves, in XCR0 */
#define ZMM_STATE 0xe6u

/* What the system saves of the registers, whatever the compiler's runtime library knows of processors. */
static uint32_t saved_state(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

uint32_t eser_kernels_simd(const eser_kernels **found) {
    uint32_t n = 0, a, b = 0, c = 0, d = 0;
    const uint32_t saved = saved_state();
    if ((saved & YMM_STATE) != YMM_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b >> 5 & 1))
        return 0;
    found[n++] = &AVX2_SET;
#if ESER_HAS_AVXVNNI
    uint32_t others;
    if (a >= 1 && __get_cpuid_count(7, 1, &others, &a, &a, &a) && others >> 4 & 1)
        found[n++] = &VNNI_SET;
#endif
    /* AVX-512 F, BW, VL and VNNI. */
    if ((saved & ZMM_STATE) != ZMM_STATE || !(b >> 16 & 1 && b >> 30 & 1 && b >> 31 && c >> 11 & 1))
        return n;
    found[n++] = &VNNI512_SET;
#if ESER_HAS_AMX
    /* AMX-TILE and AMX-INT8. */
    if (d >> 24 & 1 && d >> 25 & 1 && eser_amx_works())
        found[n++] = &AMX_SET;
#endif
    return n;
}
#endif
