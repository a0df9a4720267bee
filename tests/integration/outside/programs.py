"""Programs that are traced from outside. Each maps the file that is its first argument."""

HEAD = r"""
#define _GNU_SOURCE
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
#include <unistd.h>

static volatile uint32_t *map(const char *path, int flags, int prot)
{
    int fd = open(path, O_RDWR);
    void *at = mmap(0, 8192, prot, flags, fd, 0);
    close(fd);
    if (at == MAP_FAILED)
        exit(99);
    return at;
}
"""

#: Works until it is killed; says when it has begun, and its signals never stop. A wrong read ends it.
WORKER = (
    HEAD
    + r"""
static volatile uint32_t *base;
static volatile long handled;

static void handler(int number)
{
    base[1000]++;
    handled += number;
}

static void *work(void *argument)
{
    long slot = (long)argument;
    for (uint32_t value = 0;; value++) {
        base[slot] = value;
        if (base[slot] != value)
            abort();
        if (value % 64 == 0)
            usleep(10);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct itimerval often = {{0, 3000}, {0, 3000}};
    pthread_t thread;
    base = map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    signal(SIGALRM, handler);
    setitimer(ITIMER_REAL, &often, 0);
    for (long slot = 0; slot < 3; slot++)
        pthread_create(&thread, 0, work, (void *)slot);
    puts("ready");
    fflush(stdout);
    work((void *)3L);
    return argc;
}
"""
)

#: Faults of its own, which its handler is to see as they are: its status says which it did not.
FAULTS = (
    HEAD
    + r"""
static sigjmp_buf back;
static siginfo_t seen;

static void handler(int number, siginfo_t *info, void *context)
{
    seen = *info;
    siglongjmp(back, number);
}

static int fault(volatile uint32_t *at, int number, int code, int write)
{
    int got = sigsetjmp(back, 1);
    if (!got) {
        if (write)
            *at = 1;
        else
            (void)*at;
        return 0;
    }
    return got == number && seen.si_addr == (void *)at && seen.si_code == code;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    volatile uint32_t *read_only = map(argv[1], MAP_SHARED, PROT_READ);
    volatile uint32_t *base = map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    base[1] = 5;
    if (read_only[1] != 5)
        return 1;
    if (!fault(read_only + 1, SIGSEGV, SEGV_ACCERR, 1))
        return 2;
    if (!fault((uint32_t *)16, SIGSEGV, SEGV_MAPERR, 0))
        return 3;
    if (mprotect((void *)base, 8192, PROT_NONE) || !fault(base + 1, SIGSEGV, SEGV_ACCERR, 0))
        return 4;
    if (mprotect((void *)base, 8192, PROT_READ | PROT_WRITE) || base[1] != 5)
        return 5;
    if (truncate(argv[1], 4096) || !fault(base + 1024, SIGBUS, BUS_ADRERR, 1))
        return 6;
    if (truncate(argv[1], 8192))
        return 7;
    base[1024] = 6;
    signal(SIGSEGV, SIG_DFL);
    *(volatile uint32_t *)(8L * argc) = 1; /* and one that nobody handles any more */
    return 8;
}
"""
)

#: All that can be done with a mapping.
MAPPINGS = (
    HEAD
    + r"""
int main(int argc, char **argv)
{
    volatile uint32_t *base = map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    base[0] = 1;
    base[1024] = 2;
    munmap((void *)base, 4096); /* the first half goes */
    base[1024] = 3;
    base = mremap((void *)(base + 1024), 4096, 8192, MREMAP_MAYMOVE); /* the second moves and grows */
    base[0] = 4;
    mprotect((void *)base, 4096, PROT_READ);
    if (base[0] != 4)
        return 1;
    mprotect((void *)base, 4096, PROT_READ | PROT_WRITE);
    base[1] = 5;
    if (mmap((void *)base, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != base)
        return 2;
    base[1] = 6; /* not the device any more */
    return argc > 9;
}
"""
)

#: A child that goes on with its parent's mapping, one that is another program, and threads.
FORKS = (
    HEAD
    + r"""
static void *work(void *at)
{
    *(volatile uint32_t *)at = 7;
    return 0;
}

int main(int argc, char **argv)
{
    volatile uint32_t *base = map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    pthread_t thread;
    int status;
    if (argc > 2) {
        base[3] = 4; /* the other program */
        return 0;
    }
    base[0] = 1;
    if (fork() == 0) {
        base[1] = 2;
        pthread_create(&thread, 0, work, (void *)(base + 4));
        pthread_join(thread, 0);
        _exit(0);
    }
    wait(&status);
    if (vfork() == 0) {
        execl(argv[0], argv[0], argv[1], "again", (char *)0);
        _exit(1);
    }
    wait(&status);
    base[2] = 3;
    return base[1] + base[3] == 6 && base[4] == 7 ? 0 : 1;
}
"""
)

#: Many threads, one after the other.
THREADS = (
    HEAD
    + r"""
static void *work(void *at)
{
    ++*(volatile uint32_t *)at;
    return 0;
}

int main(int argc, char **argv)
{
    volatile uint32_t *base = map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    pthread_t thread;
    for (int number = 0; number < 100; number++) {
        pthread_create(&thread, 0, work, (void *)base);
        pthread_join(thread, 0);
    }
    return base[0] == 100 ? 0 : argc;
}
"""
)

#: A mapping that cannot be made twice, a register that is the address and the value, and an absolute address.
WITHOUT_ALIAS = (
    HEAD
    + r"""
int main(int argc, char **argv)
{
    volatile uint32_t *base = map(argv[1], MAP_PRIVATE, PROT_READ | PROT_WRITE);
    volatile uint32_t *shared = map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    base[0] = 1;
    base[1] += 2;
    asm volatile("mov %0, (%0)" : : "r"(shared) : "memory");
    return base[0] == 1 && base[1] == 2 && *(void *volatile *)shared == (void *)shared ? 0 : argc;
}
"""
)

#: A device that somebody else plays: what it reads is what it prints.
HOOKED = (
    HEAD
    + r"""
int main(int argc, char **argv)
{
    volatile uint32_t *base = map(argv[1], MAP_SHARED, PROT_READ | PROT_WRITE);
    base[0] = 1;           /* as it is */
    base[1] = 2;           /* changed */
    base[2] = 3;           /* swallowed */
    base[3] |= 0x10;       /* both halves */
    __atomic_fetch_add((uint32_t *)base + 4, 5, __ATOMIC_SEQ_CST);
    uint32_t fifth = base[5], sixth = base[6], seventh = base[7];
    printf("%x %x %x\n", fifth, sixth, seventh);
    return argc > 9;
}
"""
)
