/* Four rows of a 3x3 convolution and their pooling at once, by Winograd's F(4x4, 3x3), for x86-64 with AVX2,
 * AVX-VNNI or AVX-512 VNNI, and for 64-bit Arm.
 *
 * Sixteen outputs, 2x2 pooling windows, from 6x6 inputs with 36 products a channel instead of 144 (Lavin & Gray, CVPR 2016):
 *
 *          | 4  0 -5  0  1  0 |         | 6  0  0 |          | 1 -4 -4  1  1  0 |  24
 *          | 0 -4 -4  1  1  0 |         | 1  1  1 |     A' = | 0 -2  2  1 -1  0 |  12
 *     B' = | 0  4 -4 -1  1  0 |     G = | 1 -1  1 |          | 0 -1 -1  1  1  0 |  6
 *          | 0 -2 -1  2  1  0 |         | 1  2  4 |          | 0 -1  1  2 -2  1 |  6
 *          | 0  2 -1 -2  1  0 |         | 1 -2  4 |
 *          | 0  4  0 -5  0  1 |         | 0  0  6 |
 *
 * Of inputs d and weights g, A' [sum over channels of (G g G') * (B' d B)] A holds the outputs, times the numbers on the right for
 * their row and their column: the fractions of the usual matrices, cleared. All of it is an integer, so the bits are those of the
 * convolution itself: B' d B lies within 25 500 and G g G' within 6223; sums may wrap around 2^32, but an output within 25 bits times
 * 9 * 2^6 at most is found again by the inverse of 9 modulo 2^32 and a shift.
 */
#include <string.h>

#include "eser_parts.h"

#define PRODUCTS 36

#ifdef ESER_NEON
#define AT(output, channel) ((channel) * ESER_PANEL + (output))
#else
#define AT(output, channel) (2 * (output) + (channel))
#endif

size_t eser_winograd_size(const eser_model *model, const eser_kernels *kernels, int i) {
    const eser_layer *layer = &model->conv[i];
    return kernels->winograd == NULL ? 0 : (size_t)PRODUCTS * (size_t)(layer->n_in / 9) * (size_t)layer->n_out;
}

/* G x of three numbers that lie a step apart. */
static void spread(const int32_t *x, int32_t step, int32_t *out) {
    const int32_t a = x[0], b = x[step], c = x[2 * step];
    const int32_t of[6] = {6 * a, a + b + c, a - b + c, a + 2 * b + 4 * c, a - 2 * b + 4 * c, 6 * c};
    memcpy(out, of, sizeof of);
}

/* [panel][36 products][channels / 2], and of two channels [16 outputs][2] or, for Arm, [2][16 outputs]. */
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
                        out[((6 * r + s) * channels / 2 + c / 2) * 2 * ESER_PANEL + AT(o, c % 2)] = (int16_t)rows[s];
                }
            }
    }
}

#if defined(ESER_X86) || defined(ESER_NEON)

#define INLINE static inline __attribute__((always_inline))
#define MOST_TILES 5 /* side by side: what they take stays near the processor */
#define MOST_CHANNELS 64

typedef struct {
    int16_t rows[6][4 * MOST_TILES + 2][16];               /* of sixteen channels, transformed down the columns */
    int16_t inputs[PRODUCTS * MOST_TILES * MOST_CHANNELS]; /* [36][tiles][channels] */
    int32_t products[PRODUCTS * MOST_TILES * ESER_PANEL];  /* [36][tiles][16 outputs] */
    int32_t pooled[2][2 * MOST_TILES * ESER_PANEL];        /* [rows][columns][16 outputs] */
} workspace;

#ifdef ESER_X86
#include <immintrin.h>
#define TARGET __attribute__((target("avx2")))
#define BYTES 32 /* of a vector */
#else
#include <arm_neon.h>
#define TARGET
#define BYTES 16
#endif

