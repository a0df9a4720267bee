/*
 * The edu device as a process: serves its registers in a shared file.
 *
 *   edu-device REGISTERS     creates the file, prints "ready", serves until it is killed or its parent is gone
 *
 * A write is noticed by the change it makes, some time later: a slow device, as a driver has to expect. What a driver
 * writes twice the same without waiting for the answer in between is seen once.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "edu.h"

static uint32_t *bar;

static uint32_t load(uint32_t reg) { return __atomic_load_n(&bar[reg / 4], __ATOMIC_ACQUIRE); }
static void store(uint32_t reg, uint32_t value) { __atomic_store_n(&bar[reg / 4], value, __ATOMIC_RELEASE); }
static void set(uint32_t reg, uint32_t bits) { __atomic_fetch_or(&bar[reg / 4], bits, __ATOMIC_ACQ_REL); }
static void clear(uint32_t reg, uint32_t bits) { __atomic_fetch_and(&bar[reg / 4], ~bits, __ATOMIC_ACQ_REL); }

/* The order of QEMU's device: computing, result, not computing, interrupt. */
static uint32_t compute(uint32_t n)
{
    uint32_t result = 1;
    set(EDU_STATUS, EDU_STATUS_COMPUTING);
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    while (n > 1)
        result *= n--;
    store(EDU_FACTORIAL, result);
    clear(EDU_STATUS, EDU_STATUS_COMPUTING);
    if (load(EDU_STATUS) & EDU_STATUS_IRQFACT)
        set(EDU_IRQ_STATUS, EDU_IRQ_FACT);
    return result;
}

static void serve(void)
{
    uint32_t live = 0, result = 0;
    for (;;) {
        uint32_t written = load(EDU_LIVENESS);
        if (written != live) {
            live = ~written;
            store(EDU_LIVENESS, live);
        }
        written = load(EDU_FACTORIAL);
        if (written != result)
            result = compute(written);
        written = load(EDU_IRQ_ACK);
        if (written) {
            store(EDU_IRQ_ACK, 0);
            clear(EDU_IRQ_STATUS, written);
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: edu-device REGISTERS\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, EDU_BAR_SIZE)) {
        perror(argv[1]);
        return 1;
    }
    bar = mmap(NULL, EDU_BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bar == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    store(EDU_LIVENESS, 0);
    store(EDU_ID, 0x010000ed);
    puts("ready");
    fflush(stdout);
    serve();
}
