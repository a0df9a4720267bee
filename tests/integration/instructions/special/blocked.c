/* Threads with every signal blocked touch the device, and read back the mask that they set. */
#include "special.h"

enum { THREADS = 3, COUNT = 200 };
static char *device;

static void *touch(void *argument)
{
    uint32_t thread = (uint32_t)(uintptr_t)argument;
    sigset_t all, none, before;
    sigfillset(&all);
    sigemptyset(&none);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    CHECK(!sigismember(&before, SIGSEGV) && !sigismember(&before, SIGTRAP));
    for (uint32_t i = 0; i < COUNT; i++) {
        put32(device + 4 * thread, thread << 24 | i);
        CHECK(get32(device + 4 * thread) == (thread << 24 | i));
    }
    be_stepped(device + 512 + 512 * thread);
    CHECK(pthread_sigmask(SIG_BLOCK, &none, &before) == 0);
    CHECK(sigismember(&before, SIGSEGV) && sigismember(&before, SIGTRAP) && sigismember(&before, SIGUSR1));
    CHECK(sigismember(&before, SIGBUS) && sigismember(&before, SIGALRM));
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    device = map_device(1, PROT_READ | PROT_WRITE);
    pthread_t threads[THREADS];
    for (uintptr_t i = 1; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, touch, (void *)i) == 0);
    touch((void *)0);
    for (int i = 1; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    puts("right");
    return 0;
}
