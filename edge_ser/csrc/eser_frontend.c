/* The front end logmel-v1: one frame of 640 samples to 128 Mel bands in dB.
 *
 * Nothing but +, -, *, / on floats in a fixed order, the logarithm included, so that features have the same bits everywhere.
 */
#include <string.h>

#include "eser_parts.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#define REAL float

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#include "eser_spectrum.h"

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

INLINE void to_decibels(float *bands) {
    for (int band = 0; band < ESER_N_BINS; band++)
        bands[band] = decibels(bands[band] > ESER_POWER_FLOOR ? bands[band] : ESER_POWER_FLOOR);
}

INLINE void features(const float *samples, float *db, eser_scratch *scratch) {
    float(*re)[528] = scratch->spectrum.re, (*im)[528] = scratch->spectrum.im;
    /* A real DFT of 1024 is a complex one of 512 over even and odd samples. */
    for (int i = 0; i < ESER_FRAME / 2; i++) {
        re[0][i] = samples[2 * i] * eser_window[2 * i];
        im[0][i] = samples[2 * i + 1] * eser_window[2 * i + 1];
    }
    memset(re[0] + ESER_FRAME / 2, 0, (513 - ESER_FRAME / 2) * sizeof(float));
    memset(im[0] + ESER_FRAME / 2, 0, (513 - ESER_FRAME / 2) * sizeof(float));
    mel_bands(re[0], im[0], re[1], im[1], db);
    to_decibels(db);
}

void eser_features_scalar(const float *samples, float *db, eser_scratch *scratch) {
    features(samples, db, scratch);
}

void eser_quantise_scalar(const eser_model *model, const float *db, uint8_t *levels) {
    for (int i = 0; i < ESER_N_BINS; i++) {
        const float x = db[i] * model->feature_gain[i] + model->feature_offset[i];
        levels[i] = x >= 255.0f ? 255 : x > 0.0f ? (uint8_t)(x + 0.5f) : 0;
    }
}

#ifdef ESER_X86
/* The same operations, eight at a time. */
#define AVX2 __attribute__((target("avx2")))
AVX2 void eser_features_avx2(const float *samples, float *db, eser_scratch *scratch) {
    features(samples, db, scratch);
}
#endif
