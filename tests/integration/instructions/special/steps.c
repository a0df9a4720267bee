/* Two threads write and read their own words; a third runs instructions that must be stepped, on the same page. */
#include "special.h"

enum { THREADS = 2, COUNT = 20000, STEPS = 300 };
static char *device;

static void *hammer(void *argument)
{
    uint32_t thread = (uint32_t)(uintptr_t)argument;
    char *word = device + 4 * thread;
    for (uint32_t i = 0; i < COUNT; i++) {
        put32(word, thread << 24 | i);
        CHECK(get32(word) == (thread << 24 | i));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    device = map_device(1, PROT_READ | PROT_WRITE);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, hammer, (void *)i) == 0);
    for (int i = 0; i < STEPS; i++) {
        be_stepped(device + 1024);
        usleep(100);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    puts("right");
    return 0;
}
