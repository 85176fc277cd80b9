/* The network in integers: four convolutions over a stream of rows, the GRU in both directions, the head. */
#include <string.h>

#include "eser_parts.h"

/* >> of a negative number is arithmetic on every compiler of the last decades; where it is not, this does not compile. */
typedef char eser_shifts_are_arithmetic[(-1 >> 1) == -1 ? 1 : -1];

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
                     uint8_t *out, int keep, eser_scratch *scratch) {
    int32_t *acc = scratch->acc;
    if (kernels->convolve != NULL) {
        kernels->convolve(out, rows, shape->n_runs, shape->run, shape->step, shape->n_positions, shape->pool, layer, keep, scratch);
        return;
    }
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

static uint8_t *row_at(eser_encoder *encoder, int i, int row) {
    switch (i) {
    case 1: return encoder->conv1[row % ESER_ROWS];
    case 2: return encoder->conv2[row % ESER_ROWS];
    case 3: return encoder->conv3[row % ESER_ROWS];
    default: return encoder->vector;
    }
}

/* Convolution i has got another row of inputs: compute what that allows; 1 when it completes the vector, else 0. */
static int advance(eser_encoder *encoder, const eser_model *model, const eser_kernels *kernels, int i, eser_scratch *scratch) {
    const uint8_t *rows[6];
    if (i == 4)
        return 1;
    const int next = encoder->next[i] = (uint8_t)((encoder->next[i] + 1) % ESER_ROWS);
    if (--encoder->missing[i] > 0)
        return 0;
    encoder->missing[i] = 1;
    const int at_once = kernels->winograd != NULL && i < 3 && model->winograd[i - 1] != NULL;
    const int n_rows = at_once ? 6 : 3, first = encoder->phase[i] == 0;
    const int to = i < 3 ? encoder->next[i + 1] : 0;
    for (int row = 0; row < n_rows; row++)
        rows[row] = row_at(encoder, i, next + ESER_ROWS - n_rows + row);
    encoder->phase[i] = (uint8_t)((encoder->phase[i] + 1) % (at_once ? 4 : 2));
    if (at_once) {
        if (encoder->phase[i] != 0)
            return 0;
        uint8_t *const out[2] = {row_at(encoder, i + 1, to), row_at(encoder, i + 1, to + 1)};
        kernels->winograd(out, rows, SHAPES[i].n_positions, &model->conv[i], model->winograd[i - 1]);
        const int before = advance(encoder, model, kernels, i + 1, scratch);
        return advance(encoder, model, kernels, i + 1, scratch) | before;
    }
    convolve(&SHAPES[i], &model->conv[i], kernels, rows, row_at(encoder, i + 1, to), !first, scratch);
    return first ? 0 : advance(encoder, model, kernels, i + 1, scratch);
}

int eser_encode(eser_encoder *encoder, const eser_model *model, const eser_kernels *kernels, const uint8_t *levels,
                eser_scratch *scratch) {
    const uint8_t *rows[7];
    memcpy(encoder->frames[encoder->next[0]], levels, ESER_N_BINS);
    encoder->next[0] = (uint8_t)((encoder->next[0] + 1) & 7);
    if (--encoder->missing[0] > 0)
        return 0;
    encoder->missing[0] = 2;
    for (int i = 0; i < 7; i++)
        rows[i] = encoder->frames[(encoder->next[0] + 1 + i) & 7];
    convolve(&SHAPES[0], &model->conv[0], kernels, rows, encoder->conv1[encoder->next[1]], 0, scratch);
    return advance(encoder, model, kernels, 1, scratch);
}

/* A matrix times 16-bit numbers. */
static void multiply(const eser_layer *layer, const eser_kernels *kernels, const int16_t *x, int32_t *out, eser_scratch *scratch) {
    int32_t *acc = scratch->head.acc;
    for (int32_t panel = 0; panel < layer->n_out; panel += ESER_PANEL) {
        kernels->dot_16(acc, x, layer->n_in, layer->weight + panel * layer->n_in);
        kernels->rescale(out + panel, acc, layer->bias + panel, layer->multiplier + panel, layer->shift);
    }
}

/* The input products of n vectors, at most ESER_GRU_BLOCK, which lie step bytes apart, in one direction. */
static void project(const eser_model *model, const eser_kernels *kernels, int backward, const uint8_t *vectors, int32_t step,
                    uint32_t n, int32_t *out, int32_t out_step, eser_scratch *scratch) {
    const eser_layer *layer = &model->gru_input[backward];
    for (int32_t panel = 0; panel < 3 * ESER_GRU; panel += ESER_PANEL) {
        const int32_t *acc = scratch->head.acc;
        kernels->dot_wide(scratch->head.acc, &vectors, 1, ESER_VECTOR, step, (int32_t)n, layer->weight + panel * ESER_VECTOR);
        for (uint32_t p = 0; p < n; p++, acc += ESER_PANEL)
            kernels->rescale(out + (int32_t)p * out_step + panel, acc, layer->bias + panel, layer->multiplier + panel, layer->shift);
    }
}

static void recur(const eser_model *model, const eser_kernels *kernels, int backward, const int32_t *input, int16_t *h,
                  eser_scratch *scratch) {
    multiply(&model->gru_recurrent[backward], kernels, h, scratch->head.recurrent, scratch);
    kernels->gru_step(input, scratch->head.recurrent, h);
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
            embedding_q16[i] = eser_rescaled(embedding_q16[i], model->prelu[i], 16);
    /* FC2 is too small for a panel: rows of 64 weights, one after the other. */
    for (int32_t row = 0; row < model->fc2.n_out; row++) {
        int64_t sum = model->fc2.bias[row];
        for (int32_t i = 0; i < ESER_EMBEDDING_SIZE; i++)
            sum += (int64_t)model->fc2.weight[row * ESER_EMBEDDING_SIZE + i] * embedding_q16[i];
        logits_q16[row] = eser_rescaled(sum, model->fc2.multiplier[row], model->fc2.shift);
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
                  const eser_projected *before, eser_projected *projected, eser_scratch *scratch) {
    for (int backward = 0; backward < 2; backward++)
        project(model, kernels, backward, vectors, ESER_VECTOR, n, projected->input[backward],
                (int32_t)(sizeof *projected / sizeof(int32_t)), scratch);
    for (eser_projected *now = projected; now < projected + n; before = now++) {
        if (before == NULL)
            memset(now->forward, 0, sizeof now->forward);
        else
            memcpy(now->forward, before->forward, sizeof now->forward);
        now->number = before == NULL ? 0 : before->number + 1;
        memcpy(now->vector, vectors + (size_t)(now - projected) * ESER_VECTOR, ESER_VECTOR);
        recur(model, kernels, 0, now->input[0], now->forward, scratch);
    }
}

void eser_head_projected(const eser_model *model, const eser_kernels *kernels, const eser_projected *projected, uint32_t n,
                         int32_t *embedding_q16, int32_t *logits_q16, eser_scratch *scratch) {
    int16_t *h = scratch->head.h;
    memset(h, 0, sizeof scratch->head.h);
    if (projected[0].number == 0)
        memcpy(h, projected[n - 1].forward, sizeof projected->forward);
    else
        for (uint32_t t = 0; t < n; t++)
            recur(model, kernels, 0, projected[t].input[0], h, scratch);
    for (uint32_t t = n; t-- > 0;)
        recur(model, kernels, 1, projected[t].input[1], h + ESER_GRU, scratch);
    judge(model, kernels, h, embedding_q16, logits_q16, scratch);
}
