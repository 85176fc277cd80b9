/* The convolutions for x86-64 with AMX, on Linux: an instruction multiplies a tile of 16 positions with one of 16 outputs.
 *
 * A panel of weights is such a tile as it lies in memory: row k holds four inputs, 4k to 4k + 3, of every output.
 */
#include "eser_parts.h"

#if defined(ESER_X86) && ESER_HAS_AMX
#include <immintrin.h>
#include <stddef.h>

#define AMX __attribute__((target("amx-tile,amx-int8")))
#define MOST 16        /* positions of a tile */
#define MOST_INPUTS 64 /* of a position in a tile */

/* What the tiles hold, as the processor reads it: sums in 0 to 3, inputs in 4 and 5, weights in 6 and 7. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
} tile_shapes;

/* A block: the tile at this position and, if there are two, the one at the second, of one panel or two that follow on each other. */
typedef struct {
    int32_t position, second, two_tiles, two_panels;
} block;

/* Tiles 0 and 1: both panels' sums at the position, 2 and 3: at the second. */
AMX static void multiply(const block *at, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t inputs,
                         const int8_t *w, int32_t panel_bytes) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int32_t r = 0; r < n_runs; r++)
        for (int32_t k = 0; k < run; k += inputs, w += inputs * ESER_PANEL) {
            const uint8_t *x = runs[r] + k;
            _tile_loadd(4, x + at->position * step, step);
            _tile_loadd(6, w, 4 * ESER_PANEL);
            _tile_dpbusd(0, 4, 6);
            if (at->two_panels) {
                _tile_loadd(7, w + panel_bytes, 4 * ESER_PANEL);
                _tile_dpbusd(1, 4, 7);
            }
            if (at->two_tiles) {
                _tile_loadd(5, x + at->second * step, step);
                _tile_dpbusd(2, 5, 6);
                if (at->two_panels)
                    _tile_dpbusd(3, 5, 7);
            }
        }
}

AMX void eser_convolve_amx(uint8_t *out, const uint8_t *const *runs, int32_t n_runs, int32_t run, int32_t step, int32_t n,
                           int32_t pool, const eser_layer *layer, int32_t keep, eser_scratch *scratch) {
    int32_t sums[MOST * ESER_PANEL] __attribute__((aligned(64)));
    const int32_t n_positions = n * pool, rows = n_positions < MOST ? n_positions : MOST, last = n_positions - rows;
    int32_t inputs = MOST_INPUTS;
    while (run % inputs != 0)
        inputs -= 4;
    if (inputs < 48) { /* little of a tile would be in use */
        eser_convolve_vnni512(out, runs, n_runs, run, step, n, pool, layer, keep, scratch);
        return;
    }
    tile_shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? inputs : 4 * ESER_PANEL);
        shapes.n_rows[i] = (uint8_t)(i < 6 ? rows : inputs / 4);
    }
    /* GCC does not know what loading from memory into tiles reads: all of it has to lie there. */
    __asm__ volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
    for (int32_t o = 0; o < layer->n_out; o += 2 * ESER_PANEL)
        for (int32_t p = 0; p < n_positions; p += 2 * MOST) {
            /* The last tile overlaps the one before. */
            const block at = {p < last ? p : last, p + MOST < last ? p + MOST : last, p + MOST < n_positions,
                              o + ESER_PANEL < layer->n_out};
            multiply(&at, runs, n_runs, run, step, inputs, layer->weight + o * layer->n_in, layer->n_in * ESER_PANEL);
#define ACTIVATE(tile, position, o)                                                                                   \
    do {                                                                                                              \
        _tile_stored(tile, sums, sizeof *sums * ESER_PANEL);                                                          \
        eser_activate_vnni512(out + (position) / pool * layer->n_out + (o), layer->n_out, sums, rows / pool, pool,    \
                              layer->bias + (o), layer->multiplier + (o), keep);                                      \
    } while (0)
            ACTIVATE(0, at.position, o);
            if (at.two_panels)
                ACTIVATE(1, at.position, o + ESER_PANEL);
            if (at.two_tiles)
                ACTIVATE(2, at.second, o);
            if (at.two_tiles && at.two_panels)
                ACTIVATE(3, at.second, o + ESER_PANEL);
        }
    _tile_release();
}

/* Linux saves the tiles of a process that has asked for that; one that does not know them, or this, says no. */
static int tiles_are_allowed(void) {
    const long arch_prctl = 158, request_permission = 0x1023, tile_data = 18;
    long status;
    __asm__ volatile("syscall" : "=a"(status) : "0"(arch_prctl), "D"(request_permission), "S"(tile_data) : "rcx", "r11", "memory");
    return status == 0;
}

/* Whether a small row, of a pair of panels and a single one, of two tiles that overlap, has the levels of AVX-512 VNNI. The tables
 * of the front end do as weights and inputs. */
static int rows_are_right(void) {
    enum { POSITIONS = 9, OUTPUTS = 3 * ESER_PANEL, RUN = 48 };
    const uint8_t *const runs[2] = {(const uint8_t *)eser_window, (const uint8_t *)(eser_window + ESER_FRAME / 2)};
    uint8_t expected[POSITIONS * OUTPUTS], found[POSITIONS * OUTPUTS];
    int32_t bias[OUTPUTS], multiplier[OUTPUTS];
    const eser_layer layer = {(const int8_t *)eser_cosine, bias, multiplier, 31, 2 * RUN, OUTPUTS};
    for (int32_t o = 0; o < OUTPUTS; o++) {
        bias[o] = 1000 * o;
        multiplier[o] = 3000000;
    }
    eser_convolve_vnni512(expected, runs, 2, RUN, RUN, POSITIONS, 2, &layer, 0, NULL);
    eser_convolve_amx(found, runs, 2, RUN, RUN, POSITIONS, 2, &layer, 0, NULL);
    int32_t different = 0;
    for (size_t i = 0; i < sizeof found; i++)
        different |= expected[i] ^ found[i];
    return different == 0;
}

int eser_amx_works(void) {
    return tiles_are_allowed() && rows_are_right();
}
#endif
