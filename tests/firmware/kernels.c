/* Holds every set of kernels that this processor runs against plain C: random shapes, extreme values, whole streams.
 *
 * Prints the names of the sets; stops with 1 and a line at the first difference.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random_model.h"

/* Random bytes, or in a third of the calls only the two extremes. */
static void fill(void *bytes, size_t n, int low, int high) {
    const int extreme = any(3) == 0;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)(extreme ? (any(2) ? low : high) : low + (int)any((uint32_t)(high - low + 1)));
}

static void require(int same, const eser_kernels *kernels, const char *what) {
    if (!same) {
        printf("%s differs from plain C in %s\n", kernels->name, what);
        exit(1);
    }
}

static void compare_dots(const eser_kernels *plain, const eser_kernels *kernels) {
    static uint8_t inputs[40000];
    static int8_t panel[7 * 480 * ESER_PANEL];
    static int32_t expected[64 * ESER_PANEL], found[64 * ESER_PANEL];
    const uint8_t *runs[7];
    for (int round = 0; round < 60; round++) {
        const int32_t n_runs = 1 + (int32_t)any(7), run = 8 * (1 + (int32_t)any(60)), n = 1 + (int32_t)any(61);
        int32_t step = (int32_t)any(481), first = 0;
        if (any(4) == 0) {
            first = (n - 1) * step;
            step = -step;
        }
        for (int r = 0; r < n_runs; r++)
            runs[r] = inputs + first + any(1000);
        fill(inputs, sizeof inputs, 0, 255);
        fill(panel, sizeof panel, -63, 63);
        plain->dot(expected, runs, n_runs, run, step, n, panel);
        kernels->dot(found, runs, n_runs, run, step, n, panel);
        require(memcmp(expected, found, (size_t)n * ESER_PANEL * 4) == 0, kernels, "dot");
        fill(panel, sizeof panel, -127, 127);
        plain->dot_wide(expected, runs, n_runs, run, step, n, panel);
        kernels->dot_wide(found, runs, n_runs, run, step, n, panel);
        require(memcmp(expected, found, (size_t)n * ESER_PANEL * 4) == 0, kernels, "dot_wide");
    }
}

static void compare_dot_16(const eser_kernels *plain, const eser_kernels *kernels) {
    static int16_t x[512];
    static int8_t panel[512 * ESER_PANEL];
    int32_t expected[ESER_PANEL], found[ESER_PANEL];
    for (int round = 0; round < 300; round++) {
        const int32_t n = 4 * (1 + (int32_t)any(128));
        for (int i = 0; i < 512; i++)
            x[i] = (int16_t)(round % 3 ? (int)any(65536) - 32768 : round % 2 ? -32768 : 32767);
        fill(panel, sizeof panel, -127, 127);
        plain->dot_16(expected, x, n, panel);
        kernels->dot_16(found, x, n, panel);
        require(memcmp(expected, found, sizeof found) == 0, kernels, "dot_16");
    }
}

static void compare_activate(const eser_kernels *plain, const eser_kernels *kernels) {
    static int32_t acc[2 * 61 * ESER_PANEL];
    static uint8_t expected[61 * 96], found[61 * 96];
    int32_t bias[ESER_PANEL], multiplier[ESER_PANEL];
    for (int round = 0; round < 300; round++) {
        const int32_t n = 1 + (int32_t)any(61), pool = 1 + (int32_t)any(2), keep = (int32_t)any(2), size = 1 << any(31);
        for (int i = 0; i < 2 * 61 * ESER_PANEL; i++)
            acc[i] = (int32_t)any((uint32_t)size) - size / 2;
        for (int o = 0; o < ESER_PANEL; o++) {
            bias[o] = (int32_t)any((uint32_t)size) - size / 2;
            multiplier[o] = any(4) ? (int32_t)any(1u << (1 + any(31))) : 0x7fffffff;
        }
        fill(expected, sizeof expected, 0, 255);
        memcpy(found, expected, sizeof found);
        plain->activate(expected, 96, acc, n, pool, bias, multiplier, keep);
        kernels->activate(found, 96, acc, n, pool, bias, multiplier, keep);
        require(memcmp(expected, found, sizeof found) == 0, kernels, "activate");
    }
}

