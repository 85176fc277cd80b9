/* The parts of a stream, for tests, for language bindings and for whoever adds a faster kernel; firmware needs eser.h alone.
 *
 *     640 samples -> features -> 128 dB -> quantise -> 128 levels 0..255 -> eser_encode -> a vector of 480 every 16 frames
 *     vectors -> eser_head -> embedding, logits
 *
 * The encoder is a pipeline of rows over time; every row of every layer is computed once, and rings keep what the next layer needs:
 *
 *     frames [7][128] -> conv1 7x7 / 2 -> [3][61 * 48] -> conv2 3x3, pool 2x2 -> [3][29 * 64]
 *                     -> conv3 3x3, pool 2x2 -> [3][13 * 80] -> conv4 3x3, pool 2x2 -> [5 * 96], a vector
 *
 * On x86-64 and 64-bit Arm the rings hold six rows, from which two pooled rows may also be computed at once.
 *
 * A row holds positions, a position channels, so that a kernel's row of weights meets one run of bytes.
 */
#ifndef ESER_PARTS_H
#define ESER_PARTS_H

/* No multiplication and addition becomes one, also where no -ffp-contract=off can be given: it would change the last bits. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "eser.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ESER_FRAME 640              /* samples a frame, 40 ms */
#define ESER_HOP 160                /* samples between two frames, 10 ms */
#define ESER_POWER_FLOOR 1e-10f     /* what a Mel band has at least, before the decibels */
#define ESER_FIRST_FRAMES 49        /* frames behind the first vector */
#define ESER_STRIDE 16              /* frames between two vectors */
#define ESER_VECTOR 480
#define ESER_MAX_VECTORS 85         /* of 1400 frames, 14 s */
#define ESER_GRU 128
#define ESER_PANEL 16               /* output channels that a kernel computes side by side */
#define ESER_GRU_BLOCK 4            /* vectors whose input products are computed side by side */

typedef union eser_scratch eser_scratch;

/* The inner loops: what a SIMD version replaces. All of them exact, so every version gives the same bits.
 *
 * A panel holds the weights of 16 output channels, [n_in / 4][16][4]: four inputs of channel 0, the same four of channel 1, ...
 * Weights come in the order of the inputs: run after run, and n_in = n_runs * run.
 */
typedef struct {
    const char *name;
    /* acc[p][o] = sum over r, k of runs[r][p * step + k] * weight[r * run + k of channel o], for p < n, o < 16.
     * run is a multiple of 8; step may be negative; nothing but those bytes is read. Weights are within -63..63, so
     * that two products fit 16 bits. */
    void (*dot)(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                const int8_t *panel);
    /* The same for weights within -127..127. */
    void (*dot_wide)(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                     const int8_t *panel);
    /* acc[o] = sum over k of x[k] * weight[k of channel o], for k < n, o < 16. n is a multiple of 4, at most 512. */
    void (*dot_16)(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel);
    /* out[p * out_step + o] = min(255, (max(0, a) * multiplier[o] + 2^30) >> 31), where a is acc[p][o] + bias[o], of pool = 2 the
     * larger of acc[2p][o] and acc[2p + 1][o]; with keep, the larger of that and what out held. p < n. */
    void (*activate)(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                     const int32_t *multiplier, int32_t keep);
    /* out[o] = eser_rescaled(acc[o] + bias[o], multiplier[o], shift) for o < 16; the sums fit 32 bits. */
    void (*rescale)(int32_t *out, const int32_t *acc, const int32_t *bias, const int32_t *multiplier, int32_t shift);
    /* One step of a GRU: h [128] in 1/32768 moves, by input and recurrent [384] in 1/65536, gates r, z, n, within ESER_Q16_LIMIT. */
    void (*gru_step)(const int32_t *input, const int32_t *recurrent, int16_t *h);
    /* One frame's features: 640 samples to 128 levels in dB. */
    void (*features)(const float *samples, float *db, eser_scratch *scratch);
    /* 128 levels in dB to 0..255, as the encoder takes them; rounded half up, NaN becomes 0. */
    void (*quantise)(const eser_model *model, const float *db, uint8_t *levels);
    /* NULL, or features of ESER_LANES frames side by side, the first at samples[0], the next ESER_HOP later: [ESER_LANES][128]. */
    void (*features_side_by_side)(const float *samples, float *db);
    /* NULL, or dot and activate for all outputs of a layer: n positions, which pool sums each make. */
    void (*convolve)(uint8_t *out, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, int32_t pool,
                     const eser_layer *layer, int32_t keep, eser_scratch *scratch);
    /* NULL, or four rows of a 3x3 convolution and their pooling, from six rows of inputs to two of n positions, out of weights that
     * eser_winograd_weights made: the same bits as dot and activate give. */
    void (*winograd)(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer, const int16_t *weights);
} eser_kernels;

