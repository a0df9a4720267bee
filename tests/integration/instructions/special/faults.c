/*
 * Faults of the program's own, which end it as they would untraced: faults FILE write-to-read-only | beyond-the-end |
 * protected | unmapped | behind | null; the file is one page long.
 */
#include "special.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    open_device(argv[1]);
    char *device = map_device(2, PROT_READ | PROT_WRITE), *memory = map_memory(3);
    put32(device, 1);
    puts("before");
    if (!strcmp(argv[2], "write-to-read-only")) {
        CHECK(mprotect(device, PAGE, PROT_READ) == 0);
        CHECK(get32(device) == 1);
        put32(device, 2);
    } else if (!strcmp(argv[2], "beyond-the-end")) {
        get32(device + PAGE);
    } else if (!strcmp(argv[2], "protected")) {
        CHECK(mprotect(device, PAGE, PROT_NONE) == 0);
        get32(device);
    } else if (!strcmp(argv[2], "unmapped")) {
        CHECK(munmap(device, PAGE) == 0);
        get32(device);
    } else if (!strcmp(argv[2], "behind")) {
        /* The first bytes are in a device, the last ones nowhere. */
        CHECK(munmap(memory + PAGE, PAGE) == 0);
        CHECK(mmap(memory, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device_file, 0) == memory);
        get64(memory + PAGE - 4);
    } else if (!strcmp(argv[2], "null")) {
        char *volatile nowhere = (char *)8;
        put32(nowhere, 1);
    }
    puts("after");
    return 0;
}
