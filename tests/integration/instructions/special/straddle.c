/* Accesses that lie half in a device and half in ordinary memory, before it and behind it, or in two devices' mappings. */
#include "special.h"

/* What the processor itself accesses in parts. */
static void in_parts(char *edge, uint64_t value)
{
    static _Alignas(64) char state[1024], seen_state[1024];
    long double wide = (long double)value, seen_wide;
    __asm__ volatile("fldt %2; fstpt %0; fldt %0; fstpt %1"
                     : "=m"(*(char(*)[10])(edge - 3)), "=m"(seen_wide) : "m"(wide));
    CHECK(memcmp(&wide, &seen_wide, 10) == 0);
    __asm__ volatile("fxsave64 %0" : "=m"(*(char(*)[512])(edge - 256)));
    __asm__ volatile("fxsave64 %0" : "=m"(state));
    for (int i = 0; i < 416; i++)
        seen_state[i] = edge[i - 256];
    CHECK(memcmp(state, seen_state, 5) == 0 && memcmp(state + 160, seen_state + 160, 256) == 0);
    __asm__ volatile("fxrstor64 %0" : : "m"(*(char(*)[512])(edge - 256))
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15");
    if (__builtin_cpu_supports("avx2")) {
        /* Elements on both sides; an edge goes through one. */
        uint32_t mask[8] = {~0u, 0, ~0u, ~0u, 0, ~0u, ~0u, 0}, loaded[8];
        int32_t indices[4] = {-4, -2, -7, 1};
        uint32_t gathered[4];
        for (int i = 0; i < 8; i++)
            put32(edge - 18 + 4 * i, (uint32_t)value + (uint32_t)i);
        __asm__ volatile("vmovdqu %1, %%ymm1; vpmaskmovd %2, %%ymm1, %%ymm2; vmovdqu %%ymm2, %0; vzeroupper"
                         : "=m"(loaded) : "m"(mask), "m"(*(char(*)[32])(edge - 18)) : "xmm1", "xmm2");
        for (int i = 0; i < 8; i++)
            CHECK(loaded[i] == (mask[i] & ((uint32_t)value + (uint32_t)i)));
        __asm__ volatile("vmovdqu %1, %%ymm1; vpmaskmovd %%ymm1, %%ymm1, %0; vzeroupper"
                         : "+m"(*(char(*)[32])(edge - 18)) : "m"(mask) : "xmm1");
        for (int i = 0; i < 8; i++)
            CHECK(get32(edge - 18 + 4 * i) == (mask[i] ? ~0u : (uint32_t)value + (uint32_t)i));
        for (int i = -8; i < 3; i++)
            put32(edge + 4 * i, (uint32_t)(i * 77));
        __asm__ volatile("vmovdqu %1, %%xmm1; vpcmpeqd %%xmm2, %%xmm2, %%xmm2; vpgatherdd %%xmm2, (%2,%%xmm1,4), %%xmm3;"
                         "vmovdqu %%xmm3, %0" : "=m"(gathered) : "m"(indices), "r"(edge) : "xmm1", "xmm2", "xmm3");
        for (int i = 0; i < 4; i++)
            CHECK(gathered[i] == (uint32_t)(indices[i] * 77));
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    /* Ordinary, device, ordinary; two mappings of the device, side by side but not in its order; nothing. */
    char *memory = map_memory(6), *device = memory + PAGE, *end = device + PAGE, *both = memory + 4 * PAGE;
    CHECK(mmap(device, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device_file, 0) == device);
    for (int i = 0; i < 2; i++)
        CHECK(mmap(both + (i - 1) * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device_file, (4 - i) * PAGE)
              == both + (i - 1) * PAGE);
    CHECK(munmap(both + PAGE, PAGE) == 0);

    put32(device + 64, 1);
    for (int round = 0; round < 20; round++) {
        char *const edges[] = {device, end, both};
        for (int i = 0; i < 3; i++) {
            char *edge = edges[i];
            uint64_t value = 0x1122334455667788 + (uint64_t)round, sum = value + 0x0101010101010101, seen;

            put64(edge - 4, value);
            CHECK(get64(edge - 4) == value);
            __asm__ volatile("addq %1, %0" : "+m"(*(uint64_t *)(edge - 4)) : "r"(0x0101010101010101));
            CHECK(get64(edge - 4) == sum);
            CHECK(get32(edge - 4) == (uint32_t)sum);
            CHECK(get32(edge) == sum >> 32);

            uint64_t wide[2] = {value * 3, value * 5}, wide_seen[2];
            __asm__ volatile("movups %1, %%xmm0; movups %%xmm0, %0" : "=m"(*(char(*)[16])(edge - 9)) : "m"(wide) : "xmm0");
            __asm__ volatile("movups %1, %%xmm0; movups %%xmm0, %0"
                             : "=m"(wide_seen) : "m"(*(char(*)[16])(edge - 9)) : "xmm0");
            CHECK(memcmp(wide, wide_seen, 16) == 0);

            __asm__ volatile("pushq %0; popq %1" : : "m"(*(uint64_t *)(edge - 1)), "m"(seen) : "memory");
            CHECK(seen >> 8 == (get64(edge) & 0xffffffffffffff));
            in_parts(edge, value);
        }
    }

    /* What a mask leaves out may be nowhere. */
    if (__builtin_cpu_supports("avx")) {
        static const uint64_t mask[4] = {~0ull, ~0ull, 0, 0};
        uint64_t loaded[4];
        put64(both + PAGE - 16, 5);
        put64(both + PAGE - 8, 6);
        __asm__ volatile("vmovdqu %1, %%ymm1; vmaskmovpd (%2), %%ymm1, %%ymm2; vmovupd %%ymm2, %0;"
                         "vmaskmovpd %%ymm2, %%ymm1, (%2); vzeroupper"
                         : "=m"(loaded) : "m"(mask), "r"(both + PAGE - 16) : "xmm1", "xmm2", "memory");
        CHECK(loaded[0] == 5 && loaded[1] == 6 && loaded[2] == 0 && loaded[3] == 0);
    }

    /* Element by element across the edges. */
    char text[48], copy[48];
    for (int i = 0; i < 48; i++)
        text[i] = (char)(i * 7 + 1);
    for (int i = 0; i < 2; i++) {
        char *edge = i ? end : device;
        void *to = edge - 20, *from = text;
        size_t count = 48;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
        CHECK(count == 0 && to == edge + 28 && from == text + 48);
        to = copy, from = edge - 20, count = 6;
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
        CHECK(count == 0 && memcmp(text, copy, 48) == 0);
    }
    put32(device + 64, 2);
    puts("right");
    return 0;
}
