/* The network in integers: four convolutions over a stream of rows, the GRU in both directions, the head. */
#include <string.h>

#include "eser_parts.h"

/* >> of a negative number is arithmetic on every compiler of the last decades; where it is not, this does not compile. */
typedef char eser_shifts_are_arithmetic[(-1 >> 1) == -1 ? 1 : -1];

#define Q16_LIMIT (1 << 29) /* 8192: two of them add up within 32 bits */

/* A pass of a convolution over one row of positions: run bytes of every input row meet the weights at each position. */
typedef struct {
    int32_t n_runs, run, step, n_positions, pool;
} conv_shape;

static const conv_shape SHAPES[4] = {
    {7, 8, 2, 61, 1},       /* seven bins and one of weight zero */
    {3, 3 * 48, 48, 29, 2}, /* positions after the pooling; the last of an odd row has no partner and is left out */
    {3, 3 * 64, 64, 13, 2},
    {3, 3 * 80, 80, 5, 2},
};

static void convolve(const conv_shape *shape, const eser_layer *layer, const eser_kernels *kernels, const uint8_t *const *rows,
                     uint8_t *out, int keep, int32_t *acc) {
    for (int32_t o = 0; o < layer->n_out; o += ESER_PANEL) {
        kernels->dot(acc, rows, shape->n_runs, shape->run, shape->step, shape->n_positions * shape->pool,
                     layer->weight + o * layer->n_in);
        kernels->activate(out + o, layer->n_out, acc, shape->n_positions, shape->pool, layer->bias + o, layer->multiplier + o, keep);
    }
}

void eser_encoder_reset(eser_encoder *encoder) {
    static const uint8_t missing[4] = {7, 3, 3, 3};
    memset(encoder, 0, sizeof *encoder);
    memcpy(encoder->missing, missing, sizeof missing);
}

int eser_encode(eser_encoder *encoder, const eser_model *model, const eser_kernels *kernels, const uint8_t *levels,
                eser_scratch *scratch) {
    uint8_t *const rings[4] = {NULL, encoder->conv1[0], encoder->conv2[0], encoder->conv3[0]};
    static const size_t row_bytes[4] = {ESER_N_BINS, 61 * 48, 29 * 64, 13 * 80};
    const uint8_t *rows[7];

    memcpy(encoder->frames[encoder->next[0]], levels, ESER_N_BINS);
    encoder->next[0] = (uint8_t)((encoder->next[0] + 1) & 7);
    if (--encoder->missing[0] > 0)
        return 0;
    encoder->missing[0] = 2;
    for (int i = 0; i < 7; i++)
        rows[i] = encoder->frames[(encoder->next[0] + 1 + i) & 7];
    convolve(&SHAPES[0], &model->conv[0], kernels, rows, encoder->conv1[encoder->next[1]], 0, scratch->acc);

    for (int i = 1; i < 4; i++) {
        encoder->next[i] = (uint8_t)((encoder->next[i] + 1) % ESER_ROWS);
        if (--encoder->missing[i] > 0)
            return 0;
        encoder->missing[i] = 1;
        const int second = encoder->half[i];
        encoder->half[i] ^= 1;
        const int together = kernels->winograd != NULL && model->winograd[i - 1] != NULL;
        if (together && !second)
            return 0;
        const int n_rows = together ? 4 : 3;
        for (int row = 0; row < n_rows; row++)
            rows[row] = rings[i] + (size_t)((encoder->next[i] + ESER_ROWS - n_rows + row) % ESER_ROWS) * row_bytes[i];
        uint8_t *out = i < 3 ? rings[i + 1] + encoder->next[i + 1] * row_bytes[i + 1] : encoder->vector;
        if (together)
            kernels->winograd(out, rows, SHAPES[i].n_positions, &model->conv[i], model->winograd[i - 1]);
        else
            convolve(&SHAPES[i], &model->conv[i], kernels, rows, out, second, scratch->acc);
        if (!second)
            return 0;
    }
    return 1;
}

