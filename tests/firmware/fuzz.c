/* Bytes as a script of calls: a stream must take any of it without a fault and answer within its bounds.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined. Without: a main that makes up scripts from a fixed seed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eser.h"
#include "eser_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int truth, const char *what) {
    if (!truth) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

static void check(eser_status status, const eser_result *result) {
    require(status == ESER_OK || status == ESER_TOO_SHORT || status == ESER_SILENT || status == ESER_FINISHED, "status");
    if (status != ESER_OK)
        return;
    float sum = 0.0f;
    for (uint32_t i = 0; i < result->n_labels; i++) {
        require(isfinite(result->logits[i]) && result->probabilities[i] >= 0.0f, "probabilities");
        sum += result->probabilities[i];
    }
    require(fabsf(sum - 1.0f) < 1e-4f, "sum of the probabilities");
    require(result->label_index < result->n_labels && isfinite(result->speech), "label and speech");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    /* On the heap, so that a sanitiser sees the first byte beyond. */
    void *memory = malloc(eser_size(&eser_default_model));
    eser *stream;
    eser_result result;
    require(memory != NULL, "memory");
    require(eser_init(&stream, &eser_default_model, memory, eser_size(&eser_default_model)) == ESER_OK, "init");
    while (size >= 2) {
        const uint8_t call = data[0] % 8;
        size_t n = (size_t)data[1] * 4;
        data += 2;
        size -= 2;
        n = n < size ? n : size & ~(size_t)3;
        /* Copies of their exact length, aligned. */
        void *samples = malloc(n > 0 ? n : 1);
        require(samples != NULL, "samples");
        memcpy(samples, data, n);
        if (call <= 2)
            require(eser_feed_i16(stream, (const int16_t *)samples, n / 2) <= ESER_FINISHED, "feed_i16");
        else if (call <= 4)
            require(eser_feed_f32(stream, (const float *)samples, n / 4) <= ESER_FINISHED, "feed_f32");
        else if (call == 5)
            check(eser_estimate(stream, &result), &result);
        else if (call == 6 && n % 16 == 0)
            check(eser_finish(stream, &result), &result);
        else if (call == 7 && n % 16 == 0)
            require(eser_reset(stream) == ESER_OK, "reset");
        free(samples);
        data += n;
        size -= n;
    }
    check(eser_finish(stream, &result), &result);
    free(memory);
    return 0;
}

#ifndef WITH_LIBFUZZER
int main(int n_arguments, char **arguments) {
    static uint8_t script[40000];
    uint32_t seed = 1;
    const int n_scripts = n_arguments > 1 ? atoi(arguments[1]) : 50;
    for (int i = 0; i < n_scripts; i++) {
        const size_t size = (size_t)i * sizeof script / (size_t)n_scripts;
        for (size_t k = 0; k < size; k++) {
            seed = seed * 1664525u + 1013904223u;
            script[k] = (uint8_t)(seed >> 24);
        }
        LLVMFuzzerTestOneInput(script, size);
    }
    printf("%d scripts\n", n_scripts);
    return 0;
}
#endif
