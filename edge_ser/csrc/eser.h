/* edge-ser in C: how a person sounds, from 16 kHz samples to an emotion, on anything from a Cortex-M upward.
 *
 *     #include "eser.h"
 *     #include "eser_model.h"                    // written, with eser_model.c, by: edge-ser export RUN --int8 --format c -o DIR
 *
 *     static uint64_t memory[ESER_STATE_BYTES / 8];
 *     eser *stream;
 *     eser_result result;
 *     eser_init(&stream, &eser_default_model, memory, sizeof memory);
 *     while (recording)
 *         eser_feed_i16(stream, samples, n);     // any n; eser_estimate(stream, &result) answers at any time
 *     if (eser_finish(stream, &result) == ESER_OK)
 *         puts(result.label);
 *     eser_reset(stream);                        // the next utterance
 *
 * C99 and libc alone, no heap: the model is constant and may lie in flash, the stream lives in memory of the caller. One stream
 * serves one thread at a time; several streams may share a model. Nothing is printed, nothing is global.
 *
 * Encoder, GRU and head are integer arithmetic with defined rounding, the front end is float arithmetic of +, -, *, / alone, so an
 * answer has the same bits on every target as long as the compiler does not fuse multiplications and additions: build with
 * -std=c99 or -ffp-contract=off, and without -ffast-math.
 *
 * Of more than 14 s the last 14 s are judged, to a whole encoder vector (0.16 s); less than 0.52 s is padded with silence when
 * the stream is finished.
 */
#ifndef ESER_H
#define ESER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ESER_VERSION "0.1.0"
#define ESER_RATE_HZ 16000
#if defined(__x86_64__) || (defined(__aarch64__) && (defined(__linux__) || defined(__APPLE__)))
#define ESER_STATE_BYTES 90112      /* memory that a stream takes, aligned to 8 bytes */
#else
#define ESER_STATE_BYTES 73728
#endif
#define ESER_MIN_SAMPLES 8320       /* 0.52 s: before, eser_estimate has no answer */
#define ESER_MAX_LABELS 16
#define ESER_EMBEDDING_SIZE 64
#define ESER_N_BINS 128

typedef enum {
    ESER_OK = 0,
    ESER_TOO_SHORT = 1,     /* no answer yet: fewer than ESER_MIN_SAMPLES samples so far */
    ESER_SILENT = 2,        /* no answer: what would be judged is digital silence */
    ESER_BAD_ARGUMENT = 3,  /* a pointer is NULL */
    ESER_BAD_MEMORY = 4,    /* the memory is smaller than eser_size, or not aligned to 8 bytes */
    ESER_BAD_MODEL = 5,     /* the model, or the person, was exported for another version of the library or another model */
    ESER_BAD_SAMPLES = 6,   /* a float sample is NaN or beyond ESER_MAX_PEAK; none of the call's samples was taken */
    ESER_FINISHED = 7       /* the stream has ended; eser_reset begins the next */
} eser_status;

#define ESER_MAX_PEAK 8.0f  /* full scale is 1.0; beyond 8, somebody put int16 values into floats */

/* A matrix or a convolution's kernels in integers: n_out rows of n_in weights, in panels of 16 rows (see eser_parts.h). */
typedef struct {
    const int8_t *weight;
    const int32_t *bias;        /* [n_out], in the accumulator's unit, within 2^30 */
    const int32_t *multiplier;  /* [n_out], accumulator to output */
    int32_t shift;              /* of the multiplier, for all rows */
    int32_t n_in, n_out;
} eser_layer;

