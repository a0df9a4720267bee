// Workers that block all signals: by their own mask, through libc or not, by their creator's, and by the attribute they
// are created with; and that wait for signals by sigwait meanwhile.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WORKERS = 6, TURNS = 3000 };
static volatile uint32_t *device;
static sigset_t all;

static int are_blocked(int faults)
{
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, 0, &now);
    int blocked = sigismember(&now, SIGUSR1) + sigismember(&now, SIGTERM);
    return faults ? blocked + sigismember(&now, SIGSEGV) + sigismember(&now, SIGTRAP) : blocked;
}

static void *work(void *argument)
{
    uintptr_t id = (uintptr_t)argument;
    if (id == 0)
        pthread_sigmask(SIG_BLOCK, &all, 0);
    if (id == 3)
        syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, 0, 8);
    for (int turn = 0; turn < TURNS; turn++) {
        device[16 * id] += turn;
        if (turn % 100 == 0) {
            int got = 0;
            pthread_kill(pthread_self(), SIGUSR1);
            sigwait(&all, &got);
            device[16 * id + 1] += got;
        }
    }
    return (void *)(uintptr_t)are_blocked(1);
}

int main(int count, char **argument)
{
    (void)count;
    int file = open(argument[1], O_RDWR);
    device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    sigfillset(&all);
    pthread_t threads[WORKERS];
    pthread_attr_t attribute;
    pthread_attr_init(&attribute);
    pthread_attr_setsigmask_np(&attribute, &all);
    for (uintptr_t id = 0; id < WORKERS; id++) {
        if (id % 3 == 1)
            pthread_sigmask(SIG_BLOCK, &all, 0);
        pthread_create(threads + id, id % 3 == 2 ? &attribute : 0, work, (void *)id);
        if (id == 1)
            pthread_sigmask(SIG_UNBLOCK, &all, 0);
    }
    for (uintptr_t id = 0; id < WORKERS; id++) {
        void *blocked;
        pthread_join(threads[id], &blocked);
        printf("%d blocked, %u, %u\n", (int)(uintptr_t)blocked, device[16 * id], device[16 * id + 1]);
    }
    return are_blocked(1);
}
