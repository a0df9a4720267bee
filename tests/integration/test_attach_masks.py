"""A program is attached to and left in the middle of changes of masks, handlers and threads, and does not notice."""

import os
import signal
import threading
from pathlib import Path

import pytest

from conftest import Compile, Start
from mmiotap.sources.inside import record

# Each thread does one such thing all the time, looks whether it has come about, and touches the device in between.
CHANGING = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <ucontext.h>
#include <unistd.h>

static volatile uint32_t *device;
static volatile sig_atomic_t stop;
static int wrong_blocked, wrong_unblocked, wrong_handler, wrong_thread, wrong_frame, wrong_context;
static const int special[] = {SIGSEGV, SIGBUS, SIGTRAP, SIGFPE};

static void on_term(int number) { (void)number; stop = 1; }
static void first(int number) { (void)number; }
static void second(int number) { (void)number; }
static void count(int *wrong, int is_wrong) { __atomic_fetch_add(wrong, is_wrong, __ATOMIC_RELAXED); }

static int blocked(const sigset_t *set)
{
    int count = 0;
    for (int i = 0; i < 4; i++)
        count += sigismember(set, special[i]);
    return count;
}

static int blocked_now(void)
{
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, 0, &now);
    return blocked(&now);
}

static void *masks(void *unused)
{
    while (!stop) {
        sigset_t all, old, now;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &old);
        device[0]++;
        count(&wrong_blocked, blocked_now() != 4);
        sigprocmask(SIG_SETMASK, &old, &now);
        count(&wrong_blocked, blocked(&now) != 4);
        count(&wrong_unblocked, blocked(&old) != 0 || blocked_now() != 0);
    }
    return unused;
}

static void *handlers(void *unused)
{
    while (!stop) {
        struct sigaction one = {.sa_handler = first}, two = {.sa_handler = second}, old, now;
        sigaddset(&one.sa_mask, SIGSEGV);
        sigaction(SIGUSR1, &one, 0);
        sigaction(SIGUSR1, &two, &old);
        sigaction(SIGUSR1, 0, &now);
        count(&wrong_handler, old.sa_handler != first || blocked(&old.sa_mask) != 1 || old.sa_flags & SA_SIGINFO);
        count(&wrong_handler, now.sa_handler != second || blocked(&now.sa_mask) != 0 || now.sa_flags & SA_SIGINFO);
        sigaction(SIGFPE, &one, 0);
        sigaction(SIGFPE, &two, &old);
        count(&wrong_handler, old.sa_handler != first);
        device[16]++;
    }
    return unused;
}

static void *begun(void *unused)
{
    count(&wrong_thread, blocked_now() != 0);
    device[32]++;
    return unused;
}

static void *threads(void *unused)
{
    while (!stop) {
        pthread_t thread;
        count(&wrong_thread, pthread_create(&thread, 0, begun, 0) != 0);
        count(&wrong_thread, blocked_now() != 0);
        pthread_join(thread, 0);
    }
    return unused;
}

static void block_four(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;
    device[48]++;
    count(&wrong_frame, blocked(&interrupted->uc_sigmask) != 0 || blocked_now() != 1);
    for (int i = 0; i < 4; i++)
        sigaddset(&interrupted->uc_sigmask, special[i]);
    device[49]++;
    (void)number, (void)info;
}

static void unblock_four(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;
    count(&wrong_frame, blocked(&interrupted->uc_sigmask) != 4);
    sigjmp_buf back;
    if (!sigsetjmp(back, 1)) {
        sigset_t four = interrupted->uc_sigmask;
        pthread_sigmask(SIG_UNBLOCK, &four, 0);
        device[50]++;
        siglongjmp(back, 1);
    }
    count(&wrong_frame, blocked_now() != 4);
    sigemptyset(&interrupted->uc_sigmask);
    (void)number, (void)info;
}

static void *frames(void *unused)
{
    while (!stop) {
        pthread_kill(pthread_self(), SIGUSR2);
        count(&wrong_frame, blocked_now() != 4);
        device[51]++;
        pthread_kill(pthread_self(), SIGURG);
        count(&wrong_frame, blocked_now() != 0);
    }
    return unused;
}

static void *contexts(void *unused)
{
    while (!stop) {
        ucontext_t here, there;
        volatile int turns = 0;
        sigset_t none;
        getcontext(&there);
        if (turns++ == 0) {
            count(&wrong_context, blocked(&there.uc_sigmask) != 0);
            for (int i = 0; i < 4; i++)
                sigaddset(&there.uc_sigmask, special[i]);
            swapcontext(&here, &there);
        }
        count(&wrong_context, blocked_now() != 4);
        device[64]++;
        sigemptyset(&none);
        pthread_sigmask(SIG_SETMASK, &none, 0);
    }
    return unused;
}

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
    if (argc != 2 || ftruncate(fd, 4096))
        return 3;
    device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    signal(SIGTERM, on_term);
    struct sigaction action = {.sa_sigaction = block_four, .sa_flags = SA_SIGINFO};
    sigaddset(&action.sa_mask, SIGTRAP);
    sigaction(SIGUSR2, &action, 0);
    action.sa_sigaction = unblock_four;
    sigaction(SIGURG, &action, 0);
    enum { KINDS = 5 };
    pthread_t all[KINDS];
    pthread_create(all, 0, masks, 0);
    pthread_create(all + 1, 0, handlers, 0);
    pthread_create(all + 2, 0, threads, 0);
    pthread_create(all + 3, 0, frames, 0);
    pthread_create(all + 4, 0, contexts, 0);
    puts("ready");
    fflush(stdout);
    while (!stop)
        usleep(1000);
    for (int i = 0; i < KINDS; i++)
        pthread_join(all[i], 0);
    printf("%d %d %d %d ", wrong_blocked, wrong_unblocked, wrong_handler, wrong_thread);
    printf("%d %d\n", wrong_frame, wrong_context);
    return 0;
}
"""


@pytest.mark.timeout(300)
def test_attached_and_left_while_all_changes(compile_c: Compile, start: Start, tmp_path: Path, patching: str) -> None:
    driver = start(compile_c(CHANGING), tmp_path / "device")
    assert driver.process.stdout is not None
    assert driver.process.stdout.readline() == "ready\n"
    for _ in range(20):
        record.attach(
            driver.pid,
            until=threading.Event(),
            seconds=0.005,
            maps=["**/device"],
            path=tmp_path / "trace",
            buffer=1 << 20,
            patch=patching,
            force=True,
            report=pytest.fail,
        )
    os.kill(driver.pid, signal.SIGTERM)
    ended = driver.wait()
    assert (ended.status, ended.stdout) == (0, "0 0 0 0 0 0\n")
