/* A `dot` for x86-64, of which eser_kernels_x86.c makes one per instruction set; it defines before each inclusion
 *     DOT                     its name
 *     TARGET                  the attribute that allows its instructions
 *     ACCUMULATE(sum, x, w)   sum + the dot products, four bytes each, of u8 x and s8 w
 */
#define PASTE(a, b) a##b
#define NAMED(a, b) PASTE(a, b)

/* n positions, a constant of at most 6: their 12 sums, 2 registers of weights and one of inputs are what there is. */
TARGET INLINE void NAMED(DOT, _block)(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step,
                                      int32_t offset, const int8_t *w, const int n) {
    __m256i sum[6][2];
    for (int p = 0; p < n; p++)
        sum[p][0] = sum[p][1] = _mm256_setzero_si256();
    for (int32_t r = 0; r < n_runs; r++) {
        const uint8_t *x = runs[r] + offset;
        for (int32_t k = 0; k < run; k += 4, w += 4 * ESER_PANEL) {
            const __m256i w0 = load(w), w1 = load(w + 32);
            for (int p = 0; p < n; p++) {
                const __m256i four = _mm256_set1_epi32(four_bytes(x + p * step + k));
                sum[p][0] = ACCUMULATE(sum[p][0], four, w0);
                sum[p][1] = ACCUMULATE(sum[p][1], four, w1);
            }
        }
    }
    for (int p = 0; p < n; p++) {
        store(acc + p * ESER_PANEL, sum[p][0]);
        store(acc + p * ESER_PANEL + 8, sum[p][1]);
    }
}

TARGET static void DOT(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                       const int8_t *panel) {
    /* Blocks as even as they come: one of one position takes nearly as long as one of six. */
    for (int32_t p = 0, blocks = (n + 5) / 6; blocks > 0; blocks--) {
        const int32_t size = (n - p + blocks - 1) / blocks;
        switch (size) {
        case 1: NAMED(DOT, _block)(acc, runs, n_runs, run, step, p * step, panel, 1); break;
        case 2: NAMED(DOT, _block)(acc, runs, n_runs, run, step, p * step, panel, 2); break;
        case 3: NAMED(DOT, _block)(acc, runs, n_runs, run, step, p * step, panel, 3); break;
        case 4: NAMED(DOT, _block)(acc, runs, n_runs, run, step, p * step, panel, 4); break;
        case 5: NAMED(DOT, _block)(acc, runs, n_runs, run, step, p * step, panel, 5); break;
        default: NAMED(DOT, _block)(acc, runs, n_runs, run, step, p * step, panel, 6); break;
        }
        acc += size * ESER_PANEL;
        p += size;
    }
}

#undef DOT
#undef TARGET
#undef ACCUMULATE
#undef PASTE
#undef NAMED
