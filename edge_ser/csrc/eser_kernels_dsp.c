/* The inner loops for Cortex-M4, M7, M33 and above: two 16-bit products an instruction (SMLAD).
 *
 * Bytes become pairs of 16-bit numbers before they are multiplied: inputs once for a panel of outputs, weights once for a row of
 * positions. A 3x3 convolution whose outputs are pooled in pairs takes two positions from four columns of inputs d, with the weights g
 * of its three columns: Winograd's F(2, 3), four products instead of six, summed over inputs and rows:
 *
 *     left  = g0 (d0 - d2) + (plus + minus) / 2      plus  = (g0 + g1 + g2) (d1 + d2)
 *     right = g2 (d3 - d1) + (plus - minus) / 2      minus = (g0 - g1 + g2) (d2 - d1)
 *
 * All of it in integers, the halves too, so that the sums are those of plain C.
 */
#include "eser_parts.h"

#ifdef ESER_HAS_DSP

#include <string.h>

/* Bytes 0 and 2 of x as two 16-bit numbers, or bytes 1 and 3: unsigned, signed. */
#define TWO_BYTES(name, instruction)                    \
    static inline uint32_t name(uint32_t x) {           \
        uint32_t pair;                                  \
        __asm__(instruction : "=r"(pair) : "r"(x));     \
        return pair;                                    \
    }
TWO_BYTES(even_levels, "uxtb16 %0, %1")
TWO_BYTES(odd_levels, "uxtb16 %0, %1, ror #8")
TWO_BYTES(even_weights, "sxtb16 %0, %1")
TWO_BYTES(odd_weights, "sxtb16 %0, %1, ror #8")

/* Sums and differences of pairs. */
#define OF_TWO_PAIRS(name, instruction)                             \
    static inline uint32_t name(uint32_t x, uint32_t y) {           \
        uint32_t pair;                                              \
        __asm__(instruction " %0, %1, %2" : "=r"(pair) : "r"(x), "r"(y)); \
        return pair;                                                \
    }
OF_TWO_PAIRS(sum_of, "sadd16")
OF_TWO_PAIRS(difference, "ssub16")

