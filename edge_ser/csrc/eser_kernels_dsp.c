/* The kernels for Cortex-M4, M7, M33 and above.
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
#include "eser_kernels_dsp.h"

#ifdef ESER_HAS_DSP

#define MOST_TILES 30

/* The sums of a panel, biases included, of n >= 3 positions. */
static void convolve_direct(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                            const int8_t *panel, const int32_t *bias, uint32_t *weights, uint32_t *inputs) {
    const int32_t n_pairs = n_runs * run / 2;
    eser_unpack_weights(weights, panel, 2 * n_pairs);
    for (int32_t i = 0; i < n; i += 3) {
        const int32_t p = i + 3 <= n ? i : n - 3;
        eser_unpack_inputs(inputs, runs, n_runs, run, step, p);
        for (int32_t o = 0; o < ESER_PANEL; o += 2)
            eser_add_positions(acc + p * ESER_PANEL + o, inputs, weights + o * n_pairs, n_pairs, bias + o);
    }
}

/* The sums of a panel, biases included, of n >= 3 tiles, of three rows of three columns of step channels each. */
static void convolve_tiles(int32_t *acc, const uint8_t *const *rows, int32_t step, int32_t n, const int8_t *panel, const int32_t *bias,
                           uint32_t *weights, uint32_t *inputs) {
    for (int32_t o = 0; o < ESER_PANEL; o++)
        for (int32_t p = 0; p < 2 * MOST_TILES; p += 4) {
            int32_t *at = acc + p * ESER_PANEL + o;
            at[0] = at[ESER_PANEL] = at[2 * ESER_PANEL] = at[3 * ESER_PANEL] = bias[o];
        }
    for (int32_t done = 0; done < 3 * step; done += 3 * ESER_COLUMN) {
        const uint8_t *x[3];
        for (int32_t i = 0; i < 3; i++) {
            const int32_t row = (done + i * ESER_COLUMN) / step, channel = (done + i * ESER_COLUMN) % step;
            x[i] = rows[row] + channel;
            eser_transform_weights(weights, i, panel + (3 * step * row + channel) * ESER_PANEL, step * ESER_PANEL);
        }
        for (int32_t tile = 0; tile < n; tile += 3) {
            const int32_t first = tile + 3 <= n ? tile : n - 3;
            for (int32_t i = 0; i < 3; i++)
                eser_transform_inputs(inputs, i, x[i] + 2 * first * step, step);
            for (int32_t o = 0; o < ESER_PANEL; o += 2)
                eser_add_tiles(acc + 2 * tile * ESER_PANEL + o, inputs, weights + 4 * o * ESER_PAIRS);
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
    const int tiles = n_runs == 3 && run == 3 * step && step % ESER_COLUMN == 0 && pool == 2 && n >= 3 && n <= MOST_TILES;
    const int direct = n_runs * run <= 8 * ESER_PAIRS && n * pool >= 3;
    for (int32_t o = 0; o < layer->n_out; o += ESER_PANEL) {
        const int8_t *panel = layer->weight + o * layer->n_in;
        const int32_t *bias = layer->bias + o, *multiplier = layer->multiplier + o;
        if (tiles) {
            const int32_t n_first = n / 3 * 3, *rest = acc + 2 * (n_first + (3 - n % 3)) * ESER_PANEL;
            convolve_tiles(acc, runs, step, n, panel, bias, weights, inputs);
            levels_of(out + o, layer->n_out, acc, n_first, 2, multiplier, keep);
            levels_of(out + n_first * layer->n_out + o, layer->n_out, rest, n - n_first, 2, multiplier, keep);
        } else if (direct) {
            convolve_direct(acc, runs, n_runs, run, step, n * pool, panel, bias, weights, inputs);
            levels_of(out + o, layer->n_out, acc, n, pool, multiplier, keep);
        } else {
            eser_dot_dsp(acc, runs, n_runs, run, step, n * pool, panel);
            eser_activate_scalar(out + o, layer->n_out, acc, n, pool, bias, multiplier, keep);
        }
    }
}

static const eser_kernels DSP_SET = {
    .name = ESER_HAS_HELIUM ? "helium" : "dsp",
    .dot = eser_dot_dsp,
    .dot_wide = eser_dot_dsp,
    .dot_16 = eser_dot_16_dsp,
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
