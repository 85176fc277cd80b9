/* Raw PCM on standard input, a line for every utterance on standard output:
 *
 *     arecord -q -t raw -f S16_LE -r 16000 -c 1 | ./linux_c
 *
 * An utterance begins with the first block louder than SPEECH_DBFS and ends with PAUSE_MS of quieter ones, or with the input. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eser.h"
#include "eser_model.h"
#ifdef WITH_PERSON
#include "eser_person.h" /* edge-ser adapt learnt it; model.py or edge-ser export --profile wrote it */
#endif

#define BLOCK 160 /* samples, 10 ms */
#define SPEECH_DBFS -45.0f
#define PAUSE_MS 600
#define LIVE_MS 500 /* between two live estimates */

static const char *const *label_names;
static uint64_t state[ESER_STATE_BYTES / sizeof(uint64_t)];

static float level_dbfs(const int16_t *samples, size_t n) {
    float sum = 1e-3f;
    for (size_t i = 0; i < n; i++)
        sum += (float)samples[i] * (float)samples[i];
    return 10.0f * log10f(sum / (float)n / (32768.0f * 32768.0f));
}

static void print_answer(const char *kind, double start_s, double end_s, const eser_result *result) {
    printf("%s %.2f-%.2f s: %s %.0f %%", kind, start_s, end_s, result->label,
           (double)(100.0f * result->probabilities[result->label_index]));
    for (uint32_t i = 0; i < result->n_labels; i++)
        printf("%s%s %.0f", i == 0 ? " (" : ", ", label_names[i], (double)(100.0f * result->probabilities[i]));
    printf(")%s\n", result->is_speech ? "" : " no speech");
    fflush(stdout);
}

/* A block from the input, filled up as pipes allow; 0 at its end. An odd last byte is no sample. */
static size_t read_block(int16_t *samples) {
    uint8_t bytes[2 * BLOCK];
    const size_t n = fread(bytes, 1, sizeof bytes, stdin) / 2;
    for (size_t i = 0; i < n; i++) {
        const int32_t value = bytes[2 * i] | bytes[2 * i + 1] << 8;
        samples[i] = (int16_t)(value < 32768 ? value : value - 65536);
    }
    return n;
}

int main(int argc, char **argv) {
    const int live = argc == 2 && strcmp(argv[1], "--live") == 0;
    if (argc > 1 && !live) {
        fprintf(stderr, "usage: %s [--live] < samples, raw 16 kHz mono signed 16-bit little-endian\n", argv[0]);
        return 2;
    }
    eser *stream;
    eser_result result;
    eser_status status = eser_init(&stream, &eser_default_model, state, sizeof state);
    label_names = eser_default_model.labels;
#ifdef WITH_PERSON
    label_names = eser_default_person.labels;
    if (status == ESER_OK)
        status = eser_set_person(stream, &eser_default_person);
#endif
    if (status != ESER_OK) {
        fprintf(stderr, "%s: %s\n", argv[0], eser_strerror(status));
        return 1;
    }

    int16_t block[BLOCK];
    double now_s = 0.0, start_s = 0.0;
    int speaking = 0, quiet_ms = 0, spoken_ms = 0;
    for (size_t n = read_block(block); n > 0 || speaking; n = read_block(block)) {
        const int loud = n > 0 && level_dbfs(block, n) > SPEECH_DBFS;
        if (loud && !speaking) {
            speaking = 1;
            start_s = now_s;
            spoken_ms = 0;
            eser_reset(stream);
        }
        quiet_ms = loud ? 0 : quiet_ms + 10;
        now_s += (double)n / ESER_RATE_HZ;
        if (!speaking)
            continue;
        eser_feed_i16(stream, block, n);
        spoken_ms += 10;
        if (n == 0 || quiet_ms >= PAUSE_MS) {
            speaking = 0;
            status = eser_finish(stream, &result);
            if (status == ESER_OK)
                print_answer("said", start_s, now_s, &result);
        } else if (live && spoken_ms % LIVE_MS == 0 && eser_estimate(stream, &result) == ESER_OK) {
            print_answer("live", start_s, now_s, &result);
        }
    }
    if (ferror(stdin)) {
        fprintf(stderr, "%s: standard input: %s\n", argv[0], strerror(errno));
        return 1;
    }
    return 0;
}