static int32_t clamp_q16(int64_t x) {
    return x > Q16_LIMIT ? Q16_LIMIT : x < -Q16_LIMIT ? -Q16_LIMIT : (int32_t)x;
}

/* An accumulator to 1/65536, rounded half up. */
static int32_t rescale(const eser_layer *layer, int32_t row, int64_t acc) {
    return clamp_q16((acc * layer->multiplier[row] + ((int64_t)1 << (layer->shift - 1))) >> layer->shift);
}

/* A matrix times 16-bit numbers. */
static void multiply(const eser_layer *layer, const eser_kernels *kernels, const int16_t *x, int32_t *out, eser_scratch *scratch) {
    int32_t *acc = scratch->head.acc;
    for (int32_t panel = 0; panel < layer->n_out; panel += ESER_PANEL) {
        kernels->dot_16(acc, x, layer->n_in, layer->weight + panel * layer->n_in);
        for (int32_t o = 0; o < ESER_PANEL; o++)
            out[panel + o] = rescale(layer, panel + o, (int64_t)layer->bias[panel + o] + acc[o]);
    }
}

/* tanh of x in 1/65536, in 1/32768: a table of steps of 1/64, linear between them. */
static int32_t tanh_q15(int32_t x) {
    /* No branches on what cannot be predicted; from 7.98 on the table says 32767. */
    const int32_t sign = x >> 31, size = (x ^ sign) - sign;
    const int32_t within = size < 8 << 16 ? size : (8 << 16) - 1;
    const int16_t *at = eser_tanh_q15 + (within >> 10);
    const int32_t y = at[0] + (((at[1] - at[0]) * (within & 1023) + 512) >> 10);
    return (y ^ sign) - sign;
}

/* The logistic function of x in 1/65536, in 1/32768. */
static int32_t sigmoid_q15(int32_t x) {
    return (32768 + tanh_q15(x >> 1) + 1) >> 1;
}

/* One step; h [128] in 1/32768, input [384] in 1/65536.
 * r = s(Wr x + Rr h), z = s(Wz x + Rz h), n = tanh(Wn x + r * (Rn h)), h' = n + z * (h - n) */
static void gru_step(const int32_t *input, const int32_t *recurrent, int16_t *h) {
    for (int i = 0; i < ESER_GRU; i++) {
        const int32_t reset = sigmoid_q15(input[i] + recurrent[i]);
        const int32_t update = sigmoid_q15(input[ESER_GRU + i] + recurrent[ESER_GRU + i]);
        const int64_t gated = ((int64_t)reset * recurrent[2 * ESER_GRU + i] + (1 << 14)) >> 15;
        const int32_t new_h = tanh_q15(input[2 * ESER_GRU + i] + (int32_t)gated);
        h[i] = (int16_t)(new_h + ((update * (h[i] - new_h) + (1 << 14)) >> 15));
    }
}

/* The input products of n vectors, at most ESER_GRU_BLOCK, which lie step bytes apart, in one direction. */
static void project(const eser_model *model, const eser_kernels *kernels, int backward, const uint8_t *vectors, int32_t step,
                    uint32_t n, int32_t *out, int32_t out_step, eser_scratch *scratch) {
    const eser_layer *layer = &model->gru_input[backward];
    for (int32_t panel = 0; panel < 3 * ESER_GRU; panel += ESER_PANEL) {
        const int32_t *acc = scratch->head.acc;
        kernels->dot_wide(scratch->head.acc, &vectors, 1, ESER_VECTOR, step, (int32_t)n, layer->weight + panel * ESER_VECTOR);
        for (uint32_t p = 0; p < n; p++)
            for (int32_t o = panel; o < panel + ESER_PANEL; o++)
                out[(int32_t)p * out_step + o] = rescale(layer, o, (int64_t)*acc++ + layer->bias[o]);
    }
}

