/* Holds every set of kernels that this processor runs against plain C: random shapes, extreme values, whole streams.
 *
 * Prints the names of the sets; stops with 1 and a line at the first difference.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eser_parts.h"

static uint32_t seed = 1;

static uint32_t any(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)seed * below >> 32);
}

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

/* A network of random weights whose levels neither die nor saturate all over. */
static eser_layer random_layer(int32_t n_in, int32_t n_out, int limit, int32_t multiplier, int32_t shift) {
    static int8_t weights[640000];
    static int32_t all_words[4096];
    static size_t n_weights, n_words;
    int8_t *weight = weights + n_weights;
    int32_t *words = all_words + n_words;
    n_weights += (size_t)(n_in * n_out);
    n_words += (size_t)(2 * n_out);
    if (n_weights > sizeof weights || n_words > sizeof all_words / sizeof *all_words)
        exit(2);
    for (int32_t i = 0; i < n_in * n_out; i++)
        weight[i] = (int8_t)((int)any((uint32_t)(2 * limit + 1)) - limit);
    for (int32_t i = 0; i < n_out; i++)
        words[n_out + i] = multiplier;
    const eser_layer layer = {weight, words, words + n_out, shift, n_in, n_out};
    return layer;
}

static eser_model random_model(void) {
    static const char *const labels[] = {"a", "b", "c"};
    static float gain[ESER_N_BINS], offset[ESER_N_BINS], centres[3 * ESER_EMBEDDING_SIZE];
    static int32_t prelu[ESER_EMBEDDING_SIZE];
    for (int i = 0; i < ESER_N_BINS; i++) {
        gain[i] = 4.0f;
        offset[i] = 220.0f;
    }
    eser_model model = {ESER_MODEL_FORMAT, 3, labels, gain, offset, {{0}}, {{0}}, {{0}}, {0}, {0}, prelu, centres, 1.0f, 9.0f};
    const int32_t n_in[4] = {56, 432, 576, 720}, n_out[4] = {48, 64, 80, 96}, multiplier[4] = {9000000, 5000000, 4000000, 4000000};
    for (int i = 0; i < 4; i++)
        model.conv[i] = random_layer(n_in[i], n_out[i], 63, multiplier[i], 31);
    for (int i = 0; i < 2; i++) {
        model.gru_input[i] = random_layer(ESER_VECTOR, 3 * ESER_GRU, 127, 100, 10);
        model.gru_recurrent[i] = random_layer(ESER_GRU, 3 * ESER_GRU, 127, 30, 10);
    }
    model.fc1 = random_layer(2 * ESER_GRU, ESER_EMBEDDING_SIZE, 127, 30, 10);
    model.fc2 = random_layer(ESER_EMBEDDING_SIZE, 3, 127, 30, 10);
    return model;
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
    const eser_kernels *plain = eser_kernels_at(0), *kernels;
    const eser_model model = random_model();
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
        answer(&model, kernels, &found, vectors, n);
        require(memcmp(&expected, &found, sizeof found) == 0, kernels, "a stream's answer");
        require(memcmp(expected_vectors, vectors, sizeof vectors) == 0, kernels, "a stream's vectors");
        printf(" %s", kernels->name);
    }
    printf("\n");
    return 0;
}
