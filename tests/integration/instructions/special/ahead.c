/* Code around accesses: every condition, arithmetic, loops, memory; on the device and on ordinary memory, with one result. */
#include "special.h"

#define CONDITIONS(_) _(o) _(no) _(b) _(ae) _(e) _(ne) _(be) _(a) _(s) _(ns) _(p) _(np) _(l) _(ge) _(le) _(g)

/* Bits: was the jump taken, the setcc, the cmov; and the flags that a subtraction after the access leaves. */
#define DEFINE(cc)                                                                                       \
    static __attribute__((noinline)) uint64_t on_##cc(volatile uint32_t *at, uint32_t with)              \
    {                                                                                                    \
        uint64_t result = 0, one = 1, flags;                                                             \
        __asm__ volatile("movl (%3), %%eax\n\tcmpl %4, %%eax\n\tj" #cc " 1f\n\torq $1, %0\n\t"           \
                         "1: cmpl %4, (%3)\n\tj" #cc " 2f\n\torq $2, %0\n\tjmp 3f\n\t"                   \
                         "2: leaq 4(%0,%0,2), %0\n\t"                                                    \
                         "3: movl (%3), %%eax\n\tsubl %4, %%eax\n\tmovl $0, %%ecx\n\t"                   \
                         "cmov" #cc "q %2, %%rcx\n\tshlq $8, %0\n\torq %%rcx, %0\n\t"                    \
                         "movl (%3), %%eax\n\tsubl %4, %%eax\n\tpushfq\n\tpopq %1\n\t"                   \
                         : "+r"(result), "=&r"(flags)                                                    \
                         : "r"(one), "r"(at), "r"(with)                                                  \
                         : "rax", "rcx", "cc", "memory");                                                \
        return result << 16 | (flags & 0x8d5);                                                           \
    }
CONDITIONS(DEFINE)
#define NAME(cc) on_##cc,
static uint64_t (*const functions[])(volatile uint32_t *, uint32_t) = {CONDITIONS(NAME)};

/* A checksum over a ring of words, with a table in ordinary memory. */
static __attribute__((noinline)) uint32_t mix(volatile uint32_t *ring, uint32_t *table, int rounds)
{
    uint32_t sum = 1;
    for (int i = 0; i < rounds; i++) {
        sum = sum * 31 + ring[i % 64];
        table[sum % 64] ^= sum >> 3;
        if (sum & 16)
            ring[(i + 1) % 64] = sum ^ table[i % 64];
        else
            ring[i % 64] += 3;
    }
    return sum;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    volatile uint32_t *device = (volatile uint32_t *)map_device(1, PROT_READ | PROT_WRITE);
    static uint32_t memory[1024], table[64], same_table[64];
    static const uint32_t values[] = {0, 1, 2, 0x7f, 0x80, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff};
    enum { VALUES = sizeof values / sizeof *values, FUNCTIONS = sizeof functions / sizeof *functions };
    for (int f = 0; f < FUNCTIONS; f++)
        for (int a = 0; a < VALUES; a++)
            for (int b = 0; b < VALUES; b++) {
                device[0] = memory[0] = values[a];
                CHECK(functions[f](device, values[b]) == functions[f](memory, values[b]));
            }
    for (int i = 0; i < 64; i++)
        device[i] = memory[i] = (uint32_t)i * 2654435761u;
    CHECK(mix(device, table, 5000) == mix(memory, same_table, 5000));
    CHECK(memcmp(table, same_table, sizeof table) == 0);
    for (int i = 0; i < 64; i++)
        CHECK(device[i] == memory[i]);
    puts("right");
    return 0;
}
