/* Four rows of a 3x3 convolution and their pooling at once, by Winograd's F(4x4, 3x3), for x86-64 with AVX2,
 * and with the dot products of AVX-512 VNNI.
 *
 * Sixteen outputs, 2x2 pooling windows, from 6x6 inputs with 36 products a channel instead of 144 (Lavin & Gray, CVPR 2016):
 *
 *          | 4  0 -5  0  1  0 |         | 1  0  0 |          | 6 -4 -4  1  1  0 |  24
 *          | 0 -4 -4  1  1  0 |         | 1  1  1 |     A' = | 0 -2  2  1 -1  0 |  12
 *     B' = | 0  4 -4 -1  1  0 |     G = | 1 -1  1 |          | 0 -1 -1  1  1  0 |  6
 *          | 0 -2 -1  2  1  0 |         | 1  2  4 |          | 0 -1  1  2 -2  6 |  6
 *          | 0  2 -1 -2  1  0 |         | 1 -2  4 |
 *          | 0  4  0 -5  0  1 |         | 0  0  1 |
 *
 * Of inputs d and weights g, A' [sum over channels of (G g G') * (B' d B)] A holds the outputs, times the numbers on the right for
 * their row and their column: the fractions of the usual matrices, cleared. All of it is an integer, so the bits are those of the
 * convolution itself: B' d B lies within 25 500 and G g G' within 6223; sums may wrap around 2^32, but an output within 25 bits times
 * 9 * 2^6 at most is found again by the inverse of 9 modulo 2^32 and a shift.
 */
#include <string.h>

#include "eser_parts.h"

#define PRODUCTS 36

size_t eser_winograd_size(const eser_model *model, const eser_kernels *kernels, int i) {
    const eser_layer *layer = &model->conv[i];
    return kernels->winograd == NULL ? 0 : (size_t)PRODUCTS * (size_t)(layer->n_in / 9) * (size_t)layer->n_out;
}

/* G x of three numbers that lie a step apart. */
static void spread(const int32_t *x, int32_t step, int32_t *out) {
    const int32_t a = x[0], b = x[step], c = x[2 * step];
    const int32_t of[6] = {a, a + b + c, a - b + c, a + 2 * b + 4 * c, a - 2 * b + 4 * c, c};
    memcpy(out, of, sizeof of);
}

/* [panel][36 products][channels / 2][16 outputs][2] */
void eser_winograd_weights(const eser_model *model, int i, int16_t *out) {
    const eser_layer *layer = &model->conv[i];
    const int32_t channels = layer->n_in / 9;
    for (int32_t panel = 0; panel < layer->n_out; panel += ESER_PANEL, out += PRODUCTS * channels * ESER_PANEL) {
        const int8_t *weight = layer->weight + panel * layer->n_in;
        for (int32_t c = 0; c < channels; c++)
            for (int32_t o = 0; o < ESER_PANEL; o++) {
                int32_t g[9], columns[3][6], rows[6];
                for (int32_t k = 0; k < 9; k++) {
                    const int32_t input = k * channels + c;
                    g[k] = weight[(input / 4 * ESER_PANEL + o) * 4 + input % 4];
                }
                for (int s = 0; s < 3; s++)
                    spread(g + s, 3, columns[s]);
                for (int r = 0; r < 6; r++) {
                    spread(&columns[0][r], 6, rows);
                    for (int s = 0; s < 6; s++)
                        out[((6 * r + s) * channels / 2 + c / 2) * 2 * ESER_PANEL + 2 * o + c % 2] = (int16_t)rows[s];
                }
            }
    }
}

#ifdef ESER_X86
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define AVX2 __attribute__((target("avx2")))

#define MOST_TILES 5 /* side by side: what they take stays near the processor */
#define MOST_CHANNELS 64

typedef struct {
    int16_t rows[6][4 * MOST_TILES + 2][16];               /* of sixteen channels, transformed down the columns */
    int16_t inputs[PRODUCTS * MOST_TILES * MOST_CHANNELS]; /* [36][tiles][channels] */
    int32_t products[PRODUCTS * MOST_TILES * ESER_PANEL];  /* [36][tiles][16 outputs] */
    int32_t pooled[2][2 * MOST_TILES * ESER_PANEL];        /* [rows][columns][16 outputs] */
} workspace;

AVX2 INLINE __m256i load(const void *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}

AVX2 INLINE void store(void *to, __m256i x) {
    _mm256_storeu_si256((__m256i *)to, x);
}