/* Vectors of the compiler's own: sums of 32 bits wrap around, so they have no sign until they are shifted. */
typedef int16_t shorts __attribute__((vector_size(BYTES)));
typedef uint32_t words __attribute__((vector_size(BYTES)));
typedef int32_t signed_words __attribute__((vector_size(BYTES)));
/* The same where they lie in memory, of any alignment. */
typedef int16_t shorts_there __attribute__((vector_size(BYTES), aligned(1), may_alias));
typedef uint32_t words_there __attribute__((vector_size(BYTES), aligned(1), may_alias));
typedef int32_t signed_words_there __attribute__((vector_size(BYTES), aligned(1), may_alias));
#define SHORTS (BYTES / 2)
#define WORDS (BYTES / 4)

TARGET INLINE void load_levels(const uint8_t *from, shorts *to) {
#ifdef ESER_X86
    *to = (shorts)_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
#else
    *to = (shorts)vmovl_u8(vld1_u8(from));
#endif
}

TARGET INLINE void keep_larger(signed_words *x, signed_words y) {
#ifdef ESER_X86
    *x = (signed_words)_mm256_max_epi32((__m256i)*x, (__m256i)y);
#else
    *x = (signed_words)vmaxq_s32((int32x4_t)*x, (int32x4_t)y);
#endif
}

/* B' x. */
TARGET INLINE void transform(const shorts *x, shorts *out) {
    const shorts a = x[4] - (x[2] << 2), b = x[3] - (x[1] << 2), c = x[4] - x[2], d = (x[3] - x[1]) << 1;
    out[0] = ((x[0] - x[2]) << 2) + c;
    out[1] = a + b;
    out[2] = a - b;
    out[3] = c + d;
    out[4] = c - d;
    out[5] = x[5] - x[3] - (d << 1);
}

/* B' d B of some tiles, whose first inputs lie at the offsets, n_columns from the first to past the last. */
TARGET INLINE void transform_tiles(const uint8_t *const *rows, const int32_t *offsets, int32_t tiles, int32_t n_columns,
                                 int32_t channels, workspace *work) {
    shorts x[6], y[6];
    for (int32_t c = 0; c < channels; c += SHORTS) {
        for (int32_t column = 0; column < n_columns; column++) {
            for (int r = 0; r < 6; r++)
                load_levels(rows[r] + (offsets[0] + column) * channels + c, &x[r]);
            transform(x, y);
            for (int r = 0; r < 6; r++)
                *(shorts_there *)work->rows[r][column] = y[r];
        }
        for (int32_t t = 0; t < tiles; t++)
            for (int r = 0; r < 6; r++) {
                for (int s = 0; s < 6; s++)
                    x[s] = *(const shorts_there *)work->rows[r][offsets[t] - offsets[0] + s];
                transform(x, y);
                for (int s = 0; s < 6; s++)
                    *(shorts_there *)(work->inputs + ((6 * r + s) * tiles + t) * channels + c) = y[s];
            }
    }
}

/* A' x. */
TARGET INLINE void gather(const words *x, words *out) {
    const words a = x[1] + x[2], b = x[1] - x[2], c = x[3] + x[4], d = x[3] - x[4];
    out[0] = x[0] - (a << 2) + c;
    out[1] = d - (b << 1);
    out[2] = c - a;
    out[3] = (d << 1) - b + x[5];
}

