/* The inner loops for WebAssembly's 128-bit vectors. Products of 16-bit numbers are added in pairs: exact. */
#include "eser_parts.h"

#ifdef ESER_WASM
#include <string.h>
#include <wasm_simd128.h>

#define INLINE static inline __attribute__((always_inline))
#define N_SUMS 8 /* vectors of sums: two to a channel, 16 channels */

/* Two to a channel become one. */
INLINE void store_sums(int32_t *acc, const v128_t *sum) {
    for (int i = 0; i < 4; i++)
        wasm_v128_store(acc + 4 * i, wasm_i32x4_add(wasm_i32x4_shuffle(sum[2 * i], sum[2 * i + 1], 0, 2, 4, 6),
                                                    wasm_i32x4_shuffle(sum[2 * i], sum[2 * i + 1], 1, 3, 5, 7)));
}

/* n positions, a constant of at most 2. */
INLINE void block(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t offset,
                  const int8_t *w, const int n) {
    v128_t sum[2][N_SUMS];
    for (int p = 0; p < n; p++)
        for (int i = 0; i < N_SUMS; i++)
            sum[p][i] = wasm_i32x4_splat(0);
    for (int32_t r = 0; r < n_runs; r++) {
        const uint8_t *x = runs[r] + offset;
        for (int32_t k = 0; k < run; k += 4, w += 4 * ESER_PANEL) {
            v128_t four[2];
            for (int p = 0; p < n; p++)
                four[p] = wasm_u16x8_extend_low_u8x16(wasm_v128_load32_splat(x + p * step + k));
            for (int i = 0; i < N_SUMS; i++) {
                const v128_t weights = wasm_i16x8_load8x8(w + 8 * i);
                for (int p = 0; p < n; p++)
                    sum[p][i] = wasm_i32x4_add(sum[p][i], wasm_i32x4_dot_i16x8(weights, four[p]));
            }
        }
    }
    for (int p = 0; p < n; p++)
        store_sums(acc + p * ESER_PANEL, sum[p]);
}

static void dot(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                const int8_t *panel) {
    int32_t p = 0;
    for (; p + 2 <= n; p += 2)
        block(acc + p * ESER_PANEL, runs, n_runs, run, step, p * step, panel, 2);
    if (p < n)
        block(acc + p * ESER_PANEL, runs, n_runs, run, step, p * step, panel, 1);
}

static void dot_16(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel) {
    v128_t sum[N_SUMS];
    for (int i = 0; i < N_SUMS; i++)
        sum[i] = wasm_i32x4_splat(0);
    for (int32_t k = 0; k < n; k += 4, panel += 4 * ESER_PANEL) {
        const v128_t four = wasm_v128_load64_splat(x + k);
        for (int i = 0; i < N_SUMS; i++)
            sum[i] = wasm_i32x4_add(sum[i], wasm_i32x4_dot_i16x8(wasm_i16x8_load8x8(panel + 8 * i), four));
    }
    store_sums(acc, sum);
}

uint32_t eser_kernels_simd(const eser_kernels **found) {
    static const eser_kernels wasm = {
        .name = "wasm",
        .dot = dot,
        .dot_wide = dot,
        .dot_16 = dot_16,
        .activate = eser_activate_scalar,
        .rescale = eser_rescale_scalar,
        .gru_step = eser_gru_step_scalar,
        .features = eser_features_scalar,
        .quantise = eser_quantise_scalar,
    };
    found[0] = &wasm;
    return 1;
}
#endif
