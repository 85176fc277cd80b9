/* Three seconds of noise through a network of random weights, by the kernels that the first argument names: `predict` for the whole,
 * as Python's engine does it, `feed` for a stream in chunks of 20 ms, `nothing` for what comes before both. Prints a hash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eser_parts.h"

#define SAMPLES 48000
#define CHUNK 320
#define FRAMES ((SAMPLES - ESER_FRAME) / ESER_HOP + 1)
#define VECTORS 16

static uint32_t seed = 1;

static int32_t any(int32_t least, int32_t most) {
    seed = seed * 1664525u + 1013904223u;
    return least + (int32_t)((uint64_t)seed * (uint32_t)(most - least + 1) >> 32);
}

static eser_layer layer(int32_t n_in, int32_t n_out, int32_t limit, int32_t multiplier, int32_t shift) {
    static int8_t all_weights[640000];
    static int32_t all_words[4096];
    static size_t n_weights, n_words;
    int8_t *weight = all_weights + n_weights;
    int32_t *words = all_words + n_words;
    n_weights += (size_t)(n_in * n_out);
    n_words += (size_t)(2 * n_out);
    for (int32_t i = 0; i < n_in * n_out; i++)
        weight[i] = (int8_t)any(-limit, limit);
    for (int32_t i = 0; i < n_out; i++)
        words[n_out + i] = multiplier;
    const eser_layer made = {weight, words, words + n_out, shift, n_in, n_out};
    return made;
}

int main(int argc, char **argv) {
    static const char *const labels[] = {"a", "b", "c"};
    static float gain[ESER_N_BINS], offset[ESER_N_BINS], samples[SAMPLES], db[FRAMES * ESER_N_BINS];
    static int8_t speech[2 * ESER_VECTOR];
    static int32_t prelu[ESER_EMBEDDING_SIZE], embedding[ESER_EMBEDDING_SIZE], logits[ESER_MAX_LABELS];
    static int16_t transformed[2][36 * 64 * 80];
    static uint64_t memory[ESER_STATE_BYTES / 8];
    static eser_encoder encoder;
    static eser_projected projected[VECTORS];
    static eser_scratch scratch;
    static eser_result result;
    const eser_kernels *kernels = NULL;
    for (uint32_t i = 0; argc == 3 && (kernels = eser_kernels_at(i)) != NULL && strcmp(kernels->name, argv[1]) != 0; i++) {
    }
    if (kernels == NULL)
        return 2;
    for (int i = 0; i < ESER_N_BINS; i++) {
        gain[i] = 4.0f;
        offset[i] = 220.0f;
    }
    for (int i = 0; i < SAMPLES; i++)
        samples[i] = (float)any(-1000, 1000) / 10000.0f;
    eser_model model = {.format = ESER_MODEL_FORMAT, .n_labels = 3, .labels = labels, .feature_gain = gain, .feature_offset = offset,
                        .prelu = prelu, .temperature = 1.0f,
                        .speech = speech, .speech_threshold = 0.5f};
    const int32_t n_in[4] = {56, 432, 576, 720}, n_out[4] = {48, 64, 80, 96}, multiplier[4] = {9000000, 5000000, 4000000, 4000000};
    for (int i = 0; i < 4; i++)
        model.conv[i] = layer(n_in[i], n_out[i], 63, multiplier[i], 31);
    for (int i = 0; i < 2; i++) {
        model.gru_input[i] = layer(ESER_VECTOR, 3 * ESER_GRU, 127, 100, 10);
        model.gru_recurrent[i] = layer(ESER_GRU, 3 * ESER_GRU, 127, 30, 10);
    }
    model.fc1 = layer(2 * ESER_GRU, ESER_EMBEDDING_SIZE, 127, 30, 10);
    model.fc2 = layer(ESER_EMBEDDING_SIZE, 3, 127, 30, 10);
    for (int i = 1; i < 3; i++)
        if (eser_winograd_size(&model, kernels, i) > 0) {
            eser_winograd_weights(&model, i, transformed[i - 1]);
            model.winograd[i - 1] = transformed[i - 1];
        }
    if (strcmp(argv[2], "predict") == 0) {
        eser_encoder_reset(&encoder);
        eser_features_batch_of(kernels, samples, FRAMES, db, &scratch);
        const size_t n = eser_encode_batch(&encoder, &model, kernels, db, FRAMES, NULL, projected, VECTORS, &scratch);
        eser_head_projected(&model, kernels, projected, (uint32_t)n, embedding, logits, &scratch);
    } else if (strcmp(argv[2], "feed") == 0) {
        eser *stream;
        if (eser_init(&stream, &model, memory, sizeof memory) != ESER_OK)
            return 2;
        stream->kernels = kernels;
        for (int i = 0; i < SAMPLES; i += CHUNK)
            eser_feed_f32(stream, samples + i, CHUNK);
        if (eser_finish(stream, &result) != ESER_OK)
            return 2;
        memcpy(embedding, result.embedding_q16, sizeof embedding);
    }
    uint32_t hash = 2166136261u;
    for (int i = 0; i < ESER_EMBEDDING_SIZE; i++)
        hash = (hash ^ (uint32_t)embedding[i]) * 16777619u;
    printf("%08lx\n", (unsigned long)hash);
    return 0;
}