static inline int32_t add_products(uint32_t a, uint32_t b, int32_t sum) {
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

static inline uint32_t word(const void *bytes) {
    uint32_t x;
    memcpy(&x, bytes, sizeof x);
    return x;
}

/* Two positions and two channels at a time: as many sums as the registers hold. */
static void dot(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                const int8_t *panel) {
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

#define CHANNELS (2 * ESER_PAIRS / 3) /* of a column of inputs, that are transformed in one go */
#define MOST_TILES 30

/* What is added up in registers: two channels o, o + 1 of three positions, or tiles of two, a, b, c. */
typedef struct {
    int32_t a0, a1, b0, b1, c0, c1;
} sums;

static inline sums load_sums(const int32_t *acc, int32_t step) {
    return (sums){acc[0], acc[1], acc[step], acc[step + 1], acc[2 * step], acc[2 * step + 1]};
}

static inline void store_sums(int32_t *acc, int32_t step, sums sum) {
    acc[0] = sum.a0;
    acc[1] = sum.a1;
    acc[step] = sum.b0;
    acc[step + 1] = sum.b1;
    acc[2 * step] = sum.c0;
    acc[2 * step + 1] = sum.c1;
}

/* Add n_pairs products, a multiple of 4: inputs [n_pairs][3], weights [n_pairs][2]. */
static inline __attribute__((always_inline)) sums products(sums sum, const uint32_t *inputs, const uint32_t *weights,
                                                           int32_t n_pairs) {
    for (const uint32_t *end = weights + 2 * n_pairs; weights < end;)
        __asm__ volatile(".rept 4\n\t"
                         "ldmia %[inputs]!, {r0, r1, r2}\n\t"
                         "ldmia %[weights]!, {r3, r4}\n\t"
                         "smlad %[a0], r0, r3, %[a0]\n\t"
                         "smlad %[a1], r0, r4, %[a1]\n\t"
                         "smlad %[b0], r1, r3, %[b0]\n\t"
                         "smlad %[b1], r1, r4, %[b1]\n\t"
                         "smlad %[c0], r2, r3, %[c0]\n\t"
                         "smlad %[c1], r2, r4, %[c1]\n\t"
                         ".endr"
                         : [a0] "+r"(sum.a0), [a1] "+r"(sum.a1), [b0] "+r"(sum.b0), [b1] "+r"(sum.b1), [c0] "+r"(sum.c0),
                           [c1] "+r"(sum.c1), [inputs] "+r"(inputs), [weights] "+r"(weights)
                         :
                         : "r0", "r1", "r2", "r3", "r4", "memory");
    return sum;
}

/* Weights of a whole panel as pairs, [8][n_in / 2][2]. */
static void unpack_weights(uint32_t *to, const int8_t *panel, int32_t n_in) {
    for (int32_t o = 0; o < ESER_PANEL / 2; o++)
        for (const int8_t *w = panel + 8 * o, *end = w + n_in * ESER_PANEL; w < end; w += 4 * ESER_PANEL, to += 4) {
            const uint32_t w0 = word(w), w1 = word(w + 4);
            to[0] = even_weights(w0);
            to[1] = even_weights(w1);
            to[2] = odd_weights(w0);
            to[3] = odd_weights(w1);
        }
}

/* The sums of a panel, biases included, each pair of weights with three positions at a time. */
static void convolve_direct(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                            const int8_t *panel, const int32_t *bias, uint32_t *weights, uint32_t *inputs) {
    const int32_t n_pairs = n_runs * run / 2;
    unpack_weights(weights, panel, 2 * n_pairs);
    for (int32_t i = 0; i < n; i += 3) {
        const int32_t p = i + 3 <= n ? i : n - 3;
        uint32_t *to = inputs;
        for (int32_t r = 0; r < n_runs; r++)
            for (const uint8_t *x = runs[r] + p * step, *end = x + run; x < end; x += 4, to += 6)
                for (int32_t k = 0; k < 3; k++) {
                    const uint32_t levels = word(x + k * step);
                    to[k] = even_levels(levels);
                    to[3 + k] = odd_levels(levels);
                }
        for (int32_t o = 0; o < ESER_PANEL; o += 2) {
            const int32_t b0 = bias[o], b1 = bias[o + 1];
            store_sums(acc + p * ESER_PANEL + o, ESER_PANEL,
                       products((sums){b0, b1, b0, b1, b0, b1}, inputs, weights + o * n_pairs, n_pairs));
        }
    }
}

/* Weights of a panel for CHANNELS inputs in each of three columns, column bytes apart: [4][8][ESER_PAIRS][2]. */
static void transform_weights(uint32_t *to, const int8_t *panel, int32_t column) {
    for (int32_t k = 0; k < CHANNELS; k += 4, panel += 4 * ESER_PANEL, to += 4)
        for (int32_t o = 0; o < ESER_PANEL; o++) {
            const uint32_t g0 = word(panel + 4 * o), g1 = word(panel + column + 4 * o), g2 = word(panel + 2 * column + 4 * o);
            const uint32_t first[2] = {even_weights(g0), odd_weights(g0)}, last[2] = {even_weights(g2), odd_weights(g2)};
            const uint32_t middle[2] = {even_weights(g1), odd_weights(g1)};
            uint32_t *at = to + o / 2 * 2 * ESER_PAIRS + o % 2;
            for (int i = 0; i < 2; i++, at += 2) {
                const uint32_t outer = sum_of(first[i], last[i]);
                at[0] = first[i];
                at[ESER_PANEL * ESER_PAIRS] = sum_of(outer, middle[i]);
                at[2 * ESER_PANEL * ESER_PAIRS] = difference(outer, middle[i]);
                at[3 * ESER_PANEL * ESER_PAIRS] = last[i];
            }
        }
}

/* CHANNELS inputs in each of the four columns of a tile, step bytes apart: [4][ESER_PAIRS][3]. */
static void transform_inputs(uint32_t *to, const uint8_t *x, int32_t step) {
    for (const uint8_t *end = x + CHANNELS; x < end; x += 4, to += 6) {
        const uint32_t d0 = word(x), d1 = word(x + step), d2 = word(x + 2 * step), d3 = word(x + 3 * step);
        const uint32_t even[4] = {even_levels(d0), even_levels(d1), even_levels(d2), even_levels(d3)};
        const uint32_t odd[4] = {odd_levels(d0), odd_levels(d1), odd_levels(d2), odd_levels(d3)};
        to[0] = difference(even[0], even[2]);
        to[3] = difference(odd[0], odd[2]);
        to[3 * ESER_PAIRS] = sum_of(even[1], even[2]);
        to[3 * ESER_PAIRS + 3] = sum_of(odd[1], odd[2]);
        to[6 * ESER_PAIRS] = difference(even[2], even[1]);
        to[6 * ESER_PAIRS + 3] = difference(odd[2], odd[1]);
        to[9 * ESER_PAIRS] = difference(even[3], even[1]);
        to[9 * ESER_PAIRS + 3] = difference(odd[3], odd[1]);
    }
}

/* Add what ESER_PAIRS pairs of inputs are to three tiles. */
static void add_tiles(int32_t *acc, const uint32_t *inputs, const uint32_t *weights) {
#define EACH(of) ((sums){of(a0), of(a1), of(b0), of(b1), of(c0), of(c1)})
#define LEFT(i) left.i + ((plus.i + minus.i) >> 1)
#define RIGHT(i) right.i + ((plus.i - minus.i) >> 1)
    const int32_t step = 2 * ESER_PANEL, of_inputs = 3 * ESER_PAIRS, of_weights = ESER_PANEL * ESER_PAIRS;
    const sums none = {0, 0, 0, 0, 0, 0};
    const sums plus = products(none, inputs + of_inputs, weights + of_weights, ESER_PAIRS);
    const sums minus = products(none, inputs + 2 * of_inputs, weights + 2 * of_weights, ESER_PAIRS);
    const sums left = load_sums(acc, step), right = load_sums(acc + ESER_PANEL, step);
    store_sums(acc + ESER_PANEL, step, products(EACH(RIGHT), inputs + 3 * of_inputs, weights + 3 * of_weights, ESER_PAIRS));
    store_sums(acc, step, products(EACH(LEFT), inputs, weights, ESER_PAIRS));
}

/* The sums of a panel, biases included, of n tiles of two positions, of three rows of three columns of step channels each. */
static void convolve_tiles(int32_t *acc, const uint8_t *const *rows, int32_t step, int32_t n, const int8_t *panel, const int32_t *bias,
                           uint32_t *weights, uint32_t *inputs) {
    for (int32_t o = 0; o < ESER_PANEL; o++)
        for (int32_t p = 0; p < 2 * MOST_TILES; p += 4) {
            int32_t *at = acc + p * ESER_PANEL + o;
            at[0] = at[ESER_PANEL] = at[2 * ESER_PANEL] = at[3 * ESER_PANEL] = bias[o];
        }
    for (int32_t done = 0; done < 3 * step; done += 3 * CHANNELS) {
        const uint8_t *x[3];
        for (int32_t i = 0; i < 3; i++) {
            const int32_t row = (done + i * CHANNELS) / step, channel = (done + i * CHANNELS) % step;
            x[i] = rows[row] + channel;
            transform_weights(weights + i * CHANNELS, panel + (3 * step * row + channel) * ESER_PANEL, step * ESER_PANEL);
        }
        for (int32_t tile = 0; tile < n; tile += 3) {
            for (int32_t k = 0; k < 3; k++) {
                const int32_t at = tile + k < n ? tile + k : n - 1; /* the last one fills the place of what is missing */
                for (int32_t i = 0; i < 3; i++)
                    transform_inputs(inputs + i * 3 * CHANNELS / 2 + k, x[i] + 2 * at * step, step);
            }
            for (int32_t o = 0; o < ESER_PANEL; o += 2)
                add_tiles(acc + 2 * tile * ESER_PANEL + o, inputs, weights + o * ESER_PAIRS);
        }
    }
}

/* As activate does, of sums that include the biases. */
static void levels_of(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *multiplier,
                      int32_t keep) {
    for (int32_t o = 0; o < ESER_PANEL; o++) {
        const int32_t m = multiplier[o];
        const int32_t *sum = acc + o;
        uint8_t *to = out + o;
        for (int32_t p = 0; p < n; p++, sum += pool * ESER_PANEL, to += out_step) {
            int32_t a = *sum, level;
            if (pool == 2 && sum[ESER_PANEL] > a)
                a = sum[ESER_PANEL];
            __asm__("usat %0, #8, %1" : "=r"(level) : "r"((int32_t)(((int64_t)a * m + (1 << 30)) >> 31)));
            if (!keep || level > *to)
                *to = (uint8_t)level;
        }
    }
}

static void convolve(uint8_t *out, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, int32_t pool,
                     const eser_layer *layer, int32_t keep, eser_scratch *scratch) {
    int32_t *const acc = scratch->pairs.acc;
    uint32_t *const weights = scratch->pairs.weights, *const inputs = scratch->pairs.inputs;
    const int tiles = n_runs == 3 && run == 3 * step && step % CHANNELS == 0 && pool == 2 && n <= MOST_TILES;
    const int direct = n_runs * run <= 8 * ESER_PAIRS && n * pool >= 3;
    for (int32_t o = 0; o < layer->n_out; o += ESER_PANEL) {
        const int8_t *panel = layer->weight + o * layer->n_in;
        if (tiles || direct) {
            if (tiles)
                convolve_tiles(acc, runs, step, n, panel, layer->bias + o, weights, inputs);
            else
                convolve_direct(acc, runs, n_runs, run, step, n * pool, panel, layer->bias + o, weights, inputs);
            levels_of(out + o, layer->n_out, acc, n, pool, layer->multiplier + o, keep);
        } else {
            dot(acc, runs, n_runs, run, step, n * pool, panel);
            eser_activate_scalar(out + o, layer->n_out, acc, n, pool, layer->bias + o, layer->multiplier + o, keep);
        }
    }
}

static const eser_kernels DSP_SET = {
    .name = "dsp",
    .dot = dot,
    .dot_wide = dot,
    .dot_16 = eser_dot_16_scalar,
    .activate = eser_activate_scalar,
    .rescale = eser_rescale_scalar,
    .gru_step = eser_gru_step_scalar,
    .features = eser_features_scalar,
    .quantise = eser_quantise_scalar,
    .convolve = convolve,
};

uint32_t eser_kernels_simd(const eser_kernels **found) {
    found[0] = &DSP_SET;
    return 1;
}

#endif
