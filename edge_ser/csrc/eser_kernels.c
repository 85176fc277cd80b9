/* The inner loops in plain C, and the choice among them. */
#include <string.h>

#include "eser_parts.h"

#if defined(__arm__) && !defined(__ARM_NEON)
/* A microcontroller: four channels at a time, so that their sums stay in registers. */
static void dot(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                const int8_t *panel) {
    for (int32_t p = 0; p < n; p++) {
        for (int32_t o = 0; o < ESER_PANEL; o += 4) {
            const int8_t *w = panel + 4 * o;
            int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
            for (int32_t r = 0; r < n_runs; r++) {
                const uint8_t *x = runs[r] + p * step;
                for (int32_t k = 0; k < run; k += 4, w += 4 * ESER_PANEL) {
                    const int32_t x0 = x[k], x1 = x[k + 1], x2 = x[k + 2], x3 = x[k + 3];
                    a0 += x0 * w[0] + x1 * w[1] + x2 * w[2] + x3 * w[3];
                    a1 += x0 * w[4] + x1 * w[5] + x2 * w[6] + x3 * w[7];
                    a2 += x0 * w[8] + x1 * w[9] + x2 * w[10] + x3 * w[11];
                    a3 += x0 * w[12] + x1 * w[13] + x2 * w[14] + x3 * w[15];
                }
            }
            acc[o] = a0;
            acc[o + 1] = a1;
            acc[o + 2] = a2;
            acc[o + 3] = a3;
        }
        acc += ESER_PANEL;
    }
}
#else
/* All products of a step side by side: compilers turn this into vector code for whatever they target. */
static void dot(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                const int8_t *panel) {
    for (int32_t p = 0; p < n; p++) {
        const int8_t *w = panel;
        int32_t sums[4 * ESER_PANEL] = {0};
        for (int32_t r = 0; r < n_runs; r++) {
            const uint8_t *x = runs[r] + p * step;
            for (int32_t k = 0; k < run; k += 4, w += 4 * ESER_PANEL) {
                uint8_t repeated[4 * ESER_PANEL];
                for (int i = 0; i < 4 * ESER_PANEL; i += 4)
                    memcpy(repeated + i, x + k, 4);
                for (int i = 0; i < 4 * ESER_PANEL; i++)
                    sums[i] += (int16_t)(repeated[i] * w[i]); /* at most 255 * 127, so 16 bits hold it */
            }
        }
        for (int o = 0; o < ESER_PANEL; o++)
            *acc++ = sums[4 * o] + sums[4 * o + 1] + sums[4 * o + 2] + sums[4 * o + 3];
    }
}
#endif

void eser_dot_16_scalar(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel) {
    for (int32_t o = 0; o < ESER_PANEL; o += 4) {
        const int8_t *w = panel + 4 * o;
        int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
        for (int32_t k = 0; k < n; k += 4, w += 4 * ESER_PANEL) {
            const int32_t x0 = x[k], x1 = x[k + 1], x2 = x[k + 2], x3 = x[k + 3];
            a0 += x0 * w[0] + x1 * w[1] + x2 * w[2] + x3 * w[3];
            a1 += x0 * w[4] + x1 * w[5] + x2 * w[6] + x3 * w[7];
            a2 += x0 * w[8] + x1 * w[9] + x2 * w[10] + x3 * w[11];
            a3 += x0 * w[12] + x1 * w[13] + x2 * w[14] + x3 * w[15];
        }
        acc[o] = a0;
        acc[o + 1] = a1;
        acc[o + 2] = a2;
        acc[o + 3] = a3;
    }
}

