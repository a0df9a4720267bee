/* One function, on an ordinary stack and on one that is in the device: what a patched site puts on its stack is nobody's access. */
#include "special.h"

enum { COUNT = 1000, BESIDE = 20000 };
static char *device;
static volatile sig_atomic_t alarms;

static __attribute__((noinline)) void touch(volatile uint32_t *word)
{
    uint32_t seen = *word;
    *word = seen + 1;
}

static void touch_on(char *top, volatile uint32_t *word)
{
    __asm__ volatile("mov %%rsp, %%r12; mov %1, %%rsp; call *%2; mov %%r12, %%rsp"
                     : "+D"(word) : "r"(top), "r"(touch)
                     : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "cc", "memory");
}

static void on_alarm(int number)
{
    (void)number;
    alarms++;
    touch((uint32_t *)(device + 16));
}

static void *beside(void *none)
{
    for (int i = 0; i < BESIDE; i++)
        touch((uint32_t *)(device + 12));
    return none;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    device = map_device(3, PROT_READ | PROT_WRITE);
    static char other[65536];
    static volatile uint32_t ordinary;
    CHECK(sigaltstack(&(stack_t){.ss_sp = other, .ss_size = sizeof other}, NULL) == 0);
    struct sigaction alarmed = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART};
    CHECK(sigaction(SIGALRM, &alarmed, NULL) == 0);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 1000}, {0, 1000}}, NULL);
    pthread_t thread;
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarm, NULL);
    CHECK(pthread_create(&thread, NULL, beside, NULL) == 0);
    pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);
    char *top = device + 3 * PAGE;
    for (int i = 0; i < COUNT; i++) {
        touch((uint32_t *)device);
        touch_on(top, (uint32_t *)(device + 4));
        touch_on(top, &ordinary);
        touch((uint32_t *)(device + 8));
    }
    while (!alarms)
        continue;
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    pthread_join(thread, NULL);
    for (int word = 0; word < 3; word++)
        CHECK(((uint32_t *)device)[word] == COUNT);
    CHECK(((uint32_t *)device)[3] == BESIDE && ((uint32_t *)device)[4] == (uint32_t)alarms && ordinary == COUNT);
    puts("right");
    return 0;
}