/* B' x. */
AVX2 INLINE void transform(const __m256i *x, __m256i *out) {
    const __m256i a = _mm256_sub_epi16(x[4], _mm256_slli_epi16(x[2], 2)), b = _mm256_sub_epi16(x[3], _mm256_slli_epi16(x[1], 2));
    const __m256i c = _mm256_sub_epi16(x[4], x[2]), d = _mm256_slli_epi16(_mm256_sub_epi16(x[3], x[1]), 1);
    out[0] = _mm256_add_epi16(_mm256_slli_epi16(_mm256_sub_epi16(x[0], x[2]), 2), c);
    out[1] = _mm256_add_epi16(a, b);
    out[2] = _mm256_sub_epi16(a, b);
    out[3] = _mm256_add_epi16(c, d);
    out[4] = _mm256_sub_epi16(c, d);
    out[5] = _mm256_add_epi16(_mm256_slli_epi16(_mm256_sub_epi16(x[1], x[3]), 2), _mm256_sub_epi16(x[5], x[3]));
}

/* B' d B of some tiles, whose first inputs lie at the offsets, n_columns from the first to past the last. */
AVX2 static void transform_tiles(const uint8_t *const *rows, const int32_t *offsets, int32_t tiles, int32_t n_columns,
                                 int32_t channels, workspace *work) {
    __m256i x[6], y[6];
    for (int32_t c = 0; c < channels; c += 16) {
        for (int32_t column = 0; column < n_columns; column++) {
            for (int r = 0; r < 6; r++)
                x[r] = _mm256_cvtepu8_epi16(
                    _mm_loadu_si128((const __m128i *)(rows[r] + (offsets[0] + column) * channels + c)));
            transform(x, y);
            for (int r = 0; r < 6; r++)
                store(work->rows[r][column], y[r]);
        }
        for (int32_t t = 0; t < tiles; t++)
            for (int r = 0; r < 6; r++) {
                for (int s = 0; s < 6; s++)
                    x[s] = load(work->rows[r][offsets[t] - offsets[0] + s]);
                transform(x, y);
                for (int s = 0; s < 6; s++)
                    store(work->inputs + ((6 * r + s) * tiles + t) * channels + c, y[s]);
            }
    }
}

/* Sums over the channels for n tiles, a constant of at most 5, and 16 outputs. */
AVX2 INLINE void block_avx2(int32_t *out, const int16_t *x, int32_t channels, const int16_t *w, const int n) {
    __m256i sum[5][2];
    for (int t = 0; t < n; t++)
        sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    for (int32_t c = 0; c < channels; c += 2, w += 2 * ESER_PANEL) {
        const __m256i w0 = load(w), w1 = load(w + ESER_PANEL);
        for (int t = 0; t < n; t++) {
            int32_t pair;
            memcpy(&pair, x + t * channels + c, sizeof pair);
            const __m256i two = _mm256_set1_epi32(pair);
            sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(two, w0));
            sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(two, w1));
        }
    }
    for (int t = 0; t < n; t++) {
        store(out + t * ESER_PANEL, sum[t][0]);
        store(out + t * ESER_PANEL + 8, sum[t][1]);
    }
}

AVX2 static void multiply_avx2(int32_t *out, const int16_t *x, int32_t channels, int32_t tiles, const int16_t *w) {
    switch (tiles) {
    case 1: block_avx2(out, x, channels, w, 1); break;
    case 2: block_avx2(out, x, channels, w, 2); break;
    case 3: block_avx2(out, x, channels, w, 3); break;
    case 4: block_avx2(out, x, channels, w, 4); break;
    default: block_avx2(out, x, channels, w, 5); break;
    }
}

