// What a random program does beside single instructions. Each piece is something that is hard on a tracer; it mixes in what came
// of it. `value` is below PAGE. What docs/limits.md says is not here: a program that steps itself, above all.

// A mapping of the device that begins at this page of the thread's.
static uint8_t *map_own(state *s, int page, int pages, int rights)
{
    void *at = mmap(0, pages * PAGE, rights, MAP_SHARED, file, (off_t)(s->id * PAGES + page) * PAGE);
    if (at == MAP_FAILED)
        _exit(80);
    return at;
}

static int is_blocked(int number)
{
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, 0, &now);
    return sigismember(&now, number);
}

// Goes on behind the access that is refused, at this address if that is known.
#define EXPECT_FAULT(s, at, access)   \
    do {                              \
        (s)->expected = (void *)(at); \
        (s)->jumps = 1;               \
        if (!sigsetjmp((s)->back, 1)) \
            access;                   \
        (s)->jumps = 0;               \
        (s)->expected = 0;            \
        mix(s, (s)->faults);          \
    } while (0)

// Faults.

static void handler_opens(state *s, unsigned value)
{
    poke(s->hole + value, 1);
    mix(s, peek(s->hole + 8));
    mprotect(s->hole, PAGE, PROT_NONE);
}

static void null_pointer(state *s, unsigned value)
{
    EXPECT_FAULT(s, (uintptr_t)value, *(volatile int *)(uintptr_t)value = 1);
    must(!is_blocked(SIGSEGV));
}

static void division_by_zero(state *s, unsigned value)
{
    volatile int zero = 0;
    EXPECT_FAULT(s, 0, zero = (int)value / zero);
    must(!is_blocked(SIGFPE));
}

static void device_to_nowhere(state *s, unsigned value)
{
    EXPECT_FAULT(s, s->hole + 8, poke(s->hole + 8, peek(s->device + value)));
}

static void beyond_the_end(state *s, unsigned value)
{
    uint8_t *m = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)THREADS_AT_MOST * PAGES * PAGE);
    mix(s, peek(m + 16)); // where the page begins that threads share
    EXPECT_FAULT(s, m + PAGE + value, peek(m + PAGE + value));
    munmap(m, 2 * PAGE);
}

static void illegal(state *s, unsigned value)
{
    poke(s->device + value, 1);
    __asm__ volatile("ud2");
    mix(s, peek(s->device + value));
}

// Instructions that are made, run and replaced.
static void made_code(state *s, unsigned value)
{
    static const uint8_t codes[][4] = {
        {0x40, 0x88, 0x37, 0xc3}, // mov %sil, (%rdi)
        {0x8a, 0x07, 0xc3},       // mov (%rdi), %al
        {0xc6, 0x07, 0x11, 0xc3}, // movb $0x11, (%rdi)
        {0x40, 0x00, 0x37, 0xc3}, // add %sil, (%rdi)
    };
    for (unsigned turn = 0; turn < 12; turn++) {
        const uint8_t *chosen = codes[(value + turn / 3) % 4];
        memcpy(s->code, chosen, sizeof codes[0]);
        uint8_t got = ((uint8_t (*)(uint8_t *, uint64_t))s->code)(s->device + value, s->a);
        mix(s, chosen[0] == 0x8a ? got : 0);
    }
    mix(s, peek(s->device + value));
}

// What is stepped while the other threads are parked.
static void selector_loaded(state *s, unsigned value)
{
    volatile uint16_t *at = (uint16_t *)(s->device + value);
    *at = 0;
    __asm__ volatile("movw (%0), %%gs" : : "r"(at) : "memory");
}

static void breakpoint_met(state *s, unsigned value)
{
    __asm__ volatile("int3");
    mix(s, s->traps + value);
}

static void trap_raised(state *s, unsigned value)
{
    raise(SIGTRAP);
    mix(s, s->traps + value);
}

// Signals.

static void own_signal(state *s, unsigned value)
{
    pthread_kill(pthread_self(), SIGUSR1);
    mix(s, s->signals + value);
}

static void signal_held_back(state *s, unsigned value)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_kill(pthread_self(), SIGUSR1);
    mix(s, s->signals);
    mix(s, peek(s->device + value));
    must(is_blocked(SIGSEGV) && is_blocked(SIGTRAP) && is_blocked(SIGTERM));
    pthread_sigmask(SIG_SETMASK, &before, 0);
    mix(s, s->signals);
}

static void signal_waited_for(state *s, unsigned value)
{
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &own, 0);
    pthread_kill(pthread_self(), SIGUSR2);
    int number = 0;
    sigwait(&own, &number);
    mix(s, number + value);
}

