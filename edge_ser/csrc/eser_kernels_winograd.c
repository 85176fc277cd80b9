/* Two rows of a 3x3 convolution and their pooling at once, by Winograd's F(2x2, 3x3), for x86-64 with AVX2.
 *
 * Four outputs, one pooling window, from 4x4 inputs with 16 products a channel instead of 36 (Lavin & Gray, CVPR 2016): with
 *
 *          | 1  0 -1  0 |         | 2  0  0 |
 *     B' = | 0  1  1  0 |     G = | 1  1  1 |     A' = | 1  1  1  0 |
 *          | 0 -1  1  0 |         | 1 -1  1 |          | 0  1 -1 -1 |
 *          | 0  1  0 -1 |         | 0  0  2 |
 *
 * the outputs Y of inputs d and weights g are 4 Y = A' [sum over channels of (G g G') * (B' d B)] A. With this G, twice the usual one,
 * everything is an integer: B' d B lies within 1020, G g G' within 1143, sums of up to 96 channels fit 32 bits, and 4 divides the
 * result. So the same bits come out as from the convolution itself.
 */
#include <string.h>

#include "eser_parts.h"

#define TRANSFORMED 16 /* products of a tile: [4][4] */

size_t eser_winograd_size(const eser_model *model, const eser_kernels *kernels, int i) {
    const eser_layer *layer = &model->conv[i];
    return kernels->winograd == NULL ? 0 : (size_t)TRANSFORMED * (size_t)(layer->n_in / 9) * (size_t)layer->n_out;
}

/* [panel][16 products][channels / 2][16 outputs][2] */
void eser_winograd_weights(const eser_model *model, int i, int16_t *out) {
    const eser_layer *layer = &model->conv[i];
    const int32_t channels = layer->n_in / 9;
    for (int32_t panel = 0; panel < layer->n_out; panel += ESER_PANEL, out += TRANSFORMED * channels * ESER_PANEL) {
        const int8_t *weight = layer->weight + panel * layer->n_in;
        for (int32_t c = 0; c < channels; c++)
            for (int32_t o = 0; o < ESER_PANEL; o++) {
                int32_t rows[4][3], g[3][3];
                for (int32_t k = 0; k < 9; k++) {
                    const int32_t input = k * channels + c;
                    g[k / 3][k % 3] = weight[(input / 4 * ESER_PANEL + o) * 4 + input % 4];
                }
                for (int s = 0; s < 3; s++) {
                    rows[0][s] = 2 * g[0][s];
                    rows[1][s] = g[0][s] + g[1][s] + g[2][s];
                    rows[2][s] = g[0][s] - g[1][s] + g[2][s];
                    rows[3][s] = 2 * g[2][s];
                }
                for (int r = 0; r < 4; r++) {
                    const int32_t *x = rows[r];
                    const int32_t columns[4] = {2 * x[0], x[0] + x[1] + x[2], x[0] - x[1] + x[2], 2 * x[2]};
                    for (int s = 0; s < 4; s++)
                        out[((4 * r + s) * channels / 2 + c / 2) * 2 * ESER_PANEL + 2 * o + c % 2] = (int16_t)columns[s];
                }
            }
    }
}

#ifdef ESER_X86
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define AVX2 __attribute__((target("avx2")))

#define MOST_TILES 10 /* tiles side by side: what they take stays in the first-level cache */
#define MOST_CHANNELS 80

typedef struct {
    int16_t inputs[TRANSFORMED * MOST_TILES * MOST_CHANNELS]; /* [16][tiles][channels] */
    int32_t products[TRANSFORMED * MOST_TILES * ESER_PANEL];  /* [16][tiles][16 outputs] */
    int32_t largest[MOST_TILES * ESER_PANEL];
} workspace;

/* Sixteen channels of a row of B' d: p - q or p + q. */
AVX2 INLINE __m256i of_rows(const uint8_t *p, const uint8_t *q, const int sum) {
    const __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)q));
    return sum ? _mm256_add_epi16(a, b) : _mm256_sub_epi16(a, b);
}

/* Row r of B' d B of some tiles. */
AVX2 INLINE void transform_row(const uint8_t *p, const uint8_t *q, const int sum, int32_t channels, int32_t tiles, int16_t *out) {
    const int32_t far = tiles * channels;
    for (int32_t c = 0; c < channels; c += 16) {
        __m256i x0 = of_rows(p + c, q + c, sum), x1 = of_rows(p + channels + c, q + channels + c, sum);
        for (int32_t t = 0; t < tiles; t++) {
            const int32_t next = (2 * t + 2) * channels + c;
            const __m256i x2 = of_rows(p + next, q + next, sum), x3 = of_rows(p + next + channels, q + next + channels, sum);
            int16_t *to = out + t * channels + c;
            _mm256_storeu_si256((__m256i *)to, _mm256_sub_epi16(x0, x2));
            _mm256_storeu_si256((__m256i *)(to + far), _mm256_add_epi16(x1, x2));
            _mm256_storeu_si256((__m256i *)(to + 2 * far), _mm256_sub_epi16(x2, x1));
            _mm256_storeu_si256((__m256i *)(to + 3 * far), _mm256_sub_epi16(x1, x3));
            x0 = x2;
            x1 = x3;
        }
    }
}