/* The four pooling windows of a tile, of WORDS of its outputs. */
TARGET INLINE void pool(const int32_t *products, int32_t far, int32_t *upper, int32_t *lower) {
    static const int shift[4] = {3, 2, 1, 1};
    words x[6], y[6][4], z[4][4];
    signed_words largest[2][2];
    for (int s = 0; s < 6; s++) {
        for (int r = 0; r < 6; r++)
            x[r] = *(const words_there *)(products + (6 * r + s) * far);
        gather(x, y[s]);
    }
    for (int r = 0; r < 4; r++) {
        for (int s = 0; s < 6; s++)
            x[s] = y[s][r];
        gather(x, z[r]);
    }
    for (int r = 0; r < 4; r++)
        for (int s = 0; s < 4; s++) {
            /* 9 * 2^shift times an output, modulo 2^32, becomes 2^6 times it. */
            const signed_words output = (signed_words)(z[r][s] * (0x38e38e39u << (6 - shift[r] - shift[s])));
            if (r % 2 == 0 && s % 2 == 0)
                largest[r / 2][s / 2] = output;
            else
                keep_larger(&largest[r / 2][s / 2], output);
        }
    for (int s = 0; s < 2; s++) {
        *(signed_words_there *)(upper + s * ESER_PANEL) = largest[0][s] >> 6;
        *(signed_words_there *)(lower + s * ESER_PANEL) = largest[1][s] >> 6;
    }
}

typedef void multiply_tiles(int32_t *out, const int16_t *x, int32_t channels, int32_t tiles, const int16_t *w);
typedef void activate_rows(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                           const int32_t *multiplier, int32_t keep);

TARGET INLINE void winograd(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer,
                            const int16_t *weights, multiply_tiles *multiply, activate_rows *activate) {
    workspace work __attribute__((aligned(64))); /* or what is written would lie on two lines of the cache */
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
                for (int half = 0; half < ESER_PANEL; half += WORDS) {
                    const int32_t to = (at[t] - at[0]) / 2 * ESER_PANEL + half;
                    pool(work.products + t * ESER_PANEL + half, size * ESER_PANEL, work.pooled[0] + to, work.pooled[1] + to);
                }
            for (int r = 0; r < 2; r++)
                activate(out[r] + at[0] / 2 * layer->n_out + o, layer->n_out, work.pooled[r], n_pooled, 1, layer->bias + o,
                         layer->multiplier + o, 0);
        }
        first += size;
    }
}

/* Blocks of one to MOST_TILES tiles, a constant for the compiler. */
#define BY_TILES(block)                                     \
    switch (tiles) {                                        \
    case 1: block(out, x, channels, w, 1); break;           \
    case 2: block(out, x, channels, w, 2); break;           \
    case 3: block(out, x, channels, w, 3); break;           \
    case 4: block(out, x, channels, w, 4); break;           \
    default: block(out, x, channels, w, 5); break;          \
    }

#ifdef ESER_X86
/* Sums over the channels for n tiles, a constant of at most 5, and 16 outputs, some pairs of channels at a time.
 * ADD_PAIR(sum, x, w): to the sums are added the products of the two numbers at x. Where there are registers for that, each of these
 * pairs has its sums: few of them would wait for each other. */
