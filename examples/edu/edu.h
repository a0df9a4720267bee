/* Registers of QEMU's educational device. Source: QEMU, docs/specs/edu. All are 32 bits wide. */
#ifndef EDU_H
#define EDU_H

#include <stdint.h>

enum {
    EDU_VENDOR = 0x1234,
    EDU_DEVICE = 0x11e8,
    EDU_BAR_SIZE = 1 << 20,

    EDU_ID = 0x00,         /* RO: 0xRRrr00ed, RR.rr the version */
    EDU_LIVENESS = 0x04,   /* RW: reads as the inverse of what was written */
    EDU_FACTORIAL = 0x08,  /* RW: write n, read n! once it is computed */
    EDU_STATUS = 0x20,     /* RW: below */
    EDU_IRQ_STATUS = 0x24, /* RO: interrupts that are pending */
    EDU_IRQ_ACK = 0x64,    /* WO: clears the interrupts written to it */
};

#define EDU_STATUS_COMPUTING 0x01u /* RO */
#define EDU_STATUS_IRQFACT 0x80u   /* raise EDU_IRQ_FACT when a factorial is done */
#define EDU_IRQ_FACT 0x01u

#endif
