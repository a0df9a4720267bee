/* Parent, child and grandchild touch the same device; the child maps one of its own, too. Prints the three pids. */
#include "special.h"

enum { COUNT = 500 };
static char *device;

static void touch(uint32_t who)
{
    for (uint32_t i = 0; i < COUNT; i++) {
        put32(device + 4 * who, who << 24 | i);
        CHECK(get32(device + 4 * who) == (who << 24 | i));
    }
    be_stepped(device + 512 + 512 * who);
}

static void wait_for(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    device = map_device(1, PROT_READ | PROT_WRITE);
    put32(device + 256, 0);
    printf("%d\n", getpid());
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        printf("%d\n", getpid());
        pid_t grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild == 0) {
            printf("%d\n", getpid());
            touch(2);
            exit(0);
        }
        touch(1);
        char *own = map_device(1, PROT_READ | PROT_WRITE);
        put32(own + 128, 77);
        CHECK(munmap(own, PAGE) == 0);
        wait_for(grandchild);
        exit(0);
    }
    touch(0);
    wait_for(child);
    return 0;
}
