/* What a target computes, as hashes: features, network and the answers on a recording. Two targets agree when the lines do. */
#include <stdio.h>
#include <string.h>

#include "eser_model.h"
#include "eser_parts.h"

extern const int16_t clip[];
extern const uint32_t clip_samples;

static uint64_t state[ESER_STATE_BYTES / sizeof(uint64_t)] __attribute__((section(".bss.eser_state")));

/* FNV-1a over 32-bit words, low byte first. */
static uint32_t hashed(uint32_t hash, const void *words, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, (const char *)words + 4 * i, 4);
        for (int byte = 0; byte < 4; byte++)
            hash = (hash ^ (word >> 8 * byte & 255)) * 16777619u;
    }
    return hash;
}

static uint32_t answered(uint32_t hash, const eser_result *result) {
    hash = hashed(hash, result->logits_q16, result->n_labels);
    return hashed(hash, result->embedding_q16, ESER_EMBEDDING_SIZE);
}

static eser *begun(const eser_kernels *set) {
    eser *stream;
    if (eser_init(&stream, &eser_default_model, state, sizeof state) != ESER_OK)
        return NULL;
    stream->kernels = set;
    return stream;
}

/* A line of hashes; 1 when there is no answer. */
static int compute(const eser_kernels *set) {
    static float samples[ESER_FRAME], db[ESER_N_BINS];
    uint8_t levels[ESER_N_BINS];
    uint32_t features = 2166136261u, network = features, answer = features, noise = 1;
    eser_result result;
    eser *stream = begun(set);
    if (stream == NULL)
        return 1;

    for (uint32_t at = 0; at + ESER_FRAME <= clip_samples; at += ESER_HOP) {
        for (int i = 0; i < ESER_FRAME; i++)
            samples[i] = (float)clip[at + i] / 32768.0f;
        set->features(samples, db, &stream->scratch);
        features = hashed(features, db, ESER_N_BINS);
    }

    /* The integers alone, on noise that also reaches both ends of the range. */
    for (int frame = 0; frame < 130; frame++) {
        for (int i = 0; i < ESER_N_BINS; i++) {
            noise = noise * 1664525u + 1013904223u;
            const int32_t level = (int32_t)(noise >> 23) - 128 + (frame & 64);
            levels[i] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
        }
        eser_push_levels(stream, levels, 1);
    }
    if (eser_finish(stream, &result) != ESER_OK)
        return 1;
    network = answered(network, &result);

    /* Samples to answers, in chunks of several lengths, with live estimates on the way. */
    stream = begun(set);
    for (uint32_t at = 0, n = 1; at < clip_samples; at += n) {
        n = (n * 5 + 37) % 997;
        n = n < clip_samples - at ? n : clip_samples - at;
        eser_feed_i16(stream, clip + at, n);
        if (n % 64 == 0 && eser_estimate(stream, &result) == ESER_OK)
            answer = answered(answer, &result);
    }
    if (eser_finish(stream, &result) != ESER_OK)
        return 1;
    answer = answered(answer, &result);
    printf("%s %08lx %08lx %08lx\n", set->name, (unsigned long)features, (unsigned long)network, (unsigned long)answer);
    return 0;
}

int main(void) {
    const eser_kernels *set;
    for (uint32_t i = 0; (set = eser_kernels_at(i)) != NULL; i++)
        if (compute(set) != 0)
            return 1;
    return 0;
}
