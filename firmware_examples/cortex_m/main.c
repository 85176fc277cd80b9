/* Speech in, emotion out on a microcontroller. A recording in constant memory stands for the microphone: on a product, the
 * interrupt of the I2S or PDM microphone's DMA fills a buffer and the main loop hands it to eser_feed_i16. */
#include <stdio.h>

#include "board.h"
#include "eser.h"
#include "eser_model.h"
#ifdef WITH_PERSON
#include "eser_person.h" /* edge-ser adapt learnt it; model.py or edge-ser export --profile wrote it */
#endif

#define CHUNK 160 /* 10 ms, half of a DMA buffer */

extern const int16_t clip[];
extern const uint32_t clip_samples;

/* In a section of its own, so that the linker script can hold it to its limit. */
static uint64_t state[ESER_STATE_BYTES / sizeof(uint64_t)] __attribute__((section(".bss.eser_state")));

static int percent(float x) {
    return (int)(100.0f * x + 0.5f);
}

static int failed(const char *what, eser_status status) {
    printf("%s: %s\n", what, eser_strerror(status));
    return 1;
}

int main(void) {
    eser *stream;
    eser_result result;
    uint64_t busiest = 0, feeding = 0, finishing;
    const char *const *label_names = eser_default_model.labels;
    eser_status status = eser_init(&stream, &eser_default_model, state, sizeof state);
    if (status != ESER_OK)
        return failed("eser_init", status);
#ifdef WITH_PERSON
    label_names = eser_default_person.labels;
    status = eser_set_person(stream, &eser_default_person);
    if (status != ESER_OK)
        return failed("eser_set_person", status);
#endif
    printf("edge-ser %s: %u bytes of state, %u ms of audio\n", eser_version(), (unsigned)eser_size(&eser_default_model),
           (unsigned)(clip_samples / (ESER_RATE_HZ / 1000)));

    for (uint32_t at = 0; at < clip_samples; at += CHUNK) {
        const uint32_t n = clip_samples - at < CHUNK ? clip_samples - at : CHUNK;
        const uint64_t start = board_clocks();
        status = eser_feed_i16(stream, clip + at, n);
        const uint64_t taken = board_clocks() - start;
        feeding += taken;
        busiest = taken > busiest ? taken : busiest;
        if (status != ESER_OK)
            return failed("eser_feed_i16", status);
        if ((at + n) % ESER_RATE_HZ == 0 && eser_estimate(stream, &result) == ESER_OK)
            printf("after %u s: %s %d %%\n", (unsigned)((at + n) / ESER_RATE_HZ), result.label,
                   percent(result.probabilities[result.label_index]));
    }

    const uint64_t start = board_clocks();
    status = eser_finish(stream, &result);
    finishing = board_clocks() - start;
    if (status != ESER_OK)
        return failed("eser_finish", status);
    printf("emotion: %s %d %%%s\n", result.label, percent(result.probabilities[result.label_index]),
           result.is_speech ? "" : " (no speech)");
    for (uint32_t i = 0; i < result.n_labels; i++)
        printf("  %s %d %%\n", label_names[i], percent(result.probabilities[i]));
    printf("clocks: feed %lu, busiest chunk %lu, finish %lu\n", (unsigned long)feeding, (unsigned long)busiest,
           (unsigned long)finishing);
    return 0;
}