static void compare_rescale(const eser_kernels *plain, const eser_kernels *kernels) {
    int32_t acc[ESER_PANEL], bias[ESER_PANEL], multiplier[ESER_PANEL], expected[ESER_PANEL], found[ESER_PANEL];
    for (int round = 0; round < 3000; round++) {
        const int32_t shift = 1 + (int32_t)any(62), size = 1 << any(31);
        for (int o = 0; o < ESER_PANEL; o++) {
            acc[o] = (int32_t)any((uint32_t)size) - size / 2;
            bias[o] = (int32_t)any((uint32_t)size) - size / 2;
            multiplier[o] = any(4) ? (int32_t)any(1u << (1 + any(31))) : 0x7fffffff;
        }
        plain->rescale(expected, acc, bias, multiplier, shift);
        kernels->rescale(found, acc, bias, multiplier, shift);
        require(memcmp(expected, found, sizeof found) == 0, kernels, "rescale");
    }
}

static void compare_gru_step(const eser_kernels *plain, const eser_kernels *kernels) {
    static int32_t input[3 * ESER_GRU], recurrent[3 * ESER_GRU];
    int16_t expected[ESER_GRU], found[ESER_GRU];
    for (int round = 0; round < 1000; round++) {
        const int32_t size = round % 50 == 0 ? 0 : 1 << any(30);
        for (int i = 0; i < 3 * ESER_GRU; i++) {
            input[i] = round % 7 ? (int32_t)any(2 * (uint32_t)size + 1) - size : any(2) ? ESER_Q16_LIMIT : -ESER_Q16_LIMIT;
            recurrent[i] = round % 5 ? (int32_t)any(2 * (uint32_t)size + 1) - size : any(2) ? ESER_Q16_LIMIT : -ESER_Q16_LIMIT;
        }
        for (int i = 0; i < ESER_GRU; i++)
            expected[i] = (int16_t)(round % 3 ? (int)any(65536) - 32768 : any(2) ? -32768 : 32767);
        memcpy(found, expected, sizeof found);
        plain->gru_step(input, recurrent, expected);
        kernels->gru_step(input, recurrent, found);
        require(memcmp(expected, found, sizeof found) == 0, kernels, "gru_step");
    }
}

/* Samples of any size, silence and the loudest there may be among them. */
static void compare_features(const eser_kernels *plain, const eser_kernels *kernels) {
    static float samples[ESER_FRAME + (ESER_LANES - 1) * ESER_HOP];
    static float expected[ESER_LANES][ESER_N_BINS], found[ESER_LANES][ESER_N_BINS];
    static eser_scratch scratch;
    for (int round = 0; round < 40; round++) {
        const float size = round % 4 ? 8.0f / (float)(1u << any(24)) : round % 8 ? 8.0f : 0.0f;
        for (size_t i = 0; i < sizeof samples / sizeof *samples; i++)
            samples[i] = round == 8 ? (any(2) ? size : -size) : size * ((float)any(1u << 24) / (float)(1 << 23) - 1.0f);
        for (int lane = 0; lane < ESER_LANES; lane++) {
            plain->features(samples + lane * ESER_HOP, expected[lane], &scratch);
            kernels->features(samples + lane * ESER_HOP, found[lane], &scratch);
        }
        require(memcmp(expected, found, sizeof found) == 0, kernels, "features");
        memset(found, 0, sizeof found);
        if (kernels->features_side_by_side != NULL) {
            kernels->features_side_by_side(samples, found[0]);
            require(memcmp(expected, found, sizeof found) == 0, kernels, "features_side_by_side");
        }
    }
}