#define ESER_LANES 8

#define ESER_Q16_LIMIT (1 << 29) /* 8192 in 1/65536: two of them add up within 32 bits */

/* (sum * multiplier) >> shift, rounded half up, within ESER_Q16_LIMIT. */
int32_t eser_rescaled(int64_t sum, int32_t multiplier, int32_t shift);

void eser_dot_16_scalar(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel);
void eser_activate_scalar(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                          const int32_t *multiplier, int32_t keep);
void eser_rescale_scalar(int32_t *out, const int32_t *acc, const int32_t *bias, const int32_t *multiplier, int32_t shift);
void eser_gru_step_scalar(const int32_t *input, const int32_t *recurrent, int16_t *h);
void eser_features_scalar(const float *samples, float *db, eser_scratch *scratch);
void eser_quantise_scalar(const eser_model *model, const float *db, uint8_t *levels);

/* Cortex-M4, M7, M33 and above have instructions for two 16-bit products at a time. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(ESER_NO_SIMD) && !defined(__ARM_BIG_ENDIAN) && \
    defined(__ARM_FEATURE_DSP) && defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#define ESER_HAS_DSP
#define ESER_PAIRS 24               /* of inputs, whose products with their weights are added up in one go */
#endif

/* The fastest kernels that this processor runs. */
const eser_kernels *eser_kernels_best(void);

/* All kernels that this processor runs, in plain C first and fastest last; NULL from their number on. */
const eser_kernels *eser_kernels_at(uint32_t i);

/* SIMD where the library has any for this kind of processor; -DESER_NO_SIMD leaves it out. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(ESER_NO_SIMD)
#if defined(__x86_64__)
#define ESER_X86
#elif defined(__aarch64__) && (defined(__linux__) || defined(__APPLE__)) && !defined(__ARM_BIG_ENDIAN)
#define ESER_NEON
#elif defined(__wasm_simd128__)
#define ESER_WASM
#endif
#endif

#if defined(ESER_X86) || defined(ESER_NEON)
#define ESER_ROWS 6 /* that a ring holds */
#else
#define ESER_ROWS 3
#endif

#ifdef ESER_NEON
void eser_winograd_neon(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer, const int16_t *weights);
void eser_activate_neon(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                        const int32_t *multiplier, int32_t keep);
#endif
#ifdef ESER_X86
/* GCC has AVX-VNNI and AMX from 11 on, clang from 12 on; what an older compiler lacks costs these kernels alone. */
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define ESER_HAS_AVXVNNI 1
void eser_winograd_vnni(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer, const int16_t *weights);
#else
#define ESER_HAS_AVXVNNI 0
#endif
/* Tiles are used where the system says that it saves them: Linux, from 5.16 on. */
#if ESER_HAS_AVXVNNI && defined(__linux__)
#define ESER_HAS_AMX 1
/* Whether the system lets this process use tiles, for a processor that has them, and they give the right levels. Linux gives the
 * permission to the whole process, for its life; a later sigaltstack then wants room for the tiles too, 11 KB and more. */
int eser_amx_works(void);
void eser_convolve_amx(uint8_t *out, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, int32_t pool,
                       const eser_layer *layer, int32_t keep, eser_scratch *scratch);
#else
#define ESER_HAS_AMX 0
#endif
void eser_winograd_avx2(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer, const int16_t *weights);
void eser_winograd_vnni512(uint8_t *const *out, const uint8_t *const *rows, int32_t n, const eser_layer *layer, const int16_t *weights);
void eser_dot_vnni512(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, const int8_t *panel);
void eser_convolve_vnni512(uint8_t *out, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, int32_t pool,
                           const eser_layer *layer, int32_t keep, eser_scratch *scratch);
