/* The inner loops for 64-bit Arm: NEON, which every such processor has, and the dot products that newer ones have.
 *
 * Both multiply signed bytes alone, so inputs enter less 128, and 128 times the sum of a channel's weights is added at the end.
 */
#include "eser_parts.h"

#ifdef ESER_NEON
#include <arm_neon.h>
#include <string.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#else
#include <sys/auxv.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define DOTPROD __attribute__((target("dotprod")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define HWCAP_DOT_PRODUCTS (1ul << 20) /* of Linux */

/* 128 times the sums of the n_in weights of 16 channels. */
INLINE void offsets(int32x4_t *sum, const int8_t *w, int32_t n_in) {
    for (int i = 0; i < 4; i++) {
        int32x4_t all = vdupq_n_s32(0);
        for (int32_t k = 0; k < n_in / 4;) {
            int16x8_t some = vdupq_n_s16(0); /* two halves of a channel; 128 times two weights fit 16 bits */
            for (const int32_t stop = k + 128 < n_in / 4 ? k + 128 : n_in / 4; k < stop; k++)
                some = vpadalq_s8(some, vld1q_s8(w + k * 4 * ESER_PANEL + 16 * i));
            all = vpadalq_s16(all, some);
        }
        sum[i] = vshlq_n_s32(all, 7);
    }
}

/* Inputs less 128. */
INLINE int8x16_t levels_16(const uint8_t *x) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(x), vdupq_n_u8(0x80)));
}

INLINE int8x8_t levels_8(const uint8_t *x) {
    return vreinterpret_s8_u8(veor_u8(vld1_u8(x), vdup_n_u8(0x80)));
}

/* Four inputs, four times over. */
#define FOUR(x, lane) vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane))
#define FOUR_OF_8(x, lane) vreinterpretq_s8_s32(vdupq_lane_s32(vreinterpret_s32_s8(x), lane))

/* n positions, a constant of at most 2: 16 sums, two to a channel. Two products of 128 * 127 add up within 16 bits, and so do four
 * of 128 * 63, what narrow says of the weights. */
INLINE void block_neon(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t offset,
                       const int8_t *w, const int32x4_t *added, const int narrow, const int n) {
    int32x4_t sum[2][8];
    for (int p = 0; p < n; p++)
        for (int i = 0; i < 8; i++)
            sum[p][i] = vdupq_n_s32(0);
    for (int32_t r = 0; r < n_runs; r++) {
        const uint8_t *x = runs[r] + offset;
        int32_t k = 0;
        for (; narrow && k + 16 <= run; k += 16, w += 16 * ESER_PANEL) {
            int8x16_t four[2][4];
            for (int p = 0; p < n; p++) {
                const int8x16_t levels = levels_16(x + p * step + k);
                four[p][0] = FOUR(levels, 0);
                four[p][1] = FOUR(levels, 1);
                four[p][2] = FOUR(levels, 2);
                four[p][3] = FOUR(levels, 3);
            }
            for (int i = 0; i < 4; i++) {
                int16x8_t low[2], high[2];
                for (int j = 0; j < 4; j++) {
                    const int8x16_t weights = vld1q_s8(w + 64 * j + 16 * i);
                    for (int p = 0; p < n; p++) {
                        const int8x8_t half = vget_low_s8(four[p][j]), of_two = vget_low_s8(weights);
                        low[p] = j == 0 ? vmull_s8(of_two, half) : vmlal_s8(low[p], of_two, half);
                        high[p] = j == 0 ? vmull_high_s8(weights, four[p][j]) : vmlal_high_s8(high[p], weights, four[p][j]);
                    }
                }
                for (int p = 0; p < n; p++) {
                    sum[p][2 * i] = vpadalq_s16(sum[p][2 * i], low[p]);
                    sum[p][2 * i + 1] = vpadalq_s16(sum[p][2 * i + 1], high[p]);
                }
            }
        }
        for (; k < run; k += 8, w += 8 * ESER_PANEL)
            for (int p = 0; p < n; p++) {
                const int8x8_t levels = levels_8(x + p * step + k);
                const int8x16_t x0 = FOUR_OF_8(levels, 0), x1 = FOUR_OF_8(levels, 1);
                for (int i = 0; i < 4; i++) {
                    const int8x16_t w0 = vld1q_s8(w + 16 * i), w1 = vld1q_s8(w + 64 + 16 * i);
                    const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(w0), vget_low_s8(x0)), vget_low_s8(w1), vget_low_s8(x1));
                    const int16x8_t high = vmlal_high_s8(vmull_high_s8(w0, x0), w1, x1);
                    sum[p][2 * i] = vpadalq_s16(sum[p][2 * i], low);
                    sum[p][2 * i + 1] = vpadalq_s16(sum[p][2 * i + 1], high);
                }
            }
    }
    for (int p = 0; p < n; p++)
        for (int i = 0; i < 4; i++)
            vst1q_s32(acc + p * ESER_PANEL + 4 * i, vaddq_s32(vpaddq_s32(sum[p][2 * i], sum[p][2 * i + 1]), added[i]));
}

