/* Loads with an AVX-512 mask that chooses all, or nothing: then the device is not touched. */
#include "special.h"

__attribute__((noinline, target("avx512f"))) static void round_with(char *device, uint32_t mask)
{
    /* Behind an access the agent goes on; kmov is left to the processor. */
    __asm__ volatile("kmovw %1, %%k1\n\t"
                     "movl %1, (%0); vaddss 4(%0), %%xmm0, %%xmm0%{%%k1%}\n\t"
                     "movl %1, (%0); vmovss 8(%0), %%xmm0%{%%k1%}\n\t"
                     "movl %1, (%0); vpbroadcastd 12(%0), %%zmm0%{%%k1%}\n\t"
                     "movl %1, (%0); vcvtps2pd 16(%0), %%ymm0%{%%k1%}\n\t"
                     "movl %1, (%0); vaddps 64(%0), %%zmm0, %%zmm0%{%%k1%}\n\t"
                     "movl %1, (%0); vmovdqu32 64(%0), %%zmm0%{%%k1%}"
                     :
                     : "r"(device), "r"(mask)
                     : "memory", "xmm0", "k1");
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    char *device = map_device(1, PROT_READ | PROT_WRITE);
    for (int i = 0; i < 300; i++)
        round_with(device, i % 3 == 2 ? 0 : 0xffff);
    puts("right");
    return 0;
}
