/* Many frames a call: for bindings of languages in which a call is dear. */
#include <string.h>

#include "eser_parts.h"

void eser_sizes(uint32_t *sizes) {
    sizes[0] = ESER_MODEL_FORMAT;
    sizes[1] = (uint32_t)sizeof(eser_model);
    sizes[2] = (uint32_t)sizeof(eser_encoder);
    sizes[3] = (uint32_t)sizeof(eser_projected);
}

void eser_features_batch_of(const eser_kernels *kernels, const float *samples, size_t n_frames, float *db) {
    eser_scratch scratch;
    size_t i = 0;
    for (; kernels->features_side_by_side != NULL && i + ESER_LANES <= n_frames; i += ESER_LANES)
        kernels->features_side_by_side(samples + i * ESER_HOP, db + i * ESER_N_BINS);
    for (; i < n_frames; i++)
        kernels->features(samples + i * ESER_HOP, db + i * ESER_N_BINS, &scratch);
}

size_t eser_encode_batch(eser_encoder *encoder, const eser_model *model, const eser_kernels *kernels, const float *db,
                         size_t n_frames, const eser_projected *before, eser_projected *projected, size_t room) {
    eser_scratch scratch;
    size_t n = 0;
    uint32_t held = 0;
    uint8_t vectors[ESER_GRU_BLOCK][ESER_VECTOR], levels[ESER_N_BINS];
    if (before == NULL)
        eser_encoder_reset(encoder);
    for (size_t i = 0; i < n_frames; i++) {
        kernels->quantise(model, db + i * ESER_N_BINS, levels);
        if (eser_encode(encoder, model, kernels, levels, &scratch) && n + held < room)
            memcpy(vectors[held++], encoder->vector, ESER_VECTOR);
        if (held == ESER_GRU_BLOCK || (held > 0 && i + 1 == n_frames)) {
            eser_project(model, kernels, vectors[0], held, before, projected + n, &scratch);
            n += held;
            before = &projected[n - 1];
            held = 0;
        }
    }
    return n;
}

void eser_judge_batch(const eser_model *model, const eser_kernels *kernels, const eser_projected *projected, size_t n,
                      float *embedding, float *logits) {
    eser_scratch scratch;
    int32_t embedding_q16[ESER_EMBEDDING_SIZE], logits_q16[ESER_MAX_LABELS];
    eser_head_projected(model, kernels, projected, (uint32_t)n, embedding_q16, logits_q16, &scratch);
    for (uint32_t i = 0; i < ESER_EMBEDDING_SIZE; i++)
        embedding[i] = (float)embedding_q16[i] / 65536.0f;
    for (uint32_t i = 0; i < model->n_labels; i++)
        logits[i] = (float)logits_q16[i] / 65536.0f;
}

size_t eser_vectors_batch(eser_encoder *encoder, const eser_model *model, const eser_kernels *kernels, const float *db,
                          size_t n_frames, uint8_t *vectors, size_t room) {
    eser_scratch scratch;
    size_t n = 0;
    uint8_t levels[ESER_N_BINS];
    eser_encoder_reset(encoder);
    for (size_t i = 0; i < n_frames; i++) {
        kernels->quantise(model, db + i * ESER_N_BINS, levels);
        if (eser_encode(encoder, model, kernels, levels, &scratch) && n < room)
            memcpy(vectors + n++ * ESER_VECTOR, encoder->vector, ESER_VECTOR);
    }
    return n;
}
