/*
 * What a patched access costs: patched WAY FILE ROUNDS COUNT [BUFFER | PROTOCOL]. Prints picoseconds, a line a round, of one
 * access. Two more rounds before, in which whoever watches gets ready, are not printed; before each round there is a pause, in
 * which whoever watches can see to what it has written down. Each thread has a core of its own.
 *
 *   access   FILE is mapped, as a device is, and driven: a doorbell (a store of 2 bytes of code), a status (a load of 3), and so on.
 *            What that costs is up to who watches. A second number: two threads that do the same.
 *   clock    the limit: the same, and after each access a row as the trace's is stored in BUFFER, with the time of
 *            clock_gettime and the processor of sched_getcpu; ticks: with both from rdtscp
 *   apart    the same accesses, but behind each an instruction that the agent does not run by itself
 *   kmmio    the page has no rights; each access faults, opens the page, steps, and closes it
 *   chase    a load that finds its own address in ordinary memory; in between the same instruction loads from FILE, as often
 *   work     an access, and a microsecond (at 3.2 GHz) of computation, and so on
 *   change   mmiotap_agent_patch and _unpatch, both together, of one site that two threads run meanwhile
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

enum { PAGE = 4096, PAUSE_US = 150000, THREADS = 2, APART = 256, STATUS = 0x24, WORK = 1070, CHASES = 1000, TRAP_FLAG = 0x100 };

/* As docs/trace-format.md has it. */
struct row {
    int64_t time_ns;
    uint64_t value, offset, pc;
    uint32_t flags;
    int32_t map_id;
    uint32_t duration_ns;
    uint16_t width;
    int16_t cpu;
    uint8_t kind, extra_rows;
    uint16_t extra_length, zero[6];
};

static char *device;
static long count;
static struct row *rows;
static _Atomic uint32_t published;
static atomic_int over;

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

/* The store has 2 bytes, so its jump consists of the next instruction's first bytes too: 0x79b905.. leads to where nothing is. */
#define DOORBELL "movl %%eax, (%%rdx)\n\taddl $0x9e3779b9, %%eax"

static inline __attribute__((always_inline)) void doorbell(char *at, uint32_t value)
{
    __asm__ volatile(DOORBELL : "+a"(value) : "d"(at) : "memory");
}

static inline __attribute__((always_inline)) uint32_t status(char *at)
{
    uint32_t value;
    __asm__ volatile("movl 0x24(%%rdx), %%ecx" : "=c"(value) : "d"(at) : "memory");
    return value;
}

static long access_device(char *at)
{
    for (long i = 0; i < count; i += 2) {
        doorbell(at, (uint32_t)i);
        status(at);
    }
    return 0;
}

static long access_apart(char *at)
{
    for (long i = 0; i < count; i += 2) {
        doorbell(at, (uint32_t)i);
        __asm__ volatile("cld");
        status(at);
        __asm__ volatile("cld");
    }
    return 0;
}

static inline __attribute__((always_inline)) void note(long i, int64_t time, int cpu, int kind, uint64_t offset, uint64_t value)
{
    rows[i] = (struct row){time, value, offset, (uintptr_t)note, 0, 1, ~0u, 4, (int16_t)cpu, (uint8_t)kind, 0, 0, {0}};
    atomic_store_explicit(&published, (uint32_t)i + 1, memory_order_release);
}

static long access_clock(char *at)
{
    for (long i = 0; i < count; i += 2) {
        int64_t time = now();
        doorbell(at, (uint32_t)i);
        note(i, time, sched_getcpu(), 2, 0, (uint64_t)i);
        time = now();
        uint32_t value = status(at);
        note(i + 1, time, sched_getcpu(), 1, STATUS, value);
    }
    return 0;
}

static uint64_t start_ticks, rate; /* nanoseconds a tick, times 2^32 */

static inline __attribute__((always_inline)) int64_t by_ticks(unsigned *cpu)
{
    return (int64_t)(((unsigned __int128)(__rdtscp(cpu) - start_ticks) * rate) >> 32);
}

static long access_ticks(char *at)
{
    for (long i = 0; i < count; i += 2) {
        unsigned cpu;
        int64_t time = by_ticks(&cpu);
        doorbell(at, (uint32_t)i);
        note(i, time, cpu & 0xfff, 2, 0, (uint64_t)i);
        time = by_ticks(&cpu);
        uint32_t value = status(at);
        note(i + 1, time, cpu & 0xfff, 1, STATUS, value);
    }
    return 0;
}

static void settle_rate(void)
{
    unsigned cpu;
    long begin = now();
    start_ticks = __rdtscp(&cpu);
    usleep(20000);
    rate = ((uint64_t)(now() - begin) << 32) / (__rdtscp(&cpu) - start_ticks);
}

