// Ways to a signal mask that go by no function for masks: contexts, jumps, what a handler leaves in its frame, calls that wait with a
// mask of their own, and functions that timers call. Whatever is blocked then, the device is touched.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile uint32_t *device;
static sigset_t some, none;

// Which are blocked now, and the device touched.
static void show(const char *where)
{
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, 0, &now);
    printf("%s:", where);
    for (int number = 1; number < 32; number++)
        if (sigismember(&now, number) == 1)
            printf(" %d", number);
    printf(" | %u\n", ++device[0]);
    fflush(stdout);
}

static ucontext_t here, there, further;
static char stacks[2][65536];

static void fiber(int a, int b, int c, int d, int e)
{
    printf("%d %d %d %d %d\n", a, b, c, d, e);
    show("fiber");
    swapcontext(&there, &here);
    show("fiber again");
}

static void ending(void)
{
    show("ending");
}

static void make(ucontext_t *context, char *stack, ucontext_t *next, const sigset_t *mask)
{
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = sizeof stacks[0];
    context->uc_link = next;
    context->uc_sigmask = *mask;
}

static void contexts(void)
{
    make(&further, stacks[1], &here, &none);
    make(&there, stacks[0], &further, &some);
    makecontext(&there, (void (*)(void))fiber, 5, 1, 2, 3, 4, 5);
    makecontext(&further, ending, 0);
    swapcontext(&here, &there);
    show("back");
    pthread_sigmask(SIG_BLOCK, &some, 0);
    swapcontext(&here, &there);
    show("back for good");
    volatile int turns = 0;
    getcontext(&here);
    printf("kept: %d\n", sigismember(&here.uc_sigmask, SIGSEGV));
    pthread_sigmask(SIG_SETMASK, &none, 0);
    if (turns++ < 2) {
        show("before");
        setcontext(&here);
    }
}

static void jumps(void)
{
    for (volatile int saves = 0; saves < 2; saves++) {
        static sigjmp_buf buffer;
        pthread_sigmask(SIG_BLOCK, &some, 0);
        if (!sigsetjmp(buffer, saves)) {
            pthread_sigmask(SIG_SETMASK, &none, 0);
            show("unblocked");
            siglongjmp(buffer, 1);
        }
        show("jumped to blocked");
        pthread_sigmask(SIG_SETMASK, &none, 0);
        if (!sigsetjmp(buffer, saves)) {
            pthread_sigmask(SIG_BLOCK, &some, 0);
            show("blocked");
            siglongjmp(buffer, 1);
        }
        show("jumped to unblocked");
        pthread_sigmask(SIG_SETMASK, &none, 0);
    }
}

static sigjmp_buf out;

static void block(int number, siginfo_t *info, void *context)
{
    (void)info;
    ucontext_t *interrupted = context;
    printf("%d: it was %d, ", number, sigismember(&interrupted->uc_sigmask, SIGTRAP));
    show("handler");
    interrupted->uc_sigmask = some;
}

static void unblock(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ((ucontext_t *)context)->uc_sigmask = none;
}

static void jump(int number)
{
    show("jumping");
    siglongjmp(out, number);
}

static void set(int number, void *handler, int flags, const sigset_t *mask)
{
    struct sigaction action = {.sa_flags = flags, .sa_mask = *mask};
    action.sa_handler = (void (*)(int))(uintptr_t)handler;
    sigaction(number, &action, 0);
}

static void frames(void)
{
    set(SIGUSR1, block, SA_SIGINFO, &none);
    set(SIGUSR2, unblock, SA_SIGINFO, &some);
    raise(SIGUSR1);
    show("blocked by a handler");
    raise(SIGUSR2);
    show("unblocked by a handler");
    set(SIGFPE, block, SA_SIGINFO, &none);
    raise(SIGFPE);
    show("blocked by one of a fault's");
    pthread_sigmask(SIG_SETMASK, &none, 0);
    set(SIGUSR1, jump, 0, &some);
    set(SIGFPE, jump, 0, &some);
    for (volatile int turn = 0; turn < 4; turn++)
        if (!sigsetjmp(out, turn % 2))
            raise(turn < 2 ? SIGUSR1 : SIGFPE);
        else {
            show("jumped out of a handler");
            pthread_sigmask(SIG_SETMASK, &none, 0);
        }
}

static void note(int number)
{
    (void)number;
    show("in a wait");
}