static void compare_quantise(const eser_kernels *plain, const eser_kernels *kernels) {
    static const uint32_t special[] = {0x7fc00000, 0xffc00000, 0x7f800000, 0xff800000, 0, 0x80000000, 0x7f7fffff, 0x00000001};
    static float gain[ESER_N_BINS], offset[ESER_N_BINS], db[ESER_N_BINS];
    uint8_t expected[ESER_N_BINS], found[ESER_N_BINS];
    eser_model model;
    memset(&model, 0, sizeof model);
    model.feature_gain = gain;
    model.feature_offset = offset;
    for (int round = 0; round < 3000; round++) {
        for (int i = 0; i < ESER_N_BINS; i++) {
            gain[i] = round % 2 ? 1.0f : (float)any(1000) / 200.0f;
            offset[i] = round % 2 ? 0.0f : (float)any(1000) - 500.0f;
            db[i] = round % 3 ? (float)any(1024) / 4.0f : (float)any(1u << 24) / (float)(1 << 16);
            if (any(8) == 0)
                memcpy(&db[i], &special[any(8)], sizeof db[i]);
        }
        plain->quantise(&model, db, expected);
        kernels->quantise(&model, db, found);
        require(memcmp(expected, found, sizeof found) == 0, kernels, "quantise");
    }
}

/* Whole rows: positions, pooling and layers of any size. */
static void compare_convolve(const eser_kernels *plain, const eser_kernels *kernels) {
    static uint8_t inputs[62 * 96 + 480], expected[61 * 96], found[61 * 96];
    static int8_t weights[7 * 480 * 96];
    static int32_t bias[96], multiplier[96], acc[2 * 61 * ESER_PANEL];
    static eser_scratch scratch;
    const uint8_t *runs[7];
    for (int round = 0; round < 200; round++) {
        const int three = round % 4 == 3; /* rows of three columns, as the network's later convolutions are */
        const int32_t pool = 1 + round % 2, step = three ? 16 * (1 + (int32_t)any(5)) : (int32_t)any(97), keep = (int32_t)any(2);
        const int32_t n_runs = three ? 3 : 1 + (int32_t)any(7), run = three ? 3 * step : 8 * (1 + (int32_t)any(pool == 2 ? 30 : 8));
        const int32_t n = 1 + (int32_t)any(pool == 2 ? 30 : 61);
        const eser_layer layer = {weights, bias, multiplier, 31, n_runs * run, ESER_PANEL * (1 + (int32_t)any(6))};
        /* The runs end where memory does. */
        for (int r = 0; r < n_runs; r++)
            runs[r] = inputs + sizeof inputs - (size_t)((n * pool - 1) * step + run) - (r ? any(20) * (round % 3 == 0) : 0);
        fill(inputs, sizeof inputs, 0, 255);
        fill(weights, sizeof weights, -63, 63);
        for (int o = 0; o < 96; o++) {
            bias[o] = (int32_t)any(2000001) - 1000000;
            multiplier[o] = (int32_t)any(1u << (1 + any(31)));
        }
        fill(expected, sizeof expected, 0, 255);
        memcpy(found, expected, sizeof found);
        for (int32_t o = 0; o < layer.n_out; o += ESER_PANEL) {
            plain->dot(acc, runs, n_runs, run, step, n * pool, weights + o * layer.n_in);
            plain->activate(expected + o, layer.n_out, acc, n, pool, bias + o, multiplier + o, keep);
        }
        kernels->convolve(found, runs, n_runs, run, step, n, pool, &layer, keep, &scratch);
        require(memcmp(expected, found, sizeof found) == 0, kernels, "convolve");
    }
}

