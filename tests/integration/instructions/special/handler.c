/* The program's own handlers see their own faults, with the right address, and nothing of a tracer's. */
#include "special.h"

extern char fault_instruction[], fault_end[];

static volatile int calls, last_signal, last_code, user_signal_blocked;
static char *volatile last_address;
static sigjmp_buf back;

/* Writes to `at`; the handler steps over it. */
static __attribute__((noinline)) uint64_t fault(void *at, int is_write)
{
    uint64_t kept = 0x5a5a5a5a12345678;
    if (is_write)
        __asm__ volatile("fault_instruction: movl $7, (%1)\nfault_end:" : "+r"(kept) : "r"(at) : "memory");
    else
        __asm__ volatile("movl (%1), %%eax" : "+r"(kept) : "r"(at) : "rax", "memory");
    return kept;
}

static void note(int number, siginfo_t *info)
{
    sigset_t mask;
    calls++;
    last_signal = number;
    last_code = info->si_code;
    last_address = info->si_addr;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    user_signal_blocked = sigismember(&mask, SIGUSR1) && sigismember(&mask, number);
}

static void skip(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    note(number, info);
    CHECK(registers[REG_RIP] == (greg_t)fault_instruction);
    registers[REG_RIP] = (greg_t)fault_end;
}

static void jump(int number, siginfo_t *info, void *context)
{
    (void)context;
    note(number, info);
    siglongjmp(back, 1);
}

static void install(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags}, read_back;
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGUSR1);
    CHECK(sigaction(number, &action, NULL) == 0);
    CHECK(sigaction(number, NULL, &read_back) == 0);
    CHECK(read_back.sa_sigaction == handler);
    int visible = SA_SIGINFO | (int)SA_RESETHAND | SA_NODEFER | SA_ONSTACK;
    CHECK((read_back.sa_flags & visible) == (SA_SIGINFO | flags));
    CHECK(sigismember(&read_back.sa_mask, SIGUSR1) == 1 && sigismember(&read_back.sa_mask, SIGUSR2) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    open_device(argv[1]);
    char *device = map_device(2, PROT_READ | PROT_WRITE), *read_only = map_device(1, PROT_READ);
    put32(device, 41);

    struct sigaction before;
    CHECK(sigaction(SIGSEGV, NULL, &before) == 0);
    CHECK(before.sa_handler == SIG_DFL);

    install(SIGSEGV, skip, 0);
    put32(device, 42);
    CHECK(calls == 0 && get32(device) == 42);
    CHECK(fault((void *)0x10, 1) == 0x5a5a5a5a12345678);
    CHECK(calls == 1 && last_signal == SIGSEGV && last_address == (char *)0x10 && last_code == SEGV_MAPERR);
    CHECK(user_signal_blocked);
    CHECK(fault(read_only + 12, 1) == 0x5a5a5a5a12345678);
    CHECK(calls == 2 && last_signal == SIGSEGV && last_address == read_only + 12 && last_code == SEGV_ACCERR);
    CHECK(get32(read_only) == 42);

    install(SIGSEGV, jump, 0);
    install(SIGBUS, jump, 0);
    for (volatile int i = 0; i < 50; i++) {
        if (sigsetjmp(back, 1) == 0) {
            fault(device + PAGE + 8, i % 2 == 0);
            CHECK(!"the access beyond the file's end came back");
        }
        CHECK(calls == 3 + 2 * i && last_signal == SIGBUS && last_address == device + PAGE + 8);
        CHECK(last_code == BUS_ADRERR);
        put32(device + 4, (uint32_t)i);
        CHECK(get32(device + 4) == (uint32_t)i);
        if (sigsetjmp(back, 1) == 0)
            fault((void *)0x18, 1);
        CHECK(calls == 4 + 2 * i && last_signal == SIGSEGV && last_address == (char *)0x18);
    }

    /* A handler for one fault only. */
    calls = 0;
    install(SIGSEGV, jump, SA_RESETHAND);
    put32(device, 43);
    if (sigsetjmp(back, 1) == 0)
        fault((void *)0x20, 1);
    CHECK(calls == 1);
    CHECK(sigaction(SIGSEGV, NULL, &before) == 0);
    CHECK(before.sa_handler == SIG_DFL);
    CHECK(get32(device) == 43);

    /* A signal that is sent, not a fault. */
    install(SIGSEGV, jump, 0);
    if (sigsetjmp(back, 1) == 0)
        raise(SIGSEGV);
    CHECK(calls == 2 && last_code == SI_TKILL);

    /* Ignored, then default: what signal() says is what was set. */
    CHECK((void *)signal(SIGSEGV, SIG_IGN) == (void *)jump);
    raise(SIGSEGV);
    put32(device, 44);
    CHECK(signal(SIGSEGV, SIG_DFL) == SIG_IGN);
    CHECK(get32(device) == 44);

    /* A breakpoint of the program's own. */
    install(SIGTRAP, jump, 0);
    if (sigsetjmp(back, 1) == 0)
        __asm__ volatile("int3");
    CHECK(calls == 3 && last_signal == SIGTRAP);
    put32(device, 45);
    puts("right");
    return 0;
}