void eser_activate_vnni512(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                           const int32_t *multiplier, int32_t keep);
void eser_rescale_vnni512(int32_t *out, const int32_t *acc, const int32_t *bias, const int32_t *multiplier, int32_t shift);
void eser_dot_16_vnni512(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel);
void eser_features_avx2(const float *samples, float *db, eser_scratch *scratch);
void eser_features_side_by_side_avx2(const float *samples, float *db);
void eser_activate_avx2(uint8_t *out, int32_t out_step, const int32_t *acc, int32_t n, int32_t pool, const int32_t *bias,
                        const int32_t *multiplier, int32_t keep);
#endif

#define ESER_MAX_SIMD 4

/* Put the SIMD kernels that this processor runs into found, fastest last, and return how many they are. */
uint32_t eser_kernels_simd(const eser_kernels **found);

typedef struct {
    uint8_t frames[8][ESER_N_BINS];
    uint8_t conv1[ESER_ROWS][61 * 48];
    uint8_t conv2[ESER_ROWS][29 * 64];
    uint8_t conv3[ESER_ROWS][13 * 80];
    uint8_t vector[ESER_VECTOR];
    uint8_t missing[4];             /* rows that convolution i waits for before its next one */
    uint8_t next[4];                /* where ring i takes its next row */
    uint8_t phase[4];               /* rows that convolution i has computed, or has waited for, of those that it pools at once */
} eser_encoder;

/* Working memory of one call; holds nothing between calls. */
union eser_scratch {
    struct {
        float re[2][528], im[2][528];
    } spectrum;
    int32_t acc[61 * ESER_PANEL];
#ifdef ESER_HAS_DSP
    struct {
        int32_t acc[61 * ESER_PANEL];
        uint32_t weights[4 * ESER_PANEL * ESER_PAIRS], inputs[4 * 3 * ESER_PAIRS];
    } pairs;
#endif
    struct {
        int32_t input[ESER_GRU_BLOCK][3 * ESER_GRU];
        int32_t recurrent[3 * ESER_GRU];
        int32_t acc[ESER_GRU_BLOCK * ESER_PANEL];
        int16_t h[2 * ESER_GRU];
    } head;
    uint16_t statistics[2 * ESER_VECTOR];
};

struct eser {
    const eser_model *model;
    const eser_kernels *kernels;
    const eser_person *person;      /* or NULL */
    uint32_t n_samples_held;        /* of the frame that is being filled */
    uint32_t n_frames;              /* of those that may be judged: at most what the kept vectors and the next one cover */
    uint32_t n_silent;              /* frames of digital silence up to now, saturated like n_frames */
    uint32_t n_vectors, first_vector; /* the kept ones, and the oldest one's place in the ring */
    uint32_t finished;
    float samples[ESER_FRAME];
    uint8_t vectors[ESER_MAX_VECTORS][ESER_VECTOR];
    eser_encoder encoder;
    eser_scratch scratch;
};

void eser_encoder_reset(eser_encoder *encoder);

/* Take a frame's levels; 1 when that completes encoder->vector, else 0. */
int eser_encode(eser_encoder *encoder, const eser_model *model, const eser_kernels *kernels, const uint8_t *levels,
                eser_scratch *scratch);

/* Embedding and logits, in 1/65536, of n vectors in a ring of ESER_MAX_VECTORS. */
void eser_head(const eser_model *model, const eser_kernels *kernels, const uint8_t *ring, uint32_t first, uint32_t n,
               int32_t *embedding_q16, int32_t *logits_q16, eser_scratch *scratch);

/* What the GRU takes of a vector and makes of it: the head spends most of its time on that, so who has the memory computes it
 * vector by vector while the speaker speaks. */
typedef struct {
    int32_t input[2][3 * ESER_GRU]; /* the products with the input weights, forward and backward, in 1/65536 */
    int16_t forward[ESER_GRU];      /* the forward state behind this vector */
    int32_t number;                 /* of vectors before this one */
    uint8_t vector[ESER_VECTOR];    /* itself, for what a person's correction takes of it */
} eser_projected;

