/*
 * Mappings and signals set up by system calls that are made as SYSCALL says.
 *
 *     raw DEVICE
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((unused, always_inline)) static inline long inlined(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = -result;
        return -1;
    }
    return result;
}

/* asm/signal.h */
struct action { void (*handler)(int, siginfo_t *, void *); uint64_t flags; void (*restorer)(void); uint64_t mask; };
__asm__("restorer: mov $15, %eax\n syscall");
void restorer(void);

static char *hole;
static volatile uint32_t *device;
static volatile int faults, alarms;

static void faulted(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    faults += info->si_addr == hole;
    device[20]++;
    SYSCALL(SYS_mprotect, (long)hole, 4096, PROT_READ | PROT_WRITE, 0, 0, 0);
}

static void alarmed(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    alarms++;
    device[21]++;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IONBF, 0);
    int file = open(argv[1], O_RDWR);
    device = (void *)SYSCALL(SYS_mmap, 0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 4096);
    printf("%x %x\n", device[0], device[1024]);
    for (int i = 0; i < 40; i++)
        device[i % 4 + 1] += i;
    hole = (void *)SYSCALL(SYS_mmap, 0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct action before, action = {faulted, SA_SIGINFO | 0x4000000, restorer, 1 << (SIGALRM - 1)};
    printf("%ld", SYSCALL(SYS_rt_sigaction, SIGSEGV, (long)&action, (long)&before, 8, 0, 0));
    printf(" %d\n", before.handler == 0);
    for (int i = 0; i < 3; i++) {
        hole[i]++;
        device[4]++;
        SYSCALL(SYS_mprotect, (long)hole, 4096, PROT_NONE, 0, 0, 0);
    }
    printf("%ld", SYSCALL(SYS_rt_sigaction, SIGSEGV, 0, (long)&before, 8, 0, 0));
    printf(" %d %d %d\n", before.handler == faulted, before.restorer == restorer, before.mask == 1 << (SIGALRM - 1));
    action.handler = alarmed;
    action.mask = 1 << (SIGSEGV - 1);
    printf("%ld\n", SYSCALL(SYS_rt_sigaction, SIGALRM, (long)&action, 0, 8, 0, 0));
    printf("%ld", SYSCALL(SYS_rt_sigaction, SIGALRM, 0, (long)&before, 8, 0, 0));
    printf(" %d %d\n", before.handler == alarmed, before.mask == 1 << (SIGSEGV - 1));
    uint64_t all = ~0ull, mask = 0, none = 0;
    printf("%ld", SYSCALL(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&mask, 8, 0, 0));
    printf(" %lx", (long)mask);
    raise(SIGALRM);
    device[5]++;
    printf(" %d", alarms);
    printf(" %ld", SYSCALL(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, (long)&mask, 8, 0, 0));
    printf(" %lx %d\n", (long)mask, alarms);
    printf("%ld", SYSCALL(SYS_rt_sigaction, SIGKILL, (long)&action, 0, 8, 0, 0));
    printf(" %ld", SYSCALL(SYS_rt_sigaction, SIGUSR1, 8, 0, 8, 0, 0));
    printf(" %ld", SYSCALL(SYS_rt_sigaction, SIGUSR1, 0, 8, 8, 0, 0));
    printf(" %ld", SYSCALL(SYS_rt_sigaction, SIGUSR1, (long)&action, 0, 4, 0, 0));
    printf(" %ld\n", SYSCALL(SYS_rt_sigprocmask, 77, (long)&none, 0, 8, 0, 0));
    printf("%ld", SYSCALL(SYS_mmap, 0, 0, PROT_READ, MAP_SHARED, file, 0));
    printf(" %ld", SYSCALL(SYS_munmap, 1, 4096, 0, 0, 0, 0));
    printf(" %ld", SYSCALL(SYS_mprotect, (long)device, 8192, PROT_READ, 0, 0, 0));
    printf(" %x", device[4]);
    device = (void *)SYSCALL(SYS_mremap, (long)device, 8192, 4096, 0, 0, 0);
    printf(" %ld", SYSCALL(SYS_mprotect, (long)device, 4096, PROT_READ | PROT_WRITE, 0, 0, 0));
    device[6] += 3;
    printf(" %ld\n", SYSCALL(SYS_getppid, 0, 0, 0, 0, 0, 0) == getppid());
    pid_t child = SYSCALL(SYS_fork, 0, 0, 0, 0, 0, 0);
    if (!child) {
        device[7]++;
        _exit(7);
    }
    int status;
    waitpid(child, &status, 0);
    printf("%x %d %d\n", status, faults, alarms);
    for (int i = 0; i < 32; i++)
        printf("%x ", device[i]);
    printf("%ld\n", SYSCALL(SYS_munmap, (long)device, 4096, 0, 0, 0, 0));
    return 0;
}
