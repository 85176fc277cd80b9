/* A person's scores of a recording, in 1/65536, a line each. */
#include <stdio.h>

#include "eser_model.h"
#include "eser_person.h"

extern const int16_t clip[];
extern const uint32_t clip_samples;

static uint64_t state[ESER_STATE_BYTES / sizeof(uint64_t)] __attribute__((section(".bss.eser_state")));

int main(void) {
    eser *stream;
    eser_result result;
    if (eser_init(&stream, &eser_default_model, state, sizeof state) != ESER_OK ||
        eser_set_person(stream, &eser_default_person) != ESER_OK || eser_feed_i16(stream, clip, clip_samples) != ESER_OK ||
        eser_finish(stream, &result) != ESER_OK)
        return 1;
    for (uint32_t i = 0; i < result.n_labels; i++)
        printf("%s %ld\n", eser_default_person.labels[i], (long)result.logits_q16[i]);
    return 0;
}
