/* The front end logmel-v1: one frame of 640 samples to 128 Mel bands in dB.
 *
 * Nothing but +, -, *, / on floats in a fixed order, the logarithm included, so that features have the same bits everywhere.
 */
#include <string.h>

#include "eser_parts.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#define POWER_FLOOR 1e-10f

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* A pass of Stockham's FFT by radix 4: n points at distance stride, from x to y; the order comes out right. The loops are written
 * for compilers that make SIMD of them: constant bounds where the pass is inlined, and arrays that do not overlap. */
INLINE void pass4(int n, int stride, const float *restrict xr, const float *restrict xi, float *restrict yr, float *restrict yi) {
    const int quarter = n / 4, step = 1024 / n, far = stride * quarter;
    for (int p = 0; p < quarter; p++) {
        /* w^k = cos - i sin of 2 pi k / n; the sine is a cosine a quarter later. */
        const float *w = eser_cosine + p * step;
        const float c1 = w[0], s1 = w[256], c2 = w[p * step], s2 = w[p * step + 256];
        const float c3 = w[2 * p * step], s3 = w[2 * p * step + 256];
        const float *restrict ar = xr + stride * p, *restrict ai = xi + stride * p;
        float *restrict br = yr + 4 * stride * p, *restrict bi = yi + 4 * stride * p;
        for (int q = 0; q < stride; q++) {
            const float sum0r = ar[q] + ar[q + 2 * far], sum0i = ai[q] + ai[q + 2 * far];
            const float sum1r = ar[q + far] + ar[q + 3 * far], sum1i = ai[q + far] + ai[q + 3 * far];
            const float dif0r = ar[q] - ar[q + 2 * far], dif0i = ai[q] - ai[q + 2 * far];
            const float dif1r = ar[q + far] - ar[q + 3 * far], dif1i = ai[q + far] - ai[q + 3 * far];
            const float t1r = dif0r + dif1i, t1i = dif0i - dif1r;
            const float t2r = sum0r - sum1r, t2i = sum0i - sum1i;
            const float t3r = dif0r - dif1i, t3i = dif0i + dif1r;
            br[q] = sum0r + sum1r;
            bi[q] = sum0i + sum1i;
            br[q + stride] = c1 * t1r - s1 * t1i;
            bi[q + stride] = c1 * t1i + s1 * t1r;
            br[q + 2 * stride] = c2 * t2r - s2 * t2i;
            bi[q + 2 * stride] = c2 * t2i + s2 * t2r;
            br[q + 3 * stride] = c3 * t3r - s3 * t3i;
            bi[q + 3 * stride] = c3 * t3i + s3 * t3r;
        }
    }
}

/* 10 log10(x) of a normal positive float, within 2e-6 dB and float rounding. */
INLINE float decibels(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* x = m * 2^exponent with m in [sqrt(1/2), sqrt(2)) */
    const uint32_t shifted = bits - 0x3f3504f3u;
    const int32_t exponent = (int32_t)shifted >> 23;
    bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
    float m;
    memcpy(&m, &bits, sizeof m);
    /* ln m = 2 artanh t */
    const float t = (m - 1.0f) / (m + 1.0f), u = t * t;
    const float series = 1.0f + u * (0.333333333f + u * (0.2f + u * (0.142857143f + u * 0.111111111f)));
    return (float)exponent * 3.01029996f + t * series * 8.68588964f;
}

/* The power of bins 1..511 of the real signal, whose even samples were the real parts and whose odd ones the imaginary parts of the
 * complex signal with spectrum re, im; upper is working memory. Bins 0 and 512 lie on the outermost edges of the Mel bands and weigh nothing. */
INLINE void powers(const float *restrict re, const float *restrict im, float *restrict power, float *restrict upper) {
    /* Bins k and 512 - k share their even part e and their odd part o: 2 X[k] = e + w o, 2 X[512 - k] = conj(e - w o). */
    for (int k = 1; k <= 256; k++) {
        const float evr = re[k] + re[512 - k], evi = im[k] - im[512 - k];
        const float odr = im[k] + im[512 - k], odi = re[512 - k] - re[k];
        const float c = eser_cosine[k], s = eser_cosine[k + 256];
        const float tr = c * odr - s * odi, ti = c * odi + s * odr;
        upper[k - 1] = 0.25f * ((evr - tr) * (evr - tr) + (evi - ti) * (evi - ti));
        power[k] = 0.25f * ((evr + tr) * (evr + tr) + (evi + ti) * (evi + ti));
    }
    for (int k = 1; k < 256; k++)
        power[512 - k] = upper[k - 1];
}

INLINE void features(const float *samples, float *db, eser_scratch *scratch) {
    float(*re)[512] = scratch->spectrum.re, (*im)[512] = scratch->spectrum.im;
    /* A real DFT of 1024 is a complex one of 512 over even and odd samples. */
    for (int i = 0; i < ESER_FRAME / 2; i++) {
        re[0][i] = samples[2 * i] * eser_window[2 * i];
        im[0][i] = samples[2 * i + 1] * eser_window[2 * i + 1];
    }
    memset(re[0] + ESER_FRAME / 2, 0, (512 - ESER_FRAME / 2) * sizeof(float));
    memset(im[0] + ESER_FRAME / 2, 0, (512 - ESER_FRAME / 2) * sizeof(float));
    pass4(512, 1, re[0], im[0], re[1], im[1]);
    pass4(128, 4, re[1], im[1], re[0], im[0]);
    pass4(32, 16, re[0], im[0], re[1], im[1]);
    pass4(8, 64, re[1], im[1], re[0], im[0]);
    for (int i = 0; i < 256; i++) {
        re[1][i] = re[0][i] + re[0][i + 256];
        im[1][i] = im[0][i] + im[0][i + 256];
        re[1][i + 256] = re[0][i] - re[0][i + 256];
        im[1][i + 256] = im[0][i] - im[0][i + 256];
    }
    powers(re[1], im[1], re[0], im[0]);
    const float *power = re[0];
    const float *weight = eser_mel_weight;
    for (int band = 0; band < ESER_N_BINS; band++) {
        const float *bins = power + eser_mel_first[band];
        float sum = 0.0f;
        for (int i = 0; i < eser_mel_count[band]; i++)
            sum += bins[i] * *weight++;
        db[band] = sum > POWER_FLOOR ? sum : POWER_FLOOR;
    }
    for (int band = 0; band < ESER_N_BINS; band++)
        db[band] = decibels(db[band]);
}

#ifdef ESER_X86
/* The same operations, eight at a time. */
__attribute__((target("avx2"))) static void features_avx2(const float *samples, float *db, eser_scratch *scratch) {
    features(samples, db, scratch);
}
#endif

void eser_features(const float *samples, float *db, eser_scratch *scratch) {
#ifdef ESER_X86
    if (__builtin_cpu_supports("avx2")) {
        features_avx2(samples, db, scratch);
        return;
    }
#endif
    features(samples, db, scratch);
}

void eser_quantise(const eser_model *model, const float *db, uint8_t *levels) {
    for (int i = 0; i < ESER_N_BINS; i++) {
        const float x = db[i] * model->feature_gain[i] + model->feature_offset[i];
        levels[i] = x >= 255.0f ? 255 : x > 0.0f ? (uint8_t)(x + 0.5f) : 0;
    }
}