/* Four rows of a convolution and their pooling at once, weights of any size; the inputs are no longer than what may be read. */
static void compare_winograd(const eser_kernels *plain, const eser_kernels *kernels) {
    static uint8_t inputs[6 * 61 * 64], expected[2][29 * 80], found[2][29 * 80];
    static int8_t weights[576 * 80];
    static int32_t bias[80], multiplier[80], acc[58 * ESER_PANEL];
    static int16_t transformed[36 * 64 * 80];
    const int32_t channels[3] = {0, 48, 64}, n_out[3] = {0, 64, 80}, width[3] = {0, 61, 29};
    for (int round = 0; round < 60; round++) {
        const int i = 1 + round % 2, n = (width[i] - 3) / 2, row_bytes = width[i] * channels[i];
        const eser_layer layer = {weights, bias, multiplier, 31, 9 * channels[i], n_out[i]};
        eser_model model;
        memset(&model, 0, sizeof model);
        model.conv[i] = layer;
        const uint8_t *rows[6];
        for (int r = 0; r < 6; r++)
            rows[r] = inputs + sizeof inputs - (size_t)((6 - r) * row_bytes);
        fill(inputs, sizeof inputs, 0, 255);
        fill(weights, sizeof weights, -127, 127);
        for (int o = 0; o < n_out[i]; o++) {
            bias[o] = (int32_t)any(2000001) - 1000000;
            multiplier[o] = (int32_t)any(1000000);
        }
        for (int o = 0; o < n_out[i]; o += ESER_PANEL)
            for (int r = 0; r < 4; r++) {
                plain->dot(acc, rows + r, 3, 3 * channels[i], channels[i], 2 * n, weights + o * layer.n_in);
                plain->activate(expected[r / 2] + o, n_out[i], acc, n, 2, bias + o, multiplier + o, r % 2);
            }
        require(eser_winograd_size(&model, kernels, i) <= sizeof transformed / sizeof *transformed, kernels, "eser_winograd_size");
        eser_winograd_weights(&model, i, transformed);
        uint8_t *const out[2] = {found[0], found[1]};
        kernels->winograd(out, rows, n, &layer, transformed);
        for (int r = 0; r < 2; r++)
            require(memcmp(expected[r], found[r], (size_t)(n * n_out[i])) == 0, kernels, "winograd");
    }
}

static void answer(const eser_model *model, const eser_kernels *kernels, eser_result *result, uint8_t *vectors, size_t n) {
    static uint64_t memory[ESER_STATE_BYTES / 8];
    eser *stream;
    seed = 7;
    require(eser_init(&stream, model, memory, sizeof memory) == ESER_OK, kernels, "eser_init");
    stream->kernels = kernels;
    for (size_t i = 0; i < n; i++) {
        const int16_t sample = (int16_t)((int)any(2000) - 1000 + (int)(i % 4000) * ((int)any(8) - 4));
        eser_feed_i16(stream, &sample, 1);
    }
    require(eser_finish(stream, result) == ESER_OK, kernels, "eser_finish");
    result->label = NULL;
    eser_vectors(stream, vectors);
}

int main(void) {
    static uint8_t expected_vectors[ESER_MAX_VECTORS * ESER_VECTOR], vectors[ESER_MAX_VECTORS * ESER_VECTOR];
    static eser_result expected, found;
    static int16_t transformed[2][36 * 64 * 80];
    const eser_kernels *plain = eser_kernels_at(0), *kernels;
    eser_model model = random_model();
    const size_t n = 48000;
    answer(&model, plain, &expected, expected_vectors, n);
    uint32_t distinct = 0;
    for (int i = 1; i < ESER_VECTOR * 10; i++)
        distinct += expected_vectors[i] != expected_vectors[i - 1];
    require(distinct > 1000, plain, "nothing: the random network is dead");
    printf("%s", plain->name);
    for (uint32_t i = 1; (kernels = eser_kernels_at(i)) != NULL; i++) {
        compare_dots(plain, kernels);
        compare_dot_16(plain, kernels);
        compare_activate(plain, kernels);
        compare_rescale(plain, kernels);
        compare_gru_step(plain, kernels);
        compare_features(plain, kernels);
        compare_quantise(plain, kernels);
        if (kernels->convolve != NULL)
            compare_convolve(plain, kernels);
        if (kernels->winograd != NULL)
            compare_winograd(plain, kernels);
        for (int once_more = 0; once_more < 1 + (kernels->winograd != NULL); once_more++) {
            for (int l = 1; once_more && l < 3; l++) {
                eser_winograd_weights(&model, l, transformed[l - 1]);
                model.winograd[l - 1] = transformed[l - 1];
            }
            memset(vectors, 0, sizeof vectors);
            answer(&model, kernels, &found, vectors, n);
            require(memcmp(&expected, &found, sizeof found) == 0, kernels, "a stream's answer");
            require(memcmp(expected_vectors, vectors, sizeof vectors) == 0, kernels, "a stream's vectors");
        }
        printf(" %s", kernels->name);
    }
    printf("\n");
    return 0;
}
