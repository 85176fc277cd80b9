/* The inner loops for Cortex-M4, M7 and M33, whose registers hold pairs of 16-bit numbers (SMLAD). */
#include "eser_kernels_dsp.h"

#if defined(ESER_HAS_DSP) && !ESER_HAS_HELIUM

#include <string.h>

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

/* Sums and differences of pairs. */
#define OF_TWO_PAIRS(name, instruction)                        \
    static inline uint32_t name(uint32_t x, uint32_t y) {      \
        uint32_t pair;                                         \
        __asm__(instruction : "=r"(pair) : "r"(x), "r"(y));    \
        return pair;                                           \
    }
OF_TWO_PAIRS(sum_of, "sadd16 %0, %1, %2")
OF_TWO_PAIRS(difference, "ssub16 %0, %1, %2")

/* Arguments are in r0..r4; the assembler itself saves r7, which may be the frame pointer, and r9, which may be that of data. */
#define OTHER_REGISTERS "r5", "r6", "r8", "r10", "r11", "r12", "lr", "cc", "memory"

/* Two channels of three positions, or of three tiles of two positions, are added up in r4..r9: lr times n pairs of inputs at r10,
 * [n][3], and of weights at r11, [n][2]. In assembler, because it takes all registers: compilers move sums to the stack and back. */
#define ADD_PRODUCTS(n)          \
    "1: .rept " #n "\n"          \
    "ldmia r10!, {r0, r1, r2}\n" \
    "ldmia r11!, {r3, r12}\n"    \
    "smlad r4, r0, r3, r4\n"     \
    "smlad r5, r0, r12, r5\n"    \
    "smlad r6, r1, r3, r6\n"     \
    "smlad r7, r1, r12, r7\n"    \
    "smlad r8, r2, r3, r8\n"     \
    "smlad r9, r2, r12, r9\n"    \
    ".endr\n"                    \
    "subs lr, lr, #1\n"          \
    "bne 1b\n"

/* acc = the sums of three positions and two channels, that begin with the channels' biases, over inputs [n_pairs][3], weights [n_pairs][2]. */
void eser_add_positions(int32_t *acc, const uint32_t *inputs, const uint32_t *weights, int32_t n_pairs, const int32_t *bias) {
    register int32_t *r0 __asm__("r0") = acc;
    register const uint32_t *r1 __asm__("r1") = inputs, *r2 __asm__("r2") = weights;
    register int32_t r3 __asm__("r3") = n_pairs / 4;
    register const int32_t *r4 __asm__("r4") = bias;
    __asm__ volatile("push {r0, r7, r9}\n"
                     "mov r10, r1\n"
                     "mov r11, r2\n"
                     "mov lr, r3\n"
                     "ldrd r4, r5, [r4]\n"
                     "mov r6, r4\n"
                     "mov r7, r5\n"
                     "mov r8, r4\n"
                     "mov r9, r5\n"
                     ADD_PRODUCTS(4)
                     "pop {r0}\n"
                     "strd r4, r5, [r0]\n"
                     "strd r6, r7, [r0, #64]\n"
                     "strd r8, r9, [r0, #128]\n"
                     "pop {r7, r9}"
                     : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3), "+r"(r4)
                     :
                     : OTHER_REGISTERS);
}

/* Add three tiles' sums of two channels over ESER_PAIRS pairs of inputs to acc. Inputs [4][ESER_PAIRS][3] and weights
 * [4][ESER_PAIRS][2] come in the order plus, minus, right, left. */
void eser_add_tiles(int32_t *acc, const uint32_t *inputs, const uint32_t *weights) {
#define NONE "movs r4, #0\n movs r5, #0\n movs r6, #0\n mov r7, r4\n mov r8, r4\n mov r9, r4\n"
#define ADD_PAIRS "mov lr, #3\n" ADD_PRODUCTS(8)
#define HALF_LESS(x, y) "sub " #x ", " #y ", " #x ", asr #1\n"
#define BEGIN(x, y, at, shift) "ldrd r1, r2, [r0, #" #at "]\n add " #x ", r1, " #x shift "\n add " #y ", r2, " #y shift "\n"
    register int32_t *r0 __asm__("r0") = acc;
    register const uint32_t *r1 __asm__("r1") = inputs, *r2 __asm__("r2") = weights;
    __asm__ volatile("push {r0, r7, r9}\n"
                     "mov r10, r1\n"
                     "mov r11, r2\n"
                     NONE ADD_PAIRS
                     "push {r4-r9}\n"
                     ADD_PAIRS /* plus + minus; from plus, less half of that, (plus - minus) / 2 */
                     "pop {r0-r3, r12, lr}\n"
                     "push {r4-r9}\n"
                     HALF_LESS(r4, r0) HALF_LESS(r5, r1) HALF_LESS(r6, r2) HALF_LESS(r7, r3) HALF_LESS(r8, r12) HALF_LESS(r9, lr)
                     "ldr r0, [sp, #24]\n"
                     BEGIN(r4, r5, 64, "") BEGIN(r6, r7, 192, "") BEGIN(r8, r9, 320, "")
                     ADD_PAIRS
                     "ldr r0, [sp, #24]\n"
                     "strd r4, r5, [r0, #64]\n"
                     "strd r6, r7, [r0, #192]\n"
                     "strd r8, r9, [r0, #320]\n"
                     "pop {r4-r9}\n"
                     BEGIN(r4, r5, 0, ", asr #1") BEGIN(r6, r7, 128, ", asr #1") BEGIN(r8, r9, 256, ", asr #1")
                     ADD_PAIRS
                     "pop {r0}\n"
                     "strd r4, r5, [r0]\n"
                     "strd r6, r7, [r0, #128]\n"
                     "strd r8, r9, [r0, #256]\n"
                     "pop {r7, r9}"
                     : "+r"(r0), "+r"(r1), "+r"(r2)
                     :
                     : "r3", "r4", OTHER_REGISTERS);
}

