/* What the vectors' mean and standard deviation tell: whether there is speech, how far it is from the training speech, and, by the
 * correction that edge-ser adapt learnt, how a person sounds. Integers up to the scores. */
#include "eser_parts.h"

#include <math.h>

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

/* The root of x, below 2^27, in 1/256 and rounded down. */
static int32_t root(int32_t x) {
    int32_t found = (int32_t)(256.0f * sqrtf((float)x)) + 1; /* two too many at most */
    while ((int64_t)found * found > (int64_t)x << 16)
        found--;
    return found;
}

void eser_statistics(const uint8_t *vectors, size_t step, uint32_t n, uint16_t *statistics) {
    for (uint32_t i = 0; i < ESER_VECTOR; i += ESER_PANEL) {
        uint32_t sums[ESER_PANEL] = {0}, squares[ESER_PANEL] = {0}; /* n times the squares is below 2^29 */
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t k = 0; k < ESER_PANEL; k++) {
                const uint32_t x = vectors[t * step + i + k];
                sums[k] += x;
                squares[k] += x * x;
            }
        for (uint32_t k = 0; k < ESER_PANEL; k++) {
            statistics[i + k] = (uint16_t)((256 * sums[k] + n / 2) / n);
            statistics[ESER_VECTOR + i + k] = (uint16_t)((uint32_t)root((int32_t)(n * squares[k] - sums[k] * sums[k])) / n);
        }
    }
}

float eser_speech(const eser_model *model, const uint16_t *statistics) {
    int64_t product = 0;
    for (uint32_t i = 0; i < 2 * ESER_VECTOR; i++)
        product += (int32_t)model->speech[i] * (int32_t)statistics[i];
    return 1.0f / (1.0f + expf(-((float)product * model->speech_scale + model->speech_bias)));
}

float eser_distance(const eser_model *model, const uint16_t *statistics) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < 2 * ESER_VECTOR; i++) {
        const int32_t difference = (int32_t)statistics[i] - (int32_t)model->usual[i];
        sum += (int64_t)difference * difference;
    }
    const float distance = sqrtf((float)sum) * model->distance_scale;
    return distance > 0.5f ? distance : 0.5f;
}

/* (sum + half) >> shift, towards minus infinity whatever the compiler does with negative numbers. */
static int64_t shifted(int64_t sum, int32_t shift) {
    const int64_t unit = (int64_t)1 << shift, rounded = sum + unit / 2;
    return rounded >= 0 ? rounded / unit : -((-rounded + unit - 1) / unit);
}

void eser_personal_scores(const eser_person *person, const uint16_t *statistics, const int32_t *embedding_q16,
                          const int32_t *logits_q16, int32_t *scores_q16) {
    for (uint32_t label = 0; label < person->n_labels; label++) {
        const int16_t *const weight = person->statistics + (size_t)label * 2 * ESER_VECTOR;
        const int32_t from = person->source[label];
        int64_t product = 0, z = 0;
        for (uint32_t i = 0; i < 2 * ESER_VECTOR; i++)
            product += (int32_t)weight[i] * (int32_t)statistics[i];
        for (uint32_t i = 0; i < ESER_EMBEDDING_SIZE; i++)
            z += (int64_t)person->embedding[label * ESER_EMBEDDING_SIZE + i] * embedding_q16[i];
        int64_t score = (from < 0 ? 0 : logits_q16[from]) + (int64_t)person->bias[label] +
                        shifted(product, person->statistics_shift) + shifted(z, person->embedding_shift);
        score = score < -ESER_Q16_LIMIT ? -ESER_Q16_LIMIT : score > ESER_Q16_LIMIT ? ESER_Q16_LIMIT : score;
        scores_q16[label] = (int32_t)score;
    }
}