static void handler_read_back(state *s, unsigned value)
{
    struct sigaction now;
    sigaction(SIGSEGV, 0, &now);
    must(now.sa_sigaction == on_fault);
    mix(s, now.sa_flags + value);
}

static void once_only(state *s, unsigned value)
{
    int own = SIGRTMIN + s->id;
    struct sigaction now;
    handle(own, on_own_signal, SA_RESETHAND | (value & 1 ? SA_NODEFER : 0));
    pthread_kill(pthread_self(), own);
    sigaction(own, 0, &now);
    must(now.sa_handler == SIG_DFL);
    mix(s, s->signals);
}

static void suspended(state *s, unsigned value)
{
    sigset_t all, before, open;
    sigfillset(&all);
    open = all;
    sigdelset(&open, SIGUSR1);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ppoll(0, 0, &(struct timespec){0, 1000}, &all); // libc's own signals (identity_set) may end it
    pthread_kill(pthread_self(), SIGUSR1);
    mix(s, sigsuspend(&open));
    mix(s, peek(s->device + value));
    must(is_blocked(SIGUSR1) && is_blocked(SIGBUS));
    pthread_sigmask(SIG_SETMASK, &before, 0);
    must(!is_blocked(SIGUSR1) && !is_blocked(SIGBUS));
}

static void elsewhere(unsigned low, unsigned high)
{
    state *s = (state *)((uintptr_t)high << 32 | low);
    mix(s, peek(s->device + 100));
    pthread_kill(pthread_self(), SIGUSR1);
    poke(s->device + 101, s->a);
}

static void other_stack(state *s, unsigned value)
{
    ucontext_t here, there;
    getcontext(&there);
    there.uc_stack.ss_sp = s->other;
    there.uc_stack.ss_size = sizeof s->other;
    there.uc_link = &here;
    makecontext(&there, (void (*)(void))elsewhere, 2, (unsigned)(uintptr_t)s, (unsigned)((uintptr_t)s >> 32));
    swapcontext(&here, &there);
    mix(s, peek(s->device + 101) + value);
}

// Changes of mappings, of the fifth to the eighth of the thread's pages, which nothing else touches.

static void unmapped_in_parts(state *s, unsigned value)
{
    uint8_t *m = map_own(s, 4, 3, PROT_READ | PROT_WRITE);
    poke(m + value, value);
    munmap(m + PAGE, PAGE);
    mix(s, peek(m + value));
    poke(m + 2 * PAGE, peek(m + value));
    munmap(m, PAGE);
    mix(s, peek(m + 2 * PAGE));
    munmap(m + 2 * PAGE, PAGE);
}

