/* From reset to main() on a Cortex-M3 or later, without a vendor's library; semihosting for standard output and exit. */
#include "board.h"

#include <stdlib.h>

extern uint32_t data_start[], data_end[], data_source[], bss_start[], bss_end[], stack_top[];
extern void initialise_monitor_handles(void), __libc_init_array(void);
extern int main(void);

void Reset_Handler(void);
void _init(void), _fini(void);

static volatile uint32_t wraps;

#define CPACR (*(volatile uint32_t *)0xE000ED88u)
#define SYSTICK ((volatile uint32_t *)0xE000E010u) /* control, reload, value */
#define SYSTICK_PERIOD 0x1000000u                  /* 24 bits */

static void SysTick_Handler(void) {
    wraps++;
}

uint64_t board_clocks(void) {
    uint32_t before, value;
    do {
        before = wraps;
        value = SYSTICK[2];
    } while (before != wraps);
    return (uint64_t)before * SYSTICK_PERIOD + (SYSTICK_PERIOD - 1 - value);
}

/* Any fault ends the program with status 1: semihosting's SYS_EXIT, ADP_Stopped_InternalError. */
static void fault(void) {
    register uint32_t operation __asm__("r0") = 0x18, reason __asm__("r1") = 0x20024;
    __asm__ volatile("bkpt 0xab" : : "r"(operation), "r"(reason) : "memory");
    for (;;) {
    }
}

void _init(void) {
}

void _fini(void) {
}

void Reset_Handler(void) {
#ifdef __ARM_FP
    CPACR |= 0xFu << 20; /* the FPU (and Helium) may be used */
    __asm__ volatile("dsb\n\tisb");
#endif
    for (uint32_t *to = data_start, *from = data_source; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;)
        *to++ = 0;
    SYSTICK[1] = SYSTICK_PERIOD - 1;
    SYSTICK[2] = 0;
    SYSTICK[0] = 7; /* on, with interrupt, at the processor's clock */
    initialise_monitor_handles();
    __libc_init_array();
    exit(main());
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, Reset_Handler, fault, fault, fault, fault, fault, fault,
    fault,     fault,         fault, fault, fault, fault, fault, SysTick_Handler,
};