static void recur(const eser_model *model, const eser_kernels *kernels, int backward, const int32_t *input, int16_t *h,
                  eser_scratch *scratch) {
    multiply(&model->gru_recurrent[backward], kernels, h, scratch->head.recurrent, scratch);
    gru_step(input, scratch->head.recurrent, h);
}

static void gru(const eser_model *model, const eser_kernels *kernels, int backward, const uint8_t *ring, uint32_t first,
                uint32_t n, int16_t *h, eser_scratch *scratch) {
    for (uint32_t t = 0; t < n;) {
        const uint32_t at = (first + (backward ? n - 1 - t : t)) % ESER_MAX_VECTORS;
        const uint32_t until_wrap = backward ? at + 1 : ESER_MAX_VECTORS - at;
        uint32_t block = n - t < until_wrap ? n - t : until_wrap;
        block = block < ESER_GRU_BLOCK ? block : ESER_GRU_BLOCK;
        project(model, kernels, backward, ring + at * ESER_VECTOR, backward ? -ESER_VECTOR : ESER_VECTOR, block,
                scratch->head.input[0], 3 * ESER_GRU, scratch);
        for (uint32_t p = 0; p < block; p++)
            recur(model, kernels, backward, scratch->head.input[p], h, scratch);
        t += block;
    }
}

/* From the last state of both directions. */
static void judge(const eser_model *model, const eser_kernels *kernels, const int16_t *h, int32_t *embedding_q16,
                  int32_t *logits_q16, eser_scratch *scratch) {
    multiply(&model->fc1, kernels, h, embedding_q16, scratch);
    for (int i = 0; i < ESER_EMBEDDING_SIZE; i++)
        if (embedding_q16[i] < 0)
            embedding_q16[i] = clamp_q16(((int64_t)embedding_q16[i] * model->prelu[i] + (1 << 15)) >> 16);
    /* FC2 is too small for a panel: rows of 64 weights, one after the other. */
    for (int32_t row = 0; row < model->fc2.n_out; row++) {
        int64_t sum = model->fc2.bias[row];
        for (int32_t i = 0; i < ESER_EMBEDDING_SIZE; i++)
            sum += (int64_t)model->fc2.weight[row * ESER_EMBEDDING_SIZE + i] * embedding_q16[i];
        logits_q16[row] = rescale(&model->fc2, row, sum);
    }
}

void eser_head(const eser_model *model, const eser_kernels *kernels, const uint8_t *ring, uint32_t first, uint32_t n,
               int32_t *embedding_q16, int32_t *logits_q16, eser_scratch *scratch) {
    int16_t *h = scratch->head.h;
    memset(h, 0, sizeof scratch->head.h);
    gru(model, kernels, 0, ring, first, n, h, scratch);
    gru(model, kernels, 1, ring, first, n, h + ESER_GRU, scratch);
    judge(model, kernels, h, embedding_q16, logits_q16, scratch);
}

void eser_project(const eser_model *model, const eser_kernels *kernels, const uint8_t *vectors, uint32_t n,
                  int32_t (*projected)[ESER_PROJECTED], eser_scratch *scratch) {
    for (int backward = 0; backward < 2; backward++)
        project(model, kernels, backward, vectors, ESER_VECTOR, n, projected[0] + backward * 3 * ESER_GRU, ESER_PROJECTED, scratch);
}

void eser_head_projected(const eser_model *model, const eser_kernels *kernels, const int32_t (*projected)[ESER_PROJECTED],
                         uint32_t n, int32_t *embedding_q16, int32_t *logits_q16, eser_scratch *scratch) {
    int16_t *h = scratch->head.h;
    memset(h, 0, sizeof scratch->head.h);
    for (uint32_t t = 0; t < n; t++) {
        recur(model, kernels, 0, projected[t], h, scratch);
        recur(model, kernels, 1, projected[n - 1 - t] + 3 * ESER_GRU, h + ESER_GRU, scratch);
    }
    judge(model, kernels, h, embedding_q16, logits_q16, scratch);
}
