/* The stream: samples to frames, frames to vectors, vectors to an answer. */
#include "eser.h"

#include <math.h>
#include <string.h>

#include "eser_parts.h"

#define MAX_FRAMES (ESER_FIRST_FRAMES + ESER_STRIDE * ESER_MAX_VECTORS - 1) /* those of the next vector included */
#define SILENCE_DB -99.999f

typedef char eser_state_fits[sizeof(eser) <= ESER_STATE_BYTES ? 1 : -1];

size_t eser_size(const eser_model *model) {
    return model != NULL && model->format == ESER_MODEL_FORMAT ? sizeof(eser) : 0;
}

eser_status eser_init(eser **stream, const eser_model *model, void *memory, size_t size) {
    if (stream == NULL || model == NULL || memory == NULL)
        return ESER_BAD_ARGUMENT;
    *stream = NULL;
    if (model->format != ESER_MODEL_FORMAT || model->n_labels < 2 || model->n_labels > ESER_MAX_LABELS)
        return ESER_BAD_MODEL;
    if (size < sizeof(eser) || (uintptr_t)memory % 8 != 0)
        return ESER_BAD_MEMORY;
    *stream = (eser *)memory;
    (*stream)->model = model;
    (*stream)->person = NULL;
    (*stream)->kernels = eser_kernels_best();
    return eser_reset(*stream);
}

eser_status eser_reset(eser *stream) {
    if (stream == NULL)
        return ESER_BAD_ARGUMENT;
    stream->n_samples_held = 0;
    stream->n_frames = stream->n_silent = 0;
    stream->n_vectors = stream->first_vector = 0;
    stream->finished = 0;
    eser_encoder_reset(&stream->encoder);
    return ESER_OK;
}

static void keep_vector(eser *stream, const uint8_t *vector) {
    const uint32_t at = (stream->first_vector + stream->n_vectors) % ESER_MAX_VECTORS;
    memcpy(stream->vectors[at], vector, ESER_VECTOR);
    if (stream->n_vectors < ESER_MAX_VECTORS) {
        stream->n_vectors++;
    } else {
        stream->first_vector = (stream->first_vector + 1) % ESER_MAX_VECTORS;
        stream->n_frames -= ESER_STRIDE;
    }
}

static void push_levels(eser *stream, const uint8_t *levels, int silent) {
    stream->n_frames++;
    stream->n_silent = silent ? stream->n_silent + (stream->n_silent < MAX_FRAMES) : 0;
    if (eser_encode(&stream->encoder, stream->model, stream->kernels, levels, &stream->scratch))
        keep_vector(stream, stream->encoder.vector);
}

static void push_features(eser *stream, const float *db) {
    uint8_t levels[ESER_N_BINS];
    int silent = 1;
    for (int i = 0; i < ESER_N_BINS; i++)
        silent &= db[i] <= SILENCE_DB;
    stream->kernels->quantise(stream->model, db, levels);
    push_levels(stream, levels, silent);
}

/* The frame is full: transform it and keep what the next one shares with it. */
static void end_frame(eser *stream) {
    float db[ESER_N_BINS];
    stream->kernels->features(stream->samples, db, &stream->scratch);
    push_features(stream, db);
    memmove(stream->samples, stream->samples + ESER_HOP, (ESER_FRAME - ESER_HOP) * sizeof *stream->samples);
    stream->n_samples_held = ESER_FRAME - ESER_HOP;
}

static eser_status check(const eser *stream, const void *data, size_t n) {
    if (stream == NULL || (data == NULL && n > 0))
        return ESER_BAD_ARGUMENT;
    return stream->finished ? ESER_FINISHED : ESER_OK;
}

static void take(eser *stream, const int16_t *integers, const float *floats, size_t n) {
    while (n > 0) {
        const size_t room = ESER_FRAME - stream->n_samples_held, part = n < room ? n : room;
        float *to = stream->samples + stream->n_samples_held;
        for (size_t i = 0; i < part; i++)
            to[i] = integers != NULL ? (float)integers[i] / 32768.0f : floats != NULL ? floats[i] : 0.0f;
        integers = integers != NULL ? integers + part : NULL;
        floats = floats != NULL ? floats + part : NULL;
        n -= part;
        stream->n_samples_held += (uint32_t)part;
        if (stream->n_samples_held == ESER_FRAME)
            end_frame(stream);
    }
}

eser_status eser_feed_i16(eser *stream, const int16_t *samples, size_t n) {
    const eser_status status = check(stream, samples, n);
    if (status == ESER_OK && n > 0)
        take(stream, samples, NULL, n);
    return status;
}

eser_status eser_feed_f32(eser *stream, const float *samples, size_t n) {
    const eser_status status = check(stream, samples, n);
    if (status != ESER_OK || n == 0)
        return status;
    for (size_t i = 0; i < n; i++)
        if (!(samples[i] >= -ESER_MAX_PEAK && samples[i] <= ESER_MAX_PEAK)) /* also true of NaN */
            return ESER_BAD_SAMPLES;
    take(stream, NULL, samples, n);
    return ESER_OK;
}

