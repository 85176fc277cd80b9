/* What the kernels for Cortex-M4, M7, M33 and above share. */
#include "eser_parts.h"

/* dot and dot_wide, dot_16. */
void eser_dot_dsp(int32_t *acc, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n, const int8_t *panel);
void eser_dot_16_dsp(int32_t *acc, const int16_t *x, int32_t n, const int8_t *panel);

#if defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE
#define ESER_HAS_HELIUM 1
#else
#define ESER_HAS_HELIUM 0
#endif

#define ESER_COLUMN (2 * ESER_PAIRS / 3) /* channels of a column of inputs, of which three make ESER_PAIRS pairs */

/* The parts of a convolution, by SMLAD or by vectors of Helium, each with 16-bit numbers in an order of its own.
 *
 * Without tiles: a panel's weights of n_in inputs; the inputs of the positions first, first + 1, first + 2; acc = these positions' sums of
 * two channels, which begin with the channels' biases. Two channels further, weights lie 2 n_pairs words further. */
void eser_unpack_weights(uint32_t *to, const int8_t *panel, int32_t n_in);
void eser_unpack_inputs(uint32_t *to, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t first);
void eser_add_positions(int32_t *acc, const uint32_t *inputs, const uint32_t *weights, int32_t n_pairs, const int32_t *bias);

/* In tiles: part 0, 1 or 2 of the weights, of ESER_COLUMN inputs in each of three columns, column bytes apart, from panel on; the same part
 * of the inputs of three tiles, whose eight columns lie step bytes apart; and these tiles' sums of two channels, added to acc. Two
 * channels further, weights lie 8 ESER_PAIRS words further. */
void eser_transform_weights(uint32_t *to, int32_t part, const int8_t *panel, int32_t column);
void eser_transform_inputs(uint32_t *to, int32_t part, const uint8_t *x, int32_t step);
void eser_add_tiles(int32_t *acc, const uint32_t *inputs, const uint32_t *weights);
