/*
 * What a hooked access costs: hooks apart|loop FILE ROUNDS ACCESSES. Prints the nanoseconds of one access, a line a round. The first
 * round, in which whoever answers gets ready, is not printed.
 *
 * loop: nothing but loads from FILE, which is mapped as a device is. apart: behind each load an instruction behind which the agent does
 * not go on by itself, so that every access traps.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    int is_loop = strcmp(argv[1], "loop") == 0;
    long rounds = atol(argv[3]), count = atol(argv[4]);
    volatile uint32_t *device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[2], O_RDWR), 0);
    if (device == MAP_FAILED)
        return 2;
    for (long round = 0; round <= rounds; round++) {
        uint32_t sum = 0;
        long began = now();
        for (long i = 0; is_loop && i < count; i++)
            sum += device[1];
        for (long i = 0; !is_loop && i < count; i++) {
            sum += device[1];
            __asm__ volatile("cld" : : : "memory");
        }
        if (sum != (uint32_t)count)
            return 1; /* each is answered with 1 */
        if (round)
            printf("%ld\n", (now() - began) / count);
    }
    return 0;
}
