/* Answers about raw 16 kHz samples with a library that is loaded as on Windows: answer.exe LIBRARY SAMPLES. Prints the kernels that
 * the processor runs, then logits and embedding in 1/65536. */
#include <stdio.h>
#include <windows.h>

#include "eser.h"
#include "eser_model.h"

static uint64_t memory[ESER_STATE_BYTES / 8 + 4096];
static int16_t samples[16 * 16000];

int main(int argc, char **argv)
{
    HMODULE library = argc == 3 ? LoadLibraryA(argv[1]) : NULL;
    FILE *file = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (library == NULL || file == NULL)
        return 2;
#define FUNCTION(returned, name, ...) returned (*name##_)(__VA_ARGS__) = (returned (*)(__VA_ARGS__))(void *)GetProcAddress(library, #name)
    FUNCTION(int, eser_init, eser **, const eser_model *, void *, size_t);
    FUNCTION(int, eser_feed_i16, eser *, const int16_t *, size_t);
    FUNCTION(int, eser_finish, eser *, eser_result *);
    FUNCTION(const char *const *, eser_kernels_at, uint32_t);
    for (uint32_t i = 0; eser_kernels_at_(i) != NULL; i++)
        printf("%s ", *eser_kernels_at_(i));
    printf("\n");
    eser *stream;
    eser_result result;
    size_t n = fread(samples, sizeof *samples, sizeof samples / sizeof *samples, file);
    if (eser_init_(&stream, &eser_default_model, memory, sizeof memory) || eser_feed_i16_(stream, samples, n)
        || eser_finish_(stream, &result))
        return 1;
    for (uint32_t i = 0; i < result.n_labels; i++)
        printf("%d ", (int)result.logits_q16[i]);
    for (uint32_t i = 0; i < ESER_EMBEDDING_SIZE; i++)
        printf("%d ", (int)result.embedding_q16[i]);
    printf("\n");
    return 0;
}
