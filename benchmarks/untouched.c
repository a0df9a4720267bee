/* Code that touches no device: computation, memory, and the system calls that a tracer stands in front of. Prints nanoseconds. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 40, INNER = 200000, BLOCK = 1 << 20 };

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    /* A device is mapped, so that whoever watches is at work. */
    volatile char *device = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    if (device == MAP_FAILED)
        return 1;
    char *from = malloc(BLOCK), *to = malloc(BLOCK);
    memset(from, 1, BLOCK);
    memset(to, 2, BLOCK);
    uint64_t state = 88172645463325252u;
    long best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        long begin = now();
        for (int i = 0; i < INNER; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        memcpy(to, from, BLOCK);
        for (int i = 0; i < 500; i++)
            free(malloc(64 + state % 1000));
        for (int i = 0; i < 5; i++) {
            sigset_t mask;
            sigprocmask(SIG_BLOCK, NULL, &mask);
            getppid();
            void *memory = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            munmap(memory, 65536);
        }
        long took = now() - begin;
        if (best == 0 || took < best)
            best = took;
    }
    printf("%ld\n", best + (to[state % BLOCK] == 3));
    return 0;
}
