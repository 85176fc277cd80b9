/* Random numbers, the same everywhere, and a network of random weights. */
#ifndef RANDOM_MODEL_H
#define RANDOM_MODEL_H

#include <stdlib.h>

#include "eser_parts.h"

static uint32_t seed = 1;

static uint32_t any(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)seed * below >> 32);
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
    static float gain[ESER_N_BINS], offset[ESER_N_BINS];
    static int8_t speech[2 * ESER_VECTOR];
    static uint16_t usual[2 * ESER_VECTOR];
    static int32_t prelu[ESER_EMBEDDING_SIZE];
    for (int i = 0; i < ESER_N_BINS; i++) {
        gain[i] = 4.0f;
        offset[i] = 220.0f;
    }
    eser_model model = {.format = ESER_MODEL_FORMAT, .n_labels = 3, .labels = labels, .feature_gain = gain, .feature_offset = offset,
                        .prelu = prelu, .temperature = 1.0f, .speech = speech, .speech_threshold = 0.5f,
                        .usual = usual};
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

#endif
