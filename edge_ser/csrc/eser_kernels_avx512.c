/* The convolutions and what the GRU repeats, for x86-64 with AVX-512 VNNI: a register holds the 16 sums of a panel, which become levels
 * without leaving it.
 *
 * The dot products are written for the assembler: GCC 12 would keep the sums in memory.
 */
#include "eser_parts.h"

#ifdef ESER_X86
#include <immintrin.h>
#include <stddef.h>

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

/* Sixteen sums, at least 0, times twice the multiplier: the upper halves of the products, rounded, are the levels. */
VNNI512 INLINE void activate(uint8_t *out, __m512i sum, __m512i twice_multiplier, int32_t keep) {
    const __m512i half = _mm512_set1_epi64(1LL << 31), a = _mm512_max_epi32(sum, _mm512_setzero_si512());
    const __m512i upper = _mm512_set_epi32(31, 15, 29, 13, 27, 11, 25, 9, 23, 7, 21, 5, 19, 3, 17, 1);
    const __m512i even = _mm512_add_epi64(_mm512_mul_epu32(a, twice_multiplier), half);
    const __m512i odd =
        _mm512_add_epi64(_mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(twice_multiplier, 32)), half);
    __m128i levels = _mm512_cvtusepi32_epi8(_mm512_permutex2var_epi32(even, upper, odd));
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
    const __m512i bias = to->layer ? _mm512_loadu_si512(to->layer->bias + to->panel) : _mm512_setzero_si512();
#define BEGIN(p) __m512i sum##p = bias;
    FOR_EACH(BEGIN)
    for (int32_t r = 0; r < n_runs; r++) {
        /* An address holds a step or two beside a pointer, not all the others. */
        const uint8_t *x = runs[r] + position * step, *x3 = x + 3 * step, *x6 = x3 + 3 * step, *x9 = x6 + 3 * step;
        for (int32_t k = 0; k < run; k += 4, w += 4 * ESER_PANEL, x += 4, x3 += 4, x6 += 4, x9 += 4) {
            const __m512i weights = _mm512_loadu_si512(w);
            __m512i inputs;
#define INPUTS(p) (const uint8_t(*)[4])((p < 3 ? x : p < 6 ? x3 : p < 9 ? x6 : x9) + p % 3 * (ptrdiff_t)step)
#define ADD_PRODUCTS(p)                                        \
    if (p < n)                                                 \
        __asm__("vpbroadcastd %3, %1\n\tvpdpbusd %2, %1, %0"   \
                : "+v"(sum##p), "=&v"(inputs)                  \
                : "v"(weights), "m"(*INPUTS(p)));
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
    const __m512i multiplier = twice(to->layer->multiplier + to->panel);
    uint8_t *out = to->out + position / to->pool * n_out + to->panel;
    if (to->pool == 1) {
#define ACTIVATE(p) \
    if (p < n)      \
        activate(out + p * n_out, sum##p, multiplier, to->keep);
        FOR_EACH(ACTIVATE)
    } else {
#define ACTIVATE_PAIR(p, q) \
    if (q < n)              \
        activate(out + p / 2 * n_out, _mm512_max_epi32(sum##p, sum##q), multiplier, to->keep);
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

/* Eight inputs at a time, four of them against those of eight channels; of a channel's 64 bits each half sums up two. */
VNNI512 void eser_dot_16_vnni512(int32_t *acc, const int16_t *x, int32_t n, const int8_t *w) {
    __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0, four;
#define TAKE_FOUR(x) __asm__("vpbroadcastq %1, %0" : "=v"(four) : "m"(*(const int16_t(*)[4])(x)))
#define ADD_PAIRS(sum, w)                                \
    __asm__("vpdpwssd %2, %1, %0"                        \
            : "+v"(sum)                                  \
            : "v"(four), "v"(_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(w)))))
    for (; n > 0; n -= 8, x += 8, w += 8 * ESER_PANEL) {
        TAKE_FOUR(x);
        ADD_PAIRS(sum0, w);
        ADD_PAIRS(sum1, w + 32);
        if (n == 4)
            break;
        TAKE_FOUR(x + 4);
        ADD_PAIRS(sum2, w + 64);
        ADD_PAIRS(sum3, w + 96);
    }
    sum0 = _mm512_add_epi32(sum0, sum2);
    sum1 = _mm512_add_epi32(sum1, sum3);
    sum0 = _mm512_add_epi32(sum0, _mm512_srli_epi64(sum0, 32));
    sum1 = _mm512_add_epi32(sum1, _mm512_srli_epi64(sum1, 32));
    _mm256_storeu_si256((__m256i *)acc, _mm512_cvtepi64_epi32(sum0));
    _mm256_storeu_si256((__m256i *)(acc + 8), _mm512_cvtepi64_epi32(sum1));
}

VNNI512 INLINE __m512i rescaled(__m512i product, int32_t shift) {
    const __m512i limit = _mm512_set1_epi64(ESER_Q16_LIMIT), least = _mm512_set1_epi64(-ESER_Q16_LIMIT);
    const __m512i sum = _mm512_add_epi64(product, _mm512_set1_epi64(1LL << (shift - 1)));
    return _mm512_max_epi64(_mm512_min_epi64(_mm512_sra_epi64(sum, _mm_cvtsi32_si128(shift)), limit), least);
}

VNNI512 void eser_rescale_vnni512(int32_t *out, const int32_t *acc, const int32_t *bias, const int32_t *multiplier, int32_t shift) {
    const __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(acc), _mm512_loadu_si512(bias)), m = _mm512_loadu_si512(multiplier);
    const __m512i even = rescaled(_mm512_mul_epi32(sum, m), shift);
    const __m512i odd = rescaled(_mm512_mul_epi32(_mm512_srli_epi64(sum, 32), _mm512_srli_epi64(m, 32)), shift);
    _mm512_storeu_si512(out, _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)));
}

VNNI512 void eser_activate_vnni512(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                                   const int32_t *multiplier, int32_t keep) {
    const __m512i of_bias = _mm512_loadu_si512(bias), of_multiplier = twice(multiplier);
    for (int32_t p = 0; p < n; p++, acc += pool * ESER_PANEL, out += out_step) {
        __m512i sum = _mm512_loadu_si512(acc);
        if (pool == 2)
            sum = _mm512_max_epi32(sum, _mm512_loadu_si512(acc + ESER_PANEL));
        activate(out, _mm512_add_epi32(sum, of_bias), of_multiplier, keep);
    }
}
#endif
