/* Small stacks, and alternate stacks that the program set up itself. */
#include "special.h"
#include <limits.h>

enum { THREADS = 8, COUNT = 100 };
static char *device;
static char *alternate;
static size_t alternate_size;
static volatile int handled;
static sigjmp_buf back;

static void *touch(void *argument)
{
    uint32_t thread = (uint32_t)(uintptr_t)argument;
    for (uint32_t i = 0; i < COUNT; i++) {
        put32(device + 4 * thread, i);
        CHECK(get32(device + 4 * thread) == i);
    }
    __asm__ volatile("movups (%0), %%xmm0; paddd (%0), %%xmm0" : : "r"(device + 256) : "xmm0", "memory");
    be_stepped(device + 1024);
    return NULL;
}

static void on_alternate(int number)
{
    char here;
    stack_t seen;
    CHECK(number == SIGUSR1);
    CHECK(&here >= alternate && &here < alternate + alternate_size);
    CHECK(sigaltstack(NULL, &seen) == 0);
    CHECK(seen.ss_flags == SS_ONSTACK && seen.ss_sp == alternate && seen.ss_size == alternate_size);
    touch((void *)20);
    CHECK(&here >= alternate && &here < alternate + alternate_size);
    handled++;
}

static void on_overflow(int number)
{
    char here;
    CHECK(number == SIGSEGV);
    CHECK(&here >= alternate && &here < alternate + alternate_size);
    put32(device + 4 * 21, 21);
    handled++;
    siglongjmp(back, 1);
}

static __attribute__((noinline)) int recurse(int depth)
{
    volatile char pad[4096];
    pad[0] = (char)depth;
    return depth < 0 ? 0 : recurse(depth + 1) + pad[0];
}

static void *overflow(void *argument)
{
    (void)argument;
    stack_t stack = {.ss_sp = alternate, .ss_size = alternate_size};
    CHECK(sigaltstack(&stack, NULL) == 0);
    if (sigsetjmp(back, 1) == 0)
        recurse(0);
    CHECK(handled == 1);
    touch((void *)22);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    device = map_device(1, PROT_READ | PROT_WRITE);

    pthread_attr_t small;
    pthread_t threads[THREADS];
    pthread_attr_init(&small);
    CHECK(pthread_attr_setstacksize(&small, (size_t)sysconf(_SC_THREAD_STACK_MIN)) == 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], &small, touch, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);

    stack_t before, read_back;
    CHECK(sigaltstack(NULL, &before) == 0);
    CHECK(before.ss_flags == SS_DISABLE);
    alternate_size = (size_t)sysconf(_SC_SIGSTKSZ);
    alternate = malloc(alternate_size);
    stack_t stack = {.ss_sp = alternate, .ss_size = alternate_size};
    CHECK(sigaltstack(&stack, NULL) == 0);
    CHECK(sigaltstack(NULL, &read_back) == 0);
    CHECK(read_back.ss_sp == alternate && read_back.ss_size == alternate_size && read_back.ss_flags == 0);
    struct sigaction action = {.sa_handler = on_alternate, .sa_flags = SA_ONSTACK};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    raise(SIGUSR1);
    touch((void *)8);
    raise(SIGUSR1);
    CHECK(handled == 2);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0);
    CHECK(sigaltstack(NULL, &read_back) == 0 && read_back.ss_flags == SS_DISABLE);
    touch((void *)9);

    /* A stack that is used up: only an alternate one can tell. */
    handled = 0;
    action.sa_handler = on_overflow;
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    CHECK(pthread_attr_setstacksize(&small, 256 * 1024) == 0);
    CHECK(pthread_create(&threads[0], &small, overflow, NULL) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0);
    puts("right");
    return 0;
}
