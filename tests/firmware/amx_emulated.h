/* AMX for a processor that has none: the instructions' names, taken over by plain C that does what Intel's manual says of each,
 * and stops where the processor would raise a fault. Included before all else, with -include; one translation unit uses it.
 *
 * Stricter than the processor: who configures the tiles must have released them before, so that no state outlives a call.
 */
#ifndef AMX_EMULATED_H
#define AMX_EMULATED_H

#ifdef __x86_64__
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TILES 8 /* of palette 1 */
#define TILE_ROWS 16
#define ROW_BYTES 64

static struct {
    int configured;
    uint16_t colsb[TILES];
    uint8_t rows[TILES];
    uint8_t row[TILES][TILE_ROWS][ROW_BYTES];
} tiles;

/* A fault of the processor. */
static inline void amx_require(int right, const char *what) {
    if (!right) {
        printf("AMX: %s\n", what);
        exit(1);
    }
}

static inline void amx_require_tile(int tile) {
    amx_require(tiles.configured, "#UD: the tiles are not configured");
    amx_require(tile >= 0 && tile < TILES && tiles.rows[tile] > 0 && tiles.colsb[tile] > 0, "#UD: no such tile");
}

/* LDTILECFG: reserved bytes are zero, a tile has rows and columns or neither, within the palette's; the data begins as zeros. */
static inline void amx_loadconfig(const void *memory) {
    const uint8_t *from = memory;
    amx_require(!tiles.configured, "configured without a release before");
    amx_require(from[0] == 1 && from[1] == 0, "#GP: palette 1 and row 0 are what is emulated");
    for (int i = 2; i < 64; i++)
        amx_require(from[i] == 0 || (i >= 16 && i < 16 + 2 * TILES) || (i >= 48 && i < 48 + TILES), "#GP: reserved bytes");
    memset(&tiles, 0, sizeof tiles);
    memcpy(tiles.colsb, from + 16, sizeof tiles.colsb);
    memcpy(tiles.rows, from + 48, sizeof tiles.rows);
    for (int i = 0; i < TILES; i++) {
        amx_require(tiles.rows[i] <= TILE_ROWS && tiles.colsb[i] <= ROW_BYTES, "#GP: a tile is too large");
        amx_require((tiles.rows[i] == 0) == (tiles.colsb[i] == 0), "#GP: rows without columns, or columns without rows");
    }
    tiles.configured = 1;
}

/* TILERELEASE. */
static inline void amx_release(void) {
    memset(&tiles, 0, sizeof tiles);
}

/* TILEZERO. */
static inline void amx_zero(int tile) {
    amx_require_tile(tile);
    memset(tiles.row[tile], 0, sizeof tiles.row[tile]);
}

/* TILELOADD: what lies beyond the tile's columns and rows becomes zero. */
static inline void amx_loadd(int tile, const void *base, int64_t stride) {
    amx_zero(tile);
    for (int r = 0; r < tiles.rows[tile]; r++)
        memcpy(tiles.row[tile][r], (const uint8_t *)base + r * stride, tiles.colsb[tile]);
}

/* TILESTORED. */
static inline void amx_stored(int tile, void *base, int64_t stride) {
    amx_require_tile(tile);
    for (int r = 0; r < tiles.rows[tile]; r++)
        memcpy((uint8_t *)base + r * stride, tiles.row[tile][r], tiles.colsb[tile]);
}

/* TDPBUSD: c[m][n] += the four products of unsigned a[m][k] and signed b[k][n], modulo 2^32, for every k. */
static inline void amx_dpbusd(int c, int a, int b) {
    amx_require_tile(c);
    amx_require_tile(a);
    amx_require_tile(b);
    amx_require(c != a && c != b && a != b, "#UD: a tile twice");
    amx_require(tiles.colsb[c] % 4 == 0 && tiles.colsb[a] % 4 == 0 && tiles.colsb[b] % 4 == 0, "#UD: columns not of four bytes");
    amx_require(tiles.rows[c] == tiles.rows[a], "#UD: other rows in the sums than in the first factor");
    amx_require(tiles.colsb[c] == tiles.colsb[b], "#UD: other columns in the sums than in the second factor");
    amx_require(tiles.colsb[a] / 4 == tiles.rows[b], "#UD: other rows in the second factor than columns in the first");
    for (int m = 0; m < tiles.rows[c]; m++)
        for (int n = 0; n < tiles.colsb[c]; n += 4) {
            uint32_t sum;
            memcpy(&sum, tiles.row[c][m] + n, 4);
            for (int k = 0; k < tiles.rows[b]; k++)
                for (int i = 0; i < 4; i++)
                    sum += (uint32_t)(tiles.row[a][m][4 * k + i] * (int8_t)tiles.row[b][k][n + i]);
            memcpy(tiles.row[c][m] + n, &sum, 4);
        }
    /* Beyond its columns and rows a tile that is written becomes zero: it is already. */
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbusd
#define _tile_loadconfig amx_loadconfig
#define _tile_release amx_release
#define _tile_zero amx_zero
#define _tile_loadd(tile, base, stride) amx_loadd(tile, base, (int64_t)(stride))
#define _tile_stored(tile, base, stride) amx_stored(tile, base, (int64_t)(stride))
#define _tile_dpbusd amx_dpbusd
#endif
#endif