AVX2 static void transform(const uint8_t *const *rows, int32_t offset, int32_t channels, int32_t tiles, int16_t *out) {
    const uint8_t *d0 = rows[0] + offset, *d1 = rows[1] + offset, *d2 = rows[2] + offset, *d3 = rows[3] + offset;
    const int32_t row = 4 * tiles * channels;
    transform_row(d0, d2, 0, channels, tiles, out);
    transform_row(d1, d2, 1, channels, tiles, out + row);
    transform_row(d2, d1, 0, channels, tiles, out + 2 * row);
    transform_row(d1, d3, 0, channels, tiles, out + 3 * row);
}

/* Sums over the channels for n tiles, a constant of at most 6, and 16 outputs. */
AVX2 INLINE void multiply_block(int32_t *out, const int16_t *x, int32_t channels, const int16_t *w, const int n) {
    __m256i sum[6][2];
    for (int t = 0; t < n; t++)
        sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    for (int32_t c = 0; c < channels; c += 2, w += 2 * ESER_PANEL) {
        const __m256i w0 = _mm256_loadu_si256((const __m256i *)w), w1 = _mm256_loadu_si256((const __m256i *)(w + ESER_PANEL));
        for (int t = 0; t < n; t++) {
            int32_t pair;
            memcpy(&pair, x + t * channels + c, sizeof pair);
            const __m256i two = _mm256_set1_epi32(pair);
            sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(two, w0));
            sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(two, w1));
        }
    }
    for (int t = 0; t < n; t++) {
        _mm256_storeu_si256((__m256i *)(out + t * ESER_PANEL), sum[t][0]);
        _mm256_storeu_si256((__m256i *)(out + t * ESER_PANEL + 8), sum[t][1]);
    }
}

AVX2 static void multiply(int32_t *out, const int16_t *x, int32_t channels, int32_t tiles, const int16_t *w) {
    for (int32_t t = 0, blocks = (tiles + 5) / 6; blocks > 0; blocks--) {
        const int32_t size = (tiles - t + blocks - 1) / blocks;
        switch (size) {
        case 3: multiply_block(out, x, channels, w, 3); break;
        case 4: multiply_block(out, x, channels, w, 4); break;
        case 5: multiply_block(out, x, channels, w, 5); break;
        default: multiply_block(out, x, channels, w, 6); break;
        }
        out += size * ESER_PANEL;
        x += size * channels;
        t += size;
    }
}

/* The largest of the four outputs of every tile, of eight of its channels: A' products A, divided by 4. */
AVX2 INLINE void largest_of_four(int32_t *out, const int32_t *products, int32_t tiles) {
    const int32_t far = tiles * ESER_PANEL;
    for (int32_t i = 0; i < far; i += 8) {
        __m256i upper[4], lower[4];
        for (int s = 0; s < 4; s++) {
            const __m256i *at = (const __m256i *)(products + s * far + i);
            const __m256i m0 = _mm256_loadu_si256(at), m1 = _mm256_loadu_si256((const __m256i *)(products + (4 + s) * far + i));
            const __m256i m2 = _mm256_loadu_si256((const __m256i *)(products + (8 + s) * far + i));
            const __m256i m3 = _mm256_loadu_si256((const __m256i *)(products + (12 + s) * far + i));
            upper[s] = _mm256_add_epi32(_mm256_add_epi32(m0, m1), m2);
            lower[s] = _mm256_sub_epi32(_mm256_sub_epi32(m1, m2), m3);
        }
        const __m256i y00 = _mm256_add_epi32(_mm256_add_epi32(upper[0], upper[1]), upper[2]);
        const __m256i y01 = _mm256_sub_epi32(_mm256_sub_epi32(upper[1], upper[2]), upper[3]);
        const __m256i y10 = _mm256_add_epi32(_mm256_add_epi32(lower[0], lower[1]), lower[2]);
        const __m256i y11 = _mm256_sub_epi32(_mm256_sub_epi32(lower[1], lower[2]), lower[3]);
        const __m256i y = _mm256_max_epi32(_mm256_max_epi32(y00, y01), _mm256_max_epi32(y10, y11));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_srai_epi32(y, 2));
    }
}

AVX2 void eser_winograd_avx2(uint8_t *out, const uint8_t *const *rows, int32_t tiles, const eser_layer *layer, const int16_t *weights) {
    workspace work;
    const int32_t channels = layer->n_in / 9;
    for (int32_t first = 0, blocks = (tiles + MOST_TILES - 1) / MOST_TILES; blocks > 0; blocks--) {
        const int32_t n = (tiles - first + blocks - 1) / blocks;
        const int16_t *w = weights;
        transform(rows, 2 * first * channels, channels, n, work.inputs);
        for (int32_t o = 0; o < layer->n_out; o += ESER_PANEL) {
            for (int k = 0; k < TRANSFORMED; k++, w += channels * ESER_PANEL)
                multiply(work.products + k * n * ESER_PANEL, work.inputs + k * n * channels, channels, n, w);
            largest_of_four(work.largest, work.products, n);
            eser_activate_avx2(out + first * layer->n_out + o, layer->n_out, work.largest, n, 1, layer->bias + o,
                               layer->multiplier + o, 0);
        }
        first += n;
    }
}
#endif