eser_status eser_push_levels(eser *stream, const uint8_t *levels, size_t n_frames) {
    const eser_status status = check(stream, levels, n_frames);
    if (status == ESER_OK)
        for (size_t i = 0; i < n_frames; i++)
            push_levels(stream, levels + i * ESER_N_BINS, 0);
    return status;
}

eser_status eser_push_vectors(eser *stream, const uint8_t *vectors, size_t n_vectors) {
    const eser_status status = check(stream, vectors, n_vectors);
    if (status == ESER_OK)
        for (size_t i = 0; i < n_vectors; i++) {
            stream->n_frames += stream->n_vectors == 0 ? ESER_FIRST_FRAMES : ESER_STRIDE;
            keep_vector(stream, vectors + i * ESER_VECTOR);
        }
    return status;
}

size_t eser_vectors(const eser *stream, uint8_t *vectors) {
    for (uint32_t i = 0; i < stream->n_vectors; i++)
        memcpy(vectors + i * ESER_VECTOR, stream->vectors[(stream->first_vector + i) % ESER_MAX_VECTORS], ESER_VECTOR);
    return stream->n_vectors;
}

/* Probabilities and floats from the integers. */
static void decide(const eser_model *model, const eser_person *person, float temperature, eser_result *result) {
    const uint32_t n = result->n_labels = person != NULL ? person->n_labels : model->n_labels;
    uint32_t best = 0;
    for (uint32_t i = 0; i < n; i++) {
        result->logits[i] = (float)result->logits_q16[i] / 65536.0f;
        if (result->logits_q16[i] > result->logits_q16[best])
            best = i;
    }
    result->label_index = best;
    result->label = person != NULL ? person->labels[best] : model->labels[best];
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++)
        sum += result->probabilities[i] = expf((result->logits[i] - result->logits[best]) / temperature);
    for (uint32_t i = 0; i < n; i++)
        result->probabilities[i] /= sum;
    for (uint32_t i = 0; i < ESER_EMBEDDING_SIZE; i++)
        result->embedding[i] = (float)result->embedding_q16[i] / 65536.0f;
    result->is_speech = result->speech >= model->speech_threshold;
}

static eser_status answer(eser *stream, eser_result *result) {
    memset(result, 0, sizeof *result);
    if (stream->n_vectors == 0)
        return ESER_TOO_SHORT;
    if (stream->n_silent >= stream->n_frames)
        return ESER_SILENT;
    eser_head(stream->model, stream->kernels, stream->vectors[0], stream->first_vector, stream->n_vectors, result->embedding_q16,
              result->logits_q16, &stream->scratch);
    result->judged_s = (float)(stream->n_frames - 1) * (ESER_HOP / (float)ESER_RATE_HZ) + ESER_FRAME / (float)ESER_RATE_HZ;
    uint16_t *const statistics = stream->scratch.statistics;
    eser_statistics(stream->vectors[0], ESER_VECTOR, stream->n_vectors, statistics);
    result->speech = eser_speech(stream->model, statistics);
    float temperature = stream->model->temperature;
    if (stream->person == NULL) {
        temperature *= eser_distance(stream->model, statistics);
    } else {
        temperature = stream->person->temperature;
        int32_t scores[ESER_MAX_LABELS] = {0};
        eser_personal_scores(stream->person, statistics, result->embedding_q16, result->logits_q16, scores);
        memcpy(result->logits_q16, scores, sizeof scores);
    }
    decide(stream->model, stream->person, temperature, result);
    return ESER_OK;
}

eser_status eser_estimate(eser *stream, eser_result *result) {
    if (stream == NULL || result == NULL)
        return ESER_BAD_ARGUMENT;
    return stream->finished ? ESER_FINISHED : answer(stream, result);
}

eser_status eser_finish(eser *stream, eser_result *result) {
    if (stream == NULL || result == NULL)
        return ESER_BAD_ARGUMENT;
    if (stream->finished)
        return ESER_FINISHED;
    while (stream->n_vectors == 0)
        take(stream, NULL, NULL, ESER_HOP);
    stream->finished = 1;
    return answer(stream, result);
}

const char *eser_strerror(eser_status status) {
    static const char *const texts[] = {
        "no error",
        "too short: fewer than 8320 samples (0.52 s) so far; feed more, or finish, which pads with silence",
        "silent: what would be judged is digital silence; check the microphone",
        "an argument is NULL; expected a stream, a model, memory, or a result",
        "the memory is smaller than eser_size or not aligned to 8 bytes",
        "the model or person is of another format or model; export it again with the version of edge-ser that this library comes from",
        "a sample is NaN, infinite or beyond 8; expected floats of full scale 1.0 (divide int16 values by 32768)",
        "the stream has finished; reset it to begin the next utterance",
    };
    return (unsigned)status < sizeof texts / sizeof *texts ? texts[status] : "unknown status";
}

const char *eser_version(void) {
    return ESER_VERSION;
}
