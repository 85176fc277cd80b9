/* A person: the correction that edge-ser adapt learnt, integers from the vectors to the scores. */
#include "eser_parts.h"

eser_status eser_set_person(eser *stream, const eser_person *person) {
    if (stream == NULL)
        return ESER_BAD_ARGUMENT;
    if (person != NULL) {
        if (person->format != ESER_PERSON_FORMAT || person->n_labels < 2 || person->n_labels > ESER_MAX_LABELS ||
            person->n_model_labels != stream->model->n_labels)
            return ESER_BAD_MODEL;
        for (uint32_t i = 0; i < person->n_labels; i++)
            if (person->source[i] >= (int32_t)person->n_model_labels)
                return ESER_BAD_MODEL;
    }
    stream->person = person;
    return ESER_OK;
}

/* The root of x, rounded down. */
static uint64_t root(uint64_t x) {
    uint64_t found = 0, bit = (uint64_t)1 << 44; /* x is below 2^46 */
    while (bit > x)
        bit >>= 2;
    for (; bit != 0; bit >>= 2) {
        if (x >= found + bit) {
            x -= found + bit;
            found = (found >> 1) + bit;
        } else {
            found >>= 1;
        }
    }
    return found;
}

/* (sum + half) >> shift, towards minus infinity whatever the compiler does with negative numbers. */
static int64_t shifted(int64_t sum, int32_t shift) {
    const int64_t unit = (int64_t)1 << shift, rounded = sum + unit / 2;
    return rounded >= 0 ? rounded / unit : -((-rounded + unit - 1) / unit);
}

void eser_personal_scores(const eser_person *person, const uint8_t *ring, uint32_t n, const int32_t *embedding_q16,
                          const int32_t *logits_q16, int32_t *scores_q16) {
    int64_t products[ESER_MAX_LABELS] = {0};
    for (uint32_t i = 0; i < ESER_VECTOR; i++) {
        uint64_t sum = 0, squares = 0;
        for (uint32_t t = 0; t < n; t++) {
            const uint64_t x = ring[t * ESER_VECTOR + i];
            sum += x;
            squares += x * x;
        }
        const int64_t mean = (int64_t)((256 * sum + n / 2) / n);
        const int64_t deviation = (int64_t)(root((n * squares - sum * sum) << 16) / n);
        for (uint32_t label = 0; label < person->n_labels; label++) {
            const int16_t *weight = person->statistics + (size_t)label * 2 * ESER_VECTOR;
            products[label] += weight[i] * mean + weight[ESER_VECTOR + i] * deviation;
        }
    }
    for (uint32_t label = 0; label < person->n_labels; label++) {
        const int32_t from = person->source[label];
        int64_t z = 0;
        for (uint32_t i = 0; i < ESER_EMBEDDING_SIZE; i++)
            z += (int64_t)person->embedding[label * ESER_EMBEDDING_SIZE + i] * embedding_q16[i];
        int64_t score = (from < 0 ? 0 : logits_q16[from]) + (int64_t)person->bias[label] +
                        shifted(products[label], person->statistics_shift) + shifted(z, person->embedding_shift);
        score = score < -ESER_Q16_LIMIT ? -ESER_Q16_LIMIT : score > ESER_Q16_LIMIT ? ESER_Q16_LIMIT : score;
        scores_q16[label] = (int32_t)score;
    }
}