/* The weights and all else that training gave; constant. eser_model.c defines one. */
typedef struct {
    uint32_t format;            /* ESER_MODEL_FORMAT */
    uint32_t n_labels;
    const char *const *labels;
    const float *feature_gain, *feature_offset; /* [128], dB to the encoder's 0..255 */
    eser_layer conv[4];
    eser_layer gru_input[2], gru_recurrent[2];  /* forward, backward; gates r, z, n */
    eser_layer fc1, fc2;
    const int32_t *prelu;       /* [64], slope in 1/65536 */
    float temperature;          /* divides the logits before the softmax, as the distance does, so that confidence means frequency */
    const int8_t *speech;       /* [2][480], logistic regression on the vectors' mean and standard deviation: is there speech? */
    float speech_scale, speech_bias;
    float speech_threshold;     /* probability of speech below which there is none to judge */
    const uint16_t *usual;      /* [2][480], mean and standard deviation of the training speech's vectors: how far is an utterance? */
    float distance_scale;
    const int16_t *winograd[2]; /* NULL, or the second and third convolution's weights once more, for speed: see eser_parts.h */
} eser_model;

#define ESER_MODEL_FORMAT 5u

typedef struct eser eser;       /* a stream */

/* What a few utterances of one person change, learnt by edge-ser adapt for one model; constant, about 2 KB a label.
 * eser_person.c, which edge-ser export --format c --profile writes, defines one. */
typedef struct {
    uint32_t format;            /* ESER_PERSON_FORMAT */
    uint32_t n_labels;          /* of the answers: the model's and the person's own words */
    uint32_t n_model_labels;
    const char *const *labels;
    const int32_t *source;      /* [n_labels], the model's logit that each score begins with, or -1 */
    const int16_t *statistics;  /* [n_labels][2][480], of the vectors' mean and standard deviation */
    const int16_t *embedding;   /* [n_labels][64] */
    const int32_t *bias;        /* [n_labels], in 1/65536 */
    int32_t statistics_shift, embedding_shift;
    float temperature;
} eser_person;

#define ESER_PERSON_FORMAT 2u

/* How an utterance sounds. */
typedef struct {
    uint32_t n_labels;
    uint32_t label_index;                           /* the most probable label */
    const char *label;                              /* its name */
    float probabilities[ESER_MAX_LABELS];           /* calibrated; they sum to 1 */
    float logits[ESER_MAX_LABELS];                  /* before temperature and softmax, a person's correction included */
    float embedding[ESER_EMBEDDING_SIZE];           /* close in Euclidean distance means alike in emotion */
    float speech;                                   /* probability that there is any speech */
    int32_t is_speech;                              /* 0: noise, a tone, music, clicks; the emotion then says nothing */
    float judged_s;                                 /* seconds of audio behind the answer */
    int32_t logits_q16[ESER_MAX_LABELS];            /* the same in units of 1/65536: bit-identical on every target */
    int32_t embedding_q16[ESER_EMBEDDING_SIZE];
} eser_result;

/* Bytes that eser_init needs: at most ESER_STATE_BYTES. 0: the model is NULL or of another version. */
size_t eser_size(const eser_model *model);

/* Begin a stream in memory of the caller, which must outlive it, as must the model. */
eser_status eser_init(eser **stream, const eser_model *model, void *memory, size_t size);

/* Answer for a person from now on, or for nobody in particular: NULL. The person must outlive the stream, and fit its model. The
 * stream's memory stays as it is; an answer takes 85 x 480 multiplications more. eser_reset keeps the person. */
eser_status eser_set_person(eser *stream, const eser_person *person);

/* Take the next n samples, 16 kHz mono, int16 or float with full scale 1.0. n may be 0, and samples then NULL. */
eser_status eser_feed_i16(eser *stream, const int16_t *samples, size_t n);
eser_status eser_feed_f32(eser *stream, const float *samples, size_t n);

/* Answer for what came so far; the stream goes on as if it had not been asked. */
eser_status eser_estimate(eser *stream, eser_result *result);

/* End the utterance and answer for the whole of it. */
eser_status eser_finish(eser *stream, eser_result *result);

/* Begin the next utterance with the same model and memory. */
eser_status eser_reset(eser *stream);

/* One sentence for a status: what happened and what to do. */
const char *eser_strerror(eser_status status);

/* ESER_VERSION of the library that was linked. */
const char *eser_version(void);

#ifdef __cplusplus
}
#endif
#endif
