/* Accesses that lie half in a device and half in ordinary memory, before it and behind it. */
#include "special.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    /* Ordinary, device, ordinary. */
    char *memory = map_memory(3), *device = memory + PAGE, *end = device + PAGE;
    CHECK(mmap(device, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device_file, 0) == device);

    put32(device + 64, 1);
    for (int round = 0; round < 20; round++) {
        char *const edges[] = {device, end};
        for (int i = 0; i < 2; i++) {
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
        }
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
