/* Libraries that are loaded after the start touch the device: loads FILE LIBRARY LIBRARY */
#include "special.h"
#include <dlfcn.h>

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    open_device(argv[1]);
    char *device = map_device(1, PROT_READ | PROT_WRITE);
    for (int round = 0; round < 20; round++) {
        void *library = dlopen(argv[2 + round % 2], RTLD_NOW | RTLD_LOCAL);
        CHECK(library);
        uint32_t (*touch)(char *) = (uint32_t(*)(char *))dlsym(library, "touch");
        CHECK(touch);
        for (int i = 0; i < 5; i++)
            CHECK(touch(device + 4 * round) == (round % 2 && i == 0 ? 0 : 1u + (uint32_t)(round % 2)));
        CHECK(dlclose(library) == 0);
    }
    puts("right");
    return 0;
}