static void waits(void)
{
    sigset_t waiting = some;
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    set(SIGUSR1, note, 0, &none);
    sigdelset(&waiting, SIGUSR1);
    struct epoll_event event;
    int poller = epoll_create1(0);
    for (int turn = 0; turn < 8; turn++) {
        pthread_sigmask(SIG_SETMASK, &usr1, 0);
        raise(SIGUSR1);
        const sigset_t *mask = turn % 2 ? &none : &waiting;
        switch (turn / 2) {
        case 0: sigsuspend(mask); break;
        case 1: ppoll(0, 0, 0, mask); break;
        case 2: pselect(0, 0, 0, 0, 0, mask); break;
        case 3: epoll_pwait(poller, &event, 1, -1, mask); break;
        }
        show("waited");
    }
    pthread_sigmask(SIG_SETMASK, &none, 0);
    ppoll(0, 0, &(struct timespec){0}, &some);
    show("not waited");
}

static void sent(int number, siginfo_t *info, void *context)
{
    (void)context;
    printf("%d, code %d, ", number, info->si_code);
    show("sent");
}

// Signals that are sent while they are blocked, and come later: by a change of the mask, a jump, a handler's end, or to a wait.
static void sends(void)
{
    static const int numbers[] = {SIGTRAP, SIGFPE, SIGSEGV, SIGBUS};
    static sigjmp_buf buffer;
    for (volatile int turn = 0; turn < 8 * 4; turn++) {
        int number = numbers[turn % 4];
        set(number, sent, SA_SIGINFO, &none);
        set(SIGUSR2, unblock, SA_SIGINFO, &some);
        if (sigsetjmp(buffer, 1)) {
            show("jumped");
            continue;
        }
        pthread_sigmask(SIG_BLOCK, &some, 0);
        raise(number);
        raise(number);
        pthread_kill(pthread_self(), number);
        sigset_t waiting;
        siginfo_t info;
        int taken = 0;
        sigpending(&waiting);
        for (int at = 0; at < 4; at++)
            printf("%d ", sigismember(&waiting, numbers[at]));
        show("not yet");
        switch (turn / 4) {
        case 0: pthread_sigmask(SIG_UNBLOCK, &some, 0); break;
        case 1: siglongjmp(buffer, 1);
        case 2: raise(SIGUSR2); break;
        case 3: sigsuspend(&none); break;
        case 4: ppoll(0, 0, 0, &none); break;
        case 5:
            printf("%d, ", sigwait(&some, &taken));
            break;
        case 6:
            taken = sigwaitinfo(&some, &info);
            printf("code %d, ", info.si_code);
            break;
        case 7: printf("%d, ", sigtimedwait(&some, 0, &(struct timespec){0})); break;
        }
        printf("%d and %d, ", taken, sigtimedwait(&some, 0, &(struct timespec){0}));
        show("had it");
        pthread_sigmask(SIG_SETMASK, &none, 0);
    }
}

static sem_t done;

static void timed(union sigval value)
{
    show(value.sival_ptr);
    sem_post(&done);
}

static void timers(void)
{
    sem_init(&done, 0, 0);
    for (int turn = 0; turn < 3; turn++) {
        struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = timed};
        event.sigev_value.sival_ptr = turn ? "timer" : "first timer";
        struct itimerspec soon = {.it_value.tv_nsec = 1000000};
        timer_t timer;
        timer_create(CLOCK_MONOTONIC, &event, &timer);
        timer_settime(timer, 0, &soon, 0);
        sem_wait(&done);
        timer_delete(timer);
    }
}

// A vforked child has its parent's memory, but handlers and a mask of its own.
static void children(void)
{
    static const int numbers[] = {SIGFPE, SIGTRAP, SIGUSR1, SIGUSR2};
    for (int at = 0; at < 4; at++)
        set(numbers[at], sent, SA_SIGINFO, &none);
    for (int turn = 0; turn < 3; turn++) {
        pthread_sigmask(SIG_SETMASK, turn == 1 ? &some : &none, 0);
        pid_t child = vfork();
        if (child == 0) {
            for (int at = 0; at < 4; at++)
                signal(numbers[at], at % 2 ? note : SIG_DFL);
            pthread_sigmask(turn == 1 ? SIG_UNBLOCK : SIG_BLOCK, &some, 0);
            if (turn == 2)
                execl("/bin/true", "true", (char *)0);
            _exit(0);
        }
        waitpid(child, 0, 0);
        show("after vfork");
        pthread_sigmask(SIG_SETMASK, &none, 0);
        for (int at = 0; at < 4; at++)
            raise(numbers[at]);
    }
}

int main(int count, char **argument)
{
    (void)count;
    device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argument[1], O_RDWR), 0);
    sigemptyset(&none);
    sigemptyset(&some);
    static const int blocked[] = {SIGSEGV, SIGBUS, SIGTRAP, SIGFPE, SIGUSR1};
    for (int at = 0; at < 5; at++)
        sigaddset(&some, blocked[at]);
    show("beginning");
    contexts();
    jumps();
    frames();
    waits();
    sends();
    timers();
    children();
    return 0;
}