/* Weights of a whole panel as pairs, [8][n_in / 2][2]. */
void eser_unpack_weights(uint32_t *to, const int8_t *panel, int32_t n_in) {
    for (int32_t o = 0; o < ESER_PANEL / 2; o++)
        for (const int8_t *w = panel + 8 * o, *end = w + n_in * ESER_PANEL; w < end; w += 4 * ESER_PANEL, to += 4) {
            const uint32_t w0 = word(w), w1 = word(w + 4);
            to[0] = even_weights(w0);
            to[1] = even_weights(w1);
            to[2] = odd_weights(w0);
            to[3] = odd_weights(w1);
        }
}

void eser_unpack_inputs(uint32_t *to, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t first) {
    for (int32_t r = 0; r < n_runs; r++)
        for (const uint8_t *x = runs[r] + first * step, *end = x + run; x < end; x += 4, to += 6) {
            const uint32_t a = word(x), b = word(x + step), c = word(x + 2 * step);
            to[0] = even_levels(a);
            to[1] = even_levels(b);
            to[2] = even_levels(c);
            to[3] = odd_levels(a);
            to[4] = odd_levels(b);
            to[5] = odd_levels(c);
        }
}

/* A pair of inputs' weights for two channels, of three columns. */
static inline void transform_pair(uint32_t *to, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t b0, uint32_t b1, uint32_t b2) {
    const uint32_t a = sum_of(a0, a2), b = sum_of(b0, b2);
    to[0] = sum_of(a, a1);
    to[1] = sum_of(b, b1);
    to[2 * ESER_PAIRS] = difference(a, a1);
    to[2 * ESER_PAIRS + 1] = difference(b, b1);
    to[4 * ESER_PAIRS] = a2;
    to[4 * ESER_PAIRS + 1] = b2;
    to[6 * ESER_PAIRS] = a0;
    to[6 * ESER_PAIRS + 1] = b0;
}

/* Weights of a panel for ESER_COLUMN inputs in each of three columns, column bytes apart: [8][4][ESER_PAIRS][2]. */
void eser_transform_weights(uint32_t *to, int32_t part, const int8_t *panel, int32_t column) {
    to += part * ESER_COLUMN;
    for (int32_t o = 0; o < ESER_PANEL; o += 2, panel += 8, to += 8 * ESER_PAIRS)
        for (int32_t k = 0; k < ESER_COLUMN; k += 4) {
            const int8_t *w = panel + k * ESER_PANEL;
            const uint32_t a0 = word(w), a1 = word(w + column), a2 = word(w + 2 * column);
            const uint32_t b0 = word(w + 4), b1 = word(w + column + 4), b2 = word(w + 2 * column + 4);
            transform_pair(to + k, even_weights(a0), even_weights(a1), even_weights(a2), even_weights(b0), even_weights(b1),
                           even_weights(b2));
            transform_pair(to + k + 2, odd_weights(a0), odd_weights(a1), odd_weights(a2), odd_weights(b0), odd_weights(b1),
                           odd_weights(b2));
        }
}

/* ESER_COLUMN inputs in each of the eight columns of three tiles, step bytes apart: [4][ESER_PAIRS][3]. */
void eser_transform_inputs(uint32_t *to, int32_t part, const uint8_t *x, int32_t step) {
    to += part * 3 * ESER_COLUMN / 2;
#define COLUMN(k, of) of##_levels(word(x + (k) * step))
#define TRANSFORM(to, of)                                                                                           \
    do {                                                                                                            \
        const uint32_t d0 = COLUMN(0, of), d1 = COLUMN(1, of), d2 = COLUMN(2, of), d3 = COLUMN(3, of);              \
        const uint32_t d4 = COLUMN(4, of), d5 = COLUMN(5, of), d6 = COLUMN(6, of), d7 = COLUMN(7, of);              \
        (to)[0] = sum_of(d1, d2), (to)[1] = sum_of(d3, d4), (to)[2] = sum_of(d5, d6);                               \
        (to)[3 * ESER_PAIRS] = difference(d2, d1), (to)[3 * ESER_PAIRS + 1] = difference(d4, d3);                   \
        (to)[3 * ESER_PAIRS + 2] = difference(d6, d5), (to)[6 * ESER_PAIRS] = difference(d3, d1);                   \
        (to)[6 * ESER_PAIRS + 1] = difference(d5, d3), (to)[6 * ESER_PAIRS + 2] = difference(d7, d5);               \
        (to)[9 * ESER_PAIRS] = difference(d0, d2), (to)[9 * ESER_PAIRS + 1] = difference(d2, d4);                   \
        (to)[9 * ESER_PAIRS + 2] = difference(d4, d6);                                                              \
    } while (0)
    for (const uint8_t *end = x + ESER_COLUMN; x < end; x += 4, to += 6) {
        TRANSFORM(to, even);
        TRANSFORM(to + 3, odd);
    }
}

