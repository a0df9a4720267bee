/* Built twice with another STEP: other code at the same place when one is loaded after the other. */
#include <stdint.h>

uint32_t touch(char *at);

uint32_t touch(char *at)
{
    uint32_t value = STEP;
#if STEP == 1
    __asm__ volatile("movl %1, (%0)" : : "r"(at), "r"(value) : "memory");
#else
    __asm__ volatile("xchgl %1, (%0)" : "+r"(at), "+r"(value) : : "memory");
#endif
    return value;
}
