/* The convolutions for x86-64 with AVX-512 VNNI: a register holds the 16 sums of a panel, which become levels without leaving it.
 *
 * The dot products are written for the assembler: GCC 12 would keep the sums in memory.
 */
#include "eser_parts.h"

#ifdef ESER_X86
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define VNNI512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")))
#define MOST 12 /* positions side by side */
#define FOR_EACH(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11)
#define FOR_EACH_PAIR(do) do(0, 1) do(2, 3) do(4, 5) do(6, 7) do(8, 9) do(10, 11)

/* What becomes of a panel's sums: they are written to acc, or, where layer is not NULL, become levels of its outputs. */
typedef struct {
    int32_t *acc;
    const eser_layer *layer;
    uint8_t *out;
    int32_t panel, pool, keep;
} destination;

INLINE int32_t four_bytes(const uint8_t *x) {
    int32_t bytes;
    memcpy(&bytes, x, sizeof bytes);
    return bytes;
}

/* Sixteen sums with their bias, at least 0, times twice the multiplier: the upper halves of the products, rounded, are the levels. */
VNNI512 INLINE void activate(uint8_t *out, __m512i sum, __m512i bias, __m512i twice_multiplier, int32_t keep) {
    const __m512i half = _mm512_set1_epi64(1LL << 31);
    const __m512i a = _mm512_max_epi32(_mm512_add_epi32(sum, bias), _mm512_setzero_si512());
    const __m512i even = _mm512_add_epi64(_mm512_mul_epu32(a, twice_multiplier), half);
    const __m512i odd =
        _mm512_add_epi64(_mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(twice_multiplier, 32)), half);
    __m128i levels = _mm512_cvtusepi32_epi8(_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB));
    if (keep)
        levels = _mm_max_epu8(levels, _mm_loadu_si128((const __m128i *)out));
    _mm_storeu_si128((__m128i *)out, levels);
}

VNNI512 INLINE __m512i twice(const int32_t *multiplier) {
    const __m512i m = _mm512_loadu_si512(multiplier);
    return _mm512_add_epi32(m, m);
}

/* n positions, a constant of at most MOST. */
VNNI512 INLINE void block(const destination *to, int32_t position, const uint8_t *const *runs, int32_t n_runs, int32_t run,
                          int32_t step, const int8_t *w, const int n) {
#define BEGIN(p) __m512i sum##p = _mm512_setzero_si512();
    FOR_EACH(BEGIN)
    for (int32_t r = 0; r < n_runs; r++) {
        const uint8_t *x = runs[r] + position * step;
        for (int32_t k = 0; k < run; k += 4, w += 4 * ESER_PANEL) {
            const __m512i weights = _mm512_loadu_si512(w);
#define ADD_PRODUCTS(p)                            \
    if (p < n)                                     \
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum##p) : "v"(_mm512_set1_epi32(four_bytes(x + p * step + k))), "v"(weights));
            FOR_EACH(ADD_PRODUCTS)
        }
    }
    if (to->layer == NULL) {
#define STORE_SUM(p) \
    if (p < n)       \
        _mm512_storeu_si512(to->acc + (position + p) * ESER_PANEL, sum##p);
        FOR_EACH(STORE_SUM)
        return;
    }
    const int32_t n_out = to->layer->n_out;
    const __m512i bias = _mm512_loadu_si512(to->layer->bias + to->panel);
    const __m512i multiplier = twice(to->layer->multiplier + to->panel);
    uint8_t *out = to->out + position / to->pool * n_out + to->panel;
    if (to->pool == 1) {
#define ACTIVATE(p) \
    if (p < n)      \
        activate(out + p * n_out, sum##p, bias, multiplier, to->keep);
        FOR_EACH(ACTIVATE)
    } else {
#define ACTIVATE_PAIR(p, q) \
    if (q < n)              \
        activate(out + p / 2 * n_out, _mm512_max_epi32(sum##p, sum##q), bias, multiplier, to->keep);
        FOR_EACH_PAIR(ACTIVATE_PAIR)
    }
}

/* A panel's sums, in blocks as even as they come: one of one position takes nearly as long as one of twelve. */
VNNI512 static void panel(const destination *to, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                          const int8_t *w) {
    for (int32_t p = 0, blocks = (n * to->pool + MOST - 1) / MOST; blocks > 0; blocks--) {
        const int32_t size = (n - p / to->pool + blocks - 1) / blocks * to->pool;
        switch (size) {
#define OF_SIZE(size) \
    case size + 1: block(to, p, runs, n_runs, run, step, w, size + 1); break;
            FOR_EACH(OF_SIZE)
        }
        p += size;
    }
}

void eser_dot_vnni512(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                      const int8_t *weights) {
    const destination to = {.acc = acc, .pool = 1};
    panel(&to, runs, n_runs, run, step, n, weights);
}

void eser_convolve_vnni512(uint8_t *out, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, int32_t pool,
                           const eser_layer *layer, int32_t keep, eser_scratch *scratch) {
    (void)scratch;
    for (int32_t o = 0; o < layer->n_out; o += ESER_PANEL) {
        const destination to = {.layer = layer, .out = out, .panel = o, .pool = pool, .keep = keep};
        panel(&to, runs, n_runs, run, step, n, layer->weight + o * layer->n_in);
    }
}

VNNI512 void eser_activate_vnni512(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                                   const int32_t *multiplier, int32_t keep) {
    const __m512i of_bias = _mm512_loadu_si512(bias), of_multiplier = twice(multiplier);
    for (int32_t p = 0; p < n; p++, acc += pool * ESER_PANEL, out += out_step) {
        __m512i sum = _mm512_loadu_si512(acc);
        if (pool == 2)
            sum = _mm512_max_epi32(sum, _mm512_loadu_si512(acc + ESER_PANEL));
        activate(out, sum, of_bias, of_multiplier, keep);
    }
}
#endif
