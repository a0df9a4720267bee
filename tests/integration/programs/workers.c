// Forks workers that share the region it has mapped before, and a parent that works with them: atomics on one word, words
// of their own, and workers of workers.
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, TURNS = 1000 };
static volatile uint32_t *device;

static void work(int id)
{
    for (int turn = 0; turn < TURNS; turn++) {
        device[16 * id] = device[16 * id] + id;
        atomic_fetch_add((_Atomic uint32_t *)(device + 512), 1);
    }
}

int main(int count, char **argument)
{
    (void)count;
    int file = open(argument[1], O_RDWR);
    device = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    pid_t workers[WORKERS];
    device[700] = 7;
    for (int id = 0; id < WORKERS; id++) {
        workers[id] = fork();
        if (workers[id])
            continue;
        work(id + 1);
        if (id == 2) {
            if (!fork()) {
                work(9);
                _exit(0);
            }
            wait(0);
        }
        _exit(id + (int)device[700]);
    }
    work(0);
    for (int id = 0; id < WORKERS; id++) {
        int status;
        waitpid(workers[id], &status, 0);
        printf("%d: %d, %u\n", id, status, device[16 * id + 16]);
    }
    printf("%u, %u, %u\n", device[0], device[16 * 9], device[512]);
    return 0;
}