void eser_activate_scalar(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                          const int32_t *multiplier, int32_t keep) {
    for (int32_t p = 0; p < n; p++) {
        for (int32_t o = 0; o < ESER_PANEL; o++) {
            int32_t a = acc[o];
            if (pool == 2 && acc[ESER_PANEL + o] > a)
                a = acc[ESER_PANEL + o];
            a += bias[o];
            int64_t scaled = a > 0 ? ((int64_t)a * multiplier[o] + (1 << 30)) >> 31 : 0;
            uint8_t level = scaled > 255 ? 255 : (uint8_t)scaled;
            if (!keep || level > out[o])
                out[o] = level;
        }
        acc += pool * ESER_PANEL;
        out += out_step;
    }
}

int32_t eser_rescaled(int64_t sum, int32_t multiplier, int32_t shift) {
    const int64_t x = (sum * multiplier + ((int64_t)1 << (shift - 1))) >> shift;
    return x > ESER_Q16_LIMIT ? ESER_Q16_LIMIT : x < -ESER_Q16_LIMIT ? -ESER_Q16_LIMIT : (int32_t)x;
}

void eser_rescale_scalar(int32_t *out, const int32_t *acc, const int32_t *bias, const int32_t *multiplier, int32_t shift) {
    for (int o = 0; o < ESER_PANEL; o++)
        out[o] = eser_rescaled((int64_t)acc[o] + bias[o], multiplier[o], shift);
}

/* tanh of x in 1/65536, in 1/32768: a table of steps of 1/64, linear between them. */
static int32_t tanh_q15(int32_t x) {
    /* No branches on what cannot be predicted; from 7.98 on the table says 32767. */
    const int32_t sign = x >> 31, size = (x ^ sign) - sign;
    const int32_t within = size < 8 << 16 ? size : (8 << 16) - 1;
    const int16_t *at = eser_tanh_q15 + (within >> 10);
    const int32_t y = at[0] + (((at[1] - at[0]) * (within & 1023) + 512) >> 10);
    return (y ^ sign) - sign;
}

/* The logistic function of x in 1/65536, in 1/32768. */
static int32_t sigmoid_q15(int32_t x) {
    return (32768 + tanh_q15(x >> 1) + 1) >> 1;
}

/* r = s(Wr x + Rr h), z = s(Wz x + Rz h), n = tanh(Wn x + r * (Rn h)), h' = n + z * (h - n) */
void eser_gru_step_scalar(const int32_t *input, const int32_t *recurrent, int16_t *h) {
    for (int i = 0; i < ESER_GRU; i++) {
        const int32_t reset = sigmoid_q15(input[i] + recurrent[i]);
        const int32_t update = sigmoid_q15(input[ESER_GRU + i] + recurrent[ESER_GRU + i]);
        const int64_t gated = ((int64_t)reset * recurrent[2 * ESER_GRU + i] + (1 << 14)) >> 15;
        const int32_t new_h = tanh_q15(input[2 * ESER_GRU + i] + (int32_t)gated);
        h[i] = (int16_t)(new_h + ((update * (h[i] - new_h) + (1 << 14)) >> 15));
    }
}

static const eser_kernels SCALAR_SET = {
    .name = "scalar",
    .dot = dot,
    .dot_wide = dot,
    .dot_16 = eser_dot_16_scalar,
    .activate = eser_activate_scalar,
    .rescale = eser_rescale_scalar,
    .gru_step = eser_gru_step_scalar,
    .features = eser_features_scalar,
    .quantise = eser_quantise_scalar,
};

#if !defined(ESER_X86) && !defined(ESER_NEON) && !defined(ESER_WASM) && !defined(ESER_HAS_DSP)
uint32_t eser_kernels_simd(const eser_kernels **found) {
    (void)found;
    return 0;
}
#endif

const eser_kernels *eser_kernels_at(uint32_t i) {
    const eser_kernels *found[1 + ESER_MAX_SIMD] = {&SCALAR_SET};
    return i <= eser_kernels_simd(found + 1) ? found[i] : NULL;
}

const eser_kernels *eser_kernels_best(void) {
    const eser_kernels *found[1 + ESER_MAX_SIMD] = {&SCALAR_SET};
    return found[eser_kernels_simd(found + 1)];
}
