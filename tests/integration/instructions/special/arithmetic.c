/* Division errors and unmasked floating-point exceptions, with the divisor in the device. Dies of the last one. */
#include "special.h"
#include <fenv.h>

static sigjmp_buf back;
static volatile int calls, last_code;

static void on_error(int number, siginfo_t *info, void *context)
{
    CHECK(number == SIGFPE);
    CHECK(info->si_addr == (void *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]);
    calls++;
    last_code = info->si_code;
    siglongjmp(back, 1);
}

static void divide(char *device, int dividend, int quotient, int remainder)
{
    int low = dividend, high = dividend < 0 ? -1 : 0;
    __asm__ volatile("idivl (%2)" : "+a"(low), "+d"(high) : "r"(device) : "memory");
    CHECK(low == quotient && high == remainder);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    char *device = map_device(1, PROT_READ | PROT_WRITE);
    struct sigaction action = {.sa_sigaction = on_error, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGFPE, &action, NULL) == 0);

    put32(device, 0);
    for (volatile int i = 0; i < 3; i++) {
        if (sigsetjmp(back, 1) == 0) {
            divide(device, 100, 0, 0);
            CHECK(!"the division came back");
        }
        CHECK(calls == i + 1 && last_code == FPE_INTDIV);
    }
    put32(device, 7);
    divide(device, 100, 14, 2);
    divide(device, -100, -14, -2);

    memset(device + 64, 0, 8);
    CHECK(feenableexcept(FE_DIVBYZERO) != -1);
    if (sigsetjmp(back, 1) == 0) {
        double one = 1;
        __asm__ volatile("divsd (%1), %0" : "+x"(one) : "r"(device + 64) : "memory");
        CHECK(!"the division came back");
    }
    CHECK(calls == 4 && last_code == FPE_FLTDIV);
    /* Outside of handlers a jump has left the masked control words that handlers start with. */
    CHECK(fegetexcept() == 0);

    put32(device, 0);
    signal(SIGFPE, SIG_DFL);
    puts("right");
    fflush(stdout);
    divide(device, 1, 0, 0);
    return 0;
}