/* Project n vectors, at most ESER_GRU_BLOCK, which follow on one that was projected before, or on none: NULL. */
void eser_project(const eser_model *model, const eser_kernels *kernels, const uint8_t *vectors, uint32_t n,
                  const eser_projected *before, eser_projected *projected, eser_scratch *scratch);

/* eser_head of n vectors that were projected. */
void eser_head_projected(const eser_model *model, const eser_kernels *kernels, const eser_projected *projected, uint32_t n,
                         int32_t *embedding_q16, int32_t *logits_q16, eser_scratch *scratch);

/* Mean and standard deviation over time of n vectors, at most ESER_MAX_VECTORS, in any order, which lie step bytes apart:
 * [2][480] in 1/256 of a level. */
void eser_statistics(const uint8_t *vectors, size_t step, uint32_t n, uint16_t *statistics);

/* The probability of speech in what has these statistics. */
float eser_speech(const eser_model *model, const uint16_t *statistics);

/* How far an utterance is from the training speech: 1 is the median of dev, 0.5 the least. */
float eser_distance(const eser_model *model, const uint16_t *statistics);

/* A person's scores in 1/65536, of the vectors' statistics, their embedding and the network's logits. */
void eser_personal_scores(const eser_person *person, const uint16_t *statistics, const int32_t *embedding_q16,
                          const int32_t *logits_q16, int32_t *scores_q16);

/* Feed a stream with frames of levels, or with whole vectors instead of samples. */
eser_status eser_push_levels(eser *stream, const uint8_t *levels, size_t n_frames);
eser_status eser_push_vectors(eser *stream, const uint8_t *vectors, size_t n_vectors);

/* Copy the kept vectors out, oldest first: [n][480]; return n. */
size_t eser_vectors(const eser *stream, uint8_t *vectors);

/* Who has the memory gives a model's convolution i, 1 or 2, its weights a second time, in the form that the kernels' winograd takes:
 * eser_winograd_size numbers, 294 912 for both, or 0 where the kernels have no winograd. The answers stay the same. */
size_t eser_winograd_size(const eser_model *model, const eser_kernels *kernels, int i);
void eser_winograd_weights(const eser_model *model, int i, int16_t *weights);

/* Many frames a call, for bindings of languages in which a call is dear. */

/* Format of models, and bytes of an eser_model, an eser_encoder and an eser_projected. */
void eser_sizes(uint32_t *sizes);

/* Features of n_frames frames, the first at samples[0], the next ESER_HOP later: [n_frames][128] in dB. */
void eser_features_batch_of(const eser_kernels *kernels, const float *samples, size_t n_frames, float *db);

/* Encode frames [n_frames][128] in dB; project the vectors they complete, at most room, and return how many those are. The vector
 * before is as for eser_project; NULL: the frames begin a recording, and the encoder is reset. */
size_t eser_encode_batch(eser_encoder *encoder, const eser_model *model, const eser_kernels *kernels, const float *db,
                         size_t n_frames, const eser_projected *before, eser_projected *projected, size_t room);

/* eser_head_projected, in floats. */
void eser_judge_batch(const eser_model *model, const eser_kernels *kernels, const eser_projected *projected, size_t n,
                      float *embedding, float *logits);

/* Encode a recording's frames [n_frames][128] in dB into vectors, at most room, and return how many they are. */
size_t eser_vectors_batch(eser_encoder *encoder, const eser_model *model, const eser_kernels *kernels, const float *db,
                          size_t n_frames, uint8_t *vectors, size_t room);

/* tables: logmel-v1 and the hyperbolic tangent; eser_tables.c is written by tests/golden/make_c_tables.py */
extern const float eser_window[ESER_FRAME];
extern const float eser_cosine[1280];       /* cos(2 pi k / 1024) */
extern const uint16_t eser_mel_first[ESER_N_BINS];
extern const uint8_t eser_mel_count[ESER_N_BINS];
extern const float eser_mel_weight[];       /* band after band */
extern const int16_t eser_tanh_q15[513];    /* 32768 tanh(k / 64) */

#ifdef __cplusplus
}
#endif
#endif
