/* Pairs of 16-bit numbers in a register, for Cortex-M4, M7, M33 and above. */
#include <string.h>

#include "eser_parts.h"

static inline uint32_t word(const void *bytes) {
    uint32_t x;
    memcpy(&x, bytes, sizeof x);
    return x;
}

/* Bytes 0 and 2 of x as two 16-bit numbers, or bytes 1 and 3: unsigned, signed. */
#define TWO_BYTES(name, instruction)                    \
    static inline uint32_t name(uint32_t x) {           \
        uint32_t pair;                                  \
        __asm__(instruction : "=r"(pair) : "r"(x));     \
        return pair;                                    \
    }
TWO_BYTES(even_levels, "uxtb16 %0, %1")
TWO_BYTES(odd_levels, "uxtb16 %0, %1, ror #8")
TWO_BYTES(even_weights, "sxtb16 %0, %1")
TWO_BYTES(odd_weights, "sxtb16 %0, %1, ror #8")

void eser_dot_dsp(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, const int8_t *panel);
void eser_convolve_dsp(uint8_t *out, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, int32_t pool,
                       const eser_layer *layer, int32_t keep, eser_scratch *scratch);
