/* Three seconds of noise through a network of random weights, by the kernels that the first argument names: `predict` for the whole,
 * as Python's engine does it, `feed` for a stream in chunks of 20 ms, `nothing` for what comes before both. Prints a hash. */
#include <stdio.h>
#include <string.h>

#include "random_model.h"

#define SAMPLES 48000
#define CHUNK 320
#define FRAMES ((SAMPLES - ESER_FRAME) / ESER_HOP + 1)
#define VECTORS 16

int main(int argc, char **argv) {
    static float samples[SAMPLES], db[FRAMES * ESER_N_BINS];
    static int32_t embedding[ESER_EMBEDDING_SIZE], logits[ESER_MAX_LABELS];
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
    for (int i = 0; i < SAMPLES; i++)
        samples[i] = (float)((int)any(2001) - 1000) / 10000.0f;
    eser_model model = random_model();
    for (int i = 1; i < 3; i++)
        if (eser_winograd_size(&model, kernels, i) > 0) {
            eser_winograd_weights(&model, i, transformed[i - 1]);
            model.winograd[i - 1] = transformed[i - 1];
        }
    if (strcmp(argv[2], "predict") == 0) {
        eser_features_batch_of(kernels, samples, FRAMES, db);
        const size_t n = eser_encode_batch(&encoder, &model, kernels, db, FRAMES, NULL, projected, VECTORS);
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