/* The same, 32 products and their sums an instruction. Written for the assembler: GCC 12 would keep the sums in memory. */
#define VNNI512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")))
#define ADD_PRODUCTS(t)                                   \
    if (n > t)                                            \
        __asm__("vpdpwssd %2%{1to16%}, %1, %0"            \
                : "+v"(sum##t)                            \
                : "v"(weights), "m"(*(const int32_t *)(x + t * channels + c)))
#define STORE_SUM(t) \
    if (n > t)       \
        _mm512_storeu_si512(out + t * ESER_PANEL, sum##t)
VNNI512 INLINE void block_vnni512(int32_t *out, const int16_t *x, int32_t channels, const int16_t *w, const int n) {
    __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0, sum4 = sum0;
    for (int32_t c = 0; c < channels; c += 2, w += 2 * ESER_PANEL) {
        const __m512i weights = _mm512_loadu_si512(w);
        ADD_PRODUCTS(0);
        ADD_PRODUCTS(1);
        ADD_PRODUCTS(2);
        ADD_PRODUCTS(3);
        ADD_PRODUCTS(4);
    }
    STORE_SUM(0);
    STORE_SUM(1);
    STORE_SUM(2);
    STORE_SUM(3);
    STORE_SUM(4);
}

VNNI512 static void multiply_vnni512(int32_t *out, const int16_t *x, int32_t channels, int32_t tiles, const int16_t *w) {
    switch (tiles) {
    case 1: block_vnni512(out, x, channels, w, 1); break;
    case 2: block_vnni512(out, x, channels, w, 2); break;
    case 3: block_vnni512(out, x, channels, w, 3); break;
    case 4: block_vnni512(out, x, channels, w, 4); break;
    default: block_vnni512(out, x, channels, w, 5); break;
    }
}

/* A' x. */
AVX2 INLINE void gather(const __m256i *x, __m256i *out) {
    const __m256i a = _mm256_add_epi32(x[1], x[2]), b = _mm256_sub_epi32(x[1], x[2]);
    const __m256i c = _mm256_add_epi32(x[3], x[4]), d = _mm256_sub_epi32(x[3], x[4]);
    const __m256i six0 = _mm256_slli_epi32(_mm256_add_epi32(x[0], _mm256_slli_epi32(x[0], 1)), 1);
    const __m256i six5 = _mm256_slli_epi32(_mm256_add_epi32(x[5], _mm256_slli_epi32(x[5], 1)), 1);
    out[0] = _mm256_add_epi32(_mm256_sub_epi32(six0, _mm256_slli_epi32(a, 2)), c);
    out[1] = _mm256_sub_epi32(d, _mm256_slli_epi32(b, 1));
    out[2] = _mm256_sub_epi32(c, a);
    out[3] = _mm256_add_epi32(_mm256_sub_epi32(_mm256_slli_epi32(d, 1), b), six5);
}

/* An output from what is 9 * 2^shift times it, modulo 2^32. */
AVX2 INLINE __m256i divided(__m256i x, const int shift) {
    return _mm256_srai_epi32(_mm256_mullo_epi32(x, _mm256_set1_epi32(0x38e38e39)), shift);
}

/* The four pooling windows of a tile, of eight of its outputs. */
AVX2 INLINE void pool(const int32_t *products, int32_t far, int32_t *upper, int32_t *lower) {
    static const int shift[4] = {3, 2, 1, 1};
    __m256i x[6], y[6][4], z[4][4];
    for (int s = 0; s < 6; s++) {
        for (int r = 0; r < 6; r++)
            x[r] = load(products + (6 * r + s) * far);
        gather(x, y[s]);
    }
    for (int r = 0; r < 4; r++) {
        for (int s = 0; s < 6; s++)
            x[s] = y[s][r];
        gather(x, z[r]);
        for (int s = 0; s < 4; s++)
            z[r][s] = divided(z[r][s], shift[r] + shift[s]);
    }
    for (int s = 0; s < 2; s++) {
        const int k = 2 * s;
        store(upper + s * ESER_PANEL,
              _mm256_max_epi32(_mm256_max_epi32(z[0][k], z[0][k + 1]), _mm256_max_epi32(z[1][k], z[1][k + 1])));
        store(lower + s * ESER_PANEL,
              _mm256_max_epi32(_mm256_max_epi32(z[2][k], z[2][k + 1]), _mm256_max_epi32(z[3][k], z[3][k + 1])));
    }
}

AVX2 INLINE void winograd(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer,
                          const int16_t *weights,
                          void (*multiply)(int32_t *, const int16_t *, int32_t, int32_t, const int16_t *)) {
    workspace work;
    const int32_t channels = layer->n_in / 9, tiles = (n + 1) / 2;
    for (int32_t first = 0, blocks = (tiles + MOST_TILES - 1) / MOST_TILES; blocks > 0; blocks--) {
        const int32_t size = (tiles - first + blocks - 1) / blocks;
        int32_t at[MOST_TILES]; /* the tiles' columns; where n is odd the last tile overlaps the one before */
        for (int32_t t = 0; t < size; t++)
            at[t] = 4 * (first + t) < 2 * n - 4 ? 4 * (first + t) : 2 * n - 4;
        const int32_t n_columns = at[size - 1] + 6 - at[0], n_pooled = (n_columns - 2) / 2;
        const int16_t *w = weights;
        transform_tiles(rows, at, size, n_columns, channels, &work);
        for (int32_t o = 0; o < layer->n_out; o += ESER_PANEL) {
            for (int k = 0; k < PRODUCTS; k++, w += channels * ESER_PANEL)
                multiply(work.products + k * size * ESER_PANEL, work.inputs + k * size * channels, channels, size, w);
            for (int32_t t = 0; t < size; t++)
                for (int half = 0; half < ESER_PANEL; half += 8) {
                    const int32_t to = (at[t] - at[0]) / 2 * ESER_PANEL + half;
                    pool(work.products + t * ESER_PANEL + half, size * ESER_PANEL, work.pooled[0] + to, work.pooled[1] + to);
                }
            for (int r = 0; r < 2; r++)
                eser_activate_avx2(out[r] + at[0] / 2 * layer->n_out + o, layer->n_out, work.pooled[r], n_pooled, 1,
                                   layer->bias + o, layer->multiplier + o, 0);
        }
        first += size;
    }
}

AVX2 void eser_winograd_avx2(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer,
                             const int16_t *weights) {
    winograd(out, rows, n, layer, weights, multiply_avx2);
}

AVX2 void eser_winograd_vnni512(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer,
                                const int16_t *weights) {
    winograd(out, rows, n, layer, weights, multiply_vnni512);
}
#endif
