/* The inner loops for Cortex-M55 and above: vectors of eight 16-bit numbers (Helium). */
#include "eser_kernels_dsp.h"

#if defined(ESER_HAS_DSP) && ESER_HAS_HELIUM
#include <arm_mve.h>

#define INPUTS (2 * ESER_PAIRS)

/* Two channels of three positions, or of three tiles. */
typedef struct {
    int32_t a0, a1, b0, b1, c0, c1;
} sums;

/* Add n products: inputs [3][n], weights w0 [n], w1 [n]. */
static inline sums products(sums sum, const int16_t *x, const int16_t *w0, const int16_t *w1, int32_t n) {
    for (int32_t k = 0; k < n; k += 8) {
        const int16x8_t first = vldrhq_s16(w0 + k), second = vldrhq_s16(w1 + k);
        const int16x8_t a = vldrhq_s16(x + k), b = vldrhq_s16(x + n + k), c = vldrhq_s16(x + 2 * n + k);
        sum.a0 = vmladavaq_s16(sum.a0, a, first);
        sum.a1 = vmladavaq_s16(sum.a1, a, second);
        sum.b0 = vmladavaq_s16(sum.b0, b, first);
        sum.b1 = vmladavaq_s16(sum.b1, b, second);
        sum.c0 = vmladavaq_s16(sum.c0, c, first);
        sum.c1 = vmladavaq_s16(sum.c1, c, second);
    }
    return sum;
}

static inline void store_sums(int32_t *acc, int32_t step, sums sum) {
    acc[0] = sum.a0;
    acc[1] = sum.a1;
    acc[step] = sum.b0;
    acc[step + 1] = sum.b1;
    acc[2 * step] = sum.c0;
    acc[2 * step + 1] = sum.c1;
}

#define ROW (4 * ESER_PANEL)
static const uint16_t PLACES[8] = {0, 1, 2, 3, ROW, ROW + 1, ROW + 2, ROW + 3};

/* Eight inputs' weights of a channel: four lie beside each other, the next four a row of the panel further. */
static inline int16x8_t eight_weights(const int8_t *w) {
    return vldrbq_gather_offset_s16(w, vldrhq_u16(PLACES));
}

/* The same of at most n inputs, and nothing beyond them. */
static inline int16x8_t at_most(int32_t n, const int8_t *w) {
    return vldrbq_gather_offset_z_s16(w, vldrhq_u16(PLACES), vctp16q((uint32_t)n));
}

static inline int16x8_t eight_levels(const uint8_t *x) {
    return vreinterpretq_s16_u16(vldrbq_u16(x));
}

/* [16][n_in] */
void eser_unpack_weights(uint32_t *to, const int8_t *panel, int32_t n_in) {
    int16_t *at = (int16_t *)to;
    for (int32_t o = 0; o < ESER_PANEL; o++)
        for (int32_t k = 0; k < n_in; k += 8, at += 8)
            vstrhq_s16(at, eight_weights(panel + k * ESER_PANEL + 4 * o));
}

/* [3][n_runs * run] */
void eser_unpack_inputs(uint32_t *to, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t first) {
    int16_t *at = (int16_t *)to;
    for (int32_t p = first; p < first + 3; p++)
        for (int32_t r = 0; r < n_runs; r++)
            for (int32_t k = 0; k < run; k += 8, at += 8)
                vstrhq_s16(at, eight_levels(runs[r] + p * step + k));
}

void eser_add_positions(int32_t *acc, const uint32_t *inputs, const uint32_t *weights, int32_t n_pairs, const int32_t *bias) {
    const int16_t *w = (const int16_t *)weights;
    const sums sum = {bias[0], bias[1], bias[0], bias[1], bias[0], bias[1]};
    store_sums(acc, ESER_PANEL, products(sum, (const int16_t *)inputs, w, w + 2 * n_pairs, 2 * n_pairs));
}

/* [16][4][INPUTS] in the order plus, minus, right, left. */
void eser_transform_weights(uint32_t *to, int32_t part, const int8_t *panel, int32_t column) {
    int16_t *at = (int16_t *)to + part * ESER_COLUMN;
    for (int32_t o = 0; o < ESER_PANEL; o++, at += 4 * INPUTS)
        for (int32_t k = 0; k < ESER_COLUMN; k += 8) {
            const int8_t *w = panel + k * ESER_PANEL + 4 * o;
            const int16x8_t g0 = eight_weights(w), g1 = eight_weights(w + column), g2 = eight_weights(w + 2 * column);
            const int16x8_t outer = vaddq_s16(g0, g2);
            vstrhq_s16(at + k, vaddq_s16(outer, g1));
            vstrhq_s16(at + INPUTS + k, vsubq_s16(outer, g1));
            vstrhq_s16(at + 2 * INPUTS + k, g2);
            vstrhq_s16(at + 3 * INPUTS + k, g0);
        }
}

