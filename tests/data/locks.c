/*
 * Every lock of libc's, in a mapped file, waited for by threads and by processes.
 *
 *     locks DEVICE [ROUNDS [TAKEN]]
 *
 * With TAKEN the address space 200 to 300 megabytes below libc is not free, and only what is shared by processes is tried.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 120, KINDS = 5 };

struct locks {
    pthread_mutex_t mutex[KINDS];
    pthread_mutex_t plain;
    pthread_cond_t changed;
    pthread_rwlock_t both;
    pthread_barrier_t barrier;
    sem_t full, room;
    pthread_once_t once;
    int turn, waiting, processes;
    long count[KINDS], written, passed, serial, ran;
};

static struct locks *locks;

static void check(int wrong, const char *what)
{
    if (wrong) {
        printf("%s: %s\n", what, strerror(wrong));
        exit(1);
    }
}

static void set_up(int shared)
{
    int kinds[KINDS] = {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ADAPTIVE_NP,
                        PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_NORMAL};
    pthread_mutexattr_t mutex;
    pthread_condattr_t condition;
    pthread_rwlockattr_t both;
    pthread_barrierattr_t barrier;
    memset(locks, 0, sizeof *locks);
    for (int kind = 0; kind < KINDS; kind++) {
        pthread_mutexattr_init(&mutex);
        pthread_mutexattr_setpshared(&mutex, shared);
        pthread_mutexattr_settype(&mutex, kinds[kind]);
        if (kind == 3)
            pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
        if (kind == 4)
            pthread_mutexattr_setprotocol(&mutex, PTHREAD_PRIO_INHERIT);
        check(pthread_mutex_init(&locks->mutex[kind], &mutex), "mutex");
    }
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, shared);
    check(pthread_mutex_init(&locks->plain, &mutex), "plain");
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, shared);
    check(pthread_cond_init(&locks->changed, &condition), "condition");
    pthread_rwlockattr_init(&both);
    pthread_rwlockattr_setpshared(&both, shared);
    check(pthread_rwlock_init(&locks->both, &both), "both");
    pthread_barrierattr_init(&barrier);
    pthread_barrierattr_setpshared(&barrier, shared);
    check(pthread_barrier_init(&locks->barrier, &barrier, THREADS), "barrier");
    sem_init(&locks->full, shared, 0);
    sem_init(&locks->room, shared, 2);
    locks->once = PTHREAD_ONCE_INIT;
    locks->processes = shared;
}

static void nap(void)
{
    struct timespec time = {0, 100000};
    nanosleep(&time, 0);
}

static void run_once(void)
{
    nap();
    locks->ran++;
}

static void *work(void *argument)
{
    long me = (long)argument;
    /* It is never shared between processes. */
    if (!locks->processes)
        pthread_once(&locks->once, run_once);
    for (int round = 0; round < ROUNDS; round++) {
        for (int kind = 0; kind < KINDS; kind++) {
            check(pthread_mutex_lock(&locks->mutex[kind]), "lock");
            if (round % 32 == kind)
                nap();
            locks->count[kind]++;
            check(pthread_mutex_unlock(&locks->mutex[kind]), "unlock");
        }
        if ((round + me) % 3 == 0) {
            check(pthread_rwlock_wrlock(&locks->both), "write");
            if (round % 16 == 0)
                nap();
            locks->written++;
        } else {
            check(pthread_rwlock_rdlock(&locks->both), "read");
            if (round % 16 == 1)
                nap();
        }
        pthread_rwlock_unlock(&locks->both);
        pthread_mutex_lock(&locks->plain);
        while (locks->turn % THREADS != me)
            pthread_cond_wait(&locks->changed, &locks->plain);
        locks->turn++;
        pthread_cond_broadcast(&locks->changed);
        pthread_mutex_unlock(&locks->plain);
        if (me % 2) {
            sem_wait(&locks->room);
            sem_post(&locks->full);
        } else {
            sem_wait(&locks->full);
            sem_post(&locks->room);
        }
        if (pthread_barrier_wait(&locks->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            locks->serial++;
    }
    __atomic_fetch_add(&locks->passed, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void contend(int processes)
{
    pthread_t thread[THREADS];
    pid_t child = 0;
    int first = 0, last = THREADS, status = 0;
    set_up(processes);
    fflush(stdout);
    if (processes) {
        child = fork();
        first = child ? 0 : THREADS / 2;
        last = child ? THREADS / 2 : THREADS;
    }
    for (long me = first; me < last; me++)
        check(pthread_create(&thread[me], 0, work, (void *)me), "create");
    for (int me = first; me < last; me++)
        pthread_join(thread[me], 0);
    if (processes && !child)
        _exit(0);
    if (processes)
        waitpid(child, &status, 0);
    printf("%d:", status);
    for (int kind = 0; kind < KINDS; kind++)
        printf(" %ld", locks->count[kind]);
    printf(" %ld %ld %ld %ld\n", locks->written, locks->passed, locks->serial, locks->ran);
}

static struct timespec soon(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    time.tv_nsec += 2000000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_nsec -= 1000000000;
        time.tv_sec++;
    }
    return time;
}

static void *time_out(void *argument)
{
    struct timespec *time = (void *)(locks + 1);
    for (int kind = 0; kind < KINDS; kind++) {
        *time = soon(CLOCK_REALTIME);
        printf("%d ", pthread_mutex_timedlock(&locks->mutex[kind], time));
    }
    *time = soon(CLOCK_MONOTONIC);
    printf("%d ", pthread_mutex_clocklock(&locks->mutex[0], CLOCK_MONOTONIC, time));
    *time = soon(CLOCK_REALTIME);
    printf("%d ", pthread_rwlock_timedrdlock(&locks->both, time));
    printf("%d ", pthread_rwlock_timedwrlock(&locks->both, time));
    struct timespec own = soon(CLOCK_MONOTONIC);
    printf("%d ", pthread_rwlock_clockwrlock(&locks->both, CLOCK_MONOTONIC, &own));
    pthread_mutex_lock(&locks->plain);
    own = soon(CLOCK_REALTIME);
    printf("%d ", pthread_cond_timedwait(&locks->changed, &locks->plain, &own));
    own = soon(CLOCK_MONOTONIC);
    printf("%d ", pthread_cond_clockwait(&locks->changed, &locks->plain, CLOCK_MONOTONIC, &own));
    pthread_mutex_unlock(&locks->plain);
    own = soon(CLOCK_REALTIME);
    printf("%d ", sem_timedwait(&locks->full, &own));
    printf("%d\n", errno);
    return argument;
}

static void time_outs(int shared)
{
    pthread_t thread;
    set_up(shared);
    for (int kind = 0; kind < KINDS; kind++)
        pthread_mutex_lock(&locks->mutex[kind]);
    pthread_rwlock_wrlock(&locks->both);
    pthread_create(&thread, 0, time_out, 0);
    pthread_join(thread, 0);
    pthread_rwlock_unlock(&locks->both);
    for (int kind = 0; kind < KINDS; kind++)
        pthread_mutex_unlock(&locks->mutex[kind]);
}

static struct { pthread_mutex_t mutex; pthread_cond_t changed; sem_t full; } ordinary = {
    PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, {{0}}};

struct wait { pthread_mutex_t *mutex; pthread_cond_t *changed; sem_t *full; pthread_t thread; int order, held; };

static void cleaned(void *argument)
{
    struct wait *wait = argument;
    wait->order = wait->order * 10 + 1;
    if (wait->mutex) {
        wait->held = pthread_mutex_trylock(wait->mutex) == EBUSY;
        pthread_mutex_unlock(wait->mutex);
    }
}

static void cleaned_last(void *argument)
{
    struct wait *wait = argument;
    wait->order = wait->order * 10 + 2;
}

static void __attribute__((noinline)) wait_there(struct wait *wait)
{
    pthread_cleanup_push(cleaned, wait);
    if (wait->mutex) {
        pthread_mutex_lock(wait->mutex);
        __atomic_fetch_add(&locks->waiting, 1, __ATOMIC_SEQ_CST);
        for (;;)
            pthread_cond_wait(wait->changed, wait->mutex);
    }
    __atomic_fetch_add(&locks->waiting, 1, __ATOMIC_SEQ_CST);
    if (wait->full)
        sem_wait(wait->full);
    else
        pthread_join(wait->thread, 0);
    pthread_cleanup_pop(0);
}

static void *wait_for_ever(void *argument)
{
    pthread_cleanup_push(cleaned_last, argument);
    wait_there(argument);
    pthread_cleanup_pop(0);
    return 0;
}

static void cancel(struct wait wait, const char *what)
{
    pthread_t thread;
    void *result;
    locks->waiting = 0;
    check(pthread_create(&thread, 0, wait_for_ever, &wait), "create");
    while (!__atomic_load_n(&locks->waiting, __ATOMIC_SEQ_CST))
        nap();
    if (wait.mutex) {
        /* When we have it, the thread waits. */
        pthread_mutex_lock(wait.mutex);
        pthread_mutex_unlock(wait.mutex);
    }
    nap(), nap(), nap();
    pthread_cancel(thread);
    pthread_join(thread, &result);
    printf("%s: %d %d %d\n", what, result == PTHREAD_CANCELED, wait.order, wait.held);
    if (wait.mutex) {
        printf("%d ", pthread_mutex_trylock(wait.mutex));
        printf("%d\n", pthread_mutex_unlock(wait.mutex));
    }
}

static void cancellation(int shared)
{
    set_up(shared);
    for (int round = 0; round < 10; round++) {
        cancel((struct wait){.mutex = &locks->plain, .changed = &locks->changed}, "condition");
        cancel((struct wait){.mutex = &ordinary.mutex, .changed = &ordinary.changed}, "ordinary condition");
        cancel((struct wait){.full = &locks->full}, "semaphore");
        cancel((struct wait){.full = &ordinary.full}, "ordinary semaphore");
        cancel((struct wait){.thread = pthread_self()}, "join");
    }
}

static sigjmp_buf out;
static volatile int jumps, signals, over;
static volatile pthread_t target;
static void (*volatile after)(void);

static void signalled(int number)
{
    (void)number;
    signals++;
    if (jumps && !over) {
        over = 1;
        siglongjmp(out, 1);
    }
}

/* Sends the main thread signals until it has come out of its wait, which the first of them ends, or another call. */
static void *disturb(void *argument)
{
    for (int sent = 0; !over; sent++) {
        nap();
        pthread_kill(target, SIGUSR1);
        nap();
        if (sent == 3 && after)
            after();
    }
    return argument;
}

static void post(void)
{
    sem_post(&locks->full);
}

static void signal_all(int shared)
{
    pthread_t thread;
    struct sigaction action = {.sa_handler = signalled};
    set_up(shared);
    target = pthread_self();
    for (int how = 0; how < 3; how++) {
        action.sa_flags = how == 1 ? SA_RESTART : 0;
        sigaction(SIGUSR1, &action, 0);
        jumps = how == 2;
        after = how == 1 ? post : 0;
        signals = over = errno = 0;
        volatile int result = -2;
        if (!sigsetjmp(out, 1)) {
            pthread_create(&thread, 0, disturb, 0);
            result = sem_wait(&locks->full);
            over = 1;
        }
        printf("%d %d %d\n", result, result ? errno : 0, signals > 0);
        pthread_join(thread, 0);
    }
    jumps = 0;
}

/* Threads that begin and end, which libc does with all signals blocked, and with locks. */
static void *nothing(void *argument)
{
    pthread_mutex_lock(&locks->plain);
    locks->passed++;
    pthread_mutex_unlock(&locks->plain);
    return argument;
}

static void *begin_many(void *argument)
{
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        while (pthread_create(&thread, &detached, nothing, 0))
            nap();
    }
    return argument;
}

static void churn(void)
{
    pthread_t thread[THREADS];
    set_up(0);
    for (int me = 0; me < THREADS; me++)
        pthread_create(&thread[me], 0, begin_many, 0);
    for (int me = 0; me < THREADS; me++)
        pthread_join(thread[me], 0);
    for (long passed = 0; passed < 100 * THREADS; nap()) {
        pthread_mutex_lock(&locks->plain);
        passed = locks->passed;
        pthread_mutex_unlock(&locks->plain);
    }
    printf("%ld\n", locks->passed);
}

int main(int count, char **argument)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    int file = open(argument[1], O_RDWR), rounds = count > 2 ? atoi(argument[2]) : 1;
    if (count > 3) {
        char *taken = (char *)((uintptr_t)puts & -4096l) - (300 << 20);
        munmap(taken, 100 << 20);
        mmap(taken, 100 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    }
    locks = mmap(0, 2 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (locks == MAP_FAILED)
        return 1;
    for (int round = 0; round < rounds; round++)
        for (int shared = count > 3; shared < 2; shared++) {
            contend(shared);
            time_outs(shared);
            cancellation(shared);
            signal_all(shared);
            churn();
        }
    return 0;
}
