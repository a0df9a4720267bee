// To be built with AddressSanitizer, which wants to be the first of all libraries, stands in front of mmap, memcpy and
// sigaction, and has a handler of SIGSEGV. It must find what is wrong here as ever: "freed" is used when it is freed,
// "null" is no place for a device.
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { THREADS = 3, TURNS = 500 };
static volatile uint32_t *device;

static void *work(void *argument)
{
    uintptr_t id = (uintptr_t)argument;
    for (int turn = 0; turn < TURNS; turn++) {
        uint32_t *copy = malloc(64);
        device[16 * id] += turn;
        memcpy(copy, (const void *)(device + 16 * id), 64);
        __asm__ volatile("" ::"r"(copy) : "memory");
        device[16 * id + 1] += copy[0];
        free(copy);
    }
    return 0;
}

int main(int count, char **argument)
{
    int file = open(argument[1], O_RDWR);
    device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    pthread_t threads[THREADS];
    for (uintptr_t id = 0; id < THREADS; id++)
        pthread_create(threads + id, 0, work, (void *)id);
    for (uintptr_t id = 0; id < THREADS; id++) {
        pthread_join(threads[id], 0);
        printf("%u, %u\n", device[16 * id], device[16 * id + 1]);
    }
    fflush(stdout);
    const char *wrong = count > 2 ? argument[2] : "nothing";
    if (!strcmp(wrong, "freed")) {
        volatile uint32_t *gone = malloc(64);
        free((void *)gone);
        device[3] = *gone;
    }
    if (!strcmp(wrong, "null"))
        *(volatile uint32_t *)8 = device[3];
    munmap((void *)device, 4096);
    return 0;
}