INLINE void positions_neon(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                           const int8_t *panel, const int narrow) {
    int32x4_t added[4];
    offsets(added, panel, n_runs * run);
    int32_t p = 0;
    for (; p + 2 <= n; p += 2)
        block_neon(acc + p * ESER_PANEL, runs, n_runs, run, step, p * step, panel, added, narrow, 2);
    if (p < n)
        block_neon(acc + p * ESER_PANEL, runs, n_runs, run, step, p * step, panel, added, narrow, 1);
}

static void dot_neon(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                     const int8_t *panel) {
    positions_neon(acc, runs, n_runs, run, step, n, panel, 1);
}

static void dot_wide_neon(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                          const int8_t *panel) {
    positions_neon(acc, runs, n_runs, run, step, n, panel, 0);
}

/* n positions, a constant of at most 5: 20 sums, 4 registers of weights, one of inputs a position. */
DOTPROD INLINE void block_dotprod(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step,
                                  int32_t offset, const int8_t *w, const int32x4_t *added, const int n) {
    int32x4_t sum[5][4];
    for (int p = 0; p < n; p++)
        for (int i = 0; i < 4; i++)
            sum[p][i] = added[i];
/* Four inputs, of a lane of levels, against the weights at w. */
#define ADD_PRODUCTS(dot, levels, lane)                                                                          \
    do {                                                                                                         \
        const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16), w2 = vld1q_s8(w + 32), w3 = vld1q_s8(w + 48);   \
        for (int p = 0; p < n; p++) {                                                                            \
            sum[p][0] = dot(sum[p][0], w0, levels[p], lane);                                                     \
            sum[p][1] = dot(sum[p][1], w1, levels[p], lane);                                                     \
            sum[p][2] = dot(sum[p][2], w2, levels[p], lane);                                                     \
            sum[p][3] = dot(sum[p][3], w3, levels[p], lane);                                                     \
        }                                                                                                        \
        w += 4 * ESER_PANEL;                                                                                     \
    } while (0)
    for (int32_t r = 0; r < n_runs; r++) {
        const uint8_t *x = runs[r] + offset;
        int32_t k = 0;
        for (; k + 16 <= run; k += 16) {
            int8x16_t levels[5];
            for (int p = 0; p < n; p++)
                levels[p] = levels_16(x + p * step + k);
            ADD_PRODUCTS(vdotq_laneq_s32, levels, 0);
            ADD_PRODUCTS(vdotq_laneq_s32, levels, 1);
            ADD_PRODUCTS(vdotq_laneq_s32, levels, 2);
            ADD_PRODUCTS(vdotq_laneq_s32, levels, 3);
        }
        if (k < run) {
            int8x8_t levels[5];
            for (int p = 0; p < n; p++)
                levels[p] = levels_8(x + p * step + k);
            ADD_PRODUCTS(vdotq_lane_s32, levels, 0);
            ADD_PRODUCTS(vdotq_lane_s32, levels, 1);
        }
    }
    for (int p = 0; p < n; p++)
        for (int i = 0; i < 4; i++)
            vst1q_s32(acc + p * ESER_PANEL + 4 * i, sum[p][i]);
}

DOTPROD static void dot_dotprod(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                                const int8_t *panel) {
    int32x4_t added[4];
    for (int i = 0; i < 4; i++) {
        int32x4_t less = vdupq_n_s32(0); /* -128 times the sums of the weights */
        for (int32_t k = 0; k < n_runs * run / 4; k++)
            less = vdotq_s32(less, vld1q_s8(panel + k * 4 * ESER_PANEL + 16 * i), vdupq_n_s8(-128));
        added[i] = vnegq_s32(less);
    }
    for (int32_t p = 0, blocks = (n + 4) / 5; blocks > 0; blocks--) {
        const int32_t size = (n - p + blocks - 1) / blocks;
        switch (size) {
        case 1: block_dotprod(acc, runs, n_runs, run, step, p * step, panel, added, 1); break;
        case 2: block_dotprod(acc, runs, n_runs, run, step, p * step, panel, added, 2); break;
        case 3: block_dotprod(acc, runs, n_runs, run, step, p * step, panel, added, 3); break;
        case 4: block_dotprod(acc, runs, n_runs, run, step, p * step, panel, added, 4); break;
        default: block_dotprod(acc, runs, n_runs, run, step, p * step, panel, added, 5); break;
        }
        acc += size * ESER_PANEL;
        p += size;
    }
}

