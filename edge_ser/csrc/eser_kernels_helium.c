/* The inner loops for Cortex-M55 and above: vectors of eight 16-bit numbers (Helium). */
#include "eser_kernels_dsp.h"

#if defined(ESER_HAS_DSP) && ESER_HAS_HELIUM
#include <arm_mve.h>
#include <string.h>

#define INPUTS (2 * ESER_PAIRS)

/* Two channels of three positions, or of three tiles, are added up: n products, inputs [3][n], weights w0 [n] and w1 [n]. In assembler,
 * because compilers move sums to the stack and back; it saves r7, which may be the frame pointer, and r9, which may be that of data. */
static inline void add_products(int32_t *sums, const int16_t *x, const int16_t *w0, const int16_t *w1, int32_t n) {
    register int32_t *r0 __asm__("r0") = sums;
    register const int16_t *r1 __asm__("r1") = x, *r2 __asm__("r2") = w0, *r3 __asm__("r3") = w1;
    register int32_t r4 __asm__("r4") = n;
    __asm__ volatile("push {r0, r7, r9}\n"
                     "add r5, r1, r4, lsl #1\n"
                     "add r7, r5, r4, lsl #1\n"
                     "mov r9, r2\n"
                     "lsr r4, r4, #3\n"
                     "dls lr, r4\n"
                     "ldm r0, {r0, r2, r4, r6, r8, r10}\n"
                     "1: vldrh.16 q0, [r1], #16\n"
                     "vldrh.16 q3, [r9], #16\n"
                     "vmladava.s16 r0, q0, q3\n"
                     "vldrh.16 q4, [r3], #16\n"
                     "vmladava.s16 r2, q0, q4\n"
                     "vldrh.16 q1, [r5], #16\n"
                     "vmladava.s16 r4, q1, q3\n"
                     "vldrh.16 q2, [r7], #16\n"
                     "vmladava.s16 r6, q1, q4\n"
                     "vmladava.s16 r8, q2, q3\n"
                     "vmladava.s16 r10, q2, q4\n"
                     "le lr, 1b\n"
                     "pop {r1}\n"
                     "stm r1, {r0, r2, r4, r6, r8, r10}\n"
                     "pop {r7, r9}"
                     : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3), "+r"(r4)
                     :
                     : "r5", "r6", "r8", "r10", "lr", "cc", "q0", "q1", "q2", "q3", "q4", "memory");
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
    int32_t sums[6] = {bias[0], bias[1], bias[0], bias[1], bias[0], bias[1]};
    add_products(sums, (const int16_t *)inputs, w, w + 2 * n_pairs, 2 * n_pairs);
    for (int p = 0; p < 3; p++, acc += ESER_PANEL) {
        acc[0] = sums[2 * p];
        acc[1] = sums[2 * p + 1];
    }
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
#define ADD_PRODUCTS(sums, i) add_products(sums, x + 3 * (i) * INPUTS, w + (i) * INPUTS, w + (4 + (i)) * INPUTS, INPUTS)
    const int16_t *x = (const int16_t *)inputs, *w = (const int16_t *)weights;
    int32_t sums[6] = {0}, left[6], right[6], *at = acc;
    ADD_PRODUCTS(sums, 0);
    memcpy(right, sums, sizeof right);
    ADD_PRODUCTS(sums, 1); /* plus + minus; from plus, less half of that, (plus - minus) / 2 */
#pragma GCC unroll 3
    for (int i = 0; i < 6; i += 2, at += 2 * ESER_PANEL) {
        left[i] = at[0] + (sums[i] >> 1);
        left[i + 1] = at[1] + (sums[i + 1] >> 1);
        right[i] += at[ESER_PANEL] - (sums[i] >> 1);
        right[i + 1] += at[ESER_PANEL + 1] - (sums[i + 1] >> 1);
    }
    ADD_PRODUCTS(right, 2);
    ADD_PRODUCTS(left, 3);
#pragma GCC unroll 3
    for (int i = 0; i < 6; i += 2, acc += 2 * ESER_PANEL) {
        acc[0] = left[i];
        acc[1] = left[i + 1];
        acc[ESER_PANEL] = right[i];
        acc[ESER_PANEL + 1] = right[i + 1];
    }
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