/* [4][3][INPUTS] in the same order. */
void eser_transform_inputs(uint32_t *to, int32_t part, const uint8_t *x, int32_t step) {
    int16_t *at = (int16_t *)to + part * ESER_COLUMN;
    for (int32_t tile = 0; tile < 3; tile++, at += INPUTS, x += 2 * step)
        for (int32_t k = 0; k < ESER_COLUMN; k += 8) {
            const int16x8_t d0 = eight_levels(x + k), d1 = eight_levels(x + step + k);
            const int16x8_t d2 = eight_levels(x + 2 * step + k), d3 = eight_levels(x + 3 * step + k);
            vstrhq_s16(at + k, vaddq_s16(d1, d2));
            vstrhq_s16(at + 3 * INPUTS + k, vsubq_s16(d2, d1));
            vstrhq_s16(at + 6 * INPUTS + k, vsubq_s16(d3, d1));
            vstrhq_s16(at + 9 * INPUTS + k, vsubq_s16(d0, d2));
        }
}

void eser_add_tiles(int32_t *acc, const uint32_t *inputs, const uint32_t *weights) {
#define PRODUCTS(sum, i) products(sum, x + 3 * (i) * INPUTS, w + (i) * INPUTS, w + (4 + (i)) * INPUTS, INPUTS)
#define EACH(of) ((sums){of(0, a0), of(1, a1), of(2 * ESER_PANEL, b0), of(2 * ESER_PANEL + 1, b1), of(4 * ESER_PANEL, c0), of(4 * ESER_PANEL + 1, c1)})
#define LEFT(at, i) acc[at] + ((plus.i + minus.i) >> 1)
#define RIGHT(at, i) acc[ESER_PANEL + (at)] + ((plus.i - minus.i) >> 1)
    const int16_t *x = (const int16_t *)inputs, *w = (const int16_t *)weights;
    const sums none = {0, 0, 0, 0, 0, 0}, plus = PRODUCTS(none, 0), minus = PRODUCTS(none, 1);
    store_sums(acc + ESER_PANEL, 2 * ESER_PANEL, PRODUCTS(EACH(RIGHT), 2));
    store_sums(acc, 2 * ESER_PANEL, PRODUCTS(EACH(LEFT), 3));
}

void eser_dot_dsp(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, const int8_t *panel) {
    for (int32_t p = 0; p < n; p += 2, acc += 2 * ESER_PANEL) {
        const int32_t next = p + 1 < n ? 1 : 0; /* an odd last position is its own partner */
        for (int32_t o = 0; o < ESER_PANEL; o += 2) {
            const int8_t *w = panel + 4 * o;
            int32_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
            for (int32_t r = 0; r < n_runs; r++) {
                const uint8_t *x = runs[r] + p * step, *end = x + run;
                for (; x < end; x += 8, w += 2 * ROW) {
                    const int16x8_t a = eight_levels(x), b = eight_levels(x + next * step);
                    const int16x8_t first = eight_weights(w), second = eight_weights(w + 4);
                    a0 = vmladavaq_s16(a0, a, first);
                    a1 = vmladavaq_s16(a1, a, second);
                    b0 = vmladavaq_s16(b0, b, first);
                    b1 = vmladavaq_s16(b1, b, second);
                }
            }
            acc[o] = a0;
            acc[o + 1] = a1;
            acc[next * ESER_PANEL + o] = b0;
            acc[next * ESER_PANEL + o + 1] = b1;
        }
    }
}

void eser_dot_16_dsp(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel) {
    for (int32_t o = 0; o < ESER_PANEL; o += 2) {
        const int8_t *w = panel + 4 * o;
        int32_t a = 0, b = 0;
        for (int32_t k = 0; k < n; k += 8, w += 2 * ROW) {
            const int16x8_t inputs = vldrhq_z_s16(x + k, vctp16q((uint32_t)(n - k)));
            a = vmladavaq_s16(a, inputs, at_most(n - k, w));
            b = vmladavaq_s16(b, inputs, at_most(n - k, w + 4));
        }
        acc[o] = a;
        acc[o + 1] = b;
    }
}
#endif