static void moved_and_grown(state *s, unsigned value)
{
    uint8_t *m = map_own(s, 4, 3, PROT_READ | PROT_WRITE);
    poke(m + PAGE + value, peek(m + 1) + value);
    m = mremap(m, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
    mix(s, peek(m + PAGE + value));
    poke(m + 3 * PAGE + 1, 7);
    mix(s, peek(m + 3 * PAGE + 1));
    munmap(m, 4 * PAGE);
}

static void protected_in_part(state *s, unsigned value)
{
    uint8_t *m = map_own(s, 4, 3, PROT_READ | PROT_WRITE);
    mprotect(m + PAGE, PAGE, PROT_READ);
    mix(s, peek(m + PAGE));
    EXPECT_FAULT(s, m + PAGE, poke(m + PAGE, 1));
    mprotect(m + PAGE, PAGE, PROT_READ | PROT_WRITE);
    poke(m + PAGE, value);
    munmap(m, 3 * PAGE);
}

static void covered_in_part(state *s, unsigned value)
{
    uint8_t *m = map_own(s, 4, 3, PROT_READ | PROT_WRITE);
    void *over = mmap(m + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    must(over == m + PAGE);
    poke(m + PAGE, 3);
    poke(m + PAGE - 1, value);
    poke(m + 2 * PAGE, peek(m + PAGE - 1));
    mix(s, peek(m + PAGE) + peek(m + 2 * PAGE));
    mix(s, *(volatile uint32_t *)(m + PAGE - 2)); // half of it in the device
    munmap(m, 3 * PAGE);
}

static void mapped_twice(state *s, unsigned value)
{
    uint8_t *m = map_own(s, 4, 3, PROT_READ | PROT_WRITE), *n = map_own(s, 5, 1, PROT_READ);
    poke(m + PAGE + value, value ^ s->a);
    mix(s, peek(n + value));
    munmap(n, PAGE);
    munmap(m, 3 * PAGE);
}

static void given_back(state *s, unsigned value)
{
    uint8_t *m = map_own(s, 4, 3, PROT_READ | PROT_WRITE);
    poke(m + value, value);
    madvise(m, 3 * PAGE, MADV_DONTNEED);
    mix(s, peek(m + value));
    munmap(m, 3 * PAGE);
}

static void replaced_in_part(state *s, unsigned value)
{
    uint8_t *m = map_own(s, 4, 3, PROT_READ | PROT_WRITE);
    off_t last = (off_t)(s->id * PAGES + 6) * PAGE;
    must(mmap(m + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, last) == m + PAGE);
    poke(m + PAGE + value, s->a);
    mix(s, peek(m + 2 * PAGE + value));
    uint8_t *n = map_own(s, 7, 1, PROT_READ | PROT_WRITE);
    must(mremap(m + 2 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, n) == n);
    poke(n + value, 1);
    mix(s, peek(m + PAGE + value));
    munmap(n, PAGE);
    munmap(m, 2 * PAGE);
}

static void mapped_by_number(state *s, unsigned value)
{
    off_t at = (off_t)(s->id * PAGES + 5) * PAGE;
    uint8_t *m = (uint8_t *)syscall(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, at);
    poke(m + value, s->b);
    mix(s, peek(m + value));
    syscall(SYS_munmap, m, PAGE);
}

// Words that all threads add to, and whose values before are nobody's affair.

static void added(state *s, unsigned value)
{
    atomic_fetch_add((_Atomic uint64_t *)shared, s->id + value);
}

static void flipped(state *s, unsigned value)
{
    atomic_fetch_xor((_Atomic uint64_t *)(shared + 8), (uint64_t)value << s->id);
}

static void exchanged(state *s, unsigned value)
{
    (void)s;
    _Atomic uint64_t *at = (_Atomic uint64_t *)shared;
    uint64_t seen = atomic_load(at);
    while (!atomic_compare_exchange_weak(at, &seen, seen + value))
        ;
}

// System calls with pointers into the device.

static void through_a_pipe(state *s, unsigned value)
{
    int ends[2];
    must(!pipe(ends));
    size_t size = value % 300 + 1;
    must(write(ends[1], s->device + value, size) == (ssize_t)size);
    must(read(ends[0], s->device + value + 50, size) == (ssize_t)size);
    close(ends[0]);
    close(ends[1]);
    mix_all(s, s->device + value + 50, 8);
}

static void into_a_list(state *s, unsigned value)
{
    int ends[2];
    must(!pipe(ends));
    struct iovec list[] = {{s->device + value, 20}, {s->memory + value, 30}, {s->device + 2 * PAGE - 5, 10}};
    must(writev(ends[1], list, 3) == 60);
    list[0].iov_base = s->device + value + 7;
    must(readv(ends[0], list, 3) == 60);
    close(ends[0]);
    close(ends[1]);
    mix_all(s, s->device + value, 30);
}

// Threads.

static void *brief(void *argument)
{
    state *s = argument; // this thread is not the current one of any: it shows the timer's handler nothing
    poke(s->device + 24, peek(s->device + 24) + 1);
    return (void *)(uintptr_t)peek(s->device + 25);
}

static void brief_thread(state *s, unsigned value)
{
    pthread_t other;
    void *result;
    must(!pthread_create(&other, 0, brief, s));
    pthread_join(other, &result);
    mix(s, (uintptr_t)result + value);
}

static void *endless(void *argument)
{
    for (;; pthread_testcancel())
        peek(argument);
    return 0;
}

static void cancelled_thread(state *s, unsigned value)
{
    pthread_t other;
    void *result;
    must(!pthread_create(&other, 0, endless, s->device + value));
    pthread_cancel(other);
    pthread_join(other, &result);
    must(result == PTHREAD_CANCELED);
}

// libc tells all threads, by a signal of its own. Beside asynchronous cancellation, which is therefore not here, it hangs by itself.
static void identity_set(state *s, unsigned value)
{
    must(!setresgid(-1, -1, -1));
    mix(s, value);
}

// Processes.

static void wait_for(state *s, pid_t child)
{
    int status = 0;
    must(waitpid(child, &status, 0) == child);
    mix(s, status);
}

static void forked(state *s, unsigned value)
{
    poke(s->device + value, s->a);
    pid_t child = fork();
    if (!child) {
        poke(s->device + value + 1, peek(s->device + value) ^ 0x55);
        _exit(peek(shared + 16) ^ (peek(s->device + value) & 63));
    }
    wait_for(s, child);
    mix(s, peek(s->device + value + 1));
}

static void vforked(state *s, unsigned value)
{
    pid_t child = vfork();
    if (!child) {
        poke(s->device + value, 5);
        _exit(peek(s->device + value) + 1);
    }
    wait_for(s, child);
}

static void spawned(state *s, unsigned value)
{
    pid_t child = 0;
    must(!posix_spawn(&child, "/bin/true", 0, 0, (char *[]){"true", 0}, environ));
    wait_for(s, child);
    mix(s, value);
}
