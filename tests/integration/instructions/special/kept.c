/* errno, the rounding mode and the red zone are what they were before an access. */
#include "special.h"
#include <fenv.h>

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    char *device = map_device(1, PROT_READ | PROT_WRITE);
    CHECK(fesetround(FE_UPWARD) == 0);
    for (uint32_t i = 0; i < 300; i++) {
        uint64_t below;
        errno = 1234;
        put32(device, i);
        CHECK(errno == 1234 && get32(device) == i && errno == 1234);
        be_stepped(device + 1024);
        CHECK(errno == 1234 && fegetround() == FE_UPWARD);
        __asm__ volatile("movq $0x1234567, -8(%%rsp); movq $0x89abcd, -128(%%rsp)\n\t"
                         "movl (%1), %%eax; lock incl (%1); fildl (%1); fstp %%st(0)\n\t"
                         "movq -8(%%rsp), %0; addq -128(%%rsp), %0"
                         : "=&r"(below)
                         : "r"(device)
                         : "rax", "memory", "cc");
        CHECK(below == 0x1234567 + 0x89abcd);
    }
    puts("right");
    return 0;
}