/* A sum of four for every channel, added up at the end. */
static void dot_16_neon(int32_t *acc, const int16_t *x, int32_t n, const int8_t *w) {
    int32x4_t sum[ESER_PANEL];
    for (int o = 0; o < ESER_PANEL; o++)
        sum[o] = vdupq_n_s32(0);
    for (int32_t k = 0; k < n; k += 4) {
        const int16x4_t four = vld1_s16(x + k);
        for (int o = 0; o < ESER_PANEL; o += 2, w += 8) {
            const int16x8_t of_two = vmovl_s8(vld1_s8(w));
            sum[o] = vmlal_s16(sum[o], vget_low_s16(of_two), four);
            sum[o + 1] = vmlal_s16(sum[o + 1], vget_high_s16(of_two), four);
        }
    }
    for (int o = 0; o < ESER_PANEL; o += 4)
        vst1q_s32(acc + o, vpaddq_s32(vpaddq_s32(sum[o], sum[o + 1]), vpaddq_s32(sum[o + 2], sum[o + 3])));
}

INLINE uint16x4_t scaled(int32x4_t a, const int32_t *multiplier) {
    const uint32x4_t positive = vreinterpretq_u32_s32(vmaxq_s32(a, vdupq_n_s32(0)));
    const uint32x4_t factor = vreinterpretq_u32_s32(vld1q_s32(multiplier));
    const uint32x2_t low = vrshrn_n_u64(vmull_u32(vget_low_u32(positive), vget_low_u32(factor)), 31);
    const uint32x2_t high = vrshrn_n_u64(vmull_high_u32(positive, factor), 31);
    return vmovn_u32(vminq_u32(vcombine_u32(low, high), vdupq_n_u32(255)));
}

void eser_activate_neon(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                          const int32_t *multiplier, int32_t keep) {
    for (int32_t p = 0; p < n; p++, acc += pool * ESER_PANEL, out += out_step) {
        uint16x4_t words[4];
        for (int i = 0; i < 4; i++) {
            int32x4_t a = vld1q_s32(acc + 4 * i);
            if (pool == 2)
                a = vmaxq_s32(a, vld1q_s32(acc + ESER_PANEL + 4 * i));
            words[i] = scaled(vaddq_s32(a, vld1q_s32(bias + 4 * i)), multiplier + 4 * i);
        }
        uint8x16_t levels =
            vcombine_u8(vmovn_u16(vcombine_u16(words[0], words[1])), vmovn_u16(vcombine_u16(words[2], words[3])));
        if (keep)
            levels = vmaxq_u8(levels, vld1q_u8(out));
        vst1q_u8(out, levels);
    }
}

static const eser_kernels NEON_SET = {
    .name = "neon",
    .dot = dot_neon,
    .dot_wide = dot_wide_neon,
    .dot_16 = dot_16_neon,
    .activate = eser_activate_neon,
    .rescale = eser_rescale_scalar,
    .gru_step = eser_gru_step_scalar,
    .features = eser_features_scalar,
    .quantise = eser_quantise_scalar,
    .winograd = eser_winograd_neon,
};
static const eser_kernels DOTPROD_SET = {
    .name = "dotprod",
    .dot = dot_dotprod,
    .dot_wide = dot_dotprod,
    .dot_16 = dot_16_neon,
    .activate = eser_activate_neon,
    .rescale = eser_rescale_scalar,
    .gru_step = eser_gru_step_scalar,
    .features = eser_features_scalar,
    .quantise = eser_quantise_scalar,
};

static int has_dot_products(void) {
#ifdef __APPLE__
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) == 0 && has;
#else
    return (getauxval(AT_HWCAP) & HWCAP_DOT_PRODUCTS) != 0;
#endif
}

uint32_t eser_kernels_simd(const eser_kernels **found) {
    found[0] = &NEON_SET;
    found[1] = &DOTPROD_SET;
    return has_dot_products() ? 2 : 1;
}
#endif
