/* What JavaScript calls: streams on the heap of the module, everything handed over as addresses of numbers. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "eser_model.h"
#include "eser_parts.h"

#define EXPORT(name) __attribute__((export_name(#name)))

static eser_result result;          /* of the last answer, the person's correction included */
static eser_result of_network;      /* the same without it */
static uint8_t vectors[ESER_MAX_VECTORS * ESER_VECTOR];

EXPORT(allocate) void *allocate(size_t n) {
    return malloc(n);
}

EXPORT(release) void release(void *memory) {
    free(memory);
}

EXPORT(manifest) const char *manifest(void) {
    return eser_model_manifest;
}

EXPORT(results) const eser_result *results(int32_t network) {
    return network ? &of_network : &result;
}

#define WORD(field) (uint32_t)(offsetof(eser_result, field) / 4)

/* Where the fields of an eser_result lie, in words of four bytes, as engine.js names them. */
EXPORT(layout) const uint32_t *layout(void) {
    static const uint32_t words[] = {WORD(probabilities), WORD(logits), WORD(embedding), WORD(speech),
                                     WORD(is_speech), WORD(logits_q16), WORD(embedding_q16)};
    return words;
}

EXPORT(explain) const char *explain(eser_status status) {
    return eser_strerror(status);
}

/* NULL where there is no memory. */
EXPORT(open) eser *open_stream(void) {
    eser *stream = NULL;
    void *memory = malloc(ESER_STATE_BYTES);
    if (memory != NULL && eser_init(&stream, &eser_default_model, memory, ESER_STATE_BYTES) != ESER_OK)
        free(memory);
    return stream;
}

EXPORT(feed) eser_status feed(eser *stream, const float *samples, size_t n) {
    return eser_feed_f32(stream, samples, n);
}

EXPORT(reset) eser_status reset(eser *stream) {
    return eser_reset(stream);
}

/* Leave both results behind. What is learnt of a person needs the network's own answer. */
EXPORT(answer) eser_status answer(eser *stream, int32_t finish, const eser_person *person) {
    eser_status status = eser_set_person(stream, NULL);
    if (status == ESER_OK)
        status = finish ? eser_finish(stream, &of_network) : eser_estimate(stream, &of_network);
    memcpy(&result, &of_network, sizeof result);
    if (status != ESER_OK || person == NULL)
        return status;
    const uint32_t finished = stream->finished;
    stream->finished = 0;
    status = eser_set_person(stream, person);
    if (status == ESER_OK)
        status = eser_estimate(stream, &result);
    stream->finished = finished;
    return status;
}

/* A person out of a correction's numbers, whose labels' names stay in JavaScript; NULL where there is no memory. */
EXPORT(person) eser_person *make_person(uint32_t n_labels, const int32_t *source, const int16_t *statistics, const int16_t *embedding,
                                        const int32_t *bias, int32_t statistics_shift, int32_t embedding_shift, float temperature) {
    static const char *const unnamed[ESER_MAX_LABELS];
    const eser_person made = {
        .format = ESER_PERSON_FORMAT,
        .n_labels = n_labels,
        .n_model_labels = eser_default_model.n_labels,
        .labels = unnamed,
        .source = source,
        .statistics = statistics,
        .embedding = embedding,
        .bias = bias,
        .statistics_shift = statistics_shift,
        .embedding_shift = embedding_shift,
        .temperature = temperature,
    };
    eser_person *person = malloc(sizeof made);
    if (person != NULL)
        memcpy(person, &made, sizeof made);
    return person;
}

/* The encoder vectors behind the answer, [n][480], n first. */
EXPORT(vectors) const uint8_t *kept_vectors(const eser *stream, uint32_t *n) {
    *n = (uint32_t)eser_vectors(stream, vectors);
    return vectors;
}

/* Features of n frames, [n][128] in dB, the first at samples[0]. */
EXPORT(features) void features(eser *stream, const float *samples, size_t n, float *db) {
    eser_features_batch_of(stream->kernels, samples, n, db);
}

/* Use kernels number i, plain C is 0; 0 where there are no such. For tests and measurements. */
EXPORT(use_kernels) int32_t use_kernels(eser *stream, uint32_t i) {
    const eser_kernels *kernels = eser_kernels_at(i);
    if (kernels != NULL)
        stream->kernels = kernels;
    return kernels != NULL;
}
