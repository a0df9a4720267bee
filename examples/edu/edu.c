/*
 * A user-space driver for QEMU's edu PCI device (QEMU, docs/specs/edu).
 *
 *   edu [-n ROUNDS]              drives the device that is on the PCI bus
 *   edu [-n ROUNDS] REGISTERS    drives the registers in a shared file, as edu-device serves them
 *
 * Two threads work on the device at once: one has it compute 2! to 12!, the other asks it 64 times whether it is alive.
 * That is a round; there is one if nothing else is said. Exit status 0 only if every answer was right.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "edu.h"
#include "mmiotap.h"
#include "pci.h"

enum { LIVENESS_CHECKS = 64, LAST_FACTORIAL = 12, TIMEOUT_S = 20 };

static volatile uint8_t *bar;
static unsigned long rounds = 1;

static uint32_t read32(uint32_t reg) { return *(volatile uint32_t *)(bar + reg); }
static void write32(uint32_t reg, uint32_t value) { *(volatile uint32_t *)(bar + reg) = value; }

static void die(const char *what)
{
    fprintf(stderr, "edu: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Polls until the bits of `mask` read as `want`. A device may be slow, but not for ever. */
static uint32_t wait_for(uint32_t reg, uint32_t mask, uint32_t want)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        uint32_t value = read32(reg);
        if ((value & mask) == want)
            return value;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec > TIMEOUT_S) {
            fprintf(stderr, "edu: register 0x%02x reads 0x%08x after %d s, expected 0x%08x in mask 0x%08x\n", reg, value,
                    TIMEOUT_S, want, mask);
            exit(1);
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
    }
}

/* STATUS alone cannot tell "done" from "not begun yet"; the pending interrupt can. We poll for it, nobody is interrupted. */
static uint32_t factorial(uint32_t n)
{
    write32(EDU_FACTORIAL, n);
    wait_for(EDU_IRQ_STATUS, EDU_IRQ_FACT, EDU_IRQ_FACT);
    wait_for(EDU_STATUS, EDU_STATUS_COMPUTING, 0);
    uint32_t result = read32(EDU_FACTORIAL);
    write32(EDU_IRQ_ACK, EDU_IRQ_FACT);
    wait_for(EDU_IRQ_STATUS, EDU_IRQ_FACT, 0);
    return result;
}

static void *factorials(void *wrong)
{
    write32(EDU_STATUS, EDU_STATUS_IRQFACT);
    for (unsigned long round = 0; round < rounds; round++) {
        uint32_t expected = 1;
        for (uint32_t n = 2; n <= LAST_FACTORIAL; n++) {
            uint32_t result = factorial(n);
            expected *= n;
            if (round == 0)
                printf("edu: %u! = %u\n", n, result);
            if (result != expected)
                *(int *)wrong += 1;
        }
    }
    return NULL;
}

static void *liveness(void *wrong)
{
    for (unsigned long check = 0; check < rounds * LIVENESS_CHECKS; check++) {
        uint32_t i = check % LIVENESS_CHECKS + 1;
        uint32_t pattern = i * 0x01020304u & 0x7fffffffu; /* top bit clear: never what the register reads already */
        write32(EDU_LIVENESS, pattern);
        wait_for(EDU_LIVENESS, ~0u, ~pattern);
        if ((read32(EDU_ID) & 0xffffu) != 0x00ed)
            *(int *)wrong += 1;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "-n")) {
        rounds = strtoul(argv[2], NULL, 0);
        argc -= 2, argv += 2;
    }
    if (argc > 2 || rounds == 0) {
        fprintf(stderr, "usage: edu [-n ROUNDS] [REGISTERS]\n");
        return 2;
    }
    int fd = argc == 2 ? open(argv[1], O_RDWR | O_CLOEXEC) : pci_open_bar0(EDU_VENDOR, EDU_DEVICE);
    if (fd < 0 && argc == 2)
        die(argv[1]);
    if (fd < 0) {
        fprintf(stderr, "edu: no edu device on the PCI bus; examples/edu/run starts one as a process\n");
        return 1;
    }
    bar = mmap(NULL, EDU_BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bar == MAP_FAILED)
        die("mmap");
    close(fd);

    uint32_t id = read32(EDU_ID);
    if ((id & 0xffffu) != 0x00ed) {
        fprintf(stderr, "edu: identification 0x%08x is not an edu device's\n", id);
        return 1;
    }
    printf("edu: identification 0x%08x, version %u.%u\n", id, id >> 24, id >> 16 & 0xff);

    mmiotap_mark("edu: two threads start");
    int wrong_factorials = 0, wrong_identifications = 0;
    pthread_t one, two;
    if (pthread_create(&one, NULL, factorials, &wrong_factorials) ||
        pthread_create(&two, NULL, liveness, &wrong_identifications))
        die("pthread_create");
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    mmiotap_mark("edu: done");

    printf("edu: %lu liveness checks, %d wrong factorials, %d wrong identifications\n", rounds * LIVENESS_CHECKS,
           wrong_factorials, wrong_identifications);
    return wrong_factorials || wrong_identifications;
}
