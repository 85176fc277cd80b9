/* The front end for x86-64 with AVX2: eight frames side by side, one in each lane, so that no lane waits for another. */
#include "eser_parts.h"

#ifdef ESER_X86
#include <immintrin.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#define AVX2 __attribute__((target("avx2")))
#define INLINE AVX2 static inline __attribute__((always_inline))
#define REAL __m256

#include "eser_spectrum.h"

/* Rows become columns. */
INLINE void transpose(__m256 *x) {
    __m256 pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            fours[i + 2 * k] = _mm256_shuffle_ps(pairs[i + k], pairs[i + 2 + k], 0x44);
            fours[i + 2 * k + 1] = _mm256_shuffle_ps(pairs[i + k], pairs[i + 2 + k], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        x[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}

/* As in eser_frontend.c. */
INLINE __m256 decibels(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    x = _mm256_max_ps(x, _mm256_set1_ps(ESER_POWER_FLOOR)); /* which NaN becomes */
    const __m256i root = _mm256_set1_epi32(0x3f3504f3), shifted = _mm256_sub_epi32(_mm256_castps_si256(x), root);
    const __m256 exponent = _mm256_cvtepi32_ps(_mm256_srai_epi32(shifted, 23));
    const __m256 m =
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_and_si256(shifted, _mm256_set1_epi32(0x007fffff)), root));
    const __m256 t = _mm256_div_ps(m - one, m + one), u = t * t;
    const __m256 series = 1.0f + u * (0.333333333f + u * (0.2f + u * (0.142857143f + u * 0.111111111f)));
    return exponent * 3.01029996f + t * series * 8.68588964f;
}

/* The gaps keep what is read and written together from sharing the same lines of a cache. */
typedef struct {
    __m256 re[513], gap[3], im[513], gap2[7], re2[513], gap3[11], im2[512], bands[ESER_N_BINS];
} workspace;

AVX2 void eser_features_side_by_side_avx2(const float *samples, float *db) {
    workspace work;
    __m256 *re = work.re, *im = work.im, x[ESER_LANES];
    for (int i = 0; i < ESER_FRAME; i += 8) {
        for (int lane = 0; lane < ESER_LANES; lane++)
            x[lane] = _mm256_mul_ps(_mm256_loadu_ps(samples + lane * ESER_HOP + i), _mm256_loadu_ps(eser_window + i));
        transpose(x);
        for (int k = 0; k < 4; k++) {
            re[i / 2 + k] = x[2 * k];
            im[i / 2 + k] = x[2 * k + 1];
        }
    }
    for (int i = ESER_FRAME / 2; i < 513; i++)
        re[i] = im[i] = _mm256_setzero_ps();
    mel_bands(re, im, work.re2, work.im2, work.bands);
    for (int band = 0; band < ESER_N_BINS; band += 8) {
        for (int k = 0; k < 8; k++)
            x[k] = decibels(work.bands[band + k]);
        transpose(x);
        for (int lane = 0; lane < ESER_LANES; lane++)
            _mm256_storeu_ps(db + lane * ESER_N_BINS + band, x[lane]);
    }
}
#endif
