/* The inner loops for Cortex-M4, M7, M33 and above: two 16-bit products an instruction (SMLAD). */
#include "eser_kernels_dsp.h"

#ifdef ESER_HAS_DSP

static inline int32_t add_products(uint32_t a, uint32_t b, int32_t sum) {
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

/* Two positions and two channels at a time: as many sums as the registers hold. */
void eser_dot_dsp(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, const int8_t *panel) {
    for (int32_t p = 0; p < n; p += 2, acc += 2 * ESER_PANEL) {
        const int32_t next = p + 1 < n ? 1 : 0; /* an odd last position is its own partner */
        for (int32_t o = 0; o < ESER_PANEL; o += 2) {
            const int8_t *w = panel + 4 * o;
            int32_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
            for (int32_t r = 0; r < n_runs; r++) {
                const uint8_t *a = runs[r] + p * step, *b = a + next * step;
                for (const uint8_t *end = a + run; a < end; a += 4, b += 4, w += 4 * ESER_PANEL) {
                    const uint32_t a_levels = word(a), b_levels = word(b), w0 = word(w), w1 = word(w + 4);
                    const uint32_t a_even = even_levels(a_levels), a_odd = odd_levels(a_levels);
                    const uint32_t b_even = even_levels(b_levels), b_odd = odd_levels(b_levels);
                    const uint32_t w0_even = even_weights(w0), w0_odd = odd_weights(w0);
                    a0 = add_products(a_odd, w0_odd, add_products(a_even, w0_even, a0));
                    b0 = add_products(b_odd, w0_odd, add_products(b_even, w0_even, b0));
                    const uint32_t w1_even = even_weights(w1), w1_odd = odd_weights(w1);
                    a1 = add_products(a_odd, w1_odd, add_products(a_even, w1_even, a1));
                    b1 = add_products(b_odd, w1_odd, add_products(b_even, w1_even, b1));
                }
            }
            acc[o] = a0;
            acc[o + 1] = a1;
            acc[next * ESER_PANEL + o] = b0;
            acc[next * ESER_PANEL + o + 1] = b1;
        }
    }
}

/* x's bytes 0, 1 and y's, or x's bytes 2, 3 and y's. */
static inline uint32_t low_halves(uint32_t x, uint32_t y) {
    uint32_t pair;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pair) : "r"(x), "r"(y));
    return pair;
}

static inline uint32_t high_halves(uint32_t x, uint32_t y) {
    uint32_t pair;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(pair) : "r"(y), "r"(x));
    return pair;
}

static inline int32_t add_four(uint32_t even, uint32_t odd, const int8_t *w, int32_t sum) {
    const uint32_t weights = word(w);
    return add_products(odd, odd_weights(weights), add_products(even, even_weights(weights), sum));
}

/* Four channels at a time. */
static void dot_16(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel) {
    for (int32_t o = 0; o < ESER_PANEL; o += 4) {
        const int8_t *w = panel + 4 * o;
        int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
        for (int32_t k = 0; k < n; k += 4, w += 4 * ESER_PANEL) {
            const uint32_t first = word(x + k), last = word(x + k + 2);
            const uint32_t even = low_halves(first, last), odd = high_halves(first, last);
            a0 = add_four(even, odd, w, a0);
            a1 = add_four(even, odd, w + 4, a1);
            a2 = add_four(even, odd, w + 8, a2);
            a3 = add_four(even, odd, w + 12, a3);
        }
        acc[o] = a0;
        acc[o + 1] = a1;
        acc[o + 2] = a2;
        acc[o + 3] = a3;
    }
}

static const eser_kernels DSP_SET = {
    .name = ESER_HAS_HELIUM ? "helium" : "dsp",
    .dot = eser_dot_dsp,
    .dot_wide = eser_dot_dsp,
    .dot_16 = dot_16,
    .activate = eser_activate_scalar,
    .rescale = eser_rescale_scalar,
    .gru_step = eser_gru_step_scalar,
    .features = eser_features_scalar,
    .quantise = eser_quantise_scalar,
    .convolve = eser_convolve_dsp,
};

uint32_t eser_kernels_simd(const eser_kernels **found) {
    found[0] = &DSP_SET;
    return 1;
}

#endif
