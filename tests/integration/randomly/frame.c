// The frame of a random program (compose.py): what its threads know, its handlers, and its end. Each thread works on pages of the
// device that are its own, so that what it computes does not depend on the others; what they share is added to only. What comes
// when it likes (timer signals) must leave no trace but `wrong`.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 8, THREADS_AT_MOST = 4 };

typedef struct {
    int id;
    uint64_t sum;                                         // of all that this thread has seen
    uint64_t a, b;                                        // operands, which the sum changes
    uint8_t *device;                                      // its PAGES pages
    uint8_t *hole;                                        // a page that nobody may touch, most of the time
    uint8_t memory[4 * PAGE] __attribute__((aligned(64))); // ordinary memory
    uint8_t stack[16 * PAGE];                             // for its handlers, if it has one
    uint8_t other[16 * PAGE];                             // a stack to go to and come back from
    sigjmp_buf back;
    uint8_t *code;                                        // a page for instructions
    void *volatile expected;                              // where the next fault is, if that is known
    volatile int jumps, faults, traps, signals;
} state;

static int file;
static uint8_t *shared;
static atomic_int wrong;
static __thread state *current;
static state states[THREADS_AT_MOST];
static const int alternate; // do handlers have a stack of their own?

// Accesses that the compiler leaves where they are, at instructions that all threads share.
static __attribute__((noinline)) uint8_t peek(const volatile uint8_t *at)
{
    return *at;
}

static __attribute__((noinline)) void poke(volatile uint8_t *at, uint8_t value)
{
    *at = value;
}

static void mix(state *s, uint64_t value)
{
    s->sum = (s->sum ^ value) * 0x9E3779B97F4A7C15 + 1;
    s->sum ^= s->sum >> 29;
    s->a = s->sum * 0xBF58476D1CE4E5B9;
    s->b = s->sum * 0x94D049BB133111EB + 7;
}

static void mix_all(state *s, const uint8_t *from, size_t size)
{
    for (size_t at = 0; at < size; at++)
        mix(s, peek(from + at));
}

static void must(int holds)
{
    if (!holds)
        atomic_fetch_add(&wrong, 1);
}

// Faults and traps of the program's own. One that it does not expect ends it.
static void on_fault(int number, siginfo_t *info, void *context)
{
    state *s = current;
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, 0, &now);
    must(sigismember(&now, number));
    must(!s->expected || info->si_addr == s->expected);
    mix(s, info->si_code);
    poke(s->device + PAGE - 1, peek(s->device + PAGE - 1) + 1);
    s->faults++;
    if (s->jumps)
        siglongjmp(s->back, number);
    if (number != SIGSEGV || (uint8_t *)info->si_addr < s->hole || (uint8_t *)info->si_addr >= s->hole + PAGE)
        _exit(90 + number % 10);
    mprotect(s->hole, PAGE, PROT_READ | PROT_WRITE);
}

static void on_trap(int number)
{
    (void)number;
    current->traps++;
    poke(current->device + PAGE - 2, peek(current->device + PAGE - 2) + 3);
}

// Behind an instruction of two bytes that does not exist.
static void on_illegal(int number, siginfo_t *info, void *context)
{
    (void)number;
    must(info->si_addr == (void *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    poke(current->device + PAGE - 3, 9);
}

static void on_own_signal(int number)
{
    (void)number;
    current->signals++;
    *(volatile uint32_t *)(current->device + PAGE - 8) += 5;
}

// Comes at any moment, to any thread.
static void on_timer(int number)
{
    (void)number;
    static atomic_uint count;
    uint32_t value = atomic_fetch_add(&count, 1);
    if (!current)
        return; // a thread that has just begun, or is brief
    volatile uint32_t *word = (volatile uint32_t *)(shared + 2048) + current->id;
    *word = value;
    must(*word == value);
}

static void handle(int number, void *handler, int flags)
{
    struct sigaction action = {.sa_flags = flags | (alternate ? SA_ONSTACK : 0)};
    action.sa_sigaction = (void (*)(int, siginfo_t *, void *))handler;
    sigaction(number, &action, 0);
}

// The start of a thread.
static state *begin(state *s)
{
    current = s;
    if (alternate)
        sigaltstack(&(stack_t){.ss_sp = s->stack, .ss_size = sizeof s->stack}, 0);
    return s;
}

static uint8_t *map_own(state *s, int page, int pages, int rights);
static void *(*const work[])(void *);
static const int threads;

int main(int count, char **argument)
{
    (void)count;
    file = open(argument[1], O_RDWR);
    shared = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)THREADS_AT_MOST * PAGES * PAGE);
    handle(SIGSEGV, on_fault, SA_SIGINFO);
    handle(SIGBUS, on_fault, SA_SIGINFO);
    handle(SIGFPE, on_fault, SA_SIGINFO);
    handle(SIGILL, on_illegal, SA_SIGINFO);
    handle(SIGTRAP, on_trap, 0);
    handle(SIGUSR1, on_own_signal, SA_RESTART);
    handle(SIGALRM, on_timer, SA_RESTART);
    struct itimerval often = {{0, 3000}, {0, 3000}};
    setitimer(ITIMER_REAL, &often, 0);
    pthread_t running[THREADS_AT_MOST];
    for (int id = 0; id < threads; id++) {
        state *s = states + id;
        s->id = id;
        mix(s, id);
        s->device = map_own(s, 0, PAGES, PROT_READ | PROT_WRITE);
        s->hole = mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        s->code = mmap(0, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pthread_create(running + id, 0, work[id], s);
    }
    for (int id = 0; id < threads; id++)
        pthread_join(running[id], 0);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, 0);
    for (int id = 0; id < threads; id++) {
        state *s = states + id;
        mix_all(s, s->memory, sizeof s->memory);
        mix_all(s, s->device, PAGES * PAGE / 4);
        printf("thread %d: %016lx, %d faults, %d traps, %d signals\n", id, s->sum, s->faults, s->traps, s->signals);
    }
    uint64_t *all = (uint64_t *)shared;
    printf("shared: %lx %lx, wrong: %d\n", all[0], all[1], (int)wrong);
    return (int)(all[0] & 63);
}
