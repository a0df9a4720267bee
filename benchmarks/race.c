/*
 * race FILE THREADS N: so many threads touch one page of FILE N times each, all at once, and each on a core of its own as far as
 * there are cores. A touch is a store of 4 bytes to the thread's own place, or the load of what it stored before.
 *
 * Prints how many accesses were made, as counted here, how many loads were wrong, and the nanoseconds it took.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, PLACE = 64, MAX_THREADS = PAGE / PLACE };

static uint8_t *page;
static uint64_t touches, made[MAX_THREADS], wrong[MAX_THREADS];
static pthread_barrier_t start;

static void *touch(void *argument)
{
    uintptr_t thread = (uintptr_t)argument;
    volatile uint32_t *place = (volatile uint32_t *)(page + thread * PLACE);
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(thread % sysconf(_SC_NPROCESSORS_ONLN), &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    pthread_barrier_wait(&start);
    for (uint64_t i = 0; i < touches; i++, made[thread]++) {
        uint32_t value = (uint32_t)(thread << 24 | i / 2);
        if (i % 2 == 0)
            __asm__ volatile("movl %1, %0" : "=m"(*place) : "r"(value));
        else {
            uint32_t found;
            __asm__ volatile("movl %1, %0" : "=r"(found) : "m"(*place));
            wrong[thread] += found != value;
        }
    }
    return NULL;
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

int main(int argc, char **argv)
{
    unsigned threads = argc == 4 ? (unsigned)strtoul(argv[2], NULL, 0) : 0;
    if (threads < 1 || threads > MAX_THREADS) {
        fprintf(stderr, "usage: race FILE THREADS N      (THREADS from 1 to %d)\n", MAX_THREADS);
        return 2;
    }
    touches = strtoull(argv[3], NULL, 0);
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);
    if (page == MAP_FAILED) {
        perror(argv[1]);
        return 1;
    }
    pthread_t ids[MAX_THREADS];
    pthread_barrier_init(&start, NULL, threads + 1);
    for (uintptr_t thread = 0; thread < threads; thread++)
        if (pthread_create(&ids[thread], NULL, touch, (void *)thread))
            return 1;
    pthread_barrier_wait(&start);
    uint64_t began = now(), all = 0, bad = 0;
    for (unsigned thread = 0; thread < threads; thread++) {
        pthread_join(ids[thread], NULL);
        all += made[thread];
        bad += wrong[thread];
    }
    printf("%llu %llu %llu\n", (unsigned long long)all, (unsigned long long)bad, (unsigned long long)(now() - began));
    return bad != 0;
}
