/* What main.c wants from the board; startup.c has it. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* Processor clocks since the start. Under QEMU with -icount they count instructions, see README.md. */
uint64_t board_clocks(void);

#endif
