/*
 * What a trap costs: trap bare|mmio|loop|plain FILE ROUNDS ACCESSES. Each round, one thread makes its accesses, then two make theirs; prints
 * the nanoseconds that either took, a line a round. The first round, in which whoever watches gets ready, is not printed.
 *
 * bare: a page without rights and the least handler that goes on: it skips the instruction. mmio: FILE is mapped, as a device
 * is; what its accesses cost is up to who watches. loop: the same, and nothing but the accesses, with a pause before each
 * burst, in which whoever watches can see to what it has written down. plain: additions, many at a time, instead of accesses:
 * what two threads can reach on this machine, whose processors may be two halves of one core. Each thread has a
 * processor of its own.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, STORE_LENGTH = 2, PAUSE_US = 150000 };
static volatile char *device;
static long count;
/* Threads that wait for the others, and how many they will be. They spin: a sleeper would wake up after the first has begun. */
static atomic_int waiting, expected;

static void skip(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += STORE_LENGTH;
}

static int is_loop, is_plain;

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static long began[2], ended[2];

static void *access_device(void *argument)
{
    long thread = (long)argument;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(thread % sysconf(_SC_NPROCESSORS_ONLN), &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    volatile char *word = device + thread * 256;
    atomic_fetch_add(&waiting, 1);
    while (atomic_load(&waiting) < atomic_load(&expected))
        ;
    began[thread] = now();
    unsigned long sums[4] = {0};
    for (long i = 0; is_plain && i < count; i++)
        __asm__ volatile("add $1, %0\n\tadd $1, %1\n\tadd $1, %2\n\tadd $1, %3"
                         : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3]));
    for (long i = 0; is_loop && i < count; i++)
        __asm__ volatile("movl %%eax, (%0)" : : "r"(word) : "memory");
    for (long i = 0; !is_loop && !is_plain && i < count; i++)
        /* The store has 2 bytes: STORE_LENGTH. The agent does not go on by itself behind cld: each access traps. */
        __asm__ volatile("movl %%eax, (%0)\n\tcld" : : "r"(word) : "memory");
    ended[thread] = now();
    return NULL;
}

static long phase(int threads)
{
    pthread_t ids[2];
    if (is_loop || is_plain)
        usleep(PAUSE_US);
    atomic_store(&waiting, 0);
    atomic_store(&expected, threads);
    for (long i = 0; i < threads; i++)
        pthread_create(&ids[i], NULL, access_device, (void *)i);
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    long first = began[0], last = ended[0];
    if (threads == 2) {
        first = began[1] < first ? began[1] : first;
        last = ended[1] > last ? ended[1] : last;
    }
    return last - first;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    int rounds = atoi(argv[3]);
    count = atol(argv[4]);
    is_loop = !strcmp(argv[1], "loop");
    is_plain = !strcmp(argv[1], "plain");
    if (!strcmp(argv[1], "bare")) {
        device = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct sigaction action = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
        sigaction(SIGSEGV, &action, NULL);
    } else {
        device = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[2], O_RDWR), 0);
    }
    if (device == MAP_FAILED)
        return 1;
    for (int round = 0; round <= rounds; round++) {
        long one = phase(1), two = phase(2);
        if (round > 0)
            printf("%ld %ld\n", one, two);
    }
    return 0;
}
