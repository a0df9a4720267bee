/* What the special programs share: the device (a file, mapped shared), exact accesses, and checks that end the program. */
#ifndef SPECIAL_H
#define SPECIAL_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096
#define CHECK(what)                                                                 \
    do {                                                                            \
        if (!(what)) {                                                              \
            printf("%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #what, errno); \
            exit(3);                                                                \
        }                                                                           \
    } while (0)

static int device_file;

static inline void open_device(const char *path)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    device_file = open(path, O_RDWR);
    CHECK(device_file >= 0);
}

static inline char *map_device(size_t pages, int prot)
{
    char *base = mmap(NULL, pages * PAGE, prot, MAP_SHARED, device_file, 0);
    CHECK(base != MAP_FAILED);
    return base;
}

static inline char *map_memory(size_t pages)
{
    char *base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base != MAP_FAILED);
    return base;
}

static inline void put32(void *at, uint32_t value)
{
    __asm__ volatile("movl %1, %0" : "=m"(*(uint32_t *)at) : "r"(value));
}

static inline uint32_t get32(const void *at)
{
    uint32_t value;
    __asm__ volatile("movl %1, %0" : "=r"(value) : "m"(*(const uint32_t *)at));
    return value;
}

static inline void put64(void *at, uint64_t value)
{
    __asm__ volatile("movq %1, %0" : "=m"(*(uint64_t *)at) : "r"(value));
}

static inline uint64_t get64(const void *at)
{
    uint64_t value;
    __asm__ volatile("movq %1, %0" : "=r"(value) : "m"(*(const uint64_t *)at));
    return value;
}

/* Reads two bytes, zeros (no segment), in a way that the agent does not take apart. */
static inline void be_stepped(const void *at)
{
    __asm__ volatile("movw %0, %%gs" : : "m"(*(const uint16_t *)at));
}

#endif