#define BLOCK(name, target, vector, pairs, own_sums, ADD_PAIR, activate)                                                     \
    target INLINE void block_##name(int32_t *out, const int16_t *x, int32_t channels, const int16_t *w, const int n) {       \
        enum { LONG = sizeof(vector) / 4, PARTS = ESER_PANEL / LONG };                                                       \
        vector sum[2][5][PARTS];                                                                                             \
        for (int t = 0; t < n; t++)                                                                                          \
            for (int part = 0; part < PARTS; part++)                                                                         \
                sum[0][t][part] = sum[1][t][part] = (vector){0};                                                             \
        for (int32_t c = 0; c < channels; c += 2 * pairs, w += 2 * pairs * ESER_PANEL)                                       \
            for (int pair = 0; pair < pairs; pair++)                                                                         \
                for (int t = 0; t < n; t++)                                                                                  \
                    for (int part = 0; part < PARTS; part++)                                                                 \
                        ADD_PAIR(sum[(own_sums) ? pair : 0][t][part], x + t * channels + c + 2 * pair,                       \
                                 *(const vector##_there *)(w + 2 * (ESER_PANEL * pair + LONG * part)));                      \
        for (int t = 0; t < n; t++)                                                                                          \
            for (int part = 0; part < PARTS; part++)                                                                         \
                *(vector##_there *)(out + t * ESER_PANEL + LONG * part) = sum[0][t][part] + sum[1][t][part];                 \
    }                                                                                                                        \
    target static void multiply_##name(int32_t *out, const int16_t *x, int32_t channels, int32_t tiles, const int16_t *w) {  \
        BY_TILES(block_##name)                                                                                               \
    }                                                                                                                        \
    target void eser_winograd_##name(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer,    \
                                     const int16_t *weights) {                                                               \
        winograd(out, rows, n, layer, weights, multiply_##name, activate);                                                   \
    }

typedef uint32_t wide_words __attribute__((vector_size(64)));
typedef uint32_t wide_words_there __attribute__((vector_size(64), aligned(1), may_alias));

INLINE int32_t two_at(const int16_t *x) {
    int32_t two;
    memcpy(&two, x, sizeof two);
    return two;
}

#define MULTIPLY_AND_ADD(sum, x, w) (sum += (words)_mm256_madd_epi16(_mm256_set1_epi32(two_at(x)), (__m256i)(w)))
BLOCK(avx2, TARGET, words, 1, 0, MULTIPLY_AND_ADD, eser_activate_avx2)
/* Written for the assembler: GCC 12 would keep the sums in memory. */
#if ESER_HAS_AVXVNNI
#define ADD_16(sum, x, w) __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(_mm256_set1_epi32(two_at(x))), "x"(w))
BLOCK(vnni, __attribute__((target("avx2,avxvnni"))), words, 2, n <= 3, ADD_16, eser_activate_avx2)
#endif
#define ADD_32(sum, x, w) __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*(const int16_t(*)[2])(x)))
BLOCK(vnni512, __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni"))), wide_words, 2, 1, ADD_32, eser_activate_vnni512)
#else
/* Sums over the channels, a multiple of 8, for n tiles, a constant of at most 5, and 16 outputs. */
INLINE void block_neon(int32_t *out, const int16_t *x, int32_t channels, const int16_t *w, const int n) {
    int32x4_t sum[5][4];
    int16x8_t inputs[5];
    for (int t = 0; t < n; t++)
        for (int i = 0; i < 4; i++)
            sum[t][i] = vdupq_n_s32(0);
#define ADD_PRODUCTS(lane)                                                                  \
    do {                                                                                    \
        const int16x8_t w0 = vld1q_s16(w), w1 = vld1q_s16(w + 8);                           \
        for (int t = 0; t < n; t++) {                                                       \
            sum[t][0] = vmlal_laneq_s16(sum[t][0], vget_low_s16(w0), inputs[t], lane);      \
            sum[t][1] = vmlal_high_laneq_s16(sum[t][1], w0, inputs[t], lane);               \
            sum[t][2] = vmlal_laneq_s16(sum[t][2], vget_low_s16(w1), inputs[t], lane);      \
            sum[t][3] = vmlal_high_laneq_s16(sum[t][3], w1, inputs[t], lane);               \
        }                                                                                   \
        w += ESER_PANEL;                                                                    \
    } while (0)
    for (int32_t c = 0; c < channels; c += 8) {
        for (int t = 0; t < n; t++)
            inputs[t] = vld1q_s16(x + t * channels + c);
        ADD_PRODUCTS(0);
        ADD_PRODUCTS(1);
        ADD_PRODUCTS(2);
        ADD_PRODUCTS(3);
        ADD_PRODUCTS(4);
        ADD_PRODUCTS(5);
        ADD_PRODUCTS(6);
        ADD_PRODUCTS(7);
    }
    for (int t = 0; t < n; t++)
        for (int i = 0; i < 4; i++)
            vst1q_s32(out + t * ESER_PANEL + 4 * i, sum[t][i]);
}

static void multiply_neon(int32_t *out, const int16_t *x, int32_t channels, int32_t tiles, const int16_t *w) {
    BY_TILES(block_neon)
}

void eser_winograd_neon(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer,
                        const int16_t *weights) {
    winograd(out, rows, n, layer, weights, multiply_neon, eser_activate_neon);
}
#endif
#endif
