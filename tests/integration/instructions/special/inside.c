/* The stack itself in a device, with signals on another one. */
#include "special.h"

enum { COUNT = 50 };
static char *device;

/* enter, leave, push, pop, call, ret, pushf on a stack in the device; what is there at the end is compared with plain memory. */
static uint64_t on_stack(char *top, uint64_t value)
{
    uint64_t result;
    __asm__ volatile(
        "mov %%rsp, %%r12; mov %%rbp, %%r13\n\t"
        "mov %1, %%rsp; lea 2048(%1), %%rbp\n\t"
        "push %2; pushq $-7; pushw $0x1234; pushw %w2; pushq 8(%%rsp)\n\t"
        "enter $32, $0; mov %2, -8(%%rbp); leave\n\t"
        "enter $16, $3; leave\n\t"
        "call 1f; jmp 2f\n\t"
        "1: add $1, %2; push %2; pop %%r14; lea 3f(%%rip), %%r15; call *%%r15; ret\n\t"
        "3: xor %%r14, %2; push $3; push $4; call 4f; ret\n\t"
        "4: ret $16\n\t"
        "2: xor %%eax, %%eax; pushfq; popq -64(%%rsp); pop %%rax; popw %%cx; popw %%dx; pop %%rsi; pop %%rdi\n\t"
        "add %%rdi, %%rax; add %%rsi, %%rax; add %2, %%rax; push %%rax; pop (%%rsp); mov -8(%%rsp), %0\n\t"
        "mov %%r12, %%rsp; mov %%r13, %%rbp"
        : "=&r"(result) : "r"(top), "r"(value)
        : "rax", "rcx", "rdx", "rsi", "rdi", "r12", "r13", "r14", "r15", "cc", "memory");
    return result;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    device = map_device(2, PROT_READ | PROT_WRITE);
    char *plain = map_memory(2);
    static char other[65536];
    CHECK(sigaltstack(&(stack_t){.ss_sp = other, .ss_size = sizeof other}, NULL) == 0);
    for (int i = 0; i < COUNT; i++) {
        for (int byte = 0; byte < 2 * PAGE; byte += 8) {
            put64(plain + byte, (uint64_t)byte * 3);
            CHECK(pwrite(device_file, plain + byte, 8, byte) == 8);
        }
        CHECK(on_stack(device + PAGE, 0x1122334455667700 + (uint64_t)i) == on_stack(plain + PAGE, 0x1122334455667700 + (uint64_t)i));
        /* leave alone reads the device, wherever the stack is. */
        uint64_t loaded;
        put64(device + 64, 4711);
        __asm__ volatile("mov %%rsp, %%r12; mov %%rbp, %%r13; lea 64(%1), %%rbp; leave; mov %%rbp, %0;"
                         "mov %%r12, %%rsp; mov %%r13, %%rbp" : "=&r"(loaded) : "r"(device) : "r12", "r13", "memory");
        CHECK(loaded == 4711);
    }
    puts("right");
    return 0;
}
