// Which signals threads and children believe to be blocked that have not asked for it: what their creator had, or their attribute
// names. Each touches the device.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <threads.h>
#include <unistd.h>

enum { MANY = 500 };
static volatile uint32_t *device;

static int number(const sigset_t *set)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGTRAP, SIGFPE, SIGUSR1};
    int bits = 0;
    for (int at = 0; at < 5; at++)
        bits |= sigismember(set, signals[at]) << at;
    return bits;
}

static int blocked(void)
{
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, 0, &now);
    device[number(&now)]++;
    return number(&now);
}

static void *look(void *argument) { return (char *)argument + blocked(); }
static int look_c11(void *argument) { return (int)(intptr_t)argument + blocked(); }
static void *look_deeper(void *argument)
{
    pthread_t inner;
    void *seen;
    pthread_create(&inner, 0, look, argument);
    pthread_join(inner, &seen);
    return seen;
}
static void *leave(void *argument) { pthread_exit((char *)argument + blocked()); }

static int by(void *(*what)(void *), const pthread_attr_t *attribute)
{
    pthread_t thread;
    void *seen;
    if (pthread_create(&thread, attribute, what, (void *)100))
        return -1;
    pthread_join(thread, &seen);
    return (int)(intptr_t)seen;
}

static void round_of(const char *name, const pthread_attr_t *attribute)
{
    thrd_t thread;
    int c11 = 0, status = 0;
    if (thrd_create(&thread, look_c11, (void *)100) == thrd_success)
        thrd_join(thread, &c11);
    pid_t child = fork();
    if (child == 0)
        _exit(by(look, 0) == 100 + blocked() ? blocked() : 99);
    waitpid(child, &status, 0);
    printf("%s: %d, %d, %d, %d, %d, %d\n", name, by(look, 0), by(look_deeper, 0), by(leave, 0), by(look, attribute), c11,
           WEXITSTATUS(status));
    fflush(stdout);
}

int main(int count, char **argument)
{
    (void)count;
    int file = open(argument[1], O_RDWR);
    device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    sigset_t some, read_back;
    sigemptyset(&some);
    sigaddset(&some, SIGBUS);
    sigaddset(&some, SIGUSR1);
    pthread_attr_t attribute;
    pthread_attr_init(&attribute);
    printf("none: %d\n", pthread_attr_getsigmask_np(&attribute, &read_back));
    pthread_attr_setsigmask_np(&attribute, &some);
    int named = pthread_attr_getsigmask_np(&attribute, &read_back);
    printf("named: %d, %d\n", named, number(&read_back));

    round_of("nothing", &attribute);
    sigaddset(&some, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &some, 0);
    round_of("some", &attribute);
    pthread_attr_setsigmask_np(&attribute, 0);
    sigfillset(&some);
    pthread_sigmask(SIG_BLOCK, &some, 0);
    round_of("all", &attribute);

    pthread_attr_t impossible;
    pthread_attr_init(&impossible);
    pthread_attr_setstacksize(&impossible, (size_t)1 << 46);
    printf("impossible: %d\n", by(look, &impossible));
    int right = 0;
    for (int turn = 0; turn < MANY; turn++)
        right += by(look, 0) == 100 + 31;
    printf("%d right\n", right);
    return blocked();
}
