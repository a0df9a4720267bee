/*
 * hammer FILE T N [PROGRESS]: T threads do N accesses each, of every width, all to the same pages of FILE.
 *
 * What is accessed follows from thread t and index i alone, so that a trace can be checked against it:
 *
 *   mix(x)         the finaliser of splitmix64
 *   word(t, i, j)  = mix(t << 48 | i << 3 | j)
 *   choice         = word(t, i, 7)
 *   width          = 1 << choice % W       W = 6: 1 to 32 bytes; 5 on a CPU without AVX. Printed at the end
 *   slot           = t + T * ((choice >> 8) % (256 / T))
 *   offset         = slot * 64 + width     a slot has one naturally aligned place for each width: 1, 2-3, 4-7, … 32-63
 *   write          = choice >> 32 & 1      else a read
 *
 * A write stores word(t, i, 0 … 3), low byte first, cut to the width. A read gives what the thread wrote to that place
 * last, or zeros: slots belong to one thread, and neighbouring slots, on the same page, to different ones. The program checks every
 * read itself; exit status 1 if one was wrong.
 *
 * PROGRESS is a file where u64 number t is how many accesses thread t has finished, up to date at any moment the
 * program is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 256, SLOT = 64, MAX_THREADS = 64 };

static uint8_t *registers;
static unsigned threads, widths;
static uint64_t accesses;
static uint64_t unseen[MAX_THREADS], *progress = unseen;
static unsigned wrong[MAX_THREADS];

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t word(uint64_t t, uint64_t i, uint64_t j) { return mix(t << 48 | i << 3 | j); }

/* Each access is one instruction of just that width; `volatile` asm keeps it so. */
#define ACCESS(bits, type, op, reg)                                            \
    static void read##bits(uint8_t *place, void *value)                        \
    {                                                                          \
        type x;                                                                \
        __asm__ volatile(op " %1, %0" : reg(x) : "m"(*(type *)place));         \
        memcpy(value, &x, sizeof x);                                           \
    }                                                                          \
    static void write##bits(uint8_t *place, const void *value)                 \
    {                                                                          \
        type x;                                                                \
        memcpy(&x, value, sizeof x);                                           \
        __asm__ volatile(op " %1, %0" : "=m"(*(type *)place) : reg##_IN(x));   \
    }
#define GENERAL "=q"
#define GENERAL_IN "q"
#define VECTOR "=x"
#define VECTOR_IN "x"
ACCESS(8, uint8_t, "movb", GENERAL)
ACCESS(16, uint16_t, "movw", GENERAL)
ACCESS(32, uint32_t, "movl", GENERAL)
ACCESS(64, uint64_t, "movq", GENERAL)
ACCESS(128, __m128i, "movdqu", VECTOR)
#pragma GCC push_options
#pragma GCC target("avx")
ACCESS(256, __m256i, "vmovdqu", VECTOR)
#pragma GCC pop_options

static void (*const read_place[])(uint8_t *, void *) = {read8, read16, read32, read64, read128, read256};
static void (*const write_place[])(uint8_t *, const void *) = {write8, write16, write32, write64, write128, write256};

static void *work(void *argument)
{
    uint64_t t = (uintptr_t)argument;
    uint8_t *memory = calloc(SLOTS, SLOT), value[32]; /* what the thread's places must hold */
    if (!memory)
        abort();
    for (uint64_t i = 0; i < accesses; i++) {
        uint64_t choice = word(t, i, 7);
        unsigned log = (unsigned)(choice % widths), width = 1u << log;
        size_t slot = t + threads * ((choice >> 8) % (SLOTS / threads)), offset = slot * SLOT + width;
        if (choice >> 32 & 1) {
            for (unsigned j = 0; j < 4; j++)
                memcpy(value + 8 * j, &(uint64_t){word(t, i, j)}, 8);
            memcpy(memory + offset, value, width);
            write_place[log](registers + offset, value);
        } else {
            read_place[log](registers + offset, value);
            wrong[t] += memcmp(memory + offset, value, width) != 0;
        }
        __atomic_store_n(&progress[t], i + 1, __ATOMIC_RELEASE);
    }
    free(memory);
    return NULL;
}

static void *map(const char *path, size_t length)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    void *address = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)length) == 0)
        address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) {
        fprintf(stderr, "hammer: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    close(fd);
    return address;
}

int main(int argc, char **argv)
{
    if (argc == 4 || argc == 5) {
        threads = (unsigned)strtoul(argv[2], NULL, 0);
        accesses = strtoull(argv[3], NULL, 0);
    }
    if (threads < 1 || threads > MAX_THREADS) {
        fprintf(stderr, "usage: hammer FILE T N [PROGRESS]      (T from 1 to %d)\n", MAX_THREADS);
        return 2;
    }
    registers = map(argv[1], SLOTS * SLOT);
    if (argc == 5)
        progress = map(argv[4], MAX_THREADS * sizeof *progress);
    widths = __builtin_cpu_supports("avx") ? 6 : 5;

    pthread_t id[MAX_THREADS];
    unsigned bad = 0;
    for (uintptr_t t = 0; t < threads; t++)
        if (pthread_create(&id[t], NULL, work, (void *)t)) {
            fprintf(stderr, "hammer: cannot create thread %u\n", (unsigned)t);
            return 1;
        }
    for (unsigned t = 0; t < threads; t++) {
        pthread_join(id[t], NULL);
        bad += wrong[t];
    }
    printf("hammer: %u threads, %llu accesses each, %u widths, %u wrong reads\n", threads, (unsigned long long)accesses,
           widths, bad);
    return bad != 0;
}
