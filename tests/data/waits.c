/*
 * Threads that wait for locks in a mapped file, all of them at once, until they are told.
 *
 *     waits DEVICE WAKE SHARED
 *
 * Four times: says that they are started, and when there is a file WAKE0 (WAKE1, …), ends all waits, says what came of
 * them, and removes the file.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WAITS = 7 };

static struct locks {
    pthread_mutex_t mutex, guard;
    pthread_cond_t changed;
    pthread_rwlock_t both;
    pthread_barrier_t barrier;
    sem_t full, timed;
    int over;
} *locks;

static struct timespec later;

static void *wait_here(void *argument)
{
    long which = (long)argument, result = -1;
    switch (which) {
    case 0:
        result = pthread_mutex_lock(&locks->mutex);
        pthread_mutex_unlock(&locks->mutex);
        break;
    case 1:
        result = pthread_rwlock_rdlock(&locks->both);
        pthread_rwlock_unlock(&locks->both);
        break;
    case 2:
        result = pthread_barrier_wait(&locks->barrier) != 0;
        break;
    case 3:
        result = sem_wait(&locks->full);
        break;
    case 4:
        result = sem_timedwait(&locks->timed, &later);
        break;
    default:
        pthread_mutex_lock(&locks->guard);
        while (!locks->over)
            result = which == 5 ? pthread_cond_wait(&locks->changed, &locks->guard)
                                : pthread_cond_timedwait(&locks->changed, &locks->guard, &later);
        pthread_mutex_unlock(&locks->guard);
    }
    return (void *)result;
}

static void set_up(int shared)
{
    pthread_mutexattr_t mutex;
    pthread_condattr_t changed;
    pthread_rwlockattr_t both;
    pthread_barrierattr_t barrier;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, shared);
    pthread_mutex_init(&locks->mutex, &mutex);
    pthread_mutex_init(&locks->guard, &mutex);
    pthread_condattr_init(&changed);
    pthread_condattr_setpshared(&changed, shared);
    pthread_cond_init(&locks->changed, &changed);
    pthread_rwlockattr_init(&both);
    pthread_rwlockattr_setpshared(&both, shared);
    pthread_rwlock_init(&locks->both, &both);
    pthread_barrierattr_init(&barrier);
    pthread_barrierattr_setpshared(&barrier, shared);
    pthread_barrier_init(&locks->barrier, &barrier, 2);
    sem_init(&locks->full, shared, 0);
    sem_init(&locks->timed, shared, 0);
    locks->over = 0;
}

int main(int count, char **argument)
{
    (void)count;
    setvbuf(stdout, 0, _IOLBF, 0);
    locks = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argument[1], O_RDWR), 0);
    clock_gettime(CLOCK_REALTIME, &later);
    later.tv_sec += 1000;
    for (int round = 0; round < 4; round++) {
        char wake[4096];
        pthread_t thread[WAITS];
        void *result[WAITS];
        snprintf(wake, sizeof wake, "%s%d", argument[2], round);
        set_up(atoi(argument[3]));
        pthread_mutex_lock(&locks->mutex);
        pthread_rwlock_wrlock(&locks->both);
        for (long which = 0; which < WAITS; which++)
            pthread_create(&thread[which], 0, wait_here, (void *)which);
        while (access(wake, F_OK))
            usleep(1000);
        pthread_mutex_unlock(&locks->mutex);
        pthread_rwlock_unlock(&locks->both);
        int barrier = pthread_barrier_wait(&locks->barrier) != 0;
        sem_post(&locks->full);
        sem_post(&locks->timed);
        pthread_mutex_lock(&locks->guard);
        locks->over = 1;
        pthread_cond_broadcast(&locks->changed);
        pthread_mutex_unlock(&locks->guard);
        for (int which = 0; which < WAITS; which++)
            pthread_join(thread[which], &result[which]);
        for (int which = 0; which < WAITS; which++)
            printf("%ld ", (long)result[which] + (which == 2) * barrier);
        printf("\n");
        unlink(wake);
    }
    return 0;
}
