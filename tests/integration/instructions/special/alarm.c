/* A timer's handler touches the device a thousand times a second while main touches it all the time. */
#include "special.h"

enum { ALARMS = 400 };
static char *device;
static volatile uint32_t alarms;

static void ring(int number)
{
    (void)number;
    if (alarms >= ALARMS)
        return;
    put32(device + 4, alarms);
    CHECK(get32(device + 4) == alarms);
    __asm__ volatile("rep stosl" : : "D"(device + 64), "a"(alarms), "c"(4) : "memory");
    alarms++;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    device = map_device(1, PROT_READ | PROT_WRITE);
    CHECK(signal(SIGALRM, ring) == SIG_DFL);
    struct itimerval every = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    uint32_t count = 0;
    while (alarms < ALARMS) {
        put32(device, count);
        CHECK(get32(device) == count);
        count++;
        if (count % 64 == 0)
            be_stepped(device + 1024);
    }
    struct itimerval never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &never, NULL);
    printf("%u\n", count);
    return 0;
}
