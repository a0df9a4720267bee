/*
 * Stores to a mapped file, each followed by so many turns of work that touches nothing.
 *
 *     outside FILE ACCESSES WORK
 *
 * Prints the nanoseconds that an access took. A debugger that stops at begin() knows where to look.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile uint64_t sink;

__attribute__((noinline)) void begin(volatile uint32_t *device)
{
    asm volatile("" : : "r"(device) : "memory");
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR), accesses = argc > 3 ? atoi(argv[2]) : 0, work = argc > 3 ? atoi(argv[3]) : 0;
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    begin(device);
    int64_t start = now();
    for (int access = 0; access < accesses; access++) {
        device[access % 8] = access + 1;
        for (int turn = 0; turn < work; turn++)
            sink = sink * 3 + 1;
    }
    printf("%lld\n", (long long)(now() - start) / (accesses ? accesses : 1));
    return 0;
}