/* Two positions and two channels are added up in r4..r7: n bytes, a multiple of 8, from a and b, and n rows of the panel from w on. */
static void add_run(int32_t *sums, const uint8_t *a, const uint8_t *b, const int8_t *w, int32_t n) {
    register int32_t *r0 __asm__("r0") = sums;
    register const uint8_t *r1 __asm__("r1") = a, *r2 __asm__("r2") = b, *r4 __asm__("r4") = a + n;
    register const int8_t *r3 __asm__("r3") = w;
    __asm__ volatile("push {r0, r7, r9}\n"
                     "mov r8, r1\n"
                     "mov r9, r2\n"
                     "mov r10, r3\n"
                     "mov r11, r4\n"
                     "ldmia r0, {r4-r7}\n"
                     "1: .rept 2\n"
                     "ldr r0, [r8], #4\n"
                     "ldr r2, [r9], #4\n"
                     "ldr r12, [r10], #4\n"
                     "uxtb16 r1, r0, ror #8\n"
                     "uxtb16 r0, r0\n"
                     "uxtb16 r3, r2, ror #8\n"
                     "uxtb16 r2, r2\n"
                     "sxtb16 lr, r12\n"
                     "sxtb16 r12, r12, ror #8\n"
                     "smlad r4, r0, lr, r4\n"
                     "smlad r6, r2, lr, r6\n"
                     "smlad r4, r1, r12, r4\n"
                     "smlad r6, r3, r12, r6\n"
                     "ldr r12, [r10], #60\n"
                     "sxtb16 lr, r12\n"
                     "sxtb16 r12, r12, ror #8\n"
                     "smlad r5, r0, lr, r5\n"
                     "smlad r7, r2, lr, r7\n"
                     "smlad r5, r1, r12, r5\n"
                     "smlad r7, r3, r12, r7\n"
                     ".endr\n"
                     "cmp r8, r11\n"
                     "bne 1b\n"
                     "pop {r0}\n"
                     "stmia r0, {r4-r7}\n"
                     "pop {r7, r9}"
                     : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3), "+r"(r4)
                     :
                     : OTHER_REGISTERS);
}

void eser_dot_dsp(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, const int8_t *panel) {
    for (int32_t p = 0; p < n; p += 2, acc += 2 * ESER_PANEL) {
        const int32_t next = p + 1 < n ? 1 : 0; /* an odd last position is its own partner */
        for (int32_t o = 0; o < ESER_PANEL; o += 2) {
            int32_t sums[4] = {0};
            for (int32_t r = 0; r < n_runs; r++)
                add_run(sums, runs[r] + p * step, runs[r] + (p + next) * step, panel + 4 * o + r * run * ESER_PANEL, run);
            acc[o] = sums[0];
            acc[o + 1] = sums[1];
            acc[next * ESER_PANEL + o] = sums[2];
            acc[next * ESER_PANEL + o + 1] = sums[3];
        }
    }
}

static inline int32_t add_products(uint32_t a, uint32_t b, int32_t sum) {
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

/* x's bytes 0, 1 and y's, or x's bytes 2, 3 and y's. */
static inline uint32_t low_halves(uint32_t x, uint32_t y) {
    uint32_t pair;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pair) : "r"(x), "r"(y));
    return pair;
}

static inline uint32_t high_halves(uint32_t x, uint32_t y) {
    uint32_t pair;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(pair) : "r"(y), "r"(x));
    return pair;
}

static inline int32_t add_four(uint32_t even, uint32_t odd, const int8_t *w, int32_t sum) {
    const uint32_t weights = word(w);
    return add_products(odd, odd_weights(weights), add_products(even, even_weights(weights), sum));
}

/* Four channels at a time. */
void eser_dot_16_dsp(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel) {
    for (int32_t o = 0; o < ESER_PANEL; o += 4) {
        const int8_t *w = panel + 4 * o;
        int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
        for (int32_t k = 0; k < n; k += 4, w += 4 * ESER_PANEL) {
            const uint32_t first = word(x + k), last = word(x + k + 2);
            const uint32_t even = low_halves(first, last), odd = high_halves(first, last);
            a0 = add_four(even, odd, w, a0);
            a1 = add_four(even, odd, w + 4, a1);
            a2 = add_four(even, odd, w + 8, a2);
            a3 = add_four(even, odd, w + 12, a3);
        }
        acc[o] = a0;
        acc[o + 1] = a1;
        acc[o + 2] = a2;
        acc[o + 3] = a3;
    }
}

#endif