static void open_page(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    mprotect(device, PAGE, PROT_READ | PROT_WRITE);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void close_page(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    mprotect(device, PAGE, PROT_NONE);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(long long)TRAP_FLAG;
}

static void be_kmmio(void)
{
    struct sigaction fault = {.sa_sigaction = open_page, .sa_flags = SA_SIGINFO};
    struct sigaction step = {.sa_sigaction = close_page, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &fault, NULL);
    sigaction(SIGTRAP, &step, NULL);
    mprotect(device, PAGE, PROT_NONE);
}

static __attribute__((noinline)) void chase(void *from, long times)
{
    __asm__ volatile("1: movq (%%rax), %%rax\n\tdecq %1\n\tjnz 1b" : "+a"(from), "+r"(times) : : "memory");
}

/* Only the time in ordinary memory counts. */
static long access_memory(char *at)
{
    static void *itself = &itself;
    long taken = 0;
    for (long i = 0; i < count; i += CHASES) {
        for (int j = 0; j < CHASES; j++)
            chase(at, 1);
        long begin = now();
        chase(itself, CHASES);
        taken += now() - begin;
    }
    return taken;
}

static long access_work(char *at)
{
    for (long i = 0; i < count; i++) {
        uint64_t x = (uint64_t)i;
        for (int j = 0; j < WORK; j++)
            __asm__ volatile("imulq %0, %0" : "+r"(x));
        doorbell(at, (uint32_t)x);
    }
    return 0;
}

extern char changed_site[];

static __attribute__((noinline, noclone)) void go_on(char *at)
{
    uint32_t value = 1;
    __asm__ volatile("changed_site: " DOORBELL : "+a"(value) : "d"(at) : "memory");
}

static long (*burst)(char *at);
static pthread_barrier_t start;
static long began[THREADS], ended[THREADS], said[THREADS];

static void take_core(long thread)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(thread % sysconf(_SC_NPROCESSORS_ONLN), &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
}

static void *run(void *argument)
{
    long thread = (long)argument;
    take_core(thread);
    pthread_barrier_wait(&start);
    began[thread] = now();
    said[thread] = burst(device + thread * APART);
    ended[thread] = now();
    return NULL;
}

/* Nanoseconds that so many threads take, or what the first says that it took. */
static long phase(int threads)
{
    pthread_t ids[THREADS];
    usleep(PAUSE_US);
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (long i = 0; i < threads; i++)
        pthread_create(&ids[i], NULL, run, (void *)i);
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    long first = began[0], last = ended[0];
    for (int i = 1; i < threads; i++) {
        first = began[i] < first ? began[i] : first;
        last = ended[i] > last ? ended[i] : last;
    }
    return said[0] ? said[0] : last - first;
}

static int protocol;

/* Runs the site now and then: each access is an event. */
static void *run_site(void *argument)
{
    long thread = (long)argument;
    take_core(thread);
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        go_on(device + thread * APART);
        for (int j = 0; j < 20 * WORK; j++)
            __asm__ volatile("");
    }
    return NULL;
}

static long change(char *at)
{
    typedef int toggle(void *, int);
    toggle *patch = (toggle *)dlsym(RTLD_DEFAULT, "mmiotap_agent_patch");
    toggle *unpatch = (toggle *)dlsym(RTLD_DEFAULT, "mmiotap_agent_unpatch");
    pthread_t others[THREADS];
    go_on(at); /* it must have been seen */
    over = 0;
    for (long i = 0; i < THREADS; i++)
        pthread_create(&others[i], NULL, run_site, (void *)i);
    long begin = now();
    for (long i = 0; i < count; i++) {
        /* stop-machine gives up if a thread does not stop for long. */
        while (!patch(changed_site, protocol))
            ;
        while (!unpatch(changed_site, protocol))
            ;
    }
    long taken = now() - begin;
    over = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(others[i], NULL);
    return taken;
}

static const struct {
    const char *name;
    long (*burst)(char *at);
    int threads;
} ways[] = {
    {"access", access_device, THREADS}, {"clock", access_clock, 1}, {"ticks", access_ticks, 1}, {"apart", access_apart, 1},
    {"kmmio", access_device, 1},        {"chase", access_memory, 1}, {"work", access_work, 1},  {"change", change, 1},
};

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    const char *name = argv[1];
    int rounds = atoi(argv[3]), way = -1;
    count = atol(argv[4]);
    device = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[2], O_RDWR), 0);
    for (int i = 0; i < (int)(sizeof ways / sizeof *ways); i++)
        if (!strcmp(name, ways[i].name))
            way = i;
    if (way < 0 || device == MAP_FAILED)
        return 2;
    burst = ways[way].burst;
    if (!strcmp(name, "clock") || !strcmp(name, "ticks")) {
        int file = argc > 5 ? open(argv[5], O_RDWR | O_CREAT, 0600) : -1;
        size_t size = (size_t)count * sizeof *rows;
        if (ftruncate(file, (off_t)size))
            return 2;
        rows = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
        settle_rate();
    } else if (!strcmp(name, "kmmio")) {
        be_kmmio();
    } else if (argc > 5) {
        protocol = atoi(argv[5]);
    }
    for (int round = -2; round < rounds; round++)
        for (int threads = 1; threads <= ways[way].threads; threads++) {
            long taken = phase(threads);
            if (round >= 0)
                printf("%ld%c", taken * 1000 / count, threads == ways[way].threads ? '\n' : ' ');
        }
    return 0;
}
